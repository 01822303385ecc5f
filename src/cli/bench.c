/* fathom bench: speed, beside the ceiling that the machine reaches in the same run. */
#include "cli/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timing.h"

/* --- probes --- */

fathom_status gemm_probe_open(gemm_probe *p, const kernels *kn, int64_t m, int64_t n, int64_t k, bool bf16, fathom_error *err)
{
    const int64_t operands = m * k + n * k;
    const size_t scratch = kn->scratch_bytes(kn, &(kernel_sizes){.bf16_floats = bf16 ? operands : 0});
    *p = (gemm_probe){.kn = kn, .block = kn->mem_alloc(kn, (size_t)(operands * 4 + m * n * 4) + scratch)};
    if (!p->block)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    float *c = p->block;
    p->args = (gemm_args){.trans_b = true, .m = m, .n = n, .k = k, .lda = k, .ldb = k, .c = c, .ldc = n, .alpha = 1,
                          .bf16 = bf16, .scratch = c + m * n + operands};
    if (bf16) {
        uint16_t *a = (uint16_t *)(c + m * n);
        for (int64_t i = 0; i < operands; i++)
            a[i] = bf16_round((float)(i % 7) - 3);
        p->args.a16 = a;
        p->args.b16 = a + m * k;
    } else {
        float *a = c + m * n;
        for (int64_t i = 0; i < operands; i++)
            a[i] = (float)(i % 7) - 3;
        p->args.a = a;
        p->args.b = a + m * k;
    }
    kn->gemm(kn, &p->args);
    return FATHOM_OK;
}

double gemm_probe_rate(const gemm_probe *p, double seconds)
{
    const double flops = 2.0 * (double)p->args.m * (double)p->args.n * (double)p->args.k, start = timing_now();
    double best = 0;
    for (double began = start; began - start < seconds;) {
        p->kn->gemm(p->kn, &p->args);
        const double now = timing_now();
        best = fmax(best, flops / (now - began));
        began = now;
    }
    return best;
}

void gemm_probe_close(gemm_probe *p)
{
    if (p->block)
        p->kn->mem_free(p->kn, p->block);
    *p = (gemm_probe){0};
}

enum { SQUARE = 2048 };

fathom_status model_probe_open(model_probe *p, const kernels *kn, const model_config *c, int64_t tokens, bool bf16,
                               fathom_error *err)
{
    *p = (model_probe){0};
    TRY(gemm_probe_open(&p->square, kn, SQUARE, SQUARE, SQUARE, bf16, err));
    return gemm_probe_open(&p->shape, kn, tokens, 2 * c->ffn, c->dim, bf16, err);
}

double model_probe_rate(const model_probe *p)
{
    return fmax(gemm_probe_rate(&p->square, 0.08), gemm_probe_rate(&p->shape, 0.04));
}

void model_probe_close(model_probe *p)
{
    gemm_probe_close(&p->square);
    gemm_probe_close(&p->shape);
}

enum { READ_FLOATS = 64 << 20 };

fathom_status read_probe_open(read_probe *p, const kernels *kn, fathom_error *err)
{
    const size_t bytes = (size_t)READ_FLOATS * sizeof(float);
    *p = (read_probe){.kn = kn, .block = kn->mem_alloc(kn, bytes)};
    if (!p->block)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    memset(p->block, 0, bytes);
    return FATHOM_OK;
}

/* The mean over a while, as what it is compared with is. */
double read_probe_rate(const read_probe *p)
{
    volatile float sink = 0;
    const double began = timing_now();
    double seconds;
    int64_t reads = 0;
    do {
        sink = sink + kernels_read_all(p->kn, p->block, READ_FLOATS);
        reads++;
        seconds = timing_now() - began;
    } while (seconds < 0.1);
    return (double)reads * (double)READ_FLOATS * sizeof(float) / seconds;
}

void read_probe_close(read_probe *p)
{
    if (p->block)
        p->kn->mem_free(p->kn, p->block);
    *p = (read_probe){0};
}

void bench_print_profile(profile *p, int64_t times, double seconds)
{
    double within = 0;
    profile_sort(p);
    fprintf(stderr, "%-36s %7s %9s %7s %9s %7s\n", "operation", "calls", "ms", "share", "GFLOP/s", "GB/s");
    for (int i = 0; i < p->count; i++) {
        const profile_line *l = &p->lines[i];
        within += l->seconds;
        fprintf(stderr, "%-36s %7.1f %9.3f %6.2f%% %9.1f %7.1f\n", l->name, (double)l->calls / (double)times,
                1e3 * l->seconds / (double)times, 100 * l->seconds / seconds, l->flops / l->seconds * 1e-9,
                l->bytes / l->seconds * 1e-9);
    }
    fprintf(stderr, "%-36s %7s %9.3f %6.2f%%\n", "the rest", "", 1e3 * (seconds - within) / (double)times,
            100 * (seconds - within) / seconds);
}

int bench_print_json(const bench_command *c, json_t *o)
{
    json_object_set_new(o, "waited", json_real(cpu_wait_share(&c->before)));
    return cli_print_json(o);
}

/* --- the command --- */

static const double BUSY_SHARE = 0.05; /* of waiting, from which on the machine is called busy */

fathom_status bench_shapes(const bench_command *c, model_config *plain, model_config *routed, fathom_error *err)
{
    model_flags shape = c->shape;
    TRY(model_flags_build(&shape, 256, plain, err));
    if (!c->compare_mod)
        return FATHOM_OK;
    if (strcmp(shape.mod, "none") == 0)
        shape.mod = "topk";
    TRY(model_flags_build(&shape, 256, routed, err));
    shape.mod = "none";
    return model_flags_build(&shape, 256, plain, err);
}

fathom_status bench_infer_shapes(const bench_command *c, model_config *plain, model_config *routed, fathom_error *err)
{
    TRY(bench_shapes(c, plain, routed, err));
    const model_config *const shapes[] = {plain, routed};
    for (int j = 0; j < (c->compare_mod ? 2 : 1); j++)
        if (model_has_expert_predictor(shapes[j]) || shapes[j]->experts.mode == EXPERT_MODE_INTEGRATED)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--expert-router: experts of a model that was not trained take tokens by chance: this "
                               "bench needs token-choice, and no no-op experts");
    return FATHOM_OK;
}

static double print_size(const bench_command *c, const kernels *kn, int64_t size, bool bf16)
{
    gemm_probe p;
    fathom_error err;
    const double rate = gemm_probe_open(&p, kn, size, size, size, bf16, &err) == FATHOM_OK ? gemm_probe_rate(&p, 0.3) : 0;
    gemm_probe_close(&p);
    if (!c->json)
        printf("%s %5lld x %lld x %lld  %8.1f GFLOP/s\n", bf16 ? "bf16" : "fp32", (long long)size, (long long)size,
               (long long)size, rate * 1e-9);
    return rate;
}

/* Every ceiling of this machine: fp32, bf16 where there is one, reading. */
static int bench_gemm(const bench_command *c, const kernels *kn)
{
    const int64_t sizes[] = {128, 256, 512, 1024, SQUARE};
    double best[2] = {0, 0};
    for (int bf16 = 0; bf16 <= kn->bf16(kn); bf16++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            best[bf16] = fmax(best[bf16], print_size(c, kn, sizes[i], bf16));
    read_probe r;
    fathom_error err;
    if (read_probe_open(&r, kn, &err) != FATHOM_OK)
        return cli_fail(&err);
    const double read = read_probe_rate(&r);
    read_probe_close(&r);
    if (!c->json) {
        printf("ceiling %.1f GFLOP/s fp32, %.1f bf16, reading %.1f GB/s, on %d threads\n", best[0] * 1e-9, best[1] * 1e-9,
               read * 1e-9, kn->threads);
        return EXIT_OK;
    }
    json_t *o = json_object();
    json_object_set_new(o, "gemm_gflops", json_real(best[0] * 1e-9));
    json_object_set_new(o, "gemm_bf16_gflops", best[1] > 0 ? json_real(best[1] * 1e-9) : json_null());
    json_object_set_new(o, "read_gb_per_s", json_real(read * 1e-9));
    json_object_set_new(o, "threads", json_integer(kn->threads));
    return bench_print_json(c, o);
}

static const struct {
    const char *name;
    int (*run)(const bench_command *c, const kernels *kn);
} measurements[] = {{"train", bench_train}, {"decode", bench_decode}, {"prefill", bench_prefill}, {"serve", bench_serve},
                    {"gemm", bench_gemm}};

static fathom_status check(bench_command *c, const char *what, int *chosen, fathom_error *err)
{
    const struct {
        const char *name;
        int64_t value;
    } counts[] = {{"batch", c->batch}, {"steps", c->steps}, {"tokens", c->tokens}, {"rounds", c->rounds}, {"streams", c->streams},
                  {"prompt", c->prompt}, {"prefill-tokens", c->prefill_tokens}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].value < 1 || counts[i].value > 1 << 20)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: %lld: must be 1 to 1048576", counts[i].name,
                               (long long)counts[i].value);
    if (c->long_prompt < 0 || c->long_prompt > 1 << 20 || (c->long_prompt > 0 && c->streams < 2))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--long-prompt: %lld: must be 0 to 1048576, with 2 streams or more",
                           (long long)c->long_prompt);
    TRY(threads_check(c->threads, err));
    TRY(train_dtype_parse(c->dtype, &c->bf16, err));
    if (!weight_type_parse(c->weights_name, &c->weights))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--weights: %s: must be one of fp32, bf16, q8", c->weights_name);
    for (size_t i = 0; i < sizeof measurements / sizeof *measurements; i++)
        if (strcmp(what, measurements[i].name) == 0) {
            if (measurements[i].run == bench_gemm && !model_flags_untouched(&c->shape))
                return status_fail(err, FATHOM_INVALID_ARGUMENT, "bench: gemm: multiplies matrices of its own: --layers, --mod and their kin do "
                                   "not go with it");
            *chosen = (int)i;
            return FATHOM_OK;
        }
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "bench: %s: must be train, decode, prefill, serve or gemm",
                       *what ? what : "nothing");
}

int command_bench(int argc, char **argv)
{
    bench_command c = {.shape = model_flags_default(), .batch = 16, .steps = 5, .tokens = 128, .rounds = 9, .dtype = "fp32",
                       .weights_name = "fp32", .streams = 32, .prompt = 16, .prefill_tokens = 64};
    const option table[] = {
        MODEL_OPTIONS(&c.shape),
        {OPTION_HEADING, "measuring", 0, 0, 0},
        {OPTION_INTEGER, "batch", &c.batch, "N", "train: sequences a step (16)"},
        {OPTION_INTEGER, "steps", &c.steps, "N", "train: steps to time (5); the median counts"},
        {OPTION_TEXT, "dtype", &c.dtype, "T", "train: fp32, or bf16 inputs of products (fp32)"},
        {OPTION_FLAG, "recompute", &c.recompute, 0, "train: compute activations again in the backward pass"},
        {OPTION_INTEGER, "tokens", &c.tokens, "N", "decode, prefill, serve: tokens, of serve a stream (128)"},
        {OPTION_INTEGER, "rounds", &c.rounds, "N", "decode, prefill, serve: times to repeat (9); the median counts"},
        {OPTION_TEXT, "weights", &c.weights_name, "T", "decode, prefill, serve: fp32, bf16, q8 (fp32)"},
        {OPTION_INTEGER, "streams", &c.streams, "N", "serve: sequences side by side, against one (32)"},
        {OPTION_INTEGER, "prompt", &c.prompt, "N", "serve: tokens of each one's prompt (16)"},
        {OPTION_INTEGER, "long-prompt", &c.long_prompt, "N", "serve: and of one that comes while the others are under way; 0: none (0)"},
        {OPTION_INTEGER, "prefill-tokens", &c.prefill_tokens, "N", "serve: prompt tokens a step beside those that decode (64)"},
        {OPTION_FLAG, "compare-mod", &c.compare_mod, 0, "the plain and the routed model in turn, and their ratios"},
        {OPTION_FLAG, "profile", &c.profile, 0, "time, share, GFLOP/s and GB/s of every operation on stderr"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads (all)"},
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"bench", "train|decode|prefill|serve|gemm",
                              "Measures speed, beside the rate that the machine reaches in the same run.", table, 1};
    fathom_error err;
    options_result parsed;
    int chosen = 0;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK)
        status = check(&c, parsed.positional_count ? parsed.positional[0] : "", &chosen, &err);
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    const kernels kn = kernels_cpu((int)c.threads);
    c.before = cpu_wait_now();
    const int code = measurements[chosen].run(&c, &kn);
    const double waited = cpu_wait_share(&c.before);
    if (code == EXIT_OK && waited > BUSY_SHARE)
        fprintf(stderr, "busy machine: threads waited for a processor in %.0f %% of the time, so the figures above are too low\n", 100 * waited);
    options_free(&parsed);
    return code;
}
