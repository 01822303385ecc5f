/* AdamW in one pass over memory, and the sums that training needs on the host. */
#include "kernels/cpu/cpu.h"

typedef struct adamw_call {
    const adamw_args *args;
    float m_scale, v_scale; /* 1 / (1 - beta^t) */
} adamw_call;

CLONES static void adamw_range(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const adamw_call *f = context;
    const adamw_args *a = f->args;
    float *restrict p = a->p, *restrict g = a->g, *restrict m = a->m, *restrict v = a->v;
    /* copies, which no store through p can change: the compiler vectorises the loop then */
    const float b1 = a->beta1, b2 = a->beta2, m_scale = f->m_scale, v_scale = f->v_scale;
    const float scale = a->grad_scale, lr = a->lr, eps = a->eps, decay = a->decay;
    for (int64_t i = begin; i < end; i++) {
        const float gi = g[i] * scale;
        m[i] = b1 * m[i] + (1 - b1) * gi;
        v[i] = b2 * v[i] + (1 - b2) * gi * gi;
        p[i] -= lr * (m[i] * m_scale / (sqrtf(v[i] * v_scale) + eps) + decay * p[i]);
        g[i] = 0;
    }
}

void cpu_adamw(const kernels *kn, const adamw_args *a)
{
    const adamw_call f = {a, (float)(1 / (1 - pow(a->beta1, (double)a->step))),
                          (float)(1 / (1 - pow(a->beta2, (double)a->step)))};
    cpu_chunks(kn, a->n, 1, adamw_range, &f);
}

typedef struct vector_call {
    float *y;
    const float *x;
    double *partial; /* a sum a chunk */
} vector_call;

CLONES static void add_range(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const vector_call *a = context;
    float *restrict y = a->y;
    const float *restrict x = a->x;
    for (int64_t i = begin; i < end; i++)
        y[i] += x[i];
}

void cpu_add(const kernels *kn, float *y, const float *x, int64_t n)
{
    cpu_chunks(kn, n, 1, add_range, &(vector_call){.y = y, .x = x});
}

CLONES static void sum_range(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    const vector_call *a = context;
    const float *x = a->x;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; i++)
        sum += (double)x[i];
    a->partial[chunk] = sum;
}

CLONES static void squares_range(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    const vector_call *a = context;
    const float *x = a->x;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; i++)
        sum += (double)x[i] * (double)x[i];
    a->partial[chunk] = sum;
}

static double in_chunks(const kernels *kn, cpu_range *range, const float *x, int64_t n)
{
    double partial[MAX_CHUNKS], sum = 0;
    cpu_chunks(kn, n, 1, range, &(vector_call){.x = x, .partial = partial});
    for (int64_t c = 0; c < chunk_count(n, 1); c++)
        sum += partial[c];
    return sum;
}

double cpu_sum(const kernels *kn, const float *x, int64_t n)
{
    return in_chunks(kn, sum_range, x, n);
}

double cpu_sum_squares(const kernels *kn, const float *x, int64_t n)
{
    return in_chunks(kn, squares_range, x, n);
}
