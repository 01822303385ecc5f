/* The shape of a model: everything that fixes its parameters and its mathematics. A plain value: copy it freely.
 *
 * Names used everywhere: B sequences of T tokens; V vocabulary, d width, L layers, h heads, h_kv key/value heads,
 * d_h head width, f MLP width, c capacity, k = max(1, round(c T)) routed tokens a sequence. */
#ifndef FATHOM_MODEL_CONFIG_H
#define FATHOM_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { MODEL_MAX_LAYERS = 256, MODEL_MAX_BUDGETS = 16 };

/* Each list: X(NAME, "text as on the command line and in config.json"). */
#define MOD_ROUTER_LIST(X) X(NONE, "none") X(TOPK, "topk") X(STOCHASTIC, "stochastic") \
    X(TOKEN_CHOICE, "token-choice")
#define MOD_GATE_LIST(X) X(RAW, "raw") X(SIGMOID, "sigmoid") X(ONE, "one")
/* choice: token-choice routing (and only it), where a token's own logit decides, in training and after.
 * noise: the causal rule of stochastic routing (and only of it), which has nothing to predict: route where fresh noise
 * passes the quantile that lets a share c through (kept as the layer's threshold). */
#define MOD_CAUSAL_LIST(X) X(PREDICTOR, "predictor") X(AUX, "aux") X(NOISE, "noise") X(CHOICE, "choice")
#define CONFIG_ENUM_ROUTER(name, text) MOD_ROUTER_##name,
#define CONFIG_ENUM_GATE(name, text) MOD_GATE_##name,
#define CONFIG_ENUM_CAUSAL(name, text) MOD_CAUSAL_##name,
typedef enum mod_router { MOD_ROUTER_LIST(CONFIG_ENUM_ROUTER) MOD_ROUTER_COUNT } mod_router;
typedef enum mod_gate { MOD_GATE_LIST(CONFIG_ENUM_GATE) MOD_GATE_COUNT } mod_gate;       /* g(r) = r, sigmoid(r), 1 */
typedef enum mod_causal { MOD_CAUSAL_LIST(CONFIG_ENUM_CAUSAL) MOD_CAUSAL_COUNT } mod_causal;

typedef struct model_config {
    int64_t vocab, dim, layers, heads, kv_heads, head_dim, ffn;
    int64_t seq_len; /* T of training and the longest sequence (max_position_embeddings) */
    float rope_theta, norm_eps;
    bool tied;                /* the head is the embedding's transpose */
    int32_t bos_id, eos_id;   /* -1: none */
    struct {
        mod_router router;    /* NONE for a plain model */
        mod_gate gate;
        mod_causal causal;
        float aux_weight;     /* lambda of the aux cross-entropy, or of token-choice's balancing loss */
        int64_t predictor_hidden; /* p */
        float capacity[MODEL_MAX_LAYERS];  /* per layer; 0 = plain block */
        float threshold[MODEL_MAX_LAYERS]; /* per layer: causal rule routes where its logit > threshold */
        int64_t budgets;                   /* calibrated compute budgets, see budget.h; 0 = not calibrated */
        float budget[MODEL_MAX_BUDGETS];   /* ascending, in (0, 1) */
        float budget_threshold[MODEL_MAX_BUDGETS][MODEL_MAX_LAYERS];
    } mod;
} model_config;

const char *mod_router_name(mod_router r);
const char *mod_gate_name(mod_gate g);
const char *mod_causal_name(mod_causal c);
/* From text; false when there is no such name. */
bool mod_router_parse(const char *text, mod_router *out);
bool mod_gate_parse(const char *text, mod_gate *out);
bool mod_causal_parse(const char *text, mod_causal *out);

/* Defaults of a small byte model, plain. */
model_config model_config_default(void);
/* Every size positive and bounded, heads dividing, capacities in (0, 1] on routed layers ... The message names the
 * field (its config.json name) and the value. */
fathom_status model_config_check(const model_config *c, fathom_error *err);
/* head_dim = dim / heads; refused when that is not whole. */
fathom_status model_config_set_head_dim(model_config *c, fathom_error *err);

/* The same model: same parameters, same mathematics. Routing fields of a plain model do not count, nor does calibration. */
bool model_config_equal(const model_config *a, const model_config *b);

static inline bool model_layer_routed(const model_config *c, int64_t layer)
{
    return c->mod.router != MOD_ROUTER_NONE && c->mod.capacity[layer] > 0;
}
int64_t model_routed_layers(const model_config *c);
/* k of a routed layer for a sequence of T tokens: max(1, round(c T)), at most T. */
int64_t model_routed_tokens(const model_config *c, int64_t layer, int64_t T);
/* Does the layer have a router matrix (topk, token-choice)? A predictor? */
static inline bool model_layer_has_router(const model_config *c, int64_t layer)
{
    return model_layer_routed(c, layer) && c->mod.router != MOD_ROUTER_STOCHASTIC;
}
static inline bool model_layer_has_predictor(const model_config *c, int64_t layer)
{
    return model_layer_has_router(c, layer) && c->mod.causal == MOD_CAUSAL_PREDICTOR;
}

#endif
