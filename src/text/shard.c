/* Token shards: see shard.h. Ours is, little-endian:
 *
 *     bytes  0  "FATHOMTK"         16  vocabulary                   40  the ids: uint16 where the
 *            8  version, 1         24  count of ids                     vocabulary is at most 65536,
 *           12  bytes per id       32  bytes of text they stand for     else uint32
 *
 * llm.c's begins with 256 int32: magic, version, count of ids; the ids follow, uint16 (GPT-2) or uint32 (Llama 3). */
#include "text/shard.h"

#include <errno.h>
#include <string.h>

enum { MAGIC_BYTES = 8, HEADER_BYTES = 40, SHARD_VERSION = 1, LLMC_HEADER_BYTES = 1024 };

static const char MAGIC[MAGIC_BYTES + 1] = "FATHOMTK";

static const struct {
    uint32_t magic, version;
    int width; /* 0: holds no stream of tokens */
} LLMC[] = {{20240520, 1, 2}, {20240801, 7, 4}, {20240522, 1, 0}};
enum { LLMC_KINDS = sizeof LLMC / sizeof *LLMC };

static uint64_t read_le(const unsigned char *p, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)p[i] << (8 * i);
    return value;
}

static void write_le(unsigned char *p, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (unsigned char)(value >> (8 * i));
}

static bool is_ours(const file_map *map)
{
    return map->size >= MAGIC_BYTES && memcmp(map->data, MAGIC, MAGIC_BYTES) == 0;
}

/* Its place in LLMC, or LLMC_KINDS. */
static int llmc_kind(const file_map *map)
{
    int k = 0;
    while (k < LLMC_KINDS && !(map->size >= 4 && read_le(map->data, 4) == LLMC[k].magic))
        k++;
    return k;
}

bool shard_is(const file_map *map, const char *path)
{
    const size_t length = strlen(path);
    return length >= 4 && strcmp(path + length - 4, ".bin") == 0 && (is_ours(map) || llmc_kind(map) < LLMC_KINDS);
}

static fathom_status check_header(const file_map *map, const char *path, size_t header, fathom_error *err)
{
    return map->size >= header ? FATHOM_OK
                               : status_fail(err, FATHOM_FORMAT, "%s: token shard of %zu bytes: its header alone has %zu", path, map->size, header);
}

/* The file holds exactly `count` ids behind the header. */
static fathom_status take_ids(const file_map *map, const char *path, size_t header, uint64_t count, shard *out, fathom_error *err)
{
    const size_t body = map->size - header, width = (size_t)out->width;
    if (body % width != 0 || body / width != count)
        return status_fail(err, FATHOM_FORMAT, "%s: count: %llu tokens of %zu bytes: the file holds %zu bytes of them", path,
                           (unsigned long long)count, width, body);
    out->ids = body ? map->data + header : NULL;
    out->count = (int64_t)count;
    return FATHOM_OK;
}

static fathom_status read_ours(const file_map *map, const char *path, shard *out, fathom_error *err)
{
    TRY(check_header(map, path, HEADER_BYTES, err));
    const uint64_t version = read_le(map->data + 8, 4), width = read_le(map->data + 12, 4), vocab = read_le(map->data + 16, 8);
    const uint64_t bytes = read_le(map->data + 32, 8);
    if (version != SHARD_VERSION)
        return status_fail(err, FATHOM_UNSUPPORTED, "%s: token shard version %llu: this build reads version %d", path,
                           (unsigned long long)version, SHARD_VERSION);
    if (width != 2 && width != 4)
        return status_fail(err, FATHOM_FORMAT, "%s: bytes per token: %llu: neither 2 nor 4", path, (unsigned long long)width);
    if (vocab < 1 || vocab > INT32_MAX)
        return status_fail(err, FATHOM_FORMAT, "%s: vocabulary: %llu: must be 1 to %d", path, (unsigned long long)vocab, INT32_MAX);
    if (bytes > INT64_MAX)
        return status_fail(err, FATHOM_FORMAT, "%s: bytes of text: %llu: too many", path, (unsigned long long)bytes);
    out->width = (int)width;
    out->vocab = (int64_t)vocab;
    out->bytes = (int64_t)bytes;
    return take_ids(map, path, HEADER_BYTES, read_le(map->data + 24, 8), out, err);
}

static fathom_status read_llmc(const file_map *map, const char *path, int kind, shard *out, fathom_error *err)
{
    if (!LLMC[kind].width)
        return status_fail(err, FATHOM_UNSUPPORTED, "%s: llm.c's file of multiple-choice questions: not a stream of tokens", path);
    TRY(check_header(map, path, LLMC_HEADER_BYTES, err));
    const int32_t version = (int32_t)read_le(map->data + 4, 4), count = (int32_t)read_le(map->data + 8, 4);
    if (version != (int32_t)LLMC[kind].version)
        return status_fail(err, FATHOM_UNSUPPORTED, "%s: llm.c's tokens %u, version %d: this build reads version %u", path, LLMC[kind].magic,
                           version, LLMC[kind].version);
    if (count < 0)
        return status_fail(err, FATHOM_FORMAT, "%s: count: %d tokens", path, count);
    out->width = LLMC[kind].width;
    return take_ids(map, path, LLMC_HEADER_BYTES, (uint64_t)count, out, err);
}

fathom_status shard_read(const file_map *map, const char *path, bool raw, shard *out, fathom_error *err)
{
    const int llmc = llmc_kind(map);
    *out = (shard){.width = 2, .bytes = -1};
    if (raw && (is_ours(map) || llmc < LLMC_KINDS))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: has the header of a token shard: not raw uint16 ids", path);
    if (raw && map->size % 2 != 0)
        return status_fail(err, FATHOM_FORMAT, "%s: %zu bytes: not a whole number of uint16 ids", path, map->size);
    if (raw)
        return take_ids(map, path, 0, map->size / 2, out, err);
    if (is_ours(map))
        return read_ours(map, path, out, err);
    if (llmc < LLMC_KINDS)
        return read_llmc(map, path, llmc, out, err);
    return status_fail(err, FATHOM_FORMAT, "%s: not a token shard", path);
}

/* The count is known at the end: until then the header says that there are no ids. */
static void write_header(shard_writer *w)
{
    unsigned char header[HEADER_BYTES];
    memcpy(header, MAGIC, MAGIC_BYTES);
    write_le(header + 8, SHARD_VERSION, 4);
    write_le(header + 12, (uint64_t)w->width, 4);
    write_le(header + 16, (uint64_t)w->vocab, 8);
    write_le(header + 24, (uint64_t)w->count, 8);
    write_le(header + 32, (uint64_t)w->bytes, 8);
    fwrite(header, 1, sizeof header, w->file.stream);
}

fathom_status shard_writer_open(shard_writer *w, const char *path, int64_t vocab, fathom_error *err)
{
    *w = (shard_writer){.width = vocab <= 65536 ? 2 : 4, .vocab = vocab, .checksum = CHECKSUM_BEGIN};
    TRY(file_writer_open(&w->file, path, err));
    write_header(w);
    return FATHOM_OK;
}

fathom_status shard_writer_add(shard_writer *w, const int32_t *ids, int64_t count, int64_t bytes, fathom_error *err)
{
    enum { BLOCK = 4096 };
    unsigned char block[4 * BLOCK];
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        const int64_t n = count - begin < BLOCK ? count - begin : BLOCK;
        const size_t size = (size_t)(n * w->width);
        for (int64_t i = 0; i < n; i++) {
            const int32_t id = ids[begin + i];
            if (id < 0 || id >= w->vocab)
                return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: token %lld: id %d: outside the vocabulary of %lld", w->file.path,
                                   (long long)(w->count + begin + i), id, (long long)w->vocab);
            write_le(block + i * w->width, (uint64_t)id, w->width);
        }
        w->checksum = checksum_add(w->checksum, block, size);
        fwrite(block, 1, size, w->file.stream);
    }
    w->count += count;
    w->bytes += bytes;
    return FATHOM_OK;
}

fathom_status shard_writer_commit(shard_writer *w, fathom_error *err)
{
    if (fseek(w->file.stream, 0, SEEK_SET) != 0) {
        const fathom_status status = status_fail(err, FATHOM_IO, "%s: cannot write: %s", w->file.path, strerror(errno));
        file_writer_abort(&w->file);
        return status;
    }
    write_header(w);
    return file_writer_commit(&w->file, err);
}

void shard_writer_abort(shard_writer *w)
{
    file_writer_abort(&w->file);
}

uint64_t checksum_add(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

uint64_t tokenizer_checksum(const tokenizer *t)
{
    const int64_t vocab = tokenizer_vocab(t);
    uint64_t hash = CHECKSUM_BEGIN;
    for (int64_t id = 0; id < vocab; id++) {
        size_t size;
        unsigned char length[8];
        const char *text = tokenizer_text(t, (int32_t)id, &size);
        write_le(length, size, 8); /* so that "ab", "c" is not "a", "bc" */
        hash = checksum_add(hash, length, sizeof length);
        if (text)
            hash = checksum_add(hash, text, size);
    }
    return hash;
}
