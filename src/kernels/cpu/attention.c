/* Causal attention in blocks of QUERY_BLOCK queries against all the keys they may see, so that scores take
 * threads x QUERY_BLOCK x keys floats: memory grows linearly with the sequence. Masked blocks are never computed. A block's
 * products go through the matrix library on the thread that owns the block.
 *
 * Forward: a task is (sequence, head, block of queries). Backward: a task is (sequence, key/value head), which owns its
 * columns of dk and dv, so nothing needs an atomic and sums have one order. */
#include "kernels/cpu/cpu.h"

#include <omp.h>

enum { QUERY_BLOCK = 64, FEW_QUERIES = 2, ROWS_AHEAD = 32 };

typedef struct sequence_view {
    int64_t q0, m; /* first query row, queries */
    int64_t k0, n; /* first key row, keys */
} sequence_view;

static sequence_view view(const attention_args *a, int64_t s)
{
    const int32_t *kv = a->kv_start ? a->kv_start : a->q_start;
    return (sequence_view){a->q_start[s], a->q_start[s + 1] - a->q_start[s], kv[s], kv[s + 1] - kv[s]};
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static size_t block_floats(int64_t keys)
{
    return (size_t)QUERY_BLOCK * (size_t)((keys + 15) / 16 * 16 + 16);
}

size_t cpu_attention_scratch(const kernel_sizes *s)
{
    return (size_t)omp_get_max_threads() * 2 * block_floats(s->keys) * sizeof(float);
}

/* Rows of scores [rows, keys] become probabilities; row i sees `first_visible` + i keys, the rest become 0. */
CLONES static void softmax_rows(float *scores, int64_t rows, int64_t keys, int64_t first_visible, float *lse,
                                int64_t lse_stride)
{
    for (int64_t i = 0; i < rows; i++) {
        float *restrict p = scores + i * keys;
        const int64_t visible = first_visible + i;
        const float top = max_of(p, visible);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < visible; j++) {
            p[j] = exp_fast(p[j] - top);
            sum += p[j];
        }
        const float scale = 1.0f / sum;
        for (int64_t j = 0; j < visible; j++)
            p[j] *= scale;
        for (int64_t j = visible; j < keys; j++)
            p[j] = 0;
        if (lse)
            lse[i * lse_stride] = top + logf(sum);
    }
}

CLONES static void scale_scores(float *p, float scale, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        p[j] *= scale;
}

/* out [dh] = sum_j p_j v_j, in blocks of columns that stay in registers. */
#define WEIGHTED_SUM(name, LANES)                                                                                      \
    CLONES static void name(float *restrict out, const float *restrict p, const float *restrict v, int64_t stride,     \
                            int64_t n)                                                                                 \
    {                                                                                                                  \
        float lane[LANES] = {0};                                                                                       \
        for (int64_t j = 0; j < n; j++) {                                                                              \
            for (int64_t l = 0; l < LANES; l += 16)                                                                    \
                __builtin_prefetch(v + (j + ROWS_AHEAD) * stride + l);                                                 \
            for (int64_t l = 0; l < LANES; l++)                                                                        \
                lane[l] += p[j] * v[j * stride + l];                                                                   \
        }                                                                                                              \
        memcpy(out, lane, sizeof lane);                                                                                \
    }
WEIGHTED_SUM(weighted_sum_64, 64)
WEIGHTED_SUM(weighted_sum_16, 16)
WEIGHTED_SUM(weighted_sum_1, 1)

static void weighted_sum(float *out, const float *p, const float *v, int64_t stride, int64_t n, int64_t dh)
{
    int64_t c = 0;
    for (; c + 64 <= dh; c += 64)
        weighted_sum_64(out + c, p, v + c, stride, n);
    for (; c + 16 <= dh; c += 16)
        weighted_sum_16(out + c, p, v + c, stride, n);
    for (; c < dh; c++)
        weighted_sum_1(out + c, p, v + c, stride, n);
}

static void prefetch_rows(const float *from, int64_t floats)
{
    for (int64_t i = 0; i < floats; i += 16)
        __builtin_prefetch(from + i);
}

/* One query against n keys: one pass over the keys, one over the values, as they lie in memory, where they must be fetched from:
 * the weights of the layers between have driven them out of the caches. So the beginning of what comes next, this head's values
 * and the next one's keys, is asked for a pass ahead. In a cache a head's keys are a dense matrix. */
static void attend_once(const attention_args *a, int64_t row, int64_t head, const float *k, const float *v, int64_t n,
                        float *p)
{
    const int64_t dh = a->head_dim, stride = a->kv_stride;
    const float *q = a->q + row * a->q_stride + head * dh;
    const int64_t ahead = stride * min64(n, ROWS_AHEAD);
    prefetch_rows(v, ahead);
    if (stride == dh)
        cpu_matvec_rows(&(linear_args){.n = 1, .in = dh, .out = n, .x = q, .w = {.data = k}, .y = p}, 0, n);
    else
        for (int64_t j = 0; j < n; j++)
            cpu_matvec_rows(&(linear_args){.n = 1, .in = dh, .out = 1, .x = q, .w = {.data = k + j * stride}, .y = p + j}, 0, 1);
    scale_scores(p, a->scale, n);
    softmax_rows(p, 1, n, n, a->lse ? a->lse + row * a->heads + head : NULL, a->heads);
    prefetch_rows(k + a->kv_head_stride, ahead);
    weighted_sum(a->out + (row * a->heads + head) * dh, p, v, stride, n, dh);
}

static void forward_block(const kernels *kn, const attention_args *a, const sequence_view *s, int64_t head,
                          int64_t begin, float *scores)
{
    const int64_t dh = a->head_dim, rows = min64(QUERY_BLOCK, s->m - begin);
    const int64_t first_visible = s->n - s->m + begin + 1, keys = first_visible + rows - 1;
    const int64_t kv_head = head / (a->heads / a->kv_heads), out_stride = a->heads * dh;
    const int64_t q_row = s->q0 + begin;
    const float *k = a->k + s->k0 * a->kv_stride + kv_head * a->kv_head_stride;
    const float *v = a->v + s->k0 * a->kv_stride + kv_head * a->kv_head_stride;
    cpu_gemm(kn, &(gemm_args){.trans_b = true, .m = rows, .n = keys, .k = dh,
                              .a = a->q + q_row * a->q_stride + head * dh, .lda = a->q_stride,
                              .b = k, .ldb = a->kv_stride,
                              .c = scores, .ldc = keys, .alpha = a->scale});
    softmax_rows(scores, rows, keys, first_visible, a->lse ? a->lse + q_row * a->heads + head : NULL, a->heads);
    cpu_gemm(kn, &(gemm_args){.m = rows, .n = dh, .k = keys, .a = scores, .lda = keys,
                              .b = v, .ldb = a->kv_stride,
                              .c = a->out + q_row * out_stride + head * dh, .ldc = out_stride, .alpha = 1});
}

/* A few queries of each sequence: decoding. A thread takes heads that follow each other. */
static void forward_few(const attention_args *a, int64_t keys)
{
    const int64_t tasks = a->sequences * a->heads;
#pragma omp parallel for schedule(static) if (tasks > 1 && keys * tasks > 256)
    for (int64_t task = 0; task < tasks; task++) {
        const sequence_view s = view(a, task / a->heads);
        const int64_t head = task % a->heads, kv_head = head / (a->heads / a->kv_heads);
        const float *k = a->k + s.k0 * a->kv_stride + kv_head * a->kv_head_stride;
        const float *v = a->v + s.k0 * a->kv_stride + kv_head * a->kv_head_stride;
        float *scores = (float *)a->scratch + (size_t)omp_get_thread_num() * 2 * block_floats(keys);
        for (int64_t i = 0; i < s.m; i++)
            attend_once(a, s.q0 + i, head, k, v, s.n - s.m + i + 1, scores);
    }
}

void cpu_attention_forward(const kernels *kn, const attention_args *a)
{
    int64_t longest = 0, keys = 0;
    for (int64_t s = 0; s < a->sequences; s++) {
        const sequence_view v = view(a, s);
        longest = v.m > longest ? v.m : longest;
        keys = v.n > keys ? v.n : keys;
    }
    const int64_t blocks = (longest + QUERY_BLOCK - 1) / QUERY_BLOCK, tasks = a->sequences * a->heads * blocks;
    if (longest <= FEW_QUERIES) {
        forward_few(a, keys);
        return;
    }
#pragma omp parallel for schedule(dynamic) if (tasks > 1 && longest * keys * a->sequences > 1024)
    for (int64_t task = 0; task < tasks; task++) {
        /* longest blocks first, so that the last to finish is a short one */
        const int64_t block = blocks - 1 - task / (a->sequences * a->heads);
        const int64_t s = task / a->heads % a->sequences, head = task % a->heads;
        const sequence_view v = view(a, s);
        if (block * QUERY_BLOCK < v.m)
            forward_block(kn, a, &v, head, block * QUERY_BLOCK,
                          (float *)a->scratch + (size_t)omp_get_thread_num() * 2 * block_floats(keys));
    }
}

/* From scores [rows, keys] and dp = dout v^T: p becomes the probabilities, dp the gradient of the scores,
 * ds = p (dp - <dout, out>); the columns past a row's last visible key become 0 in both. */
CLONES static void score_gradients(float *scores, float *dscores, int64_t rows, int64_t keys, int64_t first_visible,
                                   const float *lse, int64_t heads, const float *out, const float *dout,
                                   int64_t stride, int64_t dh)
{
    for (int64_t i = 0; i < rows; i++) {
        float *restrict p = scores + i * keys, *restrict dp = dscores + i * keys;
        const int64_t visible = first_visible + i;
        const float log_sum = lse[i * heads];
        float delta = 0;
#pragma omp simd reduction(+ : delta)
        for (int64_t j = 0; j < dh; j++)
            delta += out[i * stride + j] * dout[i * stride + j];
        for (int64_t j = 0; j < visible; j++) {
            p[j] = exp_fast(p[j] - log_sum);
            dp[j] = p[j] * (dp[j] - delta);
        }
        for (int64_t j = visible; j < keys; j++)
            p[j] = dp[j] = 0;
    }
}

static void backward_head(const kernels *kn, const attention_args *a, const sequence_view *s, int64_t head, bool first,
                          float *scores, float *dscores)
{
    const int64_t dh = a->head_dim, kv_head = head / (a->heads / a->kv_heads), stride = a->heads * dh;
    const float *k = a->k + s->k0 * a->kv_stride + kv_head * a->kv_head_stride, *v = a->v + s->k0 * a->kv_stride + kv_head * a->kv_head_stride;
    float *dk = a->dk + s->k0 * a->kv_stride + kv_head * a->kv_head_stride, *dv = a->dv + s->k0 * a->kv_stride + kv_head * a->kv_head_stride;
    /* from the last block of queries, which sees every key, so that it sets dk and dv and the others add to them */
    for (int64_t begin = (s->m - 1) / QUERY_BLOCK * QUERY_BLOCK; begin >= 0; begin -= QUERY_BLOCK) {
        const int64_t rows = min64(QUERY_BLOCK, s->m - begin), keys = begin + rows, row = s->q0 + begin;
        const float *q = a->q + row * a->q_stride + head * dh, *dout = a->dout + row * stride + head * dh;
        const float beta = first && keys == s->n ? 0 : 1;
        cpu_gemm(kn, &(gemm_args){.trans_b = true, .m = rows, .n = keys, .k = dh, .a = q, .lda = a->q_stride, .b = k,
                                  .ldb = a->kv_stride, .c = scores, .ldc = keys, .alpha = a->scale});
        cpu_gemm(kn, &(gemm_args){.trans_b = true, .m = rows, .n = keys, .k = dh, .a = dout, .lda = stride, .b = v,
                                  .ldb = a->kv_stride, .c = dscores, .ldc = keys, .alpha = 1});
        score_gradients(scores, dscores, rows, keys, begin + 1, a->lse + row * a->heads + head, a->heads,
                        a->out + row * stride + head * dh, dout, stride, dh);
        cpu_gemm(kn, &(gemm_args){.trans_a = true, .m = keys, .n = dh, .k = rows, .a = scores, .lda = keys, .b = dout,
                                  .ldb = stride, .c = dv, .ldc = a->kv_stride, .alpha = 1, .beta = beta});
        cpu_gemm(kn, &(gemm_args){.trans_a = true, .m = keys, .n = dh, .k = rows, .a = dscores, .lda = keys, .b = q,
                                  .ldb = a->q_stride, .c = dk, .ldc = a->kv_stride, .alpha = a->scale, .beta = beta});
        cpu_gemm(kn, &(gemm_args){.m = rows, .n = dh, .k = keys, .a = dscores, .lda = keys, .b = k,
                                  .ldb = a->kv_stride, .c = a->dq + row * a->q_stride + head * dh, .ldc = a->q_stride,
                                  .alpha = a->scale});
    }
}

void cpu_attention_backward(const kernels *kn, const attention_args *a)
{
    const int64_t group = a->heads / a->kv_heads, tasks = a->sequences * a->kv_heads;
    int64_t keys = 0;
    for (int64_t s = 0; s < a->sequences; s++)
        keys = view(a, s).n > keys ? view(a, s).n : keys;
#pragma omp parallel for schedule(dynamic) if (tasks > 1)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t kv_head = task % a->kv_heads;
        const sequence_view v = view(a, task / a->kv_heads);
        float *scores = (float *)a->scratch + (size_t)omp_get_thread_num() * 2 * block_floats(keys);
        for (int64_t j = 0; j < group; j++)
            backward_head(kn, a, &v, kv_head * group + j, j == 0, scores, scores + block_floats(keys));
    }
}
