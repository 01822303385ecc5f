/* The whole model: see transformer.h. */
#include "model/transformer.h"

#include <stdlib.h>
#include <string.h>

#include "model/flops.h"

/* Logits are made for HEAD_FLOATS / V rows at a time, so that [B T, V] never exists whole. */
enum { HEAD_FLOATS = 1 << 21, HEAD_ROWS_MIN = 1024 };

struct workspace {
    const model *m;
    model_env env;
    int64_t B, T; /* largest batch */
    workspace_kind kind;
    void *block;          /* every buffer below, the backend's memory */
    size_t bytes;
    int32_t *starts;      /* host: [L + 1][B + 1]; a row a layer, the last one for plain blocks */
    int32_t *position;    /* [B, T] */
    int32_t *host_position; /* host [B, T] */
    int32_t *tokens, *targets; /* [B, T] */
    float *x, *xf, *rstd; /* the stream [B, T, d]; final norm's output, its s */
    float *loss;          /* [B, T] */
    int64_t head_rows;
    float *logits;        /* [head_rows, V] */
    block_acts *acts;     /* host [L]; all the same one unless training; with recomputation only x_in is a layer's own */
    route *routes;        /* host [L], likewise */
    router_temps router;
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
    kernel_sizes s = {.rows = tokens, .width = most(most(c->dim, c->ffn), c->mod.predictor_hidden), .keys = c->seq_len,
                      .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .vocab = c->vocab};
    if (m->store.type != WEIGHT_F32)
        s.linear_in = most(most(c->dim, att), c->ffn);
    if (m->bf16)
        s.bf16_floats = most(most(product_floats(tokens, c->dim, most(qkv, 2 * c->ffn)), product_floats(tokens, att, c->dim)),
                             most(product_floats(tokens, c->ffn, c->dim), product_floats(ws->head_rows, c->dim, c->vocab)));
    return s;
}

static void plan_shared(workspace *ws, arena *a, int64_t tokens, float *u)
{
    const model_config *c = &ws->m->config;
    block_acts acts;
    route routed = {0};
    block_acts_plan(c, a, tokens, false, u, &acts);
    if (model_routed_layers(c) > 0)
        route_plan(c, a, tokens, tokens, false, &routed);
    for (int64_t l = 0; ws->acts && l < c->layers; l++) {
        ws->acts[l] = acts;
        ws->routes[l] = routed;
    }
}

static void plan_training(workspace *ws, arena *a, int64_t tokens, float *u)
{
    const model_config *c = &ws->m->config;
    const bool recompute = ws->kind == WORKSPACE_RECOMPUTE;
    block_acts shared = {0};
    if (recompute)
        block_acts_plan(c, a, tokens, true, u, &shared);
    for (int64_t l = 0; l < c->layers; l++) {
        const bool routed = model_layer_routed(c, l);
        const int64_t n = routed ? ws->B * model_routed_tokens(c, l, ws->T) : tokens;
        block_acts acts = shared;
        route r = {0};
        if (recompute)
            acts.x_in = floats(a, n, c->dim);
        else
            block_acts_plan(c, a, n, true, routed ? NULL : u, &acts);
        if (routed)
            route_plan(c, a, tokens, n, true, &r);
        if (ws->acts) {
            ws->acts[l] = acts;
            ws->routes[l] = r;
        }
    }
    ws->dx = floats(a, tokens, c->dim);
    block_temps_plan(c, a, tokens, &ws->temps);
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
    router_temps_plan(c, a, tokens, ws->kind != WORKSPACE_FORWARD, &ws->router);
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
    *out = NULL;
    const size_t bytes = workspace_bytes(m, B, T, kind);
    workspace *ws = calloc(1, sizeof *ws);
    if (ws) {
        *ws = (workspace){.m = m, .B = B, .T = T, .kind = kind, .bytes = bytes};
        ws->env = (model_env){.kn = &m->kn, .config = &m->config, .rope_table = m->rope_table,
                                .threshold = m->config.mod.threshold, .bf16 = m->bf16};
        ws->starts = calloc((size_t)((c->layers + 1) * (B + 1)), sizeof *ws->starts);
        ws->host_position = calloc((size_t)(B * T), sizeof *ws->host_position);
        ws->acts = calloc((size_t)c->layers, sizeof *ws->acts);
        ws->routes = calloc((size_t)c->layers, sizeof *ws->routes);
        ws->block = bytes < SIZE_MAX ? m->kn.mem_alloc(&m->kn, bytes) : NULL;
    }
    if (!ws || !ws->starts || !ws->host_position || !ws->acts || !ws->routes || !ws->block) {
        workspace_free(ws);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: activations of %lld x %lld tokens take %.1f MB",
                           (long long)B, (long long)T, (double)bytes * 1e-6);
    }
    arena a = {.base = ws->block, .size = bytes};
    plan(ws, &a);
    for (int64_t l = 0; l < c->layers; l++)
        ws->routes[l].start = ws->starts + l * (B + 1);
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
    free(ws->host_position);
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
    pass_result result;
} pass;

static void begin(workspace *ws, const pass *p)
{
    const kernels *kn = ws->env.kn;
    const int64_t n = p->B * p->T;
    int32_t *start = ws->starts + ws->m->config.layers * (ws->B + 1);
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
                  .start = ws->starts + ws->m->config.layers * (ws->B + 1)};
}

static rows routed_rows(const route *r, int64_t B)
{
    return (rows){.n = r->n, .index = r->index, .position = r->position, .sequences = B, .start = r->start};
}

static double block_flops(const model_config *c, const rows *r, const kv_layer *cache)
{
    double flops = 0;
    for (int64_t s = 0; s < r->sequences; s++) {
        const double n = r->start[s + 1] - r->start[s], before = cache ? (double)cache->length : 0;
        flops += flops_block(c, n, n * before + n * (n + 1) / 2);
    }
    return flops;
}

static void route_layer(workspace *ws, pass *p, int64_t layer)
{
    const model_config *c = &ws->m->config;
    const layer_params *params = &ws->m->params.layer[layer];
    const layer_weights *weights = &ws->m->weights.layer[layer];
    route *r = &ws->routes[layer];
    /* at inference a token's noise depends on its position alone, so that prefill and single steps agree */
    const router_input in = {.layer = layer, .B = p->B, .T = p->T, .x = ws->x, .position = ws->position,
                             .noise_seed = p->seed, .noise_counter = p->noise_counter + (uint64_t)p->position};
    if (p->routing == ROUTING_CAUSAL) {
        router_causal(&ws->env, params, weights, &in, &ws->router, r);
        p->result.flops += flops_routing(c, layer, p->B * p->T, true);
    } else {
        const bool choice = c->mod.router == MOD_ROUTER_TOKEN_CHOICE;
        const bool learn = (p->grads || p->score_rule) && c->mod.causal != MOD_CAUSAL_NOISE;
        (choice ? router_choice : router_topk)(&ws->env, params, &in, r);
        if (learn) {
            const float weight = p->rule_scale * (c->mod.causal == MOD_CAUSAL_PREDICTOR ? 1 : c->mod.aux_weight);
            const layer_params *g = p->grads ? &p->grads->layer[layer] : NULL;
            const router_score score = choice ? router_balance(&ws->env, params, g, &in, weight, r)
                                              : router_learn(&ws->env, params, weights, g, &in, &ws->router, weight, r);
            p->result.dropped += choice ? r->dropped : 0;
            p->result.aux_loss += score.loss;
            p->result.agreed += score.agreed;
            p->result.decided += p->B * p->T;
        }
        p->result.flops += flops_routing(c, layer, p->B * p->T, learn);
    }
    p->result.routed += r->n;
    p->result.routable += p->B * p->T;
    if (ws->visitor)
        ws->visitor(ws->visitor_user, layer, r, p->B, p->T);
}

static void forward(workspace *ws, pass *p)
{
    const kernels *kn = ws->env.kn;
    const model_config *c = &ws->m->config;
    begin(ws, p);
    for (int64_t l = 0; l < c->layers; l++) {
        const bool routed = model_layer_routed(c, l);
        kv_layer *cache = p->cache ? &p->cache[l] : NULL;
        rows r = all_rows(ws, p->B, p->T);
        if (routed) {
            route_layer(ws, p, l);
            r = routed_rows(&ws->routes[l], p->B);
        }
        if (r.n == 0)
            continue;
        p->result.flops += block_flops(c, &r, cache);
        block_update(&ws->env, &ws->m->params.layer[l], &ws->m->weights.layer[l], &r, ws->x, &ws->acts[l], cache);
        kn->scatter_forward(kn, &(scatter_args){.n = r.n, .d = c->dim, .gate = (int)c->mod.gate, .index = r.index,
                                                .logit = routed ? router_gate_logits(c, &ws->routes[l]) : NULL,
                                                .u = ws->acts[l].u, .x = ws->x});
    }
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
        linear_backward(&ws->env, ws->temps.dh + begin * d, p->grads->head, ws->logits, ws->xf + begin * d,
                        ws->m->params.head, m, d, V);
    }
    for (int64_t i = 0; i < n; i++)
        p->result.targets += targets[i] >= 0;
    p->result.loss_sum += kn->sum(kn, ws->loss, n);
    p->result.flops += flops_head(c, n);
}

/* The block's forward pass again, from its packed input: every activation but that input comes back, bit for bit. */
static void recompute_block(workspace *ws, const rows *r, int64_t l)
{
    rows packed = *r;
    packed.index = NULL;
    block_acts acts = ws->acts[l];
    acts.x_in = NULL;
    block_update(&ws->env, &ws->m->params.layer[l], &ws->m->weights.layer[l], &packed, ws->acts[l].x_in, &acts, NULL);
}

/* The block's own part: none where no token was routed. */
static void backward_block(workspace *ws, const rows *r, const float *logit, const layer_params *g, int64_t l)
{
    const kernels *kn = ws->env.kn;
    const model_config *c = &ws->m->config;
    const layer_params *w = &ws->m->params.layer[l];
    const block_acts *acts = &ws->acts[l];
    const block_temps *t = &ws->temps;
    if (ws->kind == WORKSPACE_RECOMPUTE)
        recompute_block(ws, r, l);
    kn->scatter_backward(kn, &(scatter_args){.n = r->n, .d = c->dim, .gate = (int)c->mod.gate, .index = r->index,
                                             .logit = logit, .u = acts->u, .dx = ws->dx, .du = t->du,
                                             .dlogit = logit ? t->dlogit : NULL});
    block_backward(&ws->env, w, g, r, acts, t, ws->dx);
    if (logit)
        kn->rowdot_backward(kn, ws->dx, r->index, g->router, NULL, t->dlogit, acts->x_in, w->router, r->n, c->dim,
                            ws->env.scratch);
}

static void backward_layer(workspace *ws, const pass *p, int64_t l)
{
    const kernels *kn = ws->env.kn;
    const model_config *c = &ws->m->config;
    const bool routed = model_layer_routed(c, l);
    const route *decision = &ws->routes[l];
    const rows r = routed ? routed_rows(decision, p->B) : all_rows(ws, p->B, p->T);
    if (r.n > 0)
        backward_block(ws, &r, routed ? router_gate_logits(c, decision) : NULL, &p->grads->layer[l], l);
    if (routed && decision->dlogit) /* aux and balancing losses read every row; their share of dw was added in the forward pass */
        kn->gemm(kn, &(gemm_args){.m = p->B * p->T, .n = c->dim, .k = 1, .a = decision->dlogit, .lda = 1,
                                  .b = ws->m->params.layer[l].router, .ldb = c->dim, .c = ws->dx, .ldc = c->dim, .alpha = 1,
                                  .beta = 1});
}

pass_result transformer_train(workspace *ws, const model_params *grads, const train_input *in)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    const int64_t n = ws->B * ws->T;
    pass p = {.routing = ROUTING_TOPK, .B = ws->B, .T = ws->T, .tokens = in->tokens, .grads = grads,
              .rule_scale = in->scale, .seed = in->seed, .noise_counter = in->noise_counter};
    forward(ws, &p);
    head_loss(ws, &p, in->targets, 1 / (float)in->total_targets);
    kn->norm_backward(kn, &(norm_args){.n = n, .d = c->dim, .x = ws->x, .weight = ws->m->params.norm, .rstd = ws->rstd,
                                       .dout = ws->temps.dh, .dx = ws->dx, .dweight = grads->norm,
                                       .scratch = ws->env.scratch});
    for (int64_t l = c->layers - 1; l >= 0; l--)
        backward_layer(ws, &p, l);
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
