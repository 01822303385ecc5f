/* Planned memory. A layout function runs twice: first on a measuring arena (base NULL: every allocation returns NULL and
 * only the size grows), then on an arena over one block of that size. The arena does pointer arithmetic only, so the
 * block may lie on any device. Allocations are 64-byte aligned; a size that overflows sets `overflow` and sticks. */
#ifndef FATHOM_BASE_ARENA_H
#define FATHOM_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct arena {
    unsigned char *base; /* NULL while measuring */
    size_t size;         /* bytes at base; unused while measuring */
    size_t used;
    bool overflow; /* a size did not fit size_t, or used passed size */
} arena;

/* count elements of element_size bytes; NULL while measuring or on overflow. Never returns memory twice. */
void *arena_alloc(arena *a, size_t count, size_t element_size);
/* A matrix of floats [n, width]. */
static inline float *arena_floats(arena *a, int64_t n, int64_t width)
{
    return arena_alloc(a, (size_t)n, (size_t)width * sizeof(float));
}

#endif
