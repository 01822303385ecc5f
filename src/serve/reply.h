/* A job's events to OpenAI's objects: one JSON object at the end, or a stream of server-sent events. Belongs to the HTTP thread. The
 * two say the same: a stream is the object's text in pieces. */
#ifndef FATHOM_SERVE_REPLY_H
#define FATHOM_SERVE_REPLY_H

#include "serve/logprobs.h"
#include "serve/metrics.h"

typedef struct reply_choice {
    bool begun;          /* something of it has been seen */
    text_buffer pending; /* text not yet in a chunk */
    text_tail tail;      /* and what waits for the rest of a character */
    json_t *logprobs;    /* the object under construction; NULL: none asked for, or none since the last chunk */
    size_t listed;       /* tokens that it has had, all chunks together */
    json_t *depths;      /* the same for depth_before */
    text_place place;    /* where the next of them begins */
    double last;         /* when its last token came; 0: none yet */
    const char *finish;  /* NULL: not yet */
    int64_t prompt_tokens, tokens, cached_tokens, made; /* made: TOKEN events */
    double routed_fraction;
} reply_choice;

typedef struct reply {
    job *job; /* borrowed */
    const fathom_model *model;
    const char *name; /* of the model */
    metrics *counts;
    char id[48];
    int64_t created;
    text_buffer out;  /* a stream's bytes to send */
    text_buffer taken;
    reply_choice *choices;
    bool done, failed_memory;
    serve_problem problem;
    double first_token; /* when; 0: never */
} reply;

bool reply_begin(reply *r, job *j, const fathom_model *model, const char *name, metrics *counts, const char *id);
void reply_free(reply *r);
/* Takes what has happened; a stream's bytes are appended to `out`. True when nothing more will come. */
bool reply_take(reply *r);
/* The whole object after the end, malloc'd; NULL when out of memory. */
char *reply_whole(const reply *r);

typedef struct reply_usage {
    int64_t prompt_tokens, tokens, cached_tokens;
    const char *finish; /* the first choice's */
} reply_usage;
reply_usage reply_count(const reply *r);

#endif
