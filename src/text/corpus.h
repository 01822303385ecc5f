/* Training text as token ids: from files, folders (recursive, text files only, sorted by path) and token shards, split
 * into a training and a held-out part. Immutable once loaded. */
#ifndef FATHOM_TEXT_CORPUS_H
#define FATHOM_TEXT_CORPUS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "text/tokenizer.h"

typedef struct corpus_part {
    int32_t *tokens;   /* [count] */
    int64_t count;
    int64_t bytes;     /* bytes of text these tokens stand for */
} corpus_part;

typedef struct corpus {
    corpus_part train, heldout;
    int64_t files;         /* text files and shards read */
    int64_t files_skipped; /* files in folders that are not text */
    uint64_t fingerprint;  /* of all tokens, both parts: a resumed run checks that it sees the same data */
} corpus;

/* Each text file is encoded by itself, with the special tokens that the tokenizer puts around a text.
 * paths: files, folders and shards (*.bin with our header, named outright; docs/formats.md). A file named outright is
 * read whatever it holds; inside a folder a file is text when its first 8 KiB hold no NUL byte; hidden files and links
 * to folders are passed over. The last heldout_fraction of each file's tokens is held out; 0 puts all into train. A
 * file that is missing or unreadable and a corpus without tokens are errors that name the path. */
fathom_status corpus_load(const char *const *paths, size_t count, const tokenizer *t, double heldout_fraction,
                          corpus *out, fathom_error *err);
void corpus_free(corpus *c);

/* Writes tokens as a shard: magic, version, vocabulary, count, bytes of text, then uint16 or uint32 ids. */
fathom_status shard_write(const char *path, const int32_t *tokens, int64_t count, int64_t text_bytes, int64_t vocab,
                          fathom_error *err);

#endif
