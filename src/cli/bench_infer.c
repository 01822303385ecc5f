/* fathom bench decode and prefill: one sequence through a session, token by token or at once. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timing.h"
#include "cli/bench.h"
#include "infer/session.h"

/* A model, the sequence that goes through it and what was measured. */
typedef struct subject {
    fathom_model owner;
    fathom_session *session;
    int32_t *ids;
    double *seconds;     /* [rounds] a whole sequence */
    double *utilisation; /* [rounds] */
    double flops, routed, bytes; /* of a sequence; share of routed pairs; bytes of weights read a token */
} subject;

static void subject_close(subject *s)
{
    fathom_session_free(s->session);
    free(s->ids);
    free(s->seconds);
    free(s->utilisation);
    model_free(&s->owner.m);
}

static size_t weight_bytes(weight w, int64_t rows, int64_t columns)
{
    if (!w.data)
        return 0;
    return (size_t)(rows * columns) * weight_element_bytes(w.type) + (w.scale ? (size_t)rows * sizeof(float) : 0);
}

/* Bytes of weights that one token reads when a share `routed` of the routed blocks takes it; of experts it reads K. */
static double bytes_per_token(const model *m, double routed)
{
    const model_config *c = &m->config;
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    double bytes = (double)weight_bytes(m->weights.head, c->vocab, c->dim);
    for (int64_t s = 0; s < model_stages(c); s++) {
        const model_stage at = model_stage_at(c, s);
        const layer_weights *w = &m->weights.layer[at.layer];
        const double share = model_stage_routed(c, s) ? routed : 1, kv_share = c->mod.dense_kv ? 1 : share;
        const double mlp = (double)(weight_bytes(w->gate_up, 2 * c->ffn, c->dim) + weight_bytes(w->down, c->dim, c->ffn));
        if (at.attention)
            bytes += share * (double)(weight_bytes(w->qkv, q, c->dim) + weight_bytes(w->out, c->dim, q)) +
                     kv_share * (double)weight_bytes(w->qkv, 2 * kv, c->dim);
        if (at.mlp)
            bytes += share * mlp * (double)(c->experts.count > 0 ? c->experts.per_token : 1);
        if (at.mlp && c->experts.count > 0)
            bytes += share * (double)((c->experts.count + model_layer_no_ops(c, at.layer)) * c->dim) * sizeof(float) +
                     share * (double)weight_bytes(w->expert_fc1, c->experts.predictor_hidden, c->dim);
        if (model_stage_has_router(c, s))
            bytes += (double)c->dim * sizeof(float);
        bytes += (double)weight_bytes(m->weights.fc1[s], c->mod.predictor_hidden, c->dim);
    }
    return bytes;
}

fathom_status calibration_open(calibration *cal, const model_config *c, int64_t tokens, fathom_error *err)
{
    *cal = (calibration){.logit = calloc((size_t)(model_stages(c) * tokens), sizeof(float)),
                         .seen = calloc((size_t)model_stages(c), sizeof(int64_t)), .tokens = tokens};
    return cal->logit && cal->seen ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
}

void calibration_collect(void *user, int64_t stage, const route *r, int64_t B, int64_t T)
{
    calibration *cal = user;
    for (int64_t i = 0; i < B * T && cal->seen[stage] < cal->tokens; i++)
        cal->logit[stage * cal->tokens + cal->seen[stage]++] = r->rule[i];
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

void calibration_apply(calibration *cal, model_config *c)
{
    for (int64_t s = 0; s < model_stages(c); s++)
        if (model_stage_routed(c, s) && cal->seen[s] > 0) {
            float *z = cal->logit + s * cal->tokens;
            qsort(z, (size_t)cal->seen[s], sizeof *z, ascending);
            c->mod.threshold[s] = z[(int64_t)((1 - (double)c->mod.capacity[s]) * (double)(cal->seen[s] - 1))];
            cal->seen[s] = 0;
        }
}

void calibration_close(calibration *cal)
{
    free(cal->logit);
    free(cal->seen);
}

static fathom_status calibrate(fathom_model *owner, fathom_session *session, const int32_t *ids, int64_t tokens, fathom_error *err)
{
    calibration cal;
    fathom_status status = calibration_open(&cal, &owner->m.config, tokens, err);
    /* twice: what a layer sees depends on the thresholds of those before it */
    for (int pass = 0; pass < 2 && status == FATHOM_OK; pass++) {
        session_set_visitor(session, calibration_collect, &cal);
        fathom_session_reset(session);
        status = fathom_session_append(session, ids, (size_t)tokens, err);
        calibration_apply(&cal, &owner->m.config);
    }
    session_set_visitor(session, NULL, NULL);
    calibration_close(&cal);
    return status;
}

static void some_tokens(int32_t *ids, int64_t n, int64_t vocab)
{
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i * 7919 % vocab);
}

fathom_status bench_random_model(const bench_command *c, const model_config *config, const kernels *kn, fathom_model *out, fathom_error *err)
{
    model full;
    fathom_status status = model_init(&full, config, WEIGHT_F32, kn, err);
    if (status == FATHOM_OK)
        status = model_randomize(&full, 1, err);
    if (status == FATHOM_OK && c->weights != WEIGHT_F32) {
        status = model_reduce(&out->m, &full, c->weights, err);
        model_free(&full);
    } else {
        out->m = full;
    }
    if (status != FATHOM_OK || model_routed_stages(config) == 0)
        return status;
    fathom_session *session = NULL;
    int32_t *ids = calloc((size_t)c->tokens, sizeof *ids);
    status = ids ? fathom_session_new(out, c->tokens, &session, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK) {
        some_tokens(ids, c->tokens, config->vocab);
        status = calibrate(out, session, ids, c->tokens, err);
    }
    fathom_session_free(session);
    free(ids);
    return status;
}

static fathom_status subject_open(subject *s, const bench_command *c, const model_config *config, const kernels *kn,
                                  fathom_error *err)
{
    TRY(bench_random_model(c, config, kn, &s->owner, err));
    s->ids = calloc((size_t)c->tokens, sizeof *s->ids);
    s->seconds = calloc((size_t)c->rounds, sizeof *s->seconds);
    s->utilisation = calloc((size_t)c->rounds, sizeof *s->utilisation);
    if (!s->ids || !s->seconds || !s->utilisation)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    some_tokens(s->ids, c->tokens, config->vocab);
    return fathom_session_new(&s->owner, c->tokens, &s->session, err);
}

/* The sequence in steps of `step` tokens. */
static fathom_status run_sequence(subject *s, const bench_command *c, int64_t step, double *seconds, fathom_error *err)
{
    fathom_session_reset(s->session);
    const double began = timing_now();
    for (int64_t i = 0; i < c->tokens; i += step)
        TRY(fathom_session_append(s->session, s->ids + i, (size_t)(c->tokens - i < step ? c->tokens - i : step), err));
    *seconds = timing_now() - began;
    s->flops = session_flops(s->session);
    s->routed = fathom_session_routed_fraction(s->session);
    s->bytes = bytes_per_token(&s->owner.m, s->routed);
    return FATHOM_OK;
}

static json_t *figures(const bench_command *c, const subject *s, bool decoding)
{
    const double seconds = timing_median(s->seconds, c->rounds), tokens = (double)c->tokens;
    const double utilisation = timing_median(s->utilisation, c->rounds);
    json_t *o = json_object();
    json_object_set_new(o, "tokens_per_s", json_real(tokens / seconds));
    json_object_set_new(o, "ms_per_step", json_real(1e3 * seconds / (decoding ? tokens : 1)));
    json_object_set_new(o, "gflops", json_real(s->flops / seconds * 1e-9));
    if (decoding) {
        const double rate = s->bytes * tokens / seconds;
        json_object_set_new(o, "bytes_per_token", json_real(s->bytes));
        json_object_set_new(o, "gb_per_s", json_real(rate * 1e-9));
        json_object_set_new(o, "read_gb_per_s", json_real(rate / utilisation * 1e-9));
    } else {
        json_object_set_new(o, "gemm_gflops", json_real(s->flops / seconds / utilisation * 1e-9));
    }
    json_object_set_new(o, "routed_fraction", json_real(s->routed));
    json_object_set_new(o, "utilisation", json_real(utilisation));
    return o;
}

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_figures(const char *name, const json_t *o, bool decoding)
{
    if (decoding)
        printf("%s%.1f tokens/s, %.3f ms a token, %.1f MB of weights a token at %.1f GB/s; reading reaches %.1f GB/s here: "
               "utilisation %.3f; routed %.3f\n", name, number(o, "tokens_per_s"), number(o, "ms_per_step"),
               number(o, "bytes_per_token") * 1e-6, number(o, "gb_per_s"), number(o, "read_gb_per_s"),
               number(o, "utilisation"), number(o, "routed_fraction"));
    else
        printf("%s%.0f tokens/s, %.2f ms, %.1f GFLOP/s; matrix products reach %.1f GFLOP/s here: utilisation %.3f; "
               "routed %.3f\n", name, number(o, "tokens_per_s"), number(o, "ms_per_step"), number(o, "gflops"),
               number(o, "gemm_gflops"), number(o, "utilisation"), number(o, "routed_fraction"));
}

static int report(const bench_command *c, const subject subjects[2], bool decoding)
{
    json_t *o = figures(c, &subjects[0], decoding);
    if (!c->compare_mod) {
        if (c->json)
            return bench_print_json(c, o);
        print_figures("", o, decoding);
        json_decref(o);
        return EXIT_OK;
    }
    json_t *mod = figures(c, &subjects[1], decoding);
    double *ratio = calloc((size_t)c->rounds, sizeof *ratio), speed = NAN;
    for (int64_t i = 0; ratio && i < c->rounds; i++)
        ratio[i] = subjects[0].seconds[i] / subjects[1].seconds[i];
    if (ratio)
        speed = timing_median(ratio, c->rounds);
    free(ratio);
    const double work = decoding ? subjects[0].bytes / subjects[1].bytes : subjects[0].flops / subjects[1].flops;
    json_object_set_new(o, "speed_ratio", json_real(speed));
    json_object_set_new(o, decoding ? "bytes_ratio" : "flops_ratio", json_real(work));
    if (c->json) {
        json_object_set_new(o, "mod", mod);
        return bench_print_json(c, o);
    }
    print_figures("plain  ", o, decoding);
    print_figures("MoD    ", mod, decoding);
    printf("MoD / plain: %.3f x the tokens/s at %.3f x less %s: %.3f of it\n", speed, work, decoding ? "bytes" : "FLOPs",
           speed / work);
    json_decref(mod);
    json_decref(o);
    return EXIT_OK;
}

/* Rounds of both models in turn, with the ceiling probed between them. */
static fathom_status measure(const bench_command *c, subject subjects[2], const read_probe *read, const model_probe *gemm,
                             profile *prof, fathom_error *err)
{
    const int count = c->compare_mod ? 2 : 1;
    double ceiling = read ? read_probe_rate(read) : model_probe_rate(gemm), unused;
    for (int j = 0; j < count; j++)
        TRY(run_sequence(&subjects[j], c, read ? 1 : c->tokens, &unused, err));
    profile_reset(prof);
    double seconds = 0;
    for (int64_t i = 0; i < c->rounds; i++)
        for (int j = 0; j < count; j++) {
            subject *s = &subjects[j];
            TRY(run_sequence(s, c, read ? 1 : c->tokens, &s->seconds[i], err));
            seconds += s->seconds[i];
            const double before = ceiling;
            ceiling = read ? read_probe_rate(read) : model_probe_rate(gemm);
            const double work = read ? s->bytes * (double)c->tokens : s->flops;
            s->utilisation[i] = work / s->seconds[i] / (0.5 * (before + ceiling));
            if (!c->json)
                fprintf(stderr, "%sround %lld/%lld  %.2f ms a token, utilisation %.3f\n", count == 1 ? "" : j ? "MoD " : "plain ",
                        (long long)i + 1, (long long)c->rounds, 1e3 * s->seconds[i] / (double)c->tokens, s->utilisation[i]);
        }
    if (c->profile)
        bench_print_profile(prof, c->rounds * (read ? c->tokens : 1), seconds);
    return FATHOM_OK;
}

static int bench_infer(const bench_command *command, const kernels *backend, bool decoding)
{
    profile prof;
    const kernels timed = profile_start(&prof, backend), *kn = command->profile ? &timed : backend;
    fathom_error err;
    model_config config[2];
    bench_command c = *command;
    if (c.shape.seq_len < c.tokens)
        c.shape.seq_len = c.tokens;
    if (bench_infer_shapes(&c, &config[0], &config[1], &err) != FATHOM_OK)
        return cli_usage(&err);
    subject subjects[2] = {0};
    read_probe read = {0};
    model_probe gemm = {0};
    fathom_status status = decoding ? read_probe_open(&read, backend, &err)
                                    : model_probe_open(&gemm, backend, &config[0], c.tokens, false, &err);
    for (int j = 0; j < (c.compare_mod ? 2 : 1) && status == FATHOM_OK; j++)
        status = subject_open(&subjects[j], &c, &config[j], kn, &err);
    if (status == FATHOM_OK)
        status = measure(&c, subjects, decoding ? &read : NULL, &gemm, &prof, &err);
    const int code = status == FATHOM_OK ? report(&c, subjects, decoding) : cli_fail(&err);
    read_probe_close(&read);
    model_probe_close(&gemm);
    subject_close(&subjects[0]);
    subject_close(&subjects[1]);
    return code;
}

int bench_decode(const bench_command *c, const kernels *kn)
{
    return bench_infer(c, kn, true);
}

int bench_prefill(const bench_command *c, const kernels *kn)
{
    return bench_infer(c, kn, false);
}
