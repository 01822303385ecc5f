/* A trained vocabulary as a tokenizer.json (Hugging Face tokenizers): byte-level BPE. */
#ifndef FATHOM_TEXT_TOKENIZER_WRITE_H
#define FATHOM_TEXT_TOKENIZER_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "text/bpe_train.h"

typedef struct trained_tokenizer {
    piece_pattern pattern;
    const bpe_merge *merges; /* [merge_count] */
    int64_t merge_count;
    const char *const *specials; /* terminated */
    size_t special_count;
} trained_tokenizer;

/* Ids: the bytes' values, then the merges' tokens, then the specials, which are no part of the model's vocabulary but added tokens, so that the
 * ids of the others do not depend on them. FATHOM_INVALID_ARGUMENT for a special that is the spelling of another token or is given twice. */
fathom_status tokenizer_write(const char *path, const trained_tokenizer *parts, fathom_error *err);

#endif
