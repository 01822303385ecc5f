/* The byte order mark that some editors put before UTF-8 text. */
#ifndef FATHOM_BASE_TEXT_MARK_H
#define FATHOM_BASE_TEXT_MARK_H

#include <stddef.h>
#include <string.h>

/* Bytes of the mark at the head of text: 3, or 0 where there is none. */
static inline size_t text_mark(const char *text, size_t size)
{
    return size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
}

#endif
