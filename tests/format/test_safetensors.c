/* safetensors: what is written comes back, and no file, however made, gets past the checks or crashes the reader. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "format/safetensors.h"

static char folder[256], path[300];

static int make_folder(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/fathom-safetensors-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/t.safetensors", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return folder_remove(folder, NULL) == FATHOM_OK ? 0 : -1;
}

/* A file with this header, announced as `announced` bytes, and data_size bytes of data. */
static void write_raw(const void *header, size_t header_size, uint64_t announced, size_t data_size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(&announced, 1, 8, f), 8);
    assert_int_equal(fwrite(header, 1, header_size, f), header_size);
    for (size_t i = 0; i < data_size; i++)
        fputc((int)(i & 0xff), f);
    assert_int_equal(fclose(f), 0);
}

static void expect_refused(fathom_status code, const char *const *parts)
{
    fathom_error err = {0};
    safetensors *s = (safetensors *)&err;
    assert_int_equal(safetensors_open(path, &s, &err), code);
    assert_null(s);
    assert_int_equal(err.code, code);
    if (code != FATHOM_OUT_OF_MEMORY && !strstr(err.message, path))
        fail_msg("no path in: %s", err.message);
    for (; *parts; parts++)
        if (!strstr(err.message, *parts))
            fail_msg("no \"%s\" in: %s", *parts, err.message);
    assert_int_equal(safetensors_open(path, &s, NULL), code);
}

#define PARTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void refuse_code(const char *header, size_t data_size, fathom_status code, const char *const *parts)
{
    write_raw(header, strlen(header), strlen(header), data_size);
    expect_refused(code, parts);
}

static void refuse(const char *header, size_t data_size, const char *const *parts)
{
    refuse_code(header, data_size, FATHOM_FORMAT, parts);
}

static safetensors *open_ok(void)
{
    fathom_error err;
    safetensors *s;
    if (safetensors_open(path, &s, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    return s;
}

static void test_round_trip(void **state)
{
    (void)state;
    static const float w[6] = {1, -2.5f, 3, 1e-40f, INFINITY, -0.0f};
    static const uint16_t odd[3] = {0x3c00, 0xbc00, 0x0001};
    static const uint8_t bytes[3] = {7, 8, 9};
    static const int64_t scalar = -5;
    const safetensors_tensor in[] = {
        {"z.weight", DTYPE_F32, 2, {2, 3}, w, sizeof w},
        {"a.half", DTYPE_F16, 1, {3}, odd, sizeof odd},
        {"empty", DTYPE_F32, 2, {0, 4}, NULL, 0},
        {"name \"quoted\" \xc3\xa9\t", DTYPE_U8, 1, {3}, bytes, sizeof bytes},
        {"scalar", DTYPE_I64, 0, {0}, &scalar, sizeof scalar},
        {"after.odd", DTYPE_F32, 1, {6}, w, sizeof w},
    };
    const size_t count = sizeof in / sizeof *in;
    const char *const metadata[] = {"format", "pt", "note", "x \"y\"", NULL};
    fathom_error err;
    assert_int_equal(safetensors_write(path, in, count, metadata, &err), FATHOM_OK);

    file_map map;
    assert_int_equal(file_map_open(path, &map, NULL), FATHOM_OK);
    uint64_t length;
    memcpy(&length, map.data, 8);
    assert_int_equal((8 + length) % 64, 0);
    assert_int_equal(map.data[8], '{');
    size_t data = 0;
    for (size_t i = 0; i < count; i++)
        data += in[i].bytes;
    assert_int_equal(map.size, 8 + length + data);
    file_map_close(&map);

    safetensors *s = open_ok();
    assert_string_equal(safetensors_path(s), path);
    assert_int_equal(safetensors_count(s), count);
    for (size_t i = 0; i < count; i++) {
        const safetensors_tensor *t = safetensors_at(s, i); /* the order is kept */
        assert_string_equal(t->name, in[i].name);
        assert_ptr_equal(t, safetensors_find(s, in[i].name));
        assert_int_equal(t->dtype, in[i].dtype);
        assert_int_equal(t->rank, in[i].rank);
        assert_int_equal(t->bytes, in[i].bytes);
        for (int d = 0; d < t->rank; d++)
            assert_int_equal(t->shape[d], in[i].shape[d]);
        if (t->bytes)
            assert_memory_equal(t->data, in[i].data, t->bytes);
    }
    assert_int_equal((uintptr_t)safetensors_at(s, 0)->data % 64, 0);
    assert_null(safetensors_find(s, "absent"));
    assert_null(safetensors_find(s, "__metadata__"));
    assert_string_equal(safetensors_metadata(s, "format"), "pt");
    assert_string_equal(safetensors_metadata(s, "note"), "x \"y\"");
    assert_null(safetensors_metadata(s, "absent"));

    float out[6];
    assert_int_equal(safetensors_read_f32(s, "after.odd", 1, (int64_t[]){6}, out, &err), FATHOM_OK); /* unaligned */
    assert_memory_equal(out, w, sizeof w);
    assert_int_equal(safetensors_read_f32(s, "empty", 2, (int64_t[]){0, 4}, out, &err), FATHOM_OK);
    safetensors_close(s);
    safetensors_close(NULL);
}

static void test_no_tensors(void **state)
{
    (void)state;
    assert_int_equal(safetensors_write(path, NULL, 0, NULL, NULL), FATHOM_OK);
    safetensors *s = open_ok();
    assert_int_equal(safetensors_count(s), 0);
    assert_null(safetensors_find(s, "a"));
    assert_null(safetensors_metadata(s, "format"));
    safetensors_close(s);
}

static void test_many_names(void **state)
{
    (void)state;
    enum { N = 1000 };
    static char names[N][16];
    static uint16_t values[N];
    static safetensors_tensor in[N];
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "t%llu", (unsigned long long)rng_permute(3, RNG_SHUFFLE, (uint64_t)i, N));
        values[i] = (uint16_t)i;
        in[i] = (safetensors_tensor){names[i], DTYPE_U16, 1, {1}, &values[i], 2};
    }
    assert_int_equal(safetensors_write(path, in, N, NULL, NULL), FATHOM_OK);
    safetensors *s = open_ok();
    for (int i = 0; i < N; i++) {
        assert_ptr_equal(safetensors_find(s, names[i]), safetensors_at(s, (size_t)i));
        assert_memory_equal(safetensors_find(s, names[i])->data, &values[i], 2);
    }
    assert_null(safetensors_find(s, "t1000"));
    assert_null(safetensors_find(s, ""));
    safetensors_close(s);
}

/* The other order of data and header, a trailing blank, fields that we do not know: all valid. */
static void test_foreign_file(void **state)
{
    (void)state;
    const char *header = "{\"b\":{\"data_offsets\":[4,8],\"shape\":[1],\"dtype\":\"F32\",\"extra\":[1]},"
                         "\"none\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]},"
                         "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[0,4]}}   \n";
    write_raw(header, strlen(header), strlen(header), 8);
    safetensors *s = open_ok();
    assert_int_equal(safetensors_count(s), 3);
    assert_memory_equal(safetensors_find(s, "b")->data, "\4\5\6\7", 4);
    assert_memory_equal(safetensors_find(s, "a")->data, "\0\1\2\3", 4);
    safetensors_close(s);
}

/* value of a half by its definition */
static double half_value(unsigned h)
{
    const unsigned exponent = h >> 10 & 31, mantissa = h & 1023;
    const double sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31)
        return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + mantissa, (int)exponent - 25) : ldexp(mantissa, -24));
}

/* Every one of the 65536 halves and bfloats, at an odd address. */
static void test_widening(void **state)
{
    (void)state;
    enum { N = 65536 };
    uint16_t *all = malloc(N * sizeof *all);
    float *out = malloc(N * sizeof *out);
    assert_true(all && out);
    for (int i = 0; i < N; i++)
        all[i] = (uint16_t)i;
    const safetensors_tensor in[] = {{"odd", DTYPE_U8, 1, {1}, "x", 1},
                                     {"f16", DTYPE_F16, 2, {256, 256}, all, N * 2},
                                     {"bf16", DTYPE_BF16, 2, {256, 256}, all, N * 2}};
    assert_int_equal(safetensors_write(path, in, 3, NULL, NULL), FATHOM_OK);
    safetensors *s = open_ok();
    assert_int_equal((uintptr_t)safetensors_find(s, "f16")->data % 2, 1);
    assert_int_equal(safetensors_read_f32(s, "f16", 2, (int64_t[]){256, 256}, out, NULL), FATHOM_OK);
    for (unsigned i = 0; i < N; i++) {
        const double expected = half_value(i);
        assert_true(isnan(expected) ? isnan(out[i]) : (double)out[i] == expected);
        assert_int_equal(signbit(out[i]) != 0, i >> 15);
    }
    assert_int_equal(safetensors_read_f32(s, "bf16", 2, (int64_t[]){256, 256}, out, NULL), FATHOM_OK);
    for (uint32_t i = 0; i < N; i++) {
        const uint32_t bits = i << 16;
        assert_memory_equal(&out[i], &bits, 4);
    }
    safetensors_close(s);
    free(all);
    free(out);
}

static void expect_read_refused(const safetensors *s, const char *name, int rank, const int64_t *shape,
                                fathom_status code, const char *const *parts)
{
    fathom_error err = {0};
    float out[8] = {42};
    assert_int_equal(safetensors_read_f32(s, name, rank, shape, out, &err), code);
    assert_true(out[0] == 42);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, name));
    for (; *parts; parts++)
        if (!strstr(err.message, *parts))
            fail_msg("no \"%s\" in: %s", *parts, err.message);
}

static void test_read_f32_refusals(void **state)
{
    (void)state;
    static const float w[6];
    const safetensors_tensor in[] = {{"w", DTYPE_F32, 2, {2, 3}, w, 24}, {"n", DTYPE_I32, 1, {6}, w, 24}};
    assert_int_equal(safetensors_write(path, in, 2, NULL, NULL), FATHOM_OK);
    safetensors *s = open_ok();
    expect_read_refused(s, "w", 2, (int64_t[]){3, 2}, FATHOM_FORMAT, PARTS("[2, 3]", "[3, 2]"));
    expect_read_refused(s, "w", 1, (int64_t[]){6}, FATHOM_FORMAT, PARTS("[2, 3]", "[6]"));
    expect_read_refused(s, "w", 0, NULL, FATHOM_FORMAT, PARTS("[2, 3]", "[]"));
    expect_read_refused(s, "gone", 1, (int64_t[]){6}, FATHOM_FORMAT, PARTS("no such tensor"));
    expect_read_refused(s, "n", 1, (int64_t[]){6}, FATHOM_UNSUPPORTED, PARTS("I32", "F32"));
    safetensors_close(s);
}

static void test_bad_lengths(void **state)
{
    (void)state;
    unlink(path);
    expect_refused(FATHOM_NOT_FOUND, PARTS("No such file"));
    file_write(path, "", 0, NULL);
    expect_refused(FATHOM_FORMAT, PARTS("0 bytes"));
    file_write(path, "\2\0\0\0\0\0\0", 7, NULL);
    expect_refused(FATHOM_FORMAT, PARTS("7 bytes"));
    write_raw("{}", 2, 3, 0);
    expect_refused(FATHOM_FORMAT, PARTS("header length 3", "10 bytes"));
    write_raw("{}", 2, 0, 0);
    expect_refused(FATHOM_FORMAT, PARTS("not a JSON object"));
    write_raw("{}", 2, UINT64_MAX, 0);
    expect_refused(FATHOM_FORMAT, PARTS("18446744073709551615", "100000000"));
    write_raw("{}", 2, UINT64_MAX - 7, 0);
    expect_refused(FATHOM_FORMAT, PARTS("header length"));
    write_raw("{}", 2, 200000000, 0); /* the header is all there, sparse, and too long */
    assert_int_equal(truncate(path, 200000008), 0);
    expect_refused(FATHOM_FORMAT, PARTS("200000000", "limit"));
    write_raw("{}", 2, 90000000, 0); /* within the limit, but zeros */
    assert_int_equal(truncate(path, 90000008), 0);
    expect_refused(FATHOM_FORMAT, PARTS("malformed JSON"));
}

/* A valid file cut at every length is refused. */
static void test_truncation(void **state)
{
    (void)state;
    static const float w[4] = {1, 2, 3, 4};
    const safetensors_tensor in[] = {{"a", DTYPE_F32, 1, {3}, w, 12}, {"b", DTYPE_F32, 1, {1}, w, 4}};
    assert_int_equal(safetensors_write(path, in, 2, NULL, NULL), FATHOM_OK);
    file_map map;
    assert_int_equal(file_map_open(path, &map, NULL), FATHOM_OK);
    const size_t size = map.size;
    file_map_close(&map);
    for (size_t cut = size; cut-- > 0;) {
        assert_int_equal(truncate(path, (off_t)cut), 0);
        safetensors *s;
        assert_int_equal(safetensors_open(path, &s, NULL), FATHOM_FORMAT);
    }
}

static void test_bad_json(void **state)
{
    (void)state;
    refuse("[1]", 0, PARTS("not a JSON object"));
    refuse(" {}", 0, PARTS("not a JSON object"));
    refuse("\"x\"", 0, PARTS("not a JSON object"));
    refuse("{\"a\"", 0, PARTS("malformed JSON"));
    refuse("{} x", 0, PARTS("malformed JSON"));
    refuse("{\"\xff\":1}", 0, PARTS("malformed JSON"));
    refuse("{\"a\\u0000b\":1}", 0, PARTS("malformed JSON"));
    char deep[8000];
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"a\":", 5);
    write_raw(deep, sizeof deep, sizeof deep, 0);
    expect_refused(FATHOM_FORMAT, PARTS("malformed JSON", "depth"));
}

#define ONE(dtype, shape, offsets) "{\"a.b\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define A_TO_8 "\"a.b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static void test_duplicates(void **state)
{
    (void)state;
    refuse("{" A_TO_8 "," A_TO_8 "}", 8, PARTS("duplicate", "a.b"));
    refuse("{" A_TO_8 ",\"\\u0061.\\u0062\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16,
           PARTS("duplicate"));
    refuse("{\"a.b\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
           PARTS("duplicate", "dtype"));
    refuse("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, PARTS("duplicate"));
}

static void test_bad_types(void **state)
{
    (void)state;
    write_raw("{" A_TO_8 "}", strlen("{" A_TO_8 "}"), strlen("{" A_TO_8 "}"), 8);
    safetensors_close(open_ok()); /* the pattern itself is fine */
    refuse("{\"a.b\":7}", 0, PARTS("a.b", "7 (an integer)", "expected an object"));
    refuse("{\"a.b\":null}", 0, PARTS("a.b", "null", "expected an object"));
    refuse("{\"a.b\":{}}", 0, PARTS("a.b.dtype", "missing", "expected a string"));
    refuse("{\"a.b\":{\"dtype\":\"F32\",\"data_offsets\":[0,0]}}", 0, PARTS("a.b.shape", "missing"));
    refuse("{\"a.b\":{\"dtype\":\"F32\",\"shape\":[0]}}", 0, PARTS("a.b.data_offsets", "missing"));
    refuse(ONE("3", "[2]", "[0,8]"), 8, PARTS("a.b.dtype", "3 (an integer)"));
    refuse_code(ONE("\"F31\"", "[2]", "[0,8]"), 8, FATHOM_UNSUPPORTED, PARTS("a.b.dtype", "F31"));
    refuse_code(ONE("\"f32\"", "[2]", "[0,8]"), 8, FATHOM_UNSUPPORTED, PARTS("a.b.dtype", "f32"));
    refuse(ONE("\"F32\"", "2", "[0,8]"), 8, PARTS("a.b.shape", "2 (an integer)", "expected an array"));
    refuse(ONE("\"F32\"", "{}", "[0,8]"), 8, PARTS("a.b.shape", "an object", "expected an array"));
    refuse(ONE("\"F32\"", "[\"2\"]", "[0,8]"), 8, PARTS("a.b.shape", "\"2\" (a string)"));
    refuse(ONE("\"F32\"", "[2.0]", "[0,8]"), 8, PARTS("a.b.shape", "2.0 (a real number)"));
    refuse(ONE("\"F32\"", "[[2]]", "[0,8]"), 8, PARTS("a.b.shape", "an array"));
    refuse(ONE("\"F32\"", "[2]", "8"), 8, PARTS("a.b.data_offsets", "8 (an integer)"));
    refuse(ONE("\"F32\"", "[2]", "[8]"), 8, PARTS("a.b.data_offsets", "[8]", "two integers"));
    refuse(ONE("\"F32\"", "[2]", "[0,8,8]"), 8, PARTS("a.b.data_offsets", "[0,8,8]"));
    refuse(ONE("\"F32\"", "[2]", "[0,true]"), 8, PARTS("a.b.data_offsets", "true (a boolean)"));
    refuse(ONE("\"F32\"", "[2]", "[0,8e0]"), 8, PARTS("a.b.data_offsets", "a real number"));
    refuse("{\"__metadata__\":[]}", 0, PARTS("__metadata__", "expected an object"));
    refuse("{\"__metadata__\":{\"step\":7}}", 0, PARTS("__metadata__.step", "7 (an integer)"));
}

static void test_bad_sizes(void **state)
{
    (void)state;
    refuse(ONE("\"F32\"", "[-2]", "[0,8]"), 8, PARTS("a.b.shape", "[-2]", "negative"));
    refuse(ONE("\"F32\"", "[-1,-2]", "[0,8]"), 8, PARTS("a.b.shape", "[-1,-2]"));
    refuse(ONE("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, PARTS("a.b.shape", "4611686018427387904", "too large"));
    refuse(ONE("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, PARTS("a.b.shape", "too large"));
    refuse(ONE("\"U8\"", "[9223372036854775808]", "[0,0]"), 0, PARTS("malformed JSON"));
    refuse_code(ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, FATHOM_UNSUPPORTED, PARTS("a.b.shape", "dimensions"));
    refuse(ONE("\"F32\"", "[3]", "[0,8]"), 8, PARTS("a.b", "[3]", "F32", "12", "8"));
    refuse(ONE("\"F16\"", "[2]", "[0,8]"), 8, PARTS("a.b", "[2]", "F16", "4", "8"));
    refuse(ONE("\"F32\"", "[]", "[0,8]"), 8, PARTS("a.b", "[]", "4", "8"));
}

static void test_bad_ranges(void **state)
{
    (void)state;
    refuse(ONE("\"F32\"", "[2]", "[-8,0]"), 8, PARTS("a.b.data_offsets", "[-8,0]", "not a range"));
    refuse(ONE("\"F32\"", "[2]", "[8,0]"), 8, PARTS("a.b.data_offsets", "[8,0]", "not a range"));
    refuse(ONE("\"F32\"", "[2]", "[0,8]"), 7, PARTS("a.b.data_offsets", "[0, 8]", "outside", "7 bytes"));
    refuse(ONE("\"F32\"", "[2]", "[9223372036854775799,9223372036854775807]"), 8, PARTS("a.b.data_offsets", "outside"));
    refuse(ONE("\"F32\"", "[2]", "[8,16]"), 16, PARTS("a.b.data_offsets", "[8, 16]", "hole"));
    refuse(ONE("\"F32\"", "[2]", "[0,8]"), 9, PARTS("1 bytes after", "8"));
    refuse("{}", 1, PARTS("1 bytes after"));
#define AND(name, shape, offsets) "{" A_TO_8 ",\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    refuse(AND("c", "[2]", "[4,12]"), 12, PARTS("c.data_offsets", "[4, 12]", "overlaps"));
    refuse(AND("c", "[2]", "[0,8]"), 8, PARTS("overlaps"));
    refuse(AND("c", "[1]", "[4,8]"), 8, PARTS("c.data_offsets", "overlaps"));
    refuse(AND("c", "[0]", "[4,4]"), 8, PARTS("c.data_offsets", "[4, 4]", "overlaps"));
    refuse(AND("c", "[1]", "[12,16]"), 16, PARTS("c.data_offsets", "[12, 16]", "hole", "8"));
}

static void expect_write_refused(const safetensors_tensor *t, size_t count, const char *const *parts)
{
    fathom_error err = {0};
    unlink(path);
    assert_int_equal(safetensors_write(path, t, count, NULL, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, path));
    for (; *parts; parts++)
        if (!strstr(err.message, *parts))
            fail_msg("no \"%s\" in: %s", *parts, err.message);
    assert_false(path_exists(path));
}

static void test_write_refusals(void **state)
{
    (void)state;
    static const float w[2];
    const safetensors_tensor good = {"a.b", DTYPE_F32, 1, {2}, w, 8};
    safetensors_tensor t = good;
    t.bytes = 4;
    expect_write_refused(&t, 1, PARTS("a.b", "[2]", "F32", "4 bytes"));
    t = good;
    t.shape[0] = -2;
    expect_write_refused(&t, 1, PARTS("a.b", "[-2]"));
    t = good;
    t.rank = 9;
    expect_write_refused(&t, 1, PARTS("a.b", "rank 9"));
    t = good;
    t.name = "__metadata__";
    expect_write_refused(&t, 1, PARTS("__metadata__"));
    t.name = "\xff\xfe";
    expect_write_refused(&t, 1, PARTS("UTF-8"));
    expect_write_refused((safetensors_tensor[]){good, good}, 2, PARTS("a.b", "two tensors"));
}

/* A write that fails half-way, as on a full disk, leaves what was there and nothing beside it. */
static void test_write_failure(void **state)
{
    (void)state;
    enum { N = 1 << 18 };
    float *w = calloc(N, sizeof *w);
    assert_non_null(w);
    const safetensors_tensor small = {"old", DTYPE_F32, 1, {1}, w, 4};
    const safetensors_tensor large[] = {{"new", DTYPE_F32, 1, {N}, w, N * 4}, {"more", DTYPE_F32, 1, {N}, w, N * 4}};
    assert_int_equal(safetensors_write(path, &small, 1, NULL, NULL), FATHOM_OK);
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){100000, before.rlim_max});
    fathom_error err = {0};
    const fathom_status status = safetensors_write(path, large, 2, NULL, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    free(w);
    assert_int_equal(status, FATHOM_IO);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, "File too large"));
    char temporary[320];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    assert_false(path_exists(temporary));
    safetensors *s = open_ok();
    assert_non_null(safetensors_find(s, "old"));
    safetensors_close(s);
}

/* Reads everything that an accepted file hands out, so that the sanitizers see any pointer outside the map. */
static unsigned touch(const safetensors *s)
{
    unsigned sum = 0;
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const safetensors_tensor *t = safetensors_at(s, i);
        for (size_t b = 0; b < t->bytes; b++)
            sum += ((const unsigned char *)t->data)[b];
        assert_ptr_equal(safetensors_find(s, t->name), t);
    }
    return sum;
}

static uint32_t random_word(uint64_t i, uint64_t draw)
{
    uint32_t w[4];
    rng_words(17, draw, i, w);
    return w[0];
}

/* Changes, removes, repeats or replaces by a token that hurts, somewhere in the header. */
static size_t mutate(char *text, size_t size, uint64_t i)
{
    static const char *const tokens[] = {"-1", "9223372036854775807", "[", "]", "{", "}", "\"", "\\u0061", "null", "1e9",
                                         ",", ":", "0", "\"F32\"", "\xff", "4294967296"};
    const uint32_t times = 1 + random_word(i, 0) % 3;
    for (uint32_t m = 0; m < times; m++) {
        const size_t at = random_word(i, 4 * m + 1) % size;
        const char *token = tokens[random_word(i, 4 * m + 2) % (sizeof tokens / sizeof *tokens)];
        const size_t length = strlen(token), gone = random_word(i, 4 * m + 3) % 4;
        switch (random_word(i, 4 * m + 4) % 3) {
        case 0: text[at] = (char)random_word(i, 4 * m + 2); break;
        case 1: /* overwrites, keeping what follows where it is */
            memcpy(text + at, token, length < size - at ? length : size - at);
            break;
        default: /* in the place of up to 3 bytes */
            if (at + gone > size)
                break;
            memmove(text + at + length, text + at + gone, size - at - gone);
            memcpy(text + at, token, length);
            size = size - gone + length;
        }
    }
    return size;
}

static void test_mutations(void **state)
{
    (void)state;
    const char *valid = "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                        "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]},"
                        "\"c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[32,33]}}";
    int accepted = 0, refused = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        char text[512];
        memcpy(text, valid, strlen(valid) + 1);
        const size_t size = mutate(text, strlen(valid), i);
        /* mostly the true length, sometimes one that is a little or far off */
        uint64_t announced = size;
        if (random_word(i, 20) % 8 == 0)
            announced += (uint64_t)(random_word(i, 21) % 5) - 2;
        if (random_word(i, 20) % 64 == 1)
            announced = (uint64_t)random_word(i, 22) << (random_word(i, 23) % 33);
        write_raw(text, size, announced, 33);
        fathom_error err = {0};
        safetensors *s;
        const fathom_status status = safetensors_open(path, &s, &err);
        if (status == FATHOM_OK) {
            accepted++;
            touch(s);
            safetensors_close(s);
        } else {
            refused++;
            assert_true(status == FATHOM_FORMAT || status == FATHOM_UNSUPPORTED);
            assert_non_null(strstr(err.message, path));
        }
    }
    assert_true(accepted > 100); /* a changed name or blank: both sides were reached */
    assert_true(refused > 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),        cmocka_unit_test(test_no_tensors),
        cmocka_unit_test(test_many_names),        cmocka_unit_test(test_foreign_file),
        cmocka_unit_test(test_widening),          cmocka_unit_test(test_read_f32_refusals),
        cmocka_unit_test(test_bad_lengths),       cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_bad_json),          cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_bad_types),         cmocka_unit_test(test_bad_sizes),
        cmocka_unit_test(test_bad_ranges),        cmocka_unit_test(test_write_refusals),
        cmocka_unit_test(test_write_failure),     cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
