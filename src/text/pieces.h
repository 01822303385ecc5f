/* What a tokenizer is learnt from: the distinct pieces that pre-tokenization cuts texts into, and how often each is there. */
#ifndef FATHOM_TEXT_PIECES_H
#define FATHOM_TEXT_PIECES_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "text/unicode.h"

typedef struct piece {
    size_t offset; /* of its bytes in the table's text */
    int64_t count; /* how often it was met */
    uint32_t bytes, hash;
} piece;

/* Zeroed at first. The order of the pieces means nothing. */
typedef struct piece_table {
    text_buffer text; /* of all pieces, one behind the other */
    piece *items;     /* [count] */
    size_t count, capacity;
    uint32_t *slots; /* open hash table, at most half full: index into items + 1, 0 where empty */
    size_t slot_count;
} piece_table;
fathom_status piece_table_add(piece_table *t, const char *text, size_t bytes, int64_t count, fathom_error *err);
void piece_table_free(piece_table *t);

/* The pre-tokenizations that tokenizers can be trained with. */
typedef enum piece_pattern { PIECES_GPT2, PIECES_LLAMA3 } piece_pattern;

typedef struct pieces_input {
    const char *const *paths; /* files, whatever they hold, and folders, with the text files in them (files.h) */
    size_t path_count;
    piece_pattern pattern;
    const char *const *specials; /* terminated, not empty: they are cut out of the text, and are no pieces */
    size_t special_count;
    size_t chunk; /* bytes that a thread takes at a time, about; 0 = 1 MiB */
    int threads;  /* threads_choose; the counts do not depend on it */
    void (*progress)(void *user, int64_t bytes); /* after a chunk; may be NULL. Called by one thread only */
    void *user;
} pieces_input;

typedef struct pieces_totals {
    int64_t files, files_skipped; /* read; in folders, and not text */
    int64_t bytes;                /* of the files read */
    int64_t specials;             /* how often one was met */
} pieces_totals;

/* Every file is a text by itself. A byte that is no part of
 * valid UTF-8 is a piece. On failure, whose message names the file, the table is empty. */
fathom_status pieces_count(const pieces_input *in, piece_table *out, pieces_totals *totals, fathom_error *err);

#endif
