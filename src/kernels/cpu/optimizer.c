/* AdamW in one pass over memory, and the sums that training needs on the host. */
#include "kernels/cpu/cpu.h"

typedef struct adamw_factors {
    float m_scale, v_scale; /* 1 / (1 - beta^t) */
} adamw_factors;

CLONES static void adamw_range(const adamw_args *a, adamw_factors f, int64_t begin, int64_t end)
{
    float *restrict p = a->p, *restrict g = a->g, *restrict m = a->m, *restrict v = a->v;
    const float b1 = a->beta1, b2 = a->beta2;
    for (int64_t i = begin; i < end; i++) {
        const float gi = g[i] * a->grad_scale;
        m[i] = b1 * m[i] + (1 - b1) * gi;
        v[i] = b2 * v[i] + (1 - b2) * gi * gi;
        p[i] -= a->lr * (m[i] * f.m_scale / (sqrtf(v[i] * f.v_scale) + a->eps) + a->decay * p[i]);
        g[i] = 0;
    }
}

void cpu_adamw(const kernels *kn, const adamw_args *a)
{
    (void)kn;
    const adamw_factors f = {(float)(1 / (1 - pow(a->beta1, (double)a->step))),
                             (float)(1 / (1 - pow(a->beta2, (double)a->step)))};
    const int64_t chunks = chunk_count(a->n, 1);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        adamw_range(a, f, chunk_begin(a->n, c, chunks), chunk_begin(a->n, c + 1, chunks));
}

CLONES static void add_range(float *restrict y, const float *restrict x, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        y[i] += x[i];
}

void cpu_add(const kernels *kn, float *y, const float *x, int64_t n)
{
    (void)kn;
    const int64_t chunks = chunk_count(n, 1);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        add_range(y, x, chunk_begin(n, c, chunks), chunk_begin(n, c + 1, chunks));
}

CLONES static double sum_range(const float *x, int64_t begin, int64_t end)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; i++)
        sum += (double)x[i];
    return sum;
}

CLONES static double squares_range(const float *x, int64_t begin, int64_t end)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

static double in_chunks(double (*range)(const float *, int64_t, int64_t), const float *x, int64_t n)
{
    double partial[MAX_CHUNKS], sum = 0;
    const int64_t chunks = chunk_count(n, 1);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        partial[c] = range(x, chunk_begin(n, c, chunks), chunk_begin(n, c + 1, chunks));
    for (int64_t c = 0; c < chunks; c++)
        sum += partial[c];
    return sum;
}

double cpu_sum(const kernels *kn, const float *x, int64_t n)
{
    (void)kn;
    return in_chunks(sum_range, x, n);
}

double cpu_sum_squares(const kernels *kn, const float *x, int64_t n)
{
    (void)kn;
    return in_chunks(squares_range, x, n);
}
