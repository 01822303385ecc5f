/* The yardstick of what is bound by memory: reading, with nothing else to do. */
#include "kernels/cpu/cpu.h"

enum { LANES = 64, AHEAD = 8192 }; /* floats side by side; bytes */

CLONES static float read_range(const float *x, int64_t begin, int64_t end)
{
    float lane[LANES] = {0}, sum = 0;
    for (int64_t i = begin; i + LANES <= end; i += LANES) {
        for (int64_t line = 0; line < LANES; line += 16)
            __builtin_prefetch((const char *)(x + i + line) + AHEAD);
        for (int64_t l = 0; l < LANES; l++)
            lane[l] += x[i + l];
    }
    for (int64_t l = 0; l < LANES; l++)
        sum += lane[l];
    return sum;
}

float kernels_read_all(const float *x, int64_t n)
{
    float partial[MAX_CHUNKS], sum = 0;
    const int64_t chunks = chunk_count(n, 1);
#pragma omp parallel for schedule(static) if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++)
        partial[c] = read_range(x, chunk_begin(n, c, chunks), chunk_begin(n, c + 1, chunks));
    for (int64_t c = 0; c < chunks; c++)
        sum += partial[c];
    return sum;
}
