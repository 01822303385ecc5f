/* The shape of a model: everything that fixes its parameters and its mathematics. A plain value: copy it freely.
 *
 * Names used everywhere: B sequences of T tokens; V vocabulary, d width, L layers, h heads, h_kv key/value heads,
 * d_h head width, f MLP width, c capacity, k = max(1, round(c T)) routed tokens a sequence; E experts, K of them a token.
 *
 * A layer runs as one stage, the block, or, where attention and MLP are routed apart (mod.unit), as two. What is decided for
 * each stage is kept by stage; with whole blocks stage and layer are the same number. */
#ifndef FATHOM_MODEL_CONFIG_H
#define FATHOM_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { MODEL_MAX_LAYERS = 256, MODEL_MAX_STAGES = 2 * MODEL_MAX_LAYERS, MODEL_MAX_BUDGETS = 16, MODEL_MAX_EXPERTS = 256, MODEL_MAX_EOS = 8 };

/* Each list: X(NAME, "text as on the command line and in config.json"). */
#define MOD_ROUTER_LIST(X) X(NONE, "none") X(TOPK, "topk") X(STOCHASTIC, "stochastic") \
    X(TOKEN_CHOICE, "token-choice")
#define MOD_GATE_LIST(X) X(RAW, "raw") X(SIGMOID, "sigmoid") X(ONE, "one")
/* choice: token-choice routing (and only it), where a token's own logit decides, in training and after.
 * noise: the causal rule of stochastic routing (and only of it), which has nothing to predict: route where fresh noise
 * passes the quantile that lets a share c through (kept as the layer's threshold). */
#define MOD_CAUSAL_LIST(X) X(PREDICTOR, "predictor") X(AUX, "aux") X(NOISE, "noise") X(CHOICE, "choice")
/* What a router decides about: the block, one half of it, or both halves, each with a router of its own. */
#define MOD_UNIT_LIST(X) X(BLOCK, "block") X(ATTN, "attn") X(MLP, "mlp") X(BOTH, "attn+mlp")
/* Mixture of experts: who chooses; with MoD, a MoD block around the experts, or no-op experts among them. */
#define EXPERT_ROUTER_LIST(X) X(TOKEN_CHOICE, "token-choice") X(EXPERT_CHOICE, "expert-choice")
#define EXPERT_MODE_LIST(X) X(STAGED, "staged") X(INTEGRATED, "integrated")
/* Whose blocks they are: Qwen2's queries, keys and values have biases, otherwise they compute the same. Text: model_type. */
#define MODEL_FAMILY_LIST(X) X(LLAMA, "llama") X(MISTRAL, "mistral") X(QWEN2, "qwen2")
/* How RoPE reaches beyond the length first trained on; see model_rope_frequency. */
#define ROPE_SCALING_LIST(X) X(NONE, "default") X(LINEAR, "linear") X(LLAMA3, "llama3")
#define CONFIG_ENUM_FAMILY(name, text) MODEL_FAMILY_##name,
#define CONFIG_ENUM_SCALING(name, text) ROPE_SCALING_##name,
#define CONFIG_ENUM_UNIT(name, text) MOD_UNIT_##name,
#define CONFIG_ENUM_EXPERT_ROUTER(name, text) EXPERT_ROUTER_##name,
#define CONFIG_ENUM_EXPERT_MODE(name, text) EXPERT_MODE_##name,
#define CONFIG_ENUM_ROUTER(name, text) MOD_ROUTER_##name,
#define CONFIG_ENUM_GATE(name, text) MOD_GATE_##name,
#define CONFIG_ENUM_CAUSAL(name, text) MOD_CAUSAL_##name,
typedef enum mod_router { MOD_ROUTER_LIST(CONFIG_ENUM_ROUTER) MOD_ROUTER_COUNT } mod_router;
typedef enum mod_gate { MOD_GATE_LIST(CONFIG_ENUM_GATE) MOD_GATE_COUNT } mod_gate;       /* g(r) = r, sigmoid(r), 1 */
typedef enum mod_causal { MOD_CAUSAL_LIST(CONFIG_ENUM_CAUSAL) MOD_CAUSAL_COUNT } mod_causal;
typedef enum mod_unit { MOD_UNIT_LIST(CONFIG_ENUM_UNIT) MOD_UNIT_COUNT } mod_unit;
typedef enum expert_router { EXPERT_ROUTER_LIST(CONFIG_ENUM_EXPERT_ROUTER) EXPERT_ROUTER_COUNT } expert_router;
typedef enum expert_mode { EXPERT_MODE_LIST(CONFIG_ENUM_EXPERT_MODE) EXPERT_MODE_COUNT } expert_mode;

typedef enum model_family { MODEL_FAMILY_LIST(CONFIG_ENUM_FAMILY) MODEL_FAMILY_COUNT } model_family;
typedef enum rope_scaling { ROPE_SCALING_LIST(CONFIG_ENUM_SCALING) ROPE_SCALING_COUNT } rope_scaling;

typedef struct model_config {
    model_family family;
    int64_t vocab, dim, layers, heads, kv_heads, head_dim, ffn;
    int64_t seq_len; /* T of training and the longest sequence (max_position_embeddings) */
    float rope_theta, norm_eps;
    struct {
        rope_scaling kind;
        float factor;         /* linear, llama3; the rest is llama3's */
        float low_freq_factor, high_freq_factor;
        int64_t original;     /* original_max_position_embeddings */
    } scaling;
    bool tied;                /* the head is the embedding's transpose */
    int32_t bos_id;           /* -1: none */
    int32_t eos_id[MODEL_MAX_EOS]; /* [eos_count] each ends a text */
    int64_t eos_count;
    struct {
        mod_router router;    /* NONE for a plain model */
        mod_gate gate;
        mod_causal causal;
        float aux_weight;     /* lambda of the aux cross-entropy, or of token-choice's balancing loss */
        int64_t predictor_hidden; /* p */
        mod_unit unit;
        bool dense_kv;        /* only queries are routed: keys and values are those of every token */
        float capacity[MODEL_MAX_STAGES];  /* per stage; 0 = every token */
        float threshold[MODEL_MAX_STAGES]; /* per stage: causal rule routes where its logit > threshold */
        int64_t budgets;                   /* calibrated compute budgets, see budget.h; 0 = not calibrated */
        float budget[MODEL_MAX_BUDGETS];   /* ascending, in (0, 1) */
        float budget_threshold[MODEL_MAX_BUDGETS][MODEL_MAX_STAGES];
    } mod;
    struct {
        int64_t count;        /* E; 0 = a dense MLP */
        int64_t per_token;    /* K */
        expert_router router;
        expert_mode mode;
        int64_t no_ops;       /* N of a routed layer, integrated mode */
        int64_t predictor_hidden; /* of expert-choice's causal rule */
        float balance_weight; /* of token-choice's balancing loss */
    } experts;
} model_config;

const char *model_family_name(model_family f);
const char *rope_scaling_name(rope_scaling s);
const char *mod_router_name(mod_router r);
const char *mod_gate_name(mod_gate g);
const char *mod_causal_name(mod_causal c);
const char *mod_unit_name(mod_unit u);
const char *expert_router_name(expert_router r);
const char *expert_mode_name(expert_mode m);
/* From text; false when there is no such name. */
bool model_family_parse(const char *text, model_family *out);
bool rope_scaling_parse(const char *text, rope_scaling *out);
bool mod_router_parse(const char *text, mod_router *out);
bool mod_gate_parse(const char *text, mod_gate *out);
bool mod_causal_parse(const char *text, mod_causal *out);
bool mod_unit_parse(const char *text, mod_unit *out);
bool expert_router_parse(const char *text, expert_router *out);
bool expert_mode_parse(const char *text, expert_mode *out);

/* Defaults of a small byte model, plain. */
model_config model_config_default(void);
/* Heads of 64 dimensions from width 512, else of 32, of 16 where that does not divide it, or one; an MLP of 8/3 d, rounded up to 32. */
int64_t model_default_heads(int64_t dim);
int64_t model_default_ffn(int64_t dim);
/* z with P(noise > z) = c for a standard normal: stochastic routing's threshold. */
float mod_noise_threshold(double c);
/* Every size positive and bounded, heads dividing, capacities in (0, 1] on routed layers ... The message names the
 * field (its config.json name) and the value. */
fathom_status model_config_check(const model_config *c, fathom_error *err);
/* head_dim = dim / heads; refused when that is not whole. */
fathom_status model_config_set_head_dim(model_config *c, fathom_error *err);

/* The same model: same parameters, same mathematics. Routing fields of a plain model do not count, nor does calibration. */
bool model_config_equal(const model_config *a, const model_config *b);

/* Is the token one of those that end a text? */
bool model_ends_text(const model_config *c, int32_t id);

/* What runs in a stage of a layer. */
typedef struct model_stage {
    int64_t layer;
    bool attention, mlp;
} model_stage;
int64_t model_stages(const model_config *c);
model_stage model_stage_at(const model_config *c, int64_t stage);

/* May tokens pass the stage by: in whole (routed), or by no-op experts? */
static inline bool model_stage_skips(const model_config *c, int64_t stage)
{
    return c->mod.router != MOD_ROUTER_NONE && c->mod.capacity[stage] > 0;
}
static inline bool model_stage_routed(const model_config *c, int64_t stage)
{
    return model_stage_skips(c, stage) && c->experts.mode != EXPERT_MODE_INTEGRATED;
}
/* Are keys and values those of every row, and the queries fewer? */
static inline bool model_stage_dense(const model_config *c, int64_t stage)
{
    return c->mod.dense_kv && model_stage_routed(c, stage) && model_stage_at(c, stage).attention;
}
int64_t model_skipping_stages(const model_config *c);
int64_t model_routed_stages(const model_config *c);
/* Layers that have a skipping stage. */
int64_t model_routed_layers(const model_config *c);
/* No-op experts of a layer, which is its one stage then: integrated mode routes no halves apart. */
static inline int64_t model_layer_no_ops(const model_config *c, int64_t layer)
{
    return c->experts.mode == EXPERT_MODE_INTEGRATED && model_stage_skips(c, layer) ? c->experts.no_ops : 0;
}
/* Is sampling routed as training is: nothing looks ahead, nothing is dropped? */
bool model_causal_as_trained(const model_config *c);
/* k of a routed stage for a sequence of T tokens: max(1, round(c T)), at most T. */
int64_t model_routed_tokens(const model_config *c, int64_t stage, int64_t T);
/* The same with the capacity widened, for warm-up: c + widen (1 - c). */
int64_t model_widened_tokens(const model_config *c, int64_t stage, int64_t T, double widen);
/* Tokens that one expert takes, at most, of m tokens of a sequence: expert-choice's k_e, token-choice's limit (m where it drops
 * none). */
int64_t model_expert_tokens(const model_config *c, int64_t layer, int64_t m);
/* (token, expert) rows of a layer's experts, at most, when B sequences of m tokens each are routed as in training. */
int64_t model_expert_rows(const model_config *c, int64_t layer, int64_t B, int64_t m);
/* Does the stage have a router matrix (topk, token-choice)? A predictor? */
static inline bool model_stage_has_router(const model_config *c, int64_t stage)
{
    return model_stage_routed(c, stage) && c->mod.router != MOD_ROUTER_STOCHASTIC;
}
static inline bool model_stage_has_predictor(const model_config *c, int64_t stage)
{
    return model_stage_has_router(c, stage) && c->mod.causal == MOD_CAUSAL_PREDICTOR;
}
static inline bool model_has_qkv_bias(const model_config *c)
{
    return c->family == MODEL_FAMILY_QWEN2;
}
/* Of the pair (j, j + d_h/2): the angle that a step in position turns it by, theta^(-2j/d_h) scaled. */
double model_rope_frequency(const model_config *c, int64_t j);
static inline bool model_has_expert_predictor(const model_config *c)
{
    return c->experts.count > 0 && c->experts.router == EXPERT_ROUTER_EXPERT_CHOICE;
}

#endif
