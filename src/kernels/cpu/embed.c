/* Token embedding. The backward pass cuts columns, not rows: a token that occurs twice is then added by one thread, in the
 * order of the rows. */
#include "kernels/cpu/cpu.h"

void cpu_embed_forward(const kernels *kn, float *x, const float *table, const int32_t *tokens, int64_t n, int64_t d)
{
    (void)kn;
    const int64_t chunks = chunk_count(n, d);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        for (int64_t i = chunk_begin(n, c, chunks); i < chunk_begin(n, c + 1, chunks); i++)
            memcpy(x + i * d, table + tokens[i] * d, (size_t)d * sizeof *x);
}

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
