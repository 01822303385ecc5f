/* fathom train */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "format/hf_config.h"
#include "kernels/kernels.h"
#include "model/flops.h"
#include "train/conversion.h"
#include "train/trainer.h"

typedef struct train_command {
    option_list data, val_data;
    const char *out, *dtype, *init, *tokenizer, *data_format;
    bool resume, json, resumed, converts; /* a checkpoint goes on; a plain model gets routers */
    bool routes; /* so that there are two losses */
    bool raw, nameless; /* ids that no tokenizer here explains */
    double val_fraction;
    int64_t threads, seed, capacity_warmup; /* -1: none, or with --init a fifth of the run */
    train_options options;
    model_flags shape;
    progress_line progress;
} train_command;

enum { ROUTER_TOKENS = 16384 }; /* from which new routers start */

static volatile sig_atomic_t interrupted;

static void show_step(void *user, const train_step_info *i)
{
    train_command *c = user;
    if (i->skipped)
        progress_print(&c->progress, "step %lld: loss %g, gradient norm %g: not finite, step skipped", (long long)i->step,
                       i->loss, i->grad_norm);
    if (!progress_due(&c->progress) && i->step != 1 && i->step != i->total)
        return;
    char eta[32];
    progress_time(i->seconds_left, eta, sizeof eta);
    progress_show(&c->progress, "step %lld/%lld  loss %.4f  %.0f tokens/s  ETA %s", (long long)i->step, (long long)i->total,
                  i->loss, i->tokens_per_s, eta);
}

static void show_evaluation(void *user, const train_eval_info *i)
{
    train_command *c = user;
    if (!c->routes)
        progress_print(&c->progress, "step %lld: held-out loss %.4f", (long long)i->step, i->topk.loss);
    else if (isnan(i->topk.router_accuracy))
        progress_print(&c->progress, "step %lld: held-out loss %.4f (topk) %.4f (causal)", (long long)i->step, i->topk.loss,
                       i->causal.loss);
    else
        progress_print(&c->progress, "step %lld: held-out loss %.4f (topk) %.4f (causal), causal rule agrees on %.1f %%",
                       (long long)i->step, i->topk.loss, i->causal.loss, 100 * i->topk.router_accuracy);
}

static void show_saved(void *user, int64_t step, const char *dir)
{
    train_command *c = user;
    progress_print(&c->progress, "step %lld: saved %s", (long long)step, dir);
}

static fathom_status parse(train_command *c, int argc, char **argv, options_result *parsed, fathom_error *err)
{
    train_options *o = &c->options;
    const option table[] = {
        {OPTION_HEADING, "data and output", 0, 0, 0},
        {OPTION_LIST, "data", &c->data, "PATH...", "text files, folders of text, or token shards"},
        {OPTION_LIST, "val-data", &c->val_data, "PATH...", "held-out text (default: the end of each file of --data)"},
        {OPTION_NUMBER, "val-fraction", &c->val_fraction, "X", "share of each file held out (0.05); folders of shards have their own"},
        DATA_FORMAT_OPTION(&c->data_format),
        {OPTION_TEXT, "out", &c->out, "DIR", "run directory"},
        {OPTION_TEXT, "tokenizer", &c->tokenizer, "PATH", "a tokenizer.json or a folder with one (--init's, else one token a byte)"},
        {OPTION_TEXT, "init", &c->init, "DIR", "start from the model in DIR; with --mod a plain model is made a routed one"},
        {OPTION_FLAG, "resume", &c->resume, 0, "go on from DIR's checkpoint; options that are left out are its own, but for those of data and --threads"},
        {OPTION_HEADING, "budget: one of", 0, 0, 0},
        {OPTION_INTEGER, "steps", &o->steps, "N", "optimizer steps"},
        {OPTION_NUMBER, "flops", &o->flops, "X", "training FLOPs, as in 1e13"},
        {OPTION_NUMBER, "epochs", &o->epochs, "X", "passes over the training data"},
        MODEL_OPTIONS(&c->shape),
        {OPTION_HEADING, "training", 0, 0, 0},
        {OPTION_INTEGER, "batch", &o->batch, "N", "sequences a batch (16)"},
        {OPTION_INTEGER, "grad-accum", &o->grad_accum, "N", "batches a step (1)"},
        {OPTION_NUMBER, "lr", &o->lr, "X", "peak learning rate (1e-3)"},
        {OPTION_NUMBER, "min-lr", &o->min_lr, "X", "final learning rate (lr / 10)"},
        {OPTION_INTEGER, "mod-capacity-warmup", &c->capacity_warmup, "N",
         "steps in which the capacity falls from 1 to its own (0; with --init and --mod a fifth of the run)"},
        {OPTION_INTEGER, "warmup", &o->warmup, "N", "warm-up steps (2 % of the run, at least 10)"},
        {OPTION_NUMBER, "weight-decay", &o->weight_decay, "X", "decoupled, on matrices only (0.1)"},
        {OPTION_NUMBER, "clip", &o->clip, "X", "largest gradient norm, 0 = off (1)"},
        {OPTION_NUMBER, "beta1", &o->beta1, "X", "AdamW's first decay (0.9)"},
        {OPTION_NUMBER, "beta2", &o->beta2, "X", "AdamW's second decay (0.95)"},
        {OPTION_INTEGER, "seed", &c->seed, "N", "of initialisation, order of data, stochastic routing (1)"},
        {OPTION_INTEGER, "eval-every", &o->eval_every, "N", "steps between evaluations (0: at the end)"},
        {OPTION_INTEGER, "eval-tokens", &o->eval_tokens, "N", "held-out tokens an evaluation reads, 0 = all (65536)"},
        {OPTION_INTEGER, "save-every", &o->save_every, "N", "steps between checkpoints (0: by the clock alone)"},
        {OPTION_NUMBER, "save-minutes", &o->save_minutes, "X", "minutes after which there is a new checkpoint, 0 = none by the clock (10)"},
        {OPTION_INTEGER, "log-every", &o->log_every, "N", "steps between lines of log.jsonl (10)"},
        {OPTION_FLAG, "tensorboard", &o->tensorboard, 0, "log.jsonl's numbers as TensorBoard events too: tensorboard --logdir DIR"},
        {OPTION_INTEGER, "threads", &c->threads, "N", "processor threads (all)"},
        {OPTION_TEXT, "dtype", &c->dtype, "TYPE", "fp32, or bf16: products of inputs rounded to bfloat16 (fp32)"},
        {OPTION_FLAG, "recompute", &o->recompute, 0, "keep only the blocks' inputs and compute the rest again: less memory"},
        {OPTION_FLAG, "json", &c->json, 0, "one JSON object on stdout at the end"},
        {0},
    };
    const options_input in = {"train", "", "Trains a model on text and writes a run directory. Ctrl-C finishes the step, writes a "
                              "checkpoint and exits with 130.", table, 0};
    TRY(options_parse(&in, argc, argv, parsed, err));
    if (c->seed < 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--seed: %lld: must be 0 or above", (long long)c->seed);
    o->seed = (uint64_t)c->seed;
    if (c->capacity_warmup != -1)
        o->capacity_warmup = c->capacity_warmup;
    TRY(data_format_parse(c->data_format, &c->raw, err));
    return c->dtype ? train_dtype_parse(c->dtype, &o->bf16, err) : FATHOM_OK;
}

/* --resume starts from the run's own options and shape, so that they need not be repeated. */
static fathom_status adopt_saved(train_command *c, int argc, char **argv, options_result *parsed, bool *found,
                                 fathom_error *err)
{
    train_options saved = c->options;
    TRY(trainer_saved_options(c->out, &saved, found, err));
    if (!*found)
        return FATHOM_OK;
    const train_options given = c->options;
    c->options = saved;
    c->seed = (int64_t)saved.seed;
    c->data.count = c->val_data.count = 0;
    options_free(parsed);
    TRY(parse(c, argc, argv, parsed, err));
    /* a budget given again replaces the saved one only as a whole: then the comparison names what differs */
    if ((c->options.steps > 0) + (c->options.flops > 0) + (c->options.epochs > 0) > 1) {
        c->options.steps = given.steps;
        c->options.flops = given.flops;
        c->options.epochs = given.epochs;
    }
    return FATHOM_OK;
}

/* Somebody said how many ids there are: shards that do not tell are read by that. */
static bool vocab_given(const train_command *c)
{
    return c->shape.vocab || c->tokenizer || c->init || c->resumed;
}

/* --tokenizer was given, or the folder that the run takes up has one: it is not bytes for want of anything else. */
static bool tokenizer_named(const train_command *c)
{
    if (c->tokenizer)
        return true;
    const char *dir = c->resumed ? c->out : c->init;
    char *path = dir ? path_join(dir, "tokenizer.json") : NULL;
    const bool named = path && path_exists(path);
    free(path);
    return named;
}

static fathom_status load_data(train_command *c, const tokenizer *tok, const model_config *config, corpus *data, corpus *validation,
                               fathom_error *err)
{
    corpus_input in = {.paths = c->data.items, .count = c->data.count, .tokenizer = tok, .vocab = vocab_given(c) ? config->vocab : 0,
                       .heldout_fraction = c->val_data.count ? 0 : c->val_fraction, .raw = c->raw};
    TRY(corpus_load(&in, data, err));
    if (c->val_data.count) {
        in.paths = c->val_data.items;
        in.count = c->val_data.count;
        in.heldout_fraction = 0;
        in.evaluation = true;
        TRY(corpus_load(&in, validation, err));
    }
    const int64_t foreign = data->foreign + validation->foreign;
    c->nameless = foreign > 0 && !tokenizer_named(c);
    if (c->nameless && foreign < data->files + validation->files)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data: text and shards that do not tell their vocabulary: the text would be encoded "
                           "by another tokenizer");
    return FATHOM_OK;
}

static int report(const train_command *c, const train_summary *s)
{
    if (c->json) {
        json_t *o = json_object();
        json_object_set_new(o, "steps", json_integer((json_int_t)s->steps));
        json_object_set_new(o, "tokens", json_integer((json_int_t)s->tokens));
        json_object_set_new(o, "flops", cli_number(s->flops));
        json_object_set_new(o, "train_loss", cli_number(s->train_loss));
        json_object_set_new(o, "eval_loss", s->topk.tokens ? cli_number(s->topk.loss) : json_null());
        json_object_set_new(o, "eval_loss_causal", s->causal.tokens ? cli_number(s->causal.loss) : json_null());
        json_object_set_new(o, "router_accuracy", s->topk.tokens ? cli_number(s->topk.router_accuracy) : json_null());
        json_object_set_new(o, "tokens_per_s", cli_number(s->tokens_per_s));
        json_object_set_new(o, "ms_per_step", cli_number(s->ms_per_step));
        json_object_set_new(o, "params", json_integer((json_int_t)s->params));
        json_object_set_new(o, "skipped", json_integer((json_int_t)s->skipped));
        return cli_print_json(o);
    }
    printf("%lld steps, %.3g tokens, %.3g FLOPs; training loss %.4f", (long long)s->steps, (double)s->tokens, s->flops,
           s->train_loss);
    if (s->topk.tokens && c->routes)
        printf("; held-out loss %.4f (topk) %.4f (causal)", s->topk.loss, s->causal.loss);
    else if (s->topk.tokens)
        printf("; held-out loss %.4f", s->topk.loss);
    printf("; %.0f tokens/s; %s\n", s->tokens_per_s, c->out);
    return EXIT_OK;
}

static const corpus_part *heldout_part(const train_command *c, const corpus *data, const corpus *validation)
{
    return c->val_data.count ? &validation->train : &data->heldout;
}

/* What will be trained on what, and the memory it takes: before any of it is taken. */
static fathom_status describe_plan(train_command *c, const model_config *config, const kernels *kn, const corpus *data,
                                   const corpus_part *heldout, fathom_error *err)
{
    const int64_t routed = model_routed_layers(config);
    const bool experts = config->experts.count > 0;
    c->routes = !model_causal_as_trained(config);
    const char *kind = !routed ? (experts ? "mixture-of-experts" : "plain") : experts ? "Mixture-of-Depths-and-Experts" : "Mixture-of-Depths";
    const train_memory memory = train_memory_plan(config, &c->options, heldout->count > 1, kn);
    progress_print(&c->progress, "%lld files, %.4g training tokens, %.4g held out%s", (long long)data->files,
                   (double)data->train.count, (double)heldout->count,
                   data->files_skipped ? "; files that are not text passed over" : "");
    progress_print(&c->progress, "%s model, %lld blocks (%lld routed) x %lld, %.4g parameters, %.4g forward FLOPs a token",
                   kind, (long long)config->layers, (long long)routed,
                   (long long)config->dim, (double)memory.parameters / sizeof(float),
                   flops_forward(config, config->seq_len, true) / (double)config->seq_len);
    progress_print(&c->progress,
                   "memory %.4g MB: parameters %.4g, gradients %.4g, moments %.4g, activations %.4g, evaluation %.4g",
                   (double)memory.total * 1e-6, (double)memory.parameters * 1e-6, (double)memory.gradients * 1e-6,
                   (double)memory.moments * 1e-6, (double)memory.activations * 1e-6, (double)memory.evaluation * 1e-6);
    if (c->options.bf16 && !kn->bf16(kn))
        progress_print(&c->progress, "this processor has no bfloat16 products: training in fp32");
    return train_memory_check(&memory, memory_available(), err);
}

/* Where the run starts: values from the seed, or --init's, and routers that let them work as they did. */
static fathom_status start_values(train_command *c, model *m, const corpus *data, fathom_error *err)
{
    double mean, deviation;
    TRY(model_randomize(m, c->options.seed, err));
    if (!c->init || c->resumed)
        return FATHOM_OK;
    TRY(model_read_folder(m, c->init, c->converts, err));
    if (!c->converts)
        return FATHOM_OK;
    TRY(conversion_start_routers(m, &data->train, ROUTER_TOKENS, c->options.batch, &mean, &deviation, err));
    if (!isnan(mean))
        progress_print(&c->progress, "%s: routers start at logits of %.3f, deviation %.3f", c->init, mean, deviation);
    if (c->options.capacity_warmup > 0)
        progress_print(&c->progress, "capacity falls from 1 over %lld steps", (long long)c->options.capacity_warmup);
    return FATHOM_OK;
}

static fathom_status train(train_command *c, const tokenizer *tok, model *m, const corpus *data, const corpus_part *heldout,
                           train_summary *summary, fathom_error *err)
{
    TRY(start_values(c, m, data, err));
    const trainer_input in = {.m = m, .options = &c->options, .train = &data->train, .heldout = heldout,
                              .fingerprint = data->fingerprint, .dir = c->out, .resume = c->resume};
    trainer *t;
    TRY(trainer_new(&in, &t, err));
    char *path = path_join(c->out, "tokenizer.json");
    fathom_status status = path ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK && !c->nameless)
        status = tokenizer_save(tok, path, err);
    free(path);
    if (status == FATHOM_OK) {
        progress_print(&c->progress, "%lld steps on %d threads", (long long)trainer_total_steps(t), m->kn.threads);
        if (trainer_step_number(t) > 0)
            progress_print(&c->progress, "resuming after step %lld", (long long)trainer_step_number(t));
        const train_observer observer = {c, show_step, show_evaluation, show_saved};
        status = trainer_run(t, &observer, &interrupted, summary, err);
    }
    trainer_free(t);
    return status;
}

static fathom_status run(train_command *c, const tokenizer *tok, const model_config *config, train_summary *summary,
                         fathom_error *err)
{
    const kernels kn = kernels_cpu((int)c->threads);
    model m = {0};
    corpus data = {0}, validation = {0};
    const corpus_part *heldout = heldout_part(c, &data, &validation);
    fathom_status status = load_data(c, tok, config, &data, &validation, err);
    if (status == FATHOM_OK && c->converts && !c->resumed && c->capacity_warmup == -1)
        c->options.capacity_warmup = train_total_steps(&c->options, config, (data.train.count - 1) / config->seq_len) / 5;
    if (status == FATHOM_OK)
        status = describe_plan(c, config, &kn, &data, heldout, err);
    if (status == FATHOM_OK)
        status = model_init(&m, config, WEIGHT_F32, &kn, err);
    if (status == FATHOM_OK)
        status = train(c, tok, &m, &data, heldout, summary, err);
    corpus_free(&data);
    corpus_free(&validation);
    model_free(&m);
    return status;
}

static fathom_status read_saved_shape(const char *dir, model_config *config, fathom_error *err)
{
    char *path = path_join(dir, "config.json");
    fathom_status status = path ? hf_config_read(path, config, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    free(path);
    return status;
}

/* The tokenizer in dir; *out stays NULL where there is none. */
static fathom_status read_own_tokenizer(const char *dir, tokenizer **out, fathom_error *err)
{
    char *path = path_join(dir, "tokenizer.json");
    fathom_status status = path ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK && path_exists(path))
        status = tokenizer_load(path, out, err);
    free(path);
    return status;
}

/* The run's own where it goes on, --init's where it starts from a model: --tokenizer may only say the same. Otherwise --tokenizer's, or bytes. */
static fathom_status choose_tokenizer(const train_command *c, tokenizer **out, fathom_error *err)
{
    const char *dir = c->resumed ? c->out : c->init;
    tokenizer *given = NULL;
    if (dir)
        TRY(read_own_tokenizer(dir, out, err));
    if (!c->tokenizer)
        return *out ? FATHOM_OK : tokenizer_bytes(out, err);
    TRY(tokenizer_load(c->tokenizer, &given, err));
    if (!*out) {
        *out = given;
        return FATHOM_OK;
    }
    const bool same = tokenizer_same(*out, given);
    tokenizer_free(given);
    return same ? FATHOM_OK : status_fail(err, FATHOM_INVALID_ARGUMENT, "--tokenizer: %s: is not the one that %s has", c->tokenizer, dir);
}

/* --init's shape, routed as the options say. */
static fathom_status read_init_shape(train_command *c, int64_t vocab, model_config *config, fathom_error *err)
{
    TRY(read_saved_shape(c->init, config, err));
    if (!model_flags_shape_untouched(&c->shape))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--init: %s: the shape is this model's: --layers, --dim and their kin do not go with it",
                           c->init);
    if (config->vocab < vocab)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--init: %s: vocab_size: %lld: the tokenizer has %lld ids", c->init,
                           (long long)config->vocab, (long long)vocab);
    config->mod.budgets = 0; /* calibrated for weights that will change */
    if (model_flags_untouched(&c->shape))
        return FATHOM_OK;
    if (config->mod.router != MOD_ROUTER_NONE || config->experts.count > 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--init: %s: has routers or experts already: --mod and its kin go with a plain model",
                           c->init);
    if (c->shape.experts)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--init: %s: a plain model's MLP cannot be made into --experts", c->init);
    TRY(model_flags_route(&c->shape, config, err));
    c->converts = config->mod.router != MOD_ROUTER_NONE;
    return FATHOM_OK;
}

/* The shape of what will be trained: of the run that goes on, of --init's model, or as the options say. */
static fathom_status choose_shape(train_command *c, const tokenizer *tok, model_config *config, fathom_error *err)
{
    if (c->resumed && model_flags_untouched(&c->shape))
        return read_saved_shape(c->out, config, err);
    if (c->init)
        return read_init_shape(c, tokenizer_vocab(tok), config, err);
    return model_flags_build(&c->shape, tokenizer_vocab(tok), config, err);
}

/* Everything that can be wrong with the command line, before any work. */
static fathom_status check_command(train_command *c, tokenizer **tok, int argc, char **argv, options_result *parsed,
                                   model_config *config, fathom_error *err)
{
    if (!c->out)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--out: needed: the run directory");
    TRY(threads_check(c->threads, err));
    if (c->resume)
        TRY(adopt_saved(c, argc, argv, parsed, &c->resumed, err));
    const bool budget = c->options.steps > 0 || c->options.flops > 0 || c->options.epochs > 0;
    if (c->resume && !c->resumed && (c->data.count == 0 || !budget))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--resume: %s: has no checkpoint: to begin there --data and one of --steps, --flops and "
                           "--epochs are needed", c->out);
    if (c->data.count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data: needed: text files, folders or token shards%s",
                           c->resumed ? "; a checkpoint does not say where they are" : "");
    if (!(c->val_fraction >= 0 && c->val_fraction < 1))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--val-fraction: %g: must be in [0, 1)", c->val_fraction);
    TRY(train_options_check(&c->options, err));
    TRY(model_flags_check_use(&c->shape, err));
    TRY(choose_tokenizer(c, tok, err));
    TRY(choose_shape(c, *tok, config, err));
    if (config->vocab < tokenizer_vocab(*tok))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: vocab_size: %lld: its tokenizer has %lld ids", c->out, (long long)config->vocab,
                           (long long)tokenizer_vocab(*tok));
    if (c->options.capacity_warmup > 0 && model_routed_stages(config) == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--mod-capacity-warmup: %lld: the model has no routed blocks",
                           (long long)c->options.capacity_warmup);
    return FATHOM_OK;
}

/* After a live line was left open by an error. */
static int end_with(const train_command *c, const fathom_error *err)
{
    if (c->progress.open)
        fputc('\n', stderr);
    cli_fail(err);
    return err->code == FATHOM_INTERRUPTED ? EXIT_BY_SIGNAL + (int)interrupted : EXIT_FAILED;
}

int command_train(int argc, char **argv)
{
    train_command c = {.val_fraction = 0.05, .seed = 1, .capacity_warmup = -1, .options = train_options_default(),
                       .shape = model_flags_default()};
    fathom_error err;
    options_result parsed;
    tokenizer *tok = NULL;
    model_config config;
    train_summary summary;
    fathom_status status = parse(&c, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK)
        status = check_command(&c, &tok, argc, argv, &parsed, &config, &err);
    int code;
    if (status != FATHOM_OK) {
        code = cli_usage(&err);
    } else {
        c.progress = progress_begin(5);
        interrupt_watch(&interrupted);
        status = run(&c, tok, &config, &summary, &err);
        code = status == FATHOM_OK ? report(&c, &summary) : end_with(&c, &err);
    }
    tokenizer_free(tok);
    options_free(&parsed);
    return code;
}
