/* Which tokens go through a routed block: see router.h. */
#include "model/router.h"

#include "base/rng.h"

void route_plan(const model_config *c, arena *a, int64_t tokens, int64_t chosen, bool train, route *out)
{
    *out = (route){
        .logit = arena_floats(a, tokens, 1),
        .member = arena_alloc(a, (size_t)tokens, 1),
        .index = arena_alloc(a, (size_t)chosen, sizeof(int32_t)),
        .position = arena_alloc(a, (size_t)chosen, sizeof(int32_t)),
    };
    out->rule = c->mod.causal == MOD_CAUSAL_PREDICTOR ? arena_floats(a, tokens, 1) : out->logit;
    if (train && (c->mod.causal == MOD_CAUSAL_AUX || c->mod.causal == MOD_CAUSAL_CHOICE))
        out->dlogit = arena_floats(a, tokens, 1);
}

predictor_shape router_predictor(const model_config *c)
{
    const bool used = model_routed_stages(c) > 0 && c->mod.causal == MOD_CAUSAL_PREDICTOR;
    return (predictor_shape){used ? c->mod.predictor_hidden : 0, 1};
}

static void router_logits(const model_env *env, const router_params *p, const router_input *in, route *out)
{
    const kernels *kn = env->kn;
    const int64_t n = in->B * in->T;
    if (p->router)
        kn->rowdot_forward(kn, out->logit, in->x, p->router, NULL, n, env->config->dim);
    else
        kn->noise(kn, out->logit, in->noise_seed, RNG_ROUTE + ((uint64_t)in->stage << 8), in->noise_counter, n);
}

void router_topk(const model_env *env, const router_params *p, const router_input *in, route *out)
{
    const kernels *kn = env->kn;
    const int64_t k = model_widened_tokens(env->config, in->stage, in->T, in->widen);
    router_logits(env, p, in, out);
    kn->topk(kn, out->index, out->member, out->logit, in->B, in->T, k, env->scratch);
    out->n = in->B * k;
    for (int64_t b = 0; b <= in->B; b++)
        out->start[b] = (int32_t)(b * k);
    kn->gather_int(kn, out->position, in->position, out->index, out->n);
}

void router_choice(const model_env *env, const router_params *p, const router_input *in, route *out)
{
    const kernels *kn = env->kn;
    const int64_t k = model_widened_tokens(env->config, in->stage, in->T, in->widen);
    router_logits(env, p, in, out);
    out->dropped = kn->above(kn, out->index, out->start, out->logit, env->threshold[in->stage], k, in->B, in->T);
    out->n = out->start[in->B];
    kn->gather_int(kn, out->position, in->position, out->index, out->n);
}

router_score router_balance(const model_env *env, const router_params *p, const router_params *g, const router_input *in, float scale,
                            route *r)
{
    const kernels *kn = env->kn;
    const int64_t n = in->B * in->T;
    balance_args balance = {.n = n, .logit = r->logit, .threshold = env->threshold[in->stage],
                            .capacity = env->config->mod.capacity[in->stage], .scale = scale, .dlogit = g ? r->dlogit : NULL};
    kn->balance(kn, &balance);
    if (g)
        kn->rowdot_backward(kn, NULL, NULL, g->router, NULL, r->dlogit, in->x, p->router, n, env->config->dim, env->scratch);
    return (router_score){.loss = balance.loss, .agreed = n - r->dropped};
}

void router_causal(const model_env *env, const router_params *p, weight fc1, const router_input *in, const predictor_temps *t, route *out)
{
    const kernels *kn = env->kn;
    const predictor_shape shape = router_predictor(env->config);
    router_logits(env, p, in, out);
    if (p->fc2)
        predictor_forward(env, &shape, p, fc1, in->x, in->B * in->T, t, out->rule);
    kn->above(kn, out->index, out->start, out->rule, env->threshold[in->stage], in->T, in->B, in->T);
    out->n = out->start[in->B];
    kn->gather_int(kn, out->position, in->position, out->index, out->n);
}

router_score router_learn(const model_env *env, const router_params *p, weight fc1, const router_params *g, const router_input *in,
                          const predictor_temps *t, float scale, route *r)
{
    const kernels *kn = env->kn;
    const predictor_shape shape = router_predictor(env->config);
    const int64_t n = in->B * in->T;
    if (p->fc2)
        predictor_forward(env, &shape, p, fc1, in->x, n, t, r->rule);
    bce_args bce = {.n = n, .logit = r->rule, .member = r->member, .scale = scale, .threshold = env->threshold[in->stage],
                    .dlogit = g ? (p->fc2 ? t->dlogit : r->dlogit) : NULL};
    kn->bce(kn, &bce);
    if (g && p->fc2)
        predictor_backward(env, &shape, p, g, in->x, n, t);
    else if (g)
        kn->rowdot_backward(kn, NULL, NULL, g->router, NULL, r->dlogit, in->x, p->router, n, env->config->dim, env->scratch);
    return (router_score){.loss = bce.loss / (double)n, .agreed = bce.agreed};
}

const float *router_gate_logits(const model_config *c, const route *r)
{
    return c->mod.router == MOD_ROUTER_STOCHASTIC || c->mod.gate == MOD_GATE_ONE ? NULL : r->logit;
}
