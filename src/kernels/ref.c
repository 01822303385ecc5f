/* The reference backend: every entry of the table in plain C, one thread, sums in double. It is the yardstick that the tests
 * hold the other backends against, so each function is its equation in kernels.h written down, and needs no scratch.
 *
 * The order of additions is the order of the loops: the same inputs give the same bits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernels.h"
#include "kernels/weight.h"

enum { ALIGNMENT = 64 };
enum { GATE_RAW, GATE_SIGMOID, GATE_ONE }; /* the order of mod_gate */

/* --- memory: the host's own --- */

static void *ref_mem_alloc(const kernels *kn, size_t bytes)
{
    (void)kn;
    if (bytes > SIZE_MAX - ALIGNMENT)
        return NULL;
    const size_t blocks = bytes == 0 ? 1 : (bytes + ALIGNMENT - 1) / ALIGNMENT;
    return aligned_alloc(ALIGNMENT, blocks * ALIGNMENT);
}

static void ref_mem_free(const kernels *kn, void *p)
{
    (void)kn;
    free(p);
}

static void ref_mem_copy(const kernels *kn, void *to, const void *from, size_t bytes)
{
    (void)kn;
    if (bytes > 0)
        memcpy(to, from, bytes);
}

static void ref_mem_zero(const kernels *kn, void *p, size_t bytes)
{
    (void)kn;
    if (bytes > 0)
        memset(p, 0, bytes);
}

static const void *ref_mem_host(const kernels *kn, const void *p)
{
    (void)kn;
    return p;
}

static void ref_copy_rows(const kernels *kn, float *to, int64_t to_stride, const float *from, int64_t from_stride, int64_t n,
                          int64_t width)
{
    for (int64_t i = 0; i < n; i++)
        ref_mem_copy(kn, to + i * to_stride, from + i * from_stride, (size_t)width * sizeof *to);
}

static size_t ref_scratch_bytes(const kernels *kn, const kernel_sizes *sizes)
{
    (void)kn;
    (void)sizes;
    return 0;
}

/* --- matrix product, embedding --- */

static bool ref_bf16(const kernels *kn)
{
    (void)kn;
    return true;
}

static double as_multiplied(float x, bool bf16)
{
    return (double)(bf16 ? bf16_widen(bf16_round(x)) : x);
}

static void ref_gemm(const kernels *kn, const gemm_args *a)
{
    (void)kn;
    const int64_t a_row = a->trans_a ? 1 : a->lda, a_col = a->trans_a ? a->lda : 1;
    const int64_t b_row = a->trans_b ? 1 : a->ldb, b_col = a->trans_b ? a->ldb : 1;
    for (int64_t i = 0; i < a->m; i++)
        for (int64_t j = 0; j < a->n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < a->k; l++)
                sum += as_multiplied(a->a[i * a_row + l * a_col], a->bf16) *
                       as_multiplied(a->b[l * b_row + j * b_col], a->bf16);
            float *c = a->c + i * a->ldc + j;
            *c = (float)((double)a->alpha * sum + (a->beta == 0 ? 0 : (double)a->beta * (double)*c));
        }
}

static float weight_at(weight w, int64_t columns, int64_t row, int64_t column)
{
    const int64_t i = row * columns + column;
    return w.type == WEIGHT_F32    ? ((const float *)w.data)[i]
           : w.type == WEIGHT_BF16 ? bf16_widen(((const uint16_t *)w.data)[i])
                                   : w.scale[row] * (float)((const int8_t *)w.data)[i];
}

static void ref_linear(const kernels *kn, const linear_args *a)
{
    (void)kn;
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t r = 0; r < a->out; r++) {
            double sum = 0;
            for (int64_t j = 0; j < a->in; j++)
                sum += as_multiplied(a->x[i * a->in + j], a->bf16) * as_multiplied(weight_at(a->w, a->in, r, j), a->bf16);
            float *y = a->y + i * a->out + r;
            *y = (float)(sum + (a->add ? (double)*y : 0));
        }
}

static void ref_embed_forward(const kernels *kn, float *x, weight table, const int32_t *tokens, int64_t n, int64_t d)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            x[i * d + j] = weight_at(table, d, tokens[i], j);
}

static void ref_embed_backward(const kernels *kn, float *dtable, const float *dx, const int32_t *tokens, int64_t n,
                               int64_t d)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            dtable[tokens[i] * d + j] += dx[i * d + j];
}

/* --- RMSNorm --- */

static int64_t row_of(const int32_t *index, int64_t i)
{
    return index ? index[i] : i;
}

static void ref_norm_forward(const kernels *kn, const norm_args *a)
{
    (void)kn;
    const int64_t d = a->d;
    for (int64_t i = 0; i < a->n; i++) {
        const float *x = a->x + row_of(a->index, i) * d;
        float *out = a->out + i * d;
        double squares = 0;
        for (int64_t j = 0; j < d; j++) {
            out[j] = a->plus ? x[j] + a->plus[i * d + j] : x[j];
            squares += (double)out[j] * (double)out[j];
        }
        const double s = 1 / sqrt(squares / (double)d + (double)a->eps);
        for (int64_t j = 0; j < d; j++) {
            if (a->saved)
                a->saved[i * d + j] = out[j];
            out[j] = (float)((double)out[j] * s * (double)a->weight[j]);
        }
        if (a->rstd)
            a->rstd[i] = (float)s;
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
            double sum = s * (double)a->weight[j] * (double)dout[j] - (double)x[j] * s * s * s / (double)d * dot;
            if (a->add)
                sum += (double)a->add[i * d + j];
            dx[j] = (float)(a->accumulate ? (double)dx[j] + sum : sum);
        }
    }
    for (int64_t j = 0; j < d; j++) {
        double sum = 0;
        for (int64_t i = 0; i < a->n; i++)
            sum += (double)a->dout[i * d + j] * (double)a->x[i * d + j] * (double)a->rstd[i];
        a->dweight[j] += (float)sum;
    }
}

/* --- attention --- */

static void ref_rope(const kernels *kn, float *x, int64_t stride, int64_t n, int64_t heads, int64_t head_dim,
                     const float *table, const int32_t *position, int direction)
{
    (void)kn;
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t j = 0; j < half; j++) {
                const double c = (double)table[position[i] * head_dim + j];
                const double s = direction * (double)table[position[i] * head_dim + half + j];
                float *low = x + i * stride + h * head_dim + j, *high = low + half;
                const double a = (double)*low, b = (double)*high;
                *low = (float)(a * c - b * s);
                *high = (float)(b * c + a * s);
            }
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++)
        sum += (double)a[j] * (double)b[j];
    return sum;
}

static void axpy(float *y, double factor, const float *x, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        y[j] = (float)((double)y[j] + factor * (double)x[j]);
}

static void zero_columns(float *x, int64_t stride, int64_t begin, int64_t end, int64_t width)
{
    for (int64_t i = begin; i < end; i++)
        memset(x + i * stride, 0, (size_t)width * sizeof *x);
}

/* One query of one head: its rows of everything, and the keys [first, end) that it sees. */
typedef struct query {
    int64_t sequence;
    int64_t row, first, end; /* rows of q and out; of k and v */
    int64_t at, kv_at;       /* the head's first column in q and out; in k and v */
} query;

/* Where key j of the query's sequence lies in k and v. */
static int64_t key_at(const attention_args *a, query t, int64_t j)
{
    if (!a->page)
        return t.kv_at + j * a->kv_stride;
    const int64_t i = j - t.first;
    return t.kv_at + a->page[a->page_start[t.sequence] + i / a->page_keys] * a->page_stride + i % a->page_keys * a->kv_stride;
}

static void query_forward(const attention_args *a, int64_t head, query t)
{
    const int64_t dh = a->head_dim;
    const float *q = a->q + t.row * a->q_stride + t.at;
    float *out = a->out + t.row * a->heads * dh + t.at;
    const double scale = (double)a->scale;
    double top = -INFINITY, sum = 0;
    for (int64_t j = t.first; j < t.end; j++)
        top = fmax(top, scale * dot(q, a->k + key_at(a, t, j), dh));
    for (int64_t j = t.first; j < t.end; j++)
        sum += exp(scale * dot(q, a->k + key_at(a, t, j), dh) - top);
    memset(out, 0, (size_t)dh * sizeof *out);
    for (int64_t j = t.first; j < t.end; j++)
        axpy(out, exp(scale * dot(q, a->k + key_at(a, t, j), dh) - top) / sum, a->v + key_at(a, t, j), dh);
    if (a->lse)
        a->lse[t.row * a->heads + head] = (float)(top + log(sum));
}

/* With p the probabilities: dv_j += p_j dout; the score's gradient is p_j (<dout, v_j> - <dout, out>). */
static void query_backward(const attention_args *a, int64_t head, query t)
{
    const int64_t dh = a->head_dim, out_at = t.row * a->heads * dh + t.at;
    const float *q = a->q + t.row * a->q_stride + t.at, *dout = a->dout + out_at;
    float *dq = a->dq + t.row * a->q_stride + t.at;
    const double lse = (double)a->lse[t.row * a->heads + head], delta = dot(dout, a->out + out_at, dh);
    for (int64_t j = t.first; j < t.end; j++) {
        const int64_t at = j * a->kv_stride + t.kv_at;
        const double p = exp((double)a->scale * dot(q, a->k + at, dh) - lse);
        const double dscore = (double)a->scale * p * (dot(dout, a->v + at, dh) - delta);
        axpy(dq, dscore, a->k + at, dh);
        axpy(a->dk + at, dscore, q, dh);
        axpy(a->dv + at, p, dout, dh);
    }
}

static void each_query(const attention_args *a, void (*visit)(const attention_args *, int64_t, query))
{
    const int32_t *kv_start = a->kv_start ? a->kv_start : a->q_start;
    for (int64_t s = 0; s < a->sequences; s++) {
        const int64_t begin = a->q_start[s], m = a->q_start[s + 1] - begin, n = kv_start[s + 1] - kv_start[s];
        for (int64_t head = 0; head < a->heads; head++)
            for (int64_t i = 0; i < m; i++) {
                const int64_t last = a->q_position ? a->q_position[begin + i] : n - m + i;
                visit(a, head, (query){.sequence = s, .row = begin + i, .first = kv_start[s], .end = kv_start[s] + last + 1,
                                       .at = head * a->head_dim,
                                       .kv_at = head / (a->heads / a->kv_heads) * a->kv_head_stride});
            }
    }
}

static void ref_attention_forward(const kernels *kn, const attention_args *a)
{
    (void)kn;
    each_query(a, query_forward);
}

static void ref_attention_backward(const kernels *kn, const attention_args *a)
{
    (void)kn;
    const int32_t *kv = a->kv_start ? a->kv_start : a->q_start;
    zero_columns(a->dq, a->q_stride, a->q_start[0], a->q_start[a->sequences], a->heads * a->head_dim);
    zero_columns(a->dk, a->kv_stride, kv[0], kv[a->sequences], a->kv_heads * a->head_dim);
    zero_columns(a->dv, a->kv_stride, kv[0], kv[a->sequences], a->kv_heads * a->head_dim);
    each_query(a, query_backward);
}

static void ref_kv_store(const kernels *kn, const kv_store_args *a)
{
    (void)kn;
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t h = 0; h < a->kv_heads; h++) {
            const int64_t from = i * a->stride + h * a->head_dim, page = a->slot[i] / a->page_keys;
            const int64_t to = ((page * a->kv_heads + h) * a->page_keys + a->slot[i] % a->page_keys) * a->head_dim;
            memcpy(a->to_k + to, a->k + from, (size_t)a->head_dim * sizeof(float));
            memcpy(a->to_v + to, a->v + from, (size_t)a->head_dim * sizeof(float));
        }
}

/* --- activations --- */

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double silu(double x)
{
    return x * sigmoid(x);
}

static double silu_slope(double x)
{
    const double s = sigmoid(x);
    return s * (1 + x * (1 - s));
}

static void ref_swiglu_forward(const kernels *kn, float *out, const float *gate_up, int64_t n, int64_t f)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < f; j++)
            out[i * f + j] = (float)(silu((double)gate_up[2 * i * f + j]) * (double)gate_up[(2 * i + 1) * f + j]);
}

static void ref_swiglu_backward(const kernels *kn, float *dgate_up, const float *dout, const float *gate_up, int64_t n,
                                int64_t f)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < f; j++) {
            const int64_t gate = 2 * i * f + j, up = gate + f;
            const double g = (double)gate_up[gate], u = (double)gate_up[up], o = (double)dout[i * f + j];
            dgate_up[gate] = (float)(o * u * silu_slope(g));
            dgate_up[up] = (float)(o * silu(g));
        }
}

static void ref_bias_silu_forward(const kernels *kn, float *out, const float *pre, const float *bias, int64_t n,
                                  int64_t p)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < p; j++)
            out[i * p + j] = (float)silu((double)pre[i * p + j] + (double)bias[j]);
}

static void ref_bias_silu_backward(const kernels *kn, float *dpre, float *dbias, const float *dout, const float *pre,
                                   const float *bias, int64_t n, int64_t p, void *scratch)
{
    (void)kn;
    (void)scratch;
    for (int64_t j = 0; j < p; j++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++) {
            const double dz = (double)dout[i * p + j] * silu_slope((double)pre[i * p + j] + (double)bias[j]);
            dpre[i * p + j] = (float)dz;
            sum += dz;
        }
        dbias[j] += (float)sum;
    }
}

/* --- routing --- */

static void ref_rowdot_forward(const kernels *kn, float *logit, const float *x, const float *w, const float *bias,
                               int64_t n, int64_t d)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        logit[i] = (float)(dot(x + i * d, w, d) + (bias ? (double)*bias : 0));
}

static void ref_rowdot_backward(const kernels *kn, float *dx, const int32_t *index, float *dw, float *dbias,
                                const float *dlogit, const float *x, const float *w, int64_t n, int64_t d,
                                void *scratch)
{
    (void)kn;
    (void)scratch;
    for (int64_t j = 0; j < d; j++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += (double)dlogit[i] * (double)x[i * d + j];
        dw[j] += (float)sum;
    }
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        total += (double)dlogit[i];
        if (dx)
            axpy(dx + row_of(index, i) * d, (double)dlogit[i], w, d);
    }
    if (dbias)
        *dbias += (float)total;
}

/* Whether the logit at position s goes before the one at t. */
static bool precedes(const float *logit, int64_t s, int64_t t)
{
    const float a = logit[s], b = logit[t];
    if (isnan(a) || isnan(b))
        return isnan(a) && isnan(b) ? s < t : isnan(b) != 0;
    return a > b || (a == b && s < t);
}

static void ref_topk(const kernels *kn, int32_t *index, uint8_t *member, const float *logit, int64_t B, int64_t T,
                     int64_t k, void *scratch)
{
    (void)kn;
    (void)scratch;
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++) {
            int64_t before = 0;
            for (int64_t s = 0; s < T; s++)
                before += precedes(logit + b * T, s, t);
            member[b * T + t] = before < k;
            if (before < k)
                *index++ = (int32_t)(b * T + t);
        }
}

static int64_t ref_above(const kernels *kn, const above_args *a)
{
    (void)kn;
    int32_t count = 0;
    int64_t dropped = 0;
    a->start[0] = 0;
    for (int64_t s = 0; s < a->sequences; s++) {
        const float threshold = a->thresholds ? a->thresholds[s] : a->threshold;
        for (int32_t i = a->row_start[s]; i < a->row_start[s + 1]; i++)
            if (a->logit[i] > threshold && count - a->start[s] < a->limit)
                a->index[count++] = i;
            else
                dropped += a->logit[i] > threshold;
        a->start[s + 1] = count;
    }
    return dropped;
}

static void ref_balance(const kernels *kn, balance_args *a)
{
    (void)kn;
    const double n = (double)a->n, c = (double)a->capacity;
    double f = 0, p = 0;
    for (int64_t i = 0; i < a->n; i++) {
        f += a->logit[i] > a->threshold;
        p += sigmoid((double)a->logit[i]);
    }
    f /= n;
    p /= n;
    a->loss = f * p / c + (1 - f) * (1 - p) / (1 - c);
    const double slope = (double)a->scale * (f / c - (1 - f) / (1 - c)) / n;
    for (int64_t i = 0; a->dlogit && i < a->n; i++) {
        const double s = sigmoid((double)a->logit[i]);
        a->dlogit[i] = (float)(slope * s * (1 - s));
    }
}

static void ref_gather_int(const kernels *kn, int32_t *to, const int32_t *from, const int32_t *index, int64_t n)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        to[i] = from[row_of(index, i)];
}

static void ref_noise(const kernels *kn, float *out, uint64_t seed, uint64_t stream, uint64_t counter, int64_t n)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)rng_normal(seed, stream, counter + (uint64_t)i);
}

static double gate_value(const scatter_args *a, int64_t row)
{
    if (!a->logit || a->gate == GATE_ONE)
        return 1;
    return a->gate == GATE_RAW ? (double)a->logit[row] : sigmoid((double)a->logit[row]);
}

static double gate_slope(const scatter_args *a, int64_t row)
{
    if (!a->logit || a->gate == GATE_ONE)
        return 0;
    const double s = sigmoid((double)a->logit[row]);
    return a->gate == GATE_RAW ? 1 : s * (1 - s);
}

static void ref_scatter_forward(const kernels *kn, const scatter_args *a)
{
    (void)kn;
    for (int64_t i = 0; i < a->n; i++) {
        const int64_t row = row_of(a->index, i);
        axpy(a->x + row * a->d, gate_value(a, row), a->u + i * a->d, a->d);
    }
}

static void ref_scatter_backward(const kernels *kn, const scatter_args *a)
{
    (void)kn;
    for (int64_t i = 0; i < a->n; i++) {
        const int64_t row = row_of(a->index, i);
        const float *dx = a->dx + row * a->d;
        const double g = gate_value(a, row);
        for (int64_t j = 0; j < a->d; j++)
            a->du[i * a->d + j] = (float)(g * (double)dx[j]);
        if (!a->dlogit)
            continue;
        const bool flat = !a->logit || a->gate == GATE_ONE; /* u may be NULL */
        a->dlogit[i] = flat ? 0 : (float)(gate_slope(a, row) * dot(dx, a->u + i * a->d, a->d));
    }
}

/* --- experts --- */

static void ref_expert_softmax(const kernels *kn, float *p, int64_t E, int64_t n)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++) {
        double top = -INFINITY, sum = 0;
        for (int64_t e = 0; e < E; e++)
            top = fmax(top, (double)p[e * n + i]);
        for (int64_t e = 0; e < E; e++)
            sum += exp((double)p[e * n + i] - top);
        for (int64_t e = 0; e < E; e++)
            p[e * n + i] = (float)(exp((double)p[e * n + i] - top) / sum);
    }
}

static void ref_expert_choose(const kernels *kn, float *chosen, int64_t *count, const float *p, int64_t E, int64_t n, int64_t K)
{
    (void)kn;
    for (int64_t e = 0; e < E; e++)
        count[e] = 0;
    memset(chosen, 0, (size_t)(E * n) * sizeof *chosen);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < K; k++) {
            int64_t best = -1;
            for (int64_t e = 0; e < E; e++) {
                const float x = p[e * n + i];
                if (chosen[e * n + i] == 0 && (best < 0 || x > p[best * n + i] || (isnan(p[best * n + i]) && !isnan(x))))
                    best = e;
            }
            chosen[best * n + i] = 1;
            count[best]++;
        }
}

static void ref_expert_softmax_backward(const kernels *kn, float *dp, const float *p, const float *shift, int64_t E, int64_t n)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++) {
        double mean = 0;
        for (int64_t e = 0; e < E; e++)
            mean += (double)p[e * n + i] * ((double)dp[e * n + i] + (shift ? (double)shift[e] : 0));
        for (int64_t e = 0; e < E; e++)
            dp[e * n + i] = (float)((double)p[e * n + i] * ((double)dp[e * n + i] + (shift ? (double)shift[e] : 0) - mean));
    }
}

/* --- losses --- */

static void ref_bce(const kernels *kn, bce_args *a)
{
    (void)kn;
    a->loss = 0;
    a->agreed = 0;
    for (int64_t i = 0; i < a->n; i++) {
        const double z = (double)a->logit[i], y = a->member[i];
        /* softplus(z) = max(z, 0) + log(1 + exp(-|z|)), which does not overflow */
        a->loss += (z > 0 ? z : 0) + log1p(exp(-fabs(z))) - y * z;
        a->agreed += (a->logit[i] > a->threshold) == (a->member[i] != 0);
        if (a->dlogit)
            a->dlogit[i] = (float)((double)a->scale * (sigmoid(z) - y) / (double)a->n);
    }
}

static void ref_cross_entropy(const kernels *kn, float *loss, float *logits, const int32_t *target, float scale,
                              int64_t n, int64_t V)
{
    (void)kn;
    for (int64_t i = 0; i < n; i++) {
        float *z = logits + i * V;
        double top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < V; j++)
            top = fmax(top, (double)z[j]);
        for (int64_t j = 0; j < V; j++)
            sum += exp((double)z[j] - top);
        const bool counts = target[i] >= 0;
        loss[i] = counts ? (float)(top + log(sum) - (double)z[target[i]]) : 0;
        if (scale == 0)
            continue;
        for (int64_t j = 0; j < V; j++)
            z[j] = counts ? (float)((double)scale * (exp((double)z[j] - top) / sum - (j == target[i]))) : 0;
    }
}

/* --- optimizer, sums --- */

static void ref_adamw(const kernels *kn, const adamw_args *a)
{
    (void)kn;
    const double b1 = (double)a->beta1, b2 = (double)a->beta2, t = (double)a->step;
    const double correct1 = 1 - pow(b1, t), correct2 = 1 - pow(b2, t);
    for (int64_t i = 0; i < a->n; i++) {
        const double g = (double)a->grad_scale * (double)a->g[i], p = (double)a->p[i];
        const double m = b1 * (double)a->m[i] + (1 - b1) * g, v = b2 * (double)a->v[i] + (1 - b2) * g * g;
        a->m[i] = (float)m;
        a->v[i] = (float)v;
        a->p[i] = (float)(p - (double)a->lr * (m / correct1 / (sqrt(v / correct2) + (double)a->eps)
                                               + (double)a->decay * p));
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

kernels kernels_ref(void)
{
    return (kernels){
        .name = "ref",
        .mem_alloc = ref_mem_alloc,
        .mem_free = ref_mem_free,
        .mem_upload = ref_mem_copy,
        .mem_download = ref_mem_copy,
        .mem_copy = ref_mem_copy,
        .mem_zero = ref_mem_zero,
        .threads = 1,
        .mem_host = ref_mem_host,
        .copy_rows = ref_copy_rows,
        .scratch_bytes = ref_scratch_bytes,
        .gemm = ref_gemm,
        .bf16 = ref_bf16,
        .linear = ref_linear,
        .embed_forward = ref_embed_forward,
        .embed_backward = ref_embed_backward,
        .norm_forward = ref_norm_forward,
        .norm_backward = ref_norm_backward,
        .rope = ref_rope,
        .attention_forward = ref_attention_forward,
        .attention_backward = ref_attention_backward,
        .kv_store = ref_kv_store,
        .swiglu_forward = ref_swiglu_forward,
        .swiglu_backward = ref_swiglu_backward,
        .bias_silu_forward = ref_bias_silu_forward,
        .bias_silu_backward = ref_bias_silu_backward,
        .rowdot_forward = ref_rowdot_forward,
        .rowdot_backward = ref_rowdot_backward,
        .topk = ref_topk,
        .above = ref_above,
        .gather_int = ref_gather_int,
        .noise = ref_noise,
        .scatter_forward = ref_scatter_forward,
        .scatter_backward = ref_scatter_backward,
        .balance = ref_balance,
        .bce = ref_bce,
        .expert_softmax = ref_expert_softmax,
        .expert_choose = ref_expert_choose,
        .expert_softmax_backward = ref_expert_softmax_backward,
        .cross_entropy = ref_cross_entropy,
        .adamw = ref_adamw,
        .add = ref_add,
        .sum = ref_sum,
        .sum_squares = ref_sum_squares,
    };
}

const char *kernels_missing(const kernels *kn)
{
#define KERNEL_CHECK(result, name, parameters)                                                                         \
    if (!kn->name)                                                                                                     \
        return #name;
    KERNEL_LIST(KERNEL_CHECK)
#undef KERNEL_CHECK
    return NULL;
}
