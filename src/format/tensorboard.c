/* TensorBoard's event files: see tensorboard.h. A record (tensorflow/core/lib/io/record_writer.h) is, little-endian,
 *
 *     uint64 length | uint32 masked CRC-32C of the length | data | uint32 masked CRC-32C of the data
 *
 * and its data a message Event (tensorflow/core/util/event.proto):  1 double wall_time, 2 int64 step, and one of
 * 3 string file_version, 5 Summary summary, 7 SessionLog session_log { 1 enum status: START = 1 }; Summary
 * (tensorflow/core/framework/summary.proto) has 1 repeated Value { 1 string tag, 2 float simple_value }. */
#include "format/tensorboard.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as they lie");

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 }; /* protobuf's wire types */
enum { MESSAGE_MAX = TENSORBOARD_MAX_TAG + 64, SAME_SECOND_MAX = 1000, HOST_MAX = 64 };

/* A message under construction; every one fits. */
typedef struct message {
    unsigned char bytes[MESSAGE_MAX];
    size_t size;
} message;

uint32_t crc32c(const void *data, size_t size)
{
    static const uint32_t nibble[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
                                        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    const unsigned char *p = data;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return ~crc;
}

/* The CRC of data that holds CRCs is weak, so the format stores it rotated and shifted. */
static uint32_t masked_crc(const void *data, size_t size)
{
    const uint32_t crc = crc32c(data, size);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void write_record(FILE *out, const message *m)
{
    const uint64_t length = m->size;
    const uint32_t length_crc = masked_crc(&length, sizeof length), crc = masked_crc(m->bytes, m->size);
    fwrite(&length, sizeof length, 1, out);
    fwrite(&length_crc, sizeof length_crc, 1, out);
    fwrite(m->bytes, 1, m->size, out);
    fwrite(&crc, sizeof crc, 1, out);
}

static void put_bytes(message *m, const void *data, size_t size)
{
    assert(size <= sizeof m->bytes - m->size);
    memcpy(m->bytes + m->size, data, size);
    m->size += size;
}

static void put_varint(message *m, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        put_bytes(m, &(unsigned char){(unsigned char)(value | 0x80)}, 1);
    put_bytes(m, &(unsigned char){(unsigned char)value}, 1);
}

static void put_key(message *m, unsigned field, unsigned wire_type)
{
    put_varint(m, field << 3 | wire_type);
}

static void put_block(message *m, unsigned field, const void *data, size_t size)
{
    put_key(m, field, WIRE_BYTES);
    put_varint(m, size);
    put_bytes(m, data, size);
}

static message event_begin(double wall_time, int64_t step)
{
    message event = {.size = 0};
    put_key(&event, 1, WIRE_64);
    put_bytes(&event, &wall_time, sizeof wall_time);
    put_key(&event, 2, WIRE_VARINT);
    put_varint(&event, (uint64_t)step);
    return event;
}

void tensorboard_scalar(FILE *out, double wall_time, int64_t step, const char *tag, float value)
{
    message item = {.size = 0}, summary = {.size = 0}, event = event_begin(wall_time, step);
    assert(strlen(tag) <= TENSORBOARD_MAX_TAG);
    put_block(&item, 1, tag, strlen(tag));
    put_key(&item, 2, WIRE_32);
    put_bytes(&item, &value, sizeof value);
    put_block(&summary, 1, item.bytes, item.size);
    put_block(&event, 5, summary.bytes, summary.size);
    write_record(out, &event);
}

double tensorboard_wall_time(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* Names sort by time, and a run that is resumed in the second in which it was killed takes the next second's. */
static fathom_status create_file(const char *dir, FILE **out, char **path, fathom_error *err)
{
    const size_t room = strlen(dir) + HOST_MAX + 64;
    char host[HOST_MAX] = "";
    gethostname(host, sizeof host - 1);
    host[strcspn(host, "/")] = 0;
    *path = malloc(room);
    if (!*path)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    long long second = (long long)time(NULL);
    for (int tries = 0; tries < SAME_SECOND_MAX; tries++) {
        snprintf(*path, room, "%s/events.out.tfevents.%010lld.%s", dir, second++, host);
        if ((*out = fopen(*path, "wbxe")))
            return FATHOM_OK;
        if (errno != EEXIST)
            break;
    }
    return status_fail(err, FATHOM_IO, "%s: cannot write: %s", *path, strerror(errno));
}

fathom_status tensorboard_create(const char *dir, int64_t step, FILE **out, char **path, fathom_error *err)
{
    *out = NULL;
    fathom_status status = create_file(dir, out, path, err);
    if (status != FATHOM_OK) {
        free(*path);
        *path = NULL;
        return status;
    }
    const double now = tensorboard_wall_time();
    message version = event_begin(now, 0), session = event_begin(now, step + 1);
    put_block(&version, 3, "brain.Event:2", 13);
    put_block(&session, 7, (const unsigned char[]){1 << 3 | WIRE_VARINT, 1}, 2);
    write_record(*out, &version);
    write_record(*out, &session);
    return FATHOM_OK;
}
