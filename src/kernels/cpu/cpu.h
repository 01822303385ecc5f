/* Shared by the files of the CPU backend: how rows are cut into chunks, and functions of one number.
 *
 * Work on n rows is cut into at most MAX_CHUNKS chunks, a number that depends on n alone; sums over rows are kept per chunk
 * and added in the order of the chunks. So results do not depend on the number of threads. */
#ifndef FATHOM_KERNELS_CPU_CPU_H
#define FATHOM_KERNELS_CPU_CPU_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/clones.h"
#include "base/pool.h"
#include "kernels/kernels.h"

enum { MAX_CHUNKS = 32 };

/* Chunks for n items of `cost` elements each: none so small that starting a thread costs more than it does. */
static inline int64_t chunk_count(int64_t n, int64_t cost)
{
    const int64_t worthwhile = 8192; /* elements */
    int64_t chunks = cost >= worthwhile ? n : n * cost / worthwhile;
    return chunks < 1 ? 1 : chunks > MAX_CHUNKS ? MAX_CHUNKS : chunks;
}

static inline int64_t chunk_begin(int64_t n, int64_t chunk, int64_t chunks)
{
    return n * chunk / chunks;
}

/* Elements [begin, end) of n, chunk `chunk` of them. */
typedef void cpu_range(const void *context, int64_t chunk, int64_t begin, int64_t end);
/* Computes the chunk_count(n, cost) chunks of n items on the pool. */
void cpu_chunks(const kernels *kn, int64_t n, int64_t cost, cpu_range *range, const void *context);
/* The backend's threads, or 1 where so few elements are not worth waking another. */
int cpu_threads_for(const kernels *kn, int64_t elements);

/* exp(x) within 2 ulp for |x| < 87, clamped outside; NaN stays NaN. Cody-Waite reduction to |r| <= ln2 / 2 and the Taylor
 * polynomial of degree 7; rounding by adding 1.5 x 2^23 leaves the integer in the low bits, so there is no conversion that
 * NaN could break. */
static inline float exp_fast(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    union {
        float f;
        int32_t i;
    } u = {.f = x * 1.44269504088896341f + 12582912.0f};
    float n = u.f - 12582912.0f;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440054690583e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    u.i = (int32_t)(((uint32_t)u.i + (uint32_t)(127 - 0x4b400000)) << 23);
    return p * u.f;
}

static inline float sigmoid_fast(float x)
{
    return 1.0f / (1.0f + exp_fast(-x));
}

/* The largest of n >= 1 numbers. Sixteen lanes by hand: a compiler that respects NaN does not vectorise the plain loop. */
static inline float max_of(const float *x, int64_t n)
{
    enum { LANES = 16 };
    float lane[LANES], top = x[0];
    int64_t i = 0;
    for (int l = 0; l < LANES; l++)
        lane[l] = top;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (int l = 0; l < LANES; l++)
        top = lane[l] > top ? lane[l] : top;
    for (; i < n; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}

/* dw[j] += sum over chunks of partial[chunk][j], in order. */
static inline void add_partials(float *dw, const float *partial, int64_t chunks, int64_t d)
{
    for (int64_t c = 0; c < chunks; c++)
        for (int64_t j = 0; j < d; j++)
            dw[j] += partial[c * d + j];
}

/* Matrix products (gemm.c), C = alpha op(A) op(B) + beta C: in tiles on the pool. */
void cpu_gemm(const kernels *kn, const gemm_args *a);
/* The same on the calling thread alone, for a tile of another operation: fp32, no scratch. */
void cpu_gemm_one(const gemm_args *a);
bool cpu_bf16(const kernels *kn);
/* The processor multiplies bfloat16, but fp32 faster: then the table's gemm is the second one, whose bf16 products are fp32 ones of
 * rounded operands. */
bool cpu_bf16_is_slow(void);
void cpu_gemm_rounded(const kernels *kn, const gemm_args *a);
/* Bytes of scratch; bf16_floats: elements of both operands of the largest bf16 product. */
size_t cpu_gemm_scratch(const kernels *kn, int64_t bf16_floats);
/* How many tiles a matrix of weights [out, in] is cut into that is read for a few rows of x. */
int64_t cpu_weight_tiles(int64_t out, int64_t in);
/* May the loops written with its intrinsics be used? Always false where a build has none. */
bool cpu_has_avx512(void);
/* Rows by themselves (by_row.c); scratch: cpu_by_row_scratch. False, and nothing done, on a processor without AVX-512, where cpu_matvec does
 * as well. */
bool cpu_by_row(const kernels *kn, const linear_args *a);
size_t cpu_by_row_scratch(const kernel_sizes *s);
/* A few rows of x by loops of our own (matvec.c), each row for itself. */
void cpu_matvec(const kernels *kn, const linear_args *a);
/* The rows [begin, end) of w, on the calling thread. */
void cpu_matvec_rows(const linear_args *a, int64_t begin, int64_t end);

/* C [rows, columns] = alpha A B (+ C where add), 1 to NARROW_ROWS rows, columns a multiple of NARROW_COLUMNS (narrow.c). A's number at
 * (i, l) is a[i a_row + l a_depth]; B is [depth, columns]. */
enum { NARROW_ROWS = 6, NARROW_COLUMNS = 16 };
typedef struct narrow_args {
    int64_t rows, columns, depth;
    const float *a;
    int64_t a_row, a_depth;
    const float *b;
    int64_t b_stride;
    float *c;
    int64_t c_stride;
    float alpha;
    bool add;
} narrow_args;
/* May these be used on this processor, for a head of so many columns? */
bool cpu_narrow_fits(int64_t columns);
void cpu_narrow_product(const narrow_args *p);
/* to [columns, stride] = the transpose of from [n, columns], columns a multiple of 8; zeros behind its n columns up to a multiple of
 * NARROW_COLUMNS. */
void cpu_narrow_transpose(float *to, int64_t stride, const float *from, int64_t from_stride, int64_t n, int64_t columns);

/* Per file: the entries it provides. */
size_t cpu_linear_scratch(const kernels *kn, const kernel_sizes *s);
void cpu_linear(const kernels *kn, const linear_args *a);
void cpu_embed_forward(const kernels *kn, float *x, weight table, const int32_t *tokens, int64_t n, int64_t d);
void cpu_embed_backward(const kernels *kn, float *dtable, const float *dx, const int32_t *tokens, int64_t n, int64_t d);
void cpu_norm_forward(const kernels *kn, const norm_args *a);
void cpu_norm_backward(const kernels *kn, const norm_args *a);
void cpu_rope(const kernels *kn, float *x, int64_t stride, int64_t n, int64_t heads, int64_t head_dim,
              const float *table, const int32_t *position, int direction);
size_t cpu_attention_scratch(const kernels *kn, const kernel_sizes *s);
void cpu_attention_forward(const kernels *kn, const attention_args *a);
void cpu_attention_backward(const kernels *kn, const attention_args *a);
void cpu_kv_store(const kernels *kn, const kv_store_args *a);
void cpu_swiglu_forward(const kernels *kn, float *out, const float *gate_up, int64_t n, int64_t f);
void cpu_swiglu_backward(const kernels *kn, float *dgate_up, const float *dout, const float *gate_up, int64_t n,
                         int64_t f);
void cpu_bias_silu_forward(const kernels *kn, float *out, const float *pre, const float *bias, int64_t n, int64_t p);
void cpu_bias_silu_backward(const kernels *kn, float *dpre, float *dbias, const float *dout, const float *pre,
                            const float *bias, int64_t n, int64_t p, void *scratch);
void cpu_rowdot_forward(const kernels *kn, float *logit, const float *x, const float *w, const float *bias, int64_t n,
                        int64_t d);
void cpu_rowdot_backward(const kernels *kn, float *dx, const int32_t *index, float *dw, float *dbias,
                         const float *dlogit, const float *x, const float *w, int64_t n, int64_t d, void *scratch);
void cpu_topk(const kernels *kn, int32_t *index, uint8_t *member, const float *logit, int64_t B, int64_t T, int64_t k,
              void *scratch);
void cpu_expert_softmax(const kernels *kn, float *p, int64_t E, int64_t n);
void cpu_expert_softmax_backward(const kernels *kn, float *dp, const float *p, const float *shift, int64_t E, int64_t n);
void cpu_noise(const kernels *kn, float *out, uint64_t seed, uint64_t stream, uint64_t counter, int64_t n);
void cpu_scatter_forward(const kernels *kn, const scatter_args *a);
void cpu_scatter_backward(const kernels *kn, const scatter_args *a);
void cpu_cross_entropy(const kernels *kn, float *loss, float *logits, const int32_t *target, float scale, int64_t n,
                       int64_t V);
void cpu_adamw(const kernels *kn, const adamw_args *a);
void cpu_add(const kernels *kn, float *y, const float *x, int64_t n);
double cpu_sum(const kernels *kn, const float *x, int64_t n);
double cpu_sum_squares(const kernels *kn, const float *x, int64_t n);

#endif
