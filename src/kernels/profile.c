/* See profile.h. A wrapper an entry: time, call, add. */
#include "kernels/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timing.h"
#include "kernels/weight.h"

static profile *of(const kernels *kn)
{
    return kn->context;
}

static void record(profile *p, const char *name, double began, double flops, double bytes)
{
    const double seconds = timing_now() - began;
    int i = 0;
    while (i < p->count && strcmp(p->lines[i].name, name) != 0)
        i++;
    if (i == PROFILE_LINES)
        i--; /* the last line takes what finds no room */
    else if (i == p->count)
        snprintf(p->lines[p->count++].name, sizeof p->lines->name, "%s", name);
    p->lines[i].calls++;
    p->lines[i].seconds += seconds;
    p->lines[i].flops += flops;
    p->lines[i].bytes += bytes;
}

/* floats: how many are read and written */
#define TIMED(name, flops, floats, call)                                                        \
    do {                                                                                        \
        const double began = timing_now();                                                      \
        call;                                                                                   \
        record(of(kn), name, began, (double)(flops), (double)(floats) * sizeof(float));         \
    } while (0)
#define INNER (&of(kn)->inner)

static void gemm(const kernels *kn, const gemm_args *a)
{
    char name[sizeof ((profile_line *)0)->name];
    const int64_t c = a->m * a->n * (a->beta == 0 ? 1 : 2);
    snprintf(name, sizeof name, "gemm%s %c%c %lld x %lld x %lld%s", a->bf16 ? " bf16" : "", a->trans_a ? 'T' : 'N', a->trans_b ? 'T' : 'N',
             (long long)a->m, (long long)a->n, (long long)a->k, a->beta == 0 ? "" : " +=");
    TIMED(name, 2.0 * (double)a->m * (double)a->n * (double)a->k, a->m * a->k + a->k * a->n + c, INNER->gemm(INNER, a));
}

static void linear(const kernels *kn, const linear_args *a)
{
    char name[sizeof ((profile_line *)0)->name];
    snprintf(name, sizeof name, "linear%s %lld x %lld x %lld%s", a->bf16 ? " bf16" : "", (long long)a->n, (long long)a->out,
             (long long)a->in, a->add ? " +=" : "");
    const double w = (double)(a->out * a->in) * (double)weight_element_bytes(a->w.type) / sizeof(float);
    TIMED(name, 2.0 * (double)a->n * (double)a->in * (double)a->out,
          w + (double)(a->n * (a->in + a->out * (a->add ? 2 : 1))), INNER->linear(INNER, a));
}

static void embed_forward(const kernels *kn, float *x, weight table, const int32_t *tokens, int64_t n, int64_t d)
{
    TIMED("embed_forward", 0, 2 * n * d, INNER->embed_forward(INNER, x, table, tokens, n, d));
}

static void embed_backward(const kernels *kn, float *dtable, const float *dx, const int32_t *tokens, int64_t n, int64_t d)
{
    TIMED("embed_backward", n * d, 3 * n * d, INNER->embed_backward(INNER, dtable, dx, tokens, n, d));
}

static void norm_forward(const kernels *kn, const norm_args *a)
{
    TIMED("norm_forward", 5 * a->n * a->d, a->n * a->d * (2 + (a->plus != NULL) + (a->saved != NULL)),
          INNER->norm_forward(INNER, a));
}

static void norm_backward(const kernels *kn, const norm_args *a)
{
    TIMED("norm_backward", 10 * a->n * a->d, a->n * a->d * (3 + (a->add != NULL) + a->accumulate),
          INNER->norm_backward(INNER, a));
}

static void rope(const kernels *kn, float *x, int64_t stride, int64_t n, int64_t heads, int64_t head_dim,
                 const float *table, const int32_t *position, int direction)
{
    TIMED("rope", 3 * n * heads * head_dim, 2 * n * heads * head_dim,
          INNER->rope(INNER, x, stride, n, heads, head_dim, table, position, direction));
}

/* Pairs (query, key) that causal attention sees, over all heads. */
static double visible_pairs(const attention_args *a)
{
    const int32_t *kv = a->kv_start ? a->kv_start : a->q_start;
    double pairs = 0;
    for (int64_t s = 0; s < a->sequences; s++) {
        const double m = a->q_start[s + 1] - a->q_start[s], n = kv[s + 1] - kv[s];
        pairs += m * (n - m) + m * (m + 1) / 2;
    }
    return pairs * (double)a->heads;
}

static int64_t attention_floats(const attention_args *a)
{
    const int32_t *kv = a->kv_start ? a->kv_start : a->q_start;
    return a->head_dim * (2 * a->heads * (a->q_start[a->sequences] - a->q_start[0]) +
                          2 * a->kv_heads * (kv[a->sequences] - kv[0]));
}

static void attention_forward(const kernels *kn, const attention_args *a)
{
    TIMED("attention_forward", 4 * visible_pairs(a) * (double)a->head_dim, attention_floats(a),
          INNER->attention_forward(INNER, a));
}

static void attention_backward(const kernels *kn, const attention_args *a)
{
    TIMED("attention_backward", 8 * visible_pairs(a) * (double)a->head_dim, 2 * attention_floats(a),
          INNER->attention_backward(INNER, a));
}

static void kv_store(const kernels *kn, const kv_store_args *a)
{
    TIMED("kv_store", 0, 4 * a->n * a->kv_heads * a->head_dim, INNER->kv_store(INNER, a));
}

static void swiglu_forward(const kernels *kn, float *out, const float *gate_up, int64_t n, int64_t f)
{
    TIMED("swiglu_forward", 4 * n * f, 3 * n * f, INNER->swiglu_forward(INNER, out, gate_up, n, f));
}

static void swiglu_backward(const kernels *kn, float *dgate_up, const float *dout, const float *gate_up, int64_t n, int64_t f)
{
    TIMED("swiglu_backward", 10 * n * f, 5 * n * f, INNER->swiglu_backward(INNER, dgate_up, dout, gate_up, n, f));
}

static void bias_silu_forward(const kernels *kn, float *out, const float *pre, const float *bias, int64_t n, int64_t p)
{
    TIMED("bias_silu_forward", 4 * n * p, 2 * n * p, INNER->bias_silu_forward(INNER, out, pre, bias, n, p));
}

static void bias_silu_backward(const kernels *kn, float *dpre, float *dbias, const float *dout, const float *pre,
                               const float *bias, int64_t n, int64_t p, void *scratch)
{
    TIMED("bias_silu_backward", 8 * n * p, 3 * n * p,
          INNER->bias_silu_backward(INNER, dpre, dbias, dout, pre, bias, n, p, scratch));
}

static void rowdot_forward(const kernels *kn, float *logit, const float *x, const float *w, const float *bias, int64_t n,
                           int64_t d)
{
    TIMED("rowdot_forward", 2 * n * d, n * d, INNER->rowdot_forward(INNER, logit, x, w, bias, n, d));
}

static void rowdot_backward(const kernels *kn, float *dx, const int32_t *index, float *dw, float *dbias,
                            const float *dlogit, const float *x, const float *w, int64_t n, int64_t d, void *scratch)
{
    TIMED("rowdot_backward", 2 * n * d * (1 + (dx != NULL)), n * d * (dx ? 3 : 1),
          INNER->rowdot_backward(INNER, dx, index, dw, dbias, dlogit, x, w, n, d, scratch));
}

static void topk(const kernels *kn, int32_t *index, uint8_t *member, const float *logit, int64_t B, int64_t T, int64_t k,
                 void *scratch)
{
    TIMED("topk", 0, B * T, INNER->topk(INNER, index, member, logit, B, T, k, scratch));
}

static void noise(const kernels *kn, float *out, uint64_t seed, uint64_t stream, uint64_t counter, int64_t n)
{
    TIMED("noise", 0, n, INNER->noise(INNER, out, seed, stream, counter, n));
}

static void scatter_forward(const kernels *kn, const scatter_args *a)
{
    TIMED("scatter_forward", 2 * a->n * a->d, 3 * a->n * a->d, INNER->scatter_forward(INNER, a));
}

static void scatter_backward(const kernels *kn, const scatter_args *a)
{
    TIMED("scatter_backward", a->n * a->d * (a->u ? 3 : 1), a->n * a->d * (a->u ? 3 : 2), INNER->scatter_backward(INNER, a));
}

static void bce(const kernels *kn, bce_args *a)
{
    TIMED("bce", 10 * a->n, 2 * a->n, INNER->bce(INNER, a));
}

static void cross_entropy(const kernels *kn, float *loss, float *logits, const int32_t *target, float scale, int64_t n,
                          int64_t V)
{
    TIMED("cross_entropy", 5 * n * V, n * V * (scale != 0 ? 2 : 1),
          INNER->cross_entropy(INNER, loss, logits, target, scale, n, V));
}

static void adamw(const kernels *kn, const adamw_args *a)
{
    TIMED("adamw", 12 * a->n, 8 * a->n, INNER->adamw(INNER, a));
}

static void add(const kernels *kn, float *y, const float *x, int64_t n)
{
    TIMED("add", n, 3 * n, INNER->add(INNER, y, x, n));
}

static double sum_squares(const kernels *kn, const float *x, int64_t n)
{
    double result;
    TIMED("sum_squares", 2 * n, n, result = INNER->sum_squares(INNER, x, n));
    return result;
}

kernels profile_start(profile *p, const kernels *inner)
{
    *p = (profile){.inner = *inner};
    kernels kn = *inner; /* what is not wrapped: memory and what takes no time */
    kn.context = p;
#define WRAP(entry) kn.entry = entry
    WRAP(gemm);
    WRAP(linear);
    WRAP(embed_forward);
    WRAP(embed_backward);
    WRAP(norm_forward);
    WRAP(norm_backward);
    WRAP(rope);
    WRAP(attention_forward);
    WRAP(attention_backward);
    WRAP(kv_store);
    WRAP(swiglu_forward);
    WRAP(swiglu_backward);
    WRAP(bias_silu_forward);
    WRAP(bias_silu_backward);
    WRAP(rowdot_forward);
    WRAP(rowdot_backward);
    WRAP(topk);
    WRAP(noise);
    WRAP(scatter_forward);
    WRAP(scatter_backward);
    WRAP(bce);
    WRAP(cross_entropy);
    WRAP(adamw);
    WRAP(add);
    WRAP(sum_squares);
    return kn;
}

void profile_reset(profile *p)
{
    p->count = 0;
    memset(p->lines, 0, sizeof p->lines);
}

static int longer(const void *a, const void *b)
{
    const double x = ((const profile_line *)a)->seconds, y = ((const profile_line *)b)->seconds;
    return (x < y) - (x > y);
}

void profile_sort(profile *p)
{
    qsort(p->lines, (size_t)p->count, sizeof *p->lines, longer);
}
