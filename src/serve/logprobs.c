/* Log probabilities as JSON: see logprobs.h. A value that could not be allocated leaves the object short; the reply as a whole then
 * fails, as its text cannot be made either. */
#include "serve/logprobs.h"

#include <math.h>

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

/* A token that begins inside a character has the place behind it. Until that is complete, its bytes count as the U+FFFD that they are
 * without the rest. */
static void advance(text_place *place, const char *text, size_t bytes, json_t *offsets)
{
    for (size_t i = 0; i < bytes; i++) {
        const size_t certain = text_tail_add(&place->tail, text[i]);
        const bool completed = certain > 1 && utf8_valid(place->tail.bytes, certain) == certain;
        place->characters += completed ? 1 : (int64_t)certain;
        text_tail_drop(&place->tail, certain);
        for (size_t at = json_array_size(offsets); completed && at-- > 0;) {
            json_t *offset = json_array_get(offsets, at);
            if (json_integer_value(offset) <= place->characters)
                break;
            json_integer_set(offset, place->characters);
        }
    }
}

static void add_legacy(json_t *object, const fathom_model *model, const job_event *e, int top, text_place *place, bool shown)
{
    json_t *offsets = json_object_get(object, "text_offset");
    size_t bytes;
    const char *text = token_of(model, e->token, &bytes);
    json_array_append_new(json_object_get(object, "tokens"), legacy_name(model, e->token));
    json_array_append_new(json_object_get(object, "token_logprobs"), logprob_json(e->logprob));
    json_array_append_new(json_object_get(object, "top_logprobs"), top > 0 && !isnan(e->logprob) ? legacy_top(model, e) : json_null());
    json_array_append_new(offsets, json_integer(place->characters + (int64_t)place->tail.count));
    if (shown)
        advance(place, text, bytes, offsets);
}

bool logprobs_waiting(const json_t *object, const text_place *place)
{
    const json_t *offsets = json_object_get(object, "text_offset");
    const size_t count = json_array_size(offsets);
    return count > 0 && json_integer_value(json_array_get(offsets, count - 1)) > place->characters + 1;
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

void logprobs_add(json_t *object, bool chat, const fathom_model *model, const job_event *e, int top, text_place *place, bool shown)
{
    if (chat)
        add_chat(object, model, e, top);
    else
        add_legacy(object, model, e, top, place, shown);
}
