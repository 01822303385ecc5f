/* One transformer block on *rows*. A plain block is given every row of the batch, a routed one a shorter list; the update
 *     u(X) = a + MLP(RMSNorm(X + a)),  a = Attention(RMSNorm(X), positions)
 * is the same code, in training and at inference, where the keys and values go through a cache. Where attention and MLP are routed
 * apart, a stage is one of them: u(X) = a, or u(X) = MLP(RMSNorm(X)). */
#ifndef FATHOM_MODEL_BLOCK_H
#define FATHOM_MODEL_BLOCK_H

#include "model/experts.h"
#include "model/kv.h"

/* Rows of the residual stream [*, d], those of one sequence together, ascending in position. */
typedef struct rows {
    int64_t n;
    const int32_t *index;    /* [n] rows of the stream; NULL = row i itself */
    const int32_t *position; /* [n] true positions, for RoPE */
    int64_t sequences;
    const int32_t *start; /* host [sequences + 1]: sequence s has rows [start[s], start[s+1]) */
} rows;

/* Where a pass appends its (rotated) keys and values: the sequences of its rows, with room for them. */
typedef struct kv_cache {
    kv_pool *pool;
    kv_sequence *const *sequence;
    const int32_t *position; /* host: of the rows that are appended */
} kv_cache;

/* What a stage keeps of its forward pass on up to `n` rows. For inference one set serves all, and what only the backward pass reads
 * is NULL, as is what the stage does not have. */
typedef struct block_acts {
    float *x_in;    /* [n, d] the rows that came in, backward only */
    float *rstd1;   /* [n] backward only */
    float *h1;      /* [n, d] */
    float *qkv;     /* [n, (h + 2 h_kv) d_h]; dense keys: q alone, [n, h d_h] */
    float *att;     /* [n, h d_h] */
    float *lse;     /* [n, h] backward only */
    float *mid;     /* [n, d] x + a, backward only */
    float *rstd2;   /* [n] backward only */
    float *h2;      /* [n, d] */
    float *gate_up; /* [n, 2 f]; the backward pass turns it into its own gradient */
    float *act;     /* [n, f] */
    float *u;       /* [n, d] the update */
    /* keys and values of every row of the stream, `all` of them (mod.dense_kv) */
    float *x_all;   /* [all, d] backward only */
    float *h_all;   /* [all, d] RMSNorm of every row; rstd1 is then [all] */
    float *kv;      /* [all, 2 h_kv d_h] */
    expert_acts experts;
} block_acts;

/* Room that the backward pass of any stage shares. */
typedef struct block_temps {
    float *du;     /* [n, d] gradient of the update: the input of block_backward */
    float *dmid;   /* [n, d] */
    float *dh;     /* [n, d] */
    float *narrow; /* [n, max(f, h d_h)] */
    float *dqkv;   /* [n, (h + 2 h_kv) d_h] */
    float *dlogit; /* [n] */
    float *ones;   /* [n] of 1, from the start; NULL without biases */
    float *dh_all, *dkv; /* dense keys: [all, d], [all, 2 h_kv d_h] */
} block_temps;

/* One stage of one layer: what runs, with which parameters, on which rows. */
typedef struct block_work {
    const model_env *env;
    model_stage stage;
    const layer_params *p;
    const layer_weights *w;
    const rows *r;
    const rows *all; /* every row of the stream, whose keys and values are read; NULL where they are the rows' own */
    expert_pass *experts; /* what the experts are to do, and did; NULL where there are none */
} block_work;

/* Room for a stage's n rows of `all`; expert_rows: of its experts, see experts.h. shared_u: a stage whose update is not needed again
 * (plain) may write it there; NULL = its own. */
typedef struct block_sizes {
    model_stage stage;
    int64_t n, all, expert_rows;
    bool dense, backward; /* dense: keys and values of all rows */
    float *shared_u;
} block_sizes;
void block_acts_plan(const model_config *c, arena *a, const block_sizes *sizes, block_acts *out);
void block_temps_plan(const model_config *c, arena *a, int64_t n, block_temps *out);

/* Computes acts->u from the stream x. cache NULL: the rows attend among themselves; otherwise each sequence's are
 * appended to it and see all of it. Dense keys: every row is appended, even if none is routed. */
void block_update(const block_work *b, const float *x, const block_acts *acts, const kv_cache *cache);
/* From temps->du: adds the stage's share to dx at the rows (without the residual path, which is dx itself), for dense keys at every
 * row, and to the parameters' gradients g. */
void block_backward(const block_work *b, const layer_params *g, const block_acts *acts, const block_temps *temps, float *dx);

#endif
