/* A mixture of experts: see experts.h. */
#include "model/experts.h"

#include "model/products.h"

static predictor_shape rule_shape(const model_config *c)
{
    return (predictor_shape){c->experts.predictor_hidden, c->experts.count};
}

void expert_acts_plan(const model_config *c, arena *a, int64_t n, int64_t rows, bool keep, expert_acts *out)
{
    *out = (expert_acts){
        .p = arena_floats(a, n, c->experts.count + c->experts.no_ops),
        .index = arena_alloc(a, (size_t)rows, sizeof(int32_t)),
        .x = arena_floats(a, rows, c->dim),
        .gate_up = arena_floats(a, rows, 2 * c->ffn),
        .act = arena_floats(a, rows, c->ffn),
        .out = arena_floats(a, rows, c->dim),
        .keep = keep,
    };
}

void expert_temps_plan(const model_config *c, arena *a, int64_t n, bool train, expert_temps *out)
{
    const int64_t E = c->experts.count, all = E + c->experts.no_ops;
    *out = (expert_temps){.value = arena_floats(a, n, 1)};
    if (c->experts.router == EXPERT_ROUTER_TOKEN_CHOICE) {
        out->chosen = arena_floats(a, n, all);
    } else {
        const predictor_shape shape = rule_shape(c);
        out->rule = arena_floats(a, n, E);
        out->member = arena_alloc(a, (size_t)(E * n), 1);
        predictor_temps_plan(&shape, a, n, train, &out->predictor);
    }
    if (train) {
        out->dp = arena_floats(a, n, all);
        out->dout = arena_floats(a, n, c->dim);
        out->dx = arena_floats(a, n, c->dim);
    }
}

static int64_t all_experts(const model_env *env, const expert_pass *pass)
{
    return env->config->experts.count + model_layer_no_ops(env->config, pass->layer);
}

static void probabilities(const model_env *env, const layer_params *p, const float *y, const expert_acts *acts, const expert_pass *pass)
{
    const kernels *kn = env->kn;
    const int64_t all = all_experts(env, pass), d = env->config->dim;
    for (int64_t e = 0; e < all; e++)
        kn->rowdot_forward(kn, acts->p + e * pass->n, y, p->experts + e * d, NULL, pass->n, d);
    kn->expert_softmax(kn, acts->p, all, pass->n);
}

/* What every expert's choice starts from: the tokens' choices, or the causal rule's logits. */
static void prepare(const model_env *env, const layer_params *p, const layer_weights *w, const float *y, const expert_acts *acts,
                    const expert_pass *pass)
{
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const expert_temps *t = pass->temps;
    if (c->experts.router == EXPERT_ROUTER_TOKEN_CHOICE) {
        kn->expert_choose(kn, t->chosen, acts->count, acts->p, all_experts(env, pass), pass->n, c->experts.per_token);
    } else if (pass->causal || pass->score) {
        const predictor_shape shape = rule_shape(c);
        predictor_forward(env, &shape, &p->expert_rule, w->expert_fc1, y, pass->n, &t->predictor, t->rule);
    }
}

/* The rows that expert e takes, into index; returns how many. */
static int64_t take(const model_env *env, const expert_acts *acts, expert_pass *pass, int64_t e, int32_t *index)
{
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const expert_temps *t = pass->temps;
    const int64_t n = pass->n, m = n / pass->sequences, k = pass->causal ? n : model_expert_tokens(c, pass->layer, m);
    const int32_t all[2] = {0, (int32_t)n};
    if (c->experts.router == EXPERT_ROUTER_TOKEN_CHOICE) {
        const bool limited = !pass->causal && model_layer_no_ops(c, pass->layer) > 0;
        const int64_t B = limited ? pass->sequences : 1;
        pass->dropped += kn->above(kn, &(above_args){.sequences = B, .limit = limited ? k : n, .row_start = limited ? pass->start : all,
                                                     .logit = t->chosen + e * n, .threshold = 0.5f, .index = index, .start = t->starts});
        return t->starts[B];
    }
    if (pass->causal) {
        kn->above(kn, &(above_args){.sequences = 1, .limit = n, .row_start = all, .logit = t->rule + e * n, .index = index,
                                    .start = t->starts});
        return t->starts[1];
    }
    kn->topk(kn, index, t->member + e * n, acts->p + e * n, pass->sequences, m, k, env->scratch);
    return pass->sequences * k;
}

/* Expert e on the rows that it took, from row `at` of what is kept on. */
static void run_expert(const model_env *env, const layer_weights *w, const float *y, const expert_acts *acts, const expert_pass *pass,
                       int64_t e, int64_t at, int64_t rows, float *u)
{
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const int64_t d = c->dim, f = c->ffn;
    const int32_t *index = acts->index + at;
    const float *p = acts->p + e * pass->n;
    float *x = acts->x + at * d, *gate_up = acts->gate_up + at * 2 * f, *act = acts->act + at * f, *out = acts->out + at * d;
    gather_rows(kn, x, y, index, rows, d);
    product_forward(env, gate_up, x, expert_weight(c, w->gate_up, e), rows, d, 2 * f, false);
    kn->swiglu_forward(kn, act, gate_up, rows, f);
    product_forward(env, out, act, expert_weight(c, w->down, e), rows, f, d, false);
    kn->scatter_forward(kn, &(scatter_args){.n = rows, .d = d, .gate = MOD_GATE_RAW, .index = index, .logit = p, .u = out, .x = u});
    if (pass->taken) {
        gather_rows(kn, pass->temps->value, p, index, rows, 1);
        kn->scatter_forward(kn, &(scatter_args){.n = rows, .d = 1, .index = index, .u = pass->temps->value, .x = pass->taken});
    }
}

/* Shares that the experts' choices should have: of an expert 1/E, or c/E and, of a no-op expert, (1 - c)/N. */
static double wanted_share(const model_config *c, int64_t layer, int64_t e)
{
    const int64_t E = c->experts.count, N = model_layer_no_ops(c, layer);
    const double capacity = N > 0 ? (double)c->mod.capacity[layer] : 1;
    return e < E ? capacity / (double)E : (1 - capacity) / (double)N;
}

/* f_e / q_e of the balancing loss sum_e f_e P_e / q_e. */
static double pressure(const model_env *env, const expert_acts *acts, const expert_pass *pass, int64_t e)
{
    const double choices = (double)(pass->n * env->config->experts.per_token);
    return (double)acts->count[e] / choices / wanted_share(env->config, pass->layer, e);
}

static void score_balance(const model_env *env, const expert_acts *acts, expert_pass *pass)
{
    const kernels *kn = env->kn;
    const int64_t all = all_experts(env, pass), n = pass->n, choices = n * env->config->experts.per_token;
    for (int64_t e = 0; e < all; e++)
        pass->loss += pressure(env, acts, pass, e) * kn->sum(kn, acts->p + e * n, n) / (double)n;
    if (all > env->config->experts.count) {
        pass->decided = choices;
        pass->agreed = choices - pass->dropped;
    }
}

static void score_rule(const model_env *env, const layer_params *p, const float *y, expert_pass *pass)
{
    const kernels *kn = env->kn;
    const expert_temps *t = pass->temps;
    const predictor_shape shape = rule_shape(env->config);
    const int64_t pairs = shape.outputs * pass->n;
    bce_args bce = {.n = pairs, .logit = t->rule, .member = t->member, .scale = pass->scale,
                    .dlogit = pass->grads ? t->predictor.dlogit : NULL};
    kn->bce(kn, &bce);
    if (pass->grads)
        predictor_backward(env, &shape, &p->expert_rule, &pass->grads->expert_rule, y, pass->n, &t->predictor);
    pass->loss = bce.loss / (double)pairs;
    pass->agreed = bce.agreed;
    pass->decided = pairs;
}

void experts_forward(const model_env *env, const layer_params *p, const layer_weights *w, const float *y, const expert_acts *acts,
                     expert_pass *pass, float *u)
{
    const kernels *kn = env->kn;
    pass->loss = 0;
    pass->agreed = pass->decided = pass->dropped = 0;
    if (pass->taken)
        kn->mem_zero(kn, pass->taken, (size_t)pass->n * sizeof(float));
    probabilities(env, p, y, acts, pass);
    prepare(env, p, w, y, acts, pass);
    acts->start[0] = 0;
    for (int64_t e = 0; e < env->config->experts.count; e++) {
        const int64_t at = acts->keep ? acts->start[e] : 0, rows = take(env, acts, pass, e, acts->index + at);
        acts->start[e + 1] = acts->start[e] + rows;
        if (rows > 0)
            run_expert(env, w, y, acts, pass, e, at, rows, u);
    }
    pass->rows = acts->start[env->config->experts.count];
    if (!pass->score)
        return;
    if (env->config->experts.router == EXPERT_ROUTER_TOKEN_CHOICE)
        score_balance(env, acts, pass);
    else
        score_rule(env, p, y, pass);
}

/* Adds expert e's share to dy, to dp and to its own gradients. */
static void run_expert_backward(const model_env *env, const layer_params *w, const layer_params *g, const expert_acts *acts,
                                const expert_pass *pass, int64_t e, const float *du, float *narrow, float *dy)
{
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const expert_temps *t = pass->temps;
    const int64_t d = c->dim, f = c->ffn, at = acts->start[e], rows = acts->start[e + 1] - at;
    const int32_t *index = acts->index + at;
    float *gate_up = acts->gate_up + at * 2 * f;
    kn->scatter_backward(kn, &(scatter_args){.n = rows, .d = d, .gate = MOD_GATE_RAW, .index = index, .logit = acts->p + e * pass->n,
                                             .u = acts->out + at * d, .dx = du, .du = t->dout, .dlogit = t->value});
    kn->scatter_forward(kn, &(scatter_args){.n = rows, .d = 1, .index = index, .u = t->value, .x = t->dp + e * pass->n});
    product_backward(env, narrow, expert_values(c, g->down, e), t->dout, acts->act + at * f, expert_values(c, w->down, e), rows,
                     f, d);
    kn->swiglu_backward(kn, gate_up, narrow, gate_up, rows, f);
    product_backward(env, t->dx, expert_values(c, g->gate_up, e), gate_up, acts->x + at * d, expert_values(c, w->gate_up, e),
                     rows, d, 2 * f);
    kn->scatter_forward(kn, &(scatter_args){.n = rows, .d = d, .index = index, .u = t->dx, .x = dy});
}

void experts_backward(const model_env *env, const layer_params *w, const layer_params *g, const float *y, const expert_acts *acts,
                      const expert_pass *pass, const float *du, float *narrow, float *dy)
{
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const int64_t n = pass->n, d = c->dim, all = all_experts(env, pass);
    float *dp = pass->temps->dp, shift[2 * MODEL_MAX_EXPERTS];
    kn->mem_zero(kn, dy, (size_t)(n * d) * sizeof(float));
    kn->mem_zero(kn, dp, (size_t)(all * n) * sizeof(float));
    for (int64_t e = 0; e < c->experts.count; e++)
        if (acts->start[e + 1] > acts->start[e])
            run_expert_backward(env, w, g, acts, pass, e, du, narrow, dy);
    const bool balanced = c->experts.router == EXPERT_ROUTER_TOKEN_CHOICE;
    for (int64_t e = 0; balanced && e < all; e++)
        shift[e] = (float)((double)(pass->scale * c->experts.balance_weight) * pressure(env, acts, pass, e) / (double)n);
    kn->expert_softmax_backward(kn, dp, acts->p, balanced ? shift : NULL, all, n);
    kn->gemm(kn, &(gemm_args){.m = all, .n = d, .k = n, .a = dp, .lda = n, .b = y, .ldb = d, .c = g->experts, .ldc = d, .alpha = 1,
                              .beta = 1, .scratch = env->scratch});
    kn->gemm(kn, &(gemm_args){.trans_a = true, .m = n, .n = d, .k = all, .a = dp, .lda = n, .b = w->experts, .ldb = d, .c = dy, .ldc = d,
                              .alpha = 1, .beta = 1, .scratch = env->scratch});
}
