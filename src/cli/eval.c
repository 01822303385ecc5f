/* fathom eval */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "infer/session.h"
#include "model/budget.h"
#include "train/evaluate.h"

typedef struct eval_command {
    option_list data;
    const char *routing, *data_format;
    bool json, raw;
    int64_t threads, batch, seq_len, tokens;
    double budget;
} eval_command;

static fathom_status evaluate(const eval_command *c, const fathom_model *model_handle, corpus *data, routing r,
                              evaluation *out, fathom_error *err)
{
    const int64_t T = c->seq_len ? c->seq_len : model_handle->m.config.seq_len;
    if (T < 1 || T > model_handle->m.config.seq_len)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--seq-len: %lld: the model was made for at most %lld", (long long)T,
                           (long long)model_handle->m.config.seq_len);
    const corpus_input in = {.paths = c->data.items, .count = c->data.count, .tokenizer = model_handle->tok,
                             .missing = model_handle->tok_error.message, .vocab = model_handle->m.config.vocab, .evaluation = true, .raw = c->raw};
    TRY(corpus_load(&in, data, err));
    if (data->train.count < 2)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: one token: there is nothing to predict", c->data.items[0]);
    float threshold[MODEL_MAX_STAGES];
    if (c->budget != 0)
        TRY(budget_thresholds(&model_handle->m.config, c->budget, threshold, err));
    const batcher b = {.part = &data->train, .T = T};
    evaluator e;
    fathom_status status = evaluator_init(&e, &model_handle->m, c->batch, T, err);
    if (status == FATHOM_OK) {
        workspace_set_thresholds(e.ws, c->budget != 0 ? threshold : NULL);
        e.tokenizer = data->bytes < 0 ? model_handle->tok : NULL;
        status = evaluator_run(&e, &b, r, c->tokens, out, err);
    }
    evaluator_free(&e);
    return status;
}

static int report(const eval_command *c, const evaluation *e, const corpus *data, bool routes)
{
    /* shards that do not tell: the bytes of what was predicted, or, without a tokenizer, none */
    const double tokens_per_byte = data->bytes < 0 ? (double)e->tokens / (double)e->bytes : (double)data->train.count / (double)data->bytes;
    const double bits_per_byte = e->loss / log(2) * tokens_per_byte;
    if (c->json) {
        json_t *o = json_object();
        json_object_set_new(o, "loss", cli_number(e->loss));
        json_object_set_new(o, "perplexity", cli_number(exp(e->loss)));
        json_object_set_new(o, "bits_per_byte", cli_number(bits_per_byte));
        json_object_set_new(o, "tokens", json_integer((json_int_t)e->tokens));
        json_object_set_new(o, "routing", json_string(c->routing));
        json_object_set_new(o, "routed_fraction", cli_number(e->routed_fraction));
        json_object_set_new(o, "forward_flops_per_token", cli_number(e->flops_per_token));
        json_object_set_new(o, "router_accuracy", cli_number(e->router_accuracy));
        return cli_print_json(o);
    }
    printf("loss %.4f nats/token, perplexity %.3f, ", e->loss, exp(e->loss));
    if (isfinite(bits_per_byte))
        printf("%.4f bits/byte ", bits_per_byte);
    printf("on %lld tokens; ", (long long)e->tokens);
    if (routes)
        printf("%s routing, %.2f %% routed, ", c->routing, 100 * e->routed_fraction);
    printf("%.4g forward FLOPs/token\n", e->flops_per_token);
    if (!isnan(e->router_accuracy))
        printf("the causal rule agrees with top-k on %.2f %% of (token, router or expert) pairs\n", 100 * e->router_accuracy);
    return EXIT_OK;
}

int command_eval(int argc, char **argv)
{
    eval_command c = {.routing = "causal", .batch = 16};
    const option table[] = {
        {OPTION_LIST, "data", &c.data, "PATH...", "text files, folders of text, or token shards"},
        DATA_FORMAT_OPTION(&c.data_format),
        {OPTION_TEXT, "routing", &c.routing, "R", "causal (what sampling does) or topk (as trained) (causal)"},
        {OPTION_NUMBER, "budget", &c.budget, "X", "causal routing of this mean share of tokens; needs fathom calibrate (the model's own)"},
        {OPTION_INTEGER, "tokens", &c.tokens, "N", "tokens to read, spread over the text, 0 = all (0)"},
        {OPTION_INTEGER, "seq-len", &c.seq_len, "N", "tokens a sequence (the model's)"},
        {OPTION_INTEGER, "batch", &c.batch, "N", "sequences at a time (16)"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads (all)"},
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"eval", "DIR", "Loss of the model in DIR on text.", table, 1};
    fathom_error err;
    options_result parsed;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    const routing r = c.routing && strcmp(c.routing, "topk") == 0 ? ROUTING_TOPK : ROUTING_CAUSAL;
    if (status == FATHOM_OK && parsed.positional_count != 1)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "eval needs a model directory");
    else if (status == FATHOM_OK && c.data.count == 0)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--data: needed: text files, folders or token shards");
    else if (status == FATHOM_OK && r == ROUTING_CAUSAL && strcmp(c.routing, "causal") != 0)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--routing: %s: must be topk or causal", c.routing);
    else if (status == FATHOM_OK && (c.batch < 1 || c.batch > 1 << 20))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--batch: %lld: must be 1 to 1048576", (long long)c.batch);
    else if (status == FATHOM_OK && c.budget != 0 && r == ROUTING_TOPK)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--budget: %g: goes with causal routing; topk has its fixed capacity",
                             c.budget);
    else if (status == FATHOM_OK && c.tokens < 0)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--tokens: %lld: must be 0 (all) or above", (long long)c.tokens);
    if (status == FATHOM_OK)
        status = data_format_parse(c.data_format, &c.raw, &err);
    if (status == FATHOM_OK)
        status = threads_check(c.threads, &err);
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    fathom_model *loaded = NULL;
    corpus data = {0};
    evaluation e = {0};
    status = fathom_model_load(parsed.positional[0], (int)c.threads, &loaded, &err);
    if (status == FATHOM_OK)
        status = evaluate(&c, loaded, &data, r, &e, &err);
    const int code = status == FATHOM_OK ? report(&c, &e, &data, model_skipping_stages(&loaded->m.config) > 0) : cli_fail(&err);
    corpus_free(&data);
    fathom_model_free(loaded);
    options_free(&parsed);
    return code;
}
