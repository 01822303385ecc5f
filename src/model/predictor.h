/* The causal rule that is a small network of its own: logits = fc2(silu(fc1(x) + b1)) + b2, one output for a router of blocks, E for
 * experts. It reads x as a constant, so that its whole gradient is found as soon as the loss is. */
#ifndef FATHOM_MODEL_PREDICTOR_H
#define FATHOM_MODEL_PREDICTOR_H

#include "base/arena.h"
#include "model/env.h"
#include "model/params.h"

/* A network of `outputs` logits from d inputs through `hidden`. */
typedef struct predictor_shape {
    int64_t hidden, outputs;
} predictor_shape;

/* Room, shared by all layers. */
typedef struct predictor_temps {
    float *pre, *hidden, *dhidden; /* [n, p]; dhidden NULL unless training */
    float *dlogit;                 /* [outputs, n]; NULL unless training */
} predictor_temps;

void predictor_temps_plan(const predictor_shape *shape, arena *a, int64_t n, bool train, predictor_temps *out);
/* logit [outputs, n] from x [n, d] */
void predictor_forward(const model_env *env, const predictor_shape *shape, const router_params *p, weight fc1, const float *x, int64_t n,
                       const predictor_temps *t, float *logit);
/* After predictor_forward: from t->dlogit adds to the gradients g. */
void predictor_backward(const model_env *env, const predictor_shape *shape, const router_params *p, const router_params *g,
                        const float *x, int64_t n, const predictor_temps *t);

#endif
