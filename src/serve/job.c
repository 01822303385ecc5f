/* A request between two threads: see job.h. */
#include "serve/job.h"

#include <stdlib.h>
#include <string.h>

job *job_new(generate_request *request)
{
    const size_t prompts = request->chat ? 1 : request->prompt_count, choices = prompts * (size_t)request->n;
    job *j = calloc(1, sizeof *j);
    if (j) {
        j->ids = calloc(prompts, sizeof *j->ids);
        j->counts = calloc(prompts, sizeof *j->counts);
        j->choices = calloc(choices, sizeof *j->choices);
    }
    if (!j || !j->ids || !j->counts || !j->choices) {
        request_free(request);
        if (j) {
            free(j->ids);
            free(j->counts);
            free(j->choices);
        }
        free(j);
        return NULL;
    }
    j->request = *request;
    *request = (generate_request){0};
    j->prompts = prompts;
    j->choice_count = choices;
    atomic_init(&j->owners, 1);
    j->wants_all = !j->request.stream;
    for (size_t i = 0; i < choices; i++)
        j->choices[i] = (job_choice){.job = j, .index = (int64_t)i};
    pthread_mutex_init(&j->lock, NULL);
    return j;
}

void job_drop(job *j)
{
    if (atomic_fetch_sub(&j->owners, 1) > 1)
        return;
    pthread_mutex_destroy(&j->lock);
    for (size_t i = 0; i < j->prompts; i++)
        free(j->ids[i]);
    free(j->ids);
    free(j->counts);
    free(j->choices);
    text_buffer_free(&j->events);
    request_free(&j->request);
    free(j);
}

void job_hold(job *j)
{
    atomic_fetch_add(&j->owners, 1);
}

static bool ready(const job *j)
{
    return j->done || (j->events.size > 0 && !j->wants_all);
}

static void wake(job *j)
{
    if (!j->waiting || !ready(j))
        return;
    j->waiting = false;
    j->wake(j->user);
}

static size_t padded(size_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

static void put(text_buffer *b, const void *data, size_t bytes)
{
    if (bytes > 0)
        memcpy(b->data + b->size, data, bytes);
    b->size += padded(bytes);
}

static void finish_with(job *j, int status, const char *code, const char *message)
{
    if (j->done)
        return;
    problem_set(&j->problem, status, NULL, code, "%s", message);
    j->done = true;
    j->abandoned = true;
    wake(j);
}

void job_add(job *j, int64_t choice, const fathom_event *e, double at)
{
    const job_event record = {
        .kind = e->kind, .finish = e->finish, .choice = choice, .at = at, .token = e->token, .logprob = e->logprob,
        .depth_before = e->depth_before, .prompt_tokens = e->prompt_tokens, .tokens = e->tokens, .cached_tokens = e->cached_tokens,
        .routed_fraction = e->routed_fraction,
        .top_count = e->kind == FATHOM_EVENT_END ? 0 : e->top_count, .bytes = e->kind == FATHOM_EVENT_PROMPT ? 0 : e->bytes};
    const size_t tops = record.top_count * sizeof *e->top;
    pthread_mutex_lock(&j->lock);
    if (j->done) {
        /* it was ended from elsewhere; the worker has yet to see that */
    } else if (text_buffer_reserve(&j->events, padded(sizeof record) + padded(tops) + padded(record.bytes), NULL) != FATHOM_OK) {
        finish_with(j, 500, NULL, "out of memory");
    } else {
        put(&j->events, &record, sizeof record);
        put(&j->events, e->top, tops);
        put(&j->events, e->text, record.bytes);
        wake(j);
    }
    pthread_mutex_unlock(&j->lock);
}

void job_finish(job *j)
{
    pthread_mutex_lock(&j->lock);
    j->done = true;
    wake(j);
    pthread_mutex_unlock(&j->lock);
}

void job_fail(job *j, int status, const char *code, const char *message)
{
    pthread_mutex_lock(&j->lock);
    finish_with(j, status, code, message);
    pthread_mutex_unlock(&j->lock);
}

bool job_take(job *j, text_buffer *events, serve_problem *problem)
{
    pthread_mutex_lock(&j->lock);
    const text_buffer emptied = {events->data, 0, events->capacity};
    *events = j->events;
    j->events = emptied;
    const bool done = j->done;
    if (j->problem.status)
        *problem = j->problem;
    pthread_mutex_unlock(&j->lock);
    return done;
}

bool job_read(const text_buffer *events, size_t *at, job_event *out)
{
    if (*at == events->size)
        return false;
    memcpy(out, events->data + *at, sizeof *out);
    *at += padded(sizeof *out);
    out->top = (const fathom_logprob *)(const void *)(events->data + *at);
    *at += padded(out->top_count * sizeof *out->top);
    out->text = events->data + *at;
    *at += padded(out->bytes);
    return true;
}

bool job_wait(job *j, void (*sleep)(void *user))
{
    pthread_mutex_lock(&j->lock);
    const bool waits = !ready(j);
    if (waits) {
        j->waiting = true;
        sleep(j->user);
    }
    pthread_mutex_unlock(&j->lock);
    return waits;
}

bool job_abandon(job *j)
{
    pthread_mutex_lock(&j->lock);
    const bool running = !j->done;
    j->done = true;
    j->abandoned = true;
    j->waiting = false;
    pthread_mutex_unlock(&j->lock);
    return running;
}

bool job_abandoned(job *j)
{
    pthread_mutex_lock(&j->lock);
    const bool abandoned = j->abandoned;
    pthread_mutex_unlock(&j->lock);
    return abandoned;
}
