/* The HTTP server: OpenAI's routes over one fathom_engine (docs/serving.md).
 *
 * Three threads, and who owns what:
 *
 *   HTTP    libmicrohttpd's own. Parses and answers: exchanges, replies, metrics, the log, the encoder of prompts are its alone. Prompts
 *           become tokens here, not on the engine's thread: a body is bounded (--max-body), and a long one delays other clients' answers
 *           for up to a second, but nobody's tokens.
 *   worker  owns the engine (worker.h); tells of its events through jobs (job.h).
 *   clock   whoever calls server_tick: looks for clients that have gone, deadlines that have passed and connections that deliver nothing.
 *
 * Between them: a job's own lock, the worker's, and the server's, which guards the list of connections. None is taken while the server's
 * is held. A request reaches the engine only when its body is complete, so slow and vanishing clients cost it nothing. */
#ifndef FATHOM_SERVE_SERVER_H
#define FATHOM_SERVE_SERVER_H

#include <stdbool.h>

#include "base/status.h"
#include "serve/log_writer.h"
#include "text/chat_template.h"

typedef struct server server;

/* Texts are borrowed for the server's life. */
typedef struct server_options {
    const char *host; /* a name or an address */
    int port;         /* 0: a free one */
    const char *model_name;
    const char *api_key;      /* NULL: none is asked for */
    chat_template chat;
    fathom_engine_options engine;
    int64_t max_body;         /* bytes */
    int64_t max_prompt;       /* tokens; 0: the model's length */
    int64_t max_n, max_queue, max_connections;
    double timeout;           /* seconds for an answer */
    double receive_timeout;   /* seconds for the next complete request on a connection */
    log_writer *log;          /* one line of JSON a request; borrowed; NULL: none */
    bool log_prompts;
} server_options;

server_options server_defaults(void);
/* Binds, listens and answers until server_stop. The model is borrowed. */
fathom_status server_start(const fathom_model *model, const server_options *options, server **out, fathom_error *err);
int server_port(const server *s);
/* To be called some times a second. */
void server_tick(server *s);
/* No new connections, 503 for new requests; those that run go on. */
void server_drain(server *s);
/* Requests that are being answered. */
int64_t server_unfinished(server *s);
/* Ends what runs, waits a little for the clients to be told, frees everything. */
void server_stop(server *s);

#endif
