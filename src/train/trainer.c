/* The training loop: see trainer.h. */
#include "train/trainer.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/timing.h"
#include "format/hf_directory.h"
#include "model/flops.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"
#include "train/run_log.h"

enum { TIMED_STEPS = 512, MOST_SKIPPED_IN_A_ROW = 10, STATE_FORMAT = 1 };

/* What changes from step to step, and with parameters and moments is the whole state. */
typedef struct progress {
    int64_t step, tokens, sequences; /* sequences: position in the data */
    double flops;
    int64_t skipped, skipped_in_a_row;
    double last_loss; /* infinite before the first */
} progress;

struct trainer {
    model *m;
    train_options options;
    const char *dir;
    uint64_t fingerprint;
    batcher train_batches, heldout_batches;
    bool has_heldout;
    optimizer optimizer;
    workspace *ws;
    evaluator evaluator;
    int32_t *tokens, *targets; /* [batch, T] */
    int64_t total;
    progress at;
    double seconds[TIMED_STEPS]; /* ring of step times of this process */
    int64_t timed;
    train_eval_info evaluated;
    int64_t saved_step; /* of the last checkpoint; -1: none yet */
    double saved_at;    /* timing_now(), or when the run was taken up */
    bool save_due;
    run_log log; /* empty without a run directory */
    char *lock;  /* held from trainer_new to trainer_free, so that no two write one run directory */
    int lock_fd;
};

train_options train_options_default(void)
{
    return (train_options){.batch = 16, .grad_accum = 1, .lr = 1e-3, .min_lr = -1, .warmup = -1, .weight_decay = 0.1,
                           .clip = 1, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .seed = 1, .save_minutes = 10,
                           .log_every = 10, .eval_tokens = 65536};
}

static fathom_status refuse(fathom_error *err, const char *name, double value, const char *want)
{
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %g: must be %s", name, value, want);
}

fathom_status train_options_check(const train_options *o, fathom_error *err)
{
    if ((o->steps > 0) + (o->flops > 0) + (o->epochs > 0) != 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "exactly one of steps, flops and epochs must be given, above 0");
    const struct {
        const char *name;
        double value;
        bool good;
        const char *want;
    } checks[] = {
        {"batch", (double)o->batch, o->batch >= 1 && o->batch <= 1 << 20, "1 to 1048576"},
        {"grad-accum", (double)o->grad_accum, o->grad_accum >= 1 && o->grad_accum <= 1 << 20, "1 to 1048576"},
        {"lr", o->lr, o->lr > 0 && o->lr < 100, "above 0 and below 100"},
        {"min-lr", o->min_lr, o->min_lr <= o->lr, "at most lr"},
        {"weight-decay", o->weight_decay, o->weight_decay >= 0 && o->weight_decay < 100, "0 to 100"},
        {"clip", o->clip, o->clip >= 0 && isfinite(o->clip), "0 (off) or above"},
        {"beta1", o->beta1, o->beta1 >= 0 && o->beta1 < 1, "in [0, 1)"},
        {"beta2", o->beta2, o->beta2 >= 0 && o->beta2 < 1, "in [0, 1)"},
        {"epsilon", o->epsilon, o->epsilon > 0 && o->epsilon < 1, "in (0, 1)"},
        {"eval-every", (double)o->eval_every, o->eval_every >= 0, "0 or above"},
        {"save-every", (double)o->save_every, o->save_every >= 0, "0 or above"},
        {"save-minutes", o->save_minutes, o->save_minutes >= 0 && isfinite(o->save_minutes), "0 or above"},
        {"log-every", (double)o->log_every, o->log_every >= 0, "0 or above"},
        {"eval-tokens", (double)o->eval_tokens, o->eval_tokens >= 0, "0 or above"},
        {"mod-capacity-warmup", (double)o->capacity_warmup, o->capacity_warmup >= 0 && o->capacity_warmup <= 1 << 24, "0 to 16777216"},
        {"flops", o->flops, isfinite(o->flops), "finite"},
        {"epochs", o->epochs, isfinite(o->epochs), "finite"},
    };
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if (!checks[i].good)
            return refuse(err, checks[i].name, checks[i].value, checks[i].want);
    return FATHOM_OK;
}

double train_widening(const train_options *o, int64_t step)
{
    return step < o->capacity_warmup ? 1 - (double)step / (double)o->capacity_warmup : 0;
}

static double step_flops(const train_options *o, const model_config *c, int64_t step)
{
    return flops_train_widened(c, o->batch, c->seq_len, train_widening(o, step)) * (double)o->grad_accum;
}

/* Steps that come nearest to the budget. */
static double steps_for_flops(const train_options *o, const model_config *c)
{
    double spent = 0;
    int64_t step = 0;
    for (double next; step < o->capacity_warmup; step++, spent += next) {
        next = step_flops(o, c, step);
        if (spent + next / 2 > o->flops)
            return (double)step;
    }
    return (double)step + round((o->flops - spent) / step_flops(o, c, step));
}

int64_t train_total_steps(const train_options *o, const model_config *c, int64_t train_windows)
{
    double steps = (double)o->steps;
    const double sequences = (double)(o->batch * o->grad_accum);
    if (o->flops > 0)
        steps = steps_for_flops(o, c);
    else if (o->epochs > 0)
        steps = ceil(o->epochs * (double)train_windows / sequences);
    return steps < 1 ? 1 : steps > 1e15 ? (int64_t)1e15 : (int64_t)steps;
}

double train_learning_rate(const train_options *o, int64_t step, int64_t total)
{
    const double lowest = o->min_lr < 0 ? o->lr / 10 : o->min_lr;
    int64_t warmup = o->warmup >= 0 ? o->warmup : total / 50 > 10 ? total / 50 : 10;
    if (warmup > total / 2)
        warmup = total / 2;
    if (step < warmup)
        return o->lr * (double)(step + 1) / (double)(warmup + 1);
    const double done = total > warmup + 1 ? (double)(step - warmup) / (double)(total - 1 - warmup) : 0;
    return lowest + 0.5 * (o->lr - lowest) * (1 + cos(3.14159265358979323846 * done));
}

/* State as JSON: the options that fix the trajectory, the data's identity, and progress. One list of fields serves writing,
 * reading and comparing. */
#define OPTION_FIELDS(X)                                                                                             \
    X(steps, INTEGER) X(flops, REAL) X(epochs, REAL) X(batch, INTEGER) X(grad_accum, INTEGER) X(lr, REAL)             \
    X(min_lr, REAL) X(warmup, INTEGER) X(weight_decay, REAL) X(clip, REAL) X(beta1, REAL) X(beta2, REAL)              \
    X(epsilon, REAL) X(seed, INTEGER) X(eval_every, INTEGER) X(save_every, INTEGER) X(log_every, INTEGER)             \
    X(eval_tokens, INTEGER) X(bf16, INTEGER)
/* Missing in files of runs that were begun before they existed. */
#define LATER_OPTION_FIELDS(X) X(capacity_warmup, INTEGER) X(tensorboard, INTEGER) X(save_minutes, REAL) X(recompute, INTEGER)
#define PROGRESS_FIELDS(X)                                                                                           \
    X(step, INTEGER) X(tokens, INTEGER) X(sequences, INTEGER) X(flops, REAL) X(skipped, INTEGER)                      \
    X(skipped_in_a_row, INTEGER) X(last_loss, REAL)

#define MAKE_INTEGER(value) json_integer((json_int_t)(value))
#define MAKE_REAL(value) (isfinite(value) ? json_real(value) : json_null())

static json_t *state_to_json(const trainer *t)
{
    json_t *options = json_object(), *state = json_object();
#define PUT(name, kind) json_object_set_new(options, #name, MAKE_##kind(t->options.name));
    OPTION_FIELDS(PUT)
    LATER_OPTION_FIELDS(PUT)
#undef PUT
#define PUT(name, kind) json_object_set_new(state, #name, MAKE_##kind(t->at.name));
    PROGRESS_FIELDS(PUT)
#undef PUT
    char fingerprint[17];
    snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)t->fingerprint);
    json_object_set_new(state, "format", json_integer(STATE_FORMAT));
    json_object_set_new(state, "updates", json_integer((json_int_t)t->optimizer.updates));
    json_object_set_new(state, "total_steps", json_integer((json_int_t)t->total));
    json_object_set_new(state, "data", json_string(fingerprint));
    json_object_set_new(state, "options", options);
    return state;
}

static fathom_status bad_state(const char *dir, const char *field, fathom_error *err)
{
    return status_fail(err, FATHOM_FORMAT, "%s/trainer/state.json: %s: missing or of the wrong type", dir, field);
}

#define READ_INTEGER(at) (json_is_integer(at) ? (good = true, json_integer_value(at)) : (good = false, 0))
#define READ_REAL(at)                                                                  \
    (json_is_number(at) ? (good = true, json_number_value(at))                         \
                        : (good = json_is_null(at), (double)INFINITY))

static fathom_status options_from_json(const json_t *state, const char *dir, train_options *o, fathom_error *err)
{
    const json_t *options = json_object_get(state, "options");
    bool good;
#define GET(name, kind)                                              \
    o->name = READ_##kind(json_object_get(options, #name));          \
    if (!good)                                                       \
        return bad_state(dir, "options." #name, err);
    OPTION_FIELDS(GET)
#undef GET
#define GET(name, kind)                                                                   \
    o->name = 0;                                                                          \
    if (json_object_get(options, #name))                                                  \
        o->name = READ_##kind(json_object_get(options, #name));                           \
    if (!good)                                                                            \
        return bad_state(dir, "options." #name, err);
    LATER_OPTION_FIELDS(GET)
#undef GET
    return FATHOM_OK;
}

/* What no run can have reached would send the data's position or the budget anywhere. */
static fathom_status check_progress(const progress *p, int64_t updates, const char *dir, fathom_error *err)
{
    enum { MOST_BITS = 53 };
    const double most = (double)((int64_t)1 << MOST_BITS);
    const struct {
        const char *name;
        double value, least, most;
    } checks[] = {
        {"step", (double)p->step, 0, most},
        {"tokens", (double)p->tokens, 0, most},
        {"sequences", (double)p->sequences, 0, most},
        {"flops", p->flops, 0, 1e30},
        {"skipped", (double)p->skipped, 0, (double)p->step},
        {"skipped_in_a_row", (double)p->skipped_in_a_row, 0, (double)p->skipped},
        {"updates", (double)updates, 0, (double)p->step},
    };
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if (!(checks[i].value >= checks[i].least && checks[i].value <= checks[i].most))
            return status_fail(err, FATHOM_FORMAT, "%s/trainer/state.json: %s: %.20g: must be %.20g to %.20g", dir, checks[i].name,
                               checks[i].value, checks[i].least, checks[i].most);
    return FATHOM_OK;
}

static fathom_status progress_from_json(const json_t *state, const char *dir, progress *p, int64_t *updates,
                                        fathom_error *err)
{
    bool good;
#define GET(name, kind)                                              \
    p->name = READ_##kind(json_object_get(state, #name));            \
    if (!good)                                                       \
        return bad_state(dir, #name, err);
    PROGRESS_FIELDS(GET)
#undef GET
    *updates = READ_INTEGER(json_object_get(state, "updates"));
    return good ? check_progress(p, *updates, dir, err) : bad_state(dir, "updates", err);
}

static fathom_status check_format(const json_t *state, const char *dir, fathom_error *err)
{
    const json_t *format = json_object_get(state, "format");
    if (!json_is_integer(format))
        return bad_state(dir, "format", err);
    if (json_integer_value(format) != STATE_FORMAT)
        return status_fail(err, FATHOM_FORMAT, "%s/trainer/state.json: format: %lld: this version reads %d", dir,
                           (long long)json_integer_value(format), STATE_FORMAT);
    return FATHOM_OK;
}

fathom_status trainer_saved_options(const char *dir, train_options *out, bool *found, fathom_error *err)
{
    json_t *state;
    TRY(checkpoint_read_state(dir, &state, err));
    *found = state != NULL;
    fathom_status status = state ? check_format(state, dir, err) : FATHOM_OK;
    if (state && status == FATHOM_OK)
        status = options_from_json(state, dir, out, err);
    json_decref(state);
    return status;
}

static fathom_status differs(const char *dir, const char *name, fathom_error *err)
{
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: cannot resume: %s differs from the run's own", dir, name);
}

/* The value as it is typed. Below 0 stands for what is derived. */
static void say_value(char *out, size_t size, const char *field, double value)
{
    if (strcmp(field, "bf16") == 0)
        snprintf(out, size, "%s", value != 0 ? "bf16" : "fp32");
    else if (value < 0)
        snprintf(out, size, "its default");
    else
        snprintf(out, size, "%.10g", value);
}

/* field: an option's name in state.json. */
static fathom_status option_differs(const char *dir, const char *field, double given, double saved, fathom_error *err)
{
    static const char *const others[][2] = {{"bf16", "dtype"}, {"capacity_warmup", "mod-capacity-warmup"}};
    char option[32], ours[32], its[32];
    snprintf(option, sizeof option, "%s", field);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(field, others[i][0]) == 0)
            snprintf(option, sizeof option, "%s", others[i][1]);
    for (char *p = option; *p; p++)
        *p = *p == '_' ? '-' : *p;
    say_value(ours, sizeof ours, field, given);
    say_value(its, sizeof its, field, saved);
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: cannot resume: --%s: %s, the run's own is %s; --init starts a new run from "
                       "its model", dir, option, ours, its);
}

static const char *budget_of(const train_options *o, char *out, size_t size)
{
    if (o->flops > 0)
        snprintf(out, size, "--flops %.10g", o->flops);
    else if (o->epochs > 0)
        snprintf(out, size, "--epochs %.10g", o->epochs);
    else
        snprintf(out, size, "--steps %lld", (long long)o->steps);
    return out;
}

static fathom_status check_same_budget(const train_options *given, const train_options *saved, const char *dir, fathom_error *err)
{
    char ours[48], its[48];
    if (given->steps == saved->steps && given->flops == saved->flops && given->epochs == saved->epochs)
        return FATHOM_OK;
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: cannot resume: %s, the run's own is %s; --init starts a new run from its model", dir,
                       budget_of(given, ours, sizeof ours), budget_of(saved, its, sizeof its));
}

/* The trajectory must be the same; how often and where to log, evaluate and save may change. */
static fathom_status check_same_run(const trainer *t, const json_t *state, fathom_error *err)
{
    train_options saved;
    TRY(options_from_json(state, t->dir, &saved, err));
    TRY(check_same_budget(&t->options, &saved, t->dir, err));
    saved.eval_every = t->options.eval_every;
    saved.save_every = t->options.save_every;
    saved.save_minutes = t->options.save_minutes;
    saved.log_every = t->options.log_every;
    saved.eval_tokens = t->options.eval_tokens;
    saved.tensorboard = t->options.tensorboard;
    saved.recompute = t->options.recompute;
#define COMPARE(name, kind)                                                                                          \
    if (saved.name != t->options.name)                                                                               \
        return option_differs(t->dir, #name, (double)t->options.name, (double)saved.name, err);
    OPTION_FIELDS(COMPARE)
    LATER_OPTION_FIELDS(COMPARE)
#undef COMPARE
    const char *data = json_string_value(json_object_get(state, "data"));
    if (!data || strtoull(data, NULL, 16) != t->fingerprint)
        return differs(t->dir, "the training data (--data, or what of it is held out)", err);
    return FATHOM_OK;
}

static fathom_status resume(trainer *t, const json_t *state, fathom_error *err)
{
    char *path = path_join(t->dir, "config.json");
    model_config saved;
    fathom_status status = path ? hf_config_read(path, &saved, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    free(path);
    if (status == FATHOM_OK && !model_config_equal(&saved, &t->m->config))
        status = differs(t->dir, "the model's shape (config.json)", err);
    if (status == FATHOM_OK)
        status = check_format(state, t->dir, err);
    if (status == FATHOM_OK)
        status = check_same_run(t, state, err);
    if (status == FATHOM_OK)
        status = progress_from_json(state, t->dir, &t->at, &t->optimizer.updates, err);
    if (status == FATHOM_OK)
        status = checkpoint_read_values(t->dir, t->m, t->optimizer.moment1, t->optimizer.moment2, err);
    t->saved_step = t->at.step;
    if (status == FATHOM_OK && saved.mod.budgets > 0 && t->at.step < t->total) {
        t->m->config.mod.budgets = 0; /* calibrated for weights that will change now */
        status = hf_directory_write(t->dir, &t->m->config, WEIGHT_F32, err);
    }
    return status;
}

static fathom_status lock_run(trainer *t, fathom_error *err)
{
    t->lock = path_join(t->dir, "lock");
    if (!t->lock)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    TRY(file_lock(t->lock, &t->lock_fd, err));
    return t->lock_fd >= 0 ? FATHOM_OK : status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: another process trains it: it holds %s", t->dir, t->lock);
}

/* The first steps of a run. Where one was killed before its first checkpoint there is its config.json: with --resume another shape is a mistake. */
static fathom_status begin(trainer *t, bool resume_wanted, fathom_error *err)
{
    char *path = path_join(t->dir, "config.json");
    model_config saved;
    fathom_status status = path ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK && resume_wanted && path_exists(path)) {
        status = hf_config_read(path, &saved, err);
        if (status == FATHOM_OK && !model_config_equal(&saved, &t->m->config))
            status = status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: no checkpoint to resume from, and the shape differs from that of config.json: "
                                 "give the run's options again, or train into another folder", t->dir);
    }
    free(path);
    return status == FATHOM_OK ? hf_directory_write(t->dir, &t->m->config, WEIGHT_F32, err) : status;
}

static fathom_status open_run(trainer *t, bool resume_wanted, fathom_error *err)
{
    json_t *state = NULL;
    TRY(folder_create(t->dir, err));
    TRY(lock_run(t, err));
    TRY(checkpoint_read_state(t->dir, &state, err));
    const bool occupied = state || hf_directory_occupied(t->dir);
    fathom_status status = FATHOM_OK;
    if (occupied && !resume_wanted)
        status = status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: already holds a model; resume it or train into another folder",
                             t->dir);
    else if (state)
        status = resume(t, state, err);
    else if (occupied)
        status = status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: holds a model but no trainer state to resume from", t->dir);
    else
        status = begin(t, resume_wanted, err);
    json_decref(state);
    if (status == FATHOM_OK)
        status = run_log_open(t->dir, t->at.step, t->options.tensorboard && t->at.step < t->total, &t->log, err);
    return status;
}

static workspace_kind workspace_kind_of(const train_options *o)
{
    return (o->recompute ? WORKSPACE_RECOMPUTE : WORKSPACE_TRAIN) | (o->capacity_warmup > 0 ? WORKSPACE_WIDE : 0);
}

static fathom_status prepare(trainer *t, const trainer_input *in, fathom_error *err)
{
    const int64_t T = in->m->config.seq_len, batch = in->options->batch;
    TRY(train_options_check(in->options, err));
    if (in->options->capacity_warmup > 0 && model_routed_stages(&in->m->config) == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod-capacity-warmup: %lld: the model has no routed blocks",
                           (long long)in->options->capacity_warmup);
    TRY(batcher_init(&t->train_batches, in->train, T, in->options->seed, "training data", err));
    t->has_heldout = in->heldout && in->heldout->count > 1;
    if (t->has_heldout)
        t->heldout_batches = (batcher){.part = in->heldout, .T = T};
    const double first_step = step_flops(in->options, &in->m->config, 0);
    if (in->options->flops > 0 && in->options->flops < first_step / 2)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "flops: %g: less than half a step, which takes %.3g", in->options->flops, first_step);
    t->total = train_total_steps(in->options, &in->m->config, t->train_batches.windows);
    if (in->options->capacity_warmup > 0 && in->options->capacity_warmup >= t->total)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "mod-capacity-warmup: %lld: the run has %lld steps, and would end before the model's "
                           "own capacity", (long long)in->options->capacity_warmup, (long long)t->total);
    TRY(optimizer_init(&t->optimizer, in->m, err));
    in->m->bf16 = in->options->bf16 && in->m->kn.bf16(&in->m->kn);
    TRY(workspace_new(in->m, batch, T, workspace_kind_of(in->options), &t->ws, err));
    if (t->has_heldout) {
        TRY(evaluator_init(&t->evaluator, in->m, batch, T, err));
        t->evaluator.tokenizer = in->tokenizer;
    }
    t->tokens = calloc((size_t)(batch * T), sizeof *t->tokens);
    t->targets = calloc((size_t)(batch * T), sizeof *t->targets);
    if (!t->tokens || !t->targets)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    return in->dir ? open_run(t, in->resume, err) : FATHOM_OK;
}

fathom_status trainer_new(const trainer_input *in, trainer **out, fathom_error *err)
{
    *out = NULL;
    trainer *t = calloc(1, sizeof *t);
    if (!t)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    t->m = in->m;
    t->options = *in->options;
    t->dir = in->dir;
    t->fingerprint = in->fingerprint;
    t->at.last_loss = INFINITY;
    t->saved_step = -1;
    t->lock_fd = -1;
    fathom_status status = prepare(t, in, err);
    if (status != FATHOM_OK) {
        trainer_free(t);
        return status;
    }
    *out = t;
    return FATHOM_OK;
}

void trainer_free(trainer *t)
{
    if (!t)
        return;
    run_log_close(&t->log);
    evaluator_free(&t->evaluator);
    workspace_free(t->ws);
    optimizer_free(&t->optimizer, t->m);
    free(t->tokens);
    free(t->targets);
    if (t->lock_fd >= 0)
        file_unlock(t->lock, t->lock_fd);
    free(t->lock);
    free(t);
}

int64_t trainer_step_number(const trainer *t)
{
    return t->at.step;
}

int64_t trainer_total_steps(const trainer *t)
{
    return t->total;
}

train_memory train_memory_plan(const model_config *c, const train_options *o, bool heldout, const kernels *kn)
{
    model shape = {.config = *c, .kn = *kn, .bf16 = o->bf16 && kn->bf16(kn)};
    train_memory m = {0};
    if (param_list_build(c, &shape.list, NULL) != FATHOM_OK)
        return m;
    m.parameters = m.gradients = (size_t)shape.list.size * sizeof(float);
    m.moments = 2 * m.parameters;
    m.activations = workspace_bytes(&shape, o->batch, c->seq_len, workspace_kind_of(o));
    if (heldout)
        m.evaluation = workspace_bytes(&shape, o->batch, c->seq_len, WORKSPACE_FORWARD);
    const size_t parts[] = {m.parameters, m.gradients, m.moments, m.activations, m.evaluation};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        m.total = m.total > SIZE_MAX - parts[i] ? SIZE_MAX : m.total + parts[i];
    param_list_free(&shape.list);
    return m;
}

fathom_status train_memory_check(const train_memory *m, size_t available, fathom_error *err)
{
    if (m->total <= available)
        return FATHOM_OK;
    return status_fail(err, FATHOM_OUT_OF_MEMORY,
                       "training takes %.2f GB of memory (parameters %.2f, gradients %.2f, moments %.2f, activations %.2f, "
                       "evaluation %.2f) and %.2f GB are available: make batch, seq-len or the model smaller, or recompute "
                       "activations (--recompute)",
                       (double)m->total * 1e-9, (double)m->parameters * 1e-9, (double)m->gradients * 1e-9,
                       (double)m->moments * 1e-9, (double)m->activations * 1e-9, (double)m->evaluation * 1e-9,
                       (double)available * 1e-9);
}

static double median_step_seconds(const trainer *t)
{
    double sorted[TIMED_STEPS];
    const int64_t n = t->timed < TIMED_STEPS ? t->timed : TIMED_STEPS;
    memcpy(sorted, t->seconds, (size_t)n * sizeof *sorted);
    return timing_median(sorted, n);
}

static fathom_status accumulate_gradients(trainer *t, pass_result *total, fathom_error *err)
{
    const int64_t batch = t->options.batch, T = t->m->config.seq_len, accum = t->options.grad_accum;
    *total = (pass_result){0};
    for (int64_t a = 0; a < accum; a++) {
        TRY(batcher_train(&t->train_batches, t->at.sequences + a * batch, batch, t->tokens, t->targets, err));
        const train_input in = {.tokens = t->tokens, .targets = t->targets, .total_targets = batch * accum * T,
                                .scale = 1 / (float)accum, .seed = t->options.seed, .widen = train_widening(&t->options, t->at.step),
                                .noise_counter = (uint64_t)(t->at.sequences + a * batch) * (uint64_t)T};
        const pass_result p = transformer_train(t->ws, &t->optimizer.grad_views, &in);
        total->loss_sum += p.loss_sum;
        total->targets += p.targets;
        total->aux_loss += p.aux_loss / (double)accum;
        total->agreed += p.agreed;
        total->dropped += p.dropped;
        total->decided += p.decided;
    }
    return FATHOM_OK;
}

fathom_status trainer_step(trainer *t, train_step_info *info, fathom_error *err)
{
    const train_options *o = &t->options;
    const double began = timing_now();
    pass_result r;
    TRY(accumulate_gradients(t, &r, err));
    const grad_norms norms = optimizer_grad_norms(&t->optimizer, t->m);
    const double loss = r.loss_sum / (double)r.targets;
    const double lr = train_learning_rate(o, t->at.step, t->total);
    const bool good = isfinite(norms.model) && isfinite(norms.predictors) && isfinite(loss);
    if (good)
        optimizer_update(&t->optimizer, t->m,
                         &(optimizer_step){.lr = (float)lr, .beta1 = (float)o->beta1, .beta2 = (float)o->beta2,
                                           .epsilon = (float)o->epsilon, .weight_decay = (float)o->weight_decay,
                                           .clip = (float)o->clip},
                         norms);
    else
        optimizer_skip(&t->optimizer, t->m);
    t->at.flops += step_flops(o, &t->m->config, t->at.step);
    t->at.step++;
    t->at.sequences += o->batch * o->grad_accum;
    t->at.tokens += r.targets;
    t->at.skipped += !good;
    t->at.skipped_in_a_row = good ? 0 : t->at.skipped_in_a_row + 1;
    if (good)
        t->at.last_loss = loss;
    const double seconds = timing_now() - began;
    t->seconds[t->timed++ % TIMED_STEPS] = seconds;
    *info = (train_step_info){.step = t->at.step, .total = t->total, .tokens = t->at.tokens, .flops = t->at.flops,
                              .loss = loss, .lr = lr, .grad_norm = isfinite(norms.predictors) ? norms.model : norms.predictors, .tokens_per_s = (double)r.targets / seconds,
                              .aux_loss = r.decided || t->m->config.experts.count > 0 ? r.aux_loss : NAN,
                              .router_accuracy = r.decided ? (double)r.agreed / (double)r.decided : NAN,
                              .dropped = t->m->config.mod.router == MOD_ROUTER_TOKEN_CHOICE
                                             ? (double)r.dropped / (double)r.decided : NAN,
                              .skipped = !good, .seconds_left = seconds * (double)(t->total - t->at.step)};
    return FATHOM_OK;
}

static fathom_status save(trainer *t, const train_observer *observer, fathom_error *err)
{
    TRY(run_log_check(&t->log, err));
    json_t *state = state_to_json(t);
    if (!state)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    fathom_status status = checkpoint_save(t->dir, t->m, t->optimizer.moment1, t->optimizer.moment2, state, err);
    json_decref(state);
    if (status != FATHOM_OK)
        return status;
    t->saved_step = t->at.step;
    t->saved_at = timing_now();
    t->save_due = false;
    if (observer->saved)
        observer->saved(observer->user, t->at.step, t->dir);
    return FATHOM_OK;
}

static fathom_status evaluate(trainer *t, const train_observer *observer, const train_step_info *at, fathom_error *err)
{
    if (!t->has_heldout)
        return FATHOM_OK;
    const int64_t tokens = t->options.eval_tokens;
    t->evaluated.step = t->at.step;
    TRY(evaluator_run(&t->evaluator, &t->heldout_batches, ROUTING_TOPK, tokens, &t->evaluated.topk, err));
    if (model_causal_as_trained(&t->m->config))
        t->evaluated.causal = t->evaluated.topk;
    else
        TRY(evaluator_run(&t->evaluator, &t->heldout_batches, ROUTING_CAUSAL, tokens, &t->evaluated.causal, err));
    if (t->timed > 0) /* a finished run that is resumed says nothing new */
        run_log_evaluation(&t->log, at, &t->evaluated);
    if (observer->evaluated)
        observer->evaluated(observer->user, &t->evaluated);
    return FATHOM_OK;
}

static void summarize(const trainer *t, train_summary *out)
{
    const double seconds = median_step_seconds(t);
    const double tokens = (double)(t->options.batch * t->options.grad_accum * t->m->config.seq_len);
    *out = (train_summary){.steps = t->at.step, .tokens = t->at.tokens, .skipped = t->at.skipped,
                           .params = t->m->list.size, .flops = t->at.flops, .train_loss = t->at.last_loss,
                           .topk = t->evaluated.topk, .causal = t->evaluated.causal, .ms_per_step = 1e3 * seconds,
                           .tokens_per_s = seconds > 0 ? tokens / seconds : 0};
}

static bool due(int64_t every, int64_t step)
{
    return every > 0 && step % every == 0;
}

static bool due_by_clock(const trainer *t)
{
    return t->options.save_minutes > 0 && timing_now() - t->saved_at >= 60 * t->options.save_minutes;
}

static fathom_status interrupted(const trainer *t, fathom_error *err)
{
    const long long step = t->at.step, total = t->total, kept = t->saved_step;
    if (kept == step)
        return status_fail(err, FATHOM_INTERRUPTED, "%s: interrupted after step %lld of %lld; resume to go on", t->dir, step, total);
    if (kept < 0)
        return status_fail(err, FATHOM_INTERRUPTED, "%s: interrupted after step %lld of %lld, which was not finite; there is no checkpoint", t->dir,
                           step, total);
    return status_fail(err, FATHOM_INTERRUPTED, "%s: interrupted after step %lld of %lld, which was not finite; the checkpoint of step %lld is kept",
                       t->dir, step, total, kept);
}

/* Steps until the budget is spent, each with what is due after it. */
static fathom_status run_steps(trainer *t, const train_observer *observer, const volatile sig_atomic_t *stop, train_step_info *info,
                               fathom_error *err)
{
    while (t->at.step < t->total) {
        TRY(trainer_step(t, info, err));
        const bool last = t->at.step == t->total;
        info->seconds_left = median_step_seconds(t) * (double)(t->total - t->at.step);
        if (info->skipped || last || due(t->options.log_every, info->step))
            run_log_step(&t->log, info);
        if (observer->step)
            observer->step(observer->user, info);
        if (t->at.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW)
            return status_fail(err, FATHOM_DIVERGED, "%s: step %lld: loss or gradient not finite in %d steps in a row; "
                               "the last checkpoint is kept", t->dir, (long long)info->step, MOST_SKIPPED_IN_A_ROW);
        if (!last && due(t->options.eval_every, info->step))
            TRY(evaluate(t, observer, info, err));
        const bool stopping = stop && *stop;
        t->save_due |= stopping || due(t->options.save_every, info->step) || due_by_clock(t);
        if (t->save_due && t->at.skipped_in_a_row == 0) /* after a bad step the parameters may be bad: the last checkpoint is worth more */
            TRY(save(t, observer, err));
        if (stopping && !last)
            return interrupted(t, err);
    }
    return FATHOM_OK;
}

/* After the last evaluation: is what there is worth to take the last checkpoint's place? After a bad step only if it evaluates to something: on
 * what is held out, or without that on the last batch, whose gradient alone was bad then. */
static fathom_status check_end(const trainer *t, const train_step_info *last, fathom_error *err)
{
    const long long bad = t->at.skipped_in_a_row, kept = t->saved_step;
    const bool sound = t->has_heldout ? isfinite(t->evaluated.topk.loss) && isfinite(t->evaluated.causal.loss) : isfinite(last->loss);
    if (bad == 0 || kept == t->at.step || sound)
        return FATHOM_OK;
    if (kept < 0)
        return status_fail(err, FATHOM_DIVERGED, "%s: loss or gradient not finite in the last %lld steps; there is no checkpoint", t->dir, bad);
    return status_fail(err, FATHOM_DIVERGED, "%s: loss or gradient not finite in the last %lld steps; the checkpoint of step %lld is kept", t->dir,
                       bad, kept);
}

static fathom_status run(trainer *t, const train_observer *observer, const volatile sig_atomic_t *stop, fathom_error *err)
{
    train_step_info info = {.step = t->at.step, .tokens = t->at.tokens, .flops = t->at.flops};
    t->saved_at = timing_now();
    fathom_status status = run_steps(t, observer, stop, &info, err);
    if (status == FATHOM_OK)
        status = evaluate(t, observer, &info, err);
    if (status == FATHOM_OK)
        status = check_end(t, &info, err);
    if (status == FATHOM_OK)
        return t->saved_step == t->at.step ? run_log_check(&t->log, err) : save(t, observer, err);
    if (t->saved_step != t->at.step && t->at.step > 0 && t->at.skipped_in_a_row == 0)
        save(t, observer, NULL); /* data that cannot be read end the run, but take nothing of it along */
    return status;
}

fathom_status trainer_run(trainer *t, const train_observer *observer, const volatile sig_atomic_t *stop,
                          train_summary *summary, fathom_error *err)
{
    const train_observer silent = {0};
    fathom_status status = run(t, observer ? observer : &silent, stop, err);
    summarize(t, summary);
    return status;
}
