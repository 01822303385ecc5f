/* Step times, shape by shape in turn: see speed.h. */
#include "study/speed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/pool.h"
#include "base/timing.h"
#include "format/json.h"
#include "kernels/kernels.h"

enum { STEPS = 3, MOST_FILE = 16 << 20 };

/* The median of a few steps of one model after one that warms up; seconds. */
static fathom_status time_steps(const study_options *o, const study_run *run, const study_data *data, double *seconds, fathom_error *err)
{
    const kernels kn = kernels_cpu(o->threads);
    const train_options options = study_train_options(o, run);
    double taken[STEPS];
    model m = {0};
    trainer *t = NULL;
    fathom_status status = model_init(&m, &run->config, WEIGHT_F32, &kn, err);
    if (status == FATHOM_OK)
        status = model_randomize(&m, options.seed, err);
    if (status == FATHOM_OK)
        status = trainer_new(&(trainer_input){.m = &m, .options = &options, .train = data->train, .fingerprint = data->fingerprint}, &t, err);
    for (int i = -1; i < STEPS && status == FATHOM_OK; i++) {
        train_step_info info;
        const double began = timing_now();
        status = trainer_step(t, &info, err);
        if (i >= 0)
            taken[i] = timing_now() - began;
    }
    if (status == FATHOM_OK)
        *seconds = timing_median(taken, STEPS);
    trainer_free(t);
    model_free(&m);
    return status;
}

/* One of the shapes that are timed. */
typedef struct timed_shape {
    variant kind;
    study_run run;
    double seconds[STUDY_SPEED_ROUNDS];
} timed_shape;

/* What a study has finished, each shape once, in the order of study_results; the caller frees *out. */
static fathom_status find_shapes(const study_options *o, timed_shape **out, int64_t *count, fathom_error *err)
{
    study_result *results;
    int64_t n;
    *count = 0;
    TRY(study_results(o->dir, &results, &n, err));
    timed_shape *shapes = calloc((size_t)(n > 0 ? n : 1), sizeof *shapes);
    fathom_status status = shapes ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (int64_t i = 0; i < n && status == FATHOM_OK; i++) {
        timed_shape *s = &shapes[*count];
        status = variant_parse(results[i].variant, &s->kind, err);
        if (status == FATHOM_OK)
            status = study_run_of(o, &results[i], &s->kind, &s->run, err);
        bool known = false;
        for (int64_t j = 0; j < *count; j++)
            known |= shapes[j].run.width == results[i].width && strcmp(shapes[j].kind.name, results[i].variant) == 0;
        *count += !known;
    }
    study_results_free(results, n);
    if (status != FATHOM_OK)
        free(shapes);
    else
        *out = shapes;
    return status;
}

static fathom_status time_all(const study_options *o, timed_shape *shapes, int64_t count, const study_data *data,
                              const study_speed_observer *observer, const volatile sig_atomic_t *stop, fathom_error *err)
{
    for (int64_t r = 0; r < STUDY_SPEED_ROUNDS; r++) {
        for (int64_t i = 0; i < count; i++) {
            if (stop && *stop)
                return status_fail(err, FATHOM_INTERRUPTED, "interrupted");
            TRY(time_steps(o, &shapes[i].run, data, &shapes[i].seconds[r], err));
        }
        if (observer && observer->round)
            observer->round(observer->user, r + 1, STUDY_SPEED_ROUNDS);
    }
    return FATHOM_OK;
}

static bool is_shape(const json_t *shape, const char *variant, int64_t width)
{
    const char *name = json_string_value(json_object_get(shape, "variant"));
    return name && strcmp(name, variant) == 0 && json_integer_value(json_object_get(shape, "width")) == width;
}

/* DIR/speeds.json, or NULL in *out where there is none. */
static fathom_status read_speeds(const char *dir, json_t **out, fathom_error *err)
{
    char *path = path_join(dir, "speeds.json");
    *out = NULL;
    fathom_status status = path ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK && path_exists(path)) {
        status = json_file_read(path, MOST_FILE, out, err);
        const json_t *shape;
        size_t i;
        json_array_foreach(json_object_get(*out, "shapes"), i, shape)
            if (status == FATHOM_OK && !(json_number_value(json_object_get(shape, "ms_per_step")) > 0 &&
                                         json_number_value(json_object_get(shape, "tokens_per_s")) > 0))
                status = status_fail(err, FATHOM_FORMAT, "%s: shapes[%zu]: ms_per_step and tokens_per_s must be above 0", path, i);
    }
    if (status != FATHOM_OK) {
        json_decref(*out);
        *out = NULL;
    }
    free(path);
    return status;
}

static json_t *speeds_json(const study_options *o, timed_shape *shapes, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) {
        const double median = timing_median(shapes[i].seconds, STUDY_SPEED_ROUNDS);
        json_array_append_new(list, json_pack("{s:s, s:I, s:f, s:f}", "variant", shapes[i].kind.name, "width", (json_int_t)shapes[i].run.width,
                                              "ms_per_step", 1e3 * median, "tokens_per_s", (double)(o->batch * o->seq_len) / median));
    }
    return json_pack("{s:i, s:s, s:I, s:I, s:i, s:o}", "threads", threads_choose(o->threads), "dtype", o->bf16 ? "bf16" : "fp32", "batch",
                     (json_int_t)o->batch, "seq_len", (json_int_t)o->seq_len, "rounds", STUDY_SPEED_ROUNDS, "shapes", list);
}

static fathom_status write_speeds(const study_options *o, timed_shape *shapes, int64_t count, fathom_error *err)
{
    int lock = -1;
    char *path = path_join(o->dir, "speeds.json");
    fathom_status status = path ? study_lock(o->dir, &lock, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK)
        status = json_file_write(path, speeds_json(o, shapes, count), err);
    study_unlock(lock);
    free(path);
    return status;
}

fathom_status study_speed(const study_options *o, const study_data *data, const study_speed_observer *observer, const volatile sig_atomic_t *stop,
                          fathom_error *err)
{
    timed_shape *shapes;
    int64_t count;
    TRY(find_shapes(o, &shapes, &count, err));
    fathom_status status = time_all(o, shapes, count, data, observer, stop, err);
    if (status == FATHOM_OK)
        status = write_speeds(o, shapes, count, err);
    free(shapes);
    return status;
}

fathom_status study_speed_apply(const char *dir, study_result *results, int64_t count, int64_t *timed, fathom_error *err)
{
    json_t *root, *shape;
    size_t at;
    *timed = 0;
    TRY(read_speeds(dir, &root, err));
    for (int64_t i = 0; i < count && root; i++) { /* a shape that was not timed has no time: the run's own is of another hour and other threads */
        const char *const fields[] = {"ms_per_step", "tokens_per_s"};
        double *const to[] = {&results[i].ms_per_step, &results[i].tokens_per_s};
        const json_t *found = NULL;
        json_array_foreach(json_object_get(root, "shapes"), at, shape)
            if (!found && is_shape(shape, results[i].variant, results[i].width))
                found = shape;
        for (int f = 0; f < 2; f++) {
            json_t *value = found ? json_object_get(found, fields[f]) : NULL;
            *to[f] = value ? json_number_value(value) : NAN;
            json_object_set_new(results[i].json, fields[f], value ? json_incref(value) : json_null());
        }
        *timed += found != NULL;
    }
    json_decref(root);
    return FATHOM_OK;
}
