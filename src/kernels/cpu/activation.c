/* SwiGLU and the predictor's biased SiLU, forward and backward: with s = sigmoid(g), silu(g) = g s and
 * silu'(g) = s (1 + g (1 - s)). */
#include "kernels/cpu/cpu.h"

typedef struct swiglu_call {
    float *out, *dgate_up;
    const float *dout, *gate_up;
    int64_t f;
} swiglu_call;

CLONES static void swiglu_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const swiglu_call *a = context;
    const int64_t f = a->f;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict g = a->gate_up + i * 2 * f, *restrict u = g + f;
        float *restrict o = a->out + i * f;
#pragma omp simd
        for (int64_t j = 0; j < f; j++)
            o[j] = g[j] * sigmoid_fast(g[j]) * u[j];
    }
}

void cpu_swiglu_forward(const kernels *kn, float *out, const float *gate_up, int64_t n, int64_t f)
{
    cpu_chunks(kn, n, f, swiglu_rows, &(swiglu_call){.out = out, .gate_up = gate_up, .f = f});
}

CLONES static void swiglu_backward_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const swiglu_call *a = context;
    const int64_t f = a->f;
    for (int64_t i = begin; i < end; i++) {
        const float *g = a->gate_up + i * 2 * f, *u = g + f, *o = a->dout + i * f;
        float *dg = a->dgate_up + i * 2 * f, *du = dg + f; /* may be g and u */
#pragma omp simd
        for (int64_t j = 0; j < f; j++) {
            const float gj = g[j], uj = u[j], s = sigmoid_fast(gj);
            dg[j] = o[j] * uj * s * (1 + gj * (1 - s));
            du[j] = o[j] * gj * s;
        }
    }
}

void cpu_swiglu_backward(const kernels *kn, float *dgate_up, const float *dout, const float *gate_up, int64_t n,
                         int64_t f)
{
    cpu_chunks(kn, n, f, swiglu_backward_rows, &(swiglu_call){.dgate_up = dgate_up, .dout = dout, .gate_up = gate_up, .f = f});
}

typedef struct bias_silu_call {
    float *out, *dpre, *partial; /* partial: sums of dbias, a row a chunk */
    const float *dout, *pre, *bias;
    int64_t p;
} bias_silu_call;

CLONES static void bias_silu_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const bias_silu_call *a = context;
    const float *restrict bias = a->bias;
    const int64_t p = a->p;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict x = a->pre + i * p;
        float *restrict o = a->out + i * p;
#pragma omp simd
        for (int64_t j = 0; j < p; j++) {
            const float z = x[j] + bias[j];
            o[j] = z * sigmoid_fast(z);
        }
    }
}

void cpu_bias_silu_forward(const kernels *kn, float *out, const float *pre, const float *bias, int64_t n, int64_t p)
{
    cpu_chunks(kn, n, p, bias_silu_rows, &(bias_silu_call){.out = out, .pre = pre, .bias = bias, .p = p});
}

CLONES static void bias_silu_backward_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    const bias_silu_call *a = context;
    const float *restrict bias = a->bias;
    const int64_t p = a->p;
    float *restrict dbias = a->partial + chunk * p;
    memset(dbias, 0, (size_t)p * sizeof *dbias);
    for (int64_t i = begin; i < end; i++) {
        const float *x = a->pre + i * p, *o = a->dout + i * p;
        float *dx = a->dpre + i * p; /* may be o */
#pragma omp simd
        for (int64_t j = 0; j < p; j++) {
            const float z = x[j] + bias[j], s = sigmoid_fast(z), dz = o[j] * s * (1 + z * (1 - s));
            dx[j] = dz;
            dbias[j] += dz;
        }
    }
}

void cpu_bias_silu_backward(const kernels *kn, float *dpre, float *dbias, const float *dout, const float *pre,
                            const float *bias, int64_t n, int64_t p, void *scratch)
{
    cpu_chunks(kn, n, p, bias_silu_backward_rows,
               &(bias_silu_call){.dpre = dpre, .partial = scratch, .dout = dout, .pre = pre, .bias = bias, .p = p});
    add_partials(dbias, scratch, chunk_count(n, p), p);
}
