/* fathom generate */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/generate.h"
#include "infer/engine.h"

typedef struct generate_command {
    const char *prompt, *prompts;
    option_list stop;
    int64_t max_tokens, top_k, seed, threads, max_active;
    double temperature, top_p, min_p, presence_penalty, frequency_penalty, budget;
    bool json;
    char *text; /* collected for --json */
    size_t length;
    bool failed;
} generate_command;

static int print_piece(const char *text, size_t bytes, void *user)
{
    (void)user;
    return fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0;
}

static int collect_piece(const char *text, size_t bytes, void *user)
{
    generate_command *c = user;
    char *grown = realloc(c->text, c->length + bytes);
    if (!grown) {
        c->failed = true;
        return 1;
    }
    memcpy(grown + c->length, text, bytes);
    c->text = grown;
    c->length += bytes;
    return 0;
}

static int report(const generate_command *c, const fathom_generate_stats *s)
{
    const double rate = s->decode_seconds > 0 ? (double)s->tokens / s->decode_seconds : 0;
    const double prefill = s->prefill_seconds > 0 ? (double)s->prompt_tokens / s->prefill_seconds : 0;
    if (c->json) {
        json_t *o = json_object();
        json_object_set_new(o, "text", cli_text(c->text, c->length));
        json_object_set_new(o, "tokens", json_integer((json_int_t)s->tokens));
        json_object_set_new(o, "tokens_per_s", cli_number(rate));
        json_object_set_new(o, "prefill_tokens_per_s", cli_number(prefill));
        json_object_set_new(o, "routed_fraction", cli_number(s->routed_fraction));
        json_object_set_new(o, "kv_bytes", json_integer((json_int_t)s->kv_bytes));
        return cli_print_json(o);
    }
    putchar('\n');
    if (fflush(stdout) != 0) {
        fputs("fathom: stdout: cannot write\n", stderr);
        return EXIT_FAILED;
    }
    fprintf(stderr, "%lld tokens, %.0f tokens/s, prefill %.0f tokens/s, %.1f %% routed, %lld KV bytes\n", (long long)s->tokens,
            rate, prefill, 100 * s->routed_fraction, (long long)s->kv_bytes);
    return EXIT_OK;
}

/* Less than was asked for, and neither a stop text nor the end of the text: the model takes no more. */
static void tell_cut(const fathom_model *model, const fathom_generate_stats *s, int64_t max_tokens)
{
    const int64_t length = fathom_model_describe(model).max_tokens;
    if (s->tokens < max_tokens && s->prompt_tokens + s->tokens > length)
        fprintf(stderr, "fathom: the text ends at the model's length, %lld tokens\n", (long long)length);
}

int command_generate(int argc, char **argv)
{
    const fathom_generate_options defaults = fathom_generate_defaults();
    generate_command c = {.max_active = fathom_engine_defaults().max_active, .max_tokens = defaults.max_tokens, .temperature = 0.8, .top_p = 1, .seed = 1};
    const option table[] = {
        {OPTION_TEXT, "prompt", &c.prompt, "TEXT", "text to continue"},
        {OPTION_TEXT, "prompts", &c.prompts, "FILE", "or many: one a line, in a .jsonl file {\"prompt\": TEXT}; one JSON object a line on stdout"},
        {OPTION_INTEGER, "max-active", &c.max_active, "N", "with --prompts: sequences computed side by side (32)"},
        {OPTION_INTEGER, "max-tokens", &c.max_tokens, "N", "new tokens at most; the text ends at the model's length (128)"},
        {OPTION_NUMBER, "temperature", &c.temperature, "X", "0 = the likeliest token each time (0.8)"},
        {OPTION_INTEGER, "top-k", &c.top_k, "N", "sample among the N likeliest, 0 = off (0)"},
        {OPTION_NUMBER, "top-p", &c.top_p, "X", "sample among the likeliest with probability X together (1)"},
        {OPTION_NUMBER, "min-p", &c.min_p, "X", "drop tokens below X times the likeliest one's probability (0)"},
        {OPTION_NUMBER, "presence-penalty", &c.presence_penalty, "X", "taken off the logit of each token that was generated, -2 to 2 (0)"},
        {OPTION_NUMBER, "frequency-penalty", &c.frequency_penalty, "X", "the same times how often it was generated (0)"},
        {OPTION_INTEGER, "seed", &c.seed, "N", "of the sampling (1)"},
        {OPTION_NUMBER, "budget", &c.budget, "X", "route this mean share of tokens; needs fathom calibrate (the model's own)"},
        {OPTION_LIST, "stop", &c.stop, "TEXT...", "end before any of these texts"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads (all)"},
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"generate", "DIR", "Continues a prompt with the model in DIR.", table, 1};
    fathom_error err;
    options_result parsed;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK && parsed.positional_count != 1)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "generate needs a model directory");
    else if (status == FATHOM_OK && !c.prompt == !c.prompts)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, c.prompt ? "--prompt and --prompts: one of them, not both"
                                                                     : "--prompt: needed: the text to continue, or --prompts");
    else if (status == FATHOM_OK && c.prompts && c.json)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--json: --prompts prints a JSON object a line by itself");
    else if (status == FATHOM_OK && (c.max_active < 1 || c.max_active > ENGINE_MAX_ACTIVE))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--max-active: %lld: must be from 1 to %d", (long long)c.max_active,
                             (int)ENGINE_MAX_ACTIVE);
    else if (status == FATHOM_OK && (c.top_k < 0 || c.top_k > INT32_MAX))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--top-k: %lld: must be 0 (off) or above", (long long)c.top_k);
    if (status == FATHOM_OK)
        status = threads_check(c.threads, &err);
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    fathom_model *loaded = NULL;
    fathom_generate_stats stats;
    const fathom_generate_options options = {
        .max_tokens = c.max_tokens, .temperature = (float)c.temperature, .top_k = (int32_t)c.top_k, .top_p = (float)c.top_p,
        .min_p = (float)c.min_p, .seed = (uint64_t)c.seed, .stop = c.stop.items, .stop_count = c.stop.count,
        .budget = c.budget, .presence_penalty = (float)c.presence_penalty, .frequency_penalty = (float)c.frequency_penalty};
    status = fathom_model_load(parsed.positional[0], (int)c.threads, &loaded, &err);
    if (status == FATHOM_OK && c.prompts) {
        const int code = generate_batch(loaded, c.prompts, c.max_active, &options);
        fathom_model_free(loaded);
        options_free(&parsed);
        return code;
    }
    if (status == FATHOM_OK)
        status = fathom_generate(loaded, c.prompt, strlen(c.prompt), &options, c.json ? collect_piece : print_piece, &c,
                                 &stats, &err);
    if (status == FATHOM_OK && c.failed)
        status = status_fail(&err, FATHOM_OUT_OF_MEMORY, "out of memory");
    const int code = status == FATHOM_OK ? report(&c, &stats) : cli_fail(&err);
    if (code == EXIT_OK)
        tell_cut(loaded, &stats, c.max_tokens);
    free(c.text);
    fathom_model_free(loaded);
    options_free(&parsed);
    return code;
}
