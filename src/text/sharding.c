/* Text to token shards: see sharding.h. Two streams, of training and of held-out tokens in the order of the files, are each cut into shards
 * of shard_tokens: a shard's end is not a file's. */
#include "text/sharding.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "text/corpus.h"
#include "text/files.h"
#include "text/shard.h"

typedef struct source {
    char *path;
    bool outright; /* named by the caller, not found in a folder */
} source;

typedef struct stream {
    const char *name;
    bool heldout, open;
    int64_t made; /* shards */
    shard_writer writer;
} stream;

typedef struct sharding {
    const sharding_input *in;
    char *work; /* the folder it works in */
    source *sources;
    int64_t count, capacity;
    int64_t all_bytes, bytes;
    stream train, heldout;
    manifest *out;
} sharding;

/* A file's tokens. */
typedef struct encoded {
    int32_t *ids;
    int64_t count;
    int64_t bytes, decoded; /* of the file; of its tokens' texts, which normalization makes another number */
} encoded;

static fathom_status no_memory(fathom_error *err)
{
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
}

/* Takes the path. */
static fathom_status source_add(sharding *s, char *path, bool outright, fathom_error *err)
{
    if (path && s->count == s->capacity) {
        const int64_t capacity = s->capacity ? s->capacity * 2 : 64;
        source *sources = realloc(s->sources, (size_t)capacity * sizeof *sources);
        if (sources) {
            s->sources = sources;
            s->capacity = capacity;
        }
    }
    if (!path || s->count == s->capacity) {
        free(path);
        return no_memory(err);
    }
    s->sources[s->count++] = (source){path, outright};
    s->all_bytes += path_size(path);
    return FATHOM_OK;
}

static fathom_status list_sources(sharding *s, fathom_error *err)
{
    int64_t skipped = 0;
    fathom_status status = FATHOM_OK;
    for (size_t i = 0; i < s->in->count && status == FATHOM_OK; i++) {
        const char *path = s->in->paths[i];
        if (!path_is_folder(path)) {
            status = source_add(s, strdup(path), true, err);
            continue;
        }
        path_list files = {0};
        status = folder_files(path, &files, &skipped, err);
        for (size_t k = 0; k < files.count && status == FATHOM_OK; k++)
            status = source_add(s, strdup(files.items[k]), false, err);
        path_list_free(&files);
    }
    return status;
}

/* The text of ids [begin, end), in bytes. */
static int64_t decoded_bytes(const tokenizer *t, const int32_t *ids, int64_t begin, int64_t end)
{
    int64_t bytes = 0;
    for (int64_t i = begin; i < end; i++) {
        size_t size;
        tokenizer_text(t, ids[i], &size);
        bytes += (int64_t)size;
    }
    return bytes;
}

static fathom_status encode_file(const sharding_input *in, const source *from, encoded *out, fathom_error *err)
{
    file_map map;
    fathom_error why;
    *out = (encoded){0};
    TRY(file_map_open(from->path, &map, err));
    fathom_status status = FATHOM_OK;
    if (shard_is(&map, from->path))
        status = status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: is a token shard already", from->path);
    else if (from->outright || file_is_text(&map)) {
        out->bytes = (int64_t)map.size;
        id_list list = {0};
        status = tokenizer_encode(in->tokenizer, (const char *)map.data, map.size, true, &list, &why);
        out->ids = list.ids;
        out->count = (int64_t)list.count;
        if (status != FATHOM_OK)
            status_fail(err, status, "%s: %s", from->path, why.message);
        else
            out->decoded = decoded_bytes(in->tokenizer, out->ids, 0, out->count);
    }
    file_map_close(&map);
    return status;
}

static fathom_status stream_open(sharding *s, stream *to, fathom_error *err)
{
    manifest_shard shard = {.heldout = to->heldout};
    snprintf(shard.file, sizeof shard.file, "%s-%05lld.bin", to->name, (long long)to->made);
    char *path = path_join(s->work, shard.file);
    const fathom_status status = path ? shard_writer_open(&to->writer, path, tokenizer_vocab(s->in->tokenizer), err) : no_memory(err);
    free(path);
    to->open = status == FATHOM_OK;
    return status;
}

static fathom_status stream_close(stream *to, manifest *out, fathom_error *err)
{
    const shard_writer *w = &to->writer;
    manifest_shard shard = {.heldout = to->heldout, .tokens = w->count, .bytes = w->bytes, .checksum = w->checksum};
    snprintf(shard.file, sizeof shard.file, "%s-%05lld.bin", to->name, (long long)to->made++);
    to->open = false;
    TRY(shard_writer_commit(&to->writer, err));
    return manifest_add(out, &shard, err);
}

/* How many of the file's bytes the first `decoded` bytes of its tokens' texts are. */
static int64_t bytes_before(const encoded *e, int64_t decoded)
{
    return e->decoded == e->bytes ? decoded : (int64_t)((double)e->bytes * (double)decoded / (double)e->decoded);
}

/* Tokens [begin, end) of the file into the stream; *decoded moves on by their texts' bytes. */
static fathom_status stream_add(sharding *s, stream *to, const encoded *e, int64_t begin, int64_t end, int64_t *decoded, fathom_error *err)
{
    while (begin < end) {
        if (!to->open)
            TRY(stream_open(s, to, err));
        const int64_t room = s->in->shard_tokens - to->writer.count, n = end - begin < room ? end - begin : room;
        const int64_t before = *decoded;
        *decoded += decoded_bytes(s->in->tokenizer, e->ids, begin, begin + n);
        TRY(shard_writer_add(&to->writer, e->ids + begin, n, e->decoded ? bytes_before(e, *decoded) - bytes_before(e, before) : 0, err));
        if (to->writer.count == s->in->shard_tokens)
            TRY(stream_close(to, s->out, err));
        begin += n;
    }
    return FATHOM_OK;
}

static fathom_status write_file(sharding *s, const encoded *e, fathom_error *err)
{
    const int64_t kept = e->count - corpus_heldout(s->in->heldout_fraction, e->count);
    int64_t decoded = 0;
    TRY(stream_add(s, &s->train, e, 0, kept, &decoded, err));
    return stream_add(s, &s->heldout, e, kept, e->count, &decoded, err);
}

static fathom_status write_all(sharding *s, fathom_error *err)
{
    fathom_status status = FATHOM_OK;
    int64_t tokens = 0;
    atomic_bool stop = false;
#pragma omp parallel for ordered schedule(dynamic, 1)
    for (int64_t i = 0; i < s->count; i++) {
        encoded e = {0};
        fathom_error problem;
        fathom_status own = stop ? FATHOM_OK : encode_file(s->in, &s->sources[i], &e, &problem);
#pragma omp ordered
        if (status == FATHOM_OK) {
            if (own == FATHOM_OK)
                own = write_file(s, &e, &problem);
            if (own != FATHOM_OK)
                status = status_fail(err, own, "%s", problem.message);
            tokens += e.count;
            s->bytes += path_size(s->sources[i].path);
            if (own == FATHOM_OK && s->in->progress)
                s->in->progress(s->in->user, s->bytes, s->all_bytes, tokens);
            stop = status != FATHOM_OK;
        }
        free(e.ids);
    }
    if (status == FATHOM_OK && s->train.open)
        status = stream_close(&s->train, s->out, err);
    if (status == FATHOM_OK && s->heldout.open)
        status = stream_close(&s->heldout, s->out, err);
    if (status == FATHOM_OK && tokens == 0)
        status = status_fail(err, FATHOM_INVALID_ARGUMENT, "%s%s: no text", s->in->paths[0], s->in->count > 1 ? " and the others" : "");
    return status;
}

/* The folder's two other files, and then its name. */
static fathom_status publish(sharding *s, fathom_error *err)
{
    char *json = path_join(s->work, "tokenizer.json"), *parent = path_join(s->in->folder, "..");
    fathom_status status = json && parent ? tokenizer_save(s->in->tokenizer, json, err) : no_memory(err);
    if (status == FATHOM_OK)
        status = manifest_write(s->out, s->work, err);
    if (status == FATHOM_OK && rename(s->work, s->in->folder) != 0)
        status = status_fail(err, FATHOM_IO, "%s: cannot rename %s to it: %s", s->in->folder, s->work, strerror(errno));
    if (status == FATHOM_OK)
        status = folder_sync(parent, err);
    free(json);
    free(parent);
    return status;
}

/* DIR.unfinished; DIR is not there any more, if it was empty. */
static fathom_status prepare(sharding *s, fathom_error *err)
{
    size_t length = strlen(s->in->folder);
    while (length > 1 && s->in->folder[length - 1] == '/')
        length--;
    s->work = malloc(length + sizeof ".unfinished");
    if (!s->work)
        return no_memory(err);
    memcpy(s->work, s->in->folder, length);
    strcpy(s->work + length, ".unfinished");
    if (rmdir(s->in->folder) != 0 && errno != ENOENT)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: is there already, and not as an empty folder: %s", s->in->folder, strerror(errno));
    TRY(folder_remove(s->work, err));
    TRY(list_sources(s, err));
    return folder_create(s->work, err);
}

fathom_status sharding_run(const sharding_input *in, manifest *out, fathom_error *err)
{
    *out = (manifest){.tokenizer = tokenizer_checksum(in->tokenizer), .vocab = tokenizer_vocab(in->tokenizer)};
    sharding s = {.in = in, .train = {.name = "train"}, .heldout = {.name = "heldout", .heldout = true}, .out = out};
    fathom_status status = prepare(&s, err);
    if (status == FATHOM_OK) {
        status = write_all(&s, err);
        if (s.train.open)
            shard_writer_abort(&s.train.writer);
        if (s.heldout.open)
            shard_writer_abort(&s.heldout.writer);
        if (status == FATHOM_OK)
            status = publish(&s, err);
        if (status != FATHOM_OK)
            folder_remove(s.work, NULL);
    }
    for (int64_t i = 0; i < s.count; i++)
        free(s.sources[i].path);
    free(s.sources);
    free(s.work);
    if (status != FATHOM_OK)
        manifest_free(out);
    return status;
}
