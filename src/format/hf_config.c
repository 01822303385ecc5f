/* config.json and generation_config.json: see hf_config.h. Reading refuses what would change the mathematics and the
 * engine does not know; what has no effect on the model is passed over. */
#include "format/hf_config.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "format/hf_rope.h"
#include "format/json.h"

enum { MAX_FILE_SIZE = 16 << 20, MISTRAL_WINDOW = 4096 };

static const char *const architectures[MODEL_FAMILY_COUNT] = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"};
#define FATHOM "FathomForCausalLM"
#define Q8_METHOD "fathom-q8"

/* --- reading --- */

/* The one architecture named, with a model_type that agrees. ours: fathom's own, whose blocks are those of base_model_type. */
static fathom_status read_architecture(const json_fields *f, model_family *family, bool *ours, fathom_error *err)
{
    const json_t *list;
    const char *type;
    TRY(json_field_get(f, "architectures", JSON_ARRAY, &list, err));
    const char *name = json_array_size(list) == 1 ? json_string_value(json_array_get(list, 0)) : NULL;
    int found = -1;
    for (int i = 0; name && i < MODEL_FAMILY_COUNT; i++)
        if (strcmp(name, architectures[i]) == 0)
            found = i;
    *ours = name && strcmp(name, FATHOM) == 0;
    if (found < 0 && !*ours)
        return json_field_refuse(f, "architectures", FATHOM_UNSUPPORTED, "expected one of LlamaForCausalLM, MistralForCausalLM, "
                                 "Qwen2ForCausalLM, " FATHOM, err);
    *family = found < 0 ? MODEL_FAMILY_LLAMA : (model_family)found;
    if (json_field_has(f, "model_type")) {
        TRY(json_field_string(f, "model_type", &type, err));
        if (strcmp(type, *ours ? "fathom" : model_family_name(*family)) != 0)
            return json_field_refuse(f, "model_type", FATHOM_UNSUPPORTED, "not the type of the architecture named", err);
    }
    if (*ours && json_field_has(f, "base_model_type")) {
        TRY(json_field_string(f, "base_model_type", &type, err));
        if (!model_family_parse(type, family))
            return json_field_refuse(f, "base_model_type", FATHOM_UNSUPPORTED, "expected \"llama\", \"mistral\" or \"qwen2\"", err);
    }
    return FATHOM_OK;
}

/* Must be false where it is there. */
static fathom_status refuse_true(const json_fields *f, const char *name, fathom_error *err)
{
    bool value = false;
    if (json_field_has(f, name))
        TRY(json_field_bool(f, name, &value, err));
    if (value)
        return json_field_refuse(f, name, FATHOM_UNSUPPORTED, "biases are not supported", err);
    return FATHOM_OK;
}

static fathom_status refuse_present(const json_fields *f, const char *name, fathom_error *err)
{
    if (json_field_has(f, name))
        return json_field_refuse(f, name, FATHOM_UNSUPPORTED, "not supported", err);
    return FATHOM_OK;
}

/* A window as long as the longest sequence, or switched off, changes nothing. Where the file is silent transformers gives Mistral
 * a window of 4096; Mistral has no switch, and Qwen2's is off. */
static fathom_status check_sliding_window(const json_fields *f, const model_config *c, fathom_error *err)
{
    const bool mistral = c->family == MODEL_FAMILY_MISTRAL, silent = !json_object_get(f->object, "sliding_window");
    bool used = c->family != MODEL_FAMILY_QWEN2;
    int64_t window = MISTRAL_WINDOW;
    if (!mistral && json_field_has(f, "use_sliding_window"))
        TRY(json_field_bool(f, "use_sliding_window", &used, err));
    if (json_field_has(f, "sliding_window"))
        TRY(json_field_int(f, "sliding_window", &window, err));
    else if (!silent || !mistral)
        return FATHOM_OK;
    if (used && window < c->seq_len)
        return json_field_refuse(f, "sliding_window", FATHOM_UNSUPPORTED, silent ? "transformers' default is 4096, and sliding windows "
                                 "are not supported" : "sliding windows are not supported", err);
    return FATHOM_OK;
}

/* Qwen2's kinds of attention, layer by layer. */
static fathom_status check_layer_types(const json_fields *f, fathom_error *err)
{
    const json_t *list;
    if (!json_field_has(f, "layer_types"))
        return FATHOM_OK;
    TRY(json_field_get(f, "layer_types", JSON_ARRAY, &list, err));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_string(value) || strcmp(json_string_value(value), "full_attention") != 0)
            return json_value_refuse(f, "layer_types", value, FATHOM_UNSUPPORTED, "expected \"full_attention\"", err);
    }
    return FATHOM_OK;
}

/* How the matrices are stored is read from the tensors themselves; here only kinds that are not ours are refused. */
static fathom_status check_quantization(const json_fields *f, fathom_error *err)
{
    if (!json_field_has(f, "quantization_config"))
        return FATHOM_OK;
    json_fields q = {.path = f->path, .inside = "quantization_config"};
    const char *method;
    TRY(json_field_get(f, "quantization_config", JSON_OBJECT, &q.object, err));
    TRY(json_field_string(&q, "quant_method", &method, err));
    if (strcmp(method, Q8_METHOD) != 0)
        return json_field_refuse(&q, "quant_method", FATHOM_UNSUPPORTED, "expected \"" Q8_METHOD "\"", err);
    return FATHOM_OK;
}

static fathom_status check_supported(const json_fields *f, const model_config *c, fathom_error *err)
{
    if (json_field_has(f, "hidden_act")) {
        const char *act;
        TRY(json_field_string(f, "hidden_act", &act, err));
        if (strcmp(act, "silu") != 0)
            return json_field_refuse(f, "hidden_act", FATHOM_UNSUPPORTED, "expected \"silu\"", err);
    }
    TRY(refuse_true(f, "attention_bias", err));
    TRY(refuse_true(f, "mlp_bias", err));
    TRY(check_quantization(f, err));
    TRY(check_layer_types(f, err));
    return check_sliding_window(f, c, err);
}

/* Element i of a list, or the one value. */
static fathom_status read_token_id(const json_fields *f, const char *name, size_t i, int32_t *out, fathom_error *err)
{
    const json_t *value = json_object_get(f->object, name);
    int64_t id;
    if (json_is_array(value))
        value = json_array_get(value, i);
    TRY(json_value_int(f, name, value, &id, err));
    if (id < -1 || id > INT32_MAX)
        return json_value_refuse(f, name, value, FATHOM_FORMAT, "not a token id", err);
    *out = (int32_t)id;
    return FATHOM_OK;
}

/* null, nothing or -1: none. Of a list of beginnings the first counts, any of the ends ends a text. */
static fathom_status read_token_ids(const json_fields *f, model_config *c, fathom_error *err)
{
    const json_t *ends = json_object_get(f->object, "eos_token_id");
    const size_t count = json_is_array(ends) ? json_array_size(ends) : 1;
    if (json_field_has(f, "bos_token_id"))
        TRY(read_token_id(f, "bos_token_id", 0, &c->bos_id, err));
    if (!json_field_has(f, "eos_token_id"))
        return FATHOM_OK;
    if (count > MODEL_MAX_EOS)
        return json_field_refuse(f, "eos_token_id", FATHOM_UNSUPPORTED, "more than 8", err);
    for (size_t i = 0; i == 0 || i < count; i++)
        TRY(read_token_id(f, "eos_token_id", i, &c->eos_id[i], err));
    c->eos_count = count == 1 && c->eos_id[0] < 0 ? 0 : (int64_t)count;
    return FATHOM_OK;
}

static fathom_status read_plain(const json_fields *f, model_config *c, fathom_error *err)
{
    TRY(json_field_int(f, "vocab_size", &c->vocab, err));
    TRY(json_field_int(f, "hidden_size", &c->dim, err));
    TRY(json_field_int(f, "num_hidden_layers", &c->layers, err));
    TRY(json_field_int(f, "num_attention_heads", &c->heads, err));
    TRY(json_field_int(f, "intermediate_size", &c->ffn, err));
    TRY(json_field_int(f, "max_position_embeddings", &c->seq_len, err));
    /* where the file is silent: transformers' defaults, but for num_key_value_heads, which only Llama's lets be those of the queries */
    c->kv_heads = c->heads;
    c->rope_theta = 10000;
    c->norm_eps = 1e-6f;
    c->tied = false;
    if (c->family != MODEL_FAMILY_LLAMA || json_field_has(f, "num_key_value_heads"))
        TRY(json_field_int(f, "num_key_value_heads", &c->kv_heads, err));
    if (json_field_has(f, "rms_norm_eps"))
        TRY(json_field_float(f, "rms_norm_eps", &c->norm_eps, err));
    if (json_field_has(f, "tie_word_embeddings"))
        TRY(json_field_bool(f, "tie_word_embeddings", &c->tied, err));
    TRY(hf_rope_read(f, c, err));
    TRY(read_token_ids(f, c, err));
    if (json_field_has(f, "head_dim"))
        return json_field_int(f, "head_dim", &c->head_dim, err);
    fathom_error problem;
    fathom_status status = model_config_set_head_dim(c, &problem);
    return status == FATHOM_OK ? FATHOM_OK : status_fail(err, FATHOM_FORMAT, "%s: %s", f->path, problem.message);
}

/* The layers that are routed, ascending. */
static fathom_status read_layers(const json_fields *mod, int64_t layers, int64_t *routed, int64_t *count,
                                 fathom_error *err)
{
    const json_t *list;
    TRY(json_field_get(mod, "layers", JSON_ARRAY, &list, err));
    *count = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *value = json_array_get(list, i);
        int64_t layer;
        TRY(json_value_int(mod, "layers", value, &layer, err));
        if (layer < 0 || layer >= layers || layer >= MODEL_MAX_LAYERS)
            return json_value_refuse(mod, "layers", value, FATHOM_FORMAT, "not a layer of num_hidden_layers", err);
        if (*count && layer <= routed[*count - 1])
            return json_value_refuse(mod, "layers", value, FATHOM_FORMAT, "expected ascending layers", err);
        routed[(*count)++] = layer;
    }
    return FATHOM_OK;
}

/* The routed stages of the routed layers: one each, or where attention and MLP are routed apart, two. */
static int64_t stages_of_layers(const model_config *c, const int64_t *layers, int64_t count, int64_t *stages)
{
    const mod_unit unit = c->mod.unit;
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) {
        if (unit == MOD_UNIT_BLOCK)
            stages[n++] = layers[i];
        if (unit == MOD_UNIT_ATTN || unit == MOD_UNIT_BOTH)
            stages[n++] = 2 * layers[i];
        if (unit == MOD_UNIT_MLP || unit == MOD_UNIT_BOTH)
            stages[n++] = 2 * layers[i] + 1;
    }
    return n;
}

/* One number for all, or a list of `values`, for each routed layer or for each of its stages, into the stages. */
static fathom_status read_per_layer(const json_fields *mod, const char *name, const int64_t *stages, int64_t count, int64_t values,
                                    const char *message, float *per_stage, fathom_error *err)
{
    const json_t *value = json_object_get(mod->object, name);
    if (json_is_array(value) && json_array_size(value) != (size_t)values)
        return json_field_refuse(mod, name, FATHOM_FORMAT, message, err);
    for (int64_t i = 0; i < count; i++) {
        const json_t *element = json_is_array(value) ? json_array_get(value, (size_t)(i * values / count)) : value;
        TRY(json_value_float(mod, name, element, &per_stage[stages[i]], err));
    }
    return FATHOM_OK;
}

/* {"budgets": [n], "thresholds": [n][routers]} */
static fathom_status read_calibration(const json_fields *mod, const int64_t *routed, int64_t count, model_config *c,
                                      fathom_error *err)
{
    json_fields f = {.path = mod->path, .inside = "mod.calibration"};
    const json_t *budgets, *thresholds;
    TRY(json_field_get(mod, "calibration", JSON_OBJECT, &f.object, err));
    TRY(json_field_get(&f, "budgets", JSON_ARRAY, &budgets, err));
    TRY(json_field_get(&f, "thresholds", JSON_ARRAY, &thresholds, err));
    const size_t n = json_array_size(budgets);
    if (n > MODEL_MAX_BUDGETS)
        return json_field_refuse(&f, "budgets", FATHOM_UNSUPPORTED, "more than 16", err);
    if (json_array_size(thresholds) != n)
        return json_field_refuse(&f, "thresholds", FATHOM_FORMAT, "expected one list for each of budgets", err);
    for (size_t i = 0; i < n; i++) {
        const json_t *list = json_array_get(thresholds, i);
        TRY(json_value_float(&f, "budgets", json_array_get(budgets, i), &c->mod.budget[i], err));
        if (!json_is_array(list) || json_array_size(list) != (size_t)count)
            return json_value_refuse(&f, "thresholds", list, FATHOM_FORMAT, "expected one number for each of mod.layers", err);
        for (int64_t l = 0; l < count; l++)
            TRY(json_value_float(&f, "thresholds", json_array_get(list, (size_t)l), &c->mod.budget_threshold[i][routed[l]], err));
    }
    c->mod.budgets = (int64_t)n;
    return FATHOM_OK;
}

/* A word of one of the X-macro lists; parse is its mod_..._parse. */
#define READ_WORD(mod, name, parse, out)                                                \
    do {                                                                                \
        const char *word_;                                                              \
        TRY(json_field_string(mod, name, &word_, err));                                 \
        if (!parse(word_, out))                                                         \
            return json_field_refuse(mod, name, FATHOM_UNSUPPORTED, "unknown", err);    \
    } while (0)

static fathom_status read_mod(const json_fields *f, model_config *c, fathom_error *err)
{
    json_fields mod = {.path = f->path, .inside = "mod"};
    int64_t layers[MODEL_MAX_LAYERS], routed[MODEL_MAX_STAGES] = {0}, count;
    bool route_kv = true;
    TRY(json_field_get(f, "mod", JSON_OBJECT, &mod.object, err));
    READ_WORD(&mod, "router", mod_router_parse, &c->mod.router);
    if (json_field_has(&mod, "gate"))
        READ_WORD(&mod, "gate", mod_gate_parse, &c->mod.gate);
    if (json_field_has(&mod, "causal"))
        READ_WORD(&mod, "causal", mod_causal_parse, &c->mod.causal);
    if (json_field_has(&mod, "aux_weight"))
        TRY(json_field_float(&mod, "aux_weight", &c->mod.aux_weight, err));
    if (json_field_has(&mod, "predictor_hidden"))
        TRY(json_field_int(&mod, "predictor_hidden", &c->mod.predictor_hidden, err));
    if (json_field_has(&mod, "unit"))
        READ_WORD(&mod, "unit", mod_unit_parse, &c->mod.unit);
    if (json_field_has(&mod, "route_kv"))
        TRY(json_field_bool(&mod, "route_kv", &route_kv, err));
    c->mod.dense_kv = !route_kv;
    TRY(read_layers(&mod, c->layers, layers, &count, err));
    const int64_t layer_count = count;
    count = stages_of_layers(c, layers, layer_count, routed);
    TRY(read_per_layer(&mod, "capacity", routed, count, layer_count, "expected one number for each of mod.layers", c->mod.capacity, err));
    for (int64_t i = 0; i < count; i++) /* 0 would make a plain layer of it without a word */
        if (c->mod.capacity[routed[i]] == 0)
            return json_field_refuse(&mod, "capacity", FATHOM_FORMAT, "not in (0, 1]", err);
    if (json_field_has(&mod, "threshold"))
        TRY(read_per_layer(&mod, "threshold", routed, count, count, "expected one number for each router of mod.layers", c->mod.threshold, err));
    return json_field_has(&mod, "calibration") ? read_calibration(&mod, routed, count, c, err) : FATHOM_OK;
}

static fathom_status read_experts(const json_fields *f, model_config *c, fathom_error *err)
{
    json_fields experts = {.path = f->path, .inside = "experts"};
    TRY(json_field_int(f, "num_local_experts", &c->experts.count, err));
    TRY(json_field_int(f, "num_experts_per_tok", &c->experts.per_token, err));
    if (json_field_has(f, "router_aux_loss_coef"))
        TRY(json_field_float(f, "router_aux_loss_coef", &c->experts.balance_weight, err));
    TRY(json_field_get(f, "experts", JSON_OBJECT, &experts.object, err));
    READ_WORD(&experts, "router", expert_router_parse, &c->experts.router);
    READ_WORD(&experts, "mode", expert_mode_parse, &c->experts.mode);
    if (json_field_has(&experts, "no_ops"))
        TRY(json_field_int(&experts, "no_ops", &c->experts.no_ops, err));
    if (json_field_has(&experts, "predictor_hidden"))
        TRY(json_field_int(&experts, "predictor_hidden", &c->experts.predictor_hidden, err));
    return FATHOM_OK;
}

static fathom_status read_root(const json_fields *f, model_config *c, fathom_error *err)
{
    bool ours = false;
    if (!json_is_object(f->object))
        return status_fail(err, FATHOM_FORMAT, "%s: not a JSON object", f->path);
    TRY(read_architecture(f, &c->family, &ours, err));
    TRY(read_plain(f, c, err));
    TRY(check_supported(f, c, err));
    const bool experts = ours && json_field_has(f, "num_local_experts");
    if (experts)
        TRY(read_experts(f, c, err));
    if (ours && (!experts || json_field_has(f, "mod")))
        TRY(read_mod(f, c, err));
    if (ours && !experts)
        TRY(refuse_present(f, "experts", err));
    for (int i = 0; !ours && i < 3; i++)
        TRY(refuse_present(f, (const char *[]){"mod", "num_local_experts", "experts"}[i], err));
    fathom_error problem;
    fathom_status status = model_config_check(c, &problem);
    return status == FATHOM_OK ? FATHOM_OK : status_fail(err, FATHOM_FORMAT, "%s: %s", f->path, problem.message);
}

fathom_status hf_config_read(const char *path, model_config *out, fathom_error *err)
{
    json_t *root;
    TRY(json_file_read(path, MAX_FILE_SIZE, &root, err));
    *out = model_config_default();
    fathom_status status = read_root(&(json_fields){.object = root, .path = path}, out, err);
    json_decref(root);
    return status;
}

/* --- writing: 0, or below it when out of memory, as jansson's setters --- */

/* One id is a number, as most readers expect it. */
static json_t *ends_json(const model_config *c)
{
    if (c->eos_count <= 1)
        return c->eos_count == 0 ? json_null() : json_integer(c->eos_id[0]);
    json_t *list = json_array();
    for (int64_t i = 0; i < c->eos_count; i++)
        if (json_array_append_new(list, json_integer(c->eos_id[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static int put_token_ids(json_t *o, const model_config *c)
{
    int failed = json_object_set_new(o, "bos_token_id", c->bos_id < 0 ? json_null() : json_integer(c->bos_id));
    failed |= json_object_set_new(o, "eos_token_id", ends_json(c));
    return failed | json_object_set_new(o, "pad_token_id", json_null());
}

static json_t *dtype_json(weight_type stored)
{
    return json_string(stored == WEIGHT_BF16 ? "bfloat16" : "float32");
}

static int put_quantization(json_t *o, weight_type stored)
{
    if (stored != WEIGHT_Q8)
        return 0;
    return json_object_set_new(o, "quantization_config", json_pack("{s:s, s:i, s:s}", "quant_method", Q8_METHOD, "bits", 8, "scale", "row"));
}

bool hf_config_is_ours(const model_config *c)
{
    return c->mod.router != MOD_ROUTER_NONE || c->experts.count > 0;
}

/* Where transformers finds the code of a model that is ours: hf_directory.c writes it. */
static int put_auto_map(json_t *o)
{
    const char *name = json_string_value(json_array_get(json_object_get(o, "architectures"), 0));
    if (!name || strcmp(name, FATHOM) != 0)
        return 0;
    return json_object_set_new(o, "auto_map", json_pack("{s:s, s:s}", "AutoConfig", "modeling_fathom.FathomConfig",
                                                        "AutoModelForCausalLM", "modeling_fathom." FATHOM));
}

static int put_plain(json_t *o, const model_config *c, weight_type stored)
{
    const bool ours = hf_config_is_ours(c);
    int failed = json_object_set_new(o, "architectures", json_pack("[s]", ours ? FATHOM : architectures[c->family]));
    failed |= json_object_set_new(o, "model_type", json_string(ours ? "fathom" : model_family_name(c->family)));
    if (ours && c->family != MODEL_FAMILY_LLAMA)
        failed |= json_object_set_new(o, "base_model_type", json_string(model_family_name(c->family)));
    failed |= put_auto_map(o);
    failed |= json_object_set_new(o, "vocab_size", json_integer(c->vocab));
    failed |= json_object_set_new(o, "hidden_size", json_integer(c->dim));
    failed |= json_object_set_new(o, "intermediate_size", json_integer(c->ffn));
    failed |= json_object_set_new(o, "num_hidden_layers", json_integer(c->layers));
    failed |= json_object_set_new(o, "num_attention_heads", json_integer(c->heads));
    failed |= json_object_set_new(o, "num_key_value_heads", json_integer(c->kv_heads));
    failed |= json_object_set_new(o, "head_dim", json_integer(c->head_dim));
    failed |= json_object_set_new(o, "max_position_embeddings", json_integer(c->seq_len));
    failed |= hf_rope_put(o, c);
    failed |= json_object_set_new(o, "rms_norm_eps", json_float(c->norm_eps));
    failed |= json_object_set_new(o, "tie_word_embeddings", json_boolean(c->tied));
    failed |= json_object_set_new(o, "hidden_act", json_string("silu"));
    if (c->family == MODEL_FAMILY_LLAMA) {
        failed |= json_object_set_new(o, "attention_bias", json_false());
        failed |= json_object_set_new(o, "mlp_bias", json_false());
    } else {
        failed |= json_object_set_new(o, "sliding_window", json_null());
    }
    failed |= json_object_set_new(o, "initializer_range", json_float((float)(1 / sqrt((double)c->dim))));
    failed |= json_object_set_new(o, "torch_dtype", dtype_json(stored));
    return failed | put_quantization(o, stored) | put_token_ids(o, c);
}

static int put_per_layer(json_t *mod, const model_config *c)
{
    json_t *layers = json_array(), *capacity = json_array(), *threshold = json_array();
    float first = 0;
    bool same = true;
    int failed = 0;
    for (int64_t s = 0; s < model_stages(c); s++) {
        const model_stage at = model_stage_at(c, s);
        if (!model_stage_skips(c, s))
            continue;
        failed |= json_array_append_new(threshold, json_float(c->mod.threshold[s]));
        if (c->mod.unit == MOD_UNIT_BOTH && at.mlp) /* with its layer's attention */
            continue;
        if (json_array_size(layers) == 0)
            first = c->mod.capacity[s];
        same &= c->mod.capacity[s] == first;
        failed |= json_array_append_new(layers, json_integer(at.layer));
        failed |= json_array_append_new(capacity, json_float(c->mod.capacity[s]));
    }
    if (same) {
        json_decref(capacity);
        capacity = json_float(first);
    }
    failed |= json_object_set_new(mod, "layers", layers);
    failed |= json_object_set_new(mod, "capacity", capacity);
    return failed | json_object_set_new(mod, "threshold", threshold);
}

static int put_calibration(json_t *mod, const model_config *c)
{
    json_t *budgets = json_array(), *thresholds = json_array(), *both = json_object();
    int failed = 0;
    for (int64_t i = 0; i < c->mod.budgets; i++) {
        json_t *list = json_array();
        for (int64_t l = 0; l < model_stages(c); l++)
            if (model_stage_routed(c, l))
                failed |= json_array_append_new(list, json_float(c->mod.budget_threshold[i][l]));
        failed |= json_array_append_new(budgets, json_float(c->mod.budget[i]));
        failed |= json_array_append_new(thresholds, list);
    }
    failed |= json_object_set_new(both, "budgets", budgets);
    failed |= json_object_set_new(both, "thresholds", thresholds);
    return failed | json_object_set_new(mod, "calibration", both);
}

static int put_mod(json_t *o, const model_config *c)
{
    json_t *mod = json_object();
    int failed = put_per_layer(mod, c);
    failed |= json_object_set_new(mod, "router", json_string(mod_router_name(c->mod.router)));
    failed |= json_object_set_new(mod, "gate", json_string(mod_gate_name(c->mod.gate)));
    failed |= json_object_set_new(mod, "causal", json_string(mod_causal_name(c->mod.causal)));
    failed |= json_object_set_new(mod, "aux_weight", json_float(c->mod.aux_weight));
    failed |= json_object_set_new(mod, "predictor_hidden", json_integer(c->mod.predictor_hidden));
    if (c->mod.unit != MOD_UNIT_BLOCK)
        failed |= json_object_set_new(mod, "unit", json_string(mod_unit_name(c->mod.unit)));
    if (c->mod.dense_kv)
        failed |= json_object_set_new(mod, "route_kv", json_false());
    if (c->mod.budgets > 0)
        failed |= put_calibration(mod, c);
    return failed | json_object_set_new(o, "mod", mod);
}

/* Mixtral's names for what Mixtral has. */
static int put_experts(json_t *o, const model_config *c)
{
    json_t *experts = json_object();
    int failed = json_object_set_new(o, "num_local_experts", json_integer(c->experts.count));
    failed |= json_object_set_new(o, "num_experts_per_tok", json_integer(c->experts.per_token));
    failed |= json_object_set_new(o, "router_aux_loss_coef", json_float(c->experts.balance_weight));
    failed |= json_object_set_new(experts, "router", json_string(expert_router_name(c->experts.router)));
    failed |= json_object_set_new(experts, "mode", json_string(expert_mode_name(c->experts.mode)));
    failed |= json_object_set_new(experts, "no_ops", json_integer(c->experts.no_ops));
    failed |= json_object_set_new(experts, "predictor_hidden", json_integer(c->experts.predictor_hidden));
    return failed | json_object_set_new(o, "experts", experts);
}

/* Takes root. */
static fathom_status finish(const char *path, json_t *root, int failed, fathom_error *err)
{
    if (failed) {
        json_decref(root);
        root = NULL;
    }
    return json_file_write(path, root, err);
}

fathom_status hf_config_write(const char *path, const model_config *c, weight_type stored, fathom_error *err)
{
    fathom_error problem;
    fathom_status status = model_config_check(c, &problem);
    if (status != FATHOM_OK)
        return status_fail(err, status, "%s: %s", path, problem.message);
    json_t *root = json_object();
    int failed = put_plain(root, c, stored);
    if (c->mod.router != MOD_ROUTER_NONE)
        failed |= put_mod(root, c);
    if (c->experts.count > 0)
        failed |= put_experts(root, c);
    return finish(path, root, failed, err);
}

fathom_status hf_config_copy(const char *from, const char *to, weight_type stored, fathom_error *err)
{
    json_t *root;
    TRY(json_file_read(from, MAX_FILE_SIZE, &root, err));
    json_t *before = json_deep_copy(root);
    const bool newer = json_object_get(root, "dtype"), older = json_object_get(root, "torch_dtype") || !newer;
    int failed = older ? json_object_set_new(root, "torch_dtype", dtype_json(stored)) : 0;
    if (newer)
        failed |= json_object_set_new(root, "dtype", dtype_json(stored));
    json_object_del(root, "quantization_config");
    failed |= put_quantization(root, stored) | put_auto_map(root);
    const bool same = before && json_equal(before, root);
    json_decref(before);
    if (failed || !same)
        return finish(to, root, failed, err);
    json_decref(root);
    return file_copy(from, to, err);
}

fathom_status hf_generation_config_write(const char *path, const model_config *c, fathom_error *err)
{
    json_t *root = json_object();
    int failed = put_token_ids(root, c);
    failed |= json_object_set_new(root, "max_length", json_integer(c->seq_len));
    failed |= json_object_set_new(root, "do_sample", json_true());
    failed |= json_object_set_new(root, "temperature", json_float(1));
    return finish(path, root, failed, err);
}
