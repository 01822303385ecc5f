/* The yardstick of what is bound by memory: reading, with nothing else to do. */
#include "kernels/cpu/cpu.h"

enum { LANES = 64, AHEAD = 8192 }; /* floats side by side; bytes */

typedef struct reading {
    const float *x;
    float *partial;
} reading;

CLONES static void read_range(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    const reading *r = context;
    const float *x = r->x;
    float lane[LANES] = {0}, sum = 0;
    for (int64_t i = begin; i + LANES <= end; i += LANES) {
        for (int64_t line = 0; line < LANES; line += 16)
            __builtin_prefetch((const char *)(x + i + line) + AHEAD);
        for (int64_t l = 0; l < LANES; l++)
            lane[l] += x[i + l];
    }
    for (int64_t l = 0; l < LANES; l++)
        sum += lane[l];
    r->partial[chunk] = sum;
}

float kernels_read_all(const kernels *kn, const float *x, int64_t n)
{
    float partial[MAX_CHUNKS], sum = 0;
    cpu_chunks(kn, n, 1, read_range, &(reading){x, partial});
    for (int64_t c = 0; c < chunk_count(n, 1); c++)
        sum += partial[c];
    return sum;
}
