/* UTF-8 and characters: see unicode.h. */
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

size_t utf8_length(unsigned char first)
{
    return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF8 ? 4 : 1;
}

/* Whether a whole valid character stands at s; n bytes are there. Second bytes after the well-formed table of the Unicode standard (3-7). */
static bool valid_character(const unsigned char *s, size_t n, size_t *length)
{
    const unsigned char a = s[0];
    if (a < 0xC2 || a > 0xF4)
        return false;
    const size_t count = a < 0xE0 ? 2 : a < 0xF0 ? 3 : 4;
    if (n < count)
        return false;
    const unsigned char low = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80, high = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < low || s[1] > high)
        return false;
    for (size_t i = 2; i < count; i++)
        if ((s[i] & 0xC0) != 0x80)
            return false;
    *length = count;
    return true;
}

size_t utf8_valid(const char *text, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t i = 0, length;
    while (i < bytes) {
        uint64_t eight;
        if (bytes - i >= sizeof eight && (memcpy(&eight, s + i, sizeof eight), (eight & 0x8080808080808080u) == 0))
            i += sizeof eight;
        else if (s[i] < 0x80)
            i++;
        else if (valid_character(s + i, bytes - i, &length))
            i += length;
        else
            break;
    }
    return i;
}

uint32_t utf8_decode(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    switch (utf8_length(s[0])) {
    case 2: return (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3F);
    case 3: return (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
    case 4: return (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3F) << 12 | (uint32_t)(s[2] & 0x3F) << 6 | (s[3] & 0x3F);
    default: return s[0];
    }
}

size_t utf8_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    const size_t count = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = count - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(first[count] | code);
    return count;
}

size_t utf8_unfinished(const char *text, size_t bytes)
{
    for (size_t back = 1; back <= 3 && back <= bytes; back++) {
        const unsigned char c = (unsigned char)text[bytes - back];
        if (c >= 0xC2 && c <= 0xF4) {
            if (utf8_length(c) <= back)
                return 0;
            /* would some rest make it whole? An impossible second byte never becomes a character. */
            char whole[4] = {0};
            static const char rest[] = {(char)0x80, (char)0x90, (char)0xA0, 0};
            memcpy(whole, text + bytes - back, back);
            for (size_t i = back; i < 4; i++)
                whole[i] = (char)0x80;
            if (back > 1)
                return utf8_valid(whole, utf8_length(c)) == utf8_length(c) ? back : 0;
            for (const char *r = rest; *r; r++) {
                whole[1] = *r;
                if (utf8_valid(whole, utf8_length(c)) == utf8_length(c))
                    return back;
            }
            return 0;
        }
        if ((c & 0xC0) != 0x80)
            return 0;
    }
    return 0;
}

bool unicode_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool unicode_is_word(uint32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_';
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_PC: return true;
    default: /* joiners, and the symbols that are Alphabetic: letters in circles and squares */
        return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
               (c >= 0x1F170 && c <= 0x1F189);
    }
}

fathom_status text_buffer_reserve(text_buffer *b, size_t more, fathom_error *err)
{
    if (more <= b->capacity - b->size)
        return FATHOM_OK;
    size_t capacity = b->capacity < 256 ? 256 : b->capacity;
    while (capacity - b->size < more && capacity <= SIZE_MAX / 2)
        capacity *= 2;
    char *data = capacity - b->size < more ? NULL : realloc(b->data, capacity);
    if (!data)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory for %zu bytes of text", more);
    b->data = data;
    b->capacity = capacity;
    return FATHOM_OK;
}

fathom_status text_buffer_add(text_buffer *b, const char *text, size_t bytes, fathom_error *err)
{
    TRY(text_buffer_reserve(b, bytes, err));
    if (bytes > 0)
        memcpy(b->data + b->size, text, bytes);
    b->size += bytes;
    return FATHOM_OK;
}

void text_buffer_free(text_buffer *b)
{
    free(b->data);
    *b = (text_buffer){0};
}

enum { FOLDING_LONGEST = 8 };

static utf8proc_ssize_t fold(uint32_t code, utf8proc_int32_t out[FOLDING_LONGEST])
{
    return utf8proc_decompose_char((utf8proc_int32_t)code, out, FOLDING_LONGEST, UTF8PROC_CASEFOLD, NULL);
}

uint32_t unicode_folded(uint32_t code)
{
    utf8proc_int32_t folded[FOLDING_LONGEST];
    return fold(code, folded) > 0 ? (uint32_t)folded[0] : code;
}

size_t unicode_foldings(unicode_folding out[UNICODE_FOLDINGS_MOST])
{
    size_t count = 0;
    for (uint32_t code = 0x80; code <= 0xFFFF && count < UNICODE_FOLDINGS_MOST; code++) {
        utf8proc_int32_t folded[FOLDING_LONGEST];
        if (fold(code, folded) > 1)
            out[count++] = (unicode_folding){code, (uint32_t)folded[0], (uint32_t)folded[1]};
    }
    return count;
}

static int combining_class(utf8proc_int32_t code)
{
    return utf8proc_get_property(code)->combining_class;
}

/* Marks by class, those of one class as they stand: counted where they are many, so that no text takes the square of its length. */
static bool order_marks(utf8proc_int32_t *marks, size_t count)
{
    enum { FEW = 32, CLASSES = 256 };
    if (count <= FEW) {
        for (size_t i = 1; i < count; i++) {
            const utf8proc_int32_t mark = marks[i];
            const int class = combining_class(mark);
            size_t to = i;
            for (; to > 0 && combining_class(marks[to - 1]) > class; to--)
                marks[to] = marks[to - 1];
            marks[to] = mark;
        }
        return true;
    }
    size_t next[CLASSES] = {0}, before = 0;
    utf8proc_int32_t *ordered = malloc(count * sizeof *ordered);
    if (!ordered)
        return false;
    for (size_t i = 0; i < count; i++)
        next[combining_class(marks[i])]++;
    for (size_t c = 0; c < CLASSES; c++) {
        const size_t of_class = next[c];
        next[c] = before;
        before += of_class;
    }
    for (size_t i = 0; i < count; i++)
        ordered[next[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, ordered, count * sizeof *ordered);
    free(ordered);
    return true;
}

/* Canonical ordering: marks stay between the characters of class 0 that they stand between. */
static bool order_canonically(utf8proc_int32_t *codes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const size_t first = i;
        while (i < count && combining_class(codes[i]) > 0)
            i++;
        if (!order_marks(codes + first, i - first))
            return false;
    }
    return true;
}

/* The parts of utf8proc_map, whose own ordering moves one mark by one place at a time. */
static fathom_status add_normalized(const char *text, size_t bytes, text_buffer *out, fathom_error *err)
{
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    const utf8proc_ssize_t most = utf8proc_decompose((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, NULL, 0, options);
    if (most < 0)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "normalizing: %s", utf8proc_errmsg(most));
    utf8proc_int32_t *codes = malloc(((size_t)most + 1) * sizeof *codes); /* one more: utf8proc_reencode ends the text with a NUL */
    utf8proc_ssize_t count = 0;
    for (size_t i = 0; codes && i < bytes; i += utf8_length((unsigned char)text[i]))
        count += utf8proc_decompose_char((utf8proc_int32_t)utf8_decode(text + i), codes + count, most - count, options, NULL);
    fathom_status status = FATHOM_OK;
    if (codes && order_canonically(codes, (size_t)count))
        status = text_buffer_add(out, (const char *)codes, (size_t)utf8proc_reencode(codes, count, options), err);
    else
        status = status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory for %zu bytes to normalize", bytes);
    free(codes);
    return status;
}

/* ASCII neither changes nor composes with what stands before it: a stretch of other characters, with the ASCII character before
 * it (with which it may compose), is normalized by itself. */
fathom_status unicode_nfc(const char *text, size_t bytes, text_buffer *out, fathom_error *err)
{
    for (size_t i = 0; i < bytes;) {
        size_t ascii = i;
        while (ascii < bytes && !(text[ascii] & 0x80))
            ascii++;
        size_t end = ascii;
        while (end < bytes && (text[end] & 0x80))
            end++;
        const size_t plain = ascii > i && end > ascii ? ascii - 1 : ascii;
        TRY(text_buffer_add(out, text + i, plain - i, err));
        if (end > ascii)
            TRY(add_normalized(text + plain, end - plain, out, err));
        i = end;
    }
    return FATHOM_OK;
}
