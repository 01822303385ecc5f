/* Sampling: shares of draws, and draw by draw what a plain sampler that sorts the whole vocabulary gives; biases and penalties; log-probabilities
 * against a plain softmax. */
#include "base/temp.h"

#include <math.h>

#include "base/rng.h"
#include "infer/logits.h"
#include "infer/sampler.h"

static sampler make(fathom_generate_options o, int64_t vocab)
{
    sampler s;
    fathom_error err;
    assert_ok(sampler_init(&s, &o, vocab, &err), &err);
    return s;
}

/* --- the plain sampler --- */

static int by_probability(const void *a, const void *b)
{
    const sampler_candidate *x = a, *y = b;
    if (x->probability != y->probability)
        return x->probability < y->probability ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Candidates that survive top-k and top-p. */
static int64_t plain_keep(const fathom_generate_options *o, sampler_candidate *c, int64_t vocab)
{
    if (o->top_k == 0 && o->top_p >= 1)
        return vocab;
    qsort(c, (size_t)vocab, sizeof *c, by_probability);
    int64_t n = o->top_k > 0 && o->top_k < vocab ? o->top_k : vocab;
    double mass = 0, whole = 0;
    for (int64_t i = 0; i < n; i++)
        whole += (double)c[i].probability;
    for (int64_t i = 0; i < n && o->top_p < 1; i++)
        if ((mass += (double)c[i].probability) >= whole * (double)o->top_p)
            return i + 1;
    return n;
}

static int32_t plain_next(const fathom_generate_options *o, const float *logits, int64_t vocab, uint64_t number)
{
    int32_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i])))
            best = (int32_t)i;
    if (o->temperature == 0 || !isfinite(logits[best]))
        return best;
    sampler_candidate *c = calloc((size_t)vocab, sizeof *c);
    for (int64_t i = 0; i < vocab; i++) {
        const float p = expf((logits[i] - logits[best]) / o->temperature);
        c[i] = (sampler_candidate){(int32_t)i, p > 0 ? p : 0};
    }
    const int64_t n = plain_keep(o, c, vocab);
    double kept = 0;
    for (int64_t i = 0; i < n; i++)
        kept += c[i].probability >= o->min_p ? (double)c[i].probability : 0;
    double left = rng_uniform(o->seed, RNG_SAMPLE, number) * kept;
    int32_t chosen = best;
    for (int64_t i = 0; i < n && left >= 0; i++)
        if (c[i].probability >= o->min_p && c[i].probability > 0) {
            chosen = c[i].id;
            left -= (double)c[i].probability;
        }
    free(c);
    return chosen;
}

enum { KINDS = 6 };

/* Peaked, nearly flat, in few steps (ties), all alike, with NaN and -infinity, far apart. */
static void make_logits(float *logits, int64_t n, int kind, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        const float x = (float)rng_normal(seed, 77, (uint64_t)i);
        const uint64_t odd = (uint64_t)(rng_uniform(seed, 78, (uint64_t)i) * 8);
        const float of_kind[KINDS] = {4 * x, 0.01f * x, roundf(2 * x), 1, odd == 0 ? NAN : odd == 1 ? -INFINITY : 2 * x, 60 * x};
        logits[i] = of_kind[kind];
    }
}

static void draws_are_the_plain_samplers(void **state)
{
    (void)state;
    const int64_t sizes[] = {1, 2, 17, 255, 256, 257, 1000, 5003};
    const fathom_generate_options options[] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 1, .top_p = 1},
        {.temperature = 0.7f, .top_p = 1, .min_p = 0.03f},
        {.temperature = 1, .top_p = 1, .top_k = 1},
        {.temperature = 1.3f, .top_p = 1, .top_k = 40},
        {.temperature = 1, .top_p = 1, .top_k = 1500},
        {.temperature = 1, .top_p = 1, .top_k = INT32_MAX},
        {.temperature = 1, .top_p = 0.95f},
        {.temperature = 1, .top_p = 0.3f},
        {.temperature = 1, .top_p = 1e-6f},
        {.temperature = 1, .top_p = 0.9999999f},
        {.temperature = 0.8f, .top_p = 0.9f, .top_k = 50, .min_p = 0.02f},
        {.temperature = 1e-3f, .top_p = 0.9f},
    };
    for (size_t k = 0; k < sizeof options / sizeof *options; k++)
        for (size_t v = 0; v < sizeof sizes / sizeof *sizes; v++)
            for (int kind = 0; kind < KINDS; kind++) {
                fathom_generate_options o = options[k];
                o.seed = 100 * k + 10 * v;
                sampler s = make(o, sizes[v]);
                float *logits = calloc((size_t)sizes[v], sizeof *logits);
                for (uint64_t number = 0; number < 12; number++) {
                    make_logits(logits, sizes[v], kind, number / 4 + 5 * v + 1);
                    const int32_t wanted = plain_next(&o, logits, sizes[v], number), found = sampler_next(&s, logits);
                    if (found != wanted)
                        fail_msg("options %zu, vocabulary %lld, logits %d, draw %d: %d, not %d", k, (long long)sizes[v], kind, (int)number,
                                 (int)found, (int)wanted);
                }
                free(logits);
                sampler_free(&s);
            }
}

static void shares(fathom_generate_options o, const float *logits, const double *expected)
{
    sampler s = make(o, 4);
    double count[4] = {0};
    const int draws = 20000;
    for (int j = 0; j < draws; j++)
        count[sampler_next(&s, logits)]++;
    for (int j = 0; j < 4; j++)
        assert_float_equal(count[j] / draws, expected[j], 0.015);
    sampler_free(&s);
}

static void draws_follow_the_options(void **state)
{
    (void)state;
    const float logits[] = {logf(0.5f), logf(0.3f), logf(0.15f), logf(0.05f)};
    const fathom_logit_bias bias[] = {{0, -INFINITY}, {2, logf(2)}}, twice[] = {{3, logf(5)}, {3, logf(2)}};
    const struct {
        fathom_generate_options o;
        double expected[4];
    } cases[] = {
        {{.temperature = 0, .top_p = 1}, {1, 0, 0, 0}},
        {{.temperature = 1, .top_p = 1}, {0.5, 0.3, 0.15, 0.05}},
        {{.temperature = 1, .top_p = 1, .top_k = 2}, {0.625, 0.375, 0, 0}},
        {{.temperature = 1, .top_p = 0.9f}, {0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0}},
        {{.temperature = 1, .top_p = 1, .min_p = 0.2f}, {0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0}},
        {{.temperature = 0.5f, .top_p = 1}, {0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365}},
        {{.temperature = 1, .top_p = 1, .logit_bias = bias, .logit_bias_count = 2}, {0, 0.3 / 0.65, 0.3 / 0.65, 0.05 / 0.65}},
        {{.temperature = 1, .top_p = 1, .logit_bias = twice, .logit_bias_count = 2}, {0.5 / 1.45, 0.3 / 1.45, 0.15 / 1.45, 0.5 / 1.45}},
        {{.temperature = 0, .top_p = 1, .logit_bias = bias, .logit_bias_count = 1}, {0, 1, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        shares(cases[i].o, logits, cases[i].expected);
}

static void odd_logits_and_ties(void **state)
{
    (void)state;
    const float nothing[] = {NAN, NAN, NAN}, low[] = {NAN, -INFINITY, NAN}, one[] = {NAN, 2, -INFINITY}, endless[] = {1, INFINITY, NAN};
    const float ties[] = {1, 2, 2}, signs[] = {-0.0f, 0.0f, -1};
    const fathom_generate_options options[] = {{.temperature = 0, .top_p = 1}, {.temperature = 1, .top_p = 1}, {.temperature = 1, .top_p = 0.5f},
                                               {.temperature = 1, .top_p = 1, .top_k = 2}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        sampler s = make(options[i], 3);
        for (int draw = 0; draw < 5; draw++) {
            assert_int_equal(sampler_next(&s, nothing), 0);
            assert_int_equal(sampler_next(&s, low), 0);
            assert_int_equal(sampler_next(&s, one), 1);
            assert_int_equal(sampler_next(&s, endless), 1);
        }
        sampler_free(&s);
    }
    sampler s = make(options[0], 3);
    assert_int_equal(sampler_next(&s, ties), 1);
    assert_int_equal(sampler_next(&s, signs), 0);
    sampler_free(&s);
    const fathom_logit_bias all[] = {{0, -INFINITY}, {1, -INFINITY}, {2, -INFINITY}};
    s = make((fathom_generate_options){.temperature = 1, .top_p = 1, .logit_bias = all, .logit_bias_count = 3}, 3);
    assert_int_equal(sampler_next(&s, ties), 0);
    sampler_free(&s);
}

/* Greedy: each choice takes the penalties off the chosen one's logit. */
static void penalties_follow_what_was_chosen(void **state)
{
    (void)state;
    const float logits[] = {3, 2.6f, 2.2f, 0};
    const struct {
        float presence, frequency;
        int32_t chosen[8];
    } cases[] = {
        {0, 0, {0, 0, 0, 0, 0, 0, 0, 0}},
        {1, 0, {0, 1, 2, 0, 0, 0, 0, 0}},
        {0, 0.5f, {0, 1, 0, 2, 1, 0, 2, 1}},   /* 3, 2.6, 2.5, 2.2, 2.1, 2, 1.7, 1.6 */
        {0.5f, 0.25f, {0, 1, 0, 2, 0, 1, 0, 1}}, /* 3, 2.6, 2.25, 2.2, 2, 1.85, 1.75, 1.6 */
        {-1, 0, {0, 0, 0, 0, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sampler s = make((fathom_generate_options){.top_p = 1, .presence_penalty = cases[i].presence, .frequency_penalty = cases[i].frequency}, 4);
        for (int j = 0; j < 8; j++)
            assert_int_equal(sampler_next(&s, logits), cases[i].chosen[j]);
        sampler_free(&s);
    }
    assert_float_equal(logits[0], 3, 0);
}

static void options_are_checked(void **state)
{
    (void)state;
    sampler s;
    fathom_error err;
    const fathom_logit_bias high = {5, 1}, negative = {-1, 1}, nan = {0, NAN}, endless = {4, INFINITY};
    const struct {
        fathom_generate_options o;
        const char *field, *value;
    } bad[] = {
        {{.temperature = -1, .top_p = 1}, "temperature", "-1"},
        {{.temperature = NAN, .top_p = 1}, "temperature", "nan"},
        {{.top_p = 0}, "top_p", "0"},
        {{.top_p = 1, .top_k = -2}, "top_k", "-2"},
        {{.top_p = 1, .min_p = 1.5f}, "min_p", "1.5"},
        {{.top_p = 1, .presence_penalty = 2.5f}, "presence_penalty", "2.5"},
        {{.top_p = 1, .frequency_penalty = -2.5f}, "frequency_penalty", "-2.5"},
        {{.top_p = 1, .frequency_penalty = NAN}, "frequency_penalty", "nan"},
        {{.top_p = 1, .logit_bias = &high, .logit_bias_count = 1}, "logit_bias", "5"},
        {{.top_p = 1, .logit_bias = &negative, .logit_bias_count = 1}, "logit_bias", "-1"},
        {{.top_p = 1, .logit_bias = &nan, .logit_bias_count = 1}, "logit_bias", "nan"},
        {{.top_p = 1, .logit_bias = &endless, .logit_bias_count = 1}, "logit_bias", "inf"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_error(sampler_init(&s, &bad[i].o, 5, &err), &err, FATHOM_INVALID_ARGUMENT, bad[i].field, bad[i].value);
}

/* --- log-probabilities --- */

static double plain_logprob(const float *logits, int64_t n, int32_t id)
{
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        top = logits[i] > top ? (double)logits[i] : top;
    for (int64_t i = 0; i < n; i++)
        sum += isnan(logits[i]) ? 0 : exp((double)logits[i] - top);
    return isnan(logits[id]) ? -INFINITY : (double)logits[id] - top - log(sum);
}

static void logprobs_are_the_softmaxs(void **state)
{
    (void)state;
    const int64_t sizes[] = {1, 3, 20, 256, 3001};
    fathom_logprob top[FATHOM_TOP_LOGPROBS_MAX];
    for (size_t v = 0; v < sizeof sizes / sizeof *sizes; v++)
        for (int kind = 0; kind < KINDS; kind++) {
            const int64_t n = sizes[v], held = n < FATHOM_TOP_LOGPROBS_MAX ? n : FATHOM_TOP_LOGPROBS_MAX;
            float *logits = calloc((size_t)n, sizeof *logits);
            sampler_candidate *sorted = calloc((size_t)n, sizeof *sorted);
            make_logits(logits, n, kind, 3);
            logits[0] = 1; /* something finite */
            for (int64_t i = 0; i < n; i++)
                sorted[i] = (sampler_candidate){(int32_t)i, isnan(logits[i]) ? -INFINITY : logits[i]};
            qsort(sorted, (size_t)n, sizeof *sorted, by_probability);
            const int32_t id = (int32_t)(n / 2);
            const float logprob = logits_logprobs(logits, n, id, FATHOM_TOP_LOGPROBS_MAX, top);
            const double wanted = plain_logprob(logits, n, id);
            assert_true(logprob == (float)wanted || fabs((double)logprob - wanted) < 1e-6 * (1 + fabs(wanted)));
            for (int64_t i = 0; i < held; i++) {
                const double likely = plain_logprob(logits, n, top[i].id);
                assert_int_equal(top[i].id, sorted[i].id);
                assert_true(top[i].logprob == (float)likely || fabs((double)top[i].logprob - likely) < 1e-6 * (1 + fabs(likely)));
            }
            assert_float_equal(logits_logprobs(logits, n, id, 0, NULL), logprob, 0);
            free(logits);
            free(sorted);
        }
    const float nothing[] = {NAN, -INFINITY}, endless[] = {INFINITY, 1};
    assert_true(logits_logprobs(nothing, 2, 1, 2, top) == -INFINITY && top[0].logprob == -INFINITY && top[0].id == 0 && top[1].id == 1);
    assert_true(logits_logprobs(endless, 2, 0, 2, top) == -INFINITY && top[0].id == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_are_the_plain_samplers), cmocka_unit_test(draws_follow_the_options),
        cmocka_unit_test(odd_logits_and_ties),          cmocka_unit_test(penalties_follow_what_was_chosen),
        cmocka_unit_test(options_are_checked),          cmocka_unit_test(logprobs_are_the_softmaxs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
