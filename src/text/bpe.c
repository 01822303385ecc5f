/* Byte-pair encoding: see bpe.h. Both tables are open hash tables, at most half full, whose probes go to the next slot. */
#include "text/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES = 256, SHORT = 32 };

static const uint32_t NO_RANK = UINT32_MAX;

typedef struct merge {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank;
    int32_t made; /* -1: an empty slot */
} merge;

struct bpe {
    char *text; /* of all tokens, one behind the other */
    size_t *offset; /* [vocab + 1] */
    int64_t vocab;
    int32_t *by_text; /* [text_slots] ids, -1 where empty */
    merge *by_pair;   /* [pair_slots] */
    uint64_t text_mask, pair_mask;
    int64_t merges, room;
    uint64_t steps; /* that filling the tables took beyond first slots */
    int32_t byte[BYTES];
};

uint64_t bpe_hash(const char *text, size_t bytes)
{
    uint64_t hash = 0xcbf29ce484222325u ^ bytes;
    while (bytes >= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
        text += 8;
        bytes -= 8;
    }
    uint64_t word = 0;
    if (bytes > 0)
        memcpy(&word, text, bytes);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

static uint64_t hash_pair(uint64_t pair)
{
    pair *= 0x9E3779B97F4A7C15u;
    return pair ^ pair >> 32;
}

/* A power of two, at least twice n. */
static uint64_t slots_for(int64_t n)
{
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)n)
        slots *= 2;
    return slots;
}

token_text bpe_text(const bpe *b, int32_t id)
{
    if (id < 0 || id >= b->vocab)
        return (token_text){NULL, 0};
    return (token_text){b->text + b->offset[id], b->offset[id + 1] - b->offset[id]};
}

int32_t bpe_byte(const bpe *b, unsigned char byte)
{
    return b->byte[byte];
}

int64_t bpe_merges(const bpe *b)
{
    return b->merges;
}

/* The slot that holds these bytes, or the empty one where they belong. */
static uint64_t text_slot(const bpe *b, const char *text, size_t bytes)
{
    for (uint64_t slot = bpe_hash(text, bytes) & b->text_mask;; slot = (slot + 1) & b->text_mask) {
        if (b->by_text[slot] < 0)
            return slot;
        const token_text t = bpe_text(b, b->by_text[slot]);
        if (t.bytes == bytes && memcmp(t.text, text, bytes) == 0)
            return slot;
    }
}

int32_t bpe_find(const bpe *b, const char *text, size_t bytes)
{
    return bytes ? b->by_text[text_slot(b, text, bytes)] : -1;
}

static merge *pair_slot(const bpe *b, uint64_t pair)
{
    for (uint64_t slot = hash_pair(pair) & b->pair_mask;; slot = (slot + 1) & b->pair_mask)
        if (b->by_pair[slot].made < 0 || b->by_pair[slot].pair == pair)
            return &b->by_pair[slot];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* Both hashes are known, so a file can be made whose tokens all fall into one place; filling a table would then take the square of their
 * number. Honest ones take less than a step each. */
static fathom_status count_steps(bpe *b, uint64_t steps, fathom_error *err)
{
    b->steps += steps;
    if (b->steps > 16 * (uint64_t)(b->vocab + b->room) + 65536)
        return status_fail(err, FATHOM_UNSUPPORTED, "its tokens or merges collide in the hash table, as if made to");
    return FATHOM_OK;
}

static fathom_status fill_texts(bpe *b, const token_text *tokens, fathom_error *err)
{
    size_t at = 0;
    for (int64_t id = 0; id < b->vocab; id++) {
        b->offset[id] = at;
        if (tokens[id].bytes > 0)
            memcpy(b->text + at, tokens[id].text, tokens[id].bytes);
        at += tokens[id].bytes;
    }
    b->offset[b->vocab] = at;
    for (int64_t id = 0; id < b->vocab; id++) {
        const token_text t = bpe_text(b, (int32_t)id);
        if (t.bytes == 0)
            continue;
        const uint64_t slot = text_slot(b, t.text, t.bytes);
        if (b->by_text[slot] >= 0)
            return status_fail(err, FATHOM_FORMAT, "ids %d and %lld stand for the same bytes", b->by_text[slot], (long long)id);
        b->by_text[slot] = (int32_t)id;
        TRY(count_steps(b, (slot - bpe_hash(t.text, t.bytes)) & b->text_mask, err));
    }
    for (int byte = 0; byte < BYTES; byte++) {
        const char text = (char)byte;
        b->byte[byte] = bpe_find(b, &text, 1);
        if (b->byte[byte] < 0)
            return status_fail(err, FATHOM_UNSUPPORTED, "byte %d has no token", byte); /* the file is sound, for texts without that byte */
    }
    return FATHOM_OK;
}

fathom_status bpe_new(const token_text *tokens, int64_t vocab, int64_t merges, bpe **out, fathom_error *err)
{
    assert(vocab >= 0 && vocab < INT32_MAX && merges >= 0 && merges < INT32_MAX);
    bpe *b = calloc(1, sizeof *b);
    *out = b;
    if (!b)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    size_t size = 0;
    for (int64_t id = 0; id < vocab; id++)
        size += tokens[id].bytes;
    const uint64_t text_slots = slots_for(vocab), pair_slots = slots_for(merges);
    b->vocab = vocab;
    b->room = merges;
    b->text_mask = text_slots - 1;
    b->pair_mask = pair_slots - 1;
    b->text = malloc(size + 1);
    b->offset = malloc((size_t)(vocab + 1) * sizeof *b->offset);
    b->by_text = malloc(text_slots * sizeof *b->by_text);
    b->by_pair = malloc(pair_slots * sizeof *b->by_pair);
    fathom_status status = FATHOM_OK;
    if (!b->text || !b->offset || !b->by_text || !b->by_pair) {
        status = status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory for a vocabulary of %lld", (long long)vocab);
    } else {
        memset(b->by_text, -1, text_slots * sizeof *b->by_text);
        for (uint64_t i = 0; i < pair_slots; i++)
            b->by_pair[i] = (merge){.made = -1};
        status = fill_texts(b, tokens, err);
    }
    if (status != FATHOM_OK) {
        bpe_free(b);
        *out = NULL;
    }
    return status;
}

void bpe_free(bpe *b)
{
    if (!b)
        return;
    free(b->text);
    free(b->offset);
    free(b->by_text);
    free(b->by_pair);
    free(b);
}

fathom_status bpe_add_merge(bpe *b, int32_t left, int32_t right, fathom_error *err)
{
    const token_text l = bpe_text(b, left), r = bpe_text(b, right);
    char *both = malloc(l.bytes + r.bytes + 1);
    assert(b->merges < b->room);
    if (!both)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    memcpy(both, l.text, l.bytes);
    memcpy(both + l.bytes, r.text, r.bytes);
    const int32_t made = bpe_find(b, both, l.bytes + r.bytes);
    free(both);
    if (made < 0)
        return status_fail(err, FATHOM_FORMAT, "what ids %d and %d make is not in the vocabulary", left, right);
    const uint64_t pair = pair_of(left, right);
    merge *slot = pair_slot(b, pair);
    *slot = (merge){pair, (uint32_t)b->merges++, made};
    return count_steps(b, ((uint64_t)(slot - b->by_pair) - hash_pair(pair)) & b->pair_mask, err);
}

static uint32_t rank_of(const bpe *b, int32_t left, int32_t right)
{
    const merge *m = pair_slot(b, pair_of(left, right));
    return m->made < 0 ? NO_RANK : m->rank;
}

/* rank[i]: of the pair (i, i + 1). Looks for the least each time: faster than a heap where there are few. */
static size_t encode_short(const bpe *b, const char *piece, size_t n, int32_t *ids)
{
    uint32_t rank[SHORT];
    for (size_t i = 0; i < n; i++)
        ids[i] = b->byte[(unsigned char)piece[i]];
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = rank_of(b, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            best = rank[i] < rank[best] ? i : best;
        if (rank[best] == NO_RANK)
            break;
        ids[best] = pair_slot(b, pair_of(ids[best], ids[best + 1]))->made;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        if (n - best > 2)
            memmove(rank + best, rank + best + 1, (n - best - 2) * sizeof *rank);
        n--;
        if (best > 0)
            rank[best - 1] = rank_of(b, ids[best - 1], ids[best]);
        if (best + 1 < n)
            rank[best] = rank_of(b, ids[best], ids[best + 1]);
    }
    return n;
}

/* --- long pieces: a linked list of tokens and a heap of pairs, by rank and then by place --- */

typedef struct list {
    uint32_t *next, *previous, *rank; /* [n]; rank: of the pair that begins here */
    uint64_t *heap;                   /* rank << 32 | place; [2 n] */
    size_t heap_size;
} list;

static void heap_push(list *l, uint64_t key)
{
    size_t i = l->heap_size++;
    for (; i > 0 && l->heap[(i - 1) / 2] > key; i = (i - 1) / 2)
        l->heap[i] = l->heap[(i - 1) / 2];
    l->heap[i] = key;
}

static uint64_t heap_pop(list *l)
{
    const uint64_t top = l->heap[0], key = l->heap[--l->heap_size];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < l->heap_size; i = child) {
        child += child + 1 < l->heap_size && l->heap[child + 1] < l->heap[child];
        if (l->heap[child] >= key)
            break;
        l->heap[i] = l->heap[child];
    }
    l->heap[i] = key;
    return top;
}

static void set_pair(const bpe *b, list *l, const int32_t *ids, uint32_t at, uint32_t end)
{
    l->rank[at] = l->next[at] == end ? NO_RANK : rank_of(b, ids[at], ids[l->next[at]]);
    if (l->rank[at] != NO_RANK)
        heap_push(l, (uint64_t)l->rank[at] << 32 | at);
}

/* Every merge takes one entry out of the heap and puts in two at most, and there are fewer than n: 2 n entries are enough. */
static size_t encode_long(const bpe *b, const char *piece, uint32_t n, list *l, int32_t *ids)
{
    for (uint32_t i = 0; i < n; i++) {
        ids[i] = b->byte[(unsigned char)piece[i]];
        l->next[i] = i + 1;
        l->previous[i] = i - 1; /* of the first: never used */
    }
    for (uint32_t i = 0; i < n; i++)
        set_pair(b, l, ids, i, n);
    while (l->heap_size > 0) {
        const uint64_t top = heap_pop(l);
        const uint32_t at = (uint32_t)top, rank = (uint32_t)(top >> 32);
        if (l->rank[at] != rank)
            continue; /* the pair is gone */
        const uint32_t gone = l->next[at];
        ids[at] = pair_slot(b, pair_of(ids[at], ids[gone]))->made;
        l->next[at] = l->next[gone];
        l->rank[gone] = NO_RANK;
        if (l->next[at] != n)
            l->previous[l->next[at]] = at;
        set_pair(b, l, ids, at, n);
        if (at > 0)
            set_pair(b, l, ids, l->previous[at], n);
    }
    size_t count = 0;
    for (uint32_t i = 0; i < n; i = l->next[i])
        ids[count++] = ids[i];
    return count;
}

fathom_status bpe_encode(const bpe *b, const char *piece, size_t bytes, bpe_scratch *scratch, int32_t *ids, size_t *count, fathom_error *err)
{
    if (b->merges == 0) {
        for (size_t i = 0; i < bytes; i++)
            ids[i] = b->byte[(unsigned char)piece[i]];
        *count = bytes;
        return FATHOM_OK;
    }
    if (bytes <= SHORT) {
        *count = encode_short(b, piece, bytes, ids);
        return FATHOM_OK;
    }
    if (bytes >= UINT32_MAX / 2)
        return status_fail(err, FATHOM_UNSUPPORTED, "a piece of %zu bytes", bytes);
    const size_t needed = bytes * (3 * sizeof(uint32_t) + 2 * sizeof(uint64_t));
    if (scratch->size < needed) {
        void *block = realloc(scratch->block, needed);
        if (!block)
            return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory for a piece of %zu bytes", bytes);
        *scratch = (bpe_scratch){block, needed};
    }
    uint64_t *heap = scratch->block;
    uint32_t *links = (uint32_t *)(heap + 2 * bytes);
    list l = {.heap = heap, .next = links, .previous = links + bytes, .rank = links + 2 * bytes};
    *count = encode_long(b, piece, (uint32_t)bytes, &l, ids);
    return FATHOM_OK;
}

void bpe_scratch_free(bpe_scratch *s)
{
    free(s->block);
    *s = (bpe_scratch){0};
}
