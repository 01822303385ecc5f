/* TensorBoard events: known CRCs, the framing read back by a reader of our own, every field of the messages, names that sort. */
#include "base/temp.h"
#include "format/tensorboard.h"

static void test_crc32c(void **state)
{
    (void)state;
    unsigned char data[32];
    assert_int_equal(crc32c("", 0), 0);
    assert_int_equal(crc32c("123456789", 9), 0xe3069283u); /* the check value of CRC-32/ISCSI; the others: RFC 3720, B.4 */
    memset(data, 0, sizeof data);
    assert_int_equal(crc32c(data, sizeof data), 0x8a9136aau);
    memset(data, 0xff, sizeof data);
    assert_int_equal(crc32c(data, sizeof data), 0x62a8ab43u);
    for (int i = 0; i < 32; i++)
        data[i] = (unsigned char)i;
    assert_int_equal(crc32c(data, sizeof data), 0x46dd794eu);
    for (int i = 0; i < 32; i++)
        data[i] = (unsigned char)(31 - i);
    assert_int_equal(crc32c(data, sizeof data), 0x113fdb5cu);
}

static uint32_t masked(const void *data, size_t size)
{
    const uint32_t crc = crc32c(data, size);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static const unsigned char *take(const unsigned char **at, const unsigned char *end, size_t size)
{
    const unsigned char *p = *at;
    assert_true(size <= (size_t)(end - p));
    *at += size;
    return p;
}

/* The data of the record at *at, which must be whole and right. */
static const unsigned char *record(const unsigned char **at, const unsigned char *end, size_t *size)
{
    uint64_t length;
    uint32_t crc;
    const unsigned char *head = take(at, end, 8);
    memcpy(&length, head, 8);
    memcpy(&crc, take(at, end, 4), 4);
    assert_int_equal(crc, masked(head, 8));
    const unsigned char *data = take(at, end, length);
    memcpy(&crc, take(at, end, 4), 4);
    assert_int_equal(crc, masked(data, length));
    *size = length;
    return data;
}

static void assert_record(const unsigned char **at, const unsigned char *end, double wall_time, const char *rest, size_t rest_size)
{
    size_t size;
    const unsigned char *data = record(at, end, &size);
    double time;
    assert_int_equal(size, 9 + rest_size);
    assert_int_equal(data[0], 1 << 3 | 1);
    memcpy(&time, data + 1, 8);
    assert_true(wall_time == 0 ? time > 1.5e9 && time < 1e11 : time == wall_time);
    assert_memory_equal(data + 9, rest, rest_size);
}

/* Expected bytes by hand: key = field << 3 | wire type. 1.5f is 0x3fc00000; 300 as a varint is ac 02. */
static void test_records(void **state)
{
    (void)state;
    FILE *f;
    char *path, *data, tag[TENSORBOARD_MAX_TAG + 1];
    fathom_error err;
    size_t size;
    assert_ok(tensorboard_create(".", 299, &f, &path, &err), &err);
    assert_non_null(strstr(path, "./events.out.tfevents."));
    tensorboard_scalar(f, 1234.5, 300, "a/b", 1.5f);
    memset(tag, 'x', sizeof tag - 1);
    tag[sizeof tag - 1] = 0;
    tensorboard_scalar(f, 1e9, INT64_MAX, tag, -0.0f); /* the largest that may be asked for */
    assert_int_equal(fclose(f), 0);
    data = get_file(path, &size);
    const unsigned char *at = (const unsigned char *)data, *end = at + size;
    assert_record(&at, end, 0, "\x10\x00\x1a\x0d" "brain.Event:2", 17);
    assert_record(&at, end, 0, "\x10\xac\x02\x3a\x02\x08\x01", 7);
    assert_record(&at, end, 1234.5, "\x10\xac\x02\x2a\x0c\x0a\x0a\x0a\x03" "a/b" "\x15\x00\x00\xc0\x3f", 17);
    record(&at, end, &size);
    assert_int_equal(size, 9 + 10 + 2 + 2 + 2 + TENSORBOARD_MAX_TAG + 5);
    assert_ptr_equal(at, end);
    free(data);
    free(path);
}

/* Files of one second have names of their own, in the order in which they were made. */
static void test_names(void **state)
{
    (void)state;
    char *paths[5];
    for (int i = 0; i < 5; i++) {
        FILE *f;
        fathom_error err;
        assert_ok(tensorboard_create(".", 0, &f, &paths[i], &err), &err);
        assert_int_equal(fclose(f), 0);
        if (i)
            assert_true(strcmp(paths[i - 1], paths[i]) < 0);
    }
    for (int i = 0; i < 5; i++)
        free(paths[i]);
}

static void test_refusals(void **state)
{
    (void)state;
    FILE *f = stdin;
    char *path = "";
    fathom_error err;
    assert_error(tensorboard_create("absent/folder", 0, &f, &path, &err), &err, FATHOM_IO, "absent/folder/events.out.tfevents.",
                 "No such file");
    assert_null(f);
    assert_null(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c),
        temp_test(test_records),
        temp_test(test_names),
        temp_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
