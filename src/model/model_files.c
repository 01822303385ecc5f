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
static const safetensors_dtype stored_dtype[] = {[WEIGHT_F32] = DTYPE_F32, [WEIGHT_BF16] = DTYPE_BF16, [WEIGHT_Q8] = DTYPE_I8};
enum { TENSOR_NAME = sizeof ((param_info *)0)->name + 16 };

static void tensor_name(char name[TENSOR_NAME], const char *prefix, const param_info *p, const char *suffix)
{
    snprintf(name, TENSOR_NAME, "%s%s%s", prefix, p->name, suffix);
}

/* --- a model to be run, in its file's kind --- */

/* The embedding says whether a file is q8. bf16 it is only when every large matrix is: nothing is rounded on its way in. */
static weight_type file_type(const safetensors *file, const param_list *list)
{
    weight_type type = WEIGHT_BF16;
    for (int64_t i = 0; i < list->count; i++) {
        const safetensors_tensor *t = list->items[i].large ? safetensors_find(file, list->items[i].name) : NULL;
        if (t && t->dtype == DTYPE_I8 && i == 0)
            return WEIGHT_Q8;
        if (t && t->dtype != DTYPE_BF16)
            type = WEIGHT_F32;
    }
    return type;
}

/* bf16 and q8 stand in the file as in the store. */
static fathom_status read_packed(model *m, const safetensors *file, const param_info *p, fathom_error *err)
{
    const weight w = store_weight(&m->store, p);
    char name[TENSOR_NAME];
    const void *values, *scale;
    TRY(safetensors_get(file, p->name, stored_dtype[w.type], p->rank, p->shape, &values, err));
    m->kn.mem_upload(&m->kn, (void *)w.data, values, (size_t)p->size * weight_element_bytes(w.type));
    if (w.type != WEIGHT_Q8)
        return FATHOM_OK;
    tensor_name(name, "", p, SCALE_SUFFIX);
    TRY(safetensors_get(file, name, DTYPE_F32, 1, p->shape, &scale, err));
    m->kn.mem_upload(&m->kn, (void *)w.scale, scale, (size_t)p->shape[0] * sizeof(float));
    return FATHOM_OK;
}

static fathom_status read_parameter(model *m, const safetensors *file, const param_info *p, fathom_error *err)
{
    if (p->large && m->store.type != WEIGHT_F32)
        return read_packed(m, file, p, err);
    float *host = malloc((size_t)p->size * sizeof *host);
    if (!host)
        return no_memory(err, p->size);
    fathom_status status = safetensors_read_f32(file, p->name, p->rank, p->shape, host, err);
    if (status == FATHOM_OK)
        status = model_put(m, p, host, err);
    free(host);
    return status;
}

static bool known_name(const param_list *list, weight_type type, const param_block *block, const char *name)
{
    const size_t prefix = strlen(block->prefix);
    if (strncmp(name, block->prefix, prefix) != 0)
        return false;
    for (int64_t i = 0; i < list->count; i++) {
        const param_info *p = &list->items[i];
        const size_t length = strlen(p->name);
        const char *rest = name + prefix + length;
        if (strncmp(name + prefix, p->name, length) == 0 &&
            (!*rest || (p->large && type == WEIGHT_Q8 && strcmp(rest, SCALE_SUFFIX) == 0)))
            return true;
    }
    return false;
}

/* What others' files hold besides parameters: RoPE's frequencies, which config.json gives, and a tied head written out. */
static bool redundant(const safetensors *file, const safetensors_tensor *t)
{
    const char *rope = strstr(t->name, ".self_attn.rotary_emb.inv_freq");
    if (rope && !strchr(rope + sizeof ".self_attn.rotary_emb", '.'))
        return true;
    const safetensors_tensor *embed = safetensors_find(file, "model.embed_tokens.weight");
    return strcmp(t->name, "lm_head.weight") == 0 && embed && embed->dtype == t->dtype && embed->bytes == t->bytes &&
           memcmp(embed->data, t->data, t->bytes) == 0;
}

/* Every tensor of the file must have been read: one that the model does not know is a sign of another model. */
static fathom_status check_unread(const param_list *list, weight_type type, const param_block *blocks, int64_t count,
                                  const safetensors *file, fathom_error *err)
{
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const safetensors_tensor *found = safetensors_at(file, i);
        bool known = false;
        for (int64_t b = 0; b < count && !known; b++)
            known = known_name(list, type, &blocks[b], found->name);
        if (!known && !redundant(file, found))
            return status_fail(err, FATHOM_FORMAT, "%s: %s: the model in config.json has no such tensor",
                               safetensors_path(file), found->name);
    }
    return FATHOM_OK;
}

/* Every parameter is in the file, in its shape, before memory is taken for what config.json claims. */
static fathom_status check_shapes(const safetensors *file, const param_list *list, weight_type type, fathom_error *err)
{
    for (int64_t i = 0; i < list->count; i++) {
        const param_info *p = &list->items[i];
        const safetensors_tensor *unused;
        char name[TENSOR_NAME];
        tensor_name(name, "", p, SCALE_SUFFIX);
        TRY(safetensors_find_shaped(file, p->name, p->rank, p->shape, &unused, err));
        if (p->large && type == WEIGHT_Q8)
            TRY(safetensors_find_shaped(file, name, 1, p->shape, &unused, err));
    }
    return FATHOM_OK;
}

/* How DIR's large matrices are stored, and where each parameter is to be found. */
static fathom_status open_folder(const char *dir, model_config *c, param_list *list, safetensors **file, weight_type *type, fathom_error *err)
{
    *list = (param_list){0};
    *file = NULL;
    if (!path_is_folder(dir))
        return status_fail(err, FATHOM_NOT_FOUND, "%s: no such model directory", dir);
    char *path = path_join(dir, "config.json");
    fathom_status status = path ? hf_config_read(path, c, err) : no_memory(err, 0);
    if (status == FATHOM_OK)
        status = safetensors_open_model(dir, file, err);
    if (status == FATHOM_OK)
        status = param_list_build(c, list, err);
    if (status == FATHOM_OK) {
        *type = file_type(*file, list);
        status = check_shapes(*file, list, *type, err);
    }
    free(path);
    return status;
}

fathom_status model_read_config(const char *dir, model_config *out, fathom_error *err)
{
    param_list list;
    safetensors *file;
    weight_type type;
    const fathom_status status = open_folder(dir, out, &list, &file, &type, err);
    param_list_free(&list);
    safetensors_close(file);
    return status;
}

static fathom_status load_values(model *out, const model_config *c, const safetensors *file, weight_type type, const kernels *kn,
                                 fathom_error *err)
{
    fathom_status status = model_init(out, c, type, kn, err);
    for (int64_t i = 0; i < out->list.count && status == FATHOM_OK; i++)
        status = read_parameter(out, file, &out->list.items[i], err);
    if (status == FATHOM_OK)
        status = check_unread(&out->list, type, &(param_block){.prefix = ""}, 1, file, err);
    return status;
}

fathom_status model_load(model *out, const char *dir, const kernels *kn, fathom_error *err)
{
    *out = (model){0};
    model_config config;
    param_list list;
    safetensors *file;
    weight_type type;
    fathom_status status = open_folder(dir, &config, &list, &file, &type, err);
    param_list_free(&list);
    if (status == FATHOM_OK)
        status = load_values(out, &config, file, type, kn, err);
    safetensors_close(file);
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

static const char *const values_metadata[] = {"format", "pt", NULL};

static fathom_status tensor_list_write(tensor_list *t, const char *path, fathom_error *err)
{
    return safetensors_write(path, t->tensors, t->count, values_metadata, err);
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
    return model_save_values(m, dir, err);
}

fathom_status model_save_values(const model *m, const char *dir, fathom_error *err)
{
    char *values = path_join(dir, "model.safetensors");
    const fathom_status status = values ? write_values(m, values, err) : no_memory(err, 0);
    free(values);
    return status;
}

/* --- from file to file, without a model in memory --- */

enum { PIECE = 1 << 20 }; /* floats at a time: a row of any matrix fits, see model_config_check */

typedef struct transfer {
    tensor_list to;
    const safetensors_tensor **from; /* of each of `to`; NULL: the scales made of the matrix before */
    weight_type type;
    float *floats; /* [PIECE] */
    void *packed;  /* PIECE elements */
    float *scale;  /* q8's, of the matrix in hand */
} transfer;

/* See safetensors_source: as it stands in the file, or some rows of it in another type. */
static fathom_status transfer_piece(void *user, size_t i, size_t offset, const void **data, size_t *bytes, fathom_error *err)
{
    transfer *t = user;
    (void)err;
    const safetensors_tensor *from = t->from[i], *to = &t->to.tensors[i];
    *bytes = to->bytes;
    *data = from ? from->data : t->scale;
    if (!from || from->dtype == to->dtype)
        return FATHOM_OK;
    const size_t rows = (size_t)to->shape[0], columns = to->rank == 2 ? (size_t)to->shape[1] : 1;
    const size_t element = safetensors_dtype_bytes(to->dtype), row = offset / (columns * element);
    const size_t n = rows - row < PIECE / columns ? rows - row : PIECE / columns;
    safetensors_widen(from, row * columns, n * columns, t->floats);
    *data = t->floats;
    if (to->dtype != DTYPE_F32) {
        weight_pack(t->type, t->floats, (int64_t)n, (int64_t)columns, t->packed, t->scale + row);
        *data = t->packed;
    }
    *bytes = n * columns * element;
    return FATHOM_OK;
}

static void transfer_add(transfer *t, const param_info *p, const char *suffix, safetensors_dtype dtype, const safetensors_tensor *from)
{
    const size_t i = t->to.count++;
    const bool scale = *suffix;
    tensor_name(t->to.names[i], "", p, suffix);
    t->to.tensors[i] = (safetensors_tensor){.name = t->to.names[i], .dtype = dtype, .rank = scale ? 1 : p->rank,
                                            .shape = {p->shape[0], p->shape[1]},
                                            .bytes = (size_t)(scale ? p->shape[0] : p->size) * safetensors_dtype_bytes(dtype)};
    t->from[i] = from;
}

static fathom_status plan_transfer(transfer *t, const safetensors *file, const param_info *p, weight_type found, fathom_error *err)
{
    const bool packed = p->large && t->type == WEIGHT_Q8, as_it_is = packed && found == WEIGHT_Q8;
    const safetensors_tensor *from, *scale = NULL;
    char name[TENSOR_NAME];
    tensor_name(name, "", p, SCALE_SUFFIX);
    TRY(safetensors_find_shaped(file, p->name, p->rank, p->shape, &from, err));
    if (as_it_is)
        TRY(safetensors_find_shaped(file, name, 1, p->shape, &scale, err));
    if (as_it_is ? from->dtype != DTYPE_I8 || scale->dtype != DTYPE_F32 : !safetensors_widens(from->dtype))
        return status_fail(err, FATHOM_UNSUPPORTED, "%s: %.100s: dtype %s, expected %s", safetensors_path(file), p->name,
                           safetensors_dtype_name(from->dtype), as_it_is ? "I8 with F32 scales" : "F32, F16 or BF16");
    transfer_add(t, p, "", p->large ? stored_dtype[t->type] : DTYPE_F32, from);
    if (packed)
        transfer_add(t, p, SCALE_SUFFIX, DTYPE_F32, scale);
    return FATHOM_OK;
}

static fathom_status transfer_values(const safetensors *file, const param_list *list, weight_type found, weight_type type,
                                     const char *path, fathom_error *err)
{
    transfer t = {.type = type, .from = calloc((size_t)(2 * list->count), sizeof *t.from), .floats = malloc(PIECE * sizeof(float)),
                  .packed = malloc(PIECE * sizeof(uint16_t))};
    int64_t rows = 1;
    for (int64_t i = 0; i < list->count; i++)
        rows = list->items[i].shape[0] > rows ? list->items[i].shape[0] : rows;
    t.scale = malloc((size_t)rows * sizeof *t.scale);
    fathom_status status = tensor_list_new(&t.to, 2 * list->count, err);
    if (status == FATHOM_OK && (!t.from || !t.floats || !t.packed || !t.scale))
        status = no_memory(err, 2 * PIECE + rows);
    for (int64_t i = 0; i < list->count && status == FATHOM_OK; i++)
        status = plan_transfer(&t, file, &list->items[i], found, err);
    if (status == FATHOM_OK)
        status = safetensors_write_from(path, t.to.tensors, t.to.count, values_metadata, transfer_piece, &t, err);
    tensor_list_free(&t.to);
    free(t.from);
    free(t.floats);
    free(t.packed);
    free(t.scale);
    return status;
}

static fathom_status convert_files(const char *from, const char *to, const model_config *shape, const safetensors *file,
                                   const param_list *list, weight_type found, const model_conversion *c, fathom_error *err)
{
    TRY(folder_create(to, err));
    TRY(hf_directory_code(to, shape, err));
    char *config = path_join(from, "config.json"), *new_config = path_join(to, "config.json"), *values = path_join(to, "model.safetensors");
    fathom_status status = config && new_config && values ? FATHOM_OK : no_memory(err, 0);
    if (status == FATHOM_OK)
        status = hf_config_copy(config, new_config, c->type, err);
    if (status == FATHOM_OK && c->write_others)
        status = c->write_others(c->user, err);
    if (status == FATHOM_OK)
        status = transfer_values(file, list, found, c->type, values, err);
    free(config);
    free(new_config);
    free(values);
    return status;
}

fathom_status model_convert(const char *from, const char *to, model_conversion *c, fathom_error *err)
{
    model_config config;
    param_list list;
    safetensors *file;
    weight_type found;
    fathom_status status = open_folder(from, &config, &list, &file, &found, err);
    if (status == FATHOM_OK && c->as_it_is)
        c->type = found;
    if (status == FATHOM_OK && found == WEIGHT_Q8 && c->type != found)
        status = status_fail(err, FATHOM_UNSUPPORTED, "%s: is stored in q8 already; convert the model it was made from", from);
    if (status == FATHOM_OK)
        status = check_unread(&list, found, &(param_block){.prefix = ""}, 1, file, err);
    if (status == FATHOM_OK)
        status = convert_files(from, to, &config, file, &list, found, c, err);
    if (status == FATHOM_OK)
        c->source_bytes = (int64_t)safetensors_size(file);
    param_list_free(&list);
    safetensors_close(file);
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

fathom_status model_read_folder(model *m, const char *dir, bool adds_routers, fathom_error *err)
{
    const param_block values = {"", m->store.values};
    safetensors *file;
    TRY(safetensors_open_model(dir, &file, err));
    fathom_status status = FATHOM_OK;
    for (int64_t i = 0; i < m->list.count && status == FATHOM_OK; i++) {
        const param_info *p = &m->list.items[i];
        if (!adds_routers || !strstr(p->name, ".mod.") || safetensors_find(file, p->name))
            status = read_block_tensor(m, &values, p, file, err);
    }
    if (status == FATHOM_OK)
        status = check_unread(&m->list, WEIGHT_F32, &values, 1, file, err);
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
        status = check_unread(&m->list, WEIGHT_F32, blocks, count, file, err);
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
