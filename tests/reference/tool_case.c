/* Writes a case for the outside reference: tool_case DIR KIND SEED, KIND as in `cases` below. A tiny model, a batch, and what
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

static const struct {
    const char *name;
    mod_router router;
    mod_gate gate;
    mod_causal causal;
    bool untied;
} cases[] = {
    {"plain", MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR, false},
    {"untied", MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR, true},
    {"raw", MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR, false},
    {"sigmoid-aux", MOD_ROUTER_TOPK, MOD_GATE_SIGMOID, MOD_CAUSAL_AUX, false},
    {"raw-aux", MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_AUX, true},
    {"one", MOD_ROUTER_TOPK, MOD_GATE_ONE, MOD_CAUSAL_PREDICTOR, false},
    {"stochastic", MOD_ROUTER_STOCHASTIC, MOD_GATE_ONE, MOD_CAUSAL_NOISE, false},
    {"token-choice", MOD_ROUTER_TOKEN_CHOICE, MOD_GATE_RAW, MOD_CAUSAL_CHOICE, false},
    {"token-choice-sigmoid", MOD_ROUTER_TOKEN_CHOICE, MOD_GATE_SIGMOID, MOD_CAUSAL_CHOICE, true},
};

typedef struct recorder {
    json_t *selected, *noise;
    bool stochastic;
} recorder;

static void record(void *user, int64_t layer, const route *r, int64_t sequences, int64_t T)
{
    recorder *rec = user;
    char key[16];
    snprintf(key, sizeof key, "%d", (int)layer);
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
    if (rec->stochastic)
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
    size_t kind = 0;
    if (argc != 4)
        return 2;
    while (kind < sizeof cases / sizeof *cases && strcmp(cases[kind].name, argv[2]) != 0)
        kind++;
    if (kind == sizeof cases / sizeof *cases)
        return 2;
    const char *dir = argv[1];
    const uint64_t seed = strtoull(argv[3], NULL, 10);
    fathom_error err;
    model_config c = tiny_config(cases[kind].router, cases[kind].gate, cases[kind].causal);
    c.tied = !cases[kind].untied;
    const bool stochastic = c.mod.router == MOD_ROUTER_STOCHASTIC;
    if (stochastic)
        c.mod.threshold[1] = c.mod.threshold[3] = 0.5f;
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
    recorder rec = {json_object(), json_object(), stochastic};
    workspace_set_visitor(train, record, &rec);
    const train_input in = {.tokens = tokens, .targets = targets, .total_targets = counted, .scale = 1, .seed = 0};
    const pass_result r = transformer_train(train, &views, &in);
    const pass_result causal = transformer_loss(eval, ROUTING_CAUSAL, false, B, T, tokens, targets);

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
