/* What was routed: which tokens went through which block, with which weight, and what each token cost. */
#ifndef FATHOM_INSPECT_TRACE_H
#define FATHOM_INSPECT_TRACE_H

#include "model/transformer.h"

/* One routed stage, or layer with no-op experts, on all tokens. */
typedef struct trace_layer {
    int64_t stage, layer;
    const char *part; /* "attn" or "mlp" where they are routed apart, else "" */
    uint8_t *routed; /* [count] went through the block */
    float *weight;   /* [count] g(r), by which the update is multiplied, for every token, routed or not; integrated experts: the
                        sum of the chosen ones' */
    float *rule;     /* [count] the causal rule's logit less its threshold: in causal routing, or where scored */
    int64_t selected;
} trace_layer;

typedef struct trace {
    int64_t count;   /* tokens */
    int64_t layers;  /* that may be passed by */
    routing routing;
    bool scored;     /* top-k routing beside a causal rule that learns: `rule` holds what that would have chosen */
    trace_layer *layer; /* [layers] ascending */
    float *loss;     /* [count] nats of token i given the tokens before it in its window; NaN for the first of a window */
    double mean_loss; /* over the tokens that have one; NaN when none has */
} trace;

/* Runs tokens [count] through m in windows of the model's seq_len, each on its own. threshold: of causal routing, [stages]; NULL = the
 * model's own. *out is the caller's: trace_free. Refused: no tokens, a plain model, ids outside the vocabulary. */
fathom_status trace_run(const model *m, routing r, const float *threshold, const int32_t *tokens, int64_t count, trace *out,
                        fathom_error *err);
void trace_free(trace *t);
/* Blocks that token i went through, of t->layers. */
int64_t trace_depth(const trace *t, int64_t i);

#endif
