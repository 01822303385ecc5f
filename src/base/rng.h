/* Counter-based random numbers (Philox 4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2,
 * 3", 2011). A number is a pure function of (seed, stream, counter): nothing to save, nothing to advance, the same on any
 * number of threads. Streams keep the uses apart. */
#ifndef FATHOM_BASE_RNG_H
#define FATHOM_BASE_RNG_H

#include <stdint.h>

enum rng_stream {
    RNG_INIT = 1,    /* parameter initialisation; + the parameter's index << 8 */
    RNG_SHUFFLE = 2, /* order of training windows; + epoch << 8 */
    RNG_ROUTE = 3,   /* stochastic routing; + layer << 8 */
    RNG_SAMPLE = 4,  /* sampling tokens */
};

/* Four random 32-bit words. */
void rng_words(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);
/* Uniform in [0, 1), 53 bits. */
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter);
/* Standard normal (Box-Muller on one Philox block). */
double rng_normal(uint64_t seed, uint64_t stream, uint64_t counter);
/* A pseudo-random permutation of [0, n): the image of i, for i < n, n >= 1 (a Feistel network with cycle-walking; no
 * memory). */
uint64_t rng_permute(uint64_t seed, uint64_t stream, uint64_t i, uint64_t n);

#endif
