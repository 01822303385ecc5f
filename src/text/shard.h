/* One file of token ids: what its header tells, and writing our own. docs/formats.md has the bytes. */
#ifndef FATHOM_TEXT_SHARD_H
#define FATHOM_TEXT_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/file.h"
#include "text/tokenizer.h"

typedef struct shard {
    const unsigned char *ids; /* [count] in the map, little-endian, at any address */
    int width;                /* bytes an id: 2 or 4 */
    int64_t count;
    int64_t vocab; /* 0 where the format does not tell */
    int64_t bytes; /* of text that the ids stand for; -1 where the format does not tell */
} shard;

/* The name ends in .bin, and the file begins as our shards or llm.c's do. */
bool shard_is(const file_map *map, const char *path);
/* raw: the file has no header, only uint16 ids (nanoGPT's); one that has a header is refused. Ids are not looked at. */
fathom_status shard_read(const file_map *map, const char *path, bool raw, shard *out, fathom_error *err);
/* Id i of a shard's. */
static inline uint32_t shard_id(const unsigned char *ids, int width, int64_t i)
{
    const unsigned char *p = ids + i * width;
    const uint32_t low = (uint32_t)p[0] | (uint32_t)p[1] << 8;
    return width == 2 ? low : low | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* A shard of ours that is being written; it appears under its name at the commit. */
typedef struct shard_writer {
    file_writer file;
    int width;
    int64_t vocab, count, bytes;
    uint64_t checksum; /* of the ids as they are written: shard_checksum */
} shard_writer;
fathom_status shard_writer_open(shard_writer *w, const char *path, int64_t vocab, fathom_error *err);
/* ids must lie in [0, vocab); bytes of text is what they stand for. */
fathom_status shard_writer_add(shard_writer *w, const int32_t *ids, int64_t count, int64_t bytes, fathom_error *err);
/* Releases *w either way. */
fathom_status shard_writer_commit(shard_writer *w, fathom_error *err);
void shard_writer_abort(shard_writer *w);

/* FNV-1a, 64 bits, over the bytes behind `hash`, which begins as CHECKSUM_BEGIN. */
static const uint64_t CHECKSUM_BEGIN = 0xcbf29ce484222325u;
uint64_t checksum_add(uint64_t hash, const void *data, size_t size);
/* What the ids mean: of the vocabulary's size and each id's text, which two tokenizers share exactly when their ids are interchangeable. */
uint64_t tokenizer_checksum(const tokenizer *t);

#endif
