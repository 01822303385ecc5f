/* The model's shape: names, defaults, each refusal of the check, and k. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "model/config.h"

static model_config routed(void)
{
    model_config c = model_config_default();
    c.mod.router = MOD_ROUTER_TOPK;
    c.mod.predictor_hidden = 64;
    for (int l = 1; l < 8; l += 2)
        c.mod.capacity[l] = 0.125f;
    return c;
}

static void expect_ok(const model_config *c)
{
    fathom_error err;
    if (model_config_check(c, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
}

static void expect_refused(const model_config *c, const char *field, const char *value)
{
    fathom_error err = {0};
    assert_int_equal(model_config_check(c, &err), FATHOM_INVALID_ARGUMENT);
    if (strncmp(err.message, field, strlen(field)) != 0 || !strstr(err.message, value))
        fail_msg("expected %s and %s in: %s", field, value, err.message);
    assert_int_equal(model_config_check(c, NULL), FATHOM_INVALID_ARGUMENT);
}

static void test_names(void **state)
{
    (void)state;
    for (int i = 0; i < MOD_ROUTER_COUNT; i++) {
        mod_router r;
        assert_true(mod_router_parse(mod_router_name((mod_router)i), &r));
        assert_int_equal(r, i);
    }
    for (int i = 0; i < MOD_GATE_COUNT; i++) {
        mod_gate g;
        assert_true(mod_gate_parse(mod_gate_name((mod_gate)i), &g));
        assert_int_equal(g, i);
    }
    for (int i = 0; i < MOD_CAUSAL_COUNT; i++) {
        mod_causal c;
        assert_true(mod_causal_parse(mod_causal_name((mod_causal)i), &c));
        assert_int_equal(c, i);
    }
    for (int i = 0; i < MOD_UNIT_COUNT; i++) {
        mod_unit u;
        assert_true(mod_unit_parse(mod_unit_name((mod_unit)i), &u));
        assert_int_equal(u, i);
    }
    mod_router r = MOD_ROUTER_TOPK;
    mod_gate g;
    mod_causal c;
    assert_string_equal(mod_router_name(MOD_ROUTER_TOPK), "topk");
    assert_false(mod_router_parse("Topk", &r));
    assert_false(mod_router_parse("", &r));
    assert_false(mod_gate_parse("top", &g));
    assert_false(mod_causal_parse("predictors", &c));
    assert_int_equal(r, MOD_ROUTER_TOPK); /* untouched */
}

static void test_default(void **state)
{
    (void)state;
    model_config c = model_config_default();
    expect_ok(&c);
    assert_int_equal(c.dim, c.heads * c.head_dim);
    assert_int_equal(model_routed_stages(&c), 0);
    for (int64_t l = 0; l < c.layers; l++)
        assert_false(model_stage_routed(&c, l));
    c = routed();
    expect_ok(&c);
    assert_int_equal(model_routed_stages(&c), 4);
    assert_true(model_stage_routed(&c, 1) && model_stage_has_predictor(&c, 1) && !model_stage_routed(&c, 2));
}

static void test_bounds(void **state)
{
    (void)state;
    static const struct {
        const char *field;
        size_t offset;
        int64_t low, high;
    } sizes[] = {
        {"vocab_size", offsetof(model_config, vocab), 1, 1 << 24},
        {"hidden_size", offsetof(model_config, dim), 1, 1 << 20},
        {"num_hidden_layers", offsetof(model_config, layers), 1, MODEL_MAX_LAYERS},
        {"intermediate_size", offsetof(model_config, ffn), 1, 1 << 20},
        {"max_position_embeddings", offsetof(model_config, seq_len), 1, 1 << 24},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        model_config c = model_config_default();
        int64_t *field = (int64_t *)((char *)&c + sizes[i].offset);
        *field = sizes[i].low;
        expect_ok(&c);
        *field = sizes[i].high;
        expect_ok(&c);
        *field = sizes[i].low - 1;
        expect_refused(&c, sizes[i].field, "0 is not in");
        *field = sizes[i].high + 1;
        expect_refused(&c, sizes[i].field, "is not in");
        *field = INT64_MIN;
        expect_refused(&c, sizes[i].field, "-9223372036854775808");
        *field = INT64_MAX;
        expect_refused(&c, sizes[i].field, "9223372036854775807");
    }
}

static void test_heads(void **state)
{
    (void)state;
    model_config c = model_config_default();
    c.heads = 0;
    expect_refused(&c, "num_attention_heads", "0");
    c.heads = INT64_MAX;
    expect_refused(&c, "num_attention_heads", "9223372036854775807");
    c = model_config_default();
    c.kv_heads = 0;
    expect_refused(&c, "num_key_value_heads", "0");
    c.kv_heads = 8;
    expect_refused(&c, "num_key_value_heads", "8");
    c.kv_heads = 3;
    expect_refused(&c, "num_attention_heads", "num_key_value_heads 3");
    c.kv_heads = 2;
    expect_ok(&c);
    c.head_dim = 0;
    expect_refused(&c, "head_dim", "0");
    c.head_dim = 33;
    expect_refused(&c, "head_dim", "33 is odd");
    c.head_dim = 64; /* wider than dim / heads: a model may */
    expect_ok(&c);
    c.head_dim = 1 << 19;
    expect_refused(&c, "head_dim", "524288");
}

static void test_set_head_dim(void **state)
{
    (void)state;
    model_config c = model_config_default();
    fathom_error err;
    c.dim = 96;
    assert_int_equal(model_config_set_head_dim(&c, &err), FATHOM_OK);
    assert_int_equal(c.head_dim, 24);
    c.dim = 130;
    assert_int_equal(model_config_set_head_dim(&c, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "hidden_size: 130"));
    assert_non_null(strstr(err.message, "num_attention_heads 4"));
    c.heads = 0;
    assert_int_equal(model_config_set_head_dim(&c, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "num_attention_heads: 0"));
    assert_int_equal(c.head_dim, 24);
}

static void test_numbers(void **state)
{
    (void)state;
    static const float bad[] = {0, -1, INFINITY, NAN};
    for (int i = 0; i < 4; i++) {
        model_config c = model_config_default();
        c.rope_theta = bad[i];
        expect_refused(&c, "rope_theta", "positive");
        c = model_config_default();
        c.norm_eps = bad[i];
        expect_refused(&c, "rms_norm_eps", "positive");
        if (i > 0) {
            c = routed();
            c.mod.aux_weight = bad[i];
            expect_refused(&c, "mod.aux_weight", "not finite");
        }
        if (i > 1) {
            c = routed();
            c.mod.threshold[2] = bad[i];
            expect_refused(&c, "mod.threshold", "layer 2");
        }
    }
    model_config c = model_config_default();
    c.bos_id = 256;
    expect_refused(&c, "bos_token_id", "256");
    c.bos_id = 255;
    expect_ok(&c);
    c.eos_count = 2;
    c.eos_id[1] = -2;
    expect_refused(&c, "eos_token_id", "-2");
    c.eos_id[1] = 256;
    expect_refused(&c, "eos_token_id", "256");
    c.eos_count = MODEL_MAX_EOS + 1;
    expect_refused(&c, "eos_token_id", "9");
}

static void test_mod(void **state)
{
    (void)state;
    static const float bad[] = {-0.125f, 1.0001f, INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 5; i++) {
        model_config c = routed();
        c.mod.capacity[3] = bad[i];
        expect_refused(&c, "mod.capacity", "layer 3");
    }
    model_config c = routed();
    c.mod.capacity[3] = 1;
    c.mod.aux_weight = 0;
    c.mod.capacity[8] = 7; /* past the last layer: not looked at */
    expect_ok(&c);
    c.mod.router = MOD_ROUTER_NONE;
    expect_refused(&c, "mod.capacity", "none");
    c = routed();
    memset(c.mod.capacity, 0, sizeof c.mod.capacity);
    expect_refused(&c, "mod.layers", "topk");
    c = routed();
    c.mod.predictor_hidden = 0;
    expect_refused(&c, "mod.predictor_hidden", "0");
    c.mod.causal = MOD_CAUSAL_AUX;
    expect_ok(&c);
    c.mod.predictor_hidden = -1;
    expect_refused(&c, "mod.predictor_hidden", "-1");
    c = routed();
    c.mod.causal = MOD_CAUSAL_NOISE;
    expect_refused(&c, "mod.causal", "topk");
    c.mod.router = MOD_ROUTER_STOCHASTIC;
    expect_ok(&c);
    assert_false(model_stage_has_router(&c, 1));
    c.mod.causal = MOD_CAUSAL_PREDICTOR;
    expect_refused(&c, "mod.causal", "stochastic");
    c = routed();
    c.mod.router = MOD_ROUTER_TOKEN_CHOICE;
    expect_refused(&c, "mod.causal", "token-choice");
    c.mod.causal = MOD_CAUSAL_CHOICE;
    expect_ok(&c);
    assert_true(model_stage_has_router(&c, 1) && !model_stage_has_predictor(&c, 1));
    c.mod.capacity[1] = 1;
    expect_refused(&c, "mod.capacity", "token-choice");
    c.mod.router = MOD_ROUTER_TOPK;
    expect_refused(&c, "mod.causal", "choice");
    c = routed();
    c.mod.router = MOD_ROUTER_COUNT;
    expect_refused(&c, "mod.router", "4");
    c = routed();
    c.mod.gate = (mod_gate)-1;
    expect_refused(&c, "mod.gate", "not in");
    c = routed();
    c.mod.causal = (mod_causal)99;
    expect_refused(&c, "mod.causal", "99");
}

static model_config mixture(expert_router router)
{
    model_config c = routed();
    c.experts.count = 4;
    c.experts.per_token = 2;
    c.experts.router = router;
    c.experts.predictor_hidden = router == EXPERT_ROUTER_EXPERT_CHOICE ? 8 : 0;
    return c;
}

static void test_experts(void **state)
{
    (void)state;
    model_config c = mixture(EXPERT_ROUTER_EXPERT_CHOICE);
    expect_ok(&c);
    assert_int_equal(model_expert_tokens(&c, 1, 10), 5);
    assert_int_equal(model_expert_tokens(&c, 1, 1), 1); /* 0.5 rounded up, and at least one */
    assert_int_equal(model_expert_rows(&c, 1, 3, 10), 3 * 4 * 5);
    c.experts.per_token = 5;
    expect_refused(&c, "num_experts_per_tok", "5");
    c = mixture(EXPERT_ROUTER_EXPERT_CHOICE);
    c.experts.predictor_hidden = 0;
    expect_refused(&c, "experts.predictor_hidden", "0");
    c = mixture(EXPERT_ROUTER_EXPERT_CHOICE);
    c.mod.router = MOD_ROUTER_TOKEN_CHOICE;
    c.mod.causal = MOD_CAUSAL_CHOICE;
    expect_refused(&c, "experts.router", "token-choice");
    c = mixture(EXPERT_ROUTER_TOKEN_CHOICE);
    expect_ok(&c);
    assert_int_equal(model_expert_rows(&c, 1, 3, 10), 60);
    c.experts.balance_weight = NAN;
    expect_refused(&c, "router_aux_loss_coef", "nan");
    c = mixture(EXPERT_ROUTER_TOKEN_CHOICE);
    c.experts.count = MODEL_MAX_EXPERTS + 1;
    expect_refused(&c, "num_local_experts", "257");
    /* integrated: one router, which must be described once */
    c = mixture(EXPERT_ROUTER_EXPERT_CHOICE);
    c.experts.mode = EXPERT_MODE_INTEGRATED;
    expect_refused(&c, "experts.no_ops", "0");
    c.experts.no_ops = 2;
    expect_ok(&c);
    assert_int_equal(model_routed_stages(&c), 0);
    assert_int_equal(model_skipping_stages(&c), 4);
    assert_int_equal(model_layer_no_ops(&c, 1), 2);
    assert_int_equal(model_layer_no_ops(&c, 2), 0);
    assert_int_equal(model_expert_tokens(&c, 1, 64), 4); /* 0.125 x 2 x 64 / 4 */
    assert_false(model_causal_as_trained(&c));
    c.mod.unit = MOD_UNIT_MLP;
    expect_refused(&c, "mod.unit", "integrated");
    c.mod.unit = MOD_UNIT_BLOCK;
    c.mod.causal = MOD_CAUSAL_AUX;
    expect_refused(&c, "mod.causal", "aux");
    c.mod.causal = MOD_CAUSAL_PREDICTOR;
    c.experts.router = EXPERT_ROUTER_TOKEN_CHOICE;
    expect_refused(&c, "experts.mode", "topk");
    c.experts.count = 0;
    expect_refused(&c, "experts.mode", "num_local_experts");
    c = model_config_default();
    c.experts.count = 4;
    c.experts.per_token = 1;
    expect_ok(&c);
    assert_true(model_causal_as_trained(&c));
    c.experts.mode = EXPERT_MODE_INTEGRATED;
    expect_refused(&c, "experts.mode", "none");
}

static void test_units(void **state)
{
    (void)state;
    model_config c = routed();
    c.mod.unit = MOD_UNIT_BOTH;
    assert_int_equal(model_stages(&c), 16);
    assert_true(model_stage_at(&c, 6).attention && !model_stage_at(&c, 6).mlp && model_stage_at(&c, 7).mlp);
    assert_int_equal(model_stage_at(&c, 7).layer, 3);
    c.mod.router = MOD_ROUTER_NONE; /* a plain model is whole, whatever else is said */
    assert_int_equal(model_stages(&c), 8);
    c = routed();
    c.mod.unit = MOD_UNIT_COUNT;
    expect_refused(&c, "mod.unit", "4");
    c.mod.unit = MOD_UNIT_MLP;
    c.mod.dense_kv = true;
    expect_refused(&c, "mod.route_kv", "mlp");
}

static void test_widening(void **state)
{
    (void)state;
    model_config c = routed();
    assert_int_equal(model_widened_tokens(&c, 1, 256, 0), 32);
    assert_int_equal(model_widened_tokens(&c, 1, 256, 0.5), 144);
    assert_int_equal(model_widened_tokens(&c, 1, 256, 1), 256);
}

static void test_routed_tokens(void **state)
{
    (void)state;
    model_config c = routed();
    static const struct {
        float capacity;
        int64_t T, k;
    } cases[] = {{0.125f, 256, 32}, {0.125f, 4, 1}, {0.125f, 12, 2}, {0.125f, 20, 3}, {0.125f, 1, 1}, {0.5f, 1, 1},
                 {0.5f, 3, 2},      {0.5f, 5, 3},   {1, 7, 7},       {1e-9f, 100, 1}, {0.99f, 2, 2},  {0.1f, 100, 10},
                 {1, 1 << 24, 1 << 24}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        c.mod.capacity[1] = cases[i].capacity;
        assert_int_equal(model_routed_tokens(&c, 1, cases[i].T), cases[i].k);
    }
    for (int64_t T = 1; T < 300; T++) {
        for (int i = 1; i <= 64; i++) {
            c.mod.capacity[1] = (float)i / 64;
            const int64_t k = model_routed_tokens(&c, 1, T), doubled = 2 * i * T; /* c T = doubled / 128 */
            assert_true(k >= 1 && k <= T);
            assert_int_equal(k, doubled < 64 ? 1 : (doubled + 64) / 128);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),        cmocka_unit_test(test_default), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_heads),        cmocka_unit_test(test_numbers), cmocka_unit_test(test_set_head_dim),
        cmocka_unit_test(test_routed_tokens), cmocka_unit_test(test_experts), cmocka_unit_test(test_units),
        cmocka_unit_test(test_widening), cmocka_unit_test(test_mod),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
