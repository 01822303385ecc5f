/* fathom convert: the same model with its matrices in fewer bits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "infer/session.h"
#include "kernels/weight.h"

static int64_t file_size(const char *dir)
{
    char *path = path_join(dir, "model.safetensors");
    const int64_t size = path ? path_size(path) : 0;
    free(path);
    return size;
}

static fathom_status write_model(const model *from, const tokenizer *tok, weight_type type, const char *dir, fathom_error *err)
{
    model reduced = {0};
    char *tokenizer_path = path_join(dir, "tokenizer.json");
    fathom_status status = tokenizer_path ? model_reduce(&reduced, from, type, err)
                                          : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK)
        status = model_save(&reduced, dir, err);
    if (status == FATHOM_OK)
        status = tokenizer_save(tok, tokenizer_path, err);
    model_free(&reduced);
    free(tokenizer_path);
    return status;
}

static fathom_status convert(const char *source, const char *dir, weight_type type, fathom_error *err)
{
    char *occupied = path_join(dir, "model.safetensors");
    fathom_model *m = NULL;
    fathom_status status = occupied ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK && path_exists(occupied))
        status = status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: already holds a model", dir);
    if (status == FATHOM_OK)
        status = fathom_model_load(source, 0, &m, err);
    if (status == FATHOM_OK && m->m.store.type != WEIGHT_F32)
        status = status_fail(err, FATHOM_UNSUPPORTED, "%s: is stored in %s already; convert the fp32 model it was made from",
                             source, weight_type_name(m->m.store.type));
    if (status == FATHOM_OK)
        status = write_model(&m->m, m->tok, type, dir, err);
    fathom_model_free(m);
    free(occupied);
    return status;
}

int command_convert(int argc, char **argv)
{
    const char *quantize = NULL;
    bool json = false;
    const option table[] = {
        {OPTION_TEXT, "quantize", &quantize, "TYPE", "how matrices are stored: bf16, or q8 (8 bits, one scale a row)"},
        {OPTION_FLAG, "json", &json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"convert", "DIR OUT", "Writes the model in DIR to OUT with its matrices in fewer bits: smaller, and "
                              "faster to decode.", table, 2};
    fathom_error err;
    options_result parsed;
    weight_type type = WEIGHT_F32;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK && parsed.positional_count != 2)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "convert: needed: the model's directory and the one to write");
    if (status == FATHOM_OK && (!quantize || !weight_type_parse(quantize, &type) || type == WEIGHT_F32))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--quantize: %s: must be one of bf16, q8", quantize ? quantize : "not given");
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    const char *source = parsed.positional[0], *dir = parsed.positional[1];
    int code = EXIT_OK;
    if (convert(source, dir, type, &err) != FATHOM_OK) {
        code = cli_fail(&err);
    } else if (json) {
        json_t *o = json_object();
        json_object_set_new(o, "source_bytes", json_integer(file_size(source)));
        json_object_set_new(o, "bytes", json_integer(file_size(dir)));
        code = cli_print_json(o);
    } else {
        printf("%s: %.4g MB in %s, from %.4g MB\n", dir, (double)file_size(dir) * 1e-6, weight_type_name(type),
               (double)file_size(source) * 1e-6);
    }
    options_free(&parsed);
    return code;
}
