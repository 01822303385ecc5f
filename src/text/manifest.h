/* manifest.json of a folder of token shards: written last, so that a folder has one only when all of its shards are whole. */
#ifndef FATHOM_TEXT_MANIFEST_H
#define FATHOM_TEXT_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct manifest_shard {
    char file[32]; /* in the folder */
    bool heldout;
    int64_t tokens, bytes; /* bytes: of text */
    uint64_t checksum;     /* of its ids: shard.h */
} manifest_shard;

/* Zeroed at first; shards in the order of their tokens, training shards and held-out ones. */
typedef struct manifest {
    uint64_t tokenizer; /* tokenizer_checksum */
    int64_t vocab, tokens, bytes;
    manifest_shard *shards;
    int64_t count, capacity;
} manifest;

/* Adds to the sums too. */
fathom_status manifest_add(manifest *m, const manifest_shard *shard, fathom_error *err);
void manifest_free(manifest *m);
fathom_status manifest_write(const manifest *m, const char *folder, fathom_error *err);
/* *found is false where the folder has no manifest.json, or one of something else. */
fathom_status manifest_read(const char *folder, manifest *out, bool *found, fathom_error *err);

#endif
