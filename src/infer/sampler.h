/* Choosing the next token from logits: biases, penalties for tokens that were chosen before, temperature, then top-k, top-p (nucleus:
 * Holtzman et al., 2019) and min-p, then one draw. A draw is a pure function of (seed, number of the draw). */
#ifndef FATHOM_INFER_SAMPLER_H
#define FATHOM_INFER_SAMPLER_H

#include "base/status.h"

typedef struct sampler_candidate {
    int32_t id;
    float probability;
} sampler_candidate;

typedef struct sampler_seen {
    int32_t id, times;
} sampler_seen;

typedef struct sampler {
    float temperature, top_p, min_p, presence, frequency;
    int32_t top_k;
    uint64_t seed, draws;
    int64_t vocab;
    fathom_logit_bias *bias; /* [bias_count] */
    size_t bias_count;
    sampler_seen *seen; /* [vocab] what was chosen so far; NULL without penalties */
    int64_t seen_count;
    float *probability; /* [vocab] relative to the likeliest one's */
    double *mass;       /* of each block of them */
    sampler_candidate *candidates, *sorting; /* [vocab]; NULL without top-k and top-p */
} sampler;

/* Copies what it needs of the options. Needs sampler_free only on success. */
fathom_status sampler_init(sampler *s, const fathom_generate_options *o, int64_t vocab, fathom_error *err);
void sampler_free(sampler *s);
/* The next token, which counts as generated from now on. Logits [vocab] that are all NaN or -inf give token 0. Ties go to the lower id.
 * Allocates nothing. */
int32_t sampler_next(sampler *s, const float *logits);

#endif
