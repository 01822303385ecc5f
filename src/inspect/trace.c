/* Routing traces: see trace.h. */
#include "inspect/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where the visitor writes: the window that is being run. */
typedef struct recorder {
    trace *t;
    const model *m;
    int64_t begin;
    float *logit;   /* host [T] */
    int32_t *index; /* host [T] */
} recorder;

static trace_layer *find(trace *t, int64_t stage)
{
    for (int64_t i = 0; i < t->layers; i++)
        if (t->layer[i].stage == stage)
            return &t->layer[i];
    return NULL;
}

static float gate(const model_config *c, float r)
{
    if (c->experts.mode == EXPERT_MODE_INTEGRATED) /* the sum of the experts' weights */
        return r;
    if (c->mod.router == MOD_ROUTER_STOCHASTIC || c->mod.gate == MOD_GATE_ONE)
        return 1;
    return c->mod.gate == MOD_GATE_RAW ? r : 1 / (1 + expf(-r));
}

static void record(void *user, int64_t stage, const route *r, int64_t B, int64_t T)
{
    const recorder *rec = user;
    const kernels *kn = &rec->m->kn;
    trace_layer *to = find(rec->t, stage);
    (void)B; /* one */
    kn->mem_download(kn, rec->logit, r->logit, (size_t)T * sizeof *rec->logit);
    for (int64_t i = 0; i < T; i++)
        to->weight[rec->begin + i] = gate(&rec->m->config, rec->logit[i]);
    kn->mem_download(kn, rec->index, r->index, (size_t)r->n * sizeof *rec->index);
    for (int64_t i = 0; i < r->n; i++)
        to->routed[rec->begin + rec->index[i]] = 1;
    to->selected += r->n;
    if (rec->m->config.experts.mode == EXPERT_MODE_STAGED && (rec->t->routing == ROUTING_CAUSAL || rec->t->scored))
        kn->mem_download(kn, to->rule + rec->begin, r->rule, (size_t)T * sizeof *to->rule);
}

static fathom_status allocate(trace *t, const model_config *c, fathom_error *err)
{
    t->layers = model_skipping_stages(c);
    t->layer = calloc((size_t)t->layers, sizeof *t->layer);
    t->loss = calloc((size_t)t->count, sizeof *t->loss);
    bool good = t->layer && t->loss;
    for (int64_t s = 0, i = 0; good && s < model_stages(c); s++)
        if (model_stage_skips(c, s)) {
            t->layer[i] = (trace_layer){.stage = s, .layer = model_stage_at(c, s).layer,
                                        .part = c->mod.unit == MOD_UNIT_BLOCK ? "" : model_stage_at(c, s).attention ? "attn" : "mlp",
                                        .routed = calloc((size_t)t->count, 1),
                                        .weight = calloc((size_t)t->count, sizeof(float)),
                                        .rule = calloc((size_t)t->count, sizeof(float))};
            good = t->layer[i].routed && t->layer[i].weight && t->layer[i].rule;
            i++;
        }
    return good ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: a trace of %lld tokens", (long long)t->count);
}

static fathom_status check(const model_config *c, const int32_t *tokens, int64_t count, fathom_error *err)
{
    if (model_skipping_stages(c) == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, c->experts.count > 0 ? "every token goes through every block: experts alone"
                                                                              : "a plain model routes nothing");
    if (count < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "no tokens");
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= c->vocab)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "token %lld: id %d is outside the vocabulary of %lld", (long long)i,
                               (int)tokens[i], (long long)c->vocab);
    return FATHOM_OK;
}

/* The loss of a window's position i is that of token i + 1. */
static void keep_losses(trace *t, const workspace *ws, int64_t begin, int64_t n, float *room)
{
    workspace_token_losses(ws, n, room);
    t->loss[begin] = NAN;
    for (int64_t i = 1; i < n; i++)
        t->loss[begin + i] = room[i - 1];
}

static void run(trace *t, workspace *ws, recorder *rec, const int32_t *tokens, int32_t *targets)
{
    const int64_t T = rec->m->config.seq_len;
    double sum = 0;
    int64_t known = 0;
    workspace_set_visitor(ws, record, rec);
    for (rec->begin = 0; rec->begin < t->count; rec->begin += T) {
        const int64_t n = t->count - rec->begin < T ? t->count - rec->begin : T;
        memcpy(targets, tokens + rec->begin + 1, (size_t)(n - 1) * sizeof *targets);
        targets[n - 1] = -1;
        const pass_result p = transformer_loss(ws, t->routing, t->scored, rec->begin, 1, n, tokens + rec->begin, targets);
        keep_losses(t, ws, rec->begin, n, rec->logit);
        sum += p.loss_sum;
        known += p.targets;
    }
    t->mean_loss = known > 0 ? sum / (double)known : NAN;
}

fathom_status trace_run(const model *m, routing r, const float *threshold, const int32_t *tokens, int64_t count, trace *out,
                        fathom_error *err)
{
    const model_config *c = &m->config;
    const int64_t T = c->seq_len < count ? c->seq_len : count;
    *out = (trace){.count = count, .routing = r, .scored = r == ROUTING_TOPK && c->mod.causal != MOD_CAUSAL_NOISE &&
                               c->experts.mode == EXPERT_MODE_STAGED};
    TRY(check(c, tokens, count, err));
    workspace *ws = NULL;
    recorder rec = {.t = out, .m = m, .logit = malloc((size_t)T * sizeof(float)), .index = malloc((size_t)T * sizeof(int32_t))};
    int32_t *targets = malloc((size_t)T * sizeof *targets);
    fathom_status status = rec.logit && rec.index && targets ? allocate(out, c, err)
                                                             : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK)
        status = workspace_new(m, 1, T, WORKSPACE_FORWARD, &ws, err);
    if (status == FATHOM_OK) {
        workspace_set_thresholds(ws, threshold);
        run(out, ws, &rec, tokens, targets);
        for (int64_t l = 0; l < out->layers; l++)
            for (int64_t i = 0; i < count; i++)
                out->layer[l].rule[i] -= (threshold ? threshold : c->mod.threshold)[out->layer[l].stage];
    } else {
        trace_free(out);
    }
    workspace_free(ws);
    free(rec.logit);
    free(rec.index);
    free(targets);
    return status;
}

void trace_free(trace *t)
{
    for (int64_t i = 0; t->layer && i < t->layers; i++) {
        free(t->layer[i].routed);
        free(t->layer[i].weight);
        free(t->layer[i].rule);
    }
    free(t->layer);
    free(t->loss);
    *t = (trace){0};
}

int64_t trace_depth(const trace *t, int64_t i)
{
    int64_t depth = 0;
    for (int64_t l = 0; l < t->layers; l++)
        depth += t->layer[l].routed[i];
    return depth;
}
