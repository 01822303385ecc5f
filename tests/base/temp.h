/* A fresh folder for each test, which is its working directory while it runs; files in it; errors and messages. */
#ifndef FATHOM_TESTS_BASE_TEMP_H
#define FATHOM_TESTS_BASE_TEMP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ftw.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/status.h"

static inline int temp_setup(void **state)
{
    const char *root = getenv("TMPDIR");
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/fathom-test-XXXXXX", root && *root ? root : "/tmp");
    if (!mkdtemp(path) || !(*state = realpath(path, NULL)))
        return -1;
    return chdir(*state);
}

static inline int temp_remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

static inline int temp_teardown(void **state)
{
    const int left = chdir("/"), removed = nftw(*state, temp_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return left == 0 && removed == 0 ? 0 : -1;
}

#define temp_test(f) cmocka_unit_test_setup_teardown(f, temp_setup, temp_teardown)

static inline void put_file(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static inline void put_text(const char *path, const char *text)
{
    put_file(path, text, strlen(text));
}

/* The whole file, terminated; the caller frees it. */
static inline char *get_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *size = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, f), *size);
    data[*size] = 0;
    fclose(f);
    return data;
}

/* A failure with this code whose message is one line and holds both texts. */
static inline void assert_error(fathom_status status, const fathom_error *err, fathom_status code, const char *a,
                                const char *b)
{
    if (status != code || err->code != code || !strstr(err->message, a) || !strstr(err->message, b) ||
        strchr(err->message, '\n'))
        fail_msg("status %d \"%s\": expected %d \"%s\" \"%s\"", (int)status, status ? err->message : "", (int)code, a,
                 b);
}

static inline void assert_ok(fathom_status status, const fathom_error *err)
{
    if (status != FATHOM_OK)
        fail_msg("%s", err->message);
}

#endif
