/* Rotary position embedding in place; the equation stands at the table's entry. */
#include "kernels/cpu/cpu.h"

typedef struct rope_call {
    float *x;
    int64_t stride, heads, head_dim;
    const float *table;
    const int32_t *position;
    float direction;
} rope_call;

CLONES static void rope_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const rope_call *call = context;
    const int64_t stride = call->stride, heads = call->heads, head_dim = call->head_dim, half = head_dim / 2;
    const float direction = call->direction;
    float *x = call->x;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict cosine = call->table + call->position[i] * head_dim, *restrict sine = cosine + half;
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
    cpu_chunks(kn, n, heads * head_dim, rope_rows,
               &(rope_call){x, stride, heads, head_dim, table, position, (float)direction});
}
