/* Bytes to JSON texts: see token_text.h. */
#include "serve/token_text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

bool text_add_clean(text_buffer *out, const char *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        const size_t valid = utf8_valid(text + at, bytes - at);
        if (text_buffer_add(out, text + at, valid, NULL) != FATHOM_OK)
            return false;
        at += valid;
        if (at < bytes && text_buffer_add(out, "\xEF\xBF\xBD", 3, NULL) != FATHOM_OK)
            return false;
        at += at < bytes;
    }
    return true;
}

size_t text_tail_add(text_tail *t, char byte)
{
    t->bytes[t->count++] = byte;
    return t->count - utf8_unfinished(t->bytes, t->count);
}

void text_tail_drop(text_tail *t, size_t count)
{
    t->count -= count;
    memmove(t->bytes, t->bytes + count, t->count);
}

bool text_add_piece(text_buffer *out, text_tail *tail, const char *text, size_t bytes)
{
    while (tail->count > 0 && bytes > 0) {
        const size_t certain = text_tail_add(tail, *text++);
        bytes--;
        if (!text_add_clean(out, tail->bytes, certain))
            return false;
        text_tail_drop(tail, certain);
    }
    const size_t waiting = utf8_unfinished(text, bytes);
    for (size_t i = bytes - waiting; i < bytes; i++)
        tail->bytes[tail->count++] = text[i];
    return text_add_clean(out, text, bytes - waiting);
}

bool text_end_clean(text_buffer *out, text_tail *tail)
{
    const bool added = text_add_clean(out, tail->bytes, tail->count);
    tail->count = 0;
    return added;
}

json_t *token_name(const char *text, size_t bytes, const char *prefix)
{
    if (utf8_valid(text, bytes) == bytes)
        return json_stringn(text, bytes);
    text_buffer b = {0};
    bool added = text_buffer_add(&b, prefix, strlen(prefix), NULL) == FATHOM_OK;
    for (size_t i = 0; added && i < bytes; i++) {
        char hex[8];
        added = text_buffer_add(&b, hex, (size_t)snprintf(hex, sizeof hex, "\\x%02x", (unsigned char)text[i]), NULL) == FATHOM_OK;
    }
    json_t *name = added ? json_stringn(b.data, b.size) : NULL;
    text_buffer_free(&b);
    return name;
}

json_t *token_bytes(const char *text, size_t bytes)
{
    json_t *list = json_array();
    for (size_t i = 0; i < bytes; i++)
        json_array_append_new(list, json_integer((unsigned char)text[i]));
    return list;
}

int64_t token_characters(const char *text, size_t bytes)
{
    int64_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

json_t *logprob_json(float logprob)
{
    if (isnan(logprob))
        return json_null();
    return json_real(isinf(logprob) ? -9999.0 : (double)logprob);
}
