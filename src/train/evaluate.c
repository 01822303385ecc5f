/* Loss on held-out text: see evaluate.h. */
#include "train/evaluate.h"

#include <math.h>
#include <stdlib.h>

fathom_status evaluator_init(evaluator *e, const model *m, int64_t B, int64_t T, fathom_error *err)
{
    *e = (evaluator){.B = B, .T = T};
    TRY(workspace_new(m, B, T, WORKSPACE_FORWARD, &e->ws, err));
    e->tokens = calloc((size_t)(B * T), sizeof *e->tokens);
    e->targets = calloc((size_t)(B * T), sizeof *e->targets);
    if (!e->tokens || !e->targets)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    return FATHOM_OK;
}

void evaluator_free(evaluator *e)
{
    workspace_free(e->ws);
    free(e->tokens);
    free(e->targets);
    *e = (evaluator){0};
}

/* Bytes that the first n of the targets stand for. */
static int64_t text_bytes(const tokenizer *t, const int32_t *targets, int64_t n)
{
    int64_t bytes = 0;
    for (int64_t i = 0; t && i < n; i++) {
        size_t size;
        tokenizer_text(t, targets[i], &size);
        bytes += (int64_t)size;
    }
    return bytes;
}

fathom_status evaluator_run(evaluator *e, const batcher *b, routing r, int64_t max_tokens, evaluation *out, fathom_error *err)
{
    const int64_t T = e->T, all = (b->part->count - 1 + T - 1) / T;
    int64_t windows = max_tokens > 0 && (max_tokens + T - 1) / T < all ? (max_tokens + T - 1) / T : all;
    int64_t bytes = 0;
    pass_result total = {0};
    for (int64_t w = 0; w < windows;) {
        const int64_t first = w;
        int64_t B = 0, length = T;
        for (; B < e->B && w < windows; B++, w++) {
            const int64_t window = w * all / windows, size = batcher_heldout_size(b, window);
            if (size < T && B > 0)
                break; /* the last one, if short, goes by itself: rows that are no text would be routed with the others */
            length = size;
            TRY(batcher_heldout(b, window, e->tokens + B * T, e->targets + B * T, err));
        }
        const pass_result p = transformer_loss(e->ws, r, r == ROUTING_TOPK, first * T, B, length, e->tokens, e->targets);
        bytes += text_bytes(e->tokenizer, e->targets, B * length);
        total.loss_sum += p.loss_sum;
        total.targets += p.targets;
        total.agreed += p.agreed;
        total.decided += p.decided;
        total.routed += p.routed;
        total.routable += p.routable;
        total.flops += p.flops;
    }
    *out = (evaluation){
        .loss = total.loss_sum / (double)total.targets,
        .tokens = total.targets,
        .bytes = bytes,
        .routed_fraction = total.routable ? (double)total.routed / (double)total.routable : 1,
        .flops_per_token = total.flops / (double)total.targets,
        .router_accuracy = total.decided ? (double)total.agreed / (double)total.decided : NAN,
    };
    return FATHOM_OK;
}
