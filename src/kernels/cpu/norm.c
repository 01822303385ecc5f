/* RMSNorm fused with the gather of its rows; the equations stand at norm_args. */
#include "kernels/cpu/cpu.h"

CLONES static void norm_forward_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const norm_args *a = context;
    const int64_t d = a->d;
    const float *restrict w = a->weight;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict x = a->x + (a->index ? a->index[i] : i) * d;
        float *out = a->out + i * d, *from = a->saved ? a->saved + i * d : out;
        if (a->plus)
            for (int64_t j = 0; j < d; j++)
                from[j] = x[j] + a->plus[i * d + j];
        else
            memcpy(from, x, (size_t)d * sizeof *x);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < d; j++)
            sum += from[j] * from[j];
        const float s = 1.0f / sqrtf(sum / (float)d + a->eps);
        for (int64_t j = 0; j < d; j++)
            out[j] = from[j] * s * w[j];
        if (a->rstd)
            a->rstd[i] = s;
    }
}

void cpu_norm_forward(const kernels *kn, const norm_args *a)
{
    cpu_chunks(kn, a->n, a->d, norm_forward_rows, a);
}

CLONES static void norm_backward_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    const norm_args *a = context;
    const int64_t d = a->d;
    float *restrict dw = (float *)a->scratch + chunk * d;
    const float *restrict w = a->weight;
    memset(dw, 0, (size_t)d * sizeof *dw);
    for (int64_t i = begin; i < end; i++) {
        const float *restrict x = a->x + i * d, *restrict dout = a->dout + i * d;
        const float s = a->rstd[i];
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < d; j++)
            dot += w[j] * dout[j] * x[j];
        const float c = dot * s * s * s / (float)d;
        float *restrict dx = a->dx + (a->index ? a->index[i] : i) * d;
        const float *restrict add = a->add ? a->add + i * d : NULL;
        for (int64_t j = 0; j < d; j++)
            dw[j] += dout[j] * x[j] * s;
        if (a->accumulate && add)
            for (int64_t j = 0; j < d; j++)
                dx[j] += add[j] + s * w[j] * dout[j] - c * x[j];
        else if (a->accumulate)
            for (int64_t j = 0; j < d; j++)
                dx[j] += s * w[j] * dout[j] - c * x[j];
        else if (add)
            for (int64_t j = 0; j < d; j++)
                dx[j] = add[j] + s * w[j] * dout[j] - c * x[j];
        else
            for (int64_t j = 0; j < d; j++)
                dx[j] = s * w[j] * dout[j] - c * x[j];
    }
}

void cpu_norm_backward(const kernels *kn, const norm_args *a)
{
    cpu_chunks(kn, a->n, a->d, norm_backward_rows, a);
    add_partials(a->dweight, a->scratch, chunk_count(a->n, a->d), a->d);
}
