/* JSON element by element: see json_stream.h. Nothing here recurses: depth costs no stack. */
#include "format/json_stream.h"

#include <string.h>

enum { SHOWN = 80 };

fathom_status json_stream_malformed(const json_stream *s, const char *why, fathom_error *err)
{
    return status_fail(err, FATHOM_FORMAT, "%s: malformed JSON at byte %zu: %s", s->path, (size_t)(s->at - s->begin), why);
}

char json_stream_peek(json_stream *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r'))
        s->at++;
    return s->at < s->end ? *s->at : 0;
}

fathom_status json_stream_take(json_stream *s, char expected, fathom_error *err)
{
    if (json_stream_peek(s) != expected) {
        const char why[] = {'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', ' ', expected, 0};
        return json_stream_malformed(s, why, err);
    }
    s->at++;
    return FATHOM_OK;
}

fathom_status json_stream_next(json_stream *s, char close, bool *first, bool *more, fathom_error *err)
{
    *more = json_stream_peek(s) != close;
    if (!*more)
        s->at++;
    else if (!*first)
        TRY(json_stream_take(s, ',', err));
    *first = false;
    return FATHOM_OK;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four digits behind \u; -1 where they are not. */
static int32_t four_digits(const json_stream *s, const char *at)
{
    int32_t code = 0;
    for (int i = 0; i < 4; i++) {
        const int digit = at + i < s->end ? hex_digit(at[i]) : -1;
        if (digit < 0)
            return -1;
        code = code << 4 | digit;
    }
    return code;
}

/* s->at: behind the backslash. */
static fathom_status escape(json_stream *s, text_buffer *out, fathom_error *err)
{
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char letter = s->at < s->end ? *s->at++ : 0, *known = letter ? strchr(letters, letter) : NULL;
    if (known)
        return text_buffer_add(out, &meant[known - letters], 1, err);
    int32_t code = letter == 'u' ? four_digits(s, s->at) : -1;
    if (code < 0)
        return json_stream_malformed(s, "an escape that is none", err);
    s->at += 4;
    if (code >= 0xD800 && code < 0xE000) {
        const bool pair = code < 0xDC00 && s->end - s->at >= 6 && s->at[0] == '\\' && s->at[1] == 'u';
        const int32_t low = pair ? four_digits(s, s->at + 2) : -1;
        if (low < 0xDC00 || low >= 0xE000)
            return json_stream_malformed(s, "half a surrogate pair", err);
        s->at += 6;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    char utf8[4];
    return text_buffer_add(out, utf8, utf8_encode((uint32_t)code, utf8), err);
}

fathom_status json_stream_string(json_stream *s, text_buffer *out, fathom_error *err)
{
    TRY(json_stream_take(s, '"', err));
    for (;;) {
        const char *begin = s->at;
        while (s->at < s->end && *s->at != '"' && *s->at != '\\' && (unsigned char)*s->at >= 0x20)
            s->at++;
        TRY(text_buffer_add(out, begin, (size_t)(s->at - begin), err));
        if (s->at == s->end || (unsigned char)*s->at < 0x20)
            return json_stream_malformed(s, "a string without end", err);
        if (*s->at++ == '"')
            return FATHOM_OK;
        TRY(escape(s, out, err));
    }
}

fathom_status json_stream_name(json_stream *s, text_buffer *out, fathom_error *err)
{
    out->size = 0;
    TRY(json_stream_string(s, out, err));
    TRY(text_buffer_add(out, "", 1, err));
    return json_stream_take(s, ':', err);
}

bool json_stream_int(json_stream *s, int64_t *out)
{
    const bool negative = json_stream_peek(s) == '-';
    const char *p = s->at + negative;
    const bool zero = p < s->end && *p == '0';
    int64_t value = 0;
    const char *digits = p;
    for (; p < s->end && *p >= '0' && *p <= '9'; p++) {
        if (value > (INT64_MAX - 9) / 10 || (zero && p > digits))
            return false;
        value = 10 * value + (*p - '0');
    }
    if (p == digits || (p < s->end && (*p == '.' || (*p | 32) == 'e')))
        return false;
    s->at = p;
    *out = negative ? -value : value;
    return true;
}

static bool take_word(json_stream *s, const char *word)
{
    const size_t length = strlen(word);
    json_stream_peek(s);
    if ((size_t)(s->end - s->at) < length || memcmp(s->at, word, length) != 0)
        return false;
    s->at += length;
    return true;
}

bool json_stream_bool(json_stream *s, bool *out)
{
    *out = take_word(s, "true");
    return *out || take_word(s, "false");
}

static fathom_status skip_string(json_stream *s, fathom_error *err)
{
    for (s->at++; s->at < s->end && *s->at != '"'; s->at++)
        s->at += *s->at == '\\' && s->at + 1 < s->end;
    return s->at < s->end ? (s->at++, FATHOM_OK) : json_stream_malformed(s, "a string without end", err);
}

fathom_status json_stream_skip(json_stream *s, fathom_error *err)
{
    size_t depth = 0;
    const char first = json_stream_peek(s);
    if (!first || strchr(",:]}", first))
        return json_stream_malformed(s, "expected a value", err);
    do {
        const char c = json_stream_peek(s);
        if (!c)
            return json_stream_malformed(s, "ends inside a value", err);
        if (c == '"') {
            TRY(skip_string(s, err));
        } else if (strchr("[{]},:", c)) {
            depth += c == '[' || c == '{';
            depth -= c == ']' || c == '}';
            s->at++;
        } else {
            while (s->at < s->end && !strchr(" \t\r\n[]{},:\"", *s->at))
                s->at++;
        }
    } while (depth > 0);
    return FATHOM_OK;
}

fathom_status json_stream_refuse(json_stream *s, const char *field, fathom_status code, const char *why, fathom_error *err)
{
    json_stream_peek(s);
    const size_t left = (size_t)(s->end - s->at);
    const char *from = s->at, *stop = memchr(from, '\n', left < SHOWN ? left : SHOWN);
    size_t shown = stop ? (size_t)(stop - from) : left < SHOWN ? left : SHOWN;
    if (json_stream_skip(s, NULL) == FATHOM_OK && (size_t)(s->at - from) < shown)
        shown = (size_t)(s->at - from);
    s->at = from;
    shown -= utf8_unfinished(from, shown);
    return status_fail(err, code, "%s: %.200s: %.*s: %s", s->path, field, (int)shown, from, why);
}
