/* The batched engine: a request gets the same greedy tokens alone and among others, with few pages and many, with a beginning that others
 * computed and without; what is cancelled or finished leaves no page behind; the log-probabilities are the model's. */
#include <math.h>
#include <stdio.h>

#include "infer/session.h"
#include "model/tiny.h"

enum { LENGTH = 150, VOCAB = 37, REQUESTS = 32, MOST = 64 };

static fathom_model make(int kind)
{
    model_config c = tiny_variant_config(&tiny_variants[kind]);
    c.seq_len = LENGTH;
    fathom_model owner = {.m = tiny_model(&c, 11 + (uint64_t)kind)};
    fathom_error err;
    assert_int_equal(tokenizer_bytes(&owner.tok, &err), FATHOM_OK);
    return owner;
}

static void release(fathom_model *owner)
{
    tokenizer_free(owner->tok);
    model_free(&owner->m);
}

/* What came of a request. */
typedef struct outcome {
    int32_t tokens[LENGTH];
    float logprob[LENGTH], prompt_logprob[LENGTH];
    int64_t count, prompt_count, prompt_tokens, cached, cancel_at;
    double routed;
    char text[2 * LENGTH];
    size_t bytes;
    bool ended;
    fathom_finish finish;
} outcome;

static int collect(const fathom_event *e, void *user)
{
    outcome *o = user;
    assert_false(o->ended);
    memcpy(o->text + o->bytes, e->text, e->bytes);
    o->bytes += e->bytes;
    if (e->kind == FATHOM_EVENT_PROMPT) {
        assert_int_equal(e->index, o->prompt_count);
        o->prompt_logprob[o->prompt_count++] = e->logprob;
    } else if (e->kind == FATHOM_EVENT_TOKEN) {
        assert_int_equal(e->index, o->count);
        o->logprob[o->count] = e->logprob;
        o->tokens[o->count++] = e->token;
        for (size_t i = 1; i < e->top_count; i++)
            assert_true(e->top[i].logprob <= e->top[i - 1].logprob);
    } else {
        o->ended = true;
        o->finish = e->finish;
        o->prompt_tokens = e->prompt_tokens;
        o->cached = e->cached_tokens;
        o->routed = e->routed_fraction;
        assert_int_equal(e->tokens, o->count);
    }
    return o->cancel_at > 0 && o->count == o->cancel_at;
}

static fathom_engine *engine_of(const fathom_model *owner, int64_t active, int64_t pages, int64_t prefixes)
{
    fathom_engine_options options = fathom_engine_defaults();
    options.max_active = active;
    options.kv_bytes = pages * (int64_t)kv_page_bytes(&owner->m.config);
    options.kept_prefixes = prefixes;
    options.prefill_tokens = 16;
    fathom_engine *e;
    fathom_error err;
    if (fathom_engine_new(owner, &options, &e, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    return e;
}

/* Request i: prompts of many lengths, of which every fourth begins as the first one does. */
typedef struct asked {
    int32_t ids[LENGTH];
    fathom_engine_request request;
} asked;

static asked *ask(int i)
{
    static asked a;
    const size_t count = (size_t)(1 + i * 37 % 90);
    tiny_tokens(a.ids, LENGTH, VOCAB, 500 + (uint64_t)i);
    if (i % 4 == 0) {
        int32_t common[40];
        tiny_tokens(common, 40, VOCAB, 499);
        memcpy(a.ids, common, sizeof common);
    }
    a.request = (fathom_engine_request){.ids = a.ids, .count = count, .options = fathom_generate_defaults(), .top_logprobs = -1, .callback = collect};
    a.request.options.max_tokens = 5 + i * 13 % 25;
    a.request.options.temperature = 0;
    return &a;
}

static int64_t submit(fathom_engine *e, const fathom_engine_request *r, outcome *o)
{
    fathom_engine_request request = *r;
    fathom_error err;
    int64_t id;
    request.user = o;
    if (fathom_engine_submit(e, &request, &id, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    return id;
}

static void finish(fathom_engine *e)
{
    for (int steps = 0; fathom_engine_step(e) > 0; steps++)
        assert_true(steps < 100000);
    const fathom_engine_stats s = fathom_engine_statistics(e);
    assert_int_equal(s.active + s.waiting + s.pages_used, 0);
}

static void expect_same(const outcome *got, const outcome *want)
{
    assert_true(got->ended);
    assert_int_equal(got->count, want->count);
    assert_memory_equal(got->tokens, want->tokens, (size_t)want->count * sizeof *want->tokens);
}

/* All of them, each in an engine that has nothing else to do. */
static outcome *alone(const fathom_model *owner)
{
    outcome *all = calloc(REQUESTS, sizeof *all);
    fathom_engine *e = engine_of(owner, 1, 1000, 0);
    for (int i = 0; i < REQUESTS; i++) {
        submit(e, &ask(i)->request, &all[i]);
        finish(e);
        assert_true(all[i].count > 0 && all[i].finish == FATHOM_FINISH_LENGTH);
    }
    fathom_engine_free(e);
    return all;
}

static void alone_equals_a_session(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++) {
        fathom_model owner = make(kind);
        outcome *all = alone(&owner);
        for (int i = 0; i < REQUESTS; i += 7) {
            fathom_session *s;
            fathom_error err;
            const asked *a = ask(i);
            assert_int_equal(fathom_session_new(&owner, 0, &s, &err), FATHOM_OK);
            assert_int_equal(fathom_session_append(s, a->ids, a->request.count, &err), FATHOM_OK);
            for (int64_t n = 0; n < all[i].count; n++) {
                const float *logits = fathom_session_logits(s);
                int32_t best = 0;
                for (int32_t t = 1; t < VOCAB; t++)
                    best = logits[t] > logits[best] ? t : best;
                assert_int_equal(all[i].tokens[n], best);
                if (n + 1 < all[i].count)
                    assert_int_equal(fathom_session_append(s, &best, 1, &err), FATHOM_OK);
            }
            assert_float_equal(all[i].routed, fathom_session_routed_fraction(s), 1e-9);
            fathom_session_free(s);
        }
        free(all);
        release(&owner);
    }
}

static void among_others(void **state)
{
    (void)state;
    int64_t preempted = 0, cached = 0;
    for (int kind = 0; kind < TINY_VARIANTS; kind++) {
        fathom_model owner = make(kind);
        outcome *want = alone(&owner);
        const int64_t one = kv_pages_for(&owner.m.config, LENGTH);
        const struct {
            int64_t active, pages, prefixes;
        } engines[] = {{32, 4000, 0}, {32, 4000, 8}, {7, 4000, 0}, {32, one, 0}, {32, 2 * one + 3, 8}};
        const size_t kinds = sizeof engines / sizeof *engines;
        for (size_t k = (size_t)kind % kinds; k < kinds; k += 3) { /* all of them, over the variants */
            outcome *got = calloc(REQUESTS, sizeof *got);
            fathom_engine *e = engine_of(&owner, engines[k].active, engines[k].pages, engines[k].prefixes);
            for (int i = 0; i < REQUESTS; i++) { /* some come while others are on their way */
                submit(e, &ask(i)->request, &got[i]);
                for (int n = 0; n < i % 3; n++)
                    fathom_engine_step(e);
            }
            finish(e);
            for (int i = 0; i < REQUESTS; i++) {
                expect_same(&got[i], &want[i]);
                cached += got[i].cached;
            }
            const fathom_engine_stats s = fathom_engine_statistics(e);
            preempted += s.preempted;
            if (engines[k].prefixes == 0)
                assert_int_equal(s.pages_kept, 0);
            fathom_engine_free(e);
            free(got);
        }
        free(want);
        release(&owner);
    }
    assert_true(preempted > 0 && cached > 0); /* or nothing was tested */
}

static void budgets_side_by_side(void **state)
{
    (void)state;
    fathom_model owner = make(tiny_variant_named("raw"));
    model_config *c = &owner.m.config;
    c->mod.budgets = 2;
    for (int64_t s = 0; s < model_stages(c); s++)
        for (int b = 0; b < 2; b++)
            c->mod.budget_threshold[b][s] = b == 0 ? 0.5f : -0.5f;
    c->mod.budget[0] = 0.2f;
    c->mod.budget[1] = 0.6f;
    outcome got[3] = {0}, want[3] = {0};
    for (int together = 0; together < 2; together++) {
        fathom_engine *e = engine_of(&owner, 4, 1000, 4);
        for (int i = 0; i < 3; i++) {
            asked *a = ask(4); /* the same prompt: its keys may not be shared */
            a->request.options.budget = i == 0 ? 0 : c->mod.budget[i - 1];
            submit(e, &a->request, together ? &got[i] : &want[i]);
            if (!together)
                finish(e);
        }
        finish(e);
        fathom_engine_free(e);
    }
    for (int i = 0; i < 3; i++) {
        expect_same(&got[i], &want[i]);
        assert_int_equal(got[i].cached + want[i].cached, 0);
        assert_float_equal(got[i].routed, want[i].routed, 1e-9);
    }
    assert_true(got[1].routed < got[2].routed);
    release(&owner);
}

static void log_probabilities(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++) {
        fathom_model owner = make(kind);
        static float logits[LENGTH * VOCAB];
        outcome got[4] = {0};
        fathom_engine *e = engine_of(&owner, 4, 1000, 4);
        for (int i = 0; i < 4; i++) {
            asked *a = ask(4 * i + 3);
            a->request.prompt_logprobs = 1;
            a->request.top_logprobs = 5;
            a->request.options.max_tokens = i == 0 ? 0 : 9;
            submit(e, &a->request, &got[i]);
        }
        finish(e);
        for (int i = 0; i < 4; i++) {
            asked *a = ask(4 * i + 3);
            fathom_error err;
            assert_int_equal(got[i].prompt_count, a->request.count);
            assert_int_equal(got[i].count, i == 0 ? 0 : 9);
            assert_true(isnan(got[i].prompt_logprob[0]));
            memcpy(a->ids + a->request.count, got[i].tokens, (size_t)got[i].count * sizeof *got[i].tokens);
            const size_t n = a->request.count + (size_t)got[i].count;
            assert_int_equal(fathom_logits(&owner, a->ids, n, FATHOM_CAUSAL, logits, &err), FATHOM_OK);
            for (size_t t = 1; t < n; t++) {
                double sum = 0;
                for (int v = 0; v < VOCAB; v++)
                    sum += exp((double)logits[(t - 1) * VOCAB + (size_t)v]);
                const double want = (double)logits[(t - 1) * VOCAB + (size_t)a->ids[t]] - log(sum);
                const float is = t < a->request.count ? got[i].prompt_logprob[t] : got[i].logprob[t - a->request.count];
                assert_float_equal(is, want, 1e-3);
            }
        }
        fathom_engine_free(e);
        release(&owner);
    }
}

static void cancelling(void **state)
{
    (void)state;
    fathom_model owner = make(tiny_variant_named("raw"));
    outcome *want = alone(&owner), *got = calloc(REQUESTS, sizeof *got);
    fathom_engine *e = engine_of(&owner, 8, 300, 4);
    int64_t id[REQUESTS];
    for (int i = 0; i < REQUESTS; i++) {
        got[i].cancel_at = i % 3 == 1 ? 1 + i % 4 : 0; /* by the callback */
        id[i] = submit(e, &ask(i)->request, &got[i]);
    }
    for (int n = 0; n < 12; n++)
        fathom_engine_step(e);
    for (int i = 0; i < REQUESTS; i++)
        if (i % 3 == 2) { /* from outside, waiting or not */
            fathom_engine_cancel(e, id[i]);
            fathom_engine_cancel(e, id[i]);
        }
    fathom_engine_cancel(e, 12345);
    finish(e);
    for (int i = 0; i < REQUESTS; i++)
        if (i % 3 == 0)
            expect_same(&got[i], &want[i]);
        else if (i % 3 == 1)
            assert_true(!got[i].ended && got[i].count <= got[i].cancel_at);
    fathom_engine_free(e);
    e = engine_of(&owner, 8, 300, 4); /* with everything under way */
    memset(got, 0, REQUESTS * sizeof *got);
    for (int i = 0; i < REQUESTS; i++)
        submit(e, &ask(i)->request, &got[i]);
    fathom_engine_step(e);
    fathom_engine_step(e);
    fathom_engine_free(e);
    free(want);
    free(got);
    release(&owner);
}

static void stopping(void **state)
{
    (void)state;
    fathom_model owner = make(0);
    outcome plain = {0}, by_id = {0}, by_text = {0}, by_end = {0};
    fathom_engine *e = engine_of(&owner, 4, 1000, 4);
    asked *a = ask(3);
    a->request.options.max_tokens = 40;
    submit(e, &a->request, &plain);
    finish(e);
    int64_t at = 1; /* a token that was not there before */
    for (bool seen = true; seen; at += seen) {
        seen = false;
        for (int64_t i = 0; i < at; i++)
            seen |= plain.tokens[i] == plain.tokens[at];
    }
    const int32_t stop = plain.tokens[at];
    const char text[2] = {(char)stop, 0}, *const stops[] = {text};
    a->request.stop_ids = &stop;
    a->request.stop_id_count = 1;
    submit(e, &a->request, &by_id);
    a->request.stop_id_count = 0;
    if (stop > 0) {
        a->request.options.stop = stops;
        a->request.options.stop_count = 1;
    }
    submit(e, &a->request, &by_text);
    finish(e);
    a->request.options.stop_count = 0;
    owner.m.config.eos_count = 2; /* the second of them; no token is the first */
    owner.m.config.eos_id[0] = VOCAB;
    owner.m.config.eos_id[1] = stop;
    submit(e, &a->request, &by_end);
    finish(e);
    const outcome *const stopped[] = {&by_id, &by_end};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(stopped[i]->finish, FATHOM_FINISH_STOP);
        assert_int_equal(stopped[i]->count, at);
        assert_memory_equal(stopped[i]->tokens, plain.tokens, (size_t)at * sizeof stop);
        assert_int_equal(stopped[i]->bytes, at);
    }
    if (stop > 0) {
        assert_int_equal(by_text.finish, FATHOM_FINISH_STOP);
        assert_int_equal(by_text.bytes, at);
        assert_memory_equal(by_text.text, plain.text, (size_t)at);
    }
    fathom_engine_free(e);
    release(&owner);
}

static void draws_do_not_depend_on_others(void **state)
{
    (void)state;
    fathom_model owner = make(tiny_variant_named("raw"));
    outcome want[6] = {0}, got[6] = {0};
    for (int together = 0; together < 2; together++) {
        fathom_engine *e = engine_of(&owner, 6, 1000, 0);
        for (int i = 0; i < 6; i++) {
            asked *a = ask(i + 5);
            a->request.options.temperature = 1;
            a->request.options.top_k = i % 2 ? 7 : 0;
            a->request.options.presence_penalty = 0.5f;
            a->request.options.seed = 70 + (uint64_t)i;
            submit(e, &a->request, together ? &got[i] : &want[i]);
            if (!together)
                finish(e);
        }
        finish(e);
        fathom_engine_free(e);
    }
    for (int i = 0; i < 6; i++)
        expect_same(&got[i], &want[i]);
    release(&owner);
}

/* What the pages do not hold is cut off, as what goes beyond the model's length is. */
static void little_memory(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind += 7) {
        fathom_model owner = make(kind);
        asked *a = ask(5);
        for (int few = 0; few < 2; few++) {
            const int64_t pages = few ? 2 * owner.m.config.layers + 1 : 1000, longest = few ? 2 * KV_PAGE_TOKENS : LENGTH;
            static const size_t prompts[] = {1, KV_PAGE_TOKENS, 2 * KV_PAGE_TOKENS};
            outcome got[3] = {0};
            fathom_engine *e = engine_of(&owner, 4, pages, 8);
            a->request.options.max_tokens = INT64_MAX;
            for (int i = 0; i < 3; i++) {
                a->request.count = prompts[i];
                submit(e, &a->request, &got[i]);
            }
            finish(e);
            for (int i = 0; i < 3; i++) {
                assert_int_equal(got[i].finish, FATHOM_FINISH_LENGTH);
                assert_int_equal(got[i].count, longest - (int64_t)prompts[i] + 1);
            }
            fathom_engine_free(e);
        }
        release(&owner);
    }
}

/* Of itself an engine takes 2 GiB at most, also where that is less than one sequence of the model's length. */
static void memory_has_a_bound(void **state)
{
    (void)state;
    model_config c = tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    c.heads = c.kv_heads = 256;
    c.head_dim = 32;
    c.seq_len = 16384; /* 4 GiB of keys and values */
    fathom_model owner = {0};
    fathom_engine_options options = fathom_engine_defaults();
    fathom_engine *e;
    fathom_error err;
    const kernels kn = kernels_cpu(0);
    options.max_active = 2;
    assert_int_equal(model_init(&owner.m, &c, WEIGHT_F32, &kn, &err), FATHOM_OK);
    assert_int_equal(fathom_engine_new(&owner, &options, &e, &err), FATHOM_OK);
    assert_int_equal(fathom_engine_statistics(e).pages * (int64_t)kv_page_bytes(&c), INT64_C(2) << 30);
    fathom_engine_free(e);
    release(&owner);
}

static void expect_refused(fathom_engine *e, const fathom_engine_request *r, const char *word)
{
    fathom_error err;
    int64_t id;
    assert_int_equal(fathom_engine_submit(e, r, &id, &err), FATHOM_INVALID_ARGUMENT);
    if (!strstr(err.message, word))
        fail_msg("%s: no '%s'", err.message, word);
}

static void refusals(void **state)
{
    (void)state;
    fathom_model owner = make(0);
    fathom_engine *e = engine_of(&owner, 4, 12, 4); /* 4 layers: 96 tokens */
    fathom_engine_request r = ask(0)->request;
    const int32_t strange = VOCAB;
    r.count = 0;
    expect_refused(e, &r, "empty");
    r.count = LENGTH + 1;
    expect_refused(e, &r, "150");
    r.count = 97;
    expect_refused(e, &r, "kv_bytes) holds 96");
    r.count = 90;
    r.options.max_tokens = 0;
    expect_refused(e, &r, "max_tokens");
    r.options.max_tokens = 3;
    r.top_logprobs = 21;
    expect_refused(e, &r, "top_logprobs: 21");
    r.top_logprobs = 0;
    r.options.budget = 0.5;
    expect_refused(e, &r, "budget");
    r.options.budget = 0;
    r.options.top_p = 2;
    expect_refused(e, &r, "top_p");
    r.options.top_p = 1;
    r.ids = &strange;
    r.count = 1;
    expect_refused(e, &r, "id 37");
    fathom_engine_free(e);
    fathom_error err;
    fathom_engine_options options = fathom_engine_defaults();
    options.max_active = 0;
    assert_int_equal(fathom_engine_new(&owner, &options, &e, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "max_active"));
    options = fathom_engine_defaults();
    options.prefill_tokens = INT64_MAX; /* no bound of its own: the sequences' lengths are one */
    if (fathom_engine_new(&owner, &options, &e, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    fathom_engine_free(e);
    release(&owner);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_equals_a_session), cmocka_unit_test(among_others),   cmocka_unit_test(budgets_side_by_side),
        cmocka_unit_test(log_probabilities),      cmocka_unit_test(cancelling),     cmocka_unit_test(stopping),
        cmocka_unit_test(draws_do_not_depend_on_others), cmocka_unit_test(refusals),
        cmocka_unit_test(little_memory), cmocka_unit_test(memory_has_a_bound),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
