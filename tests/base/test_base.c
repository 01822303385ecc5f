/* The base room: random numbers against the published vectors, permutations, the arena's promise that measuring equals
 * using, files that are whole or absent, messages of one line. */
#include "base/temp.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/rng.h"

/* Random123's known answers for philox4x32-10 (kat_vectors). */
static void philox_gives_the_published_words(void **state)
{
    (void)state;
    static const struct {
        uint64_t counter, stream, seed;
        uint32_t words[4];
    } known[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x85a308d3243f6a88, 0x0370734413198a2e, 0x299f31d0a4093822, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t words[4];
        rng_words(known[i].seed, known[i].stream, known[i].counter, words);
        assert_memory_equal(words, known[i].words, sizeof words);
    }
}

static void uniform_is_in_range_and_even(void **state)
{
    (void)state;
    enum { N = 20000, BINS = 10 };
    int bins[BINS] = {0};
    for (uint64_t i = 0; i < N; i++) {
        const double u = rng_uniform(1, 2, i);
        assert_true(u >= 0 && u < 1);
        bins[(int)(u * BINS)]++;
    }
    for (int i = 0; i < BINS; i++) /* standard deviation 42 */
        assert_in_range(bins[i], N / BINS - 250, N / BINS + 250);
}

static void normal_has_its_moments(void **state)
{
    (void)state;
    enum { N = 100000 };
    double sum[5] = {0}, across = 0;
    for (uint64_t i = 0; i < N; i++) {
        const double x = rng_normal(7, RNG_ROUTE, i);
        assert_true(isfinite(x));
        for (int k = 1; k <= 4; k++)
            sum[k] += pow(x, k) / N;
        across += x * rng_normal(7, RNG_ROUTE + 256, i) / N;
    }
    /* five standard deviations of each mean */
    assert_true(fabs(sum[1]) < 0.016);
    assert_true(fabs(sum[2] - 1) < 0.023);
    assert_true(fabs(sum[3]) < 0.062);
    assert_true(fabs(sum[4] - 3) < 0.16);
    assert_true(fabs(across) < 0.016);
}

static void permute_is_a_bijection(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 7, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4096, 65537};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const uint64_t n = sizes[s];
        unsigned char *seen = calloc(n, 1);
        assert_non_null(seen);
        for (uint64_t i = 0; i < n; i++) {
            const uint64_t image = rng_permute(3, RNG_SHUFFLE, i, n);
            assert_true(image < n);
            assert_int_equal(seen[image]++, 0);
        }
        free(seen);
    }
    for (uint64_t i = 0; i < 100; i++) /* the widest range has no mask to spare */
        assert_true(rng_permute(3, RNG_SHUFFLE, UINT64_MAX - 1 - i, UINT64_MAX) < UINT64_MAX);
}

/* Every order of a few things comes up; where many things land depends on stream and seed and is even. */
static void permute_mixes(void **state)
{
    (void)state;
    int orders[27] = {0};
    for (uint64_t epoch = 0; epoch < 600; epoch++)
        orders[rng_permute(1, epoch << 8, 0, 3) + 3 * rng_permute(1, epoch << 8, 1, 3) +
               9 * rng_permute(1, epoch << 8, 2, 3)]++;
    int different = 0;
    for (int i = 0; i < 27; i++) {
        different += orders[i] > 0;
        assert_true(orders[i] == 0 || orders[i] > 50);
    }
    assert_int_equal(different, 6);

    enum { N = 1000 };
    double mean = 0;
    int same = 0;
    for (uint64_t epoch = 0; epoch < N; epoch++) {
        mean += (double)rng_permute(1, epoch << 8, 17, N) / N;
        same += rng_permute(1, 0, epoch, N) == rng_permute(2, 0, epoch, N);
    }
    assert_true(fabs(mean - (N - 1) / 2.0) < 50);
    assert_in_range(same, 0, 10);
}

enum { SLOTS = 5 };
static const size_t slot_sizes[SLOTS] = {1, 64, 65, 0, 1000};

static void lay_out(arena *a, unsigned char *slots[SLOTS])
{
    for (int i = 0; i < SLOTS; i++)
        slots[i] = arena_alloc(a, slot_sizes[i], 1);
}

static void arena_measures_what_it_uses(void **state)
{
    (void)state;
    unsigned char *slots[SLOTS];
    arena measure = {0};
    lay_out(&measure, slots);
    for (int i = 0; i < SLOTS; i++)
        assert_null(slots[i]);
    assert_false(measure.overflow);

    arena use = {.base = aligned_alloc(64, measure.used), .size = measure.used};
    assert_non_null(use.base);
    lay_out(&use, slots);
    assert_false(use.overflow);
    assert_int_equal(use.used, measure.used);
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal((uintptr_t)slots[i] % 64, 0);
        assert_true(slots[i] + slot_sizes[i] <= use.base + use.size);
        assert_true(i == 0 || slots[i] >= slots[i - 1] + slot_sizes[i - 1]);
        memset(slots[i], i, slot_sizes[i]);
    }
    assert_null(arena_alloc(&use, 1, 1));
    assert_true(use.overflow);
    free(use.base);
}

static void arena_overflow_sticks(void **state)
{
    (void)state;
    static const size_t huge[][2] = {{SIZE_MAX, 1}, {SIZE_MAX / 2, 3}, {2, SIZE_MAX}, {SIZE_MAX - 62, 1}};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        arena a = {0};
        arena_alloc(&a, 100, 1);
        const size_t used = a.used;
        assert_null(arena_alloc(&a, huge[i][0], huge[i][1]));
        assert_true(a.overflow);
        arena_alloc(&a, 1, 1);
        assert_true(a.overflow);
        assert_int_equal(a.used, used);
    }
    arena sum = {0}; /* each fits, the sum does not */
    arena_alloc(&sum, SIZE_MAX / 2 + 1, 1);
    assert_false(sum.overflow);
    arena_alloc(&sum, SIZE_MAX / 2, 1);
    assert_true(sum.overflow);

    _Alignas(64) unsigned char block[64];
    arena full = {.base = block, .size = sizeof block};
    assert_null(arena_alloc(&full, 65, 1));
    assert_null(arena_alloc(&full, 1, 1));
    assert_true(full.overflow);
}

static void messages_are_one_line(void **state)
{
    (void)state;
    fathom_error err;
    assert_int_equal(status_fail(&err, FATHOM_FORMAT, "%s: %d", "a\nb\x1b[2J\x7f\t\xc3\xa9", 7), FATHOM_FORMAT);
    assert_int_equal(err.code, FATHOM_FORMAT);
    assert_string_equal(err.message, "a?b?[2J??\xc3\xa9: 7");
    assert_int_equal(status_fail(NULL, FATHOM_IO, "x"), FATHOM_IO);

    char text[2 * sizeof err.message];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    status_fail(&err, FATHOM_IO, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_string_equal(fathom_status_text(FATHOM_OK), "success");
    assert_string_equal(fathom_status_text((fathom_status)99), "unknown status");
}

static void assert_content(const char *path, const char *expected)
{
    size_t size;
    char *data = get_file(path, &size);
    assert_string_equal(data, expected);
    assert_int_equal(size, strlen(expected));
    free(data);
}

static void write_replaces_the_file(void **state)
{
    (void)state;
    fathom_error err;
    assert_ok(file_write("f", "old", 3, &err), &err);
    assert_content("f", "old");
    assert_ok(file_write("f", "new text", 8, &err), &err);
    assert_content("f", "new text");
    assert_ok(file_write("empty", NULL, 0, &err), &err);
    assert_content("empty", "");
    assert_false(path_exists("f.tmp"));
}

/* Sizes on both sides of what stdio holds back until the end. */
static void failed_write_leaves_what_was_there(void **state)
{
    (void)state;
    fathom_error err;
    assert_ok(file_write("f", "old", 3, &err), &err);
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 4096;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    static char data[1 << 20];
    static const size_t sizes[] = {4097, 10000, sizeof data};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        const fathom_status status = file_write("f", data, sizes[i], &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_error(status, &err, FATHOM_IO, "f: ", strerror(EFBIG));
        assert_content("f", "old");
        assert_false(path_exists("f.tmp"));
    }
    signal(SIGXFSZ, handler);
}

static void aborted_write_leaves_what_was_there(void **state)
{
    (void)state;
    fathom_error err;
    file_writer w;
    assert_ok(file_write("f", "old", 3, &err), &err);
    assert_ok(file_writer_open(&w, "f", &err), &err);
    fputs("half", w.stream);
    assert_content("f", "old");
    file_writer_abort(&w);
    assert_content("f", "old");
    assert_false(path_exists("f.tmp"));
    file_writer_abort(&w);
}

static void write_errors_name_the_path(void **state)
{
    (void)state;
    fathom_error err;
    assert_error(file_write("no/such/f", "x", 1, &err), &err, FATHOM_IO, "no/such/f: ", strerror(ENOENT));
    assert_int_equal(mkdir("folder", 0777), 0);
    assert_error(file_write("folder", "x", 1, &err), &err, FATHOM_IO, "folder: ", strerror(EISDIR));
    assert_false(path_exists("folder.tmp"));
    assert_int_equal(mkfifo("pipe", 0666), 0);
    assert_error(file_write("pipe", "x", 1, &err), &err, FATHOM_INVALID_ARGUMENT, "pipe: ", "replaced");
    struct stat there;
    assert_true(stat("pipe", &there) == 0 && S_ISFIFO(there.st_mode));
    assert_int_equal(unlink("pipe"), 0);
}

static void map_gives_the_bytes(void **state)
{
    (void)state;
    fathom_error err;
    file_map map;
    put_file("f", "a\0b", 3);
    assert_ok(file_map_open("f", &map, &err), &err);
    assert_int_equal(map.size, 3);
    assert_memory_equal(map.data, "a\0b", 3);
    file_map_close(&map);
    assert_null(map.data);
    put_file("empty", "", 0);
    assert_ok(file_map_open("empty", &map, &err), &err);
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    file_map_close(&map);
}

static void map_refuses_what_is_no_file(void **state)
{
    (void)state;
    fathom_error err;
    file_map map;
    assert_error(file_map_open("missing", &map, &err), &err, FATHOM_NOT_FOUND, "missing: ", strerror(ENOENT));
    assert_int_equal(mkdir("folder", 0777), 0);
    assert_error(file_map_open("folder", &map, &err), &err, FATHOM_IO, "folder: ", "not a regular file");
    assert_int_equal(mkfifo("pipe", 0666), 0);
    alarm(20); /* ends a run that waits for a writer */
    assert_error(file_map_open("pipe", &map, &err), &err, FATHOM_IO, "pipe: ", "not a regular file");
    alarm(0);
    assert_null(map.data);
}

static void folders_come_and_go(void **state)
{
    (void)state;
    fathom_error err;
    assert_ok(folder_create("a/b//c/", &err), &err);
    assert_true(path_is_folder("a/b/c"));
    assert_ok(folder_create("a/b/c", &err), &err);
    char absolute[PATH_MAX + 8];
    snprintf(absolute, sizeof absolute, "%s/x/y", (const char *)*state);
    assert_ok(folder_create(absolute, &err), &err);
    assert_true(path_is_folder("x/y"));

    put_text("file", "kept");
    assert_error(folder_create("file", &err), &err, FATHOM_IO, "file: ", "not a folder");
    assert_error(folder_create("file/inside", &err), &err, FATHOM_IO, "file/inside: ", strerror(ENOTDIR));
    assert_error(folder_create("", &err), &err, FATHOM_IO, "", "folder");
    assert_content("file", "kept");

    put_text("a/b/c/one", "1");
    put_text("a/b/c/.two", "2");
    assert_ok(folder_remove("a/b/c", &err), &err);
    assert_false(path_exists("a/b/c"));
    assert_ok(folder_remove("a/b/c", &err), &err);
    assert_ok(folder_create("a/b/c", &err), &err);
    assert_error(folder_remove("a", &err), &err, FATHOM_IO, "a: ", strerror(ENOTEMPTY));
    assert_error(folder_sync("missing", &err), &err, FATHOM_IO, "missing: ", strerror(ENOENT));

    char *joined = path_join("a", "b");
    assert_string_equal(joined, "a/b");
    free(joined);
}

static void one_holds_a_lock(void **state)
{
    (void)state;
    fathom_error err;
    int first, second;
    put_text("lock", ""); /* of one that was killed */
    assert_ok(file_lock("lock", &first, &err), &err);
    assert_true(first >= 0);
    assert_ok(file_lock("lock", &second, &err), &err);
    assert_int_equal(second, -1);
    file_unlock("lock", first);
    assert_false(path_exists("lock"));
    assert_ok(file_lock("lock", &second, &err), &err);
    assert_true(second >= 0);
    file_unlock("lock", second);

    put_text("mine", "not a lock");
    assert_error(file_lock("mine", &first, &err), &err, FATHOM_INVALID_ARGUMENT, "mine: ", "no lock");
    assert_int_equal(first, -1);
    assert_content("mine", "not a lock");
    assert_error(file_lock("none/lock", &first, &err), &err, FATHOM_IO, "none/lock: ", strerror(ENOENT));
}

enum { LOCKERS = 4, LOCKINGS = 300 };

/* Adds one to the number in a file, under the lock, so often. */
static void count_under_lock(void)
{
    for (int i = 0; i < LOCKINGS;) {
        int fd;
        size_t size;
        if (file_lock("lock", &fd, NULL) != FATHOM_OK)
            _exit(1);
        if (fd < 0)
            continue;
        char *text = get_file("count", &size), next[16];
        snprintf(next, sizeof next, "%d", atoi(text) + 1);
        put_text("count", next);
        free(text);
        file_unlock("lock", fd);
        i++;
    }
}

/* A file that its holder removes while others open it is nobody's lock. */
static void processes_exclude_each_other(void **state)
{
    (void)state;
    char expected[16];
    put_text("count", "0");
    for (int i = 0; i < LOCKERS; i++)
        if (fork() == 0) {
            count_under_lock();
            _exit(0);
        }
    for (int i = 0; i < LOCKERS; i++) {
        int how;
        assert_true(wait(&how) > 0);
        assert_int_equal(how, 0);
    }
    snprintf(expected, sizeof expected, "%d", LOCKERS * LOCKINGS);
    assert_content("count", expected);
    assert_false(path_exists("lock"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_words),
        cmocka_unit_test(uniform_is_in_range_and_even),
        cmocka_unit_test(normal_has_its_moments),
        cmocka_unit_test(permute_is_a_bijection),
        cmocka_unit_test(permute_mixes),
        cmocka_unit_test(arena_measures_what_it_uses),
        cmocka_unit_test(arena_overflow_sticks),
        cmocka_unit_test(messages_are_one_line),
        temp_test(write_replaces_the_file),
        temp_test(failed_write_leaves_what_was_there),
        temp_test(aborted_write_leaves_what_was_there),
        temp_test(write_errors_name_the_path),
        temp_test(map_gives_the_bytes),
        temp_test(map_refuses_what_is_no_file),
        temp_test(folders_come_and_go),
        temp_test(one_holds_a_lock),
        temp_test(processes_exclude_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
