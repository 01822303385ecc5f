/* Starting, watching and stopping the server: see server.h. */
#include "serve/server.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/timing.h"
#include "serve/http.h"

enum {
    BACKLOG = 512,
    FLUSH_SECONDS = 2, /* for the last answers of a server that stops */
};
static const double LEFT_SECONDS = 0.5;

server_options server_defaults(void)
{
    return (server_options){.host = "127.0.0.1", .port = 8080, .engine = fathom_engine_defaults(), .max_body = 4 << 20, .max_n = 16,
                            .max_queue = 256, .max_connections = 1024, .timeout = 600, .receive_timeout = 60};
}

static fathom_status open_socket(const struct addrinfo *a, int *out)
{
    const int one = 1, fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    if (fd < 0)
        return FATHOM_IO;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        const int why = errno;
        close(fd);
        errno = why;
        return FATHOM_IO;
    }
    *out = fd;
    return FATHOM_OK;
}

static int bound_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char port[8] = "";
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0 ||
        getnameinfo((struct sockaddr *)&address, size, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0)
        return 0;
    return atoi(port);
}

static fathom_status listen_at(const char *host, int port, int *fd, fathom_error *err)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char service[8];
    snprintf(service, sizeof service, "%d", port);
    const int failed = getaddrinfo(host, service, &hints, &found);
    if (failed != 0)
        return status_fail(err, FATHOM_NOT_FOUND, "--host: %s: %s", host, gai_strerror(failed));
    fathom_status status = FATHOM_IO;
    for (const struct addrinfo *a = found; a && status != FATHOM_OK; a = a->ai_next)
        status = open_socket(a, fd);
    const int why = errno;
    freeaddrinfo(found);
    return status == FATHOM_OK ? status : status_fail(err, FATHOM_IO, "%s:%d: cannot listen: %s", host, port, strerror(why));
}

static fathom_status start_http(server *s, fathom_error *err)
{
    const server_options *o = &s->options;
    s->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, exchange_handle, s,
                                 MHD_OPTION_LISTEN_SOCKET, s->listening, MHD_OPTION_CONNECTION_LIMIT, (unsigned)o->max_connections,
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->receive_timeout, MHD_OPTION_NOTIFY_COMPLETED,
                                 exchange_completed, s, MHD_OPTION_NOTIFY_CONNECTION, exchange_connection, s, MHD_OPTION_END);
    return s->daemon ? FATHOM_OK : status_fail(err, FATHOM_IO, "cannot start the HTTP server: %s", strerror(errno));
}

static void free_server(server *s)
{
    if (s->worker) {
        worker_stop(s->worker);
        worker_free(s->worker);
    }
    if (s->listening >= 0)
        close(s->listening);
    encoder_free(s->encoder);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static fathom_status prepare(server *s, fathom_error *err)
{
    const server_options *o = &s->options;
    const tokenizer *tok = fathom_model_tokenizer(s->model);
    s->info = fathom_model_describe(s->model);
    s->limits = (request_limits){.model = o->model_name, .vocab = s->info.vocab, .max_n = o->max_n,
                                 .max_choices = o->engine.max_active + o->max_queue, .max_prompt = s->info.max_tokens};
    if (o->max_prompt > 0 && o->max_prompt < s->limits.max_prompt)
        s->limits.max_prompt = o->max_prompt;
    s->chat_end = tok ? chat_template_end_id(o->chat, tok) : -1;
    if (tok)
        TRY(encoder_new(tok, &s->encoder, err));
    TRY(listen_at(o->host, o->port, &s->listening, err));
    s->port = bound_port(s->listening);
    TRY(worker_start(s->model, &o->engine, &s->worker, err));
    return start_http(s, err);
}

fathom_status server_start(const fathom_model *model, const server_options *options, server **out, fathom_error *err)
{
    *out = NULL;
    server *s = calloc(1, sizeof *s);
    if (!s)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    s->options = *options;
    s->model = model;
    s->listening = -1;
    s->counts = metrics_begin();
    pthread_mutex_init(&s->lock, NULL);
    const fathom_status status = prepare(s, err);
    if (status != FATHOM_OK) {
        free_server(s);
        return status;
    }
    *out = s;
    return FATHOM_OK;
}

int server_port(const server *s)
{
    return s->port;
}

static bool gone(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* Nothing will come of it: it delivers nothing, or its client left before the request was complete, which MHD misses where the last bytes
 * and the end arrive together (its epoll tells of both at once, it reads the bytes and waits for more). A client that has sent all and
 * then closed its sending half is given the time to be answered. */
static bool hopeless(const server *s, connection *c, double now)
{
    if (c->left == 0 && gone(c->fd))
        c->left = now;
    return now - c->since > s->options.receive_timeout || (c->left > 0 && now - c->left > LEFT_SECONDS);
}

/* The next connection with a job that must end, which is then held by us; 0 where there is none. */
static int find_ended(server *s, double now, job **out)
{
    int status = 0;
    pthread_mutex_lock(&s->lock);
    for (connection *c = s->connections; c && !status; c = c->next) {
        if (!c->job) {
            if (!c->answering && hopeless(s, c, now)) {
                shutdown(c->fd, SHUT_RDWR); /* MHD notices, and closes */
                c->since = c->left = now;
            }
            continue;
        }
        status = gone(c->fd) ? 499 : now - c->job->arrived > s->options.timeout ? 504 : 0;
        if (!status)
            continue;
        *out = c->job;
        job_hold(*out);
        c->job = NULL; /* it is not to be found again */
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

void server_tick(server *s)
{
    const double now = timing_now();
    job *j;
    int status;
    bool any = false;
    while ((status = find_ended(s, now, &j)) != 0) {
        if (status == 499)
            job_fail(j, 499, NULL, "the client went away");
        else
            job_fail(j, 504, "timeout", "the answer took longer than this server allows");
        job_drop(j);
        any = true;
    }
    if (any)
        worker_poke(s->worker);
}

void server_drain(server *s)
{
    atomic_store(&s->draining, true);
    MHD_quiesce_daemon(s->daemon);
    close(s->listening);
    s->listening = -1;
}

int64_t server_unfinished(server *s)
{
    pthread_mutex_lock(&s->lock);
    const int64_t n = s->exchanges;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void server_stop(server *s)
{
    if (!s)
        return;
    if (!atomic_load(&s->draining))
        server_drain(s);
    worker_stop(s->worker); /* every job ends, so every connection wakes: MHD may not be stopped while one sleeps */
    const double until = timing_now() + FLUSH_SECONDS;
    while (server_unfinished(s) > 0 && timing_now() < until)
        usleep(10000);
    MHD_stop_daemon(s->daemon);
    worker_free(s->worker);
    s->worker = NULL;
    free_server(s);
}
