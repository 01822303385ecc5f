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
static const char *const family_names[] = {MODEL_FAMILY_LIST(NAME_OF)};
static const char *const scaling_names[] = {ROPE_SCALING_LIST(NAME_OF)};
static const char *const router_names[] = {MOD_ROUTER_LIST(NAME_OF)};
static const char *const gate_names[] = {MOD_GATE_LIST(NAME_OF)};
static const char *const causal_names[] = {MOD_CAUSAL_LIST(NAME_OF)};
static const char *const unit_names[] = {MOD_UNIT_LIST(NAME_OF)};
static const char *const expert_router_names[] = {EXPERT_ROUTER_LIST(NAME_OF)};
static const char *const expert_mode_names[] = {EXPERT_MODE_LIST(NAME_OF)};
#undef NAME_OF

/* The index of text; -1 when it is not there. */
static int find_name(const char *const *names, int count, const char *text)
{
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    return -1;
}

#define NAMES_OF(type, names, count)                     \
    const char *type##_name(type value)                  \
    {                                                    \
        return names[value];                             \
    }                                                    \
    bool type##_parse(const char *text, type *out)       \
    {                                                    \
        const int i = find_name(names, count, text);     \
        if (i >= 0)                                      \
            *out = (type)i;                              \
        return i >= 0;                                   \
    }
NAMES_OF(model_family, family_names, MODEL_FAMILY_COUNT)
NAMES_OF(rope_scaling, scaling_names, ROPE_SCALING_COUNT)
NAMES_OF(mod_router, router_names, MOD_ROUTER_COUNT)
NAMES_OF(mod_gate, gate_names, MOD_GATE_COUNT)
NAMES_OF(mod_causal, causal_names, MOD_CAUSAL_COUNT)
NAMES_OF(mod_unit, unit_names, MOD_UNIT_COUNT)
NAMES_OF(expert_router, expert_router_names, EXPERT_ROUTER_COUNT)
NAMES_OF(expert_mode, expert_mode_names, EXPERT_MODE_COUNT)
#undef NAMES_OF

model_config model_config_default(void)
{
    return (model_config){
        .vocab = 256, .dim = 128, .layers = 8, .heads = 4, .kv_heads = 4, .head_dim = 32, .ffn = 352, .seq_len = 256,
        .rope_theta = 10000, .norm_eps = 1e-5f, .tied = true, .bos_id = -1,
        .mod = {.router = MOD_ROUTER_NONE, .gate = MOD_GATE_RAW, .causal = MOD_CAUSAL_PREDICTOR, .aux_weight = 0.01f},
        .experts = {.balance_weight = 0.01f},
    };
}

int64_t model_default_heads(int64_t dim)
{
    const int64_t wide = dim >= 512 ? 64 : 32;
    return dim % wide == 0 ? dim / wide : dim % 16 == 0 ? dim / 16 : 1;
}

int64_t model_default_ffn(int64_t dim)
{
    return (8 * dim / 3 + 31) / 32 * 32;
}

float mod_noise_threshold(double c)
{
    double low = -40, high = 40; /* by bisection */
    while (high - low > 1e-9) {
        const double z = 0.5 * (low + high);
        if (0.5 * erfc(z / sqrt(2)) > c)
            low = z;
        else
            high = z;
    }
    return (float)(0.5 * (low + high));
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
    TRY(check_range("eos_token_id: how many", c->eos_count, 0, MODEL_MAX_EOS, err));
    for (int64_t i = 0; i < c->eos_count; i++)
        TRY(check_range("eos_token_id", c->eos_id[i], 0, c->vocab - 1, err));
    if (c->heads % c->kv_heads != 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT,
                           "num_attention_heads: %lld is not divisible by num_key_value_heads %lld",
                           (long long)c->heads, (long long)c->kv_heads);
    if (c->head_dim % 2 != 0) /* RoPE turns pairs */
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "head_dim: %lld is odd", (long long)c->head_dim);
    return FATHOM_OK;
}

static fathom_status check_rope(const model_config *c, fathom_error *err)
{
    TRY(check_positive("rope_theta", c->rope_theta, err));
    if (c->scaling.kind != ROPE_SCALING_NONE)
        TRY(check_positive("rope_scaling.factor", c->scaling.factor, err));
    if (c->scaling.kind != ROPE_SCALING_LLAMA3)
        return FATHOM_OK;
    TRY(check_positive("rope_scaling.low_freq_factor", c->scaling.low_freq_factor, err));
    TRY(check_positive("rope_scaling.high_freq_factor", c->scaling.high_freq_factor, err));
    if (c->scaling.high_freq_factor <= c->scaling.low_freq_factor)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "rope_scaling.high_freq_factor: %g is not above low_freq_factor %g",
                           (double)c->scaling.high_freq_factor, (double)c->scaling.low_freq_factor);
    return check_range("rope_scaling.original_max_position_embeddings", c->scaling.original, 1, MAX_SEQ_LEN, err);
}

static fathom_status check_stages(const model_config *c, fathom_error *err)
{
    for (int64_t s = 0; s < model_stages(c); s++) {
        const long long l = model_stage_at(c, s).layer;
        const float capacity = c->mod.capacity[s], threshold = c->mod.threshold[s];
        if (capacity != 0 && !(capacity > 0 && capacity <= 1))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.capacity: %g of layer %lld is not in (0, 1]",
                               (double)capacity, l);
        if (capacity != 0 && c->mod.router == MOD_ROUTER_NONE)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.capacity: %g of layer %lld, but mod.router is none",
                               (double)capacity, l);
        if (!isfinite(threshold))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.threshold: %g of layer %lld is not finite",
                               (double)threshold, l);
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
        for (int64_t s = 0; s < model_stages(c); s++)
            if (!isfinite(c->mod.budget_threshold[i][s]))
                return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.calibration.thresholds: %g of layer %lld is not finite",
                                   (double)c->mod.budget_threshold[i][s], (long long)model_stage_at(c, s).layer);
    }
    return FATHOM_OK;
}

static fathom_status check_mod(const model_config *c, fathom_error *err)
{
    TRY(check_range("mod.router", c->mod.router, 0, MOD_ROUTER_COUNT - 1, err));
    TRY(check_range("mod.gate", c->mod.gate, 0, MOD_GATE_COUNT - 1, err));
    TRY(check_range("mod.causal", c->mod.causal, 0, MOD_CAUSAL_COUNT - 1, err));
    TRY(check_range("mod.unit", c->mod.unit, 0, MOD_UNIT_COUNT - 1, err));
    TRY(check_stages(c, err));
    TRY(check_budgets(c, err));
    if (!(isfinite(c->mod.aux_weight) && c->mod.aux_weight >= 0))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.aux_weight: %g is negative or not finite",
                           (double)c->mod.aux_weight);
    TRY(check_range("mod.predictor_hidden", c->mod.predictor_hidden, 0, MAX_WIDTH, err));
    if (c->mod.router == MOD_ROUTER_NONE)
        return FATHOM_OK;
    if (model_skipping_stages(c) == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.layers: no layer is routed, but mod.router is %s",
                           mod_router_name(c->mod.router));
    if ((c->mod.router == MOD_ROUTER_STOCHASTIC) != (c->mod.causal == MOD_CAUSAL_NOISE))
        return status_fail(err, FATHOM_INVALID_ARGUMENT,
                           "mod.causal: %s does not go with mod.router %s: stochastic takes noise, topk does not",
                           mod_causal_name(c->mod.causal), mod_router_name(c->mod.router));
    if ((c->mod.router == MOD_ROUTER_TOKEN_CHOICE) != (c->mod.causal == MOD_CAUSAL_CHOICE))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.causal: %s does not go with mod.router %s: token-choice takes choice",
                           mod_causal_name(c->mod.causal), mod_router_name(c->mod.router));
    for (int64_t s = 0; c->mod.router == MOD_ROUTER_TOKEN_CHOICE && s < model_stages(c); s++)
        if (c->mod.capacity[s] == 1)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.capacity: 1 of layer %lld: token-choice needs a share below 1",
                               (long long)model_stage_at(c, s).layer);
    if (c->mod.dense_kv && c->mod.unit == MOD_UNIT_MLP)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.route_kv: false does not go with mod.unit mlp, which routes no attention");
    if (c->mod.causal == MOD_CAUSAL_PREDICTOR && model_routed_stages(c) > 0)
        TRY(check_range("mod.predictor_hidden", c->mod.predictor_hidden, 1, MAX_WIDTH, err));
    return FATHOM_OK;
}

/* One router for experts and no-op experts: what describes a router of blocks must agree, or be left alone. */
static fathom_status check_integrated(const model_config *c, fathom_error *err)
{
    const bool tokens = c->experts.router == EXPERT_ROUTER_TOKEN_CHOICE;
    if (c->experts.count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "experts.mode: integrated needs experts (num_local_experts)");
    if (c->mod.router == MOD_ROUTER_NONE)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "experts.mode: integrated needs routed layers, but mod.router is none");
    if (c->mod.router != (tokens ? MOD_ROUTER_TOKEN_CHOICE : MOD_ROUTER_TOPK))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "experts.mode: integrated has one router: mod.router %s does not go with "
                           "experts.router %s (topk with expert-choice, token-choice with token-choice)",
                           mod_router_name(c->mod.router), expert_router_name(c->experts.router));
    if (c->mod.causal != (tokens ? MOD_CAUSAL_CHOICE : MOD_CAUSAL_PREDICTOR))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.causal: %s does not go with experts.mode integrated",
                           mod_causal_name(c->mod.causal));
    if (c->mod.unit != MOD_UNIT_BLOCK || c->mod.dense_kv)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.unit: experts.mode integrated routes the MLP's experts alone");
    if (c->mod.budgets > 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod.calibration: experts.mode integrated has no thresholds to calibrate");
    return check_range("experts.no_ops", c->experts.no_ops, 1, MODEL_MAX_EXPERTS, err);
}

static fathom_status check_experts(const model_config *c, fathom_error *err)
{
    TRY(check_range("experts.mode", c->experts.mode, 0, EXPERT_MODE_COUNT - 1, err));
    TRY(check_range("experts.router", c->experts.router, 0, EXPERT_ROUTER_COUNT - 1, err));
    if (c->experts.mode == EXPERT_MODE_INTEGRATED)
        TRY(check_integrated(c, err));
    TRY(check_range("num_local_experts", c->experts.count, 0, MODEL_MAX_EXPERTS, err));
    TRY(check_range("experts.predictor_hidden", c->experts.predictor_hidden, 0, MAX_WIDTH, err));
    if (c->experts.mode == EXPERT_MODE_STAGED)
        TRY(check_range("experts.no_ops", c->experts.no_ops, 0, 0, err));
    if (c->experts.count == 0)
        return FATHOM_OK;
    TRY(check_range("num_experts_per_tok", c->experts.per_token, 1, c->experts.count, err));
    if (!(isfinite(c->experts.balance_weight) && c->experts.balance_weight >= 0))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "router_aux_loss_coef: %g is negative or not finite",
                           (double)c->experts.balance_weight);
    if (c->experts.router == EXPERT_ROUTER_EXPERT_CHOICE) {
        TRY(check_range("experts.predictor_hidden", c->experts.predictor_hidden, 1, MAX_WIDTH, err));
        if (c->mod.router == MOD_ROUTER_TOKEN_CHOICE)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "experts.router: expert-choice needs as many tokens of every sequence: "
                               "it does not go with mod.router token-choice");
    }
    return FATHOM_OK;
}

fathom_status model_config_check(const model_config *c, fathom_error *err)
{
    TRY(check_sizes(c, err));
    TRY(check_range("model_type", c->family, 0, MODEL_FAMILY_COUNT - 1, err));
    TRY(check_range("rope_scaling.rope_type", c->scaling.kind, 0, ROPE_SCALING_COUNT - 1, err));
    TRY(check_rope(c, err));
    TRY(check_positive("rms_norm_eps", c->norm_eps, err));
    TRY(check_mod(c, err));
    return check_experts(c, err);
}

static bool split(const model_config *c)
{
    return c->mod.router != MOD_ROUTER_NONE && c->mod.unit != MOD_UNIT_BLOCK;
}

int64_t model_stages(const model_config *c)
{
    return split(c) ? 2 * c->layers : c->layers;
}

model_stage model_stage_at(const model_config *c, int64_t stage)
{
    if (!split(c))
        return (model_stage){stage, true, true};
    return (model_stage){stage / 2, stage % 2 == 0, stage % 2 == 1};
}

int64_t model_skipping_stages(const model_config *c)
{
    int64_t count = 0;
    for (int64_t s = 0; s < model_stages(c); s++)
        count += model_stage_skips(c, s);
    return count;
}

int64_t model_routed_stages(const model_config *c)
{
    return c->experts.mode == EXPERT_MODE_INTEGRATED ? 0 : model_skipping_stages(c);
}

int64_t model_routed_layers(const model_config *c)
{
    int64_t count = 0;
    for (int64_t s = 0, last = -1; s < model_stages(c); s++) {
        const int64_t layer = model_stage_at(c, s).layer;
        count += model_stage_skips(c, s) && layer != last;
        last = model_stage_skips(c, s) ? layer : last;
    }
    return count;
}

bool model_causal_as_trained(const model_config *c)
{
    return model_skipping_stages(c) == 0 && !model_has_expert_predictor(c);
}

/* rounded, at least 1, at most m */
static int64_t whole_tokens(double tokens, int64_t m)
{
    const int64_t k = llround(tokens);
    return k < 1 ? 1 : k > m ? m : k;
}

int64_t model_widened_tokens(const model_config *c, int64_t stage, int64_t T, double widen)
{
    const double capacity = (double)c->mod.capacity[stage];
    return whole_tokens((capacity + widen * (1 - capacity)) * (double)T, T);
}

int64_t model_routed_tokens(const model_config *c, int64_t stage, int64_t T)
{
    return model_widened_tokens(c, stage, T, 0);
}

int64_t model_expert_tokens(const model_config *c, int64_t layer, int64_t m)
{
    const bool limited = model_layer_no_ops(c, layer) > 0;
    if (c->experts.router == EXPERT_ROUTER_TOKEN_CHOICE && !limited)
        return m;
    const double capacity = limited ? (double)c->mod.capacity[layer] : 1;
    return whole_tokens(capacity * (double)c->experts.per_token * (double)m / (double)c->experts.count, m);
}

int64_t model_expert_rows(const model_config *c, int64_t layer, int64_t B, int64_t m)
{
    if (c->experts.router == EXPERT_ROUTER_TOKEN_CHOICE && model_layer_no_ops(c, layer) == 0)
        return B * m * c->experts.per_token;
    return B * c->experts.count * model_expert_tokens(c, layer, m);
}

/* llama3 (Llama 3.1's): waves longer than original / low_freq_factor are stretched by the factor, those shorter than
 * original / high_freq_factor stay, and between the two the frequency is interpolated. */
double model_rope_frequency(const model_config *c, int64_t j)
{
    const double plain = pow((double)c->rope_theta, -2.0 * (double)j / (double)c->head_dim);
    if (c->scaling.kind == ROPE_SCALING_NONE)
        return plain;
    const double stretched = plain / (double)c->scaling.factor;
    if (c->scaling.kind == ROPE_SCALING_LINEAR)
        return stretched;
    const double low = (double)c->scaling.low_freq_factor, high = (double)c->scaling.high_freq_factor;
    const double waves = (double)c->scaling.original * plain / (2 * acos(-1)); /* that fit the original length */
    const double kept = waves < low ? 0 : waves > high ? 1 : (waves - low) / (high - low);
    return (1 - kept) * stretched + kept * plain;
}

static bool same_rope(const model_config *a, const model_config *b)
{
    if (a->rope_theta != b->rope_theta || a->scaling.kind != b->scaling.kind)
        return false;
    if (a->scaling.kind != ROPE_SCALING_NONE && a->scaling.factor != b->scaling.factor)
        return false;
    return a->scaling.kind != ROPE_SCALING_LLAMA3 ||
           (a->scaling.low_freq_factor == b->scaling.low_freq_factor && a->scaling.high_freq_factor == b->scaling.high_freq_factor &&
            a->scaling.original == b->scaling.original);
}

static bool same_eos(const model_config *a, const model_config *b)
{
    return a->eos_count == b->eos_count && memcmp(a->eos_id, b->eos_id, (size_t)a->eos_count * sizeof *a->eos_id) == 0;
}

bool model_ends_text(const model_config *c, int32_t id)
{
    bool ends = false;
    for (int64_t i = 0; i < c->eos_count; i++)
        ends |= id == c->eos_id[i];
    return ends;
}

bool model_config_equal(const model_config *a, const model_config *b)
{
    if (a->vocab != b->vocab || a->dim != b->dim || a->layers != b->layers || a->heads != b->heads ||
        a->kv_heads != b->kv_heads || a->head_dim != b->head_dim || a->ffn != b->ffn || a->seq_len != b->seq_len ||
        model_has_qkv_bias(a) != model_has_qkv_bias(b) || !same_rope(a, b) || a->norm_eps != b->norm_eps || a->tied != b->tied ||
        a->bos_id != b->bos_id || !same_eos(a, b) || a->mod.router != b->mod.router)
        return false;
    if (a->experts.count != b->experts.count ||
        (a->experts.count > 0 &&
         (a->experts.per_token != b->experts.per_token || a->experts.router != b->experts.router || a->experts.mode != b->experts.mode ||
          a->experts.no_ops != b->experts.no_ops || a->experts.predictor_hidden != b->experts.predictor_hidden ||
          a->experts.balance_weight != b->experts.balance_weight)))
        return false;
    if (a->mod.router == MOD_ROUTER_NONE)
        return true;
    if (a->mod.unit != b->mod.unit || a->mod.dense_kv != b->mod.dense_kv)
        return false;
    for (int64_t s = 0; s < model_stages(a); s++)
        if (a->mod.capacity[s] != b->mod.capacity[s] || a->mod.threshold[s] != b->mod.threshold[s])
            return false;
    return a->mod.gate == b->mod.gate && a->mod.causal == b->mod.causal && a->mod.aux_weight == b->mod.aux_weight &&
           a->mod.predictor_hidden == b->mod.predictor_hidden;
}
