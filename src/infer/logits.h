/* What is asked of a row of logits [n]: the largest, the exponentials of its softmax, log-probabilities. A NaN counts as -infinity. Results
 * do not depend on the processor's instruction set: sums are made in an order that is fixed here, in double. */
#ifndef FATHOM_INFER_LOGITS_H
#define FATHOM_INFER_LOGITS_H

#include <stddef.h>
#include <stdint.h>

#include "fathom.h"

/* The lowest id of the largest; 0 where all are -infinity. */
int32_t logits_largest(const float *logits, int64_t n);
/* out_i = exp((logits_i - top) / temperature) for a finite top that none exceeds; 0 where that is below `floor` or 1.7e-38. out may be logits. */
void logits_exp(const float *logits, int64_t n, float top, float temperature, float floor, float *out);
/* How many of n numbers >= 0 are `least` or more. */
int64_t logits_count(const float *values, int64_t n, float least);
double logits_sum(const float *values, int64_t n);

/* The logarithm of the softmax at `id`, and into top the likeliest min(count, n) tokens with theirs, likeliest first, ties to the lower id.
 * -infinity for a token that has no probability, and for all of them where the largest logit is not finite. top may be NULL for a count
 * of 0; O(n count) at worst, some O(n) for logits in no order. */
float logits_logprobs(const float *logits, int64_t n, int32_t id, size_t count, fathom_logprob *top);

#endif
