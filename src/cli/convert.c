/* fathom convert: a model directory, a Hugging Face one too, to another, its matrices as they are or in fewer bits, or made Mixture-of-Depths. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "format/hf_directory.h"
#include "kernels/weight.h"
#include "model/model.h"
#include "text/corpus.h"
#include "train/conversion.h"

enum { ROUTER_TOKENS = 16384, ROUTER_BATCH = 4 }; /* from which new routers start; windows at a time */

typedef struct convert_command {
    const char *source, *dir, *quantize, *data_format;
    option_list data;
    model_flags shape;
    bool json, raw, routes, tokenizer;
    model_conversion done;
    double mean, deviation; /* of new routers' logits */
} convert_command;

static int64_t file_size(const char *dir)
{
    char *path = path_join(dir, "model.safetensors");
    const int64_t size = path ? path_size(path) : 0;
    free(path);
    return size;
}

/* As it is, where it is there; *copied says so. */
static fathom_status copy_file(const char *source, const char *dir, const char *name, bool *copied, fathom_error *err)
{
    char *from = path_join(source, name), *to = path_join(dir, name);
    fathom_status status = from && to ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    *copied = status == FATHOM_OK && path_exists(from);
    if (*copied)
        status = file_copy(from, to, err);
    free(from);
    free(to);
    return status;
}

/* Of a convert_command. */
static fathom_status copy_others(void *user, fathom_error *err)
{
    convert_command *c = user;
    static const char *const others[] = {"tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
                                         "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja"};
    bool copied;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        TRY(copy_file(c->source, c->dir, others[i], &copied, err));
    return copy_file(c->source, c->dir, "tokenizer.json", &c->tokenizer, err);
}

/* --- adding routers --- */

static fathom_status routed_shape(const convert_command *c, model_config *config, fathom_error *err)
{
    TRY(model_read_config(c->source, config, err));
    if (hf_config_is_ours(config))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod: %s: has routers or experts already: --mod goes with a plain model", c->source);
    return model_flags_route(&c->shape, config, err);
}

/* From text, by the model's own tokenizer. */
static fathom_status start_routers(convert_command *c, model *m, fathom_error *err)
{
    corpus data = {0};
    tokenizer *tok = NULL;
    fathom_status status = tokenizer_load(c->source, &tok, err);
    if (status == FATHOM_OK && tokenizer_vocab(tok) > m->config.vocab)
        status = status_fail(err, FATHOM_FORMAT, "%s: vocab_size: %lld: its tokenizer has %lld ids", c->source, (long long)m->config.vocab,
                             (long long)tokenizer_vocab(tok));
    if (status == FATHOM_OK)
        status = corpus_load(&(corpus_input){.paths = c->data.items, .count = c->data.count, .tokenizer = tok, .vocab = m->config.vocab,
                                             .raw = c->raw}, &data, err);
    if (status == FATHOM_OK)
        status = conversion_start_routers(m, &data.train, ROUTER_TOKENS, ROUTER_BATCH, &c->mean, &c->deviation, err);
    corpus_free(&data);
    tokenizer_free(tok);
    return status;
}

static bool routers_read_text(const model_config *c)
{
    return c->mod.router != MOD_ROUTER_STOCHASTIC && c->mod.gate != MOD_GATE_ONE;
}

/* model_save, with the others before the model itself. */
static fathom_status save(convert_command *c, const model *m, fathom_error *err)
{
    TRY(folder_create(c->dir, err));
    TRY(hf_directory_write(c->dir, &m->config, m->store.type, err));
    TRY(copy_others(c, err));
    return model_save_values(m, c->dir, err);
}

static fathom_status save_routed(convert_command *c, const model *m, fathom_error *err)
{
    model reduced = {0};
    if (!c->quantize)
        return save(c, m, err);
    fathom_status status = model_reduce(&reduced, m, c->done.type, err);
    if (status == FATHOM_OK)
        status = save(c, &reduced, err);
    model_free(&reduced);
    return status;
}

static fathom_status convert_routed(convert_command *c, fathom_error *err)
{
    const kernels kn = kernels_cpu(0);
    model_config config;
    model m = {0};
    TRY(routed_shape(c, &config, err));
    if (routers_read_text(&config) && c->data.count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data: needed with --mod %s: new routers start from text", c->shape.mod);
    if (!routers_read_text(&config) && c->data.count > 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data: %s: these routers start without text", c->data.items[0]);
    fathom_status status = model_init(&m, &config, WEIGHT_F32, &kn, err);
    if (status == FATHOM_OK)
        status = model_randomize(&m, 1, err);
    if (status == FATHOM_OK)
        status = model_read_folder(&m, c->source, true, err);
    if (status == FATHOM_OK && routers_read_text(&config))
        status = start_routers(c, &m, err);
    if (status == FATHOM_OK)
        status = save_routed(c, &m, err);
    model_free(&m);
    return status;
}

/* --- the command --- */

static fathom_status convert(convert_command *c, fathom_error *err)
{
    if (hf_directory_occupied(c->dir))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: already holds a model", c->dir);
    return c->routes ? convert_routed(c, err) : model_convert(c->source, c->dir, &c->done, err);
}

static fathom_status check(convert_command *c, const options_result *parsed, fathom_error *err)
{
    if (parsed->positional_count != 2)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "convert: needed: the model's directory and the one to write");
    if (c->quantize && (!weight_type_parse(c->quantize, &c->done.type) || c->done.type == WEIGHT_F32))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--quantize: %s: must be one of bf16, q8", c->quantize);
    TRY(model_flags_check_use(&c->shape, err));
    TRY(data_format_parse(c->data_format, &c->raw, err));
    c->source = parsed->positional[0];
    c->dir = parsed->positional[1];
    c->done.as_it_is = !c->quantize;
    c->done.write_others = copy_others;
    c->done.user = c;
    c->routes = !model_flags_untouched(&c->shape);
    if (c->data.count > 0 && !c->routes)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data: only new routers read text: --mod");
    if (c->data.count == 0 && c->data_format)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data-format: %s: needs --data", c->data_format);
    return FATHOM_OK;
}

static int report(const convert_command *c)
{
    const char *weights = weight_type_name(c->done.type);
    if (c->json) {
        json_t *o = json_object();
        json_object_set_new(o, "source_bytes", c->routes ? json_null() : json_integer(c->done.source_bytes));
        json_object_set_new(o, "bytes", json_integer(file_size(c->dir)));
        json_object_set_new(o, "weights", json_string(weights));
        json_object_set_new(o, "tokenizer", json_boolean(c->tokenizer));
        if (c->routes) {
            json_object_set_new(o, "router_logit_mean", cli_number(c->mean));
            json_object_set_new(o, "router_logit_deviation", cli_number(c->deviation));
        }
        return cli_print_json(o);
    }
    printf("%s: %.4g MB in %s", c->dir, (double)file_size(c->dir) * 1e-6, weights);
    if (!c->routes)
        printf(", from %.4g MB", (double)c->done.source_bytes * 1e-6);
    else if (!isnan(c->mean))
        printf(", routers start at logits of %.3f, deviation %.3f", c->mean, c->deviation);
    printf("\n");
    if (!c->tokenizer)
        printf("%s: no tokenizer.json: the model takes token ids, not text\n", c->source);
    return EXIT_OK;
}

int command_convert(int argc, char **argv)
{
    convert_command c = {.shape = model_flags_default(), .done = {.as_it_is = true}, .mean = NAN, .deviation = NAN};
    const option table[] = {
        {OPTION_TEXT, "quantize", &c.quantize, "TYPE", "matrices in fewer bits: bf16, or q8 (8 bits, one scale a row) (as they are; with --mod fp32)"},
        {OPTION_LIST, "data", &c.data, "PATH...", "with --mod: text, or token shards, that new routers start from"},
        DATA_FORMAT_OPTION(&c.data_format),
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        MOD_OPTIONS(&c.shape),
        {0},
    };
    const options_input in = {"convert", "DIR OUT", "Writes the model in DIR, ours or Hugging Face's (Llama, Mistral, Qwen2), to OUT,\n"
                              "with its matrices as they are or in fewer bits: smaller, and faster to decode. With --mod a plain model is made\n"
                              "Mixture-of-Depths, to be trained on by train --init.", table, 2};
    fathom_error err;
    options_result parsed;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK)
        status = check(&c, &parsed, &err);
    int code;
    if (status != FATHOM_OK)
        code = cli_usage(&err);
    else
        code = convert(&c, &err) == FATHOM_OK ? report(&c) : cli_fail(&err);
    options_free(&parsed);
    return code;
}
