/* The trainer: learning, resuming bit for bit, steps without allocation, bad steps, budgets and the schedule. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "format/hf_config.h"
#include "model/flops.h"
#include "model/tiny.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"
#include "train/trainer.h"

/* The linker sends our objects' allocations here (see CMakeLists.txt). What oneDNN does inside its own library is its own. */
static volatile int allocations; /* volatile: the compiler believes that malloc changes nothing of ours */
static volatile bool counting;
void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_realloc(void *, size_t);
void *__real_aligned_alloc(size_t, size_t);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);
void *__wrap_malloc(size_t n)
{
    allocations += counting;
    return __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size)
{
    allocations += counting;
    return __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n)
{
    allocations += counting;
    return __real_realloc(p, n);
}
void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    allocations += counting;
    return __real_aligned_alloc(alignment, n);
}

static int32_t text[4000];
static const corpus_piece train_piece = {.ids = text, .count = 3600}, heldout_piece = {.ids = text + 3600, .count = 400};
static corpus_part train_part = {&train_piece, 1, 3600}, heldout_part = {&heldout_piece, 1, 400};

/* Something to learn: each token mostly follows from the one before. */
static int fill_text(void **state)
{
    (void)state;
    for (int i = 1; i < 4000; i++)
        text[i] = rng_uniform(1, 50, (uint64_t)i) < 0.9 ? (text[i - 1] * 5 + 3) % 37 : (int32_t)(rng_uniform(1, 51, (uint64_t)i) * 37);
    return 0;
}

static train_options quick(int64_t steps)
{
    train_options o = train_options_default();
    o.steps = steps;
    o.batch = 4;
    o.grad_accum = 2;
    o.lr = 3e-3;
    o.log_every = 1;
    o.eval_tokens = 0;
    return o;
}

static model fresh(mod_router router, mod_causal causal)
{
    const model_config c = tiny_config(router, router == MOD_ROUTER_TOPK ? MOD_GATE_RAW : MOD_GATE_ONE, causal);
    model m = tiny_model(&c, 1);
    fathom_error err;
    assert_int_equal(model_randomize(&m, 1, &err), FATHOM_OK);
    return m;
}

static model fresh_variant(int kind)
{
    const model_config c = tiny_variant_config(&tiny_variants[kind]);
    model m = tiny_model(&c, 1);
    fathom_error err;
    assert_int_equal(model_randomize(&m, 1, &err), FATHOM_OK);
    return m;
}

static trainer *start(model *m, const train_options *o, const char *dir, bool resume)
{
    trainer *t;
    fathom_error err;
    const trainer_input in = {.m = m, .options = o, .train = &train_part, .heldout = &heldout_part, .fingerprint = 7,
                              .dir = dir, .resume = resume};
    if (trainer_new(&in, &t, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    return t;
}

static char *temporary_folder(void)
{
    const char *base = getenv("TMPDIR");
    char *path = path_join(base ? base : "/tmp", "fathom-trainer-XXXXXX");
    assert_non_null(mkdtemp(path));
    return path;
}

static void remove_run(char *dir)
{
    char *inner = path_join(dir, "trainer");
    folder_remove(inner, NULL);
    folder_remove(dir, NULL);
    free(inner);
    free(dir);
}

static void every_kind_learns(void **state)
{
    (void)state;
    for (int i = 0; i < TINY_VARIANTS; i++) {
        model m = fresh_variant(i);
        const train_options o = quick(150);
        char *dir = temporary_folder();
        trainer *t = start(&m, &o, dir, false);
        train_summary s;
        fathom_error err;
        assert_int_equal(trainer_run(t, NULL, NULL, &s, &err), FATHOM_OK);
        assert_int_equal(s.steps, 150);
        assert_int_equal(s.skipped, 0);
        assert_true(s.topk.loss < 1.6); /* uniform: 3.61; the best possible: 0.68 */
        assert_true(fabs(s.causal.loss - s.topk.loss) < 0.3);
        assert_int_equal(s.topk.tokens, 399);
        if (model_causal_as_trained(&m.config))
            assert_float_equal(s.causal.loss, s.topk.loss, 0);
        else if (m.config.mod.causal != MOD_CAUSAL_NOISE)
            assert_true(s.topk.router_accuracy > 0.6);
        trainer_free(t);
        remove_run(dir);
        model_free(&m);
    }
}

static void a_step_allocates_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < TINY_VARIANTS; i++) {
        model m = fresh_variant(i);
        train_options o = quick(20);
        o.capacity_warmup = model_routed_stages(&m.config) > 0 ? 3 : 0;
        o.recompute = i % 2;
        trainer *t = start(&m, &o, NULL, false);
        train_step_info info;
        allocations = 0;
        counting = true;
        void *volatile probe = malloc(1);
        free(probe);
        assert_int_equal(allocations, 1); /* the counter counts */
        for (int step = 0; step < 5; step++)
            assert_int_equal(trainer_step(t, &info, NULL), FATHOM_OK);
        counting = false;
        assert_int_equal(allocations, 1);
        trainer_free(t);
        model_free(&m);
    }
}

static volatile sig_atomic_t stop_now;
static int64_t stop_at;

static void stop_after(void *user, const train_step_info *info)
{
    (void)user;
    stop_now = info->step == stop_at;
}

/* Interrupted at several places and resumed, a run ends with the bits of one that was not. */
static void resume_variant(int kind, int64_t capacity_warmup)
{
    train_options o = quick(30);
    o.capacity_warmup = capacity_warmup;
    model whole = fresh_variant(kind);
    char *dir = temporary_folder();
    trainer *t = start(&whole, &o, dir, false);
    train_summary s;
    fathom_error err;
    assert_int_equal(trainer_run(t, NULL, NULL, &s, &err), FATHOM_OK);
    const double flops = s.flops;
    trainer_free(t);
    remove_run(dir);
    dir = temporary_folder();
    const train_observer observer = {.step = stop_after};
    const int64_t stops[] = {1, 7, 8, 29, 1000};
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        model m = fresh_variant(kind);
        stop_at = stops[i];
        stop_now = 0;
        t = start(&m, &o, dir, true);
        assert_int_equal(trainer_step_number(t), i ? stops[i - 1] : 0);
        assert_int_equal(trainer_run(t, &observer, &stop_now, &s, &err), stops[i] < 30 ? FATHOM_INTERRUPTED : FATHOM_OK);
        if (stops[i] > 30) {
            assert_memory_equal(m.store.values, whole.store.values, (size_t)m.list.size * sizeof(float));
            assert_float_equal(s.flops, flops, 0);
        }
        trainer_free(t);
        model_free(&m);
    }
    remove_run(dir);
    model_free(&whole);
}

static void resuming_changes_no_bit(void **state)
{
    (void)state;
    resume_variant(tiny_variant_named("raw"), 0);
    resume_variant(tiny_variant_named("attn+mlp"), 10);
    resume_variant(tiny_variant_named("mode-integrated-choice"), 0);
}

static void other_runs_are_refused(void **state)
{
    (void)state;
    char *dir = temporary_folder();
    model m = fresh(MOD_ROUTER_NONE, MOD_CAUSAL_PREDICTOR);
    train_options o = quick(2), kept;
    o.recompute = true;
    trainer *t = start(&m, &o, dir, false), *second;
    train_summary s;
    fathom_error err;
    assert_int_equal(trainer_run(t, NULL, NULL, &s, &err), FATHOM_OK);
    trainer_input in = {.m = &m, .options = &o, .train = &train_part, .fingerprint = 7, .dir = dir, .resume = true};
    assert_int_equal(trainer_new(&in, &second, &err), FATHOM_INVALID_ARGUMENT); /* two at once */
    assert_non_null(strstr(err.message, "lock"));
    trainer_free(t);
    bool found;
    assert_int_equal(trainer_saved_options(dir, &kept, &found, &err), FATHOM_OK);
    assert_true(found && kept.recompute);
    assert_int_equal(trainer_new(&in, &t, &err), FATHOM_OK); /* a run that has ended */
    trainer_free(t);
    char *left[] = {path_join(dir, "model.safetensors.tmp"), path_join(dir, "lock")};
    for (int i = 0; i < 2; i++) {
        assert_false(path_exists(left[i]));
        free(left[i]);
    }
    in.resume = false;
    assert_int_equal(trainer_new(&in, &t, &err), FATHOM_INVALID_ARGUMENT); /* would overwrite */
    assert_non_null(strstr(err.message, dir));
    in.resume = true;
    in.fingerprint = 8;
    assert_int_equal(trainer_new(&in, &t, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "data"));
    in.fingerprint = 7;
    o.lr = 1;
    assert_int_equal(trainer_new(&in, &t, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "lr"));
    o.lr = 3e-3;
    o.capacity_warmup = 1;
    assert_int_equal(trainer_new(&in, &t, &err), FATHOM_INVALID_ARGUMENT); /* of a model that routes nothing */
    assert_non_null(strstr(err.message, "mod-capacity-warmup"));
    o.capacity_warmup = 0;
    model other = fresh(MOD_ROUTER_TOPK, MOD_CAUSAL_PREDICTOR);
    in.m = &other;
    assert_int_equal(trainer_new(&in, &t, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "config.json"));
    remove_run(dir);
    dir = temporary_folder();
    trainer_free(start(&m, &o, dir, false)); /* as if killed before its first checkpoint */
    in.dir = dir;
    assert_int_equal(trainer_new(&in, &t, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "no checkpoint"));
    in.m = &m;
    assert_int_equal(trainer_new(&in, &t, &err), FATHOM_OK);
    trainer_free(t);
    model_free(&other);
    model_free(&m);
    remove_run(dir);
}

/* A NaN in the parameters makes every step bad: each is skipped, the tenth ends the run, the checkpoint is not touched. */
static void bad_steps_end_the_run(void **state)
{
    (void)state;
    char *dir = temporary_folder();
    model m = fresh(MOD_ROUTER_NONE, MOD_CAUSAL_PREDICTOR);
    const train_options o = quick(40);
    trainer *t = start(&m, &o, dir, false);
    stop_at = 5;
    stop_now = 0;
    train_summary s;
    fathom_error err;
    const train_observer observer = {.step = stop_after};
    assert_int_equal(trainer_run(t, &observer, &stop_now, &s, &err), FATHOM_INTERRUPTED);
    m.params.norm[0] = NAN;
    stop_at = 6;
    stop_now = 0;
    assert_int_equal(trainer_run(t, &observer, &stop_now, &s, &err), FATHOM_INTERRUPTED); /* nor by who stops it then */
    assert_non_null(strstr(err.message, "the checkpoint of step 5 is kept"));
    assert_int_equal(trainer_run(t, NULL, NULL, &s, &err), FATHOM_DIVERGED);
    assert_int_equal(s.skipped, 10);
    assert_int_equal(s.steps, 15);
    trainer_free(t);
    t = start(&m, &o, dir, true);
    assert_int_equal(trainer_step_number(t), 5);
    assert_true(isfinite(m.params.norm[0]));
    assert_int_equal(trainer_run(t, NULL, NULL, &s, &err), FATHOM_OK);
    trainer_free(t);
    model_free(&m);
    remove_run(dir);
}

/* user: a norm's first weight, which is bad from step 5 on and, where `mended` says so, is put right after the last. */
static bool mended;
static void break_and_mend(void *user, const train_step_info *info)
{
    float *weight = user;
    if (info->step == 5)
        *weight = NAN;
    if (info->step == info->total && mended)
        *weight = 1;
}

/* Bad steps at the end of the budget: the checkpoint before them stays, but where what there is evaluates to something. */
static void bad_last_steps_are_not_kept(void **state)
{
    (void)state;
    for (int every = 0; every <= 5; every += 5) { /* without a checkpoint, with one of step 5 */
        char *dir = temporary_folder(), *path = path_join(dir, "model.safetensors");
        model m = fresh(MOD_ROUTER_NONE, MOD_CAUSAL_PREDICTOR);
        train_options o = quick(7);
        o.save_every = every;
        const train_observer observer = {.user = &m.params.norm[0], .step = break_and_mend};
        train_summary s;
        fathom_error err;
        mended = false;
        trainer *t = start(&m, &o, dir, false);
        assert_int_equal(trainer_run(t, &observer, NULL, &s, &err), FATHOM_DIVERGED);
        assert_non_null(strstr(err.message, "in the last 2 steps"));
        assert_non_null(strstr(err.message, every ? "step 5 is kept" : "no checkpoint"));
        assert_int_equal(path_exists(path), every > 0);
        trainer_free(t);
        assert_int_equal(model_randomize(&m, 1, &err), FATHOM_OK);
        mended = true;
        t = start(&m, &o, dir, true);
        assert_int_equal(trainer_step_number(t), every);
        if (every)
            m.params.norm[0] = NAN;
        assert_int_equal(trainer_run(t, &observer, NULL, &s, &err), FATHOM_OK);
        assert_int_equal(s.skipped, 2);
        trainer_free(t);
        t = start(&m, &o, dir, true);
        assert_int_equal(trainer_step_number(t), 7);
        trainer_free(t);
        model_free(&m);
        free(path);
        remove_run(dir);
    }
}

/* Whatever the predictor's gradient, nothing else feels it, not even through clipping. */
static void predictors_touch_nothing_else(void **state)
{
    (void)state;
    const char *const kinds[] = {"raw", "attn+mlp", "moe-experts", "mode-staged"};
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        model_config c = tiny_variant_config(&tiny_variants[tiny_variant_named(kinds[kind])]);
        model both[2];
        for (int i = 0; i < 2; i++) {
            fathom_error err;
            both[i] = tiny_model(&c, 1);
            assert_int_equal(model_randomize(&both[i], 1, &err), FATHOM_OK);
            train_options o = quick(10);
            o.clip = 0.01;
            trainer *t = start(&both[i], &o, NULL, false);
            train_step_info info;
            for (int step = 0; step < 5; step++)
                assert_int_equal(trainer_step(t, &info, &err), FATHOM_OK);
            trainer_free(t);
            c.mod.predictor_hidden *= 3;
            c.experts.predictor_hidden *= 3;
        }
        int64_t predictors = 0;
        assert_int_equal(both[0].list.count, both[1].list.count);
        for (int64_t i = 0; i < both[0].list.count; i++) {
            const param_info *p = &both[0].list.items[i], *q = &both[1].list.items[i];
            assert_string_equal(p->name, q->name);
            predictors += p->predictor;
            if (!p->predictor)
                assert_memory_equal(both[0].store.values + p->offset, both[1].store.values + q->offset, (size_t)p->size * sizeof(float));
        }
        assert_true(predictors >= 4);
        model_free(&both[0]);
        model_free(&both[1]);
    }
}

static void count_saved(void *user, int64_t step, const char *dir)
{
    (void)step, (void)dir;
    ++*(int64_t *)user;
}

/* A checkpoint whenever the time has come, and without a clock the one at the end. */
static void the_clock_saves(void **state)
{
    (void)state;
    const struct {
        double minutes;
        int64_t saved;
    } cases[] = {{1e-9, 20}, {0, 1}, {10, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *dir = temporary_folder();
        model m = fresh(MOD_ROUTER_NONE, MOD_CAUSAL_PREDICTOR);
        train_options o = quick(20);
        o.save_minutes = cases[i].minutes;
        int64_t saved = 0;
        trainer *t = start(&m, &o, dir, false);
        train_summary s;
        fathom_error err;
        assert_int_equal(trainer_run(t, &(train_observer){.user = &saved, .saved = count_saved}, NULL, &s, &err), FATHOM_OK);
        assert_int_equal(saved, cases[i].saved);
        trainer_free(t);
        model_free(&m);
        remove_run(dir);
    }
}

static void budgets_and_schedule(void **state)
{
    (void)state;
    const model_config c = tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    train_options o = train_options_default();
    o.batch = 4;
    o.flops = 100.4 * flops_train(&c, 4, c.seq_len);
    assert_int_equal(train_total_steps(&o, &c, 1000), 100);
    o.flops = 0;
    o.epochs = 1.5;
    o.grad_accum = 2;
    assert_int_equal(train_total_steps(&o, &c, 1000), 188);
    /* steps of the capacity's warm-up take more: ten of them, and as many as come nearest */
    const model_config routed = tiny_config(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    train_options wide = train_options_default();
    wide.batch = 4;
    wide.capacity_warmup = 10;
    double spent = 0;
    for (int64_t step = 0; step < 30; step++)
        spent += flops_train_widened(&routed, 4, routed.seq_len, step < 10 ? 1 - (double)step / 10 : 0);
    assert_float_equal(train_widening(&wide, 4), 0.6, 1e-12);
    wide.flops = spent;
    assert_int_equal(train_total_steps(&wide, &routed, 1000), 30);
    wide.flops = 2.6 * flops_train_widened(&routed, 4, routed.seq_len, 1);
    assert_int_equal(train_total_steps(&wide, &routed, 1000), 3);
    assert_true(spent > 30 * flops_train(&routed, 4, routed.seq_len));
    fathom_error err;
    o.steps = 3;
    assert_int_equal(train_options_check(&o, &err), FATHOM_INVALID_ARGUMENT);
    o.epochs = 0;
    assert_int_equal(train_options_check(&o, &err), FATHOM_OK);
    o.lr = NAN;
    assert_int_equal(train_options_check(&o, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "lr"));
    o.lr = 1e-3;
    o.warmup = 10;
    o.min_lr = 1e-4;
    double last = 0;
    for (int64_t step = 0; step < 10; step++) {
        assert_true(train_learning_rate(&o, step, 100) > last);
        last = train_learning_rate(&o, step, 100);
    }
    assert_float_equal(train_learning_rate(&o, 10, 100), 1e-3, 1e-12);
    for (int64_t step = 11; step < 100; step++) {
        assert_true(train_learning_rate(&o, step, 100) < last || step == 11);
        last = train_learning_rate(&o, step, 100);
    }
    assert_float_equal(last, 1e-4, 1e-12);
}

/* Two half batches accumulate to the gradient of the whole batch. */
static void accumulation_equals_a_larger_batch(void **state)
{
    (void)state;
    train_options halves = quick(3), whole = quick(3);
    whole.batch = 8;
    whole.grad_accum = 1;
    model a = fresh(MOD_ROUTER_TOPK, MOD_CAUSAL_AUX), b = fresh(MOD_ROUTER_TOPK, MOD_CAUSAL_AUX);
    trainer *ta = start(&a, &halves, NULL, false), *tb = start(&b, &whole, NULL, false);
    train_step_info ia, ib;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(trainer_step(ta, &ia, NULL), FATHOM_OK);
        assert_int_equal(trainer_step(tb, &ib, NULL), FATHOM_OK);
        assert_float_equal(ia.loss / ib.loss, 1, 1e-4);
        assert_float_equal(ia.grad_norm / ib.grad_norm, 1, 1e-3);
        assert_float_equal(ia.aux_loss / ib.aux_loss, 1, 1e-4);
    }
    trainer_free(ta);
    trainer_free(tb);
    model_free(&a);
    model_free(&b);
}

/* After 200 steps the held-out loss is that of fp32 within 1 %. */
static void bf16_learns_as_fp32_does(void **state)
{
    (void)state;
    const kernels kn = kernels_cpu(0);
    if (!kn.bf16(&kn))
        skip();
    for (int routed = 0; routed < 2; routed++) {
        double loss[2];
        for (int bf16 = 0; bf16 < 2; bf16++) {
            model m = fresh(routed ? MOD_ROUTER_TOPK : MOD_ROUTER_NONE, MOD_CAUSAL_PREDICTOR);
            train_options o = quick(200);
            o.bf16 = bf16;
            char *dir = temporary_folder();
            trainer *t = start(&m, &o, dir, false);
            train_summary s;
            fathom_error err;
            assert_int_equal(trainer_run(t, NULL, NULL, &s, &err), FATHOM_OK);
            loss[bf16] = s.topk.loss;
            trainer_free(t);
            remove_run(dir);
            model_free(&m);
        }
        assert_float_equal(loss[1] / loss[0], 1, 0.01);
        assert_true(loss[0] != loss[1]);
    }
}

static void memory_is_known_beforehand(void **state)
{
    (void)state;
    model m = fresh(MOD_ROUTER_TOPK, MOD_CAUSAL_PREDICTOR);
    train_options o = quick(1);
    const train_memory kept = train_memory_plan(&m.config, &o, true, &m.kn);
    assert_int_equal(kept.parameters, (size_t)m.list.size * sizeof(float));
    assert_int_equal(kept.total, kept.parameters + kept.gradients + kept.moments + kept.activations + kept.evaluation);
    o.recompute = true;
    assert_true(train_memory_plan(&m.config, &o, true, &m.kn).activations < kept.activations);
    o.recompute = false;
    o.capacity_warmup = 5; /* room for every token in every block */
    assert_true(train_memory_plan(&m.config, &o, true, &m.kn).activations > kept.activations);
    o.recompute = true;
    fathom_error err;
    assert_int_equal(train_memory_check(&kept, kept.total, &err), FATHOM_OK);
    assert_int_equal(train_memory_check(&kept, kept.total - 1, &err), FATHOM_OUT_OF_MEMORY);
    assert_non_null(strstr(err.message, "activations"));
    assert_non_null(strstr(err.message, "--recompute"));
    o.batch = (int64_t)1 << 20; /* sizes that overflow are too large, not small */
    m.config.seq_len = (int64_t)1 << 40;
    assert_int_equal(train_memory_plan(&m.config, &o, true, &m.kn).total, SIZE_MAX);
    m.config.seq_len = 23;
    model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_learns),       cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(resuming_changes_no_bit), cmocka_unit_test(other_runs_are_refused),
        cmocka_unit_test(bad_steps_end_the_run),   cmocka_unit_test(budgets_and_schedule),
        cmocka_unit_test(bad_last_steps_are_not_kept), cmocka_unit_test(predictors_touch_nothing_else),
        cmocka_unit_test(the_clock_saves),
        cmocka_unit_test(accumulation_equals_a_larger_batch),
        cmocka_unit_test(bf16_learns_as_fp32_does), cmocka_unit_test(memory_is_known_beforehand),
    };
    return cmocka_run_group_tests(tests, fill_text, NULL);
}
