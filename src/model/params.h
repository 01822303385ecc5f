/* The parameters: one block of floats, where each tensor lies in it, its Hugging Face name and how it starts.
 *
 * Matrices come first, in the order of the forward pass, then vectors (norms, biases), so that weight decay, which acts on
 * matrices only, is one range. q, k and v lie side by side, and so do gate and up: each group is one matrix product. The
 * gradient, AdamW's moments and any copy have the same layout.
 *
 * A model that is only run may hold its large matrices in fewer bits (weight_type). These then lie in a block of their own, in
 * the same order; what the router and the norms use stays fp32. */
#ifndef FATHOM_MODEL_PARAMS_H
#define FATHOM_MODEL_PARAMS_H

#include <stddef.h>

#include "kernels/kernels.h"
#include "model/config.h"

typedef struct param_info {
    char name[96]; /* as in model.safetensors */
    int rank;
    int64_t shape[2]; /* [out, in] or [n] */
    int64_t offset, size; /* floats from the start of the block */
    bool predictor;       /* its gradient is of the predictor's loss alone, which the rest of the model must not feel */
    bool large;           /* a matrix that `linear` multiplies by (or the embedding): may be stored in fewer bits */
    int64_t packed, row;  /* of a large one: elements and rows of large ones before it; otherwise packed: floats of others */
    float init_mean, init_std;
} param_info;

typedef struct param_list {
    param_info *items; /* ascending offset, no gaps */
    int64_t count;
    int64_t decayed; /* floats [0, decayed) are matrices */
    int64_t size;    /* floats in all */
    int64_t large, large_rows; /* elements and rows of the large matrices together */
} param_list;

/* What decides: a router of a stage, or none (NULL). */
typedef struct router_params {
    float *router;                          /* [d] */
    float *fc1, *fc1_bias, *fc2, *fc2_bias; /* predictor [p, d], [p], [1, p], [1]; of experts [E, p], [E] */
} router_params;

/* Views of one block; what a layer does not have is NULL. Where the large matrices are stored in fewer bits they are NULL here. */
typedef struct layer_params {
    float *norm1, *norm2; /* [d] */
    float *qkv;           /* [(h + 2 h_kv) d_h, d] */
    float *qkv_bias;      /* [(h + 2 h_kv) d_h] */
    float *out;           /* [d, h d_h] */
    float *gate_up;       /* [2 f, d]; of the first expert where there are experts, then its down, then the next one's */
    float *down;          /* [d, f] */
    float *experts;       /* [E + N, d] the experts' router, no-op experts last */
    router_params expert_rule; /* expert-choice's predictor */
} layer_params;

typedef struct model_params {
    float *embed; /* [V, d] */
    float *head;  /* [V, d]; the embedding when tied */
    float *norm;  /* [d] */
    layer_params layer[MODEL_MAX_LAYERS];
    router_params router[MODEL_MAX_STAGES];
} model_params;

/* The large matrices as the forward pass reads them; data NULL where there is none. */
typedef struct layer_weights {
    weight qkv, out, gate_up, down, expert_fc1;
} layer_weights;

typedef struct model_weights {
    weight embed, head;
    layer_weights layer[MODEL_MAX_LAYERS];
    weight fc1[MODEL_MAX_STAGES]; /* of the stages' predictors */
} model_weights;

/* Rows [first, ...) of a matrix of `columns`. */
weight weight_rows(weight w, int64_t first, int64_t columns);
/* Expert e's gate_up [2 f, d] and down [d, f] from the first one's. */
float *expert_values(const model_config *c, float *first, int64_t e);
weight expert_weight(const model_config *c, weight first, int64_t e);

/* Where parameters are kept: type F32: `values` is the whole block and the rest NULL. Otherwise values [size - large] holds
 * what is not large, packed [large] the large matrices, scale [large_rows] q8's scales. */
typedef struct param_store {
    weight_type type;
    float *values;
    void *packed;
    float *scale;
} param_store;

/* c must have passed model_config_check. */
fathom_status param_list_build(const model_config *c, param_list *out, fathom_error *err);
void param_list_free(param_list *list);
void params_view(const model_config *c, const param_list *list, float *block, model_params *out);
/* Views of a store; weights may be NULL. */
void store_view(const model_config *c, const param_list *list, const param_store *store, model_params *params,
                model_weights *weights);
/* The fp32 values of a parameter that is not large, and a large one's place in packed and scale. */
float *store_values(const param_store *store, const param_info *p);
weight store_weight(const param_store *store, const param_info *p);
/* Starting values on the host: normal with the tensor's deviation from (seed, tensor's name), so a plain and an MoD model
 * of one seed share what they have in common; norms 1, biases 0. */
void params_init(const param_list *list, uint64_t seed, float *block);

#endif
