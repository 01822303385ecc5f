/* Routers and predictors: logits of rows, the top-k of a sequence, noise. */
#include "kernels/cpu/cpu.h"

#include "base/rng.h"

CLONES static void rowdot_rows(float *logit, const float *x, const float *restrict w, float bias, int64_t d,
                               int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        const float *restrict row = x + i * d;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < d; j++)
            sum += row[j] * w[j];
        logit[i] = sum + bias;
    }
}

void cpu_rowdot_forward(const kernels *kn, float *logit, const float *x, const float *w, const float *bias, int64_t n,
                        int64_t d)
{
    (void)kn;
    const int64_t chunks = chunk_count(n, d);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        rowdot_rows(logit, x, w, bias ? *bias : 0, d, chunk_begin(n, c, chunks), chunk_begin(n, c + 1, chunks));
}

CLONES static void rowdot_backward_rows(float *dx, const int32_t *index, float *restrict dw, const float *dlogit,
                                        const float *x, const float *restrict w, int64_t d, int64_t begin, int64_t end)
{
    memset(dw, 0, (size_t)d * sizeof *dw);
    for (int64_t i = begin; i < end; i++) {
        const float *restrict row = x + i * d;
        const float g = dlogit[i];
        for (int64_t j = 0; j < d; j++)
            dw[j] += g * row[j];
        if (dx) {
            float *restrict to = dx + (index ? index[i] : i) * d;
            for (int64_t j = 0; j < d; j++)
                to[j] += g * w[j];
        }
    }
}

void cpu_rowdot_backward(const kernels *kn, float *dx, const int32_t *index, float *dw, float *dbias,
                         const float *dlogit, const float *x, const float *w, int64_t n, int64_t d, void *scratch)
{
    (void)kn;
    const int64_t chunks = chunk_count(n, d);
    float *partial = scratch;
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        rowdot_backward_rows(dx, index, partial + c * d, dlogit, x, w, d, chunk_begin(n, c, chunks),
                             chunk_begin(n, c + 1, chunks));
    add_partials(dw, partial, chunks, d);
    if (dbias)
        for (int64_t i = 0; i < n; i++)
            *dbias += dlogit[i];
}

/* An unsigned key in the order of the numbers: NaN lowest, both zeros equal. */
static inline uint32_t order_key(float x)
{
    if (x != x)
        return 0;
    union {
        float f;
        uint32_t u;
    } v = {.f = x == 0 ? 0.0f : x};
    return v.u & 0x80000000u ? ~v.u : v.u | 0x80000000u;
}

/* Radix selection, a byte at a time from the top: after each pass the k-th largest key's prefix is known, and how many of
 * the keys with that prefix are wanted. Linear in T whatever the values. */
static void topk_sequence(int32_t *index, uint8_t *member, const float *logit, int32_t first, int64_t T, int64_t k)
{
    uint32_t prefix = 0, mask = 0;
    int64_t wanted = k;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t count[256] = {0};
        for (int64_t t = 0; t < T; t++) {
            const uint32_t key = order_key(logit[t]);
            count[key >> shift & 255] += (key & mask) == prefix;
        }
        uint32_t byte = 255;
        while (count[byte] < wanted)
            wanted -= count[byte--];
        prefix |= byte << shift;
        mask |= 255u << shift;
    }
    for (int64_t t = 0, chosen = 0; t < T; t++) {
        const uint32_t key = order_key(logit[t]);
        const bool in = key > prefix || (key == prefix && wanted-- > 0);
        member[t] = in;
        if (in)
            index[chosen++] = first + (int32_t)t;
    }
}

void cpu_topk(const kernels *kn, int32_t *index, uint8_t *member, const float *logit, int64_t B, int64_t T, int64_t k,
              void *scratch)
{
    (void)kn;
    (void)scratch;
#pragma omp parallel for if (B * T > 2048)
    for (int64_t b = 0; b < B; b++)
        topk_sequence(index + b * k, member + b * T, logit + b * T, (int32_t)(b * T), T, k);
}

void cpu_noise(const kernels *kn, float *out, uint64_t seed, uint64_t stream, uint64_t counter, int64_t n)
{
    (void)kn;
#pragma omp parallel for if (n > 1024)
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)rng_normal(seed, stream, counter + (uint64_t)i);
}
