/* Encoding: see tokenizer.h, and tokenizer_parts.h for the order of things. Text that is not valid UTF-8 is taken apart first: each byte that is
 * no part of a character becomes its own token, and what is between two of them is encoded like a text of its own.
 *
 * Most words of a text have been there before: their ids stand in a table with one place for each hash, where a newer word takes the place of
 * an older one. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_parts.h"

enum { WORD_BYTES = 30, WORD_IDS = 8, WORDS = 1 << 16 };

typedef struct word { /* a line of the processor's cache */
    uint8_t bytes, count; /* bytes 0: empty */
    char text[WORD_BYTES];
    int32_t ids[WORD_IDS];
} word;

struct encoder {
    const tokenizer *t;
    split_run *outer, *inner;
    bpe_scratch scratch;
    text_buffer normalized, spaced;
    word *words; /* [WORDS] */
    id_list *out;  /* of the call in progress, */
    bool ordinary; /* and whether special tokens are text in it */
};

void encoder_free(encoder *e)
{
    if (!e)
        return;
    split_run_free(e->outer);
    split_run_free(e->inner);
    bpe_scratch_free(&e->scratch);
    text_buffer_free(&e->normalized);
    text_buffer_free(&e->spaced);
    free(e->words);
    free(e);
}

fathom_status encoder_new(const tokenizer *t, encoder **out, fathom_error *err)
{
    encoder *e = calloc(1, sizeof *e);
    word *words = calloc(WORDS, sizeof *words);
    *out = e;
    if (!e || !words) {
        free(e);
        free(words);
        *out = NULL;
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    e->t = t;
    e->words = words;
    fathom_status status = split_run_new(t->outer, &e->outer, err);
    if (status == FATHOM_OK && t->inner)
        status = split_run_new(t->inner, &e->inner, err);
    if (status != FATHOM_OK) {
        encoder_free(e);
        *out = NULL;
    }
    return status;
}

static fathom_status add_ids(id_list *out, const int32_t *ids, size_t count, fathom_error *err)
{
    TRY(id_list_reserve(out, count, err));
    if (count > 0)
        memcpy(out->ids + out->count, ids, count * sizeof *ids);
    out->count += count;
    return FATHOM_OK;
}

/* Byte-pair encoding of a piece, without the table. */
static fathom_status merge_piece(encoder *e, const char *piece, size_t bytes, fathom_error *err)
{
    const int32_t whole = e->t->ignore_merges ? bpe_find(e->t->words, piece, bytes) : -1;
    if (whole >= 0)
        return add_ids(e->out, &whole, 1, err);
    size_t count;
    TRY(id_list_reserve(e->out, bytes, err));
    TRY(bpe_encode(e->t->words, piece, bytes, &e->scratch, e->out->ids + e->out->count, &count, err));
    e->out->count += count;
    return FATHOM_OK;
}

static fathom_status add_piece(void *user, const char *piece, size_t bytes, fathom_error *err)
{
    encoder *e = user;
    if (bytes > WORD_BYTES)
        return merge_piece(e, piece, bytes, err);
    word *w = &e->words[bpe_hash(piece, bytes) % WORDS];
    if (w->bytes == bytes && memcmp(w->text, piece, bytes) == 0)
        return add_ids(e->out, w->ids, w->count, err);
    const size_t before = e->out->count;
    TRY(merge_piece(e, piece, bytes, err));
    const size_t count = e->out->count - before;
    if (count <= WORD_IDS) {
        w->bytes = (uint8_t)bytes;
        w->count = (uint8_t)count;
        memcpy(w->text, piece, bytes);
        memcpy(w->ids, e->out->ids + before, count * sizeof *w->ids);
    }
    return FATHOM_OK;
}

static fathom_status add_spaced(void *user, const char *piece, size_t bytes, fathom_error *err)
{
    encoder *e = user;
    if (*piece == ' ')
        return split_text(e->inner, piece, bytes, add_piece, e, err);
    e->spaced.size = 0;
    TRY(text_buffer_add(&e->spaced, " ", 1, err));
    TRY(text_buffer_add(&e->spaced, piece, bytes, err));
    return split_text(e->inner, e->spaced.data, e->spaced.size, add_piece, e, err);
}

static fathom_status add_plain(encoder *e, const char *text, size_t bytes, fathom_error *err)
{
    return split_text(e->outer, text, bytes, e->inner ? add_spaced : add_piece, e, err);
}

typedef fathom_status (*text_between)(encoder *e, const char *text, size_t bytes, fathom_error *err);

/* The ids of the set's tokens, and what is between them to `between`. */
static fathom_status add_found(encoder *e, const added_set *set, const char *text, size_t bytes, text_between between, fathom_error *err)
{
    added_search s = {.set = set, .text = text, .bytes = bytes, .ordinary = e->ordinary};
    size_t done = 0;
    for (added_match m; added_search_next(&s, &m); done = m.end) {
        if (m.begin > done)
            TRY(between(e, text + done, m.begin - done, err));
        TRY(add_ids(e->out, &m.id, 1, err));
    }
    return done < bytes ? between(e, text + done, bytes - done, err) : FATHOM_OK;
}

static fathom_status add_normalized(encoder *e, const char *text, size_t bytes, fathom_error *err)
{
    if (e->t->nfc) {
        e->normalized.size = 0;
        TRY(unicode_nfc(text, bytes, &e->normalized, err));
        text = e->normalized.data;
        bytes = e->normalized.size;
    }
    return add_found(e, &e->t->normal, text, bytes, add_plain, err);
}

static fathom_status add_text(encoder *e, const char *text, size_t bytes, fathom_error *err)
{
    for (size_t at = 0; at < bytes;) {
        const size_t valid = utf8_valid(text + at, bytes - at);
        if (valid > 0)
            TRY(add_found(e, &e->t->raw, text + at, valid, add_normalized, err));
        at += valid;
        if (at < bytes) {
            const int32_t id = bpe_byte(e->t->words, (unsigned char)text[at++]);
            TRY(add_ids(e->out, &id, 1, err));
        }
    }
    return FATHOM_OK;
}

fathom_status encoder_add(encoder *e, const char *text, size_t bytes, bool special, id_list *out, fathom_error *err)
{
    e->out = out;
    e->ordinary = false;
    if (special)
        TRY(encoder_add_before(e, out, err));
    TRY(add_text(e, text, bytes, err));
    return special ? add_ids(out, e->t->behind.ids, e->t->behind.count, err) : FATHOM_OK;
}

fathom_status encoder_add_ordinary(encoder *e, const char *text, size_t bytes, id_list *out, fathom_error *err)
{
    e->out = out;
    e->ordinary = true;
    return add_text(e, text, bytes, err);
}

fathom_status encoder_add_before(encoder *e, id_list *out, fathom_error *err)
{
    return add_ids(out, e->t->before.ids, e->t->before.count, err);
}

void tokenizer_special_counts(const tokenizer *t, size_t *before, size_t *behind)
{
    *before = t->before.count;
    *behind = t->behind.count;
}

fathom_status tokenizer_encode(const tokenizer *t, const char *text, size_t bytes, bool special, id_list *out, fathom_error *err)
{
    encoder *e;
    TRY(encoder_new(t, &e, err));
    const fathom_status status = encoder_add(e, text, bytes, special, out, err);
    encoder_free(e);
    return status;
}
