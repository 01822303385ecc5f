/* Which tokens go through a routed block: see router.h. */
#include "model/router.h"

#include "base/rng.h"

static float *floats(arena *a, int64_t n, int64_t width)
{
    return arena_alloc(a, (size_t)n, (size_t)width * sizeof(float));
}

void route_plan(const model_config *c, arena *a, int64_t tokens, int64_t chosen, bool train, route *out)
{
    *out = (route){
        .logit = floats(a, tokens, 1),
        .member = arena_alloc(a, (size_t)tokens, 1),
        .index = arena_alloc(a, (size_t)chosen, sizeof(int32_t)),
        .position = arena_alloc(a, (size_t)chosen, sizeof(int32_t)),
    };
    out->rule = c->mod.causal == MOD_CAUSAL_PREDICTOR ? floats(a, tokens, 1) : out->logit;
    if (train && (c->mod.causal == MOD_CAUSAL_AUX || c->mod.causal == MOD_CAUSAL_CHOICE))
        out->dlogit = floats(a, tokens, 1);
}

void router_temps_plan(const model_config *c, arena *a, int64_t tokens, bool train, router_temps *out)
{
    *out = (router_temps){0};
    if (c->mod.router == MOD_ROUTER_NONE || c->mod.causal != MOD_CAUSAL_PREDICTOR)
        return;
    out->pre = floats(a, tokens, c->mod.predictor_hidden);
    out->hidden = floats(a, tokens, c->mod.predictor_hidden);
    if (train) {
        out->dhidden = floats(a, tokens, c->mod.predictor_hidden);
        out->drule = floats(a, tokens, 1);
    }
}

static void router_logits(const model_env *env, const layer_params *p, const router_input *in, route *out)
{
    const kernels *kn = env->kn;
    const int64_t n = in->B * in->T;
    if (p->router)
        kn->rowdot_forward(kn, out->logit, in->x, p->router, NULL, n, env->config->dim);
    else
        kn->noise(kn, out->logit, in->noise_seed, RNG_ROUTE + ((uint64_t)in->layer << 8), in->noise_counter, n);
}

static void predictor_logits(const model_env *env, const layer_params *p, const layer_weights *w,
                             const router_input *in, const router_temps *t, route *out)
{
    const kernels *kn = env->kn;
    const int64_t n = in->B * in->T, hidden = env->config->mod.predictor_hidden;
    kn->linear(kn, &(linear_args){.n = n, .in = env->config->dim, .out = hidden, .x = in->x, .w = w->fc1, .y = t->pre,
                                  .scratch = env->scratch});
    kn->bias_silu_forward(kn, t->hidden, t->pre, p->fc1_bias, n, hidden);
    kn->rowdot_forward(kn, out->rule, t->hidden, p->fc2, p->fc2_bias, n, hidden);
}

void router_topk(const model_env *env, const layer_params *p, const router_input *in, route *out)
{
    const kernels *kn = env->kn;
    const int64_t k = model_routed_tokens(env->config, in->layer, in->T);
    router_logits(env, p, in, out);
    kn->topk(kn, out->index, out->member, out->logit, in->B, in->T, k, env->scratch);
    out->n = in->B * k;
    for (int64_t b = 0; b <= in->B; b++)
        out->start[b] = (int32_t)(b * k);
    kn->gather_int(kn, out->position, in->position, out->index, out->n);
}

void router_choice(const model_env *env, const layer_params *p, const router_input *in, route *out)
{
    const kernels *kn = env->kn;
    const int64_t k = model_routed_tokens(env->config, in->layer, in->T);
    router_logits(env, p, in, out);
    out->dropped = kn->above(kn, out->index, out->start, out->logit, env->threshold[in->layer], k, in->B, in->T);
    out->n = out->start[in->B];
    kn->gather_int(kn, out->position, in->position, out->index, out->n);
}

router_score router_balance(const model_env *env, const layer_params *p, const layer_params *g, const router_input *in, float scale,
                            route *r)
{
    const kernels *kn = env->kn;
    const int64_t n = in->B * in->T;
    balance_args balance = {.n = n, .logit = r->logit, .threshold = env->threshold[in->layer],
                            .capacity = env->config->mod.capacity[in->layer], .scale = scale, .dlogit = g ? r->dlogit : NULL};
    kn->balance(kn, &balance);
    if (g)
        kn->rowdot_backward(kn, NULL, NULL, g->router, NULL, r->dlogit, in->x, p->router, n, env->config->dim, env->scratch);
    return (router_score){.loss = balance.loss, .agreed = n - r->dropped};
}

void router_causal(const model_env *env, const layer_params *p, const layer_weights *w, const router_input *in,
                   const router_temps *t, route *out)
{
    const kernels *kn = env->kn;
    router_logits(env, p, in, out);
    if (w->fc1.data)
        predictor_logits(env, p, w, in, t, out);
    kn->above(kn, out->index, out->start, out->rule, env->threshold[in->layer], in->T, in->B, in->T);
    out->n = out->start[in->B];
    kn->gather_int(kn, out->position, in->position, out->index, out->n);
}

router_score router_learn(const model_env *env, const layer_params *p, const layer_weights *w, const layer_params *g, const router_input *in,
                          const router_temps *t, float scale, route *r)
{
    const kernels *kn = env->kn;
    const int64_t n = in->B * in->T, d = env->config->dim, hidden = env->config->mod.predictor_hidden;
    if (w->fc1.data)
        predictor_logits(env, p, w, in, t, r);
    bce_args bce = {.n = n, .logit = r->rule, .member = r->member, .scale = scale,
                    .threshold = env->threshold[in->layer], .dlogit = g ? (w->fc1.data ? t->drule : r->dlogit) : NULL};
    kn->bce(kn, &bce);
    if (g && w->fc1.data) {
        /* dhidden = drule fc2: an outer product */
        kn->gemm(kn, &(gemm_args){.m = n, .n = hidden, .k = 1, .a = t->drule, .lda = 1, .b = p->fc2, .ldb = hidden,
                                  .c = t->dhidden, .ldc = hidden, .alpha = 1});
        kn->rowdot_backward(kn, NULL, NULL, g->fc2, g->fc2_bias, t->drule, t->hidden, p->fc2, n, hidden, env->scratch);
        kn->bias_silu_backward(kn, t->dhidden, g->fc1_bias, t->dhidden, t->pre, p->fc1_bias, n, hidden, env->scratch);
        kn->gemm(kn, &(gemm_args){.trans_a = true, .m = hidden, .n = d, .k = n, .a = t->dhidden, .lda = hidden, .b = in->x,
                                  .ldb = d, .c = g->fc1, .ldc = d, .alpha = 1, .beta = 1});
    } else if (g) {
        kn->rowdot_backward(kn, NULL, NULL, g->router, NULL, r->dlogit, in->x, p->router, n, d, env->scratch);
    }
    return (router_score){.loss = bce.loss / (double)n, .agreed = bce.agreed};
}

const float *router_gate_logits(const model_config *c, const route *r)
{
    return c->mod.router == MOD_ROUTER_STOCHASTIC || c->mod.gate == MOD_GATE_ONE ? NULL : r->logit;
}
