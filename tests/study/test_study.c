/* The isoFLOP study: fits find what is known, names say what they mean, ladders stand around the optimum, summaries compare. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/flops.h"
#include "study/summary.h"

static void a_known_optimum_is_found(void **state)
{
    (void)state;
    const parabola known = {.a = 0.03, .x0 = 14.2, .y0 = 1.37};
    for (int noise = 0; noise < 2; noise++) {
        double x[15], y[15];
        parabola fit, *samples = calloc(500, sizeof *samples);
        for (int i = 0; i < 15; i++) { /* five sizes, three seeds */
            x[i] = 13 + i / 3 * 0.7;
            y[i] = known.y0 + known.a * (x[i] - known.x0) * (x[i] - known.x0) + (noise ? 0.004 * rng_normal(3, 4, (uint64_t)i) : 0);
        }
        assert_true(parabola_fit(x, y, 15, &fit));
        assert_float_equal(fit.x0, known.x0, noise ? 0.2 : 1e-9);
        assert_float_equal(fit.y0, known.y0, noise ? 0.005 : 1e-9);
        assert_float_equal(fit.a, known.a, noise ? 0.01 : 1e-9);
        double residual[15];
        fit_noise own = {.residual = residual};
        fit_noise_add(&own, x, y, 15, &fit);
        assert_true(own.n == 15 && own.freedom == 12);
        parabola_bootstrap(x, 15, &fit, &own, 1, 500, samples);
        double at[500], least[500];
        for (int i = 0; i < 500; i++) {
            at[i] = samples[i].x0;
            least[i] = samples[i].y0;
        }
        /* the interval holds what is true, and is as wide as the noise makes it */
        assert_true(quantile(at, 500, 0.025) <= known.x0 + 1e-9 && quantile(at, 500, 0.975) >= known.x0 - 1e-9);
        assert_true(quantile(least, 500, 0.025) <= known.y0 + 1e-9 && quantile(least, 500, 0.975) >= known.y0 - 1e-9);
        const double width = quantile(least, 500, 0.975) - quantile(least, 500, 0.025);
        assert_true(noise ? width > 0.001 && width < 0.02 : width < 1e-9);
        free(samples);
    }
}

/* Of many studies with known noise, how many intervals hold what is true? By its own residuals, and by those of three curves. */
static void intervals_cover_what_is_true(void **state)
{
    (void)state;
    enum { STUDIES = 300, ROUNDS = 400, CURVES = 3 };
    const parabola known = {.a = 0.03, .x0 = 14.2, .y0 = 1.3};
    uint64_t counter = 0;
    double widths[2];
    for (int seeds = 1; seeds <= 3; seeds += 2)
        for (int curves = 1; curves <= CURVES; curves += CURVES - 1) {
            int held = 0, made = 0;
            double width = 0;
            for (int s = 0; s < STUDIES; s++) {
                double x[15], y[15], least[ROUNDS], residual[CURVES * 15];
                parabola fit, samples[ROUNDS];
                fit_noise noise = {.residual = residual};
                bool good = true;
                for (int c = 0; c < curves && good; c++) { /* the last one's interval is asked for */
                    for (int i = 0; i < 5 * seeds; i++) {
                        x[i] = 13 + i / seeds * 0.65;
                        y[i] = known.y0 + known.a * (x[i] - known.x0) * (x[i] - known.x0) + 0.006 * rng_normal(5, 6, counter++);
                    }
                    good = parabola_fit(x, y, 5 * seeds, &fit);
                    if (good)
                        fit_noise_add(&noise, x, y, 5 * seeds, &fit);
                }
                if (!good)
                    continue;
                parabola_bootstrap(x, 5 * seeds, &fit, &noise, 1, ROUNDS, samples);
                int n = 0;
                for (int i = 0; i < ROUNDS; i++)
                    if (isfinite(samples[i].y0))
                        least[n++] = samples[i].y0;
                if (n < ROUNDS * 19 / 20)
                    continue; /* no interval is given */
                made++;
                held += quantile(least, n, 0.025) <= known.y0 && known.y0 <= quantile(least, n, 0.975);
                width += quantile(least, n, 0.975) - quantile(least, n, 0.025);
            }
            print_message("# %d seeds, noise of %d curves: %.1f %% of %d intervals hold, mean width %.4f\n", seeds, curves, 100.0 * held / made, made,
                          width / made);
            assert_true(made > STUDIES / 2);
            assert_true(held > 0.90 * made && held < 0.995 * made);
            widths[curves > 1] = width / made;
            assert_true(curves == 1 || widths[1] < widths[0]); /* more noise seen is better known */
        }
    const double x[] = {1, 2, 3}, y[] = {2, 1, 2};
    parabola fit, sample;
    fit_noise none = {0};
    assert_true(parabola_fit(x, y, 3, &fit));
    fit_noise_add(&none, x, y, 3, &fit);
    parabola_bootstrap(x, 3, &fit, &none, 1, 1, &sample);
    assert_true(none.n == 0 && isnan(sample.y0));
}

static void what_is_no_parabola_is_refused(void **state)
{
    (void)state;
    parabola fit;
    const double x[] = {1, 2, 3, 4}, down[] = {1, 2, 2, 1}, line[] = {1, 2, 3, 4}, same[] = {2, 2, 2, 2}, two[] = {1, 1, 2, 2};
    assert_false(parabola_fit(x, down, 4, &fit));
    assert_false(parabola_fit(x, line, 4, &fit));
    assert_false(parabola_fit(same, down, 4, &fit));
    assert_false(parabola_fit(two, down, 4, &fit));
    assert_false(parabola_fit(x, down, 2, &fit));
    const double bad[] = {1, NAN, 1, 2};
    assert_false(parabola_fit(x, bad, 4, &fit));
}

static void laws_and_quantiles(void **state)
{
    (void)state;
    const double x[] = {1e12, 3e12, 1e13}, y[] = {3 * pow(1e12, -0.05), 3 * pow(3e12, -0.05), 3 * pow(1e13, -0.05)};
    power_law law;
    assert_true(power_law_fit(x, y, 3, &law));
    assert_float_equal(law.exponent, -0.05, 1e-9);
    assert_float_equal(law.factor, 3, 1e-6);
    assert_false(power_law_fit(x, y, 1, &law));
    double values[] = {4, 1, 3, 2};
    assert_float_equal(quantile(values, 4, 0), 1, 0);
    assert_float_equal(quantile(values, 4, 0.5), 2.5, 1e-12);
    assert_float_equal(quantile(values, 4, 1), 4, 0);
}

static void names_say_what_they_mean(void **state)
{
    (void)state;
    variant v;
    model_config c;
    fathom_error err;
    assert_int_equal(variant_parse("plain", &v, &err), FATHOM_OK);
    assert_int_equal(study_shape(&v, 128, 256, 256, &c, &err), FATHOM_OK);
    assert_int_equal(c.mod.router, MOD_ROUTER_NONE);
    assert_int_equal(c.layers, 8);
    assert_int_equal(c.ffn, 352);
    assert_int_equal(variant_parse("mod-c0.25-e1-sigmoid-aux", &v, &err), FATHOM_OK);
    assert_int_equal(study_shape(&v, 64, 256, 256, &c, &err), FATHOM_OK);
    assert_true(c.mod.router == MOD_ROUTER_TOPK && c.mod.gate == MOD_GATE_SIGMOID && c.mod.causal == MOD_CAUSAL_AUX);
    assert_int_equal(model_routed_stages(&c), c.layers);
    assert_float_equal(c.mod.capacity[0], 0.25, 0);
    assert_int_equal(variant_parse("stochastic", &v, &err), FATHOM_OK);
    assert_int_equal(study_shape(&v, 64, 256, 256, &c, &err), FATHOM_OK);
    assert_float_equal(c.mod.threshold[1], 1.150349, 1e-5); /* the normal's upper eighth */
    assert_int_equal(variant_parse("choice-c0.5", &v, &err), FATHOM_OK);
    assert_int_equal(variant_parse("mod-d3", &v, &err), FATHOM_OK);
    assert_int_equal(study_shape(&v, 80, 256, 256, &c, &err), FATHOM_OK);
    assert_true(c.heads == 5 && c.head_dim == 16);
    for (int64_t l = 0; l < c.layers; l++)
        assert_true((c.mod.capacity[l] > 0) == (l % 3 != 0));
    assert_int_equal(variant_parse("mod-m2", &v, &err), FATHOM_OK);
    assert_int_equal(study_shape(&v, 64, 256, 256, &c, &err), FATHOM_OK);
    for (int64_t l = 0; l < c.layers; l++)
        assert_true((c.mod.capacity[l] > 0) == (l >= 2 && l < c.layers - 2));
    assert_int_equal(variant_parse("mod-b12-c0.5", &v, &err), FATHOM_OK);
    assert_int_equal(study_shape(&v, 64, 256, 256, &c, &err), FATHOM_OK);
    assert_true(c.layers == 12 && c.mod.capacity[11] == 0.5f);
    assert_int_equal(variant_parse("plain-b5", &v, &err), FATHOM_OK);
    assert_int_equal(study_shape(&v, 256, 256, 256, &c, &err), FATHOM_OK);
    assert_true(c.layers == 5 && c.mod.router == MOD_ROUTER_NONE);
    assert_int_equal(study_shape(&v, 100, 256, 256, &c, &err), FATHOM_INVALID_ARGUMENT);
    assert_int_equal(variant_parse("mod-h16", &v, &err), FATHOM_OK);
    assert_int_equal(study_shape(&v, 176, 256, 256, &c, &err), FATHOM_OK);
    assert_true(c.heads == 11 && c.kv_heads == 11 && c.head_dim == 16);
    assert_int_equal(variant_parse("plain-h48", &v, &err), FATHOM_OK);
    assert_int_equal(study_shape(&v, 64, 256, 256, &c, &err), FATHOM_INVALID_ARGUMENT);
    int64_t widths[3];
    study_ladder(&v, 1e15, 3, 256, 256, widths);
    assert_true(widths[0] % 48 == 0 && widths[0] < widths[1] && widths[1] < widths[2]);
    const char *const bad[] = {"", "moe", "mod-d1", "mod-", "mod-c0", "mod-c2", "mod-e0", "mod-e1.5", "plain-c0.5", "mod-c0.25x", "stochastic-aux",
                               "choice-c1", "mod-mod", "mod-e1-d3", "mod-d3-e1", "mod-m0", "mod-m2-e2", "mod-m4",
                               "plain-b0", "plain-b2.5", "plain-b3-b4", "plain-sigmoid", "mod-b1", "mod-b1-m1", "plain-h0", "plain-h15", "mod-h16-h32"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(variant_parse(bad[i], &v, &err), FATHOM_INVALID_ARGUMENT);
}

static void ladders_stand_around_the_optimum(void **state)
{
    (void)state;
    const char *const kinds[] = {"plain", "mod"};
    int64_t widths[2][9];
    variant v;
    for (int k = 0; k < 2; k++)
        for (double budget = 1e14; budget < 1e17; budget *= 10) {
            assert_int_equal(variant_parse(kinds[k], &v, NULL), FATHOM_OK);
            study_ladder(&v, budget, 5, 256, 256, widths[k]);
            for (int i = 0; i < 5; i++) {
                model_config c;
                assert_int_equal(study_shape(&v, widths[k][i], 256, 256, &c, NULL), FATHOM_OK);
                const double forward = (flops_forward(&c, 256, true) - flops_head(&c, 256)) / 256;
                assert_true(fabs(log2(forward / (2 * sqrt(budget / 120))) - 2.0 / 3 * (i - 2)) < 0.5); /* widths come in steps */
                assert_true(i == 0 || widths[k][i] > widths[k][i - 1]);
            }
        }
    assert_true(widths[1][2] > widths[0][2]); /* at equal FLOPs a token a routed model is larger */
    assert_float_equal(study_learning_rate(0.25, 64) / study_learning_rate(0.25, 128), 2, 1e-12);
}

/* Two kinds with known curves: the second's optimum is 2 % lower, and its cost a token half. */
static void summaries_compare(void **state)
{
    (void)state;
    study_result r[10] = {0};
    for (int i = 0; i < 10; i++) {
        const bool plain = i >= 5;
        const double x = 13 + 0.7 * (i % 5), away = x - 14.2;
        strcpy(r[i].variant, plain ? "plain" : "mod");
        r[i].budget = 1e14;
        r[i].size = llround(exp(x));
        r[i].seed = 1;
        r[i].loss_causal = (plain ? 1.4 : 1.4 * 0.98) + 0.03 * away * away;
        r[i].loss = r[i].loss_causal - 0.01;
        r[i].forward_flops_per_token = (plain ? 2.0 : 1.0) * exp(x);
        r[i].tokens_per_s = (plain ? 1e9 : 2e9) / exp(x);
    }
    study_summary s;
    fathom_error err;
    assert_int_equal(study_summarize(r, 10, &s, &err), FATHOM_OK);
    assert_int_equal(s.curve_count, 2);
    assert_int_equal(s.comparison_count, 1);
    assert_true(s.curves[0].causal.inside && s.curves[1].causal.inside);
    assert_float_equal(log(s.curves[1].causal.size), 14.2, 1e-4);
    assert_float_equal(s.curves[0].trained.loss, 1.4 * 0.98 - 0.01, 1e-6);
    const comparison *c = &s.comparisons[0];
    assert_float_equal(c->difference, -0.02, 1e-6);
    assert_true(c->difference_range.low <= -0.02 + 1e-6 && c->difference_range.high >= -0.02 - 1e-6);
    const double smaller = sqrt(1.4 * 0.02 / 0.03); /* in ln size, below the optimum, where mod has plain's loss */
    assert_true(c->matches);
    assert_float_equal(c->match_flops_ratio, 0.5 * exp(-smaller), 1e-3);
    assert_float_equal(c->match_speed_ratio, 2 * exp(smaller), 1e-2);
    study_summary_free(&s);
    /* of two plain kinds the better one is what others are compared with, the other one among them */
    study_result more[15];
    memcpy(more, r, sizeof r);
    for (int i = 10; i < 15; i++) {
        more[i] = r[i - 5];
        strcpy(more[i].variant, "plain-h16");
        more[i].loss_causal -= 0.014;
    }
    assert_int_equal(study_summarize(more, 15, &s, &err), FATHOM_OK);
    assert_int_equal(s.comparison_count, 2);
    assert_string_equal(s.comparisons[0].plain->points->variant, "plain-h16");
    assert_float_equal(s.comparisons[0].difference, 1.372 / 1.386 - 1, 1e-6);
    assert_string_equal(s.comparisons[1].other->points->variant, "plain");
    assert_float_equal(s.comparisons[1].difference, 1.4 / 1.386 - 1, 1e-6);
    assert_ptr_equal(study_best(&s, "mod", 1e14), &s.curves[0]);
    assert_null(study_best(&s, "mo", 1e14));
    study_summary_free(&s);
    /* beside a size that was not timed no speed is known; what is left of the redrawn fits is too little for an interval, not a wrong one */
    const double timed = r[7].tokens_per_s;
    r[7].tokens_per_s = NAN;
    assert_int_equal(study_summarize(r, 10, &s, &err), FATHOM_OK);
    assert_true(isnan(s.comparisons[0].match_speed_range.low) && isnan(s.comparisons[0].match_speed_range.high));
    assert_true(isfinite(s.comparisons[0].match_flops_range.low));
    study_summary_free(&s);
    r[7].tokens_per_s = timed;
    /* one that would be as good below the sizes trained is not said to be */
    for (int i = 0; i < 5; i++)
        r[i].loss_causal -= 0.1;
    assert_int_equal(study_summarize(r, 10, &s, &err), FATHOM_OK);
    assert_true(s.comparisons[0].reaches && !s.comparisons[0].matches);
    study_summary_free(&s);
    /* a kind that is never as good has no match */
    for (int i = 0; i < 5; i++)
        r[i].loss_causal += 0.3;
    assert_int_equal(study_summarize(r, 10, &s, &err), FATHOM_OK);
    assert_false(s.comparisons[0].matches || s.comparisons[0].reaches);
    assert_true(isnan(s.comparisons[0].match_flops_range.low));
    study_summary_free(&s);
    assert_int_equal(study_summarize(r, 0, &s, &err), FATHOM_OK);
    assert_int_equal(s.curve_count, 0);
    study_summary_free(&s);
}

/* Runs of a known law, off it by half a per cent: three kinds at three budgets. */
static const scaling_law known_law = {.floor = 1.1, .size_factor = 20, .size_exponent = 0.36, .token_factor = 900, .token_exponent = 0.55};
static const char *const known_kinds[] = {"mod", "plain", "stochastic"};
static const double known_worth[] = {0.72, 1, 0.5}, known_share[] = {0.6, 1, 0.55};
enum { SIZES = 6, BUDGETS = 3, RUNS = 3 * SIZES * BUDGETS };

static void runs_of_the_known_law(uint64_t seed, study_result r[RUNS])
{
    memset(r, 0, RUNS * sizeof *r);
    for (int k = 0; k < 3; k++)
        for (int b = 0; b < BUDGETS; b++)
            for (int i = 0; i < SIZES; i++, r++) {
                const double budget = 3e13 * pow(3, b), size = 1e5 * exp2(0.7 * i + 0.5 * b), each = 2.4 * size * known_share[k];
                strcpy(r->variant, known_kinds[k]);
                r->budget = r->flops = budget;
                r->size = (int64_t)size;
                r->tokens = (int64_t)(budget / 3 / each);
                r->seed = 1;
                r->forward_flops_per_token = each;
                r->loss_causal = scaling_loss(&known_law, known_worth[k], (double)r->size, (double)r->tokens) *
                                 exp(0.005 * rng_normal(seed, 9, (uint64_t)(k * BUDGETS * SIZES + b * SIZES + i)));
            }
}

/* What parameters are worth comes out, and 95 % of the intervals hold it. */
static void one_law_of_all_runs(void **state)
{
    (void)state;
    enum { STUDIES = 100 };
    study_result r[RUNS];
    int holds = 0;
    for (uint64_t seed = 0; seed < STUDIES; seed++) {
        study_scaling s;
        runs_of_the_known_law(seed, r);
        assert_int_equal(study_scaling_fit(r, RUNS, &s, NULL), FATHOM_OK);
        assert_true(s.found && s.runs == RUNS && s.count == 2);
        for (int i = 0; i < 2; i++) {
            const variant_worth *w = &s.variants[i];
            assert_string_equal(w->variant, known_kinds[2 * i]);
            assert_float_equal(w->worth / known_worth[2 * i], 1, 0.12);
            assert_float_equal(w->share, known_share[2 * i], 1e-3);
            assert_float_equal(w->budget, w->worth / w->share, 1e-9);
            holds += w->worth_range.low < known_worth[2 * i] && known_worth[2 * i] < w->worth_range.high;
        }
        study_scaling_free(&s);
    }
    print_message("# %.1f %% of %d intervals hold\n", 100.0 * holds / (2 * STUDIES), 2 * STUDIES);
    assert_true(holds > 0.9 * 2 * STUDIES && holds < 2 * STUDIES);
}

static void the_law_prices_a_percent(void **state)
{
    (void)state;
    study_result r[RUNS];
    runs_of_the_known_law(3, r);
    study_scaling s;
    fathom_error err;
    assert_int_equal(study_scaling_fit(r, RUNS, &s, &err), FATHOM_OK);
    assert_true(s.deviation > 0.003 && s.deviation < 0.007);
    assert_float_equal(scaling_loss(&s.law, 1, 8e5, 1e8) / scaling_loss(&known_law, 1, 8e5, 1e8), 1, 0.01);
    /* the least loss of a budget is the least over sizes, and what 1 % costs is what it says */
    double least = INFINITY;
    for (double size = 1e4; size < 1e8; size *= 1.01)
        least = fmin(least, scaling_loss(&s.law, 1, size, s.budget / 7.2 / size));
    assert_float_equal(scaling_least(&s.law, s.budget, 7.2) / least, 1, 1e-4);
    assert_float_equal(scaling_least(&s.law, s.budget * s.percent, 7.2) / least, 0.99, 1e-4);
    study_scaling_free(&s);
    /* what diverged is left out, and too little says nothing */
    for (int i = 0; i < RUNS; i++)
        r[i].loss_causal = strcmp(r[i].variant, "stochastic") == 0 && i % SIZES > 0 && i < RUNS - 1 ? NAN : r[i].loss_causal;
    assert_int_equal(study_scaling_fit(r, RUNS, &s, &err), FATHOM_OK);
    assert_true(s.found && s.runs == 2 * SIZES * BUDGETS + BUDGETS + 1);
    study_scaling_free(&s);
    assert_int_equal(study_scaling_fit(r, SIZES * BUDGETS, &s, &err), FATHOM_OK); /* no plain ones */
    assert_false(s.found);
    assert_int_equal(study_scaling_fit(r + SIZES * BUDGETS, SIZES * BUDGETS, &s, &err), FATHOM_OK); /* these alone */
    assert_false(s.found);
    runs_of_the_known_law(3, r);
    for (int i = 0; i < RUNS; i++) /* seeds of one size, at three budgets */
        r[i].size = 1000000;
    assert_int_equal(study_scaling_fit(r, RUNS, &s, &err), FATHOM_OK);
    assert_false(s.found);
    runs_of_the_known_law(3, r);
    for (int i = 0; i < RUNS; i++)
        r[i].tokens = 10000000;
    assert_int_equal(study_scaling_fit(r, RUNS, &s, &err), FATHOM_OK);
    assert_false(s.found);
    assert_int_equal(study_scaling_fit(r, 0, &s, &err), FATHOM_OK);
    assert_false(s.found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_known_optimum_is_found), cmocka_unit_test(intervals_cover_what_is_true),
        cmocka_unit_test(what_is_no_parabola_is_refused), cmocka_unit_test(laws_and_quantiles),
        cmocka_unit_test(names_say_what_they_mean), cmocka_unit_test(ladders_stand_around_the_optimum), cmocka_unit_test(summaries_compare), cmocka_unit_test(one_law_of_all_runs), cmocka_unit_test(the_law_prices_a_percent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
