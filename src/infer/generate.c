/* Text from a prompt: prefill, then sample and append token by token, handing out whole UTF-8 characters and never any part
 * of a stop text. */
#include <stdlib.h>
#include <string.h>

#include "base/timing.h"
#include "infer/sampler.h"
#include "infer/session.h"
#include "text/unicode.h"

/* Text that was generated but not yet handed out. */
typedef struct stream {
    const fathom_generate_options *options;
    fathom_text_callback callback;
    void *user;
    char *pending;
    size_t length, capacity;
    bool done;
} stream;

/* Bytes at the end that are the beginning of a stop text. */
static size_t begun_stop(const stream *s)
{
    size_t longest = 0;
    for (size_t i = 0; i < s->options->stop_count; i++) {
        const size_t size = strlen(s->options->stop[i]);
        for (size_t n = size > s->length ? s->length : size - (size > 0); n > longest; n--)
            if (memcmp(s->pending + s->length - n, s->options->stop[i], n) == 0)
                longest = n;
    }
    return longest;
}

static void hand_out(stream *s, size_t bytes)
{
    if (bytes > 0 && s->callback && s->callback(s->pending, bytes, s->user) != 0)
        s->done = true;
    memmove(s->pending, s->pending + bytes, s->length - bytes);
    s->length -= bytes;
}

static bool find_stop(const stream *s, size_t *at)
{
    bool found = false;
    for (size_t i = 0; i < s->options->stop_count; i++) {
        const size_t size = strlen(s->options->stop[i]);
        const char *hit = size ? memmem(s->pending, s->length, s->options->stop[i], size) : NULL;
        if (hit && (!found || (size_t)(hit - s->pending) < *at)) {
            *at = (size_t)(hit - s->pending);
            found = true;
        }
    }
    return found;
}

static fathom_status stream_add(stream *s, const char *text, size_t bytes, fathom_error *err)
{
    if (s->length + bytes > s->capacity) {
        const size_t capacity = 2 * (s->length + bytes) + 64;
        char *grown = realloc(s->pending, capacity);
        if (!grown)
            return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
        s->pending = grown;
        s->capacity = capacity;
    }
    memcpy(s->pending + s->length, text, bytes);
    s->length += bytes;
    size_t at;
    if (find_stop(s, &at)) {
        hand_out(s, at);
        s->length = 0;
        s->done = true;
        return FATHOM_OK;
    }
    const size_t utf8 = utf8_unfinished(s->pending, s->length), stop = begun_stop(s);
    hand_out(s, s->length - (utf8 > stop ? utf8 : stop));
    return FATHOM_OK;
}

fathom_generate_options fathom_generate_defaults(void)
{
    return (fathom_generate_options){.max_tokens = 128, .temperature = 0.8f, .top_p = 1, .seed = 1};
}

static fathom_status decode(const fathom_model *model, fathom_session *session, sampler *pick, stream *out,
                            fathom_generate_stats *stats, fathom_error *err)
{
    const model_config *c = &model->m.config;
    while (!out->done && stats->tokens < out->options->max_tokens) {
        const int32_t id = sampler_next(pick, fathom_session_logits(session));
        if (id == c->eos_id)
            break;
        stats->tokens++;
        size_t bytes;
        const char *text = tokenizer_text(model->tok, id, &bytes);
        if (text) /* ids past the tokenizer's vocabulary (padding of the embedding) have no text */
            TRY(stream_add(out, text, bytes, err));
        /* the last token's logits are not needed */
        if (!out->done && stats->tokens < out->options->max_tokens)
            TRY(fathom_session_append(session, &id, 1, err));
    }
    if (!out->done)
        hand_out(out, out->length);
    return FATHOM_OK;
}

static fathom_status prompt_ids(const fathom_model *model, const char *prompt, size_t bytes, int64_t max_tokens, id_list *ids,
                                fathom_error *err)
{
    TRY(tokenizer_encode(model->tok, prompt, bytes, true, ids, err));
    if (ids->count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "prompt: empty: a model continues at least one token");
    if (max_tokens < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "max_tokens: %lld: must be 1 or more", (long long)max_tokens);
    const int64_t limit = model->m.config.seq_len;
    if (ids->count > (size_t)limit || max_tokens > limit - (int64_t)ids->count + 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT,
                           "prompt of %zu tokens and max_tokens %lld: the model was made for sequences of at most %lld",
                           ids->count, (long long)max_tokens, (long long)limit);
    return FATHOM_OK;
}

fathom_status fathom_generate(const fathom_model *model, const char *prompt, size_t prompt_bytes,
                              const fathom_generate_options *options, fathom_text_callback callback, void *user,
                              fathom_generate_stats *stats, fathom_error *err)
{
    fathom_generate_stats ignored;
    stats = stats ? stats : &ignored;
    *stats = (fathom_generate_stats){0};
    id_list ids = {0};
    sampler pick = {0};
    fathom_session *session = NULL;
    stream out = {.options = options, .callback = callback, .user = user};
    fathom_status status = prompt_ids(model, prompt, prompt_bytes, options->max_tokens, &ids, err);
    if (status == FATHOM_OK)
        status = sampler_init(&pick, options, model->m.config.vocab, err);
    if (status == FATHOM_OK)
        status = fathom_session_new(model, (int64_t)ids.count + options->max_tokens - 1, &session, err);
    if (status == FATHOM_OK)
        status = fathom_session_set_budget(session, options->budget, err);
    const double began = timing_now();
    if (status == FATHOM_OK)
        status = fathom_session_append(session, ids.ids, ids.count, err);
    const double prefilled = timing_now();
    if (status == FATHOM_OK)
        status = decode(model, session, &pick, &out, stats, err);
    if (status == FATHOM_OK) {
        stats->prompt_tokens = (int64_t)ids.count;
        stats->prefill_seconds = prefilled - began;
        stats->decode_seconds = timing_now() - prefilled;
        stats->routed_fraction = fathom_session_routed_fraction(session);
        stats->kv_bytes = fathom_session_kv_bytes(session);
    }
    fathom_session_free(session);
    sampler_free(&pick);
    free(out.pending);
    id_list_free(&ids);
    return status;
}
