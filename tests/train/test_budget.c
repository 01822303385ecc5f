/* The compute budget: calibrated thresholds let through what was asked, prefill equals steps at every budget, the calibration
 * survives config.json, and what cannot be is refused. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "format/hf_config.h"
#include "infer/session.h"
#include "model/budget.h"
#include "model/tiny.h"
#include "train/calibrate.h"
#include "train/evaluate.h"

enum { T = 23, TOKENS = 40000, COUNT = 5 };
static const double budgets[COUNT] = {0.03, 0.06, 0.125, 0.25, 0.5};
static int32_t text[TOKENS];

/* A variant of each way to have thresholds: rules, units, dense keys, experts inside. */
static const char *const kinds[] = {"raw", "sigmoid-aux", "stochastic", "token-choice", "attn+mlp", "dense-kv", "mode-staged-choice"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static int64_t first_routed(const model_config *c)
{
    int64_t s = 0;
    while (!model_stage_routed(c, s))
        s++;
    return s;
}

/* Calibrated once, for all tests; borrowed. */
static struct {
    fathom_model owner;
    calibration_point points[COUNT];
    bool made;
} cached[KINDS];

static const fathom_model *calibrated(int kind, const calibration_point **points)
{
    if (!cached[kind].made) {
        const model_config c = tiny_variant_config(&tiny_variants[tiny_variant_named(kinds[kind])]);
        const corpus_piece piece = {.ids = text, .count = TOKENS};
        const corpus_part part = {&piece, 1, TOKENS};
        const calibrate_input in = {.text = &part, .tokens = TOKENS / 2, .batch = 16, .budgets = budgets, .count = COUNT};
        fathom_error err;
        cached[kind].owner.m = tiny_model(&c, 31 + (uint64_t)kind);
        tiny_tokens(text, TOKENS, c.vocab, 5);
        if (calibrate(&cached[kind].owner.m, &in, cached[kind].points, &err) != FATHOM_OK)
            fail_msg("%s", err.message);
        cached[kind].made = true;
    }
    *points = cached[kind].points;
    return &cached[kind].owner;
}

static int free_all(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++)
        if (cached[kind].made)
            model_free(&cached[kind].owner.m);
    return 0;
}

/* Routed share and logits after the whole of `tokens`, in one go or one by one. */
static double run(fathom_session *s, const int32_t *tokens, size_t n, size_t step, float *logits)
{
    fathom_error err;
    fathom_session_reset(s);
    for (size_t i = 0; i < n; i += step)
        if (fathom_session_append(s, tokens + i, n - i < step ? n - i : step, &err) != FATHOM_OK)
            fail_msg("%s", err.message);
    memcpy(logits, fathom_session_logits(s), 37 * sizeof *logits);
    return fathom_session_routed_fraction(s);
}

static void shares_are_as_asked(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        const calibration_point *points;
        const fathom_model *owner = calibrated(kind, &points);
        fathom_error err;
        evaluator e;
        float threshold[MODEL_MAX_STAGES], previous = INFINITY;
        const corpus_piece piece = {.ids = text, .count = TOKENS};
        const corpus_part part = {&piece, 1, TOKENS};
        const batcher b = {.part = &part, .T = T};
        for (int i = 0; i < COUNT; i++) {
            assert_true(fabs(points[i].routed_fraction / budgets[i] - 1) < 0.1);
            assert_true(isfinite(points[i].loss));
        }
        assert_int_equal(evaluator_init(&e, &owner->m, 16, T, &err), FATHOM_OK);
        const double asked[] = {0.03, 0.045, 0.06, 0.1, 0.125, 0.2, 0.25}; /* some of them between what was calibrated */
        for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
            assert_int_equal(budget_thresholds(&owner->m.config, asked[i], threshold, &err), FATHOM_OK);
            workspace_set_thresholds(e.ws, threshold);
            evaluation measured;
            assert_int_equal(evaluator_run(&e, &b, ROUTING_CAUSAL, 0, &measured, &err), FATHOM_OK);
            assert_true(fabs(measured.routed_fraction / asked[i] - 1) < 0.1);
            assert_true(threshold[first_routed(&owner->m.config)] < previous);
            previous = threshold[first_routed(&owner->m.config)];
        }
        evaluator_free(&e);
    }
}

static void a_layer_takes_its_part(void **state)
{
    (void)state;
    model_config c = tiny_config(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_AUX); /* capacities 0.25 and 0.4 */
    assert_float_equal(budget_share(&c, 1, 0.13) + budget_share(&c, 3, 0.13), 0.26, 1e-6);
    assert_float_equal(budget_share(&c, 1, 0.13) / budget_share(&c, 3, 0.13), 0.625, 1e-6);
    /* a full layer's rest goes to the other */
    assert_float_equal(budget_share(&c, 3, 0.99), 1, 0);
    assert_float_equal(budget_share(&c, 1, 0.99), 0.98, 1e-6);
    assert_float_equal(budget_share(&c, 1, 0.6) + budget_share(&c, 3, 0.6), 1.2, 1e-6);
}

/* A routed first block sees tokens alone: its logits come in groups of equal ones, here of 1 in 37, which pass together. A share is
 * then off by half a group at most, were the groups of one size; they are within a third of it. */
static void equal_logits_go_the_nearer_way(void **state)
{
    (void)state;
    model_config c = tiny_config(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_AUX);
    c.mod.capacity[0] = 0.3f;
    c.mod.capacity[1] = c.mod.capacity[3] = 0;
    model m = tiny_model(&c, 8);
    const corpus_piece piece = {.ids = text, .count = TOKENS};
    const corpus_part part = {&piece, 1, TOKENS};
    const calibrate_input in = {.text = &part, .tokens = TOKENS / 2, .batch = 16, .budgets = budgets, .count = COUNT};
    calibration_point points[COUNT];
    fathom_error err;
    tiny_tokens(text, TOKENS, c.vocab, 5);
    assert_int_equal(calibrate(&m, &in, points, &err), FATHOM_OK);
    for (int i = 0; i < COUNT; i++)
        assert_true(fabs(points[i].routed_fraction - budgets[i]) < 0.5 / 37 * 4 / 3);
    model_free(&m);
}

static void prefill_equals_steps(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        const calibration_point *points;
        const fathom_model *owner = calibrated(kind, &points);
        fathom_session *s;
        fathom_error err;
        float own[37], whole[37], steps[37], again[37];
        assert_int_equal(fathom_session_new(owner, 0, &s, &err), FATHOM_OK);
        const double share = run(s, text, T, T, own);
        for (int i = 0; i < COUNT; i++) {
            double most = 0;
            assert_int_equal(fathom_session_set_budget(s, budgets[i], &err), FATHOM_OK);
            assert_float_equal(run(s, text, T, T, whole), run(s, text, T, 1, steps), 0);
            for (int j = 0; j < 37; j++)
                most = fmax(most, fabs((double)(whole[j] - steps[j])) / (1 + fabs((double)steps[j])));
            assert_true(most < 1e-4);
        }
        assert_int_equal(fathom_session_set_budget(s, 0, &err), FATHOM_OK);
        assert_float_equal(run(s, text, T, T, again), share, 0);
        assert_memory_equal(own, again, sizeof own);
        fathom_session_free(s);
    }
}

static void config_keeps_it(void **state)
{
    (void)state;
    const calibration_point *points;
    const model_config *c = &calibrated(0, &points)->m.config;
    model_config back;
    fathom_error err;
    char folder[] = "/tmp/fathom-budget-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(hf_config_write(path, c, WEIGHT_F32, &err), FATHOM_OK);
    assert_int_equal(hf_config_read(path, &back, &err), FATHOM_OK);
    assert_int_equal(back.mod.budgets, COUNT);
    assert_memory_equal(back.mod.budget, c->mod.budget, sizeof c->mod.budget);
    assert_memory_equal(back.mod.budget_threshold, c->mod.budget_threshold, sizeof c->mod.budget_threshold);
    /* broken in each of its places */
    const char *const broken[][2] = {{"\"budgets\": [", "\"budgets\": [7,"}, {"\"budgets\"", "\"budgetz\""},
                                     {"\"thresholds\": [", "\"thresholds\": [[1],"}, {"\"thresholds\": [", "\"thresholds\": [1,"}};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        char command[256];
        snprintf(command, sizeof command, "sed 's/%s/%s/' '%s/config.json' >'%s/broken.json'", broken[i][0], broken[i][1], folder, folder);
        if (broken[i][0][strlen(broken[i][0]) - 1] == '[') /* sed: a bracket is itself after a backslash */
            snprintf(command, sizeof command, "sed 's/%.*s\\[/%s/' '%s/config.json' >'%s/broken.json'",
                     (int)strlen(broken[i][0]) - 1, broken[i][0], broken[i][1], folder, folder);
        assert_int_equal(system(command), 0);
        snprintf(path, sizeof path, "%s/broken.json", folder);
        assert_int_equal(hf_config_read(path, &back, &err), FATHOM_FORMAT);
        assert_non_null(strstr(err.message, "calibration"));
    }
    assert_int_equal(folder_remove(folder, &err), FATHOM_OK);
}

static void refused(const model_config *c, double budget, const char *word)
{
    float threshold[MODEL_MAX_STAGES];
    fathom_error err;
    assert_int_equal(budget_thresholds(c, budget, threshold, &err), FATHOM_INVALID_ARGUMENT);
    if (!strstr(err.message, word))
        fail_msg("\"%s\" does not say \"%s\"", err.message, word);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    model_config c = tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    refused(&c, 0.1, "plain");
    model plain = tiny_model(&c, 1);
    const corpus_piece piece = {.ids = text, .count = TOKENS};
    corpus_part part = {&piece, 1, TOKENS};
    calibrate_input in = {.text = &part, .tokens = 100, .batch = 2, .budgets = budgets, .count = COUNT};
    calibration_point points[COUNT];
    fathom_error err;
    assert_int_equal(calibrate(&plain, &in, points, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "plain"));
    model_free(&plain);
    c = tiny_config(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    refused(&c, 0.1, "calibrate");
    c = tiny_variant_config(&tiny_variants[tiny_variant_named("mode-integrated")]);
    refused(&c, 0.1, "integrated");
    model integrated = tiny_model(&c, 1);
    assert_int_equal(calibrate(&integrated, &in, points, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "integrated"));
    model_free(&integrated);
    const calibration_point *known;
    const model_config *good = &calibrated(0, &known)->m.config;
    model routed = tiny_model(good, 31);
    refused(good, 0.02, "0.03");
    refused(good, 0.51, "0.5");
    refused(good, -1, "calibrated for");
    refused(good, NAN, "calibrated for");
    part.count = T;
    assert_int_equal(calibrate(&routed, &in, points, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "23"));
    part.count = TOKENS;
    const double descending[] = {0.2, 0.1};
    in.budgets = descending;
    in.count = 2;
    assert_int_equal(calibrate(&routed, &in, points, &err), FATHOM_INVALID_ARGUMENT);
    model_free(&routed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_as_asked), cmocka_unit_test(a_layer_takes_its_part), cmocka_unit_test(prefill_equals_steps),
        cmocka_unit_test(equal_logits_go_the_nearer_way),
        cmocka_unit_test(config_keeps_it), cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, free_all);
}
