/* The one place that counts FLOPs, for the trainer's budget, `fathom flops`, the bench and the studies: 2 for a
 * multiply-add in the forward pass, backward = 2 x forward. Norms, activations and softmax are not counted. */
#ifndef FATHOM_MODEL_FLOPS_H
#define FATHOM_MODEL_FLOPS_H

#include "model/config.h"

/* A block on n rows with `pairs` visible (query, key) pairs; n (n + 1) / 2 for one sequence of n rows:
 * 2 n (d (h + 2 h_kv) d_h + h d_h d + 3 d f) + 4 pairs h d_h. */
double flops_block(const model_config *c, double n, double pairs);
/* What decides the routing of T tokens of a routed layer: the router 2 T d, and where causal the predictor
 * 2 T (d p + p). 0 for a plain layer. */
double flops_routing(const model_config *c, int64_t layer, int64_t T, bool causal);
/* The head on T rows: 2 T d V. */
double flops_head(const model_config *c, int64_t T);
/* Forward pass of one sequence of T tokens, k routed tokens in each routed layer, causal rule included where `causal`
 * (training computes it too). */
double flops_forward(const model_config *c, int64_t T, bool causal);
/* One training step on B sequences: 3 x B x flops_forward(c, T, true). */
double flops_train(const model_config *c, int64_t B, int64_t T);
/* The same model without routing. */
model_config model_config_plain(const model_config *c);

#endif
