/* A shard of ours in one call. */
#ifndef FATHOM_TESTS_TEXT_PUT_SHARD_H
#define FATHOM_TESTS_TEXT_PUT_SHARD_H

#include "text/shard.h"

static inline fathom_status put_shard(const char *path, const int32_t *ids, int64_t count, int64_t bytes, int64_t vocab, fathom_error *err)
{
    shard_writer w;
    TRY(shard_writer_open(&w, path, vocab, err));
    const fathom_status status = shard_writer_add(&w, ids, count, bytes, err);
    if (status == FATHOM_OK)
        return shard_writer_commit(&w, err);
    shard_writer_abort(&w);
    return status;
}

#endif
