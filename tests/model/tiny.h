/* Small models for tests: shapes with odd sizes and grouped heads, values large enough that routing and attention matter. */
#ifndef FATHOM_TESTS_TINY_H
#define FATHOM_TESTS_TINY_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "model/model.h"

static inline model_config tiny_config(mod_router router, mod_gate gate, mod_causal causal)
{
    model_config c = model_config_default();
    c.vocab = 37;
    c.dim = 24;
    c.layers = 4;
    c.heads = 4;
    c.kv_heads = 2;
    c.head_dim = 6;
    c.ffn = 29;
    c.seq_len = 23;
    c.mod.router = router;
    c.mod.gate = gate;
    c.mod.causal = causal;
    if (router != MOD_ROUTER_NONE) {
        c.mod.capacity[1] = 0.25f;
        c.mod.capacity[3] = 0.4f;
        c.mod.predictor_hidden = causal == MOD_CAUSAL_PREDICTOR ? 11 : 0;
    }
    return c;
}

/* The same with a unit of its own; capacities go to the stages that it routes. */
static inline model_config tiny_unit(model_config c, mod_unit unit, bool dense_kv)
{
    const float capacity[] = {c.mod.capacity[1], c.mod.capacity[3]};
    memset(c.mod.capacity, 0, sizeof c.mod.capacity);
    c.mod.unit = unit;
    c.mod.dense_kv = dense_kv;
    for (int64_t s = 0; s < model_stages(&c); s++) {
        const model_stage at = model_stage_at(&c, s);
        if (at.layer % 2 == 1 && ((at.attention && unit != MOD_UNIT_MLP) || (at.mlp && unit != MOD_UNIT_ATTN)))
            c.mod.capacity[s] = capacity[at.layer / 2];
    }
    return c;
}

static inline model_config tiny_experts(model_config c, expert_router router, int64_t experts, int64_t per_token, int64_t no_ops)
{
    c.experts.count = experts;
    c.experts.per_token = per_token;
    c.experts.router = router;
    c.experts.mode = no_ops > 0 ? EXPERT_MODE_INTEGRATED : EXPERT_MODE_STAGED;
    c.experts.no_ops = no_ops;
    c.experts.predictor_hidden = router == EXPERT_ROUTER_EXPERT_CHOICE ? 7 : 0;
    return c;
}

/* Every kind of model that there is, for whatever must hold for all. */
typedef struct tiny_variant {
    const char *name;
    mod_router router;
    mod_gate gate;
    mod_causal causal;
    bool untied;
    mod_unit unit;
    bool dense_kv;
    int64_t experts, per_token, no_ops;
    expert_router expert_router;
    model_family family;
} tiny_variant;

#define ROUTED(r, g, c) .router = MOD_ROUTER_##r, .gate = MOD_GATE_##g, .causal = MOD_CAUSAL_##c
#define EXPERTS(r, E, K, N) .experts = E, .per_token = K, .no_ops = N, .expert_router = EXPERT_ROUTER_##r
static const tiny_variant tiny_variants[] = {
    {.name = "plain", ROUTED(NONE, RAW, PREDICTOR)},
    {.name = "untied", ROUTED(NONE, RAW, PREDICTOR), .untied = true},
    {.name = "qkv-bias", ROUTED(NONE, RAW, PREDICTOR), .family = MODEL_FAMILY_QWEN2},
    {.name = "qkv-bias-raw", ROUTED(TOPK, RAW, PREDICTOR), .untied = true, .family = MODEL_FAMILY_QWEN2},
    {.name = "qkv-bias-dense-kv", ROUTED(TOPK, RAW, PREDICTOR), .dense_kv = true, .family = MODEL_FAMILY_QWEN2},
    {.name = "raw", ROUTED(TOPK, RAW, PREDICTOR)},
    {.name = "sigmoid-aux", ROUTED(TOPK, SIGMOID, AUX)},
    {.name = "raw-aux", ROUTED(TOPK, RAW, AUX), .untied = true},
    {.name = "one", ROUTED(TOPK, ONE, PREDICTOR)},
    {.name = "stochastic", ROUTED(STOCHASTIC, ONE, NOISE)},
    {.name = "token-choice", ROUTED(TOKEN_CHOICE, RAW, CHOICE)},
    {.name = "token-choice-sigmoid", ROUTED(TOKEN_CHOICE, SIGMOID, CHOICE), .untied = true},
    {.name = "attn", ROUTED(TOPK, RAW, PREDICTOR), .unit = MOD_UNIT_ATTN},
    {.name = "mlp", ROUTED(TOPK, RAW, PREDICTOR), .unit = MOD_UNIT_MLP},
    {.name = "attn+mlp", ROUTED(TOPK, RAW, PREDICTOR), .unit = MOD_UNIT_BOTH},
    {.name = "attn+mlp-aux", ROUTED(TOPK, SIGMOID, AUX), .untied = true, .unit = MOD_UNIT_BOTH},
    {.name = "attn+mlp-choice", ROUTED(TOKEN_CHOICE, RAW, CHOICE), .unit = MOD_UNIT_BOTH},
    {.name = "attn+mlp-stochastic", ROUTED(STOCHASTIC, ONE, NOISE), .unit = MOD_UNIT_BOTH},
    {.name = "dense-kv", ROUTED(TOPK, RAW, PREDICTOR), .dense_kv = true},
    {.name = "dense-kv-choice", ROUTED(TOKEN_CHOICE, RAW, CHOICE), .untied = true, .dense_kv = true},
    {.name = "dense-kv-attn", ROUTED(TOPK, RAW, PREDICTOR), .unit = MOD_UNIT_ATTN, .dense_kv = true},
    {.name = "dense-kv-attn+mlp", ROUTED(TOPK, RAW, AUX), .unit = MOD_UNIT_BOTH, .dense_kv = true},
    {.name = "moe-tokens", ROUTED(NONE, RAW, PREDICTOR), EXPERTS(TOKEN_CHOICE, 4, 2, 0)},
    {.name = "moe-tokens-1", ROUTED(NONE, RAW, PREDICTOR), .untied = true, EXPERTS(TOKEN_CHOICE, 3, 1, 0)},
    {.name = "moe-experts", ROUTED(NONE, RAW, PREDICTOR), EXPERTS(EXPERT_CHOICE, 4, 2, 0)},
    {.name = "moe-experts-1", ROUTED(NONE, RAW, PREDICTOR), .untied = true, EXPERTS(EXPERT_CHOICE, 3, 1, 0)},
    {.name = "mode-staged", ROUTED(TOPK, RAW, PREDICTOR), EXPERTS(EXPERT_CHOICE, 3, 1, 0)},
    {.name = "mode-staged-tokens", ROUTED(TOPK, RAW, PREDICTOR), EXPERTS(TOKEN_CHOICE, 4, 2, 0)},
    {.name = "mode-staged-choice", ROUTED(TOKEN_CHOICE, RAW, CHOICE), EXPERTS(TOKEN_CHOICE, 3, 2, 0)},
    {.name = "mode-staged-mlp", ROUTED(TOPK, RAW, PREDICTOR), .unit = MOD_UNIT_MLP, EXPERTS(EXPERT_CHOICE, 3, 1, 0)},
    {.name = "mode-integrated", ROUTED(TOPK, RAW, PREDICTOR), EXPERTS(EXPERT_CHOICE, 3, 2, 2)},
    {.name = "mode-integrated-choice", ROUTED(TOKEN_CHOICE, RAW, CHOICE), EXPERTS(TOKEN_CHOICE, 3, 2, 2)},
    {.name = "mode-integrated-choice-1", ROUTED(TOKEN_CHOICE, RAW, CHOICE), .untied = true, EXPERTS(TOKEN_CHOICE, 4, 1, 1)},
};
#undef ROUTED
#undef EXPERTS
enum { TINY_VARIANTS = sizeof tiny_variants / sizeof *tiny_variants };

static inline model_config tiny_variant_config(const tiny_variant *v)
{
    model_config c = tiny_config(v->router, v->gate, v->causal);
    c.tied = !v->untied;
    c.family = v->family;
    if (v->unit != MOD_UNIT_BLOCK || v->dense_kv)
        c = tiny_unit(c, v->unit, v->dense_kv);
    if (v->experts > 0)
        c = tiny_experts(c, v->expert_router, v->experts, v->per_token, v->no_ops);
    for (int64_t s = 0; v->router == MOD_ROUTER_STOCHASTIC && s < model_stages(&c); s++)
        c.mod.threshold[s] = c.mod.capacity[s] > 0 ? 0.5f : 0;
    return c;
}

static inline int tiny_variant_named(const char *name)
{
    for (int i = 0; i < TINY_VARIANTS; i++)
        if (strcmp(tiny_variants[i].name, name) == 0)
            return i;
    fail_msg("no variant %s", name);
    return 0;
}

/* Values of a deviation that makes every part of the model count; a predictor that routes about a third. */
static inline void tiny_fill(model *m, uint64_t seed)
{
    for (int64_t i = 0; i < m->list.count; i++) {
        const param_info *p = &m->list.items[i];
        const double std = p->rank == 2 ? 1.2 / sqrt((double)p->shape[1]) : 0.1;
        for (int64_t j = 0; j < p->size; j++)
            m->store.values[p->offset + j] = p->init_mean + (float)(std * rng_normal(seed, (uint64_t)i + 100, (uint64_t)j));
    }
}

static inline model tiny_model(const model_config *c, uint64_t seed)
{
    model m;
    fathom_error err;
    const kernels kn = kernels_cpu(0);
    if (model_init(&m, c, WEIGHT_F32, &kn, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    tiny_fill(&m, seed);
    return m;
}

static inline void tiny_tokens(int32_t *tokens, int64_t n, int64_t vocab, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(rng_uniform(seed, 77, (uint64_t)i) * (double)vocab);
}

#endif
