/* Routers of experts: softmax over the experts and its backward, columns of [E, n] at a time so that tokens fill the lanes. */
#include "kernels/cpu/cpu.h"

enum { COLUMNS = 64 };

CLONES static void softmax_columns(float *p, int64_t E, int64_t stride, int64_t n)
{
    float top[COLUMNS], sum[COLUMNS] = {0};
    memcpy(top, p, (size_t)n * sizeof *top);
    for (int64_t e = 1; e < E; e++)
        for (int64_t i = 0; i < n; i++)
            top[i] = p[e * stride + i] > top[i] ? p[e * stride + i] : top[i];
    for (int64_t e = 0; e < E; e++) {
        float *restrict row = p + e * stride;
        for (int64_t i = 0; i < n; i++) {
            row[i] = exp_fast(row[i] - top[i]);
            sum[i] += row[i];
        }
    }
    for (int64_t e = 0; e < E; e++)
        for (int64_t i = 0; i < n; i++)
            p[e * stride + i] /= sum[i];
}

CLONES static void softmax_backward_columns(float *dp, const float *p, const float *shift, int64_t E, int64_t stride, int64_t n)
{
    float mean[COLUMNS] = {0};
    for (int64_t e = 0; e < E; e++) {
        const float *restrict of = p + e * stride;
        float *restrict d = dp + e * stride;
        const float add = shift ? shift[e] : 0;
        for (int64_t i = 0; i < n; i++) {
            d[i] += add;
            mean[i] += of[i] * d[i];
        }
    }
    for (int64_t e = 0; e < E; e++) {
        const float *restrict of = p + e * stride;
        float *restrict d = dp + e * stride;
        for (int64_t i = 0; i < n; i++)
            d[i] = of[i] * (d[i] - mean[i]);
    }
}

typedef struct softmax_call {
    float *p, *dp;
    const float *shift;
    int64_t E, n;
} softmax_call;

static void softmax_tile(void *context, int64_t tile, int seat)
{
    (void)seat;
    const softmax_call *a = context;
    const int64_t begin = tile * COLUMNS, count = a->n - begin < COLUMNS ? a->n - begin : COLUMNS;
    if (a->dp)
        softmax_backward_columns(a->dp + begin, a->p + begin, a->shift, a->E, a->n, count);
    else
        softmax_columns(a->p + begin, a->E, a->n, count);
}

void cpu_expert_softmax(const kernels *kn, float *p, int64_t E, int64_t n)
{
    softmax_call a = {.p = p, .E = E, .n = n};
    pool_run(cpu_threads_for(kn, E * n), (n + COLUMNS - 1) / COLUMNS, softmax_tile, &a);
}

void cpu_expert_softmax_backward(const kernels *kn, float *dp, const float *p, const float *shift, int64_t E, int64_t n)
{
    softmax_call a = {.p = (float *)p, .dp = dp, .shift = shift, .E = E, .n = n};
    pool_run(cpu_threads_for(kn, E * n), (n + COLUMNS - 1) / COLUMNS, softmax_tile, &a);
}
