/* The vocabulary, the merges and the added tokens of a tokenizer.json: see tokenizer_parts.h. A token is written in GPT-2's byte-level alphabet
 * (byte_level.h), where one character stands for one byte. One that is not
 * (an added token with a space in it) stands for its own UTF-8 and is never the work of a merge. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/byte_level.h"
#include "text/tokenizer_parts.h"

enum { ALPHABET = 0x144, GAP_TIMES = 2, GAP_MORE = 65536 };

/* A part of a buffer that may still move, and is no longer than a file may be. */
typedef struct stretch {
    uint32_t at, bytes;
} stretch;

typedef struct entry {
    int32_t id;
    bool literal; /* stands for its own UTF-8 */
    stretch text; /* of `texts` */
} entry;

typedef struct vocabulary {
    tokenizer *t;
    const char *path;
    fathom_error *err;
    int16_t byte_of[ALPHABET]; /* -1: no byte's character */
    entry *entries;
    size_t count, capacity;
    text_buffer texts, name, bytes;
    added_token *added; /* .text is set last */
    stretch *written;   /* of t->own_bytes: their texts as they are in the file */
    size_t added_count, added_capacity;
    token_text *tokens; /* [t->vocab] */
    int64_t highest;
} vocabulary;

static void make_alphabet(int16_t byte_of[ALPHABET])
{
    for (int i = 0; i < ALPHABET; i++)
        byte_of[i] = -1;
    for (int byte = 0; byte < 256; byte++)
        byte_of[byte_level_character((unsigned char)byte)] = (int16_t)byte;
}

/* Appends the bytes that byte-level text stands for; false, and nothing, where it is none. */
static fathom_status add_bytes(const vocabulary *v, const char *text, size_t bytes, text_buffer *out, bool *level, fathom_error *err)
{
    const size_t before = out->size;
    TRY(text_buffer_reserve(out, bytes, err));
    *level = true;
    for (size_t i = 0; i < bytes && *level; i += utf8_length((unsigned char)text[i])) {
        const uint32_t code = utf8_decode(text + i);
        *level = code < ALPHABET && v->byte_of[code] >= 0;
        if (*level)
            out->data[out->size++] = (char)v->byte_of[code];
    }
    if (!*level)
        out->size = before;
    return FATHOM_OK;
}

/* Room for one more item; *items stays valid where there is none. */
static fathom_status grow(void **items, size_t count, size_t *capacity, size_t size, fathom_error *err)
{
    if (count < *capacity)
        return FATHOM_OK;
    const size_t wanted = *capacity ? *capacity + *capacity / 2 : 1024;
    void *grown = realloc(*items, wanted * size);
    if (!grown)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory for a vocabulary");
    *items = grown;
    *capacity = wanted;
    return FATHOM_OK;
}

static fathom_status read_id(vocabulary *v, json_stream *in, const char *field, int32_t *out)
{
    const char *value = in->at;
    int64_t id;
    if (!json_stream_int(in, &id))
        return json_stream_refuse(in, field, FATHOM_FORMAT, "expected an integer", v->err);
    if (id < 0 || id >= INT32_MAX - 1) {
        in->at = value;
        return json_stream_refuse(in, field, FATHOM_FORMAT, "an id must be from 0 to 2147483645", v->err);
    }
    v->highest = id > v->highest ? id : v->highest;
    *out = (int32_t)id;
    return FATHOM_OK;
}

static fathom_status read_vocab(vocabulary *v, const json_part *part)
{
    json_stream in = {v->path, part->begin, part->begin, part->begin + part->bytes};
    bool first = true, more, level;
    TRY(json_stream_take(&in, '{', v->err));
    for (;;) {
        TRY(json_stream_next(&in, '}', &first, &more, v->err));
        if (!more)
            return FATHOM_OK;
        TRY(json_stream_name(&in, &v->name, v->err));
        TRY(grow((void **)&v->entries, v->count, &v->capacity, sizeof *v->entries, v->err));
        entry *e = &v->entries[v->count++];
        char field[120];
        snprintf(field, sizeof field, "model.vocab.%.100s", v->name.data);
        TRY(read_id(v, &in, field, &e->id));
        e->text.at = (uint32_t)v->texts.size;
        TRY(add_bytes(v, v->name.data, v->name.size - 1, &v->texts, &level, v->err));
        if (!level)
            TRY(text_buffer_add(&v->texts, v->name.data, v->name.size - 1, v->err));
        e->literal = !level;
        e->text.bytes = (uint32_t)v->texts.size - e->text.at;
    }
}

/* --- added tokens --- */

static fathom_status read_added_content(vocabulary *v, json_stream *in, const char *field)
{
    const char *value = in->at;
    if (json_stream_peek(in) != '"')
        return json_stream_refuse(in, field, FATHOM_FORMAT, "expected a string", v->err);
    stretch *text = &v->written[v->added_count];
    text->at = (uint32_t)v->t->own_bytes.size;
    TRY(json_stream_string(in, &v->t->own_bytes, v->err));
    text->bytes = (uint32_t)v->t->own_bytes.size - text->at;
    if (text->bytes > 0 && text->bytes <= ADDED_TOKEN_MOST)
        return FATHOM_OK;
    in->at = value;
    return json_stream_refuse(in, field, FATHOM_UNSUPPORTED, "must have 1 to 512 bytes", v->err);
}

static fathom_status read_added(vocabulary *v, json_stream *in)
{
    enum { ID, CONTENT, FLAGS };
    static const char *const names[] = {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"};
    const size_t known = sizeof names / sizeof *names;
    added_token *a = &v->added[v->added_count];
    *a = (added_token){.order = (uint32_t)v->added_count};
    bool *const flags[] = {&a->single_word, &a->lstrip, &a->rstrip, &a->normalized, &a->special};
    bool seen[sizeof names / sizeof *names] = {0}, first = true, more;
    char field[80];
    if (json_stream_peek(in) != '{') {
        snprintf(field, sizeof field, "added_tokens[%zu]", v->added_count);
        return json_stream_refuse(in, field, FATHOM_FORMAT, "expected an object", v->err);
    }
    in->at++;
    for (;;) {
        TRY(json_stream_next(in, '}', &first, &more, v->err));
        if (!more)
            break;
        TRY(json_stream_name(in, &v->name, v->err));
        size_t which = 0;
        while (which < known && strcmp(names[which], v->name.data) != 0)
            which++;
        snprintf(field, sizeof field, "added_tokens[%zu].%.40s", v->added_count, v->name.data);
        if (which < known && seen[which])
            return json_stream_refuse(in, field, FATHOM_FORMAT, "is there twice", v->err);
        if (which == known) {
            TRY(json_stream_skip(in, v->err));
            continue;
        }
        seen[which] = true;
        if (which == ID)
            TRY(read_id(v, in, field, &a->id));
        else if (which == CONTENT)
            TRY(read_added_content(v, in, field));
        else if (!json_stream_bool(in, flags[which - FLAGS]))
            return json_stream_refuse(in, field, FATHOM_FORMAT, "expected a boolean", v->err);
    }
    for (size_t i = 0; i < known; i++)
        if (!seen[i])
            return status_fail(v->err, FATHOM_FORMAT, "%s: added_tokens[%zu].%s: missing", v->path, v->added_count, names[i]);
    v->added_count++;
    return FATHOM_OK;
}

static fathom_status read_all_added(vocabulary *v, const json_part *part)
{
    if (part->bytes == 0)
        return FATHOM_OK;
    json_stream in = {v->path, part->begin, part->begin, part->begin + part->bytes};
    bool first = true, more;
    TRY(json_stream_take(&in, '[', v->err));
    for (;;) {
        TRY(json_stream_next(&in, ']', &first, &more, v->err));
        if (!more)
            return FATHOM_OK;
        size_t capacity = v->added_capacity;
        TRY(grow((void **)&v->written, v->added_count, &capacity, sizeof *v->written, v->err));
        TRY(grow((void **)&v->added, v->added_count, &v->added_capacity, sizeof *v->added, v->err));
        TRY(read_added(v, &in));
    }
}

/* --- putting together --- */

static int by_id(const void *a, const void *b)
{
    const own_text *l = a, *r = b;
    return (l->id > r->id) - (l->id < r->id);
}

static int by_own_text(const void *a, const void *b)
{
    const token_text l = ((const own_text *)a)->text, r = ((const own_text *)b)->text;
    const int order = memcmp(l.text, r.text, l.bytes < r.bytes ? l.bytes : r.bytes);
    return order != 0 ? order : (l.bytes > r.bytes) - (l.bytes < r.bytes);
}

/* tokens: byte-level text of each id; own: the others of model.vocab. */
static fathom_status place_entries(vocabulary *v)
{
    tokenizer *t = v->t;
    const int64_t most = GAP_TIMES * ((int64_t)v->count + (int64_t)v->added_count) + GAP_MORE;
    if (v->highest >= most)
        return status_fail(v->err, FATHOM_UNSUPPORTED, "%s: the highest id is %lld, of %zu tokens: must be below %lld", v->path,
                           (long long)v->highest, v->count + v->added_count, (long long)most);
    t->vocab = v->highest + 1;
    size_t literal_bytes = 0;
    for (size_t i = 0; i < v->count; i++)
        literal_bytes += v->entries[i].literal ? v->entries[i].text.bytes : 0;
    TRY(text_buffer_reserve(&t->own_bytes, literal_bytes + 1, v->err)); /* from here on its texts stay where they are */
    v->tokens = calloc((size_t)t->vocab, sizeof *v->tokens);
    t->own = malloc((v->count + v->added_count + 1) * sizeof *t->own);
    if (!v->tokens || !t->own)
        return status_fail(v->err, FATHOM_OUT_OF_MEMORY, "%s: out of memory for a vocabulary of %lld", v->path, (long long)t->vocab);
    for (size_t i = 0; i < v->count; i++) {
        const entry *e = &v->entries[i];
        if (v->tokens[e->id].text)
            return status_fail(v->err, FATHOM_FORMAT, "%s: model.vocab: id %d is there twice", v->path, e->id);
        token_text text = {v->texts.data ? v->texts.data + e->text.at : "", e->text.bytes};
        if (e->literal) {
            text.text = memcpy(t->own_bytes.data + t->own_bytes.size, text.text, e->text.bytes);
            t->own_bytes.size += e->text.bytes;
            t->own[t->own_count++] = (own_text){e->id, text};
            text.bytes = 0; /* none that merges could make */
        }
        v->tokens[e->id] = text;
    }
    free(v->entries);
    v->entries = NULL;
    return FATHOM_OK;
}

static fathom_status make_words(vocabulary *v, int64_t merges)
{
    fathom_error why;
    const fathom_status status = bpe_new(v->tokens, v->t->vocab, merges, &v->t->words, &why);
    return status == FATHOM_OK ? FATHOM_OK : status_fail(v->err, status, "%s: model.vocab: %s", v->path, why.message);
}

/* The id in model.vocab of a token as it is written there; -1 where it has none. vocab_own: of t->own, sorted by text. */
static fathom_status find_written(vocabulary *v, token_text text, size_t vocab_own, int32_t *out)
{
    bool level;
    v->bytes.size = 0;
    TRY(add_bytes(v, text.text, text.bytes, &v->bytes, &level, v->err));
    const own_text wanted = {0, text}, *found = level || vocab_own == 0 ? NULL : bsearch(&wanted, v->t->own, vocab_own, sizeof wanted, by_own_text);
    *out = level ? bpe_find(v->t->words, v->bytes.data, v->bytes.size) : found ? found->id : -1;
    return FATHOM_OK;
}

/* Sets what each added token is looked for as: its text, normalized where it stands in normalized text. */
static fathom_status set_added_texts(vocabulary *v)
{
    tokenizer *t = v->t;
    for (size_t i = 0; i < v->added_count; i++) {
        added_token *a = &v->added[i];
        const stretch *text = &v->written[i];
        const size_t before = t->normal_bytes.size;
        a->text = (token_text){t->own_bytes.data + text->at, text->bytes};
        if (!a->normalized || !t->nfc)
            continue;
        TRY(unicode_nfc(a->text.text, a->text.bytes, &t->normal_bytes, v->err));
        a->text = (token_text){NULL, t->normal_bytes.size - before};
    }
    for (size_t i = 0, at = 0; i < v->added_count; i++)
        if (!v->added[i].text.text) { /* the buffer moves no more */
            v->added[i].text.text = t->normal_bytes.data + at;
            at += v->added[i].text.bytes;
        }
    return FATHOM_OK;
}

/* An added token is in model.vocab with its id, or there neither itself nor its id. */
static fathom_status place_added(vocabulary *v)
{
    tokenizer *t = v->t;
    const size_t vocab_own = t->own_count;
    TRY(set_added_texts(v));
    if (vocab_own > 0)
        qsort(t->own, vocab_own, sizeof *t->own, by_own_text);
    for (size_t i = 0; i < v->added_count; i++) {
        const added_token *a = &v->added[i];
        const token_text written = {t->own_bytes.data + v->written[i].at, v->written[i].bytes};
        int32_t id;
        TRY(find_written(v, written, vocab_own, &id));
        if (id != -1 && id != a->id)
            return status_fail(v->err, FATHOM_FORMAT, "%s: added_tokens[%zu].id: %d: model.vocab has \"%.*s\" as %d", v->path, i, a->id,
                               (int)written.bytes, written.text, id);
        if (id == -1 && v->tokens[a->id].text)
            return status_fail(v->err, FATHOM_FORMAT, "%s: added_tokens[%zu].id: %d: is another token's, not \"%.*s\"'s", v->path, i, a->id,
                               (int)written.bytes, written.text);
        if (id == -1)
            t->own[t->own_count++] = (own_text){a->id, a->text};
        v->tokens[a->id].text = written.text;
    }
    if (t->own_count > 0)
        qsort(t->own, t->own_count, sizeof *t->own, by_id);
    return FATHOM_OK;
}

/* The tokens of which `normalized` is so, as a set. */
static fathom_status make_set(const vocabulary *v, bool normalized, added_set *out)
{
    size_t count = 0;
    added_token *items = malloc((v->added_count + 1) * sizeof *items);
    if (!items)
        return status_fail(v->err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", v->path);
    for (size_t i = 0; i < v->added_count; i++)
        if (v->added[i].normalized == normalized)
            items[count++] = v->added[i];
    added_set_make(out, items, count);
    return FATHOM_OK;
}

/* --- merges --- */

static fathom_status count_merges(json_stream in, int64_t *count, fathom_error *err)
{
    bool first = true, more;
    TRY(json_stream_take(&in, '[', err));
    for (*count = 0;; ++*count) {
        TRY(json_stream_next(&in, ']', &first, &more, err));
        if (!more)
            return FATHOM_OK;
        TRY(json_stream_skip(&in, err));
    }
}

/* One merge as written, "a b" or ["a", "b"], to a's text in name and where b's begins; *b == 0: it has not two parts. */
static fathom_status read_pair(vocabulary *v, json_stream *in, size_t *b)
{
    bool first = true, more;
    int parts = 0;
    *b = 0;
    v->name.size = 0;
    if (json_stream_peek(in) == '"') {
        TRY(json_stream_string(in, &v->name, v->err));
        const char *space = v->name.size ? memchr(v->name.data, ' ', v->name.size) : NULL;
        const size_t behind = space ? (size_t)(space - v->name.data) + 1 : 0;
        if (!space || memchr(space + 1, ' ', v->name.size - behind))
            return FATHOM_OK;
        memmove(v->name.data + behind - 1, v->name.data + behind, v->name.size - behind);
        v->name.size--;
        *b = behind - 1;
        return FATHOM_OK;
    }
    TRY(json_stream_take(in, '[', v->err));
    for (;; parts++) {
        TRY(json_stream_next(in, ']', &first, &more, v->err));
        if (!more)
            break;
        if (json_stream_peek(in) != '"')
            parts = 2;
        if (parts == 1)
            *b = v->name.size;
        if (parts >= 2)
            TRY(json_stream_skip(in, v->err));
        else
            TRY(json_stream_string(in, &v->name, v->err));
    }
    if (parts != 2)
        *b = 0;
    return FATHOM_OK;
}

static fathom_status read_merge(vocabulary *v, json_stream *in, size_t number)
{
    static const char comment[] = "\"#version"; /* begins a merges.txt: never a merge to Hugging Face's reader of strings */
    json_stream_peek(in);
    const char *value = in->at;
    if ((size_t)(in->end - value) >= sizeof comment && memcmp(value, comment, sizeof comment - 1) == 0)
        return json_stream_skip(in, v->err);
    char field[60];
    size_t b;
    bool left_level, right_level;
    if (*value != '"' && *value != '[') {
        snprintf(field, sizeof field, "model.merges[%zu]", number);
        return json_stream_refuse(in, field, FATHOM_FORMAT, "expected \"a b\" or [\"a\", \"b\"]", v->err);
    }
    TRY(read_pair(v, in, &b));
    const char *why = "expected two tokens";
    fathom_error made = {0};
    if (b > 0 && b < v->name.size) {
        v->bytes.size = 0;
        TRY(add_bytes(v, v->name.data, b, &v->bytes, &left_level, v->err));
        const size_t middle = v->bytes.size;
        TRY(add_bytes(v, v->name.data + b, v->name.size - b, &v->bytes, &right_level, v->err));
        const int32_t left = left_level ? bpe_find(v->t->words, v->bytes.data, middle) : -1;
        const int32_t right = right_level ? bpe_find(v->t->words, v->bytes.data + middle, v->bytes.size - middle) : -1;
        const fathom_status status = left < 0 || right < 0 ? FATHOM_FORMAT : bpe_add_merge(v->t->words, left, right, &made);
        if (status == FATHOM_OK)
            return FATHOM_OK;
        why = left < 0 || right < 0 ? "is not of two tokens of model.vocab in the byte-level alphabet" : made.message;
    }
    in->at = value;
    snprintf(field, sizeof field, "model.merges[%zu]", number);
    return json_stream_refuse(in, field, made.code ? made.code : FATHOM_FORMAT, why, v->err);
}

static fathom_status read_merges(vocabulary *v, const json_part *part)
{
    json_stream in = {v->path, part->begin, part->begin, part->begin + part->bytes};
    int64_t merges;
    bool first = true, more = true;
    TRY(count_merges(in, &merges, v->err));
    if (merges >= INT32_MAX)
        return status_fail(v->err, FATHOM_UNSUPPORTED, "%s: model.merges: %lld of them", v->path, (long long)merges);
    TRY(make_words(v, merges));
    TRY(json_stream_take(&in, '[', v->err));
    for (size_t number = 0;; number++) {
        TRY(json_stream_next(&in, ']', &first, &more, v->err));
        if (!more)
            return FATHOM_OK;
        TRY(read_merge(v, &in, number));
    }
}

fathom_status tokenizer_vocabulary_read(tokenizer *t, const vocabulary_parts *parts, const char *path, fathom_error *err)
{
    vocabulary v = {.t = t, .path = path, .err = err, .highest = -1};
    make_alphabet(v.byte_of);
    fathom_status status = read_vocab(&v, &parts->vocab);
    if (status == FATHOM_OK)
        status = read_all_added(&v, &parts->added);
    if (status == FATHOM_OK)
        status = place_entries(&v);
    if (status == FATHOM_OK)
        status = read_merges(&v, &parts->merges);
    if (status == FATHOM_OK)
        status = place_added(&v);
    if (status == FATHOM_OK)
        status = make_set(&v, false, &t->raw);
    if (status == FATHOM_OK)
        status = make_set(&v, true, &t->normal);
    free(v.entries);
    free(v.added);
    free(v.written);
    free(v.tokens);
    text_buffer_free(&v.texts);
    text_buffer_free(&v.name);
    text_buffer_free(&v.bytes);
    return status;
}
