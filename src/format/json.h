/* What the readers and writers of JSON files share, over jansson: typed fields whose errors name the file, the field
 * and the value, and numbers that come back with the same bits. */
#ifndef FATHOM_FORMAT_JSON_H
#define FATHOM_FORMAT_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* An object and where it stands, for messages. */
typedef struct json_fields {
    const json_t *object;
    const char *path;
    const char *inside; /* the field or tensor that holds the object; NULL for the file's root */
} json_fields;

/* *out is the caller's: json_decref. Duplicate names and anything after the value are refused. */
fathom_status json_parse(const char *path, const char *text, size_t size, json_t **out, fathom_error *err);
fathom_status json_file_read(const char *path, size_t max_size, json_t **out, fathom_error *err);
/* The text of a file, *size bytes without a terminator; free *out. Takes the reference root; a NULL root is reported as out of memory. */
fathom_status json_file_text(json_t *root, const char *path, char **out, size_t *size, fathom_error *err);
/* Atomic (see file.h). Takes the reference root; a NULL root is reported as out of memory. Reals have 9 digits: make
 * them with json_float. */
fathom_status json_file_write(const char *path, json_t *root, fathom_error *err);

/* The real with the fewest digits that reads back as v. */
json_t *json_float(float v);

/* The field is there and not null. */
bool json_field_has(const json_fields *f, const char *name);
/* Required fields of one type; *out is borrowed from the object. */
fathom_status json_field_get(const json_fields *f, const char *name, json_type type, const json_t **out,
                             fathom_error *err);
fathom_status json_field_int(const json_fields *f, const char *name, int64_t *out, fathom_error *err);
fathom_status json_field_float(const json_fields *f, const char *name, float *out, fathom_error *err);
fathom_status json_field_bool(const json_fields *f, const char *name, bool *out, fathom_error *err);
fathom_status json_field_string(const json_fields *f, const char *name, const char **out, fathom_error *err);
/* The same for a value already in hand, an array's element say, under the name that messages give it. */
fathom_status json_value_int(const json_fields *f, const char *name, const json_t *value, int64_t *out,
                             fathom_error *err);
fathom_status json_value_float(const json_fields *f, const char *name, const json_t *value, float *out,
                               fathom_error *err);
/* Fail with "path: inside.name: value (its type): why". */
fathom_status json_field_refuse(const json_fields *f, const char *name, fathom_status code, const char *why,
                                fathom_error *err);
fathom_status json_value_refuse(const json_fields *f, const char *name, const json_t *value, fathom_status code,
                                const char *why, fathom_error *err);

#endif
