/* The public functions on a given text, for every kind of model: logits are a session's, the loss is the evaluator's, traces are
 * inspect's, and hostile arguments are refused. */
#include <math.h>

#include "base/temp.h"
#include "infer/session.h"
#include "inspect/trace.h"
#include "model/tiny.h"
#include "train/evaluate.h"

enum { T = 23, V = 37, COUNT = 2 * T + 5 };
static int32_t tokens[COUNT];

static fathom_model make(int kind)
{
    const model_config c = tiny_variant_config(&tiny_variants[kind]);
    tiny_tokens(tokens, COUNT, c.vocab, 5);
    return (fathom_model){.m = tiny_model(&c, 11 + (uint64_t)kind)};
}

static void good(fathom_status status, const fathom_error *err)
{
    if (status != FATHOM_OK)
        fail_msg("%s", err->message);
}

static void expect_near(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= 1e-4f * (1 + fabsf(b[i]))))
            fail_msg("%lld: %g and %g", (long long)i, (double)a[i], (double)b[i]);
}

static void causal_logits_are_a_sessions(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++) {
        fathom_model owner = make(kind);
        fathom_session *s;
        fathom_error err;
        static float logits[T * V];
        good(fathom_logits(&owner, tokens, T, FATHOM_CAUSAL, logits, &err), &err);
        good(fathom_session_new(&owner, 0, &s, &err), &err);
        for (int i = 0; i < T; i++) {
            good(fathom_session_append(s, tokens + i, 1, &err), &err);
            expect_near(logits + i * V, fathom_session_logits(s), V);
        }
        fathom_session_free(s);
        model_free(&owner.m);
    }
}

/* Mean cross-entropy of [T, V] logits. */
static double cross_entropy(const float *logits, const int32_t *targets)
{
    double sum = 0;
    for (int i = 0; i < T; i++) {
        double total = 0;
        for (int j = 0; j < V; j++)
            total += exp((double)logits[i * V + j]);
        sum += log(total) - (double)logits[i * V + targets[i]];
    }
    return sum / T;
}

/* In top-k routing too, where no session can follow. */
static void the_loss_is_that_of_the_logits(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++)
        for (fathom_routing r = FATHOM_CAUSAL; r <= FATHOM_TOPK; r++) {
            fathom_model owner = make(kind);
            fathom_loss_result found;
            fathom_error err;
            static float logits[T * V];
            good(fathom_logits(&owner, tokens, T, r, logits, &err), &err);
            good(fathom_loss(&owner, tokens, T + 1, r, &found, &err), &err);
            assert_int_equal(found.predictions, T);
            assert_float_equal(found.loss, cross_entropy(logits, tokens + 1), 1e-4);
            model_free(&owner.m);
        }
}

/* Several windows, the last one short; to the bit with eval's batch. */
static void the_loss_is_the_evaluators(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++)
        for (fathom_routing r = FATHOM_CAUSAL; r <= FATHOM_TOPK; r++) {
            fathom_model owner = make(kind);
            fathom_loss_result found;
            fathom_error err;
            evaluator e;
            good(fathom_loss(&owner, tokens, COUNT, r, &found, &err), &err);
            good(evaluator_init(&e, &owner.m, 16, T, &err), &err);
            const corpus_piece piece = {.ids = tokens, .count = COUNT};
            const corpus_part part = {.pieces = &piece, .piece_count = 1, .count = COUNT};
            const batcher b = {.part = &part, .T = T};
            evaluation wanted;
            good(evaluator_run(&e, &b, r == FATHOM_TOPK ? ROUTING_TOPK : ROUTING_CAUSAL, 0, &wanted, &err), &err);
            assert_float_equal(found.loss, wanted.loss, 0);
            assert_int_equal(found.predictions, COUNT - 1);
            assert_float_equal(found.routed_fraction, wanted.routed_fraction, 0);
            evaluator_free(&e);
            model_free(&owner.m);
        }
}

static void traces_are_inspects(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++)
        for (fathom_routing r = FATHOM_CAUSAL; r <= FATHOM_TOPK; r++) {
            fathom_model owner = make(kind);
            fathom_trace *found = NULL;
            fathom_trace_stage s;
            fathom_error err;
            trace t;
            const fathom_status status = fathom_trace_new(&owner, tokens, COUNT, r, &found, &err);
            if (model_skipping_stages(&owner.m.config) == 0) {
                assert_int_equal(status, FATHOM_INVALID_ARGUMENT);
                assert_null(found);
                model_free(&owner.m);
                continue;
            }
            good(status, &err);
            good(trace_run(&owner.m, r == FATHOM_TOPK ? ROUTING_TOPK : ROUTING_CAUSAL, NULL, tokens, COUNT, &t, &err), &err);
            assert_int_equal(fathom_trace_stages(found), t.layers);
            assert_memory_equal(fathom_trace_losses(found), t.loss, COUNT * sizeof(float));
            model_free(&owner.m); /* a trace stands by itself */
            for (int64_t l = 0; l < t.layers; l++) {
                good(fathom_trace_get(found, l, &s, &err), &err);
                assert_int_equal(s.layer, t.layer[l].layer);
                assert_string_equal(s.unit, t.layer[l].part);
                assert_int_equal(s.count, t.layer[l].selected);
                int64_t at = 0;
                for (int64_t i = 0; i < COUNT; i++)
                    if (t.layer[l].routed[i]) {
                        assert_int_equal(s.selected[at], i);
                        assert_memory_equal(&s.weights[at++], &t.layer[l].weight[i], sizeof(float));
                    }
                assert_int_equal(at, s.count);
            }
            assert_int_equal(fathom_trace_get(found, -1, &s, &err), FATHOM_INVALID_ARGUMENT);
            assert_int_equal(fathom_trace_get(found, t.layers, &s, NULL), FATHOM_INVALID_ARGUMENT);
            fathom_trace_free(found);
            trace_free(&t);
        }
    fathom_trace_free(NULL);
}

static void expect_refused(fathom_status status, const fathom_error *err, const char *word)
{
    assert_int_equal(status, FATHOM_INVALID_ARGUMENT);
    assert_int_equal(err->code, FATHOM_INVALID_ARGUMENT);
    if (!strstr(err->message, word))
        fail_msg("'%s' does not say '%s'", err->message, word);
}

static void hostile_arguments_are_refused(void **state)
{
    (void)state;
    fathom_model owner = make(tiny_variant_named("raw"));
    fathom_error err;
    fathom_loss_result loss;
    fathom_trace *t;
    float one[2 * V];
    const struct {
        int32_t ids[2];
        size_t count;
        int routing;
        const char *word;
    } cases[] = {
        {{1, 37}, 2, FATHOM_CAUSAL, "id 37"}, {{-1, 1}, 2, FATHOM_TOPK, "id -1"}, {{INT32_MIN, 1}, 2, FATHOM_TOPK, "token 0"},
        {{1, 1}, 0, FATHOM_CAUSAL, "count"},  {{1, 1}, 2, 2, "routing: 2"},      {{1, 1}, 2, -1, "routing: -1"},
        {{1, 1}, SIZE_MAX, FATHOM_CAUSAL, "count"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int32_t *ids = cases[i].ids;
        const size_t n = cases[i].count;
        const fathom_routing r = (fathom_routing)cases[i].routing;
        expect_refused(fathom_logits(&owner, ids, n, r, one, &err), &err, cases[i].word);
        expect_refused(fathom_loss(&owner, ids, n, r, &loss, &err), &err, cases[i].word);
        expect_refused(fathom_trace_new(&owner, ids, n, r, &t, &err), &err, cases[i].word);
        assert_null(t);
        assert_int_equal(fathom_loss(&owner, ids, n, r, &loss, NULL), FATHOM_INVALID_ARGUMENT);
    }
    expect_refused(fathom_logits(&owner, tokens, T + 1, FATHOM_CAUSAL, one, &err), &err, "at most 23");
    expect_refused(fathom_loss(&owner, tokens, 1, FATHOM_CAUSAL, &loss, &err), &err, "2 or more");
    good(fathom_loss(&owner, tokens, 2, FATHOM_TOPK, &loss, &err), &err);
    good(fathom_logits(&owner, tokens, 1, FATHOM_TOPK, one, &err), &err);
    good(fathom_trace_new(&owner, tokens, 1, FATHOM_TOPK, &t, &err), &err);
    assert_true(isnan(fathom_trace_losses(t)[0]));
    fathom_trace_free(t);
    model_free(&owner.m);
}

/* The same bits for any number of threads. */
static void threads_do_not_change_results(void **state)
{
    (void)state;
    fathom_model owner = make(tiny_variant_named("raw"));
    fathom_error err;
    good(model_save(&owner.m, "saved", &err), &err);
    model_free(&owner.m);
    static float logits[4][T * V];
    fathom_loss_result loss[4];
    const int threads[] = {1, 2, 3, 7};
    for (int i = 0; i < 4; i++) {
        fathom_model *loaded;
        good(fathom_model_load("saved", threads[i], &loaded, &err), &err);
        assert_int_equal(loaded->m.kn.threads, threads[i]);
        good(fathom_logits(loaded, tokens, T, FATHOM_TOPK, logits[i], &err), &err);
        good(fathom_loss(loaded, tokens, T, FATHOM_CAUSAL, &loss[i], &err), &err);
        assert_memory_equal(logits[i], logits[0], sizeof logits[0]);
        assert_true(loss[i].loss == loss[0].loss);
        fathom_model_free(loaded);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(causal_logits_are_a_sessions), cmocka_unit_test(the_loss_is_that_of_the_logits),
        cmocka_unit_test(the_loss_is_the_evaluators),   cmocka_unit_test(traces_are_inspects),
        cmocka_unit_test(hostile_arguments_are_refused), temp_test(threads_do_not_change_results),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
