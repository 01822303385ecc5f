/* A mixture of experts in the place of a block's MLP: MLP(y_i) = sum of p_ie MLP_e(y_i) over the experts e that were chosen for token
 * i, p_i = softmax(W_g y_i) over the E experts and, in integrated Mixture-of-Depths-and-Experts, N no-op experts that do nothing.
 *
 *   token-choice   each token its K largest p (Shazeer et al., 2017; the balancing loss is the Switch Transformer's, Fedus et al., 2021)
 *   expert-choice  each expert its largest p among a sequence's tokens (Zhou et al., 2022): NOT causal. When sampling, an expert takes
 *                  a token where its predictor's logit is positive.
 *
 * Rows are grouped by expert: an expert's products are one matrix product each, however its tokens lie. */
#ifndef FATHOM_MODEL_EXPERTS_H
#define FATHOM_MODEL_EXPERTS_H

#include "model/predictor.h"

/* What is kept of a layer's choice and, `keep`, of its experts' forward passes, expert after expert; otherwise one expert's room, of n
 * rows, serves all. */
typedef struct expert_acts {
    float *p;        /* [E + N, n] */
    int32_t *index;  /* [rows] the rows of y that each expert took, ascending */
    int64_t *start;  /* host [E + 1]: expert e has the rows [start[e], start[e + 1]) */
    int64_t *count;  /* host [E + N]: token-choice: tokens that chose each, before any was dropped */
    float *x, *gate_up, *act, *out; /* [rows, d], [rows, 2 f], [rows, f], [rows, d] */
    bool keep;
} expert_acts;

/* Room that all layers share. */
typedef struct expert_temps {
    float *chosen;   /* [E + N, n] token-choice */
    float *rule;     /* [E, n] expert-choice's causal rule */
    uint8_t *member; /* [E, n] what it should have said */
    predictor_temps predictor;
    int32_t *starts; /* host [B + 1] */
    float *value;    /* [n] */
    float *dp;       /* training: [E + N, n] */
    float *dout, *dx; /* training: [n, d] */
} expert_temps;

/* One layer's experts on n rows of `sequences` sequences, as many of each unless each token chooses for itself. */
typedef struct expert_pass {
    int64_t layer, n, sequences;
    const int32_t *start; /* host [sequences + 1] */
    bool causal;    /* choose as sampling does */
    bool score;     /* judge the causal rule, or the balance */
    float scale;    /* of their losses */
    const layer_params *grads; /* training: the predictor's gradient is added here */
    float *taken;   /* [n] or NULL: the sum of the p of real experts that took the token */
    const expert_temps *temps;
    /* out */
    double loss; /* unweighted: mean cross-entropy of the predictor, or balancing loss */
    int64_t agreed, decided; /* as in pass_result */
    int64_t dropped, rows;   /* (token, expert) pairs */
} expert_pass;

/* n rows in all; rows: (token, expert) pairs, model_expert_rows in training. start and count are the caller's to set. */
void expert_acts_plan(const model_config *c, arena *a, int64_t n, int64_t rows, bool keep, expert_acts *out);
void expert_temps_plan(const model_config *c, arena *a, int64_t n, bool train, expert_temps *out);

/* u [n, d] += the experts' output for y [n, d]. */
void experts_forward(const model_env *env, const layer_params *p, const layer_weights *w, const float *y, const expert_acts *acts,
                     expert_pass *pass, float *u);
/* From the gradient du of u: dy [n, d] is set, the parameters' gradients g are added to. narrow: room [n, f]. */
void experts_backward(const model_env *env, const layer_params *w, const layer_params *g, const float *y, const expert_acts *acts,
                      const expert_pass *pass, const float *du, float *narrow, float *dy);

#endif
