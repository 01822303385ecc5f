/* Loading a model and running one sequence through it, causally routed: the public API's core. */
#include "infer/session.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/pool.h"
#include "model/budget.h"

enum {
    PREFILL_TOKENS = 1024, /* longest part of a prompt that goes through in one pass: bounds the memory of activations */
};

struct fathom_session {
    const fathom_model *model;
    workspace *ws;
    kv_pool *pool;
    kv_sequence sequence;
    int64_t capacity, chunk;
    float *logits; /* host [V] */
    int64_t routed, routable;
    double flops;
    float threshold[MODEL_MAX_STAGES]; /* of a budget that was set */
};

/* Token ids do without one. */
static fathom_status load_tokenizer(fathom_model *model, const char *path, fathom_error *err)
{
    const fathom_status status = tokenizer_load(path, &model->tok, &model->tok_error);
    if (status == FATHOM_NOT_FOUND || status == FATHOM_UNSUPPORTED)
        return FATHOM_OK;
    if (status != FATHOM_OK)
        return status_fail(err, status, "%s", model->tok_error.message);
    if (tokenizer_vocab(model->tok) > model->m.config.vocab)
        return status_fail(err, FATHOM_FORMAT, "%s: vocabulary of %lld is larger than the model's vocab_size %lld", path,
                           (long long)tokenizer_vocab(model->tok), (long long)model->m.config.vocab);
    return FATHOM_OK;
}

fathom_status session_tokenizer(const fathom_model *model, const tokenizer **out, fathom_error *err)
{
    *out = model->tok;
    return *out ? FATHOM_OK : status_fail(err, model->tok_error.code, "%s", model->tok_error.message);
}

fathom_status fathom_model_load(const char *dir, int threads, fathom_model **out, fathom_error *err)
{
    *out = NULL;
    if (threads < 0 || threads > THREADS_MOST)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "threads: %d: must be 0 (all) to %d", threads, THREADS_MOST);
    fathom_model *model = calloc(1, sizeof *model);
    char *path = path_join(dir, "tokenizer.json");
    fathom_status status = model && path ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK) {
        const kernels kn = kernels_cpu(threads);
        status = model_load(&model->m, dir, &kn, err);
    }
    if (status == FATHOM_OK)
        status = load_tokenizer(model, path, err);
    free(path);
    if (status != FATHOM_OK) {
        fathom_model_free(model);
        return status;
    }
    *out = model;
    return FATHOM_OK;
}

void fathom_model_free(fathom_model *model)
{
    if (!model)
        return;
    tokenizer_free(model->tok);
    model_free(&model->m);
    free(model);
}

fathom_model_info fathom_model_describe(const fathom_model *model)
{
    const model_config *c = &model->m.config;
    return (fathom_model_info){.vocab = c->vocab, .dim = c->dim, .layers = c->layers, .heads = c->heads,
                               .kv_heads = c->kv_heads, .ffn = c->ffn, .max_tokens = c->seq_len,
                               .params = model->m.list.size, .routed_layers = model_routed_layers(c)};
}

const fathom_tokenizer *fathom_model_tokenizer(const fathom_model *model)
{
    return model->tok;
}

fathom_status fathom_encode(const fathom_model *model, const char *text, size_t bytes, int32_t *ids, size_t capacity,
                            size_t *count, fathom_error *err)
{
    const tokenizer *tok;
    TRY(session_tokenizer(model, &tok, err));
    return fathom_tokenizer_encode(tok, text, bytes, 1, ids, capacity, count, err);
}

const char *fathom_token_text(const fathom_model *model, int32_t id, size_t *bytes)
{
    *bytes = 0;
    return model->tok ? tokenizer_text(model->tok, id, bytes) : NULL;
}

fathom_status fathom_session_new(const fathom_model *owner, int64_t max_tokens, fathom_session **out, fathom_error *err)
{
    *out = NULL;
    const model *m = &owner->m;
    const int64_t limit = m->config.seq_len;
    if (max_tokens < 0 || max_tokens > limit)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "max_tokens: %lld: the model was made for at most %lld",
                           (long long)max_tokens, (long long)limit);
    fathom_session *s = calloc(1, sizeof *s);
    if (!s)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    s->model = owner;
    s->capacity = max_tokens ? max_tokens : limit;
    s->chunk = s->capacity < PREFILL_TOKENS ? s->capacity : PREFILL_TOKENS;
    s->logits = calloc((size_t)m->config.vocab, sizeof *s->logits);
    fathom_status status = s->logits ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK)
        status = kv_sequence_new(&m->config, s->capacity, &s->sequence, err);
    if (status == FATHOM_OK) /* every layer may have to hold every token: routing by threshold has no upper bound */
        status = kv_pool_new(&m->kn, &m->config, kv_pages_for(&m->config, s->capacity), 1, s->chunk, &s->pool, err);
    if (status == FATHOM_OK)
        status = workspace_new(m, 1, s->chunk, WORKSPACE_FORWARD, &s->ws, err);
    if (status != FATHOM_OK) {
        fathom_session_free(s);
        return status;
    }
    *out = s;
    return FATHOM_OK;
}

void fathom_session_free(fathom_session *s)
{
    if (!s)
        return;
    workspace_free(s->ws);
    kv_sequence_free(&s->sequence);
    kv_pool_free(s->pool);
    free(s->logits);
    free(s);
}

void fathom_session_reset(fathom_session *s)
{
    kv_clear(s->pool, &s->sequence);
    s->routed = s->routable = 0;
    s->flops = 0;
}

fathom_status fathom_session_set_budget(fathom_session *s, double budget, fathom_error *err)
{
    if (budget != 0)
        TRY(budget_thresholds(&s->model->m.config, budget, s->threshold, err));
    workspace_set_thresholds(s->ws, budget != 0 ? s->threshold : NULL);
    return FATHOM_OK;
}

fathom_status fathom_session_append(fathom_session *s, const int32_t *ids, size_t count, fathom_error *err)
{
    const int64_t vocab = s->model->m.config.vocab;
    if (count > (size_t)(s->capacity - s->sequence.length))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%zu tokens after %lld do not fit a sequence of at most %lld",
                           count, (long long)s->sequence.length, (long long)s->capacity);
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "token %zu: id %d is outside the vocabulary of %lld", i,
                               (int)ids[i], (long long)vocab);
    kv_sequence *const sequence = &s->sequence;
    for (size_t done = 0; done < count;) {
        const int64_t left = (int64_t)(count - done), n = left < s->chunk ? left : s->chunk;
        const int32_t start[2] = {0, (int32_t)n}, last = (int32_t)(n - 1);
        pass_result r;
        kv_reserve(s->pool, sequence, n); /* there is room: the pool is this sequence's alone */
        transformer_append(s->ws, &(append_input){.sequences = 1, .sequence = &sequence, .start = start, .tokens = ids + done,
                                                  .wanted = &last, .wanted_count = 1, .pool = s->pool},
                           s->logits, &r);
        s->routed += r.routed;
        s->routable += r.routable;
        s->flops += r.flops;
        done += (size_t)n;
    }
    return FATHOM_OK;
}

const float *fathom_session_logits(const fathom_session *s)
{
    return s->sequence.length > 0 ? s->logits : NULL;
}

int64_t fathom_session_length(const fathom_session *s)
{
    return s->sequence.length;
}

int64_t fathom_session_kv_bytes(const fathom_session *s)
{
    const model_config *c = &s->model->m.config;
    int64_t tokens = 0;
    for (int64_t l = 0; l < c->layers; l++)
        tokens += s->sequence.layer[l].length;
    return tokens * 2 * c->kv_heads * c->head_dim * (int64_t)sizeof(float);
}

double fathom_session_routed_fraction(const fathom_session *s)
{
    return s->routable > 0 ? (double)s->routed / (double)s->routable : 1;
}

void session_set_visitor(fathom_session *s, route_visitor visitor, void *user)
{
    workspace_set_visitor(s->ws, visitor, user);
}

double session_flops(const fathom_session *s)
{
    return s->flops;
}
