/* The law of size and tokens: see scaling.h. */
#include "study/scaling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

enum {
    COMMON = 5,       /* ln of E, A, a, B, b, before ln w of each variant */
    LEAST_PLAIN = 6,  /* pairs of size and tokens: one more than the numbers that describe plain runs */
    LEAST_SIZES = 3,  /* and numbers of tokens, for a factor, an exponent and the floor */
    LEAST_OTHER = 3,  /* runs */
    LEAST_SPARE = 5,  /* runs more than numbers */
    ROUNDS = 300,     /* of the bootstrap */
    FIRST_STEPS = 400, /* of a fit, from afar */
    NEXT_STEPS = 60,
    SCALING_STREAM = 0x7363616c,
};

/* What is fitted: runs in units of their geometric means, and the numbers. */
typedef struct fit {
    int64_t n, numbers;
    double *size, *tokens, *loss; /* [n] ln of each, the first two around their means */
    int64_t *kind;                /* [n] 0: plain, else 1 + index of the variant */
    double size_unit, token_unit; /* ln */
    double *jacobian, *residual, *trial; /* [n, numbers], [n], [n] */
    double *system, *diagonal, *next;    /* [numbers, numbers + 1], [numbers], [numbers] */
    double *best, *try;                  /* [numbers] */
    double *law, *noise;                 /* [n] the best law's ln of the losses, and what is left */
} fit;

static void fit_free(fit *f)
{
    double *const all[] = {f->size, f->tokens, f->loss, f->jacobian, f->residual, f->trial, f->system, f->diagonal, f->next,
                           f->best, f->try, f->law, f->noise};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(f->kind);
}

static double loss_of(const double *p, double size, double tokens, double ln_worth)
{
    return exp(p[0]) + exp(p[1] - exp(p[2]) * (size + ln_worth)) + exp(p[3] - exp(p[4]) * tokens);
}

static double worth_of(const fit *f, const double *p, int64_t i)
{
    return f->kind[i] ? p[COMMON + f->kind[i] - 1] : 0;
}

/* Sum of squares; residuals to `to`. */
static double residuals(const fit *f, const double *p, double *to)
{
    double sum = 0;
    for (int64_t i = 0; i < f->n; i++) {
        to[i] = log(loss_of(p, f->size[i], f->tokens[i], worth_of(f, p, i))) - f->loss[i];
        sum += to[i] * to[i];
    }
    return sum;
}

static void derivatives(fit *f, const double *p)
{
    memset(f->jacobian, 0, (size_t)(f->n * f->numbers) * sizeof *f->jacobian);
    for (int64_t i = 0; i < f->n; i++) {
        double *row = f->jacobian + i * f->numbers;
        const double size = f->size[i] + worth_of(f, p, i), a = exp(p[2]), b = exp(p[4]);
        const double of_size = exp(p[1] - a * size), of_tokens = exp(p[3] - b * f->tokens[i]), loss = exp(p[0]) + of_size + of_tokens;
        row[0] = exp(p[0]) / loss;
        row[1] = of_size / loss;
        row[2] = -of_size * a * size / loss;
        row[3] = of_tokens / loss;
        row[4] = -of_tokens * b * f->tokens[i] / loss;
        if (f->kind[i])
            row[COMMON + f->kind[i] - 1] = -of_size * a / loss;
    }
}

/* The step of Levenberg and Marquardt with columns of unit length, to f->next: numbers after it. False where there is none. */
static bool step(fit *f, const double *p, double damping)
{
    const int64_t n = f->numbers;
    for (int64_t r = 0; r < n; r++) {
        f->diagonal[r] = 0;
        for (int64_t i = 0; i < f->n; i++)
            f->diagonal[r] += f->jacobian[i * n + r] * f->jacobian[i * n + r];
        f->diagonal[r] = sqrt(f->diagonal[r]) + 1e-12;
    }
    for (int64_t r = 0; r < n; r++) {
        double *row = f->system + r * (n + 1);
        for (int64_t c = 0; c <= n; c++) {
            double sum = 0;
            for (int64_t i = 0; i < f->n; i++)
                sum += f->jacobian[i * n + r] * (c < n ? f->jacobian[i * n + c] : -f->residual[i]);
            row[c] = sum / f->diagonal[r] / (c < n ? f->diagonal[c] : 1);
        }
        row[r] += damping;
    }
    if (!linear_solve(f->system, n))
        return false;
    for (int64_t r = 0; r < n; r++) /* all numbers are logarithms: no more than a factor of 1.6 at once */
        f->next[r] = p[r] + fmin(0.5, fmax(-0.5, f->system[r * (n + 1) + n] / f->diagonal[r]));
    return true;
}

/* From p on to the nearest least sum of squares, which is returned. */
static double descend(fit *f, double *p, int64_t steps)
{
    double damping = 1e-2, sum = residuals(f, p, f->residual);
    for (int64_t s = 0; s < steps && isfinite(sum); s++) {
        derivatives(f, p);
        double after = INFINITY;
        while (damping < 1e8 && !(step(f, p, damping) && (after = residuals(f, f->next, f->trial)) < sum))
            damping *= 4;
        if (!(after < sum))
            break;
        const bool done = sum - after < 1e-11 * sum;
        memcpy(p, f->next, (size_t)f->numbers * sizeof *p);
        memcpy(f->residual, f->trial, (size_t)f->n * sizeof *f->residual);
        sum = after;
        damping = fmax(damping / 3, 1e-8);
        if (done)
            break;
    }
    return sum;
}

/* From several places, to f->best: the sum has more than one least, the smallest of which is returned. */
static double descend_from_afar(fit *f)
{
    static const double floors[] = {0.3, 0.6, 0.85}, exponents[] = {0.25, 0.6};
    double least = INFINITY, lowest = INFINITY;
    for (int64_t i = 0; i < f->n; i++)
        lowest = fmin(lowest, exp(f->loss[i]));
    for (int start = 0; start < 12; start++) {
        const double floor = floors[start % 3] * lowest;
        const double numbers[COMMON] = {log(floor), log((lowest - floor) / 2), log(exponents[start / 3 % 2]), log((lowest - floor) / 2),
                                        log(exponents[start / 6])};
        for (int64_t k = 0; k < f->numbers; k++)
            f->try[k] = k < COMMON ? numbers[k] : log(0.6);
        const double sum = descend(f, f->try, FIRST_STEPS);
        if (sum < least) {
            least = sum;
            memcpy(f->best, f->try, (size_t)f->numbers * sizeof *f->best);
        }
    }
    return least;
}

/* --- which runs --- */

static bool usable(const study_result *r)
{
    return isfinite(r->loss_causal) && r->loss_causal > 0;
}

static bool is_plain(const study_result *r)
{
    return strcmp(r->variant, "plain") == 0;
}

static int64_t runs_of(const study_result *results, int64_t count, const char *variant)
{
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++)
        n += usable(&results[i]) && strcmp(results[i].variant, variant) == 0;
    return n;
}

/* Results are sorted by variant. */
static void list_variants(const study_result *results, int64_t count, study_scaling *out)
{
    for (int64_t i = 0; i < count; i++) {
        const int64_t n = runs_of(results, count, results[i].variant);
        if ((i == 0 || strcmp(results[i].variant, results[i - 1].variant) != 0) && !is_plain(&results[i]) && n >= LEAST_OTHER)
            out->variants[out->count++] = (variant_worth){.variant = results[i].variant, .runs = n};
    }
}

/* Plain runs that differ, seeds aside, from those before them in size, in tokens, or in either. */
static int64_t different(const study_result *results, int64_t count, bool size, bool tokens)
{
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) {
        bool fresh = is_plain(&results[i]) && usable(&results[i]);
        for (int64_t j = 0; fresh && j < i; j++)
            fresh = !is_plain(&results[j]) || !usable(&results[j]) || (size && results[i].size != results[j].size) ||
                    (tokens && results[i].tokens != results[j].tokens);
        n += fresh;
    }
    return n;
}

static bool enough(const study_result *results, int64_t count, const study_scaling *s)
{
    int64_t runs = runs_of(results, count, "plain");
    for (int64_t i = 0; i < s->count; i++)
        runs += s->variants[i].runs;
    return different(results, count, true, true) >= LEAST_PLAIN && different(results, count, true, false) >= LEAST_SIZES &&
           different(results, count, false, true) >= LEAST_SIZES && s->count > 0 && runs >= COMMON + s->count + LEAST_SPARE;
}

/* 0: plain; else 1 + the variant's index; -1: none of them. */
static int64_t kind_of(const study_scaling *s, const study_result *r)
{
    if (is_plain(r))
        return 0;
    for (int64_t i = 0; i < s->count; i++)
        if (strcmp(s->variants[i].variant, r->variant) == 0)
            return i + 1;
    return -1;
}

static bool fit_new(const study_result *results, int64_t count, const study_scaling *s, fit *f)
{
    const size_t n = (size_t)count, numbers = (size_t)(COMMON + s->count);
    *f = (fit){.numbers = (int64_t)numbers, .kind = calloc(n, sizeof *f->kind)};
    const struct {
        double **at;
        size_t size;
    } rooms[] = {{&f->size, n}, {&f->tokens, n}, {&f->loss, n}, {&f->residual, n}, {&f->trial, n}, {&f->law, n}, {&f->noise, n},
                 {&f->jacobian, n * numbers}, {&f->system, numbers * (numbers + 1)}, {&f->diagonal, numbers}, {&f->next, numbers},
                 {&f->best, numbers}, {&f->try, numbers}};
    bool good = f->kind != NULL;
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++)
        good &= (*rooms[i].at = calloc(rooms[i].size, sizeof(double))) != NULL;
    for (int64_t i = 0; good && i < count; i++) {
        const int64_t kind = kind_of(s, &results[i]);
        if (kind < 0 || !usable(&results[i]))
            continue;
        f->kind[f->n] = kind;
        f->size[f->n] = log((double)results[i].size);
        f->tokens[f->n] = log((double)results[i].tokens);
        f->loss[f->n++] = log(results[i].loss_causal);
    }
    for (int64_t i = 0; i < f->n; i++) {
        f->size_unit += f->size[i] / (double)f->n;
        f->token_unit += f->tokens[i] / (double)f->n;
    }
    for (int64_t i = 0; i < f->n; i++) {
        f->size[i] -= f->size_unit;
        f->tokens[i] -= f->token_unit;
    }
    return good;
}

/* --- what follows --- */

/* ln of a plain model's forward FLOPs per token at a size: between the two trained sizes around it, along a line in the logarithms; beyond them
 * in proportion to the size. */
static double plain_flops(const study_result *results, int64_t count, double size)
{
    double x0 = -INFINITY, y0 = NAN, x1 = INFINITY, y1 = NAN;
    for (int64_t i = 0; i < count; i++) {
        const double x = log((double)results[i].size), y = log(results[i].forward_flops_per_token);
        if (!is_plain(&results[i]))
            continue;
        if (x <= size && x > x0) {
            x0 = x;
            y0 = y;
        }
        if (x >= size && x < x1) {
            x1 = x;
            y1 = y;
        }
    }
    if (isnan(y0) || isnan(y1))
        return isnan(y0) ? y1 + size - x1 : y0 + size - x0;
    return x1 > x0 ? y0 + (y1 - y0) * (size - x0) / (x1 - x0) : y0;
}

static double share_of(const study_result *results, int64_t count, const char *variant)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++)
        if (usable(&results[i]) && strcmp(results[i].variant, variant) == 0) {
            sum += log(results[i].forward_flops_per_token) - plain_flops(results, count, log((double)results[i].size));
            n++;
        }
    return exp(sum / (double)n);
}

static void take_numbers(const fit *f, const double *p, const study_result *results, int64_t count, study_scaling *out)
{
    const double a = exp(p[2]), b = exp(p[4]);
    out->law = (scaling_law){.floor = exp(p[0]), .size_factor = exp(p[1] + a * f->size_unit), .size_exponent = a,
                             .token_factor = exp(p[3] + b * f->token_unit), .token_exponent = b};
    for (int64_t v = 0; v < out->count; v++) {
        variant_worth *w = &out->variants[v];
        w->worth = exp(p[COMMON + v]);
        w->share = share_of(results, count, w->variant);
        w->budget = w->worth / w->share;
    }
}

/* Fits to the law's own values plus what is left, drawn again, each widened for the numbers that the fit has used up. drawn: [variants, ROUNDS] */
static void draw_again(fit *f, int64_t variants, double *drawn)
{
    const double widen = sqrt((double)f->n / (double)(f->n - f->numbers));
    uint64_t counter = 0;
    residuals(f, f->best, f->noise);
    for (int64_t i = 0; i < f->n; i++)
        f->law[i] = f->loss[i] + f->noise[i];
    for (int64_t r = 0; r < ROUNDS; r++) {
        for (int64_t i = 0; i < f->n; i++)
            f->loss[i] = f->law[i] - widen * f->noise[(int64_t)(rng_uniform(1, SCALING_STREAM, counter++) * (double)f->n)];
        memcpy(f->try, f->best, (size_t)f->numbers * sizeof *f->try);
        descend(f, f->try, NEXT_STEPS);
        for (int64_t v = 0; v < variants; v++)
            drawn[v * ROUNDS + r] = exp(f->try[COMMON + v]);
    }
}

static void give_ranges(study_scaling *out, double *drawn)
{
    for (int64_t v = 0; v < out->count; v++) {
        variant_worth *w = &out->variants[v];
        double *of = drawn + v * ROUNDS;
        w->worth_range = (interval){quantile(of, ROUNDS, 0.025), quantile(of, ROUNDS, 0.975)};
        w->budget_range = (interval){w->worth_range.low / w->share, w->worth_range.high / w->share};
    }
}

double scaling_loss(const scaling_law *law, double worth, double size, double tokens)
{
    return law->floor + law->size_factor * pow(worth * size, -law->size_exponent) + law->token_factor * pow(tokens, -law->token_exponent);
}

double scaling_least(const scaling_law *law, double budget, double each)
{
    const double a = law->size_exponent, b = law->token_exponent;
    const double size = pow(law->size_factor * a / (law->token_factor * b) * pow(budget / each, b), 1 / (a + b));
    return scaling_loss(law, 1, size, budget / each / size);
}

/* The law of the best plain models at the largest budget, and what 1 % of their loss is in budget. */
static void price_percent(const study_result *results, int64_t count, study_scaling *out)
{
    double each = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++)
        if (is_plain(&results[i]) && usable(&results[i]))
            out->budget = fmax(out->budget, results[i].budget);
    for (int64_t i = 0; i < count; i++)
        if (is_plain(&results[i]) && usable(&results[i]) && results[i].budget == out->budget) {
            each += log(results[i].flops / (double)results[i].size / (double)results[i].tokens);
            n++;
        }
    each = exp(each / (double)n);
    const double wanted = 0.99 * scaling_least(&out->law, out->budget, each);
    double low = 1, high = 1e9;
    if (scaling_least(&out->law, out->budget * high, each) > wanted) {
        out->percent = INFINITY;
        return;
    }
    for (int i = 0; i < 60; i++) {
        const double middle = sqrt(low * high);
        if (scaling_least(&out->law, out->budget * middle, each) > wanted)
            low = middle;
        else
            high = middle;
    }
    out->percent = high;
}

fathom_status study_scaling_fit(const study_result *results, int64_t count, study_scaling *out, fathom_error *err)
{
    fit f = {0};
    double *drawn = NULL;
    *out = (study_scaling){.variants = calloc((size_t)(count > 0 ? count : 1), sizeof *out->variants)};
    if (!out->variants)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    list_variants(results, count, out);
    if (!enough(results, count, out)) {
        study_scaling_free(out);
        return FATHOM_OK;
    }
    if (!fit_new(results, count, out, &f) || !(drawn = calloc((size_t)(out->count * ROUNDS), sizeof *drawn))) {
        fit_free(&f);
        study_scaling_free(out);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    const double sum = descend_from_afar(&f);
    out->found = isfinite(sum) && isfinite(exp(f.best[1] + exp(f.best[2]) * f.size_unit)) && isfinite(exp(f.best[3] + exp(f.best[4]) * f.token_unit));
    out->runs = f.n;
    out->deviation = sqrt(sum / (double)(f.n - f.numbers));
    if (out->found) {
        take_numbers(&f, f.best, results, count, out);
        draw_again(&f, out->count, drawn);
        give_ranges(out, drawn);
        price_percent(results, count, out);
    }
    free(drawn);
    fit_free(&f);
    return FATHOM_OK;
}

void study_scaling_free(study_scaling *s)
{
    free(s->variants);
    *s = (study_scaling){0};
}
