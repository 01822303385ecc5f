/* fathom convert: a model directory, a Hugging Face one too, to another, its matrices as they are or in fewer bits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "kernels/weight.h"
#include "model/model.h"

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

static fathom_status refuse_occupied(const char *dir, fathom_error *err)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = path_join(dir, names[i]);
        const bool there = path && path_exists(path);
        free(path);
        if (!path)
            return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
        if (there)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: already holds a model", dir);
    }
    return FATHOM_OK;
}

static fathom_status convert(const char *source, const char *dir, model_conversion *c, bool *tokenizer, fathom_error *err)
{
    static const char *const others[] = {"tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
                                         "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja"};
    bool copied;
    TRY(refuse_occupied(dir, err));
    TRY(model_convert(source, dir, c, err));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        TRY(copy_file(source, dir, others[i], &copied, err));
    return copy_file(source, dir, "tokenizer.json", tokenizer, err);
}

int command_convert(int argc, char **argv)
{
    const char *quantize = NULL;
    bool json = false, tokenizer = false;
    const option table[] = {
        {OPTION_TEXT, "quantize", &quantize, "TYPE", "matrices in fewer bits: bf16, or q8 (8 bits, one scale a row) (as they are)"},
        {OPTION_FLAG, "json", &json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"convert", "DIR OUT", "Writes the model in DIR, ours or Hugging Face's (Llama, Mistral, Qwen2), to OUT, with "
                              "its matrices as they are or in fewer bits: smaller, and faster to decode.", table, 2};
    fathom_error err;
    options_result parsed;
    model_conversion c = {.as_it_is = true};
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK && parsed.positional_count != 2)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "convert: needed: the model's directory and the one to write");
    if (status == FATHOM_OK && quantize && (!weight_type_parse(quantize, &c.type) || c.type == WEIGHT_F32))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--quantize: %s: must be one of bf16, q8", quantize);
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    const char *source = parsed.positional[0], *dir = parsed.positional[1];
    int code = EXIT_OK;
    c.as_it_is = !quantize;
    if (convert(source, dir, &c, &tokenizer, &err) != FATHOM_OK) {
        code = cli_fail(&err);
    } else if (json) {
        json_t *o = json_object();
        json_object_set_new(o, "source_bytes", json_integer(c.source_bytes));
        json_object_set_new(o, "bytes", json_integer(file_size(dir)));
        json_object_set_new(o, "weights", json_string(weight_type_name(c.type)));
        json_object_set_new(o, "tokenizer", json_boolean(tokenizer));
        code = cli_print_json(o);
    } else {
        printf("%s: %.4g MB in %s, from %.4g MB\n", dir, (double)file_size(dir) * 1e-6, weight_type_name(c.type),
               (double)c.source_bytes * 1e-6);
        if (!tokenizer)
            printf("%s: no tokenizer.json: the model takes token ids, not text\n", source);
    }
    options_free(&parsed);
    return code;
}
