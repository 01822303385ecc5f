/* log.jsonl: see run_log.h. */
#include "train/run_log.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

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
        const char *p = (const char *)map.data, *end = p + map.size;
        while (p < end) {
            const char *newline = memchr(p, '\n', (size_t)(end - p));
            if (newline && keep_line(p, (size_t)(newline - p), step))
                fwrite(p, 1, (size_t)(newline + 1 - p), w.stream);
            p = newline ? newline + 1 : end;
        }
        status = file_writer_commit(&w, err);
    }
    file_map_close(&map);
    return status;
}

fathom_status run_log_open(const char *dir, int64_t step, FILE **out, fathom_error *err)
{
    *out = NULL;
    char *path = path_join(dir, "log.jsonl");
    if (!path)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    fathom_status status = drop_after(path, step, err);
    if (status == FATHOM_OK && !(*out = fopen(path, "ae")))
        status = status_fail(err, FATHOM_IO, "%s: cannot write: %s", path, strerror(errno));
    free(path);
    return status;
}

static void number(FILE *log, const char *key, double value)
{
    if (isfinite(value))
        fprintf(log, ", \"%s\": %.9g", key, value);
    else
        fprintf(log, ", \"%s\": null", key);
}

void run_log_step(FILE *log, const train_step_info *info)
{
    fprintf(log, "{\"step\": %lld, \"tokens\": %lld", (long long)info->step, (long long)info->tokens);
    number(log, "flops", info->flops);
    number(log, "loss", info->loss);
    number(log, "lr", info->lr);
    number(log, "grad_norm", info->grad_norm);
    number(log, "tokens_per_s", info->tokens_per_s);
    number(log, "aux_loss", info->aux_loss);
    number(log, "router_accuracy", info->router_accuracy);
    if (!isnan(info->dropped))
        number(log, "dropped", info->dropped);
    if (info->skipped)
        fputs(", \"skipped\": true", log);
    fputs("}\n", log);
    fflush(log);
}

void run_log_evaluation(FILE *log, const train_step_info *at, const train_eval_info *info)
{
    fprintf(log, "{\"step\": %lld, \"tokens\": %lld", (long long)at->step, (long long)at->tokens);
    number(log, "flops", at->flops);
    number(log, "eval_loss", info->topk.loss);
    number(log, "eval_loss_causal", info->causal.loss);
    number(log, "eval_router_accuracy", info->topk.router_accuracy);
    number(log, "eval_routed_fraction", info->causal.routed_fraction);
    fputs("}\n", log);
    fflush(log);
}
