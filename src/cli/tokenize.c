/* fathom tokenize: text to a folder of token shards. */
#include <stdio.h>

#include "base/timing.h"
#include "cli/cli.h"
#include "kernels/kernels.h"
#include "text/sharding.h"

typedef struct tokenize_command {
    option_list data;
    const char *out, *tokenizer;
    int64_t shard_tokens, threads;
    double val_fraction, began;
    bool json;
    progress_line progress;
} tokenize_command;

static void show_progress(void *user, int64_t bytes, int64_t all_bytes, int64_t tokens)
{
    tokenize_command *c = user;
    if (!progress_due(&c->progress))
        return;
    char eta[32];
    const double rate = (double)bytes / (timing_now() - c->began);
    progress_time(rate > 0 ? (double)(all_bytes - bytes) / rate : 0, eta, sizeof eta);
    progress_show(&c->progress, "%.4g of %.4g MB  %.4g tokens  %.3g MB/s  ETA %s", (double)bytes * 1e-6, (double)all_bytes * 1e-6,
                  (double)tokens, rate * 1e-6, eta);
}

/* What was written, of one kind. */
static int64_t sum(const manifest *m, bool heldout, int64_t *shards)
{
    int64_t tokens = 0;
    *shards = 0;
    for (int64_t i = 0; i < m->count; i++)
        if (m->shards[i].heldout == heldout) {
            tokens += m->shards[i].tokens;
            ++*shards;
        }
    return tokens;
}

static int report(const tokenize_command *c, const manifest *m)
{
    int64_t train_shards, heldout_shards;
    const int64_t train = sum(m, false, &train_shards), heldout = sum(m, true, &heldout_shards);
    const double seconds = timing_now() - c->began;
    if (c->json) {
        json_t *o = json_object();
        json_object_set_new(o, "tokens", json_integer((json_int_t)m->tokens));
        json_object_set_new(o, "bytes", json_integer((json_int_t)m->bytes));
        json_object_set_new(o, "vocab", json_integer((json_int_t)m->vocab));
        json_object_set_new(o, "train_tokens", json_integer((json_int_t)train));
        json_object_set_new(o, "train_shards", json_integer((json_int_t)train_shards));
        json_object_set_new(o, "heldout_tokens", json_integer((json_int_t)heldout));
        json_object_set_new(o, "heldout_shards", json_integer((json_int_t)heldout_shards));
        json_object_set_new(o, "bytes_per_s", cli_number((double)m->bytes / seconds));
        return cli_print_json(o);
    }
    printf("%lld tokens of %lld bytes: %lld training shards of %.4g tokens, %lld held-out shards of %.4g; %s\n", (long long)m->tokens,
           (long long)m->bytes, (long long)train_shards, (double)train, (long long)heldout_shards, (double)heldout, c->out);
    return EXIT_OK;
}

static fathom_status check(const tokenize_command *c, fathom_error *err)
{
    if (c->data.count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data: needed: text files or folders");
    if (!c->out || !*c->out)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--out: needed: the folder of shards");
    if (c->shard_tokens < 1 || c->shard_tokens > (int64_t)1 << 40)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--shard-tokens: %lld: must be 1 to 2^40", (long long)c->shard_tokens);
    if (!(c->val_fraction >= 0 && c->val_fraction < 1))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--val-fraction: %g: must be in [0, 1)", c->val_fraction);
    TRY(threads_check(c->threads, err));
    return FATHOM_OK;
}

static fathom_status run(tokenize_command *c, manifest *out, fathom_error *err)
{
    tokenizer *tok = NULL;
    fathom_status status = c->tokenizer ? tokenizer_load(c->tokenizer, &tok, err) : tokenizer_bytes(&tok, err);
    if (status == FATHOM_OK) {
        const sharding_input in = {.paths = c->data.items, .count = c->data.count, .tokenizer = tok, .folder = c->out,
                                   .shard_tokens = c->shard_tokens, .heldout_fraction = c->val_fraction,
                                   .threads = (int)c->threads, .progress = show_progress, .user = c};
        status = sharding_run(&in, out, err);
    }
    tokenizer_free(tok);
    return status;
}

int command_tokenize(int argc, char **argv)
{
    tokenize_command c = {.shard_tokens = 100000000, .val_fraction = 0.05};
    const option table[] = {
        {OPTION_LIST, "data", &c.data, "PATH...", "text files, folders of text"},
        {OPTION_TEXT, "out", &c.out, "DIR", "the folder of shards, which must not exist or be empty"},
        {OPTION_TEXT, "tokenizer", &c.tokenizer, "PATH", "a tokenizer.json (one token a byte)"},
        {OPTION_INTEGER, "shard-tokens", &c.shard_tokens, "N", "tokens a shard (100000000)"},
        {OPTION_NUMBER, "val-fraction", &c.val_fraction, "X", "share of each file held out, into shards of its own (0.05)"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads, each encoding a file (all)"},
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"tokenize", "", "Encodes text into token shards and a manifest, which train --data DIR maps: for texts larger than "
                              "memory,\nand to encode once for many runs.", table, 0};
    fathom_error err;
    options_result parsed;
    manifest written = {0};
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK)
        status = check(&c, &err);
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    c.progress = progress_begin(5);
    c.began = timing_now();
    status = run(&c, &written, &err);
    if (c.progress.open)
        fputc('\n', stderr);
    const int code = status == FATHOM_OK ? report(&c, &written) : cli_fail(&err);
    manifest_free(&written);
    options_free(&parsed);
    return code;
}
