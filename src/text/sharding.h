/* Text to a folder of token shards that training maps: what corpus_load would hold in memory, in files. Files are encoded in parallel, and
 * written in their order, so that the same text makes the same bytes on any number of threads. */
#ifndef FATHOM_TEXT_SHARDING_H
#define FATHOM_TEXT_SHARDING_H

#include "text/manifest.h"
#include "text/tokenizer.h"

typedef struct sharding_input {
    const char *const *paths; /* files and folders of text, as corpus_load takes them */
    size_t count;
    const tokenizer *tokenizer;
    const char *folder; /* made; must not exist, or be empty */
    int64_t shard_tokens;
    double heldout_fraction; /* of each file's tokens, at its end, into shards of their own */
    int threads;             /* threads_choose */
    /* Called by one thread at a time, after each file; may be NULL. */
    void (*progress)(void *user, int64_t bytes, int64_t all_bytes, int64_t tokens);
    void *user;
} sharding_input;

/* Works in FOLDER.unfinished, which takes the folder's name when it is whole, and holds FOLDER.unfinished.lock meanwhile. What an earlier, killed
 * call left there is removed first; refused where there is more than that, or where another process is at it. *out (manifest_free) is what was
 * written. A file's ids are in memory, and those of as many files as there are threads. */
fathom_status sharding_run(const sharding_input *in, manifest *out, fathom_error *err);

#endif
