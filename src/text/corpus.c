/* Text files, folders and token shards to two lists of pieces: see corpus.h. A text is encoded straight behind the training text; its last
 * share is then moved to the held-out text. Each part's text is one growing array, in which pieces are numbers until nothing is added any more. */
#include "text/corpus.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/files.h"
#include "text/manifest.h"
#include "text/shard.h"

/* Blocks of a shard's piece that its fingerprint is made of, and that are checked before the run begins. */
enum { SAMPLE_BLOCKS = 16, SAMPLE_TOKENS = 1024 };

typedef struct growing_part {
    corpus_part *out;
    int32_t *text; /* of all pieces in memory, one behind the other */
    int64_t text_count, text_capacity;
    corpus_piece *pieces; /* ids is NULL in memory until all text is there */
    int64_t piece_capacity;
} growing_part;

typedef struct mapped_file {
    file_map map;
    char *path;
} mapped_file;

struct corpus_memory {
    growing_part train, heldout;
    mapped_file *files;
    int64_t file_count, file_capacity;
};

typedef struct builder {
    const corpus_input *in;
    corpus *out;
    encoder *encoder; /* from the first text on */
} builder;

static fathom_status no_memory(const char *path, fathom_error *err)
{
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
}

static fathom_status needs_tokenizer(const builder *b, const char *path, fathom_error *err)
{
    const char *why = b->in->missing;
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: needs a tokenizer%s%s", path, why ? "; " : "", why ? why : "");
}

/* Room for `more` tokens of text behind those in the part. */
static fathom_status text_reserve(growing_part *part, size_t more, const char *path, fathom_error *err)
{
    const uint64_t max = PTRDIFF_MAX / sizeof *part->text;
    if (more > max - (uint64_t)part->text_count)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: %zu tokens: too many", path, more);
    const uint64_t needed = (uint64_t)part->text_count + more;
    if (needed <= (uint64_t)part->text_capacity)
        return FATHOM_OK;
    const uint64_t doubled = (uint64_t)part->text_capacity > max / 2 ? max : (uint64_t)part->text_capacity * 2;
    const uint64_t wanted = needed > doubled ? needed : doubled;
    int32_t *text = realloc(part->text, wanted * sizeof *text);
    if (!text)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory for %llu tokens", path, (unsigned long long)wanted);
    part->text = text;
    part->text_capacity = (int64_t)wanted;
    return FATHOM_OK;
}

/* Adds the piece behind those in the part; begin is found here. */
static fathom_status piece_add(growing_part *part, corpus_piece piece, const char *path, fathom_error *err)
{
    corpus_part *out = part->out;
    if (piece.count == 0)
        return FATHOM_OK;
    if (!piece.width && out->piece_count > 0 && !part->pieces[out->piece_count - 1].width) {
        part->pieces[out->piece_count - 1].count += piece.count; /* text behind text */
        out->count += piece.count;
        return FATHOM_OK;
    }
    if (out->piece_count == part->piece_capacity) {
        const int64_t capacity = part->piece_capacity ? part->piece_capacity * 2 : 4;
        corpus_piece *pieces = realloc(part->pieces, (size_t)capacity * sizeof *pieces);
        if (!pieces)
            return no_memory(path, err);
        out->pieces = part->pieces = pieces;
        part->piece_capacity = capacity;
    }
    piece.begin = out->count;
    part->pieces[out->piece_count++] = piece;
    out->count += piece.count;
    return FATHOM_OK;
}

/* Where the pieces in memory lie, now that they stay there. */
static void place_text(growing_part *part)
{
    int64_t at = 0;
    for (int64_t i = 0; i < part->out->piece_count; i++) {
        corpus_piece *piece = &part->pieces[i];
        if (!piece->width) {
            piece->ids = part->text + at;
            at += piece->count;
        }
    }
}

int64_t corpus_heldout(double fraction, int64_t count)
{
    return (int64_t)floor(fraction * (double)count);
}

/* bytes < 0: not known. */
static fathom_status add_bytes(builder *b, int64_t bytes, const char *path, fathom_error *err)
{
    int64_t *sum = &b->out->bytes;
    if (bytes > 0 && *sum > INT64_MAX - bytes)
        return status_fail(err, FATHOM_FORMAT, "%s: bytes of text: %lld: the corpus' sum is too large", path, (long long)bytes);
    *sum = bytes < 0 || *sum < 0 ? -1 : *sum + bytes;
    return FATHOM_OK;
}

/* Takes in the `count` tokens that lie behind the training text. */
static fathom_status split_tail(builder *b, int64_t count, const char *path, fathom_error *err)
{
    growing_part *train = &b->out->memory->train, *heldout = &b->out->memory->heldout;
    const int64_t held = corpus_heldout(b->in->heldout_fraction, count), kept = count - held;
    TRY(text_reserve(heldout, (size_t)held, path, err));
    if (held > 0)
        memcpy(heldout->text + heldout->text_count, train->text + train->text_count + kept, (size_t)held * sizeof *heldout->text);
    heldout->text_count += held;
    train->text_count += kept;
    TRY(piece_add(heldout, (corpus_piece){.count = held}, path, err));
    return piece_add(train, (corpus_piece){.count = kept}, path, err);
}

static fathom_status add_text(builder *b, const file_map *map, const char *path, fathom_error *err)
{
    growing_part *train = &b->out->memory->train;
    if (!b->in->tokenizer)
        return needs_tokenizer(b, path, err);
    if (map->size == 0)
        return FATHOM_OK;
    if (!b->encoder)
        TRY(encoder_new(b->in->tokenizer, &b->encoder, err));
    id_list list = {train->text, (size_t)train->text_count, (size_t)train->text_capacity};
    fathom_error why;
    const fathom_status status = encoder_add(b->encoder, (const char *)map->data, map->size, true, &list, &why);
    train->text = list.ids;
    train->text_capacity = (int64_t)list.capacity;
    if (status != FATHOM_OK)
        return status_fail(err, status, "%s: %s", path, why.message);
    TRY(add_bytes(b, (int64_t)map->size, path, err));
    return split_tail(b, (int64_t)list.count - train->text_count, path, err);
}

/* What the shard's ids must lie below. */
static fathom_status shard_vocab(const builder *b, const shard *s, const char *path, int64_t *vocab, fathom_error *err)
{
    *vocab = s->vocab ? s->vocab : b->in->vocab;
    if (!*vocab)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: the shard does not tell its vocabulary: it needs a tokenizer or the vocabulary's size",
                           path);
    if (!s->vocab)
        return FATHOM_OK;
    if (!b->in->tokenizer)
        return needs_tokenizer(b, path, err);
    if (s->vocab != tokenizer_vocab(b->in->tokenizer))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: vocabulary: %lld: the tokenizer has %lld", path, (long long)s->vocab,
                           (long long)tokenizer_vocab(b->in->tokenizer));
    return FATHOM_OK;
}

/* Takes the map, and leaves *map empty. held: how many tokens at the end are held out. */
static fathom_status add_shard(builder *b, file_map *map, const shard *s, int64_t held, const char *path, fathom_error *err)
{
    struct corpus_memory *m = b->out->memory;
    int64_t vocab;
    TRY(shard_vocab(b, s, path, &vocab, err));
    if (m->file_count == m->file_capacity) {
        const int64_t capacity = m->file_capacity ? m->file_capacity * 2 : 16;
        mapped_file *files = realloc(m->files, (size_t)capacity * sizeof *files);
        if (!files)
            return no_memory(path, err);
        m->files = files;
        m->file_capacity = capacity;
    }
    char *own = strdup(path);
    if (!own)
        return no_memory(path, err);
    m->files[m->file_count++] = (mapped_file){*map, own};
    *map = (file_map){0};
    b->out->files++;
    b->out->foreign += s->vocab == 0;
    TRY(add_bytes(b, s->bytes, path, err));
    corpus_piece piece = {.ids = s->ids, .width = s->width, .count = s->count - held, .vocab = vocab, .path = own};
    TRY(piece_add(&m->train, piece, path, err));
    if (held == 0)
        return FATHOM_OK;
    piece.offset = piece.count;
    piece.ids = s->ids + piece.offset * s->width;
    piece.count = held;
    return piece_add(&m->heldout, piece, path, err);
}

/* outright: named by the caller, not found in a folder. */
static fathom_status add_file(builder *b, const char *path, bool outright, fathom_error *err)
{
    file_map map;
    shard s;
    TRY(file_map_open(path, &map, err));
    fathom_status status = FATHOM_OK;
    if (b->in->raw || shard_is(&map, path)) {
        status = outright ? shard_read(&map, path, b->in->raw, &s, err)
                          : status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: a token shard in a folder that has no manifest.json of ours: name "
                                        "shards one by one, or finish fathom tokenize", path);
        if (status == FATHOM_OK)
            status = add_shard(b, &map, &s, corpus_heldout(b->in->heldout_fraction, s.count), path, err);
    } else if (outright || file_is_text(&map)) {
        status = add_text(b, &map, path, err);
        b->out->files++;
    } else {
        b->out->files_skipped++;
    }
    file_map_close(&map);
    return status;
}

static fathom_status add_listed(builder *b, const manifest_shard *listed, const char *path, fathom_error *err)
{
    file_map map;
    shard s;
    TRY(file_map_open(path, &map, err));
    fathom_status status = shard_read(&map, path, false, &s, err);
    if (status == FATHOM_OK && (s.count != listed->tokens || s.bytes != listed->bytes))
        status = status_fail(err, FATHOM_FORMAT, "%s: %lld tokens, %lld bytes of text: manifest.json says %lld and %lld", path, (long long)s.count,
                             (long long)s.bytes, (long long)listed->tokens, (long long)listed->bytes);
    if (status == FATHOM_OK)
        status = add_shard(b, &map, &s, listed->heldout && !b->in->evaluation ? s.count : 0, path, err);
    file_map_close(&map);
    return status;
}

static fathom_status add_shards(builder *b, const char *folder, const manifest *m, fathom_error *err)
{
    bool any_heldout = false;
    if (!b->in->tokenizer)
        return needs_tokenizer(b, folder, err);
    if (tokenizer_checksum(b->in->tokenizer) != m->tokenizer)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s/manifest.json: tokenizer: %016llx: of another tokenizer: %s/tokenizer.json is the one",
                           folder, (unsigned long long)m->tokenizer, folder);
    for (int64_t i = 0; i < m->count; i++)
        any_heldout |= m->shards[i].heldout;
    fathom_status status = FATHOM_OK;
    for (int64_t i = 0; i < m->count && status == FATHOM_OK; i++) {
        if (b->in->evaluation && any_heldout && !m->shards[i].heldout)
            continue;
        char *path = path_join(folder, m->shards[i].file);
        status = path ? add_listed(b, &m->shards[i], path, err) : no_memory(folder, err);
        free(path);
    }
    return status;
}

static fathom_status add_folder(builder *b, const char *path, fathom_error *err)
{
    path_list files = {0};
    manifest m;
    bool found;
    if (b->in->raw)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: a folder: name files of raw ids one by one", path);
    TRY(manifest_read(path, &m, &found, err));
    if (found) {
        const fathom_status status = add_shards(b, path, &m, err);
        manifest_free(&m);
        return status;
    }
    fathom_status status = folder_files(path, &files, &b->out->files_skipped, err);
    for (size_t i = 0; status == FATHOM_OK && i < files.count; i++)
        status = add_file(b, files.items[i], false, err);
    path_list_free(&files);
    return status;
}

/* Tokens [at, at + n) of the piece. */
static fathom_status piece_read(const corpus_piece *p, int64_t at, int64_t n, int32_t *out, fathom_error *err)
{
    if (!p->width) {
        memcpy(out, (const int32_t *)p->ids + at, (size_t)n * sizeof *out);
        return FATHOM_OK;
    }
    const unsigned char *ids = (const unsigned char *)p->ids + at * p->width;
    uint32_t highest = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t id = p->width == 2 ? shard_id(ids, 2, i) : shard_id(ids, 4, i);
        highest = id > highest ? id : highest;
        out[i] = (int32_t)id;
    }
    for (int64_t i = 0; i < n && highest >= p->vocab; i++)
        if (shard_id(ids, p->width, i) >= p->vocab)
            return status_fail(err, FATHOM_FORMAT, "%s: token %lld: id %u: outside the vocabulary of %lld", p->path, (long long)(p->offset + at + i),
                               shard_id(ids, p->width, i), (long long)p->vocab);
    return FATHOM_OK;
}

fathom_status corpus_part_read(const corpus_part *part, int64_t at, int64_t n, int32_t *out, fathom_error *err)
{
    int64_t first = 0, behind = part->piece_count; /* the piece that holds `at` is in [first, behind) */
    while (behind - first > 1) {
        const int64_t middle = first + (behind - first) / 2;
        if (part->pieces[middle].begin <= at)
            first = middle;
        else
            behind = middle;
    }
    for (int64_t i = first; n > 0; i++) {
        const corpus_piece *p = &part->pieces[i];
        const int64_t from = at - p->begin, here = p->count - from < n ? p->count - from : n;
        TRY(piece_read(p, from, here, out, err));
        at += here;
        out += here;
        n -= here;
    }
    return FATHOM_OK;
}

/* FNV-1a on whole words, and a shift that brings the high bits down. */
static uint64_t hash_word(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

static uint64_t hash_tokens(uint64_t hash, const int32_t *tokens, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        hash = hash_word(hash, (uint64_t)tokens[i]);
    return hash;
}

/* Its shape, and blocks from its first to its last, evenly spread; all of a short one. */
static fathom_status hash_shard(uint64_t *hash, const corpus_piece *p, fathom_error *err)
{
    int32_t block[SAMPLE_TOKENS];
    const bool whole = p->count <= SAMPLE_BLOCKS * SAMPLE_TOKENS;
    *hash = hash_word(hash_word(hash_word(*hash, (uint64_t)p->width), (uint64_t)p->count), (uint64_t)p->offset);
    for (int64_t i = 0; i < SAMPLE_BLOCKS; i++) {
        const int64_t at = whole ? i * SAMPLE_TOKENS : (p->count - SAMPLE_TOKENS) * i / (SAMPLE_BLOCKS - 1);
        const int64_t n = p->count - at < SAMPLE_TOKENS ? p->count - at : SAMPLE_TOKENS;
        if (n <= 0)
            break;
        TRY(piece_read(p, at, n, block, err));
        *hash = hash_tokens(*hash, block, n);
    }
    return FATHOM_OK;
}

static fathom_status hash_part(uint64_t *hash, const corpus_part *part, fathom_error *err)
{
    *hash = hash_word(*hash, (uint64_t)part->count);
    for (int64_t i = 0; i < part->piece_count; i++) {
        const corpus_piece *p = &part->pieces[i];
        if (p->width)
            TRY(hash_shard(hash, p, err));
        else
            *hash = hash_tokens(*hash, p->ids, p->count);
    }
    return FATHOM_OK;
}

static fathom_status load(builder *b, fathom_error *err)
{
    const corpus_input *in = b->in;
    corpus *out = b->out;
    struct corpus_memory *m = out->memory = calloc(1, sizeof *out->memory);
    if (!m)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    m->train.out = &out->train;
    m->heldout.out = &out->heldout;
    for (size_t i = 0; i < in->count; i++)
        TRY(path_is_folder(in->paths[i]) ? add_folder(b, in->paths[i], err) : add_file(b, in->paths[i], true, err));
    if (out->train.count + out->heldout.count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s%s: no text: %lld files read, %lld not text", in->paths[0],
                           in->count > 1 ? " and the others" : "", (long long)out->files, (long long)out->files_skipped);
    place_text(&m->train);
    place_text(&m->heldout);
    out->fingerprint = 0xcbf29ce484222325u;
    TRY(hash_part(&out->fingerprint, &out->train, err));
    return hash_part(&out->fingerprint, &out->heldout, err);
}

fathom_status corpus_load(const corpus_input *in, corpus *out, fathom_error *err)
{
    *out = (corpus){0};
    if (!(in->heldout_fraction >= 0 && in->heldout_fraction < 1))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "held-out fraction: %g: not in [0, 1)", in->heldout_fraction);
    if (in->count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "data: no file or folder given");
    builder b = {.in = in, .out = out};
    const fathom_status status = load(&b, err);
    encoder_free(b.encoder);
    if (status != FATHOM_OK)
        corpus_free(out);
    return status;
}

void corpus_free(corpus *c)
{
    struct corpus_memory *m = c->memory;
    for (int64_t i = 0; m && i < m->file_count; i++) {
        file_map_close(&m->files[i].map);
        free(m->files[i].path);
    }
    if (m) {
        free(m->files);
        free(m->train.text);
        free(m->train.pieces);
        free(m->heldout.text);
        free(m->heldout.pieces);
    }
    free(m);
    *c = (corpus){0};
}
