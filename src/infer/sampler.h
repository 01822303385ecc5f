/* Choosing the next token from logits: temperature, then top-k, top-p (nucleus: Holtzman et al., 2019) and min-p, then one
 * draw. A draw is a pure function of (seed, number of the draw). */
#ifndef FATHOM_INFER_SAMPLER_H
#define FATHOM_INFER_SAMPLER_H

#include "base/status.h"

typedef struct sampler_candidate {
    int32_t id;
    float probability;
} sampler_candidate;

typedef struct sampler {
    float temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed, draws;
    int64_t vocab;
    sampler_candidate *candidates; /* [vocab] */
} sampler;

fathom_status sampler_init(sampler *s, const fathom_generate_options *o, int64_t vocab, fathom_error *err);
void sampler_free(sampler *s);
/* Logits [vocab] that are all NaN or -inf give token 0. Ties go to the lower id. */
int32_t sampler_next(sampler *s, const float *logits);

#endif
