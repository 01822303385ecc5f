/* A model's files: see model.h. */
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/hf_directory.h"
#include "format/safetensors.h"
#include "kernels/weight.h"

static fathom_status no_memory(fathom_error *err, int64_t floats)
{
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: %.1f MB asked for", (double)floats * 4e-6);
}

/* q8's scales of a tensor: its name and this. */
#define SCALE_SUFFIX "_scale"
enum { TENSOR_NAME = sizeof ((param_info *)0)->name + 16 };

static void tensor_name(char name[TENSOR_NAME], const char *prefix, const param_info *p, const char *suffix)
{
    snprintf(name, TENSOR_NAME, "%s%s%s", prefix, p->name, suffix);
}

/* --- a model to be run, in its file's kind --- */

/* The embedding's type speaks for the file. */
static weight_type file_type(const safetensors *file)
{
    const safetensors_tensor *t = safetensors_find(file, "model.embed_tokens.weight");
    return t && t->dtype == DTYPE_BF16 ? WEIGHT_BF16 : t && t->dtype == DTYPE_I8 ? WEIGHT_Q8 : WEIGHT_F32;
}

static fathom_status read_quantized(model *m, const safetensors *file, const param_info *p, fathom_error *err)
{
    const weight w = store_weight(&m->store, p);
    char name[TENSOR_NAME];
    const void *values, *scale;
    TRY(safetensors_get(file, p->name, DTYPE_I8, p->rank, p->shape, &values, err));
    tensor_name(name, "", p, SCALE_SUFFIX);
    TRY(safetensors_get(file, name, DTYPE_F32, 1, p->shape, &scale, err));
    m->kn.mem_upload(&m->kn, (void *)w.data, values, (size_t)p->size);
    m->kn.mem_upload(&m->kn, (void *)w.scale, scale, (size_t)p->shape[0] * sizeof(float));
    return FATHOM_OK;
}

static fathom_status read_parameter(model *m, const safetensors *file, const param_info *p, fathom_error *err)
{
    if (p->large && m->store.type == WEIGHT_Q8)
        return read_quantized(m, file, p, err);
    float *host = malloc((size_t)p->size * sizeof *host);
    if (!host)
        return no_memory(err, p->size);
    fathom_status status = safetensors_read_f32(file, p->name, p->rank, p->shape, host, err);
    if (status == FATHOM_OK)
        status = model_put(m, p, host, err);
    free(host);
    return status;
}

static bool known_name(const model *m, const param_block *block, const char *name)
{
    const size_t prefix = strlen(block->prefix);
    if (strncmp(name, block->prefix, prefix) != 0)
        return false;
    for (int64_t i = 0; i < m->list.count; i++) {
        const param_info *p = &m->list.items[i];
        const size_t length = strlen(p->name);
        const char *rest = name + prefix + length;
        if (strncmp(name + prefix, p->name, length) == 0 &&
            (!*rest || (p->large && m->store.type == WEIGHT_Q8 && strcmp(rest, SCALE_SUFFIX) == 0)))
            return true;
    }
    return false;
}

/* Every tensor of the file must have been read: one that the model does not know is a sign of another model. */
static fathom_status check_unread(const model *m, const param_block *blocks, int64_t count, const safetensors *file,
                                  fathom_error *err)
{
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const char *found = safetensors_at(file, i)->name;
        bool known = false;
        for (int64_t b = 0; b < count && !known; b++)
            known = known_name(m, &blocks[b], found);
        if (!known)
            return status_fail(err, FATHOM_FORMAT, "%s: %s: the model in config.json has no such tensor",
                               safetensors_path(file), found);
    }
    return FATHOM_OK;
}

static fathom_status load_values(model *out, const model_config *c, const char *path, const kernels *kn, fathom_error *err)
{
    safetensors *file;
    TRY(safetensors_open(path, &file, err));
    fathom_status status = model_init(out, c, file_type(file), kn, err);
    for (int64_t i = 0; i < out->list.count && status == FATHOM_OK; i++)
        status = read_parameter(out, file, &out->list.items[i], err);
    if (status == FATHOM_OK)
        status = check_unread(out, &(param_block){.prefix = ""}, 1, file, err);
    safetensors_close(file);
    return status;
}

fathom_status model_load(model *out, const char *dir, const kernels *kn, fathom_error *err)
{
    *out = (model){0};
    char *config_path = path_join(dir, "config.json"), *values_path = path_join(dir, "model.safetensors");
    fathom_status status = config_path && values_path ? FATHOM_OK : no_memory(err, 0);
    model_config config;
    if (status == FATHOM_OK && !path_is_folder(dir))
        status = status_fail(err, FATHOM_NOT_FOUND, "%s: no such model directory", dir);
    if (status == FATHOM_OK)
        status = hf_config_read(config_path, &config, err);
    if (status == FATHOM_OK)
        status = load_values(out, &config, values_path, kn, err);
    free(config_path);
    free(values_path);
    return status;
}

/* Tensors to be written: views of the backend's memory where the host can see it, else copies. */
typedef struct tensor_list {
    safetensors_tensor *tensors;
    char (*names)[TENSOR_NAME];
    void **copies;
    size_t count;
} tensor_list;

static void tensor_list_free(tensor_list *t)
{
    for (size_t i = 0; t->copies && i < t->count; i++)
        free(t->copies[i]);
    free(t->copies);
    free(t->names);
    free(t->tensors);
}

static fathom_status tensor_list_new(tensor_list *t, int64_t most, fathom_error *err)
{
    *t = (tensor_list){.tensors = calloc((size_t)most, sizeof *t->tensors), .names = calloc((size_t)most, sizeof *t->names),
                       .copies = calloc((size_t)most, sizeof *t->copies)};
    return t->tensors && t->names && t->copies ? FATHOM_OK : no_memory(err, 0);
}

/* rank and shape are the parameter's, or [its rows] for a q8 scale (suffix). */
static fathom_status tensor_list_add(tensor_list *t, const model *m, const char *prefix, const param_info *p,
                                     const char *suffix, safetensors_dtype dtype, const void *from, fathom_error *err)
{
    const bool scale = *suffix;
    safetensors_tensor *to = &t->tensors[t->count];
    tensor_name(t->names[t->count], prefix, p, suffix);
    *to = (safetensors_tensor){.name = t->names[t->count], .dtype = dtype, .rank = scale ? 1 : p->rank,
                               .shape = {p->shape[0], p->shape[1]}, .data = m->kn.mem_host(&m->kn, from),
                               .bytes = (size_t)(scale ? p->shape[0] : p->size) * safetensors_dtype_bytes(dtype)};
    if (!to->data) {
        to->data = t->copies[t->count] = malloc(to->bytes);
        if (!to->data)
            return no_memory(err, p->size);
        m->kn.mem_download(&m->kn, t->copies[t->count], from, to->bytes);
    }
    t->count++;
    return FATHOM_OK;
}

static fathom_status tensor_list_write(tensor_list *t, const char *path, fathom_error *err)
{
    const char *const metadata[] = {"format", "pt", NULL};
    return safetensors_write(path, t->tensors, t->count, metadata, err);
}

static fathom_status add_stored(tensor_list *t, const model *m, const param_info *p, fathom_error *err)
{
    const float *values = store_values(&m->store, p);
    if (values)
        return tensor_list_add(t, m, "", p, "", DTYPE_F32, values, err);
    const weight w = store_weight(&m->store, p);
    if (w.type == WEIGHT_BF16)
        return tensor_list_add(t, m, "", p, "", DTYPE_BF16, w.data, err);
    TRY(tensor_list_add(t, m, "", p, "", DTYPE_I8, w.data, err));
    return tensor_list_add(t, m, "", p, SCALE_SUFFIX, DTYPE_F32, w.scale, err);
}

static fathom_status write_values(const model *m, const char *path, fathom_error *err)
{
    tensor_list t;
    fathom_status status = tensor_list_new(&t, 2 * m->list.count, err);
    for (int64_t i = 0; i < m->list.count && status == FATHOM_OK; i++)
        status = add_stored(&t, m, &m->list.items[i], err);
    if (status == FATHOM_OK)
        status = tensor_list_write(&t, path, err);
    tensor_list_free(&t);
    return status;
}

fathom_status model_save(const model *m, const char *dir, fathom_error *err)
{
    TRY(folder_create(dir, err));
    TRY(hf_directory_write(dir, &m->config, m->store.type, err));
    char *values = path_join(dir, "model.safetensors");
    const fathom_status status = values ? write_values(m, values, err) : no_memory(err, 0);
    free(values);
    return status;
}

/* --- fp32 blocks of the trainer's --- */

fathom_status model_read_values(model *m, const char *path, fathom_error *err)
{
    return model_read_blocks(m, &(param_block){"", m->store.values}, 1, path, err);
}

static fathom_status read_block_tensor(const model *m, const param_block *block, const param_info *p,
                                       const safetensors *file, fathom_error *err)
{
    char name[TENSOR_NAME];
    tensor_name(name, block->prefix, p, "");
    float *host = malloc((size_t)p->size * sizeof *host);
    if (!host)
        return no_memory(err, p->size);
    const fathom_status status = safetensors_read_f32(file, name, p->rank, p->shape, host, err);
    if (status == FATHOM_OK)
        m->kn.mem_upload(&m->kn, block->values + p->offset, host, (size_t)p->size * sizeof *host);
    free(host);
    return status;
}

fathom_status model_read_common(model *m, const char *path, fathom_error *err)
{
    const param_block values = {"", m->store.values};
    safetensors *file;
    TRY(safetensors_open(path, &file, err));
    fathom_status status = FATHOM_OK;
    for (int64_t i = 0; i < m->list.count && status == FATHOM_OK; i++) {
        const param_info *p = &m->list.items[i];
        if (!strstr(p->name, ".mod.") || safetensors_find(file, p->name))
            status = read_block_tensor(m, &values, p, file, err);
    }
    if (status == FATHOM_OK)
        status = check_unread(m, &values, 1, file, err);
    safetensors_close(file);
    return status;
}

fathom_status model_read_blocks(const model *m, const param_block *blocks, int64_t count, const char *path,
                                fathom_error *err)
{
    safetensors *file;
    TRY(safetensors_open(path, &file, err));
    fathom_status status = FATHOM_OK;
    for (int64_t b = 0; b < count; b++)
        for (int64_t i = 0; i < m->list.count && status == FATHOM_OK; i++)
            status = read_block_tensor(m, &blocks[b], &m->list.items[i], file, err);
    if (status == FATHOM_OK && safetensors_count(file) != (size_t)(m->list.count * count))
        status = check_unread(m, blocks, count, file, err);
    safetensors_close(file);
    return status;
}

fathom_status model_write_blocks(const model *m, const param_block *blocks, int64_t count, const char *path,
                                 fathom_error *err)
{
    tensor_list t;
    fathom_status status = tensor_list_new(&t, m->list.count * count, err);
    for (int64_t b = 0; b < count; b++)
        for (int64_t i = 0; i < m->list.count && status == FATHOM_OK; i++) {
            const param_info *p = &m->list.items[i];
            status = tensor_list_add(&t, m, blocks[b].prefix, p, "", DTYPE_F32, blocks[b].values + p->offset, err);
        }
    if (status == FATHOM_OK)
        status = tensor_list_write(&t, path, err);
    tensor_list_free(&t);
    return status;
}
