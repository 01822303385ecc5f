/* DIR/report.html: the comparison in words, the optima, every run, and the plots inside, so that one file can be sent around. */
#include "study/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

static const char head[] =
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<title>fathom: isoFLOP study</title>\n<style>\n"
    ":root { color-scheme: light dark; --line: #8886; }\n"
    "body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }\n"
    "table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }\n"
    "th, td { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }\n"
    "figure { margin: 1.5rem 0; } svg { max-width: 100%; height: auto; background: #fff; }\n</style>\n"
    "<h1>Plain and routed models at equal training FLOPs</h1>\n";

/* Names come from files: what HTML would read as its own is written by number. */
static void put_text(FILE *to, const char *text)
{
    for (; *text; text++)
        if (strchr("<>&\"", *text))
            fprintf(to, "&#%d;", *text);
        else
            fputc(*text, to);
}

static void put_comparisons(FILE *to, const study_summary *s)
{
    fputs("<h2>Against the optimal plain model</h2>\n", to);
    if (s->comparison_count == 0) {
        fputs("<p>No budget has both optima inside the sizes that were trained.</p>\n", to);
        return;
    }
    fputs("<p>Causal losses, as sampling routes; in brackets 95 % of a bootstrap over the residuals of all curves of the budget. "
          "The last three columns are of the smallest model of the variant whose loss is the plain optimum's.</p>\n"
          "<table><tr><th>training FLOPs<th>variant<th>against<th>loss of its optimum<th>its size / plain's<th>forward FLOPs per token / plain's"
          "<th>training tokens/s / plain's\n", to);
    for (int64_t i = 0; i < s->comparison_count; i++) {
        const comparison *c = &s->comparisons[i];
        char loss[INTERVAL_TEXT], flops[INTERVAL_TEXT], speed[INTERVAL_TEXT];
        fprintf(to, "<tr><td>%.3g<td>", c->other->points->budget);
        put_text(to, c->other->points->variant);
        fputs("<td>", to);
        put_text(to, c->plain->points->variant);
        fprintf(to, "<td>%+.2f %% %s", 100 * c->difference, interval_text(c->difference_range, 100, 2, false, loss));
        if (!c->matches)
            fprintf(to, "<td colspan=\"3\">%s\n", c->reaches ? "below the sizes trained" : "never reaches it");
        else
            fprintf(to, "<td>%.2f<td>%.3f %s", c->match_size / c->plain->causal.size, c->match_flops_ratio,
                    interval_text(c->match_flops_range, 1, 3, false, flops));
        if (c->matches && isfinite(c->match_speed_ratio))
            fprintf(to, "<td>%.2f %s\n", c->match_speed_ratio, interval_text(c->match_speed_range, 1, 2, false, speed));
        else if (c->matches)
            fputs("<td>not timed\n", to);
    }
    fputs("</table>\n", to);
}

static void put_optimum(FILE *to, const study_curve *c, const optimum *o)
{
    char loss[INTERVAL_TEXT], size[INTERVAL_TEXT];
    if (!o->inside)
        fprintf(to, "<td colspan=\"2\">%s", optimum_missing(c, o));
    else
        fprintf(to, "<td>%.4f %s<td>%.3g %s", o->loss, interval_text(o->loss_range, 1, 4, false, loss), o->size,
                interval_text(o->size_range, 1, 3, true, size));
}

static void put_optima(FILE *to, const study_summary *s)
{
    fputs("<h2>Optima</h2>\n<p>Least of a parabola in the logarithm of the parameters outside embedding and head.</p>\n<table><tr><th>variant"
          "<th>training FLOPs<th>runs<th>loss, causal<th>size<th>loss, as trained<th>size\n", to);
    for (int64_t i = 0; i < s->curve_count; i++) {
        const study_curve *c = &s->curves[i];
        fputs("<tr><td>", to);
        put_text(to, c->points->variant);
        fprintf(to, "<td>%.3g<td>%lld", c->points->budget, (long long)c->count);
        put_optimum(to, c, &c->causal);
        put_optimum(to, c, &c->trained);
        fputc('\n', to);
    }
    fputs("</table>\n", to);
}

static void put_scaling(FILE *to, const study_scaling *s)
{
    if (!s->found)
        return;
    fprintf(to, "<h2>What a parameter is worth</h2>\n<p>%lld runs in one law of size and tokens, L = %.3g + %.3g (w N)<sup>-%.3g</sup> + %.3g "
            "D<sup>-%.3g</sup>, from which losses lie %.2f %% off. w is 1 for plain; at equal training FLOPs a variant does as a plain model with the "
            "budget of the last column. Brackets: 95 %%, by a bootstrap over the residuals.</p>\n", (long long)s->runs, s->law.floor,
            s->law.size_factor, s->law.size_exponent, s->law.token_factor, s->law.token_exponent, 100 * s->deviation);
    if (isfinite(s->percent))
        fprintf(to, "<p>At %.3g FLOPs 1 %% less loss takes %.2f times the budget.</p>\n", s->budget, s->percent);
    else
        fprintf(to, "<p>No budget is enough for 1 %% less loss than at %.3g FLOPs.</p>\n", s->budget);
    fputs("<table><tr><th>variant<th>runs<th>w<th>forward FLOPs of its size / plain's<th>budget / its own\n", to);
    for (int64_t i = 0; i < s->count; i++) {
        const variant_worth *w = &s->variants[i];
        char worth[INTERVAL_TEXT], budget[INTERVAL_TEXT];
        fputs("<tr><td>", to);
        put_text(to, w->variant);
        fprintf(to, "<td>%lld<td>%.3f %s<td>%.3f<td>%.2f %s\n", (long long)w->runs, w->worth, interval_text(w->worth_range, 1, 3, false, worth), w->share,
                w->budget, interval_text(w->budget_range, 1, 2, false, budget));
    }
    fputs("</table>\n", to);
}

static void put_runs(FILE *to, const study_result *results, int64_t count)
{
    fprintf(to, "<details><summary>All %lld runs</summary>\n<table><tr><th>variant<th>training FLOPs<th>width<th>seed<th>steps"
            "<th>forward FLOPs per token<th>loss as trained<th>causal<th>ms a step\n", (long long)count);
    for (int64_t i = 0; i < count; i++) {
        const study_result *r = &results[i];
        fputs("<tr><td>", to);
        put_text(to, r->variant);
        fprintf(to, "<td>%.3g<td>%lld<td>%lld<td>%lld<td>%.4g<td>%.4f<td>%.4f<td>", r->budget, (long long)r->width, (long long)r->seed,
                (long long)r->steps, r->forward_flops_per_token, r->loss, r->loss_causal);
        fprintf(to, isfinite(r->ms_per_step) ? "%.1f\n" : "not timed\n", r->ms_per_step);
    }
    fputs("</table></details>\n", to);
}

/* The picture itself, from <svg on; where there is none, nothing. */
static void put_plot(FILE *to, const char *dir, const char *name, const char *caption)
{
    char *plots = path_join(dir, "plots"), file[64], *path = NULL;
    file_map map = {0};
    snprintf(file, sizeof file, "%s.svg", name);
    path = plots ? path_join(plots, file) : NULL;
    if (path && file_map_open(path, &map, NULL) == FATHOM_OK) {
        const unsigned char *svg = map.size ? memmem(map.data, map.size, "<svg", 4) : NULL;
        if (svg) {
            fputs("<figure>\n", to);
            fwrite(svg, 1, map.size - (size_t)(svg - map.data), to);
            fprintf(to, "<figcaption>%s</figcaption></figure>\n", caption);
        }
        file_map_close(&map);
    }
    free(path);
    free(plots);
}

fathom_status study_page(const char *dir, const study_result *results, int64_t count, const study_summary *s, fathom_error *err)
{
    char *path = path_join(dir, "report.html");
    file_writer w;
    fathom_status status = path ? file_writer_open(&w, path, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    free(path);
    if (status != FATHOM_OK)
        return status;
    fputs(head, w.stream);
    put_comparisons(w.stream, s);
    put_plot(w.stream, dir, "isoflop", "Held-out loss over size at each budget; a star is an optimum.");
    put_plot(w.stream, dir, "frontier", "Loss of the optima over the training budget.");
    put_plot(w.stream, dir, "forward", "At the largest budget: loss over the cost of a forward pass, as a share of the optimal plain model's.");
    put_optima(w.stream, s);
    put_scaling(w.stream, &s->scaling);
    put_plot(w.stream, dir, "learning-flops", "Training loss of each variant's best run at the largest budget, over FLOPs ...");
    put_plot(w.stream, dir, "learning-time", "... and over time.");
    put_plot(w.stream, dir, "speed", "Time of a training step over its FLOPs.");
    put_runs(w.stream, results, count);
    return file_writer_commit(&w, err);
}
