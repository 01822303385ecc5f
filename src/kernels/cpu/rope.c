/* Rotary position embedding in place; the equation stands at the table's entry. */
#include "kernels/cpu/cpu.h"

CLONES static void rope_rows(float *x, int64_t stride, int64_t heads, int64_t head_dim, const float *table,
                             const int32_t *position, float direction, int64_t begin, int64_t end)
{
    const int64_t half = head_dim / 2;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict cosine = table + position[i] * head_dim, *restrict sine = cosine + half;
        for (int64_t h = 0; h < heads; h++) {
            float *restrict low = x + i * stride + h * head_dim, *restrict high = low + half;
            for (int64_t j = 0; j < half; j++) {
                const float a = low[j], b = high[j], s = direction * sine[j];
                low[j] = a * cosine[j] - b * s;
                high[j] = b * cosine[j] + a * s;
            }
        }
    }
}

void cpu_rope(const kernels *kn, float *x, int64_t stride, int64_t n, int64_t heads, int64_t head_dim,
              const float *table, const int32_t *position, int direction)
{
    (void)kn;
    const int64_t chunks = chunk_count(n, heads * head_dim);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        rope_rows(x, stride, heads, head_dim, table, position, (float)direction, chunk_begin(n, c, chunks),
                  chunk_begin(n, c + 1, chunks));
}
