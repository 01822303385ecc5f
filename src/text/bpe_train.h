/* Learning byte-pair encoding's merges (Sennrich et al., 2016): each time the most frequent pair of neighbours in the pieces becomes one
 * token. Of pairs that are equally frequent the one with the smaller left id, then the smaller right id, is first, where ids are those that
 * Hugging Face's BpeTrainer gives: bytes in the order of the characters that name them (byte_level.h), then tokens in the order in which they were
 * learnt. */
#ifndef FATHOM_TEXT_BPE_TRAIN_H
#define FATHOM_TEXT_BPE_TRAIN_H

#include <stdint.h>

#include "base/status.h"
#include "text/pieces.h"

/* Merge i makes id 256 + i of two smaller ids; the ids of bytes are their values. */
typedef struct bpe_merge {
    int32_t left, right;
} bpe_merge;

typedef struct bpe_train_input {
    const piece_table *pieces;
    int64_t merges;    /* at most as many are learnt; below 2^30 */
    int64_t min_count; /* a pair must be there as often, >= 1 */
    void (*progress)(void *user, int64_t merges); /* after each; may be NULL */
    void *user;
} bpe_train_input;

typedef struct bpe_learnt {
    bpe_merge *merges; /* [count], the caller's: free */
    int64_t count;     /* fewer than asked for where no pair is left that is frequent enough */
    int64_t tokens;    /* of all pieces, each as often as it was met, after all merges */
} bpe_learnt;

/* FATHOM_UNSUPPORTED past 4 GiB of distinct pieces. On failure there is nothing to free. */
fathom_status bpe_train(const bpe_train_input *in, bpe_learnt *out, fathom_error *err);

#endif
