/* The training loop: batches -> forward and backward -> clip -> AdamW -> log, evaluations and checkpoints, until the budget is
 * spent. A step is a pure function of (state, step number), so a resumed run continues bit for bit. */
#ifndef FATHOM_TRAIN_TRAINER_H
#define FATHOM_TRAIN_TRAINER_H

#include <signal.h>

#include "model/model.h"
#include "text/corpus.h"
#include "train/evaluate.h"

/* A run's budget is exactly one of steps, flops and epochs; the others are 0. */
typedef struct train_options {
    int64_t steps;
    double flops, epochs;
    int64_t batch, grad_accum; /* sequences a batch, batches a step */
    double lr, min_lr;         /* peak and final learning rate; min_lr < 0: lr / 10 */
    int64_t warmup;            /* steps; < 0: 2 % of the run, at least 10 */
    double weight_decay, clip; /* clip: largest gradient norm; 0 = off */
    double beta1, beta2, epsilon;
    uint64_t seed;
    int64_t capacity_warmup;   /* steps in which the capacity falls from 1 to the model's own, along a line; 0 = none */
    int64_t eval_every, save_every, log_every; /* steps; 0 = at the end only */
    double save_minutes;       /* a checkpoint when so many minutes have passed without one; 0 = none by the clock */
    int64_t eval_tokens;                       /* held-out tokens an evaluation reads; 0 = all */
    bool tensorboard; /* log.jsonl's scalars as TensorBoard events too */
    bool bf16;      /* products with inputs rounded to bfloat16, where the backend can; all else stays fp32 */
    bool recompute; /* keep only each block's input and run its forward pass again in the backward one: the same bits */
} train_options;

train_options train_options_default(void);
fathom_status train_options_check(const train_options *o, fathom_error *err);
/* Steps that the budget buys: steps; flops / FLOPs of a step, rounded (steps of the capacity's warm-up take more); or the steps of the
 * epochs, rounded up. At least 1. */
int64_t train_total_steps(const train_options *o, const model_config *c, int64_t train_windows);
/* How much of the way from the model's capacity to 1 a step goes: 1 in the first one of the warm-up, 0 after it. */
double train_widening(const train_options *o, int64_t step);
/* Learning rate of step `step` in [0, total): linear warm-up, then cosine to min_lr. */
double train_learning_rate(const train_options *o, int64_t step, int64_t total);

typedef struct train_step_info {
    int64_t step, total; /* steps done, including this one */
    int64_t tokens;
    double flops, loss, lr, grad_norm, tokens_per_s;
    double aux_loss, router_accuracy; /* NaN for a model without a learned causal rule */
    double dropped; /* token-choice: share of (token, routed layer) pairs that found the block full; otherwise NaN */
    bool skipped;
    double seconds_left;
} train_step_info;

typedef struct train_eval_info {
    int64_t step;
    evaluation topk, causal; /* equal for a plain model */
} train_eval_info;

/* What the caller sees as it happens; each may be NULL. */
typedef struct train_observer {
    void *user;
    void (*step)(void *user, const train_step_info *info);
    void (*evaluated)(void *user, const train_eval_info *info);
    void (*saved)(void *user, int64_t step, const char *dir);
} train_observer;

typedef struct train_summary {
    int64_t steps, tokens, skipped, params;
    double flops, train_loss;
    evaluation topk, causal;   /* last evaluation */
    double tokens_per_s, ms_per_step; /* from the median step of this process; 0 when it made none */
} train_summary;

typedef struct trainer trainer;

/* data is what the run trains and is evaluated on, described by its fingerprint. A run directory that already holds a run
 * is refused unless resume; with resume and no checkpoint yet, training starts from the beginning. A checkpoint whose model,
 * options or data differ is refused by name. model's values are the starting point of a new run. All is borrowed. */
typedef struct trainer_input {
    model *m;
    const train_options *options;
    const corpus_part *train, *heldout;
    uint64_t fingerprint;
    const tokenizer *tokenizer; /* counts the bytes of what is evaluated; NULL: nobody asked */
    const char *dir;
    bool resume;
} trainer_input;
fathom_status trainer_new(const trainer_input *in, trainer **out, fathom_error *err);
void trainer_free(trainer *t);
int64_t trainer_step_number(const trainer *t);
int64_t trainer_total_steps(const trainer *t);

/* Runs to the end of the budget. *stop (may be NULL): when it becomes non-zero the step is finished, a checkpoint written and
 * FATHOM_INTERRUPTED returned. Ten steps in a row whose loss or gradient is not finite: FATHOM_DIVERGED. */
fathom_status trainer_run(trainer *t, const train_observer *observer, const volatile sig_atomic_t *stop,
                          train_summary *summary, fathom_error *err);

/* Bytes a run takes, known before it starts. evaluation: activations of held-out text. */
typedef struct train_memory {
    size_t parameters, gradients, moments, activations, evaluation, total;
} train_memory;
train_memory train_memory_plan(const model_config *c, const train_options *o, bool heldout, const kernels *kn);
/* FATHOM_OUT_OF_MEMORY, with the figures and what to do, when it is more than `available`. */
fathom_status train_memory_check(const train_memory *m, size_t available, fathom_error *err);

/* One optimizer step without log, evaluation or checkpoint: what the run repeats and the bench times. Allocates nothing. Fails where the
 * data does (corpus_part_read): the model is as the last step left it, and the trainer takes no more steps. */
fathom_status trainer_step(trainer *t, train_step_info *info, fathom_error *err);

/* The options saved in DIR by an earlier run, for --resume: *found is false when there is no checkpoint. */
fathom_status trainer_saved_options(const char *dir, train_options *out, bool *found, fathom_error *err);

#endif
