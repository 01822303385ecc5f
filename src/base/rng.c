/* Counter-based random numbers: see rng.h. */
#include "base/rng.h"

#include <math.h>

void rng_words(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static double unit53(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 21) ^ (low >> 11)) * 0x1p-53;
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint32_t w[4];
    rng_words(seed, stream, counter, w);
    return unit53(w[0], w[1]);
}

double rng_normal(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint32_t w[4];
    rng_words(seed, stream, counter, w);
    double u = 1.0 - unit53(w[0], w[1]), angle = 6.283185307179586 * unit53(w[2], w[3]);
    return sqrt(-2.0 * log(u)) * cos(angle);
}

uint64_t rng_permute(uint64_t seed, uint64_t stream, uint64_t i, uint64_t n)
{
    int half = 1;
    while (half < 32 && ((uint64_t)1 << (2 * half)) < n)
        half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    do { /* the network permutes [0, 4^half), at most 4 n values: walk its cycle until it comes back below n */
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 6; round++) {
            uint32_t w[4];
            rng_words(seed, stream, right | round << 56, w);
            uint64_t next = left ^ ((((uint64_t)w[1] << 32) | w[0]) & mask);
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}
