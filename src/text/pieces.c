/* Counting pieces: see pieces.h. Threads take the files' text in chunks, each counts into a table of its own, and the tables are added up.
 *
 * A chunk ends between an ASCII letter and a space or a line feed, where both patterns always end a piece, whatever stands around: no
 * alternative of theirs matches white space behind a letter, and what follows is matched as at the beginning of a text, as neither looks
 * back. The one look-ahead, \s+(?!\S), stands behind white space, so that it never sees a chunk's end: a letter comes before. */
#include "text/pieces.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "text/files.h"
#include "text/split.h"

enum { CHUNK = 1 << 20, SLOTS_LEAST = 1024 };

/* --- the table --- */

static uint32_t hash_text(const char *text, size_t bytes)
{
    uint64_t hash = bytes;
    while (bytes > 0) {
        uint64_t word = 0;
        const size_t n = bytes < sizeof word ? bytes : sizeof word;
        memcpy(&word, text, n);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
        text += n;
        bytes -= n;
    }
    return (uint32_t)(hash ^ hash >> 32);
}

/* The slot of this piece, or the empty one where it belongs. */
static uint32_t *find_slot(const piece_table *t, const char *text, size_t bytes, uint32_t hash)
{
    for (size_t i = hash & (t->slot_count - 1);; i = (i + 1) & (t->slot_count - 1)) {
        if (t->slots[i] == 0)
            return &t->slots[i];
        const piece *p = &t->items[t->slots[i] - 1];
        if (p->hash == hash && p->bytes == bytes && memcmp(t->text.data + p->offset, text, bytes) == 0)
            return &t->slots[i];
    }
}

static fathom_status grow(piece_table *t, fathom_error *err)
{
    const size_t slot_count = t->slot_count ? 2 * t->slot_count : SLOTS_LEAST, capacity = slot_count / 2;
    if (t->count >= UINT32_MAX / 2)
        return status_fail(err, FATHOM_UNSUPPORTED, "more than %zu distinct pieces", t->count);
    piece *items = realloc(t->items, capacity * sizeof *items);
    if (items)
        t->items = items;
    uint32_t *slots = items ? calloc(slot_count, sizeof *slots) : NULL;
    if (!slots)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory for %zu distinct pieces", t->count);
    for (size_t i = 0; i < t->count; i++) {
        size_t at = t->items[i].hash & (slot_count - 1);
        while (slots[at] != 0)
            at = (at + 1) & (slot_count - 1);
        slots[at] = (uint32_t)(i + 1);
    }
    free(t->slots);
    t->slots = slots;
    t->slot_count = slot_count;
    t->capacity = capacity;
    return FATHOM_OK;
}

fathom_status piece_table_add(piece_table *t, const char *text, size_t bytes, int64_t count, fathom_error *err)
{
    if (bytes > UINT32_MAX)
        return status_fail(err, FATHOM_UNSUPPORTED, "a piece of %zu bytes", bytes);
    if (t->count == t->capacity)
        TRY(grow(t, err));
    const uint32_t hash = hash_text(text, bytes);
    uint32_t *slot = find_slot(t, text, bytes, hash);
    if (*slot == 0) {
        const size_t offset = t->text.size;
        TRY(text_buffer_add(&t->text, text, bytes, err));
        t->items[t->count++] = (piece){.offset = offset, .bytes = (uint32_t)bytes, .hash = hash};
        *slot = (uint32_t)t->count;
    }
    t->items[*slot - 1].count += count;
    return FATHOM_OK;
}

void piece_table_free(piece_table *t)
{
    text_buffer_free(&t->text);
    free(t->items);
    free(t->slots);
    *t = (piece_table){0};
}

/* --- chunks of files; what is below belongs to the thread in the critical section `pieces_reader` --- */

/* A file that is being read: closed when its last chunk is done. */
typedef struct source {
    file_map map;
    char *path;
    size_t taken; /* bytes that chunks were made of */
    int users;    /* chunks at work, and one for the reader */
} source;

typedef struct reader {
    const pieces_input *in;
    pthread_mutex_t lock; /* of all below */
    size_t next_path, next_file; /* in->paths, folder */
    path_list folder;
    source *current; /* NULL between two files */
    pieces_totals totals;
    int64_t done; /* bytes counted */
    fathom_status status;
    fathom_error error;
} reader;

typedef struct chunk {
    source *from;
    const char *text;
    size_t bytes;
} chunk;

static void source_release(source *s)
{
    if (--s->users > 0)
        return;
    file_map_close(&s->map);
    free(s->path);
    free(s);
}

/* outright: named by the caller, not found in a folder. r->current stays NULL for a file that is passed over. */
static fathom_status open_file(reader *r, const char *path, bool outright, fathom_error *err)
{
    source *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(path))) {
        free(s);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    }
    s->users = 1;
    const fathom_status status = file_map_open(path, &s->map, err);
    const bool skipped = status == FATHOM_OK && !outright && !file_is_text(&s->map);
    if (status == FATHOM_OK && !skipped) {
        r->current = s;
        r->totals.files++;
        r->totals.bytes += (int64_t)s->map.size;
        return FATHOM_OK;
    }
    r->totals.files_skipped += skipped;
    source_release(s);
    return status;
}

/* *more is false where there is no further file. */
static fathom_status open_next(reader *r, bool *more, fathom_error *err)
{
    *more = true;
    if (r->next_file < r->folder.count)
        return open_file(r, r->folder.items[r->next_file++], false, err);
    path_list_free(&r->folder);
    r->folder = (path_list){0};
    r->next_file = 0;
    if (r->next_path == r->in->path_count) {
        *more = false;
        return FATHOM_OK;
    }
    const char *path = r->in->paths[r->next_path++];
    return path_is_folder(path) ? folder_files(path, &r->folder, &r->totals.files_skipped, err) : open_file(r, path, true, err);
}

/* The longest special text that begins here; 0 where none does. */
static size_t special_at(const pieces_input *in, const char *text, size_t bytes)
{
    size_t longest = 0;
    for (size_t i = 0; i < in->special_count; i++) {
        const size_t n = strlen(in->specials[i]);
        if (n > longest && n <= bytes && memcmp(text, in->specials[i], n) == 0)
            longest = n;
    }
    return longest;
}

static bool inside_special(const pieces_input *in, const char *text, size_t bytes, size_t cut)
{
    for (size_t i = 0; i < in->special_count; i++) {
        const size_t n = strlen(in->specials[i]);
        for (size_t begin = cut < n ? 0 : cut - n + 1; begin < cut && n <= bytes - begin; begin++)
            if (memcmp(text + begin, in->specials[i], n) == 0)
                return true;
    }
    return false;
}

/* The first place from `least` on where the text may be cut; its end where there is none. */
static size_t safe_cut(const pieces_input *in, const char *text, size_t bytes, size_t least)
{
    for (size_t i = least; i < bytes; i++) {
        const unsigned char before = (unsigned char)text[i - 1] | 32;
        if ((text[i] == '\n' || text[i] == ' ') && before >= 'a' && before <= 'z' && !inside_special(in, text, bytes, i))
            return i;
    }
    return bytes;
}

static bool take_chunk(reader *r, chunk *out)
{
    bool more = true;
    while (r->status == FATHOM_OK && more) {
        source *s = r->current;
        if (s && s->taken < s->map.size) {
            const char *text = (const char *)s->map.data;
            const size_t least = r->in->chunk ? r->in->chunk : CHUNK, begin = s->taken;
            s->taken = s->map.size - begin <= least ? s->map.size : safe_cut(r->in, text, s->map.size, begin + least);
            s->users++;
            *out = (chunk){s, text + begin, s->taken - begin};
            return true;
        }
        if (s) {
            r->current = NULL;
            source_release(s);
        }
        r->status = open_next(r, &more, &r->error);
    }
    return false;
}

/* --- one thread's work --- */

typedef struct worker {
    const pieces_input *in;
    split_run *run;
    piece_table table;
    int64_t specials;
    bool special_first[256]; /* bytes that begin one */
} worker;

static fathom_status take_piece(void *user, const char *text, size_t bytes, fathom_error *err)
{
    return piece_table_add(user, text, bytes, 1, err);
}

/* Text without specials. */
static fathom_status count_stretch(worker *w, const char *text, size_t bytes, fathom_error *err)
{
    while (bytes > 0) {
        const size_t valid = utf8_valid(text, bytes);
        TRY(split_text(w->run, text, valid, take_piece, &w->table, err));
        if (valid == bytes)
            break;
        TRY(piece_table_add(&w->table, text + valid, 1, 1, err));
        text += valid + 1;
        bytes -= valid + 1;
    }
    return FATHOM_OK;
}

static fathom_status count_chunk(worker *w, const char *text, size_t bytes, fathom_error *err)
{
    size_t done = 0;
    for (size_t i = 0; i < bytes && w->in->special_count > 0;) {
        const size_t special = w->special_first[(unsigned char)text[i]] ? special_at(w->in, text + i, bytes - i) : 0;
        if (special > 0) {
            TRY(count_stretch(w, text + done, i - done, err));
            done = i + special;
            w->specials++;
        }
        i += special ? special : 1;
    }
    return count_stretch(w, text + done, bytes - done, err);
}

static fathom_status worker_init(worker *w, const pieces_input *in, const splitter *s, fathom_error *err)
{
    w->in = in;
    for (size_t i = 0; i < in->special_count; i++)
        w->special_first[(unsigned char)in->specials[i][0]] = true;
    return split_run_new(s, &w->run, err);
}

typedef struct counting {
    reader *r;
    worker *workers;
} counting;

/* One worker's part: chunk after chunk, until none is left. */
static void work(void *context, int64_t tile, int seat)
{
    (void)seat;
    const counting *all = context;
    reader *r = all->r;
    worker *w = &all->workers[tile];
    for (;;) {
        chunk c;
        pthread_mutex_lock(&r->lock);
        const bool any = take_chunk(r, &c);
        pthread_mutex_unlock(&r->lock);
        if (!any)
            return;
        fathom_error error;
        const fathom_status status = count_chunk(w, c.text, c.bytes, &error);
        pthread_mutex_lock(&r->lock);
        if (status != FATHOM_OK && r->status == FATHOM_OK)
            r->status = status_fail(&r->error, status, "%s: %s", c.from->path, error.message);
        source_release(c.from);
        const int64_t done = r->done += (int64_t)c.bytes;
        pthread_mutex_unlock(&r->lock);
        if (tile == 0 && r->in->progress)
            r->in->progress(r->in->user, done);
    }
}

static fathom_status pattern_splitter(piece_pattern pattern, splitter **out, fathom_error *err)
{
    const split_step step = {.pattern = pattern == PIECES_GPT2 ? split_pattern_gpt2 : split_pattern_llama3, .behavior = SPLIT_ISOLATED};
    TRY(splitter_new(out, err));
    return splitter_add(*out, &step, err);
}

fathom_status pieces_count(const pieces_input *in, piece_table *out, pieces_totals *totals, fathom_error *err)
{
    const int threads = threads_choose(in->threads);
    reader r = {.in = in, .lock = PTHREAD_MUTEX_INITIALIZER};
    splitter *s = NULL;
    worker *workers = calloc((size_t)threads, sizeof *workers);
    *out = (piece_table){0};
    r.status = workers ? pattern_splitter(in->pattern, &s, &r.error) : status_fail(&r.error, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (int i = 0; i < threads && r.status == FATHOM_OK; i++)
        r.status = worker_init(&workers[i], in, s, &r.error);
    if (r.status == FATHOM_OK)
        pool_run(threads, threads, work, &(counting){&r, workers});
    if (r.current)
        source_release(r.current);
    path_list_free(&r.folder);
    for (int i = 0; i < threads && workers; i++) {
        worker *w = &workers[i];
        for (size_t j = 0; i > 0 && j < w->table.count && r.status == FATHOM_OK; j++) {
            const piece *p = &w->table.items[j];
            r.status = piece_table_add(&workers[0].table, w->table.text.data + p->offset, p->bytes, p->count, &r.error);
        }
        r.totals.specials += w->specials;
        split_run_free(w->run);
        if (i > 0)
            piece_table_free(&w->table);
    }
    splitter_free(s);
    *totals = r.totals;
    if (workers)
        *out = workers[0].table;
    free(workers);
    if (r.status == FATHOM_OK)
        return FATHOM_OK;
    piece_table_free(out);
    if (err)
        *err = r.error;
    return r.status;
}
