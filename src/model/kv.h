/* Keys and values of sequences, in pages. A pool has pages of KV_PAGE_TOKENS tokens of one layer, handed out one by one: a sequence has
 * a list of them for each layer, and a routed layer, which holds routed tokens only, fills few. A page that several sequences begin
 * with is counted, not copied; it is copied when one of them goes on writing into it. What lies below a layer's length never changes.
 *
 * A pool and its sequences belong to one thread at a time. Nothing here allocates but the two _new. */
#ifndef FATHOM_MODEL_KV_H
#define FATHOM_MODEL_KV_H

#include "base/status.h"
#include "kernels/kernels.h"
#include "model/config.h"

enum { KV_PAGE_TOKENS = 32 };

typedef struct kv_layer {
    int32_t *page;   /* [capacity] pages of the pool, of which `pages` are this layer's */
    int64_t pages, capacity;
    int64_t length;  /* tokens held */
} kv_layer;

typedef struct kv_sequence {
    kv_layer *layer; /* [L] */
    int64_t layers;
    int64_t length;  /* tokens of the sequence, held by a layer or not */
} kv_sequence;

typedef struct kv_pool {
    const kernels *kn;
    int64_t kv_heads, head_dim, layers;
    int64_t pages, free_count;
    int64_t page_floats; /* of keys, and as many of values */
    float *k, *v;        /* the backend's [pages, h_kv, KV_PAGE_TOKENS, d_h] */
    int32_t *free_page;  /* [pages], the first free_count of which are free */
    int32_t *refs;       /* [pages] sequences that hold it */
    int32_t *position;   /* [pages, KV_PAGE_TOKENS] of each key in its sequence */
    /* what one attention of several sequences reads: their pages, where each one's begin, their lengths, where new keys go */
    int32_t *table, *slot;            /* the backend's [sequences, pages of the longest], [rows] */
    int32_t *host_table, *host_slot;
    int32_t *table_start, *key_start; /* host [sequences + 1] */
    int64_t sequences, rows;          /* the most of a pass */
} kv_pool;

/* The pages that a sequence of so many tokens takes at most, all layers together. */
int64_t kv_pages_for(const model_config *c, int64_t tokens);
/* The longest sequence that so many pages hold, whatever is routed. */
int64_t kv_tokens_in(const model_config *c, int64_t pages);
size_t kv_page_bytes(const model_config *c);

/* kn is borrowed. sequences, rows: the most that one pass appends to, and the most rows it appends. */
fathom_status kv_pool_new(const kernels *kn, const model_config *c, int64_t pages, int64_t sequences, int64_t rows, kv_pool **out,
                          fathom_error *err);
void kv_pool_free(kv_pool *pool); /* NULL is fine */

/* An empty sequence of at most `tokens` tokens. */
fathom_status kv_sequence_new(const model_config *c, int64_t tokens, kv_sequence *out, fathom_error *err);
/* Its pages must have been given back. */
void kv_sequence_free(kv_sequence *s);

/* Pages for `tokens` more in every layer, none of them shared. False, and nothing has changed, where the pool has too few. */
bool kv_reserve(kv_pool *pool, kv_sequence *s, int64_t tokens);
/* Gives back the pages that hold nothing. */
void kv_trim(kv_pool *pool, kv_sequence *s);
/* Gives back all pages; the sequence is empty. */
void kv_clear(kv_pool *pool, kv_sequence *s);
/* to, which is empty, begins with the first `tokens` tokens of `from`. */
void kv_share(kv_pool *pool, kv_sequence *to, const kv_sequence *from, int64_t tokens);

/* Some sequences' keys of one layer, for attention: `a` gets them, in the order of the sequences. start: host [sequences + 1], the rows of
 * k and v (a->k, a->v, with their stride) that are appended to each first; position: host [rows]. */
void kv_append(kv_pool *pool, kv_sequence *const *sequence, int64_t layer, int64_t sequences, const int32_t *start,
               const int32_t *position, attention_args *a);

#endif
