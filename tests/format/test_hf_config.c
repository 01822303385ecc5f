/* config.json: what is written comes back bit for bit, plain Llama files are read with transformers' defaults, and what the
 * engine does not support is refused by name. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "format/hf_config.h"
#include "model/tiny.h"
#include "format/json.h"

static char folder[256], path[300];

static int make_folder(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/fathom-config-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/config.json", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return folder_remove(folder, NULL) == FATHOM_OK ? 0 : -1;
}

static void assert_same_bits(float a, float b)
{
    if (memcmp(&a, &b, sizeof a) != 0)
        fail_msg("%a came back as %a", (double)a, (double)b);
}

static void assert_same(const model_config *a, const model_config *b)
{
    assert_int_equal(a->vocab, b->vocab);
    assert_int_equal(a->dim, b->dim);
    assert_int_equal(a->layers, b->layers);
    assert_int_equal(a->heads, b->heads);
    assert_int_equal(a->kv_heads, b->kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->ffn, b->ffn);
    assert_int_equal(a->seq_len, b->seq_len);
    assert_int_equal(a->family, b->family);
    assert_same_bits(a->rope_theta, b->rope_theta);
    assert_int_equal(a->scaling.kind, b->scaling.kind);
    assert_same_bits(a->scaling.factor, b->scaling.factor);
    assert_same_bits(a->scaling.low_freq_factor, b->scaling.low_freq_factor);
    assert_same_bits(a->scaling.high_freq_factor, b->scaling.high_freq_factor);
    assert_int_equal(a->scaling.original, b->scaling.original);
    assert_same_bits(a->norm_eps, b->norm_eps);
    assert_int_equal(a->tied, b->tied);
    assert_int_equal(a->bos_id, b->bos_id);
    assert_int_equal(a->eos_count, b->eos_count);
    assert_memory_equal(a->eos_id, b->eos_id, (size_t)a->eos_count * sizeof *a->eos_id);
    assert_int_equal(a->mod.router, b->mod.router);
    assert_int_equal(a->mod.gate, b->mod.gate);
    assert_int_equal(a->mod.causal, b->mod.causal);
    assert_same_bits(a->mod.aux_weight, b->mod.aux_weight);
    assert_int_equal(a->mod.predictor_hidden, b->mod.predictor_hidden);
    assert_int_equal(a->mod.unit, b->mod.unit);
    assert_int_equal(a->mod.dense_kv, b->mod.dense_kv);
    assert_int_equal(a->experts.count, b->experts.count);
    assert_int_equal(a->experts.per_token, b->experts.per_token);
    assert_int_equal(a->experts.router, b->experts.router);
    assert_int_equal(a->experts.mode, b->experts.mode);
    assert_int_equal(a->experts.no_ops, b->experts.no_ops);
    assert_int_equal(a->experts.predictor_hidden, b->experts.predictor_hidden);
    assert_same_bits(a->experts.balance_weight, b->experts.balance_weight);
    assert_true(model_config_equal(a, b));
    for (int l = 0; l < MODEL_MAX_STAGES; l++) {
        assert_same_bits(a->mod.capacity[l], b->mod.capacity[l]);
        assert_same_bits(a->mod.threshold[l], b->mod.threshold[l]);
    }
}

static void round_trip(const model_config *c)
{
    fathom_error err;
    model_config back;
    if (hf_config_write(path, c, WEIGHT_F32, &err) != FATHOM_OK || hf_config_read(path, &back, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    assert_same(c, &back);
}

static uint64_t draws;

static int64_t pick(int64_t low, int64_t high)
{
    uint32_t w[4];
    rng_words(5, 99, draws++, w);
    return low + (int64_t)(w[0] % (uint64_t)(high - low + 1));
}

/* Any finite positive float, subnormals too. */
static float pick_float(float at_most)
{
    for (;;) {
        uint32_t w[4];
        float f;
        rng_words(6, 99, draws++, w);
        w[0] &= 0x7fffffff;
        memcpy(&f, w, sizeof f);
        if (isfinite(f) && f > 0 && f <= at_most)
            return f;
    }
}

static model_config random_config(void)
{
    model_config c = model_config_default();
    c.vocab = pick(1, 1 << 24);
    c.dim = pick(1, 1 << 20);
    c.layers = pick(1, MODEL_MAX_LAYERS);
    c.kv_heads = pick(1, 32);
    c.heads = c.kv_heads * pick(1, 8);
    c.head_dim = 2 * pick(1, 512);
    c.ffn = pick(1, 1 << 20);
    c.seq_len = pick(1, 1 << 24);
    c.rope_theta = pick_float(INFINITY);
    c.norm_eps = pick_float(INFINITY);
    c.tied = pick(0, 1);
    c.bos_id = (int32_t)pick(-1, c.vocab - 1);
    c.eos_count = pick(0, MODEL_MAX_EOS);
    for (int64_t i = 0; i < c.eos_count; i++)
        c.eos_id[i] = (int32_t)pick(0, c.vocab - 1);
    if (pick(0, 3) == 0)
        return c;
    c.mod.router = pick(0, 1) ? MOD_ROUTER_TOPK : MOD_ROUTER_STOCHASTIC;
    c.mod.gate = (mod_gate)pick(0, MOD_GATE_COUNT - 1);
    c.mod.causal = c.mod.router == MOD_ROUTER_STOCHASTIC ? MOD_CAUSAL_NOISE
                                                         : (pick(0, 1) ? MOD_CAUSAL_PREDICTOR : MOD_CAUSAL_AUX);
    c.mod.aux_weight = pick(0, 4) ? pick_float(INFINITY) : 0;
    c.mod.predictor_hidden = pick(c.mod.causal == MOD_CAUSAL_PREDICTOR, 4096);
    const bool one_capacity = pick(0, 1);
    const float capacity = pick_float(1);
    const int64_t certain = pick(0, c.layers - 1);
    for (int64_t l = 0; l < c.layers; l++) {
        if (l != certain && pick(0, 1))
            continue;
        c.mod.capacity[l] = one_capacity ? capacity : pick_float(1);
        c.mod.threshold[l] = pick(0, 2) ? (pick(0, 1) ? 1.0f : -1.0f) * pick_float(INFINITY) : -0.0f;
    }
    return c;
}

static void test_round_trip(void **state)
{
    (void)state;
    model_config c = model_config_default();
    round_trip(&c);
    for (int i = 0; i < TINY_VARIANTS; i++) {
        c = tiny_variant_config(&tiny_variants[i]);
        for (int64_t s = 0; s < model_stages(&c); s++)
            c.mod.threshold[s] = model_stage_routed(&c, s) ? 0.25f + (float)s : 0;
        round_trip(&c);
    }
    for (int i = 0; i < 100; i++) {
        c = random_config();
        round_trip(&c);
    }
}

static model_config routed(void)
{
    model_config c = model_config_default();
    c.mod.router = MOD_ROUTER_TOPK;
    c.mod.predictor_hidden = 64;
    for (int l = 1; l < 8; l += 2) {
        c.mod.capacity[l] = 0.1f;
        c.mod.threshold[l] = (float)l / 4;
    }
    return c;
}

/* Fields as others read them: numbers in their shortest decimal form, null for no token. */
static void test_written_form(void **state)
{
    (void)state;
    model_config c = routed();
    c.eos_count = 1;
    c.eos_id[0] = 3;
    assert_int_equal(hf_config_write(path, &c, WEIGHT_F32, NULL), FATHOM_OK);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    const char *architecture, *type, *act, *dtype, *router, *gate, *causal;
    int hidden, attention_bias, mlp_bias, eos, predictor;
    double theta, eps, range, capacity, aux;
    json_t *layers, *threshold, *bos, *pad;
    assert_int_equal(
        json_unpack(root, "{s:[s!], s:s, s:i, s:f, s:f, s:s, s:b, s:b, s:s, s:f, s:i, s:o, s:o, "
                          "s:{s:o, s:f, s:s, s:s, s:s, s:f, s:i, s:o!}}",
                    "architectures", &architecture, "model_type", &type, "hidden_size", &hidden, "rope_theta", &theta,
                    "rms_norm_eps", &eps, "hidden_act", &act, "attention_bias", &attention_bias, "mlp_bias", &mlp_bias,
                    "torch_dtype", &dtype, "initializer_range", &range, "eos_token_id", &eos, "bos_token_id", &bos,
                    "pad_token_id", &pad, "mod", "layers", &layers, "capacity", &capacity, "router", &router, "gate",
                    &gate, "causal", &causal, "aux_weight", &aux, "predictor_hidden", &predictor, "threshold", &threshold),
        0);
    assert_string_equal(architecture, "FathomForCausalLM");
    assert_string_equal(type, "fathom");
    assert_int_equal(hidden, 128);
    assert_true(theta == 10000 && eps == 1e-5 && fabs(range - 1 / sqrt(128)) < 1e-6 && capacity == 0.1 && aux == 0.01);
    assert_string_equal(act, "silu");
    assert_false(attention_bias || mlp_bias);
    assert_string_equal(dtype, "float32");
    assert_int_equal(eos, 3);
    assert_true(json_is_null(bos) && json_is_null(pad));
    assert_int_equal(json_array_size(layers), 4);
    assert_int_equal(json_integer_value(json_array_get(layers, 3)), 7);
    assert_int_equal(json_array_size(threshold), 4);
    assert_true(json_real_value(json_array_get(threshold, 3)) == 1.75);
    assert_string_equal(router, "topk");
    assert_string_equal(gate, "raw");
    assert_string_equal(causal, "predictor");
    assert_int_equal(predictor, 64);
    json_decref(root);

    file_map map;
    assert_int_equal(file_map_open(path, &map, NULL), FATHOM_OK);
    assert_non_null(memmem(map.data, map.size, "\"capacity\": 0.1,", 16));
    assert_int_equal(map.data[map.size - 1], '\n');
    file_map_close(&map);

    c = model_config_default();
    assert_int_equal(hf_config_write(path, &c, WEIGHT_F32, NULL), FATHOM_OK);
    root = json_load_file(path, 0, NULL);
    assert_null(json_object_get(root, "mod"));
    assert_int_equal(json_unpack(root, "{s:[s!], s:s}", "architectures", &architecture, "model_type", &type), 0);
    assert_string_equal(architecture, "LlamaForCausalLM");
    assert_string_equal(type, "llama");
    json_decref(root);
}

static void test_capacity_list(void **state)
{
    (void)state;
    model_config c = routed();
    c.mod.capacity[5] = 0.5f;
    round_trip(&c);
    json_t *root = json_load_file(path, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(json_object_get(root, "mod"), "capacity")), 4);
    json_decref(root);
}

static void test_write_refuses(void **state)
{
    (void)state;
    model_config c = routed();
    c.mod.capacity[1] = 2;
    fathom_error err = {0};
    unlink(path);
    assert_int_equal(hf_config_write(path, &c, WEIGHT_F32, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, "mod.capacity"));
    assert_false(path_exists(path));
    c = routed();
    assert_int_equal(hf_config_write("/nonexistent/config.json", &c, WEIGHT_F32, &err), FATHOM_IO);
    assert_non_null(strstr(err.message, "/nonexistent/config.json"));
}

static void test_generation_config(void **state)
{
    (void)state;
    model_config c = model_config_default();
    c.bos_id = 1;
    assert_int_equal(hf_generation_config_write(path, &c, NULL), FATHOM_OK);
    json_t *root = json_load_file(path, 0, NULL);
    int bos, length, sample;
    double temperature;
    json_t *eos;
    assert_int_equal(json_unpack(root, "{s:i, s:o, s:i, s:b, s:f}", "bos_token_id", &bos, "eos_token_id", &eos,
                                 "max_length", &length, "do_sample", &sample, "temperature", &temperature),
                     0);
    assert_int_equal(bos, 1);
    assert_true(json_is_null(eos));
    assert_int_equal(length, 256);
    assert_true(sample && temperature == 1);
    json_decref(root);
}

#define SIZES \
    "\"vocab_size\":32000,\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":8," \
    "\"intermediate_size\":96,\"max_position_embeddings\":2048"
#define LLAMA(more) "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," SIZES more "}"
#define FATHOM(mod) "{\"architectures\":[\"FathomForCausalLM\"],\"model_type\":\"fathom\"," SIZES ",\"mod\":" mod "}"

static model_config read_ok(const char *text)
{
    fathom_error err;
    model_config c;
    assert_int_equal(file_write(path, text, strlen(text), NULL), FATHOM_OK);
    if (hf_config_read(path, &c, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    return c;
}

/* The message names the file, the field and the value (or what was expected). */
static void refused(fathom_status code, const char *text, const char *field, const char *value)
{
    fathom_error err = {0};
    model_config c;
    assert_int_equal(file_write(path, text, strlen(text), NULL), FATHOM_OK);
    const fathom_status status = hf_config_read(path, &c, &err);
    if (status != code || !strstr(err.message, path) || !strstr(err.message, field) || !strstr(err.message, value))
        fail_msg("expected %s, %s and %s in: %d %s", fathom_status_text(code), field, value, (int)status, err.message);
    assert_int_equal(hf_config_read(path, &c, NULL), code);
}

static void malformed(const char *text, const char *field, const char *value)
{
    refused(FATHOM_FORMAT, text, field, value);
}

static void unsupported(const char *text, const char *field, const char *value)
{
    refused(FATHOM_UNSUPPORTED, text, field, value);
}

static void test_foreign_defaults(void **state)
{
    (void)state;
    model_config c = read_ok(LLAMA());
    assert_int_equal(c.kv_heads, 8);
    assert_int_equal(c.head_dim, 8);
    assert_false(c.tied);
    assert_same_bits(c.rope_theta, 10000);
    assert_same_bits(c.norm_eps, 1e-6f);
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.eos_count, 0);
    assert_int_equal(c.mod.router, MOD_ROUTER_NONE);
    c = read_ok(LLAMA(",\"num_key_value_heads\":2,\"head_dim\":16,\"tie_word_embeddings\":true,\"rope_theta\":500000,"
                      "\"rms_norm_eps\":1e-05,\"bos_token_id\":1,\"eos_token_id\":[2,7],\"hidden_act\":\"silu\","
                      "\"attention_bias\":false,\"mlp_bias\":false,\"rope_scaling\":null,\"sliding_window\":null,"
                      "\"pretraining_tp\":1,\"use_cache\":true,\"attention_dropout\":0.0"));
    assert_int_equal(c.kv_heads, 2);
    assert_int_equal(c.head_dim, 16);
    assert_true(c.tied);
    assert_same_bits(c.rope_theta, 500000);
    assert_same_bits(c.norm_eps, 1e-5f);
    assert_int_equal(c.bos_id, 1);
    assert_int_equal(c.eos_count, 2);
    assert_int_equal(c.eos_id[0], 2);
    assert_int_equal(c.eos_id[1], 7);
    c = read_ok(LLAMA(",\"num_key_value_heads\":null,\"head_dim\":null,\"bos_token_id\":null"));
    assert_int_equal(c.kv_heads, 8);
    assert_int_equal(c.head_dim, 8);
    c = read_ok(LLAMA(",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":250000.0}"));
    assert_same_bits(c.rope_theta, 250000);
    read_ok(LLAMA(",\"sliding_window\":2048"));                                  /* as long as the sequence */
    read_ok(LLAMA(",\"sliding_window\":128,\"use_sliding_window\":false")); /* switched off */
}

#define OTHER(architecture, type, more) "{\"architectures\":[\"" architecture "\"],\"model_type\":\"" type "\"," SIZES more "}"
#define MISTRAL(more) OTHER("MistralForCausalLM", "mistral", ",\"num_key_value_heads\":2" more)
#define QWEN2(more) OTHER("Qwen2ForCausalLM", "qwen2", ",\"num_key_value_heads\":2" more)

static void test_families(void **state)
{
    (void)state;
    assert_int_equal(read_ok(LLAMA()).family, MODEL_FAMILY_LLAMA);
    assert_int_equal(read_ok(MISTRAL()).family, MODEL_FAMILY_MISTRAL);
    assert_int_equal(read_ok(QWEN2()).family, MODEL_FAMILY_QWEN2);
    unsupported(OTHER("MistralForCausalLM", "llama", ""), "model_type", "llama");
    unsupported(OTHER("LlamaForCausalLM", "qwen2", ""), "model_type", "qwen2");
    unsupported(OTHER("Qwen3ForCausalLM", "qwen3", ""), "architectures", "Qwen3ForCausalLM");
    /* transformers gives these a number of its own where the file has none */
    malformed(OTHER("MistralForCausalLM", "mistral", ""), "num_key_value_heads", "missing");
    malformed(OTHER("Qwen2ForCausalLM", "qwen2", ""), "num_key_value_heads", "missing");
    /* sequences are of 2048 tokens at most */
    read_ok(MISTRAL(",\"sliding_window\":null"));
    read_ok(MISTRAL(",\"sliding_window\":2048"));
    unsupported(MISTRAL(",\"sliding_window\":2047"), "sliding_window", "2047");
    unsupported(MISTRAL(",\"sliding_window\":16,\"use_sliding_window\":false"), "sliding_window", "16"); /* a switch it does not have */
    unsupported("{\"architectures\":[\"MistralForCausalLM\"],\"vocab_size\":9,\"hidden_size\":64,\"num_hidden_layers\":1,"
                "\"num_attention_heads\":8,\"num_key_value_heads\":8,\"intermediate_size\":9,\"max_position_embeddings\":4097}",
                "sliding_window", "4096");
    read_ok(QWEN2(",\"sliding_window\":16"));
    read_ok(QWEN2(",\"sliding_window\":16,\"use_sliding_window\":false,\"layer_types\":[\"full_attention\",\"full_attention\"]"));
    unsupported(QWEN2(",\"sliding_window\":16,\"use_sliding_window\":true"), "sliding_window", "16");
    unsupported(QWEN2(",\"layer_types\":[\"full_attention\",\"sliding_attention\"]"), "layer_types", "sliding_attention");
    malformed(QWEN2(",\"layer_types\":\"full_attention\""), "layer_types", "a string");
    model_config c = model_config_default();
    for (int family = 0; family < MODEL_FAMILY_COUNT; family++) {
        c.family = (model_family)family;
        round_trip(&c);
        model_config mod = routed();
        mod.family = c.family;
        round_trip(&mod);
    }
    unsupported("{\"architectures\":[\"FathomForCausalLM\"],\"base_model_type\":\"gpt2\"," SIZES "}", "base_model_type", "gpt2");
}

#define LLAMA3(original, low, high) \
    "\"factor\":8.0,\"low_freq_factor\":" low ",\"high_freq_factor\":" high ",\"original_max_position_embeddings\":" original

static void test_rope(void **state)
{
    (void)state;
    static const char *const linear[] = {LLAMA(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}"),
                                         LLAMA(",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2.5}"),
                                         LLAMA(",\"rope_scaling\":{\"type\":\"linear\",\"rope_type\":\"linear\",\"factor\":2.5}"),
                                         LLAMA(",\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.5,\"rope_theta\":10000.0}")};
    for (size_t i = 0; i < sizeof linear / sizeof *linear; i++) {
        const model_config c = read_ok(linear[i]);
        assert_int_equal(c.scaling.kind, ROPE_SCALING_LINEAR);
        assert_same_bits(c.scaling.factor, 2.5f);
        assert_true(fabs(model_rope_frequency(&c, 1) * 2.5 - pow(10000, -2.0 / 8)) < 1e-12);
        round_trip(&c);
    }
    static const char *const llama3[] = {
        LLAMA(",\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\"," LLAMA3("1024", "1.0", "4.0") "}"),
        LLAMA(",\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"llama3\"," LLAMA3("1024", "1.0", "4.0") "}")};
    for (size_t i = 0; i < sizeof llama3 / sizeof *llama3; i++) {
        const model_config c = read_ok(llama3[i]);
        assert_int_equal(c.scaling.kind, ROPE_SCALING_LLAMA3);
        assert_same_bits(c.rope_theta, 500000);
        assert_int_equal(c.scaling.original, 1024);
        /* of four frequencies the first two fit 1024 positions more than 4 times, the last two less than once */
        assert_true(fabs(model_rope_frequency(&c, 1) - pow(500000, -0.25)) < 1e-12);
        assert_true(fabs(model_rope_frequency(&c, 2) * 8 - pow(500000, -0.5)) < 1e-12);
        round_trip(&c);
    }
    read_ok(LLAMA(",\"rope_scaling\":{\"type\":\"default\"},\"partial_rotary_factor\":1.0,\"rope_parameters\":null"));
#define SCALING(fields) LLAMA(",\"rope_scaling\":{" fields "}")
    unsupported(SCALING("\"type\":\"dynamic\",\"factor\":2.0"), "rope_scaling.type", "dynamic");
    unsupported(SCALING("\"rope_type\":\"yarn\",\"type\":\"linear\",\"factor\":2.0"), "rope_scaling.rope_type", "yarn");
    unsupported(LLAMA(",\"rope_parameters\":{\"rope_type\":\"longrope\"}"), "rope_parameters.rope_type", "longrope");
    unsupported(LLAMA(",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\"}}"), "rope_parameters.full_attention", "linear");
    unsupported(LLAMA(",\"rope_parameters\":{\"partial_rotary_factor\":0.5}"), "rope_parameters.partial_rotary_factor", "0.5");
    unsupported(LLAMA(",\"partial_rotary_factor\":0.5"), "partial_rotary_factor", "0.5");
    unsupported(LLAMA(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0},\"rope_parameters\":{\"rope_type\":\"default\"}"),
                "rope_scaling", "linear");
    malformed(LLAMA(",\"rope_scaling\":\"linear\""), "rope_scaling", "a string");
    malformed(SCALING("\"type\":\"linear\""), "rope_scaling.factor", "missing");
    malformed(SCALING("\"type\":\"linear\",\"factor\":\"2\""), "rope_scaling.factor", "a string");
    malformed(SCALING("\"type\":\"linear\",\"factor\":0"), "rope_scaling.factor", "0");
    malformed(SCALING("\"type\":\"linear\",\"factor\":-2"), "rope_scaling.factor", "-2");
    malformed(SCALING("\"type\":2,\"factor\":2"), "rope_scaling.type", "2 (an integer)");
    malformed(SCALING("\"type\":\"llama3\",\"factor\":2,\"high_freq_factor\":4"), "rope_scaling.low_freq_factor", "missing");
    malformed(SCALING("\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":1"), "rope_scaling.high_freq_factor", "missing");
    malformed(SCALING("\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":1,\"high_freq_factor\":4"), "original_max_position_embeddings",
              "missing");
    malformed(SCALING("\"type\":\"llama3\"," LLAMA3("1024", "4", "4")), "high_freq_factor: 4", "low_freq_factor 4");
    malformed(SCALING("\"type\":\"llama3\"," LLAMA3("1024", "0", "4")), "low_freq_factor", "0");
    malformed(SCALING("\"type\":\"llama3\"," LLAMA3("0", "1", "4")), "original_max_position_embeddings", "0");
    malformed(SCALING("\"type\":\"llama3\"," LLAMA3("1024.0", "1", "4")), "original_max_position_embeddings", "a real number");
}

static void test_foreign_mod(void **state)
{
    (void)state;
    model_config c = read_ok(FATHOM("{\"router\":\"topk\",\"causal\":\"aux\",\"layers\":[1,3],\"capacity\":1}"));
    assert_int_equal(c.mod.gate, MOD_GATE_RAW);
    assert_same_bits(c.mod.aux_weight, 0.01f);
    assert_same_bits(c.mod.capacity[0], 0);
    assert_same_bits(c.mod.capacity[1], 1);
    assert_same_bits(c.mod.capacity[3], 1);
    assert_same_bits(c.mod.threshold[3], 0);
    c = read_ok(FATHOM("{\"router\":\"stochastic\",\"causal\":\"noise\",\"gate\":\"one\",\"layers\":[0,2],"
                       "\"capacity\":[0.25,0.5],\"threshold\":[1,-2.5],\"aux_weight\":0}"));
    assert_int_equal(c.mod.gate, MOD_GATE_ONE);
    assert_same_bits(c.mod.capacity[2], 0.5f);
    assert_same_bits(c.mod.threshold[2], -2.5f);
}

static void test_missing(void **state)
{
    (void)state;
    static const char *const required[] = {"architectures", "vocab_size", "hidden_size", "num_hidden_layers",
                                           "num_attention_heads", "intermediate_size", "max_position_embeddings"};
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        json_t *root = json_loads(LLAMA(), 0, NULL);
        assert_int_equal(json_object_del(root, required[i]), 0);
        char *text = json_dumps(root, 0);
        malformed(text, required[i], "missing");
        free(text);
        json_decref(root);
    }
    malformed("{\"architectures\":[\"FathomForCausalLM\"]," SIZES "}", "mod", "missing");
    malformed(FATHOM("{\"layers\":[1],\"capacity\":0.5}"), "mod.router", "missing");
    malformed(FATHOM("{\"router\":\"topk\",\"capacity\":0.5}"), "mod.layers", "missing");
    malformed(FATHOM("{\"router\":\"topk\",\"layers\":[1]}"), "mod.capacity", "missing");
}

static void test_not_a_config(void **state)
{
    (void)state;
    fathom_error err = {0};
    model_config c;
    unlink(path);
    assert_int_equal(hf_config_read(path, &c, &err), FATHOM_NOT_FOUND);
    assert_non_null(strstr(err.message, path));
    malformed("", "malformed JSON", "line");
    malformed("{", "malformed JSON", "line 1");
    malformed("[]", "not a JSON object", "");
    malformed("{} {}", "malformed JSON", "line 1");
    malformed(LLAMA(",\"hidden_size\":64"), "duplicate", "hidden_size");
    assert_int_equal(truncate(path, (16 << 20) + 1), 0);
    assert_int_equal(hf_config_read(path, &c, &err), FATHOM_FORMAT);
    assert_non_null(strstr(err.message, "16777217"));
}

static void test_unsupported(void **state)
{
    (void)state;
#define ARCHITECTURES(list) "{\"architectures\":" list "," SIZES "}"
    unsupported(ARCHITECTURES("[\"GPT2LMHeadModel\"]"), "architectures", "GPT2LMHeadModel");
    unsupported(ARCHITECTURES("[]"), "architectures", "[]");
    unsupported(ARCHITECTURES("[7]"), "architectures", "[7]");
    unsupported(ARCHITECTURES("[\"LlamaForCausalLM\",\"FathomForCausalLM\"]"), "architectures", "expected");
    unsupported("{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"mistral\"," SIZES "}", "model_type", "mistral");
    unsupported(LLAMA(",\"hidden_act\":\"gelu\""), "hidden_act", "gelu");
    unsupported(LLAMA(",\"attention_bias\":true"), "attention_bias", "true");
    unsupported(LLAMA(",\"mlp_bias\":true"), "mlp_bias", "true");
    unsupported(LLAMA(",\"quantization_config\":{\"quant_method\":\"gptq\"}"), "quantization_config", "gptq");
    unsupported(LLAMA(",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]"), "eos_token_id", "more than 8");
    unsupported(LLAMA(",\"sliding_window\":128"), "sliding_window", "128");
    unsupported(LLAMA(",\"sliding_window\":128,\"use_sliding_window\":true"), "sliding_window", "128");
    unsupported(LLAMA(",\"mod\":{}"), "mod", "{}");
#define MOD(fields) FATHOM("{\"layers\":[1],\"capacity\":0.5" fields "}")
    unsupported(MOD(",\"router\":\"dice\""), "mod.router", "dice");
    unsupported(MOD(",\"router\":\"topk\",\"gate\":\"tanh\""), "mod.gate", "tanh");
    unsupported(MOD(",\"router\":\"topk\",\"causal\":\"oracle\""), "mod.causal", "oracle");
}

static void test_wrong_types(void **state)
{
    (void)state;
    malformed("{\"architectures\":\"LlamaForCausalLM\"}", "architectures", "a string");
    malformed("{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":1," SIZES "}", "model_type", "1 (an integer)");
    static const char *const sizes[] = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                                        "intermediate_size", "max_position_embeddings"};
    static const struct {
        const char *value, *found;
    } wrong[] = {{"\"64\"", "\"64\" (a string)"}, {"64.0", "64.0 (a real number)"}, {"[64]", "[64] (an array)"},
                 {"true", "true (a boolean)"},    {"null", "null"},                 {"{}", "{} (an object)"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++) {
            json_t *root = json_loads(LLAMA(), 0, NULL);
            json_object_set_new(root, sizes[i], json_loads(wrong[j].value, JSON_DECODE_ANY, NULL));
            char *text = json_dumps(root, 0);
            malformed(text, sizes[i], wrong[j].found);
            free(text);
            json_decref(root);
        }
    }
    malformed(LLAMA(",\"num_key_value_heads\":2.5"), "num_key_value_heads", "2.5 (a real number)");
    malformed(LLAMA(",\"head_dim\":\"8\""), "head_dim", "a string");
    malformed(LLAMA(",\"rope_theta\":\"10000\""), "rope_theta", "a string");
    malformed(LLAMA(",\"rope_theta\":1e300"), "rope_theta", "too large");
    malformed(LLAMA(",\"rope_parameters\":[]"), "rope_parameters", "an array");
    malformed(LLAMA(",\"rms_norm_eps\":true"), "rms_norm_eps", "a boolean");
    malformed(LLAMA(",\"tie_word_embeddings\":1"), "tie_word_embeddings", "1 (an integer)");
    malformed(LLAMA(",\"bos_token_id\":\"<s>\""), "bos_token_id", "<s>");
    malformed(LLAMA(",\"eos_token_id\":[]"), "eos_token_id", "missing");
    malformed(LLAMA(",\"eos_token_id\":[2.0]"), "eos_token_id", "a real number");
    malformed(LLAMA(",\"hidden_act\":false"), "hidden_act", "a boolean");
    malformed(LLAMA(",\"attention_bias\":\"yes\""), "attention_bias", "yes");
    malformed(LLAMA(",\"sliding_window\":\"all\""), "sliding_window", "all");
    malformed(FATHOM("3"), "mod", "3 (an integer)");
    malformed(FATHOM("{\"router\":4}"), "mod.router", "4 (an integer)");
    malformed(MOD(",\"router\":\"topk\",\"aux_weight\":\"x\""), "mod.aux_weight", "a string");
    malformed(MOD(",\"router\":\"topk\",\"predictor_hidden\":1.5"), "mod.predictor_hidden", "1.5");
    malformed(MOD(",\"router\":\"topk\",\"predictor_hidden\":8,\"threshold\":[null]"), "mod.threshold", "null");
}

static void test_wrong_values(void **state)
{
    (void)state;
    malformed(LLAMA(",\"head_dim\":7"), "head_dim", "7 is odd");
    malformed(LLAMA(",\"num_key_value_heads\":3"), "num_key_value_heads", "3");
    malformed(LLAMA(",\"rms_norm_eps\":0"), "rms_norm_eps", "0");
    malformed(LLAMA(",\"bos_token_id\":32000"), "bos_token_id", "32000");
    malformed(LLAMA(",\"eos_token_id\":4294967296"), "eos_token_id", "4294967296");
    malformed("{\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":9,\"hidden_size\":65,\"num_hidden_layers\":1,"
              "\"num_attention_heads\":8,\"intermediate_size\":9,\"max_position_embeddings\":9}",
              "hidden_size: 65", "num_attention_heads 8");
    malformed("{\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":9,\"hidden_size\":64,\"num_hidden_layers\":1,"
              "\"num_attention_heads\":0,\"intermediate_size\":9,\"max_position_embeddings\":9}",
              "num_attention_heads", "0");
#define TOPK(layers, capacity, more) \
    FATHOM("{\"router\":\"topk\",\"predictor_hidden\":8,\"layers\":" layers ",\"capacity\":" capacity more "}")
    read_ok(TOPK("[1,3]", "[0.5,1]", ",\"threshold\":[0,0]"));
    malformed(TOPK("[]", "0.5", ""), "mod.layers", "no layer");
    malformed(TOPK("[4]", "0.5", ""), "mod.layers", "4 (an integer)");
    malformed(TOPK("[-1]", "0.5", ""), "mod.layers", "-1 (an integer)");
    malformed(TOPK("[9223372036854775807]", "0.5", ""), "mod.layers", "9223372036854775807");
    malformed(TOPK("[1,1]", "0.5", ""), "mod.layers", "ascending");
    malformed(TOPK("[3,1]", "0.5", ""), "mod.layers", "ascending");
    malformed(TOPK("[1.0]", "0.5", ""), "mod.layers", "a real number");
    malformed(TOPK("[1,3]", "[0.5]", ""), "mod.capacity", "one number for each");
    malformed(TOPK("[1,3]", "[0.5,0.5,0.5]", ""), "mod.capacity", "one number for each");
    malformed(TOPK("[1,3]", "[0.5,0]", ""), "mod.capacity", "not in (0, 1]");
    malformed(TOPK("[1,3]", "0", ""), "mod.capacity", "not in (0, 1]");
    malformed(TOPK("[1,3]", "1e-60", ""), "mod.capacity", "not in (0, 1]"); /* 0 as a float */
    malformed(TOPK("[1,3]", "-0.5", ""), "mod.capacity", "-0.5");
    malformed(TOPK("[1,3]", "1.5", ""), "mod.capacity", "1.5");
    malformed(TOPK("[1,3]", "\"all\"", ""), "mod.capacity", "all");
    malformed(TOPK("[1,3]", "0.5", ",\"threshold\":[0]"), "mod.threshold", "one number for each");
    malformed(TOPK("[1,3]", "0.5", ",\"causal\":\"noise\""), "mod.causal", "noise");
    malformed(MOD(",\"router\":\"topk\""), "mod.predictor_hidden", "0");
    malformed(MOD(",\"router\":\"none\""), "mod.capacity", "none");
    malformed(TOPK("[1,3]", "[0.5,1]", ",\"unit\":\"attn+mlp\",\"threshold\":[0,0]"), "mod.threshold", "each router");
    malformed(TOPK("[1,3]", "[0.5,1,1,1]", ",\"unit\":\"attn+mlp\""), "mod.capacity", "each");
    unsupported(TOPK("[1,3]", "0.5", ",\"unit\":\"head\""), "mod.unit", "head");
    malformed(TOPK("[1,3]", "0.5", ",\"unit\":\"mlp\",\"route_kv\":false"), "mod.route_kv", "mlp");
    malformed(TOPK("[1,3]", "0.5", ",\"route_kv\":0"), "mod.route_kv", "0 (an integer)");
#define MIXTURE(E, K, experts, more) \
    "{\"architectures\":[\"FathomForCausalLM\"]," SIZES ",\"num_local_experts\":" E ",\"num_experts_per_tok\":" K ",\"experts\":{" experts "}" more "}"
#define TOKENS_CHOOSE "\"router\":\"token-choice\",\"mode\":\"staged\""
    read_ok(MIXTURE("4", "2", TOKENS_CHOOSE, ""));
    malformed(MIXTURE("4", "5", TOKENS_CHOOSE, ""), "num_experts_per_tok", "5 is not in [1, 4]");
    malformed(MIXTURE("4", "0", TOKENS_CHOOSE, ""), "num_experts_per_tok", "0");
    malformed(MIXTURE("-1", "1", TOKENS_CHOOSE, ""), "num_local_experts", "-1");
    malformed(MIXTURE("9223372036854775807", "1", TOKENS_CHOOSE, ""), "num_local_experts", "9223372036854775807");
    malformed(MIXTURE("4", "2", TOKENS_CHOOSE, ",\"router_aux_loss_coef\":-1"), "router_aux_loss_coef", "-1");
    unsupported(MIXTURE("4", "2", "\"router\":\"all\",\"mode\":\"staged\"", ""), "experts.router", "all");
    malformed(MIXTURE("4", "2", "\"router\":\"token-choice\"", ""), "experts.mode", "missing");
    malformed(MIXTURE("4", "2", "\"router\":\"expert-choice\",\"mode\":\"staged\"", ""), "experts.predictor_hidden", "0");
    malformed(MIXTURE("4", "2", "\"router\":\"token-choice\",\"mode\":\"integrated\",\"no_ops\":1", ""), "experts.mode", "none");
    malformed(MIXTURE("4", "2", TOKENS_CHOOSE ",\"no_ops\":-4", ""), "experts.no_ops", "-4");
    malformed(MIXTURE("4", "2", TOKENS_CHOOSE ",\"no_ops\":4611686018427387904", ""), "experts.no_ops", "4611686018427387904");
    malformed(MIXTURE("4", "2", TOKENS_CHOOSE ",\"predictor_hidden\":4611686018427387904", ""), "experts.predictor_hidden", "4611686018427387904");
    malformed(MIXTURE("0", "1", TOKENS_CHOOSE ",\"predictor_hidden\":-1", ""), "experts.predictor_hidden", "-1");
    unsupported(TOPK("[1,3]", "0.5", "},\"experts\":{\"router\":\"nonsense\""), "experts", "not supported");
    unsupported(LLAMA(",\"num_local_experts\":4"), "num_local_experts", "not supported");
    malformed("{\"architectures\":[\"FathomForCausalLM\"],\"vocab_size\":9,\"hidden_size\":64,\"num_hidden_layers\":999,"
              "\"num_attention_heads\":8,\"intermediate_size\":9,\"max_position_embeddings\":9,"
              "\"mod\":{\"router\":\"topk\",\"layers\":[500],\"capacity\":0.5}}",
              "mod.layers", "500");
}

/* Every float comes back; the decimal is no longer than it must be. */
static void test_json_float(void **state)
{
    (void)state;
    static const struct {
        float value;
        const char *text;
    } known[] = {{0.1f, "0.1"}, {1e-5f, "1e-5"}, {10000, "10000.0"}, {0.125f, "0.125"}, {-0.0f, "-0.0"}, {1, "1.0"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        json_t *value = json_float(known[i].value);
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        assert_string_equal(text, known[i].text);
        free(text);
        json_decref(value);
    }
    for (int i = 0; i < 20000; i++) {
        const float f = pick_float(INFINITY);
        json_t *value = json_float(f);
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        json_t *back = json_loads(text, JSON_DECODE_ANY, NULL);
        assert_same_bits((float)json_number_value(back), f);
        json_decref(back);
        free(text);
        json_decref(value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_written_form),
        cmocka_unit_test(test_capacity_list), cmocka_unit_test(test_write_refuses),
        cmocka_unit_test(test_generation_config), cmocka_unit_test(test_foreign_defaults),
        cmocka_unit_test(test_foreign_mod),   cmocka_unit_test(test_missing),
        cmocka_unit_test(test_not_a_config),  cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_wrong_types),   cmocka_unit_test(test_wrong_values),
        cmocka_unit_test(test_json_float),    cmocka_unit_test(test_families),
        cmocka_unit_test(test_rope),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
