/* One transformer block on *rows*. A plain block is given every row of the batch, a routed one a shorter list; the update
 *     u(X) = a + MLP(RMSNorm(X + a)),  a = Attention(RMSNorm(X), positions)
 * is the same code, in training and at inference, where the keys and values go through a cache. */
#ifndef FATHOM_MODEL_BLOCK_H
#define FATHOM_MODEL_BLOCK_H

#include "base/arena.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/params.h"

/* What every part of a pass needs; borrowed. */
typedef struct model_env {
    const kernels *kn;
    const model_config *config;
    const float *rope_table; /* [seq_len, d_h] */
    const float *threshold;  /* [L] of the causal rule */
    bool bf16; /* training: products with bfloat16 inputs */
    void *scratch;
} model_env;

/* Rows of the residual stream [*, d], those of one sequence together, ascending in position. */
typedef struct rows {
    int64_t n;
    const int32_t *index;    /* [n] rows of the stream; NULL = row i itself */
    const int32_t *position; /* [n] true positions, for RoPE */
    int64_t sequences;
    const int32_t *start; /* host [sequences + 1]: sequence s has rows [start[s], start[s+1]) */
} rows;

/* Keys (rotated) and values of one layer of one sequence, with their positions. A routed layer holds routed tokens only. A
 * head's keys lie together, as decoding reads them. */
typedef struct kv_layer {
    float *k, *v;      /* [h_kv, capacity, d_h] */
    int32_t *position; /* [capacity] */
    int64_t length, capacity;
} kv_layer;

/* What a block keeps of its forward pass on up to `rows` rows. For inference one set serves all layers, and what only the
 * backward pass reads is NULL. */
typedef struct block_acts {
    float *x_in;    /* [n, d] backward only */
    float *rstd1;   /* [n] backward only */
    float *h1;      /* [n, d] */
    float *qkv;     /* [n, (h + 2 h_kv) d_h] */
    float *att;     /* [n, h d_h] */
    float *lse;     /* [n, h] backward only */
    float *mid;     /* [n, d] x + a, backward only */
    float *rstd2;   /* [n] backward only */
    float *h2;      /* [n, d] */
    float *gate_up; /* [n, 2 f]; the backward pass turns it into its own gradient */
    float *act;     /* [n, f] */
    float *u;       /* [n, d] the update */
} block_acts;

/* Room that the backward pass of any block shares. */
typedef struct block_temps {
    float *du;     /* [n, d] gradient of the update: the input of block_backward */
    float *dmid;   /* [n, d] */
    float *dh;     /* [n, d] */
    float *narrow; /* [n, max(f, h d_h)] */
    float *dqkv;   /* [n, (h + 2 h_kv) d_h] */
    float *dlogit; /* [n] */
} block_temps;

/* shared_u: a block whose update is not needed again (plain) may write it there; NULL = its own. */
void block_acts_plan(const model_config *c, arena *a, int64_t n, bool backward, float *shared_u, block_acts *out);
void block_temps_plan(const model_config *c, arena *a, int64_t n, block_temps *out);

/* Computes acts->u from the stream x. cache NULL: the rows attend among themselves; otherwise they (one sequence) are
 * appended to it and see all of it. */
void block_update(const model_env *env, const layer_params *p, const layer_weights *w, const rows *r, const float *x, const block_acts *acts,
                  kv_layer *cache);
/* dx [n, in] = dy [n, out] w;  dw [out, in] += dy^T x */
void linear_backward(const model_env *env, float *dx, float *dw, const float *dy, const float *x, const float *w,
                     int64_t n, int64_t in, int64_t out);
/* From temps->du: adds the block's share to dx at the rows (without the residual path, which is dx itself) and to the
 * parameters' gradients g. */
void block_backward(const model_env *env, const layer_params *w, const layer_params *g, const rows *r,
                    const block_acts *acts, const block_temps *temps, float *dx);

#endif
