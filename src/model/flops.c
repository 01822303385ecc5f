/* FLOPs: see flops.h. */
#include "model/flops.h"

#include <string.h>

static double flops_attention(const model_config *c, const stage_work *w)
{
    const double d = (double)c->dim, q = (double)(c->heads * c->head_dim), kv = (double)(c->kv_heads * c->head_dim);
    return 2 * d * (w->n * q + 2 * w->kv * kv) + 2 * w->n * q * d + 4 * w->pairs * q;
}

static double flops_mlp(const model_config *c, int64_t layer, const stage_work *w)
{
    const double d = (double)c->dim, f = (double)c->ffn, E = (double)c->experts.count, p = (double)c->experts.predictor_hidden;
    if (c->experts.count == 0)
        return 6 * w->n * d * f;
    return 6 * w->expert_rows * d * f + 2 * w->n * d * (E + (double)model_layer_no_ops(c, layer)) + 2 * w->judged * (d * p + E * p);
}

double flops_stage(const model_config *c, int64_t stage, const stage_work *w)
{
    const model_stage at = model_stage_at(c, stage);
    return (at.attention ? flops_attention(c, w) : 0) + (at.mlp ? flops_mlp(c, at.layer, w) : 0);
}

stage_work flops_stage_work(const model_config *c, int64_t stage, int64_t T, bool causal, double widen)
{
    const bool routed = model_stage_routed(c, stage), dense = routed && c->mod.dense_kv;
    const int64_t k = routed ? model_widened_tokens(c, stage, T, widen) : T;
    const double n = (double)k, all = (double)T;
    stage_work w = {.n = n, .kv = dense ? all : n, .pairs = n * ((dense ? all : n) + 1) / 2};
    if (c->experts.count > 0) {
        w.expert_rows = (double)model_expert_rows(c, model_stage_at(c, stage).layer, 1, k);
        w.judged = causal && model_has_expert_predictor(c) ? n : 0;
    }
    return w;
}

double flops_routing(const model_config *c, int64_t stage, int64_t T, bool causal)
{
    const double d = (double)c->dim, p = (double)c->mod.predictor_hidden;
    double flops = model_stage_has_router(c, stage) ? 2 * (double)T * d : 0;
    if (causal && model_stage_has_predictor(c, stage))
        flops += 2 * (double)T * (d * p + p);
    return flops;
}

double flops_head(const model_config *c, int64_t T)
{
    return 2 * (double)T * (double)c->dim * (double)c->vocab;
}

static double forward_widened(const model_config *c, int64_t T, bool causal, double widen)
{
    double flops = flops_head(c, T);
    for (int64_t s = 0; s < model_stages(c); s++) {
        const stage_work w = flops_stage_work(c, s, T, causal, widen);
        flops += flops_stage(c, s, &w) + flops_routing(c, s, T, causal);
    }
    return flops;
}

double flops_forward(const model_config *c, int64_t T, bool causal)
{
    return forward_widened(c, T, causal, 0);
}

double flops_train_widened(const model_config *c, int64_t B, int64_t T, double widen)
{
    return 3 * (double)B * forward_widened(c, T, true, widen);
}

double flops_train(const model_config *c, int64_t B, int64_t T)
{
    return flops_train_widened(c, B, T, 0);
}

model_config model_config_plain(const model_config *c)
{
    const model_config none = model_config_default();
    model_config plain = *c;
    plain.mod.router = MOD_ROUTER_NONE;
    plain.experts = none.experts;
    memset(plain.mod.capacity, 0, sizeof plain.mod.capacity);
    memset(plain.mod.threshold, 0, sizeof plain.mod.threshold);
    return plain;
}
