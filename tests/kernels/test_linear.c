/* Products with weights as they are stored: the CPU's loops against plain C in double, in every kind, few rows and many; bf16
 * products; how weights are packed. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kernels/weight.h"

static uint64_t draws;

static float normal(void)
{
    return (float)rng_normal(7, 1, draws++);
}

static float *normals(int64_t n)
{
    float *x = aligned_alloc(64, (size_t)(n + 63) / 16 * 64 + 64);
    for (int64_t i = 0; i < n; i++)
        x[i] = normal();
    return x;
}

static void rounding_of_bf16(void **state)
{
    (void)state;
    const struct {
        uint32_t from;
        uint16_t to;
    } cases[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80} /* tie to even */, {0x3f818000, 0x3f82} /* tie to even */,
                 {0x3f808001, 0x3f81}, {0x7f7fffff, 0x7f80} /* overflows to infinity */, {0x7f800000, 0x7f80},
                 {0xff800000, 0xff80}, {0x00000001, 0x0000}, {0x80000000, 0x8000}, {0x7f800001, 0x7fc0} /* stays NaN */};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float x;
        memcpy(&x, &cases[i].from, sizeof x);
        assert_int_equal(bf16_round(x), cases[i].to);
    }
}

static void packing_is_off_by_half_a_step_at_most(void **state)
{
    (void)state;
    enum { ROWS = 9, COLUMNS = 67 };
    float *x = normals(ROWS * COLUMNS), scale[ROWS];
    int8_t q[ROWS * COLUMNS];
    for (int64_t j = 0; j < COLUMNS; j++) {
        x[2 * COLUMNS + j] = 0;
        x[3 * COLUMNS + j] *= 1e-39f; /* not normal: no inverse */
        x[4 * COLUMNS + j] *= 1e30f;
    }
    x[5 * COLUMNS + 3] = NAN;
    x[6 * COLUMNS + 66] = INFINITY;
    weight_pack(WEIGHT_Q8, x, ROWS, COLUMNS, q, scale);
    for (int64_t i = 0; i < ROWS; i++) {
        if (i == 5 || i == 6) {
            assert_true(isnan(scale[i]));
            continue;
        }
        for (int64_t j = 0; j < COLUMNS; j++) {
            const double step = fmax((double)scale[i], 1e-38);
            assert_true(fabs((double)scale[i] * q[i * COLUMNS + j] - (double)x[i * COLUMNS + j]) <= 0.5001 * step);
        }
    }
    free(x);
}

/* A sum of n products in fp32 is off by at most about n eps sum |x w|; half of that is asked for. */
static void expect_close(const float *got, const float *want, const float *magnitude, int64_t n, int64_t terms)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= 0.5 * 6e-8 * (double)terms * (double)magnitude[i] + 1e-30))
            fail_msg("element %lld: %g, expected %g", (long long)i, (double)got[i], (double)want[i]);
}

static void check_linear(weight_type type, int64_t n, int64_t in, int64_t out, bool add, bool by_row)
{
    const kernels ref = kernels_ref(), cpu = kernels_cpu(0);
    const kernel_sizes sizes = {.rows = n, .width = in, .linear_in = in, .packed = type != WEIGHT_F32, .heads = 1, .kv_heads = 1, .head_dim = 1};
    void *scratch = aligned_alloc(64, (cpu.scratch_bytes(&cpu, &sizes) + 63) / 64 * 64 + 64);
    float *x = normals(n * in), *w = normals(out * in), *scale = normals(out), *want = normals(n * out);
    float *got = normals(n * out), *magnitude = normals(n * out);
    void *packed = malloc((size_t)(out * in) * sizeof(float));
    weight_pack(type, w, out, in, packed, scale);
    linear_args a = {.n = n, .in = in, .out = out, .x = x, .add = add, .by_row = by_row, .scratch = scratch,
                     .w = {.type = type, .data = packed, .scale = type == WEIGHT_Q8 ? scale : NULL}};
    memcpy(got, want, (size_t)(n * out) * sizeof(float));
    a.y = want;
    ref.linear(&ref, &a);
    a.y = got;
    cpu.linear(&cpu, &a);
    for (int64_t i = 0; i < n; i++) /* sum of |x w|, at most: */
        for (int64_t r = 0; r < out; r++) {
            double sum = 1;
            for (int64_t j = 0; j < in; j++)
                sum += fabs((double)x[i * in + j] * (double)w[r * in + j]);
            magnitude[i * out + r] = (float)sum;
        }
    expect_close(got, want, magnitude, n * out, in + 8);
    float *const all[] = {x, w, scale, want, got, magnitude};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(packed);
    free(scratch);
}

/* What packing may cost: y moves by at most sum_j |x_j| e_j, with e_j half of q8's step, or |w_j| 2^-9 for bf16. */
static void packed_products_are_within_their_bound(void **state)
{
    (void)state;
    enum { IN = 300, OUT = 50 };
    const kernels ref = kernels_ref(), cpu = kernels_cpu(0);
    float *x = normals(IN), *w = normals(OUT * IN), scale[OUT], exact[OUT], y[OUT];
    void *packed = malloc(OUT * IN * sizeof(float));
    ref.linear(&ref, &(linear_args){.n = 1, .in = IN, .out = OUT, .x = x, .w = {.data = w}, .y = exact});
    for (int type = WEIGHT_BF16; type <= WEIGHT_Q8; type++) {
        weight_pack((weight_type)type, w, OUT, IN, packed, scale);
        cpu.linear(&cpu, &(linear_args){.n = 1, .in = IN, .out = OUT, .x = x, .y = y,
                                        .w = {.type = (weight_type)type, .data = packed, .scale = type == WEIGHT_Q8 ? scale : NULL}});
        double moved = 0;
        for (int64_t r = 0; r < OUT; r++) {
            double bound = 1e-4;
            for (int64_t j = 0; j < IN; j++)
                bound += fabs((double)x[j]) * (type == WEIGHT_Q8 ? 0.5 * (double)scale[r] : fabs((double)w[r * IN + j]) / 512);
            assert_true(fabs((double)y[r] - (double)exact[r]) <= bound);
            moved = fmax(moved, fabs((double)y[r] - (double)exact[r]));
        }
        assert_true(moved > 1e-4); /* it is packed */
    }
    free(x);
    free(w);
    free(packed);
}

static void linear_in_every_kind(void **state)
{
    (void)state;
    const int64_t rows[] = {1, 2, 3, 4, 7, 8, 9, 17, 33, 50, 65}, widths[] = {1, 15, 16, 63, 64, 65, 200, 1024, 1031};
    for (int type = 0; type < 3; type++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
                for (int by_row = 0; by_row < 2; by_row++)
                    check_linear((weight_type)type, rows[r], widths[i], 1 + (int64_t)(7 * i + 3 * r), (r + i) % 2 == 0, by_row);
    const int64_t ins[] = {8, 256, 264, 520}, outs[] = {16, 64, 80, 144}; /* whole and cut tiles of W, in one round and in several */
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            for (int64_t n = 9; n < 60; n += 7)
                check_linear((i + j) % 2 ? WEIGHT_BF16 : WEIGHT_Q8, n, ins[i], outs[j], (n + i) % 3 == 0, false);
    check_linear(WEIGHT_BF16, 40, 3000, 700, true, false); /* more than one slice of widened rows */
    check_linear(WEIGHT_Q8, 40, 3000, 700, false, false);
    check_linear(WEIGHT_F32, 1, 300, 4000, false, false); /* on every thread */
}

/* A row's bits do not depend on the rows beside it: batched decoding gives what single tokens give. */
static void rows_on(int64_t n, int64_t in, int64_t out)
{
    const kernels cpu = kernels_cpu(0);
    float *x = normals(n * in), *w = normals(out * in), *scale = normals(out), *together = normals(n * out), *alone = normals(out);
    void *packed = malloc((size_t)(out * in) * sizeof(float));
    const kernel_sizes sizes = {.rows = n, .width = in, .linear_in = in, .packed = true, .heads = 1, .kv_heads = 1, .head_dim = 1};
    void *scratch = aligned_alloc(64, (cpu.scratch_bytes(&cpu, &sizes) + 63) / 64 * 64);
    for (int type = 0; type < 3; type++) {
        weight_pack((weight_type)type, w, out, in, packed, scale);
        linear_args a = {.n = n, .in = in, .out = out, .x = x, .y = together, .by_row = true, .scratch = scratch,
                         .w = {.type = (weight_type)type, .data = packed, .scale = type == WEIGHT_Q8 ? scale : NULL}};
        cpu.linear(&cpu, &a);
        for (int64_t i = 0; i < n; i++) {
            a.n = 1;
            a.x = x + i * in;
            a.y = alone;
            cpu.linear(&cpu, &a);
            assert_memory_equal(alone, together + i * out, (size_t)out * sizeof *alone);
        }
    }
    float *const all[] = {x, w, scale, together, alone};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(packed);
    free(scratch);
}

static void rows_do_not_depend_on_each_other(void **state)
{
    (void)state;
    rows_on(2, 150, 40);
    rows_on(3, 65, 33);
    rows_on(7, 150, 40);
    rows_on(13, 300, 101);
    rows_on(13, 1024, 60);
    rows_on(32, 300, 101);
    rows_on(40, 128, 37);
    rows_on(33, 768, 50);
    rows_on(70, 61, 3);
    rows_on(6, 5000, 7);
}

/* A block whose end is the end of what may be touched. */
typedef struct guarded {
    char *map, *data;
    size_t size;
} guarded;

static guarded guarded_block(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    guarded g = {.size = whole + page};
    g.map = mmap(NULL, g.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map + whole, page, PROT_NONE), 0);
    g.data = g.map + whole - bytes;
    return g;
}

/* widest: columns of the widest matrix that the scratch is for. */
static void stays_inside(weight_type type, int64_t n, int64_t in, int64_t out, bool by_row, int64_t widest)
{
    const kernels cpu = kernels_cpu(0);
    const size_t bytes = (size_t)(out * in) * (type == WEIGHT_F32 ? 4 : type == WEIGHT_BF16 ? 2 : 1);
    const kernel_sizes sizes = {.rows = n, .width = in, .linear_in = widest, .packed = true, .heads = 1, .kv_heads = 1, .head_dim = 1};
    guarded x = guarded_block((size_t)(n * in) * sizeof(float)), w = guarded_block(bytes), y = guarded_block((size_t)(n * out) * sizeof(float));
    guarded scale = guarded_block((size_t)out * sizeof(float)), scratch = guarded_block((cpu.scratch_bytes(&cpu, &sizes) + 63) / 64 * 64);
    for (int add = 0; add < 2; add++)
        cpu.linear(&cpu, &(linear_args){.n = n, .in = in, .out = out, .x = (float *)x.data, .y = (float *)y.data, .add = add, .by_row = by_row,
                                        .w = {.type = type, .data = w.data, .scale = type == WEIGHT_Q8 ? (float *)scale.data : NULL},
                                        .scratch = scratch.data});
    const guarded all[] = {x, w, y, scale, scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        munmap(all[i].map, all[i].size);
}

/* Loops written with intrinsics are not seen by the sanitizers. */
static void nothing_beyond_the_operands(void **state)
{
    (void)state;
    const int64_t rows[] = {1, 2, 3, 7, 8, 13, 20, 40, 64, 70}, widths[] = {1, 17, 64, 100, 129, 1024}, outs[] = {1, 5, 16, 23, 49};
    for (int type = 0; type < 3; type++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
                for (size_t o = 0; o < sizeof outs / sizeof *outs; o++)
                    for (int by_row = 0; by_row < 2; by_row++)
                        stays_inside((weight_type)type, rows[r], widths[i], outs[o], by_row, widths[i]);
    for (int type = 0; type < 3; type++)
        stays_inside((weight_type)type, 260, 512, 2752, false, 1376); /* more rows of a narrow one are widened at a time than of the widest */
}

/* Inputs rounded to bf16, sums in fp32: against plain C that rounds alike, so only the order of additions differs. */
static void bf16_products(void **state)
{
    (void)state;
    const kernels ref = kernels_ref(), cpu = kernels_cpu(0);
    if (!cpu.bf16(&cpu)) {
        print_message("no bf16 products on this processor\n");
        skip();
    }
    const int64_t shapes[][3] = {{1, 1, 1}, {33, 17, 65}, {64, 128, 96}, {5, 300, 64}, {128, 7, 31}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int form = 0; form < 8; form++) {
            const int64_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
            const bool ta = form & 1, tb = form & 2;
            const kernel_sizes sizes = {.rows = 1, .width = 1, .heads = 1, .kv_heads = 1, .head_dim = 1,
                                        .bf16_floats = m * k + k * n};
            void *scratch = aligned_alloc(64, (cpu.scratch_bytes(&cpu, &sizes) + 63) / 64 * 64 + 64);
            float *a = normals(m * k), *b = normals(k * n), *want = normals(m * n), *got = normals(m * n);
            float *magnitude = normals(m * n);
            memcpy(got, want, (size_t)(m * n) * sizeof(float));
            gemm_args g = {.trans_a = ta, .trans_b = tb, .m = m, .n = n, .k = k, .a = a, .lda = ta ? m : k, .b = b,
                           .ldb = tb ? k : n, .c = want, .ldc = n, .alpha = 1, .beta = form & 4 ? 1 : 0, .bf16 = true,
                           .scratch = scratch};
            ref.gemm(&ref, &g);
            g.c = got;
            cpu.gemm(&cpu, &g);
            for (int64_t j = 0; j < m * n; j++)
                magnitude[j] = 3 * (float)k; /* |x w| of normals is 0.64 on average */
            expect_close(got, want, magnitude, m * n, k + 8);
            float *const all[] = {a, b, want, got, magnitude};
            for (size_t j = 0; j < sizeof all / sizeof *all; j++)
                free(all[j]);
            free(scratch);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_of_bf16),
        cmocka_unit_test(packing_is_off_by_half_a_step_at_most),
        cmocka_unit_test(packed_products_are_within_their_bound),
        cmocka_unit_test(linear_in_every_kind),
        cmocka_unit_test(rows_do_not_depend_on_each_other),
        cmocka_unit_test(nothing_beyond_the_operands),
        cmocka_unit_test(bf16_products),
    };
    return cmocka_run_group_tests_name("linear", tests, NULL, NULL);
}
