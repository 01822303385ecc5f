/* Matrices in fewer bits than fp32: how a `weight` is made from fp32 values. */
#ifndef FATHOM_KERNELS_WEIGHT_H
#define FATHOM_KERNELS_WEIGHT_H

#include <string.h>

#include "kernels/kernels.h"

/* fp32 to bfloat16, to nearest, ties to even; NaN stays NaN, infinity infinity. */
static inline uint16_t bf16_round(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float bf16_widen(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

const char *weight_type_name(weight_type t); /* "fp32", "bf16", "q8" */
bool weight_type_parse(const char *text, weight_type *out);
/* Bytes of one element, without q8's scales. */
size_t weight_element_bytes(weight_type t);

/* Packs from [rows, columns] into data; q8 also sets scale [rows] = max |row| / 127, so that an element is off by at most half
 * a scale. A row that holds NaN or infinity has no such scale: scale NaN. On the host. */
void weight_pack(weight_type t, const float *from, int64_t rows, int64_t columns, void *data, float *scale);

#endif
