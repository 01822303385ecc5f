/* Keys and values in pages: see kv.h. */
#include "model/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int64_t pages_of(int64_t tokens)
{
    return (tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

int64_t kv_pages_for(const model_config *c, int64_t tokens)
{
    return c->layers * pages_of(tokens);
}

int64_t kv_tokens_in(const model_config *c, int64_t pages)
{
    return pages / c->layers * KV_PAGE_TOKENS;
}

static int64_t page_floats(const model_config *c)
{
    return c->kv_heads * KV_PAGE_TOKENS * c->head_dim;
}

size_t kv_page_bytes(const model_config *c)
{
    return 2 * (size_t)page_floats(c) * sizeof(float);
}

fathom_status kv_pool_new(const kernels *kn, const model_config *c, int64_t pages, int64_t sequences, int64_t rows, kv_pool **out,
                          fathom_error *err)
{
    *out = NULL;
    kv_pool *p = calloc(1, sizeof *p);
    if (!p)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    *p = (kv_pool){.kn = kn, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .layers = c->layers, .pages = pages,
                   .free_count = pages, .page_floats = page_floats(c), .sequences = sequences, .rows = rows};
    const int64_t longest = pages_of(c->seq_len);
    const size_t bytes = (size_t)pages * (size_t)p->page_floats * sizeof(float), table = (size_t)(sequences * longest);
    const bool fits = pages <= INT32_MAX / KV_PAGE_TOKENS;
    if (fits) {
        p->k = kn->mem_alloc(kn, bytes);
        p->v = kn->mem_alloc(kn, bytes);
        p->table = kn->mem_alloc(kn, table * sizeof *p->table);
        p->slot = kn->mem_alloc(kn, (size_t)rows * sizeof *p->slot);
        p->free_page = calloc((size_t)pages, sizeof *p->free_page);
        p->refs = calloc((size_t)pages, sizeof *p->refs);
        p->position = calloc((size_t)pages, KV_PAGE_TOKENS * sizeof *p->position);
        p->host_table = calloc(table, sizeof *p->host_table);
        p->host_slot = calloc((size_t)rows, sizeof *p->host_slot);
        p->table_start = calloc((size_t)sequences + 1, sizeof *p->table_start);
        p->key_start = calloc((size_t)sequences + 1, sizeof *p->key_start);
    }
    if (!p->k || !p->v || !p->table || !p->slot || !p->free_page || !p->refs || !p->position || !p->host_table || !p->host_slot ||
        !p->table_start || !p->key_start) {
        kv_pool_free(p);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: keys and values in %lld pages take %.1f MB", (long long)pages,
                           2e-6 * (double)bytes);
    }
    for (int64_t i = 0; i < pages; i++) /* the lowest first: memory that was never used is never touched */
        p->free_page[i] = (int32_t)(pages - 1 - i);
    *out = p;
    return FATHOM_OK;
}

void kv_pool_free(kv_pool *p)
{
    if (!p)
        return;
    void *const device[] = {p->k, p->v, p->table, p->slot};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        if (device[i])
            p->kn->mem_free(p->kn, device[i]);
    void *const host[] = {p->free_page, p->refs, p->position, p->host_table, p->host_slot, p->table_start, p->key_start, p};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
}

fathom_status kv_sequence_new(const model_config *c, int64_t tokens, kv_sequence *out, fathom_error *err)
{
    const int64_t capacity = pages_of(tokens);
    *out = (kv_sequence){.layers = c->layers, .layer = calloc((size_t)c->layers, sizeof *out->layer)};
    int32_t *pages = calloc((size_t)(c->layers * capacity), sizeof *pages);
    if (!out->layer || !pages) {
        free(out->layer);
        free(pages);
        *out = (kv_sequence){0};
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    for (int64_t l = 0; l < c->layers; l++)
        out->layer[l] = (kv_layer){.page = pages + l * capacity, .capacity = capacity};
    return FATHOM_OK;
}

void kv_sequence_free(kv_sequence *s)
{
    if (s->layer)
        free(s->layer[0].page);
    free(s->layer);
    *s = (kv_sequence){0};
}

static int32_t take(kv_pool *pool)
{
    assert(pool->free_count > 0);
    const int32_t page = pool->free_page[--pool->free_count];
    pool->refs[page] = 1;
    return page;
}

static void give(kv_pool *pool, int32_t page)
{
    assert(pool->refs[page] > 0);
    if (--pool->refs[page] == 0)
        pool->free_page[pool->free_count++] = page;
}

/* The last page is begun and somebody else holds it too. */
static bool shares_tail(const kv_pool *pool, const kv_layer *l)
{
    return l->length % KV_PAGE_TOKENS != 0 && pool->refs[l->page[l->length / KV_PAGE_TOKENS]] > 1;
}

static void copy_page(kv_pool *pool, int32_t to, int32_t from)
{
    const kernels *kn = pool->kn;
    const size_t bytes = (size_t)pool->page_floats * sizeof(float);
    kn->mem_copy(kn, pool->k + to * pool->page_floats, pool->k + from * pool->page_floats, bytes);
    kn->mem_copy(kn, pool->v + to * pool->page_floats, pool->v + from * pool->page_floats, bytes);
    memcpy(pool->position + to * KV_PAGE_TOKENS, pool->position + from * KV_PAGE_TOKENS, KV_PAGE_TOKENS * sizeof *pool->position);
}

bool kv_reserve(kv_pool *pool, kv_sequence *s, int64_t tokens)
{
    int64_t wanted = 0;
    for (int64_t i = 0; i < s->layers; i++) {
        const kv_layer *l = &s->layer[i];
        const int64_t pages = pages_of(l->length + tokens);
        assert(pages <= l->capacity);
        wanted += (pages > l->pages ? pages - l->pages : 0) + shares_tail(pool, l);
    }
    if (wanted > pool->free_count)
        return false;
    for (int64_t i = 0; i < s->layers; i++) {
        kv_layer *l = &s->layer[i];
        if (shares_tail(pool, l)) {
            int32_t *tail = &l->page[l->length / KV_PAGE_TOKENS];
            const int32_t own = take(pool);
            copy_page(pool, own, *tail);
            give(pool, *tail);
            *tail = own;
        }
        while (l->pages < pages_of(l->length + tokens))
            l->page[l->pages++] = take(pool);
    }
    return true;
}

void kv_trim(kv_pool *pool, kv_sequence *s)
{
    for (int64_t i = 0; i < s->layers; i++) {
        kv_layer *l = &s->layer[i];
        while (l->pages > pages_of(l->length))
            give(pool, l->page[--l->pages]);
    }
}

void kv_clear(kv_pool *pool, kv_sequence *s)
{
    for (int64_t i = 0; i < s->layers; i++)
        s->layer[i].length = 0;
    s->length = 0;
    kv_trim(pool, s);
}

/* How many of a layer's keys belong to the first `tokens` tokens: positions ascend. */
static int64_t keys_before(const kv_pool *pool, const kv_layer *l, int64_t tokens)
{
    int64_t low = 0, high = l->length;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (pool->position[l->page[middle / KV_PAGE_TOKENS] * KV_PAGE_TOKENS + middle % KV_PAGE_TOKENS] < tokens)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void kv_share(kv_pool *pool, kv_sequence *to, const kv_sequence *from, int64_t tokens)
{
    assert(to->length == 0 && tokens <= from->length);
    kv_clear(pool, to);
    for (int64_t i = 0; i < to->layers; i++) {
        kv_layer *l = &to->layer[i];
        l->length = keys_before(pool, &from->layer[i], tokens);
        l->pages = pages_of(l->length);
        for (int64_t p = 0; p < l->pages; p++) {
            l->page[p] = from->layer[i].page[p];
            pool->refs[l->page[p]]++;
        }
    }
    to->length = tokens;
}

void kv_append(kv_pool *pool, kv_sequence *const *sequence, int64_t layer, int64_t sequences, const int32_t *start,
               const int32_t *position, attention_args *a)
{
    const kernels *kn = pool->kn;
    const int64_t rows = start[sequences];
    int32_t pages = 0;
    assert(sequences <= pool->sequences && rows <= pool->rows);
    pool->table_start[0] = pool->key_start[0] = 0;
    for (int64_t s = 0; s < sequences; s++) {
        kv_layer *l = &sequence[s]->layer[layer];
        for (int32_t i = start[s]; i < start[s + 1]; i++, l->length++) {
            const int32_t slot = l->page[l->length / KV_PAGE_TOKENS] * KV_PAGE_TOKENS + (int32_t)(l->length % KV_PAGE_TOKENS);
            pool->host_slot[i] = slot;
            pool->position[slot] = position[i];
        }
        const int64_t held = pages_of(l->length);
        memcpy(pool->host_table + pages, l->page, (size_t)held * sizeof *l->page);
        pages += (int32_t)held;
        pool->table_start[s + 1] = pages;
        pool->key_start[s + 1] = pool->key_start[s] + (int32_t)l->length;
    }
    kn->mem_upload(kn, pool->slot, pool->host_slot, (size_t)rows * sizeof *pool->slot);
    kn->mem_upload(kn, pool->table, pool->host_table, (size_t)pages * sizeof *pool->table);
    if (rows > 0)
        kn->kv_store(kn, &(kv_store_args){.n = rows, .kv_heads = pool->kv_heads, .head_dim = pool->head_dim, .stride = a->kv_stride,
                                          .k = a->k, .v = a->v, .slot = pool->slot, .page_keys = KV_PAGE_TOKENS,
                                          .to_k = pool->k, .to_v = pool->v});
    a->k = pool->k;
    a->v = pool->v;
    a->kv_stride = pool->head_dim;
    a->kv_head_stride = KV_PAGE_TOKENS * pool->head_dim;
    a->kv_start = pool->key_start;
    a->page = pool->table;
    a->page_start = pool->table_start;
    a->page_keys = KV_PAGE_TOKENS;
    a->page_stride = pool->page_floats;
}
