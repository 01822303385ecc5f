/* fathom bench: speed, beside the ceiling that the machine reaches in the same run. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timing.h"
#include "cli/cli.h"
#include "infer/session.h"
#include "kernels/profile.h"
#include "model/flops.h"
#include "train/trainer.h"

typedef struct bench_command {
    model_flags shape;
    int64_t batch, steps, threads, tokens;
    bool json, profile;
} bench_command;

/* FLOP/s of C [m, n] = A [m, k] B [n, k]^T: the best of several rounds, as a ceiling should be. 0 when out of memory. */
static double gemm_rate(const kernels *kn, int64_t m, int64_t n, int64_t k)
{
    float *block = kn->mem_alloc(kn, (size_t)(m * k + n * k + m * n) * sizeof(float));
    if (!block)
        return 0;
    for (int64_t i = 0; i < m * k + n * k; i++)
        block[i] = (float)(i % 7) - 3;
    const gemm_args a = {.trans_b = true, .m = m, .n = n, .k = k, .a = block, .lda = k, .b = block + m * k, .ldb = k,
                         .c = block + m * k + n * k, .ldc = n, .alpha = 1};
    double best = 0;
    const double flops = 2.0 * (double)m * (double)n * (double)k;
    kn->gemm(kn, &a);
    for (int round = 0; round < 5; round++) {
        const double began = timing_now();
        int64_t calls = 0;
        do {
            kn->gemm(kn, &a);
            calls++;
        } while (timing_now() - began < 0.1);
        const double rate = (double)calls * flops / (timing_now() - began);
        best = rate > best ? rate : best;
    }
    kn->mem_free(kn, block);
    return best;
}

enum { SQUARE = 2048 };

static int bench_gemm(const bench_command *c, const kernels *kn)
{
    const int64_t sizes[] = {128, 256, 512, 1024, SQUARE};
    double best = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const double rate = gemm_rate(kn, sizes[i], sizes[i], sizes[i]);
        best = rate > best ? rate : best;
        if (!c->json)
            printf("%5lld x %lld x %lld  %8.1f GFLOP/s\n", (long long)sizes[i], (long long)sizes[i], (long long)sizes[i],
                   rate * 1e-9);
    }
    if (!c->json) {
        printf("ceiling %.1f GFLOP/s on %d threads\n", best * 1e-9, threads_count());
        return EXIT_OK;
    }
    json_t *o = json_object();
    json_object_set_new(o, "gemm_gflops", json_real(best * 1e-9));
    json_object_set_new(o, "threads", json_integer(threads_count()));
    return cli_print_json(o);
}

/* Random tokens: speed does not depend on what they say. */
static fathom_status random_part(int64_t count, int64_t vocab, corpus_part *out, fathom_error *err)
{
    *out = (corpus_part){.tokens = malloc((size_t)count * sizeof *out->tokens), .count = count, .bytes = count};
    if (!out->tokens)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (int64_t i = 0; i < count; i++)
        out->tokens[i] = (int32_t)((uint64_t)i * 2654435761u % (uint64_t)vocab);
    return FATHOM_OK;
}

/* Where the time went: an entry a line, and what no entry accounts for. */
static void print_profile(profile *p, int64_t steps, double seconds)
{
    double within = 0;
    profile_sort(p);
    fprintf(stderr, "%-36s %7s %9s %7s %9s %7s\n", "operation", "calls", "ms", "share", "GFLOP/s", "GB/s");
    for (int i = 0; i < p->count; i++) {
        const profile_line *l = &p->lines[i];
        within += l->seconds;
        fprintf(stderr, "%-36s %7.0f %9.2f %6.2f%% %9.1f %7.1f\n", l->name, (double)l->calls / (double)steps,
                1e3 * l->seconds / (double)steps, 100 * l->seconds / seconds, l->flops / l->seconds * 1e-9,
                l->bytes / l->seconds * 1e-9);
    }
    fprintf(stderr, "%-36s %7s %9.2f %6.2f%%\n", "the rest", "", 1e3 * (seconds - within) / (double)steps,
            100 * (seconds - within) / seconds);
}

static fathom_status time_training(const bench_command *c, const model_config *config, const kernels *backend,
                                   double *step_seconds, fathom_error *err)
{
    profile prof;
    const kernels timed = profile_start(&prof, backend), *kn = c->profile ? &timed : backend;
    double total = 0;
    model m;
    corpus_part part = {0};
    trainer *t = NULL;
    const int64_t T = config->seq_len;
    train_options options = train_options_default();
    options.steps = c->steps + 1;
    options.batch = c->batch;
    double *seconds = calloc((size_t)c->steps, sizeof *seconds);
    fathom_status status = model_init(&m, config, WEIGHT_F32, kn, err);
    if (status == FATHOM_OK)
        status = model_randomize(&m, 1, err);
    if (status == FATHOM_OK)
        status = random_part(4 * c->batch * T + 1, config->vocab, &part, err);
    if (status == FATHOM_OK)
        status = seconds ? trainer_new(&(trainer_input){.m = &m, .options = &options, .train = &part}, &t, err)
                         : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK) {
        train_step_info info;
        trainer_step(t, &info); /* warm-up */
        profile_reset(&prof);
        for (int64_t i = 0; i < c->steps; i++) {
            const double began = timing_now();
            trainer_step(t, &info);
            seconds[i] = timing_now() - began;
            total += seconds[i];
            if (!c->json)
                fprintf(stderr, "step %lld/%lld  %.1f ms\n", (long long)i + 1, (long long)c->steps, 1e3 * seconds[i]);
        }
        *step_seconds = timing_median(seconds, c->steps);
        if (c->profile)
            print_profile(&prof, c->steps, total);
    }
    trainer_free(t);
    free(part.tokens);
    free(seconds);
    model_free(&m);
    return status;
}

static int print_training(const bench_command *c, const model_config *config, double seconds, double ceiling)
{
    const double tokens = (double)(c->batch * config->seq_len), rate = flops_train(config, c->batch, config->seq_len) / seconds;
    if (!c->json) {
        printf("%.0f tokens/s, %.1f ms a step, %.1f GFLOP/s; matrix products reach %.1f GFLOP/s here: utilisation %.3f\n",
               tokens / seconds, 1e3 * seconds, rate * 1e-9, ceiling * 1e-9, rate / ceiling);
        return EXIT_OK;
    }
    json_t *o = json_object();
    json_object_set_new(o, "tokens_per_s", json_real(tokens / seconds));
    json_object_set_new(o, "ms_per_step", json_real(1e3 * seconds));
    json_object_set_new(o, "gflops", json_real(rate * 1e-9));
    json_object_set_new(o, "gemm_gflops", json_real(ceiling * 1e-9));
    json_object_set_new(o, "utilisation", json_real(rate / ceiling));
    return cli_print_json(o);
}

/* The ceiling is measured before and after, the better one counts: the machine may be busy at either time. */
static int bench_train(const bench_command *c, const kernels *kn)
{
    fathom_error err;
    model_config config;
    double seconds = 0;
    if (model_flags_build(&c->shape, 256, &config, &err) != FATHOM_OK)
        return cli_usage(&err);
    const double before = gemm_rate(kn, SQUARE, SQUARE, SQUARE);
    if (time_training(c, &config, kn, &seconds, &err) != FATHOM_OK)
        return cli_fail(&err);
    return print_training(c, &config, seconds, fmax(before, gemm_rate(kn, SQUARE, SQUARE, SQUARE)));
}

static fathom_status time_decoding(const bench_command *c, fathom_model *owner, double *step_seconds, double *flops,
                                   fathom_error *err)
{
    fathom_session *session;
    double *seconds = calloc((size_t)c->tokens, sizeof *seconds);
    if (!seconds)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    fathom_status status = fathom_session_new(owner, c->tokens + 1, &session, err);
    for (int64_t i = 0; status == FATHOM_OK && i <= c->tokens; i++) {
        const int32_t id = (int32_t)(i * 7919 % owner->m.config.vocab);
        const double began = timing_now();
        status = fathom_session_append(session, &id, 1, err);
        if (i > 0)
            seconds[i - 1] = timing_now() - began;
    }
    if (status == FATHOM_OK) {
        *step_seconds = timing_median(seconds, c->tokens);
        *flops = session_flops(session) / (double)(c->tokens + 1);
    }
    fathom_session_free(session);
    free(seconds);
    return status;
}

static int bench_decode(const bench_command *c, const kernels *kn)
{
    fathom_error err;
    model_config config;
    double seconds = 0, flops = 0;
    if (model_flags_build(&c->shape, 256, &config, &err) != FATHOM_OK)
        return cli_usage(&err);
    fathom_model owner = {0};
    fathom_status status = model_init(&owner.m, &config, WEIGHT_F32, kn, &err);
    if (status == FATHOM_OK)
        status = model_randomize(&owner.m, 1, &err);
    if (status == FATHOM_OK)
        status = time_decoding(c, &owner, &seconds, &flops, &err);
    model_free(&owner.m);
    if (status != FATHOM_OK)
        return cli_fail(&err);
    const double ceiling = gemm_rate(kn, SQUARE, SQUARE, SQUARE), rate = flops / seconds;
    if (!c->json) {
        printf("%.0f tokens/s, %.3f ms a token, %.2f GFLOP/s; matrix products reach %.1f GFLOP/s here\n", 1 / seconds,
               1e3 * seconds, rate * 1e-9, ceiling * 1e-9);
        return EXIT_OK;
    }
    json_t *o = json_object();
    json_object_set_new(o, "tokens_per_s", json_real(1 / seconds));
    json_object_set_new(o, "ms_per_step", json_real(1e3 * seconds));
    json_object_set_new(o, "gflops", json_real(rate * 1e-9));
    json_object_set_new(o, "gemm_gflops", json_real(ceiling * 1e-9));
    json_object_set_new(o, "utilisation", json_real(rate / ceiling));
    return cli_print_json(o);
}

int command_bench(int argc, char **argv)
{
    bench_command c = {.shape = model_flags_default(), .batch = 16, .steps = 5, .tokens = 128};
    const option table[] = {
        MODEL_OPTIONS(&c.shape),
        {OPTION_HEADING, "measuring", 0, 0, 0},
        {OPTION_INTEGER, "batch", &c.batch, "N", "sequences a training step (16)"},
        {OPTION_INTEGER, "steps", &c.steps, "N", "training steps to time (5); the median counts"},
        {OPTION_INTEGER, "tokens", &c.tokens, "N", "tokens to decode (128); the median counts"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads (all)"},
        {OPTION_FLAG, "profile", &c.profile, 0, "train: time, share, GFLOP/s and GB/s of every operation on stderr"},
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"bench", "train|decode|gemm", "Measures speed, beside the rate that matrix products reach in the same "
                              "run.", table, 1};
    fathom_error err;
    options_result parsed;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    const char *what = parsed.positional_count ? parsed.positional[0] : "";
    if (status == FATHOM_OK && (c.batch < 1 || c.batch > 1 << 20))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--batch: %lld: must be 1 to 1048576", (long long)c.batch);
    if (status == FATHOM_OK && (c.steps < 1 || c.steps > 1 << 20))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--steps: %lld: must be 1 to 1048576", (long long)c.steps);
    if (status == FATHOM_OK && (c.tokens < 1 || c.tokens > 1 << 20))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--tokens: %lld: must be 1 to 1048576", (long long)c.tokens);
    if (status == FATHOM_OK && strcmp(what, "train") != 0 && strcmp(what, "decode") != 0 && strcmp(what, "gemm") != 0)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "bench: %s: must be train, decode or gemm", *what ? what : "nothing");
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    threads_set((int)c.threads);
    const kernels kn = kernels_cpu();
    const int code = strcmp(what, "gemm") == 0    ? bench_gemm(&c, &kn)
                     : strcmp(what, "train") == 0 ? bench_train(&c, &kn)
                                                  : bench_decode(&c, &kn);
    options_free(&parsed);
    return code;
}
