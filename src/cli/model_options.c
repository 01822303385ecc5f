/* From --layers, --dim, --mod-... to a model_config: defaults that depend on each other are worked out here. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

model_flags model_flags_default(void)
{
    return (model_flags){.rope_theta = 10000, .norm_eps = 1e-5, .mod = "none",
                         .mod_capacity = "0.125", .mod_every = 2, .mod_aux_weight = 0.01, .expert_balance_weight = 0.01};
}

bool model_flags_shape_untouched(const model_flags *f)
{
    const model_flags d = model_flags_default();
    return !f->layers && !f->dim && !f->heads && !f->kv_heads && !f->ffn && !f->seq_len && !f->vocab && !f->untied &&
           f->rope_theta == d.rope_theta && f->norm_eps == d.norm_eps;
}

static bool experts_untouched(const model_flags *f)
{
    return !f->experts && !f->experts_per_token && !f->no_op_experts && !f->expert_router && !f->mode &&
           f->expert_balance_weight == model_flags_default().expert_balance_weight;
}

bool model_flags_untouched(const model_flags *f)
{
    const model_flags d = model_flags_default();
    return model_flags_shape_untouched(f) && experts_untouched(f) && strcmp(f->mod, d.mod) == 0 &&
           strcmp(f->mod_capacity, d.mod_capacity) == 0 && !f->mod_layers && !f->mod_gate && !f->mod_capacity_schedule &&
           !f->mod_causal && f->mod_every == d.mod_every && !f->mod_predictor_hidden && f->mod_aux_weight == d.mod_aux_weight &&
           !f->mod_unit && !f->mod_route_kv;
}

static fathom_status unknown(const char *name, const char *value, const char *choices, fathom_error *err)
{
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: %s: must be one of %s", name, value, choices);
}

fathom_status train_dtype_parse(const char *text, bool *bf16, fathom_error *err)
{
    *bf16 = strcmp(text, "bf16") == 0;
    return *bf16 || strcmp(text, "fp32") == 0 ? FATHOM_OK : unknown("dtype", text, "fp32, bf16", err);
}

static int64_t marked_layers(const model_config *c)
{
    int64_t count = 0;
    for (int64_t l = 0; l < c->layers; l++)
        count += c->mod.capacity[l] > 0;
    return count;
}

/* The routed blocks, marked by capacity 1 for now. */
static fathom_status choose_layers(const model_flags *f, model_config *c, fathom_error *err)
{
    if (!f->mod_layers) {
        if (f->mod_every < 1)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-every: %lld: must be 1 or more", (long long)f->mod_every);
        if (f->mod_every > c->layers)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-every: %lld: no block is routed: the model has %lld",
                               (long long)f->mod_every, (long long)c->layers);
        for (int64_t l = f->mod_every - 1; l < c->layers; l += f->mod_every)
            c->mod.capacity[l] = 1;
        return FATHOM_OK;
    }
    const char *p = f->mod_layers;
    do {
        char *end;
        const long long layer = strtoll(p, &end, 10);
        if (end == p || (*end && *end != ',') || layer < 0 || layer >= c->layers || c->mod.capacity[layer] > 0)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-layers: %s: must be different blocks from 0 to %lld, as in 1,3,5",
                               f->mod_layers, (long long)c->layers - 1);
        c->mod.capacity[layer] = 1;
        p = *end ? end + 1 : end;
    } while (*p);
    return FATHOM_OK;
}

/* --mod-capacity-schedule: --mod-capacity FIRST,LAST are the capacities of the first and the last routed block, and those between
 * follow a line or half a cosine over the routed blocks. */
static fathom_status schedule_capacities(const model_flags *f, model_config *c, fathom_error *err)
{
    const bool linear = strcmp(f->mod_capacity_schedule, "linear") == 0, cosine = strcmp(f->mod_capacity_schedule, "cosine") == 0;
    char *end;
    const double first = strtod(f->mod_capacity, &end), last = *end == ',' ? strtod(end + 1, &end) : first;
    if (!linear && !cosine)
        return unknown("mod-capacity-schedule", f->mod_capacity_schedule, "constant, linear, cosine", err);
    if (*end || !strchr(f->mod_capacity, ',') || !(first > 0 && first <= 1 && last > 0 && last <= 1))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-capacity: %s: a %s schedule needs two numbers in (0, 1], those of the "
                           "first and the last routed block", f->mod_capacity, f->mod_capacity_schedule);
    const int64_t count = marked_layers(c);
    for (int64_t l = 0, i = 0; l < c->layers; l++) {
        if (c->mod.capacity[l] == 0)
            continue;
        const double along = count > 1 ? (double)i++ / (double)(count - 1) : 0;
        c->mod.capacity[l] = (float)(first + (last - first) * (linear ? along : 0.5 * (1 - cos(3.14159265358979323846 * along))));
    }
    return FATHOM_OK;
}

/* --mod-capacity: one number, or one for each routed block. */
static fathom_status set_capacities(const model_flags *f, model_config *c, fathom_error *err)
{
    if (f->mod_capacity_schedule && strcmp(f->mod_capacity_schedule, "constant") != 0)
        return schedule_capacities(f, c, err);
    const char *p = f->mod_capacity;
    double capacity = 0;
    for (int64_t l = 0, used = 0; l < c->layers; l++) {
        if (c->mod.capacity[l] == 0)
            continue;
        if (used++ == 0 || *p) {
            char *end;
            capacity = strtod(p, &end);
            if (end == p || (*end && *end != ',') || !(capacity > 0 && capacity <= 1))
                return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-capacity: %s: must be in (0, 1], or a list of such numbers",
                                   f->mod_capacity);
            if (capacity == 1 && c->mod.router == MOD_ROUTER_TOKEN_CHOICE)
                return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-capacity: %s: token-choice needs shares below 1", f->mod_capacity);
            p = *end ? end + 1 : end;
        } else if (strchr(f->mod_capacity, ',')) {
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-capacity: %s: fewer numbers than routed blocks (%lld)",
                               f->mod_capacity, (long long)marked_layers(c));
        }
        c->mod.capacity[l] = (float)capacity;
    }
    if (*p)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-capacity: %s: more numbers than routed blocks (%lld)",
                           f->mod_capacity, (long long)marked_layers(c));
    return FATHOM_OK;
}

static int64_t predictor_hidden(const model_flags *f, const model_config *c)
{
    return f->mod_predictor_hidden ? f->mod_predictor_hidden : c->dim / 2 > 0 ? c->dim / 2 : 1;
}

/* Capacities stand by layer until here: where attention and MLP are routed apart, to their stages. */
static void spread_capacities(model_config *c)
{
    float capacity[MODEL_MAX_LAYERS];
    memcpy(capacity, c->mod.capacity, sizeof capacity);
    memset(c->mod.capacity, 0, sizeof c->mod.capacity);
    for (int64_t s = 0; s < model_stages(c); s++) {
        const model_stage at = model_stage_at(c, s);
        const bool chosen = (at.attention && c->mod.unit != MOD_UNIT_MLP) || (at.mlp && c->mod.unit != MOD_UNIT_ATTN);
        c->mod.capacity[s] = chosen ? capacity[at.layer] : 0;
    }
}

static fathom_status build_unit(const model_flags *f, model_config *c, fathom_error *err)
{
    const char *kv = f->mod_route_kv ? f->mod_route_kv : "yes";
    if (f->mod_unit && !mod_unit_parse(f->mod_unit, &c->mod.unit))
        return unknown("mod-unit", f->mod_unit, "block, attn, mlp, attn+mlp", err);
    if (strcmp(kv, "yes") != 0 && strcmp(kv, "no") != 0)
        return unknown("mod-route-kv", kv, "yes, no", err);
    c->mod.dense_kv = strcmp(kv, "no") == 0;
    if (c->mod.dense_kv && c->mod.unit == MOD_UNIT_MLP)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-route-kv: no: --mod-unit mlp routes no attention");
    return FATHOM_OK;
}

/* One router for experts and no-op experts: what describes a router of blocks has no place beside it. */
static fathom_status check_integrated(const model_flags *f, const model_config *c, fathom_error *err)
{
    const char *const beside = f->mod_unit ? "mod-unit" : f->mod_route_kv ? "mod-route-kv" : f->mod_gate ? "mod-gate"
                               : f->mod_causal ? "mod-causal" : NULL;
    if (c->mod.router != MOD_ROUTER_TOPK && c->mod.router != MOD_ROUTER_TOKEN_CHOICE)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mode: integrated: needs --mod topk or token-choice");
    if (beside)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: does not go with --mode integrated, whose experts' router is the only one", beside);
    if ((c->mod.router == MOD_ROUTER_TOPK) != (c->experts.router == EXPERT_ROUTER_EXPERT_CHOICE))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--expert-router: %s: --mode integrated with --mod %s has one router: leave it out",
                           f->expert_router, f->mod);
    if (c->experts.no_ops < 1 || c->experts.no_ops > MODEL_MAX_EXPERTS)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--no-op-experts: %lld: must be 1 to %d", (long long)c->experts.no_ops,
                           MODEL_MAX_EXPERTS);
    return FATHOM_OK;
}

static fathom_status build_experts(const model_flags *f, model_config *c, fathom_error *err)
{
    const bool routed = c->mod.router != MOD_ROUTER_NONE, integrated = f->mode && strcmp(f->mode, "integrated") == 0;
    if (f->mode && !expert_mode_parse(f->mode, &c->experts.mode))
        return unknown("mode", f->mode, "staged, integrated", err);
    if (f->experts == 0 && !experts_untouched(f))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: needs --experts", integrated ? "mode integrated" : f->mode ? "mode"
                           : f->experts_per_token ? "experts-per-token" : f->expert_router ? "expert-router"
                           : f->no_op_experts ? "no-op-experts" : "expert-balance-weight");
    if (f->experts == 0)
        return FATHOM_OK;
    if (f->experts_per_token == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--experts: %lld: needs --experts-per-token", (long long)f->experts);
    if (f->experts < 1 || f->experts > MODEL_MAX_EXPERTS)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--experts: %lld: must be 1 to %d", (long long)f->experts, MODEL_MAX_EXPERTS);
    if (f->experts_per_token < 1 || f->experts_per_token > f->experts)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--experts-per-token: %lld: must be 1 to the number of experts, %lld",
                           (long long)f->experts_per_token, (long long)f->experts);
    if (f->mode && !routed)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mode: %s: needs --mod", f->mode);
    if (f->no_op_experts && !integrated)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--no-op-experts: needs --mode integrated");
    if (!(f->expert_balance_weight >= 0 && isfinite(f->expert_balance_weight)))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--expert-balance-weight: %g: must be 0 or above", f->expert_balance_weight);
    c->experts.router = c->mod.router == MOD_ROUTER_TOPK ? EXPERT_ROUTER_EXPERT_CHOICE : EXPERT_ROUTER_TOKEN_CHOICE;
    if (f->expert_router && !expert_router_parse(f->expert_router, &c->experts.router))
        return unknown("expert-router", f->expert_router, "token-choice, expert-choice", err);
    c->experts.count = f->experts;
    c->experts.per_token = f->experts_per_token;
    c->experts.no_ops = !integrated ? 0 : f->no_op_experts ? f->no_op_experts : 1;
    c->experts.balance_weight = (float)f->expert_balance_weight;
    if (integrated)
        TRY(check_integrated(f, c, err));
    if (model_has_expert_predictor(c) && c->mod.router == MOD_ROUTER_TOKEN_CHOICE)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--expert-router: expert-choice needs as many tokens of every sequence: it does not go "
                           "with --mod token-choice");
    if (model_has_expert_predictor(c))
        c->experts.predictor_hidden = predictor_hidden(f, c);
    return FATHOM_OK;
}

fathom_status model_flags_check_use(const model_flags *f, fathom_error *err)
{
    const model_flags d = model_flags_default();
    const struct {
        const char *name;
        bool given;
    } options[] = {{"mod-capacity", strcmp(f->mod_capacity, d.mod_capacity) != 0}, {"mod-capacity-schedule", f->mod_capacity_schedule},
                   {"mod-every", f->mod_every != d.mod_every}, {"mod-layers", f->mod_layers}, {"mod-gate", f->mod_gate},
                   {"mod-causal", f->mod_causal}, {"mod-aux-weight", f->mod_aux_weight != d.mod_aux_weight}, {"mod-unit", f->mod_unit},
                   {"mod-route-kv", f->mod_route_kv}};
    for (size_t i = 0; i < sizeof options / sizeof *options && strcmp(f->mod, "none") == 0; i++)
        if (options[i].given)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: needs --mod", options[i].name);
    if (f->mod_predictor_hidden < 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-predictor-hidden: %lld: must be 1 or more", (long long)f->mod_predictor_hidden);
    return FATHOM_OK;
}

static fathom_status build_mod(const model_flags *f, model_config *c, fathom_error *err)
{
    if (!mod_router_parse(f->mod, &c->mod.router))
        return unknown("mod", f->mod, "none, topk, stochastic, token-choice", err);
    const bool stochastic = c->mod.router == MOD_ROUTER_STOCHASTIC, choice = c->mod.router == MOD_ROUTER_TOKEN_CHOICE;
    if (!mod_gate_parse(f->mod_gate ? f->mod_gate : stochastic ? "one" : "raw", &c->mod.gate))
        return unknown("mod-gate", f->mod_gate, "raw, sigmoid, one", err);
    if (!mod_causal_parse(f->mod_causal ? f->mod_causal : stochastic ? "noise" : choice ? "choice" : "predictor", &c->mod.causal))
        return unknown("mod-causal", f->mod_causal, "predictor, aux", err);
    if (c->mod.router == MOD_ROUTER_NONE)
        return FATHOM_OK;
    if (choice != (c->mod.causal == MOD_CAUSAL_CHOICE) || stochastic != (c->mod.causal == MOD_CAUSAL_NOISE))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-causal: %s: does not go with --mod %s%s", f->mod_causal, f->mod,
                           choice || stochastic ? ", which has a rule of its own" : "");
    TRY(build_unit(f, c, err));
    TRY(choose_layers(f, c, err));
    TRY(set_capacities(f, c, err));
    spread_capacities(c);
    c->mod.aux_weight = (float)f->mod_aux_weight;
    if (c->mod.causal == MOD_CAUSAL_PREDICTOR)
        c->mod.predictor_hidden = predictor_hidden(f, c);
    for (int64_t s = 0; stochastic && s < model_stages(c); s++)
        if (c->mod.capacity[s] > 0)
            c->mod.threshold[s] = mod_noise_threshold((double)c->mod.capacity[s]);
    return FATHOM_OK;
}

fathom_status model_flags_route(const model_flags *f, model_config *c, fathom_error *err)
{
    TRY(build_mod(f, c, err));
    TRY(build_experts(f, c, err));
    if (f->mod_predictor_hidden && !c->mod.predictor_hidden && !c->experts.predictor_hidden)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-predictor-hidden: %lld: the model has no predictor",
                           (long long)f->mod_predictor_hidden);
    return model_config_check(c, err);
}

fathom_status model_flags_build(const model_flags *f, int64_t vocab, model_config *out, fathom_error *err)
{
    model_config c = model_config_default();
    c.layers = f->layers ? f->layers : c.layers;
    c.dim = f->dim ? f->dim : c.dim;
    c.seq_len = f->seq_len ? f->seq_len : c.seq_len;
    if (c.layers < 1 || c.layers > MODEL_MAX_LAYERS)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--layers: %lld: must be 1 to %d", (long long)c.layers, MODEL_MAX_LAYERS);
    if (c.dim < 1 || c.dim > 1 << 20)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--dim: %lld: must be 1 to 1048576", (long long)c.dim);
    if (f->vocab && f->vocab < vocab)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--vocab: %lld: the tokenizer has %lld ids", (long long)f->vocab,
                           (long long)vocab);
    c.vocab = f->vocab ? f->vocab : vocab;
    c.heads = f->heads ? f->heads : model_default_heads(c.dim);
    c.kv_heads = f->kv_heads ? f->kv_heads : c.heads;
    c.ffn = f->ffn ? f->ffn : model_default_ffn(c.dim);
    c.rope_theta = (float)f->rope_theta;
    c.norm_eps = (float)f->norm_eps;
    c.tied = !f->untied;
    if (c.heads < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--heads: %lld: must be 1 or more", (long long)c.heads);
    TRY(model_config_set_head_dim(&c, err));
    TRY(model_flags_route(f, &c, err));
    *out = c;
    return FATHOM_OK;
}
