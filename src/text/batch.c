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
    *b = (batcher){
        .tokens = part->tokens, .count = part->count, .T = T, .windows = (part->count - 1) / T, .seed = seed};
    return FATHOM_OK;
}

/* Where the window at this position starts. */
static int64_t window_start(const batcher *b, int64_t position)
{
    const uint64_t epoch = (uint64_t)(position / b->windows), i = (uint64_t)(position % b->windows);
    const uint64_t stream = RNG_SHUFFLE + (epoch << 8);
    const int64_t room = b->count - 1 - b->windows * b->T;
    const int64_t offset = (int64_t)(rng_uniform(b->seed, stream, OFFSET_COUNTER) * (double)(room + 1));
    return offset + (int64_t)rng_permute(b->seed, stream, i, (uint64_t)b->windows) * b->T;
}

void batcher_train(const batcher *b, int64_t position, int64_t B, int32_t *inputs, int32_t *targets)
{
    assert(position >= 0 && b->windows >= 1);
    const size_t row = (size_t)b->T * sizeof(int32_t);
    for (int64_t r = 0; r < B; r++) {
        const int32_t *window = b->tokens + window_start(b, position + r);
        memcpy(inputs + r * b->T, window, row);
        memcpy(targets + r * b->T, window + 1, row);
    }
}

int64_t batcher_heldout(const batcher *b, int64_t w, int32_t *inputs, int32_t *targets)
{
    assert(w >= 0);
    const int64_t T = b->T;
    int64_t n = 0;
    if (b->count > 1 && w <= (b->count - 2) / T) {
        const int64_t left = b->count - 1 - w * T;
        n = left < T ? left : T;
    }
    for (int64_t i = 0; i < T; i++) {
        inputs[i] = i < n ? b->tokens[w * T + i] : 0;
        targets[i] = i < n ? b->tokens[w * T + i + 1] : -1;
    }
    return n;
}
