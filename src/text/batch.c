/* Batches: see batch.h. The tokens that the windows of an epoch leave over, fewer than T, are the room in which its
 * offset moves: every window stays inside the part and an epoch has the same number of windows whatever its offset. */
#include "text/batch.h"

#include <assert.h>
#include <string.h>

#include "base/rng.h"

/* The permutation draws from small counters of the same stream. */
static const uint64_t OFFSET_COUNTER = UINT64_MAX;

fathom_status batcher_init(batcher *b, const corpus_part *part, int64_t T, uint64_t seed, const char *what,
                           fathom_error *err)
{
    *b = (batcher){0};
    if (T < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: windows of %lld tokens", what, (long long)T);
    if (part->count - 1 < T)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %lld tokens: too few for one window of %lld + 1", what,
                           (long long)part->count, (long long)T);
    *b = (batcher){.part = part, .T = T, .windows = (part->count - 1) / T, .seed = seed};
    return FATHOM_OK;
}

/* Where the window at this position starts. */
static int64_t window_start(const batcher *b, int64_t position)
{
    const uint64_t epoch = (uint64_t)(position / b->windows), i = (uint64_t)(position % b->windows);
    const uint64_t stream = RNG_SHUFFLE + (epoch << 8);
    const int64_t room = b->part->count - 1 - b->windows * b->T;
    const int64_t offset = (int64_t)(rng_uniform(b->seed, stream, OFFSET_COUNTER) * (double)(room + 1));
    return offset + (int64_t)rng_permute(b->seed, stream, i, (uint64_t)b->windows) * b->T;
}

fathom_status batcher_train(const batcher *b, int64_t position, int64_t B, int32_t *inputs, int32_t *targets, fathom_error *err)
{
    assert(position >= 0 && b->windows >= 1);
    const int64_t T = b->T;
    for (int64_t r = 0; r < B; r++) {
        int32_t *row = inputs + r * T, *next = targets + r * T;
        const int64_t start = window_start(b, position + r);
        TRY(corpus_part_read(b->part, start, T, row, err));
        TRY(corpus_part_read(b->part, start + T, 1, next + T - 1, err));
        memcpy(next, row + 1, (size_t)(T - 1) * sizeof *next);
    }
    return FATHOM_OK;
}

int64_t batcher_heldout_size(const batcher *b, int64_t w)
{
    assert(w >= 0);
    const int64_t T = b->T, count = b->part->count;
    if (count <= 1 || w > (count - 2) / T)
        return 0;
    const int64_t left = count - 1 - w * T;
    return left < T ? left : T;
}

fathom_status batcher_heldout(const batcher *b, int64_t w, int32_t *inputs, int32_t *targets, fathom_error *err)
{
    const int64_t T = b->T, n = batcher_heldout_size(b, w);
    if (n > 0) {
        TRY(corpus_part_read(b->part, w * T, n, inputs, err));
        TRY(corpus_part_read(b->part, w * T + 1, n, targets, err));
    }
    for (int64_t i = n; i < T; i++) {
        inputs[i] = 0;
        targets[i] = -1;
    }
    return FATHOM_OK;
}
