/* The engine's thread. It alone touches the fathom_engine: it takes jobs from an inbox, steps while there is work and sleeps
 * otherwise. Other threads hand in jobs, wake it, and read a copy of the engine's statistics. */
#ifndef FATHOM_SERVE_WORKER_H
#define FATHOM_SERVE_WORKER_H

#include "serve/job.h"

typedef struct worker worker;

typedef struct worker_stats {
    fathom_engine_stats engine; /* routed is NULL: see below */
    int64_t routed[64];         /* by routed stage; the first ones of more */
    int64_t steps;
    double step_seconds;        /* spent inside the engine's steps */
} worker_stats;

/* The model is borrowed. */
fathom_status worker_start(const fathom_model *model, const fathom_engine_options *options, worker **out, fathom_error *err);
/* Ends every job with a problem (503), then the thread. The other calls remain possible until worker_free. */
void worker_stop(worker *w);
void worker_free(worker *w);
/* Takes a job in, with an ownership of its own; false after worker_stop. */
bool worker_submit(worker *w, job *j);
/* A job was abandoned: look for it now. */
void worker_poke(worker *w);
worker_stats worker_statistics(worker *w);
/* Sequences of jobs that the worker has not let go of yet. */
int64_t worker_sequences(worker *w);

#endif
