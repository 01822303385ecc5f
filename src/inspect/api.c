/* The public functions that look at a given text as a whole: logits, loss, routes. Each is the pass or the loop that training,
 * `fathom eval` and `fathom inspect` run. */
#include <stdlib.h>

#include "infer/session.h"
#include "inspect/trace.h"
#include "train/evaluate.h"

enum { LOSS_BATCH = 16 }; /* fathom eval's default, so that both add in the same order */

struct fathom_trace {
    trace t;
    fathom_trace_stage *stage; /* [t.layers] */
    int64_t *selected;         /* of all stages, one after the other */
    float *weights;
};

static routing routing_of(fathom_routing given)
{
    return given == FATHOM_TOPK ? ROUTING_TOPK : ROUTING_CAUSAL;
}

static fathom_status check(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing given, size_t least,
                           size_t most, fathom_error *err)
{
    const int64_t vocab = model->m.config.vocab;
    if (given != FATHOM_CAUSAL && given != FATHOM_TOPK)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "routing: %d: must be FATHOM_CAUSAL or FATHOM_TOPK", (int)given);
    if (count < least)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "count: %zu tokens: must be %zu or more", count, least);
    if (count > most)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "count: %zu tokens: must be at most %zu", count, most);
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "token %zu: id %d is outside the vocabulary of %lld", i, (int)ids[i],
                               (long long)vocab);
    return FATHOM_OK;
}

fathom_status fathom_logits(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing given, float *logits,
                            fathom_error *err)
{
    TRY(check(model, ids, count, given, 1, (size_t)model->m.config.seq_len, err));
    workspace *ws;
    TRY(workspace_new(&model->m, 1, (int64_t)count, WORKSPACE_FORWARD, &ws, err));
    transformer_logits(ws, routing_of(given), (int64_t)count, ids, logits);
    workspace_free(ws);
    return FATHOM_OK;
}

fathom_status fathom_loss(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing given, fathom_loss_result *out,
                          fathom_error *err)
{
    *out = (fathom_loss_result){0};
    TRY(check(model, ids, count, given, 2, SIZE_MAX / sizeof *ids, err));
    const int64_t targets = (int64_t)count - 1, T = targets < model->m.config.seq_len ? targets : model->m.config.seq_len;
    const int64_t windows = (targets + T - 1) / T;
    const corpus_piece piece = {.ids = ids, .count = (int64_t)count};
    const corpus_part part = {.pieces = &piece, .piece_count = 1, .count = (int64_t)count};
    const batcher b = {.part = &part, .T = T};
    evaluator e;
    fathom_status status = evaluator_init(&e, &model->m, windows < LOSS_BATCH ? windows : LOSS_BATCH, T, err);
    if (status == FATHOM_OK) {
        evaluation found;
        status = evaluator_run(&e, &b, routing_of(given), 0, &found, err);
        if (status == FATHOM_OK)
            *out = (fathom_loss_result){.loss = found.loss, .predictions = found.tokens, .routed_fraction = found.routed_fraction};
    }
    evaluator_free(&e);
    return status;
}

/* The lists of what was selected, from the marks on all tokens. */
static fathom_status list_selected(fathom_trace *f, fathom_error *err)
{
    int64_t all = 0, at = 0;
    for (int64_t l = 0; l < f->t.layers; l++)
        all += f->t.layer[l].selected;
    f->stage = calloc((size_t)f->t.layers, sizeof *f->stage);
    f->selected = calloc((size_t)all + 1, sizeof *f->selected); /* + 1: a model may have routed nothing */
    f->weights = calloc((size_t)all + 1, sizeof *f->weights);
    if (!f->stage || !f->selected || !f->weights)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: a trace of %lld tokens", (long long)f->t.count);
    for (int64_t l = 0; l < f->t.layers; l++) {
        const trace_layer *from = &f->t.layer[l];
        f->stage[l] = (fathom_trace_stage){.layer = from->layer, .unit = from->part, .count = from->selected,
                                           .selected = f->selected + at, .weights = f->weights + at};
        for (int64_t i = 0; i < f->t.count; i++)
            if (from->routed[i]) {
                f->selected[at] = i;
                f->weights[at++] = from->weight[i];
            }
    }
    return FATHOM_OK;
}

fathom_status fathom_trace_new(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing given, fathom_trace **out,
                               fathom_error *err)
{
    *out = NULL;
    TRY(check(model, ids, count, given, 1, SIZE_MAX / sizeof *ids, err));
    fathom_trace *f = calloc(1, sizeof *f);
    if (!f)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    fathom_status status = trace_run(&model->m, routing_of(given), NULL, ids, (int64_t)count, &f->t, err);
    if (status == FATHOM_OK)
        status = list_selected(f, err);
    if (status != FATHOM_OK) {
        fathom_trace_free(f);
        return status;
    }
    *out = f;
    return FATHOM_OK;
}

void fathom_trace_free(fathom_trace *f)
{
    if (!f)
        return;
    trace_free(&f->t);
    free(f->stage);
    free(f->selected);
    free(f->weights);
    free(f);
}

int64_t fathom_trace_stages(const fathom_trace *f)
{
    return f->t.layers;
}

fathom_status fathom_trace_get(const fathom_trace *f, int64_t stage, fathom_trace_stage *out, fathom_error *err)
{
    if (stage < 0 || stage >= f->t.layers)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "stage: %lld: the trace has %lld", (long long)stage, (long long)f->t.layers);
    *out = f->stage[stage];
    return FATHOM_OK;
}

const float *fathom_trace_losses(const fathom_trace *f)
{
    return f->t.loss;
}
