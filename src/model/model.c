/* A model's memory and its files: see model.h. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/hf_config.h"
#include "format/safetensors.h"

static fathom_status no_memory(fathom_error *err, int64_t floats)
{
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: %.1f MB asked for", (double)floats * 4e-6);
}

/* Row p: cos(p theta^(-2j/d_h)) for j < d_h/2, then the sines; in double, as positions are large. */
static fathom_status fill_rope_table(model *m, fathom_error *err)
{
    const int64_t T = m->config.seq_len, dh = m->config.head_dim, half = dh / 2;
    float *host = malloc((size_t)(T * dh) * sizeof *host);
    m->rope_table = m->kn.mem_alloc(&m->kn, (size_t)(T * dh) * sizeof(float));
    if (!host || !m->rope_table) {
        free(host);
        return no_memory(err, T * dh);
    }
    for (int64_t j = 0; j < half; j++) {
        const double frequency = pow((double)m->config.rope_theta, -2.0 * (double)j / (double)dh);
        for (int64_t p = 0; p < T; p++) {
            host[p * dh + j] = (float)cos((double)p * frequency);
            host[p * dh + half + j] = (float)sin((double)p * frequency);
        }
    }
    m->kn.mem_upload(&m->kn, m->rope_table, host, (size_t)(T * dh) * sizeof *host);
    free(host);
    return FATHOM_OK;
}

fathom_status model_init(model *out, const model_config *c, const kernels *kn, fathom_error *err)
{
    *out = (model){.config = *c, .kn = *kn};
    TRY(model_config_check(c, err));
    TRY(param_list_build(c, &out->list, err));
    out->values = kn->mem_alloc(kn, (size_t)out->list.size * sizeof(float));
    if (!out->values)
        return no_memory(err, out->list.size);
    kn->mem_zero(kn, out->values, (size_t)out->list.size * sizeof(float));
    params_view(c, &out->list, out->values, &out->params);
    return fill_rope_table(out, err);
}

void model_free(model *m)
{
    if (m->values)
        m->kn.mem_free(&m->kn, m->values);
    if (m->rope_table)
        m->kn.mem_free(&m->kn, m->rope_table);
    param_list_free(&m->list);
    *m = (model){0};
}

fathom_status model_randomize(model *m, uint64_t seed, fathom_error *err)
{
    const size_t bytes = (size_t)m->list.size * sizeof(float);
    float *host = malloc(bytes);
    if (!host)
        return no_memory(err, m->list.size);
    params_init(&m->list, seed, host);
    m->kn.mem_upload(&m->kn, m->values, host, bytes);
    free(host);
    return FATHOM_OK;
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
        status = model_init(out, &config, kn, err);
    if (status == FATHOM_OK)
        status = model_read_values(out, values_path, err);
    free(config_path);
    free(values_path);
    return status;
}

fathom_status model_read_values(model *m, const char *path, fathom_error *err)
{
    return model_read_blocks(m, &(param_block){"", m->values}, 1, path, err);
}

enum { TENSOR_NAME = sizeof ((param_info *)0)->name + 16 };

static void tensor_name(char name[TENSOR_NAME], const char *prefix, const param_info *p)
{
    snprintf(name, TENSOR_NAME, "%s%s", prefix, p->name);
}

/* Every tensor of the file must have been read: one that the model does not know is a sign of another model. */
static fathom_status check_unread(const model *m, const param_block *blocks, int64_t count, const safetensors *file,
                                  fathom_error *err)
{
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const char *found = safetensors_at(file, i)->name;
        bool known = false;
        for (int64_t j = 0; j < m->list.count * count && !known; j++) {
            char name[TENSOR_NAME];
            tensor_name(name, blocks[j / m->list.count].prefix, &m->list.items[j % m->list.count]);
            known = strcmp(name, found) == 0;
        }
        if (!known)
            return status_fail(err, FATHOM_FORMAT, "%s: %s: the model in config.json has no such tensor",
                               safetensors_path(file), found);
    }
    return FATHOM_OK;
}

fathom_status model_read_blocks(const model *m, const param_block *blocks, int64_t count, const char *path,
                                fathom_error *err)
{
    safetensors *file;
    TRY(safetensors_open(path, &file, err));
    float *host = malloc((size_t)m->list.size * sizeof(float));
    fathom_status status = host ? FATHOM_OK : no_memory(err, m->list.size);
    for (int64_t b = 0; b < count && status == FATHOM_OK; b++) {
        for (int64_t i = 0; i < m->list.count && status == FATHOM_OK; i++) {
            const param_info *p = &m->list.items[i];
            char name[TENSOR_NAME];
            tensor_name(name, blocks[b].prefix, p);
            status = safetensors_read_f32(file, name, p->rank, p->shape, host + p->offset, err);
        }
        if (status == FATHOM_OK)
            m->kn.mem_upload(&m->kn, blocks[b].values, host, (size_t)m->list.size * sizeof(float));
    }
    if (status == FATHOM_OK && safetensors_count(file) != (size_t)(m->list.count * count))
        status = check_unread(m, blocks, count, file, err);
    free(host);
    safetensors_close(file);
    return status;
}

fathom_status model_write_blocks(const model *m, const param_block *blocks, int64_t count, const char *path,
                                 fathom_error *err)
{
    const int64_t tensors = m->list.count * count;
    float *host = malloc((size_t)(m->list.size * count) * sizeof(float));
    safetensors_tensor *entries = calloc((size_t)tensors, sizeof *entries);
    char(*names)[TENSOR_NAME] = calloc((size_t)tensors, sizeof *names);
    fathom_status status = host && entries && names ? FATHOM_OK : no_memory(err, m->list.size * count);
    if (status == FATHOM_OK) {
        for (int64_t b = 0; b < count; b++)
            m->kn.mem_download(&m->kn, host + b * m->list.size, blocks[b].values,
                               (size_t)m->list.size * sizeof(float));
        for (int64_t j = 0; j < tensors; j++) {
            const int64_t b = j / m->list.count;
            const param_info *p = &m->list.items[j % m->list.count];
            tensor_name(names[j], blocks[b].prefix, p);
            entries[j] = (safetensors_tensor){.name = names[j], .dtype = DTYPE_F32, .rank = p->rank,
                                              .shape = {p->shape[0], p->shape[1]},
                                              .data = host + b * m->list.size + p->offset,
                                              .bytes = (size_t)p->size * sizeof(float)};
        }
        const char *const metadata[] = {"format", "pt", NULL};
        status = safetensors_write(path, entries, (size_t)tensors, metadata, err);
    }
    free(names);
    free(entries);
    free(host);
    return status;
}
