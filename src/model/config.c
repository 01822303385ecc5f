/* The shape of a model: see config.h. What model_config_check lets through fits the arithmetic of what follows: the
 * model's parameters, counted in bytes, fit int64_t. */
#include "model/config.h"

#include <math.h>
#include <string.h>

enum {
    MAX_WIDTH = 1 << 20, /* d, f, h d_h, p */
    MAX_HEADS = 1 << 16,
    MAX_VOCAB = 1 << 24,
    MAX_SEQ_LEN = 1 << 24,
};

#define NAME_OF(name, text) text,
static const char *const router_names[] = {MOD_ROUTER_LIST(NAME_OF)};
static const char *const gate_names[] = {MOD_GATE_LIST(NAME_OF)};
static const char *const causal_names[] = {MOD_CAUSAL_LIST(NAME_OF)};
#undef NAME_OF

/* The index of text; -1 when it is not there. */
static int find_name(const char *const *names, int count, const char *text)
{
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    return -1;
}

const char *mod_router_name(mod_router r)
{
    return router_names[r];
}

const char *mod_gate_name(mod_gate g)
{
    return gate_names[g];
}

const char *mod_causal_name(mod_causal c)
{
    return causal_names[c];
}

bool mod_router_parse(const char *text, mod_router *out)
{
    const int i = find_name(router_names, MOD_ROUTER_COUNT, text);
    if (i >= 0)
        *out = (mod_router)i;
    return i >= 0;
}

bool mod_gate_parse(const char *text, mod_gate *out)
{
    const int i = find_name(gate_names, MOD_GATE_COUNT, text);
    if (i >= 0)
        *out = (mod_gate)i;
    return i >= 0;
}

bool mod_causal_parse(const char *text, mod_causal *out)
{
    const int i = find_name(causal_names, MOD_CAUSAL_COUNT, text);
    if (i >= 0)
        *out = (mod_causal)i;
    return i >= 0;
}

model_config model_config_default(void)
{
    return (model_config){
        .vocab = 256, .dim = 128, .layers = 8, .heads = 4, .kv_heads = 4, .head_dim = 32, .ffn = 352, .seq_len = 256,
        .rope_theta = 10000, .norm_eps = 1e-5f, .tied = true, .bos_id = -1, .eos_id = -1,
        .mod = {.router = MOD_ROUTER_NONE, .gate = MOD_GATE_RAW, .causal = MOD_CAUSAL_PREDICTOR, .aux_weight = 0.01f},
    };
}

fathom_status model_config_set_head_dim(model_config *c, fathom_error *err)
{
    if (c->heads < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "num_attention_heads: %lld is not positive",
                           (long long)c->heads);
    if (c->dim % c->heads != 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT,
                           "hidden_size: %lld is not divisible by num_attention_heads %lld", (long long)c->dim,
                           (long long)c->heads);
    c->head_dim = c->dim / c->heads;
    return FATHOM_OK;
}

static fathom_status check_range(const char *field, int64_t value, int64_t low, int64_t high, fathom_error *err)
{
    if (value >= low && value <= high)
        return FATHOM_OK;
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %lld is not in [%lld, %lld]", field, (long long)value,
                       (long long)low, (long long)high);
}

static fathom_status check_positive(const char *field, float value, fathom_error *err)
{
    if (isfinite(value) && value > 0)
        return FATHOM_OK;
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %g is not a positive finite number", field, (double)value);
}

static fathom_status check_sizes(const model_config *c, fathom_error *err)
{
    TRY(check_range("vocab_size", c->vocab, 1, MAX_VOCAB, err));
    TRY(check_range("hidden_size", c->dim, 1, MAX_WIDTH, err));
    TRY(check_range("num_hidden_layers", c->layers, 1, MODEL_MAX_LAYERS, err));
    TRY(check_range("num_attention_heads", c->heads, 1, MAX_HEADS, err));
    TRY(check_range("num_key_value_heads", c->kv_heads, 1, c->heads, err));
    TRY(check_range("head_dim", c->head_dim, 2, MAX_WIDTH / c->heads, err));
    TRY(check_range("intermediate_size", c->ffn, 1, MAX_WIDTH, err));
    TRY(check_range("max_position_embeddings", c->seq_len, 1, MAX_SEQ_LEN, err));
    TRY(check_range("bos_token_id", c->bos_id, -1, c->vocab - 1, err));
    TRY(check_range("eos_token_id", c->eos_id, -1, c->vocab - 1, err));
    if (c->heads % c->kv_heads != 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT,
                           "num_attention_heads: %lld is not divisible by num_key_value_heads %lld",
                           (long long)c->heads, (long long)c->kv_heads);
    if (c->head_dim % 2 != 0) /* RoPE turns pairs */
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "head_dim: %lld is odd", (long long)c->head_dim);
    return FATHOM_OK;
}

static fathom_status check_layers(const model_config *c, fathom_error *err)
{
    for (int64_t l = 0; l < c->layers; l++) {
        const float capacity = c->mod.capacity[l], threshold = c->mod.threshold[l];
        if (capacity != 0 && !(capacity > 0 && capacity <= 1))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.capacity: %g of layer %lld is not in (0, 1]",
                               (double)capacity, (long long)l);
        if (capacity != 0 && c->mod.router == MOD_ROUTER_NONE)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.capacity: %g of layer %lld, but mod.router is none",
                               (double)capacity, (long long)l);
        if (!isfinite(threshold))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.threshold: %g of layer %lld is not finite",
                               (double)threshold, (long long)l);
    }
    return FATHOM_OK;
}

static fathom_status check_budgets(const model_config *c, fathom_error *err)
{
    TRY(check_range("mod.budgets", c->mod.budgets, 0, MODEL_MAX_BUDGETS, err));
    for (int64_t i = 0; i < c->mod.budgets; i++) {
        const float budget = c->mod.budget[i];
        if (!(budget > (i ? c->mod.budget[i - 1] : 0) && budget < 1))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.calibration.budgets: %g is not in (0, 1) or not ascending",
                               (double)budget);
        for (int64_t l = 0; l < c->layers; l++)
            if (!isfinite(c->mod.budget_threshold[i][l]))
                return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.calibration.thresholds: %g of layer %lld is not finite",
                                   (double)c->mod.budget_threshold[i][l], (long long)l);
    }
    return FATHOM_OK;
}

static fathom_status check_mod(const model_config *c, fathom_error *err)
{
    TRY(check_range("mod.router", c->mod.router, 0, MOD_ROUTER_COUNT - 1, err));
    TRY(check_range("mod.gate", c->mod.gate, 0, MOD_GATE_COUNT - 1, err));
    TRY(check_range("mod.causal", c->mod.causal, 0, MOD_CAUSAL_COUNT - 1, err));
    TRY(check_layers(c, err));
    TRY(check_budgets(c, err));
    if (!(isfinite(c->mod.aux_weight) && c->mod.aux_weight >= 0))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.aux_weight: %g is negative or not finite",
                           (double)c->mod.aux_weight);
    TRY(check_range("mod.predictor_hidden", c->mod.predictor_hidden, 0, MAX_WIDTH, err));
    if (c->mod.router == MOD_ROUTER_NONE)
        return FATHOM_OK;
    if (model_routed_layers(c) == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.layers: no layer is routed, but mod.router is %s",
                           mod_router_name(c->mod.router));
    if ((c->mod.router == MOD_ROUTER_STOCHASTIC) != (c->mod.causal == MOD_CAUSAL_NOISE))
        return status_fail(err, FATHOM_INVALID_ARGUMENT,
                           "mod.causal: %s does not go with mod.router %s: stochastic takes noise, topk does not",
                           mod_causal_name(c->mod.causal), mod_router_name(c->mod.router));
    if ((c->mod.router == MOD_ROUTER_TOKEN_CHOICE) != (c->mod.causal == MOD_CAUSAL_CHOICE))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.causal: %s does not go with mod.router %s: token-choice takes choice",
                           mod_causal_name(c->mod.causal), mod_router_name(c->mod.router));
    for (int64_t l = 0; c->mod.router == MOD_ROUTER_TOKEN_CHOICE && l < c->layers; l++)
        if (c->mod.capacity[l] == 1)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.capacity: 1 of layer %lld: token-choice needs a share below 1",
                               (long long)l);
    if (c->mod.causal == MOD_CAUSAL_PREDICTOR)
        TRY(check_range("mod.predictor_hidden", c->mod.predictor_hidden, 1, MAX_WIDTH, err));
    return FATHOM_OK;
}

fathom_status model_config_check(const model_config *c, fathom_error *err)
{
    TRY(check_sizes(c, err));
    TRY(check_positive("rope_theta", c->rope_theta, err));
    TRY(check_positive("rms_norm_eps", c->norm_eps, err));
    return check_mod(c, err);
}

int64_t model_routed_layers(const model_config *c)
{
    int64_t count = 0;
    for (int64_t l = 0; l < c->layers; l++)
        count += model_layer_routed(c, l);
    return count;
}

int64_t model_routed_tokens(const model_config *c, int64_t layer, int64_t T)
{
    const int64_t k = llround((double)c->mod.capacity[layer] * (double)T);
    return k < 1 ? 1 : k > T ? T : k;
}

bool model_config_equal(const model_config *a, const model_config *b)
{
    if (a->vocab != b->vocab || a->dim != b->dim || a->layers != b->layers || a->heads != b->heads ||
        a->kv_heads != b->kv_heads || a->head_dim != b->head_dim || a->ffn != b->ffn || a->seq_len != b->seq_len ||
        a->rope_theta != b->rope_theta || a->norm_eps != b->norm_eps || a->tied != b->tied || a->bos_id != b->bos_id ||
        a->eos_id != b->eos_id || a->mod.router != b->mod.router)
        return false;
    if (a->mod.router == MOD_ROUTER_NONE)
        return true;
    for (int64_t l = 0; l < a->layers; l++)
        if (a->mod.capacity[l] != b->mod.capacity[l] || a->mod.threshold[l] != b->mod.threshold[l])
            return false;
    return a->mod.gate == b->mod.gate && a->mod.causal == b->mod.causal && a->mod.aux_weight == b->mod.aux_weight &&
           a->mod.predictor_hidden == b->mod.predictor_hidden;
}
