/* Files: see file.h. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

fathom_status file_map_open(const char *path, file_map *out, fathom_error *err)
{
    *out = (file_map){0};
    /* not blocking: a pipe without a writer is to be refused, not waited for */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return status_fail(err, errno == ENOENT ? FATHOM_NOT_FOUND : FATHOM_IO, "%s: %s", path, strerror(errno));
    struct stat st;
    fathom_status status = FATHOM_OK;
    if (fstat(fd, &st) != 0)
        status = status_fail(err, FATHOM_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        status = status_fail(err, FATHOM_IO, "%s: not a regular file", path);
    else if (st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = status_fail(err, FATHOM_IO, "%s: cannot map %lld bytes: %s", path, (long long)st.st_size,
                                 strerror(errno));
        else
            *out = (file_map){data, (size_t)st.st_size};
    }
    close(fd);
    return status;
}

void file_map_close(file_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (file_map){0};
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static void writer_release(file_writer *w)
{
    if (w->stream)
        fclose(w->stream);
    free(w->path);
    free(w->temporary);
    *w = (file_writer){0};
}

fathom_status file_writer_open(file_writer *w, const char *path, fathom_error *err)
{
    struct stat there;
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode) && !S_ISDIR(there.st_mode)) /* rename refuses a folder */
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: not a regular file: it would be replaced", path);
    *w = (file_writer){0};
    size_t length = strlen(path) + sizeof ".tmp";
    w->path = strdup(path);
    w->temporary = malloc(length);
    if (!w->path || !w->temporary) {
        writer_release(w);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    }
    snprintf(w->temporary, length, "%s.tmp", path);
    w->stream = fopen(w->temporary, "wbe");
    if (!w->stream) {
        fathom_status status = status_fail(err, FATHOM_IO, "%s: cannot write: %s", path, strerror(errno));
        writer_release(w);
        return status;
    }
    return FATHOM_OK;
}

fathom_status file_writer_commit(file_writer *w, fathom_error *err)
{
    bool failed = fflush(w->stream) != 0 || fsync(fileno(w->stream)) != 0;
    int reason = errno;
    if (!failed && ferror(w->stream)) {
        /* an earlier write failed and its reason is forgotten: the file is lost, so ask by writing once more */
        failed = true;
        reason = write(fileno(w->stream), "", 1) < 0 ? errno : EIO;
    }
    if (fclose(w->stream) != 0 && !failed) {
        failed = true;
        reason = errno;
    }
    w->stream = NULL;
    if (!failed && rename(w->temporary, w->path) != 0) {
        failed = true;
        reason = errno;
    }
    fathom_status status = FATHOM_OK;
    if (failed) {
        status = status_fail(err, FATHOM_IO, "%s: cannot write: %s", w->path, strerror(reason));
        unlink(w->temporary);
    } else {
        char *folder = folder_of(w->path);
        status = folder ? folder_sync(folder, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
        free(folder);
    }
    writer_release(w);
    return status;
}

void file_writer_abort(file_writer *w)
{
    if (w->temporary)
        unlink(w->temporary);
    writer_release(w);
}

fathom_status file_write(const char *path, const void *data, size_t size, fathom_error *err)
{
    file_writer w;
    TRY(file_writer_open(&w, path, err));
    if (size > 0)
        fwrite(data, 1, size, w.stream);
    return file_writer_commit(&w, err);
}

fathom_status file_copy(const char *from, const char *to, fathom_error *err)
{
    file_map map;
    TRY(file_map_open(from, &map, err));
    const fathom_status status = file_write(to, map.data, map.size, err);
    file_map_close(&map);
    return status;
}

fathom_status folder_create(const char *path, fathom_error *err)
{
    char *copy = strdup(path);
    if (!copy)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    fathom_status status = FATHOM_OK;
    for (char *p = copy + (*copy == '/'); status == FATHOM_OK; p++) {
        if (*p != '/' && *p != 0)
            continue;
        char kept = *p;
        *p = 0;
        if (*copy && mkdir(copy, 0777) != 0 && errno != EEXIST)
            status = status_fail(err, FATHOM_IO, "%s: cannot create folder: %s", path, strerror(errno));
        else if (!kept && !path_is_folder(copy))
            status = status_fail(err, FATHOM_IO, "%s: exists and is not a folder", path);
        *p = kept;
        if (!kept)
            break;
    }
    free(copy);
    return status;
}

fathom_status folder_sync(const char *path, fathom_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return status_fail(err, FATHOM_IO, "%s: %s", path, strerror(errno));
    /* some file systems cannot sync a folder and say EINVAL: the rename is as durable there as it gets */
    bool failed = fsync(fd) != 0 && errno != EINVAL;
    int reason = errno;
    close(fd);
    return failed ? status_fail(err, FATHOM_IO, "%s: %s", path, strerror(reason)) : FATHOM_OK;
}

fathom_status folder_remove(const char *path, fathom_error *err)
{
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? FATHOM_OK : status_fail(err, FATHOM_IO, "%s: %s", path, strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    if (rmdir(path) != 0)
        return status_fail(err, FATHOM_IO, "%s: cannot remove: %s", path, strerror(errno));
    return FATHOM_OK;
}

/* *again: its holder has removed the file that was opened. */
static fathom_status try_lock(const char *path, int fd, bool *held, bool *again, fathom_error *err)
{
    struct stat mine, named;
    if (fstat(fd, &mine) != 0)
        return status_fail(err, FATHOM_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(mine.st_mode) || mine.st_size > 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: not an empty file: no lock of fathom's", path);
    *held = flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (!*held && errno != EWOULDBLOCK)
        return status_fail(err, FATHOM_IO, "%s: cannot lock: %s", path, strerror(errno));
    *again = *held && (stat(path, &named) != 0 || named.st_ino != mine.st_ino || named.st_dev != mine.st_dev);
    return FATHOM_OK;
}

fathom_status file_lock(const char *path, int *fd, fathom_error *err)
{
    bool held = false, again = true;
    fathom_status status = FATHOM_OK;
    *fd = -1;
    while (status == FATHOM_OK && again) {
        again = false;
        const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (file < 0)
            return status_fail(err, FATHOM_IO, "%s: cannot write: %s", path, strerror(errno));
        status = try_lock(path, file, &held, &again, err);
        if (status == FATHOM_OK && held && !again)
            *fd = file;
        else
            close(file);
    }
    return status;
}

void file_unlock(const char *path, int fd)
{
    unlink(path); /* first: who opens it from here on makes another */
    close(fd);
}

bool path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

int64_t path_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : 0;
}

bool path_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *path_join(const char *folder, const char *name)
{
    size_t length = strlen(folder) + strlen(name) + 2;
    char *path = malloc(length);
    if (path)
        snprintf(path, length, "%s/%s", folder, name);
    return path;
}
