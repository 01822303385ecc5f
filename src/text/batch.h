/* Batches: windows of T + 1 tokens, in an order that is a pure function of the seed. An epoch has
 * floor((count - 1) / T) windows; window i starts at offset + permuted(i) T. The offset, uniform in what the windows
 * leave over, and the permutation change from epoch to epoch; so a position in the data is one number, the count of
 * windows drawn, and resuming needs nothing else. */
#ifndef FATHOM_TEXT_BATCH_H
#define FATHOM_TEXT_BATCH_H

#include <stdint.h>

#include "base/status.h"
#include "text/corpus.h"

typedef struct batcher {
    const corpus_part *part;
    int64_t T;
    int64_t windows; /* per epoch, >= 1 */
    uint64_t seed;
} batcher;

/* what: the name for messages ("training data"). Fails when the part is shorter than T + 1 tokens. The part is
 * borrowed. */
fathom_status batcher_init(batcher *b, const corpus_part *part, int64_t T, uint64_t seed, const char *what,
                           fathom_error *err);
/* Windows [position, position + B): inputs [B, T] and targets [B, T], targets shifted by one. Fails where a shard holds an id that it must not:
 * corpus_part_read. */
fathom_status batcher_train(const batcher *b, int64_t position, int64_t B, int32_t *inputs, int32_t *targets, fathom_error *err);
/* Tokens that held-out window w predicts: T, fewer in the last one, 0 past the end. */
int64_t batcher_heldout_size(const batcher *b, int64_t w);
/* Held-out windows in order, every token predicted exactly once: window w covers tokens [w T, w T + T]. Where it is short
 * the rest of inputs is 0 and of targets -1. Fails as batcher_train. */
fathom_status batcher_heldout(const batcher *b, int64_t w, int32_t *inputs, int32_t *targets, fathom_error *err);

#endif
