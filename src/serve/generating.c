/* The routes that ask the engine. A connection sleeps (MHD suspends it) while there is nothing to send, and the job wakes it. The status
 * of a stream is decided by its first event, so that what the engine refuses is a refusal and not a stream that breaks off. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/timing.h"
#include "serve/exchange.h"

enum { LOGPROBS_EACH = 1 << 20, LOGPROBS_ALL = 1 << 21 };

static void sleep_connection(void *user)
{
    MHD_suspend_connection(((exchange *)user)->mhd);
}

static void wake_connection(void *user)
{
    MHD_resume_connection(((exchange *)user)->mhd);
}

static bool need_tokenizer(exchange *x)
{
    size_t count;
    fathom_error err = {0};
    if (x->server->encoder)
        return true;
    fathom_encode(x->server->model, "", 0, NULL, 0, &count, &err); /* says why there is none */
    return problem_set(&x->problem, 400, "prompt", NULL, "only token ids: %s", err.message);
}

/* An encoder's or a template's failure. */
static bool encode_failed(exchange *x, const char *field, const fathom_error *err)
{
    return problem_set(&x->problem, err->code == FATHOM_OUT_OF_MEMORY ? 500 : 400, field, NULL, "%s: %s", field, err->message);
}

static bool check_length(exchange *x, const char *field, size_t count)
{
    const int64_t most = x->server->limits.max_prompt;
    if (count == 0)
        return problem_set(&x->problem, 400, field, NULL, "%s: empty: a model continues at least one token", field);
    if ((int64_t)count > most)
        return problem_set(&x->problem, 400, field, "context_length_exceeded", "%s: %zu tokens: this server takes prompts of at most %lld", field,
                           count, (long long)most);
    return true;
}

static bool encode_prompt(exchange *x, job *j, size_t i)
{
    request_prompt *p = &j->request.prompts[i];
    fathom_error err;
    if (p->text) {
        id_list list = {0};
        if (!need_tokenizer(x))
            return false;
        const fathom_status status = encoder_add(x->server->encoder, p->text, p->bytes, true, &list, &err);
        j->ids[i] = list.ids;
        j->counts[i] = list.count;
        if (status != FATHOM_OK)
            return encode_failed(x, "prompt", &err);
    } else {
        j->ids[i] = p->ids;
        j->counts[i] = p->count;
        p->ids = NULL;
    }
    return check_length(x, "prompt", j->counts[i]);
}

static bool encode_chat(exchange *x, job *j)
{
    const server *s = x->server;
    generate_request *r = &j->request;
    fathom_error err;
    id_list list = {0};
    if (!need_tokenizer(x))
        return false;
    const fathom_status status =
        chat_template_encode(s->options.chat, fathom_model_tokenizer(s->model), r->messages, r->message_count, &list, &err);
    j->ids[0] = list.ids;
    j->counts[0] = list.count;
    if (s->chat_end >= 0) {
        j->stop_ids = &s->chat_end;
        j->stop_id_count = 1;
    } else {
        char *end = strdup(chat_template_end(s->options.chat));
        if (!end)
            return request_out_of_memory(&x->problem);
        r->stops[r->options.stop_count++] = end;
    }
    return status == FATHOM_OK ? check_length(x, "messages", list.count) : encode_failed(x, "messages", &err);
}

static bool encode(exchange *x, job *j)
{
    if (j->request.chat)
        return encode_chat(x, j);
    for (size_t i = 0; i < j->prompts; i++)
        if (!encode_prompt(x, j, i))
            return false;
    return true;
}

static bool admit(exchange *x, const job *j)
{
    const server *s = x->server;
    if (worker_sequences(s->worker) + (int64_t)j->choice_count <= s->limits.max_choices)
        return true;
    return problem_set(&x->problem, 429, NULL, "queue_full", "the queue is full: try again later");
}

/* An answer's log-probabilities take some 200 bytes each until it has been read: few tokens of a request can ask for very many. */
static bool reserve_logprobs(exchange *x, const job *j)
{
    const generate_request *q = &j->request;
    server *s = x->server;
    double entries = 0;
    for (size_t i = 0; i < j->prompts && q->logprobs >= 0; i++) {
        const int64_t left = s->info.max_tokens - (int64_t)j->counts[i], made = q->max_tokens >= 0 && q->max_tokens < left ? q->max_tokens : left;
        entries += (double)q->n * (double)(q->logprobs + 1) * ((double)made + (q->echo ? (double)j->counts[i] : 0));
    }
    if (entries > LOGPROBS_EACH)
        return problem_set(&x->problem, 400, "logprobs", NULL, "logprobs: %.0f log-probabilities, this server gives at most %d at once: ask for "
                           "fewer of them, tokens, choices or prompts", entries, LOGPROBS_EACH);
    if (entries + (double)s->logprob_entries > LOGPROBS_ALL)
        return problem_set(&x->problem, 503, NULL, "overloaded", "too many log-probabilities at once: try again later");
    x->logprob_entries = (int64_t)entries;
    s->logprob_entries += x->logprob_entries;
    return true;
}

static void watch(exchange *x, job *j)
{
    pthread_mutex_lock(&x->server->lock);
    x->connection->job = j;
    pthread_mutex_unlock(&x->server->lock);
}

static bool submit(exchange *x, job *j)
{
    server *s = x->server;
    j->arrived = timing_now();
    j->max_new = s->info.max_tokens;
    j->seed = j->request.options.seed;
    if (!j->request.seeded && getrandom(&j->seed, sizeof j->seed, 0) != sizeof j->seed)
        j->seed = s->serial;
    j->wake = wake_connection;
    j->user = x;
    if (!reply_begin(&x->reply, j, s->model, s->options.model_name, &s->counts, x->id)) {
        x->reply = (reply){0};
        return request_out_of_memory(&x->problem);
    }
    if (!worker_submit(s->worker, j))
        return problem_set(&x->problem, 503, NULL, "shutting_down", "the server is shutting down");
    watch(x, j);
    return true;
}

static enum MHD_Result answer_generating(exchange *x, bool chat)
{
    generate_request request;
    if (!request_parse(x->body.data, x->body.size, chat, &x->server->limits, &request, &x->problem))
        return answer_problem(x, &x->problem);
    exchange_drop_body(x);
    x->job = job_new(&request);
    if (!x->job)
        request_out_of_memory(&x->problem);
    else if (encode(x, x->job) && reserve_logprobs(x, x->job) && admit(x, x->job) && submit(x, x->job))
        return answer_resumed(x);
    return answer_problem(x, &x->problem);
}

enum MHD_Result answer_completion(exchange *x)
{
    return answer_generating(x, false);
}

enum MHD_Result answer_chat(exchange *x)
{
    return answer_generating(x, true);
}

/* MHD asks for more of a stream. */
static ssize_t read_stream(void *user, uint64_t position, char *to, size_t most)
{
    exchange *x = user;
    (void)position;
    text_buffer *out = &x->reply.out;
    while (x->sent == out->size && !x->reply.done) {
        x->sent = out->size = 0;
        reply_take(&x->reply);
        if (out->size == 0 && !x->reply.done && job_wait(x->job, sleep_connection))
            return 0;
    }
    if (x->reply.failed_memory || x->reply.problem.status == 499)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (x->sent == out->size)
        return MHD_CONTENT_READER_END_OF_STREAM;
    const size_t left = out->size - x->sent, n = left < most ? left : most;
    memcpy(to, out->data + x->sent, n);
    x->sent += n;
    return (ssize_t)n;
}

static enum MHD_Result begin_stream(exchange *x)
{
    enum { BLOCK = 16384 };
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, x, NULL);
    if (!response)
        return MHD_NO;
    x->streaming = true;
    MHD_add_response_header(response, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(response, "Cache-Control", "no-cache");
    return answer_queue(x, 200, response);
}

enum MHD_Result answer_resumed(exchange *x)
{
    if (job_wait(x->job, sleep_connection))
        return MHD_YES;
    const bool done = reply_take(&x->reply), stream = x->job->request.stream;
    const serve_problem *problem = &x->reply.problem;
    bool begun = false;
    for (size_t i = 0; i < x->job->choice_count; i++)
        begun |= x->reply.choices[i].begun;
    if (problem->status == 499)
        return MHD_NO;
    if (problem->status && !(stream && begun))
        return answer_problem(x, problem);
    if (stream)
        return begin_stream(x);
    char *whole = done ? reply_whole(&x->reply) : NULL;
    text_buffer_free(&x->reply.taken); /* a client that reads slowly holds its answer, not what it was made of */
    return whole ? answer_text(x, 200, "application/json", whole) : answer_json(x, 500, NULL);
}

void generating_end(exchange *x, bool ok)
{
    if (!x->job)
        return;
    watch(x, NULL);
    const bool running = job_abandon(x->job);
    if (running)
        worker_poke(x->server->worker);
    if (x->reply.choices)
        reply_take(&x->reply); /* for the log and the metrics */
    if ((running || !ok) && x->status < 400)
        x->status = 499;
    if (x->streaming && x->reply.problem.status && x->status < 400)
        x->status = x->reply.problem.status;
}
