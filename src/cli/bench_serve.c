/* fathom bench serve: many streams through the batched engine against one, and what a long prompt does to those that are under way. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timing.h"
#include "cli/bench.h"
#include "infer/engine.h"

enum { LONGER = 8 }; /* times --tokens: what a stream may generate until the others have begun, and beside a long prompt */

/* Of one stream: when its tokens came. */
typedef struct stream_times {
    double *at; /* [LONGER tokens] */
    int64_t count, id;
} stream_times;

static int note_time(const fathom_event *event, void *user)
{
    stream_times *s = user;
    if (event->kind == FATHOM_EVENT_TOKEN)
        s->at[s->count++] = timing_now();
    return 0;
}

/* Pairs of a token and a router, all and those routed, since the engine began. */
typedef struct pair_count {
    int64_t routed, all;
} pair_count;

/* An engine at work on streams that say nothing sensible. */
typedef struct load {
    fathom_engine *engine;
    const bench_command *c;
    stream_times *streams; /* [c->streams] */
    double *room;          /* [streams, LONGER tokens] */
    double *gaps;          /* the same */
    int32_t *ids;
    int64_t vocab, serial;
    pair_count many; /* while all streams decode */
} load;

static fathom_status submit(load *l, int64_t prompt, stream_times *into, fathom_error *err)
{
    fathom_engine_request r = {.ids = l->ids, .count = (size_t)prompt, .options = fathom_generate_defaults(), .top_logprobs = -1,
                               .callback = note_time, .user = into};
    l->serial++;
    for (int64_t i = 0; i < prompt; i++) /* no prompt begins as another does */
        l->ids[i] = (int32_t)((i * 7919 + l->serial * 104729) % l->vocab);
    r.options.max_tokens = LONGER * l->c->tokens;
    r.options.temperature = 0;
    into->count = 0;
    return fathom_engine_submit(l->engine, &r, &into->id, err);
}

/* Streams that go on until stop, once every one has begun: their prompts are not what is measured. */
static fathom_status begin(load *l, int64_t streams, fathom_error *err)
{
    for (int64_t i = 0; i < streams; i++)
        TRY(submit(l, l->c->prompt, &l->streams[i], err));
    for (bool all = false; !all;) {
        const bool ended = fathom_engine_step(l->engine) < streams;
        all = true;
        for (int64_t i = 0; i < streams; i++)
            all &= l->streams[i].count > 0;
        if (ended)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--tokens: %lld: too few: the first streams ended before the last had begun",
                               (long long)l->c->tokens);
    }
    return FATHOM_OK;
}

static void stop(load *l)
{
    for (int64_t i = 0; i < l->c->streams; i++)
        fathom_engine_cancel(l->engine, l->streams[i].id);
}

static pair_count pairs(const load *l)
{
    const fathom_engine_stats s = fathom_engine_statistics(l->engine);
    pair_count p = {.all = s.stages * s.routable};
    for (int64_t i = 0; i < s.stages; i++)
        p.routed += s.routed[i];
    return p;
}

/* Tokens a second of so many streams side by side. */
static fathom_status throughput(load *l, int64_t streams, double *rate, fathom_error *err)
{
    TRY(begin(l, streams, err));
    const pair_count old = pairs(l);
    const double began = timing_now();
    int64_t steps = 0;
    while (steps < l->c->tokens && fathom_engine_step(l->engine) == streams)
        steps++;
    *rate = (double)(streams * steps) / (timing_now() - began);
    const pair_count now = pairs(l);
    if (streams == l->c->streams)
        l->many = (pair_count){l->many.routed + now.routed - old.routed, l->many.all + now.all - old.all};
    stop(l);
    if (steps < l->c->tokens)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--tokens: %lld: too few: streams ended", (long long)l->c->tokens);
    return FATHOM_OK;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The times before the tokens [from, to) of all streams but the last, sorted; how many. */
static int64_t gaps_before(load *l, int64_t from, int64_t to)
{
    int64_t n = 0;
    for (int64_t s = 0; s + 1 < l->c->streams; s++)
        for (int64_t i = from; i < to && i < l->streams[s].count; i++)
            l->gaps[n++] = l->streams[s].at[i] - l->streams[s].at[i - 1];
    qsort(l->gaps, (size_t)n, sizeof *l->gaps, ascending);
    return n;
}

/* The 99th percentile of the time between tokens of all streams but one while that one's prompt is computed, and the median of the same
 * tokens' when there is no such prompt. */
static fathom_status stall(load *l, double *median, double *p99, fathom_error *err)
{
    const stream_times *first = &l->streams[0];
    stream_times *late = &l->streams[l->c->streams - 1];
    TRY(begin(l, l->c->streams - 1, err));
    TRY(submit(l, l->c->long_prompt, late, err));
    const int64_t from = first->count;
    while (late->count == 0 && first->count < LONGER * l->c->tokens)
        fathom_engine_step(l->engine);
    const int64_t to = first->count;
    stop(l);
    if (late->count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--tokens: %lld: too few: the others ended while the prompt was computed",
                           (long long)l->c->tokens);
    const int64_t n = gaps_before(l, from, to);
    *p99 = n > 0 ? l->gaps[(int64_t)(0.99 * (double)(n - 1))] : NAN;
    TRY(begin(l, l->c->streams - 1, err));
    while (first->count < to)
        fathom_engine_step(l->engine);
    stop(l);
    const int64_t calm = gaps_before(l, from, to);
    *median = calm > 0 ? l->gaps[calm / 2] : NAN;
    return FATHOM_OK;
}

/* Thresholds by what these streams' tokens are given: until then the model's are of other text. Three times, as what a layer sees depends on the
 * layers before it. */
static fathom_status calibrate(load *l, fathom_model *model, fathom_error *err)
{
    const int64_t tokens = l->c->streams * (l->c->prompt + l->c->tokens);
    calibration cal;
    double rate;
    fathom_status status = calibration_open(&cal, &model->m.config, tokens, err);
    engine_set_visitor(l->engine, calibration_collect, &cal);
    for (int pass = 0; pass < 3 && status == FATHOM_OK; pass++) {
        status = throughput(l, l->c->streams, &rate, err);
        calibration_apply(&cal, &model->m.config);
    }
    engine_set_visitor(l->engine, NULL, NULL);
    calibration_close(&cal);
    return status;
}

typedef struct figures {
    double one, many, ratio, median, p99; /* tokens/s; seconds */
    double routed;                        /* share of (token, router) pairs */
} figures;

static fathom_status load_open(load *l, const bench_command *c, const fathom_model *model, fathom_error *err)
{
    fathom_engine_options options = fathom_engine_defaults();
    const int64_t longest = c->long_prompt > c->prompt ? c->long_prompt : c->prompt;
    *l = (load){.c = c, .vocab = fathom_model_describe(model).vocab};
    options.max_active = c->streams;
    options.kept_prefixes = 0;
    options.prefill_tokens = c->prefill_tokens;
    TRY(fathom_engine_new(model, &options, &l->engine, err));
    l->streams = calloc((size_t)c->streams, sizeof *l->streams);
    l->room = calloc((size_t)(c->streams * LONGER * c->tokens), sizeof *l->room);
    l->gaps = calloc((size_t)(c->streams * LONGER * c->tokens), sizeof *l->gaps);
    l->ids = calloc((size_t)longest, sizeof *l->ids);
    if (!l->streams || !l->room || !l->gaps || !l->ids)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (int64_t i = 0; i < c->streams; i++)
        l->streams[i].at = l->room + i * LONGER * c->tokens;
    return FATHOM_OK;
}

static void load_close(load *l)
{
    fathom_engine_free(l->engine);
    free(l->streams);
    free(l->room);
    free(l->gaps);
    free(l->ids);
}

static json_t *to_json(const figures *f)
{
    return json_pack("{s:f,s:f,s:f,s:f,s:o,s:o,s:o}", "routed_fraction", f->routed, "tokens_per_s_one", f->one, "tokens_per_s", f->many, "ratio", f->ratio,
                     "inter_token_ms", cli_number(1e3 * f->median), "inter_token_p99_ms", cli_number(1e3 * f->p99), "stall",
                     cli_number(f->p99 / f->median));
}

static void print(const bench_command *c, const char *name, const figures *f)
{
    printf("%s%lld streams %.1f tokens/s, one %.1f: %.2f x; routed %.3f", name, (long long)c->streams, f->many, f->one, f->ratio, f->routed);
    if (c->long_prompt > 0)
        printf("; beside a prompt of %lld tokens the 99th percentile between tokens is %.1f ms, without it the median %.1f: %.2f x",
               (long long)c->long_prompt, 1e3 * f->p99, 1e3 * f->median, f->p99 / f->median);
    putchar('\n');
}

/* A round of each model in turn, so that the machine's drift meets both. */
static fathom_status measure(const bench_command *c, load *loads, int count, figures *out, double *speed, fathom_error *err)
{
    const size_t rounds = (size_t)c->rounds;
    double *seen = calloc(rounds * 11, sizeof *seen), pair[2] = {0};
    if (!seen)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    fathom_status status = FATHOM_OK;
    for (size_t r = 0; r < rounds && status == FATHOM_OK; r++) {
        for (int j = 0; j < count && status == FATHOM_OK; j++) {
            double *at = seen + (size_t)j * 5 * rounds + r;
            status = throughput(&loads[j], 1, &at[0], err);
            if (status == FATHOM_OK)
                status = throughput(&loads[j], c->streams, &at[rounds], err);
            at[2 * rounds] = at[rounds] / at[0];
            pair[j] = at[rounds];
            at[3 * rounds] = at[4 * rounds] = NAN;
            if (status == FATHOM_OK && c->long_prompt > 0)
                status = stall(&loads[j], &at[3 * rounds], &at[4 * rounds], err);
            if (status == FATHOM_OK && !c->json)
                fprintf(stderr, "%sround %zu/%zu  one %.1f tokens/s, %lld %.1f\n", count == 1 ? "" : j ? "MoD " : "plain ", r + 1, rounds,
                        at[0], (long long)c->streams, at[rounds]);
        }
        seen[10 * rounds + r] = pair[1] / pair[0];
    }
    for (int j = 0; j < count; j++) {
        double *of = seen + (size_t)j * 5 * rounds;
        out[j] = (figures){timing_median(of, c->rounds), timing_median(of + rounds, c->rounds), timing_median(of + 2 * rounds, c->rounds),
                           timing_median(of + 3 * rounds, c->rounds), timing_median(of + 4 * rounds, c->rounds), loads[j].many.all > 0 ? (double)loads[j].many.routed / (double)loads[j].many.all : 1};
    }
    *speed = timing_median(seen + 10 * rounds, c->rounds);
    free(seen);
    return status;
}

int bench_serve(const bench_command *command, const kernels *backend)
{
    profile prof;
    const kernels timed = profile_start(&prof, backend), *kn = command->profile ? &timed : backend;
    bench_command c = *command;
    fathom_error err;
    model_config config[2];
    const int64_t needed = (c.long_prompt > c.prompt ? c.long_prompt : c.prompt) + LONGER * c.tokens;
    if (c.shape.seq_len < needed)
        c.shape.seq_len = needed;
    if (bench_infer_shapes(&c, &config[0], &config[1], &err) != FATHOM_OK)
        return cli_usage(&err);
    const int count = c.compare_mod ? 2 : 1;
    fathom_model models[2] = {0};
    load loads[2] = {0};
    figures f[2];
    double speed = NAN;
    fathom_status status = FATHOM_OK;
    for (int j = 0; j < count && status == FATHOM_OK; j++) {
        status = bench_random_model(&c, &config[j], kn, &models[j], &err);
        if (status == FATHOM_OK)
            status = load_open(&loads[j], &c, &models[j], &err);
        if (status == FATHOM_OK && model_routed_stages(&config[j]) > 0)
            status = calibrate(&loads[j], &models[j], &err);
        if (status == FATHOM_OK)
            loads[j].many = (pair_count){0};
    }
    profile_reset(&prof);
    const double began = timing_now();
    if (status == FATHOM_OK)
        status = measure(&c, loads, count, f, &speed, &err);
    if (status == FATHOM_OK && c.profile)
        bench_print_profile(&prof, c.rounds, timing_now() - began);
    int code = status == FATHOM_OK ? EXIT_OK : cli_fail(&err);
    if (status == FATHOM_OK && c.json) {
        json_t *o = to_json(&f[0]);
        if (count == 2) {
            json_object_set_new(o, "mod", to_json(&f[1]));
            json_object_set_new(o, "speed_ratio", cli_number(speed));
        }
        code = bench_print_json(command, o);
    } else if (status == FATHOM_OK) {
        print(&c, count == 2 ? "plain  " : "", &f[0]);
        if (count == 2) {
            print(&c, "MoD    ", &f[1]);
            printf("MoD / plain: %.3f x the tokens/s of %lld streams\n", speed, (long long)c.streams);
        }
    }
    for (int j = 0; j < count; j++) {
        load_close(&loads[j]);
        model_free(&models[j].m);
    }
    return code;
}
