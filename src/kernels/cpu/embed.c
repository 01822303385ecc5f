/* Token embedding, backward (forward stands in linear.c, which knows how weights are stored). It cuts columns, not rows: a
 * token that occurs twice is then added by one thread, in the order of the rows. */
#include "kernels/cpu/cpu.h"

enum { COLUMNS = 32 }; /* two cache lines, so that threads do not share one */

typedef struct embed_call {
    float *dtable;
    const float *dx;
    const int32_t *tokens;
    int64_t n, d;
} embed_call;

CLONES static void backward_columns(const embed_call *a, int64_t begin, int64_t end)
{
    for (int64_t i = 0; i < a->n; i++) {
        float *restrict to = a->dtable + a->tokens[i] * a->d;
        const float *restrict from = a->dx + i * a->d;
        for (int64_t j = begin; j < end; j++)
            to[j] += from[j];
    }
}

static void backward_tile(void *context, int64_t tile, int seat)
{
    (void)seat;
    const embed_call *a = context;
    const int64_t begin = tile * COLUMNS, end = begin + COLUMNS;
    backward_columns(a, begin, end < a->d ? end : a->d);
}

void cpu_embed_backward(const kernels *kn, float *dtable, const float *dx, const int32_t *tokens, int64_t n, int64_t d)
{
    embed_call a = {dtable, dx, tokens, n, d};
    pool_run(cpu_threads_for(kn, n * d), (d + COLUMNS - 1) / COLUMNS, backward_tile, &a);
}
