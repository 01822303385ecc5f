/* The runs of a study: which there are, training one, and reading what is finished. A study is a folder:
 *
 *     DIR/runs/NAME/        the run directory, until it is finished
 *     DIR/runs/NAME.lock    held by the process that trains it
 *     DIR/runs/NAME.json    its result
 *     DIR/lock              held while result files are written
 *
 * so runs can be spread over processes, a killed one goes on from its last checkpoint, and a later command adds to what is there. */
#ifndef FATHOM_STUDY_RUNS_H
#define FATHOM_STUDY_RUNS_H

#include <jansson.h>

#include "study/plan.h"
#include "train/trainer.h"

typedef struct study_options {
    const char *dir;
    const variant *variants;
    const double *budgets; /* training FLOPs of each run */
    const int64_t *widths; /* NULL: a ladder of `sizes` for each budget and variant */
    int64_t variant_count, budget_count, width_count, sizes;
    int64_t seeds; /* 1 .. seeds */
    int64_t seq_len, batch, vocab;
    double rate_factor; /* study_learning_rate */
    int threads; /* threads_choose */
    bool bf16; /* only where the backend multiplies bfloat16: results say what was trained */
} study_options;

typedef struct study_run {
    char name[128]; /* VARIANT-WIDTH-BUDGET-SEED: a file's name */
    const variant *variant;
    double budget;
    int64_t width, seed, steps;
    double learning_rate;
    model_config config;
} study_run;

/* Every run, small budgets and small models first. The caller frees *out. Refused: a budget that buys less than 20 steps. */
fathom_status study_runs(const study_options *o, study_run **out, int64_t *count, fathom_error *err);

typedef enum study_state { STUDY_OPEN, STUDY_TAKEN, STUDY_DONE } study_state;
/* Data that all runs share; borrowed. */
typedef struct study_data {
    const corpus_part *train, *heldout;
    const tokenizer *tokenizer;
    uint64_t fingerprint, heldout_fingerprint;
} study_data;
/* Refused by name: finished runs in the folder that were trained on other text, or with another sequence length, batch, rate or type of
 * products than this study's. */
fathom_status study_check_folder(const study_options *o, const study_data *data, fathom_error *err);
/* Trains the run unless it is done, or another process is at it: *state says what it found, DONE after training. A run that
 * diverges is done too, with losses of null. A run that is done but was trained otherwise (study_check_folder), or whose name stands for
 * another shape, budget or rate now, is refused by name. */
fathom_status study_train(const study_options *o, const study_run *run, const study_data *data, const train_observer *observer,
                          const volatile sig_atomic_t *stop, study_state *state, fathom_error *err);
/* How a run trains. */
train_options study_train_options(const study_options *o, const study_run *run);
/* Is the result there? */
bool study_is_done(const study_options *o, const study_run *run);

/* Waits until no other process writes the study's result files, and keeps them off until study_unlock. */
fathom_status study_lock(const char *dir, int *lock, fathom_error *err);
void study_unlock(int lock);

/* A finished run, as its file says. */
typedef struct study_result {
    char variant[VARIANT_NAME];
    double budget, flops, forward_flops_per_token, loss, loss_causal, ms_per_step, tokens_per_s;
    int64_t width, seed, size, params, steps, tokens;
    json_t *json; /* the whole object */
} study_result;
/* Every finished run in DIR/runs, by variant, budget, size and seed; study_results_free. Runs that were not trained alike (study_train) are
 * refused by name: their losses cannot be compared. */
fathom_status study_results(const char *dir, study_result **out, int64_t *count, fathom_error *err);
/* The run that a result is of, with the variant of its name: v is borrowed by *run. Refused where such a run has another shape now. */
fathom_status study_run_of(const study_options *o, const study_result *r, const variant *v, study_run *run, fathom_error *err);
void study_results_free(study_result *results, int64_t count);

#endif
