/* The whole model: embedding -> [block | router -> gather -> block -> scatter] x L -> norm -> head -> loss, and back.
 *
 * A workspace holds every buffer of a pass, planned before the first one; a pass allocates nothing. One code runs training
 * (each layer keeps its activations), evaluation in both routings, and inference with a cache (one set of activations
 * serves all layers). */
#ifndef FATHOM_MODEL_TRANSFORMER_H
#define FATHOM_MODEL_TRANSFORMER_H

#include "model/block.h"
#include "model/model.h"
#include "model/router.h"

typedef enum routing {
    ROUTING_TOPK,   /* as trained, looks ahead */
    ROUTING_CAUSAL, /* as sampling does */
} routing;

typedef struct workspace workspace;

typedef enum workspace_kind {
    WORKSPACE_FORWARD = 0,   /* loss, and inference with a cache */
    WORKSPACE_TRAIN = 1,     /* backward too, on exactly B x T; routing is top-k only */
    WORKSPACE_RECOMPUTE = 2, /* the same keeping only each block's input: its forward pass is run again in the backward one */
    WORKSPACE_WIDE = 4,      /* with one of the last two: room for every token in routed blocks too (train_input.widen) */
} workspace_kind;

/* Room for passes of up to B sequences of up to T tokens (T <= seq_len). m is borrowed. */
fathom_status workspace_new(const model *m, int64_t B, int64_t T, workspace_kind kind, workspace **out, fathom_error *err);
void workspace_free(workspace *ws);
/* Bytes a workspace takes, without making one. */
size_t workspace_bytes(const model *m, int64_t B, int64_t T, workspace_kind kind);

typedef struct pass_result {
    double loss_sum;   /* of the language model, nats, over `targets` targets */
    int64_t targets;
    double aux_loss;   /* sum over routed stages and layers with experts: the causal rule's mean cross-entropy, or the balancing loss */
    int64_t agreed, decided; /* (token, routed stage) or (token, expert) pairs on which the causal rule agrees with top-k, or that
                                were not dropped; pairs judged */
    int64_t dropped;         /* token-choice: pairs that chose the block, or the expert, and found it full */
    int64_t routed, routable; /* pairs that went through the block, or to an expert that is no no-op; pairs there were */
    double flops;      /* of the forward pass as it was done */
} pass_result;

/* Forward and backward on a batch of exactly the workspace's B x T. tokens, targets: host [B, T]; a target < 0 is not
 * counted. Gradients of scale x (mean cross-entropy over all targets of the step, total_targets, + weighted causal-rule
 * losses) are added to grads. noise_counter: any number that differs from step to step. */
typedef struct train_input {
    const int32_t *tokens, *targets;
    int64_t total_targets; /* of the whole step, all accumulated batches */
    float scale;           /* of the causal-rule losses: 1 / accumulated batches */
    uint64_t seed, noise_counter;
    double widen; /* of the capacity, 0 to 1: model_widened_tokens; needs WORKSPACE_WIDE unless 0 */
} train_input;
pass_result transformer_train(workspace *ws, const model_params *grads, const train_input *in);

/* Forward only on B x T (up to the workspace's, which must not be one for training if r is causal). score_rule: in top-k
 * routing, judge the causal rule as well. first_row: how many rows came before in the same text, from which stochastic routing draws, so
 * that every window has noise of its own, however many are read at once. */
pass_result transformer_loss(workspace *ws, routing r, bool score_rule, int64_t first_row, int64_t B, int64_t T, const int32_t *tokens,
                             const int32_t *targets);

/* The losses of the first n rows [B, T] of the last pass that had targets, into host [n]. */
void workspace_token_losses(const workspace *ws, int64_t n, float *host);

/* The logits of every position of one sequence of T tokens (up to the workspace's, which must not be one for training), into
 * host [T, V]. */
void transformer_logits(workspace *ws, routing r, int64_t T, const int32_t *tokens, float *logits);

/* Causal inference of several sequences at once: each gets tokens of its own appended. */
typedef struct append_input {
    int64_t sequences;
    kv_sequence *const *sequence; /* [sequences] with room for their tokens (kv_reserve), each once */
    const int32_t *start;         /* host [sequences + 1]: sequence s gets the tokens [start[s], start[s + 1]) */
    const int32_t *tokens;        /* host */
    const float *const *threshold; /* [sequences], each [stages] or NULL; NULL: the workspace's for all */
    const int32_t *wanted;        /* host [wanted_count], ascending: the tokens whose logits are wanted */
    int64_t wanted_count;
    bool decode; /* a few tokens each: a sequence gets the same bits alone and among others */
    kv_pool *pool;
} append_input;
/* As many tokens as the workspace has room for. logits: host [wanted_count, V]. */
void transformer_append(workspace *ws, const append_input *in, float *logits, pass_result *result);

/* Sees every decision as it is made: of routed stages and, with the sum of the experts' p as logits, of layers with no-op experts. Tokens
 * that are appended to several sequences look like one of T tokens. */
typedef void (*route_visitor)(void *user, int64_t stage, const route *r, int64_t B, int64_t T);
void workspace_set_visitor(workspace *ws, route_visitor visitor, void *user);
/* What a layer's experts took in the last pass of a training workspace; NULL without experts. */
const expert_acts *workspace_experts(const workspace *ws, int64_t layer);
/* The causal rule's thresholds [stages], borrowed; NULL = the configuration's own. */
void workspace_set_thresholds(workspace *ws, const float *threshold);

#endif
