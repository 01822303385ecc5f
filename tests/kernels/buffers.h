/* What tests of kernels are made of: random numbers, and buffers that tell of writes past their ends. */
#ifndef FATHOM_TESTS_KERNELS_BUFFERS_H
#define FATHOM_TESTS_KERNELS_BUFFERS_H

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kernels/kernels.h"

enum { GUARD = 16 };
static const float guard_value = 12345.5f;
static uint64_t draws;

static inline double uniform(void)
{
    return rng_uniform(99, 1, draws++);
}

static inline double normal(void)
{
    return rng_normal(99, 2, draws++);
}

static inline int64_t pick(int64_t low, int64_t high)
{
    return low + (int64_t)(uniform() * (double)(high - low + 1));
}

/* A buffer between guards, so that a write past its ends is found. */
static inline float *buffer(int64_t n)
{
    float *p = calloc((size_t)(n + 2 * GUARD), sizeof *p);
    for (int i = 0; i < GUARD; i++)
        p[i] = p[GUARD + n + i] = guard_value;
    return p + GUARD;
}

static inline void release(float *p, int64_t n)
{
    for (int i = 0; i < GUARD; i++)
        if (p[i - GUARD] != guard_value || p[n + i] != guard_value)
            fail_msg("a kernel wrote past its buffer");
    free(p - GUARD);
}

static inline void *scratch_for(const kernels *kn, int64_t n, int64_t width, int64_t keys)
{
    const kernel_sizes sizes = {.rows = n, .width = width, .keys = keys, .heads = 8, .kv_heads = 8, .head_dim = 64, .vocab = width};
    return kn->mem_alloc(kn, kn->scratch_bytes(kn, &sizes) + 64);
}

#endif
