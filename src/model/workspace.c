/* A workspace: every buffer of a pass, planned before the first one. See transformer.h. */
#include "model/workspace.h"

#include <stdlib.h>

/* Logits are made for HEAD_FLOATS / V rows at a time, so that [B T, V] never exists whole. */
enum { HEAD_FLOATS = 1 << 21, HEAD_ROWS_MIN = 1024 };

static int64_t head_rows_for(const model_config *c, int64_t tokens)
{
    int64_t n = HEAD_FLOATS / c->vocab;
    if (n < HEAD_ROWS_MIN)
        n = HEAD_ROWS_MIN;
    return n < tokens ? n : tokens;
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
    kernel_sizes s = {.rows = tokens, .width = most(most(c->dim, c->ffn), most(hidden, model_has_qkv_bias(c) ? qkv : 0)), .keys = c->seq_len,
                      .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .vocab = c->vocab};
    s.linear_in = most(most(c->dim, att), most(c->ffn, hidden));
    s.packed = m->store.type != WEIGHT_F32;
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
    s.dense = model_stage_dense(c, stage);
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
            acts.x_all = arena_floats(a, tokens, c->dim);
        else if (recompute)
            acts.x_in = arena_floats(a, sizes.n, c->dim);
        else
            block_acts_plan(c, a, &sizes, &acts);
        if (model_stage_skips(c, s))
            route_plan(c, a, tokens, sizes.n, true, &r);
        if (ws->acts) {
            ws->acts[s] = acts;
            ws->routes[s] = r;
        }
    }
    ws->dx = arena_floats(a, tokens, c->dim);
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
    ws->x = arena_floats(a, tokens, c->dim);
    ws->xf = arena_floats(a, tokens, c->dim);
    ws->rstd = arena_floats(a, tokens, 1);
    ws->loss = arena_floats(a, tokens, 1);
    ws->head_rows = head_rows_for(c, tokens);
    ws->logits = arena_floats(a, ws->head_rows, c->vocab);
    float *u = arena_floats(a, tokens, c->dim);
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
        ws->thresholds = calloc((size_t)B, sizeof *ws->thresholds);
        ws->acts = calloc((size_t)stages, sizeof *ws->acts);
        ws->routes = calloc((size_t)stages, sizeof *ws->routes);
        ws->block = bytes < SIZE_MAX ? m->kn.mem_alloc(&m->kn, bytes) : NULL;
    }
    if (!ws || !ws->starts || !ws->expert_start || !ws->expert_count || !ws->host_position || !ws->host_index ||
        !ws->thresholds || !ws->acts || !ws->routes || !ws->block) {
        workspace_free(ws);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: activations of %lld x %lld tokens take %.1f MB",
                           (long long)B, (long long)T, (double)bytes * 1e-6);
    }
    arena a = {.base = ws->block, .size = bytes};
    plan(ws, &a);
    if (ws->temps.ones) {
        const float one = 1;
        m->kn.mem_upload(&m->kn, ws->temps.ones, &one, sizeof one);
        m->kn.copy_rows(&m->kn, ws->temps.ones + 1, 1, ws->temps.ones, 0, B * T - 1, 1);
    }
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
    free(ws->thresholds);
    free(ws->acts);
    free(ws->routes);
    free(ws);
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
