/* AdamW over the parameters and the global norm of the gradient. The state is two moments of the parameters' layout and the
 * number of updates made. */
#ifndef FATHOM_TRAIN_OPTIMIZER_H
#define FATHOM_TRAIN_OPTIMIZER_H

#include "model/model.h"

typedef struct optimizer {
    float *grads, *moment1, *moment2; /* [size], the backend's memory */
    model_params grad_views;
    int64_t updates;
} optimizer;

typedef struct optimizer_step {
    float lr, beta1, beta2, epsilon, weight_decay, clip; /* clip 0 = off */
} optimizer_step;

fathom_status optimizer_init(optimizer *o, const model *m, fathom_error *err);
void optimizer_free(optimizer *o, const model *m);
/* sqrt of the sums of squares of the gradients: of the predictors, which learn beside the model and must not touch it, and of all else. */
typedef struct grad_norms {
    double model, predictors;
} grad_norms;
grad_norms optimizer_grad_norms(const optimizer *o, const model *m);
/* Updates m's values from the gradients, predictors' and others' each scaled to norm at most clip, and clears the gradients. */
void optimizer_update(optimizer *o, model *m, const optimizer_step *s, grad_norms norms);
/* Clears the gradients without an update. */
void optimizer_skip(optimizer *o, const model *m);

#endif
