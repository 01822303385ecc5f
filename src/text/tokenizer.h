/* Text to token ids and back. The byte tokenizer has 256 ids, id = byte value; it is written as a Hugging Face
 * tokenizer.json (byte-level BPE without merges), so that other tools read it. Immutable after creation; shared
 * freely. */
#ifndef FATHOM_TEXT_TOKENIZER_H
#define FATHOM_TEXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct tokenizer tokenizer;

fathom_status tokenizer_bytes(tokenizer **out, fathom_error *err);
/* Reads tokenizer.json. This build knows the byte tokenizer; another kind is refused by name. */
fathom_status tokenizer_load(const char *path, tokenizer **out, fathom_error *err);
fathom_status tokenizer_save(const tokenizer *t, const char *path, fathom_error *err);
void tokenizer_free(tokenizer *t);
int64_t tokenizer_vocab(const tokenizer *t);
/* Writes at most capacity ids to ids and returns the number needed. */
size_t tokenizer_encode(const tokenizer *t, const char *text, size_t bytes, int32_t *ids, size_t capacity);
/* The bytes of one id, borrowed; NULL for an id outside the vocabulary. */
const char *tokenizer_text(const tokenizer *t, int32_t id, size_t *bytes);

#endif
