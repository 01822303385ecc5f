/* Operations of both backends without a gradient of their own, or with one that is easily said: against a double-precision reference, and what holds of all. */
#include "kernels/buffers.h"

static void gemm_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu(0)};
    void *scratch = scratch_for(&both[1], 1, 1, 1);
    for (int b = 0; b < 2; b++)
        for (int kind = 0; kind < 24; kind++) {
            const int64_t m = kind < 4 ? 1 : pick(1, 90), n = pick(1, 90), k = kind >= 4 && kind < 8 ? 1 : pick(1, 90);
            const bool ta = kind & 1, tb = kind & 2;
            const float alpha = 0.5f, beta = kind & 4 ? 2 : 0;
            const int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 2, ldc = n + 1;
            float *A = buffer(lda * (ta ? k : m)), *B = buffer(ldb * (tb ? n : k)), *C = buffer(ldc * m), *before = buffer(ldc * m);
            for (int64_t i = 0; i < lda * (ta ? k : m); i++)
                A[i] = (float)normal();
            for (int64_t i = 0; i < ldb * (tb ? n : k); i++)
                B[i] = (float)normal();
            for (int64_t i = 0; i < ldc * m; i++)
                before[i] = C[i] = beta != 0 ? (float)normal() : NAN; /* beta 0 must not read C */
            both[b].gemm(&both[b], &(gemm_args){.trans_a = ta, .trans_b = tb, .m = m, .n = n, .k = k, .a = A, .lda = lda, .b = B,
                                                .ldb = ldb, .c = C, .ldc = ldc, .alpha = alpha, .beta = beta, .scratch = scratch});
            for (int64_t i = 0; i < m; i++) {
                for (int64_t j = 0; j < n; j++) {
                    double sum = beta != 0 ? 2 * (double)before[i * ldc + j] : 0;
                    for (int64_t l = 0; l < k; l++)
                        sum += 0.5 * (double)(ta ? A[l * lda + i] : A[i * lda + l]) * (double)(tb ? B[j * ldb + l] : B[l * ldb + j]);
                    assert_float_equal(C[i * ldc + j], sum, 1e-4);
                }
                assert_memory_equal(C + i * ldc + n, before + i * ldc + n, sizeof(float)); /* past the row: untouched */
            }
            release(A, lda * (ta ? k : m));
            release(B, ldb * (tb ? n : k));
            release(C, ldc * m);
            release(before, ldc * m);
        }
    free(scratch);
}

static void rope_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu(0)};
    enum { N = 7, H = 3, DH = 10, STRIDE = H * DH + 4 };
    float table[50 * DH], x[N * STRIDE], before[N * STRIDE];
    int32_t position[N];
    for (int p = 0; p < 50; p++)
        for (int j = 0; j < DH / 2; j++) {
            table[p * DH + j] = (float)cos(p * pow(100, -2.0 * j / DH));
            table[p * DH + DH / 2 + j] = (float)sin(p * pow(100, -2.0 * j / DH));
        }
    for (int b = 0; b < 2; b++) {
        for (int i = 0; i < N * STRIDE; i++)
            x[i] = before[i] = (float)normal();
        for (int i = 0; i < N; i++)
            position[i] = (int32_t)pick(0, 49);
        both[b].rope(&both[b], x, STRIDE, N, H, DH, table, position, 1);
        for (int i = 0; i < N; i++)
            for (int h = 0; h < H; h++)
                for (int j = 0; j < DH / 2; j++) {
                    const double angle = position[i] * pow(100, -2.0 * j / DH);
                    const double low = (double)before[i * STRIDE + h * DH + j], high = (double)before[i * STRIDE + h * DH + j + DH / 2];
                    assert_float_equal(x[i * STRIDE + h * DH + j], low * cos(angle) - high * sin(angle), 1e-5);
                    assert_float_equal(x[i * STRIDE + h * DH + j + DH / 2], high * cos(angle) + low * sin(angle), 1e-5);
                }
        both[b].rope(&both[b], x, STRIDE, N, H, DH, table, position, -1);
        for (int i = 0; i < N * STRIDE; i++)
            assert_float_equal(x[i], before[i], 1e-5);
    }
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void topk_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu(0)};
    for (int b = 0; b < 2; b++)
        for (int kind = 0; kind < 60; kind++) {
            const int64_t B = pick(1, 4), T = kind < 5 ? 1 : pick(1, 200), k = kind % 3 == 0 ? 1 : kind % 3 == 1 ? T : pick(1, T);
            float *r = buffer(B * T), *sorted = buffer(T);
            const int32_t bounds[5] = {0, (int32_t)T, (int32_t)(2 * T), (int32_t)(3 * T), (int32_t)(4 * T)};
            int32_t *index = calloc((size_t)(B * k), sizeof *index), start[5], *rows = calloc((size_t)(B * T), sizeof *rows);
            uint8_t *member = calloc((size_t)(B * T), 1);
            for (int64_t i = 0; i < B * T; i++) /* ties, zeros of both signs, infinities, NaN */
                r[i] = kind % 4 == 0 ? (float)pick(-2, 2) * (uniform() < 0.5 ? 0.0f : 1.0f)
                       : kind % 4 == 1 && uniform() < 0.2 ? (uniform() < 0.5 ? INFINITY : -INFINITY)
                       : kind % 4 == 2 && uniform() < 0.3 ? NAN
                                                          : (float)normal();
            void *scratch = scratch_for(&both[b], 1, 1, T);
            both[b].topk(&both[b], index, member, r, B, T, k, scratch);
            both[b].mem_free(&both[b], scratch);
            for (int64_t s = 0; s < B; s++) {
                int64_t chosen = 0, numbers = 0;
                for (int64_t t = 0; t < T; t++)
                    if (member[s * T + t])
                        assert_int_equal(index[s * k + chosen++], s * T + t); /* distinct, ascending */
                assert_int_equal(chosen, k);
                for (int64_t t = 0; t < T; t++)
                    if (!isnan(r[s * T + t]))
                        sorted[numbers++] = r[s * T + t];
                qsort(sorted, (size_t)numbers, sizeof *sorted, by_value);
                const float least = k <= numbers ? sorted[k - 1] : -INFINITY;
                bool closed = false; /* a tie that was left out closes the door for later ones */
                for (int64_t t = 0; t < T && k <= numbers; t++) {
                    const float v = r[s * T + t];
                    assert_false(isnan(v) && member[s * T + t]);
                    if (v > least)
                        assert_true(member[s * T + t]);
                    if (v < least)
                        assert_false(member[s * T + t]);
                    if (v == least) {
                        assert_false(closed && member[s * T + t]);
                        closed |= !member[s * T + t];
                    }
                }
            }
            /* with a limit: the first k of a sequence, the rest counted */
            above_args above = {.sequences = B, .limit = k, .row_start = bounds, .logit = r, .threshold = 0.5f, .index = rows, .start = start};
            const int64_t over = both[b].above(&both[b], &above);
            int64_t passed = 0;
            for (int64_t s = 0; s < B; s++) {
                int64_t here = 0;
                for (int64_t t = 0; t < T; t++)
                    if (r[s * T + t] > 0.5f && here++ < k)
                        assert_int_equal(rows[start[s] + here - 1], s * T + t);
                assert_int_equal(start[s + 1] - start[s], here < k ? here : k);
                passed += here;
            }
            assert_int_equal(start[B] + over, passed);
            const float each[4] = {0.5f, -1, 3, -INFINITY};
            above.thresholds = each;
            both[b].above(&both[b], &above);
            for (int64_t s = 0; s < B; s++) {
                int64_t here = 0;
                for (int64_t t = 0; t < T; t++)
                    here += r[s * T + t] > each[s];
                assert_int_equal(start[s + 1] - start[s], here < k ? here : k);
            }
            above.thresholds = NULL;
            above.limit = T;
            assert_int_equal(both[b].above(&both[b], &above), 0);
            int32_t n = 0;
            for (int64_t i = 0; i < B * T; i++) {
                if (i % T == 0)
                    assert_int_equal(start[i / T], n);
                if (r[i] > 0.5f)
                    assert_int_equal(rows[n++], i);
            }
            assert_int_equal(start[B], n);
            release(r, B * T);
            release(sorted, T);
            free(index);
            free(rows);
            free(member);
        }
}

/* The balancing loss against its formula, its gradient against differences with the share of choosers frozen. */
static void balance_cases(void **state)
{
    (void)state;
    enum { N = 57 };
    const kernels both[] = {kernels_ref(), kernels_cpu(0)};
    const double c = 0.3;
    for (int b = 0; b < 2; b++) {
        float z[N], gradient[N];
        double f = 0;
        for (int i = 0; i < N; i++) {
            z[i] = (float)normal();
            f += z[i] > 0.1f ? 1.0 / N : 0;
        }
        balance_args a = {.n = N, .logit = z, .threshold = 0.1f, .capacity = (float)c, .scale = 1.7f, .dlogit = gradient};
        both[b].balance(&both[b], &a);
        for (int i = -1; i < N; i++) {
            double losses[2];
            for (int up = 0; up < 2; up++) {
                double p = 0;
                for (int j = 0; j < N; j++)
                    p += 1 / (1 + exp(-((double)z[j] + (j == i ? (up ? 1e-5 : -1e-5) : 0)))) / N;
                losses[up] = f * p / c + (1 - f) * (1 - p) / (1 - c);
            }
            if (i < 0)
                assert_float_equal(a.loss, losses[0], 1e-6);
            else
                assert_float_equal(gradient[i], 1.7 * (losses[1] - losses[0]) / 2e-5, 1e-6);
        }
        /* least, 1, where as many choose as should, with that probability */
        float even[10];
        for (int i = 0; i < 10; i++)
            even[i] = (float)log(0.3 / 0.7) + (i < 3 ? 1e-3f : -1e-3f);
        balance_args at = {.n = 10, .logit = even, .threshold = (float)log(0.3 / 0.7), .capacity = 0.3f};
        both[b].balance(&both[b], &at);
        assert_float_equal(at.loss, 1, 1e-3);
    }
}

static void adamw_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu(0)};
    for (int b = 0; b < 2; b++) {
        enum { N = 1003 };
        static float p[N], g[N], m[N], v[N];
        static double P[N], M[N], V[N];
        for (int i = 0; i < N; i++) {
            P[i] = (double)(p[i] = (float)normal());
            M[i] = V[i] = m[i] = v[i] = 0;
        }
        for (int step = 1; step <= 10; step++) {
            for (int i = 0; i < N; i++) {
                g[i] = (float)normal();
                const double s = 0.5 * (double)g[i];
                M[i] = 0.9 * M[i] + 0.1 * s;
                V[i] = 0.95 * V[i] + 0.05 * s * s;
                P[i] -= 0.01 * (M[i] / (1 - pow(0.9, step)) / (sqrt(V[i] / (1 - pow(0.95, step))) + 1e-8) + 0.1 * P[i]);
            }
            both[b].adamw(&both[b], &(adamw_args){.n = N, .p = p, .g = g, .m = m, .v = v, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f,
                                                  .eps = 1e-8f, .decay = 0.1f, .grad_scale = 0.5f, .step = step});
        }
        for (int i = 0; i < N; i++) {
            assert_float_equal(p[i], P[i], 1e-5);
            assert_true(g[i] == 0);
        }
    }
}

/* NaN in, NaN out; huge logits stay finite; noise is the generator's; sums. */
static void special_values(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu(0)};
    for (int b = 0; b < 2; b++) {
        const kernels *kn = &both[b];
        float x[40], w[40], out[40], lse[40], loss_out[2];
        const int32_t start[] = {0, 4}, target[] = {3, 1};
        for (int i = 0; i < 40; i++)
            x[i] = w[i] = 1;
        x[5] = NAN;
        void *scratch = scratch_for(kn, 8, 40, 40);
        kn->norm_forward(kn, &(norm_args){.n = 4, .d = 10, .eps = 1e-5f, .x = x, .weight = w, .out = out});
        assert_true(isnan(out[0]) && !isnan(out[10]));
        kn->swiglu_forward(kn, out, x, 2, 10);
        assert_true(isnan(out[5]) && !isnan(out[15]));
        kn->attention_forward(kn, &(attention_args){.sequences = 1, .heads = 1, .kv_heads = 1, .head_dim = 10, .q_start = start,
                                                    .q = x, .k = x, .v = w, .q_stride = 10, .kv_stride = 10, .kv_head_stride = 10, .scale = 1, .out = out,
                                                    .lse = lse, .scratch = scratch});
        assert_true(isnan(out[30])); /* the last query sees the key that is NaN */
        kn->cross_entropy(kn, loss_out, x, target, 0, 2, 20);
        assert_true(isnan(loss_out[0]) && !isnan(loss_out[1]));
        memcpy(out, x, sizeof out);
        kn->expert_softmax(kn, out, 4, 10); /* of token 5 */
        assert_true(isnan(out[5]) && isnan(out[35]) && out[4] == 0.25f);
        assert_true(isnan(kn->sum_squares(kn, x, 40)) && isnan(kn->sum(kn, x, 40)));
        x[5] = 1e4f;
        x[6] = -1e4f;
        kn->cross_entropy(kn, loss_out, x, target, 1, 2, 20);
        for (int i = 0; i < 40; i++)
            assert_true(isfinite(x[i]));
        assert_float_equal(loss_out[0], 1e4 - 1, 1);
        kn->noise(kn, out, 5, 6, 7, 40);
        for (int i = 0; i < 40; i++)
            assert_true(out[i] == (float)rng_normal(5, 6, 7 + (uint64_t)i));
        kn->mem_free(kn, scratch);
    }
}

static void tables_are_complete(void **state)
{
    (void)state;
    kernels kn = kernels_ref();
    assert_null(kernels_missing(&kn));
    kn = kernels_cpu(0);
    assert_null(kernels_missing(&kn));
    kn.bce = NULL;
    assert_string_equal(kernels_missing(&kn), "bce");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_cases),  cmocka_unit_test(rope_cases),     cmocka_unit_test(topk_cases),         cmocka_unit_test(balance_cases),
        cmocka_unit_test(adamw_cases), cmocka_unit_test(special_values), cmocka_unit_test(tables_are_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
