/* FLOPs: see flops.h. */
#include "model/flops.h"

double flops_block(const model_config *c, double n, double pairs)
{
    const double d = (double)c->dim, dh = (double)c->head_dim, h = (double)c->heads, h_kv = (double)c->kv_heads;
    return 2 * n * (d * (h + 2 * h_kv) * dh + h * dh * d + 3 * d * (double)c->ffn) + 4 * pairs * h * dh;
}

double flops_routing(const model_config *c, int64_t layer, int64_t T, bool causal)
{
    const double d = (double)c->dim, p = (double)c->mod.predictor_hidden;
    double flops = model_layer_has_router(c, layer) ? 2 * (double)T * d : 0;
    if (causal && model_layer_has_predictor(c, layer))
        flops += 2 * (double)T * (d * p + p);
    return flops;
}

double flops_head(const model_config *c, int64_t T)
{
    return 2 * (double)T * (double)c->dim * (double)c->vocab;
}

double flops_forward(const model_config *c, int64_t T, bool causal)
{
    double flops = flops_head(c, T);
    for (int64_t l = 0; l < c->layers; l++) {
        const double n = (double)(model_layer_routed(c, l) ? model_routed_tokens(c, l, T) : T);
        flops += flops_block(c, n, n * (n + 1) / 2) + flops_routing(c, l, T, causal);
    }
    return flops;
}

double flops_train(const model_config *c, int64_t B, int64_t T)
{
    return 3 * (double)B * flops_forward(c, T, true);
}

model_config model_config_plain(const model_config *c)
{
    model_config plain = *c;
    plain.mod.router = MOD_ROUTER_NONE;
    for (int64_t l = 0; l < MODEL_MAX_LAYERS; l++)
        plain.mod.capacity[l] = plain.mod.threshold[l] = 0;
    return plain;
}
