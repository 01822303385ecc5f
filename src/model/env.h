/* What every part of a pass needs; borrowed. */
#ifndef FATHOM_MODEL_ENV_H
#define FATHOM_MODEL_ENV_H

#include "kernels/kernels.h"
#include "model/config.h"

typedef struct model_env {
    const kernels *kn;
    const model_config *config;
    const float *rope_table; /* [seq_len, d_h] */
    const float *threshold;  /* [stages] of the causal rule */
    bool bf16; /* training: products with bfloat16 inputs */
    bool by_row; /* decoding: a row's products as if it came alone */
    void *scratch;
} model_env;

#endif
