/* Routers and predictors: logits of rows, the top-k of a sequence, noise. */
#include "kernels/cpu/cpu.h"

#include "base/rng.h"

enum { NOISE_COST = 16 }; /* a number's time, in those of an element of a vectorised loop */

typedef struct rowdot_call {
    float *logit, *dx, *partial; /* partial: sums of dw, a row a chunk */
    const int32_t *index;
    const float *dlogit, *x, *w;
    float bias;
    int64_t d;
} rowdot_call;

CLONES static void rowdot_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const rowdot_call *a = context;
    const float *restrict w = a->w;
    const int64_t d = a->d;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict row = a->x + i * d;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < d; j++)
            sum += row[j] * w[j];
        a->logit[i] = sum + a->bias;
    }
}

void cpu_rowdot_forward(const kernels *kn, float *logit, const float *x, const float *w, const float *bias, int64_t n,
                        int64_t d)
{
    cpu_chunks(kn, n, d, rowdot_rows, &(rowdot_call){.logit = logit, .x = x, .w = w, .bias = bias ? *bias : 0, .d = d});
}

CLONES static void rowdot_backward_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    const rowdot_call *a = context;
    const float *restrict w = a->w;
    const int64_t d = a->d;
    float *restrict dw = a->partial + chunk * d;
    memset(dw, 0, (size_t)d * sizeof *dw);
    for (int64_t i = begin; i < end; i++) {
        const float *restrict row = a->x + i * d;
        const float g = a->dlogit[i];
        for (int64_t j = 0; j < d; j++)
            dw[j] += g * row[j];
        if (a->dx) {
            float *restrict to = a->dx + (a->index ? a->index[i] : i) * d;
            for (int64_t j = 0; j < d; j++)
                to[j] += g * w[j];
        }
    }
}

void cpu_rowdot_backward(const kernels *kn, float *dx, const int32_t *index, float *dw, float *dbias,
                         const float *dlogit, const float *x, const float *w, int64_t n, int64_t d, void *scratch)
{
    cpu_chunks(kn, n, d, rowdot_backward_rows,
               &(rowdot_call){.dx = dx, .index = index, .partial = scratch, .dlogit = dlogit, .x = x, .w = w, .d = d});
    add_partials(dw, scratch, chunk_count(n, d), d);
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

typedef struct topk_call {
    int32_t *index;
    uint8_t *member;
    const float *logit;
    int64_t T, k;
} topk_call;

static void topk_tile(void *context, int64_t b, int seat)
{
    (void)seat;
    const topk_call *a = context;
    topk_sequence(a->index + b * a->k, a->member + b * a->T, a->logit + b * a->T, (int32_t)(b * a->T), a->T, a->k);
}

void cpu_topk(const kernels *kn, int32_t *index, uint8_t *member, const float *logit, int64_t B, int64_t T, int64_t k,
              void *scratch)
{
    (void)scratch;
    topk_call a = {index, member, logit, T, k};
    pool_run(cpu_threads_for(kn, 4 * B * T), B, topk_tile, &a);
}

typedef struct noise_call {
    float *out;
    uint64_t seed, stream, counter;
} noise_call;

static void noise_range(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const noise_call *a = context;
    for (int64_t i = begin; i < end; i++)
        a->out[i] = (float)rng_normal(a->seed, a->stream, a->counter + (uint64_t)i);
}

void cpu_noise(const kernels *kn, float *out, uint64_t seed, uint64_t stream, uint64_t counter, int64_t n)
{
    cpu_chunks(kn, n, NOISE_COST, noise_range, &(noise_call){out, seed, stream, counter});
}
