/* The table of operations that a backend provides. Model code computes through this table alone, so a backend is added
 * without a change above it. ref.c fills every entry with plain C, the yardstick of the tests; kernels_cpu() starts from it
 * and overlays what is faster.
 *
 * Conventions. Matrices are row-major fp32; a stride is the distance of rows in elements. Pointers are the backend's memory
 * (mem_*), except where a comment says host. Sizes are int64_t, indices int32_t. Accumulation, stated once: gradients of
 * parameters and of the residual stream are added to (+=), every other output is set (=). Results depend on the inputs alone,
 * not on the number of threads. NaN in gives NaN out. No entry but mem_alloc allocates; temporary room comes
 * from `scratch`, whose size scratch_bytes tells beforehand.
 *
 * index: where an operation takes `index`, row i of its packed operand belongs to row index[i] of the residual stream; NULL
 * means i itself. Indices are unique, so a scatter needs no atomics. */
#ifndef FATHOM_KERNELS_KERNELS_H
#define FATHOM_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kernels kernels;

/* C [m, n] = alpha op(A) op(B) + beta C; op is the transpose where trans_* is set. op(A) is [m, k], op(B) [k, n];
 * lda, ldb, ldc are row strides of the matrices as stored. beta = 0 never reads C.
 * bf16: A and B are rounded to bfloat16 first (to nearest, ties to even), sums stay fp32; needs alpha 1, beta 0 or 1 and dense
 * operands (lda, ldb as narrow as the matrix), and a backend whose `bf16` says yes. */
typedef struct gemm_args {
    bool trans_a, trans_b;
    int64_t m, n, k;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
    float alpha, beta;
    bool bf16;
    const uint16_t *a16, *b16; /* bf16: A, B already rounded; NULL = round them into scratch */
    void *scratch;
} gemm_args;

/* A matrix [rows, columns] that is only read, as it is stored: fp32, bfloat16 (the upper half of an fp32), or 8-bit integers
 * with one scale a row, value = scale[row] x integer in [-127, 127] (weight.h makes them). */
typedef enum weight_type { WEIGHT_F32, WEIGHT_BF16, WEIGHT_Q8 } weight_type;
typedef struct weight {
    weight_type type;
    const void *data;
    const float *scale; /* q8: [rows] */
} weight;

/* y [n, out] = x [n, in] w^T (+ y where add), w [out, in]; all dense. Computed in fp32 whatever the weights are stored as, few
 * rows at the speed of reading w; bf16 as in gemm_args, for fp32 weights. by_row: a row of y has the same bits alone and among
 * others (not with bf16). */
typedef struct linear_args {
    int64_t n, in, out;
    const float *x;
    weight w;
    float *y;
    bool add, bf16, by_row;
    void *scratch;
} linear_args;

/* RMSNorm (Zhang and Sennrich, 2019) of n rows of the stream, fused with the gather and the residual sum:
 *     x_i = x[index[i]] + plus_i;   s_i = 1 / sqrt(mean_j x_ij^2 + eps);   out_i = x_i s_i weight
 * backward, from dout and the x that went in:
 *     dx_i = s_i (w dout_i) - x_i s_i^3 / d <w dout_i, x_i>;   dweight += sum_i dout_i x_i s_i */
typedef struct norm_args {
    int64_t n, d;
    float eps;
    const float *x;       /* forward: the stream [*, d], read at index; backward: packed rows [n, d] */
    const int32_t *index; /* [n] or NULL */
    const float *plus;    /* forward: [n, d] added to the rows first, or NULL */
    const float *weight;  /* [d] */
    float *out;           /* forward [n, d] */
    float *saved;         /* forward: the rows x_i [n, d], or NULL */
    float *rstd;          /* s [n]: written by forward (NULL: not kept), read by backward */
    const float *dout;    /* backward [n, d] */
    const float *add;     /* backward: [n, d] added to dx, or NULL */
    float *dx;            /* backward: dx_i + add_i is added to row index[i] (accumulate) or set (otherwise) */
    bool accumulate;
    float *dweight; /* backward [d], += */
    void *scratch;
} norm_args;

/* Causal attention on packed rows, grouped heads: head j of q reads head j / (heads / kv_heads) of k and v. Sequence s has
 * the queries [q_start[s], q_start[s+1]) and the keys [kv_start[s], kv_start[s+1]), both in the order of their positions;
 * with m queries and n >= m keys query i sees keys 0 .. n - m + i, or, given q_position, keys 0 .. q_position[i].
 * out_i = sum_j softmax_j(scale <q_i, k_j>) v_j.
 * Keys in pages (forward only): k and v are pools of pages of page_keys keys; key j of sequence s is row j % page_keys of page
 * page[page_start[s] + j / page_keys], and kv_start only says how many keys a sequence has.
 * lse_i = log sum_j exp(scale <q_i, k_j>) is kept for the backward pass, which recomputes the probabilities in blocks. */
typedef struct attention_args {
    int64_t sequences, heads, kv_heads, head_dim;
    const int32_t *q_start;  /* host [sequences + 1] */
    const int32_t *kv_start; /* host [sequences + 1]; NULL = q_start */
    const int32_t *q_position; /* [queries] ascending in a sequence, each within its keys; NULL: as above */
    const float *q, *k, *v;  /* head j of q at columns [j head_dim, (j+1) head_dim) */
    int64_t q_stride, kv_stride; /* of rows */
    int64_t kv_head_stride;      /* head j of k and v begins at j kv_head_stride, of its page where there are pages */
    const int32_t *page;         /* NULL: no pages */
    const int32_t *page_start;   /* host [sequences + 1] */
    int64_t page_keys, page_stride; /* distance of pages in elements */
    float scale;
    float *out; /* [queries, heads * head_dim], dense */
    float *lse; /* [queries, heads]; NULL = not kept */
    const float *dout;  /* backward [queries, heads * head_dim] */
    float *dq, *dk, *dv; /* backward: set; laid out as q and kv. Needs kv_head_stride = head_dim; kv_start NULL unless there is q_position. */
    void *scratch;
} attention_args;

/* Keys and values of n rows, head j at columns [j head_dim, (j+1) head_dim), into pages of page_keys keys [kv_heads, page_keys,
 * head_dim]: row i becomes row slot[i] % page_keys of page slot[i] / page_keys. */
typedef struct kv_store_args {
    int64_t n, kv_heads, head_dim, stride; /* stride: of rows of k and v */
    const float *k, *v;
    const int32_t *slot; /* [n], each once */
    int64_t page_keys;
    float *to_k, *to_v; /* the pools */
} kv_store_args;

/* The rows of sequences, sequence s having the rows [row_start[s], row_start[s+1]), whose logit is above the threshold: index, ascending. Of a
 * sequence only the first `limit` are taken. */
typedef struct above_args {
    int64_t sequences, limit;
    const int32_t *row_start; /* host [sequences + 1] */
    const float *logit;
    float threshold;
    const float *thresholds; /* host [sequences]: each sequence its own; NULL = threshold */
    int32_t *index;          /* out, [rows] at most */
    int32_t *start;          /* out, host [sequences + 1]: where each sequence's rows begin in index */
} above_args;

/* Gated scatter of a block's update into the stream: x[index[i]] += g(r_i) u_i with r_i = logit[index[i]];
 * backward from dx: du_i = g(r_i) dx[index[i]];  dlogit[i] = g'(r_i) <dx[index[i]], u_i> (packed, [n]).
 * gate: 0 raw g(r) = r, 1 sigmoid, 2 one. logit NULL stands for g = 1 too. */
typedef struct scatter_args {
    int64_t n, d;
    int gate; /* mod_gate */
    const int32_t *index;
    const float *logit; /* [stream rows] or NULL */
    const float *u;     /* [n, d]; backward: may be NULL when logit is NULL or gate is one */
    float *x;           /* forward: the stream, += */
    const float *dx;    /* backward: gradient of the stream, read only */
    float *du;          /* backward [n, d], set */
    float *dlogit;      /* backward [n], set (0 where g' = 0); may be NULL when u is NULL */
} scatter_args;

/* Binary cross-entropy of logits towards membership, mean over n:  (1/n) sum softplus(z) - y z.
 * dlogit_i = scale (sigmoid(z_i) - y_i) / n. Returns sums, not means, on the host. */
typedef struct bce_args {
    int64_t n;
    const float *logit;    /* [n] */
    const uint8_t *member; /* [n]: y */
    float scale, threshold;
    float *dlogit;  /* [n], set; NULL = not wanted */
    double loss;    /* out, host: sum of cross-entropies */
    int64_t agreed; /* out, host: number with (z > threshold) == y */
} bce_args;

/* The balancing loss of tokens that choose between a block and the residual path, towards a share c of them in the block: with
 * f the share of logits above the threshold and P the mean of sigmoid(logit),
 *     loss = f P / c + (1 - f)(1 - P) / (1 - c),
 * which is least, 1, where f = P = c. At c = 1/2 it is the Switch Transformer's (Fedus et al., 2021) for two experts. f is a
 * constant to the gradient: dlogit_i = scale (f / c - (1 - f)/(1 - c)) s_i (1 - s_i) / n. */
typedef struct balance_args {
    int64_t n;
    const float *logit; /* [n] */
    float threshold, capacity, scale;
    float *dlogit; /* [n], set; NULL = not wanted */
    double loss;   /* out, host */
} balance_args;

/* One AdamW update (Loshchilov and Hutter, 2019) of n parameters, gradient scaled first (clipping), and cleared after:
 *     m = b1 m + (1 - b1) s g;  v = b2 v + (1 - b2) (s g)^2
 *     p -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p);  g = 0 */
typedef struct adamw_args {
    int64_t n;
    float *p, *g, *m, *v;
    float lr, beta1, beta2, eps, decay, grad_scale;
    int64_t step; /* t >= 1 */
} adamw_args;

/* The largest sizes that will be used, for scratch_bytes. */
typedef struct kernel_sizes {
    int64_t rows, width; /* rows of any operand, columns of any row-wise operation (max of d, f, p) */
    int64_t keys;        /* longest sequence of keys */
    int64_t heads, kv_heads, head_dim, vocab;
    int64_t linear_in;   /* columns of the widest weight matrix */
    bool packed;         /* are weights anything but fp32? */
    int64_t bf16_floats; /* most elements of both operands of a bf16 product; 0 = there are none */
} kernel_sizes;

/* X(result, name, parameters). The list makes the table's fields, their names and the check that all are filled. */
#define KERNEL_LIST(X)                                                                                                 \
    /* memory: 64-byte aligned, NULL when there is none; upload and download copy to and from the host */             \
    X(void *, mem_alloc, (const kernels *kn, size_t bytes))                                                            \
    X(void, mem_free, (const kernels *kn, void *p))                                                                    \
    X(void, mem_upload, (const kernels *kn, void *to, const void *host, size_t bytes))                                 \
    X(void, mem_download, (const kernels *kn, void *host, const void *from, size_t bytes))                             \
    X(void, mem_copy, (const kernels *kn, void *to, const void *from, size_t bytes))                                   \
    X(void, mem_zero, (const kernels *kn, void *p, size_t bytes))                                                      \
    /* the host's own view of backend memory, or NULL where it has none and mem_download must copy */                 \
    X(const void *, mem_host, (const kernels *kn, const void *p))                                                      \
    /* to_i = from_i for n rows of `width` floats, each side with its stride (from's may be 0: one row n times) */    \
    X(void, copy_rows, (const kernels *kn, float *to, int64_t to_stride, const float *from, int64_t from_stride,       \
                        int64_t n, int64_t width))                                                                     \
    X(size_t, scratch_bytes, (const kernels *kn, const kernel_sizes *sizes))                                           \
    X(void, gemm, (const kernels *kn, const gemm_args *a))                                                             \
    /* does this processor multiply bfloat16 in hardware? */                                                           \
    X(bool, bf16, (const kernels *kn))                                                                                 \
    X(void, linear, (const kernels *kn, const linear_args *a))                                                         \
    /* x_i [n, d] = table[token_i];  dtable[token_i] += dx_i; tokens [n] */                                            \
    X(void, embed_forward, (const kernels *kn, float *x, weight table, const int32_t *tokens, int64_t n, int64_t d)) \
    X(void, embed_backward, (const kernels *kn, float *dtable, const float *dx, const int32_t *tokens, int64_t n, int64_t d)) \
    X(void, norm_forward, (const kernels *kn, const norm_args *a))                                                     \
    X(void, norm_backward, (const kernels *kn, const norm_args *a))                                                    \
    /* Rotary embedding (Su et al., 2021) in place on `heads` heads of each row: pairs (j, j + d_h/2) turn by the angle   \
     * direction x position x theta^(-2j/d_h); direction 1 forward, -1 backward. table [T, d_h]: row p holds the cosines  \
     * [d_h/2], then the sines. position [n] */                                                                        \
    X(void, rope, (const kernels *kn, float *x, int64_t stride, int64_t n, int64_t heads, int64_t head_dim,            \
                   const float *table, const int32_t *position, int direction))                                        \
    X(void, attention_forward, (const kernels *kn, const attention_args *a))                                           \
    X(void, attention_backward, (const kernels *kn, const attention_args *a))                                          \
    X(void, kv_store, (const kernels *kn, const kv_store_args *a))                                                     \
    /* SwiGLU (Shazeer, 2020): gate_up [n, 2f] holds g then u;  out [n, f] = silu(g) u;  dgate_up may be gate_up */                              \
    X(void, swiglu_forward, (const kernels *kn, float *out, const float *gate_up, int64_t n, int64_t f))               \
    X(void, swiglu_backward, (const kernels *kn, float *dgate_up, const float *dout, const float *gate_up, int64_t n, int64_t f)) \
    /* out [n, p] = silu(pre + bias), pre [n, p];  dpre from dout (may be the same), dbias += column sums */                            \
    X(void, bias_silu_forward, (const kernels *kn, float *out, const float *pre, const float *bias, int64_t n, int64_t p)) \
    X(void, bias_silu_backward, (const kernels *kn, float *dpre, float *dbias, const float *dout, const float *pre,    \
                                 const float *bias, int64_t n, int64_t p, void *scratch))                              \
    /* logit_i = <x_i, w> + bias (bias NULL = 0), always fp32; backward: dw += sum_i dlogit_i x_i, dbias += sum dlogit  \
     * (NULL = none), and unless dx is NULL dx[index[i]] += dlogit_i w. x is packed [n, d]. */                          \
    X(void, rowdot_forward, (const kernels *kn, float *logit, const float *x, const float *w, const float *bias, int64_t n, int64_t d)) \
    X(void, rowdot_backward, (const kernels *kn, float *dx, const int32_t *index, float *dw, float *dbias,             \
                              const float *dlogit, const float *x, const float *w, int64_t n, int64_t d, void *scratch)) \
    /* Per sequence of T logits [B, T] the k largest, ties to the lower position, NaN below every number: index [B, k] =   \
     * rows of the stream (b T + t), ascending; member [B, T] = 1 where chosen, else 0. 1 <= k <= T */                 \
    X(void, topk, (const kernels *kn, int32_t *index, uint8_t *member, const float *logit, int64_t B, int64_t T, int64_t k, void *scratch)) \
    /* returns how many more there were than the limits let through */                                                \
    X(int64_t, above, (const kernels *kn, const above_args *a))                                                        \
    /* to_i = from[index[i]] for int32 [n] (positions of routed rows) */                                               \
    X(void, gather_int, (const kernels *kn, int32_t *to, const int32_t *from, const int32_t *index, int64_t n))        \
    /* Experts, E of them, on n tokens; matrices [E, n]. p: logits become probabilities, a softmax over the experts of each token */ \
    X(void, expert_softmax, (const kernels *kn, float *p, int64_t E, int64_t n))                                       \
    /* The K largest p of each token, ties to the lower expert, NaN below every number: chosen = 1 there, 0 elsewhere;   \
     * count [E] (host): tokens that chose each expert */                                                              \
    X(void, expert_choose, (const kernels *kn, float *chosen, int64_t *count, const float *p, int64_t E, int64_t n, int64_t K)) \
    /* dp becomes the logits' gradient: d_e = dp_e + shift_e (shift [E], host; NULL = 0), dp_e = p_e (d_e - sum p d) */ \
    X(void, expert_softmax_backward, (const kernels *kn, float *dp, const float *p, const float *shift, int64_t E, int64_t n)) \
    /* Gaussian noise [n]: rng_normal(seed, stream, counter + i) */                                                    \
    X(void, noise, (const kernels *kn, float *out, uint64_t seed, uint64_t stream, uint64_t counter, int64_t n))       \
    X(void, scatter_forward, (const kernels *kn, const scatter_args *a))                                               \
    X(void, scatter_backward, (const kernels *kn, const scatter_args *a))                                              \
    X(void, balance, (const kernels *kn, balance_args *a))                                                             \
    X(void, bce, (const kernels *kn, bce_args *a))                                                                     \
    /* Softmax cross-entropy of logits [n, V] towards target [n]; a target < 0 counts nothing. loss_i on the device; with \
     * scale != 0 the logits become their own gradient, scale (softmax - onehot), zero where the target is < 0. */     \
    X(void, cross_entropy, (const kernels *kn, float *loss, float *logits, const int32_t *target, float scale, int64_t n, int64_t V)) \
    X(void, adamw, (const kernels *kn, const adamw_args *a))                                                           \
    /* y += x, [n] */                                                                                                  \
    X(void, add, (const kernels *kn, float *y, const float *x, int64_t n))                                             \
    /* To the host: the sum of x [n], the sum of its squares; accumulated in double in a fixed order. */               \
    X(double, sum, (const kernels *kn, const float *x, int64_t n))                                                     \
    X(double, sum_squares, (const kernels *kn, const float *x, int64_t n))

struct kernels {
    const char *name;
    void *context; /* the backend's own; NULL on the CPU */
    int threads;   /* that an operation uses, at least 1 */
#define KERNEL_FIELD(result, name, parameters) result(*name) parameters;
    KERNEL_LIST(KERNEL_FIELD)
#undef KERNEL_FIELD
};

/* Plain C, one thread; every entry filled. */
kernels kernels_ref(void);
/* The fast CPU backend: oneDNN (or CBLAS) matrix products, vectorised loops, the thread pool. threads: what each operation uses, 0
 * (see threads_choose) to THREADS_MOST; results do not depend on it. */
kernels kernels_cpu(int threads);
/* The name of the first entry that is NULL, or NULL when the table is complete. */
const char *kernels_missing(const kernels *kn);

/* Reads x [n] on kn's threads as fast as memory delivers, and returns the sum so that it must: for measuring bandwidth. */
float kernels_read_all(const kernels *kn, const float *x, int64_t n);

#endif
