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

/* The values of the model in the folder `from`, of m's shape, into m (fp32). adds_routers: `from` is a plain model, and m's routers and
 * predictors keep their values; otherwise every tensor must be there. */
fathom_status conversion_load(model *m, const char *from, bool adds_routers, fathom_error *err);
/* Starts the routers from up to `tokens` tokens of text, as many windows at a time as `batch`. mean, deviation: of the logits that
 * they then give, over all routers; NaN where there is none to start. */
fathom_status conversion_start_routers(model *m, const corpus_part *text, int64_t tokens, int64_t batch, double *mean, double *deviation,
                                       fathom_error *err);

#endif
