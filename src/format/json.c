/* Shared JSON reading and writing: see json.h. */
#include "format/json.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text_mark.h"

enum { FLOAT_DIGITS = 9 }; /* enough for any float */

fathom_status json_parse(const char *path, const char *text, size_t size, json_t **out, fathom_error *err)
{
    json_error_t problem;
    const size_t mark = text_mark(text, size);
    *out = json_loadb(size > mark ? text + mark : "", size - mark, JSON_REJECT_DUPLICATES, &problem);
    if (*out)
        return FATHOM_OK;
    if (json_error_code(&problem) == json_error_out_of_memory)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    return status_fail(err, FATHOM_FORMAT, "%s: malformed JSON, line %d column %d: %s", path, problem.line,
                       problem.column, problem.text);
}

fathom_status json_file_read(const char *path, size_t max_size, json_t **out, fathom_error *err)
{
    *out = NULL;
    file_map map;
    TRY(file_map_open(path, &map, err));
    fathom_status status = FATHOM_OK;
    if (map.size > max_size)
        status = status_fail(err, FATHOM_FORMAT, "%s: %zu bytes are more than the %zu that such a file may have", path,
                             map.size, max_size);
    else
        status = json_parse(path, (const char *)map.data, map.size, out, err);
    file_map_close(&map);
    return status;
}

fathom_status json_file_text(json_t *root, const char *path, char **out, size_t *size, fathom_error *err)
{
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(FLOAT_DIGITS)) : NULL;
    json_decref(root);
    *out = text;
    if (!text)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    *size = strlen(text);
    text[(*size)++] = '\n'; /* in the place of the terminator: the size is what counts from here */
    return FATHOM_OK;
}

fathom_status json_file_write(const char *path, json_t *root, fathom_error *err)
{
    char *text;
    size_t size = 0;
    TRY(json_file_text(root, path, &text, &size, err));
    const fathom_status status = file_write(path, text, size, err);
    free(text);
    return status;
}

json_t *json_float(float v)
{
    double shortest = (double)v;
    for (int digits = 1; digits <= FLOAT_DIGITS; digits++) {
        char text[32];
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        shortest = strtod(text, NULL);
        if ((float)shortest == v)
            break;
    }
    return json_real(shortest);
}

bool json_field_has(const json_fields *f, const char *name)
{
    const json_t *value = json_object_get(f->object, name);
    return value && !json_is_null(value);
}

static const char *type_name(json_type type)
{
    switch (type) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: return "null";
    }
    return "unknown";
}

fathom_status json_value_refuse(const json_fields *f, const char *name, const json_t *value, fathom_status code,
                                const char *why, fathom_error *err)
{
    const char *inside = f->inside ? f->inside : "", *dot = f->inside ? "." : "";
    if (!value)
        return status_fail(err, code, "%s: %.100s%s%.100s: missing: %s", f->path, inside, dot, name, why);
    enum { SHOWN = 80 };
    const size_t flags = JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(FLOAT_DIGITS);
    char *text = json_dumps(value, flags);
    const bool cut = text && strlen(text) > SHOWN;
    status_fail(err, code, "%s: %.100s%s%.100s: %.*s%s (%s): %s", f->path, inside, dot, name, SHOWN, text ? text : "?",
                cut ? "..." : "", type_name(json_typeof(value)), why);
    free(text);
    return code;
}

fathom_status json_field_refuse(const json_fields *f, const char *name, fathom_status code, const char *why,
                                fathom_error *err)
{
    return json_value_refuse(f, name, json_object_get(f->object, name), code, why, err);
}

static fathom_status check_type(const json_fields *f, const char *name, const json_t *value, json_type type,
                                fathom_error *err)
{
    if (value && json_typeof(value) == type)
        return FATHOM_OK;
    char why[48];
    snprintf(why, sizeof why, "expected %s", type_name(type));
    return json_value_refuse(f, name, value, FATHOM_FORMAT, why, err);
}

fathom_status json_value_int(const json_fields *f, const char *name, const json_t *value, int64_t *out,
                             fathom_error *err)
{
    TRY(check_type(f, name, value, JSON_INTEGER, err));
    *out = json_integer_value(value);
    return FATHOM_OK;
}

fathom_status json_value_float(const json_fields *f, const char *name, const json_t *value, float *out,
                               fathom_error *err)
{
    if (!json_is_number(value))
        return json_value_refuse(f, name, value, FATHOM_FORMAT, "expected a number", err);
    const double number = json_number_value(value);
    if (fabs(number) > (double)FLT_MAX)
        return json_value_refuse(f, name, value, FATHOM_FORMAT, "too large", err);
    *out = (float)number;
    return FATHOM_OK;
}

fathom_status json_field_get(const json_fields *f, const char *name, json_type type, const json_t **out,
                             fathom_error *err)
{
    *out = json_object_get(f->object, name);
    return check_type(f, name, *out, type, err);
}

fathom_status json_field_int(const json_fields *f, const char *name, int64_t *out, fathom_error *err)
{
    return json_value_int(f, name, json_object_get(f->object, name), out, err);
}

fathom_status json_field_float(const json_fields *f, const char *name, float *out, fathom_error *err)
{
    return json_value_float(f, name, json_object_get(f->object, name), out, err);
}

fathom_status json_field_bool(const json_fields *f, const char *name, bool *out, fathom_error *err)
{
    const json_t *value = json_object_get(f->object, name);
    if (!json_is_boolean(value))
        return json_field_refuse(f, name, FATHOM_FORMAT, "expected a boolean", err);
    *out = json_is_true(value);
    return FATHOM_OK;
}

fathom_status json_field_string(const json_fields *f, const char *name, const char **out, fathom_error *err)
{
    const json_t *value;
    TRY(json_field_get(f, name, JSON_STRING, &value, err));
    *out = json_string_value(value);
    return FATHOM_OK;
}
