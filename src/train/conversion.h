/* A trained plain model made into a Mixture-of-Depths model: its weights stay, and each new router starts where the gate is near 1
 * for every token, so that with the capacity at 1 (a warm-up's first step) the model computes what the plain one did.
 *
 * The raw gate is g(r) = r, so w_r is the ridge solution of X w = 1 over the tokens of a text, X [n, d] the stream that the router
 * reads:  w = (X^T X / n + lambda I)^-1 X^T 1 / n,  lambda 1e-4 of the mean diagonal. For the sigmoid gate X w = 4, g = 0.982. A gate of
 * one, and stochastic routing, need nothing. */
#ifndef FATHOM_TRAIN_CONVERSION_H
#define FATHOM_TRAIN_CONVERSION_H

#include "model/model.h"
#include "text/corpus.h"

/* Starts the routers from up to `tokens` tokens of text, in windows of 1,024 or, where the model takes no more, fewer tokens, as many at a time
 * as `batch`. mean, deviation: of the logits that
 * they then give, over all routers; NaN where there is none to start. */
fathom_status conversion_start_routers(model *m, const corpus_part *text, int64_t tokens, int64_t batch, double *mean, double *deviation,
                                       fathom_error *err);

#endif
