/* fathom isoflop: plain and routed models of several sizes at equal training FLOPs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/timing.h"
#include "cli/cli.h"
#include "kernels/kernels.h"
#include "study/report.h"
#include "study/speed.h"

enum { MOST_LIST = 64 };

typedef struct isoflop_command {
    option_list data, val_data;
    const char *tokenizer, *budget, *sizes, *variants, *dtype;
    bool json, report_only, speed;
    double val_fraction;
    int64_t threads;
    study_options study;
    variant variant[MOST_LIST];
    double budgets[MOST_LIST];
    int64_t widths[MOST_LIST];
    progress_line progress;
    /* of the run under way */
    const study_run *run;
    int64_t number, count;
    double done_flops, ahead_flops, began; /* trained here before this run; of the runs after it that nobody has finished */
    double run_began; /* FLOPs that the run had when it was taken up; below 0 until its first step is seen */
} isoflop_command;

static volatile sig_atomic_t interrupted;

/* Numbers joined by commas, each above 0. */
static fathom_status read_numbers(const char *option, const char *text, double *out, int64_t *count, fathom_error *err)
{
    *count = 0;
    for (const char *p = text; *p;) {
        char *end;
        const double x = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !(x > 0 && isfinite(x)) || *count == MOST_LIST)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: %s: must be up to %d numbers above 0, joined by commas", option, text,
                               MOST_LIST);
        out[(*count)++] = x;
        p = *end ? end + 1 : end;
    }
    return *count > 0 ? FATHOM_OK : status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: needed", option);
}

static fathom_status read_variants(isoflop_command *c, fathom_error *err)
{
    char *text = strdup(c->variants), *rest = text;
    fathom_status status = text ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (char *name; status == FATHOM_OK && (name = strsep(&rest, ","));)
        status = c->study.variant_count < MOST_LIST
                     ? variant_parse(name, &c->variant[c->study.variant_count++], err)
                     : status_fail(err, FATHOM_INVALID_ARGUMENT, "--variants: more than %d", MOST_LIST);
    free(text);
    return status;
}

static fathom_status read_widths(isoflop_command *c, fathom_error *err)
{
    double widths[MOST_LIST];
    int64_t n;
    TRY(read_numbers("sizes", c->sizes, widths, &n, err));
    if (n == 1 && widths[0] <= 15 && widths[0] == floor(widths[0])) {
        c->study.sizes = (int64_t)widths[0];
        return FATHOM_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        if (widths[i] < 16 || widths[i] > 1 << 20 || widths[i] != floor(widths[i]))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--sizes: %s: must be widths of 16 or more, or one number of sizes up to 15", c->sizes);
        c->widths[i] = (int64_t)widths[i];
    }
    c->study.widths = c->widths;
    c->study.width_count = n;
    return FATHOM_OK;
}

static fathom_status check(isoflop_command *c, fathom_error *err)
{
    if (!c->study.dir)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--out: needed: the study's folder");
    if (c->report_only && c->speed)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--speed: not with --report, which measures nothing");
    TRY(threads_check(c->threads, err));
    if (c->report_only)
        return FATHOM_OK;
    if (c->data.count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data: needed: text files, folders or token shards");
    if (!c->budget)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--budget: needed: training FLOPs, as in 1e13,3e13");
    if (!(c->val_fraction > 0 && c->val_fraction < 1) && c->val_data.count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--val-fraction: %g: must be in (0, 1): the study compares held-out losses", c->val_fraction);
    if (c->study.seeds < 1 || c->study.seeds > 1000)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--seeds: %lld: must be 1 to 1000", (long long)c->study.seeds);
    if (c->study.batch < 1 || c->study.batch > 1 << 20)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--batch: %lld: must be 1 to 1048576", (long long)c->study.batch);
    if (!(c->study.rate_factor > 0 && c->study.rate_factor < 1e3))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--lr-factor: %g: must be above 0 and below 1000", c->study.rate_factor);
    if (c->dtype)
        TRY(train_dtype_parse(c->dtype, &c->study.bf16, err));
    TRY(read_numbers("budget", c->budget, c->budgets, &c->study.budget_count, err));
    TRY(read_widths(c, err));
    c->study.variants = c->variant;
    c->study.budgets = c->budgets;
    return read_variants(c, err);
}

/* Progress of the whole study: the FLOPs that it still takes are known, and so is the time that those done here took. */
static void show_step(void *user, const train_step_info *i)
{
    isoflop_command *c = user;
    if (c->run_began < 0)
        c->run_began = i->flops;
    if (!progress_due(&c->progress))
        return;
    char eta[32];
    const double done = c->done_flops + i->flops - c->run_began, spent = timing_now() - c->began;
    progress_time(done > 0 ? spent / done * (c->ahead_flops + c->run->budget - i->flops) : 0, eta, sizeof eta);
    progress_show(&c->progress, "run %lld/%lld  %s  step %lld/%lld  loss %.4f  ETA of the study, by this process alone, %s", (long long)c->number,
                  (long long)c->count, c->run->name, (long long)i->step, (long long)i->total, i->loss, eta);
}

/* Of the runs from `begin` on that are not finished. */
static double flops_from(const isoflop_command *c, const study_run *runs, int64_t begin, int64_t count)
{
    double flops = 0;
    for (int64_t i = begin; i < count; i++)
        flops += study_is_done(&c->study, &runs[i]) ? 0 : runs[i].budget;
    return flops;
}

static fathom_status train_all(isoflop_command *c, const study_run *runs, int64_t count, const study_data *data, int64_t *taken,
                               fathom_error *err)
{
    const train_observer observer = {.user = c, .step = show_step};
    c->count = count;
    c->began = timing_now();
    *taken = 0;
    for (int64_t i = 0; i < count; i++) {
        study_state state;
        c->run = &runs[i];
        c->number = i + 1;
        c->ahead_flops = flops_from(c, runs, i + 1, count);
        c->run_began = -1;
        TRY(study_train(&c->study, &runs[i], data, &observer, &interrupted, &state, err));
        *taken += state == STUDY_TAKEN;
        if (c->run_began < 0)
            continue; /* it was finished, or another process has it */
        c->done_flops += runs[i].budget - c->run_began;
        progress_print(&c->progress, "run %lld/%lld  %s done", (long long)c->number, (long long)count, runs[i].name);
    }
    return FATHOM_OK;
}

static void show_round(void *user, int64_t done, int64_t rounds)
{
    isoflop_command *c = user;
    progress_print(&c->progress, "step times: round %lld/%lld", (long long)done, (long long)rounds);
}

static fathom_status load_data(const isoflop_command *c, const tokenizer *tok, corpus *data, corpus *validation, fathom_error *err)
{
    /* without --tokenizer nobody said how many ids there are in shards that do not tell */
    corpus_input in = {.paths = c->data.items, .count = c->data.count, .tokenizer = tok, .vocab = c->tokenizer ? tokenizer_vocab(tok) : 0,
                       .heldout_fraction = c->val_data.count ? 0 : c->val_fraction};
    TRY(corpus_load(&in, data, err));
    if (c->val_data.count == 0)
        return FATHOM_OK;
    in.paths = c->val_data.items;
    in.count = c->val_data.count;
    in.evaluation = true;
    return corpus_load(&in, validation, err);
}

static fathom_status train(isoflop_command *c, fathom_error *err)
{
    tokenizer *tok = NULL;
    corpus data = {0}, validation = {0};
    study_run *runs = NULL;
    int64_t count = 0, taken = 0;
    fathom_status status = c->tokenizer ? tokenizer_load(c->tokenizer, &tok, err) : tokenizer_bytes(&tok, err);
    if (status == FATHOM_OK) {
        c->study.vocab = tokenizer_vocab(tok);
        status = load_data(c, tok, &data, &validation, err);
    }
    if (status == FATHOM_OK) {
        const kernels kn = kernels_cpu(c->study.threads);
        if (c->study.bf16 && !kn.bf16(&kn)) {
            progress_print(&c->progress, "this processor has no bfloat16 products: training in fp32");
            c->study.bf16 = false;
        }
        status = study_runs(&c->study, &runs, &count, err);
    }
    if (status == FATHOM_OK) {
        const study_data shared = {&data.train, c->val_data.count ? &validation.train : &data.heldout, tok, data.fingerprint,
                                   c->val_data.count ? validation.fingerprint : data.fingerprint};
        double flops = 0;
        if (shared.heldout->count <= c->study.seq_len)
            status = status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: %lld tokens are held out: the study compares held-out losses, and a "
                                 "sequence has %lld", c->val_data.count ? "val-data" : "val-fraction", (long long)shared.heldout->count,
                                 (long long)c->study.seq_len);
        for (int64_t i = 0; i < count; i++)
            flops += runs[i].budget;
        progress_print(&c->progress, "%lld runs, %.3g training FLOPs in all; %.4g training tokens, %.4g held out", (long long)count, flops,
                       (double)shared.train->count, (double)shared.heldout->count);
        if (status == FATHOM_OK)
            status = study_check_folder(&c->study, &shared, err);
        if (status == FATHOM_OK)
            status = train_all(c, runs, count, &shared, &taken, err);
        if (status == FATHOM_OK && c->speed && taken > 0)
            progress_print(&c->progress, "other processes are training: step times are left for when they are done");
        else if (status == FATHOM_OK && c->speed)
            status = study_speed(&c->study, &shared, &(study_speed_observer){c, show_round}, &interrupted, err);
    }
    if (status == FATHOM_OK && taken > 0)
        progress_print(&c->progress, "%lld runs are being trained by other processes; what follows is without them", (long long)taken);
    free(runs);
    corpus_free(&data);
    corpus_free(&validation);
    tokenizer_free(tok);
    return status;
}

static void print_optimum(const char *name, const study_curve *c)
{
    const optimum *o = &c->causal;
    char size[INTERVAL_TEXT], loss[INTERVAL_TEXT];
    printf("%-16s %9.3g", name, c->points->budget);
    if (o->inside)
        printf("  %10.4g %s  %.4f %s\n", o->size, interval_text(o->size_range, 1, 4, true, size), o->loss,
               interval_text(o->loss_range, 1, 4, false, loss));
    else
        printf("  no optimum: %s\n", optimum_missing(c, o));
}

static void print_comparison(const comparison *c)
{
    char loss[INTERVAL_TEXT], flops[INTERVAL_TEXT], speed[INTERVAL_TEXT];
    printf("%-16s %9.3g  against %s %+.2f %% %s", c->other->points->variant, c->other->points->budget, c->plain->points->variant, 100 * c->difference,
           interval_text(c->difference_range, 100, 2, false, loss));
    if (c->matches)
        printf("  the plain optimum's loss at %.3f x its forward FLOPs %s, ", c->match_flops_ratio,
               interval_text(c->match_flops_range, 1, 3, false, flops));
    if (c->matches && isfinite(c->match_speed_ratio))
        printf("%.2f x its tokens/s %s\n", c->match_speed_ratio, interval_text(c->match_speed_range, 1, 2, false, speed));
    else if (c->matches)
        printf("whose speed was not timed\n");
    else
        printf("  %s\n", c->reaches ? "reaches the plain optimum's loss below the sizes trained" : "never reaches the plain optimum's loss");
}

static void print_scaling(const study_scaling *s)
{
    if (!s->found)
        return;
    printf("\n%lld runs in one law of size N and tokens D: L = %.3f + %.3g (w N)^-%.3f + %.3g D^-%.3f, off by %.2f %%; w is 1 for plain [95 %%]\n",
           (long long)s->runs, s->law.floor, s->law.size_factor, s->law.size_exponent, s->law.token_factor, s->law.token_exponent, 100 * s->deviation);
    for (int64_t i = 0; i < s->count; i++) {
        const variant_worth *w = &s->variants[i];
        char worth[INTERVAL_TEXT], budget[INTERVAL_TEXT];
        printf("%-16s w %.3f %s at %.3f x the FLOPs: as plain with %.2f x the budget %s\n", w->variant, w->worth,
               interval_text(w->worth_range, 1, 3, false, worth), w->share, w->budget, interval_text(w->budget_range, 1, 2, false, budget));
    }
    if (isfinite(s->percent))
        printf("at %.3g FLOPs 1 %% less loss takes %.2f x the budget\n", s->budget, s->percent);
    else
        printf("no budget is enough for 1 %% less loss than at %.3g FLOPs\n", s->budget);
}

static int report(const isoflop_command *c)
{
    study_result *results = NULL;
    study_summary s = {0};
    int64_t count = 0, timed = 0;
    fathom_error err;
    bool drawn = false;
    int lock = -1;
    fathom_status status = study_lock(c->study.dir, &lock, &err);
    if (status == FATHOM_OK)
        status = study_results(c->study.dir, &results, &count, &err);
    if (status == FATHOM_OK)
        status = study_speed_apply(c->study.dir, results, count, &timed, &err);
    if (status == FATHOM_OK)
        status = study_summarize(results, count, &s, &err);
    if (status == FATHOM_OK)
        status = study_report_write(c->study.dir, results, count, &s, &err);
    if (status == FATHOM_OK)
        status = study_plots(c->study.dir, results, count, &s, &drawn, &err);
    if (status == FATHOM_OK)
        status = study_page(c->study.dir, results, count, &s, &err);
    study_unlock(lock);
    int code = EXIT_OK;
    if (status != FATHOM_OK) {
        code = cli_fail(&err);
    } else if (c->json) {
        code = cli_print_json(study_report_json(results, count, &s));
    } else {
        printf("%-16s %9s  %s\n", "variant", "budget", "optimal size [95 %]  causal loss [95 %]");
        for (int64_t i = 0; i < s.curve_count; i++)
            print_optimum(s.curves[i].points->variant, &s.curves[i]);
        printf("\nagainst the optimal plain model: causal loss [95 %%]%s\n", s.comparison_count ? "" : ": no budget has both optima inside its sizes");
        for (int64_t i = 0; i < s.comparison_count; i++)
            print_comparison(&s.comparisons[i]);
        print_scaling(&s.scaling);
        if (timed == 0)
            printf("\ntokens/s are the runs' own, taken one after the other: --speed measures all shapes in turn\n");
        else if (timed < count)
            printf("\n%lld runs are of shapes without a time: --speed measures all in turn\n", (long long)(count - timed));
        printf("\n%s: %lld runs; report.html, results.json, results.csv%s\n", c->study.dir, (long long)count,
               drawn ? ", plots/*.svg and *.png" : "; plots/*.gp are for gnuplot, which is not here or failed");
    }
    study_summary_free(&s);
    study_results_free(results, count);
    return code;
}

int command_isoflop(int argc, char **argv)
{
    isoflop_command c = {.sizes = "5", .variants = "plain,mod,stochastic", .val_fraction = 0.05,
                         .study = {.sizes = 5, .seeds = 1, .seq_len = 256, .batch = 8, .rate_factor = STUDY_RATE_FACTOR}};
    const option table[] = {
        {OPTION_HEADING, "data and output", 0, 0, 0},
        {OPTION_LIST, "data", &c.data, "PATH...", "text files, folders of text, or token shards"},
        {OPTION_LIST, "val-data", &c.val_data, "PATH...", "held-out text (default: the end of each file of --data)"},
        {OPTION_NUMBER, "val-fraction", &c.val_fraction, "X", "share of each file held out (0.05)"},
        {OPTION_TEXT, "tokenizer", &c.tokenizer, "PATH", "a tokenizer.json or a folder with one (one token a byte)"},
        {OPTION_TEXT, "out", &c.study.dir, "DIR", "the study's folder; what is finished in it is kept and reported too"},
        {OPTION_HEADING, "study", 0, 0, 0},
        {OPTION_TEXT, "budget", &c.budget, "X,...", "training FLOPs of a run, as in 1e13,3e13"},
        {OPTION_TEXT, "sizes", &c.sizes, "N or LIST", "so many sizes (up to 15) around each budget's optimum, or these widths (5)"},
        {OPTION_TEXT, "variants", &c.variants, "LIST",
         "plain, mod, stochastic or choice, with b12, h16, c0.25, e1, d3, m2, a gate or a rule behind, as in mod-c0.25-e1 (plain,mod,stochastic)"},
        {OPTION_INTEGER, "seeds", &c.study.seeds, "N", "seeds of every run, from 1 on (1)"},
        {OPTION_NUMBER, "lr-factor", &c.study.rate_factor, "X", "peak learning rate X / width, at most 8e-3 (0.25); for a sweep give each X a folder"},
        {OPTION_INTEGER, "seq-len", &c.study.seq_len, "N", "tokens a sequence (256)"},
        {OPTION_INTEGER, "batch", &c.study.batch, "N", "sequences a batch (8)"},
        {OPTION_TEXT, "dtype", &c.dtype, "TYPE", "fp32 or bf16 (fp32)"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads (all)"},
        {OPTION_FLAG, "speed", &c.speed, 0, "when all is trained, time steps of every shape in the folder in turn; the report then uses these times"},
        {OPTION_FLAG, "report", &c.report_only, 0, "train nothing: fit and draw what is finished"},
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"isoflop", "", "Trains plain and Mixture-of-Depths models of several sizes, each on the same number of "
                              "training FLOPs, fits the curves and\ncompares the optima. Can be stopped and run again, and run by several "
                              "processes at once on one --out.", table, 0};
    fathom_error err;
    options_result parsed;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK)
        status = check(&c, &err);
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    c.study.threads = (int)c.threads;
    c.progress = progress_begin(5);
    if (!c.report_only) {
        interrupt_watch(&interrupted);
        status = train(&c, &err);
    }
    if (status != FATHOM_OK && c.progress.open)
        fputc('\n', stderr);
    int code = status == FATHOM_OK ? report(&c) : cli_fail(&err);
    if (status == FATHOM_INTERRUPTED)
        code = EXIT_BY_SIGNAL + (int)interrupted;
    options_free(&parsed);
    return code;
}
