/* Pre-tokenization: text is cut into pieces, which byte-pair encoding then treats one by one, as Hugging Face tokenizers do it: a chain of
 * regular expressions, each with a rule for what becomes of its matches. Patterns are written for Oniguruma (Ruby's syntax, Unicode); the
 * part of that syntax which PCRE2 reads alike, or can be rewritten to, is taken, anything else is refused. */
#ifndef FATHOM_TEXT_SPLIT_H
#define FATHOM_TEXT_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef enum split_behavior {
    SPLIT_REMOVED,         /* matches are dropped */
    SPLIT_ISOLATED,        /* matches are pieces */
    SPLIT_MERGED_PREVIOUS, /* a match goes to the end of the piece before it */
    SPLIT_MERGED_NEXT,     /* or to the beginning of the piece behind it */
    SPLIT_CONTIGUOUS,      /* adjacent matches are one piece */
} split_behavior;
bool split_behavior_parse(const char *name, split_behavior *out);

/* The patterns of GPT-2 (of ByteLevel itself, too) and of Llama 3. */
extern const char split_pattern_gpt2[], split_pattern_llama3[];

/* A chain of steps; immutable once built, shared freely. */
typedef struct splitter splitter;
fathom_status splitter_new(splitter **out, fathom_error *err);
void splitter_free(splitter *s);
typedef struct split_step {
    const char *pattern; /* terminated */
    bool literal;        /* the pattern is the text itself */
    split_behavior behavior;
    bool invert; /* what the pattern does not match counts as matched */
} split_step;
/* FATHOM_UNSUPPORTED for syntax that is not taken, FATHOM_FORMAT for what is no pattern; messages have no file name. */
fathom_status splitter_add(splitter *s, const split_step *step, fathom_error *err);

/* What one thread needs for running it. */
typedef struct split_run split_run;
fathom_status split_run_new(const splitter *s, split_run **out, fathom_error *err);
void split_run_free(split_run *r);

typedef fathom_status (*split_sink)(void *user, const char *piece, size_t bytes, fathom_error *err);
/* Calls sink with each piece of the text, valid UTF-8, in order; pieces are parts of the text and never empty. Fails with what sink
 * returns, or where a pattern takes more than its limit of steps. */
fathom_status split_text(split_run *r, const char *text, size_t bytes, split_sink sink, void *user, fathom_error *err);

#endif
