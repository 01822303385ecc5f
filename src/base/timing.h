/* Time as measurements need it. */
#ifndef FATHOM_BASE_TIMING_H
#define FATHOM_BASE_TIMING_H

#include <stdint.h>

/* Seconds on a clock that never goes back. */
double timing_now(void);
/* The median of n values, which are sorted in place; 0 when n is 0. */
double timing_median(double *values, int64_t n);

#endif
