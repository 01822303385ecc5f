/* log.jsonl: one JSON object a line for each logged step and each evaluation. A number that is not finite is null. */
#ifndef FATHOM_TRAIN_RUN_LOG_H
#define FATHOM_TRAIN_RUN_LOG_H

#include <stdio.h>

#include "train/trainer.h"

/* Opens DIR/log.jsonl for appending, after dropping every line past `step` (what a killed run had logged after its last
 * checkpoint). */
fathom_status run_log_open(const char *dir, int64_t step, FILE **out, fathom_error *err);
void run_log_step(FILE *log, const train_step_info *info);
void run_log_evaluation(FILE *log, const train_step_info *at, const train_eval_info *info);

#endif
