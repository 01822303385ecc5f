/* Writes a case for the outside reference: tool_case DIR KIND SEED, KIND as in model/tiny.h. A tiny model, a batch, and what
 * this engine makes of them: losses, selections and every gradient. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/file.h"
#include "format/hf_config.h"
#include "model/tiny.h"
#include "model/transformer.h"

enum { B = 3 };

typedef struct recorder {
    json_t *selected, *noise;
    const model_config *config;
} recorder;

/* "3", or "3.attn" and "3.mlp" where a layer has two routers */
static void label(const model_config *c, int64_t stage, char key[32])
{
    const model_stage at = model_stage_at(c, stage);
    snprintf(key, 32, "%d%s", (int)at.layer, c->mod.unit != MOD_UNIT_BOTH ? "" : at.attention ? ".attn" : ".mlp");
}

/* [E] lists of the rows that each expert took */
static json_t *expert_rows(const expert_acts *acts, int64_t experts)
{
    json_t *all = json_array();
    for (int64_t e = 0; e < experts; e++) {
        json_t *list = json_array();
        for (int64_t i = acts->start[e]; i < acts->start[e + 1]; i++)
            json_array_append_new(list, json_integer(acts->index[i]));
        json_array_append_new(all, list);
    }
    return all;
}

static void record(void *user, int64_t stage, const route *r, int64_t sequences, int64_t T)
{
    recorder *rec = user;
    char key[32];
    if (rec->config->experts.mode == EXPERT_MODE_INTEGRATED)
        return; /* a view of the experts' choice */
    label(rec->config, stage, key);
    json_t *selected = json_array(), *noise = json_array();
    for (int64_t b = 0; b < sequences; b++) {
        json_t *row = json_array(), *values = json_array();
        for (int32_t i = r->start[b]; i < r->start[b + 1]; i++)
            json_array_append_new(row, json_integer(r->index[i] - b * T));
        for (int64_t t = 0; t < T; t++)
            json_array_append_new(values, json_real((double)r->logit[b * T + t]));
        json_array_append_new(selected, row);
        json_array_append_new(noise, values);
    }
    json_object_set_new(rec->selected, key, selected);
    if (rec->config->mod.router == MOD_ROUTER_STOCHASTIC)
        json_object_set_new(rec->noise, key, noise);
    else
        json_decref(noise);
}

static json_t *matrix(const int32_t *values, int64_t rows_count, int64_t columns)
{
    json_t *m = json_array();
    for (int64_t i = 0; i < rows_count; i++) {
        json_t *row = json_array();
        for (int64_t j = 0; j < columns; j++)
            json_array_append_new(row, json_integer(values[i * columns + j]));
        json_array_append_new(m, row);
    }
    return m;
}

static void check(fathom_status status, const fathom_error *err)
{
    if (status != FATHOM_OK) {
        fprintf(stderr, "tool_case: %s\n", err->message);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    const tiny_variant *kind = tiny_variants;
    while (kind < tiny_variants + TINY_VARIANTS && strcmp(kind->name, argv[2]) != 0)
        kind++;
    if (kind == tiny_variants + TINY_VARIANTS)
        return 2;
    const char *dir = argv[1];
    const uint64_t seed = strtoull(argv[3], NULL, 10);
    fathom_error err;
    const model_config c = tiny_variant_config(kind);
    model m = tiny_model(&c, seed);
    const int64_t T = c.seq_len;
    int32_t tokens[B * 23], targets[B * 23];
    tiny_tokens(tokens, B * T, c.vocab, seed + 1);
    tiny_tokens(targets, B * T, c.vocab, seed + 2);
    targets[4] = targets[30] = -1;
    int64_t counted = 0;
    for (int64_t i = 0; i < B * T; i++)
        counted += targets[i] >= 0;

    float *grads = calloc((size_t)m.list.size, sizeof *grads);
    model_params views;
    params_view(&c, &m.list, grads, &views);
    workspace *train, *eval;
    check(workspace_new(&m, B, T, WORKSPACE_TRAIN, &train, &err), &err);
    check(workspace_new(&m, B, T, WORKSPACE_FORWARD, &eval, &err), &err);
    recorder rec = {json_object(), json_object(), &c};
    workspace_set_visitor(train, record, &rec);
    const train_input in = {.tokens = tokens, .targets = targets, .total_targets = counted, .scale = 1, .seed = 0};
    const pass_result r = transformer_train(train, &views, &in);
    const pass_result causal = transformer_loss(eval, ROUTING_CAUSAL, false, 0, B, T, tokens, targets);

    mkdir(dir, 0777);
    char *config = path_join(dir, "config.json"), *values = path_join(dir, "model.safetensors");
    char *gradients = path_join(dir, "gradients.safetensors");
    char *batch = path_join(dir, "batch.json"), *losses = path_join(dir, "losses.json");
    check(hf_config_write(config, &c, WEIGHT_F32, &err), &err);
    check(model_write_blocks(&m, &(param_block){"", m.store.values}, 1, values, &err), &err);
    check(model_write_blocks(&m, &(param_block){"", grads}, 1, gradients, &err), &err);
    json_t *b = json_object(), *l = json_object();
    json_object_set_new(b, "inputs", matrix(tokens, B, T));
    json_object_set_new(b, "targets", matrix(targets, B, T));
    json_object_set_new(b, "noise", rec.noise);
    json_object_set_new(l, "loss", json_real(r.loss_sum / (double)r.targets));
    json_object_set_new(l, "aux_loss", json_real(r.aux_loss));
    json_object_set_new(l, "loss_causal", json_real(causal.loss_sum / (double)causal.targets));
    json_object_set_new(l, "selected", rec.selected);
    if (c.experts.count > 0) {
        json_t *experts = json_object();
        for (int64_t layer = 0; layer < c.layers; layer++) {
            char key[32];
            snprintf(key, sizeof key, "%d", (int)layer);
            json_object_set_new(experts, key, expert_rows(workspace_experts(train, layer), c.experts.count));
        }
        json_object_set_new(l, "experts", experts);
    }
    json_object_set_new(l, "router_accuracy", r.decided ? json_real((double)r.agreed / (double)r.decided) : json_null());
    const int failed = json_dump_file(b, batch, JSON_REAL_PRECISION(17)) | json_dump_file(l, losses, JSON_REAL_PRECISION(17));
    json_decref(b);
    json_decref(l);
    free(config);
    free(values);
    free(gradients);
    free(batch);
    free(losses);
    workspace_free(train);
    workspace_free(eval);
    free(grads);
    model_free(&m);
    return failed ? 1 : 0;
}
