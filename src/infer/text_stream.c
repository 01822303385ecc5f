/* Text as it is generated: see text_stream.h. */
#include "infer/text_stream.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

fathom_status text_stream_init(text_stream *s, const char *const *stop, size_t stop_count, fathom_error *err)
{
    *s = (text_stream){0};
    s->stop = stop_count > 0 ? calloc(stop_count, sizeof *s->stop) : NULL;
    bool enough = s->stop || stop_count == 0;
    for (; enough && s->stop_count < stop_count; s->stop_count += enough) {
        const char *text = stop[s->stop_count];
        s->stop[s->stop_count] = (stop_text){strdup(text), strlen(text)};
        enough = s->stop[s->stop_count].text != NULL;
    }
    if (enough)
        return FATHOM_OK;
    text_stream_free(s);
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
}

void text_stream_free(text_stream *s)
{
    for (size_t i = 0; i < s->stop_count; i++)
        free(s->stop[i].text);
    free(s->stop);
    free(s->pending);
    *s = (text_stream){0};
}

/* Bytes at the end that are the beginning of a stop text. */
static size_t begun_stop(const text_stream *s)
{
    size_t longest = 0;
    for (size_t i = 0; i < s->stop_count; i++) {
        const size_t size = s->stop[i].bytes;
        for (size_t n = size > s->length ? s->length : size - (size > 0); n > longest; n--)
            if (memcmp(s->pending + s->length - n, s->stop[i].text, n) == 0)
                longest = n;
    }
    return longest;
}

static bool find_stop(const text_stream *s, size_t *at)
{
    bool found = false;
    for (size_t i = 0; i < s->stop_count; i++) {
        const size_t size = s->stop[i].bytes;
        const char *hit = size ? memmem(s->pending, s->length, s->stop[i].text, size) : NULL;
        if (hit && (!found || (size_t)(hit - s->pending) < *at)) {
            *at = (size_t)(hit - s->pending);
            found = true;
        }
    }
    return found;
}

fathom_status text_stream_add(text_stream *s, const char *text, size_t bytes, fathom_error *err)
{
    if (s->length + bytes > s->capacity) {
        const size_t capacity = 2 * (s->length + bytes) + 64;
        char *grown = realloc(s->pending, capacity);
        if (!grown)
            return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
        s->pending = grown;
        s->capacity = capacity;
    }
    if (bytes > 0)
        memcpy(s->pending + s->length, text, bytes);
    s->length += bytes;
    s->done = find_stop(s, &s->ready);
    if (!s->done) {
        const size_t utf8 = utf8_unfinished(s->pending, s->length), stop = begun_stop(s);
        s->ready = s->length - (utf8 > stop ? utf8 : stop);
    }
    return FATHOM_OK;
}

void text_stream_advance(text_stream *s)
{
    if (s->ready == 0)
        return;
    s->length -= s->ready;
    memmove(s->pending, s->pending + s->ready, s->length);
    s->ready = 0;
}

void text_stream_end(text_stream *s)
{
    if (!s->done)
        s->ready = s->length;
    s->done = true;
}
