/* A model in several files: read as one where index and files agree, refused by name wherever they do not. */
#include "base/temp.h"
#include "format/safetensors.h"

static const float values[] = {1, 2, 3, 4, 5, 6};

static void put_tensors(const char *file, const char *const *names, size_t count, const float *from)
{
    safetensors_tensor t[4];
    fathom_error err;
    for (size_t i = 0; i < count; i++)
        t[i] = (safetensors_tensor){names[i], DTYPE_F32, 1, {2}, from + 2 * i, 8};
    assert_ok(safetensors_write(file, t, count, NULL, &err), &err);
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__}), sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)
#define INDEX(map) "{\"metadata\":{\"total_size\":24},\"weight_map\":{" map "}}"
#define A "\"a\":\"one.safetensors\""
#define B "\"b\":\"two.safetensors\""
#define C "\"c\":\"one.safetensors\""

/* a and c in one, b in two. */
static void put_files(const char *index)
{
    put_tensors("one.safetensors", NAMES("a", "c"), values);
    put_tensors("two.safetensors", NAMES("b"), values + 4);
    put_text("model.safetensors.index.json", index);
}

static void refused(const char *index, fathom_status code, const char *a, const char *b)
{
    fathom_error err = {0};
    safetensors *s;
    put_files(index);
    assert_error(safetensors_open_model(".", &s, &err), &err, code, a, b);
    assert_null(s);
    assert_int_equal(safetensors_open_model(".", &s, NULL), code);
}

static void several_files_read_as_one(void **state)
{
    (void)state;
    fathom_error err;
    safetensors *s;
    put_files(INDEX(A "," B "," C));
    assert_ok(safetensors_open_model(".", &s, &err), &err);
    assert_int_equal(safetensors_count(s), 3);
    static const char *const names[] = {"a", "c", "b"};
    for (int i = 0; i < 3; i++) {
        float out[2];
        assert_ok(safetensors_read_f32(s, names[i], 1, (int64_t[]){2}, out, &err), &err);
        assert_memory_equal(out, values + 2 * i, sizeof out);
    }
    assert_null(safetensors_find(s, "d"));
    struct stat one, two;
    assert_true(stat("one.safetensors", &one) == 0 && stat("two.safetensors", &two) == 0);
    assert_int_equal(safetensors_size(s), one.st_size + two.st_size);
    safetensors_close(s);

    put_tensors("model.safetensors", NAMES("alone"), values); /* goes before an index */
    assert_ok(safetensors_open_model(".", &s, &err), &err);
    assert_int_equal(safetensors_count(s), 1);
    safetensors_close(s);
    assert_error(safetensors_open_model("nowhere", &s, &err), &err, FATHOM_NOT_FOUND, "nowhere/model.safetensors", "");
}

static void index_and_files_must_agree(void **state)
{
    (void)state;
    refused(INDEX(A "," C ",\"b\":\"three.safetensors\""), FATHOM_NOT_FOUND, "three.safetensors", "No such file");
    refused(INDEX(A "," B), FATHOM_FORMAT, "one.safetensors: c", "no file");
    refused(INDEX(A "," C ",\"d\":\"one.safetensors\"," B), FATHOM_FORMAT, "weight_map.d", "one.safetensors");
    refused(INDEX(A "," C ",\"b\":\"one.safetensors\""), FATHOM_FORMAT, "weight_map.b", "one.safetensors");
    refused(INDEX(A "," B "," C ",\"b\":\"one.safetensors\""), FATHOM_FORMAT, "duplicate", "index.json");
    /* a tensor of two files: whichever the map says, the other has one too many */
    put_tensors("twice.safetensors", NAMES("b", "a"), values);
    refused(INDEX(A ",\"b\":\"twice.safetensors\"," C), FATHOM_FORMAT, "twice.safetensors: a", "one.safetensors");
    put_text("bad.safetensors", "12345678");
    refused(INDEX(A ",\"b\":\"bad.safetensors\"," C), FATHOM_FORMAT, "bad.safetensors", "");
}

static void only_files_beside_the_index(void **state)
{
    (void)state;
    char above[PATH_MAX + 32], index[PATH_MAX + 128];
    assert_int_equal(mkdir("folder", 0777), 0);
    put_tensors("folder/two.safetensors", NAMES("b"), values);
    snprintf(above, sizeof above, "%.*s/two.safetensors", PATH_MAX, (const char *)*state);
    const char *const names[] = {"", ".", "..", "../two.safetensors", "folder/two.safetensors", "./two.safetensors",
                                 ".hidden", above};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(index, sizeof index, INDEX(A "," C ",\"b\":\"%s\""), names[i]);
        refused(index, FATHOM_FORMAT, "weight_map.b", "beside the index");
    }
    refused(INDEX(A "," C ",\"b\":\"folder\""), FATHOM_IO, "folder", "not a regular file");
}

static void malformed_indices(void **state)
{
    (void)state;
    refused("", FATHOM_FORMAT, "index.json", "malformed JSON");
    refused("[]", FATHOM_FORMAT, "index.json", "not a JSON object");
    refused("{}", FATHOM_FORMAT, "weight_map", "missing");
    refused("{\"weight_map\":[]}", FATHOM_FORMAT, "weight_map", "expected an object");
    refused(INDEX(A ",\"b\":2"), FATHOM_FORMAT, "weight_map.b", "2 (an integer)");
    refused(INDEX(A ",\"b\":null"), FATHOM_FORMAT, "weight_map.b", "null");
}

int main(void)
{
    const struct CMUnitTest tests[] = {temp_test(several_files_read_as_one), temp_test(index_and_files_must_agree),
                                       temp_test(only_files_beside_the_index), temp_test(malformed_indices)};
    return cmocka_run_group_tests_name("safetensors_index", tests, NULL, NULL);
}
