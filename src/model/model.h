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
    param_store store;    /* the backend's memory */
    model_params params;  /* views of the store */
    model_weights weights;
    float *rope_table;    /* [seq_len, d_h], the backend's memory */
    bool bf16;            /* passes round the inputs of their products to bfloat16; fp32 store only */
} model;

/* Checks the config and allocates; values are zero. *out is released by model_free, after a failure too. Only a model stored
 * in fp32 can be trained. */
fathom_status model_init(model *out, const model_config *c, weight_type type, const kernels *kn, fathom_error *err);
void model_free(model *m);
/* Starting values from the seed; fp32 store. */
fathom_status model_randomize(model *m, uint64_t seed, fathom_error *err);
/* One parameter from fp32 values on the host, packed as the store wants it. */
fathom_status model_put(model *m, const param_info *p, const float *host, fathom_error *err);
/* The same model with its large matrices in fewer bits. from: an fp32 store. */
fathom_status model_reduce(model *out, const model *from, weight_type type, fathom_error *err);
/* Reads DIR/config.json and makes sure that DIR's model has every tensor in its shape, so that memory may be taken for it. */
fathom_status model_read_config(const char *dir, model_config *out, fathom_error *err);
/* Reads DIR/config.json and DIR's model (safetensors_open_model); every tensor must be there with its shape, and no other but
 * what says nothing new. The store is of the file's kind: bf16 and q8 stay what they are, F16 and what is mixed becomes fp32. */
fathom_status model_load(model *out, const char *dir, const kernels *kn, fathom_error *err);
/* Writes what describes a model of any store (format/hf_directory.h), then DIR/model.safetensors. */
fathom_status model_save(const model *m, const char *dir, fathom_error *err);
/* The latter alone. */
fathom_status model_save_values(const model *m, const char *dir, fathom_error *err);
/* Reads the parameters from one file into an fp32 model of that shape; bf16 is widened, q8 refused. */
fathom_status model_read_values(model *m, const char *path, fathom_error *err);
/* The same from the model in a folder. adds_routers: it need not have what routes (".mod." in its name): that then keeps its values. */
fathom_status model_read_folder(model *m, const char *dir, bool adds_routers, fathom_error *err);

/* The model in the folder `from` to `to`, a piece at a time, as that needs no memory: config.json, but for what it says of how
 * values are stored, and model.safetensors. */
typedef struct model_conversion {
    bool as_it_is;        /* large matrices keep their type (F16 becomes fp32), which `type` then tells */
    weight_type type;     /* of the large matrices; from q8 there is no way back */
    /* Writes what else belongs in the folder `to`, before model.safetensors, by which a folder counts as whole; may be NULL. */
    fathom_status (*write_others)(void *user, fathom_error *err);
    void *user;
    int64_t source_bytes; /* out: of the source's safetensors files */
} model_conversion;
fathom_status model_convert(const char *from, const char *to, model_conversion *c, fathom_error *err);

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
