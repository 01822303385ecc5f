/* Files: mapping for reading, atomic writing (temporary file, fsync, rename, fsync of the folder), folders, paths. A
 * reader never sees half a file; a failed write leaves what was there. Messages name the path and the system's reason. */
#ifndef FATHOM_BASE_FILE_H
#define FATHOM_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

typedef struct file_map {
    const unsigned char *data; /* NULL for an empty file */
    size_t size;
} file_map;

/* Maps a regular file read-only. file_unmap releases it. */
fathom_status file_map_open(const char *path, file_map *out, fathom_error *err);
void file_map_close(file_map *map);

/* A file that appears under its name only when it is complete. */
typedef struct file_writer {
    FILE *stream; /* write here; errors are found at commit */
    char *path, *temporary;
} file_writer;
/* Refused where a device or a pipe stands under the name: it would be replaced. */
fathom_status file_writer_open(file_writer *w, const char *path, fathom_error *err);
/* Flushes, syncs and renames; on failure removes the temporary file. Releases *w either way. */
fathom_status file_writer_commit(file_writer *w, fathom_error *err);
void file_writer_abort(file_writer *w);

/* The same for bytes in memory. */
fathom_status file_write(const char *path, const void *data, size_t size, fathom_error *err);

/* The bytes of `from`, a regular file, to `to`. */
fathom_status file_copy(const char *from, const char *to, fathom_error *err);

/* Creates the folder and its parents; one that exists is fine. */
fathom_status folder_create(const char *path, fathom_error *err);
/* Makes renames in the folder durable. */
fathom_status folder_sync(const char *path, fathom_error *err);
/* Removes a folder and the plain files in it (not deeper); one that does not exist is fine. */
fathom_status folder_remove(const char *path, fathom_error *err);
/* Takes the lock of that name, which the process's end, even by SIGKILL, lets go of; *fd is -1 where another holds it. The file is empty, and
 * one that a killed process left is taken like none; refused where something else stands under the name. */
fathom_status file_lock(const char *path, int *fd, fathom_error *err);
/* Removes the file and lets go of it. */
void file_unlock(const char *path, int fd);
bool path_exists(const char *path);
bool path_is_folder(const char *path);
/* Bytes of a file; 0 when there is none. */
int64_t path_size(const char *path);
/* "a/b", malloc'd; NULL when out of memory. */
char *path_join(const char *folder, const char *name);

#endif
