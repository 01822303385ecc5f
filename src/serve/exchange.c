/* One request's way through MHD: its head is checked, its body gathered, its route asked, its end noted. All on the HTTP thread. A
 * refusal found in the head waits for the body's end, as long as that is near, so that the connection can be used again. */
#include "serve/exchange.h"

#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/timing.h"
#include "serve/http.h"

enum {
    DISCARD_FACTOR = 4, /* bodies of so many times the limit are read to be refused; longer ones end the connection */
    BODIES = 16,        /* longest bodies, or answers of that length, held at once */
    SMALL_BODY = 65536, /* bytes: is held whatever others hold; connections bound these */
};

static bool same_key(const char *given, const char *key)
{
    const size_t n = strlen(given), k = strlen(key);
    unsigned char difference = n != k;
    for (size_t i = 0; i < n; i++) /* in time that does not depend on where they differ */
        difference |= (unsigned char)(given[i] ^ key[k ? i % k : 0]);
    return difference == 0;
}

static bool authorized(const exchange *x)
{
    const char *key = x->server->options.api_key, *given = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Authorization");
    if (!key || routes[x->route].open)
        return true;
    return given && strncasecmp(given, "Bearer ", 7) == 0 && same_key(given + 7, key);
}

/* What a page of another site may send without asking, forms, plain text and bytes of no type, is not taken. */
static bool json_content(const exchange *x)
{
    const char *type = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Content-Type");
    return type && strncasecmp(type, "application/json", 16) == 0;
}

static void check_head(exchange *x)
{
    const char *allow;
    const server *s = x->server;
    x->route = route_find(x->method, x->path, &allow, &x->problem);
    if (!authorized(x)) {
        x->problem = (serve_problem){0};
        problem_set(&x->problem, 401, NULL, "invalid_api_key", "Authorization: a valid key is needed: Authorization: Bearer KEY");
    }
    const bool post = strcmp(x->method, "POST") == 0;
    if (post && !json_content(x))
        problem_set(&x->problem, 415, NULL, NULL, "Content-Type: must be application/json");
    if (post && atomic_load(&s->draining))
        problem_set(&x->problem, 503, NULL, "shutting_down", "the server is shutting down");
}

static void name_remote(exchange *x)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info ? info->client_addr : NULL;
    char port[8];
    const socklen_t size = address && address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (!address || getnameinfo(address, size, x->remote, sizeof x->remote, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        strcpy(x->remote, "-");
}

static exchange *begin(server *s, struct MHD_Connection *mhd, const char *path, const char *method)
{
    exchange *x = calloc(1, sizeof *x);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (!x || !info || !info->socket_context) {
        free(x);
        return NULL;
    }
    x->server = s;
    x->mhd = mhd;
    x->connection = info->socket_context;
    x->began = timing_now();
    snprintf(x->method, sizeof x->method, "%s", method);
    snprintf(x->path, sizeof x->path, "%s", path);
    snprintf(x->id, sizeof x->id, "%08llx%08llx", (unsigned long long)s->counts.started & 0xffffffff, (unsigned long long)++s->serial);
    name_remote(x);
    check_head(x);
    return x;
}

void exchange_drop_body(exchange *x)
{
    x->server->body_bytes -= x->body.capacity;
    text_buffer_free(&x->body);
}

/* Is there room for `bytes` of one exchange, which are counted already? */
static bool fits(const server *s, size_t bytes)
{
    return bytes <= SMALL_BODY || s->body_bytes <= (size_t)(BODIES * s->options.max_body);
}

static bool overloaded(exchange *x)
{
    return problem_set(&x->problem, 503, NULL, "overloaded", "too many large requests at once: try again later");
}

static void refuse_body(exchange *x)
{
    problem_set(&x->problem, 413, NULL, NULL, "body: more than %lld bytes, the most that this server takes",
                (long long)x->server->options.max_body);
    exchange_drop_body(x);
}

bool answer_too_long(exchange *x, const char *field)
{
    return problem_set(&x->problem, 400, field, NULL, "%s: the answer has more than %lld bytes, the most that this server gives (--max-body)",
                       field, (long long)x->server->options.max_body);
}

/* A part of the body. False: enough is enough. */
static bool take_body(exchange *x, const char *data, size_t bytes)
{
    server *s = x->server;
    const int64_t most = s->options.max_body;
    x->received += (int64_t)bytes;
    if (x->received > most)
        refuse_body(x);
    if (x->problem.status)
        return x->received <= DISCARD_FACTOR * most;
    const size_t before = x->body.capacity;
    const bool added = text_buffer_add(&x->body, data, bytes, NULL) == FATHOM_OK;
    s->body_bytes += x->body.capacity - before;
    if (added && fits(s, x->body.capacity))
        return true;
    overloaded(x);
    exchange_drop_body(x);
    return true;
}

/* A body that says in its head that it is far too long is not waited for. */
static bool hopeless(exchange *x)
{
    const char *text = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Content-Length");
    const unsigned long long length = text ? strtoull(text, NULL, 10) : 0;
    if (length <= (unsigned long long)(DISCARD_FACTOR * x->server->options.max_body))
        return false;
    refuse_body(x);
    return true;
}

/* What a proxy before this server may read in another way, so that it sees the end of the request elsewhere and takes a part of its body for
 * another request: RFC 9112, 6.3. MHD takes the first length, and reads chunks whatever the length. */
typedef struct framing {
    int lengths, encodings;
    bool bad;
} framing;

static enum MHD_Result check_header(void *user, enum MHD_ValueKind kind, const char *name, const char *value)
{
    framing *f = user;
    (void)kind;
    f->lengths += strcasecmp(name, "Content-Length") == 0;
    if (strcasecmp(name, "Transfer-Encoding") == 0) {
        f->encodings++;
        f->bad |= !value || strcasecmp(value, "chunked") != 0;
    }
    f->bad |= strpbrk(name, " \t") != NULL;
    return MHD_YES;
}

static bool ambiguous(exchange *x)
{
    framing f = {0};
    MHD_get_connection_values(x->mhd, MHD_HEADER_KIND, check_header, &f);
    if (!f.bad && f.lengths + f.encodings <= 1)
        return false;
    x->problem = (serve_problem){0};
    problem_set(&x->problem, 400, NULL, NULL, "Content-Length, Transfer-Encoding: where the body ends must be told once, in a form that all understand");
    return true;
}

static void set_answering(exchange *x, bool answering)
{
    server *s = x->server;
    pthread_mutex_lock(&s->lock);
    if (x->connection->answering != answering)
        s->exchanges += answering ? 1 : -1;
    x->connection->answering = answering;
    x->connection->since = timing_now();
    pthread_mutex_unlock(&s->lock);
}

enum MHD_Result exchange_handle(void *user, struct MHD_Connection *mhd, const char *path, const char *method, const char *version,
                                const char *data, size_t *bytes, void **context)
{
    (void)version;
    exchange *x = *context;
    if (!x) {
        *context = x = begin(user, mhd, path, method);
        if (!x)
            return MHD_NO;
        return ambiguous(x) || hopeless(x) ? answer_problem(x, &x->problem) : MHD_YES;
    }
    if (*bytes > 0) {
        const bool going = take_body(x, data, *bytes);
        *bytes = 0;
        return going ? MHD_YES : MHD_NO;
    }
    if (x->job)
        return answer_resumed(x);
    set_answering(x, true);
    return x->problem.status ? answer_problem(x, &x->problem) : routes[x->route].answer(x);
}

void exchange_completed(void *user, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode how)
{
    exchange *x = *context;
    (void)user, (void)mhd;
    if (!x)
        return;
    server *s = x->server;
    const bool ok = how == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    generating_end(x, ok);
    if (x->status == 0 || (!ok && x->status < 400))
        x->status = 499;
    metrics_request(&s->counts, x->route, x->status, timing_now() - x->began);
    access_log(x);
    reply_free(&x->reply);
    if (x->job)
        job_drop(x->job);
    s->logprob_entries -= x->logprob_entries;
    exchange_drop_body(x);
    s->body_bytes -= x->answer_bytes;
    set_answering(x, false);
    free(x);
    *context = NULL;
}

void exchange_connection(void *user, struct MHD_Connection *mhd, void **context, enum MHD_ConnectionNotificationCode what)
{
    server *s = user;
    connection *c = *context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = c = info ? calloc(1, sizeof *c) : NULL;
        if (!c)
            return; /* its requests find no connection and end it */
        c->fd = info->connect_fd;
        c->since = timing_now();
        pthread_mutex_lock(&s->lock);
        c->next = s->connections;
        if (c->next)
            c->next->previous = c;
        s->connections = c;
        s->connection_count++;
        pthread_mutex_unlock(&s->lock);
    } else if (c) {
        pthread_mutex_lock(&s->lock);
        *(c->previous ? &c->previous->next : &s->connections) = c->next;
        if (c->next)
            c->next->previous = c->previous;
        s->connection_count--;
        pthread_mutex_unlock(&s->lock);
        free(c);
        *context = NULL;
    }
}

enum MHD_Result answer_queue(exchange *x, int status, struct MHD_Response *response)
{
    MHD_add_response_header(response, "X-Request-Id", x->id);
    if (status == 405)
        MHD_add_response_header(response, "Allow", strcmp(routes[x->route].method, "GET") == 0 ? "GET, HEAD" : "POST");
    if (status == 401)
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (status == 429 || status == 503)
        MHD_add_response_header(response, "Retry-After", "1");
    x->status = status;
    const enum MHD_Result queued = MHD_queue_response(x->mhd, (unsigned)status, response);
    MHD_destroy_response(response);
    return queued;
}

enum MHD_Result answer_text(exchange *x, int status, const char *type, char *text)
{
    if (!text)
        return answer_json(x, 500, NULL);
    struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return MHD_NO;
    }
    MHD_add_response_header(response, "Content-Type", type);
    return answer_queue(x, status, response);
}

static char *json_text(const json_t *object)
{
    return object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
}

enum MHD_Result answer_long(exchange *x, const char *field, json_t *object)
{
    server *s = x->server;
    char *text = json_text(object);
    json_decref(object);
    const size_t bytes = text ? strlen(text) : 0;
    exchange_drop_body(x);
    s->body_bytes += bytes;
    if ((int64_t)bytes > s->options.max_body ? answer_too_long(x, field) : fits(s, bytes) || overloaded(x)) {
        x->answer_bytes = bytes;
        return answer_text(x, 200, "application/json", text);
    }
    s->body_bytes -= bytes;
    free(text);
    return answer_problem(x, &x->problem);
}

enum MHD_Result answer_json(exchange *x, int status, json_t *object)
{
    static const char failed[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";
    char *text = json_text(object);
    json_decref(object);
    if (!text) {
        text = strdup(failed);
        status = 500;
    }
    return text ? answer_text(x, status, "application/json", text) : MHD_NO;
}

enum MHD_Result answer_problem(exchange *x, const serve_problem *problem)
{
    if (problem != &x->problem)
        x->problem = *problem; /* for the log */
    return answer_json(x, problem->status, problem_json(problem));
}
