/* Events to objects and streams: see reply.h. Each choice gathers text, log probabilities and depths; a stream flushes them into a chunk
 * after every token that has something to say, a whole object takes them at the end. */
#include "serve/reply.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "infer/session.h"
#include "text/tokenizer.h"

enum { DIGITS = 9 }; /* of reals: enough for any float */

bool reply_begin(reply *r, job *j, const fathom_model *model, const char *name, metrics *counts, const char *id)
{
    *r = (reply){.job = j, .model = model, .name = name, .counts = counts, .created = (int64_t)time(NULL)};
    snprintf(r->id, sizeof r->id, "%s-%s", j->request.chat ? "chatcmpl" : "cmpl", id);
    r->choices = calloc(j->choice_count, sizeof *r->choices);
    return r->choices != NULL;
}

void reply_free(reply *r)
{
    for (size_t i = 0; r->choices && i < r->job->choice_count; i++) {
        text_buffer_free(&r->choices[i].pending);
        json_decref(r->choices[i].logprobs);
        json_decref(r->choices[i].depths);
    }
    free(r->choices);
    text_buffer_free(&r->out);
    text_buffer_free(&r->taken);
    *r = (reply){0};
}

/* Takes the reference; one server-sent event. */
static void put_event(reply *r, json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS)) : NULL;
    json_decref(object);
    if (!text || text_buffer_add(&r->out, "data: ", 6, NULL) != FATHOM_OK || text_buffer_add(&r->out, text, strlen(text), NULL) != FATHOM_OK ||
        text_buffer_add(&r->out, "\n\n", 2, NULL) != FATHOM_OK)
        r->failed_memory = true;
    free(text);
}

static json_t *usage_json(const reply *r)
{
    const reply_usage u = reply_count(r);
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)u.prompt_tokens, "completion_tokens", (json_int_t)u.tokens,
                     "total_tokens", (json_int_t)(u.prompt_tokens + u.tokens), "prompt_tokens_details", "cached_tokens",
                     (json_int_t)u.cached_tokens);
}

/* Takes the references. */
static json_t *envelope(const reply *r, json_t *choices, json_t *usage)
{
    const generate_request *q = &r->job->request;
    const char *object = !q->chat ? "text_completion" : q->stream ? "chat.completion.chunk" : "chat.completion";
    json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", r->id, "object", object, "created", (json_int_t)r->created, "model", r->name,
                          "choices", choices);
    if (usage)
        json_object_set_new(o, "usage", usage);
    return o;
}

static void put_choice(reply *r, json_t *choice)
{
    put_event(r, envelope(r, json_pack("[o]", choice), r->job->request.include_usage ? json_null() : NULL));
}

/* What a choice has gathered, as the members of its object; it begins to gather anew. */
static json_t *gathered(const reply *r, reply_choice *c, const char *finish, const char *text_key)
{
    json_t *o = json_pack("{s:I}", "index", (json_int_t)(c - r->choices));
    json_t *text = json_stringn(c->pending.data ? c->pending.data : "", c->pending.size);
    if (r->job->request.chat && !r->job->request.stream)
        json_object_set_new(o, text_key, json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", text, "refusal"));
    else if (r->job->request.chat)
        json_object_set_new(o, text_key, json_pack("{s:o}", "content", text));
    else
        json_object_set_new(o, text_key, text);
    json_object_set_new(o, "logprobs", c->logprobs ? c->logprobs : json_null());
    json_object_set_new(o, "finish_reason", finish ? json_string(finish) : json_null());
    c->logprobs = NULL;
    c->pending.size = 0;
    return o;
}

static void add_depths(const reply *r, reply_choice *c, json_t *object)
{
    if (!r->job->request.routing)
        return;
    if (!r->job->request.stream)
        json_object_set_new(object, "depth_before", c->depths ? c->depths : json_array());
    else if (c->depths)
        json_object_set(object, "depth_before", json_array_get(c->depths, 0));
    if (r->job->request.stream)
        json_decref(c->depths);
    c->depths = NULL;
    if (c->finish)
        json_object_set_new(object, "routed_fraction", json_real(c->routed_fraction));
}

/* A chat's chunk with a delta of its own. */
static json_t *bare_delta(const reply *r, const reply_choice *c, json_t *delta, const char *finish)
{
    return json_pack("{s:I, s:o, s:n, s:o}", "index", (json_int_t)(c - r->choices), "delta", delta, "logprobs", "finish_reason",
                     finish ? json_string(finish) : json_null());
}

/* Log probabilities whose places in the text are not certain stay for a later chunk. */
static void flush(reply *r, reply_choice *c)
{
    json_t *waiting = logprobs_waiting(c->logprobs, &c->place) ? c->logprobs : NULL;
    if (waiting)
        c->logprobs = NULL;
    if (c->pending.size > 0 || c->logprobs || c->depths) {
        json_t *o = gathered(r, c, NULL, r->job->request.chat ? "delta" : "text");
        add_depths(r, c, o);
        put_choice(r, o);
    }
    if (waiting)
        c->logprobs = waiting;
}

static void flush_end(reply *r, reply_choice *c)
{
    json_t *o;
    if (r->job->request.chat) {
        flush(r, c);
        o = bare_delta(r, c, json_object(), c->finish);
    } else {
        o = gathered(r, c, c->finish, "text");
    }
    add_depths(r, c, o);
    put_choice(r, o);
}

static size_t prompt_of(const reply *r, const reply_choice *c)
{
    return (size_t)(c - r->choices) / (size_t)r->job->request.n;
}

/* The prompt's text, where an answer begins with it. A character that it begins may end in what is generated. */
static bool add_echo(reply *r, reply_choice *c)
{
    const job *j = r->job;
    const size_t prompt = prompt_of(r, c);
    const request_prompt *p = &j->request.prompts[prompt];
    if (p->text)
        return text_add_piece(&c->pending, &c->tail, p->text, p->bytes);
    bool added = true;
    for (size_t i = 0; added && i < j->counts[prompt]; i++) {
        size_t bytes = 0;
        const char *text = fathom_token_text(r->model, j->ids[prompt][i], &bytes);
        added = text_add_piece(&c->pending, &c->tail, text ? text : "", bytes);
    }
    return added;
}

static void begin_choice(reply *r, reply_choice *c)
{
    const generate_request *q = &r->job->request;
    c->begun = true;
    if (q->echo && !add_echo(r, c))
        r->failed_memory = true;
    if (q->chat && q->stream)
        put_choice(r, bare_delta(r, c, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL));
}

/* Whether the next token to be listed is part of the text: those that the tokenizer puts around a prompt are not, where the echo is the
 * prompt as it was sent. What follows it begins where the echo ends, also where the tokenizer changes a text (NFC, say). */
static bool next_is_shown(const reply *r, reply_choice *c)
{
    const job *j = r->job;
    const request_prompt *p = j->request.echo ? &j->request.prompts[prompt_of(r, c)] : NULL;
    if (!p || !p->text)
        return true;
    const size_t at = c->listed, count = j->counts[prompt_of(r, c)];
    size_t before, behind;
    tokenizer_special_counts(r->model->tok, &before, &behind);
    if (at == count - behind)
        c->place = (text_place){.characters = token_characters(p->text, p->bytes)};
    return at >= count || (at >= before && at < count - behind);
}

static void add_logprob(reply *r, reply_choice *c, const job_event *e)
{
    const generate_request *q = &r->job->request;
    if (!c->logprobs)
        c->logprobs = logprobs_new(q->chat);
    const bool shown = next_is_shown(r, c);
    logprobs_add(c->logprobs, q->chat, r->model, e, q->logprobs, &c->place, shown);
    c->listed++;
}

/* Who scores a prompt asks for one more token and leaves out the last; where that is the end of the text, which is no token to the engine,
 * it still has its place in the list, without a value. */
static void add_end_of_text(reply *r, reply_choice *c)
{
    const model_config *m = &r->model->m.config;
    const job_event end = {.token = m->eos_count > 0 ? m->eos_id[0] : -1, .logprob = NAN};
    const generate_request *q = &r->job->request;
    if (q->echo && q->logprobs >= 0 && q->max_tokens != 0 && c->made == 0 && strcmp(c->finish, "stop") == 0)
        add_logprob(r, c, &end);
}

static void time_token(reply *r, reply_choice *c, double at)
{
    if (r->first_token == 0)
        r->first_token = at;
    if (c->last > 0)
        histogram_add(&r->counts->between_tokens, at - c->last);
    else
        histogram_add(&r->counts->first_token, at - r->job->arrived);
    c->last = at;
}

static void add_event(reply *r, const job_event *e)
{
    const generate_request *q = &r->job->request;
    reply_choice *c = &r->choices[e->choice];
    if (!c->begun)
        begin_choice(r, c);
    if (q->logprobs >= 0 && e->kind != FATHOM_EVENT_END)
        add_logprob(r, c, e);
    if (e->kind == FATHOM_EVENT_PROMPT)
        return;
    if (!text_add_piece(&c->pending, &c->tail, e->text, e->bytes) ||
        (e->kind == FATHOM_EVENT_END && !text_end_clean(&c->pending, &c->tail)))
        r->failed_memory = true;
    if (e->kind == FATHOM_EVENT_TOKEN) {
        time_token(r, c, e->at);
        c->made++;
        if (q->routing) {
            c->depths = c->depths ? c->depths : json_array();
            json_array_append_new(c->depths, json_integer(e->depth_before));
        }
        if (q->stream)
            flush(r, c);
        return;
    }
    c->finish = e->finish == FATHOM_FINISH_STOP ? "stop" : "length";
    c->prompt_tokens = e->prompt_tokens;
    c->tokens = e->tokens;
    c->cached_tokens = e->cached_tokens;
    c->routed_fraction = e->routed_fraction;
    add_end_of_text(r, c);
    if (q->stream)
        flush_end(r, c);
}

static void end_stream(reply *r)
{
    if (r->problem.status)
        put_event(r, problem_json(&r->problem));
    else if (r->job->request.include_usage)
        put_event(r, envelope(r, json_array(), usage_json(r)));
    if (text_buffer_add(&r->out, "data: [DONE]\n\n", 14, NULL) != FATHOM_OK)
        r->failed_memory = true;
}

bool reply_take(reply *r)
{
    if (r->done)
        return true;
    r->taken.size = 0;
    r->done = job_take(r->job, &r->taken, &r->problem);
    job_event e;
    for (size_t at = 0; job_read(&r->taken, &at, &e);)
        add_event(r, &e);
    if (r->done && r->job->request.stream)
        end_stream(r);
    return r->done;
}

char *reply_whole(const reply *r)
{
    json_t *choices = json_array();
    for (size_t i = 0; i < r->job->choice_count; i++) {
        reply_choice *c = &r->choices[i];
        json_t *o = gathered(r, c, c->finish, r->job->request.chat ? "message" : "text");
        add_depths(r, c, o);
        json_array_append_new(choices, o);
    }
    json_t *whole = envelope(r, choices, usage_json(r));
    char *text = whole && !r->failed_memory ? json_dumps(whole, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS)) : NULL;
    json_decref(whole);
    return text;
}

/* A prompt counts once, however many choices continue it. */
reply_usage reply_count(const reply *r)
{
    reply_usage u = {.finish = r->choices[0].finish};
    for (size_t i = 0; i < r->job->choice_count; i++) {
        const reply_choice *c = &r->choices[i];
        const bool first = i % (size_t)r->job->request.n == 0;
        u.prompt_tokens += first ? c->prompt_tokens : 0;
        u.cached_tokens += first ? c->cached_tokens : 0;
        u.tokens += c->finish ? c->tokens : c->made;
    }
    return u;
}
