/* One transformer block on rows: see block.h. Forward and backward stand in mirrored order. */
#include "model/block.h"

#include <math.h>

static int64_t qkv_width(const model_config *c)
{
    return (c->heads + 2 * c->kv_heads) * c->head_dim;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static float *floats(arena *a, int64_t n, int64_t width)
{
    return arena_alloc(a, (size_t)n, (size_t)width * sizeof(float));
}

void block_acts_plan(const model_config *c, arena *a, int64_t n, bool backward, float *shared_u, block_acts *out)
{
    const int64_t d = c->dim;
    *out = (block_acts){
        .h1 = floats(a, n, d),
        .qkv = floats(a, n, qkv_width(c)),
        .att = floats(a, n, c->heads * c->head_dim),
        .h2 = floats(a, n, d),
        .gate_up = floats(a, n, 2 * c->ffn),
        .act = floats(a, n, c->ffn),
    };
    out->u = shared_u ? shared_u : floats(a, n, d);
    if (backward) {
        out->x_in = floats(a, n, d);
        out->rstd1 = floats(a, n, 1);
        out->lse = floats(a, n, c->heads);
        out->mid = floats(a, n, d);
        out->rstd2 = floats(a, n, 1);
    }
}

void block_temps_plan(const model_config *c, arena *a, int64_t n, block_temps *out)
{
    *out = (block_temps){
        .du = floats(a, n, c->dim),
        .dmid = floats(a, n, c->dim),
        .dh = floats(a, n, c->dim),
        .narrow = floats(a, n, larger(c->ffn, c->heads * c->head_dim)),
        .dqkv = floats(a, n, qkv_width(c)),
        .dlogit = floats(a, n, 1),
    };
}

/* y [n, out] = x [n, in] w^T (+ y) */
static void linear(const model_env *env, float *y, const float *x, weight w, int64_t n, int64_t in, int64_t out, bool add)
{
    env->kn->linear(env->kn, &(linear_args){.n = n, .in = in, .out = out, .x = x, .w = w, .y = y, .add = add,
                                            .bf16 = env->bf16, .scratch = env->scratch});
}

void linear_backward(const model_env *env, float *dx, float *dw, const float *dy, const float *x, const float *w,
                     int64_t n, int64_t in, int64_t out)
{
    env->kn->gemm(env->kn, &(gemm_args){.m = n, .n = in, .k = out, .a = dy, .lda = out, .b = w, .ldb = in, .c = dx,
                                        .ldc = in, .alpha = 1, .bf16 = env->bf16, .scratch = env->scratch});
    env->kn->gemm(env->kn, &(gemm_args){.trans_a = true, .m = out, .n = in, .k = n, .a = dy, .lda = out, .b = x,
                                        .ldb = in, .c = dw, .ldc = in, .alpha = 1, .beta = 1, .bf16 = env->bf16,
                                        .scratch = env->scratch});
}

/* Queries, keys and values are the columns of one buffer. */
static attention_args attention_on(const model_env *env, const rows *r, const block_acts *acts)
{
    const model_config *c = env->config;
    const float *qkv = acts->qkv;
    return (attention_args){
        .sequences = r->sequences,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .q_start = r->start,
        .q = qkv,
        .k = qkv + c->heads * c->head_dim,
        .v = qkv + (c->heads + c->kv_heads) * c->head_dim,
        .q_stride = qkv_width(c),
        .kv_stride = qkv_width(c),
        .kv_head_stride = c->head_dim,
        .scale = 1 / sqrtf((float)c->head_dim),
        .out = acts->att,
        .lse = acts->lse,
        .scratch = env->scratch,
    };
}

/* One copy a head for keys and one for values: its rows come from the columns of qkv. */
static void cache_append(const model_env *env, const rows *r, const attention_args *att, kv_layer *cache)
{
    const kernels *kn = env->kn;
    const int64_t dh = env->config->head_dim;
    for (int64_t h = 0; h < env->config->kv_heads; h++) {
        const int64_t to = (h * cache->capacity + cache->length) * dh;
        kn->copy_rows(kn, cache->k + to, dh, att->k + h * dh, att->kv_stride, r->n, dh);
        kn->copy_rows(kn, cache->v + to, dh, att->v + h * dh, att->kv_stride, r->n, dh);
    }
    kn->mem_copy(kn, cache->position + cache->length, r->position, (size_t)r->n * sizeof(int32_t));
    cache->length += r->n;
}

void block_update(const model_env *env, const layer_params *p, const layer_weights *w, const rows *r, const float *x,
                  const block_acts *acts, kv_layer *cache)
{
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const int64_t n = r->n, d = c->dim, att_width = c->heads * c->head_dim;
    kn->norm_forward(kn, &(norm_args){.n = n, .d = d, .eps = c->norm_eps, .x = x, .index = r->index, .weight = p->norm1,
                                      .out = acts->h1, .saved = acts->x_in, .rstd = acts->rstd1});
    linear(env, acts->qkv, acts->h1, w->qkv, n, d, qkv_width(c), false);
    kn->rope(kn, acts->qkv, qkv_width(c), n, c->heads + c->kv_heads, c->head_dim, env->rope_table, r->position, 1);
    attention_args att = attention_on(env, r, acts);
    int32_t cached[2] = {0, 0};
    if (cache) {
        cache_append(env, r, &att, cache);
        cached[1] = (int32_t)cache->length;
        att.k = cache->k;
        att.v = cache->v;
        att.kv_stride = c->head_dim;
        att.kv_head_stride = cache->capacity * c->head_dim;
        att.kv_start = cached;
    }
    kn->attention_forward(kn, &att);
    linear(env, acts->u, acts->att, w->out, n, att_width, d, false);
    kn->norm_forward(kn, &(norm_args){.n = n, .d = d, .eps = c->norm_eps, .x = x, .index = r->index, .plus = acts->u,
                                      .weight = p->norm2, .out = acts->h2, .saved = acts->mid, .rstd = acts->rstd2});
    linear(env, acts->gate_up, acts->h2, w->gate_up, n, d, 2 * c->ffn, false);
    kn->swiglu_forward(kn, acts->act, acts->gate_up, n, c->ffn);
    linear(env, acts->u, acts->act, w->down, n, c->ffn, d, true);
}

void block_backward(const model_env *env, const layer_params *w, const layer_params *g, const rows *r,
                    const block_acts *acts, const block_temps *t, float *dx)
{
    const kernels *kn = env->kn;
    const model_config *c = env->config;
    const int64_t n = r->n, d = c->dim, att_width = c->heads * c->head_dim;
    linear_backward(env, t->narrow, g->down, t->du, acts->act, w->down, n, c->ffn, d);
    kn->swiglu_backward(kn, acts->gate_up, t->narrow, acts->gate_up, n, c->ffn); /* in place: less memory to move */
    linear_backward(env, t->dh, g->gate_up, acts->gate_up, acts->h2, w->gate_up, n, d, 2 * c->ffn);
    kn->norm_backward(kn, &(norm_args){.n = n, .d = d, .x = acts->mid, .weight = w->norm2, .rstd = acts->rstd2,
                                       .dout = t->dh, .dx = t->dmid, .dweight = g->norm2, .scratch = env->scratch});
    kn->add(kn, t->du, t->dmid, n * d); /* now the gradient of a, which is in u and in mid */
    linear_backward(env, t->narrow, g->out, t->du, acts->att, w->out, n, att_width, d);
    attention_args att = attention_on(env, r, acts);
    att.dout = t->narrow;
    att.dq = t->dqkv;
    att.dk = t->dqkv + (att.k - att.q);
    att.dv = t->dqkv + (att.v - att.q);
    kn->attention_backward(kn, &att);
    kn->rope(kn, t->dqkv, qkv_width(c), n, c->heads + c->kv_heads, c->head_dim, env->rope_table, r->position, -1);
    linear_backward(env, t->dh, g->qkv, t->dqkv, acts->h1, w->qkv, n, d, qkv_width(c));
    kn->norm_backward(kn, &(norm_args){.n = n, .d = d, .index = r->index, .x = acts->x_in, .weight = w->norm1,
                                       .rstd = acts->rstd1, .dout = t->dh, .add = t->dmid, .dx = dx, .accumulate = true,
                                       .dweight = g->norm1, .scratch = env->scratch});
}
