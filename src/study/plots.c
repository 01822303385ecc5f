/* Plots by gnuplot: see report.h. A script holds its own data, so that a plot can be drawn again, and otherwise, elsewhere. */
#include "study/report.h"

#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

enum { CURVE_STEPS = 60, PATH_ROOM = 4096, SERIES_NAME = 128, STYLE_ROOM = 128, DISC = 7, CROSS = 3, SMOOTHED = 4 };
static const double FAR = 1.2;
extern char **environ;

/* A script under way: data blocks first, then one plot command that draws them. */
typedef struct script {
    file_writer w;
    char *commands; /* what follows "plot" */
    size_t length;
    FILE *plot;     /* into commands */
    int blocks;
} script;

static fathom_status script_open(script *s, const char *dir, const char *name, const char *setup, fathom_error *err)
{
    char path[PATH_ROOM];
    *s = (script){0};
    if (snprintf(path, sizeof path, "%s/plots/%s.gp", dir, name) >= PATH_ROOM)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: the path is too long", dir);
    TRY(file_writer_open(&s->w, path, err));
    s->plot = open_memstream(&s->commands, &s->length);
    if (!s->plot) {
        file_writer_abort(&s->w);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    fprintf(s->w.stream, "name = '%s'\nset key outside right top\nset grid lc rgb '#dddddd'\nset border 3\nset tics nomirror\n%s\n", name,
            setup);
    return FATHOM_OK;
}

/* Opens a block of data; rows follow by script_row, then script_draw. */
static void block_begin(script *s)
{
    fprintf(s->w.stream, "$block%d << EOD\n", s->blocks);
}

static void block_end(script *s, const char *how, const char *title)
{
    fprintf(s->w.stream, "EOD\n");
    fprintf(s->plot, "%s$block%d %s%s%s%s", s->blocks ? ", \\\n  " : " ", s->blocks, how, title ? " title '" : " notitle",
            title ? title : "", title ? "'" : "");
    s->blocks++;
}

/* Earlier ones, lest they be taken for what is drawn now where that fails or has nothing to show. */
static void remove_pictures(const char *dir, const char *name)
{
    const char *const endings[] = {"svg", "png"};
    char path[PATH_ROOM];
    for (int i = 0; i < 2; i++)
        if (snprintf(path, sizeof path, "%s/plots/%s.%s", dir, name, endings[i]) < PATH_ROOM)
            unlink(path);
}

/* Both pictures from one plot command. */
static fathom_status script_close(script *s, fathom_error *err)
{
    fclose(s->plot);
    if (s->blocks > 0)
        fprintf(s->w.stream,
                "set terminal svg size 900,520 font 'sans,13' background '#ffffff'\nset output name.'.svg'\nplot%s\n"
                "set terminal pngcairo size 1350,780 font 'sans,18'\nset output name.'.png'\nreplot\n",
                s->commands);
    free(s->commands);
    return file_writer_commit(&s->w, err);
}

/* How a variant looks, the same in every plot: a colour, and where those are used up open points and dashes. */
typedef struct look {
    const char *color;
    bool open;
} look;

static look look_of(const study_summary *s, const char *variant)
{
    static const char *const colors[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#000000"};
    const int count = sizeof colors / sizeof *colors;
    int place = 0; /* among the variants */
    for (int64_t i = 0; i < s->curve_count && strcmp(s->curves[i].points->variant, variant) != 0; i++)
        place += i + 1 < s->curve_count && strcmp(s->curves[i + 1].points->variant, s->curves[i].points->variant) != 0;
    return (look){colors[place % count], place / count % 2 == 1};
}

/* "with STYLE ..." of a variant: points of a filled `type`, lines, or both. */
static const char *drawn_as(char *how, const study_summary *s, const char *variant, const char *style, int type, double size)
{
    const look l = look_of(s, variant);
    const int point = type == CROSS ? type : type - l.open; /* gnuplot's open points are before the filled ones */
    snprintf(how, STYLE_ROOM, "with %s lc rgb '%s'", style, l.color);
    if (strstr(style, "line"))
        snprintf(how + strlen(how), STYLE_ROOM - strlen(how), " dt %d", l.open ? 2 : 1);
    if (type)
        snprintf(how + strlen(how), STYLE_ROOM - strlen(how), " pt %d ps %.1f", point, size);
    return how;
}

static double lowest(const study_curve *c)
{
    double least = INFINITY;
    for (int64_t i = 0; i < c->count; i++)
        least = fmin(least, c->points[i].loss_causal); /* fmin goes past NaN */
    return least;
}

/* A curve far above the lowest one at its budget would leave the others a stripe at the foot of the plot: it is named, not drawn. */
static bool is_far(const study_summary *s, const study_curve *c)
{
    double least = INFINITY;
    for (int64_t i = 0; i < s->curve_count; i++)
        if (s->curves[i].points->budget == c->points->budget)
            least = fmin(least, lowest(&s->curves[i]));
    return lowest(c) > FAR * least;
}

static void name_far(script *p, const study_curve *c)
{
    fprintf(p->plot, "%s NaN with points pt 0 title '%s %.2g: %.3f, above'", p->blocks ? ", \\\n  " : " ", c->points->variant, c->points->budget,
            lowest(c));
    p->blocks++;
}

static int point_of(const study_summary *s, double budget)
{
    static const int types[] = {7, 5, 9, 11, 13, 15}; /* filled: circle, square, triangles, diamond, pentagon */
    int smaller = 0;
    for (int64_t i = 0; i < s->curve_count; i++) {
        bool counted = false; /* another variant's curve at this budget */
        for (int64_t j = 0; j < i; j++)
            counted |= s->curves[j].points->budget == s->curves[i].points->budget;
        smaller += !counted && s->curves[i].points->budget < budget;
    }
    return types[smaller % 6];
}

static double largest_budget(const study_summary *s)
{
    double most = 0;
    for (int64_t i = 0; i < s->curve_count; i++)
        most = fmax(most, s->curves[i].points->budget);
    return most;
}

static void plot_isoflop(script *p, const study_summary *s)
{
    for (int64_t i = 0; i < s->curve_count; i++) {
        const study_curve *c = &s->curves[i];
        const char *variant = c->points->variant;
        char how[STYLE_ROOM], title[SERIES_NAME];
        if (is_far(s, c)) {
            name_far(p, c);
            continue;
        }
        snprintf(title, sizeof title, "%s %.2g", variant, c->points->budget);
        drawn_as(how, s, variant, "points", point_of(s, c->points->budget), 0.8);
        block_begin(p);
        for (int64_t j = 0; j < c->count; j++)
            fprintf(p->w.stream, "%lld %.6f\n", (long long)c->points[j].size, c->points[j].loss_causal);
        block_end(p, how, title);
        if (!c->causal.found)
            continue;
        const double low = log((double)c->points[0].size), high = log((double)c->points[c->count - 1].size);
        drawn_as(how, s, variant, "lines", 0, 0);
        block_begin(p);
        for (int j = 0; j <= CURVE_STEPS; j++) {
            const double x = low + (high - low) * j / CURVE_STEPS, away = x - c->fit_causal.x0;
            fprintf(p->w.stream, "%.6g %.6f\n", exp(x), c->fit_causal.y0 + c->fit_causal.a * away * away);
        }
        block_end(p, how, NULL);
        if (!c->causal.inside)
            continue;
        drawn_as(how, s, variant, "points", CROSS, 1.6);
        block_begin(p);
        fprintf(p->w.stream, "%.6g %.6f\n", c->causal.size, c->causal.loss);
        block_end(p, how, NULL);
    }
}

static bool first_of_variant(const study_summary *s, int64_t i)
{
    return i == 0 || strcmp(s->curves[i].points->variant, s->curves[i - 1].points->variant) != 0;
}

static void plot_frontier(script *p, const study_summary *s)
{
    for (int64_t i = 0; i < s->curve_count; i++) {
        if (!first_of_variant(s, i))
            continue;
        const char *variant = s->curves[i].points->variant;
        char how[STYLE_ROOM];
        bool any = false;
        for (int64_t j = i; j < s->curve_count && strcmp(s->curves[j].points->variant, variant) == 0; j++)
            any |= s->curves[j].causal.inside && !is_far(s, &s->curves[j]);
        if (!any)
            continue;
        drawn_as(how, s, variant, "yerrorlines", DISC, 1);
        block_begin(p);
        for (int64_t j = i; j < s->curve_count && strcmp(s->curves[j].points->variant, variant) == 0; j++)
            if (s->curves[j].causal.inside && !is_far(s, &s->curves[j])) {
                const optimum *o = &s->curves[j].causal;
                const bool known = isfinite(o->loss_range.low);
                fprintf(p->w.stream, "%.6g %.6f %.6f %.6f\n", s->curves[j].points->budget, o->loss, known ? o->loss_range.low : o->loss,
                        known ? o->loss_range.high : o->loss);
            }
        block_end(p, how, variant);
    }
}

/* The paper's figure 4: how much a forward pass costs beside the plain optimum's. */
static void plot_forward(script *p, const study_summary *s)
{
    const double budget = largest_budget(s);
    double plain = NAN;
    for (int64_t i = 0; i < s->comparison_count; i++)
        if (s->comparisons[i].other->points->budget == budget)
            plain = s->comparisons[i].plain->causal.forward_flops;
    for (int64_t i = 0; i < s->curve_count && isfinite(plain); i++) {
        const study_curve *c = &s->curves[i];
        char how[STYLE_ROOM];
        if (c->points->budget != budget || is_far(s, c))
            continue;
        drawn_as(how, s, c->points->variant, "linespoints", DISC, 0.7);
        block_begin(p);
        for (int64_t j = 0; j < c->count;) { /* the mean over seeds */
            double sum = 0;
            int64_t n = 0;
            const study_result *at = &c->points[j];
            for (; j < c->count && c->points[j].size == at->size; j++, n++)
                sum += c->points[j].loss_causal;
            fprintf(p->w.stream, "%.6g %.6f\n", at->forward_flops_per_token / plain, sum / (double)n);
        }
        block_end(p, how, c->points->variant);
    }
}

/* At the largest budget, of each variant the run whose loss is lowest; one that diverged only where all did. */
static const study_result *best_run(const study_curve *c)
{
    const study_result *best = c->points;
    for (int64_t i = 1; i < c->count; i++)
        best = c->points[i].loss_causal < best->loss_causal || !isfinite(best->loss_causal) ? &c->points[i] : best;
    return best;
}

static void plot_learning(script *p, const study_summary *s, bool by_time)
{
    for (int64_t i = 0; i < s->curve_count; i++) {
        const study_curve *c = &s->curves[i];
        if (c->points->budget != largest_budget(s) || is_far(s, c))
            continue;
        const study_result *run = best_run(c);
        if (by_time && !isfinite(run->ms_per_step))
            continue;
        const double scale = by_time ? (double)run->steps * run->ms_per_step / 1e3 / 60 / run->flops : 1;
        const json_t *curve = json_object_get(run->json, "curve");
        char how[STYLE_ROOM], title[SERIES_NAME];
        drawn_as(how, s, run->variant, "lines", 0, 0);
        snprintf(title, sizeof title, "%s, width %lld", run->variant, (long long)run->width);
        block_begin(p);
        const size_t points = json_array_size(curve);
        for (size_t j = 0; j < points; j++) { /* single batches: a mean over neighbours; the steep beginning has fewer */
            const size_t each = j < SMOOTHED ? j : SMOOTHED, end = j + each < points ? j + each + 1 : points;
            double sum = 0;
            for (size_t k = j - each; k < end; k++)
                sum += json_number_value(json_array_get(json_array_get(curve, k), 1));
            fprintf(p->w.stream, "%.6g %.5f\n", scale * json_number_value(json_array_get(json_array_get(curve, j), 0)),
                    sum / (double)(end - (j - each)));
        }
        block_end(p, how, title);
    }
}

static void plot_speed(script *p, const study_result *results, int64_t count, const study_summary *s)
{
    for (int64_t i = 0; i < count;) {
        const char *variant = results[i].variant;
        char how[STYLE_ROOM];
        drawn_as(how, s, variant, "points", DISC, 0.7);
        block_begin(p);
        for (; i < count && strcmp(results[i].variant, variant) == 0; i++)
            if (isfinite(results[i].ms_per_step))
                fprintf(p->w.stream, "%.6g %.6g\n", results[i].flops / (double)results[i].steps, results[i].ms_per_step);
        block_end(p, how, variant);
    }
}

/* In the scripts' folder, silently; false where there is no gnuplot or it did not take the script. */
static bool draw(const char *folder, const char *name)
{
    char script[SERIES_NAME];
    char *const argv[] = {"gnuplot", script, NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    int status = -1;
    snprintf(script, sizeof script, "%s.gp", name);
    if (posix_spawn_file_actions_init(&actions) != 0)
        return false;
    const bool good = posix_spawn_file_actions_addchdir_np(&actions, folder) == 0 &&
                      posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0) == 0 &&
                      posix_spawn_file_actions_adddup2(&actions, 1, 2) == 0 &&
                      posix_spawnp(&child, "gnuplot", &actions, NULL, argv, environ) == 0 && waitpid(child, &status, 0) == child &&
                      status == 0;
    posix_spawn_file_actions_destroy(&actions);
    return good;
}

fathom_status study_plots(const char *dir, const study_result *results, int64_t count, const study_summary *s, bool *drawn,
                          fathom_error *err)
{
    static const struct {
        const char *name, *setup;
    } plots[] = {
        {"isoflop", "set logscale x 2\nset format x '%.0s%c'\nset xrange [*:*] noextend\nset xlabel 'parameters outside embedding and head'\nset ylabel 'held-out loss, causal (nats)'"},
        {"frontier", "set logscale x\nset xlabel 'training FLOPs'\nset ylabel 'loss of the optimum, causal (nats)'"},
        {"forward", "set logscale x 1.41421356\nset format x '%.2f'\nset xrange [*:*] noextend\nset xlabel 'forward FLOPs per token / those of the optimal plain model'\nset ylabel 'held-out loss, causal (nats)'"},
        {"learning-flops", "set logscale x\nset xrange [*:*] noextend\nset xlabel 'training FLOPs'\nset ylabel 'training loss, smoothed (nats)'"},
        {"learning-time", "set logscale x\nset xrange [*:*] noextend\nset xlabel 'minutes'\nset ylabel 'training loss, smoothed (nats)'"},
        {"speed", "set logscale xy\nset xlabel 'FLOPs of a training step'\nset ylabel 'time of a step (ms)'"},
    };
    char *folder = path_join(dir, "plots");
    fathom_status status = folder ? folder_create(folder, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    *drawn = true;
    for (size_t i = 0; i < sizeof plots / sizeof *plots && status == FATHOM_OK; i++) {
        script p;
        status = script_open(&p, dir, plots[i].name, plots[i].setup, err);
        if (status != FATHOM_OK)
            break;
        switch (i) {
        case 0: plot_isoflop(&p, s); break;
        case 1: plot_frontier(&p, s); break;
        case 2: plot_forward(&p, s); break;
        case 3: plot_learning(&p, s, false); break;
        case 4: plot_learning(&p, s, true); break;
        default: plot_speed(&p, results, count, s); break;
        }
        status = script_close(&p, err);
        remove_pictures(dir, plots[i].name);
        if (status == FATHOM_OK)
            *drawn &= draw(folder, plots[i].name);
    }
    free(folder);
    return status;
}
