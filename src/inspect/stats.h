/* What a trace of much text says: shares by block and by kind of token, weights, and how far the blocks agree. */
#ifndef FATHOM_INSPECT_STATS_H
#define FATHOM_INSPECT_STATS_H

#include "inspect/trace.h"
#include "text/tokenizer.h"

/* By the first character that is not a space: what kind of token it is. X(NAME, "text") */
#define TOKEN_CLASS_LIST(X) X(SPACE, "space") X(LETTER, "letter") X(DIGIT, "digit") X(PUNCTUATION, "punctuation") X(OTHER, "other")
#define TOKEN_CLASS_ENUM(name, text) TOKEN_##name,
typedef enum token_class { TOKEN_CLASS_LIST(TOKEN_CLASS_ENUM) TOKEN_CLASSES } token_class;
const char *token_class_name(token_class c);
/* space: nothing but white space; other: bytes outside ASCII, control characters, no text. */
token_class token_class_of(const char *text, size_t bytes);

typedef struct class_stats {
    int64_t tokens, routed; /* routed: (token, routed layer) pairs */
} class_stats;

enum { WEIGHT_QUANTILES = 5 }; /* 5, 25, 50, 75, 95 % */

typedef struct layer_stats {
    double routed_fraction;
    double rule_accuracy; /* tokens on which the causal rule decides as top-k did; NaN unless the trace is of top-k */
    float weight[WEIGHT_QUANTILES]; /* of the routed tokens; NaN where there is none */
} layer_stats;

/* An id and the share of its (occurrence, layer) pairs that were routed. */
typedef struct token_stats {
    int32_t id;
    int64_t count;
    double routed_fraction;
} token_stats;

typedef struct inspect_stats {
    double routed_fraction;
    class_stats classes[TOKEN_CLASSES];
    int64_t layers;
    layer_stats *layer; /* [layers] */
    double *agreement;  /* [layers, layers]: correlation of what two blocks chose; NaN where one chose all or nothing */
    int64_t ids;        /* that occur often enough to count: at least 1 in 2000 tokens and 5 times */
    token_stats *id;    /* [ids], the most routed first */
} inspect_stats;

/* *out is the caller's: inspect_stats_free. */
fathom_status inspect_stats_make(const trace *t, const int32_t *tokens, const tokenizer *tok, int64_t vocab, inspect_stats *out,
                                 fathom_error *err);
void inspect_stats_free(inspect_stats *s);

#endif
