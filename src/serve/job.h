/* One request's way between the two threads. The HTTP thread makes a job and hands it to the worker; the worker, from the engine's
 * callbacks, appends what happens; the HTTP thread takes it in batches and makes the answer of it. Everything from `lock` on is guarded
 * by it; what stands before does not change after submission. A job has an owner on either side: whoever drops it last frees it. */
#ifndef FATHOM_SERVE_JOB_H
#define FATHOM_SERVE_JOB_H

#include <pthread.h>
#include <stdatomic.h>

#include "serve/request.h"
#include "text/unicode.h"

/* An event of the engine, with its texts copied behind it. */
typedef struct job_event {
    fathom_event_kind kind;
    fathom_finish finish;
    int64_t choice; /* prompt x n + which of n */
    double at;      /* timing_now() */
    int32_t token;
    float logprob;
    int64_t depth_before, prompt_tokens, tokens, cached_tokens;
    double routed_fraction;
    size_t top_count, bytes;
    const fathom_logprob *top; /* [top_count] */
    const char *text;          /* [bytes] */
} job_event;

/* One sequence in the engine. */
typedef struct job_choice {
    struct job *job;
    int64_t index;
    int64_t engine_id; /* the worker's */
    bool submitted, ended;
} job_choice;

typedef struct job {
    generate_request request;
    int32_t **ids; /* [prompts] the prompts' tokens */
    size_t *counts;
    size_t prompts;
    job_choice *choices; /* [choice_count] written by the worker */
    size_t choice_count;
    uint64_t seed;
    int64_t max_new;     /* what the model's length leaves for the longest, where max_tokens is -1 */
    const int32_t *stop_ids; /* borrowed for the server's life */
    size_t stop_id_count;
    double arrived;
    void (*wake)(void *user); /* called with the lock held when `waiting` ends */
    void *user;
    struct job *next; /* the worker's */
    atomic_int owners;

    pthread_mutex_t lock;
    text_buffer events; /* job_event, top, text, each rounded up to 8 bytes */
    bool done;          /* nothing more will */
    bool abandoned;     /* nobody waits any longer: the worker is to cancel what is left */
    bool waiting;       /* the connection sleeps */
    bool wants_all;     /* wake only when all is done */
    serve_problem problem; /* the answer, or where a stream had begun its end */
} job;

/* Takes over *request and leaves it empty, also on failure; NULL when out of memory. */
job *job_new(generate_request *request);
/* One side lets go. */
void job_drop(job *j);
/* Worker: appends an event. Out of memory ends the job. */
void job_add(job *j, int64_t choice, const fathom_event *event, double at);
/* Either side: nothing more comes. */
void job_finish(job *j);
/* Ends the job with a problem and tells the worker to cancel what is left. The first end counts. */
void job_fail(job *j, int status, const char *code, const char *message);
/* HTTP: gives the events so far in exchange for an empty buffer, whose memory is used again; true when nothing more will come. */
bool job_take(job *j, text_buffer *events, serve_problem *problem);
/* The next event of a taken buffer; false at its end. */
bool job_read(const text_buffer *events, size_t *at, job_event *out);
/* HTTP: sleeps, by calling sleep(user) with the lock held, unless there is something to do already: then false. */
bool job_wait(job *j, void (*sleep)(void *user));
/* HTTP: the connection is gone. Nobody is woken from now on; returns false where the job had ended before. */
bool job_abandon(job *j);
bool job_abandoned(job *j);
/* An ownership more. */
void job_hold(job *j);

#endif
