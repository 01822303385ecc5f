/* Fits of the isoFLOP study: at one budget a parabola in the logarithm of the size through (size, loss), after Hoffmann et al. (2022),
 * approach 2; over budgets a power law; intervals by the bootstrap. */
#ifndef FATHOM_STUDY_FIT_H
#define FATHOM_STUDY_FIT_H

#include <stdbool.h>
#include <stdint.h>

/* y = y0 + a (x - x0)^2, a > 0 */
typedef struct parabola {
    double a, x0, y0;
} parabola;

/* Least squares through n points. False where there is none: fewer than three different x, or it opens downwards. */
bool parabola_fit(const double *x, const double *y, int64_t n, parabola *out);

/* What other noise would have given: `rounds` fits to the fitted values plus residuals drawn with replacement, widened by
 * sqrt(n / (n - 3)) for the three that the fit has used up, and by how much wider Student's t at n - 3 degrees of freedom is than the
 * normal. A round without a parabola, and every round where n <= 3 leaves no residuals, is NaN. */
void parabola_bootstrap(const double *x, const double *y, int64_t n, const parabola *fit, uint64_t seed, int64_t rounds, parabola *samples);

/* y = factor x^exponent by least squares in the logarithms; n >= 2 points, positive. False where it cannot be. */
typedef struct power_law {
    double factor, exponent;
} power_law;
bool power_law_fit(const double *x, const double *y, int64_t n, power_law *out);

/* The share q of n values lies below; sorts them. Linear between neighbours. */
double quantile(double *values, int64_t n, double q);

#endif
