/* Batches: an epoch is a permutation of windows inside the part, a position means the same windows for ever, targets
 * are the next tokens, held-out windows predict every token but the first exactly once. */
#include "base/temp.h"

#include "text/batch.h"

enum { MOST = 600 };

/* Tokens that are their own positions. */
static int32_t tokens[MOST];
static const corpus_piece numbers = {.ids = tokens, .count = MOST};

static corpus_part counting(int64_t count)
{
    for (int32_t i = 0; i < MOST; i++)
        tokens[i] = i;
    return (corpus_part){&numbers, 1, count};
}

static void draw(const batcher *b, int64_t position, int64_t B, int32_t *inputs, int32_t *targets)
{
    fathom_error err;
    assert_ok(batcher_train(b, position, B, inputs, targets, &err), &err);
}

/* Returns how many targets there are. */
static int64_t draw_heldout(const batcher *b, int64_t w, int32_t *inputs, int32_t *targets)
{
    fathom_error err;
    assert_ok(batcher_heldout(b, w, inputs, targets, &err), &err);
    int64_t n = 0;
    while (n < b->T && targets[n] >= 0)
        n++;
    return n;
}

static const struct {
    int64_t count, T;
} shapes[] = {{2, 1}, {9, 8}, {10, 8}, {16, 8}, {17, 8}, {18, 8}, {30, 7}, {100, 9}, {101, 10}, {600, 1}, {599, 13}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static batcher make(const corpus_part *part, int64_t T, uint64_t seed)
{
    batcher b;
    fathom_error err;
    assert_ok(batcher_init(&b, part, T, seed, "training data", &err), &err);
    return b;
}

static void every_epoch_is_a_permutation_of_windows(void **state)
{
    (void)state;
    int32_t inputs[MOST], targets[MOST];
    for (int s = 0; s < SHAPES; s++) {
        const int64_t T = shapes[s].T, count = shapes[s].count;
        const corpus_part part = counting(count);
        const batcher b = make(&part, T, 5);
        assert_int_equal(b.windows, (count - 1) / T);
        for (int64_t epoch = 0; epoch < 20; epoch++) {
            bool seen[MOST] = {false};
            int64_t lowest = MOST;
            for (int64_t i = 0; i < b.windows; i++) {
                draw(&b, epoch * b.windows + i, 1, inputs, targets);
                for (int64_t t = 0; t < T; t++) {
                    assert_int_equal(inputs[t], inputs[0] + t);
                    assert_int_equal(targets[t], inputs[t] + 1);
                    assert_true(inputs[t] >= 0 && targets[t] < count);
                    assert_false(seen[inputs[t]]);
                    seen[inputs[t]] = true;
                }
                lowest = inputs[0] < lowest ? inputs[0] : lowest;
            }
            for (int64_t i = lowest; i < lowest + b.windows * T; i++)
                assert_true(seen[i]);
        }
    }
}

static void epochs_and_seeds_differ(void **state)
{
    (void)state;
    int32_t orders[3][MOST], targets[MOST];
    const corpus_part part = counting(595); /* 59 windows of 10, 4 tokens left: 5 offsets */
    const batcher b = make(&part, 10, 1), other = make(&part, 10, 2);
    draw(&b, 0, b.windows, orders[0], targets);
    draw(&b, b.windows, b.windows, orders[1], targets);
    draw(&other, 0, b.windows, orders[2], targets);
    int same[2] = {0}, in_order = 0;
    for (int64_t i = 0; i < b.windows; i++) {
        same[0] += orders[0][i * 10] / 10 == orders[1][i * 10] / 10;
        same[1] += orders[0][i * 10] / 10 == orders[2][i * 10] / 10;
        in_order += orders[0][i * 10] / 10 == i;
    }
    assert_in_range(same[0], 0, 8);
    assert_in_range(same[1], 0, 8);
    assert_in_range(in_order, 0, 8);

    int offsets[10] = {0};
    for (int64_t epoch = 0; epoch < 500; epoch++) {
        draw(&b, epoch * b.windows, 1, orders[0], targets);
        offsets[orders[0][0] % 10]++;
    }
    for (int i = 0; i < 5; i++)
        assert_in_range(offsets[i], 60, 140);
    for (int i = 5; i < 10; i++)
        assert_int_equal(offsets[i], 0);
}

/* The windows at a position do not depend on what was drawn before or on how many are drawn at once. */
static void a_position_is_all_there_is(void **state)
{
    (void)state;
    enum { T = 13, DRAWN = 300 };
    int32_t once[DRAWN * T], once_targets[DRAWN * T], inputs[DRAWN * T], targets[DRAWN * T];
    const corpus_part part = counting(599);
    const batcher b = make(&part, T, 9), again = make(&part, T, 9);
    draw(&b, 0, DRAWN, once, once_targets);
    for (int64_t B = 1; B <= 7; B++) {
        for (int64_t position = (DRAWN / B - 1) * B; position >= 0; position -= B) { /* backwards */
            draw(&again, position, B, inputs, targets);
            assert_memory_equal(inputs, once + position * T, (size_t)(B * T) * sizeof *inputs);
            assert_memory_equal(targets, once_targets + position * T, (size_t)(B * T) * sizeof *targets);
        }
    }
}

static void far_positions_stay_inside(void **state)
{
    (void)state;
    int32_t inputs[MOST], targets[MOST];
    const corpus_part part = counting(50);
    const batcher b = make(&part, 8, UINT64_MAX);
    for (int64_t position = INT64_MAX - 20; position < INT64_MAX - 1; position++) {
        draw(&b, position, 1, inputs, targets);
        assert_true(inputs[0] >= 0 && targets[7] < 50);
    }
}

static void heldout_predicts_every_token_once(void **state)
{
    (void)state;
    int32_t inputs[MOST], targets[MOST];
    for (int s = 0; s < SHAPES; s++) {
        const int64_t T = shapes[s].T;
        for (int64_t count = 0; count <= shapes[s].count; count++) {
            const corpus_part part = counting(count);
            const batcher b = {.part = &part, .T = T};
            int64_t next = 1, n, w = 0;
            while ((n = draw_heldout(&b, w, inputs, targets)) > 0) {
                assert_true(n <= T);
                for (int64_t i = 0; i < T; i++) {
                    assert_int_equal(inputs[i], i < n ? next - 1 : 0);
                    assert_int_equal(targets[i], i < n ? next : -1);
                    next += i < n;
                }
                w++;
            }
            assert_int_equal(next, count > 0 ? count : 1);
            assert_int_equal(w, count > 1 ? (count - 2) / T + 1 : 0);
            assert_int_equal(targets[0], -1);
            assert_int_equal(draw_heldout(&b, INT64_MAX, inputs, targets), 0);
        }
    }
}

static void too_little_text_is_refused(void **state)
{
    (void)state;
    batcher b;
    fathom_error err;
    for (int64_t count = 0; count <= 8; count++) {
        const corpus_part part = counting(count);
        char found[32];
        snprintf(found, sizeof found, ": %d tokens", (int)count);
        assert_error(batcher_init(&b, &part, 8, 1, "training data", &err), &err, FATHOM_INVALID_ARGUMENT,
                     "training data", found);
    }
    const corpus_part part = counting(9);
    assert_error(batcher_init(&b, &part, INT64_MAX, 1, "x", &err), &err, FATHOM_INVALID_ARGUMENT, "x: 9", "");
    assert_error(batcher_init(&b, &part, 0, 1, "x", &err), &err, FATHOM_INVALID_ARGUMENT, "x: ", "0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_epoch_is_a_permutation_of_windows),
        cmocka_unit_test(epochs_and_seeds_differ),
        cmocka_unit_test(a_position_is_all_there_is),
        cmocka_unit_test(far_positions_stay_inside),
        cmocka_unit_test(heldout_predicts_every_token_once),
        cmocka_unit_test(too_little_text_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
