/* What the measurements of fathom bench share: the command's options, and probes for the machine's ceilings. The machine may be
 * shared, and its speed drifts; so a ceiling is probed right before and after what is compared with it, and a figure is the
 * median of such ratios. */
#ifndef FATHOM_CLI_BENCH_H
#define FATHOM_CLI_BENCH_H

#include "base/cpu_wait.h"
#include "cli/cli.h"
#include "infer/session.h"
#include "kernels/profile.h"
#include "kernels/weight.h"

typedef struct bench_command {
    model_flags shape;
    int64_t batch, steps, threads, tokens, rounds, streams, prompt, long_prompt, prefill_tokens;
    bool json, profile, compare_mod;
    const char *dtype, *weights_name;
    bool bf16, recompute;
    weight_type weights;
    cpu_wait before; /* the measurement */
} bench_command;

int bench_train(const bench_command *c, const kernels *kn);
int bench_decode(const bench_command *c, const kernels *kn);
int bench_prefill(const bench_command *c, const kernels *kn);
int bench_serve(const bench_command *c, const kernels *kn);

/* C [m, n] = A [m, k] B [n, k]^T, again and again. With bf16 the operands are rounded beforehand: what is probed is the product
 * alone. */
typedef struct gemm_probe {
    const kernels *kn;
    void *block;
    gemm_args args;
} gemm_probe;
fathom_status gemm_probe_open(gemm_probe *p, const kernels *kn, int64_t m, int64_t n, int64_t k, bool bf16,
                              fathom_error *err);
/* FLOP/s: the best of single products over some `seconds`. */
double gemm_probe_rate(const gemm_probe *p, double seconds);
void gemm_probe_close(gemm_probe *p);

/* The ceiling of a model's passes: the better of large square products and of the model's own, B T x 2 f x d. */
typedef struct model_probe {
    gemm_probe square, shape;
} model_probe;
fathom_status model_probe_open(model_probe *p, const kernels *kn, const model_config *c, int64_t tokens, bool bf16,
                               fathom_error *err);
double model_probe_rate(const model_probe *p);
void model_probe_close(model_probe *p);

/* Bytes a second that reading a buffer larger than any cache reaches. */
typedef struct read_probe {
    const kernels *kn;
    float *block;
} read_probe;
fathom_status read_probe_open(read_probe *p, const kernels *kn, fathom_error *err);
double read_probe_rate(const read_probe *p);
void read_probe_close(read_probe *p);

/* Prints o, which it takes, with "waited": the share of the time since c->before in which threads had to wait for a processor. */
int bench_print_json(const bench_command *c, json_t *o);

/* Where `seconds` went, on stderr: an operation a line, per one of `times` steps, and what no operation accounts for. */
void bench_print_profile(profile *p, int64_t times, double seconds);

/* Thresholds that let through the capacity's share of tokens: a model that was not trained routes as one that was. Collects up to
 * `tokens` decisions of each stage, sets the thresholds by them and begins anew. */
typedef struct calibration {
    float *logit; /* [stages, tokens] */
    int64_t *seen, tokens;
} calibration;
fathom_status calibration_open(calibration *cal, const model_config *c, int64_t tokens, fathom_error *err);
void calibration_collect(void *cal, int64_t stage, const route *r, int64_t B, int64_t T); /* a route_visitor */
void calibration_apply(calibration *cal, model_config *c);
void calibration_close(calibration *cal);

/* A model with random weights of c's type whose thresholds let through the capacity's share of `tokens` tokens: routed as one that was
 * trained. No tokenizer; model_free(&out->m). */
fathom_status bench_random_model(const bench_command *c, const model_config *config, const kernels *kn, fathom_model *out, fathom_error *err);

/* c with its routed twin's options: what --compare-mod measures beside the plain model. */
fathom_status bench_shapes(const bench_command *c, model_config *plain, model_config *routed, fathom_error *err);
/* The same, of models that infer as if they had been trained: refused where experts would take tokens by chance. */
fathom_status bench_infer_shapes(const bench_command *c, model_config *plain, model_config *routed, fathom_error *err);

#endif
