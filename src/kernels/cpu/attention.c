/* Causal attention in blocks of up to QUERY_BLOCK queries against KEY_BLOCK keys, so that a block of scores stays in the cache
 * and memory does not grow with the sequence. Masked blocks are never computed. A block's products go through narrow.c's
 * loops where these fit, elsewhere through the matrix library, on the thread that owns the block. The softmax over several
 * blocks of keys keeps each row's running maximum and sum and rescales what it has (Milakov and Gimelshein, 2018; Dao et al.,
 * 2022).
 *
 * Forward: a task is (sequence, head, span of queries). Backward: a task is (sequence, key/value head), which owns its
 * columns of dk and dv, so nothing needs an atomic and sums have one order. */
#include "kernels/cpu/cpu.h"

enum { QUERY_BLOCK = 128, QUERY_SPAN = 256, KEY_BLOCK = 512, NARROW_BLOCK = 4 * NARROW_ROWS, FEW_QUERIES = 2, ROWS_AHEAD = 32 };

typedef struct sequence_view {
    int64_t s;     /* which sequence */
    int64_t q0, m; /* first query row, queries */
    int64_t k0, n; /* first key row, keys */
} sequence_view;

static sequence_view view(const attention_args *a, int64_t s)
{
    const int32_t *kv = a->kv_start ? a->kv_start : a->q_start;
    return (sequence_view){s, a->q_start[s], a->q_start[s + 1] - a->q_start[s], kv[s], kv[s + 1] - kv[s]};
}

/* The keys that query i of a sequence sees. */
static int64_t seen_by(const attention_args *a, const sequence_view *s, int64_t i)
{
    return a->q_position ? a->q_position[s->q0 + i] + 1 : s->n - s->m + i + 1;
}

/* Rows of a block. narrow: as many as keep their scores in the first caches. Else, where a diagonal block's masked half weighs little,
 * more of them make the products faster. */
static int64_t query_block(const sequence_view *s, bool narrow)
{
    return narrow ? NARROW_BLOCK : s->n < KEY_BLOCK ? QUERY_BLOCK / 2 : QUERY_BLOCK;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

enum { SCORES = 2 * QUERY_BLOCK * KEY_BLOCK };

/* Floats of a thread's room: two blocks of scores, a block of keys and values out of pages and one of their transposes, or one query's
 * scores of every head against all keys. */
static size_t room_floats(int64_t keys, int64_t heads, int64_t dh)
{
    const size_t blocks = SCORES + 4 * (size_t)KEY_BLOCK * (size_t)dh, rows = (size_t)(heads * (keys + 16));
    return ((blocks > rows ? blocks : rows) + 15) / 16 * 16; /* every thread's room begins with a cache line */
}

size_t cpu_attention_scratch(const kernels *kn, const kernel_sizes *s)
{
    return (size_t)kn->threads * room_floats(s->keys, s->heads, s->head_dim) * sizeof(float);
}

/* What the tiles of one call know. */
typedef struct attention_call {
    const attention_args *args;
    int64_t keys;  /* the most that a sequence has */
    int64_t spans; /* forward: of the longest sequence's queries */
    int64_t parts; /* forward, few queries: of a sequence's heads */
} attention_call;

static float *room(const attention_call *c, int seat)
{
    const attention_args *a = c->args;
    return (float *)a->scratch + (size_t)seat * room_floats(c->keys, a->heads, a->head_dim);
}

/* One row of scores, n of them visible, becomes exp(score - top); returns the sum. */
CLONES static float exp_row(float *restrict p, int64_t n, float top)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) {
        p[j] = exp_fast(p[j] - top);
        sum += p[j];
    }
    return sum;
}

CLONES static void scale_row(float *restrict x, float factor, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        x[j] *= factor;
}

/* Running maximum and sum of the exponentials of each row of a span. */
typedef struct softmax_rows {
    float top[QUERY_SPAN], sum[QUERY_SPAN];
} softmax_rows;

/* What the rows of a block see of a block of keys that begins `at` keys into the sequence: some none, some all. */
typedef struct visible_keys {
    int64_t first;           /* keys of the sequence that the first row sees; each next row one more */
    const int32_t *position; /* or, unless NULL, row i sees position[i] + 1 */
    int64_t at;
} visible_keys;

static visible_keys visible_from(const attention_args *a, const sequence_view *s, int64_t row, int64_t at)
{
    return (visible_keys){s->n - s->m + row + 1, a->q_position ? a->q_position + s->q0 + row : NULL, at};
}

static inline int64_t visible_to(const visible_keys *v, int64_t i, int64_t keys)
{
    const int64_t n = (v->position ? v->position[i] + 1 : v->first + i) - v->at;
    return n < 0 ? 0 : n < keys ? n : keys;
}

/* A block of scores [rows, keys]; the rows are `stride` apart. */
typedef struct score_block {
    float *scores;
    int64_t rows, keys, stride;
    visible_keys visible;
} score_block;

/* Takes in a block: the scores become weights towards the rows' maximum so far, and the sums (out, dh wide) are brought to it. top, sum:
 * of the block's rows. */
static void softmax_block(float *tops, float *sums, const score_block *b, bool first, float *out, int64_t out_stride, int64_t dh)
{
    const int64_t keys = b->keys;
    for (int64_t i = 0; i < b->rows; i++) {
        float *p = b->scores + i * b->stride;
        const int64_t n = visible_to(&b->visible, i, keys);
        const float block_top = n > 0 ? max_of(p, n) : -INFINITY;
        const float top = first || block_top > tops[i] || block_top != block_top ? block_top : tops[i];
        const float sum = n > 0 ? exp_row(p, n, top) : 0;
        for (int64_t j = n; j < keys; j++)
            p[j] = 0;
        if (first) {
            sums[i] = sum;
        } else {
            if (top != tops[i]) {
                const float factor = expf(tops[i] - top);
                sums[i] *= factor;
                scale_row(out + i * out_stride, factor, dh);
            }
            sums[i] += sum;
        }
        tops[i] = top;
    }
}

/* Keys of a head that lie together: all from key j on, or what its page has of them. */
typedef struct key_run {
    const float *k, *v;
    int64_t n;
} key_run;

static key_run keys_from(const attention_args *a, const sequence_view *s, int64_t kv_head, int64_t j, int64_t end)
{
    int64_t at = kv_head * a->kv_head_stride, n = end - j;
    if (a->page) {
        const int64_t row = j % a->page_keys;
        at += a->page[a->page_start[s->s] + j / a->page_keys] * a->page_stride + row * a->kv_stride;
        n = min64(n, a->page_keys - row);
    } else {
        at += (s->k0 + j) * a->kv_stride;
    }
    return (key_run){a->k + at, a->v + at, n};
}

/* out [dh] += sum_j p_j v_j, in blocks of columns that stay in registers. */
#define WEIGHTED_SUM(name, LANES)                                                                                      \
    CLONES static void name(float *restrict out, const float *restrict p, const float *restrict v, int64_t stride,     \
                            int64_t n)                                                                                 \
    {                                                                                                                  \
        float lane[LANES];                                                                                             \
        memcpy(lane, out, sizeof lane);                                                                                \
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

/* p [n] = <q, k_j>. In a page a head's keys are a dense matrix. */
static void dots(const attention_args *a, const float *q, const key_run *r, float *p)
{
    const int64_t dh = a->head_dim, stride = a->kv_stride;
    if (stride == dh)
        cpu_matvec_rows(&(linear_args){.n = 1, .in = dh, .out = r->n, .x = q, .w = {.data = r->k}, .y = p}, 0, r->n);
    else
        for (int64_t j = 0; j < r->n; j++)
            cpu_matvec_rows(&(linear_args){.n = 1, .in = dh, .out = 1, .x = q, .w = {.data = r->k + j * stride}, .y = p + j}, 0, 1);
}

/* A query of the heads [first, end) against n keys: one pass over the keys, one over the values, as they lie in memory, where they must be
 * fetched from: the weights of the layers between have driven them out of the caches. In a page the heads follow each other. p: scores
 * [heads, n + 16]. Both loops ask for rows ahead of them. */
static void attend_once(const attention_args *a, const sequence_view *s, int64_t row, int64_t first, int64_t end, int64_t n, float *p)
{
    const int64_t dh = a->head_dim, group = a->heads / a->kv_heads, width = n + 16;
    float *out = a->out + row * a->heads * dh;
    key_run r;
    for (int64_t j = 0; j < n; j += r.n)
        for (int64_t h = first; h < end; h++) {
            r = keys_from(a, s, h / group, j, n);
            dots(a, a->q + row * a->q_stride + h * dh, &r, p + (h - first) * width + j);
        }
    for (int64_t h = first; h < end; h++) {
        float *scores = p + (h - first) * width;
        scale_row(scores, a->scale, n);
        const float top = max_of(scores, n), sum = exp_row(scores, n, top);
        scale_row(scores, 1 / sum, n);
        if (a->lse)
            a->lse[row * a->heads + h] = top + logf(sum);
    }
    memset(out + first * dh, 0, (size_t)((end - first) * dh) * sizeof *out);
    for (int64_t j = 0; j < n; j += r.n)
        for (int64_t h = first; h < end; h++) {
            r = keys_from(a, s, h / group, j, n);
            weighted_sum(out + h * dh, p + (h - first) * width + j, r.v, a->kv_stride, r.n, dh);
        }
}

/* The keys [at, at + n) of a head and their values as dense matrices: where they lie, or, out of pages, in `room`. */
static key_run key_block(const attention_args *a, const sequence_view *s, int64_t kv_head, int64_t at, int64_t n, float *room)
{
    const size_t row = (size_t)a->head_dim * sizeof(float);
    if (!a->page)
        return keys_from(a, s, kv_head, at, at + n);
    float *k = room, *v = room + KEY_BLOCK * a->head_dim;
    key_run r;
    for (int64_t j = 0; j < n; j += r.n) {
        r = keys_from(a, s, kv_head, at + j, at + n);
        memcpy(k + j * a->head_dim, r.k, (size_t)r.n * row);
        memcpy(v + j * a->head_dim, r.v, (size_t)r.n * row);
    }
    return (key_run){k, v, n};
}

/* Rows that the narrow loops take at a time, from i on. */
static int64_t group_rows(int64_t i, int64_t rows)
{
    return min64(NARROW_ROWS, rows - i);
}

/* The keys that some row of a group sees. */
static int64_t group_keys(const score_block *b, int64_t i)
{
    return visible_to(&b->visible, i + group_rows(i, b->rows) - 1, b->keys);
}

static int64_t padded(int64_t keys)
{
    return (keys + NARROW_COLUMNS - 1) / NARROW_COLUMNS * NARROW_COLUMNS;
}

/* b's scores = alpha x k^T of rows x [rows, dh], as far as they are seen; kt: keys transposed, KEY_BLOCK apart, NULL where the matrix
 * library multiplies. */
static void score_product(const score_block *b, float *scores, const float *x, int64_t x_stride, const float *k, int64_t k_stride,
                          const float *kt, int64_t dh, float alpha)
{
    if (!kt) {
        cpu_gemm_one(&(gemm_args){.trans_b = true, .m = b->rows, .n = b->keys, .k = dh, .a = x, .lda = x_stride, .b = k,
                                  .ldb = k_stride, .c = scores, .ldc = b->stride, .alpha = alpha});
        return;
    }
    for (int64_t i = 0; i < b->rows; i += NARROW_ROWS)
        cpu_narrow_product(&(narrow_args){.rows = group_rows(i, b->rows), .columns = padded(group_keys(b, i)), .depth = dh,
                                          .a = x + i * x_stride, .a_row = x_stride, .a_depth = 1, .b = kt, .b_stride = KEY_BLOCK,
                                          .c = scores + i * b->stride, .c_stride = b->stride, .alpha = alpha});
}

/* y [rows, dh] = alpha weights v (+ y): of a block's weights over its keys. */
static void weighted_product(const score_block *b, const float *weights, const float *v, int64_t v_stride, float *y, int64_t y_stride,
                             int64_t dh, float alpha, bool add, bool narrow)
{
    if (!narrow) {
        cpu_gemm_one(&(gemm_args){.m = b->rows, .n = dh, .k = b->keys, .a = weights, .lda = b->stride, .b = v, .ldb = v_stride,
                                  .c = y, .ldc = y_stride, .alpha = alpha, .beta = add});
        return;
    }
    for (int64_t i = 0; i < b->rows; i += NARROW_ROWS)
        cpu_narrow_product(&(narrow_args){.rows = group_rows(i, b->rows), .columns = dh, .depth = group_keys(b, i),
                                          .a = weights + i * b->stride, .a_row = b->stride, .a_depth = 1, .b = v, .b_stride = v_stride,
                                          .c = y + i * y_stride, .c_stride = y_stride, .alpha = alpha, .add = add});
}

/* y [keys, dh] = alpha weights^T x (+ y): what the block's rows x [rows, dh] give its keys. */
static void transposed_product(const score_block *b, const float *weights, const float *x, int64_t x_stride, float *y, int64_t y_stride,
                               int64_t dh, float alpha, bool add, bool narrow)
{
    if (!narrow) {
        cpu_gemm_one(&(gemm_args){.trans_a = true, .m = b->keys, .n = dh, .k = b->rows, .a = weights, .lda = b->stride, .b = x,
                                  .ldb = x_stride, .c = y, .ldc = y_stride, .alpha = alpha, .beta = add});
        return;
    }
    for (int64_t j = 0, row = 0; j < b->keys; j += NARROW_ROWS) {
        while (visible_to(&b->visible, row, b->keys) <= j) /* the last row sees every key */
            row++;
        cpu_narrow_product(&(narrow_args){.rows = group_rows(j, b->keys), .columns = dh, .depth = b->rows - row,
                                          .a = weights + row * b->stride + j, .a_row = 1, .a_depth = b->stride,
                                          .b = x + row * x_stride, .b_stride = x_stride, .c = y + j * y_stride, .c_stride = y_stride,
                                          .alpha = alpha, .add = add});
    }
}

/* QUERY_SPAN queries from `begin` on. Block of keys by block of keys, so that one is fetched once for all of them. */
static void forward_span(const attention_args *a, const sequence_view *s, int64_t head, int64_t begin, float *scores)
{
    const int64_t dh = a->head_dim, kv_head = head / (a->heads / a->kv_heads), out_stride = a->heads * dh, q_row = s->q0 + begin;
    const bool narrow = cpu_narrow_fits(dh);
    const int64_t block = query_block(s, narrow), count = min64(QUERY_SPAN, s->m - begin), end = seen_by(a, s, begin + count - 1);
    float *out = a->out + q_row * out_stride + head * dh, *paged = scores + SCORES, *kt = narrow ? paged + 2 * KEY_BLOCK * dh : NULL;
    softmax_rows r;
    for (int64_t at = 0; at < end; at += KEY_BLOCK) {
        const key_run kv = key_block(a, s, kv_head, at, min64(KEY_BLOCK, end - at), paged);
        if (narrow)
            cpu_narrow_transpose(kt, KEY_BLOCK, kv.k, a->kv_stride, min64(KEY_BLOCK, end - at), dh);
        for (int64_t i = 0; i < count; i += block) {
            const int64_t rows = min64(block, count - i), n = min64(KEY_BLOCK, seen_by(a, s, begin + i + rows - 1) - at);
            if (n <= 0)
                continue;
            const score_block b = {scores, rows, n, narrow ? padded(n) : n, visible_from(a, s, begin + i, at)};
            float *to = out + i * out_stride;
            score_product(&b, scores, a->q + (q_row + i) * a->q_stride + head * dh, a->q_stride, kv.k, a->kv_stride, kt, dh, a->scale);
            softmax_block(r.top + i, r.sum + i, &b, at == 0, to, out_stride, dh);
            weighted_product(&b, scores, kv.v, a->kv_stride, to, out_stride, dh, 1, at > 0, narrow);
        }
    }
    for (int64_t i = 0; i < count; i++) {
        scale_row(out + i * out_stride, 1 / r.sum[i], dh);
        if (a->lse)
            a->lse[(q_row + i) * a->heads + head] = r.top[i] + logf(r.sum[i]);
    }
}

/* How many parts the heads of a sequence are divided into. Heads of a page follow each other in memory, so fewer parts read it
 * better; many sequences are tiles enough. */
static int64_t head_parts(const attention_args *a, int64_t keys)
{
    enum { WORTHWHILE = 8192, TILES = 32 }; /* keys and values of a tile, in floats; tiles of a call */
    const int64_t floats = 2 * keys * a->head_dim * a->heads, wanted = min64(floats / WORTHWHILE, TILES / a->sequences);
    return wanted < 1 ? 1 : min64(wanted, a->heads);
}

/* A few queries of some heads of a sequence: decoding. */
static void few_tile(void *context, int64_t tile, int seat)
{
    const attention_call *c = context;
    const attention_args *a = c->args;
    const sequence_view s = view(a, tile / c->parts);
    const int64_t part = tile % c->parts, first = chunk_begin(a->heads, part, c->parts), end = chunk_begin(a->heads, part + 1, c->parts);
    for (int64_t i = 0; i < s.m; i++)
        attend_once(a, &s, s.q0 + i, first, end, seen_by(a, &s, i), room(c, seat));
}

static void forward_tile(void *context, int64_t tile, int seat)
{
    const attention_call *c = context;
    const attention_args *a = c->args;
    /* longest first, so that the last to finish is a short one */
    const int64_t span = c->spans - 1 - tile / (a->sequences * a->heads);
    const int64_t s = tile / a->heads % a->sequences, head = tile % a->heads;
    const sequence_view v = view(a, s);
    if (span * QUERY_SPAN < v.m)
        forward_span(a, &v, head, span * QUERY_SPAN, room(c, seat));
}

void cpu_attention_forward(const kernels *kn, const attention_args *a)
{
    int64_t longest = 0, keys = 0;
    for (int64_t s = 0; s < a->sequences; s++) {
        const sequence_view v = view(a, s);
        longest = v.m > longest ? v.m : longest;
        keys = v.n > keys ? v.n : keys;
    }
    attention_call c = {.args = a, .keys = keys};
    const int threads = cpu_threads_for(kn, longest * keys * a->sequences * a->heads * a->head_dim);
    if (longest <= FEW_QUERIES) {
        c.parts = head_parts(a, keys);
        pool_run(threads, a->sequences * c.parts, few_tile, &c);
    } else {
        c.spans = (longest + QUERY_SPAN - 1) / QUERY_SPAN;
        pool_run(threads, a->sequences * a->heads * c.spans, forward_tile, &c);
    }
}

/* From scores [rows, keys] and dp = dout v^T: p becomes the probabilities, dp the gradient of the scores,
 * ds = p (dp - <dout, out>); past what a row sees both become 0. */
CLONES static void score_gradients(const score_block *b, float *dscores, const float *lse, int64_t heads, const float *delta)
{
    for (int64_t i = 0; i < b->rows; i++) {
        float *restrict p = b->scores + i * b->stride, *restrict dp = dscores + i * b->stride;
        const int64_t n = visible_to(&b->visible, i, b->keys);
        const float log_sum = lse[i * heads], d = delta[i];
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            p[j] = exp_fast(p[j] - log_sum);
            dp[j] = p[j] * (dp[j] - d);
        }
        for (int64_t j = n; j < b->keys; j++)
            p[j] = dp[j] = 0;
    }
}

/* delta_i = <dout_i, out_i> */
CLONES static void row_dots(float *delta, const float *out, const float *dout, int64_t rows, int64_t stride, int64_t dh)
{
    for (int64_t i = 0; i < rows; i++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < dh; j++)
            sum += out[i * stride + j] * dout[i * stride + j];
        delta[i] = sum;
    }
}

/* One block of queries against one of keys. */
typedef struct tile {
    score_block block;
    const float *q, *k, *v, *dout, *lse, *delta;
    const float *kt, *vt; /* transposed; NULL where the matrix library multiplies */
    float *dq, *dk, *dv;
    bool first_keys, first_queries; /* set dq; set dk and dv */
} tile;

static void backward_tile(const attention_args *a, const tile *t, float *dscores)
{
    const int64_t dh = a->head_dim, stride = a->heads * dh;
    const score_block *b = &t->block;
    const bool narrow = t->kt != NULL;
    score_product(b, b->scores, t->q, a->q_stride, t->k, a->kv_stride, t->kt, dh, a->scale);
    score_product(b, dscores, t->dout, stride, t->v, a->kv_stride, t->vt, dh, 1);
    score_gradients(b, dscores, t->lse, a->heads, t->delta);
    transposed_product(b, b->scores, t->dout, stride, t->dv, a->kv_stride, dh, 1, !t->first_queries, narrow);
    transposed_product(b, dscores, t->q, a->q_stride, t->dk, a->kv_stride, dh, a->scale, !t->first_queries, narrow);
    weighted_product(b, dscores, t->k, a->kv_stride, t->dq, a->q_stride, dh, a->scale, !t->first_keys, narrow);
}

/* Block of keys by block of keys, so that one, with its gradients, stays in the cache while the queries that see it go by. */
static void backward_head(const attention_args *a, const sequence_view *s, int64_t head, bool first, float *scores)
{
    const int64_t dh = a->head_dim, stride = a->heads * dh, kv_head = head / (a->heads / a->kv_heads);
    const bool narrow = cpu_narrow_fits(dh);
    const int64_t block = query_block(s, narrow), last = (s->m - 1) / block * block;
    const int64_t kv = s->k0 * a->kv_stride + kv_head * a->kv_head_stride;
    float *dscores = scores + (size_t)QUERY_BLOCK * KEY_BLOCK, delta[QUERY_BLOCK];
    float *kt = narrow ? scores + SCORES : NULL, *vt = narrow ? kt + KEY_BLOCK * dh : NULL;
    for (int64_t at = 0; at < s->n; at += KEY_BLOCK) {
        const int64_t from = kv + at * a->kv_stride;
        if (narrow) {
            cpu_narrow_transpose(kt, KEY_BLOCK, a->k + from, a->kv_stride, min64(KEY_BLOCK, s->n - at), dh);
            cpu_narrow_transpose(vt, KEY_BLOCK, a->v + from, a->kv_stride, min64(KEY_BLOCK, s->n - at), dh);
        }
        /* from the last block of queries, which sees every key, so that it sets dk and dv and the others add to them */
        for (int64_t begin = last; begin >= 0; begin -= block) {
            const int64_t rows = min64(block, s->m - begin), row = s->q0 + begin;
            const int64_t keys = min64(KEY_BLOCK, seen_by(a, s, begin + rows - 1) - at);
            if (keys <= 0)
                break;
            const float *dout = a->dout + row * stride + head * dh;
            row_dots(delta, a->out + row * stride + head * dh, dout, rows, stride, dh);
            const tile t = {.block = {scores, rows, keys, narrow ? padded(keys) : keys, visible_from(a, s, begin, at)},
                            .q = a->q + row * a->q_stride + head * dh, .k = a->k + from, .v = a->v + from, .kt = kt, .vt = vt,
                            .dout = dout, .lse = a->lse + row * a->heads + head, .delta = delta,
                            .dq = a->dq + row * a->q_stride + head * dh, .dk = a->dk + from, .dv = a->dv + from,
                            .first_keys = at == 0, .first_queries = first && begin == last && !a->q_position};
            backward_tile(a, &t, dscores);
        }
    }
}

static void backward_heads(void *context, int64_t tile, int seat)
{
    const attention_call *c = context;
    const attention_args *a = c->args;
    const int64_t group = a->heads / a->kv_heads, kv_head = tile % a->kv_heads;
    const sequence_view v = view(a, tile / a->kv_heads);
    if (a->q_position) /* nobody may see the last keys */
        for (int64_t i = 0; i < v.n; i++) {
            const int64_t at = (v.k0 + i) * a->kv_stride + kv_head * a->head_dim;
            memset(a->dk + at, 0, (size_t)a->head_dim * sizeof(float));
            memset(a->dv + at, 0, (size_t)a->head_dim * sizeof(float));
        }
    for (int64_t j = 0; v.m > 0 && j < group; j++)
        backward_head(a, &v, kv_head * group + j, j == 0, room(c, seat));
}

void cpu_attention_backward(const kernels *kn, const attention_args *a)
{
    attention_call c = {.args = a};
    for (int64_t s = 0; s < a->sequences; s++)
        c.keys = view(a, s).n > c.keys ? view(a, s).n : c.keys;
    pool_run(kn->threads, a->sequences * a->kv_heads, backward_heads, &c);
}

static void kv_store_rows(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const kv_store_args *a = context;
    const size_t row = (size_t)a->head_dim * sizeof(float);
    for (int64_t i = begin; i < end; i++)
        for (int64_t h = 0; h < a->kv_heads; h++) {
            const int64_t from = i * a->stride + h * a->head_dim, page = a->slot[i] / a->page_keys;
            const int64_t to = ((page * a->kv_heads + h) * a->page_keys + a->slot[i] % a->page_keys) * a->head_dim;
            memcpy(a->to_k + to, a->k + from, row);
            memcpy(a->to_v + to, a->v + from, row);
        }
}

void cpu_kv_store(const kernels *kn, const kv_store_args *a)
{
    cpu_chunks(kn, a->n, 2 * a->kv_heads * a->head_dim, kv_store_rows, a);
}
