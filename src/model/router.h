/* Which tokens go through a routed block: both decisions side by side.
 *
 *   router_topk    as trained: per sequence the k largest logits. It looks at the whole sequence, so it is NOT causal.
 *   router_choice  as trained with token-choice: each token by its own logit, of those that choose the block the first k of a
 *                  sequence; the rest are dropped, which sampling, without a limit, does not do.
 *   router_causal  when sampling: each token on its own, where the causal rule's logit passes the layer's threshold:
 *                  the predictor's, the router's own (aux, choice), or noise (stochastic routing).
 *
 * router_learn trains the causal rule towards membership in the top-k. The predictor reads the stream as a constant, so
 * its whole gradient is found during the forward pass; the aux loss leaves dlogit for the backward pass. */
#ifndef FATHOM_MODEL_ROUTER_H
#define FATHOM_MODEL_ROUTER_H

#include "model/predictor.h"

/* A routed stage's decision on B sequences of T tokens. */
typedef struct route {
    float *logit;      /* [B, T] router logits r; noise for stochastic routing */
    float *rule;       /* [B, T] logits of the causal rule */
    uint8_t *member;   /* [B, T] chosen by top-k */
    int32_t *index;    /* [n] rows of the stream that were chosen */
    int32_t *position; /* [n] their positions */
    int32_t *start;    /* host [B + 1] */
    const float *x;    /* what it was decided on: the stream [B, T, d], for as long as a visitor looks */
    float *dlogit;     /* [B, T] gradient of the aux or balancing loss; NULL unless training with it */
    int64_t n;
    int64_t dropped;   /* token-choice: tokens that chose the block and found it full */
} route;

typedef struct router_input {
    int64_t stage, B, T;     /* B sequences of T tokens */
    const int32_t *start;    /* host [B + 1]: sequence b has the rows [start[b], start[b+1]); causal routing needs no T */
    double widen;            /* topk: of the capacity, see model_widened_tokens */
    const float *x;          /* the stream [B, T, d] */
    const int32_t *position; /* [B, T] */
    const int32_t *host_position; /* host [B, T]; NULL unless tokens are appended to sequences */
    const float *thresholds; /* causal: host [B], each sequence's; NULL = env's */
    uint64_t noise_seed, noise_counter; /* stochastic: token i draws counter + i; appended: its position */
} router_input;

typedef struct router_score {
    double loss;     /* mean cross-entropy of the causal rule, unweighted */
    int64_t agreed;  /* of B T tokens: rule > threshold as top-k decided */
} router_score;

void route_plan(const model_config *c, arena *a, int64_t tokens, int64_t chosen, bool train, route *out);
/* The shape of the stages' predictors; none where hidden is 0. */
predictor_shape router_predictor(const model_config *c);

void router_topk(const model_env *env, const router_params *p, const router_input *in, route *out);
void router_choice(const model_env *env, const router_params *p, const router_input *in, route *out);
void router_causal(const model_env *env, const router_params *p, weight fc1, const router_input *in, const predictor_temps *t,
                   route *out);
/* After router_choice: the balancing loss, with g NULL only scored. Its agreement is that of training with sampling: all but
 * the dropped. */
router_score router_balance(const model_env *env, const router_params *p, const router_params *g, const router_input *in, float scale,
                            route *r);
/* After router_topk: the causal rule's logits against membership. g NULL: score only; otherwise gradients, scaled. Not for
 * stochastic routing. */
router_score router_learn(const model_env *env, const router_params *p, weight fc1, const router_params *g, const router_input *in,
                          const predictor_temps *t, float scale, route *r);
/* The gate for scatter_args: whether it uses the logits. */
const float *router_gate_logits(const model_config *c, const route *r);

#endif
