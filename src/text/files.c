/* The walk over folders of text: see files.h. */
#include "text/files.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SNIFFED_BYTES = 8192 };

bool file_is_text(const file_map *map)
{
    const size_t sniffed = map->size < SNIFFED_BYTES ? map->size : SNIFFED_BYTES;
    return sniffed == 0 || !memchr(map->data, 0, sniffed);
}

/* Takes the path, which may be NULL: out of memory. */
static fathom_status path_list_add(path_list *list, char *path, fathom_error *err)
{
    if (path && list->count == list->capacity) {
        const size_t capacity = list->capacity ? list->capacity * 2 : 16;
        char **items = realloc(list->items, capacity * sizeof *items);
        if (items) {
            list->items = items;
            list->capacity = capacity;
        }
    }
    if (!path || list->count == list->capacity) {
        free(path);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "list of files: out of memory");
    }
    list->items[list->count++] = path;
    return FATHOM_OK;
}

void path_list_free(path_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->items[i]);
    free(list->items);
}

static fathom_status list_entry(char *path, path_list *folders, path_list *files, int64_t *skipped, fathom_error *err)
{
    struct stat st;
    if (!path || lstat(path, &st) != 0) {
        const fathom_status status = path ? status_fail(err, FATHOM_IO, "%s: %s", path, strerror(errno))
                                          : status_fail(err, FATHOM_OUT_OF_MEMORY, "list of files: out of memory");
        free(path);
        return status;
    }
    if (S_ISDIR(st.st_mode))
        return path_list_add(folders, path, err);
    /* a link to a folder could lead back up: following only links to files makes the walk end */
    if (S_ISREG(st.st_mode) || (S_ISLNK(st.st_mode) && !path_is_folder(path)))
        return path_list_add(files, path, err);
    if (!S_ISLNK(st.st_mode))
        ++*skipped;
    free(path);
    return FATHOM_OK;
}

/* One folder's entries, without those of the folders in it. */
static fathom_status list_folder(const char *folder, path_list *folders, path_list *files, int64_t *skipped,
                                 fathom_error *err)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return status_fail(err, FATHOM_IO, "%s: %s", folder, strerror(errno));
    fathom_status status = FATHOM_OK;
    while (status == FATHOM_OK) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry) {
            if (errno)
                status = status_fail(err, FATHOM_IO, "%s: %s", folder, strerror(errno));
            break;
        }
        if (entry->d_name[0] != '.')
            status = list_entry(path_join(folder, entry->d_name), folders, files, skipped, err);
    }
    closedir(dir);
    return status;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

fathom_status folder_files(const char *path, path_list *files, int64_t *skipped, fathom_error *err)
{
    path_list folders = {0};
    fathom_status status = path_list_add(&folders, strdup(path), err);
    for (size_t i = 0; status == FATHOM_OK && i < folders.count; i++)
        status = list_folder(folders.items[i], &folders, files, skipped, err);
    if (files->count > 0)
        qsort(files->items, files->count, sizeof *files->items, by_path);
    path_list_free(&folders);
    return status;
}
