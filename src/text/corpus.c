/* Text files, folders and token shards to two arrays of ids: see corpus.h. A file is encoded from its map straight
 * behind the training part; its last share is then moved to the held-out part. A shard is, little-endian:
 *
 *     bytes  0  "FATHOMTK"         16  vocabulary                   40  the ids: uint16 where the
 *            8  version, 1         24  count of ids                     vocabulary is at most 65536,
 *           12  bytes per id       32  bytes of text they stand for     else uint32
 */
#include "text/corpus.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/files.h"

enum { MAGIC_BYTES = 8, HEADER_BYTES = 40, SHARD_VERSION = 1 };

static const char MAGIC[MAGIC_BYTES + 1] = "FATHOMTK";

typedef struct builder {
    corpus *out;
    const tokenizer *t;
    encoder *encoder;
    double heldout_fraction;
    int64_t train_capacity, heldout_capacity;
} builder;

/* Room for `more` tokens behind those in the part. */
static fathom_status part_reserve(corpus_part *part, int64_t *capacity, size_t more, const char *path,
                                  fathom_error *err)
{
    const uint64_t max = PTRDIFF_MAX / sizeof *part->tokens;
    if (more > max - (uint64_t)part->count)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: %zu tokens: too many", path, more);
    const uint64_t needed = (uint64_t)part->count + more;
    if (needed <= (uint64_t)*capacity)
        return FATHOM_OK;
    const uint64_t doubled = (uint64_t)*capacity > max / 2 ? max : (uint64_t)*capacity * 2;
    const uint64_t wanted = needed > doubled ? needed : doubled;
    int32_t *tokens = realloc(part->tokens, wanted * sizeof *tokens);
    if (!tokens)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory for %llu tokens", path,
                           (unsigned long long)wanted);
    part->tokens = tokens;
    *capacity = (int64_t)wanted;
    return FATHOM_OK;
}

/* Takes in the `count` tokens that lie behind the training part's and stand for `bytes` of text. Where those are not the bytes of the tokens
 * themselves (the text was normalized, special tokens stand around it), the held-out part gets its share of them. */
static fathom_status split_tail(builder *b, int64_t count, int64_t bytes, const char *path, fathom_error *err)
{
    corpus_part *train = &b->out->train, *heldout = &b->out->heldout;
    const int64_t held = (int64_t)floor(b->heldout_fraction * (double)count);
    TRY(part_reserve(heldout, &b->heldout_capacity, (size_t)held, path, err));
    const int32_t *from = train->tokens + train->count + (count - held);
    int64_t held_bytes = 0, all_bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        size_t length;
        tokenizer_text(b->t, train->tokens[train->count + i], &length);
        all_bytes += (int64_t)length;
        held_bytes += i < count - held ? 0 : (int64_t)length;
    }
    if (held > 0)
        memcpy(heldout->tokens + heldout->count, from, (size_t)held * sizeof *from);
    if (all_bytes != bytes && all_bytes > 0)
        held_bytes = (int64_t)((double)bytes * (double)held_bytes / (double)all_bytes);
    heldout->count += held;
    heldout->bytes += held_bytes;
    train->count += count - held;
    train->bytes += bytes - held_bytes;
    return FATHOM_OK;
}

static fathom_status add_text(builder *b, const file_map *map, const char *path, fathom_error *err)
{
    corpus_part *train = &b->out->train;
    if (map->size == 0)
        return FATHOM_OK;
    id_list list = {train->tokens, (size_t)train->count, (size_t)b->train_capacity};
    fathom_error why;
    const fathom_status status = encoder_add(b->encoder, (const char *)map->data, map->size, true, &list, &why);
    train->tokens = list.ids;
    b->train_capacity = (int64_t)list.capacity;
    if (status != FATHOM_OK)
        return status_fail(err, status, "%s: %s", path, why.message);
    return split_tail(b, (int64_t)list.count - train->count, (int64_t)map->size, path, err);
}

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

static bool is_shard(const file_map *map, const char *path)
{
    const size_t length = strlen(path);
    return length >= 4 && strcmp(path + length - 4, ".bin") == 0 && map->size >= MAGIC_BYTES &&
           memcmp(map->data, MAGIC, MAGIC_BYTES) == 0;
}

static fathom_status add_shard(builder *b, const file_map *map, const char *path, fathom_error *err)
{
    if (map->size < HEADER_BYTES)
        return status_fail(err, FATHOM_FORMAT, "%s: token shard of %zu bytes: its header alone has %d", path, map->size,
                           HEADER_BYTES);
    const uint64_t version = read_le(map->data + 8, 4), width = read_le(map->data + 12, 4);
    const uint64_t vocab = read_le(map->data + 16, 8), count = read_le(map->data + 24, 8);
    const uint64_t text_bytes = read_le(map->data + 32, 8), known = (uint64_t)tokenizer_vocab(b->t);
    if (version != SHARD_VERSION)
        return status_fail(err, FATHOM_UNSUPPORTED, "%s: token shard version %llu: this build reads version %d", path,
                           (unsigned long long)version, SHARD_VERSION);
    if (width != 2 && width != 4)
        return status_fail(err, FATHOM_FORMAT, "%s: bytes per token: %llu: neither 2 nor 4", path,
                           (unsigned long long)width);
    if (vocab != known)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: vocabulary: %llu: the tokenizer has %llu", path,
                           (unsigned long long)vocab, (unsigned long long)known);
    const size_t body = map->size - HEADER_BYTES;
    if (body % width != 0 || body / width != count)
        return status_fail(err, FATHOM_FORMAT, "%s: count: %llu tokens of %llu bytes: the file holds %zu bytes of them",
                           path, (unsigned long long)count, (unsigned long long)width, body);

    corpus_part *train = &b->out->train;
    uint64_t decoded = 0;
    if (count > 0)
        TRY(part_reserve(train, &b->train_capacity, (size_t)count, path, err));
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t id = read_le(map->data + HEADER_BYTES + i * width, (int)width);
        if (id >= known)
            return status_fail(err, FATHOM_FORMAT, "%s: token %llu: id %llu: outside the vocabulary of %llu", path,
                               (unsigned long long)i, (unsigned long long)id, (unsigned long long)known);
        size_t length;
        tokenizer_text(b->t, (int32_t)id, &length);
        decoded += length;
        train->tokens[train->count + (int64_t)i] = (int32_t)id;
    }
    if (decoded != text_bytes)
        return status_fail(err, FATHOM_FORMAT, "%s: bytes of text: %llu: its tokens stand for %llu", path,
                           (unsigned long long)text_bytes, (unsigned long long)decoded);
    return count > 0 ? split_tail(b, (int64_t)count, (int64_t)decoded, path, err) : FATHOM_OK;
}

/* outright: named by the caller, not found in a folder. */
static fathom_status add_file(builder *b, const char *path, bool outright, fathom_error *err)
{
    file_map map;
    TRY(file_map_open(path, &map, err));
    const bool skipped = !outright && !file_is_text(&map);
    fathom_status status = FATHOM_OK;
    if (!skipped)
        status = outright && is_shard(&map, path) ? add_shard(b, &map, path, err) : add_text(b, &map, path, err);
    b->out->files += !skipped;
    b->out->files_skipped += skipped;
    file_map_close(&map);
    return status;
}

static fathom_status add_folder(builder *b, const char *path, fathom_error *err)
{
    path_list files = {0};
    fathom_status status = folder_files(path, &files, &b->out->files_skipped, err);
    for (size_t i = 0; status == FATHOM_OK && i < files.count; i++)
        status = add_file(b, files.items[i], false, err);
    path_list_free(&files);
    return status;
}

/* FNV-1a on whole words, and a shift that brings the high bits down. */
static uint64_t hash_word(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

static uint64_t hash_part(uint64_t hash, const corpus_part *part)
{
    hash = hash_word(hash, (uint64_t)part->count);
    for (int64_t i = 0; i < part->count; i++)
        hash = hash_word(hash, (uint64_t)part->tokens[i]);
    return hash;
}

fathom_status corpus_load(const char *const *paths, size_t count, const tokenizer *t, double heldout_fraction,
                          corpus *out, fathom_error *err)
{
    *out = (corpus){0};
    if (!(heldout_fraction >= 0 && heldout_fraction < 1))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "held-out fraction: %g: not in [0, 1)", heldout_fraction);
    if (count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "data: no file or folder given");
    builder b = {.out = out, .t = t, .heldout_fraction = heldout_fraction};
    fathom_status status = encoder_new(t, &b.encoder, err);
    for (size_t i = 0; status == FATHOM_OK && i < count; i++)
        status = path_is_folder(paths[i]) ? add_folder(&b, paths[i], err) : add_file(&b, paths[i], true, err);
    encoder_free(b.encoder);
    if (status == FATHOM_OK && out->train.count + out->heldout.count == 0)
        status = status_fail(err, FATHOM_INVALID_ARGUMENT, "%s%s: no text: %lld files read, %lld not text", paths[0],
                             count > 1 ? " and the others" : "", (long long)out->files,
                             (long long)out->files_skipped);
    if (status != FATHOM_OK) {
        corpus_free(out);
        return status;
    }
    out->fingerprint = hash_part(hash_part(0xcbf29ce484222325u, &out->train), &out->heldout);
    return FATHOM_OK;
}

void corpus_free(corpus *c)
{
    free(c->train.tokens);
    free(c->heldout.tokens);
    *c = (corpus){0};
}

fathom_status shard_write(const char *path, const int32_t *tokens, int64_t count, int64_t text_bytes, int64_t vocab,
                          fathom_error *err)
{
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= vocab)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: token %lld: id %d: outside the vocabulary of %lld",
                               path, (long long)i, tokens[i], (long long)vocab);
    file_writer w;
    TRY(file_writer_open(&w, path, err));
    const int width = vocab <= 65536 ? 2 : 4;
    unsigned char header[HEADER_BYTES];
    memcpy(header, MAGIC, MAGIC_BYTES);
    write_le(header + 8, SHARD_VERSION, 4);
    write_le(header + 12, (uint64_t)width, 4);
    write_le(header + 16, (uint64_t)vocab, 8);
    write_le(header + 24, (uint64_t)count, 8);
    write_le(header + 32, (uint64_t)text_bytes, 8);
    fwrite(header, 1, sizeof header, w.stream);
    for (int64_t i = 0; i < count; i++) {
        unsigned char id[4];
        write_le(id, (uint64_t)tokens[i], width);
        fwrite(id, 1, (size_t)width, w.stream);
    }
    return file_writer_commit(&w, err);
}
