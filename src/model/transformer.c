/* The whole model: see transformer.h. */
#include "model/transformer.h"

#include <stdlib.h>
#include <string.h>

#include "model/flops.h"
#include "model/products.h"

/* Logits are made for HEAD_FLOATS / V rows at a time, so that [B T, V] never exists whole. */
enum { HEAD_FLOATS = 1 << 21, HEAD_ROWS_MIN = 1024 };

struct workspace {
    const model *m;
    model_env env;
    int64_t B, T; /* largest batch */
    workspace_kind kind;
    void *block;          /* every buffer below, the backend's memory */
    size_t bytes;
    int32_t *starts;      /* host: [S + 2][B + 1]; a row a stage, one for plain blocks, one for experts */
    int32_t *expert_start; /* host [L, E + 1] */
    int64_t *expert_count; /* host [L, E + N] */
    int32_t *position;    /* [B, T] */
    int32_t *host_position, *host_index; /* host [B, T] */
    int32_t *tokens, *targets; /* [B, T] */
    float *x, *xf, *rstd; /* the stream [B, T, d]; final norm's output, its s */
    float *loss;          /* [B, T] */
    int64_t head_rows;
    float *logits;        /* [head_rows, V] */
    block_acts *acts;     /* host [S]; all the same one unless training; with recomputation only its input is a stage's own */
    route *routes;        /* host [S], likewise */
    predictor_temps router;
    expert_temps experts;
    float *dx;            /* training: gradient of the stream [B, T, d] */
    block_temps temps;
    route_visitor visitor;
    void *visitor_user;
};

static int64_t head_rows_for(const model_config *c, int64_t tokens)
{
    int64_t n = HEAD_FLOATS / c->vocab;
    if (n < HEAD_ROWS_MIN)
        n = HEAD_ROWS_MIN;
    return n < tokens ? n : tokens;
}

static float *floats(arena *a, int64_t n, int64_t width)
{
    return arena_alloc(a, (size_t)n, (size_t)width * sizeof(float));
}

/* Elements of the two larger operands of y [n, out] = x [n, in] w^T and of its backward products. */
static int64_t product_floats(int64_t n, int64_t in, int64_t out)
{
    const int64_t x = n * in, y = n * out, w = in * out, all = x + y + w;
    const int64_t least = x < y ? (x < w ? x : w) : (y < w ? y : w);
    return all - least;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static kernel_sizes sizes_of(const workspace *ws, int64_t tokens)
{
    const model *m = ws->m;
    const model_config *c = &m->config;
    const int64_t att = c->heads * c->head_dim, qkv = att + 2 * c->kv_heads * c->head_dim;
    const int64_t hidden = most(c->mod.predictor_hidden, c->experts.predictor_hidden);
    kernel_sizes s = {.rows = tokens, .width = most(most(c->dim, c->ffn), hidden), .keys = c->seq_len,
                      .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .vocab = c->vocab};
    if (m->store.type != WEIGHT_F32)
        s.linear_in = most(most(c->dim, att), c->ffn);
    if (m->bf16)
        s.bf16_floats = most(most(product_floats(tokens, c->dim, most(qkv, 2 * c->ffn)), product_floats(tokens, att, c->dim)),
                             most(product_floats(tokens, c->ffn, c->dim), product_floats(ws->head_rows, c->dim, c->vocab)));
    return s;
}

/* Every (token, expert) pair that any layer's experts may take in training. */
static int64_t most_expert_rows(const workspace *ws)
{
    const model_config *c = &ws->m->config;
    int64_t rows = 0;
    for (int64_t l = 0; c->experts.count > 0 && l < c->layers; l++)
        rows = most(rows, model_expert_rows(c, l, ws->B, ws->T));
    return rows;
}

/* Room for any stage of the model. */
static block_sizes any_stage(const workspace *ws, float *u)
{
    const model_config *c = &ws->m->config;
    const int64_t tokens = ws->B * ws->T;
    return (block_sizes){.stage = {0, true, true}, .n = tokens, .all = tokens, .shared_u = u,
                         .dense = c->mod.dense_kv && model_routed_stages(c) > 0};
}

static void plan_shared(workspace *ws, arena *a, int64_t tokens, float *u)
{
    const model_config *c = &ws->m->config;
    block_acts acts;
    route routed = {0};
    block_sizes sizes = any_stage(ws, u);
    sizes.expert_rows = tokens;
    block_acts_plan(c, a, &sizes, &acts);
    if (model_skipping_stages(c) > 0)
        route_plan(c, a, tokens, tokens, false, &routed);
    for (int64_t s = 0; ws->acts && s < model_stages(c); s++) {
        ws->acts[s] = acts;
        ws->routes[s] = routed;
    }
}

static block_sizes stage_sizes(const workspace *ws, int64_t stage, float *u)
{
    const model_config *c = &ws->m->config;
    const bool routed = model_stage_routed(c, stage);
    const int64_t k = routed ? model_widened_tokens(c, stage, ws->T, ws->kind & WORKSPACE_WIDE ? 1 : 0) : ws->T;
    block_sizes s = {.stage = model_stage_at(c, stage), .n = ws->B * k, .all = ws->B * ws->T, .backward = true,
                     .shared_u = routed ? NULL : u};
    s.dense = routed && c->mod.dense_kv && s.stage.attention;
    s.expert_rows = c->experts.count > 0 ? model_expert_rows(c, s.stage.layer, ws->B, k) : 0;
    return s;
}

static void plan_training(workspace *ws, arena *a, int64_t tokens, float *u)
{
    const model_config *c = &ws->m->config;
    const bool recompute = ws->kind & WORKSPACE_RECOMPUTE;
    block_acts shared = {0};
    if (recompute) {
        block_sizes sizes = any_stage(ws, u);
        sizes.backward = true;
        sizes.expert_rows = most_expert_rows(ws);
        block_acts_plan(c, a, &sizes, &shared);
    }
    for (int64_t s = 0; s < model_stages(c); s++) {
        const block_sizes sizes = stage_sizes(ws, s, u);
        block_acts acts = shared;
        route r = {0};
        if (recompute && sizes.dense)
            acts.x_all = floats(a, tokens, c->dim);
        else if (recompute)
            acts.x_in = floats(a, sizes.n, c->dim);
        else
            block_acts_plan(c, a, &sizes, &acts);
        if (model_stage_skips(c, s))
            route_plan(c, a, tokens, sizes.n, true, &r);
        if (ws->acts) {
            ws->acts[s] = acts;
            ws->routes[s] = r;
        }
    }
    ws->dx = floats(a, tokens, c->dim);
    block_temps_plan(c, a, tokens, &ws->temps);
}

static void plan_rules(workspace *ws, arena *a, int64_t tokens)
{
    const model_config *c = &ws->m->config;
    const predictor_shape shape = router_predictor(c);
    const bool train = ws->kind != WORKSPACE_FORWARD;
    if (shape.hidden > 0)
        predictor_temps_plan(&shape, a, tokens, train, &ws->router);
    if (c->experts.count > 0)
        expert_temps_plan(c, a, tokens, train, &ws->experts);
}

static void plan(workspace *ws, arena *a)
{
    const model *m = ws->m;
    const model_config *c = &m->config;
    const int64_t tokens = ws->B * ws->T;
    ws->position = arena_alloc(a, (size_t)tokens, sizeof(int32_t));
    ws->tokens = arena_alloc(a, (size_t)tokens, sizeof(int32_t));
    ws->targets = arena_alloc(a, (size_t)tokens, sizeof(int32_t));
    ws->x = floats(a, tokens, c->dim);
    ws->xf = floats(a, tokens, c->dim);
    ws->rstd = floats(a, tokens, 1);
    ws->loss = floats(a, tokens, 1);
    ws->head_rows = head_rows_for(c, tokens);
    ws->logits = floats(a, ws->head_rows, c->vocab);
    float *u = floats(a, tokens, c->dim);
    (ws->kind == WORKSPACE_FORWARD ? plan_shared : plan_training)(ws, a, tokens, u);
    plan_rules(ws, a, tokens);
    const kernel_sizes sizes = sizes_of(ws, tokens);
    ws->env.scratch = arena_alloc(a, m->kn.scratch_bytes(&m->kn, &sizes), 1);
}

size_t workspace_bytes(const model *m, int64_t B, int64_t T, workspace_kind kind)
{
    workspace ws = {.m = m, .B = B, .T = T, .kind = kind};
    arena measure = {0};
    plan(&ws, &measure);
    return measure.overflow ? SIZE_MAX : measure.used;
}

fathom_status workspace_new(const model *m, int64_t B, int64_t T, workspace_kind kind, workspace **out, fathom_error *err)
{
    const model_config *c = &m->config;
    const int64_t stages = model_stages(c), all_experts = c->experts.count + c->experts.no_ops;
    *out = NULL;
    const size_t bytes = workspace_bytes(m, B, T, kind);
    workspace *ws = calloc(1, sizeof *ws);
    if (ws) {
        *ws = (workspace){.m = m, .B = B, .T = T, .kind = kind, .bytes = bytes};
        ws->env = (model_env){.kn = &m->kn, .config = &m->config, .rope_table = m->rope_table,
                                .threshold = m->config.mod.threshold, .bf16 = m->bf16};
        ws->starts = calloc((size_t)((stages + 2) * (B + 1)), sizeof *ws->starts);
        ws->expert_start = calloc((size_t)(c->layers * (c->experts.count + 1)), sizeof *ws->expert_start);
        ws->expert_count = calloc((size_t)(c->layers * all_experts + 1), sizeof *ws->expert_count);
        ws->host_position = calloc((size_t)(B * T), sizeof *ws->host_position);
        ws->host_index = calloc((size_t)(B * T), sizeof *ws->host_index);
        ws->acts = calloc((size_t)stages, sizeof *ws->acts);
        ws->routes = calloc((size_t)stages, sizeof *ws->routes);
        ws->block = bytes < SIZE_MAX ? m->kn.mem_alloc(&m->kn, bytes) : NULL;
    }
    if (!ws || !ws->starts || !ws->expert_start || !ws->expert_count || !ws->host_position || !ws->host_index || !ws->acts ||
        !ws->routes || !ws->block) {
        workspace_free(ws);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: activations of %lld x %lld tokens take %.1f MB",
                           (long long)B, (long long)T, (double)bytes * 1e-6);
    }
    arena a = {.base = ws->block, .size = bytes};
    plan(ws, &a);
    for (int64_t s = 0; s < stages; s++) {
        const int64_t l = model_stage_at(c, s).layer;
        ws->routes[s].start = ws->starts + s * (B + 1);
        ws->acts[s].experts.start = ws->expert_start + l * (c->experts.count + 1);
        ws->acts[s].experts.count = ws->expert_count + l * all_experts;
    }
    ws->experts.starts = ws->starts + (stages + 1) * (B + 1);
    *out = ws;
    return FATHOM_OK;
}

void workspace_free(workspace *ws)
{
    if (!ws)
        return;
    if (ws->block)
        ws->m->kn.mem_free(&ws->m->kn, ws->block);
    free(ws->starts);
    free(ws->expert_start);
    free(ws->expert_count);
    free(ws->host_position);
    free(ws->host_index);
    free(ws->acts);
    free(ws->routes);
    free(ws);
}

int64_t workspace_logit_rows(const workspace *ws)
{
    return ws->head_rows;
}

void workspace_set_visitor(workspace *ws, route_visitor visitor, void *user)
{
    ws->visitor = visitor;
    ws->visitor_user = user;
}

const expert_acts *workspace_experts(const workspace *ws, int64_t layer)
{
    const model_config *c = &ws->m->config;
    for (int64_t s = 0; c->experts.count > 0 && s < model_stages(c); s++)
        if (model_stage_at(c, s).mlp && model_stage_at(c, s).layer == layer)
            return &ws->acts[s].experts;
    return NULL;
}

void workspace_set_thresholds(workspace *ws, const float *threshold)
{
    ws->env.threshold = threshold ? threshold : ws->m->config.mod.threshold;
}

/* What one pass is about. */
typedef struct pass {
    routing routing;
    bool score_rule;
    int64_t B, T, position; /* position of the first token of each sequence */
    const int32_t *tokens;  /* host [B, T] */
    kv_layer *cache;        /* [L] or NULL; B = 1 */
    const model_params *grads; /* training, else NULL */
    float rule_scale;
    uint64_t seed, noise_counter;
    double widen;
    pass_result result;
} pass;

static void begin(workspace *ws, const pass *p)
{
    const kernels *kn = ws->env.kn;
    const int64_t n = p->B * p->T;
    int32_t *start = ws->starts + model_stages(&ws->m->config) * (ws->B + 1);
    for (int64_t b = 0; b < p->B; b++) {
        start[b] = (int32_t)(b * p->T);
        for (int64_t t = 0; t < p->T; t++)
            ws->host_position[b * p->T + t] = (int32_t)(p->position + t);
    }
    start[p->B] = (int32_t)n;
    kn->mem_upload(kn, ws->position, ws->host_position, (size_t)n * sizeof *ws->position);
    kn->mem_upload(kn, ws->tokens, p->tokens, (size_t)n * sizeof *ws->tokens);
    kn->embed_forward(kn, ws->x, ws->m->weights.embed, ws->tokens, n, ws->m->config.dim);
}

static rows all_rows(const workspace *ws, int64_t B, int64_t T)
{
    return (rows){.n = B * T, .position = ws->position, .sequences = B,
                  .start = ws->starts + model_stages(&ws->m->config) * (ws->B + 1)};
}

static rows routed_rows(const route *r, int64_t B)
{
    return (rows){.n = r->n, .index = r->index, .position = r->position, .sequences = B, .start = r->start};
}

/* (query, key) pairs of a stage. Dense keys: a query sees as many as its position says, from 0 on. */
static double visible_pairs(workspace *ws, const rows *r, const kv_layer *cache, bool dense)
{
    double pairs = 0;
    if (dense) {
        ws->env.kn->mem_download(ws->env.kn, ws->host_index, r->index, (size_t)r->n * sizeof *ws->host_index);
        for (int64_t i = 0; i < r->n; i++)
            pairs += (double)ws->host_position[ws->host_index[i]] + 1;
        return pairs;
    }
    for (int64_t s = 0; s < r->sequences; s++) {
        const double n = r->start[s + 1] - r->start[s], before = cache ? (double)cache->length : 0;
        pairs += n * before + n * (n + 1) / 2;
    }
    return pairs;
}

/* Does this pass judge the causal rule, where there is one to judge? */
static bool scores(const pass *p)
{
    return p->routing == ROUTING_TOPK && (p->grads || p->score_rule);
}

static void route_stage(workspace *ws, pass *p, int64_t stage)
{
    const model_config *c = &ws->m->config;
    const router_params *params = &ws->m->params.router[stage];
    const weight fc1 = ws->m->weights.fc1[stage];
    route *r = &ws->routes[stage];
    /* at inference a token's noise depends on its position alone, so that prefill and single steps agree */
    const router_input in = {.stage = stage, .B = p->B, .T = p->T, .widen = p->widen, .x = ws->x, .position = ws->position,
                             .noise_seed = p->seed, .noise_counter = p->noise_counter + (uint64_t)p->position};
    r->x = ws->x;
    if (p->routing == ROUTING_CAUSAL) {
        router_causal(&ws->env, params, fc1, &in, &ws->router, r);
        p->result.flops += flops_routing(c, stage, p->B * p->T, true);
    } else {
        const bool choice = c->mod.router == MOD_ROUTER_TOKEN_CHOICE;
        const bool learn = scores(p) && c->mod.causal != MOD_CAUSAL_NOISE;
        (choice ? router_choice : router_topk)(&ws->env, params, &in, r);
        if (learn) {
            const float weight = p->rule_scale * (c->mod.causal == MOD_CAUSAL_PREDICTOR ? 1 : c->mod.aux_weight);
            const router_params *g = p->grads ? &p->grads->router[stage] : NULL;
            const router_score score = choice ? router_balance(&ws->env, params, g, &in, weight, r)
                                              : router_learn(&ws->env, params, fc1, g, &in, &ws->router, weight, r);
            p->result.dropped += choice ? r->dropped : 0;
            p->result.aux_loss += score.loss;
            p->result.agreed += score.agreed;
            p->result.decided += p->B * p->T;
        }
        p->result.flops += flops_routing(c, stage, p->B * p->T, learn);
    }
    p->result.routed += r->n;
    p->result.routable += p->B * p->T;
    if (ws->visitor)
        ws->visitor(ws->visitor_user, stage, r, p->B, p->T);
}

static expert_pass expert_pass_of(const workspace *ws, const pass *p, int64_t stage)
{
    const model_config *c = &ws->m->config;
    const int64_t layer = model_stage_at(c, stage).layer;
    return (expert_pass){.layer = layer, .causal = p->routing == ROUTING_CAUSAL, .score = scores(p), .scale = p->rule_scale,
                         .grads = p->grads ? &p->grads->layer[layer] : NULL, .temps = &ws->experts,
                         .taken = ws->visitor && model_layer_no_ops(c, layer) > 0 ? ws->routes[stage].logit : NULL};
}

/* What a layer's experts did, into the result; for a visitor the layer looks as if it had been routed, by the sum of p. */
static void count_experts(workspace *ws, pass *p, int64_t stage, const expert_pass *experts)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    p->result.aux_loss += experts->loss;
    p->result.agreed += experts->agreed;
    p->result.decided += experts->decided;
    p->result.dropped += experts->dropped;
    if (model_layer_no_ops(c, experts->layer) == 0)
        return;
    p->result.routed += experts->rows;
    p->result.routable += experts->n * c->experts.per_token;
    if (experts->taken) {
        route *r = &ws->routes[stage];
        kn->above(kn, r->index, r->start, r->logit, 0, p->T, p->B, p->T);
        r->n = r->start[p->B];
        r->x = ws->x;
        kn->gather_int(kn, r->position, ws->position, r->index, r->n);
        ws->visitor(ws->visitor_user, stage, r, p->B, p->T);
    }
}

static block_work work_on(const workspace *ws, int64_t stage, const rows *r, const rows *all, expert_pass *experts)
{
    const model_stage at = model_stage_at(&ws->m->config, stage);
    return (block_work){.env = &ws->env, .stage = at, .p = &ws->m->params.layer[at.layer], .w = &ws->m->weights.layer[at.layer],
                        .r = r, .all = all, .experts = experts};
}

static void run_stage(workspace *ws, pass *p, int64_t stage)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    const bool routed = model_stage_routed(c, stage);
    const model_stage at = model_stage_at(c, stage);
    const bool dense = routed && c->mod.dense_kv && at.attention, experts = c->experts.count > 0 && at.mlp;
    kv_layer *cache = p->cache && at.attention ? &p->cache[at.layer] : NULL;
    const rows all = all_rows(ws, p->B, p->T);
    rows r = all;
    if (routed) {
        route_stage(ws, p, stage);
        r = routed_rows(&ws->routes[stage], p->B);
    }
    if (r.n == 0 && !dense)
        return;
    stage_work done = {.n = (double)r.n, .kv = (double)(dense ? all.n : r.n)};
    done.pairs = at.attention ? visible_pairs(ws, &r, cache, dense) : 0;
    expert_pass choice = expert_pass_of(ws, p, stage);
    const block_work b = work_on(ws, stage, &r, &all, &choice);
    block_update(&b, ws->x, &ws->acts[stage], cache);
    if (experts && r.n > 0) {
        count_experts(ws, p, stage, &choice);
        done.expert_rows = (double)choice.rows;
        done.judged = model_has_expert_predictor(c) && (choice.causal || choice.score) ? (double)r.n : 0;
    }
    p->result.flops += flops_stage(c, stage, &done);
    if (r.n > 0)
        kn->scatter_forward(kn, &(scatter_args){.n = r.n, .d = c->dim, .gate = (int)c->mod.gate, .index = r.index,
                                                .logit = routed ? router_gate_logits(c, &ws->routes[stage]) : NULL,
                                                .u = ws->acts[stage].u, .x = ws->x});
}

static void forward(workspace *ws, pass *p)
{
    begin(ws, p);
    for (int64_t s = 0; s < model_stages(&ws->m->config); s++)
        run_stage(ws, p, s);
}

/* logits of rows [begin, begin + n) of xf */
static void head_logits(workspace *ws, int64_t begin, int64_t n)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    kn->linear(kn, &(linear_args){.n = n, .in = c->dim, .out = c->vocab, .x = ws->xf + begin * c->dim,
                                  .w = ws->m->weights.head, .y = ws->logits, .bf16 = ws->env.bf16,
                                  .scratch = ws->env.scratch});
}

static void final_norm(workspace *ws, int64_t n)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    kn->norm_forward(kn, &(norm_args){.n = n, .d = c->dim, .eps = c->norm_eps, .x = ws->x, .weight = ws->m->params.norm,
                                      .out = ws->xf, .rstd = ws->rstd});
}

/* Loss of every row; with gradients, scaled, also the head's backward, whose input gradient goes into temps.dh. */
static void head_loss(workspace *ws, pass *p, const int32_t *targets, float scale)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    const int64_t n = p->B * p->T, d = c->dim, V = c->vocab;
    kn->mem_upload(kn, ws->targets, targets, (size_t)n * sizeof *targets);
    final_norm(ws, n);
    for (int64_t begin = 0; begin < n; begin += ws->head_rows) {
        const int64_t m = n - begin < ws->head_rows ? n - begin : ws->head_rows;
        head_logits(ws, begin, m);
        kn->cross_entropy(kn, ws->loss + begin, ws->logits, ws->targets + begin, scale, m, V);
        if (scale == 0)
            continue;
        product_backward(&ws->env, ws->temps.dh + begin * d, p->grads->head, ws->logits, ws->xf + begin * d,
                        ws->m->params.head, m, d, V);
    }
    for (int64_t i = 0; i < n; i++)
        p->result.targets += targets[i] >= 0;
    p->result.loss_sum += kn->sum(kn, ws->loss, n);
    p->result.flops += flops_head(c, n);
}

/* The stage's forward pass again, from its own input: every activation but that input comes back, bit for bit. */
static void recompute_stage(workspace *ws, const block_work *b, int64_t stage)
{
    block_acts acts = ws->acts[stage];
    rows packed = *b->r;
    expert_pass again = *b->experts;
    block_work work = *b;
    work.experts = &again;
    again.score = false;
    again.taken = NULL;
    if (acts.x_all && b->r->index && b->env->config->mod.dense_kv && b->stage.attention) {
        const float *x = acts.x_all;
        acts.x_all = NULL;
        block_update(&work, x, &acts, NULL);
        return;
    }
    packed.index = NULL;
    work.r = &packed;
    acts.x_in = NULL;
    block_update(&work, ws->acts[stage].x_in, &acts, NULL);
}

/* The stage's own part: none where no token was routed, but for dense keys, which nobody then reads. */
static void backward_rows(workspace *ws, const pass *p, int64_t stage, const rows *r, const float *logit)
{
    const kernels *kn = ws->env.kn;
    const model_config *c = &ws->m->config;
    const block_acts *acts = &ws->acts[stage];
    const block_temps *t = &ws->temps;
    const rows all = all_rows(ws, p->B, p->T);
    expert_pass experts = expert_pass_of(ws, p, stage);
    const block_work b = work_on(ws, stage, r, &all, &experts);
    if (ws->kind & WORKSPACE_RECOMPUTE)
        recompute_stage(ws, &b, stage);
    kn->scatter_backward(kn, &(scatter_args){.n = r->n, .d = c->dim, .gate = (int)c->mod.gate, .index = r->index,
                                             .logit = logit, .u = acts->u, .dx = ws->dx, .du = t->du,
                                             .dlogit = logit ? t->dlogit : NULL});
    block_backward(&b, &p->grads->layer[b.stage.layer], acts, t, ws->dx);
    if (logit)
        kn->rowdot_backward(kn, ws->dx, r->index, p->grads->router[stage].router, NULL, t->dlogit, acts->x_in,
                            ws->m->params.router[stage].router, r->n, c->dim, ws->env.scratch);
}

static void backward_stage(workspace *ws, const pass *p, int64_t stage)
{
    const kernels *kn = ws->env.kn;
    const model_config *c = &ws->m->config;
    const bool routed = model_stage_routed(c, stage);
    const route *decision = &ws->routes[stage];
    const rows r = routed ? routed_rows(decision, p->B) : all_rows(ws, p->B, p->T);
    if (r.n > 0)
        backward_rows(ws, p, stage, &r, routed ? router_gate_logits(c, decision) : NULL);
    if (routed && decision->dlogit) /* aux and balancing losses read every row; their share of dw was added in the forward pass */
        kn->gemm(kn, &(gemm_args){.m = p->B * p->T, .n = c->dim, .k = 1, .a = decision->dlogit, .lda = 1,
                                  .b = ws->m->params.router[stage].router, .ldb = c->dim, .c = ws->dx, .ldc = c->dim, .alpha = 1,
                                  .beta = 1});
}

pass_result transformer_train(workspace *ws, const model_params *grads, const train_input *in)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    const int64_t n = ws->B * ws->T;
    pass p = {.routing = ROUTING_TOPK, .B = ws->B, .T = ws->T, .tokens = in->tokens, .grads = grads,
              .rule_scale = in->scale, .seed = in->seed, .noise_counter = in->noise_counter, .widen = in->widen};
    forward(ws, &p);
    head_loss(ws, &p, in->targets, 1 / (float)in->total_targets);
    kn->norm_backward(kn, &(norm_args){.n = n, .d = c->dim, .x = ws->x, .weight = ws->m->params.norm, .rstd = ws->rstd,
                                       .dout = ws->temps.dh, .dx = ws->dx, .dweight = grads->norm,
                                       .scratch = ws->env.scratch});
    for (int64_t s = model_stages(c) - 1; s >= 0; s--)
        backward_stage(ws, &p, s);
    kn->embed_backward(kn, grads->embed, ws->dx, ws->tokens, n, c->dim);
    return p.result;
}

pass_result transformer_loss(workspace *ws, routing r, bool score_rule, int64_t B, int64_t T, const int32_t *tokens,
                             const int32_t *targets)
{
    pass p = {.routing = r, .score_rule = score_rule, .B = B, .T = T, .tokens = tokens, .rule_scale = 1};
    forward(ws, &p);
    head_loss(ws, &p, targets, 0);
    return p.result;
}

void workspace_token_losses(const workspace *ws, int64_t n, float *host)
{
    ws->env.kn->mem_download(ws->env.kn, host, ws->loss, (size_t)n * sizeof *host);
}

void transformer_append(workspace *ws, kv_layer *cache, int64_t position, const int32_t *tokens, int64_t count,
                        int64_t wanted, float *logits, pass_result *result)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    pass p = {.routing = ROUTING_CAUSAL, .B = 1, .T = count, .position = position, .tokens = tokens, .cache = cache};
    forward(ws, &p);
    final_norm(ws, count);
    head_logits(ws, count - wanted, wanted);
    kn->mem_download(kn, logits, ws->logits, (size_t)(wanted * c->vocab) * sizeof *logits);
    p.result.flops += flops_head(c, wanted);
    *result = p.result;
}
