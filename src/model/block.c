/* One transformer block on rows: see block.h. Forward and backward stand in mirrored order. */
#include "model/block.h"

#include <math.h>

#include "model/products.h"

static int64_t q_width(const model_config *c)
{
    return c->heads * c->head_dim;
}

static int64_t kv_width(const model_config *c)
{
    return 2 * c->kv_heads * c->head_dim;
}

static int64_t qkv_width(const model_config *c)
{
    return q_width(c) + kv_width(c);
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void plan_attention(const model_config *c, arena *a, const block_sizes *s, block_acts *out)
{
    out->h1 = arena_floats(a, s->n, c->dim);
    out->qkv = arena_floats(a, s->n, qkv_width(c));
    out->att = arena_floats(a, s->n, q_width(c));
    if (s->dense) {
        out->h_all = arena_floats(a, s->all, c->dim);
        out->kv = arena_floats(a, s->all, kv_width(c));
    }
    if (s->backward) {
        out->rstd1 = arena_floats(a, s->dense ? s->all : s->n, 1);
        out->lse = arena_floats(a, s->n, c->heads);
        out->x_all = s->dense ? arena_floats(a, s->all, c->dim) : NULL;
    }
}

static void plan_mlp(const model_config *c, arena *a, const block_sizes *s, block_acts *out)
{
    out->h2 = arena_floats(a, s->n, c->dim);
    if (c->experts.count > 0) {
        expert_acts_plan(c, a, s->n, s->expert_rows, s->backward, &out->experts);
    } else {
        out->gate_up = arena_floats(a, s->n, 2 * c->ffn);
        out->act = arena_floats(a, s->n, c->ffn);
    }
    if (s->backward) {
        out->mid = s->stage.attention ? arena_floats(a, s->n, c->dim) : NULL;
        out->rstd2 = arena_floats(a, s->n, 1);
    }
}

void block_acts_plan(const model_config *c, arena *a, const block_sizes *s, block_acts *out)
{
    *out = (block_acts){0};
    if (s->stage.attention)
        plan_attention(c, a, s, out);
    if (s->stage.mlp)
        plan_mlp(c, a, s, out);
    out->u = s->shared_u ? s->shared_u : arena_floats(a, s->n, c->dim);
    if (s->backward)
        out->x_in = arena_floats(a, s->n, c->dim);
}

void block_temps_plan(const model_config *c, arena *a, int64_t n, block_temps *out)
{
    *out = (block_temps){
        .du = arena_floats(a, n, c->dim),
        .dmid = arena_floats(a, n, c->dim),
        .dh = arena_floats(a, n, c->dim),
        .narrow = arena_floats(a, n, larger(c->ffn, q_width(c))),
        .dqkv = arena_floats(a, n, qkv_width(c)),
        .dlogit = arena_floats(a, n, 1),
    };
    if (model_has_qkv_bias(c))
        out->ones = arena_floats(a, n, 1);
    if (c->mod.dense_kv) {
        out->dh_all = arena_floats(a, n, c->dim);
        out->dkv = arena_floats(a, n, kv_width(c));
    }
}

/* Queries, keys and values are the columns of one buffer, or keys and values have one of their own. */
static attention_args attention_on(const block_work *b, const block_acts *acts)
{
    const model_config *c = b->env->config;
    const float *kv = b->all ? acts->kv : acts->qkv + q_width(c);
    attention_args a = {
        .sequences = b->r->sequences,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .q_start = b->r->start,
        .q = acts->qkv,
        .k = kv,
        .v = kv + c->kv_heads * c->head_dim,
        .q_stride = b->all ? q_width(c) : qkv_width(c),
        .kv_stride = b->all ? kv_width(c) : qkv_width(c),
        .kv_head_stride = c->head_dim,
        .scale = 1 / sqrtf((float)c->head_dim),
        .out = acts->att,
        .lse = acts->lse,
        .scratch = b->env->scratch,
    };
    if (b->all) {
        a.kv_start = b->all->start;
        a.q_position = b->r->position; /* keys begin at position 0 */
    }
    return a;
}

/* The rows whose keys and values are made. */
static const rows *kv_rows(const block_work *b)
{
    return b->all ? b->all : b->r;
}

static void rope(const model_env *env, float *x, int64_t stride, const rows *r, int64_t heads, int direction)
{
    env->kn->rope(env->kn, x, stride, r->n, heads, env->config->head_dim, env->rope_table, r->position, direction);
}

/* y [n, width] = x w^T + b, where w and b are the rows [first, first + width) of qkv's. */
static void project_rows(const block_work *b, float *y, const float *x, int64_t first, int64_t n, int64_t width)
{
    const kernels *kn = b->env->kn;
    const int64_t d = b->env->config->dim;
    const float *bias = b->p->qkv_bias;
    if (bias)
        kn->copy_rows(kn, y, width, bias + first, 0, n, width);
    product_forward(b->env, y, x, weight_rows(b->w->qkv, first, d), n, d, width, bias != NULL);
}

/* Queries, keys and values from the stream. */
static void project(const block_work *b, const float *x, const block_acts *acts)
{
    const kernels *kn = b->env->kn;
    const model_config *c = b->env->config;
    const int64_t n = b->r->n, d = c->dim;
    const bool all = b->all != NULL;
    kn->norm_forward(kn, &(norm_args){.n = kv_rows(b)->n, .d = d, .eps = c->norm_eps, .x = x, .index = all ? NULL : b->r->index,
                                      .weight = b->p->norm1, .out = all ? acts->h_all : acts->h1,
                                      .saved = all ? acts->x_all : acts->x_in, .rstd = acts->rstd1});
    if (!all) {
        project_rows(b, acts->qkv, acts->h1, 0, n, qkv_width(c));
        rope(b->env, acts->qkv, qkv_width(c), b->r, c->heads + c->kv_heads, 1);
        return;
    }
    project_rows(b, acts->kv, acts->h_all, q_width(c), b->all->n, kv_width(c));
    rope(b->env, acts->kv, kv_width(c), b->all, c->kv_heads, 1);
    if (n == 0)
        return;
    if (acts->x_in)
        gather_rows(kn, acts->x_in, x, b->r->index, n, d);
    gather_rows(kn, acts->h1, acts->h_all, b->r->index, n, d);
    project_rows(b, acts->qkv, acts->h1, 0, n, q_width(c));
    rope(b->env, acts->qkv, q_width(c), b->r, c->heads, 1);
}

/* u = a */
static void attention_update(const block_work *b, const float *x, const block_acts *acts, const kv_cache *cache)
{
    const model_config *c = b->env->config;
    project(b, x, acts);
    attention_args att = attention_on(b, acts);
    if (cache)
        kv_append(cache->pool, cache->sequence, b->stage.layer, b->r->sequences, kv_rows(b)->start, cache->position, &att);
    if (b->r->n == 0)
        return;
    b->env->kn->attention_forward(b->env->kn, &att);
    product_forward(b->env, acts->u, acts->att, b->w->out, b->r->n, q_width(c), c->dim, false);
}

/* u += MLP(RMSNorm(x + u)), or u = MLP(RMSNorm(x)) without attention */
static void mlp_update(const block_work *b, const float *x, const block_acts *acts)
{
    const model_env *env = b->env;
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const int64_t n = b->r->n, d = c->dim;
    const bool after = b->stage.attention;
    kn->norm_forward(kn, &(norm_args){.n = n, .d = d, .eps = c->norm_eps, .x = x, .index = b->r->index, .plus = after ? acts->u : NULL,
                                      .weight = b->p->norm2, .out = acts->h2, .saved = after ? acts->mid : acts->x_in,
                                      .rstd = acts->rstd2});
    if (c->experts.count > 0) {
        if (!after)
            kn->mem_zero(kn, acts->u, (size_t)(n * d) * sizeof(float));
        experts_forward(env, b->p, b->w, acts->h2, &acts->experts, b->experts, acts->u);
        return;
    }
    product_forward(env, acts->gate_up, acts->h2, b->w->gate_up, n, d, 2 * c->ffn, false);
    kn->swiglu_forward(kn, acts->act, acts->gate_up, n, c->ffn);
    product_forward(env, acts->u, acts->act, b->w->down, n, c->ffn, d, after);
}

void block_update(const block_work *b, const float *x, const block_acts *acts, const kv_cache *cache)
{
    if (b->stage.attention)
        attention_update(b, x, acts, cache);
    if (b->stage.mlp && b->r->n > 0)
        mlp_update(b, x, acts);
}

/* From du: the MLP's share. After attention its input's gradient is left in dmid, otherwise it goes into the stream. */
static void mlp_backward(const block_work *b, const layer_params *g, const block_acts *acts, const block_temps *t, float *dx)
{
    const model_env *env = b->env;
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const layer_params *w = b->p;
    const int64_t n = b->r->n, d = c->dim;
    const bool after = b->stage.attention;
    if (c->experts.count > 0) {
        experts_backward(env, w, g, acts->h2, &acts->experts, b->experts, t->du, t->narrow, t->dh);
    } else {
        product_backward(env, t->narrow, g->down, t->du, acts->act, w->down, n, c->ffn, d);
        kn->swiglu_backward(kn, acts->gate_up, t->narrow, acts->gate_up, n, c->ffn); /* in place: less memory to move */
        product_backward(env, t->dh, g->gate_up, acts->gate_up, acts->h2, w->gate_up, n, d, 2 * c->ffn);
    }
    kn->norm_backward(kn, &(norm_args){.n = n, .d = d, .index = after ? NULL : b->r->index, .x = after ? acts->mid : acts->x_in,
                                       .weight = w->norm2, .rstd = acts->rstd2, .dout = t->dh, .dx = after ? t->dmid : dx,
                                       .accumulate = !after, .dweight = g->norm2, .scratch = env->scratch});
}

/* The mirror of project_rows; the gradient of a bias is the sum of dy's rows, a product with ones. */
static void project_rows_backward(const block_work *b, const layer_params *g, const block_temps *t, float *dx, const float *dy,
                                  const float *x, int64_t first, int64_t n, int64_t width)
{
    const kernels *kn = b->env->kn;
    const int64_t d = b->env->config->dim;
    product_backward(b->env, dx, g->qkv + first * d, dy, x, b->p->qkv + first * d, n, d, width);
    if (b->p->qkv_bias)
        kn->rowdot_backward(kn, NULL, NULL, g->qkv_bias + first, NULL, t->ones, dy, NULL, n, width, b->env->scratch);
}

/* From dqkv, or dq and dkv: the projections' share, and the norm's. residual: the gradient that goes past attention, or NULL. */
static void project_backward(const block_work *b, const layer_params *g, const block_acts *acts, const block_temps *t,
                             const float *residual, float *dx)
{
    const model_env *env = b->env;
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const layer_params *w = b->p;
    const rows *r = b->r;
    const int64_t d = c->dim;
    if (!b->all) {
        rope(env, t->dqkv, qkv_width(c), r, c->heads + c->kv_heads, -1);
        project_rows_backward(b, g, t, t->dh, t->dqkv, acts->h1, 0, r->n, qkv_width(c));
        kn->norm_backward(kn, &(norm_args){.n = r->n, .d = d, .index = r->index, .x = acts->x_in, .weight = w->norm1,
                                           .rstd = acts->rstd1, .dout = t->dh, .add = residual, .dx = dx, .accumulate = true,
                                           .dweight = g->norm1, .scratch = env->scratch});
        return;
    }
    rope(env, t->dqkv, q_width(c), r, c->heads, -1);
    rope(env, t->dkv, kv_width(c), b->all, c->kv_heads, -1);
    project_rows_backward(b, g, t, t->dh, t->dqkv, acts->h1, 0, r->n, q_width(c));
    project_rows_backward(b, g, t, t->dh_all, t->dkv, acts->h_all, q_width(c), b->all->n, kv_width(c));
    kn->scatter_forward(kn, &(scatter_args){.n = r->n, .d = d, .index = r->index, .u = t->dh, .x = t->dh_all});
    if (residual)
        kn->scatter_forward(kn, &(scatter_args){.n = r->n, .d = d, .index = r->index, .u = residual, .x = dx});
    kn->norm_backward(kn, &(norm_args){.n = b->all->n, .d = d, .x = acts->x_all, .weight = w->norm1, .rstd = acts->rstd1,
                                       .dout = t->dh_all, .dx = dx, .accumulate = true, .dweight = g->norm1,
                                       .scratch = env->scratch});
}

static void attention_backward(const block_work *b, const layer_params *g, const block_acts *acts, const block_temps *t,
                               const float *residual, float *dx)
{
    const model_config *c = b->env->config;
    product_backward(b->env, t->narrow, g->out, t->du, acts->att, b->p->out, b->r->n, q_width(c), c->dim);
    attention_args att = attention_on(b, acts);
    float *dkv = b->all ? t->dkv : t->dqkv + q_width(c);
    att.dout = t->narrow;
    att.dq = t->dqkv;
    att.dk = dkv;
    att.dv = dkv + c->kv_heads * c->head_dim;
    b->env->kn->attention_backward(b->env->kn, &att);
    project_backward(b, g, acts, t, residual, dx);
}

void block_backward(const block_work *b, const layer_params *g, const block_acts *acts, const block_temps *t, float *dx)
{
    const kernels *kn = b->env->kn;
    const bool both = b->stage.attention && b->stage.mlp;
    if (b->stage.mlp)
        mlp_backward(b, g, acts, t, dx);
    if (both)
        kn->add(kn, t->du, t->dmid, b->r->n * b->env->config->dim); /* now the gradient of a, which is in u and in mid */
    if (b->stage.attention)
        attention_backward(b, g, acts, t, both ? t->dmid : NULL, dx);
}
