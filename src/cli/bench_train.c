/* fathom bench train: optimizer steps of one model, or of a plain and a routed one in turn. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/timing.h"
#include "cli/bench.h"
#include "model/flops.h"
#include "train/trainer.h"

/* Random tokens: speed does not depend on what they say. */
static fathom_status random_tokens(int64_t count, int64_t vocab, int32_t **out, fathom_error *err)
{
    *out = malloc((size_t)count * sizeof **out);
    if (!*out)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (int64_t i = 0; i < count; i++)
        (*out)[i] = (int32_t)((uint64_t)i * 2654435761u % (uint64_t)vocab);
    return FATHOM_OK;
}

/* A model in training and its measured steps. */
typedef struct subject {
    model m;
    int32_t *tokens;
    corpus_piece piece;
    corpus_part part;
    trainer *t;
    double flops; /* a step */
    size_t planned; /* bytes */
    double *seconds, *utilisation;
} subject;

static fathom_status subject_open(subject *s, const bench_command *c, const model_config *config, const kernels *kn,
                                  fathom_error *err)
{
    train_options options = train_options_default();
    options.steps = c->steps + 1;
    options.batch = c->batch;
    options.bf16 = c->bf16;
    options.recompute = c->recompute;
    s->seconds = calloc((size_t)c->steps, sizeof *s->seconds);
    s->utilisation = calloc((size_t)c->steps, sizeof *s->utilisation);
    s->flops = flops_train(config, c->batch, config->seq_len);
    if (!s->seconds || !s->utilisation)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    const train_memory memory = train_memory_plan(config, &options, false, kn);
    s->planned = memory.total;
    TRY(train_memory_check(&memory, memory_available(), err));
    TRY(model_init(&s->m, config, WEIGHT_F32, kn, err));
    TRY(model_randomize(&s->m, 1, err));
    const int64_t count = 4 * c->batch * config->seq_len + 1;
    TRY(random_tokens(count, config->vocab, &s->tokens, err));
    s->piece = (corpus_piece){.ids = s->tokens, .count = count};
    s->part = (corpus_part){&s->piece, 1, count};
    return trainer_new(&(trainer_input){.m = &s->m, .options = &options, .train = &s->part}, &s->t, err);
}

static void subject_close(subject *s)
{
    trainer_free(s->t);
    free(s->tokens);
    free(s->seconds);
    free(s->utilisation);
    model_free(&s->m);
}

static fathom_status take_step(subject *s, int64_t i, const model_probe *probe, double *ceiling, fathom_error *err)
{
    train_step_info info;
    const double before = *ceiling, began = timing_now();
    TRY(trainer_step(s->t, &info, err));
    s->seconds[i] = timing_now() - began;
    *ceiling = model_probe_rate(probe);
    s->utilisation[i] = s->flops / s->seconds[i] / (0.5 * (before + *ceiling));
    return FATHOM_OK;
}

static json_t *figures(const bench_command *c, const subject *s)
{
    const double seconds = timing_median(s->seconds, c->steps), utilisation = timing_median(s->utilisation, c->steps);
    const double rate = s->flops / seconds;
    json_t *o = json_object();
    json_object_set_new(o, "tokens_per_s", json_real((double)(c->batch * s->m.config.seq_len) / seconds));
    json_object_set_new(o, "ms_per_step", json_real(1e3 * seconds));
    json_object_set_new(o, "gflops", json_real(rate * 1e-9));
    json_object_set_new(o, "gemm_gflops", json_real(rate / utilisation * 1e-9));
    json_object_set_new(o, "utilisation", json_real(utilisation));
    json_object_set_new(o, "planned_bytes", json_real((double)s->planned));
    return o;
}

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_figures(const char *name, const json_t *o)
{
    printf("%s%.0f tokens/s, %.1f ms a step, %.1f GFLOP/s; matrix products reach %.1f GFLOP/s here: utilisation %.3f\n", name,
           number(o, "tokens_per_s"), number(o, "ms_per_step"), number(o, "gflops"), number(o, "gemm_gflops"),
           number(o, "utilisation"));
}

/* The median of the ratios of steps that follow each other. */
static double step_ratio(const bench_command *c, const subject *plain, const subject *routed)
{
    double *ratio = calloc((size_t)c->steps, sizeof *ratio), median = NAN;
    for (int64_t i = 0; ratio && i < c->steps; i++)
        ratio[i] = routed->seconds[i] / plain->seconds[i];
    if (ratio)
        median = timing_median(ratio, c->steps);
    free(ratio);
    return median;
}

static int report(const bench_command *c, const subject *plain, const subject *routed)
{
    json_t *o = figures(c, plain);
    if (!c->compare_mod) {
        if (c->json)
            return bench_print_json(c, o);
        print_figures("", o);
        json_decref(o);
        return EXIT_OK;
    }
    json_t *mod = figures(c, routed);
    const double ratio = step_ratio(c, plain, routed), flops_ratio = routed->flops / plain->flops;
    if (!c->json) {
        print_figures("plain  ", o);
        print_figures("MoD    ", mod);
        printf("MoD / plain: step time %.3f, FLOPs %.3f: step time is %.3f x the FLOPs\n", ratio, flops_ratio, ratio / flops_ratio);
        json_decref(o);
        json_decref(mod);
        return EXIT_OK;
    }
    json_object_set_new(o, "mod", mod);
    json_object_set_new(o, "step_ratio", json_real(ratio));
    json_object_set_new(o, "flops_ratio", json_real(flops_ratio));
    return bench_print_json(c, o);
}

static fathom_status measure(const bench_command *c, subject subjects[2], profile *prof, const model_probe *probe, fathom_error *err)
{
    const int count = c->compare_mod ? 2 : 1;
    train_step_info info;
    for (int j = 0; j < count; j++)
        TRY(trainer_step(subjects[j].t, &info, err)); /* warm-up */
    profile_reset(prof);
    double ceiling = model_probe_rate(probe);
    for (int64_t i = 0; i < c->steps; i++)
        for (int j = 0; j < count; j++) {
            TRY(take_step(&subjects[j], i, probe, &ceiling, err));
            if (!c->json)
                fprintf(stderr, "%sstep %lld/%lld  %.1f ms, utilisation %.3f\n", count == 1 ? "" : j ? "MoD " : "plain ",
                        (long long)i + 1, (long long)c->steps, 1e3 * subjects[j].seconds[i], subjects[j].utilisation[i]);
        }
    return FATHOM_OK;
}

int bench_train(const bench_command *c, const kernels *backend)
{
    fathom_error err;
    model_config config[2];
    if (bench_shapes(c, &config[0], &config[1], &err) != FATHOM_OK)
        return cli_usage(&err);
    profile prof;
    const kernels timed = profile_start(&prof, backend), *kn = c->profile ? &timed : backend;
    subject subjects[2] = {0};
    model_probe probe = {0};
    fathom_status status = FATHOM_OK;
    for (int j = 0; j < (c->compare_mod ? 2 : 1) && status == FATHOM_OK; j++)
        status = subject_open(&subjects[j], c, &config[j], kn, &err);
    if (status == FATHOM_OK)
        status = model_probe_open(&probe, backend, &config[0], c->batch * config[0].seq_len, c->bf16, &err);
    if (status == FATHOM_OK)
        status = measure(c, subjects, &prof, &probe, &err);
    double seconds = 0;
    for (int64_t i = 0; status == FATHOM_OK && i < c->steps; i++)
        seconds += subjects[0].seconds[i] + (c->compare_mod ? subjects[1].seconds[i] : 0);
    if (status == FATHOM_OK && c->profile)
        bench_print_profile(&prof, c->steps, seconds);
    const int code = status == FATHOM_OK ? report(c, &subjects[0], &subjects[1]) : cli_fail(&err);
    model_probe_close(&probe);
    subject_close(&subjects[0]);
    subject_close(&subjects[1]);
    return code;
}
