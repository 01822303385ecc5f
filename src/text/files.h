/* Text files in folders: which there are, and in which order they are read. */
#ifndef FATHOM_TEXT_FILES_H
#define FATHOM_TEXT_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"

typedef struct path_list {
    char **items;
    size_t count, capacity;
} path_list;
void path_list_free(path_list *list);

/* The files in the folder and in those inside it, sorted by path, into an empty list. Hidden files and links to folders are passed over; what is
 * neither file nor folder adds to *skipped. */
fathom_status folder_files(const char *path, path_list *files, int64_t *skipped, fathom_error *err);
/* The first 8 KiB hold no NUL byte. */
bool file_is_text(const file_map *map);

#endif
