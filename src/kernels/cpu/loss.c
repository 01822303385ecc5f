/* Softmax cross-entropy, row by row, the logits turned into their gradient in place. */
#include "kernels/cpu/cpu.h"

CLONES static void cross_entropy_rows(float *loss, float *logits, const int32_t *target, float scale, int64_t V, int64_t begin,
                        int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        float *restrict z = logits + i * V;
        if (target[i] < 0) {
            loss[i] = 0;
            if (scale != 0)
                memset(z, 0, (size_t)V * sizeof *z);
            continue;
        }
        const float top = max_of(z, V), at_target = z[target[i]];
        float sum = 0;
        if (scale == 0) {
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < V; j++)
                sum += exp_fast(z[j] - top);
        } else {
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < V; j++) {
                z[j] = exp_fast(z[j] - top);
                sum += z[j];
            }
            const float factor = scale / sum;
            for (int64_t j = 0; j < V; j++)
                z[j] *= factor;
            z[target[i]] -= scale;
        }
        loss[i] = top + logf(sum) - at_target;
    }
}

void cpu_cross_entropy(const kernels *kn, float *loss, float *logits, const int32_t *target, float scale, int64_t n,
                       int64_t V)
{
    (void)kn;
    const int64_t chunks = chunk_count(n, V);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        cross_entropy_rows(loss, logits, target, scale, V, chunk_begin(n, c, chunks), chunk_begin(n, c + 1, chunks));
}
