/* The table of routes, and the answers that need no engine. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infer/session.h"
#include "serve/exchange.h"
#include "serve/token_text.h"

/* page.html, made by CMake into a file of its own. */
extern const unsigned char serve_page[];
extern const size_t serve_page_size;

static enum MHD_Result answer_page(exchange *x)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(serve_page_size, (void *)(uintptr_t)serve_page, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", "text/html; charset=utf-8");
    return answer_queue(x, 200, response);
}

static enum MHD_Result answer_health(exchange *x)
{
    const bool draining = atomic_load(&x->server->draining);
    return answer_json(x, draining ? 503 : 200, json_pack("{s:s}", "status", draining ? "shutting down" : "ok"));
}

static enum MHD_Result answer_metrics(exchange *x)
{
    server *s = x->server;
    const char *names[METRICS_ROUTES];
    for (size_t i = 0; i < ROUTE_COUNT; i++)
        names[i] = route_name(i);
    pthread_mutex_lock(&s->lock);
    const int64_t connections = s->connection_count;
    pthread_mutex_unlock(&s->lock);
    const metrics_moment now = {.routes = names, .route_count = ROUTE_COUNT, .stats = worker_statistics(s->worker),
                                .sequences = worker_sequences(s->worker), .connections = connections,
                                .dropped_lines = log_writer_dropped(s->options.log)};
    return answer_text(x, 200, "text/plain; version=0.0.4; charset=utf-8", metrics_text(&s->counts, &now));
}

/* The calibrated ones, ascending: what lies between the first and the last may be asked for. They are kept as floats: 0.1 is to read 0.1. */
static json_t *budgets_json(const model_config *c)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < c->mod.budgets; i++)
        json_array_append_new(list, json_real(round((double)c->mod.budget[i] * 1e6) / 1e6));
    return list;
}

static json_t *model_json(exchange *x)
{
    const server *s = x->server;
    const fathom_model_info *m = &s->info;
    return json_pack("{s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "id", s->options.model_name, "object", "model", "created",
                     (json_int_t)s->counts.started, "owned_by", "fathom", "max_model_len", (json_int_t)m->max_tokens, "vocab",
                     (json_int_t)m->vocab, "params", (json_int_t)m->params, "layers", (json_int_t)m->layers, "routed_layers",
                     (json_int_t)m->routed_layers, "stages", (json_int_t)model_skipping_stages(&s->model->m.config), "budgets",
                     budgets_json(&s->model->m.config));
}

static enum MHD_Result answer_models(exchange *x)
{
    return answer_json(x, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(x)));
}

static enum MHD_Result answer_model(exchange *x)
{
    const char *name = x->path + strlen("/v1/models/");
    if (strcmp(name, x->server->options.model_name) == 0)
        return answer_json(x, 200, model_json(x));
    problem_set(&x->problem, 404, "model", "model_not_found", "model: %.100s: there is no such model here; this server has %.200s", name,
                x->server->options.model_name);
    return answer_problem(x, &x->problem);
}

static bool has_tokenizer(exchange *x, const char *field)
{
    return x->server->encoder || problem_set(&x->problem, 400, field, NULL, "%s: the model has no tokenizer", field);
}

/* {field: the text, "add_special_tokens"} -> *ids */
static bool tokenize(exchange *x, const json_t *body, const char *field, id_list *ids)
{
    const json_t *text = json_object_get(body, field), *special = json_object_get(body, "add_special_tokens");
    fathom_error err;
    if (!json_is_string(text))
        return request_refuse(&x->problem, field, text, "must be a string");
    if (special && !json_is_boolean(special))
        return request_refuse(&x->problem, "add_special_tokens", special, "must be true or false");
    if (!has_tokenizer(x, field))
        return false;
    /* an answer has "1," or more for each: what is too long is known before a list is made of them */
    if (encoder_add(x->server->encoder, json_string_value(text), json_string_length(text), !special || json_is_true(special), ids, &err) ==
        FATHOM_OK)
        return (int64_t)ids->count <= x->server->options.max_body / 2 || answer_too_long(x, field);
    return problem_set(&x->problem, err.code == FATHOM_OUT_OF_MEMORY ? 500 : 400, field, NULL, "%s: %s", field, err.message);
}

static enum MHD_Result answer_tokenize(exchange *x)
{
    id_list ids = {0};
    json_t *body = request_object(x->body.data, x->body.size, &x->problem), *list = NULL;
    const char *field = json_object_get(body, "prompt") ? "prompt" : "text";
    if (body && tokenize(x, body, field, &ids)) {
        list = json_array();
        for (size_t i = 0; i < ids.count; i++)
            json_array_append_new(list, json_integer(ids.ids[i]));
    }
    json_decref(body);
    const json_int_t count = (json_int_t)ids.count;
    id_list_free(&ids);
    if (x->problem.status)
        return answer_problem(x, &x->problem);
    return answer_long(x, field, json_pack("{s:o, s:I, s:I}", "tokens", list, "count", count, "max_model_len",
                                           (json_int_t)x->server->info.max_tokens));
}

/* NULL: out of memory, or x->problem tells. */
static json_t *detokenize(exchange *x, const int32_t *ids, size_t count)
{
    text_buffer bytes = {0}, text = {0};
    bool added = true;
    for (size_t i = 0; added && i < count; i++) {
        size_t size = 0;
        const char *token = fathom_token_text(x->server->model, ids[i], &size);
        added = text_buffer_add(&bytes, token ? token : "", size, NULL) == FATHOM_OK &&
                ((int64_t)bytes.size <= x->server->options.max_body || answer_too_long(x, "tokens"));
    }
    added = added && text_add_clean(&text, bytes.data ? bytes.data : "", bytes.size);
    json_t *o = added ? json_pack("{s:o}", "prompt", json_stringn(text.data ? text.data : "", text.size)) : NULL;
    text_buffer_free(&bytes);
    text_buffer_free(&text);
    return o;
}

static enum MHD_Result answer_detokenize(exchange *x)
{
    int32_t *ids = NULL;
    size_t count = 0;
    json_t *body = request_object(x->body.data, x->body.size, &x->problem);
    const json_t *tokens = json_object_get(body, "tokens");
    if (body && !json_is_array(tokens))
        request_refuse(&x->problem, "tokens", tokens, "must be a list of token ids");
    else if (body && has_tokenizer(x, "tokens"))
        request_ids(tokens, "tokens", x->server->info.vocab, &ids, &count, &x->problem);
    json_decref(body);
    json_t *text = x->problem.status ? NULL : detokenize(x, ids, count);
    free(ids);
    return x->problem.status ? answer_problem(x, &x->problem) : answer_long(x, "tokens", text);
}

const http_route routes[ROUTE_COUNT] = {
    {"POST", "/v1/completions", false, false, answer_completion},
    {"POST", "/v1/chat/completions", false, false, answer_chat},
    {"GET", "/v1/models", false, false, answer_models},
    {"GET", "/v1/models/", false, true, answer_model},
    {"POST", "/tokenize", false, false, answer_tokenize},
    {"POST", "/detokenize", false, false, answer_detokenize},
    {"GET", "/health", true, false, answer_health},
    {"GET", "/metrics", false, false, answer_metrics},
    {"GET", "/", true, false, answer_page},
    {"GET", "/index.html", true, false, answer_page},
    {"", "(unknown)", false, false, NULL},
};

size_t route_find(const char *method, const char *path, const char **allow, serve_problem *problem)
{
    for (size_t i = 0; i < ROUTE_UNKNOWN; i++) {
        const http_route *r = &routes[i];
        const size_t length = strlen(r->path);
        if (r->prefix ? strncmp(path, r->path, length) != 0 || !path[length] : strcmp(path, r->path) != 0)
            continue;
        const bool get = strcmp(r->method, "GET") == 0;
        if (strcmp(method, r->method) == 0 || (get && strcmp(method, "HEAD") == 0))
            return i;
        *allow = get ? "GET, HEAD" : "POST";
        problem_set(problem, 405, NULL, "method_not_allowed", "%.15s %.100s: this route takes %s", method, path, *allow);
        return i;
    }
    problem_set(problem, 404, NULL, "unknown_url", "%.15s %.100s: there is no such route", method, path);
    return ROUTE_UNKNOWN;
}

const char *route_name(size_t i)
{
    return routes[i].prefix ? "/v1/models/NAME" : routes[i].path;
}
