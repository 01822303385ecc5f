/* What a tokenizer is made of; for the files that read it and the one that runs it. */
#ifndef FATHOM_TEXT_TOKENIZER_PARTS_H
#define FATHOM_TEXT_TOKENIZER_PARTS_H

#include "format/json_stream.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/split.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

/* An id whose text byte-pair encoding neither makes nor finds. */
typedef struct own_text {
    int32_t id;
    token_text text;
} own_text;

/* Encoding: `raw` added tokens are found, what is between them is normalized, `normal` ones are found in that; what is between those is cut by
 * `outer`, each piece gets a space in front and is cut by `inner`, where there is one, and what comes out goes through `words`. */
struct fathom_tokenizer {
    char *file; /* the tokenizer.json, kept for saving */
    size_t file_bytes;
    int64_t vocab;
    bpe *words;
    bool ignore_merges; /* a piece that is a token is that token */
    bool nfc;
    splitter *outer, *inner; /* inner: NULL unless a space goes in front */
    added_set raw, normal;
    own_text *own; /* ascending ids */
    size_t own_count;
    text_buffer own_bytes, normal_bytes; /* texts of `own` and of added tokens, as they are and normalized */
    id_list before, behind;              /* what the post-processor adds */
};

/* Reads the text t->file into t; path is for messages. */
fathom_status tokenizer_json_read(tokenizer *t, const char *path, fathom_error *err);

/* A stretch of the file's text. */
typedef struct json_part {
    const char *begin;
    size_t bytes; /* 0: not there */
} json_part;
/* vocab, merges and added tokens: objects and arrays, read as a stream. Needs t->nfc. */
typedef struct vocabulary_parts {
    json_part vocab, merges, added;
} vocabulary_parts;
fathom_status tokenizer_vocabulary_read(tokenizer *t, const vocabulary_parts *parts, const char *path, fathom_error *err);

#endif
