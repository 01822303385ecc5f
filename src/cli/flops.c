/* fathom flops */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "cli/cli.h"
#include "format/hf_config.h"
#include "model/flops.h"
#include "model/params.h"

static double block_forward(const model_config *c, int64_t layer)
{
    double flops = 0;
    for (int64_t s = 0; s < model_stages(c); s++)
        if (model_stage_at(c, s).layer == layer) {
            const stage_work w = flops_stage_work(c, s, c->seq_len, true, 0);
            flops += flops_stage(c, s, &w) + flops_routing(c, s, c->seq_len, true);
        }
    return flops;
}

/* Tokens that the layer's routed stage sees, or its experts; -1 for a plain one. */
static int64_t routed_tokens(const model_config *c, int64_t layer)
{
    for (int64_t s = 0; s < model_stages(c); s++)
        if (model_stage_at(c, s).layer == layer && model_stage_skips(c, s))
            return model_routed_tokens(c, s, c->seq_len);
    return -1;
}

static void print_table(const model_config *c, const model_config *plain, int64_t params, int64_t batch)
{
    const double T = (double)c->seq_len, forward = flops_forward(c, c->seq_len, true);
    const double vanilla = flops_forward(plain, c->seq_len, true);
    printf("%-12s %10s %18s %18s\n", "block", "tokens", "FLOPs/token", "plain block's");
    for (int64_t l = 0; l < c->layers; l++) {
        const int64_t n = routed_tokens(c, l);
        printf("%-4lld%-8s %5lld/%-4lld %18.0f %18.0f\n", (long long)l, n >= 0 ? "routed" : "", (long long)(n >= 0 ? n : c->seq_len),
               (long long)c->seq_len, block_forward(c, l) / T, block_forward(plain, l) / T);
    }
    printf("%-12s %10lld %18.0f %18.0f\n", "head", (long long)c->seq_len, flops_head(c, c->seq_len) / T,
           flops_head(c, c->seq_len) / T);
    printf("%-12s %10s %18.0f %18.0f   ratio %.4f\n", "forward", "", forward / T, vanilla / T, forward / vanilla);
    printf("%-12s %10s %18.4g %18.4g   (batch %lld)\n", "train step", "", flops_train(c, batch, c->seq_len),
           flops_train(plain, batch, c->seq_len), (long long)batch);
    printf("parameters   %lld\n", (long long)params);
}

static fathom_status read_shape(const options_result *parsed, const model_flags *shape, model_config *c, fathom_error *err)
{
    if (parsed->positional_count == 0)
        return model_flags_build(shape, 256, c, err);
    if (!model_flags_untouched(shape))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: the shape is this model's: --layers, --mod and their kin do not go with it",
                           parsed->positional[0]);
    char *path = path_join(parsed->positional[0], "config.json");
    fathom_status status = path ? hf_config_read(path, c, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    free(path);
    return status;
}

int command_flops(int argc, char **argv)
{
    model_flags shape = model_flags_default();
    bool json = false;
    int64_t batch = 16;
    const option table[] = {
        MODEL_OPTIONS(&shape),
        {OPTION_HEADING, "output", 0, 0, 0},
        {OPTION_INTEGER, "batch", &batch, "N", "sequences in a training step (16)"},
        {OPTION_FLAG, "json", &json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"flops", "[DIR]", "Counts the FLOPs of the model in DIR, or of one that the options describe, beside "
                              "the same model without routing.", table, 1};
    fathom_error err;
    options_result parsed;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    model_config c;
    if (status == FATHOM_OK && (batch < 1 || batch > 1 << 20))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--batch: %lld: must be 1 to 1048576", (long long)batch);
    if (status == FATHOM_OK)
        status = model_flags_check_use(&shape, &err);
    if (status == FATHOM_OK)
        status = read_shape(&parsed, &shape, &c, &err);
    const bool from_dir = parsed.positional_count > 0;
    options_free(&parsed);
    param_list list = {0};
    if (status == FATHOM_OK)
        status = param_list_build(&c, &list, &err);
    if (status != FATHOM_OK)
        return from_dir && err.code != FATHOM_INVALID_ARGUMENT ? cli_fail(&err) : cli_usage(&err);
    const int64_t params = list.size;
    param_list_free(&list);
    const model_config plain = model_config_plain(&c);
    if (!json) {
        print_table(&c, &plain, params, batch);
        return EXIT_OK;
    }
    const double T = (double)c.seq_len, forward = flops_forward(&c, c.seq_len, true) / T;
    const double vanilla = flops_forward(&plain, c.seq_len, true) / T;
    json_t *o = json_object();
    json_object_set_new(o, "forward_flops_per_token", json_real(forward));
    json_object_set_new(o, "vanilla_forward_flops_per_token", json_real(vanilla));
    json_object_set_new(o, "ratio", json_real(forward / vanilla));
    json_object_set_new(o, "params", json_integer((json_int_t)params));
    return cli_print_json(o);
}
