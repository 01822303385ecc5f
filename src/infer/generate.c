/* Text from a prompt: prefill, then sample and append token by token, handing out whole UTF-8 characters and never any part
 * of a stop text. A token is appended when the next one is asked for, so that the last one's logits are never computed. */
#include <stdlib.h>

#include "base/timing.h"
#include "infer/sampler.h"
#include "infer/session.h"
#include "infer/text_stream.h"

struct fathom_generation {
    const fathom_model *model;
    fathom_session *session;
    sampler pick;
    text_stream out;
    id_list prompt; /* until it is appended */
    int32_t last;   /* sampled, not yet appended */
    int64_t max_tokens;
    fathom_generate_stats stats;
};

fathom_generate_options fathom_generate_defaults(void)
{
    return (fathom_generate_options){.max_tokens = 128, .temperature = 0.8f, .top_p = 1, .seed = 1};
}

/* *max_tokens is cut to what fits the model's length: the last token is never appended. */
static fathom_status prompt_ids(const fathom_model *model, const char *prompt, size_t bytes, id_list *ids, int64_t *max_tokens,
                                fathom_error *err)
{
    const tokenizer *tok;
    TRY(session_tokenizer(model, &tok, err));
    TRY(tokenizer_encode(tok, prompt, bytes, true, ids, err));
    if (ids->count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "prompt: empty: a model continues at least one token");
    if (*max_tokens < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "max_tokens: %lld: must be 1 or more", (long long)*max_tokens);
    const int64_t limit = model->m.config.seq_len, fitting = limit - (int64_t)ids->count + 1;
    if (fitting < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "prompt: %zu tokens: the model was made for sequences of at most %lld", ids->count,
                           (long long)limit);
    *max_tokens = *max_tokens < fitting ? *max_tokens : fitting;
    return FATHOM_OK;
}

fathom_status fathom_generation_new(const fathom_model *model, const char *prompt, size_t prompt_bytes,
                                    const fathom_generate_options *options, fathom_generation **out, fathom_error *err)
{
    *out = NULL;
    fathom_generation *g = calloc(1, sizeof *g);
    if (!g)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    g->model = model;
    g->max_tokens = options->max_tokens;
    fathom_status status = prompt_ids(model, prompt, prompt_bytes, &g->prompt, &g->max_tokens, err);
    if (status == FATHOM_OK)
        status = sampler_init(&g->pick, options, model->m.config.vocab, err);
    if (status == FATHOM_OK)
        status = text_stream_init(&g->out, options->stop, options->stop_count, err);
    if (status == FATHOM_OK)
        status = fathom_session_new(model, (int64_t)g->prompt.count + g->max_tokens - 1, &g->session, err);
    if (status == FATHOM_OK)
        status = fathom_session_set_budget(g->session, options->budget, err);
    if (status != FATHOM_OK) {
        fathom_generation_free(g);
        return status;
    }
    g->stats.prompt_tokens = (int64_t)g->prompt.count;
    *out = g;
    return FATHOM_OK;
}

void fathom_generation_free(fathom_generation *g)
{
    if (!g)
        return;
    fathom_session_free(g->session);
    sampler_free(&g->pick);
    text_stream_free(&g->out);
    id_list_free(&g->prompt);
    free(g);
}

/* What was chosen last goes into the session: the prompt, later one token. */
static fathom_status append_last(fathom_generation *g, fathom_error *err)
{
    const double began = timing_now();
    if (g->prompt.count == 0) {
        TRY(fathom_session_append(g->session, &g->last, 1, err));
        g->stats.decode_seconds += timing_now() - began;
        return FATHOM_OK;
    }
    TRY(fathom_session_append(g->session, g->prompt.ids, g->prompt.count, err));
    g->stats.prefill_seconds = timing_now() - began;
    id_list_free(&g->prompt);
    return FATHOM_OK;
}

static fathom_status sample(fathom_generation *g, fathom_error *err)
{
    const double began = timing_now();
    g->last = sampler_next(&g->pick, fathom_session_logits(g->session));
    if (model_ends_text(&g->model->m.config, g->last)) {
        text_stream_end(&g->out);
        return FATHOM_OK;
    }
    g->stats.tokens++;
    size_t bytes;
    const char *text = tokenizer_text(g->model->tok, g->last, &bytes);
    if (text) /* ids past the tokenizer's vocabulary (padding of the embedding) have no text */
        TRY(text_stream_add(&g->out, text, bytes, err));
    if (!g->out.done && g->stats.tokens == g->max_tokens)
        text_stream_end(&g->out);
    g->stats.decode_seconds += timing_now() - began;
    return FATHOM_OK;
}

fathom_status fathom_generation_next(fathom_generation *g, const char **text, size_t *bytes, fathom_error *err)
{
    *text = NULL;
    *bytes = 0;
    if (g->out.done)
        return FATHOM_OK;
    text_stream_advance(&g->out);
    fathom_status status = append_last(g, err);
    if (status == FATHOM_OK)
        status = sample(g, err);
    if (status != FATHOM_OK) {
        g->out.done = true;
        return status;
    }
    *text = g->out.ready > 0 ? g->out.pending : "";
    *bytes = g->out.ready;
    return FATHOM_OK;
}

fathom_generate_stats fathom_generation_stats(const fathom_generation *g)
{
    fathom_generate_stats stats = g->stats;
    stats.routed_fraction = fathom_session_routed_fraction(g->session);
    stats.kv_bytes = fathom_session_kv_bytes(g->session);
    return stats;
}

fathom_status fathom_generate(const fathom_model *model, const char *prompt, size_t prompt_bytes,
                              const fathom_generate_options *options, fathom_text_callback callback, void *user,
                              fathom_generate_stats *stats, fathom_error *err)
{
    if (stats)
        *stats = (fathom_generate_stats){0};
    fathom_generation *g;
    TRY(fathom_generation_new(model, prompt, prompt_bytes, options, &g, err));
    fathom_status status;
    const char *text;
    size_t bytes;
    while ((status = fathom_generation_next(g, &text, &bytes, err)) == FATHOM_OK && text)
        if (bytes > 0 && callback && callback(text, bytes, user) != 0)
            break;
    if (status == FATHOM_OK && stats)
        *stats = fathom_generation_stats(g);
    fathom_generation_free(g);
    return status;
}
