/* log.jsonl and events: see run_log.h. A list of scalars serves both. */
#include "train/run_log.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/tensorboard.h"

typedef struct scalar {
    const char *key, *tag; /* tag: NULL where TensorBoard has no use for it */
    double value;
} scalar;

static bool keep_line(const char *line, size_t length, int64_t step)
{
    json_t *object = json_loadb(line, length, 0, NULL);
    const json_t *at = json_object_get(object, "step");
    const bool keep = json_is_integer(at) && json_integer_value(at) <= step;
    json_decref(object);
    return keep;
}

static fathom_status drop_after(const char *path, int64_t step, fathom_error *err)
{
    file_map map;
    if (!path_exists(path))
        return FATHOM_OK;
    TRY(file_map_open(path, &map, err));
    file_writer w;
    fathom_status status = file_writer_open(&w, path, err);
    if (status == FATHOM_OK) {
        size_t length;
        for (size_t at = 0; at < map.size; at += length) {
            const char *line = (const char *)map.data + at, *newline = memchr(line, '\n', map.size - at);
            length = newline ? (size_t)(newline + 1 - line) : map.size - at;
            if (newline && keep_line(line, length, step))
                fwrite(line, 1, length, w.stream);
        }
        status = file_writer_commit(&w, err);
    }
    file_map_close(&map);
    return status;
}

fathom_status run_log_open(const char *dir, int64_t step, bool tensorboard, run_log *log, fathom_error *err)
{
    *log = (run_log){.lines_path = path_join(dir, "log.jsonl")};
    if (!log->lines_path)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    fathom_status status = drop_after(log->lines_path, step, err);
    if (status == FATHOM_OK && !(log->lines = fopen(log->lines_path, "ae")))
        status = status_fail(err, FATHOM_IO, "%s: cannot write: %s", log->lines_path, strerror(errno));
    if (status == FATHOM_OK && tensorboard)
        status = tensorboard_create(dir, step, &log->events, &log->events_path, err);
    if (status != FATHOM_OK)
        run_log_close(log);
    return status;
}

void run_log_close(run_log *log)
{
    if (log->lines)
        fclose(log->lines);
    if (log->events)
        fclose(log->events);
    free(log->lines_path);
    free(log->events_path);
    *log = (run_log){0};
}

static void flush(FILE *stream, int *failed)
{
    if ((fflush(stream) != 0 || ferror(stream)) && !*failed)
        *failed = errno ? errno : EIO;
}

static void write_scalars(run_log *log, int64_t step, int64_t tokens, const scalar *scalars, size_t count, bool skipped)
{
    errno = 0;
    fprintf(log->lines, "{\"step\": %lld, \"tokens\": %lld", (long long)step, (long long)tokens);
    for (size_t i = 0; i < count; i++)
        if (isfinite(scalars[i].value))
            fprintf(log->lines, ", \"%s\": %.9g", scalars[i].key, scalars[i].value);
        else
            fprintf(log->lines, ", \"%s\": null", scalars[i].key);
    fputs(skipped ? ", \"skipped\": true}\n" : "}\n", log->lines);
    flush(log->lines, &log->lines_failed);
    if (!log->events)
        return;
    const double now = tensorboard_wall_time();
    for (size_t i = 0; i < count; i++)
        if (scalars[i].tag && isfinite(scalars[i].value))
            tensorboard_scalar(log->events, now, step, scalars[i].tag, (float)scalars[i].value);
    flush(log->events, &log->events_failed);
}

void run_log_step(run_log *log, const train_step_info *info)
{
    const scalar scalars[] = {
        {"flops", NULL, info->flops},
        {"loss", "train/loss", info->loss},
        {"lr", "train/lr", info->lr},
        {"grad_norm", "train/grad_norm", info->grad_norm},
        {"tokens_per_s", "train/tokens_per_s", info->tokens_per_s},
        {"aux_loss", "train/aux_loss", info->aux_loss},
        {"router_accuracy", "train/router_accuracy", info->router_accuracy},
        {"dropped", "train/dropped", info->dropped}, /* last: left out where it is not counted */
    };
    const size_t count = sizeof scalars / sizeof *scalars - (isnan(info->dropped) ? 1 : 0);
    write_scalars(log, info->step, info->tokens, scalars, count, info->skipped);
}

void run_log_evaluation(run_log *log, const train_step_info *at, const train_eval_info *info)
{
    const scalar scalars[] = {
        {"flops", NULL, at->flops},
        {"eval_loss", "eval/loss", info->topk.loss},
        {"eval_loss_causal", "eval/loss_causal", info->causal.loss},
        {"eval_router_accuracy", "eval/router_accuracy", info->topk.router_accuracy},
        {"eval_routed_fraction", "eval/routed_fraction", info->causal.routed_fraction},
    };
    write_scalars(log, at->step, at->tokens, scalars, sizeof scalars / sizeof *scalars, false);
}

static fathom_status check(const char *path, int failed, fathom_error *err)
{
    return failed ? status_fail(err, FATHOM_IO, "%s: cannot write: %s", path, strerror(failed)) : FATHOM_OK;
}

fathom_status run_log_check(const run_log *log, fathom_error *err)
{
    TRY(check(log->lines_path, log->lines_failed, err));
    return check(log->events_path, log->events_failed, err);
}
