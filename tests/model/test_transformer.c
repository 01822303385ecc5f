/* Properties of the whole model. Its gradients are held against an outside reference in tests/reference. */
#include <math.h>
#include <stdio.h>

#include "model/flops.h"
#include "model/tiny.h"
#include "model/transformer.h"

enum { B = 3 };

static workspace *make_workspace(const model *m, int64_t sequences, int64_t T, workspace_kind kind)
{
    workspace *ws;
    fathom_error err;
    if (workspace_new(m, sequences, T, kind, &ws, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    return ws;
}

static pass_result loss_of(const model *m, routing r, const int32_t *tokens, const int32_t *targets)
{
    workspace *ws = make_workspace(m, B, m->config.seq_len, WORKSPACE_FORWARD);
    const pass_result p = transformer_loss(ws, r, false, 0, B, m->config.seq_len, tokens, targets);
    workspace_free(ws);
    return p;
}

static void make_batch(const model *m, int32_t *tokens, int32_t *targets)
{
    tiny_tokens(tokens, B * m->config.seq_len, m->config.vocab, 5);
    tiny_tokens(targets, B * m->config.seq_len, m->config.vocab, 6);
}

/* Capacity 1 and gate 1: every token goes through every block. Parameters that both have start alike from one seed. */
static void full_capacity_equals_plain(void **state)
{
    (void)state;
    model_config routed = tiny_config(MOD_ROUTER_TOPK, MOD_GATE_ONE, MOD_CAUSAL_PREDICTOR);
    routed.mod.capacity[1] = routed.mod.capacity[3] = 1;
    const model_config plain = model_config_plain(&routed);
    model a = tiny_model(&routed, 1), b = tiny_model(&plain, 1);
    fathom_error err;
    assert_int_equal(model_randomize(&a, 9, &err), FATHOM_OK);
    assert_int_equal(model_randomize(&b, 9, &err), FATHOM_OK);
    int32_t tokens[B * 23], targets[B * 23];
    make_batch(&a, tokens, targets);
    const pass_result pa = loss_of(&a, ROUTING_TOPK, tokens, targets), pb = loss_of(&b, ROUTING_TOPK, tokens, targets);
    assert_float_equal(pa.loss_sum / (double)pa.targets, pb.loss_sum / (double)pb.targets, 1e-5);
    model_free(&a);
    model_free(&b);
}

typedef struct train_result {
    double loss;
    float *grads;
} train_result;

static train_result gradients_by(model *m, workspace_kind kind, const int32_t *tokens, const int32_t *targets)
{
    train_result r = {.grads = calloc((size_t)m->list.size, sizeof(float))};
    model_params views;
    params_view(&m->config, &m->list, r.grads, &views);
    workspace *ws = make_workspace(m, B, m->config.seq_len, kind);
    const train_input in = {.tokens = tokens, .targets = targets, .total_targets = B * m->config.seq_len, .scale = 1,
                            .seed = 3, .noise_counter = 17};
    r.loss = transformer_train(ws, &views, &in).loss_sum;
    workspace_free(ws);
    return r;
}

static train_result gradients_of(model *m, const int32_t *tokens, const int32_t *targets)
{
    return gradients_by(m, WORKSPACE_TRAIN, tokens, targets);
}

/* Recomputing the activations gives the same bits, from less memory. */
static void recomputation_changes_no_bit(void **state)
{
    (void)state;
    for (int i = 0; i < TINY_VARIANTS; i++) {
        const model_config c = tiny_variant_config(&tiny_variants[i]);
        model m = tiny_model(&c, 2);
        int32_t tokens[B * 23], targets[B * 23];
        make_batch(&m, tokens, targets);
        const train_result kept = gradients_of(&m, tokens, targets);
        const train_result again = gradients_by(&m, WORKSPACE_RECOMPUTE, tokens, targets);
        assert_true(kept.loss == again.loss);
        assert_memory_equal(kept.grads, again.grads, (size_t)m.list.size * sizeof(float));
        free(kept.grads);
        free(again.grads);
        model_free(&m);
    }
    model_config deep = tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    deep.layers = 12;
    deep.seq_len = 1024;
    model m = tiny_model(&deep, 2);
    assert_true((double)workspace_bytes(&m, 8, 1024, WORKSPACE_RECOMPUTE) <
                0.4 * (double)workspace_bytes(&m, 8, 1024, WORKSPACE_TRAIN));
    model_free(&m);
}

/* Token-choice when nobody chooses a block, in one layer and in all: the block is skipped both ways, and only the balancing loss
 * reaches its router. */
static void no_token_need_choose(void **state)
{
    (void)state;
    for (int both = 0; both < 2; both++) {
        model_config c = tiny_config(MOD_ROUTER_TOKEN_CHOICE, MOD_GATE_RAW, MOD_CAUSAL_CHOICE);
        c.mod.threshold[1] = 1e6f;
        c.mod.threshold[3] = both ? 1e6f : 0;
        model m = tiny_model(&c, 2);
        int32_t tokens[B * 23], targets[B * 23];
        make_batch(&m, tokens, targets);
        const pass_result causal = loss_of(&m, ROUTING_CAUSAL, tokens, targets);
        const train_result kept = gradients_of(&m, tokens, targets), again = gradients_by(&m, WORKSPACE_RECOMPUTE, tokens, targets);
        if (both)
            assert_true(kept.loss == causal.loss_sum && causal.routed == 0);
        assert_memory_equal(kept.grads, again.grads, (size_t)m.list.size * sizeof(float));
        for (int64_t i = 0; i < m.list.count; i++) {
            const param_info *p = &m.list.items[i];
            double squares = 0;
            for (int64_t j = 0; j < p->size; j++)
                squares += pow((double)kept.grads[p->offset + j], 2);
            const bool skipped = strncmp(p->name, "model.layers.1.", 15) == 0 || (both && strncmp(p->name, "model.layers.3.", 15) == 0);
            assert_true(isfinite(squares));
            assert_int_equal(squares > 0, !skipped || strstr(p->name, "router") != NULL);
        }
        free(kept.grads);
        free(again.grads);
        model_free(&m);
    }
}

/* Rounding an input to bfloat16 moves it by 2^-9 at most, a product of two by 2^-8; a gradient has gone through some 8 products
 * a block on its way up and as many on its way down, so 16 L 2^-8 bounds its relative error, were all errors to add up.
 * Routing by top-k is left out: a near tie may fall the other way. */
static void bf16_gradients_are_close(void **state)
{
    (void)state;
    const model_config c = tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    model m = tiny_model(&c, 3);
    int32_t tokens[B * 23], targets[B * 23];
    if (!m.kn.bf16(&m.kn)) {
        model_free(&m);
        skip();
    }
    make_batch(&m, tokens, targets);
    const train_result exact = gradients_of(&m, tokens, targets);
    m.bf16 = true;
    const train_result rounded = gradients_of(&m, tokens, targets);
    double difference = 0, size = 0;
    for (int64_t i = 0; i < m.list.size; i++) {
        difference += pow((double)exact.grads[i] - (double)rounded.grads[i], 2);
        size += pow((double)exact.grads[i], 2);
    }
    assert_true(sqrt(difference / size) < 16 * 4 / 256.0);
    assert_true(sqrt(difference / size) > 1e-4); /* it did round */
    free(exact.grads);
    free(rounded.grads);
    model_free(&m);
}

static void same_bits_every_time(void **state)
{
    (void)state;
    const model_config c = tiny_config(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    model m = tiny_model(&c, 2);
    int32_t tokens[B * 23], targets[B * 23];
    make_batch(&m, tokens, targets);
    const train_result first = gradients_of(&m, tokens, targets);
    for (int i = 0; i < 5; i++) {
        const train_result again = gradients_of(&m, tokens, targets);
        assert_true(first.loss == again.loss);
        assert_memory_equal(first.grads, again.grads, (size_t)m.list.size * sizeof(float));
        free(again.grads);
    }
    free(first.grads);
    model_free(&m);
}

/* The fast backend against plain C, through the whole model. */
static void backends_agree(void **state)
{
    (void)state;
    for (int i = 0; i < TINY_VARIANTS; i++) {
        const model_config c = tiny_variant_config(&tiny_variants[i]);
        model m = tiny_model(&c, 3);
        int32_t tokens[B * 23], targets[B * 23];
        make_batch(&m, tokens, targets);
        const train_result fast = gradients_of(&m, tokens, targets);
        m.kn = kernels_ref();
        const train_result plain = gradients_of(&m, tokens, targets);
        assert_float_equal(fast.loss / plain.loss, 1, 1e-5);
        double difference = 0, norm = 0;
        for (int64_t j = 0; j < m.list.size; j++) {
            difference += pow((double)(fast.grads[j] - plain.grads[j]), 2);
            norm += pow((double)plain.grads[j], 2);
        }
        assert_true(norm > 0 && sqrt(difference / norm) < 1e-5);
        free(fast.grads);
        free(plain.grads);
        m.kn = kernels_cpu(0);
        model_free(&m);
    }
}

/* A table that counts the FLOPs of what passes through it, as the formula means them. */
static double counted;
static kernels real;

static void counting_gemm(const kernels *kn, const gemm_args *a)
{
    (void)kn;
    counted += 2.0 * (double)a->m * (double)a->n * (double)a->k;
    real.gemm(&real, a);
}

static void counting_linear(const kernels *kn, const linear_args *a)
{
    (void)kn;
    counted += 2.0 * (double)a->n * (double)a->in * (double)a->out;
    real.linear(&real, a);
}

static void counting_rowdot(const kernels *kn, float *logit, const float *x, const float *w, const float *bias, int64_t n,
                            int64_t d)
{
    (void)kn;
    counted += 2.0 * (double)n * (double)d;
    real.rowdot_forward(&real, logit, x, w, bias, n, d);
}

static void counting_attention(const kernels *kn, const attention_args *a)
{
    (void)kn;
    const int32_t *kv = a->kv_start ? a->kv_start : a->q_start;
    for (int64_t s = 0; s < a->sequences; s++) {
        const double m = a->q_start[s + 1] - a->q_start[s], n = kv[s + 1] - kv[s];
        double pairs = m * (n - m) + m * (m + 1) / 2;
        if (a->q_position) {
            pairs = 0;
            for (int32_t i = a->q_start[s]; i < a->q_start[s + 1]; i++)
                pairs += a->q_position[i] + 1;
        }
        counted += 4 * pairs * (double)(a->heads * a->head_dim);
    }
    real.attention_forward(&real, a);
}

static void flops_equal_the_formula(void **state)
{
    (void)state;
    real = kernels_cpu(0);
    for (int kind = 0; kind < TINY_VARIANTS; kind++) {
        const model_config c = tiny_variant_config(&tiny_variants[kind]);
        /* the plan counts token-choice's places as taken, and dense keys as seen by half the queries */
        const bool varying = c.mod.router == MOD_ROUTER_TOKEN_CHOICE || c.mod.dense_kv;
        model m = tiny_model(&c, 4);
        m.kn.gemm = counting_gemm;
        m.kn.linear = counting_linear;
        m.kn.rowdot_forward = counting_rowdot;
        m.kn.attention_forward = counting_attention;
        int32_t tokens[B * 23], targets[B * 23];
        make_batch(&m, tokens, targets);
        for (int causal = 0; causal < 2; causal++) {
            counted = 0;
            const pass_result p = loss_of(&m, causal ? ROUTING_CAUSAL : ROUTING_TOPK, tokens, targets);
            assert_float_equal(p.flops / counted, 1, 1e-12);
            if (!causal && !varying)
                assert_float_equal(counted / (B * flops_forward(&c, c.seq_len, false)), 1, 1e-12);
        }
        /* training computes the causal rule too, and spends on the backward pass twice what the forward pass takes */
        workspace *ws = make_workspace(&m, B, c.seq_len, false);
        counted = 0;
        transformer_loss(ws, ROUTING_TOPK, true, 0, B, c.seq_len, tokens, targets);
        if (!varying) {
            assert_float_equal(counted / (B * flops_forward(&c, c.seq_len, true)), 1, 1e-12);
            assert_float_equal(flops_train(&c, B, c.seq_len) / (3 * counted), 1, 1e-12);
        }
        workspace_free(ws);
        model_free(&m);
    }
}

/* DESIGN's formula written out for one block, so that flops.c is not its own judge. */
static void flops_by_hand(void **state)
{
    (void)state;
    model_config c = tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    const double T = 23, d = 24, per_row = 2 * (d * (4 + 2 * 2) * 6 + 4 * 6 * d + 3 * d * 29);
    const double block = T * per_row + 4 * T * (T + 1) / 2 * 4 * 6, head = 2 * T * d * 37;
    assert_float_equal(flops_forward(&c, 23, true), 4 * block + head, 1e-6);
    c = tiny_config(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    const double k1 = 6, k3 = 9; /* 0.25 x 23 = 5.75, 0.4 x 23 = 9.2 */
    const double routed = (k1 + k3) * per_row + 2 * (k1 * (k1 + 1) + k3 * (k3 + 1)) * 4 * 6;
    const double routing = 2 * (2 * T * d + 2 * T * (d * 11 + 11));
    assert_float_equal(flops_forward(&c, 23, true), 2 * block + routed + routing + head, 1e-6);
}

/* Top-k of a stream full of NaN must neither crash nor loop, and the loss must say NaN. */
static void nan_is_seen(void **state)
{
    (void)state;
    const model_config c = tiny_config(MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    model m = tiny_model(&c, 5);
    m.store.values[3] = NAN;
    int32_t tokens[B * 23], targets[B * 23];
    make_batch(&m, tokens, targets);
    tokens[0] = 0; /* the token whose embedding is NaN */
    const train_result r = gradients_of(&m, tokens, targets);
    assert_true(isnan(r.loss));
    free(r.grads);
    model_free(&m);
}

/* A NaN in any router must reach the loss, not turn into a token that nobody takes. */
static void nan_in_experts_is_seen(void **state)
{
    (void)state;
    for (int i = 0; i < TINY_VARIANTS; i++) {
        const model_config c = tiny_variant_config(&tiny_variants[i]);
        if (c.experts.count == 0)
            continue;
        model m = tiny_model(&c, 5);
        int32_t tokens[B * 23], targets[B * 23];
        make_batch(&m, tokens, targets);
        m.params.layer[0].experts[3] = NAN;
        assert_true(isnan(loss_of(&m, ROUTING_TOPK, tokens, targets).loss_sum));
        model_free(&m);
    }
}

/* Memory of a training workspace grows linearly with T: no [T, T] for the whole batch. */
static void memory_is_linear(void **state)
{
    (void)state;
    model_config c = tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    c.seq_len = 8192;
    model m = tiny_model(&c, 6);
    const double half = (double)workspace_bytes(&m, 4, 4096, WORKSPACE_TRAIN), whole = (double)workspace_bytes(&m, 4, 8192, WORKSPACE_TRAIN);
    assert_true(whole < 2.1 * half);
    model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_capacity_equals_plain), cmocka_unit_test(same_bits_every_time),
        cmocka_unit_test(backends_agree),             cmocka_unit_test(flops_equal_the_formula),
        cmocka_unit_test(flops_by_hand),              cmocka_unit_test(nan_is_seen), cmocka_unit_test(nan_in_experts_is_seen),
        cmocka_unit_test(memory_is_linear),           cmocka_unit_test(recomputation_changes_no_bit),
        cmocka_unit_test(bf16_gradients_are_close),   cmocka_unit_test(no_token_need_choose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
