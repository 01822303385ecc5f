/* Added tokens: see added_tokens.h. At each place in the text where one may begin, the sorted list is narrowed byte by byte: the cost is bounded
 * by the longest token, and where none begins it is one look into a table. */
#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

static bool same_text(const added_token *a, const added_token *b)
{
    return a->text.bytes == b->text.bytes && memcmp(a->text.text, b->text.text, a->text.bytes) == 0;
}

static int by_text(const void *left, const void *right)
{
    const added_token *a = left, *b = right;
    const int order = memcmp(a->text.text, b->text.text, a->text.bytes < b->text.bytes ? a->text.bytes : b->text.bytes);
    if (order != 0)
        return order;
    if (a->text.bytes != b->text.bytes)
        return a->text.bytes < b->text.bytes ? -1 : 1;
    if (a->special != b->special)
        return a->special ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

void added_set_make(added_set *s, added_token *items, size_t count)
{
    size_t kept = 0;
    if (count > 0)
        qsort(items, count, sizeof *items, by_text);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || !same_text(&items[kept - 1], &items[i]))
            items[kept++] = items[i];
    *s = (added_set){.items = items, .count = kept};
    for (size_t byte = 0, i = 0; byte < 256; byte++) {
        s->begin[byte] = i;
        while (i < kept && (unsigned char)items[i].text.text[0] == byte)
            i++;
        s->begin[byte + 1] = i;
    }
}

void added_set_free(added_set *s)
{
    free(s->items);
    *s = (added_set){0};
}

/* The first item of [low, high), which share their first `depth` bytes and are longer, whose next byte is at least c. */
static size_t narrow(const added_set *s, size_t low, size_t high, size_t depth, int c)
{
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if ((unsigned char)s->items[middle].text.text[depth] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const added_token *longest(const added_set *s, const char *text, size_t bytes)
{
    const unsigned char first = (unsigned char)*text;
    const added_token *best = NULL;
    size_t low = s->begin[first], high = s->begin[first + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (s->items[low].text.bytes == depth)
            best = &s->items[low++];
        if (depth == bytes)
            break;
        const int c = (unsigned char)text[depth];
        low = narrow(s, low, high, depth, c);
        high = narrow(s, low, high, depth, c + 1);
    }
    return best;
}

/* Where the last character of a text begins, which is not empty. */
static size_t last_character(const char *text, size_t bytes)
{
    size_t at = bytes - 1;
    while (at > 0 && (text[at] & 0xC0) == 0x80)
        at--;
    return at;
}

static bool stands_alone(const added_search *s, size_t begin, size_t end)
{
    return (begin == 0 || !unicode_is_word(utf8_decode(s->text + last_character(s->text, begin)))) &&
           (end == s->bytes || !unicode_is_word(utf8_decode(s->text + end)));
}

static size_t spaces_before(const added_search *s, size_t begin)
{
    while (begin > s->done) {
        const size_t at = last_character(s->text, begin);
        if (!unicode_is_space(utf8_decode(s->text + at)))
            break;
        begin = at;
    }
    return begin > s->done ? begin : s->done;
}

static size_t spaces_behind(added_search *s, size_t end)
{
    if (end < s->spaces || end >= s->spaces_end) {
        s->spaces = s->spaces_end = end;
        while (s->spaces_end < s->bytes && unicode_is_space(utf8_decode(s->text + s->spaces_end)))
            s->spaces_end += utf8_length((unsigned char)s->text[s->spaces_end]);
    }
    return s->spaces_end;
}

bool added_search_next(added_search *s, added_match *out)
{
    while (s->set->count > 0 && s->at < s->bytes) {
        const size_t begin = s->at;
        const unsigned char first = (unsigned char)s->text[begin];
        const added_token *t = s->set->begin[first] == s->set->begin[first + 1] ? NULL : longest(s->set, s->text + begin, s->bytes - begin);
        s->at += t ? t->text.bytes : 1;
        if (!t || (s->ordinary && t->special) || (t->single_word && !stands_alone(s, begin, s->at)))
            continue;
        *out = (added_match){t->lstrip ? spaces_before(s, begin) : begin, t->rstrip ? spaces_behind(s, s->at) : s->at, t->id};
        s->done = out->end;
        return true;
    }
    return false;
}
