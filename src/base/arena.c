/* Planned memory: see arena.h. */
#include "base/arena.h"

#include <stdint.h>

enum { ALIGNMENT = 64 };

void *arena_alloc(arena *a, size_t count, size_t element_size)
{
    if (a->overflow || (element_size != 0 && count > (SIZE_MAX - ALIGNMENT) / element_size)) {
        a->overflow = true;
        return NULL;
    }
    size_t bytes = (count * element_size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes > SIZE_MAX - a->used || (a->base && a->used + bytes > a->size)) {
        a->overflow = true;
        return NULL;
    }
    void *result = a->base ? a->base + a->used : NULL;
    a->used += bytes;
    return result;
}
