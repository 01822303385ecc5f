/* The reference backend: every entry in plain C, one thread, sums in double. It is the yardstick that the fast backends are
 * held against, so it says the equations of kernels.h and nothing else. */
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

enum { GATE_RAW, GATE_SIGMOID, GATE_ONE }; /* the order of mod_gate */

static int64_t row_of(const int32_t *index, int64_t i)
{
    return index ? index[i] : i;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void *ref_mem_alloc(const kernels *kn, size_t bytes)
{
    (void)kn;
    return bytes > SIZE_MAX - 63 ? NULL : aligned_alloc(64, bytes ? (bytes + 63) / 64 * 64 : 64);
}

static void ref_mem_free(const kernels *kn, void *p)
{
    (void)kn;
    free(p);
}

static void ref_mem_copy(const kernels *kn, void *to, const void *from, size_t bytes)
{
    (void)kn;
    memcpy(to, from, bytes);
}

static void ref_mem_zero(const kernels *kn, void *p, size_t bytes)
{
    (void)kn;
    memset(p, 0, bytes);
}

static size_t ref_scratch_bytes(const kernels *kn, const kernel_sizes *sizes)
{
    (void)kn;
    return (size_t)sizes->keys * 2 * sizeof(double); /* attention: one row of scores, one of their gradients */
}

static void ref_gemm(const kernels *kn, const gemm_args *a)
{
    (void)kn;
    for (int64_t i = 0; i < a->m; i++)
        for (int64_t j = 0; j < a->n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < a->k; l++)
                sum += (double)(a->trans_a ? a->a[l * a->lda + i] : a->a[i * a->lda + l]) *
                       (double)(a->trans_b ? a->b[j * a->ldb + l] : a->b[l * a->ldb + j]);
            float *c = a->c + i * a->ldc + j;
            *c = (float)((double)a->alpha * sum + (a->beta != 0 ? (double)a->beta * (double)*c : 0));
        }
}

static void ref_embed_forward(const kernels *kn, float *x, const float *table, const int32_t *tokens, int64_t n, int64_t d)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        memcpy(x + i * d, table + tokens[i] * d, (size_t)d * sizeof *x);
}

static void ref_embed_backward(const kernels *kn, float *dtable, const float *dx, const int32_t *tokens, int64_t n, int64_t d)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            dtable[tokens[i] * d + j] += dx[i * d + j];
}

static void ref_norm_forward(const kernels *kn, const norm_args *a)
{
    (void)kn;
    const int64_t d = a->d;
    for (int64_t i = 0; i < a->n; i++) {
        const float *x = a->x + row_of(a->index, i) * d;
        float *out = a->out + i * d;
        double sum = 0;
        for (int64_t j = 0; j < d; j++) {
            out[j] = x[j] + (a->plus ? a->plus[i * d + j] : 0);
            sum += (double)out[j] * (double)out[j];
        }
        const double s = 1 / sqrt(sum / (double)d + (double)a->eps);
        if (a->saved)
            memcpy(a->saved + i * d, out, (size_t)d * sizeof *out);
        if (a->rstd)
            a->rstd[i] = (float)s;
        for (int64_t j = 0; j < d; j++)
            out[j] = (float)((double)out[j] * s * (double)a->weight[j]);
    }
}

static void ref_norm_backward(const kernels *kn, const norm_args *a)
{
    (void)kn;
    const int64_t d = a->d;
    for (int64_t i = 0; i < a->n; i++) {
        const float *x = a->x + i * d, *dout = a->dout + i * d;
        float *dx = a->dx + row_of(a->index, i) * d;
        const double s = (double)a->rstd[i];
        double dot = 0;
        for (int64_t j = 0; j < d; j++)
            dot += (double)a->weight[j] * (double)dout[j] * (double)x[j];
        for (int64_t j = 0; j < d; j++) {
            const double change = s * (double)a->weight[j] * (double)dout[j] - (double)x[j] * s * s * s / (double)d * dot +
                                  (a->add ? (double)a->add[i * d + j] : 0);
            dx[j] = (float)((a->accumulate ? (double)dx[j] : 0) + change);
            a->dweight[j] += (float)((double)dout[j] * (double)x[j] * s);
        }
    }
}

static void ref_rope(const kernels *kn, float *x, int64_t stride, int64_t n, int64_t heads, int64_t head_dim,
                     const float *table, const int32_t *position, int direction)
{
    (void)kn;
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t j = 0; j < half; j++) {
                float *low = x + i * stride + h * head_dim + j, *high = low + half;
                const float c = table[position[i] * head_dim + j];
                const float s = (float)direction * table[position[i] * head_dim + half + j];
                const float a = *low, b = *high;
                *low = a * c - b * s;
                *high = b * c + a * s;
            }
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++)
        sum += (double)a[j] * (double)b[j];
    return sum;
}

/* One query of one head: where it reads and writes. */
typedef struct query {
    int64_t row, head, k0, visible; /* keys [k0, k0 + visible) */
    int64_t kv_column;
    const float *q;
} query;

static query query_at(const attention_args *a, int64_t s, int64_t i, int64_t head)
{
    const int32_t *kv = a->kv_start ? a->kv_start : a->q_start;
    const int64_t m = a->q_start[s + 1] - a->q_start[s], n = kv[s + 1] - kv[s], row = a->q_start[s] + i;
    return (query){.row = row, .head = head, .k0 = kv[s], .visible = n - m + i + 1,
                   .kv_column = head / (a->heads / a->kv_heads) * a->head_dim,
                   .q = a->q + row * a->q_stride + head * a->head_dim};
}

/* The probabilities of a query, and the log of their sum. */
static double probabilities(const attention_args *a, const query *q, double *p)
{
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < q->visible; j++) {
        p[j] = (double)a->scale * dot(q->q, a->k + (q->k0 + j) * a->kv_stride + q->kv_column, a->head_dim);
        top = p[j] > top ? p[j] : top;
    }
    for (int64_t j = 0; j < q->visible; j++)
        sum += p[j] = exp(p[j] - top);
    for (int64_t j = 0; j < q->visible; j++)
        p[j] /= sum;
    return top + log(sum);
}

static void attend(const attention_args *a, const query *q)
{
    double *p = a->scratch;
    const double lse = probabilities(a, q, p);
    if (a->lse)
        a->lse[q->row * a->heads + q->head] = (float)lse;
    for (int64_t c = 0; c < a->head_dim; c++) {
        double sum = 0;
        for (int64_t j = 0; j < q->visible; j++)
            sum += p[j] * (double)a->v[(q->k0 + j) * a->kv_stride + q->kv_column + c];
        a->out[(q->row * a->heads + q->head) * a->head_dim + c] = (float)sum;
    }
}

static void ref_attention_forward(const kernels *kn, const attention_args *a)
{
    (void)kn;
    for (int64_t s = 0; s < a->sequences; s++)
        for (int64_t i = 0; i < a->q_start[s + 1] - a->q_start[s]; i++)
            for (int64_t head = 0; head < a->heads; head++) {
                const query q = query_at(a, s, i, head);
                attend(a, &q);
            }
}

static void attend_backward(const attention_args *a, const query *q)
{
    double *p = a->scratch, mean = 0;
    const int64_t dh = a->head_dim;
    const float *dout = a->dout + (q->row * a->heads + q->head) * dh;
    float *dq = a->dq + q->row * a->q_stride + q->head * dh;
    double *dp = p + q->visible;
    probabilities(a, q, p);
    for (int64_t j = 0; j < q->visible; j++) {
        dp[j] = dot(dout, a->v + (q->k0 + j) * a->kv_stride + q->kv_column, dh);
        mean += p[j] * dp[j];
    }
    for (int64_t c = 0; c < dh; c++) {
        double sum = 0;
        for (int64_t j = 0; j < q->visible; j++) {
            const int64_t at = (q->k0 + j) * a->kv_stride + q->kv_column + c;
            const double ds = (double)a->scale * p[j] * (dp[j] - mean);
            sum += ds * (double)a->k[at];
            a->dk[at] += (float)(ds * (double)q->q[c]);
            a->dv[at] += (float)(p[j] * (double)dout[c]);
        }
        dq[c] = (float)sum;
    }
}

static void ref_attention_backward(const kernels *kn, const attention_args *a)
{
    (void)kn;
    for (int64_t row = a->q_start[0]; row < a->q_start[a->sequences]; row++) {
        memset(a->dk + row * a->kv_stride, 0, (size_t)(a->kv_heads * a->head_dim) * sizeof *a->dk);
        memset(a->dv + row * a->kv_stride, 0, (size_t)(a->kv_heads * a->head_dim) * sizeof *a->dv);
    }
    for (int64_t s = 0; s < a->sequences; s++)
        for (int64_t i = 0; i < a->q_start[s + 1] - a->q_start[s]; i++)
            for (int64_t head = 0; head < a->heads; head++) {
                const query q = query_at(a, s, i, head);
                attend_backward(a, &q);
            }
}

static void ref_swiglu_forward(const kernels *kn, float *out, const float *gate_up, int64_t n, int64_t f)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < f; j++) {
            const double g = (double)gate_up[i * 2 * f + j], u = (double)gate_up[i * 2 * f + f + j];
            out[i * f + j] = (float)(g * sigmoid(g) * u);
        }
}

static void ref_swiglu_backward(const kernels *kn, float *dgate_up, const float *dout, const float *gate_up, int64_t n,
                                int64_t f)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < f; j++) {
            const int64_t at = i * 2 * f + j;
            const double g = (double)gate_up[at], u = (double)gate_up[at + f], d = (double)dout[i * f + j], s = sigmoid(g);
            dgate_up[at] = (float)(d * u * s * (1 + g * (1 - s)));
            dgate_up[at + f] = (float)(d * g * s);
        }
}

static void ref_bias_silu_forward(const kernels *kn, float *out, const float *pre, const float *bias, int64_t n, int64_t p)
{
    (void)kn;
    for (int64_t i = 0; i < n * p; i++) {
        const double z = (double)pre[i] + (double)bias[i % p];
        out[i] = (float)(z * sigmoid(z));
    }
}

static void ref_bias_silu_backward(const kernels *kn, float *dpre, float *dbias, const float *dout, const float *pre,
                                   const float *bias, int64_t n, int64_t p, void *scratch)
{
    (void)kn;
    (void)scratch;
    for (int64_t i = 0; i < n * p; i++) {
        const double z = (double)pre[i] + (double)bias[i % p], s = sigmoid(z);
        dpre[i] = (float)((double)dout[i] * s * (1 + z * (1 - s)));
        dbias[i % p] += dpre[i];
    }
}

static void ref_rowdot_forward(const kernels *kn, float *logit, const float *x, const float *w, const float *bias, int64_t n,
                               int64_t d)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        logit[i] = (float)(dot(x + i * d, w, d) + (bias ? (double)*bias : 0));
}

static void ref_rowdot_backward(const kernels *kn, float *dx, const int32_t *index, float *dw, float *dbias,
                                const float *dlogit, const float *x, const float *w, int64_t n, int64_t d, void *scratch)
{
    (void)kn;
    (void)scratch;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < d; j++) {
            dw[j] += dlogit[i] * x[i * d + j];
            if (dx)
                dx[row_of(index, i) * d + j] += dlogit[i] * w[j];
        }
        if (dbias)
            *dbias += dlogit[i];
    }
}

/* Is a to be chosen before b, at positions i < j? Ties go to the lower position, NaN is below every number. */
static bool beats(float a, float b)
{
    return b != b ? a == a : a > b;
}

static void ref_topk(const kernels *kn, int32_t *index, uint8_t *member, const float *logit, int64_t B, int64_t T, int64_t k,
                     void *scratch)
{
    (void)kn;
    (void)scratch;
    for (int64_t b = 0; b < B; b++) {
        const float *r = logit + b * T;
        for (int64_t t = 0, chosen = 0; t < T; t++) {
            int64_t before = 0; /* tokens that go before t */
            for (int64_t o = 0; o < T; o++)
                before += beats(r[o], r[t]) || (o < t && !beats(r[t], r[o]));
            member[b * T + t] = before < k;
            if (before < k)
                index[b * k + chosen++] = (int32_t)(b * T + t);
        }
    }
}

static void ref_above(const kernels *kn, int32_t *index, int32_t *start, const float *logit, float threshold, int64_t B,
                      int64_t T)
{
    (void)kn;
    int32_t n = 0;
    for (int64_t b = 0; b < B; b++) {
        start[b] = n;
        for (int64_t i = b * T; i < (b + 1) * T; i++)
            if (logit[i] > threshold)
                index[n++] = (int32_t)i;
    }
    start[B] = n;
}

static void ref_gather_int(const kernels *kn, int32_t *to, const int32_t *from, const int32_t *index, int64_t n)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        to[i] = from[index[i]];
}

static void ref_noise(const kernels *kn, float *out, uint64_t seed, uint64_t stream, uint64_t counter, int64_t n)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)rng_normal(seed, stream, counter + (uint64_t)i);
}

static double gate_value(const scatter_args *a, int64_t row)
{
    const double r = a->logit ? (double)a->logit[row] : 0;
    return !a->logit || a->gate == GATE_ONE ? 1 : a->gate == GATE_SIGMOID ? sigmoid(r) : r;
}

static double gate_slope(const scatter_args *a, int64_t row)
{
    if (!a->logit || a->gate == GATE_ONE)
        return 0;
    const double s = sigmoid((double)a->logit[row]);
    return a->gate == GATE_SIGMOID ? s * (1 - s) : 1;
}

static void ref_scatter_forward(const kernels *kn, const scatter_args *a)
{
    (void)kn;
    for (int64_t i = 0; i < a->n; i++) {
        const int64_t row = row_of(a->index, i);
        for (int64_t j = 0; j < a->d; j++)
            a->x[row * a->d + j] += (float)(gate_value(a, row) * (double)a->u[i * a->d + j]);
    }
}

static void ref_scatter_backward(const kernels *kn, const scatter_args *a)
{
    (void)kn;
    for (int64_t i = 0; i < a->n; i++) {
        const int64_t row = row_of(a->index, i);
        const double slope = gate_slope(a, row);
        for (int64_t j = 0; j < a->d; j++)
            a->du[i * a->d + j] = (float)(gate_value(a, row) * (double)a->dx[row * a->d + j]);
        if (a->dlogit)
            a->dlogit[i] = slope != 0 ? (float)(slope * dot(a->dx + row * a->d, a->u + i * a->d, a->d)) : 0;
    }
}

static void ref_bce(const kernels *kn, bce_args *a)
{
    (void)kn;
    a->loss = 0;
    a->agreed = 0;
    for (int64_t i = 0; i < a->n; i++) {
        const double z = (double)a->logit[i], y = a->member[i] ? 1 : 0;
        a->loss += fmax(z, 0) + log1p(exp(-fabs(z))) - y * z + 0 * z; /* fmax drops NaN: 0 z brings it back */
        a->agreed += (a->logit[i] > a->threshold) == (a->member[i] != 0);
        if (a->dlogit)
            a->dlogit[i] = (float)((double)a->scale * (sigmoid(z) - y) / (double)a->n);
    }
}

static void ref_cross_entropy(const kernels *kn, float *loss, float *logits, const int32_t *target, float scale, int64_t n,
                              int64_t V)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++) {
        float *z = logits + i * V;
        const bool counts = target[i] >= 0;
        double top = (double)z[0], sum = 0;
        for (int64_t j = 0; j < V; j++)
            top = (double)z[j] > top ? (double)z[j] : top;
        for (int64_t j = 0; j < V; j++)
            sum += exp((double)z[j] - top);
        loss[i] = counts ? (float)(top + log(sum) - (double)z[target[i]]) : 0;
        for (int64_t j = 0; j < V && scale != 0; j++)
            z[j] = counts ? (float)((double)scale * (exp((double)z[j] - top) / sum - (j == target[i]))) : 0;
    }
}

static void ref_adamw(const kernels *kn, const adamw_args *a)
{
    (void)kn;
    const double b1 = (double)a->beta1, b2 = (double)a->beta2, t = (double)a->step;
    for (int64_t i = 0; i < a->n; i++) {
        const double g = (double)a->g[i] * (double)a->grad_scale;
        a->m[i] = (float)(b1 * (double)a->m[i] + (1 - b1) * g);
        a->v[i] = (float)(b2 * (double)a->v[i] + (1 - b2) * g * g);
        const double m = (double)a->m[i] / (1 - pow(b1, t)), v = (double)a->v[i] / (1 - pow(b2, t));
        a->p[i] -= (float)((double)a->lr * (m / (sqrt(v) + (double)a->eps) + (double)a->decay * (double)a->p[i]));
        a->g[i] = 0;
    }
}

static void ref_add(const kernels *kn, float *y, const float *x, int64_t n)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

static double ref_sum(const kernels *kn, const float *x, int64_t n)
{
    (void)kn;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    return sum;
}

static double ref_sum_squares(const kernels *kn, const float *x, int64_t n)
{
    (void)kn;
    return dot(x, x, n);
}

/* On the CPU, host memory is the backend's memory. */
#define ref_mem_upload ref_mem_copy
#define ref_mem_download ref_mem_copy

kernels kernels_ref(void)
{
    kernels kn = {.name = "ref"};
#define REF_ENTRY(result, entry, parameters) kn.entry = ref_##entry;
    KERNEL_LIST(REF_ENTRY)
#undef REF_ENTRY
    return kn;
}

const char *kernels_missing(const kernels *kn)
{
#define CHECK_ENTRY(result, entry, parameters) \
    if (!kn->entry)                            \
        return #entry;
    KERNEL_LIST(CHECK_ENTRY)
#undef CHECK_ENTRY
    return NULL;
}
