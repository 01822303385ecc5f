/* fathom bench serve: many streams through the batched engine against one, and what a long prompt does to those that are under way. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timing.h"
#include "cli/bench.h"

/* Of one stream: when its tokens came. */
typedef struct stream_times {
    double *at; /* [tokens] */
    int64_t count;
} stream_times;

static int note_time(const fathom_event *event, void *user)
{
    stream_times *s = user;
    if (event->kind == FATHOM_EVENT_TOKEN)
        s->at[s->count++] = timing_now();
    return 0;
}

/* An engine at work on streams that say nothing sensible. */
typedef struct load {
    fathom_engine *engine;
    const bench_command *c;
    stream_times *streams; /* [c->streams] */
    double *room;          /* [streams, tokens] */
    double *gaps;          /* [streams, tokens] */
    int32_t *ids;
    int64_t vocab, serial;
} load;

static fathom_status submit(load *l, int64_t prompt, int64_t tokens, stream_times *into, fathom_error *err)
{
    fathom_engine_request r = {.ids = l->ids, .count = (size_t)prompt, .options = fathom_generate_defaults(), .top_logprobs = -1,
                               .callback = note_time, .user = into};
    int64_t id;
    l->serial++;
    for (int64_t i = 0; i < prompt; i++) /* no prompt begins as another does */
        l->ids[i] = (int32_t)((i * 7919 + l->serial * 104729) % l->vocab);
    r.options.max_tokens = tokens;
    r.options.temperature = 0;
    into->count = 0;
    return fathom_engine_submit(l->engine, &r, &id, err);
}

/* Until every stream has begun: their prompts are not what is measured. */
static void begin(load *l, int64_t streams)
{
    for (bool all = false; !all;) {
        fathom_engine_step(l->engine);
        all = true;
        for (int64_t i = 0; i < streams; i++)
            all &= l->streams[i].count > 0;
    }
}

/* Tokens a second of so many streams side by side, from when all have begun. */
static fathom_status throughput(load *l, int64_t streams, double *rate, fathom_error *err)
{
    for (int64_t i = 0; i < streams; i++)
        TRY(submit(l, l->c->prompt, l->c->tokens, &l->streams[i], err));
    begin(l, streams);
    int64_t before = 0, after = 0;
    for (int64_t i = 0; i < streams; i++)
        before += l->streams[i].count;
    const double began = timing_now();
    while (fathom_engine_step(l->engine) == streams)
        ;
    const double seconds = timing_now() - began;
    for (int64_t i = 0; i < streams; i++)
        after += l->streams[i].count;
    while (fathom_engine_step(l->engine) > 0)
        ;
    *rate = (double)(after - before) / seconds;
    return FATHOM_OK;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The times between tokens from `from` on, sorted; how many. */
static int64_t gaps_since(load *l, double from)
{
    int64_t n = 0;
    for (int64_t s = 0; s < l->c->streams; s++)
        for (int64_t i = 1; i < l->streams[s].count; i++)
            if (l->streams[s].at[i - 1] >= from)
                l->gaps[n++] = l->streams[s].at[i] - l->streams[s].at[i - 1];
    qsort(l->gaps, (size_t)n, sizeof *l->gaps, ascending);
    return n;
}

/* The median time between tokens of all streams but one, and the 99th percentile of it while that one's prompt is computed. */
static fathom_status stall(load *l, double *median, double *p99, fathom_error *err)
{
    const int64_t others = l->c->streams - 1, room = l->c->tokens;
    stream_times *late = &l->streams[others];
    for (int64_t i = 0; i < others; i++)
        TRY(submit(l, l->c->prompt, room, &l->streams[i], err));
    late->count = 0;
    begin(l, others);
    const double calm = timing_now();
    for (int64_t i = 0; i < room / 8; i++)
        fathom_engine_step(l->engine);
    const int64_t quiet = gaps_since(l, calm);
    *median = quiet > 0 ? l->gaps[quiet / 2] : NAN;
    TRY(submit(l, l->c->long_prompt, 2, late, err));
    const double from = timing_now();
    while (late->count == 0 && l->streams[0].count < room)
        fathom_engine_step(l->engine);
    if (late->count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--tokens: %lld: too few: the others ended while the prompt was computed",
                           (long long)room);
    const int64_t n = gaps_since(l, from);
    *p99 = n > 0 ? l->gaps[(int64_t)(0.99 * (double)(n - 1))] : NAN;
    while (fathom_engine_step(l->engine) > 0)
        ;
    return FATHOM_OK;
}

typedef struct figures {
    double one, many, ratio, median, p99; /* tokens/s; seconds */
    double routed;                        /* share of (token, router) pairs */
} figures;

static double routed_share(const load *l)
{
    const fathom_engine_stats s = fathom_engine_statistics(l->engine);
    int64_t routed = 0;
    for (int64_t i = 0; i < s.stages; i++)
        routed += s.routed[i];
    return s.stages > 0 ? (double)routed / (double)(s.stages * s.routable) : 1;
}

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
    l->room = calloc((size_t)(c->streams * c->tokens), sizeof *l->room);
    l->gaps = calloc((size_t)(c->streams * c->tokens), sizeof *l->gaps);
    l->ids = calloc((size_t)longest, sizeof *l->ids);
    if (!l->streams || !l->room || !l->gaps || !l->ids)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (int64_t i = 0; i < c->streams; i++)
        l->streams[i].at = l->room + i * c->tokens;
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
                           timing_median(of + 3 * rounds, c->rounds), timing_median(of + 4 * rounds, c->rounds), routed_share(&loads[j])};
    }
    *speed = timing_median(seen + 10 * rounds, c->rounds);
    free(seen);
    return status;
}

int bench_serve(const bench_command *command, const kernels *kn)
{
    bench_command c = *command;
    fathom_error err;
    model_config config[2];
    const int64_t needed = c.long_prompt + 2 > c.prompt + c.tokens ? c.long_prompt + 2 : c.prompt + c.tokens;
    if (c.shape.seq_len < needed)
        c.shape.seq_len = needed;
    if (bench_shapes(&c, &config[0], &config[1], &err) != FATHOM_OK)
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
    }
    if (status == FATHOM_OK)
        status = measure(&c, loads, count, f, &speed, &err);
    int code = status == FATHOM_OK ? EXIT_OK : cli_fail(&err);
    if (status == FATHOM_OK && c.json) {
        json_t *o = to_json(&f[0]);
        if (count == 2) {
            json_object_set_new(o, "mod", to_json(&f[1]));
            json_object_set_new(o, "speed_ratio", cli_number(speed));
        }
        code = cli_print_json(o);
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
