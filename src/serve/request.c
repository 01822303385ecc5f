/* JSON to a checked request: see request.h. One function a field or a group of them; each returns false after it has filled the problem. */
#include "serve/request.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a field's reader needs. */
typedef struct reader {
    const json_t *root;
    const request_limits *limits;
    generate_request *out;
    serve_problem *problem;
} reader;

bool request_out_of_memory(serve_problem *problem)
{
    return problem_set(problem, 500, NULL, NULL, "out of memory");
}

bool request_refuse(serve_problem *problem, const char *field, const json_t *value, const char *why)
{
    enum { SHOWN = 80 };
    char *text = value && !json_is_object(value) && !json_is_array(value)
                     ? json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9))
                     : NULL;
    const char *shown = text                     ? text
                        : json_is_object(value)  ? "an object"
                        : json_is_array(value)   ? "an array"
                                                 : "missing";
    char logged[256];
    snprintf(logged, sizeof logged, "%.60s: %s%s", field, value ? "" : "missing: ", why);
    problem_set_quoting(problem, logged, 400, field, NULL, "%.60s: %.*s%s: %s", field, SHOWN, shown, strlen(shown) > SHOWN ? "..." : "", why);
    free(text);
    return false;
}

/* NULL where the field is absent or null, which mean the same everywhere. */
static const json_t *field(const reader *r, const char *name)
{
    const json_t *value = json_object_get(r->root, name);
    return json_is_null(value) ? NULL : value;
}

/* The readers below leave *out as it is where the field is absent. */
static bool read_bool(const reader *r, const char *name, bool *out)
{
    const json_t *value = field(r, name);
    if (value && !json_is_boolean(value))
        return request_refuse(r->problem, name, value, "must be true or false");
    if (value)
        *out = json_is_true(value);
    return true;
}

static bool read_integer(const reader *r, const char *name, int64_t low, int64_t high, const char *why, int64_t *out)
{
    const json_t *value = field(r, name);
    if (!value)
        return true;
    double whole;
    if (json_is_real(value) && modf(json_real_value(value), &whole) == 0 && fabs(whole) < 9e15)
        *out = (int64_t)whole; /* some clients write 16.0 */
    else if (json_is_integer(value))
        *out = json_integer_value(value);
    else
        return request_refuse(r->problem, name, value, why);
    return (*out >= low && *out <= high) || request_refuse(r->problem, name, value, why);
}

static bool read_number(const reader *r, const char *name, double low, double high, const char *why, double *out)
{
    const json_t *value = field(r, name);
    if (!value)
        return true;
    *out = json_number_value(value);
    return (json_is_number(value) && *out >= low && *out <= high) || request_refuse(r->problem, name, value, why);
}

static bool read_float(const reader *r, const char *name, double low, double high, const char *why, float *out)
{
    double value = (double)*out;
    if (!read_number(r, name, low, high, why, &value))
        return false;
    *out = (float)value;
    return true;
}

static bool copy_text(const json_t *value, char **text, size_t *bytes)
{
    const size_t length = json_string_length(value);
    *text = malloc(length + 1);
    if (!*text)
        return false;
    memcpy(*text, json_string_value(value), length);
    (*text)[length] = '\0';
    *bytes = length;
    return true;
}

bool request_ids(const json_t *value, const char *field, int64_t vocab, int32_t **ids, size_t *count, serve_problem *problem)
{
    const size_t n = json_array_size(value);
    *ids = malloc((n + 1) * sizeof **ids);
    if (!*ids)
        return request_out_of_memory(problem);
    *count = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(value, i);
        const json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= vocab) {
            char why[96];
            snprintf(why, sizeof why, "must be a token id from 0 to %lld", (long long)vocab - 1);
            free(*ids);
            *ids = NULL;
            return request_refuse(problem, field, item, why);
        }
        (*ids)[i] = (int32_t)id;
    }
    return true;
}

static bool read_model(const reader *r)
{
    const json_t *value = field(r, "model");
    if (!value || (json_is_string(value) && strcmp(json_string_value(value), r->limits->model) == 0))
        return true;
    if (!json_is_string(value))
        return request_refuse(r->problem, "model", value, "must be a string");
    return problem_set_quoting(r->problem, "model: there is no such model here", 404, "model", "model_not_found",
                               "model: %.100s: there is no such model here; this server has %.200s", json_string_value(value),
                               r->limits->model);
}

static bool read_one_prompt(const reader *r, const json_t *value)
{
    request_prompt *p = &r->out->prompts[r->out->prompt_count++];
    if (json_is_string(value)) {
        if (!copy_text(value, &p->text, &p->bytes))
            return request_out_of_memory(r->problem);
        return true;
    }
    if (json_array_size(value) == 0)
        return request_refuse(r->problem, "prompt", value, "must hold a token or more");
    if ((int64_t)json_array_size(value) > r->limits->max_prompt)
        return problem_set(r->problem, 400, "prompt", "context_length_exceeded",
                           "prompt: %zu tokens: this server takes prompts of at most %lld", json_array_size(value),
                           (long long)r->limits->max_prompt);
    return request_ids(value, "prompt", r->limits->vocab, &p->ids, &p->count, r->problem);
}

/* A text, a list of texts, a list of ids or a list of lists of ids. */
static bool read_prompts(const reader *r)
{
    const json_t *value = field(r, "prompt"), *first = json_array_get(value, 0);
    const bool single = json_is_string(value) || json_is_integer(first);
    const size_t count = single ? 1 : json_array_size(value);
    if (!value || (!json_is_string(value) && !json_is_array(value)))
        return request_refuse(r->problem, "prompt", value, "must be a string, a list of strings, a list of token ids or a list of such lists");
    if (count == 0)
        return request_refuse(r->problem, "prompt", value, "must not be empty");
    if ((int64_t)count > r->limits->max_choices)
        return problem_set(r->problem, 400, "prompt", NULL, "prompt: %zu prompts: this server takes at most %lld at once", count,
                           (long long)r->limits->max_choices);
    r->out->prompts = calloc(count, sizeof *r->out->prompts);
    if (!r->out->prompts)
        return request_out_of_memory(r->problem);
    if (single)
        return read_one_prompt(r, value);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(value, i);
        if (json_typeof(item) != json_typeof(first) || (!json_is_string(item) && !json_is_array(item)))
            return request_refuse(r->problem, "prompt", item, "a list must hold strings only, token ids only or lists of token ids only");
        if (!read_one_prompt(r, item))
            return false;
    }
    return true;
}

/* Content as a list of parts: their texts, one after the other. */
static bool read_parts(const reader *r, const json_t *parts, chat_message *m)
{
    size_t i, total = 0;
    const json_t *part;
    json_array_foreach((json_t *)parts, i, part)
    {
        const json_t *type = json_object_get(part, "type"), *text = json_object_get(part, "text");
        if (!json_is_string(type) || strcmp(json_string_value(type), "text") != 0 || !json_is_string(text))
            return request_refuse(r->problem, "messages", json_is_object(part) ? type : part,
                                  "content: only parts of {\"type\": \"text\", \"text\": ...} are taken");
        total += json_string_length(text);
    }
    char *whole = malloc(total + 1);
    if (!whole)
        return request_out_of_memory(r->problem);
    m->content = whole;
    json_array_foreach((json_t *)parts, i, part)
    {
        const json_t *text = json_object_get(part, "text");
        memcpy(whole + m->bytes, json_string_value(text), json_string_length(text));
        m->bytes += json_string_length(text);
    }
    whole[total] = '\0';
    return true;
}

static bool read_message(const reader *r, const json_t *value)
{
    static const char *const roles[][2] = {{"system", "system"}, {"developer", "system"}, {"user", "user"}, {"assistant", "assistant"}};
    chat_message *m = &r->out->messages[r->out->message_count++];
    const json_t *role = json_object_get(value, "role"), *content = json_object_get(value, "content");
    if (!json_is_object(value))
        return request_refuse(r->problem, "messages", value, "must be a list of objects with role and content");
    const char *known = NULL;
    for (size_t i = 0; i < sizeof roles / sizeof *roles && json_is_string(role); i++)
        if (strcmp(json_string_value(role), roles[i][0]) == 0)
            known = roles[i][1];
    if (!known)
        return request_refuse(r->problem, "messages", role, "role: must be system, developer, user or assistant");
    m->role = known;
    if (json_is_array(content))
        return read_parts(r, content, m);
    if (json_is_string(content)) {
        char *text;
        if (!copy_text(content, &text, &m->bytes))
            return request_out_of_memory(r->problem);
        m->content = text;
        return true;
    }
    return request_refuse(r->problem, "messages", content, "content: must be a string or a list of text parts");
}

static bool read_messages(const reader *r)
{
    const json_t *value = field(r, "messages");
    const size_t count = json_array_size(value);
    if (!json_is_array(value) || count == 0)
        return request_refuse(r->problem, "messages", value, "must be a list of one message or more");
    r->out->messages = calloc(count, sizeof *r->out->messages);
    if (!r->out->messages)
        return request_out_of_memory(r->problem);
    for (size_t i = 0; i < count; i++)
        if (!read_message(r, json_array_get(value, i)))
            return false;
    return true;
}

static bool add_stop(const reader *r, const json_t *value)
{
    generate_request *q = r->out;
    size_t bytes;
    if (!json_is_string(value) || json_string_length(value) == 0 || strlen(json_string_value(value)) != json_string_length(value))
        return request_refuse(r->problem, "stop", value, "must be a text that is not empty, without a NUL character, or a list of such texts");
    if (json_string_length(value) > REQUEST_STOP_BYTES) {
        char why[64];
        snprintf(why, sizeof why, "%zu bytes: at most %d are taken", json_string_length(value), REQUEST_STOP_BYTES);
        return request_refuse(r->problem, "stop", value, why);
    }
    if (!copy_text(value, &q->stops[q->options.stop_count], &bytes))
        return request_out_of_memory(r->problem);
    q->options.stop_count++;
    return true;
}

static bool read_stop(const reader *r)
{
    const json_t *value = field(r, "stop");
    if (!value)
        return true;
    if (!json_is_array(value))
        return add_stop(r, value);
    if (json_array_size(value) > REQUEST_STOPS)
        return problem_set(r->problem, 400, "stop", NULL, "stop: %zu texts: at most %d are taken", json_array_size(value), REQUEST_STOPS);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!add_stop(r, json_array_get(value, i)))
            return false;
    return true;
}

/* "123" and nothing else; -1 for another text. */
static int64_t parse_id(const char *text)
{
    const size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 10 || text[digits] || (text[0] == '0' && digits > 1))
        return -1;
    return strtoll(text, NULL, 10);
}

static bool read_biases(const reader *r)
{
    const json_t *value = field(r, "logit_bias");
    if (!value)
        return true;
    const size_t count = json_object_size(value);
    if (!json_is_object(value))
        return request_refuse(r->problem, "logit_bias", value, "must be an object of token ids and numbers");
    if (count > REQUEST_BIASES)
        return problem_set(r->problem, 400, "logit_bias", NULL, "logit_bias: %zu entries: at most %d are taken", count, REQUEST_BIASES);
    generate_request *q = r->out;
    q->biases = malloc((count + 1) * sizeof *q->biases);
    if (!q->biases)
        return request_out_of_memory(r->problem);
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)value, key, item)
    {
        const int64_t id = parse_id(key);
        const double bias = json_number_value(item);
        if (id < 0 || id >= r->limits->vocab)
            return problem_set_quoting(r->problem, "logit_bias: must be an object of token ids and numbers", 400, "logit_bias", NULL,
                                       "logit_bias: %.40s: must be a token id from 0 to %lld", key, (long long)r->limits->vocab - 1);
        if (!json_is_number(item) || !(bias >= -100 && bias <= 100))
            return request_refuse(r->problem, "logit_bias", item, "must be a number from -100 (never) to 100");
        q->biases[q->options.logit_bias_count++] = (fathom_logit_bias){(int32_t)id, bias == -100 ? -INFINITY : (float)bias};
    }
    return true;
}

static bool read_sampling(const reader *r)
{
    fathom_generate_options *o = &r->out->options;
    int64_t top_k = 0, seed = 0;
    const json_t *seeded = field(r, "seed");
    r->out->seeded = seeded != NULL;
    const bool read = read_float(r, "temperature", 0, 2, "must be from 0 (greedy) to 2", &o->temperature) &&
                      read_float(r, "top_p", 0, 1, "must be from 0 to 1", &o->top_p) &&
                      read_integer(r, "top_k", -1, INT32_MAX, "must be a whole number: 1 or more, or 0 or -1 for off", &top_k) &&
                      read_float(r, "min_p", 0, 1, "must be from 0 to 1", &o->min_p) &&
                      read_integer(r, "seed", INT64_MIN, INT64_MAX, "must be a whole number", &seed) &&
                      read_float(r, "frequency_penalty", -2, 2, "must be from -2 to 2", &o->frequency_penalty) &&
                      read_float(r, "presence_penalty", -2, 2, "must be from -2 to 2", &o->presence_penalty) &&
                      read_number(r, "budget", 0, 1, "must be from 0 (the model's own) to 1", &o->budget) && read_stop(r) && read_biases(r);
    o->top_k = top_k > 0 ? (int32_t)top_k : 0;
    o->seed = (uint64_t)seed;
    if (o->top_p <= 0) /* the likeliest alone, which the sampler says in another way */
        o->top_p = 1, o->top_k = 1;
    return read;
}

static bool read_stream(const reader *r)
{
    generate_request *q = r->out;
    if (!read_bool(r, "stream", &q->stream) || !read_bool(r, "routing", &q->routing))
        return false;
    const json_t *options = field(r, "stream_options");
    if (!options)
        return true;
    if (!json_is_object(options))
        return request_refuse(r->problem, "stream_options", options, "must be an object");
    if (!q->stream)
        return request_refuse(r->problem, "stream_options", options, "only with \"stream\": true");
    const reader inside = {.root = options, .problem = r->problem};
    return read_bool(&inside, "include_usage", &q->include_usage);
}

static bool read_count(const reader *r)
{
    generate_request *q = r->out;
    char why[96];
    snprintf(why, sizeof why, "must be a whole number from 1 to %lld", (long long)r->limits->max_n);
    q->n = 1;
    if (!read_integer(r, "n", 1, r->limits->max_n, why, &q->n))
        return false;
    const int64_t prompts = q->chat ? 1 : (int64_t)q->prompt_count;
    if (prompts > r->limits->max_choices / q->n)
        return problem_set(r->problem, 400, "n", NULL, "n: %lld for %lld prompts: this server makes at most %lld choices at once",
                           (long long)q->n, (long long)prompts, (long long)r->limits->max_choices);
    return true;
}

/* Fields that would change the answer and that nobody here obeys: silence would be wrong. */
static bool refuse_unsupported(const reader *r, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *value = field(r, names[i]);
        if (value && !(json_is_array(value) && json_array_size(value) == 0))
            return request_refuse(r->problem, names[i], value, "not supported by this server");
    }
    return true;
}

static bool read_best_of(const reader *r)
{
    int64_t best_of = r->out->n;
    if (!read_integer(r, "best_of", 1, INT64_MAX, "must be a whole number, 1 or more", &best_of))
        return false;
    if (best_of != r->out->n)
        return request_refuse(r->problem, "best_of", field(r, "best_of"), "must be equal to n: choosing among more is not supported");
    const json_t *suffix = field(r, "suffix");
    if (suffix && !(json_is_string(suffix) && json_string_length(suffix) == 0))
        return request_refuse(r->problem, "suffix", suffix, "not supported by this server");
    return true;
}

static bool read_completion(const reader *r)
{
    generate_request *q = r->out;
    int64_t logprobs = -1;
    q->max_tokens = 16;
    if (!read_prompts(r) || !read_count(r) || !read_best_of(r) || !read_bool(r, "echo", &q->echo) ||
        !read_integer(r, "max_tokens", 0, INT64_MAX, "must be a whole number, 0 or more", &q->max_tokens) ||
        !read_integer(r, "logprobs", 0, FATHOM_TOP_LOGPROBS_MAX, "must be a whole number from 0 to 20", &logprobs))
        return false;
    q->logprobs = (int)logprobs;
    if (q->max_tokens == 0 && !q->echo)
        return request_refuse(r->problem, "max_tokens", field(r, "max_tokens"), "must be 1 or more, unless echo asks for the prompt");
    return true;
}

static bool read_format(const reader *r)
{
    const json_t *value = field(r, "response_format"), *type = json_object_get(value, "type");
    if (value && !(json_is_string(type) && strcmp(json_string_value(type), "text") == 0))
        return request_refuse(r->problem, "response_format", type ? type : value, "only {\"type\": \"text\"} is supported by this server");
    return true;
}

static bool read_chat(const reader *r)
{
    static const char *const unsupported[] = {"tools", "functions", "function_call", "audio"};
    static const char why[] = "must be a whole number, 1 or more";
    generate_request *q = r->out;
    bool logprobs = false;
    int64_t top = 0;
    q->max_tokens = -1;
    if (!refuse_unsupported(r, unsupported, sizeof unsupported / sizeof *unsupported) || !read_format(r) || !read_messages(r) ||
        !read_count(r) || !read_bool(r, "logprobs", &logprobs) ||
        !read_integer(r, "max_tokens", 1, INT64_MAX, why, &q->max_tokens) ||
        !read_integer(r, "max_completion_tokens", 1, INT64_MAX, why, &q->max_tokens) ||
        !read_integer(r, "top_logprobs", 0, FATHOM_TOP_LOGPROBS_MAX, "must be a whole number from 0 to 20", &top))
        return false;
    if (top > 0 && !logprobs)
        return request_refuse(r->problem, "top_logprobs", field(r, "top_logprobs"), "only with \"logprobs\": true");
    q->logprobs = logprobs ? (int)top : -1;
    return true;
}

json_t *request_object(const char *body, size_t bytes, serve_problem *problem)
{
    json_error_t why;
    json_t *root = json_loadb(bytes ? body : "", bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (root && json_is_object(root))
        return root;
    if (root) {
        problem_set(problem, 400, NULL, NULL, "body: must be a JSON object");
    } else if (json_error_code(&why) == json_error_out_of_memory) {
        request_out_of_memory(problem);
    } else {
        char logged[96]; /* jansson quotes what is near */
        snprintf(logged, sizeof logged, "body: malformed JSON, line %d column %d", why.line, why.column);
        problem_set_quoting(problem, logged, 400, NULL, NULL, "%s: %s", logged, why.text);
    }
    json_decref(root);
    return NULL;
}

bool request_parse(const char *body, size_t bytes, bool chat, const request_limits *limits, generate_request *out,
                   serve_problem *problem)
{
    *out = (generate_request){.chat = chat, .logprobs = -1, .options = {.temperature = 1, .top_p = 1}};
    json_t *root = request_object(body, bytes, problem);
    const reader r = {root, limits, out, problem};
    const bool read = root && read_model(&r) && (chat ? read_chat(&r) : read_completion(&r)) && read_sampling(&r) && read_stream(&r);
    json_decref(root);
    if (!read) {
        request_free(out);
        return false;
    }
    out->options.logit_bias = out->biases;
    return true;
}

void request_free(generate_request *r)
{
    for (size_t i = 0; i < r->prompt_count; i++) {
        free(r->prompts[i].text);
        free(r->prompts[i].ids);
    }
    for (size_t i = 0; i < r->message_count; i++) {
        free((char *)r->messages[i].content);
    }
    for (size_t i = 0; i < r->options.stop_count; i++)
        free(r->stops[i]);
    free(r->prompts);
    free(r->messages);
    free(r->biases);
    *r = (generate_request){0};
}
