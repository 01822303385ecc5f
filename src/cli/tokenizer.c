/* fathom tokenizer train: learns a byte-level BPE vocabulary from text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/timing.h"
#include "cli/cli.h"
#include "kernels/kernels.h"
#include "text/added_tokens.h"
#include "text/bpe_train.h"
#include "text/pieces.h"
#include "text/tokenizer_write.h"

enum { BYTES = 256, VOCAB_MAX = 1 << 20 };

typedef struct tokenizer_command {
    option_list data, specials;
    const char *out, *pattern_name;
    int64_t vocab, min_count, threads;
    bool json;
    piece_pattern pattern;
    progress_line progress;
} tokenizer_command;

typedef struct tokenizer_result {
    pieces_totals text;
    int64_t pieces, distinct, merges, tokens;
    double seconds;
} tokenizer_result;

static fathom_status check_specials(const option_list *specials, fathom_error *err)
{
    for (size_t i = 0; i < specials->count; i++) {
        const char *text = specials->items[i];
        const size_t bytes = strlen(text);
        if (utf8_valid(text, bytes) != bytes)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--special: value %zu: not valid UTF-8", i + 1);
        if (bytes <= utf8_length((unsigned char)text[0]))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--special: \"%s\": must have two characters or more", text);
        if (bytes > ADDED_TOKEN_MOST) /* the file could not be read back */
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--special: value %zu: %zu bytes: must have %d or less", i + 1, bytes, ADDED_TOKEN_MOST);
        for (size_t j = 0; j < i; j++)
            if (strcmp(specials->items[j], text) == 0)
                return status_fail(err, FATHOM_INVALID_ARGUMENT, "--special: %s: given twice", text);
    }
    return FATHOM_OK;
}

static fathom_status check(tokenizer_command *c, fathom_error *err)
{
    const int64_t least = BYTES + (int64_t)c->specials.count;
    if (c->data.count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data: needed: text files or folders");
    if (!c->out)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--out: needed: the file to write");
    if (c->vocab < least || c->vocab > VOCAB_MAX)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--vocab: %lld: must be %lld (bytes and special tokens) to %d", (long long)c->vocab,
                           (long long)least, VOCAB_MAX);
    if (c->min_count < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--min-count: %lld: must be 1 or more", (long long)c->min_count);
    TRY(threads_check(c->threads, err));
    if (strcmp(c->pattern_name, "gpt2") != 0 && strcmp(c->pattern_name, "llama3") != 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--pattern: %s: must be gpt2 or llama3", c->pattern_name);
    c->pattern = strcmp(c->pattern_name, "gpt2") == 0 ? PIECES_GPT2 : PIECES_LLAMA3;
    return check_specials(&c->specials, err);
}

static void show_counting(void *user, int64_t bytes)
{
    tokenizer_command *c = user;
    if (progress_due(&c->progress))
        progress_show(&c->progress, "counting pieces: %.1f MB", (double)bytes * 1e-6);
}

static void show_merges(void *user, int64_t merges)
{
    tokenizer_command *c = user;
    if (progress_due(&c->progress))
        progress_show(&c->progress, "merge %lld/%lld", (long long)merges, (long long)(c->vocab - BYTES - (int64_t)c->specials.count));
}

/* Found out before the work, not behind it. */
static fathom_status check_writable(const char *path, fathom_error *err)
{
    file_writer w;
    if (path_is_folder(path))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: is a folder, not a file to write", path);
    TRY(file_writer_open(&w, path, err));
    file_writer_abort(&w);
    return FATHOM_OK;
}

static fathom_status count(tokenizer_command *c, piece_table *pieces, tokenizer_result *r, fathom_error *err)
{
    const pieces_input in = {.paths = c->data.items, .path_count = c->data.count, .pattern = c->pattern, .specials = c->specials.items,
                             .special_count = c->specials.count, .threads = (int)c->threads, .progress = show_counting, .user = c};
    TRY(pieces_count(&in, pieces, &r->text, err));
    r->distinct = (int64_t)pieces->count;
    for (size_t i = 0; i < pieces->count; i++)
        r->pieces += pieces->items[i].count;
    if (r->pieces == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s%s: no text: %lld files read, %lld not text", c->data.items[0],
                           c->data.count > 1 ? " and the others" : "", (long long)r->text.files, (long long)r->text.files_skipped);
    progress_print(&c->progress, "%lld files, %.4g MB: %.4g pieces, %.4g distinct", (long long)r->text.files, (double)r->text.bytes * 1e-6,
                   (double)r->pieces, (double)r->distinct);
    return FATHOM_OK;
}

static fathom_status run(tokenizer_command *c, tokenizer_result *r, fathom_error *err)
{
    const double start = timing_now();
    piece_table pieces = {0};
    bpe_learnt learnt = {0};
    fathom_status status = check_writable(c->out, err);
    if (status == FATHOM_OK)
        status = count(c, &pieces, r, err);
    if (status == FATHOM_OK) {
        const bpe_train_input in = {.pieces = &pieces, .merges = c->vocab - BYTES - (int64_t)c->specials.count, .min_count = c->min_count,
                                    .progress = show_merges, .user = c};
        status = bpe_train(&in, &learnt, err);
    }
    if (status == FATHOM_OK) {
        const trained_tokenizer parts = {c->pattern, learnt.merges, learnt.count, c->specials.items, c->specials.count};
        status = tokenizer_write(c->out, &parts, err);
    }
    r->merges = learnt.count;
    r->tokens = learnt.tokens + r->text.specials;
    r->seconds = timing_now() - start;
    piece_table_free(&pieces);
    free(learnt.merges);
    return status;
}

static int report(tokenizer_command *c, const tokenizer_result *r)
{
    const int64_t vocab = BYTES + r->merges + (int64_t)c->specials.count;
    const double bytes_per_token = (double)r->text.bytes / (double)r->tokens;
    if (vocab < c->vocab)
        progress_print(&c->progress, "vocabulary of %lld, not %lld: no other pair is there %lld times", (long long)vocab, (long long)c->vocab,
                       (long long)c->min_count);
    if (!c->json) {
        printf("%s: vocabulary of %lld: 256 bytes, %lld merges, %zu special; %.3f bytes a token, %.1f s\n", c->out, (long long)vocab,
               (long long)r->merges, c->specials.count, bytes_per_token, r->seconds);
        return EXIT_OK;
    }
    json_t *o = json_object();
    json_object_set_new(o, "vocab", json_integer(vocab));
    json_object_set_new(o, "merges", json_integer(r->merges));
    json_object_set_new(o, "special_tokens", json_integer((json_int_t)c->specials.count));
    json_object_set_new(o, "files", json_integer(r->text.files));
    json_object_set_new(o, "files_skipped", json_integer(r->text.files_skipped));
    json_object_set_new(o, "bytes", json_integer(r->text.bytes));
    json_object_set_new(o, "pieces", json_integer(r->pieces));
    json_object_set_new(o, "distinct_pieces", json_integer(r->distinct));
    json_object_set_new(o, "tokens", json_integer(r->tokens));
    json_object_set_new(o, "bytes_per_token", cli_number(bytes_per_token));
    json_object_set_new(o, "seconds", cli_number(r->seconds));
    return cli_print_json(o);
}

static int train(int argc, char **argv)
{
    tokenizer_command c = {.vocab = 8192, .min_count = 2, .pattern_name = "gpt2"};
    const option table[] = {
        {OPTION_LIST, "data", &c.data, "PATH...", "text files, or folders of text"},
        {OPTION_TEXT, "out", &c.out, "FILE", "the tokenizer.json to write"},
        {OPTION_INTEGER, "vocab", &c.vocab, "N", "ids: 256 bytes, special tokens, and what is learnt (8192)"},
        {OPTION_TEXT, "pattern", &c.pattern_name, "P", "how text is cut into pieces: gpt2, llama3 (gpt2)"},
        {OPTION_LIST, "special", &c.specials, "TEXT...", "special tokens, which have the last ids (<|endoftext|>)"},
        {OPTION_INTEGER, "min-count", &c.min_count, "N", "a pair must be there as often to become a token (2)"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads (all)"},
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"tokenizer train", "", "Learns a byte-level BPE vocabulary from text and writes it as a Hugging Face tokenizer.json: "
                              "the same text,\nthe same file.", table, 0};
    fathom_error err;
    options_result parsed;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK && c.specials.count == 0)
        c.specials = (option_list){.items = {"<|endoftext|>"}, .count = 1};
    if (status == FATHOM_OK)
        status = check(&c, &err);
    int code;
    if (status != FATHOM_OK) {
        code = cli_usage(&err);
    } else {
        c.progress = progress_begin(5);
        tokenizer_result r = {0};
        code = run(&c, &r, &err) == FATHOM_OK ? report(&c, &r) : cli_fail(&err);
    }
    options_free(&parsed);
    return code;
}

int command_tokenizer(int argc, char **argv)
{
    static const char usage[] = "usage: fathom tokenizer train [options]\n\n  train      learn a vocabulary from text\n\n"
                                "fathom tokenizer train --help lists its options.\n";
    if (argc > 0 && strcmp(argv[0], "train") == 0)
        return train(argc - 1, argv + 1);
    if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        fputs(usage, stdout);
        return EXIT_OK;
    }
    if (argc > 0)
        fprintf(stderr, "fathom: tokenizer: %s: unknown (train is what there is)\n", argv[0]);
    else
        fputs("fathom: tokenizer: needs a word: train\n", stderr);
    return EXIT_USAGE;
}
