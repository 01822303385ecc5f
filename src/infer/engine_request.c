/* One request of the engine: see engine_request.h. */
#include "infer/engine_request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infer/logits.h"
#include "model/budget.h"

static fathom_status check_ids(const char *what, const int32_t *ids, size_t count, int64_t vocab, fathom_error *err)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s %zu: id %d is outside the vocabulary of %lld", what, i, (int)ids[i],
                               (long long)vocab);
    return FATHOM_OK;
}

static fathom_status check(const model_config *c, const fathom_engine_request *asked, int64_t held, fathom_error *err)
{
    const int64_t least = asked->prompt_logprobs ? 0 : 1;
    if (asked->count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "prompt: empty: a model continues at least one token");
    if (asked->count > (size_t)c->seq_len)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "prompt: %zu tokens: the model was made for sequences of at most %lld",
                           asked->count, (long long)c->seq_len);
    if (asked->count > (size_t)held)
        return status_fail(err, FATHOM_INVALID_ARGUMENT,
                           "prompt: %zu tokens: the memory for keys and values (kv_bytes) holds %lld of a sequence", asked->count,
                           (long long)held);
    if (asked->options.max_tokens < least)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "max_tokens: %lld: must be %lld or more", (long long)asked->options.max_tokens,
                           (long long)least);
    if (asked->top_logprobs < -1 || asked->top_logprobs > FATHOM_TOP_LOGPROBS_MAX)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "top_logprobs: %d: must be -1 to %d", asked->top_logprobs,
                           (int)FATHOM_TOP_LOGPROBS_MAX);
    if (!asked->callback)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "callback: none");
    TRY(check_ids("prompt: token", asked->ids, asked->count, c->vocab, err));
    return check_ids("stop_ids:", asked->stop_ids, asked->stop_id_count, c->vocab, err);
}

static fathom_status copy_ids(engine_request *r, const fathom_engine_request *asked, fathom_error *err)
{
    r->ids = calloc(asked->count + (size_t)r->max_tokens, sizeof *r->ids);
    r->stop_ids = calloc(asked->stop_id_count + 1, sizeof *r->stop_ids);
    r->likeliest = calloc(r->top + 1, sizeof *r->likeliest);
    if (!r->ids || !r->stop_ids || !r->likeliest)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    memcpy(r->ids, asked->ids, asked->count * sizeof *r->ids);
    if (asked->stop_id_count > 0)
        memcpy(r->stop_ids, asked->stop_ids, asked->stop_id_count * sizeof *r->stop_ids);
    r->stop_id_count = asked->stop_id_count;
    return FATHOM_OK;
}

fathom_status engine_request_new(const fathom_model *model, const fathom_engine_request *asked, int64_t held, engine_request **out,
                                 fathom_error *err)
{
    const model_config *c = &model->m.config;
    *out = NULL;
    TRY(check(c, asked, held, err));
    engine_request *r = calloc(1, sizeof *r);
    if (!r)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    const int64_t fitting = (held < c->seq_len ? held : c->seq_len) - (int64_t)asked->count + 1; /* the last one's keys are never computed */
    *r = (engine_request){.model = model, .callback = asked->callback, .user = asked->user, .prompt = (int64_t)asked->count,
                          .known = (int64_t)asked->count, .budget = asked->options.budget, .wants_logprobs = asked->top_logprobs >= 0,
                          .wants_prompt = asked->prompt_logprobs != 0, .top = asked->top_logprobs > 0 ? (size_t)asked->top_logprobs : 0};
    r->max_tokens = asked->options.max_tokens < fitting ? asked->options.max_tokens : fitting;
    if (r->top > (size_t)c->vocab)
        r->top = (size_t)c->vocab;
    fathom_status status = copy_ids(r, asked, err);
    if (status == FATHOM_OK)
        status = sampler_init(&r->pick, &asked->options, c->vocab, err);
    if (status == FATHOM_OK)
        status = text_stream_init(&r->text, asked->options.stop, asked->options.stop_count, err);
    if (status == FATHOM_OK && r->budget != 0)
        status = budget_thresholds(c, r->budget, r->threshold, err);
    if (status == FATHOM_OK)
        status = kv_sequence_new(c, r->prompt + r->max_tokens, &r->kv, err);
    if (status != FATHOM_OK) {
        engine_request_free(r);
        return status;
    }
    *out = r;
    return FATHOM_OK;
}

void engine_request_free(engine_request *r)
{
    if (!r)
        return;
    kv_sequence_free(&r->kv);
    sampler_free(&r->pick);
    text_stream_free(&r->text);
    free(r->likeliest);
    free(r->stop_ids);
    free(r->ids);
    free(r);
}

static void send_event(engine_request *r, fathom_event *event)
{
    if (r->gone)
        return;
    event->request = r->id;
    if (event->kind == FATHOM_EVENT_END)
        r->gone = true;
    if (r->callback(event, r->user) != 0)
        r->gone = true;
}

void engine_request_draw(engine_request *r, const float *logits)
{
    r->chosen = sampler_next(&r->pick, logits);
    if (r->wants_logprobs)
        r->logprob = logits_logprobs(logits, r->pick.vocab, r->chosen, r->top, r->likeliest);
}

void engine_request_end(engine_request *r, fathom_finish finish, const fathom_error *err)
{
    const bool stopped = r->text.done;
    text_stream_advance(&r->text);
    if (!stopped && finish != FATHOM_FINISH_FAILED)
        text_stream_end(&r->text);
    send_event(r, &(fathom_event){.kind = FATHOM_EVENT_END, .text = r->text.pending ? r->text.pending : "", .bytes = r->text.ready,
                                  .finish = finish, .error = err, .prompt_tokens = r->prompt, .tokens = r->known - r->prompt,
                                  .cached_tokens = r->cached,
                                  .routed_fraction = r->routable > 0 ? (double)r->routed / (double)r->routable : 1});
}

static bool ends_text(const engine_request *r, int32_t id)
{
    bool ends = model_ends_text(&r->model->m.config, id);
    for (size_t i = 0; i < r->stop_id_count; i++)
        ends |= id == r->stop_ids[i];
    return ends;
}

void engine_request_tell(engine_request *r)
{
    if (ends_text(r, r->chosen)) {
        engine_request_end(r, FATHOM_FINISH_STOP, NULL);
        return;
    }
    r->ids[r->known++] = r->chosen;
    text_stream_advance(&r->text);
    size_t bytes = 0;
    const char *text = r->model->tok ? tokenizer_text(r->model->tok, r->chosen, &bytes) : NULL;
    fathom_error err;
    if (text && text_stream_add(&r->text, text, bytes, &err) != FATHOM_OK) {
        engine_request_end(r, FATHOM_FINISH_FAILED, &err);
        return;
    }
    send_event(r, &(fathom_event){.kind = FATHOM_EVENT_TOKEN, .index = r->known - r->prompt - 1, .token = r->chosen,
                                  .text = r->text.pending ? r->text.pending : "", .bytes = r->text.ready,
                                  .logprob = r->wants_logprobs ? r->logprob : NAN, .top = r->likeliest, .top_count = r->top,
                                  .depth_before = r->depth});
    if (r->text.done)
        engine_request_end(r, FATHOM_FINISH_STOP, NULL);
    else if (r->known - r->prompt == r->max_tokens)
        engine_request_end(r, FATHOM_FINISH_LENGTH, NULL);
}

void engine_request_tell_prompt(engine_request *r, int64_t index, const float *before)
{
    float logprob = NAN;
    if (before)
        logprob = logits_logprobs(before, r->pick.vocab, r->ids[index], r->top, r->likeliest);
    send_event(r, &(fathom_event){.kind = FATHOM_EVENT_PROMPT, .index = index, .token = r->ids[index], .text = "", .logprob = logprob,
                                  .top = r->likeliest, .top_count = before ? r->top : 0});
}
