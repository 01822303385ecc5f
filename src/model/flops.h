/* The one place that counts FLOPs, for the trainer's budget, `fathom flops`, the bench and the studies: 2 for a
 * multiply-add in the forward pass, backward = 2 x forward. Norms, activations and softmax are not counted. */
#ifndef FATHOM_MODEL_FLOPS_H
#define FATHOM_MODEL_FLOPS_H

#include "model/config.h"

/* What a stage is run on. */
typedef struct stage_work {
    double n;           /* rows */
    double kv;          /* rows whose keys and values are made: n, or all of them where keys are dense */
    double pairs;       /* visible (query, key) pairs; n (n + 1) / 2 for one sequence of n rows */
    double expert_rows; /* (token, expert) pairs, where there are experts */
    double judged;      /* rows that expert-choice's predictor reads: n where it runs, or 0 */
} stage_work;
/* 2 d (n h d_h + 2 kv h_kv d_h) + 2 n h d_h d + 4 pairs h d_h of attention and 6 n d f of the MLP, which for experts is
 * 6 expert_rows d f + 2 n d (E + N) + 2 judged (d p + E p). */
double flops_stage(const model_config *c, int64_t stage, const stage_work *w);
/* What a stage is run on for one sequence of T tokens as trained, capacity widened. causal: the causal rule runs too. */
stage_work flops_stage_work(const model_config *c, int64_t stage, int64_t T, bool causal, double widen);
/* What decides the routing of T tokens of a routed stage: the router 2 T d, and where causal the predictor
 * 2 T (d p + p). 0 for a plain one. */
double flops_routing(const model_config *c, int64_t stage, int64_t T, bool causal);
/* The head on T rows: 2 T d V. */
double flops_head(const model_config *c, int64_t T);
/* Forward pass of one sequence of T tokens, k routed tokens in each routed stage, causal rule included where `causal`
 * (training computes it too). */
double flops_forward(const model_config *c, int64_t T, bool causal);
/* One training step on B sequences: 3 x B x flops_forward(c, T, true). */
double flops_train(const model_config *c, int64_t B, int64_t T);
/* The same while capacity is widened (model_widened_tokens). */
double flops_train_widened(const model_config *c, int64_t B, int64_t T, double widen);
/* The same model without routing and with a dense MLP. */
model_config model_config_plain(const model_config *c);

#endif
