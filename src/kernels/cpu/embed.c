/* Token embedding, backward (forward stands in linear.c, which knows how weights are stored). It cuts columns, not rows: a
 * token that occurs twice is then added by one thread, in the order of the rows. */
#include "kernels/cpu/cpu.h"

CLONES static void backward_columns(float *dtable, const float *dx, const int32_t *tokens, int64_t n, int64_t d,
                                    int64_t begin, int64_t end)
{
    for (int64_t i = 0; i < n; i++) {
        float *restrict to = dtable + tokens[i] * d;
        const float *restrict from = dx + i * d;
        for (int64_t j = begin; j < end; j++)
            to[j] += from[j];
    }
}

void cpu_embed_backward(const kernels *kn, float *dtable, const float *dx, const int32_t *tokens, int64_t n, int64_t d)
{
    (void)kn;
    const int64_t width = 32, chunks = (d + width - 1) / width; /* two cache lines, so that threads do not share one */
#pragma omp parallel for if (n * d > 8192)
    for (int64_t c = 0; c < chunks; c++)
        backward_columns(dtable, dx, tokens, n, d, c * width, (c + 1) * width < d ? (c + 1) * width : d);
}
