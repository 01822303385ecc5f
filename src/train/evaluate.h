/* Loss on held-out text in either routing: in the trainer, the eval command and the studies. */
#ifndef FATHOM_TRAIN_EVALUATE_H
#define FATHOM_TRAIN_EVALUATE_H

#include "model/transformer.h"
#include "text/batch.h"

typedef struct evaluation {
    double loss;              /* nats per token */
    int64_t tokens;           /* predicted */
    int64_t bytes;            /* of text that these stand for; 0 without the evaluator's tokenizer */
    double routed_fraction;   /* of (token, router) pairs, or layers with no-op experts; 1 where no token passes anything by */
    double flops_per_token;   /* of the forward pass, as it was done */
    double router_accuracy;   /* share of (token, router or expert) pairs on which the causal rule agrees; NaN when there is none */
} evaluation;

/* Room for B windows of b->T tokens, reused from call to call. */
typedef struct evaluator {
    workspace *ws;
    const tokenizer *tokenizer; /* counts bytes; NULL: nobody asked */
    int64_t B, T;
    int32_t *tokens, *targets; /* [B, T] */
} evaluator;

fathom_status evaluator_init(evaluator *e, const model *m, int64_t B, int64_t T, fathom_error *err);
void evaluator_free(evaluator *e);
/* Up to max_tokens tokens (0 = all), in windows spread evenly over the text. Fails where the batcher does. */
fathom_status evaluator_run(evaluator *e, const batcher *b, routing r, int64_t max_tokens, evaluation *out, fathom_error *err);

#endif
