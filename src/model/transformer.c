/* The passes over the whole model: see transformer.h. */
#include <assert.h>

#include "model/flops.h"
#include "model/products.h"
#include "model/workspace.h"

/* What one pass is about. */
typedef struct pass {
    routing routing;
    bool score_rule;
    int64_t B, T;           /* sequences; tokens of each, unless they are appended to some */
    int64_t n;              /* tokens in all */
    const int32_t *tokens;  /* host [n] */
    const append_input *append; /* NULL: sequences by themselves */
    const model_params *grads; /* training, else NULL */
    float rule_scale;
    uint64_t seed, noise_counter;
    double widen;
    pass_result result;
} pass;

static void begin(workspace *ws, const pass *p)
{
    const kernels *kn = ws->env.kn;
    const append_input *append = p->append;
    int32_t *start = ws->starts + model_stages(&ws->m->config) * (ws->B + 1);
    for (int64_t b = 0, row = 0; b < p->B; b++) {
        const int64_t count = append ? append->start[b + 1] - append->start[b] : p->T;
        const int64_t first = append ? append->sequence[b]->length : 0;
        start[b] = (int32_t)row;
        for (int64_t t = 0; t < count; t++)
            ws->host_position[row++] = (int32_t)(first + t);
    }
    start[p->B] = (int32_t)p->n;
    kn->mem_upload(kn, ws->position, ws->host_position, (size_t)p->n * sizeof *ws->position);
    kn->mem_upload(kn, ws->tokens, p->tokens, (size_t)p->n * sizeof *ws->tokens);
    kn->embed_forward(kn, ws->x, ws->m->weights.embed, ws->tokens, p->n, ws->m->config.dim);
}

static rows all_rows(const workspace *ws, const pass *p)
{
    return (rows){.n = p->n, .position = ws->position, .sequences = p->B,
                  .start = ws->starts + model_stages(&ws->m->config) * (ws->B + 1)};
}

static rows routed_rows(const route *r, int64_t B)
{
    return (rows){.n = r->n, .index = r->index, .position = r->position, .sequences = B, .start = r->start};
}

/* (query, key) pairs of a stage before its keys are appended; position: host, of the rows. Dense keys: a query sees as many as its
 * position says, from 0 on. */
static double visible_pairs(const pass *p, const rows *r, int64_t layer, const int32_t *position, bool dense)
{
    double pairs = 0;
    if (dense) {
        for (int64_t i = 0; i < r->n; i++)
            pairs += (double)position[i] + 1;
        return pairs;
    }
    for (int64_t s = 0; s < r->sequences; s++) {
        const double n = r->start[s + 1] - r->start[s], before = p->append ? (double)p->append->sequence[s]->layer[layer].length : 0;
        pairs += n * before + n * (n + 1) / 2;
    }
    return pairs;
}

/* Does this pass judge the causal rule, where there is one to judge? */
static bool scores(const pass *p)
{
    return p->routing == ROUTING_TOPK && (p->grads || p->score_rule);
}

static void visit(const workspace *ws, const pass *p, int64_t stage)
{
    if (ws->visitor)
        ws->visitor(ws->visitor_user, stage, &ws->routes[stage], p->append ? 1 : p->B, p->append ? p->n : p->T);
}

static void route_stage(workspace *ws, pass *p, int64_t stage)
{
    const model_config *c = &ws->m->config;
    const router_params *params = &ws->m->params.router[stage];
    const weight fc1 = ws->m->weights.fc1[stage];
    route *r = &ws->routes[stage];
    router_input in = {.stage = stage, .B = p->B, .T = p->T, .start = all_rows(ws, p).start, .widen = p->widen, .x = ws->x,
                       .position = ws->position, .noise_seed = p->seed, .noise_counter = p->noise_counter};
    r->x = ws->x;
    if (p->routing == ROUTING_CAUSAL) {
        in.host_position = p->append ? ws->host_position : NULL;
        if (p->append && p->append->threshold) {
            for (int64_t b = 0; b < p->B; b++)
                ws->thresholds[b] = (p->append->threshold[b] ? p->append->threshold[b] : ws->env.threshold)[stage];
            in.thresholds = ws->thresholds;
        }
        router_causal(&ws->env, params, fc1, &in, &ws->router, r);
        p->result.flops += flops_routing(c, stage, p->n, true);
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
            p->result.decided += p->n;
        }
        p->result.flops += flops_routing(c, stage, p->n, learn);
    }
    p->result.routed += r->n;
    p->result.routable += p->n;
    visit(ws, p, stage);
}

/* What a stage's experts are to do on the rows r. */
static expert_pass expert_pass_of(const workspace *ws, const pass *p, int64_t stage, const rows *r)
{
    const model_config *c = &ws->m->config;
    const int64_t layer = model_stage_at(c, stage).layer;
    return (expert_pass){.layer = layer, .n = r->n, .sequences = r->sequences, .start = r->start, .causal = p->routing == ROUTING_CAUSAL, .score = scores(p),
                         .scale = p->rule_scale, .grads = p->grads ? &p->grads->layer[layer] : NULL, .temps = &ws->experts,
                         .taken = model_layer_no_ops(c, layer) > 0 ? ws->routes[stage].logit : NULL};
}

/* What a layer's experts did, into the result; one with no-op experts looks as if it had been routed, by the sum of p. */
static void count_experts(workspace *ws, pass *p, int64_t stage, const expert_pass *experts)
{
    const kernels *kn = ws->env.kn;
    p->result.aux_loss += experts->loss;
    p->result.agreed += experts->agreed;
    p->result.decided += experts->decided;
    p->result.dropped += experts->dropped;
    if (!experts->taken)
        return;
    route *r = &ws->routes[stage];
    kn->above(kn, &(above_args){.sequences = p->B, .limit = p->n, .row_start = all_rows(ws, p).start, .logit = r->logit,
                                .index = r->index, .start = r->start});
    r->n = r->start[p->B];
    r->x = ws->x;
    kn->gather_int(kn, r->position, ws->position, r->index, r->n);
    p->result.routed += r->n;
    p->result.routable += experts->n;
    visit(ws, p, stage);
}

static block_work work_on(const workspace *ws, int64_t stage, const rows *r, const rows *all, expert_pass *experts)
{
    const model_config *c = &ws->m->config;
    const model_stage at = model_stage_at(c, stage);
    return (block_work){.env = &ws->env, .stage = at, .p = &ws->m->params.layer[at.layer], .w = &ws->m->weights.layer[at.layer],
                        .r = r, .all = model_stage_dense(c, stage) ? all : NULL,
                        .experts = c->experts.count > 0 && at.mlp ? experts : NULL};
}

static void run_stage(workspace *ws, pass *p, int64_t stage)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    const bool routed = model_stage_routed(c, stage);
    const model_stage at = model_stage_at(c, stage);
    const rows all = all_rows(ws, p);
    rows r = all;
    if (routed) {
        route_stage(ws, p, stage);
        r = routed_rows(&ws->routes[stage], p->B);
    }
    expert_pass choice = expert_pass_of(ws, p, stage, &r);
    const block_work b = work_on(ws, stage, &r, &all, &choice);
    if (r.n == 0 && !b.all)
        return;
    stage_work done = {.n = (double)r.n, .kv = (double)(b.all ? all.n : r.n)};
    const int32_t *position = ws->host_position; /* of the rows */
    if (routed && (p->append || b.all)) {
        kn->mem_download(kn, ws->host_index, r.position, (size_t)r.n * sizeof *ws->host_index);
        position = ws->host_index;
    }
    done.pairs = at.attention ? visible_pairs(p, &r, at.layer, position, b.all) : 0;
    const kv_cache cache = {.pool = p->append ? p->append->pool : NULL, .sequence = p->append ? p->append->sequence : NULL,
                            .position = b.all ? ws->host_position : position};
    block_update(&b, ws->x, &ws->acts[stage], p->append ? &cache : NULL);
    if (b.experts && r.n > 0) {
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
                                  .w = ws->m->weights.head, .y = ws->logits, .bf16 = ws->env.bf16, .by_row = ws->env.by_row,
                                  .scratch = ws->env.scratch});
}

/* index: the rows of the stream, [n], or NULL for the first n */
static void final_norm(workspace *ws, const int32_t *index, int64_t n)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    kn->norm_forward(kn, &(norm_args){.n = n, .d = c->dim, .eps = c->norm_eps, .x = ws->x, .index = index,
                                      .weight = ws->m->params.norm, .out = ws->xf, .rstd = ws->rstd});
}

/* Loss of every row; with gradients, scaled, also the head's backward, whose input gradient goes into temps.dh. */
static void head_loss(workspace *ws, pass *p, const int32_t *targets, float scale)
{
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    const int64_t n = p->n, d = c->dim, V = c->vocab;
    kn->mem_upload(kn, ws->targets, targets, (size_t)n * sizeof *targets);
    final_norm(ws, NULL, n);
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
    expert_pass again;
    block_work work = *b;
    if (b->experts) {
        again = *b->experts;
        again.score = false;
        again.taken = NULL;
        work.experts = &again;
    }
    if (b->all) {
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
    const rows all = all_rows(ws, p);
    expert_pass experts = expert_pass_of(ws, p, stage, r);
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
    const rows r = routed ? routed_rows(decision, p->B) : all_rows(ws, p);
    if (r.n > 0)
        backward_rows(ws, p, stage, &r, routed ? router_gate_logits(c, decision) : NULL);
    if (routed && decision->dlogit) /* aux and balancing losses read every row; their share of dw was added in the forward pass */
        kn->gemm(kn, &(gemm_args){.m = p->n, .n = c->dim, .k = 1, .a = decision->dlogit, .lda = 1,
                                  .b = ws->m->params.router[stage].router, .ldb = c->dim, .c = ws->dx, .ldc = c->dim, .alpha = 1,
                                  .beta = 1, .scratch = ws->env.scratch});
}

pass_result transformer_train(workspace *ws, const model_params *grads, const train_input *in)
{
    assert(in->widen == 0 || (ws->kind & WORKSPACE_WIDE));
    const model_config *c = &ws->m->config;
    const kernels *kn = ws->env.kn;
    const int64_t n = ws->B * ws->T;
    pass p = {.routing = ROUTING_TOPK, .B = ws->B, .T = ws->T, .n = n, .tokens = in->tokens, .grads = grads,
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

pass_result transformer_loss(workspace *ws, routing r, bool score_rule, int64_t first_row, int64_t B, int64_t T, const int32_t *tokens,
                             const int32_t *targets)
{
    pass p = {.routing = r, .score_rule = score_rule, .B = B, .T = T, .n = B * T, .tokens = tokens, .rule_scale = 1,
              .noise_counter = (uint64_t)first_row};
    forward(ws, &p);
    head_loss(ws, &p, targets, 0);
    return p.result;
}

void workspace_token_losses(const workspace *ws, int64_t n, float *host)
{
    ws->env.kn->mem_download(ws->env.kn, host, ws->loss, (size_t)n * sizeof *host);
}

/* Logits of the first n rows of xf, host [n, V]. */
static void all_logits(workspace *ws, int64_t n, float *logits)
{
    const int64_t V = ws->m->config.vocab;
    const kernels *kn = ws->env.kn;
    for (int64_t begin = 0; begin < n; begin += ws->head_rows) {
        const int64_t m = n - begin < ws->head_rows ? n - begin : ws->head_rows;
        head_logits(ws, begin, m);
        kn->mem_download(kn, logits + begin * V, ws->logits, (size_t)(m * V) * sizeof *logits);
    }
}

void transformer_logits(workspace *ws, routing r, int64_t T, const int32_t *tokens, float *logits)
{
    pass p = {.routing = r, .B = 1, .T = T, .n = T, .tokens = tokens, .rule_scale = 1};
    forward(ws, &p);
    final_norm(ws, NULL, T);
    all_logits(ws, T, logits);
}

void transformer_append(workspace *ws, const append_input *in, float *logits, pass_result *result)
{
    const kernels *kn = ws->env.kn;
    pass p = {.routing = ROUTING_CAUSAL, .B = in->sequences, .n = in->start[in->sequences], .tokens = in->tokens, .append = in};
    assert(in->sequences <= ws->B && p.n <= ws->B * ws->T);
    ws->env.by_row = in->decode;
    forward(ws, &p);
    kn->mem_upload(kn, ws->targets, in->wanted, (size_t)in->wanted_count * sizeof *in->wanted);
    final_norm(ws, ws->targets, in->wanted_count);
    all_logits(ws, in->wanted_count, logits);
    ws->env.by_row = false;
    for (int64_t s = 0; s < in->sequences; s++)
        in->sequence[s]->length += in->start[s + 1] - in->start[s];
    p.result.flops += flops_head(&ws->m->config, in->wanted_count);
    *result = p.result;
}
