/* The parameters: see params.h. One walk over the tensors in file order serves the list and the views. */
#include "model/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/weight.h"

enum { TENSORS_PER_LAYER = 14, TENSORS_OUTSIDE = 3 };

typedef enum use { VECTOR, ROUTER_ROW, LARGE } use; /* a row of the router's is a matrix [1, columns] */

/* Appends a tensor; a vector has shape [rows]. */
static void append(param_list *list, const char *name, use use, int64_t rows, int64_t columns, float mean, float std)
{
    param_info *p = &list->items[list->count++];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->rank = columns ? 2 : 1;
    p->shape[0] = rows;
    p->shape[1] = columns;
    p->size = rows * (columns ? columns : 1);
    p->offset = list->size;
    p->init_mean = mean;
    p->init_std = std;
    p->large = use == LARGE;
    p->packed = p->large ? list->large : list->size - list->large;
    p->row = list->large_rows;
    list->size += p->size;
    if (p->large) {
        list->large += p->size;
        list->large_rows += rows;
    }
}

static void append_layer(param_list *list, int64_t layer, const char *tensor, use use, int64_t rows, int64_t columns,
                         float mean, float std)
{
    char name[sizeof list->items->name];
    snprintf(name, sizeof name, "model.layers.%d.%s", (int)layer, tensor);
    append(list, name, use, rows, columns, mean, std);
}

static void append_matrices(const model_config *c, param_list *list)
{
    /* GPT-2's rule: what is added to the stream starts smaller the more layers add to it */
    const float std = 0.02f, residual_std = std / sqrtf(2.0f * (float)c->layers);
    const int64_t d = c->dim, q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, p = c->mod.predictor_hidden;
    append(list, "model.embed_tokens.weight", LARGE, c->vocab, d, 0, std);
    for (int64_t l = 0; l < c->layers; l++) {
        append_layer(list, l, "self_attn.q_proj.weight", LARGE, q, d, 0, std);
        append_layer(list, l, "self_attn.k_proj.weight", LARGE, kv, d, 0, std);
        append_layer(list, l, "self_attn.v_proj.weight", LARGE, kv, d, 0, std);
        append_layer(list, l, "self_attn.o_proj.weight", LARGE, d, q, 0, residual_std);
        append_layer(list, l, "mlp.gate_proj.weight", LARGE, c->ffn, d, 0, std);
        append_layer(list, l, "mlp.up_proj.weight", LARGE, c->ffn, d, 0, std);
        append_layer(list, l, "mlp.down_proj.weight", LARGE, d, c->ffn, 0, residual_std);
        if (model_layer_has_router(c, l))
            append_layer(list, l, "mod.router.weight", ROUTER_ROW, 1, d, 0, std);
        if (model_layer_has_predictor(c, l)) {
            append_layer(list, l, "mod.predictor.fc1.weight", LARGE, p, d, 0, std);
            append_layer(list, l, "mod.predictor.fc2.weight", ROUTER_ROW, 1, p, 0, std);
        }
    }
    if (!c->tied)
        append(list, "lm_head.weight", LARGE, c->vocab, d, 0, std);
}

static void append_vectors(const model_config *c, param_list *list)
{
    for (int64_t l = 0; l < c->layers; l++) {
        append_layer(list, l, "input_layernorm.weight", VECTOR, c->dim, 0, 1, 0);
        append_layer(list, l, "post_attention_layernorm.weight", VECTOR, c->dim, 0, 1, 0);
        if (model_layer_has_predictor(c, l)) {
            append_layer(list, l, "mod.predictor.fc1.bias", VECTOR, c->mod.predictor_hidden, 0, 0, 0);
            append_layer(list, l, "mod.predictor.fc2.bias", VECTOR, 1, 0, 0, 0);
        }
    }
    append(list, "model.norm.weight", VECTOR, c->dim, 0, 1, 0);
}

fathom_status param_list_build(const model_config *c, param_list *out, fathom_error *err)
{
    *out = (param_list){0};
    out->items = calloc((size_t)(c->layers * TENSORS_PER_LAYER + TENSORS_OUTSIDE), sizeof *out->items);
    if (!out->items)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    append_matrices(c, out);
    out->decayed = out->size;
    append_vectors(c, out);
    return FATHOM_OK;
}

void param_list_free(param_list *list)
{
    free(list->items);
    *list = (param_list){0};
}

float *store_values(const param_store *store, const param_info *p)
{
    if (store->type == WEIGHT_F32)
        return store->values + p->offset;
    return p->large ? NULL : store->values + p->packed;
}

weight store_weight(const param_store *store, const param_info *p)
{
    if (store->type == WEIGHT_F32)
        return (weight){.data = store->values + p->offset};
    return (weight){.type = store->type,
                    .data = (char *)store->packed + (size_t)p->packed * weight_element_bytes(store->type),
                    .scale = store->type == WEIGHT_Q8 ? store->scale + p->row : NULL};
}

/* Walks the list in the order in which it was built. */
typedef struct cursor {
    const param_list *list;
    const param_store *store;
    int64_t i;
} cursor;

static float *next(cursor *at)
{
    return store_values(at->store, &at->list->items[at->i++]);
}

static float *next_large(cursor *at, weight *out)
{
    const param_info *p = &at->list->items[at->i++];
    *out = store_weight(at->store, p);
    return store_values(at->store, p);
}

void store_view(const model_config *c, const param_list *list, const param_store *store, model_params *out,
                model_weights *weights)
{
    model_weights unused, *w = weights ? weights : &unused;
    *out = (model_params){0};
    *w = (model_weights){0};
    cursor at = {list, store, 0};
    out->embed = out->head = next_large(&at, &w->embed);
    w->head = w->embed;
    for (int64_t l = 0; l < c->layers; l++) {
        layer_params *p = &out->layer[l];
        layer_weights *m = &w->layer[l];
        p->qkv = next_large(&at, &m->qkv);
        at.i += 2; /* k and v follow q */
        p->out = next_large(&at, &m->out);
        p->gate_up = next_large(&at, &m->gate_up);
        at.i += 1;
        p->down = next_large(&at, &m->down);
        if (model_layer_has_router(c, l))
            p->router = next(&at);
        if (model_layer_has_predictor(c, l)) {
            p->fc1 = next_large(&at, &m->fc1);
            p->fc2 = next(&at);
        }
    }
    if (!c->tied)
        out->head = next_large(&at, &w->head);
    for (int64_t l = 0; l < c->layers; l++) {
        layer_params *p = &out->layer[l];
        p->norm1 = next(&at);
        p->norm2 = next(&at);
        if (model_layer_has_predictor(c, l)) {
            p->fc1_bias = next(&at);
            p->fc2_bias = next(&at);
        }
    }
    out->norm = next(&at);
}

void params_view(const model_config *c, const param_list *list, float *block, model_params *out)
{
    store_view(c, list, &(param_store){.values = block}, out, NULL);
}

static uint64_t name_hash(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h;
}

void params_init(const param_list *list, uint64_t seed, float *block)
{
    for (int64_t i = 0; i < list->count; i++) {
        const param_info *p = &list->items[i];
        const uint64_t stream = RNG_INIT + (name_hash(p->name) << 8);
        for (int64_t j = 0; j < p->size; j++)
            block[p->offset + j] =
                p->init_std > 0 ? p->init_mean + p->init_std * (float)rng_normal(seed, stream, (uint64_t)j) : p->init_mean;
    }
}
