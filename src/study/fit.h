/* Fits of the isoFLOP study: at one budget a parabola in the logarithm of the size through (size, loss), after Hoffmann et al. (2022),
 * approach 2; over budgets a power law; intervals by the bootstrap. */
#ifndef FATHOM_STUDY_FIT_H
#define FATHOM_STUDY_FIT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct interval {
    double low, high;
} interval;

/* Solves n equations whose coefficients are about 1, by elimination with pivots: m [n][n + 1], the right side last, where the solution stands
 * afterwards. False where they are singular. */
bool linear_solve(double *m, int64_t n);

/* y = y0 + a (x - x0)^2, a > 0 */
typedef struct parabola {
    double a, x0, y0;
} parabola;

/* Least squares through n points. False where there is none: fewer than three different x, or it opens downwards. */
bool parabola_fit(const double *x, const double *y, int64_t n, parabola *out);

/* The noise of a fit, or of several that are taken to have the same: residuals, each widened by sqrt(n / (n - 3)) for the three degrees of
 * freedom that its fit has used up, and how many are left in all. */
typedef struct fit_noise {
    double *residual; /* the caller's */
    int64_t n, freedom;
} fit_noise;
/* n points more, for which `residual` has room; three or fewer leave no residuals and add none. */
void fit_noise_add(fit_noise *noise, const double *x, const double *y, int64_t n, const parabola *fit);

/* What other noise would have given: `rounds` fits to the fitted values at x [n] plus residuals drawn with replacement, widened by how much
 * wider Student's t at the noise's degrees of freedom is than the normal. A round without a parabola, and every round where there is no
 * noise, is NaN. */
void parabola_bootstrap(const double *x, int64_t n, const parabola *fit, const fit_noise *noise, uint64_t seed, int64_t rounds, parabola *samples);

/* y = factor x^exponent by least squares in the logarithms; n >= 2 points, positive. False where it cannot be. */
typedef struct power_law {
    double factor, exponent;
} power_law;
bool power_law_fit(const double *x, const double *y, int64_t n, power_law *out);

/* The share q of n values lies below; sorts them. Linear between neighbours. */
double quantile(double *values, int64_t n, double q);

#endif
