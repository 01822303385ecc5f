/* Rows of logits: see logits.h. Loops are such as compilers vectorise: lanes by hand where the order of additions or NaN would forbid it. */
#include "infer/logits.h"

#include <math.h>
#include <stdbool.h>

#include "base/clones.h"

enum { LANES = 16, BLOCK = 256 };

/* Above exp(-87); below it floats lose their precision and processors their speed. */
static const float LEAST = 1.7e-38f;

CLONES static float largest_of_block(const float *logits, int64_t n)
{
    float lane[LANES], top = -INFINITY;
    int64_t i = 0;
    for (int l = 0; l < LANES; l++)
        lane[l] = top;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] = logits[i + l] > lane[l] ? logits[i + l] : lane[l];
    for (int l = 0; l < LANES; l++)
        top = lane[l] > top ? lane[l] : top;
    for (; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    return top;
}

int32_t logits_largest(const float *logits, int64_t n)
{
    float top = -INFINITY;
    int64_t at = 0;
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
        const float block = largest_of_block(logits + begin, n - begin < BLOCK ? n - begin : BLOCK);
        at = block > top ? begin : at;
        top = block > top ? block : top;
    }
    while (top > -INFINITY && logits[at] != top)
        at++;
    return (int32_t)at;
}

/* exp(x) for x <= 0, in double and rounded once at the end: what expf gives but for a last bit in some hundreds. Below -87 and for NaN it is
 * exp(-87). Adding 1.5 x 2^52 rounds and leaves the integer in the low bits; the Taylor polynomial of degree 8 is within 3e-10 for
 * |r| <= ln2 / 2. */
static inline float exp_below(float x)
{
    const double wide = (double)(x > -87.0f ? x : -87.0f);
    union {
        double d;
        uint64_t i;
    } u = {.d = wide * 1.44269504088896340736 + 0x1.8p52};
    const double r = wide - (u.d - 0x1.8p52) * 0.693147180559945309417;
    double p = 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    u.i = (u.i + 1023) << 52;
    return (float)(p * u.d);
}

CLONES static void exp_of_logits(const float *logits, int64_t n, float top, float temperature, float least, float *out)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float e = exp_below((logits[i] - top) / temperature);
        out[i] = e >= least ? e : 0.0f;
    }
}

void logits_exp(const float *logits, int64_t n, float top, float temperature, float floor, float *out)
{
    exp_of_logits(logits, n, top, temperature, floor > LEAST ? floor : LEAST, out);
}

CLONES static int64_t count_from(const float *values, int64_t n, float least)
{
    int64_t count = 0;
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
        const int64_t end = n - begin < BLOCK ? n : begin + BLOCK;
        int32_t block = 0;
        for (int64_t i = begin; i < end; i++)
            block += values[i] >= least;
        count += block;
    }
    return count;
}

int64_t logits_count(const float *values, int64_t n, float least)
{
    return count_from(values, n, least);
}

CLONES static double sum_of_lanes(const float *values, int64_t n)
{
    double lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += (double)values[i + l];
    for (int l = 0; l < LANES; l++)
        sum += lane[l];
    for (; i < n; i++)
        sum += (double)values[i];
    return sum;
}

double logits_sum(const float *values, int64_t n)
{
    return sum_of_lanes(values, n);
}

/* --- log-probabilities --- */

/* The likeliest tokens with their logits, by insertion: what comes later is rarely among them. */
static size_t select_likeliest(const float *logits, int64_t n, size_t count, fathom_logprob *top)
{
    size_t held = 0;
    for (int64_t i = 0; count > 0 && i < n; i++) {
        if (held == count && !(logits[i] > top[held - 1].logprob))
            continue;
        const float logit = isnan(logits[i]) ? -INFINITY : logits[i];
        held += held < count;
        size_t at = held - 1;
        for (; at > 0 && logit > top[at - 1].logprob; at--)
            top[at] = top[at - 1];
        top[at] = (fathom_logprob){(int32_t)i, logit};
    }
    return held;
}

static double log_of_sum(const float *logits, int64_t n, float top)
{
    float e[BLOCK];
    double sum = 0;
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
        const int64_t size = n - begin < BLOCK ? n - begin : BLOCK;
        logits_exp(logits + begin, size, top, 1, 0, e);
        sum += logits_sum(e, size);
    }
    return (double)top + log(sum);
}

float logits_logprobs(const float *logits, int64_t n, int32_t id, size_t count, fathom_logprob *top)
{
    const float largest = logits[logits_largest(logits, n)];
    const bool finite = isfinite(largest);
    const double whole = finite ? log_of_sum(logits, n, largest) : 0;
    const size_t held = select_likeliest(logits, n, count, top);
    for (size_t i = 0; i < held; i++)
        top[i].logprob = finite ? (float)((double)top[i].logprob - whole) : -INFINITY;
    return finite && !isnan(logits[id]) ? (float)((double)logits[id] - whole) : -INFINITY;
}
