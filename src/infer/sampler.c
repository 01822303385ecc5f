/* Choosing the next token: see sampler.h. */
#include "infer/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"

fathom_status sampler_init(sampler *s, const fathom_generate_options *o, int64_t vocab, fathom_error *err)
{
    *s = (sampler){0};
    if (!(o->temperature >= 0) || !isfinite(o->temperature))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "temperature: %g: must be 0 (greedy) or above", (double)o->temperature);
    if (o->top_k < 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "top_k: %d: must be 0 (off) or above", (int)o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "top_p: %g: must be in (0, 1]", (double)o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "min_p: %g: must be in [0, 1]", (double)o->min_p);
    *s = (sampler){.temperature = o->temperature, .top_p = o->top_p, .min_p = o->min_p, .top_k = o->top_k,
                   .seed = o->seed, .vocab = vocab};
    s->candidates = calloc((size_t)vocab, sizeof *s->candidates);
    return s->candidates ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
}

void sampler_free(sampler *s)
{
    free(s->candidates);
    *s = (sampler){0};
}

static int32_t largest(const float *logits, int64_t n)
{
    int32_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i])))
            best = (int32_t)i;
    return best;
}

static int by_probability(const void *a, const void *b)
{
    const sampler_candidate *x = a, *y = b;
    if (x->probability != y->probability)
        return x->probability < y->probability ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Candidates that survive top-k and top-p, likeliest first. */
static int64_t keep_likeliest(const sampler *s, double sum)
{
    qsort(s->candidates, (size_t)s->vocab, sizeof *s->candidates, by_probability);
    int64_t n = s->top_k > 0 && s->top_k < s->vocab ? s->top_k : s->vocab;
    if (s->top_p >= 1)
        return n;
    double mass = 0, wanted = 0;
    for (int64_t i = 0; i < n; i++)
        wanted += (double)s->candidates[i].probability;
    wanted = (s->top_k > 0 ? wanted : sum) * (double)s->top_p;
    for (int64_t i = 0; i < n; i++) {
        mass += (double)s->candidates[i].probability;
        if (mass >= wanted)
            return i + 1;
    }
    return n;
}

int32_t sampler_next(sampler *s, const float *logits)
{
    const int32_t best = largest(logits, s->vocab);
    const uint64_t draw = s->draws++;
    if (s->temperature == 0 || !isfinite(logits[best]))
        return best;
    double sum = 0;
    for (int64_t i = 0; i < s->vocab; i++) {
        const float p = expf((logits[i] - logits[best]) / s->temperature);
        s->candidates[i] = (sampler_candidate){(int32_t)i, p > 0 ? p : 0};
        sum += (double)s->candidates[i].probability;
    }
    const int64_t n = s->top_k > 0 || s->top_p < 1 ? keep_likeliest(s, sum) : s->vocab;
    double kept = 0; /* the likeliest has probability 1 here, so min_p is an absolute floor */
    for (int64_t i = 0; i < n; i++)
        kept += s->candidates[i].probability >= s->min_p ? (double)s->candidates[i].probability : 0;
    double left = rng_uniform(s->seed, RNG_SAMPLE, draw) * kept;
    int32_t chosen = best;
    for (int64_t i = 0; i < n; i++) {
        if (s->candidates[i].probability < s->min_p || s->candidates[i].probability == 0)
            continue;
        chosen = s->candidates[i].id;
        left -= (double)s->candidates[i].probability;
        if (left < 0)
            break;
    }
    return chosen;
}
