/* What the parts of a block share: products y = x w^T and their gradients in the pass's precision, and rows gathered. */
#ifndef FATHOM_MODEL_PRODUCTS_H
#define FATHOM_MODEL_PRODUCTS_H

#include "model/env.h"

/* y [n, out] = x [n, in] w^T (+ y) */
static inline void product_forward(const model_env *env, float *y, const float *x, weight w, int64_t n, int64_t in, int64_t out, bool add)
{
    env->kn->linear(env->kn, &(linear_args){.n = n, .in = in, .out = out, .x = x, .w = w, .y = y, .add = add,
                                            .bf16 = env->bf16, .by_row = env->by_row, .scratch = env->scratch});
}

/* dx [n, in] = dy [n, out] w;  dw [out, in] += dy^T x */
static inline void product_backward(const model_env *env, float *dx, float *dw, const float *dy, const float *x, const float *w,
                                    int64_t n, int64_t in, int64_t out)
{
    env->kn->gemm(env->kn, &(gemm_args){.m = n, .n = in, .k = out, .a = dy, .lda = out, .b = w, .ldb = in, .c = dx,
                                        .ldc = in, .alpha = 1, .bf16 = env->bf16, .scratch = env->scratch});
    env->kn->gemm(env->kn, &(gemm_args){.trans_a = true, .m = out, .n = in, .k = n, .a = dy, .lda = out, .b = x,
                                        .ldb = in, .c = dw, .ldc = in, .alpha = 1, .beta = 1, .bf16 = env->bf16,
                                        .scratch = env->scratch});
}

/* to_i [n, d] = from[index_i]: what the embedding's kernel does with a table. */
static inline void gather_rows(const kernels *kn, float *to, const float *from, const int32_t *index, int64_t n, int64_t d)
{
    kn->embed_forward(kn, to, (weight){.data = from}, index, n, d);
}

#endif
