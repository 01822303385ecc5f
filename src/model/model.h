/* A model: its shape, its parameters and what any pass over it needs. Immutable while passes run; only the trainer, which
 * owns it then, changes `values`. */
#ifndef FATHOM_MODEL_MODEL_H
#define FATHOM_MODEL_MODEL_H

#include "kernels/kernels.h"
#include "model/config.h"
#include "model/params.h"

typedef struct model {
    model_config config;
    kernels kn;
    param_list list;
    float *values;      /* [list.size], the backend's memory */
    model_params params; /* views of values */
    float *rope_table;  /* [seq_len, d_h], the backend's memory */
} model;

/* Checks the config and allocates; values are zero. *out is released by model_free, after a failure too. */
fathom_status model_init(model *out, const model_config *c, const kernels *kn, fathom_error *err);
void model_free(model *m);
/* Starting values from the seed. */
fathom_status model_randomize(model *m, uint64_t seed, fathom_error *err);
/* Reads DIR/config.json and DIR/model.safetensors; every tensor must be there with its shape, and no other. */
fathom_status model_load(model *out, const char *dir, const kernels *kn, fathom_error *err);
/* Reads the parameters from one file into a model of that shape. */
fathom_status model_read_values(model *m, const char *path, fathom_error *err);

/* Blocks laid out as the parameters (values, moments, gradients) as one file: a tensor is called prefix + parameter's name. */
typedef struct param_block {
    const char *prefix;
    float *values; /* the backend's memory */
} param_block;
fathom_status model_read_blocks(const model *m, const param_block *blocks, int64_t count, const char *path,
                                fathom_error *err);
fathom_status model_write_blocks(const model *m, const param_block *blocks, int64_t count, const char *path,
                                 fathom_error *err);

#endif
