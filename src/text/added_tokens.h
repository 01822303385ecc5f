/* Added tokens: texts that become one token wherever they stand, before the rest is cut into pieces. */
#ifndef FATHOM_TEXT_ADDED_TOKENS_H
#define FATHOM_TEXT_ADDED_TOKENS_H

#include "text/bpe.h"

typedef struct added_token {
    token_text text; /* at most ADDED_TOKEN_MOST bytes */
    int32_t id;
    uint32_t order; /* in the file */
    bool single_word;    /* not where a word's character stands right before or behind */
    bool lstrip, rstrip; /* swallows the white space before, behind */
    bool normalized;     /* stands in normalized text */
    bool special;
} added_token;

enum { ADDED_TOKEN_MOST = 512 };

/* Sorted by text, no text twice; texts are borrowed. Immutable. */
typedef struct added_set {
    added_token *items;
    size_t count;
    size_t begin[257]; /* items that begin with byte c: begin[c] .. begin[c + 1] */
} added_set;

/* Takes items, an array from malloc. Of two with one text the special one stays, then the first. */
void added_set_make(added_set *s, added_token *items, size_t count);
void added_set_free(added_set *s);

typedef struct added_match {
    size_t begin, end; /* with the white space that is swallowed */
    int32_t id;
} added_match;
typedef struct added_search {
    const added_set *set;
    const char *text; /* valid UTF-8 */
    bool ordinary;    /* special tokens are passed over: their text is text */
    size_t bytes, at, done; /* done: behind the last match */
    size_t spaces, spaces_end; /* the white space last looked through to the right: each is passed over once */
} added_search;
/* The next match: leftmost, then longest. */
bool added_search_next(added_search *s, added_match *out);

#endif
