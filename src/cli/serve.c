/* fathom serve */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/timing.h"
#include "cli/cli.h"
#include "infer/engine.h"
#include "serve/server.h"
#include "text/unicode.h"

enum { TICK_MS = 100, FILES_BESIDE = 64 }; /* descriptors that are not connections */

typedef struct serve_command {
    server_options options;
    int64_t port, threads, kv_memory;
    const char *dir, *log, *chat_template;
    log_writer *messages; /* stderr */
    double shutdown_timeout;
    bool quiet;
} serve_command;

/* Waits a tick; 0: nothing came that asks for the end. A hang-up asks for the log to be opened again. */
static int take_signal(const serve_command *c, const sigset_t *set)
{
    const struct timespec tick = {.tv_nsec = TICK_MS * 1000000L};
    const int number = sigtimedwait(set, NULL, &tick);
    if (number == SIGHUP)
        log_writer_reopen(c->options.log);
    return number > 0 && number != SIGHUP ? number : 0;
}

static void raise_file_limit(int64_t connections)
{
    struct rlimit limit;
    const rlim_t wanted = (rlim_t)connections + FILES_BESIDE;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* The last part of a path, without slashes behind it; "." and ".." have names of their own. malloc'd. */
static char *base_name(const char *dir)
{
    char *whole = realpath(dir, NULL);
    const char *slash = whole ? strrchr(whole, '/') : NULL;
    char *name = strdup(slash && slash[1] ? slash + 1 : "model");
    free(whole);
    return name;
}

/* What answers and addresses can hold. */
static fathom_status check_name(const char *name, fathom_error *err)
{
    enum { LONGEST = 200 };
    const size_t n = strlen(name);
    if (n < 1 || n > LONGEST)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--model-name: %zu bytes: must be 1 to %d", n, LONGEST);
    if (utf8_valid(name, n) != n)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--model-name: not UTF-8 (without it the folder's name is taken)");
    return FATHOM_OK;
}

static fathom_status range(const char *name, int64_t value, int64_t low, int64_t high, fathom_error *err)
{
    if (value >= low && value <= high)
        return FATHOM_OK;
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: %lld: must be from %lld to %lld", name, (long long)value, (long long)low,
                       (long long)high);
}

static fathom_status seconds(const char *name, double value, fathom_error *err)
{
    if (value >= 0.001 && value <= 1e6)
        return FATHOM_OK;
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: %g: must be from 0.001 to 1000000 seconds", name, value);
}

static fathom_status check(const serve_command *c, fathom_error *err)
{
    const server_options *o = &c->options;
    const int64_t most = INT64_C(1) << 40;
    TRY(range("port", c->port, 0, 65535, err));
    TRY(threads_check(c->threads, err));
    TRY(range("max-body", o->max_body, 1024, INT64_C(1) << 30, err));
    TRY(range("max-prompt", o->max_prompt, 0, most, err));
    TRY(range("max-n", o->max_n, 1, 1024, err));
    TRY(range("max-queue", o->max_queue, 0, 1000000, err));
    TRY(range("max-active", o->engine.max_active, 1, ENGINE_MAX_ACTIVE, err));
    TRY(range("max-connections", o->max_connections, 1, 1000000, err));
    TRY(range("kv-memory", c->kv_memory, 0, most >> 20, err));
    TRY(range("prefill-tokens", o->engine.prefill_tokens, 1, most, err));
    TRY(range("kept-prefixes", o->engine.kept_prefixes, 0, 1000000, err));
    TRY(seconds("timeout", o->timeout, err));
    TRY(seconds("receive-timeout", o->receive_timeout, err));
    if (o->receive_timeout < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--receive-timeout: %g: must be 1 second or more", o->receive_timeout);
    if (!(c->shutdown_timeout >= 0))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--shutdown-timeout: %g: must be 0 or above", c->shutdown_timeout);
    if (o->model_name)
        TRY(check_name(o->model_name, err));
    if (o->api_key && !*o->api_key)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--api-key: empty: an empty key protects nothing");
    return FATHOM_OK;
}

/* The one that was asked for, or the model directory's own. */
static fathom_status find_template(serve_command *c, fathom_error *err)
{
    if (c->chat_template)
        return chat_template_named(c->chat_template, &c->options.chat, err);
    const fathom_status status = chat_template_detect(c->dir, &c->options.chat, err);
    if (status != FATHOM_NOT_FOUND)
        return status;
    c->options.chat = CHAT_TEMPLATE_PLAIN;
    return FATHOM_OK;
}

static void announce(const serve_command *c, server *s, const fathom_model *model)
{
    const fathom_model_info m = fathom_model_describe(model);
    const bool v6 = strchr(c->options.host, ':') != NULL;
    fprintf(stderr, "fathom: serving %s at http://%s%s%s:%d (%lld parameters, %lld tokens, %lld routed layers; chats: %s)\n", c->options.model_name,
            v6 ? "[" : "", c->options.host, v6 ? "]" : "", server_port(s), (long long)m.params, (long long)m.max_tokens,
            (long long)m.routed_layers, chat_template_name(c->options.chat));
    if (!c->options.api_key && strncmp(c->options.host, "127.", 4) != 0 && strcmp(c->options.host, "localhost") != 0 &&
        strcmp(c->options.host, "::1") != 0)
        fputs("fathom: no --api-key: whoever reaches this address may use the model\n", stderr);
}

/* From here on a signal ends the process; a hang-up has nothing to do any more. */
static void let_signals_end(const sigset_t *set)
{
    sigaction(SIGHUP, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    pthread_sigmask(SIG_UNBLOCK, set, NULL);
}

static void serve(const serve_command *c, server *s, const sigset_t *set)
{
    char line[80];
    while (take_signal(c, set) == 0)
        server_tick(s);
    snprintf(line, sizeof line, "fathom: shutting down: %lld requests to finish", (long long)server_unfinished(s));
    log_writer_add(c->messages, line);
    server_drain(s);
    const double until = timing_now() + c->shutdown_timeout;
    while (server_unfinished(s) > 0 && timing_now() < until) {
        const int number = take_signal(c, set);
        if (number) {
            raise(number);
            let_signals_end(set);
        }
        server_tick(s);
    }
    let_signals_end(set); /* this thread has done its part */
}

static fathom_status open_logs(serve_command *c, fathom_error *err)
{
    TRY(log_writer_on(STDERR_FILENO, &c->messages, err));
    c->options.log = c->quiet ? NULL : c->messages;
    return c->log ? log_writer_open(c->log, c->messages, &c->options.log, err) : FATHOM_OK;
}

static void close_logs(serve_command *c)
{
    static const double seconds = 1; /* for what still waits; nobody may read stderr any more */
    if (c->options.log != c->messages)
        log_writer_close(c->options.log, seconds);
    log_writer_close(c->messages, seconds);
}

static int run(serve_command *c, const sigset_t *set)
{
    fathom_error err;
    fathom_model *model = NULL;
    server *s = NULL;
    char *name = base_name(c->dir);
    if (!c->options.model_name)
        c->options.model_name = name;
    raise_file_limit(c->options.max_connections);
    fathom_status status = name ? check_name(c->options.model_name, &err) : status_fail(&err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK)
        status = open_logs(c, &err);
    if (status == FATHOM_OK)
        status = fathom_model_load(c->dir, (int)c->threads, &model, &err);
    if (status == FATHOM_OK)
        status = server_start(model, &c->options, &s, &err);
    if (status == FATHOM_OK) {
        announce(c, s, model);
        serve(c, s, set);
    }
    server_stop(s);
    fathom_model_free(model);
    close_logs(c);
    free(name);
    return status == FATHOM_OK ? EXIT_OK : cli_fail(&err);
}

int command_serve(int argc, char **argv)
{
    serve_command c = {.options = server_defaults(), .shutdown_timeout = 30};
    server_options *o = &c.options;
    c.port = o->port;
    o->api_key = getenv("FATHOM_API_KEY");
    if (o->api_key && !*o->api_key)
        o->api_key = NULL;
    const option table[] = {
        {OPTION_TEXT, "host", &o->host, "NAME", "address to listen at; 0.0.0.0 or :: for all (127.0.0.1)"},
        {OPTION_INTEGER, "port", &c.port, "N", "0: a free one, which is printed (8080)"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads that compute (all)"},
        {OPTION_TEXT, "model-name", &o->model_name, "NAME", "what clients call the model (the folder's name)"},
        {OPTION_TEXT, "chat-template", &c.chat_template, "NAME", "chatml, llama3, plain: how a conversation becomes a prompt (the model's)"},
        {OPTION_TEXT, "api-key", &o->api_key, "KEY", "asked for as \"Authorization: Bearer KEY\" (FATHOM_API_KEY)"},
        {OPTION_HEADING, "engine", 0, 0, 0},
        {OPTION_INTEGER, "max-active", &o->engine.max_active, "N", "sequences computed side by side (32)"},
        {OPTION_INTEGER, "kv-memory", &c.kv_memory, "MB", "memory for keys and values; 0: for all sequences, at most 2048 (0)"},
        {OPTION_INTEGER, "prefill-tokens", &o->engine.prefill_tokens, "N", "prompt tokens a step beside those that decode (64)"},
        {OPTION_INTEGER, "kept-prefixes", &o->engine.kept_prefixes, "N", "finished sequences kept for prompts that begin alike (32)"},
        {OPTION_HEADING, "limits", 0, 0, 0},
        {OPTION_INTEGER, "max-body", &o->max_body, "BYTES", "longest request body (4194304)"},
        {OPTION_INTEGER, "max-prompt", &o->max_prompt, "N", "tokens of a prompt; 0: the model's length (0)"},
        {OPTION_INTEGER, "max-n", &o->max_n, "N", "choices a prompt (16)"},
        {OPTION_INTEGER, "max-queue", &o->max_queue, "N", "sequences that may wait; beyond: status 429 (256)"},
        {OPTION_INTEGER, "max-connections", &o->max_connections, "N", "connections at once (1024)"},
        {OPTION_NUMBER, "timeout", &o->timeout, "S", "seconds for an answer (600)"},
        {OPTION_NUMBER, "receive-timeout", &o->receive_timeout, "S", "seconds for a connection's next complete request (60)"},
        {OPTION_NUMBER, "shutdown-timeout", &c.shutdown_timeout, "S", "seconds that running requests have after SIGTERM (30)"},
        {OPTION_HEADING, "log", 0, 0, 0},
        {OPTION_TEXT, "log", &c.log, "FILE", "one line of JSON a request, appended (stderr); SIGHUP opens it again"},
        {OPTION_FLAG, "quiet", &c.quiet, 0, "no line a request on stderr"},
        {OPTION_FLAG, "log-prompts", &o->log_prompts, 0, "prompts in the log, too"},
        {0},
    };
    const options_input in = {"serve", "DIR", "Serves the model in DIR by OpenAI's API: docs/serving.md.", table, 1};
    fathom_error err;
    options_result parsed;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK && parsed.positional_count != 1)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "serve needs a model directory");
    if (status == FATHOM_OK)
        status = check(&c, &err);
    c.dir = parsed.positional[0];
    if (status == FATHOM_OK)
        status = find_template(&c, &err);
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    const sigset_t set = signals_take(); /* before the first thread: no handler ever runs on one that computes */
    sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    o->port = (int)c.port;
    o->engine.kv_bytes = c.kv_memory << 20;
    const int code = run(&c, &set);
    options_free(&parsed);
    return code;
}
