/* The engine's thread: see worker.h. `inbox`, `stop`, `poked`, `sequences` and `stats` are guarded by the lock; the rest is the thread's own. */
#include "serve/worker.h"

#include <stdlib.h>
#include <string.h>

#include "base/timing.h"

struct worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    job *inbox, **inbox_end;
    bool stop, poked;
    int64_t sequences;
    worker_stats stats;

    fathom_engine *engine;
    job *live;
    int64_t steps;
    double step_seconds;
};

static int on_event(const fathom_event *event, void *user)
{
    job_choice *c = user;
    const bool failed = event->kind == FATHOM_EVENT_END && event->finish == FATHOM_FINISH_FAILED;
    if (failed) {
        job_fail(c->job, 500, NULL, event->error ? event->error->message : "generation failed");
    } else {
        job_add(c->job, c->index, event, timing_now());
    }
    c->ended = event->kind == FATHOM_EVENT_END;
    return 0;
}

static fathom_status submit_choice(worker *w, job *j, job_choice *c, fathom_error *err)
{
    const generate_request *q = &j->request;
    const size_t prompt = (size_t)c->index / (size_t)q->n;
    const bool score = q->echo && (q->logprobs >= 0 || q->max_tokens == 0);
    fathom_engine_request r = {.ids = j->ids[prompt], .count = j->counts[prompt], .options = q->options,
                               .top_logprobs = q->logprobs, .prompt_logprobs = score, .stop_ids = j->stop_ids,
                               .stop_id_count = j->stop_id_count, .callback = on_event, .user = c};
    if (score && q->logprobs < 0)
        r.top_logprobs = 0;
    r.options.max_tokens = q->max_tokens >= 0 && q->max_tokens < j->max_new ? q->max_tokens : j->max_new;
    r.options.seed = j->seed + (uint64_t)c->index; /* each choice its own, or all would be the same */
    r.options.stop = (const char *const *)q->stops;
    TRY(fathom_engine_submit(w->engine, &r, &c->engine_id, err));
    c->submitted = true;
    return FATHOM_OK;
}

static void submit(worker *w, job *j)
{
    fathom_error err;
    for (size_t i = 0; i < j->choice_count; i++) {
        const fathom_status status = submit_choice(w, j, &j->choices[i], &err);
        if (status == FATHOM_OK)
            continue;
        job_fail(j, status == FATHOM_OUT_OF_MEMORY ? 500 : 400, NULL, err.message);
        break;
    }
    j->next = w->live;
    w->live = j;
}

static void cancel(worker *w, job *j)
{
    for (size_t i = 0; i < j->choice_count; i++) {
        job_choice *c = &j->choices[i];
        if (c->submitted && !c->ended)
            fathom_engine_cancel(w->engine, c->engine_id);
        c->ended = true;
    }
}

static bool ended(const job *j)
{
    for (size_t i = 0; i < j->choice_count; i++)
        if (!j->choices[i].ended)
            return false;
    return true;
}

/* Cancels what nobody waits for and lets go of what has ended. */
static void sweep(worker *w)
{
    int64_t gone = 0;
    for (job **at = &w->live; *at;) {
        job *j = *at;
        if (job_abandoned(j))
            cancel(w, j);
        if (!ended(j)) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        gone += (int64_t)j->choice_count;
        job_finish(j);
        job_drop(j);
    }
    pthread_mutex_lock(&w->lock);
    w->sequences -= gone;
    pthread_mutex_unlock(&w->lock);
}

static void publish(worker *w)
{
    worker_stats s = {.engine = fathom_engine_statistics(w->engine), .steps = w->steps, .step_seconds = w->step_seconds};
    const size_t room = sizeof s.routed / sizeof *s.routed, stages = (size_t)s.engine.stages;
    if (s.engine.routed)
        memcpy(s.routed, s.engine.routed, (stages < room ? stages : room) * sizeof *s.routed);
    s.engine.stages = (int64_t)(stages < room ? stages : room);
    s.engine.routed = NULL;
    pthread_mutex_lock(&w->lock);
    w->stats = s;
    pthread_mutex_unlock(&w->lock);
}

/* Sleeps until there is work; false: the end has come. */
static bool take_inbox(worker *w, job **taken)
{
    pthread_mutex_lock(&w->lock);
    while (!w->inbox && !w->live && !w->stop && !w->poked)
        pthread_cond_wait(&w->work, &w->lock);
    *taken = w->inbox;
    w->inbox = NULL;
    w->inbox_end = &w->inbox;
    w->poked = false;
    const bool stop = w->stop;
    pthread_mutex_unlock(&w->lock);
    return !stop;
}

static void end_all(worker *w)
{
    for (job *j = w->live; j; j = j->next)
        job_fail(j, 503, "shutting_down", "the server is shutting down");
    sweep(w);
}

static void *run(void *user)
{
    worker *w = user;
    for (bool going = true; going;) {
        job *taken;
        going = take_inbox(w, &taken);
        for (job *next; taken; taken = next) {
            next = taken->next;
            submit(w, taken);
        }
        sweep(w);
        if (going && w->live) {
            const double began = timing_now();
            fathom_engine_step(w->engine);
            w->step_seconds += timing_now() - began;
            w->steps++;
            sweep(w);
        }
        publish(w);
    }
    end_all(w);
    publish(w);
    return NULL;
}

fathom_status worker_start(const fathom_model *model, const fathom_engine_options *options, worker **out, fathom_error *err)
{
    *out = NULL;
    worker *w = calloc(1, sizeof *w);
    if (!w)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    w->inbox_end = &w->inbox;
    const fathom_status status = fathom_engine_new(model, options, &w->engine, err);
    if (status != FATHOM_OK) {
        free(w);
        return status;
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    publish(w);
    if (pthread_create(&w->thread, NULL, run, w) != 0) {
        fathom_engine_free(w->engine);
        free(w);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "cannot start the engine's thread");
    }
    *out = w;
    return FATHOM_OK;
}

void worker_stop(worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
}

void worker_free(worker *w)
{
    fathom_engine_free(w->engine);
    pthread_cond_destroy(&w->work);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

bool worker_submit(worker *w, job *j)
{
    pthread_mutex_lock(&w->lock);
    const bool open = !w->stop;
    if (open) {
        j->next = NULL;
        job_hold(j);
        *w->inbox_end = j;
        w->inbox_end = &j->next;
        w->sequences += (int64_t)j->choice_count;
        pthread_cond_signal(&w->work);
    }
    pthread_mutex_unlock(&w->lock);
    return open;
}

void worker_poke(worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->poked = true;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
}

worker_stats worker_statistics(worker *w)
{
    pthread_mutex_lock(&w->lock);
    const worker_stats s = w->stats;
    pthread_mutex_unlock(&w->lock);
    return s;
}

int64_t worker_sequences(worker *w)
{
    pthread_mutex_lock(&w->lock);
    const int64_t sequences = w->sequences;
    pthread_mutex_unlock(&w->lock);
    return sequences;
}
