/* A plain model made into a routed one: its weights are kept, and with the capacity at 1 the first step's loss is near its own. */
#include <math.h>
#include <stdio.h>

#include "base/temp.h"
#include "model/flops.h"
#include "model/tiny.h"
#include "train/conversion.h"
#include "train/trainer.h"

enum { T = 23, COUNT = 6000, B = 8 };
static int32_t text[COUNT];
static const corpus_piece piece = {.ids = text, .count = COUNT};
static const corpus_part part = {&piece, 1, COUNT};

static int fill_text(void **state)
{
    for (int i = 1; i < COUNT; i++)
        text[i] = rng_uniform(1, 50, (uint64_t)i) < 0.9 ? (text[i - 1] * 5 + 3) % 37 : (int32_t)(rng_uniform(1, 51, (uint64_t)i) * 37);
    (void)state;
    return 0;
}

/* Wider than the vocabulary, so that a constant can be read off the stream, as it can off a real model's. */
static model_config wide(model_config c)
{
    c.dim = 64;
    c.head_dim = 16;
    return c;
}

/* A plain model that has learned something, in `folder`. Its matrices start small, with deviation 0.02, so that what training adds, much
 * of it common to all tokens, is soon most of the stream: a constant can be read off it to a tenth. How near a raw gate comes to 1, and
 * so how near the first step comes to the plain model's, depends on that. */
static model trained(const char *folder)
{
    const model_config c = wide(tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR));
    model m = tiny_model(&c, 1);
    fathom_error err;
    trainer *t;
    train_options o = train_options_default();
    o.steps = 100;
    o.lr = 3e-3;
    assert_int_equal(model_randomize(&m, 1, &err), FATHOM_OK);
    for (int64_t i = 0; i < m.list.count; i++) {
        const param_info *p = &m.list.items[i];
        for (int64_t j = 0; p->rank == 2 && j < p->size; j++)
            m.store.values[p->offset + j] *= 0.02f * sqrtf((float)p->shape[1]);
    }
    const trainer_input in = {.m = &m, .options = &o, .train = &part};
    assert_int_equal(trainer_new(&in, &t, &err), FATHOM_OK);
    for (int i = 0; i < 100; i++)
        assert_int_equal(trainer_step(t, &(train_step_info){0}, &err), FATHOM_OK);
    trainer_free(t);
    assert_int_equal(model_save(&m, folder, &err), FATHOM_OK);
    return m;
}

/* Loss of the first training step on the same batch, every token through every block. */
static double first_loss(model *m, double widen)
{
    workspace *ws;
    fathom_error err;
    model_params views;
    float *grads = calloc((size_t)m->list.size, sizeof *grads);
    params_view(&m->config, &m->list, grads, &views);
    assert_int_equal(workspace_new(m, B, T, (workspace_kind)(WORKSPACE_TRAIN | WORKSPACE_WIDE), &ws, &err), FATHOM_OK);
    int32_t targets[B * T];
    memcpy(targets, text + 1, sizeof targets);
    const train_input in = {.tokens = text, .targets = targets, .total_targets = B * T, .scale = 1, .widen = widen};
    const double loss = transformer_train(ws, &views, &in).loss_sum / (B * T);
    workspace_free(ws);
    free(grads);
    return loss;
}

static model converted(const model_config *c, const char *folder, double *mean, double *deviation)
{
    model m;
    fathom_error err;
    const kernels kn = kernels_cpu(0);
    if (model_init(&m, c, WEIGHT_F32, &kn, &err) != FATHOM_OK || model_randomize(&m, 3, &err) != FATHOM_OK ||
        model_read_folder(&m, folder, true, &err) != FATHOM_OK || conversion_start_routers(&m, &part, 4000, 16, mean, deviation, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    return m;
}

static void the_first_step_is_the_plain_models(void **state)
{
    (void)state;
    const char *folder = "plain"; /* in a folder of this test's */
    model plain = trained(folder);
    const double before = first_loss(&plain, 0);
    assert_true(before < 2); /* it has learned: uniform is 3.6 */
    int tried = 0;
    for (int i = 0; i < TINY_VARIANTS; i++) {
        const model_config c = wide(tiny_variant_config(&tiny_variants[i]));
        double mean, deviation;
        if (c.mod.router == MOD_ROUTER_NONE || c.experts.count > 0 || !c.tied || c.family != plain.config.family)
            continue;
        model m = converted(&c, folder, &mean, &deviation);
        const bool exact = c.mod.gate == MOD_GATE_ONE;
        assert_int_equal(isnan(mean), exact);
        /* 1 % where the gate is near 1; exact where it is 1; far off at the model's own capacity, which is why there is a warm-up */
        assert_true(fabs(first_loss(&m, 1) / before - 1) < (exact ? 1e-5 : 0.01));
        if (c.mod.unit == MOD_UNIT_BLOCK && !c.mod.dense_kv)
            assert_true(first_loss(&m, 0) / before - 1 > 0.05);
        for (int64_t p = 0; p < plain.list.count; p++)
            for (int64_t q = 0; q < m.list.count; q++)
                if (strcmp(plain.list.items[p].name, m.list.items[q].name) == 0)
                    assert_memory_equal(plain.store.values + plain.list.items[p].offset, m.store.values + m.list.items[q].offset,
                                        (size_t)plain.list.items[p].size * sizeof(float));
        model_free(&m);
        tried++;
    }
    assert_true(tried >= 8);
    model_free(&plain);
}

static void expect_refused(const model_config *c, const char *folder, bool adds_routers, const char *name)
{
    const kernels kn = kernels_cpu(0);
    fathom_error err;
    model m;
    assert_int_equal(model_init(&m, c, WEIGHT_F32, &kn, &err), FATHOM_OK);
    assert_int_equal(model_read_folder(&m, folder, adds_routers, &err), FATHOM_FORMAT);
    assert_non_null(strstr(err.message, name));
    model_free(&m);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    const char *folder = "plain";
    model plain = trained(folder);
    model_config c = wide(tiny_config(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR));
    expect_refused(&c, folder, false, ".mod.router"); /* not to be made up unless asked for */
    c.ffn++;
    expect_refused(&c, folder, true, "mlp.");
    c.ffn--;
    c.layers++;
    expect_refused(&c, folder, true, "model.layers.4.");
    model_free(&plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {temp_test(the_first_step_is_the_plain_models), temp_test(what_does_not_fit_is_refused)};
    return cmocka_run_group_tests(tests, fill_text, NULL);
}
