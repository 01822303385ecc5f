/* Learning merges: see bpe_train.h.
 *
 * All distinct pieces lie one behind the other in one array of slots, a slot a byte and a bound behind each piece; a token is kept in its
 * first and in its last slot, the others hold NONE, so that from a token both neighbours are found by its length. A pair's slots are listed
 * when it comes into being, which for all pairs with a new token is the merge that makes this token: later a pair only gets rarer. (No token
 * is made twice, by two pairs: within bounds that no merge crosses, the same bytes always merge in the same way.) So a list is
 * complete and ascending, entries that no longer hold are seen as such, and what is too rare at first is never looked at again. The heap has
 * one entry a pair, whose count may be too high: then it goes back with the true one. The work is O(n log n) in the slots whatever the
 * text. */
#include "text/bpe_train.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "text/byte_level.h"

enum { BYTES = 256, NONE = -1, PAIRS_LEAST = 1024 };

static const uint64_t EMPTY = UINT64_MAX;

/* Two symbols side by side. Symbols are ids but for bytes, which have the rank of their characters: the order of keys is that of ties. */
typedef struct pair {
    uint64_t key; /* left << 32 | right */
    int64_t count;
    uint32_t *slots; /* [n] of its left symbol: ascending, all that there are and some that were */
    size_t n;
} pair;

typedef struct heap_entry {
    int64_t count;
    uint64_t key;
} heap_entry;

/* Pieces that are equally frequent lie together: [first, the next group's first). */
typedef struct group {
    uint32_t first;
    int64_t count;
} group;

/* A new token's pairs with one symbol. */
typedef struct tally {
    int64_t count;
    size_t n;
    uint32_t *slots; /* NULL: too rare */
} tally;

typedef struct learner {
    int32_t *symbol; /* [slots] */
    uint32_t slots;
    uint32_t *length; /* [symbols]: bytes */
    group *groups;
    size_t group_count;
    pair *pairs; /* open hash table, at most half full */
    size_t pair_slots, pair_count;
    heap_entry *heap;
    size_t heap_size, heap_capacity;
    tally *tallies;    /* [symbols, 2]: of (symbol, new) and of (new, symbol); zero between merges */
    uint32_t *touched; /* [symbols, 2]: which are not zero */
    int64_t min_count, tokens;
} learner;

static fathom_status no_memory(fathom_error *err)
{
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "learning merges: out of memory");
}

/* --- pairs --- */

static uint64_t key_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The pair, or the empty place where it belongs. */
static pair *find_pair(const learner *l, uint64_t key)
{
    const uint64_t hash = key * 0x9E3779B97F4A7C15u;
    for (size_t i = (hash ^ hash >> 32) & (l->pair_slots - 1);; i = (i + 1) & (l->pair_slots - 1))
        if (l->pairs[i].key == key || l->pairs[i].key == EMPTY)
            return &l->pairs[i];
}

static fathom_status grow_pairs(learner *l, fathom_error *err)
{
    const size_t old = l->pair_slots, slots = old ? 2 * old : PAIRS_LEAST;
    pair *before = l->pairs, *pairs = malloc(slots * sizeof *pairs);
    if (!pairs)
        return no_memory(err);
    for (size_t i = 0; i < slots; i++)
        pairs[i] = (pair){.key = EMPTY};
    l->pairs = pairs;
    l->pair_slots = slots;
    for (size_t i = 0; i < old; i++)
        if (before[i].key != EMPTY)
            *find_pair(l, before[i].key) = before[i];
    free(before);
    return FATHOM_OK;
}

static bool above(const heap_entry *a, const heap_entry *b)
{
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void heap_sink(learner *l, heap_entry e)
{
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < l->heap_size; i = child) {
        child += child + 1 < l->heap_size && above(&l->heap[child + 1], &l->heap[child]);
        if (!above(&l->heap[child], &e))
            break;
        l->heap[i] = l->heap[child];
    }
    l->heap[i] = e;
}

static fathom_status heap_push(learner *l, heap_entry e, fathom_error *err)
{
    if (l->heap_size == l->heap_capacity) {
        const size_t capacity = l->heap_capacity ? 2 * l->heap_capacity : PAIRS_LEAST;
        heap_entry *heap = realloc(l->heap, capacity * sizeof *heap);
        if (!heap)
            return no_memory(err);
        l->heap = heap;
        l->heap_capacity = capacity;
    }
    size_t i = l->heap_size++;
    for (; i > 0 && above(&e, &l->heap[(i - 1) / 2]); i = (i - 1) / 2)
        l->heap[i] = l->heap[(i - 1) / 2];
    l->heap[i] = e;
    return FATHOM_OK;
}

/* A new pair, frequent enough, with room for its t->n slots, which are then to be filled in: t->n is 0 afterwards. */
static fathom_status add_pair(learner *l, uint64_t key, tally *t, fathom_error *err)
{
    if (2 * (l->pair_count + 1) > l->pair_slots)
        TRY(grow_pairs(l, err));
    TRY(heap_push(l, (heap_entry){t->count, key}, err));
    pair *p = find_pair(l, key);
    assert(p->key == EMPTY);
    t->slots = malloc(t->n * sizeof *t->slots);
    if (!t->slots)
        return no_memory(err);
    *p = (pair){key, t->count, t->slots, t->n};
    t->n = 0;
    l->pair_count++;
    return FATHOM_OK;
}

/* One that is too rare to be merged was never listed, or is forgotten now. */
static void make_rarer(learner *l, uint64_t key, int64_t count)
{
    pair *p = find_pair(l, key);
    if (p->key == EMPTY)
        return;
    p->count -= count;
    if (p->count < l->min_count) {
        free(p->slots);
        p->slots = NULL;
    }
}

/* --- the slots --- */

static int by_count(const void *a, const void *b)
{
    const piece *x = *(const piece *const *)a, *y = *(const piece *const *)b;
    return (x->count < y->count) - (x->count > y->count);
}

static int64_t weight_of(const learner *l, uint32_t slot)
{
    size_t low = 0, high = l->group_count; /* groups[low].first <= slot */
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (l->groups[middle].first <= slot)
            low = middle;
        else
            high = middle;
    }
    return l->groups[low].count;
}

static void byte_symbols(int32_t symbol_of[BYTES])
{
    for (int byte = 0; byte < BYTES; byte++) {
        symbol_of[byte] = 0;
        for (int other = 0; other < BYTES; other++)
            symbol_of[byte] += byte_level_character((unsigned char)other) < byte_level_character((unsigned char)byte);
    }
}

static fathom_status fill_slots(learner *l, const piece_table *t, fathom_error *err)
{
    const piece **sorted = malloc((t->count + 1) * sizeof *sorted);
    size_t n = 0, slots = 1, groups = 0;
    int32_t symbol_of[BYTES];
    if (!sorted)
        return no_memory(err);
    for (size_t i = 0; i < t->count; i++) {
        l->tokens += t->items[i].count * t->items[i].bytes;
        if (t->items[i].bytes < 2)
            continue;
        sorted[n++] = &t->items[i];
        slots += t->items[i].bytes + (size_t)1;
    }
    qsort(sorted, n, sizeof *sorted, by_count);
    for (size_t i = 0; i < n; i++)
        groups += i == 0 || sorted[i]->count != sorted[i - 1]->count;
    fathom_status status = FATHOM_OK;
    if (slots > UINT32_MAX)
        status = status_fail(err, FATHOM_UNSUPPORTED, "%zu bytes of distinct pieces: more than 4 GiB", slots);
    else if (!(l->symbol = malloc(slots * sizeof *l->symbol)) || !(l->groups = malloc((groups + 1) * sizeof *l->groups)))
        status = no_memory(err);
    byte_symbols(symbol_of);
    uint32_t at = 0;
    for (size_t i = 0; i < n && status == FATHOM_OK; i++) {
        const unsigned char *text = (const unsigned char *)t->text.data + sorted[i]->offset;
        l->symbol[at++] = NONE;
        if (i == 0 || sorted[i]->count != sorted[i - 1]->count)
            l->groups[l->group_count++] = (group){at, sorted[i]->count};
        for (uint32_t j = 0; j < sorted[i]->bytes; j++)
            l->symbol[at++] = symbol_of[text[j]];
    }
    if (status == FATHOM_OK)
        l->symbol[at++] = NONE;
    l->slots = at;
    free(sorted);
    return status;
}

/* The pairs of bytes. */
static fathom_status first_pairs(learner *l, fathom_error *err)
{
    tally *all = calloc(BYTES * BYTES, sizeof *all);
    if (!all)
        return no_memory(err);
    for (uint32_t i = 1; i + 1 < l->slots; i++)
        if (l->symbol[i] != NONE && l->symbol[i + 1] != NONE) {
            tally *t = &all[l->symbol[i] * BYTES + l->symbol[i + 1]];
            t->count += weight_of(l, i);
            t->n++;
        }
    fathom_status status = FATHOM_OK;
    for (int32_t i = 0; i < BYTES * BYTES && status == FATHOM_OK; i++)
        if (all[i].count >= l->min_count)
            status = add_pair(l, key_of(i / BYTES, i % BYTES), &all[i], err);
    for (uint32_t i = 1; i + 1 < l->slots && status == FATHOM_OK; i++)
        if (l->symbol[i] != NONE && l->symbol[i + 1] != NONE) {
            tally *t = &all[l->symbol[i] * BYTES + l->symbol[i + 1]];
            if (t->slots)
                t->slots[t->n++] = i;
        }
    free(all);
    return status;
}

/* --- one merge --- */

/* Joins the pair wherever it still is, from left to right; keeps, in the list, the slots of the new token and returns their number. */
static size_t join(learner *l, const pair *p, int32_t made)
{
    const int32_t left = (int32_t)(p->key >> 32), right = (int32_t)(uint32_t)p->key;
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) {
        const uint32_t at = p->slots[i], middle = at + l->length[left];
        if (l->symbol[at] != left || l->symbol[middle] != right)
            continue;
        const uint32_t end = middle + l->length[right];
        const int32_t before = l->symbol[at - 1], behind = l->symbol[end];
        const int64_t weight = weight_of(l, at);
        if (before != NONE)
            make_rarer(l, key_of(before, left), weight);
        if (behind != NONE)
            make_rarer(l, key_of(right, behind), weight);
        l->symbol[middle - 1] = l->symbol[middle] = NONE;
        l->symbol[at] = l->symbol[end - 1] = made;
        l->tokens -= weight;
        p->slots[n++] = at;
    }
    return n;
}

/* What stands before the new token and behind it, NONE where nothing does. Two new tokens side by side are the left one's pair. */
static void neighbours(const learner *l, uint32_t at, int32_t made, int32_t around[2])
{
    around[0] = l->symbol[at - 1] == made ? NONE : l->symbol[at - 1];
    around[1] = l->symbol[at + l->length[made]];
}

/* The pairs of the token that was made in these slots. */
static fathom_status new_pairs(learner *l, const uint32_t *slots, size_t n, int32_t made, fathom_error *err)
{
    fathom_status status = FATHOM_OK;
    int32_t around[2];
    size_t touched = 0;
    for (size_t i = 0; i < n; i++) {
        neighbours(l, slots[i], made, around);
        for (uint32_t side = 0; side < 2; side++)
            if (around[side] != NONE) {
                const uint32_t index = 2 * (uint32_t)around[side] + side;
                tally *t = &l->tallies[index];
                if (t->n++ == 0)
                    l->touched[touched++] = index;
                t->count += weight_of(l, slots[i]);
            }
    }
    for (size_t i = 0; i < touched && status == FATHOM_OK; i++) {
        tally *t = &l->tallies[l->touched[i]];
        const int32_t other = (int32_t)(l->touched[i] / 2);
        if (t->count >= l->min_count)
            status = add_pair(l, l->touched[i] % 2 ? key_of(made, other) : key_of(other, made), t, err);
    }
    for (size_t i = 0; i < n && status == FATHOM_OK; i++) {
        neighbours(l, slots[i], made, around);
        for (uint32_t side = 0; side < 2; side++) {
            tally *t = around[side] == NONE ? NULL : &l->tallies[2 * (uint32_t)around[side] + side];
            if (t && t->slots)
                t->slots[t->n++] = side ? slots[i] : slots[i] - l->length[around[side]];
        }
    }
    for (size_t i = 0; i < touched; i++)
        l->tallies[l->touched[i]] = (tally){0};
    return status;
}

/* The pair to merge next, whose list is now the caller's; false where none is frequent enough. */
static bool next_pair(learner *l, pair *out)
{
    while (l->heap_size > 0) {
        const heap_entry top = l->heap[0];
        pair *p = find_pair(l, top.key);
        if (p->count == top.count || p->count < l->min_count) {
            l->heap_size--;
            heap_sink(l, l->heap[l->heap_size]);
        } else {
            heap_sink(l, (heap_entry){p->count, p->key});
        }
        if (p->count == top.count) {
            *out = *p;
            p->slots = NULL;
            return true;
        }
    }
    return false;
}

static fathom_status learn(learner *l, const bpe_train_input *in, bpe_learnt *out, fathom_error *err)
{
    pair p;
    while (out->count < in->merges && next_pair(l, &p)) {
        const int32_t left = (int32_t)(p.key >> 32), right = (int32_t)(uint32_t)p.key, made = BYTES + (int32_t)out->count;
        l->length[made] = l->length[left] + l->length[right];
        out->merges[out->count++] = (bpe_merge){left, right};
        const size_t n = join(l, &p, made);
        const fathom_status status = new_pairs(l, p.slots, n, made, err);
        free(p.slots);
        TRY(status);
        if (in->progress)
            in->progress(in->user, out->count);
    }
    return FATHOM_OK;
}

static fathom_status prepare(learner *l, const bpe_train_input *in, bpe_learnt *out, fathom_error *err)
{
    const size_t symbols = BYTES + (size_t)in->merges;
    out->merges = malloc((size_t)(in->merges + 1) * sizeof *out->merges);
    l->length = malloc(symbols * sizeof *l->length);
    l->tallies = calloc(2 * symbols, sizeof *l->tallies);
    l->touched = malloc(2 * symbols * sizeof *l->touched);
    if (!out->merges || !l->length || !l->tallies || !l->touched)
        return no_memory(err);
    for (int i = 0; i < BYTES; i++)
        l->length[i] = 1;
    TRY(fill_slots(l, in->pieces, err));
    return first_pairs(l, err);
}

static void learner_free(learner *l)
{
    for (size_t i = 0; i < l->pair_slots; i++)
        free(l->pairs[i].slots);
    free(l->pairs);
    free(l->symbol);
    free(l->length);
    free(l->groups);
    free(l->heap);
    free(l->tallies);
    free(l->touched);
}

/* From symbols to ids. */
static void name_bytes(bpe_learnt *out)
{
    int32_t symbol_of[BYTES], id_of[BYTES];
    byte_symbols(symbol_of);
    for (int byte = 0; byte < BYTES; byte++)
        id_of[symbol_of[byte]] = byte;
    for (int64_t i = 0; i < out->count; i++) {
        bpe_merge *m = &out->merges[i];
        m->left = m->left < BYTES ? id_of[m->left] : m->left;
        m->right = m->right < BYTES ? id_of[m->right] : m->right;
    }
}

fathom_status bpe_train(const bpe_train_input *in, bpe_learnt *out, fathom_error *err)
{
    assert(in->merges >= 0 && in->merges < 1 << 30 && in->min_count >= 1);
    learner l = {.min_count = in->min_count};
    *out = (bpe_learnt){0};
    fathom_status status = prepare(&l, in, out, err);
    if (status == FATHOM_OK)
        status = learn(&l, in, out, err);
    out->tokens = l.tokens;
    learner_free(&l);
    if (status != FATHOM_OK) {
        free(out->merges);
        *out = (bpe_learnt){0};
        return status;
    }
    name_bytes(out);
    return FATHOM_OK;
}
