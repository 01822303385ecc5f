/* Softmax cross-entropy, row by row, the logits turned into their gradient in place. */
#include "kernels/cpu/cpu.h"

typedef struct cross_entropy_call {
    float *loss, *logits;
    const int32_t *target;
    float scale;
    int64_t V;
} cross_entropy_call;

CLONES static void cross_entropy_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const cross_entropy_call *a = context;
    const int32_t *target = a->target;
    float *loss = a->loss;
    const float scale = a->scale;
    const int64_t V = a->V;
    for (int64_t i = begin; i < end; i++) {
        float *restrict z = a->logits + i * V;
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
    cpu_chunks(kn, n, V, cross_entropy_rows, &(cross_entropy_call){loss, logits, target, scale, V});
}
