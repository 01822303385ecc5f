/* Log probabilities as JSON: see logprobs.h. A value that could not be allocated leaves the object short; the reply as a whole then
 * fails, as its text cannot be made either. */
#include "serve/logprobs.h"

#include <math.h>

#include "serve/token_text.h"

json_t *logprobs_new(bool chat)
{
    return chat ? json_pack("{s:[], s:n}", "content", "refusal")
                : json_pack("{s:[], s:[], s:[], s:[]}", "tokens", "token_logprobs", "top_logprobs", "text_offset");
}

static const char *token_of(const fathom_model *model, int32_t id, size_t *bytes)
{
    *bytes = 0;
    const char *text = fathom_token_text(model, id, bytes);
    return text ? text : "";
}

static json_t *legacy_name(const fathom_model *model, int32_t id)
{
    size_t bytes;
    const char *text = token_of(model, id, &bytes);
    return token_name(text, bytes, "bytes:");
}

/* A dictionary by text: where two ids have the same text the likelier stays, and the token itself is always there. */
static json_t *legacy_top(const fathom_model *model, const job_event *e)
{
    json_t *top = json_object();
    for (size_t i = 0; i <= e->top_count; i++) {
        const bool own = i == e->top_count;
        json_t *name = legacy_name(model, own ? e->token : e->top[i].id);
        const char *key = json_string_value(name);
        if (key && !json_object_getn(top, key, json_string_length(name)))
            json_object_setn_new(top, key, json_string_length(name), logprob_json(own ? e->logprob : e->top[i].logprob));
        json_decref(name);
    }
    return top;
}

static void add_legacy(json_t *object, const fathom_model *model, const job_event *e, int top, int64_t *offset)
{
    size_t bytes;
    const char *text = token_of(model, e->token, &bytes);
    json_array_append_new(json_object_get(object, "tokens"), legacy_name(model, e->token));
    json_array_append_new(json_object_get(object, "token_logprobs"), logprob_json(e->logprob));
    json_array_append_new(json_object_get(object, "top_logprobs"), top > 0 && !isnan(e->logprob) ? legacy_top(model, e) : json_null());
    json_array_append_new(json_object_get(object, "text_offset"), json_integer(*offset));
    *offset += token_characters(text, bytes);
}

static json_t *chat_token(const fathom_model *model, int32_t id, float logprob)
{
    size_t bytes;
    const char *text = token_of(model, id, &bytes);
    return json_pack("{s:o, s:o, s:o}", "token", token_name(text, bytes, ""), "logprob", logprob_json(logprob), "bytes",
                     token_bytes(text, bytes));
}

static void add_chat(json_t *object, const fathom_model *model, const job_event *e, int top)
{
    json_t *token = chat_token(model, e->token, e->logprob), *list = json_array();
    for (size_t i = 0; i < e->top_count && (int)i < top; i++)
        json_array_append_new(list, chat_token(model, e->top[i].id, e->top[i].logprob));
    json_object_set_new(token, "top_logprobs", list);
    json_array_append_new(json_object_get(object, "content"), token);
}

void logprobs_add(json_t *object, bool chat, const fathom_model *model, const job_event *e, int top, int64_t *offset)
{
    if (chat)
        add_chat(object, model, e, top);
    else
        add_legacy(object, model, e, top, offset);
}
