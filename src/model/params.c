/* The parameters: see params.h. One walk over the tensors in file order serves the list and the views. */
#include "model/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/weight.h"

/* Most tensors: of a layer without its experts, of an expert, of the model outside its layers. */
enum { TENSORS_PER_LAYER = 27, TENSORS_PER_EXPERT = 3, TENSORS_OUTSIDE = 3 };

typedef enum use { VECTOR, ROUTER_ROW, LARGE } use; /* a row of the router's is a matrix [1, columns] */

/* Appends a tensor; a vector has shape [rows]. A matrix starts with deviation gain / sqrt(its inputs), so that rows of unit size give
 * rows of size gain (LeCun et al., 1998); a tied embedding's logits then start with deviation 1. */
static void append(param_list *list, const char *name, use use, int64_t rows, int64_t columns, float mean, float gain)
{
    param_info *p = &list->items[list->count++];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->rank = columns ? 2 : 1;
    p->shape[0] = rows;
    p->shape[1] = columns;
    p->size = rows * (columns ? columns : 1);
    p->offset = list->size;
    p->init_mean = mean;
    p->init_std = columns ? gain / sqrtf((float)columns) : 0;
    p->predictor = strstr(name, ".predictor.") != NULL;
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
                         float mean, float gain)
{
    char name[sizeof list->items->name];
    snprintf(name, sizeof name, "model.layers.%d.%s", (int)layer, tensor);
    append(list, name, use, rows, columns, mean, gain);
}

/* Of a stage's router: "mod.", or "mod.attn." and "mod.mlp." where a layer has two. */
static void router_name(const model_config *c, int64_t stage, const char *tensor, char name[64])
{
    const char *part = c->mod.unit != MOD_UNIT_BOTH ? "" : model_stage_at(c, stage).attention ? "attn." : "mlp.";
    snprintf(name, 64, "mod.%s%s", part, tensor);
}

static void append_router(const model_config *c, param_list *list, int64_t stage, const char *tensor, use use, int64_t rows,
                          int64_t columns, float gain)
{
    char name[64];
    router_name(c, stage, tensor, name);
    append_layer(list, model_stage_at(c, stage).layer, name, use, rows, columns, 0, gain);
}

/* The stages of a layer: [*begin, result) */
static int64_t stages_of(const model_config *c, int64_t layer, int64_t *begin)
{
    const int64_t each = model_stages(c) / c->layers;
    *begin = layer * each;
    return *begin + each;
}

static void append_mlp(const model_config *c, param_list *list, int64_t layer, const char *names[3], float gain, float residual_gain)
{
    append_layer(list, layer, names[0], LARGE, c->ffn, c->dim, 0, gain);
    append_layer(list, layer, names[1], LARGE, c->ffn, c->dim, 0, gain);
    append_layer(list, layer, names[2], LARGE, c->dim, c->ffn, 0, residual_gain);
}

/* Mixtral's names for what Mixtral has. */
static void append_experts(const model_config *c, param_list *list, int64_t layer, float gain, float residual_gain)
{
    const int64_t p = c->experts.predictor_hidden, no_ops = model_layer_no_ops(c, layer);
    for (int64_t e = 0; e < c->experts.count; e++) {
        char names[3][64];
        for (int i = 0; i < 3; i++)
            snprintf(names[i], sizeof names[i], "block_sparse_moe.experts.%d.%s.weight", (int)e, i == 0 ? "w1" : i == 1 ? "w3" : "w2");
        append_mlp(c, list, layer, (const char *[3]){names[0], names[1], names[2]}, gain, residual_gain);
    }
    append_layer(list, layer, "block_sparse_moe.gate.weight", ROUTER_ROW, c->experts.count, c->dim, 0, gain);
    if (no_ops > 0)
        append_layer(list, layer, "mod.no_ops.weight", ROUTER_ROW, no_ops, c->dim, 0, gain);
    if (model_has_expert_predictor(c)) {
        append_layer(list, layer, "mod.experts.predictor.fc1.weight", LARGE, p, c->dim, 0, gain);
        append_layer(list, layer, "mod.experts.predictor.fc2.weight", ROUTER_ROW, c->experts.count, p, 0, gain);
    }
}

static void append_matrices(const model_config *c, param_list *list)
{
    /* GPT-2's rule: what is added to the stream starts smaller the more layers add to it */
    const float gain = 1, residual_gain = gain / sqrtf(2.0f * (float)c->layers);
    const int64_t d = c->dim, q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, p = c->mod.predictor_hidden;
    append(list, "model.embed_tokens.weight", LARGE, c->vocab, d, 0, gain);
    for (int64_t l = 0; l < c->layers; l++) {
        append_layer(list, l, "self_attn.q_proj.weight", LARGE, q, d, 0, gain);
        append_layer(list, l, "self_attn.k_proj.weight", LARGE, kv, d, 0, gain);
        append_layer(list, l, "self_attn.v_proj.weight", LARGE, kv, d, 0, gain);
        append_layer(list, l, "self_attn.o_proj.weight", LARGE, d, q, 0, residual_gain);
        if (c->experts.count > 0)
            append_experts(c, list, l, gain, residual_gain);
        else
            append_mlp(c, list, l, (const char *[3]){"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}, gain,
                       residual_gain);
        int64_t s;
        for (const int64_t end = stages_of(c, l, &s); s < end; s++) {
            if (model_stage_has_router(c, s))
                append_router(c, list, s, "router.weight", ROUTER_ROW, 1, d, gain);
            if (model_stage_has_predictor(c, s)) {
                append_router(c, list, s, "predictor.fc1.weight", LARGE, p, d, gain);
                append_router(c, list, s, "predictor.fc2.weight", ROUTER_ROW, 1, p, gain);
            }
        }
    }
    if (!c->tied)
        append(list, "lm_head.weight", LARGE, c->vocab, d, 0, gain);
}

static void append_vectors(const model_config *c, param_list *list)
{
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    for (int64_t l = 0; l < c->layers; l++) {
        append_layer(list, l, "input_layernorm.weight", VECTOR, c->dim, 0, 1, 0);
        append_layer(list, l, "post_attention_layernorm.weight", VECTOR, c->dim, 0, 1, 0);
        if (model_has_qkv_bias(c)) {
            append_layer(list, l, "self_attn.q_proj.bias", VECTOR, q, 0, 0, 0);
            append_layer(list, l, "self_attn.k_proj.bias", VECTOR, kv, 0, 0, 0);
            append_layer(list, l, "self_attn.v_proj.bias", VECTOR, kv, 0, 0, 0);
        }
        if (model_has_expert_predictor(c)) {
            append_layer(list, l, "mod.experts.predictor.fc1.bias", VECTOR, c->experts.predictor_hidden, 0, 0, 0);
            append_layer(list, l, "mod.experts.predictor.fc2.bias", VECTOR, c->experts.count, 0, 0, 0);
        }
        int64_t s;
        for (const int64_t end = stages_of(c, l, &s); s < end; s++)
            if (model_stage_has_predictor(c, s)) {
                append_router(c, list, s, "predictor.fc1.bias", VECTOR, c->mod.predictor_hidden, 0, 0);
                append_router(c, list, s, "predictor.fc2.bias", VECTOR, 1, 0, 0);
            }
    }
    append(list, "model.norm.weight", VECTOR, c->dim, 0, 1, 0);
}

fathom_status param_list_build(const model_config *c, param_list *out, fathom_error *err)
{
    *out = (param_list){0};
    out->items = calloc((size_t)(c->layers * (TENSORS_PER_LAYER + TENSORS_PER_EXPERT * c->experts.count) + TENSORS_OUTSIDE),
                        sizeof *out->items);
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

weight weight_rows(weight w, int64_t first, int64_t columns)
{
    if (!w.data)
        return w;
    w.data = (const char *)w.data + (size_t)(first * columns) * weight_element_bytes(w.type);
    w.scale = w.scale ? w.scale + first : NULL;
    return w;
}

/* An expert is gate, up [2 f, d] and down [d, f]. */
float *expert_values(const model_config *c, float *first, int64_t e)
{
    return first ? first + e * 3 * c->ffn * c->dim : NULL;
}

weight expert_weight(const model_config *c, weight first, int64_t e)
{
    if (!first.data)
        return first;
    first.data = (const char *)first.data + (size_t)(e * 3 * c->ffn * c->dim) * weight_element_bytes(first.type);
    first.scale = first.scale ? first.scale + e * (2 * c->ffn + c->dim) : NULL;
    return first;
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
        if (c->experts.count > 0) {
            at.i += 3 * (c->experts.count - 1);
            p->experts = next(&at);
            at.i += model_layer_no_ops(c, l) > 0; /* which follow */
        }
        if (model_has_expert_predictor(c)) {
            p->expert_rule.fc1 = next_large(&at, &m->expert_fc1);
            p->expert_rule.fc2 = next(&at);
        }
        int64_t s;
        for (const int64_t end = stages_of(c, l, &s); s < end; s++) {
            if (model_stage_has_router(c, s))
                out->router[s].router = next(&at);
            if (model_stage_has_predictor(c, s)) {
                out->router[s].fc1 = next_large(&at, &w->fc1[s]);
                out->router[s].fc2 = next(&at);
            }
        }
    }
    if (!c->tied)
        out->head = next_large(&at, &w->head);
    for (int64_t l = 0; l < c->layers; l++) {
        layer_params *p = &out->layer[l];
        p->norm1 = next(&at);
        p->norm2 = next(&at);
        if (model_has_qkv_bias(c)) {
            p->qkv_bias = next(&at);
            at.i += 2; /* k's and v's follow q's */
        }
        if (model_has_expert_predictor(c)) {
            p->expert_rule.fc1_bias = next(&at);
            p->expert_rule.fc2_bias = next(&at);
        }
        int64_t s;
        for (const int64_t end = stages_of(c, l, &s); s < end; s++)
            if (model_stage_has_predictor(c, s)) {
                out->router[s].fc1_bias = next(&at);
                out->router[s].fc2_bias = next(&at);
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
