/* What the files of the server share: the server itself, a connection, and an exchange, which is one request and its answer. */
#ifndef FATHOM_SERVE_EXCHANGE_H
#define FATHOM_SERVE_EXCHANGE_H

#include <microhttpd.h>
#include <stdatomic.h>

#include "serve/reply.h"
#include "serve/server.h"

/* Guarded by the server's lock. */
typedef struct connection {
    int fd;
    double since;  /* when it last had no request to wait for */
    double left;   /* when the client was found gone; 0: it is there */
    bool answering; /* an exchange runs: `since` does not count */
    job *job;      /* borrowed from the exchange; NULL: none runs */
    struct connection *previous, *next;
} connection;

struct server {
    server_options options;
    request_limits limits;
    const fathom_model *model;
    fathom_model_info info;
    struct MHD_Daemon *daemon;
    worker *worker;
    int listening, port;
    atomic_bool draining;

    encoder *encoder; /* from here on the HTTP thread's; NULL: the model has no tokenizer */
    metrics counts;
    int32_t chat_end; /* the token that ends a chat's message; -1: there is none */
    uint64_t serial;
    size_t body_bytes;       /* of bodies and long answers, held for all exchanges together */
    int64_t logprob_entries; /* that their answers may have */

    pthread_mutex_t lock;
    connection *connections;
    int64_t connection_count, exchanges;
};

typedef struct exchange {
    server *server;
    struct MHD_Connection *mhd;
    connection *connection;
    char method[16], path[256], remote[64], id[32];
    size_t route;
    double began;
    text_buffer body;
    int64_t received;
    size_t answer_bytes; /* of server's body_bytes */
    serve_problem problem; /* found before the body was complete: the answer, once it is */
    int status;
    job *job; /* the routes that generate */
    reply reply;
    int64_t logprob_entries; /* of server's */
    size_t sent; /* of reply.out */
    bool streaming;
} exchange;

/* Routes: what answers a complete request. */
typedef struct http_route {
    const char *method, *path;
    bool open;   /* without a key */
    bool prefix; /* path is the beginning of paths */
    enum MHD_Result (*answer)(exchange *x);
} http_route;
enum { ROUTE_COUNT = 11, ROUTE_UNKNOWN = ROUTE_COUNT - 1 };
extern const http_route routes[ROUTE_COUNT];
/* The route; ROUTE_UNKNOWN after x->problem was filled: 404, or 405 with the methods in *allow. */
size_t route_find(const char *method, const char *path, const char **allow, serve_problem *problem);
const char *route_name(size_t route);

/* The body has been read: its memory goes. */
void exchange_drop_body(exchange *x);

/* Answers. The first takes the reference; NULL is "out of memory". */
enum MHD_Result answer_json(exchange *x, int status, json_t *object);
/* For an answer that may be many times its request: in the body's place it counts among what all exchanges hold, as long as the client takes
 * to read it. field: what asks for it. Takes the reference. */
enum MHD_Result answer_long(exchange *x, const char *field, json_t *object);
/* False: the answer that field asks for would be longer than answer_long gives. */
bool answer_too_long(exchange *x, const char *field);
/* text is malloc'd and taken over. */
enum MHD_Result answer_text(exchange *x, int status, const char *type, char *text);
enum MHD_Result answer_problem(exchange *x, const serve_problem *problem);
/* Adds what every answer has, queues it and lets go of it. */
enum MHD_Result answer_queue(exchange *x, int status, struct MHD_Response *response);

/* generating.c: the routes that ask the engine. */
enum MHD_Result answer_completion(exchange *x);
enum MHD_Result answer_chat(exchange *x);
/* After a sleep. */
enum MHD_Result answer_resumed(exchange *x);
/* The exchange is over: lets go of the job. ok: the answer went out whole. */
void generating_end(exchange *x, bool ok);

/* One line about an exchange that is over. */
void access_log(const exchange *x);

#endif
