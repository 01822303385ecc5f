/* fathom calibrate: thresholds for several compute budgets, into config.json. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "cli/cli.h"
#include "format/hf_config.h"
#include "infer/session.h"
#include "train/calibrate.h"

static const double default_budgets[] = {0.01, 0.02, 0.03, 0.045, 0.06, 0.09, 0.125, 0.18, 0.25, 0.35, 0.5, 0.7};
enum { BUDGETS = sizeof default_budgets / sizeof *default_budgets };

typedef struct calibrate_command {
    option_list data;
    int64_t tokens, batch, threads;
    const char *data_format;
    bool json, raw;
} calibrate_command;

static fathom_status write_config(const char *dir, const model *m, fathom_error *err)
{
    char *path = path_join(dir, "config.json");
    fathom_status status = path ? hf_config_write(path, &m->config, m->store.type, err)
                                : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    free(path);
    return status;
}

static fathom_status run(const calibrate_command *c, const char *dir, calibration_point points[BUDGETS], fathom_error *err)
{
    fathom_model *loaded = NULL;
    corpus data = {0};
    fathom_status status = fathom_model_load(dir, (int)c->threads, &loaded, err);
    if (status == FATHOM_OK)
        status = corpus_load(&(corpus_input){.paths = c->data.items, .count = c->data.count, .tokenizer = loaded->tok,
                                             .missing = loaded->tok_error.message, .vocab = loaded->m.config.vocab, .raw = c->raw}, &data, err);
    if (status == FATHOM_OK) {
        const calibrate_input in = {.text = &data.train, .tokens = c->tokens, .batch = c->batch, .budgets = default_budgets,
                                    .count = BUDGETS};
        fathom_error problem;
        status = calibrate(&loaded->m, &in, points, &problem);
        if (status != FATHOM_OK)
            status = status_fail(err, problem.code, "%s: %s", dir, problem.message);
    }
    if (status == FATHOM_OK)
        status = write_config(dir, &loaded->m, err);
    corpus_free(&data);
    fathom_model_free(loaded);
    return status;
}

static int report(const calibrate_command *c, const char *dir, const calibration_point points[BUDGETS])
{
    if (!c->json) {
        printf("%-8s %8s %8s\n", "budget", "routed", "loss");
        for (int i = 0; i < BUDGETS; i++)
            printf("%-8g %8.4f %8.4f\n", points[i].budget, points[i].routed_fraction, points[i].loss);
        printf("%s/config.json: budgets from %g to %g; eval and generate take --budget\n", dir, points[0].budget,
               points[BUDGETS - 1].budget);
        return EXIT_OK;
    }
    json_t *list = json_array(), *o = json_object();
    for (int i = 0; i < BUDGETS; i++) {
        json_t *point = json_object();
        json_object_set_new(point, "budget", json_real(points[i].budget));
        json_object_set_new(point, "routed_fraction", cli_number(points[i].routed_fraction));
        json_object_set_new(point, "loss", cli_number(points[i].loss));
        json_array_append_new(list, point);
    }
    json_object_set_new(o, "points", list);
    return cli_print_json(o);
}

int command_calibrate(int argc, char **argv)
{
    calibrate_command c = {.tokens = 65536, .batch = 16};
    const option table[] = {
        {OPTION_LIST, "data", &c.data, "PATH...", "text files, folders of text, or token shards"},
        DATA_FORMAT_OPTION(&c.data_format),
        {OPTION_INTEGER, "tokens", &c.tokens, "N", "tokens to fit on, and as many to measure on (65536)"},
        {OPTION_INTEGER, "batch", &c.batch, "N", "sequences at a time (16)"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads (all)"},
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"calibrate", "DIR", "Finds, for several compute budgets, the thresholds of causal routing, and keeps "
                              "them in DIR/config.json: one model, several speeds.", table, 1};
    fathom_error err;
    options_result parsed;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK && parsed.positional_count != 1)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "calibrate needs a model directory");
    else if (status == FATHOM_OK && c.data.count == 0)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--data: needed: text files, folders or token shards");
    else if (status == FATHOM_OK && (c.tokens < 1 || c.tokens > (int64_t)1 << 32))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--tokens: %lld: must be 1 to 4294967296", (long long)c.tokens);
    else if (status == FATHOM_OK && (c.batch < 1 || c.batch > 1 << 20))
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--batch: %lld: must be 1 to 1048576", (long long)c.batch);
    if (status == FATHOM_OK)
        status = data_format_parse(c.data_format, &c.raw, &err);
    if (status == FATHOM_OK)
        status = threads_check(c.threads, &err);
    if (status != FATHOM_OK) {
        options_free(&parsed);
        return cli_usage(&err);
    }
    calibration_point points[BUDGETS];
    const char *dir = parsed.positional[0];
    const int code = run(&c, dir, points, &err) == FATHOM_OK ? report(&c, dir, points) : cli_fail(&err);
    options_free(&parsed);
    return code;
}
