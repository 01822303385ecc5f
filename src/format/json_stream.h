/* Reads large JSON arrays and objects one element at a time, without a tree of them: memory does not grow with the text. Small parts are for
 * json.h. The text must be valid UTF-8 (utf8_valid). */
#ifndef FATHOM_FORMAT_JSON_STREAM_H
#define FATHOM_FORMAT_JSON_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "text/unicode.h"

typedef struct json_stream {
    const char *path;             /* for messages */
    const char *begin, *at, *end; /* the whole text, borrowed; what comes next */
} json_stream;

/* The next character that is no white space, not taken; 0 at the end. */
char json_stream_peek(json_stream *s);
/* Takes this character. */
fathom_status json_stream_take(json_stream *s, char expected, fathom_error *err);
/* Inside an array or object that ends with close, before each element: takes the comma where *first is not set, and clears *first; *more
 * is false when close was taken instead. */
fathom_status json_stream_next(json_stream *s, char close, bool *first, bool *more, fathom_error *err);
/* Appends the string's text, escapes resolved. */
fathom_status json_stream_string(json_stream *s, text_buffer *out, fathom_error *err);
/* A name in an object and the colon behind it: *out holds the name, terminated. */
fathom_status json_stream_name(json_stream *s, text_buffer *out, fathom_error *err);
/* False, and nothing taken, where no integer of 64 bits comes next. */
bool json_stream_int(json_stream *s, int64_t *out);
bool json_stream_bool(json_stream *s, bool *out);
/* Passes over one value. Brackets and strings must be whole; what is between them is not looked at. */
fathom_status json_stream_skip(json_stream *s, fathom_error *err);

fathom_status json_stream_malformed(const json_stream *s, const char *why, fathom_error *err);
/* Fails with "path: field: the value that comes next: why". */
fathom_status json_stream_refuse(json_stream *s, const char *field, fathom_status code, const char *why, fathom_error *err);

#endif
