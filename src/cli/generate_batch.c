/* fathom generate --prompts: a file of prompts through the batched engine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text_mark.h"
#include "base/timing.h"
#include "cli/cli.h"
#include "cli/generate.h"

enum { WINDOW = 4 }; /* prompts in flight for each that is computed: bounds the memory, and lets nobody wait for a slow one */

typedef struct answer {
    char *text;
    size_t length;
    int64_t prompt_tokens, tokens;
    const char *finish;
    bool ended;
    int64_t line; /* of the file, from 0 */
    fathom_error error; /* of code FATHOM_OK: none */
} answer;

typedef struct batch {
    const fathom_model *model;
    fathom_engine *engine;
    const fathom_generate_options *options;
    const char *path;
    bool json_lines;
    file_map file;
    size_t at;       /* in the file */
    int64_t line;    /* of it */
    answer *answers; /* [window] of prompts printed, printed + 1, ... at their number modulo window */
    int64_t window, printed, taken, tokens, failed;
    progress_line progress;
} batch;

static int collect(const fathom_event *event, void *user)
{
    answer *a = user;
    if (event->bytes > 0) {
        char *grown = realloc(a->text, a->length + event->bytes);
        if (!grown) {
            status_fail(&a->error, FATHOM_OUT_OF_MEMORY, "out of memory");
            a->ended = true;
            return 1;
        }
        memcpy(grown + a->length, event->text, event->bytes);
        a->text = grown;
        a->length += event->bytes;
    }
    if (event->kind == FATHOM_EVENT_END) {
        a->ended = true;
        a->prompt_tokens = event->prompt_tokens;
        a->tokens = event->tokens;
        a->finish = event->finish == FATHOM_FINISH_STOP ? "stop" : "length";
        if (event->error)
            a->error = *event->error;
    }
    return 0;
}

/* The next line that is not empty; false at the end. */
static bool next_line(batch *b, const char **line, size_t *bytes)
{
    const char *data = (const char *)b->file.data;
    if (b->at == 0)
        b->at = text_mark(data, b->file.size);
    while (b->at < b->file.size) {
        const char *from = data + b->at, *end = memchr(from, '\n', b->file.size - b->at);
        *line = from;
        *bytes = end ? (size_t)(end - from) : b->file.size - b->at;
        b->at += *bytes + (end != NULL);
        b->line++;
        *bytes -= *bytes > 0 && from[*bytes - 1] == '\r';
        if (*bytes > 0)
            return true;
    }
    return false;
}

static fathom_status submit_text(batch *b, const char *text, size_t bytes, answer *into, fathom_error *err)
{
    size_t count = 0;
    fathom_status status = fathom_encode(b->model, text, bytes, NULL, 0, &count, err);
    if (status != FATHOM_OK && (status != FATHOM_INVALID_ARGUMENT || count == 0))
        return status;
    int32_t *ids = calloc(count + 1, sizeof *ids);
    if (!ids)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    status = fathom_encode(b->model, text, bytes, ids, count, &count, err);
    fathom_engine_request r = {.ids = ids, .count = count, .options = *b->options, .top_logprobs = -1, .callback = collect, .user = into};
    r.options.seed += (uint64_t)b->taken; /* each prompt its own draws */
    int64_t id;
    if (status == FATHOM_OK)
        status = fathom_engine_submit(b->engine, &r, &id, err);
    free(ids);
    return status;
}

static fathom_status submit_line(batch *b, const char *line, size_t bytes, answer *into, fathom_error *err)
{
    if (!b->json_lines)
        return submit_text(b, line, bytes, into, err);
    json_error_t where;
    json_t *value = json_loadb(line, bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, &where);
    const json_t *prompt = json_is_object(value) ? json_object_get(value, "prompt") : value;
    const fathom_status status =
        json_is_string(prompt) ? submit_text(b, json_string_value(prompt), json_string_length(prompt), into, err)
                               : status_fail(err, FATHOM_FORMAT, "%s:%lld: must be {\"prompt\": TEXT} or a string", b->path, (long long)b->line);
    json_decref(value);
    return status;
}

/* As many prompts as the window has room for; false: the file has ended. */
static bool take(batch *b)
{
    const char *line;
    size_t bytes;
    while (b->taken < b->printed + b->window) {
        if (!next_line(b, &line, &bytes))
            return false;
        answer *a = &b->answers[b->taken % b->window];
        *a = (answer){.line = b->line - 1};
        if (submit_line(b, line, bytes, a, &a->error) != FATHOM_OK)
            a->ended = true;
        else
            a->error = (fathom_error){0};
        b->taken++;
    }
    return true;
}

/* Prints what has ended, in order; false: stdout takes no more. */
static bool print(batch *b)
{
    for (; b->printed < b->taken && b->answers[b->printed % b->window].ended; b->printed++) {
        answer *a = &b->answers[b->printed % b->window];
        json_t *o = json_object();
        json_object_set_new(o, "index", json_integer((json_int_t)a->line));
        if (a->error.code != FATHOM_OK) {
            json_object_set_new(o, "error", json_string(a->error.message));
            b->failed++;
        } else {
            json_object_set_new(o, "text", cli_text(a->text, a->length));
            json_object_set_new(o, "prompt_tokens", json_integer((json_int_t)a->prompt_tokens));
            json_object_set_new(o, "tokens", json_integer((json_int_t)a->tokens));
            json_object_set_new(o, "finish", json_string(a->finish));
        }
        b->tokens += a->tokens;
        free(a->text);
        a->text = NULL;
        if (cli_print_json(o) != EXIT_OK)
            return false;
    }
    return true;
}

static int run(batch *b)
{
    const double began = timing_now();
    b->progress = progress_begin(5);
    for (bool more = true; more || b->printed < b->taken;) {
        more = take(b);
        fathom_engine_step(b->engine);
        if (!print(b))
            return EXIT_FAILED;
        if (progress_due(&b->progress))
            progress_show(&b->progress, "%lld prompts, %lld tokens, %.0f tokens/s", (long long)b->printed, (long long)b->tokens,
                          (double)b->tokens / (timing_now() - began));
    }
    progress_print(&b->progress, "%lld prompts, %lld tokens, %.0f tokens/s; %lld failed", (long long)b->printed, (long long)b->tokens,
                   (double)b->tokens / (timing_now() - began), (long long)b->failed);
    return b->failed > 0 ? EXIT_FAILED : EXIT_OK;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

int generate_batch(const fathom_model *model, const char *path, int64_t max_active, const fathom_generate_options *options)
{
    fathom_error err;
    fathom_engine_options engine = fathom_engine_defaults();
    batch b = {.model = model, .options = options, .path = path, .json_lines = ends_with(path, ".jsonl"), .window = WINDOW * max_active};
    engine.max_active = max_active;
    fathom_status status = fathom_engine_new(model, &engine, &b.engine, &err);
    if (status == FATHOM_OK)
        status = file_map_open(path, &b.file, &err);
    if (status == FATHOM_OK) {
        b.answers = calloc((size_t)b.window, sizeof *b.answers);
        status = b.answers ? FATHOM_OK : status_fail(&err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    const int code = status == FATHOM_OK ? run(&b) : cli_fail(&err);
    fathom_engine_free(b.engine);
    for (int64_t i = 0; b.answers && i < b.window; i++)
        free(b.answers[i].text);
    free(b.answers);
    file_map_close(&b.file);
    return code;
}
