/* Thresholds for a compute budget: see budget.h. */
#include "model/budget.h"

#include <math.h>

double budget_share(const model_config *c, int64_t stage, double budget)
{
    const double total = budget * (double)model_routed_stages(c);
    double scale = 0, before = -1;
    while (scale > before) { /* what layers that are full cannot take goes to the others: a round fills one more at least */
        double full = 0, sum = 0;
        for (int64_t l = 0; l < model_stages(c); l++)
            if (model_stage_routed(c, l)) {
                const bool filled = scale * (double)c->mod.capacity[l] >= 1;
                full += filled;
                sum += filled ? 0 : (double)c->mod.capacity[l];
            }
        before = scale;
        scale = sum > 0 && total > full ? (total - full) / sum : scale;
    }
    return fmin(1, scale * (double)c->mod.capacity[stage]);
}

fathom_status budget_thresholds(const model_config *c, double budget, float *threshold, fathom_error *err)
{
    const int64_t n = c->mod.budgets;
    const float *known = c->mod.budget;
    if (c->mod.router == MOD_ROUTER_NONE)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "budget: %g: a plain model has no budget to choose", budget);
    if (c->experts.mode == EXPERT_MODE_INTEGRATED)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "budget: %g: integrated experts have no threshold to move", budget);
    if (n == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "budget: %g: the model is not calibrated (fathom calibrate)", budget);
    if (!(budget >= (double)known[0] - 1e-6 && budget <= (double)known[n - 1] + 1e-6))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "budget: %g: the model is calibrated for %g to %g", budget,
                           (double)known[0], (double)known[n - 1]);
    int64_t above = 0;
    while (above < n - 1 && budget > (double)known[above])
        above++;
    const int64_t below = above > 0 ? above - 1 : 0;
    const double width = log((double)known[above]) - log((double)known[below]);
    const double part = width > 0 ? fmin(1, fmax(0, (log(budget) - log((double)known[below])) / width)) : 0;
    for (int64_t l = 0; l < model_stages(c); l++) {
        const double low = (double)c->mod.budget_threshold[below][l], high = (double)c->mod.budget_threshold[above][l];
        threshold[l] = model_stage_routed(c, l) ? (float)(low + part * (high - low)) : 0;
    }
    return FATHOM_OK;
}
