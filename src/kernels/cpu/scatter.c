/* Gated scatter of a block's update and its backward; the equations stand at scatter_args. */
#include "kernels/cpu/cpu.h"

enum { GATE_RAW, GATE_SIGMOID, GATE_ONE }; /* the order of mod_gate */

static inline float gate_value(int gate, float r)
{
    return gate == GATE_RAW ? r : gate == GATE_SIGMOID ? sigmoid_fast(r) : 1.0f;
}

static inline float gate_slope(int gate, float r)
{
    const float s = sigmoid_fast(r);
    return gate == GATE_RAW ? 1.0f : gate == GATE_SIGMOID ? s * (1 - s) : 0.0f;
}

CLONES static void scatter_forward_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const scatter_args *a = context;
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = a->index ? a->index[i] : i;
        const float g = a->logit ? gate_value(a->gate, a->logit[row]) : 1.0f;
        float *restrict x = a->x + row * a->d;
        const float *restrict u = a->u + i * a->d;
        for (int64_t j = 0; j < a->d; j++)
            x[j] += g * u[j];
    }
}

void cpu_scatter_forward(const kernels *kn, const scatter_args *a)
{
    cpu_chunks(kn, a->n, a->d, scatter_forward_rows, a);
}

CLONES static void scatter_backward_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const scatter_args *a = context;
    const bool sloped = a->logit && a->gate != GATE_ONE;
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = a->index ? a->index[i] : i;
        const float *restrict dx = a->dx + row * a->d;
        float *restrict du = a->du + i * a->d;
        const float g = a->logit ? gate_value(a->gate, a->logit[row]) : 1.0f;
        for (int64_t j = 0; j < a->d; j++)
            du[j] = g * dx[j];
        float dot = 0;
        if (sloped) {
            const float *restrict u = a->u + i * a->d;
#pragma omp simd reduction(+ : dot)
            for (int64_t j = 0; j < a->d; j++)
                dot += dx[j] * u[j];
            dot *= gate_slope(a->gate, a->logit[row]);
        }
        if (a->dlogit)
            a->dlogit[i] = dot;
    }
}

void cpu_scatter_backward(const kernels *kn, const scatter_args *a)
{
    cpu_chunks(kn, a->n, a->d, scatter_backward_rows, a);
}
