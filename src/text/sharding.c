/* Text to token shards: see sharding.h. Two streams, of training and of held-out tokens in the order of the files, are each cut into shards
 * of shard_tokens: a shard's end is not a file's. */
#include "text/sharding.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/pool.h"
#include "text/corpus.h"
#include "text/files.h"
#include "text/shard.h"

enum { ENTRY_ROOM = 256 };

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
    char *folder, *work, *lock; /* without slashes behind it; the folder it works in; that one's */
    int lock_fd;                /* -1: not held */
    source *sources;
    int64_t count, capacity;
    int64_t all_bytes, bytes;
    stream train, heldout;
    manifest *out;
} sharding;

/* A file's tokens. */
typedef struct encoded {
    id_list list;
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

static void free_sources(sharding *s)
{
    for (int64_t i = 0; i < s->count; i++)
        free(s->sources[i].path);
    s->count = s->all_bytes = 0;
}

static fathom_status list_sources(sharding *s, fathom_error *err)
{
    int64_t skipped = 0;
    fathom_status status = FATHOM_OK;
    free_sources(s);
    for (size_t i = 0; i < s->in->count && status == FATHOM_OK; i++) {
        const char *path = s->in->paths[i];
        if (!path_exists(path)) {
            status = status_fail(err, errno == ENOENT ? FATHOM_NOT_FOUND : FATHOM_IO, "%s: %s", path, strerror(errno));
            continue;
        }
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

/* out->list is emptied first; its room is kept from file to file, as the encoder is. */
static fathom_status encode_file(const sharding_input *in, const source *from, encoder *e, encoded *out, fathom_error *err)
{
    file_map map;
    fathom_error why;
    out->list.count = 0;
    out->bytes = out->decoded = 0;
    TRY(file_map_open(from->path, &map, err));
    fathom_status status = FATHOM_OK;
    if (shard_is(&map, from->path))
        status = status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: is a token shard already", from->path);
    else if (map.size > 0 && (from->outright || file_is_text(&map))) {
        out->bytes = (int64_t)map.size;
        status = encoder_add(e, (const char *)map.data, map.size, true, &out->list, &why);
        if (status != FATHOM_OK)
            status_fail(err, status, "%s: %s", from->path, why.message);
        else
            out->decoded = decoded_bytes(in->tokenizer, out->list.ids, 0, (int64_t)out->list.count);
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
        *decoded += decoded_bytes(s->in->tokenizer, e->list.ids, begin, begin + n);
        TRY(shard_writer_add(&to->writer, e->list.ids + begin, n, e->decoded ? bytes_before(e, *decoded) - bytes_before(e, before) : 0, err));
        if (to->writer.count == s->in->shard_tokens)
            TRY(stream_close(to, s->out, err));
        begin += n;
    }
    return FATHOM_OK;
}

static fathom_status write_file(sharding *s, const encoded *e, fathom_error *err)
{
    const int64_t count = (int64_t)e->list.count, kept = count - corpus_heldout(s->in->heldout_fraction, count);
    int64_t decoded = 0;
    TRY(stream_add(s, &s->train, e, 0, kept, &decoded, err));
    return stream_add(s, &s->heldout, e, kept, count, &decoded, err);
}

/* What the threads share while they encode. */
typedef struct encoding {
    sharding *s;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t turn;
    int64_t taken, written; /* files */
    int64_t tokens;
    fathom_status status;
    fathom_error *err;
} encoding;

/* Writes file i when those before it are written: each is a running thread's. */
static void write_in_turn(encoding *all, int64_t i, const encoded *e, fathom_status found, fathom_error *problem)
{
    sharding *s = all->s;
    while (all->written < i)
        pthread_cond_wait(&all->turn, &all->lock);
    if (all->status == FATHOM_OK) {
        if (found == FATHOM_OK)
            found = write_file(s, e, problem);
        if (found != FATHOM_OK)
            all->status = status_fail(all->err, found, "%s", problem->message);
        all->tokens += (int64_t)e->list.count;
        s->bytes += path_size(s->sources[i].path);
        if (found == FATHOM_OK && s->in->progress)
            s->in->progress(s->in->user, s->bytes, s->all_bytes, all->tokens);
    }
    all->written++;
    pthread_cond_broadcast(&all->turn);
}

/* One thread's part: file after file, until none is left. */
static void encode_files(void *context, int64_t tile, int seat)
{
    (void)tile, (void)seat;
    encoding *all = context;
    sharding *s = all->s;
    encoder *own = NULL;
    encoded e = {0};
    fathom_error problem;
    const fathom_status made = encoder_new(s->in->tokenizer, &own, &problem);
    pthread_mutex_lock(&all->lock);
    while (all->taken < s->count && all->status == FATHOM_OK) {
        const int64_t i = all->taken++;
        pthread_mutex_unlock(&all->lock);
        const fathom_status found = made == FATHOM_OK ? encode_file(s->in, &s->sources[i], own, &e, &problem) : made;
        pthread_mutex_lock(&all->lock);
        write_in_turn(all, i, &e, found, &problem);
    }
    pthread_mutex_unlock(&all->lock);
    encoder_free(own);
    id_list_free(&e.list);
}

static fathom_status write_all(sharding *s, fathom_error *err)
{
    encoding all = {.s = s, .lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_COND_INITIALIZER, .err = err};
    const int threads = threads_choose(s->in->threads);
    pool_run(threads, threads, encode_files, &all);
    const int64_t tokens = all.tokens;
    fathom_status status = all.status;
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
    char *json = path_join(s->work, "tokenizer.json"), *parent = path_join(s->folder, "..");
    fathom_status status = json && parent ? tokenizer_save(s->in->tokenizer, json, err) : no_memory(err);
    if (status == FATHOM_OK)
        status = manifest_write(s->out, s->work, err);
    if (status == FATHOM_OK && rename(s->work, s->folder) != 0)
        status = status_fail(err, FATHOM_IO, "%s: cannot rename %s to it: %s", s->folder, s->work, strerror(errno));
    if (status == FATHOM_OK)
        status = folder_sync(parent, err);
    free(json);
    free(parent);
    return status;
}

/* --- folders: nothing is removed but what the writer has made --- */

/* train-00000.bin, heldout-00000.bin, tokenizer.json, manifest.json, and what they are called while they are written */
static bool is_own(const char *name)
{
    char plain[64];
    const size_t length = strlen(name), end = length > 4 && strcmp(name + length - 4, ".tmp") == 0 ? length - 4 : length;
    if (snprintf(plain, sizeof plain, "%.*s", (int)end, name) >= (int)sizeof plain)
        return false;
    if (strcmp(plain, "tokenizer.json") == 0 || strcmp(plain, "manifest.json") == 0)
        return true;
    const size_t prefix = strncmp(plain, "train-", 6) == 0 ? 6 : strncmp(plain, "heldout-", 8) == 0 ? 8 : 0;
    const size_t digits = strspn(plain + prefix, "0123456789");
    return prefix > 0 && digits >= 5 && strcmp(plain + prefix + digits, ".bin") == 0;
}

static bool is_own_file(DIR *dir, const char *name)
{
    struct stat st;
    return is_own(name) && fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

/* NULL, and errno, where there is no such folder; a link to one is none. */
static DIR *open_folder(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 ? fdopendir(fd) : NULL;
}

/* An entry of the folder that the writer has not made, or any at all; found is empty where there is none, or no folder. */
static fathom_status find_entry(const char *folder, bool any, char found[ENTRY_ROOM], fathom_error *err)
{
    DIR *dir = open_folder(folder);
    *found = 0;
    if (!dir && errno == ENOENT)
        return FATHOM_OK;
    if (!dir)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: is there already, and not as a folder: %s", folder, strerror(errno));
    for (struct dirent *entry; !*found && (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && (any || !is_own_file(dir, entry->d_name)))
            snprintf(found, ENTRY_ROOM, "%s", entry->d_name);
    closedir(dir);
    return FATHOM_OK;
}

/* DIR.unfinished goes, if nothing else is in it. */
static fathom_status remove_work(const sharding *s, fathom_error *err)
{
    char found[ENTRY_ROOM];
    TRY(find_entry(s->work, false, found, err));
    if (*found)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: has %s in it, which is no part of shards: it would be removed", s->work, found);
    DIR *dir = open_folder(s->work);
    if (!dir)
        return FATHOM_OK;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (is_own_file(dir, entry->d_name))
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    return rmdir(s->work) == 0 ? FATHOM_OK : status_fail(err, FATHOM_IO, "%s: cannot remove: %s", s->work, strerror(errno));
}

/* Whether the rename at the end can put a folder in its place: found out before the work. */
static fathom_status check_folder(const char *folder, fathom_error *err)
{
    const char *slash = strrchr(folder, '/'), *name = slash ? slash + 1 : folder;
    char found[ENTRY_ROOM];
    struct stat st, above;
    TRY(find_entry(folder, true, found, err));
    if (*found)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: is there already, and not as an empty folder: has %s in it", folder, found);
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: is there already, and cannot be replaced", folder);
    char *parent = path_join(folder, "..");
    const bool mounted = parent && stat(folder, &st) == 0 && stat(parent, &above) == 0 && st.st_dev != above.st_dev;
    free(parent);
    return mounted ? status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: a file system is mounted there: it cannot be replaced", folder) : FATHOM_OK;
}

static fathom_status name_paths(sharding *s, fathom_error *err)
{
    static const char unfinished[] = ".unfinished", lock[] = ".lock";
    size_t length = strlen(s->in->folder);
    while (length > 1 && s->in->folder[length - 1] == '/')
        length--;
    const size_t room = length + sizeof unfinished + sizeof lock;
    s->folder = strndup(s->in->folder, length);
    s->work = malloc(room);
    s->lock = malloc(room);
    if (!s->folder || !s->work || !s->lock)
        return no_memory(err);
    snprintf(s->work, room, "%s%s", s->folder, unfinished);
    snprintf(s->lock, room, "%s%s", s->work, lock);
    return FATHOM_OK;
}

static fathom_status make_parent(sharding *s, fathom_error *err)
{
    char *slash = strrchr(s->folder, '/');
    if (!slash || slash == s->folder)
        return FATHOM_OK;
    *slash = 0;
    const fathom_status status = folder_create(s->folder, err);
    *slash = '/';
    return status;
}

/* The lock, and DIR.unfinished, empty. */
static fathom_status prepare(sharding *s, fathom_error *err)
{
    TRY(name_paths(s, err));
    TRY(list_sources(s, err)); /* before anything is made or removed */
    TRY(check_folder(s->folder, err));
    TRY(make_parent(s, err));
    TRY(file_lock(s->lock, &s->lock_fd, err));
    if (s->lock_fd < 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: another process is writing it: it holds %s", s->folder, s->lock);
    TRY(check_folder(s->folder, err)); /* again: another process may just have made it */
    TRY(remove_work(s, err));
    TRY(list_sources(s, err)); /* again: what was left in there may have been among the texts */
    return folder_create(s->work, err);
}

fathom_status sharding_run(const sharding_input *in, manifest *out, fathom_error *err)
{
    *out = (manifest){.tokenizer = tokenizer_checksum(in->tokenizer), .vocab = tokenizer_vocab(in->tokenizer)};
    sharding s = {.in = in, .lock_fd = -1, .train = {.name = "train"}, .heldout = {.name = "heldout", .heldout = true}, .out = out};
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
            remove_work(&s, NULL);
    }
    if (s.lock_fd >= 0)
        file_unlock(s.lock, s.lock_fd);
    free_sources(&s);
    free(s.sources);
    free(s.folder);
    free(s.work);
    free(s.lock);
    if (status != FATHOM_OK)
        manifest_free(out);
    return status;
}
