/* Models whose matrices are stored in fewer bits: files, and what they compute. How far a packed matrix is from its original is
 * tested with the kernels; here a reduced model is held against an fp32 model of the very values it stands for, so that what is
 * left is the order of additions. */
#include <math.h>

#include "base/file.h"
#include "base/temp.h"
#include "infer/session.h"
#include "kernels/weight.h"
#include "model/tiny.h"

enum { T = 23 };

static const weight_type types[] = {WEIGHT_BF16, WEIGHT_Q8};

/* The fp32 model of the values that m stands for. */
static model widened(const model *m)
{
    model full;
    fathom_error err;
    assert_int_equal(model_init(&full, &m->config, WEIGHT_F32, &m->kn, &err), FATHOM_OK);
    for (int64_t i = 0; i < m->list.count; i++) {
        const param_info *p = &m->list.items[i];
        const float *kept = store_values(&m->store, p);
        float *to = full.store.values + p->offset;
        const weight w = store_weight(&m->store, p);
        for (int64_t j = 0; j < p->size; j++)
            to[j] = kept ? kept[j]
                    : w.type == WEIGHT_BF16 ? bf16_widen(((const uint16_t *)w.data)[j])
                                            : w.scale[j / p->shape[1]] * (float)((const int8_t *)w.data)[j];
    }
    return full;
}

/* Logits after each of the tokens, in steps of `step`; returns the routed fraction. */
static double run(const fathom_model *owner, const int32_t *tokens, int step, float *logits)
{
    fathom_session *s;
    fathom_error err;
    assert_int_equal(fathom_session_new(owner, T, &s, &err), FATHOM_OK);
    for (int i = 0; i < T; i += step) {
        const int n = T - i < step ? T - i : step;
        assert_int_equal(fathom_session_append(s, tokens + i, (size_t)n, &err), FATHOM_OK);
        memcpy(logits + (i + n - 1) * 37, fathom_session_logits(s), 37 * sizeof *logits);
    }
    const double routed = fathom_session_routed_fraction(s);
    fathom_session_free(s);
    return routed;
}

static void expect_same(const float *a, const float *b, int n)
{
    for (int i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= 1e-4f * (1 + fabsf(b[i]))))
            fail_msg("logit %d: %g and %g", i, (double)a[i], (double)b[i]);
}

static void computes_what_it_stands_for(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++)
        for (int t = 0; t < 2; t++) {
            const model_config c = tiny_variant_config(&tiny_variants[kind]);
            model original = tiny_model(&c, 4);
            fathom_model reduced = {0}, full = {0};
            fathom_error err;
            assert_int_equal(model_reduce(&reduced.m, &original, types[t], &err), FATHOM_OK);
            full.m = widened(&reduced.m);
            int32_t tokens[T];
            static float steps[T * 37], wanted[T * 37], prompt[T * 37];
            tiny_tokens(tokens, T, 37, 8);
            const double routed = run(&reduced, tokens, 1, steps);
            assert_float_equal(run(&full, tokens, 1, wanted), routed, 0);
            assert_true(model_skipping_stages(&c) == 0 || (routed > 0 && routed < 1));
            expect_same(steps, wanted, T * 37);
            /* prefill = steps: one product with widened slices, and many of one row */
            assert_float_equal(run(&reduced, tokens, T, prompt), routed, 0);
            expect_same(prompt + (T - 1) * 37, steps + (T - 1) * 37, 37);
            model_free(&original);
            model_free(&reduced.m);
            model_free(&full.m);
        }
}

static void files_keep_every_bit(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++)
        for (int t = 0; t < 2; t++) {
            const model_config c = tiny_variant_config(&tiny_variants[kind]);
            model original = tiny_model(&c, 4), reduced, back;
            fathom_error err;
            assert_int_equal(model_reduce(&reduced, &original, types[t], &err), FATHOM_OK);
            assert_int_equal(model_save(&reduced, "run", &err), FATHOM_OK);
            if (model_load(&back, "run", &original.kn, &err) != FATHOM_OK)
                fail_msg("%s", err.message);
            assert_int_equal(back.store.type, types[t]);
            assert_true(model_config_equal(&back.config, &c));
            const param_list *l = &back.list;
            assert_memory_equal(back.store.values, reduced.store.values, (size_t)(l->size - l->large) * sizeof(float));
            assert_memory_equal(back.store.packed, reduced.store.packed, (size_t)l->large * weight_element_bytes(types[t]));
            if (types[t] == WEIGHT_Q8)
                assert_memory_equal(back.store.scale, reduced.store.scale, (size_t)l->large_rows * sizeof(float));
            /* the trainer's reader takes fp32 values only: bf16 can be widened, q8 not */
            const fathom_status read = model_read_values(&original, "run/model.safetensors", &err);
            assert_int_equal(read == FATHOM_OK, types[t] == WEIGHT_BF16);
            model_free(&original);
            model_free(&reduced);
            model_free(&back);
            assert_int_equal(folder_remove("run", &err), FATHOM_OK);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(computes_what_it_stands_for), temp_test(files_keep_every_bit)};
    return cmocka_run_group_tests_name("reduced", tests, NULL, NULL);
}
