/* See weight.h. */
#include "kernels/weight.h"

#include <float.h>
#include <math.h>

static const char *const names[] = {"fp32", "bf16", "q8"};

const char *weight_type_name(weight_type t)
{
    return names[t];
}

bool weight_type_parse(const char *text, weight_type *out)
{
    for (int t = 0; t < 3; t++)
        if (strcmp(text, names[t]) == 0) {
            *out = (weight_type)t;
            return true;
        }
    return false;
}

size_t weight_element_bytes(weight_type t)
{
    return t == WEIGHT_F32 ? 4 : t == WEIGHT_BF16 ? 2 : 1;
}

static void quantize_row(const float *from, int64_t columns, int8_t *to, float *scale)
{
    float top = 0;
    bool finite = true;
    for (int64_t j = 0; j < columns; j++) {
        finite &= isfinite(from[j]) != 0;
        top = fabsf(from[j]) > top ? fabsf(from[j]) : top;
    }
    *scale = finite ? top / 127 : NAN;
    const float inverse = finite && top >= FLT_MIN ? 127 / top : 0; /* below, 127 / top overflows */
    for (int64_t j = 0; j < columns; j++)
        to[j] = finite ? (int8_t)lrintf(from[j] * inverse) : 0;
}

void weight_pack(weight_type t, const float *from, int64_t rows, int64_t columns, void *data, float *scale)
{
    if (t == WEIGHT_F32) {
        memcpy(data, from, (size_t)(rows * columns) * sizeof *from);
    } else if (t == WEIGHT_BF16) {
        for (int64_t i = 0; i < rows * columns; i++)
            ((uint16_t *)data)[i] = bf16_round(from[i]);
    } else {
        for (int64_t i = 0; i < rows; i++)
            quantize_row(from + i * columns, columns, (int8_t *)data + i * columns, &scale[i]);
    }
}
