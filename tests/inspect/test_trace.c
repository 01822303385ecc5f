/* Routing traces and their statistics: the tokens that a trace calls routed are those that the rule chose, losses are the model's, windows stand on
 * their own. */
#include <math.h>

#include "infer/session.h"
#include "inspect/stats.h"
#include "model/tiny.h"
#include "train/evaluate.h"

enum { T = 23, COUNT = 2 * T + 4 };
static int32_t tokens[COUNT];

static model make(mod_router router, mod_gate gate, mod_causal causal)
{
    const model_config c = tiny_config(router, gate, causal);
    tiny_tokens(tokens, COUNT, c.vocab, 3);
    return tiny_model(&c, 17);
}

static trace traced(const model *m, routing r, const float *threshold)
{
    trace t;
    fathom_error err;
    if (trace_run(m, r, threshold, tokens, COUNT, &t, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    assert_int_equal(t.layers, 2);
    assert_int_equal(t.layer[0].layer, 1);
    assert_int_equal(t.layer[1].layer, 3);
    return t;
}

static void topk_chooses_the_largest(void **state)
{
    (void)state;
    model m = make(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    trace t = traced(&m, ROUTING_TOPK, NULL);
    for (int64_t l = 0; l < t.layers; l++)
        for (int64_t begin = 0; begin < COUNT; begin += T) {
            const int64_t n = COUNT - begin < T ? COUNT - begin : T;
            int64_t routed = 0;
            float least = INFINITY, most = -INFINITY; /* of the routed, of the others; the raw gate is the logit itself */
            for (int64_t i = begin; i < begin + n; i++) {
                routed += t.layer[l].routed[i];
                if (t.layer[l].routed[i])
                    least = fminf(least, t.layer[l].weight[i]);
                else
                    most = fmaxf(most, t.layer[l].weight[i]);
            }
            assert_int_equal(routed, model_routed_tokens(&m.config, t.layer[l].layer, n));
            assert_true(least > most);
        }
    trace_free(&t);
    model_free(&m);
}

static void causal_follows_the_rule(void **state)
{
    (void)state;
    const mod_causal rules[] = {MOD_CAUSAL_PREDICTOR, MOD_CAUSAL_AUX};
    const float raised[4] = {0, 0.7f, 0, 0.7f};
    for (int k = 0; k < 2; k++) {
        model m = make(MOD_ROUTER_TOPK, MOD_GATE_SIGMOID, rules[k]);
        trace own = traced(&m, ROUTING_CAUSAL, NULL), strict = traced(&m, ROUTING_CAUSAL, raised);
        int64_t routed = 0, fewer = 0;
        for (int64_t i = 0; i < COUNT; i++) {
            for (int64_t l = 0; l < 2; l++) {
                assert_int_equal(own.layer[l].routed[i], own.layer[l].rule[i] > 0);
                assert_true(own.layer[l].weight[i] > 0 && own.layer[l].weight[i] < 1);
            }
            assert_int_equal(trace_depth(&own, i), own.layer[0].routed[i] + own.layer[1].routed[i]);
            assert_float_equal(strict.layer[0].rule[i], own.layer[0].rule[i] - 0.7f, 1e-5); /* layer 1's input is the same */
            routed += trace_depth(&own, i);
            fewer += trace_depth(&strict, i);
        }
        assert_int_equal(routed, own.layer[0].selected + own.layer[1].selected);
        assert_true(routed > 0 && routed < 2 * COUNT && fewer < routed);
        trace_free(&own);
        trace_free(&strict);
        model_free(&m);
    }
}

/* Token by token through a session, window by window. */
static void losses_are_the_models(void **state)
{
    (void)state;
    fathom_model owner = {.m = make(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR)};
    trace t = traced(&owner.m, ROUTING_CAUSAL, NULL);
    fathom_session *s;
    fathom_error err;
    double sum = 0;
    assert_int_equal(fathom_session_new(&owner, 0, &s, &err), FATHOM_OK);
    for (int64_t i = 0; i < COUNT; i++) {
        if (i % T == 0) {
            assert_true(isnan(t.loss[i]));
            fathom_session_reset(s);
        } else {
            const float *z = fathom_session_logits(s);
            double total = 0;
            for (int j = 0; j < 37; j++)
                total += exp((double)z[j]);
            assert_float_equal(t.loss[i], log(total) - (double)z[tokens[i]], 1e-3);
            sum += log(total) - (double)z[tokens[i]];
        }
        assert_int_equal(fathom_session_append(s, tokens + i, 1, &err), FATHOM_OK);
    }
    assert_float_equal(t.mean_loss, sum / (COUNT - 3), 1e-3);
    fathom_session_free(s);
    trace_free(&t);
    model_free(&owner.m);
}

static void refused(void **state)
{
    (void)state;
    trace t;
    fathom_error err;
    model plain = make(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    assert_int_equal(trace_run(&plain, ROUTING_CAUSAL, NULL, tokens, COUNT, &t, &err), FATHOM_INVALID_ARGUMENT);
    model_free(&plain);
    model m = make(MOD_ROUTER_STOCHASTIC, MOD_GATE_ONE, MOD_CAUSAL_NOISE);
    assert_int_equal(trace_run(&m, ROUTING_CAUSAL, NULL, tokens, 0, &t, &err), FATHOM_INVALID_ARGUMENT);
    const int32_t outside[] = {1, 37};
    assert_int_equal(trace_run(&m, ROUTING_CAUSAL, NULL, outside, 2, &t, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "37"));
    assert_int_equal(trace_run(&m, ROUTING_CAUSAL, NULL, tokens, 1, &t, &err), FATHOM_OK);
    assert_true(isnan(t.mean_loss));
    assert_float_equal(t.layer[0].weight[0], 1, 0); /* random routing has no weights */
    trace_free(&t);
    model_free(&m);
}

/* Every variant's trace agrees with what its pass counts; two routers of a layer are told apart; experts alone have nothing to show. */
static void every_variant_is_seen(void **state)
{
    (void)state;
    for (int i = 0; i < TINY_VARIANTS; i++) {
        const model_config c = tiny_variant_config(&tiny_variants[i]);
        model m = tiny_model(&c, 17);
        trace t;
        fathom_error err;
        tiny_tokens(tokens, COUNT, c.vocab, 3);
        const fathom_status status = trace_run(&m, ROUTING_CAUSAL, NULL, tokens, T, &t, &err);
        if (model_skipping_stages(&c) == 0) {
            assert_int_equal(status, FATHOM_INVALID_ARGUMENT);
            assert_non_null(strstr(err.message, c.experts.count > 0 ? "experts alone" : "plain"));
            model_free(&m);
            continue;
        }
        assert_int_equal(status, FATHOM_OK);
        assert_int_equal(t.layers, model_skipping_stages(&c));
        workspace *ws;
        assert_int_equal(workspace_new(&m, 1, T, WORKSPACE_FORWARD, &ws, &err), FATHOM_OK);
        int32_t none[T];
        memset(none, -1, sizeof none);
        const int64_t passed = transformer_loss(ws, ROUTING_CAUSAL, false, 0, 1, T, tokens, none).routed;
        int64_t seen = 0;
        for (int64_t l = 0; l < t.layers; l++) {
            const model_stage at = model_stage_at(&c, t.layer[l].stage);
            assert_int_equal(t.layer[l].layer, at.layer);
            assert_string_equal(t.layer[l].part, c.mod.unit == MOD_UNIT_BLOCK ? "" : at.attention ? "attn" : "mlp");
            seen += t.layer[l].selected;
            for (int64_t k = 0; k < T && c.experts.mode == EXPERT_MODE_INTEGRATED; k++)
                assert_int_equal(t.layer[l].routed[k], t.layer[l].weight[k] > 0);
        }
        assert_int_equal(seen, passed);
        workspace_free(ws);
        trace_free(&t);
        model_free(&m);
    }
}

static void classes_of_tokens(void **state)
{
    (void)state;
    const struct {
        const char *text;
        token_class class;
    } cases[] = {{" ", TOKEN_SPACE}, {"\n\t ", TOKEN_SPACE}, {"a", TOKEN_LETTER}, {" The", TOKEN_LETTER}, {"Z9", TOKEN_LETTER},
                 {"7a", TOKEN_DIGIT}, {" 42", TOKEN_DIGIT}, {"!", TOKEN_PUNCTUATION}, {" (x", TOKEN_PUNCTUATION},
                 {"\xc3\xa9", TOKEN_OTHER}, {"\x01", TOKEN_OTHER}, {"\x7f", TOKEN_OTHER}, {"", TOKEN_OTHER}, {"@", TOKEN_PUNCTUATION},
                 {"[", TOKEN_PUNCTUATION}, {"`", TOKEN_PUNCTUATION}, {"{", TOKEN_PUNCTUATION}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(token_class_of(cases[i].text, strlen(cases[i].text)), cases[i].class);
}

/* Against counts by hand, and the evaluator's accuracy. */
static void statistics_add_up(void **state)
{
    (void)state;
    model m = make(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    trace t = traced(&m, ROUTING_TOPK, NULL);
    tokenizer *tok;
    inspect_stats s;
    fathom_error err;
    assert_int_equal(tokenizer_bytes(&tok, &err), FATHOM_OK);
    assert_int_equal(inspect_stats_make(&t, tokens, tok, m.config.vocab, &s, &err), FATHOM_OK);
    int64_t count = 0, routed = 0, both = 0, agreed = 0;
    for (int c = 0; c < TOKEN_CLASSES; c++) {
        count += s.classes[c].tokens;
        routed += s.classes[c].routed;
    }
    assert_int_equal(count, COUNT);
    assert_int_equal(routed, t.layer[0].selected + t.layer[1].selected);
    assert_float_equal(s.routed_fraction, (double)routed / (2 * COUNT), 1e-9);
    for (int64_t i = 0; i < COUNT; i++)
        both += t.layer[0].routed[i] && t.layer[1].routed[i];
    const double p = (double)t.layer[0].selected / COUNT, q = (double)t.layer[1].selected / COUNT;
    assert_float_equal(s.agreement[1], ((double)both / COUNT - p * q) / sqrt(p * (1 - p) * q * (1 - q)), 1e-9);
    assert_float_equal(s.agreement[0], 1, 1e-9);
    for (int l = 0; l < 2; l++)
        for (int k = 1; k < WEIGHT_QUANTILES; k++)
            assert_true(s.layer[l].weight[k] >= s.layer[l].weight[k - 1]);
    for (int64_t i = 1; i < s.ids; i++)
        assert_true(s.id[i - 1].routed_fraction >= s.id[i].routed_fraction && s.id[i].count >= 5);
    /* accuracy, over the same windows */
    evaluator e;
    assert_int_equal(evaluator_init(&e, &m, 1, T, &err), FATHOM_OK);
    for (int64_t w = 0; w < COUNT; w += T) {
        const int64_t n = COUNT - w < T ? COUNT - w : T;
        int32_t none[T];
        memset(none, -1, sizeof none);
        agreed += transformer_loss(e.ws, ROUTING_TOPK, true, w, 1, n, tokens + w, none).agreed;
    }
    assert_float_equal((s.layer[0].rule_accuracy + s.layer[1].rule_accuracy) / 2, (double)agreed / (2 * COUNT), 1e-9);
    assert_true(agreed > 0 && agreed < 2 * COUNT);
    evaluator_free(&e);
    inspect_stats_free(&s);
    trace_free(&t);
    tokenizer_free(tok);
    model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topk_chooses_the_largest), cmocka_unit_test(causal_follows_the_rule),
        cmocka_unit_test(losses_are_the_models), cmocka_unit_test(refused),
        cmocka_unit_test(classes_of_tokens), cmocka_unit_test(every_variant_is_seen),     cmocka_unit_test(statistics_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
