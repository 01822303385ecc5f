/* The thread pool: every tile once, on any number of threads, for several callers at a time, in tiles, after fork; quotas of
 * containers. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/pool.h"
#include "base/temp.h"

enum { MOST_TILES = 10000, SEATS = 8 };

typedef struct count {
    atomic_int times[MOST_TILES], at_seat[SEATS];
    atomic_bool clash;
    int threads;
} count;

static void count_tile(void *context, int64_t tile, int seat)
{
    count *c = context;
    atomic_fetch_add(&c->times[tile], 1);
    if (seat < 0 || seat >= c->threads || atomic_fetch_add(&c->at_seat[seat], 1) != 0)
        atomic_store(&c->clash, true);
    for (volatile int i = 0; i < 200; i++)
        ;
    atomic_fetch_sub(&c->at_seat[seat], 1);
}

/* Returns what was wrong, or NULL. */
static const char *run_counted(int threads, int64_t tiles)
{
    count *c = calloc(1, sizeof *c);
    c->threads = threads;
    pool_run(threads, tiles, count_tile, c);
    const char *wrong = atomic_load(&c->clash) ? "two tiles at one seat" : NULL;
    for (int64_t i = 0; i < MOST_TILES; i++)
        if (atomic_load(&c->times[i]) != (i < tiles))
            wrong = "a tile that ran not once";
    free(c);
    return wrong;
}

static void every_tile_once(void **state)
{
    (void)state;
    const int64_t tiles[] = {0, 1, 2, 3, 31, 4094, 4095, 4096, MOST_TILES};
    for (int round = 0; round < 20; round++)
        for (int threads = 1; threads <= SEATS; threads++)
            for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
                const char *wrong = run_counted(threads, tiles[i]);
                if (wrong)
                    fail_msg("%d threads, %lld tiles: %s", threads, (long long)tiles[i], wrong);
            }
}

static void *call_often(void *wrong)
{
    for (int i = 0; i < 300 && !*(const char **)wrong; i++)
        *(const char **)wrong = run_counted(1 + i % SEATS, i % 40);
    return NULL;
}

static void callers_do_not_meet(void **state)
{
    (void)state;
    pthread_t thread[80]; /* more than the pool has slots */
    const char *wrong[80] = {NULL};
    for (int i = 0; i < 80; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, call_often, &wrong[i]), 0);
    for (int i = 0; i < 80; i++) {
        pthread_join(thread[i], NULL);
        assert_null(wrong[i]);
    }
}

static void nest(void *context, int64_t tile, int seat)
{
    (void)tile, (void)seat;
    const char *wrong = run_counted(3, 20);
    if (wrong)
        atomic_store((_Atomic(const char *) *)context, wrong);
}

static void a_tile_may_call(void **state)
{
    (void)state;
    _Atomic(const char *) wrong = NULL;
    for (int i = 0; i < 50; i++)
        pool_run(4, 10, nest, &wrong);
    assert_null(atomic_load(&wrong));
}

/* A worker that slept wakes for the next call, and what a tile wrote is there after it. */
static void add_one(void *context, int64_t tile, int seat)
{
    (void)seat;
    ((int *)context)[tile]++;
}

static void sleepers_wake(void **state)
{
    (void)state;
    int times[64] = {0};
    for (int i = 0; i < 100; i++) {
        pool_run(4, 64, add_one, times);
        usleep(i % 3 * 500);
    }
    for (int i = 0; i < 64; i++)
        assert_int_equal(times[i], 100);
}

static void a_forked_child_computes(void **state)
{
    (void)state;
    if (getenv("FATHOM_SANITIZED")) /* ThreadSanitizer allows no new threads after a fork */
        skip();
    assert_null(run_counted(4, 100));
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        _exit(run_counted(4, 1000) || run_counted(4, 50) ? 1 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void put(const char *path, const char *text)
{
    fathom_error err;
    assert_int_equal(file_write(path, text, strlen(text), &err), FATHOM_OK);
}

static void folder(const char *path)
{
    fathom_error err;
    assert_int_equal(folder_create(path, &err), FATHOM_OK);
}

static void quotas_are_heard(void **state)
{
    (void)state;
    folder("root/unified/a/b");
    folder("root/cpu/x/y");
    folder("root/cpu,cpuacct");
    put("groups", "4:memory:/x/y\n3:cpuset:/x/y\n2:cpu,cpuacct:/x/y\n1:name=systemd:/\n0::/a/b\n");
    assert_true(threads_quota("root", "groups") == 0);
    assert_true(threads_quota("root", "no-such-file") == 0);
    put("root/unified/a/b/cpu.max", "max 100000\n");
    put("root/cpu/x/y/cpu.cfs_quota_us", "-1\n");
    put("root/cpu/x/y/cpu.cfs_period_us", "100000\n");
    assert_true(threads_quota("root", "groups") == 0);
    put("root/unified/a/cpu.max", "400000 100000\n"); /* of a group above */
    assert_float_equal(threads_quota("root", "groups"), 4, 1e-9);
    put("root/cpu/x/y/cpu.cfs_quota_us", "150000\n");
    assert_float_equal(threads_quota("root", "groups"), 1.5, 1e-9);
    put("root/unified/a/b/cpu.max", "50000 100000\n");
    assert_float_equal(threads_quota("root", "groups"), 0.5, 1e-9);
    put("groups", "0::/../elsewhere\n"); /* a container that does not see its own group */
    put("root/cpu.max", "200000 100000\n");
    assert_float_equal(threads_quota("root", "groups"), 2, 1e-9);
    put("root/cpu.max", "nonsense\n");
    assert_true(threads_quota("root", "groups") == 0);
}

static void threads_are_chosen(void **state)
{
    (void)state;
    unsetenv("OMP_NUM_THREADS");
    assert_int_equal(threads_choose(0), threads_allowed());
    setenv("OMP_NUM_THREADS", "5,2", 1);
    assert_int_equal(threads_choose(0), 5);
    assert_int_equal(threads_choose(3), 3);
    const char *const bad[] = {"", "x", "0", "-2", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv("OMP_NUM_THREADS", bad[i], 1);
        assert_int_equal(threads_choose(0), threads_allowed());
    }
    unsetenv("OMP_NUM_THREADS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tile_once), cmocka_unit_test(callers_do_not_meet), cmocka_unit_test(a_tile_may_call),
        cmocka_unit_test(sleepers_wake), cmocka_unit_test(a_forked_child_computes), temp_test(quotas_are_heard),
        cmocka_unit_test(threads_are_chosen),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
