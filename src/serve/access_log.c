/* One line of JSON about an exchange that is over. No text of a prompt, unless that was asked for. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/timing.h"
#include "serve/exchange.h"

static json_t *rounded(double seconds)
{
    return json_real((double)(int64_t)(seconds * 1e6 + 0.5) / 1e6);
}

static json_t *sent_json(const char *sent)
{
    json_t *text = json_string(sent);
    return text ? text : json_string("?"); /* not UTF-8 */
}

static void add_generation(json_t *o, const exchange *x)
{
    const reply_usage u = reply_count(&x->reply);
    const bool whole = u.finish != NULL;
    int64_t prompt = 0;
    for (size_t i = 0; i < x->job->prompts; i++)
        prompt += (int64_t)x->job->counts[i];
    json_object_set_new(o, "choices", json_integer((json_int_t)x->job->choice_count));
    json_object_set_new(o, "prompt_tokens", json_integer((json_int_t)prompt));
    json_object_set_new(o, "tokens", json_integer((json_int_t)u.tokens));
    json_object_set_new(o, "cached_tokens", json_integer((json_int_t)u.cached_tokens));
    json_object_set_new(o, "first_token_s", x->reply.first_token > 0 ? rounded(x->reply.first_token - x->job->arrived) : json_null());
    json_object_set_new(o, "finish", whole ? json_string(u.finish) : json_null());
}

static void add_prompts(json_t *o, const exchange *x)
{
    const generate_request *q = &x->job->request;
    json_t *list = json_array();
    for (size_t i = 0; i < q->prompt_count; i++)
        if (q->prompts[i].text)
            json_array_append_new(list, json_stringn(q->prompts[i].text, q->prompts[i].bytes));
    for (size_t i = 0; i < q->message_count; i++)
        json_array_append_new(list, json_stringn(q->messages[i].content, q->messages[i].bytes));
    json_object_set_new(o, "prompts", list);
}

static void add_error(json_t *o, const exchange *x)
{
    const serve_problem *p = &x->problem;
    const bool whole = x->server->options.log_prompts || !*p->logged;
    json_object_set_new(o, "error", json_string(whole ? p->message : p->logged));
}

void access_log(const exchange *x)
{
    if (!x->server->options.log)
        return;
    char when[32];
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    const size_t length = strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(when + length, sizeof when - length, ".%03ldZ", now.tv_nsec / 1000000);
    json_t *o = json_pack("{s:s, s:s, s:s, s:o, s:o, s:i, s:o}", "time", when, "id", x->id, "remote", x->remote, "method",
                          sent_json(x->method), "path", sent_json(x->path), "status", x->status, "seconds", rounded(timing_now() - x->began));
    if (o && x->job && x->reply.choices)
        add_generation(o, x);
    if (o && x->job && x->server->options.log_prompts)
        add_prompts(o, x);
    if (o && x->problem.status)
        add_error(o, x);
    char *line = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (line)
        log_writer_add(x->server->options.log, line);
    free(line);
}
