/* SwiGLU and the predictor's biased SiLU, forward and backward: with s = sigmoid(g), silu(g) = g s and
 * silu'(g) = s (1 + g (1 - s)). */
#include "kernels/cpu/cpu.h"

CLONES static void swiglu_rows(float *out, const float *gate_up, int64_t f, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        const float *restrict g = gate_up + i * 2 * f, *restrict u = g + f;
        float *restrict o = out + i * f;
#pragma omp simd
        for (int64_t j = 0; j < f; j++)
            o[j] = g[j] * sigmoid_fast(g[j]) * u[j];
    }
}

void cpu_swiglu_forward(const kernels *kn, float *out, const float *gate_up, int64_t n, int64_t f)
{
    (void)kn;
    const int64_t chunks = chunk_count(n, f);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        swiglu_rows(out, gate_up, f, chunk_begin(n, c, chunks), chunk_begin(n, c + 1, chunks));
}

CLONES static void swiglu_backward_rows(float *dgate_up, const float *dout, const float *gate_up, int64_t f,
                                        int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        const float *g = gate_up + i * 2 * f, *u = g + f, *o = dout + i * f;
        float *dg = dgate_up + i * 2 * f, *du = dg + f; /* may be g and u */
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
    (void)kn;
    const int64_t chunks = chunk_count(n, f);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        swiglu_backward_rows(dgate_up, dout, gate_up, f, chunk_begin(n, c, chunks), chunk_begin(n, c + 1, chunks));
}

CLONES static void bias_silu_rows(float *out, const float *pre, const float *restrict bias, int64_t p, int64_t begin,
                                  int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        const float *restrict x = pre + i * p;
        float *restrict o = out + i * p;
#pragma omp simd
        for (int64_t j = 0; j < p; j++) {
            const float z = x[j] + bias[j];
            o[j] = z * sigmoid_fast(z);
        }
    }
}

void cpu_bias_silu_forward(const kernels *kn, float *out, const float *pre, const float *bias, int64_t n, int64_t p)
{
    (void)kn;
    const int64_t chunks = chunk_count(n, p);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        bias_silu_rows(out, pre, bias, p, chunk_begin(n, c, chunks), chunk_begin(n, c + 1, chunks));
}

CLONES static void bias_silu_backward_rows(float *dpre, float *restrict dbias, const float *dout, const float *pre,
                                           const float *restrict bias, int64_t p, int64_t begin, int64_t end)
{
    memset(dbias, 0, (size_t)p * sizeof *dbias);
    for (int64_t i = begin; i < end; i++) {
        const float *x = pre + i * p, *o = dout + i * p;
        float *dx = dpre + i * p; /* may be o */
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
    (void)kn;
    const int64_t chunks = chunk_count(n, p);
    float *partial = scratch;
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        bias_silu_backward_rows(dpre, partial + c * p, dout, pre, bias, p, chunk_begin(n, c, chunks),
                                chunk_begin(n, c + 1, chunks));
    add_partials(dbias, partial, chunks, p);
}
