/* A backend that times another one, entry by entry: what `fathom bench train --profile` prints. Every product of a different
 * shape is a line of its own. FLOPs and bytes are those an entry cannot do without: each operand moved once. */
#ifndef FATHOM_KERNELS_PROFILE_H
#define FATHOM_KERNELS_PROFILE_H

#include "kernels/kernels.h"

enum { PROFILE_LINES = 96 };

typedef struct profile_line {
    char name[48]; /* the entry, and a product's shape */
    int64_t calls;
    double seconds, flops, bytes;
} profile_line;

typedef struct profile {
    kernels inner;
    profile_line lines[PROFILE_LINES];
    int count;
} profile;

/* A table that computes with `inner` and adds up in *p, which must outlive it. One thread at a time. */
kernels profile_start(profile *p, const kernels *inner);
/* Forgets what was measured: after a warm-up. */
void profile_reset(profile *p);
/* The longest first. */
void profile_sort(profile *p);

#endif
