/* Text as it is generated: whole UTF-8 characters go out, never any part of a stop text. What may yet become a character or a stop text is held
 * back. */
#ifndef FATHOM_INFER_TEXT_STREAM_H
#define FATHOM_INFER_TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct stop_text {
    char *text; /* a copy */
    size_t bytes;
} stop_text;

typedef struct text_stream {
    stop_text *stop; /* [stop_count] */
    size_t stop_count;
    char *pending; /* what the caller may see until it asks for more, then what is held back */
    size_t length, capacity;
    size_t ready; /* bytes of it that the caller may see */
    bool done;    /* nothing comes any more: a stop text is there, or text_stream_end */
} text_stream;

/* Needs text_stream_free only on success. Empty stop texts stop nothing. */
fathom_status text_stream_init(text_stream *s, const char *const *stop, size_t stop_count, fathom_error *err);
void text_stream_free(text_stream *s);
/* The next piece; sets `done` where it completes a stop text, before which `ready` ends. */
fathom_status text_stream_add(text_stream *s, const char *text, size_t bytes, fathom_error *err);
/* Forgets what the caller has seen. */
void text_stream_advance(text_stream *s);
/* No more text will come: nothing is held back any longer, unless a stop text is there. */
void text_stream_end(text_stream *s);

#endif
