/* Training text as token ids: from files, folders (recursive, text files only, sorted by path) and token shards, split into a training and a
 * held-out part. Text is encoded into memory; shards stay in their files, mapped, so that a corpus may be larger than memory. Immutable once
 * loaded. */
#ifndef FATHOM_TEXT_CORPUS_H
#define FATHOM_TEXT_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "text/tokenizer.h"

/* Tokens that lie one behind the other. */
typedef struct corpus_piece {
    const void *ids;  /* [count]: int32_t where width is 0; else little-endian, at any address */
    int width;        /* bytes an id in a map: 2 or 4; 0 in memory */
    int64_t begin;    /* the first one's number in the part */
    int64_t count;    /* >= 1 */
    int64_t vocab;    /* what ids in a map must lie below */
    int64_t offset;   /* the first one's number in its file */
    const char *path; /* the file, for messages */
} corpus_piece;

/* The pieces' tokens, in order. */
typedef struct corpus_part {
    const corpus_piece *pieces;
    int64_t piece_count, count;
} corpus_part;

/* Tokens [at, at + n) of the part, at + n <= count. Fails, naming file and token, where an id of a shard is outside the vocabulary: shards are
 * checked as they are read. */
fathom_status corpus_part_read(const corpus_part *part, int64_t at, int64_t n, int32_t *out, fathom_error *err);

typedef struct corpus {
    corpus_part train, heldout;
    int64_t bytes;         /* of text that both parts stand for; -1: some shard does not tell */
    int64_t files;         /* text files and shards read */
    int64_t files_skipped; /* files in folders that are not text */
    int64_t foreign;       /* shards that do not tell their vocabulary: llm.c's and nanoGPT's */
    uint64_t fingerprint;  /* of both parts: a resumed run checks that it sees the same data */
    struct corpus_memory *memory;
} corpus;

typedef struct corpus_input {
    const char *const *paths;
    size_t count;
    const tokenizer *tokenizer; /* NULL: foreign shards only, */
    const char *missing;        /* and why, for messages; may be NULL */
    int64_t vocab;              /* of foreign shards; 0: they are refused */
    double heldout_fraction;
    bool evaluation; /* of a folder of shards, take what is held out (all, where nothing is) into train */
    bool raw;        /* the paths are files of uint16 ids without a header */
} corpus_input;

/* Each text file is encoded by itself, with the special tokens that the tokenizer puts around a text.
 * paths: files, folders and shards (*.bin with our header or llm.c's, named outright; a folder with our manifest.json; docs/formats.md). A file
 * named outright is read whatever it holds; inside a folder a file is text when its first 8 KiB hold no NUL byte; hidden files and links to
 * folders are passed over. The last heldout_fraction of each file's tokens is held out; 0 puts all into train. A folder of shards has a split
 * of its own. A file that is missing or unreadable and a corpus without tokens are errors that name the path.
 *
 * The fingerprint is of every token of text, and of a sample of each shard's, so that it can be had of terabytes. */
fathom_status corpus_load(const corpus_input *in, corpus *out, fathom_error *err);
void corpus_free(corpus *c);

/* How many of a file's tokens, at its end, are held out. */
int64_t corpus_heldout(double fraction, int64_t count);

#endif
