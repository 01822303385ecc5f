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
    const uint64_t stream = RNG_ROUTE + ((uint64_t)in->stage << 8);
    if (p->router)
        kn->rowdot_forward(kn, out->logit, in->x, p->router, NULL, in->start[in->B], env->config->dim);
    else if (!in->host_position)
        kn->noise(kn, out->logit, in->noise_seed, stream, in->noise_counter, in->start[in->B]);
    else /* by its position alone, so that prefill and single steps agree, in a batch and out of it */
        for (int64_t b = 0; b < in->B; b++)
            if (in->start[b + 1] > in->start[b])
                kn->noise(kn, out->logit + in->start[b], in->noise_seed, stream, (uint64_t)in->host_position[in->start[b]],
                          in->start[b + 1] - in->start[b]);
}

/* The rows that pass, into the route; returns how many more there were. */
static int64_t take_above(const model_env *env, const router_input *in, const float *logit, int64_t limit, route *out)
{
    const kernels *kn = env->kn;
    const int64_t dropped =
        kn->above(kn, &(above_args){.sequences = in->B, .limit = limit, .row_start = in->start, .logit = logit,
                                    .threshold = env->threshold[in->stage], .thresholds = in->thresholds, .index = out->index,
                                    .start = out->start});
    out->n = out->start[in->B];
    kn->gather_int(kn, out->position, in->position, out->index, out->n);
    return dropped;
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
    router_logits(env, p, in, out);
    out->dropped = take_above(env, in, out->logit, model_widened_tokens(env->config, in->stage, in->T, in->widen), out);
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
    const predictor_shape shape = router_predictor(env->config);
    router_logits(env, p, in, out);
    if (p->fc2)
        predictor_forward(env, &shape, p, fc1, in->x, in->start[in->B], t, out->rule);
    take_above(env, in, out->rule, in->start[in->B], out);
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
