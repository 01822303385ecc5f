/* config.json: what is written is read back bit for bit; what the engine does not know is refused by name. */
#include "base/temp.h"

#include "base/rng.h"
#include "format/hf_config.h"

static uint64_t draws;

static int64_t pick(int64_t low, int64_t high)
{
    return low + (int64_t)(rng_uniform(4, 4, draws++) * (double)(high - low + 1));
}

static float any(void)
{
    return (float)(rng_normal(4, 5, draws++) * 3);
}

static model_config random_config(void)
{
    model_config c = model_config_default();
    c.layers = pick(1, 20);
    c.kv_heads = pick(1, 4);
    c.heads = c.kv_heads * pick(1, 4);
    c.head_dim = 2 * pick(1, 40);
    c.dim = pick(1, 700);
    c.ffn = pick(1, 3000);
    c.vocab = pick(2, 100000);
    c.seq_len = pick(1, 100000);
    c.rope_theta = 1 + any() * any();
    c.rope_theta = c.rope_theta > 0 ? c.rope_theta : 500000;
    c.norm_eps = 1e-6f * (float)pick(1, 50);
    c.tied = pick(0, 1);
    c.bos_id = (int32_t)pick(-1, 1);
    c.mod.router = (mod_router)pick(0, 2);
    if (c.mod.router == MOD_ROUTER_NONE)
        return c;
    c.mod.gate = (mod_gate)pick(0, 2);
    c.mod.causal = c.mod.router == MOD_ROUTER_STOCHASTIC ? MOD_CAUSAL_NOISE : (mod_causal)pick(0, 1);
    c.mod.predictor_hidden = c.mod.causal == MOD_CAUSAL_PREDICTOR ? pick(1, 400) : 0;
    c.mod.aux_weight = (float)pick(0, 100) / 777;
    const bool same = pick(0, 1);
    const int64_t first = pick(0, c.layers - 1);
    for (int64_t l = 0; l < c.layers; l++)
        if (l == first || pick(0, 1)) {
            c.mod.capacity[l] = same ? 0.125f : (float)pick(1, 1000) / 1000;
            c.mod.threshold[l] = any();
        }
    return c;
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    fathom_error err;
    for (int i = 0; i < 300; i++) {
        const model_config c = random_config();
        model_config back;
        if (hf_config_write("config.json", &c, &err) != FATHOM_OK || hf_config_read("config.json", &back, &err) != FATHOM_OK)
            fail_msg("%s", err.message);
        assert_true(model_config_equal(&c, &back));
    }
}

static const char head[] = "\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 64, "
                           "\"intermediate_size\": 96, \"num_hidden_layers\": 4, \"num_attention_heads\": 4, "
                           "\"vocab_size\": 300, \"max_position_embeddings\": 128";
static const char mod_head[] = "\"architectures\": [\"FathomForCausalLM\"], \"model_type\": \"fathom\", \"hidden_size\": 64, "
                               "\"intermediate_size\": 96, \"num_hidden_layers\": 4, \"num_attention_heads\": 4, "
                               "\"vocab_size\": 300, \"max_position_embeddings\": 128";

static void a_bare_llama_has_defaults(void **state)
{
    (void)state;
    char text[1024];
    fathom_error err;
    model_config c;
    snprintf(text, sizeof text, "{%s}", head);
    put_text("config.json", text);
    if (hf_config_read("config.json", &c, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c.kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_false(c.tied);
    assert_true(c.rope_theta == 10000 && c.norm_eps == 1e-6f);
    assert_int_equal(c.mod.router, MOD_ROUTER_NONE);
}

#define MOD(x) "\"mod\": {" x "}"
#define MOD_GOOD "\"layers\": [1, 3], \"router\": \"topk\", \"gate\": \"raw\", \"causal\": \"aux\", \"threshold\": [0, 0]"

static void what_is_unknown_is_refused_by_name(void **state)
{
    (void)state;
    const struct {
        const char *start, *extra, *named;
    } cases[] = {
        {head, "\"hidden_act\": \"gelu\"", "hidden_act"},
        {head, "\"attention_bias\": true", "attention_bias"},
        {head, "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}", "rope_scaling"},
        {head, "\"quantization_config\": {}", "quantization_config"},
        {head, "\"sliding_window\": 16", "sliding_window"},
        {head, "\"num_key_value_heads\": 3", "num_key_value_heads"},
        {head, "\"num_key_value_heads\": \"2\"", "num_key_value_heads"},
        {head, "\"head_dim\": 5", "head_dim"},
        {head, "\"rms_norm_eps\": -1", "rms_norm_eps"},
        {head, "\"rope_theta\": [1]", "rope_theta"},
        {head, "\"tie_word_embeddings\": 1", "tie_word_embeddings"},
        {head, "\"hidden_size\": 32", "hidden_size"}, /* twice */
        {head + 39, "\"x\": 1", "architectures"},
        {mod_head, "\"x\": 1", "mod"},
        {mod_head, MOD("\"capacity\": 0, " MOD_GOOD), "capacity"},
        {mod_head, MOD("\"capacity\": \"0.5\", " MOD_GOOD), "capacity"},
        {mod_head, MOD("\"capacity\": [0.5], " MOD_GOOD), "capacity"},
        {mod_head, MOD("\"capacity\": 0.5, \"layers\": [4], \"router\": \"topk\", \"gate\": \"raw\", \"causal\": \"aux\", "
                       "\"threshold\": [0]"), "layers"},
        {mod_head, MOD("\"capacity\": 0.5, \"layers\": [1], \"router\": \"magic\", \"gate\": \"raw\", \"causal\": \"aux\", "
                       "\"threshold\": [0]"), "router"},
        {mod_head, MOD("\"capacity\": 0.5, \"layers\": [1], \"router\": \"topk\", \"gate\": \"raw\", \"causal\": \"noise\", "
                       "\"threshold\": [0]"), "causal"},
        {mod_head, MOD("\"capacity\": 0.5, \"layers\": [1], \"router\": \"topk\", \"gate\": \"raw\", \"causal\": \"predictor\", "
                       "\"threshold\": [0], \"predictor_hidden\": 0"), "predictor_hidden"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[2048];
        fathom_error err = {0};
        model_config c;
        snprintf(text, sizeof text, "{%s, %s}", cases[i].start, cases[i].extra);
        put_text("config.json", text);
        assert_int_not_equal(hf_config_read("config.json", &c, &err), FATHOM_OK);
        if (!strstr(err.message, cases[i].named) || !strstr(err.message, "config.json"))
            fail_msg("case %d: the message does not name %s: %s", (int)i, cases[i].named, err.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_test(what_is_written_is_read),
        temp_test(a_bare_llama_has_defaults),
        temp_test(what_is_unknown_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
