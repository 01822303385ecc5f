/* Text to token ids and back, as Hugging Face's tokenizers do it by a tokenizer.json (docs/tokenizers.md says which). The byte tokenizer has 256
 * ids, id = byte value. A tokenizer is immutable and shared freely; an encoder belongs to one thread and borrows its tokenizer. */
#ifndef FATHOM_TEXT_TOKENIZER_H
#define FATHOM_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef fathom_tokenizer tokenizer;

fathom_status tokenizer_bytes(tokenizer **out, fathom_error *err);
/* path: a tokenizer.json, or a folder that holds one. */
fathom_status tokenizer_load(const char *path, tokenizer **out, fathom_error *err);
/* Writes the file as it was read. */
fathom_status tokenizer_save(const tokenizer *t, const char *path, fathom_error *err);
/* Both come from the same file. */
bool tokenizer_same(const tokenizer *a, const tokenizer *b);
void tokenizer_free(tokenizer *t);
/* The highest id + 1; there may be ids without text below it. */
int64_t tokenizer_vocab(const tokenizer *t);
/* The id of the added token that is spelled so; -1 where there is none. */
int32_t tokenizer_added(const tokenizer *t, const char *text, size_t bytes);
/* The bytes of one id, borrowed; NULL for an id outside the vocabulary. */
const char *tokenizer_text(const tokenizer *t, int32_t id, size_t *bytes);

/* A growing list, zeroed at first. */
typedef struct id_list {
    int32_t *ids;
    size_t count, capacity;
} id_list;
fathom_status id_list_reserve(id_list *l, size_t more, fathom_error *err);
void id_list_free(id_list *l);

/* What one thread needs for encoding: it remembers words, so keep it for more than one text. */
typedef struct encoder encoder;
fathom_status encoder_new(const tokenizer *t, encoder **out, fathom_error *err);
void encoder_free(encoder *e);
/* Appends the text's ids; special: with those that the post-processor puts before and behind. Bytes that are not UTF-8 become their
 * bytes' tokens. On failure the list holds some of them. */
fathom_status encoder_add(encoder *e, const char *text, size_t bytes, bool special, id_list *out, fathom_error *err);
/* The same without the post-processor, for text from anybody: what spells a special token is text in it. */
fathom_status encoder_add_ordinary(encoder *e, const char *text, size_t bytes, id_list *out, fathom_error *err);
/* Appends the ids that the post-processor puts before a text. */
fathom_status encoder_add_before(encoder *e, id_list *out, fathom_error *err);
/* How many ids the post-processor puts before and behind. */
void tokenizer_special_counts(const tokenizer *t, size_t *before, size_t *behind);
/* The same with an encoder of its own. */
fathom_status tokenizer_encode(const tokenizer *t, const char *text, size_t bytes, bool special, id_list *out, fathom_error *err);

#endif
