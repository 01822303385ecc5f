/* The compute budget of causal routing: one model, several speeds. A budget is the mean share of tokens that routed blocks
 * take; a layer's own share is in proportion to its capacity,
 *     share_l = min(1, s c_l),  s such that the mean of the shares is the budget.
 * Calibration (train/calibrate.h) finds for some budgets the thresholds that let these shares through; between two of them a
 * threshold is interpolated linearly in log(budget). */
#ifndef FATHOM_MODEL_BUDGET_H
#define FATHOM_MODEL_BUDGET_H

#include "model/config.h"

/* The share of a routed layer. */
double budget_share(const model_config *c, int64_t layer, double budget);
/* threshold [L], set for routed layers, 0 for others. Refused: a plain model, one that is not calibrated, a budget outside what
 * was calibrated. */
fathom_status budget_thresholds(const model_config *c, double budget, float *threshold, fathom_error *err);

#endif
