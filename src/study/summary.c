/* What the runs say: see summary.h. */
#include "study/summary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t bootstrap_seed = 1;

const char *interval_text(interval r, double scale, int digits, bool significant, char text[INTERVAL_TEXT])
{
    if (!isfinite(r.low) || !isfinite(r.high))
        snprintf(text, INTERVAL_TEXT, "[no interval]");
    else if (significant)
        snprintf(text, INTERVAL_TEXT, "[%.*g, %.*g]", digits, scale * r.low, digits, scale * r.high);
    else
        snprintf(text, INTERVAL_TEXT, "[%.*f, %.*f]", digits, scale * r.low, digits, scale * r.high);
    return text;
}

const char *optimum_missing(const study_curve *c, const optimum *o)
{
    if (c->sizes < 3)
        return "fewer than three sizes have a loss";
    if (!o->found)
        return "the losses do not curve upwards";
    return log(o->size) < log((double)c->points->size) ? "below the sizes trained: --sizes takes smaller ones" : "above the sizes trained: --sizes takes larger ones";
}

/* At size x (its logarithm), along a line in the logarithms between the sizes around it; beyond them along the nearest one. */
static double between(const study_curve *c, double x, double (*value)(const study_result *))
{
    double x0 = NAN, y0 = NAN, x1 = NAN, y1 = NAN;
    for (int64_t i = 0; i < c->count;) { /* seeds of one size together */
        const double at = log((double)c->points[i].size);
        double sum = 0;
        int64_t n = 0;
        for (; i < c->count && log((double)c->points[i].size) == at; i++, n++)
            sum += log(value(&c->points[i]));
        if (isnan(x0) || x1 < x) {
            x0 = x1;
            y0 = y1;
            x1 = at;
            y1 = sum / (double)n;
        }
    }
    if (isnan(x0))
        return exp(y1);
    return exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0));
}

static double forward_of(const study_result *r)
{
    return r->forward_flops_per_token;
}

static double speed_of(const study_result *r)
{
    return r->tokens_per_s;
}

/* The middle 95 % of n values, for which `rounds` were made; NaN where one round in twenty has none: then there is no 95 % to speak of. */
static interval middle_of(double *values, int64_t n, int64_t rounds)
{
    if (n < rounds * 19 / 20 || n == 0)
        return (interval){NAN, NAN};
    return (interval){quantile(values, n, 0.025), quantile(values, n, 0.975)};
}

static interval middle(const parabola *samples, bool size)
{
    double *values = malloc(STUDY_ROUNDS * sizeof *values);
    int64_t n = 0;
    for (int64_t i = 0; values && i < STUDY_ROUNDS; i++)
        if (isfinite(samples[i].x0))
            values[n++] = size ? exp(samples[i].x0) : samples[i].y0;
    const interval out = middle_of(values, n, STUDY_ROUNDS);
    free(values);
    return out;
}

/* ln size and loss of the runs that have a loss, by size; [count] room. */
static int64_t losses(const study_curve *c, bool causal, double *x, double *y)
{
    int64_t n = 0;
    for (int64_t i = 0; i < c->count; i++) {
        const double loss = causal ? c->points[i].loss_causal : c->points[i].loss;
        if (!isfinite(loss))
            continue;
        x[n] = log((double)c->points[i].size);
        y[n++] = loss;
    }
    return n;
}

/* Room for the runs of one budget. */
typedef struct fit_room {
    double *x, *y, *residual; /* [runs] */
    parabola *samples;        /* [STUDY_ROUNDS] */
} fit_room;

static void fit_curve(study_curve *c, bool causal, const fit_room *room)
{
    optimum *out = causal ? &c->causal : &c->trained;
    parabola *fit = causal ? &c->fit_causal : &c->fit_trained;
    const int64_t n = losses(c, causal, room->x, room->y);
    for (int64_t i = 0; i < n && causal; i++)
        c->sizes += i == 0 || room->x[i] != room->x[i - 1];
    if (causal && n > 0)
        c->least = room->x[0];
    *out = (optimum){.found = parabola_fit(room->x, room->y, n, fit)};
    if (!out->found)
        return;
    out->inside = fit->x0 >= room->x[0] && fit->x0 <= room->x[n - 1];
    out->size = exp(fit->x0);
    out->loss = fit->y0;
    out->forward_flops = between(c, fit->x0, forward_of);
    out->tokens_per_s = between(c, fit->x0, speed_of);
}

/* Intervals, by the noise of all curves of the budget: two runs of one model differ by as much whatever they are, and five runs alone say
 * little of how much. */
static void give_intervals(const study_summary *s, study_curve *c, bool causal, const fit_room *room)
{
    optimum *out = causal ? &c->causal : &c->trained;
    fit_noise noise = {.residual = room->residual};
    for (int64_t i = 0; i < s->curve_count; i++) {
        const study_curve *other = &s->curves[i];
        if (other->points->budget == c->points->budget && (causal ? other->causal : other->trained).found)
            fit_noise_add(&noise, room->x, room->y, losses(other, causal, room->x, room->y), causal ? &other->fit_causal : &other->fit_trained);
    }
    if (!out->found)
        return;
    parabola *samples = causal ? c->samples_causal : room->samples;
    const int64_t n = losses(c, causal, room->x, room->y);
    parabola_bootstrap(room->x, n, causal ? &c->fit_causal : &c->fit_trained, &noise, bootstrap_seed, STUDY_ROUNDS, samples);
    out->size_range = middle(samples, true);
    out->loss_range = middle(samples, false);
}

static fathom_status make_curves(const study_result *results, int64_t count, study_summary *s, const fit_room *room, fathom_error *err)
{
    for (int64_t i = 0; i < count;) {
        study_curve *c = &s->curves[s->curve_count++];
        c->points = &results[i];
        for (; i < count && strcmp(results[i].variant, c->points->variant) == 0 && results[i].budget == c->points->budget; i++)
            c->count++;
        c->samples_causal = malloc(STUDY_ROUNDS * sizeof *c->samples_causal);
        if (!c->samples_causal)
            return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
        fit_curve(c, false, room);
        fit_curve(c, true, room);
    }
    for (int64_t i = 0; i < s->curve_count; i++) {
        give_intervals(s, &s->curves[i], false, room);
        give_intervals(s, &s->curves[i], true, room);
    }
    return FATHOM_OK;
}

/* The smaller size (its logarithm) at which a parabola reaches a loss; false where it never does. */
static bool reaches(const parabola *p, double loss, double *x)
{
    if (p->y0 > loss)
        return false;
    *x = p->x0 - sqrt((loss - p->y0) / p->a);
    return true;
}

/* difference, flops, speed: [STUDY_ROUNDS] room */
static void compare_samples(comparison *c, double *difference, double *flops, double *speed)
{
    int64_t compared = 0, matched = 0, timed = 0;
    for (int64_t i = 0; i < STUDY_ROUNDS; i++) {
        /* both were drawn from one stream of numbers: the other's backwards, so that the pairs are independent */
        const parabola *plain = &c->plain->samples_causal[i], *other = &c->other->samples_causal[STUDY_ROUNDS - 1 - i];
        double x;
        if (!isfinite(plain->x0) || !isfinite(other->x0))
            continue;
        difference[compared++] = other->y0 / plain->y0 - 1;
        if (reaches(other, plain->y0, &x) && x >= c->other->least) {
            flops[matched++] = between(c->other, x, forward_of) / between(c->plain, plain->x0, forward_of);
            const double faster = between(c->other, x, speed_of) / between(c->plain, plain->x0, speed_of);
            if (isfinite(faster)) /* beside a shape that was not timed nothing is known */
                speed[timed++] = faster;
        }
    }
    c->difference_range = middle_of(difference, compared, STUDY_ROUNDS);
    c->match_flops_range = middle_of(flops, matched, STUDY_ROUNDS);
    c->match_speed_range = middle_of(speed, timed, STUDY_ROUNDS);
}

static fathom_status compare(const study_curve *plain, const study_curve *other, comparison *out, fathom_error *err)
{
    double *room = malloc(3 * STUDY_ROUNDS * sizeof *room), x;
    if (!room)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    *out = (comparison){.plain = plain, .other = other, .difference = other->causal.loss / plain->causal.loss - 1,
                        .reaches = reaches(&other->fit_causal, plain->causal.loss, &x)};
    out->matches = out->reaches && x >= other->least;
    if (out->matches) {
        out->match_size = exp(x);
        out->match_flops_ratio = between(other, x, forward_of) / plain->causal.forward_flops;
        out->match_speed_ratio = between(other, x, speed_of) / plain->causal.tokens_per_s;
    }
    compare_samples(out, room, room + STUDY_ROUNDS, room + 2 * STUDY_ROUNDS);
    free(room);
    return FATHOM_OK;
}

/* A variant of that kind, with or without words behind: plain, plain-b6. */
static bool is_kind(const char *variant, const char *kind)
{
    const size_t n = strlen(kind);
    return strncmp(variant, kind, n) == 0 && (!variant[n] || variant[n] == '-');
}

const study_curve *study_best(const study_summary *s, const char *kind, double budget)
{
    const study_curve *best = NULL;
    for (int64_t i = 0; i < s->curve_count; i++) {
        const study_curve *c = &s->curves[i];
        if (c->points->budget == budget && is_kind(c->points->variant, kind) && c->causal.inside && (!best || c->causal.loss < best->causal.loss))
            best = c;
    }
    return best;
}

fathom_status study_summarize(const study_result *results, int64_t count, study_summary *out, fathom_error *err)
{
    const size_t most = (size_t)(count > 0 ? count : 1);
    *out = (study_summary){.curves = calloc(most, sizeof *out->curves), .comparisons = calloc(most, sizeof *out->comparisons)};
    const fit_room room = {malloc(most * sizeof(double)), malloc(most * sizeof(double)), malloc(most * sizeof(double)),
                           malloc(STUDY_ROUNDS * sizeof(parabola))};
    const bool made = out->curves && out->comparisons && room.x && room.y && room.residual && room.samples;
    fathom_status status = made ? make_curves(results, count, out, &room, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    free(room.x);
    free(room.y);
    free(room.residual);
    free(room.samples);
    for (int64_t i = 0; i < out->curve_count && status == FATHOM_OK; i++) {
        const study_curve *c = &out->curves[i], *plain = study_best(out, "plain", c->points->budget);
        if (plain && plain != c && c->causal.inside)
            status = compare(plain, c, &out->comparisons[out->comparison_count++], err);
    }
    if (status == FATHOM_OK)
        status = study_scaling_fit(results, count, &out->scaling, err);
    if (status != FATHOM_OK)
        study_summary_free(out);
    return status;
}

void study_summary_free(study_summary *s)
{
    for (int64_t i = 0; i < s->curve_count; i++) /* none where there was no memory for them */
        free(s->curves[i].samples_causal);
    free(s->curves);
    free(s->comparisons);
    study_scaling_free(&s->scaling);
    *s = (study_summary){0};
}

bool study_law(const study_summary *s, const char *variant, power_law *out)
{
    double *x = malloc((size_t)(s->curve_count + 1) * sizeof *x), *y = malloc((size_t)(s->curve_count + 1) * sizeof *y);
    int64_t n = 0;
    for (int64_t i = 0; x && y && i < s->curve_count; i++) {
        const study_curve *c = &s->curves[i];
        if (strcmp(c->points->variant, variant) == 0 && c->causal.found && c->causal.inside) {
            x[n] = c->points->budget;
            y[n++] = c->causal.loss;
        }
    }
    const bool good = x && y && n >= 2 && power_law_fit(x, y, n, out);
    free(x);
    free(y);
    return good;
}
