/* A model's memory: see model.h; its files are in model_files.c. */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/weight.h"

static fathom_status no_memory(fathom_error *err, int64_t floats)
{
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: %.1f MB asked for", (double)floats * 4e-6);
}

/* Row p: cos(p frequency_j) for j < d_h/2, then the sines; in double, as positions are large. */
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
        const double frequency = model_rope_frequency(&m->config, j);
        for (int64_t p = 0; p < T; p++) {
            host[p * dh + j] = (float)cos((double)p * frequency);
            host[p * dh + half + j] = (float)sin((double)p * frequency);
        }
    }
    m->kn.mem_upload(&m->kn, m->rope_table, host, (size_t)(T * dh) * sizeof *host);
    free(host);
    return FATHOM_OK;
}

/* Values, and where the store is not fp32, packed and scale. */
static fathom_status allocate(model *m, weight_type type, fathom_error *err)
{
    const kernels *kn = &m->kn;
    const param_list *list = &m->list;
    const bool full = type == WEIGHT_F32;
    const size_t values = (size_t)(full ? list->size : list->size - list->large) * sizeof(float);
    const size_t packed = full ? 0 : (size_t)list->large * weight_element_bytes(type);
    const size_t scale = type == WEIGHT_Q8 ? (size_t)list->large_rows * sizeof(float) : 0;
    m->store = (param_store){.type = type, .values = kn->mem_alloc(kn, values)};
    if (packed)
        m->store.packed = kn->mem_alloc(kn, packed);
    if (scale)
        m->store.scale = kn->mem_alloc(kn, scale);
    if (!m->store.values || (packed && !m->store.packed) || (scale && !m->store.scale))
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: parameters take %.1f MB",
                           1e-6 * (double)(values + packed + scale));
    kn->mem_zero(kn, m->store.values, values);
    if (packed)
        kn->mem_zero(kn, m->store.packed, packed);
    if (scale)
        kn->mem_zero(kn, m->store.scale, scale);
    return FATHOM_OK;
}

fathom_status model_init(model *out, const model_config *c, weight_type type, const kernels *kn, fathom_error *err)
{
    *out = (model){.config = *c, .kn = *kn};
    TRY(model_config_check(c, err));
    TRY(param_list_build(c, &out->list, err));
    TRY(allocate(out, type, err));
    store_view(c, &out->list, &out->store, &out->params, &out->weights);
    return fill_rope_table(out, err);
}

void model_free(model *m)
{
    void *const blocks[] = {m->store.values, m->store.packed, m->store.scale, m->rope_table};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i])
            m->kn.mem_free(&m->kn, blocks[i]);
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
    m->kn.mem_upload(&m->kn, m->store.values, host, bytes);
    free(host);
    return FATHOM_OK;
}

fathom_status model_put(model *m, const param_info *p, const float *host, fathom_error *err)
{
    const kernels *kn = &m->kn;
    float *values = store_values(&m->store, p);
    if (values) {
        kn->mem_upload(kn, values, host, (size_t)p->size * sizeof *host);
        return FATHOM_OK;
    }
    const weight w = store_weight(&m->store, p);
    const size_t bytes = (size_t)p->size * weight_element_bytes(w.type);
    void *packed = malloc(bytes);
    float *scale = malloc((size_t)p->shape[0] * sizeof *scale);
    fathom_status status = packed && scale ? FATHOM_OK : no_memory(err, p->size);
    if (status == FATHOM_OK) {
        weight_pack(w.type, host, p->shape[0], p->shape[1], packed, scale);
        kn->mem_upload(kn, (void *)w.data, packed, bytes);
        if (w.scale)
            kn->mem_upload(kn, (void *)w.scale, scale, (size_t)p->shape[0] * sizeof *scale);
    }
    free(packed);
    free(scale);
    return status;
}

fathom_status model_reduce(model *out, const model *from, weight_type type, fathom_error *err)
{
    TRY(model_init(out, &from->config, type, &from->kn, err));
    fathom_status status = FATHOM_OK;
    for (int64_t i = 0; i < from->list.count && status == FATHOM_OK; i++) {
        const param_info *p = &from->list.items[i];
        float *host = malloc((size_t)p->size * sizeof *host);
        status = host ? FATHOM_OK : no_memory(err, p->size);
        if (host)
            from->kn.mem_download(&from->kn, host, store_values(&from->store, p), (size_t)p->size * sizeof *host);
        if (status == FATHOM_OK)
            status = model_put(out, p, host, err);
        free(host);
    }
    return status;
}
