/* Byte-pair encoding (Sennrich et al., 2016) over bytes, as GPT-2 uses it: a piece starts as one token a byte; the pair of neighbours
 * whose merge was learnt first is joined, leftmost first, until none is left. */
#ifndef FATHOM_TEXT_BPE_H
#define FATHOM_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct token_text {
    const char *text;
    size_t bytes;
} token_text;

typedef struct bpe bpe;
/* tokens [vocab]: what each id stands for, copied; an id that is no token has 0 bytes. FATHOM_FORMAT, without a
 * file's name, where two ids stand for the same bytes; FATHOM_UNSUPPORTED where a byte has no token or hashes collide on purpose. */
fathom_status bpe_new(const token_text *tokens, int64_t vocab, int64_t merges, bpe **out, fathom_error *err);
void bpe_free(bpe *b);
/* The next merge, at most as many as bpe_new was told: left and right become the token that stands for both. A pair that is given again has the later
 * rank. FATHOM_FORMAT where that token is missing. */
fathom_status bpe_add_merge(bpe *b, int32_t left, int32_t right, fathom_error *err);

/* Of any bytes, for hash tables. */
uint64_t bpe_hash(const char *text, size_t bytes);
/* The id that stands for these bytes; -1 where there is none. */
int32_t bpe_find(const bpe *b, const char *text, size_t bytes);
token_text bpe_text(const bpe *b, int32_t id);
int32_t bpe_byte(const bpe *b, unsigned char byte);
int64_t bpe_merges(const bpe *b);

/* Memory for long pieces, of one thread; zeroed at first. */
typedef struct bpe_scratch {
    void *block;
    size_t size;
} bpe_scratch;
void bpe_scratch_free(bpe_scratch *s);
/* Encodes a piece of at least one byte to ids, room for one id a byte; *count is their number. O(n log n), O(n) where
 * there are no merges. */
fathom_status bpe_encode(const bpe *b, const char *piece, size_t bytes, bpe_scratch *scratch, int32_t *ids, size_t *count, fathom_error *err);

#endif
