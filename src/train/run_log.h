/* What a run tells as it goes: log.jsonl, one JSON object a line for each logged step and each evaluation, where a number that is
 * not finite is null; and, where it is wanted, the same as TensorBoard events, where such a number is left out. */
#ifndef FATHOM_TRAIN_RUN_LOG_H
#define FATHOM_TRAIN_RUN_LOG_H

#include <stdio.h>

#include "train/trainer.h"

typedef struct run_log {
    FILE *lines, *events; /* events: NULL where they are not wanted */
    char *lines_path, *events_path;
    int lines_failed, events_failed; /* errno of the first write that failed */
} run_log;

/* Opens DIR/log.jsonl for appending, after dropping every line past `step` (what a killed run had logged after its last
 * checkpoint), and with tensorboard an event file that lets its readers do the same. On failure *log is empty. */
fathom_status run_log_open(const char *dir, int64_t step, bool tensorboard, run_log *log, fathom_error *err);
void run_log_close(run_log *log);
void run_log_step(run_log *log, const train_step_info *info);
void run_log_evaluation(run_log *log, const train_step_info *at, const train_eval_info *info);
/* FATHOM_IO where anything since run_log_open could not be written. */
fathom_status run_log_check(const run_log *log, fathom_error *err);

#endif
