/* Calibration of compute budgets: see calibrate.h. */
#include "train/calibrate.h"

#include <math.h>
#include <stdlib.h>

#include "model/budget.h"
#include "train/evaluate.h"

/* Thresholds are settled when every layer lets through its share within this part of it, or as near as equal logits allow. */
static const double tolerance = 0.01;

/* The causal rule's logits of every routed layer. */
typedef struct collected {
    float *logit; /* [stages, capacity] */
    int64_t count[MODEL_MAX_STAGES], capacity;
} collected;

static void collect(void *user, int64_t layer, const route *r, int64_t B, int64_t T)
{
    collected *c = user;
    float *to = c->logit + layer * c->capacity;
    for (int64_t i = 0; i < B * T && c->count[layer] < c->capacity; i++)
        to[c->count[layer]++] = r->rule[i];
}

static int descending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Between logit[i - 1], which passes, and logit[i], which does not; sorted downwards. */
static float cut_before(const float *logit, int64_t n, int64_t i)
{
    if (i <= 0)
        return logit[0];
    if (i >= n)
        return logit[n - 1] - 1;
    const float middle = 0.5f * (logit[i - 1] + logit[i]);
    return middle < logit[i - 1] ? middle : logit[i];
}

/* Equal logits, as a first block has them for equal tokens, pass together or not at all: the nearer way. */
static float threshold_for(float *logit, int64_t n, double share)
{
    const int64_t wanted = llround(share * (double)n);
    qsort(logit, (size_t)n, sizeof *logit, descending);
    if (wanted <= 0 || wanted >= n)
        return cut_before(logit, n, wanted);
    int64_t low = wanted, high = wanted;
    while (low > 0 && logit[low - 1] == logit[wanted])
        low--;
    while (high < n && logit[high] == logit[wanted])
        high++;
    return cut_before(logit, n, wanted - low <= high - wanted ? low : high);
}

/* The text is cut into an even number of slots spread over it: the even ones are fitted on, the odd ones measured. A text of one
 * window serves for both. */
static fathom_status run_slots(evaluator *e, const batcher *b, int64_t pairs, int64_t odd, pass_result *total, fathom_error *err)
{
    const int64_t all = (b->part->count - 1) / b->T;
    *total = (pass_result){0};
    for (int64_t s = 0; s < pairs;) {
        int64_t B = 0;
        for (; B < e->B && s < pairs; B++, s++)
            TRY(batcher_heldout(b, (2 * s + odd) * all / (2 * pairs), e->tokens + B * e->T, e->targets + B * e->T, err));
        const pass_result p = transformer_loss(e->ws, ROUTING_CAUSAL, false, (s - B) * e->T, B, e->T, e->tokens, e->targets);
        total->loss_sum += p.loss_sum;
        total->targets += p.targets;
        total->routed += p.routed;
        total->routable += p.routable;
    }
    return FATHOM_OK;
}

/* New thresholds from what was seen; true when the old ones were good already. */
static bool settle(const model_config *c, double budget, const collected *seen, float *threshold)
{
    bool settled = true;
    for (int64_t l = 0; l < model_stages(c); l++) {
        if (!model_stage_routed(c, l))
            continue;
        float *logit = seen->logit + l * seen->capacity;
        const double share = budget_share(c, l, budget);
        int64_t passed = 0;
        for (int64_t i = 0; i < seen->count[l]; i++)
            passed += logit[i] > threshold[l];
        const float before = threshold[l];
        threshold[l] = threshold_for(logit, seen->count[l], share);
        settled &= threshold[l] == before || fabs((double)passed / (double)seen->count[l] - share) <= tolerance * share;
    }
    return settled;
}

/* A pass makes exact at least the first layer that those before it have not, so as many as there are routed layers suffice. */
static fathom_status fit(model *m, evaluator *e, const batcher *b, double budget, int64_t pairs, collected *seen, float *threshold, fathom_error *err)
{
    const model_config *c = &m->config;
    pass_result ignored;
    fathom_status status = FATHOM_OK;
    bool settled = false;
    workspace_set_visitor(e->ws, collect, seen);
    workspace_set_thresholds(e->ws, threshold);
    for (int64_t pass = 0; pass <= model_routed_stages(c) && !settled && status == FATHOM_OK; pass++) {
        for (int64_t l = 0; l < model_stages(c); l++)
            seen->count[l] = 0;
        status = run_slots(e, b, pairs, 0, &ignored, err);
        settled = settle(c, budget, seen, threshold);
    }
    workspace_set_visitor(e->ws, NULL, NULL);
    return status;
}

static fathom_status check(const model *m, const calibrate_input *in, fathom_error *err)
{
    const int64_t T = m->config.seq_len;
    if (m->config.mod.router == MOD_ROUTER_NONE)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "a plain model has no routing to calibrate");
    if (m->config.experts.mode == EXPERT_MODE_INTEGRATED)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "integrated experts have no threshold to calibrate");
    if (in->text->count <= T)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "text of %lld tokens: calibration needs more than the model's %lld",
                           (long long)in->text->count, (long long)T);
    if (in->count < 1 || in->count > MODEL_MAX_BUDGETS)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "budgets: %lld of them: must be 1 to %d", (long long)in->count,
                           MODEL_MAX_BUDGETS);
    for (int64_t i = 0; i < in->count; i++)
        if (!(in->budgets[i] > (i ? in->budgets[i - 1] : 0) && in->budgets[i] < 1))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "budgets: %g: must be in (0, 1), ascending", in->budgets[i]);
    return FATHOM_OK;
}

fathom_status calibrate(model *m, const calibrate_input *in, calibration_point *points, fathom_error *err)
{
    TRY(check(m, in, err));
    model_config *c = &m->config;
    const int64_t T = c->seq_len, all = (in->text->count - 1) / T, wanted = (in->tokens + T - 1) / T;
    const int64_t most = all / 2 > 1 ? all / 2 : 1, pairs = wanted < 1 ? 1 : wanted < most ? wanted : most;
    const batcher b = {.part = in->text, .T = T};
    collected seen = {.logit = calloc((size_t)(model_stages(c) * pairs * T), sizeof(float)), .capacity = pairs * T};
    evaluator e = {0};
    float threshold[MODEL_MAX_STAGES];
    fathom_status status = seen.logit ? evaluator_init(&e, m, in->batch, T, err)
                                      : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (int64_t l = 0; l < model_stages(c); l++)
        threshold[l] = c->mod.threshold[l];
    for (int64_t i = 0; i < in->count && status == FATHOM_OK; i++) {
        pass_result measured;
        status = fit(m, &e, &b, in->budgets[i], pairs, &seen, threshold, err);
        if (status == FATHOM_OK)
            status = run_slots(&e, &b, pairs, 1, &measured, err);
        if (status != FATHOM_OK)
            break;
        points[i] = (calibration_point){in->budgets[i], (double)measured.routed / (double)measured.routable,
                                        measured.loss_sum / (double)measured.targets};
        c->mod.budget[i] = (float)in->budgets[i];
        for (int64_t l = 0; l < model_stages(c); l++)
            c->mod.budget_threshold[i][l] = model_stage_routed(c, l) ? threshold[l] : 0;
    }
    if (status == FATHOM_OK)
        c->mod.budgets = in->count;
    evaluator_free(&e);
    free(seen.logit);
    return status;
}
