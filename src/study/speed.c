/* Step times, shape by shape in turn: see speed.h. */
#include "study/speed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/timing.h"
#include "format/json.h"
#include "kernels/kernels.h"

enum { STEPS = 3, MOST_FILE = 16 << 20 };

/* The median of a few steps of one model after one that warms up; seconds. */
static fathom_status time_steps(const study_options *o, const study_run *run, const study_data *data, double *seconds, fathom_error *err)
{
    const kernels kn = kernels_cpu();
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

static bool same_shape(const study_run *a, const study_run *b)
{
    return a->width == b->width && strcmp(a->variant->name, b->variant->name) == 0;
}

/* seconds [shapes, STUDY_SPEED_ROUNDS] */
static fathom_status time_all(const study_options *o, const study_run *const *shapes, int64_t count, const study_data *data, double *seconds,
                              const study_speed_observer *observer, const volatile sig_atomic_t *stop, fathom_error *err)
{
    for (int64_t r = 0; r < STUDY_SPEED_ROUNDS; r++) {
        for (int64_t i = 0; i < count; i++) {
            if (stop && *stop)
                return status_fail(err, FATHOM_INTERRUPTED, "interrupted");
            TRY(time_steps(o, shapes[i], data, &seconds[i * STUDY_SPEED_ROUNDS + r], err));
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

/* How the shapes are timed; times of another way are not kept beside these. */
static json_t *way_of(const study_options *o)
{
    return json_pack("{s:i, s:s, s:I, s:I, s:i}", "threads", threads_count(), "dtype", o->bf16 ? "bf16" : "fp32", "batch",
                     (json_int_t)o->batch, "seq_len", (json_int_t)o->seq_len, "rounds", STUDY_SPEED_ROUNDS);
}

static bool same_way(const json_t *old, json_t *way)
{
    const json_t *value;
    const char *key;
    json_object_foreach(way, key, value)
        if (!json_equal(json_object_get(old, key), value))
            return false;
    return true;
}

/* Into root, a way: the shapes just timed, and those of old. */
static int put_shapes(json_t *root, const json_t *old, const study_options *o, const study_run *const *shapes, int64_t count,
                      double *seconds)
{
    json_t *list = json_array(), *shape;
    size_t at;
    const bool keep = same_way(old, root);
    int failed = json_object_set_new(root, "shapes", list);
    json_array_foreach(json_object_get(old, "shapes"), at, shape) {
        bool again = !keep;
        for (int64_t i = 0; i < count; i++)
            again |= is_shape(shape, shapes[i]->variant->name, shapes[i]->width);
        if (!again)
            failed |= json_array_append(list, shape);
    }
    for (int64_t i = 0; i < count; i++) {
        const double median = timing_median(&seconds[i * STUDY_SPEED_ROUNDS], STUDY_SPEED_ROUNDS);
        failed |= json_array_append_new(list, json_pack("{s:s, s:I, s:f, s:f}", "variant", shapes[i]->variant->name, "width",
                                                        (json_int_t)shapes[i]->width, "ms_per_step", 1e3 * median, "tokens_per_s",
                                                        (double)(o->batch * o->seq_len) / median));
    }
    return failed;
}

static fathom_status write_speeds(const study_options *o, const study_run *const *shapes, int64_t count, double *seconds, fathom_error *err)
{
    int lock = -1;
    json_t *old = NULL, *root = way_of(o);
    char *path = path_join(o->dir, "speeds.json");
    fathom_status status = root && path ? study_lock(o->dir, &lock, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK)
        status = read_speeds(o->dir, &old, err);
    if (status == FATHOM_OK && put_shapes(root, old, o, shapes, count, seconds) != 0)
        status = status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK)
        status = json_file_write(path, json_incref(root), err);
    study_unlock(lock);
    json_decref(root);
    json_decref(old);
    free(path);
    return status;
}

fathom_status study_speed(const study_options *o, const study_run *runs, int64_t count, const study_data *data,
                          const study_speed_observer *observer, const volatile sig_atomic_t *stop, fathom_error *err)
{
    const size_t most = (size_t)(count > 0 ? count : 1);
    const study_run **shapes = calloc(most, sizeof *shapes);
    double *seconds = calloc(most * STUDY_SPEED_ROUNDS, sizeof *seconds);
    int64_t n = 0;
    json_t *old = NULL;
    fathom_status status = shapes && seconds ? read_speeds(o->dir, &old, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    json_decref(old); /* only whether it is good, before minutes are spent */
    for (int64_t i = 0; i < count && status == FATHOM_OK; i++) {
        bool known = false;
        for (int64_t j = 0; j < n; j++)
            known |= same_shape(shapes[j], &runs[i]);
        if (!known)
            shapes[n++] = &runs[i];
    }
    if (status == FATHOM_OK)
        status = time_all(o, shapes, n, data, seconds, observer, stop, err);
    if (status == FATHOM_OK)
        status = write_speeds(o, shapes, n, seconds, err);
    free(seconds);
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
