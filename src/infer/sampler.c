/* Choosing the next token: see sampler.h. A vocabulary may have 150,000 tokens of which a draw needs a few: what is done to all of them is
 * done by plain loops (logits.c), and only those above a cut-off, which cannot exclude any that is wanted, are sorted. */
#include "infer/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "infer/logits.h"

enum { BLOCK = 256, DIGIT_BITS = 10, DIGITS = 1 << DIGIT_BITS };

static fathom_status check_penalty(const char *name, float penalty, fathom_error *err)
{
    if (!(penalty >= -2 && penalty <= 2))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %g: must be in [-2, 2]", name, (double)penalty);
    return FATHOM_OK;
}

static fathom_status check_biases(const fathom_logit_bias *bias, size_t count, int64_t vocab, fathom_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (bias[i].id < 0 || bias[i].id >= vocab)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "logit_bias: id %d is outside the vocabulary of %lld", (int)bias[i].id,
                               (long long)vocab);
        if (!(bias[i].bias < INFINITY))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "logit_bias: %g for id %d: must be a number or -infinity",
                               (double)bias[i].bias, (int)bias[i].id);
    }
    return FATHOM_OK;
}

static fathom_status check(const fathom_generate_options *o, int64_t vocab, fathom_error *err)
{
    if (!(o->temperature >= 0) || !isfinite(o->temperature))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "temperature: %g: must be 0 (greedy) or above", (double)o->temperature);
    if (o->top_k < 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "top_k: %d: must be 0 (off) or above", (int)o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "top_p: %g: must be in (0, 1]", (double)o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "min_p: %g: must be in [0, 1]", (double)o->min_p);
    TRY(check_penalty("presence_penalty", o->presence_penalty, err));
    TRY(check_penalty("frequency_penalty", o->frequency_penalty, err));
    return check_biases(o->logit_bias, o->logit_bias_count, vocab, err);
}

static bool sorts(const sampler *s)
{
    return s->top_k > 0 || s->top_p < 1;
}

static void *room(bool needed, size_t count, size_t size, bool *enough)
{
    void *block = needed ? calloc(count, size) : NULL;
    *enough = *enough && (block || !needed);
    return block;
}

static bool allocate(sampler *s, const fathom_generate_options *o)
{
    const size_t vocab = (size_t)s->vocab;
    const bool drawn = s->temperature > 0, sorted = drawn && sorts(s), biased = o->logit_bias_count > 0;
    const bool penalties = s->presence != 0 || s->frequency != 0;
    bool enough = true;
    s->bias = room(biased, o->logit_bias_count, sizeof *s->bias, &enough);
    s->seen = room(penalties, vocab, sizeof *s->seen, &enough);
    s->probability = room(drawn || biased || penalties, vocab, sizeof *s->probability, &enough);
    s->mass = room(drawn, vocab / BLOCK + 1, sizeof *s->mass, &enough);
    s->candidates = room(sorted, vocab, sizeof *s->candidates, &enough);
    s->sorting = room(sorted, vocab, sizeof *s->sorting, &enough);
    if (s->bias) {
        memcpy(s->bias, o->logit_bias, o->logit_bias_count * sizeof *s->bias);
        s->bias_count = o->logit_bias_count;
    }
    return enough;
}

fathom_status sampler_init(sampler *s, const fathom_generate_options *o, int64_t vocab, fathom_error *err)
{
    *s = (sampler){0};
    TRY(check(o, vocab, err));
    *s = (sampler){.temperature = o->temperature, .top_p = o->top_p, .min_p = o->min_p, .top_k = o->top_k, .seed = o->seed,
                   .presence = o->presence_penalty, .frequency = o->frequency_penalty, .vocab = vocab};
    if (allocate(s, o))
        return FATHOM_OK;
    sampler_free(s);
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
}

void sampler_free(sampler *s)
{
    free(s->bias);
    free(s->seen);
    free(s->probability);
    free(s->mass);
    free(s->candidates);
    free(s->sorting);
    *s = (sampler){0};
}

/* --- biases and penalties --- */

/* The logits to choose from: those given, or in s->probability those with biases and penalties. */
static const float *adjusted(const sampler *s, const float *logits)
{
    if (s->bias_count == 0 && s->seen_count == 0)
        return logits;
    float *out = s->probability;
    memcpy(out, logits, (size_t)s->vocab * sizeof *out);
    for (size_t i = 0; i < s->bias_count; i++)
        out[s->bias[i].id] += s->bias[i].bias;
    for (int64_t i = 0; i < s->seen_count; i++)
        out[s->seen[i].id] -= s->presence + s->frequency * (float)s->seen[i].times;
    return out;
}

static void count_seen(sampler *s, int32_t id)
{
    int64_t i = 0;
    while (i < s->seen_count && s->seen[i].id != id)
        i++;
    s->seen_count += i == s->seen_count;
    s->seen[i].id = id;
    s->seen[i].times++;
}

/* --- the likeliest --- */

static uint32_t bits_of(float probability)
{
    uint32_t bits;
    memcpy(&bits, &probability, sizeof bits);
    return bits;
}

static float of_bits(uint32_t bits)
{
    float probability;
    memcpy(&probability, &bits, sizeof probability);
    return probability;
}

/* A probability above 0 that k or more have, or all that are above 0, and few more: bisection over the floats, whose bits are in their order. */
static float cutoff_of_count(const sampler *s, int64_t k)
{
    enum { FEW = 512 };
    uint32_t low = 1, high = bits_of(1) + 1; /* low is low enough, high too high */
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        const int64_t count = logits_count(s->probability, s->vocab, of_bits(middle));
        if (count < k)
            high = middle;
        else
            low = middle;
        if (count >= k && count <= k + FEW)
            break;
    }
    return of_bits(low);
}

/* All that are below it have less than the share 1 - top_p together. */
static float cutoff_of_mass(const sampler *s, double sum)
{
    const double rounding = 0.999;
    return (float)(rounding * (1 - (double)s->top_p) * sum / (double)s->vocab);
}

/* Likeliest first; stable, so that ties stay in the order of ids: radix sort by the bits that numbers in [0, 1] have. */
static void sort_candidates(sampler *s, int64_t n)
{
    for (int shift = 0; shift < 3 * DIGIT_BITS; shift += DIGIT_BITS) {
        int64_t begin[DIGITS] = {0}, at = 0;
        for (int64_t i = 0; i < n; i++)
            begin[bits_of(s->candidates[i].probability) >> shift & (DIGITS - 1)]++;
        for (int digit = DIGITS - 1; digit >= 0; digit--) {
            const int64_t count = begin[digit];
            begin[digit] = at;
            at += count;
        }
        for (int64_t i = 0; i < n; i++)
            s->sorting[begin[bits_of(s->candidates[i].probability) >> shift & (DIGITS - 1)]++] = s->candidates[i];
        sampler_candidate *sorted = s->sorting;
        s->sorting = s->candidates;
        s->candidates = sorted;
    }
}

/* The candidates at or above a cut-off, likeliest first; returns their number. */
static int64_t gather(sampler *s, float cutoff)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->vocab; i++) { /* written in any case: no branch to be mispredicted */
        s->candidates[n] = (sampler_candidate){(int32_t)i, s->probability[i]};
        n += s->probability[i] >= cutoff;
    }
    sort_candidates(s, n);
    return n;
}

/* Candidates that survive top-k and top-p, likeliest first. */
static int64_t keep_likeliest(sampler *s, double sum)
{
    const int64_t n = gather(s, s->top_k > 0 ? cutoff_of_count(s, s->top_k) : cutoff_of_mass(s, sum));
    const int64_t most = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    if (s->top_p >= 1)
        return most;
    double mass = 0, wanted = 0;
    for (int64_t i = 0; i < most; i++)
        wanted += (double)s->candidates[i].probability;
    wanted = (s->top_k > 0 ? wanted : sum) * (double)s->top_p;
    for (int64_t i = 0; i < most; i++) {
        mass += (double)s->candidates[i].probability;
        if (mass >= wanted)
            return i + 1;
    }
    return most;
}

/* --- the draw --- */

static int32_t draw_candidate(const sampler *s, int64_t n, double uniform)
{
    double kept = 0; /* the likeliest has probability 1 here, so min_p is an absolute floor */
    while (n > 0 && s->candidates[n - 1].probability < s->min_p)
        n--;
    for (int64_t i = 0; i < n; i++)
        kept += (double)s->candidates[i].probability;
    double left = uniform * kept;
    for (int64_t i = 0; i + 1 < n; i++) {
        left -= (double)s->candidates[i].probability;
        if (left < 0)
            return s->candidates[i].id;
    }
    return s->candidates[n - 1].id;
}

/* In the order of ids: whole blocks are passed over. */
static int32_t draw_any(const sampler *s, int32_t best, double uniform, double sum)
{
    const int64_t blocks = (s->vocab + BLOCK - 1) / BLOCK;
    int64_t block = 0;
    double left = uniform * sum;
    while (block + 1 < blocks && left >= s->mass[block])
        left -= s->mass[block++];
    int32_t chosen = best;
    const int64_t end = block + 1 < blocks ? (block + 1) * BLOCK : s->vocab;
    for (int64_t i = block * BLOCK; i < end && left >= 0; i++) {
        chosen = s->probability[i] > 0 ? (int32_t)i : chosen;
        left -= (double)s->probability[i];
    }
    return chosen;
}

static int32_t draw(sampler *s, const float *logits, int32_t best, double uniform)
{
    double sum = 0;
    logits_exp(logits, s->vocab, logits[best], s->temperature, sorts(s) ? 0 : s->min_p, s->probability);
    for (int64_t i = 0; i < s->vocab; i += BLOCK)
        sum += s->mass[i / BLOCK] = logits_sum(s->probability + i, s->vocab - i < BLOCK ? s->vocab - i : BLOCK);
    return sorts(s) ? draw_candidate(s, keep_likeliest(s, sum), uniform) : draw_any(s, best, uniform, sum);
}

int32_t sampler_next(sampler *s, const float *logits)
{
    const float *from = adjusted(s, logits);
    const int32_t best = logits_largest(from, s->vocab);
    const uint64_t number = s->draws++;
    const bool greedy = s->temperature == 0 || !isfinite(from[best]);
    const int32_t chosen = greedy ? best : draw(s, from, best, rng_uniform(s->seed, RNG_SAMPLE, number));
    if (s->seen)
        count_seen(s, chosen);
    return chosen;
}
