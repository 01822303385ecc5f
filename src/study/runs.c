/* The runs of a study: see runs.h. */
#include "study/runs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "format/json.h"
#include "model/flops.h"

enum { FEWEST_STEPS = 20, SAVES = 20, MOST_RESULT = 16 << 20, MOST_CURVE = 100, PATH_ROOM = 4096 };

static fathom_status no_memory(fathom_error *err)
{
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
}

train_options study_train_options(const study_options *o, const study_run *run)
{
    train_options t = train_options_default();
    t.flops = run->budget;
    t.batch = o->batch;
    t.lr = run->learning_rate;
    t.seed = (uint64_t)run->seed;
    t.bf16 = o->bf16;
    t.eval_tokens = 0;
    t.save_every = run->steps / SAVES > 10 ? run->steps / SAVES : 10;
    t.log_every = run->steps / MOST_CURVE > 1 ? run->steps / MOST_CURVE : 1;
    return t;
}

static fathom_status make_run(const study_options *o, const variant *v, double budget, int64_t width, int64_t seed, study_run *run,
                              fathom_error *err)
{
    *run = (study_run){.variant = v, .budget = budget, .width = width, .seed = seed,
                       .learning_rate = study_learning_rate(o->rate_factor, width)};
    snprintf(run->name, sizeof run->name, "%s-%lld-%g-%lld", v->name, (long long)width, budget, (long long)seed);
    TRY(study_shape(v, width, o->seq_len, o->vocab, &run->config, err));
    const train_options t = study_train_options(o, run);
    run->steps = train_total_steps(&t, &run->config, 1);
    if (run->steps < FEWEST_STEPS)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "budget %g: buys %lld steps of %s %lld: at least %d are needed", budget,
                           (long long)run->steps, v->name, (long long)width, FEWEST_STEPS);
    return FATHOM_OK;
}

static int in_order(const void *a, const void *b)
{
    const study_run *x = a, *y = b;
    if (x->budget != y->budget)
        return x->budget < y->budget ? -1 : 1;
    if (x->seed != y->seed)
        return x->seed < y->seed ? -1 : 1;
    if (x->width != y->width)
        return x->width < y->width ? -1 : 1;
    return strcmp(x->name, y->name);
}

fathom_status study_runs(const study_options *o, study_run **out, int64_t *count, fathom_error *err)
{
    const int64_t sizes = o->widths ? o->width_count : o->sizes, most = o->variant_count * o->budget_count * sizes * o->seeds;
    int64_t *ladder = calloc((size_t)(sizes > 0 ? sizes : 1), sizeof *ladder), n = 0;
    study_run *runs = calloc((size_t)(most > 0 ? most : 1), sizeof *runs);
    fathom_status status = ladder && runs ? FATHOM_OK : no_memory(err);
    for (int64_t b = 0; b < o->budget_count; b++)
        for (int64_t v = 0; v < o->variant_count && status == FATHOM_OK; v++) {
            const variant *kind = &o->variants[v];
            if (o->widths)
                memcpy(ladder, o->widths, (size_t)sizes * sizeof *ladder);
            else
                study_ladder(kind, o->budgets[b], sizes, o->seq_len, o->vocab, ladder);
            for (int64_t i = 0; i < sizes * o->seeds && status == FATHOM_OK; i++)
                status = make_run(o, kind, o->budgets[b], ladder[i / o->seeds], 1 + i % o->seeds, &runs[n++], err);
        }
    free(ladder);
    if (status != FATHOM_OK) {
        free(runs);
        return status;
    }
    qsort(runs, (size_t)n, sizeof *runs, in_order);
    *out = runs;
    *count = n;
    return FATHOM_OK;
}

static bool run_path(const study_options *o, const study_run *run, const char *ending, char path[PATH_ROOM])
{
    return snprintf(path, PATH_ROOM, "%s/runs/%s%s", o->dir, run->name, ending) < PATH_ROOM;
}

bool study_is_done(const study_options *o, const study_run *run)
{
    char path[PATH_ROOM];
    return run_path(o, run, ".json", path) && path_exists(path);
}

/* Pairs of training FLOPs and training loss from the run's log. */
static json_t *curve_of(const char *dir)
{
    json_t *curve = json_array();
    char path[PATH_ROOM], line[4096];
    FILE *log = snprintf(path, sizeof path, "%s/log.jsonl", dir) < PATH_ROOM ? fopen(path, "re") : NULL;
    while (log && fgets(line, sizeof line, log)) {
        json_t *o = json_loads(line, 0, NULL);
        const json_t *flops = json_object_get(o, "flops"), *loss = json_object_get(o, "loss");
        if (json_is_number(flops) && json_is_number(loss))
            json_array_append_new(curve, json_pack("[f, f]", json_number_value(flops), json_number_value(loss)));
        json_decref(o);
    }
    if (log)
        fclose(log);
    return curve;
}

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

/* What all runs of a folder must have in common, for their losses to be comparable. */
static json_t *setting_of(const study_options *o, const study_data *data)
{
    char text[32], heldout[32];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)data->fingerprint);
    snprintf(heldout, sizeof heldout, "%016llx", (unsigned long long)data->heldout_fingerprint);
    return json_pack("{s:s, s:s, s:I, s:I, s:o, s:s}", "text", text, "heldout", heldout, "seq_len", (json_int_t)o->seq_len, "batch",
                     (json_int_t)o->batch, "rate_factor", json_float((float)o->rate_factor), "dtype", o->bf16 ? "bf16" : "fp32");
}

/* setting: of a study; found: of the run at `path`. */
static fathom_status same_setting(const json_t *setting, const json_t *found, const char *path, fathom_error *err)
{
    json_t *value;
    const char *key;
    if (!json_is_object(setting))
        return status_fail(err, FATHOM_FORMAT, "%s: setting: missing: made by another version", path);
    json_object_foreach((json_t *)setting, key, value) {
        const json_t *other = json_object_get(found, key);
        if (!other)
            return status_fail(err, FATHOM_FORMAT, "%s: setting.%s: missing: made by another version", path, key);
        if (json_equal(other, value))
            continue;
        char theirs[64] = "", ours[64] = "";
        json_dumpb(other, theirs, sizeof theirs - 1, JSON_ENCODE_ANY);
        json_dumpb(value, ours, sizeof ours - 1, JSON_ENCODE_ANY);
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: setting.%s: %s, not this study's %s: give it a folder of its own", path, key, theirs,
                           ours);
    }
    return FATHOM_OK;
}

static fathom_status write_result(const study_options *o, const study_run *run, const study_data *data, const char *dir, const char *path,
                                  const train_summary *s, fathom_error *err)
{
    const model_config *c = &run->config;
    json_t *r = json_object();
    int failed = json_object_set_new(r, "variant", json_string(run->variant->name));
    failed |= json_object_set_new(r, "budget", json_real(run->budget));
    failed |= json_object_set_new(r, "width", json_integer(run->width));
    failed |= json_object_set_new(r, "layers", json_integer(c->layers));
    failed |= json_object_set_new(r, "seed", json_integer(run->seed));
    failed |= json_object_set_new(r, "learning_rate", json_real(run->learning_rate));
    failed |= json_object_set_new(r, "size", json_integer(study_size(c)));
    failed |= json_object_set_new(r, "params", json_integer((json_int_t)s->params));
    failed |= json_object_set_new(r, "steps", json_integer((json_int_t)s->steps));
    failed |= json_object_set_new(r, "tokens", json_integer((json_int_t)s->tokens));
    failed |= json_object_set_new(r, "flops", json_real(s->flops));
    failed |= json_object_set_new(r, "forward_flops_per_token", json_real(flops_forward(c, c->seq_len, true) / (double)c->seq_len));
    failed |= json_object_set_new(r, "train_loss", number(s->train_loss));
    failed |= json_object_set_new(r, "loss", number(s->topk.loss));
    failed |= json_object_set_new(r, "loss_causal", number(s->causal.loss));
    failed |= json_object_set_new(r, "heldout_bytes_per_token", number((double)s->topk.bytes / (double)s->topk.tokens));
    failed |= json_object_set_new(r, "router_accuracy", number(s->topk.router_accuracy));
    failed |= json_object_set_new(r, "routed_fraction_causal", number(s->causal.routed_fraction));
    const bool timed = s->ms_per_step > 0; /* not where another process made all the steps */
    failed |= json_object_set_new(r, "ms_per_step", number(timed ? s->ms_per_step : NAN));
    failed |= json_object_set_new(r, "tokens_per_s", number(timed ? s->tokens_per_s : NAN));
    failed |= json_object_set_new(r, "setting", setting_of(o, data));
    failed |= json_object_set_new(r, "curve", curve_of(dir));
    if (failed) {
        json_decref(r);
        return no_memory(err);
    }
    return json_file_write(path, r, err);
}

static void remove_run(const char *dir)
{
    char inner[PATH_ROOM + 16];
    const char *const folders[] = {"trainer", "trainer.new", ""};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(inner, sizeof inner, "%s/%s", dir, folders[i]);
        folder_remove(inner, NULL);
    }
}

static fathom_status train_model(const study_options *o, const study_run *run, const study_data *data, const char *dir, const char *result,
                                 const train_observer *observer, const volatile sig_atomic_t *stop, fathom_error *err)
{
    const kernels kn = kernels_cpu(o->threads);
    const train_options options = study_train_options(o, run);
    model m = {0};
    trainer *t = NULL;
    train_summary s;
    fathom_status status = model_init(&m, &run->config, WEIGHT_F32, &kn, err);
    if (status == FATHOM_OK)
        status = model_randomize(&m, options.seed, err);
    if (status == FATHOM_OK)
        status = trainer_new(&(trainer_input){.m = &m, .options = &options, .train = data->train, .heldout = data->heldout,
                                              .fingerprint = data->fingerprint, .tokenizer = data->tokenizer, .dir = dir,
                                              .resume = true}, &t, err);
    if (status == FATHOM_OK)
        status = trainer_run(t, observer, stop, &s, err);
    if (status == FATHOM_DIVERGED) { /* a finding like others: its losses are null, and the study goes on */
        s.train_loss = s.topk.loss = s.causal.loss = NAN;
        status = FATHOM_OK;
    }
    trainer_free(t);
    model_free(&m);
    if (status == FATHOM_OK)
        status = write_result(o, run, data, dir, result, &s, err);
    if (status == FATHOM_OK)
        remove_run(dir);
    return status;
}

/* Is the run at `path` of the shape and rate that its name stands for today? */
static fathom_status same_plan(const study_run *run, const json_t *found, const char *path, fathom_error *err)
{
    const struct {
        const char *name;
        double planned;
    } fields[] = {{"budget", run->budget}, {"layers", (double)run->config.layers}, {"size", (double)study_size(&run->config)}, {"learning_rate", run->learning_rate}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const double value = json_number_value(json_object_get(found, fields[i].name)), planned = fields[i].planned;
        if (!(fabs(value - planned) <= 1e-8 * planned)) /* files hold nine digits */
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %s: %.10g, a run of this name has %.10g now: give the study a folder of its own", path,
                               fields[i].name, value, planned);
    }
    return FATHOM_OK;
}

/* A finished run is one of this study's only if it was trained on the same text in the same way. */
static fathom_status check_setting(const study_options *o, const study_run *run, const study_data *data, const char *path, fathom_error *err)
{
    json_t *result = NULL, *setting = setting_of(o, data);
    fathom_status status = setting ? json_file_read(path, MOST_RESULT, &result, err) : no_memory(err);
    if (status == FATHOM_OK)
        status = same_setting(setting, json_object_get(result, "setting"), path, err);
    if (status == FATHOM_OK)
        status = same_plan(run, result, path, err);
    json_decref(result);
    json_decref(setting);
    return status;
}

static fathom_status make_runs_folder(const study_options *o, fathom_error *err)
{
    char *folder = path_join(o->dir, "runs");
    const fathom_status status = folder ? folder_create(folder, err) : no_memory(err);
    free(folder);
    return status;
}

fathom_status study_train(const study_options *o, const study_run *run, const study_data *data, const train_observer *observer,
                          const volatile sig_atomic_t *stop, study_state *state, fathom_error *err)
{
    char dir[PATH_ROOM], result[PATH_ROOM], lock[PATH_ROOM];
    *state = STUDY_DONE;
    if (!run_path(o, run, "", dir) || !run_path(o, run, ".json", result) || !run_path(o, run, ".lock", lock))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: the path is too long", o->dir);
    if (path_exists(result)) {
        TRY(check_setting(o, run, data, result, err));
        if (!path_exists(lock)) /* otherwise somebody was killed between the result and the end: what is left over goes */
            return FATHOM_OK;
    }
    TRY(make_runs_folder(o, err));
    int fd;
    fathom_status status = FATHOM_OK;
    TRY(file_lock(lock, &fd, err));
    if (fd < 0) {
        *state = STUDY_TAKEN;
        return FATHOM_OK;
    }
    if (path_exists(result))
        remove_run(dir);
    else
        status = train_model(o, run, data, dir, result, observer, stop, err);
    if (status == FATHOM_OK)
        file_unlock(lock, fd);
    else
        close(fd); /* the file stays beside what there is of the run */
    return status;
}

fathom_status study_lock(const char *dir, int *lock, fathom_error *err)
{
    char path[PATH_ROOM];
    if (snprintf(path, sizeof path, "%s/lock", dir) >= PATH_ROOM)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: the path is too long", dir);
    *lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*lock < 0)
        return status_fail(err, FATHOM_IO, "%s: cannot write: %s", path, strerror(errno));
    if (flock(*lock, LOCK_EX) != 0)
        return status_fail(err, FATHOM_IO, "%s: cannot lock: %s", path, strerror(errno));
    return FATHOM_OK;
}

void study_unlock(int lock)
{
    if (lock >= 0)
        close(lock);
}

/* --- what is finished --- */

static fathom_status real_field(const json_fields *f, const char *name, double *out, fathom_error *err)
{
    const json_t *value = json_object_get(f->object, name);
    if (!json_is_number(value) && !json_is_null(value))
        return json_field_refuse(f, name, FATHOM_FORMAT, "expected a number", err);
    *out = json_is_number(value) ? json_number_value(value) : NAN;
    return FATHOM_OK;
}

/* What fits and plots rely on; a loss or a time may be missing. */
static fathom_status check_result(const json_fields *f, const study_result *r, fathom_error *err)
{
    const struct {
        const char *name;
        double value;
    } positive[] = {{"width", (double)r->width}, {"size", (double)r->size}, {"steps", (double)r->steps}, {"tokens", (double)r->tokens},
                    {"budget", r->budget}, {"flops", r->flops}, {"forward_flops_per_token", r->forward_flops_per_token}};
    for (size_t i = 0; i < sizeof positive / sizeof *positive; i++)
        if (!(positive[i].value > 0 && isfinite(positive[i].value)))
            return json_field_refuse(f, positive[i].name, FATHOM_FORMAT, "must be above 0", err);
    variant v; /* a name goes into file names, tables and scripts */
    return variant_parse(json_string_value(json_object_get(f->object, "variant")), &v, NULL) == FATHOM_OK
               ? FATHOM_OK
               : json_field_refuse(f, "variant", FATHOM_FORMAT, "no variant's name", err);
}

static fathom_status read_result(const char *path, study_result *r, fathom_error *err)
{
    const char *name;
    *r = (study_result){0};
    TRY(json_file_read(path, MOST_RESULT, &r->json, err));
    const json_fields f = {.object = r->json, .path = path};
    TRY(json_field_string(&f, "variant", &name, err));
    snprintf(r->variant, sizeof r->variant, "%s", name);
    TRY(json_field_int(&f, "width", &r->width, err));
    TRY(json_field_int(&f, "seed", &r->seed, err));
    TRY(json_field_int(&f, "size", &r->size, err));
    TRY(json_field_int(&f, "params", &r->params, err));
    TRY(json_field_int(&f, "steps", &r->steps, err));
    TRY(json_field_int(&f, "tokens", &r->tokens, err));
    TRY(real_field(&f, "budget", &r->budget, err));
    TRY(real_field(&f, "flops", &r->flops, err));
    TRY(real_field(&f, "forward_flops_per_token", &r->forward_flops_per_token, err));
    TRY(real_field(&f, "loss", &r->loss, err));
    TRY(real_field(&f, "loss_causal", &r->loss_causal, err));
    TRY(real_field(&f, "ms_per_step", &r->ms_per_step, err));
    TRY(real_field(&f, "tokens_per_s", &r->tokens_per_s, err));
    return check_result(&f, r, err);
}

static int by_kind(const void *a, const void *b)
{
    const study_result *x = a, *y = b;
    const int names = strcmp(x->variant, y->variant);
    if (names != 0)
        return names;
    if (x->budget != y->budget)
        return x->budget < y->budget ? -1 : 1;
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return (x->seed > y->seed) - (x->seed < y->seed);
}

static bool is_result(const char *name)
{
    const size_t length = strlen(name);
    return length > 5 && strcmp(name + length - 5, ".json") == 0;
}

static fathom_status read_all(const char *folder, DIR *entries, study_result **results, int64_t *count, fathom_error *err)
{
    int64_t room = 0;
    for (struct dirent *e; (e = readdir(entries));) {
        if (!is_result(e->d_name))
            continue;
        if (*count == room) {
            room = room ? 2 * room : 64;
            study_result *grown = realloc(*results, (size_t)room * sizeof *grown);
            if (!grown)
                return no_memory(err);
            *results = grown;
        }
        char *path = path_join(folder, e->d_name);
        study_result *r = &(*results)[(*count)++];
        fathom_status status = path ? read_result(path, r, err) : no_memory(err);
        if (status == FATHOM_OK)
            status = same_setting(json_object_get((*results)->json, "setting"), json_object_get(r->json, "setting"), path, err);
        free(path);
        if (status != FATHOM_OK)
            return status;
    }
    return FATHOM_OK;
}

fathom_status study_results(const char *dir, study_result **out, int64_t *count, fathom_error *err)
{
    *out = NULL;
    *count = 0;
    char *folder = path_join(dir, "runs");
    DIR *entries = folder ? opendir(folder) : NULL;
    fathom_status status = FATHOM_OK;
    if (!entries)
        status = status_fail(err, FATHOM_NOT_FOUND, "%s/runs: cannot read: %s", dir, strerror(errno));
    else
        status = read_all(folder, entries, out, count, err);
    if (entries)
        closedir(entries);
    free(folder);
    if (status != FATHOM_OK) {
        study_results_free(*out, *count);
        *out = NULL;
        *count = 0;
    } else if (*count > 0) {
        qsort(*out, (size_t)*count, sizeof **out, by_kind);
    }
    return status;
}

fathom_status study_check_folder(const study_options *o, const study_data *data, fathom_error *err)
{
    char *folder = path_join(o->dir, "runs");
    const bool there = folder && path_exists(folder);
    free(folder);
    if (!there)
        return FATHOM_OK;
    study_result *results = NULL;
    int64_t count = 0;
    json_t *setting = setting_of(o, data);
    fathom_status status = setting ? study_results(o->dir, &results, &count, err) : no_memory(err);
    for (int64_t i = 0; i < count && status == FATHOM_OK; i++) {
        char path[PATH_ROOM];
        snprintf(path, sizeof path, "%s/runs: %s %lld", o->dir, results[i].variant, (long long)results[i].width);
        status = same_setting(setting, json_object_get(results[i].json, "setting"), path, err);
    }
    study_results_free(results, count);
    json_decref(setting);
    return status;
}

fathom_status study_run_of(const study_options *o, const study_result *r, const variant *v, study_run *run, fathom_error *err)
{
    TRY(make_run(o, v, r->budget, r->width, r->seed, run, err));
    return same_plan(run, r->json, run->name, err);
}

void study_results_free(study_result *results, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        json_decref(results[i].json);
    free(results);
}
