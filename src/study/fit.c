/* Fits: see fit.h. */
#include "study/fit.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"

enum { FIT_STREAM = 0x666974 };

bool linear_solve(double *m, int64_t n)
{
    const int64_t width = n + 1;
    for (int64_t c = 0; c < n; c++) {
        int64_t pivot = c;
        for (int64_t r = c + 1; r < n; r++)
            pivot = fabs(m[r * width + c]) > fabs(m[pivot * width + c]) ? r : pivot;
        if (!(fabs(m[pivot * width + c]) > 1e-9))
            return false;
        for (int64_t k = 0; k < width; k++) {
            const double swap = m[c * width + k];
            m[c * width + k] = m[pivot * width + k];
            m[pivot * width + k] = swap;
        }
        for (int64_t r = 0; r < n; r++) {
            const double factor = r == c ? 0 : m[r * width + c] / m[c * width + c];
            for (int64_t k = c; k < width; k++)
                m[r * width + k] -= factor * m[c * width + k];
        }
    }
    for (int64_t r = 0; r < n; r++)
        m[r * width + n] /= m[r * width + r];
    return true;
}

static double mean_of(const double *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

bool parabola_fit(const double *x, const double *y, int64_t n, parabola *out)
{
    if (n < 3)
        return false;
    const double middle = mean_of(x, n);
    double spread = 0, m[3][4] = {{0}};
    for (int64_t i = 0; i < n; i++)
        spread = fmax(spread, fabs(x[i] - middle));
    if (!(spread > 0))
        return false;
    for (int64_t i = 0; i < n; i++) { /* around the middle, to unit spread: well conditioned */
        const double t = (x[i] - middle) / spread, power[] = {1, t, t * t};
        for (int r = 0; r < 3; r++) {
            for (int c = 0; c < 3; c++)
                m[r][c] += power[r] * power[c] / (double)n;
            m[r][3] += power[r] * y[i] / (double)n;
        }
    }
    if (!linear_solve(&m[0][0], 3) || !(m[2][3] > 0))
        return false;
    const double c0 = m[0][3], c1 = m[1][3], c2 = m[2][3], t0 = -c1 / (2 * c2);
    *out = (parabola){.a = c2 / (spread * spread), .x0 = middle + spread * t0, .y0 = c0 - c2 * t0 * t0};
    return isfinite(out->x0) && isfinite(out->y0);
}

static double value_at(const parabola *p, double x)
{
    return p->y0 + p->a * (x - p->x0) * (x - p->x0);
}

/* How much wider than the normal's is the middle 95 % of Student's t at n degrees of freedom? */
static double student_width(int64_t n)
{
    static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228};
    const int64_t known = sizeof t / sizeof *t;
    return (n <= known ? t[n - 1] : 1.960 + 2.4 / (double)n) / 1.960;
}

void fit_noise_add(fit_noise *noise, const double *x, const double *y, int64_t n, const parabola *fit)
{
    if (n <= 3)
        return;
    for (int64_t i = 0; i < n; i++)
        noise->residual[noise->n++] = sqrt((double)n / (double)(n - 3)) * (y[i] - value_at(fit, x[i]));
    noise->freedom += n - 3;
}

void parabola_bootstrap(const double *x, int64_t n, const parabola *fit, const fit_noise *noise, uint64_t seed, int64_t rounds, parabola *samples)
{
    double *drawn = noise->freedom > 0 ? malloc((size_t)n * sizeof *drawn) : NULL;
    const double widen = noise->freedom > 0 ? student_width(noise->freedom) : 0;
    uint64_t counter = 0;
    for (int64_t r = 0; r < rounds; r++) {
        for (int64_t i = 0; drawn && i < n; i++)
            drawn[i] = value_at(fit, x[i]) + widen * noise->residual[(int64_t)(rng_uniform(seed, FIT_STREAM, counter++) * (double)noise->n)];
        if (!drawn || !parabola_fit(x, drawn, n, &samples[r]))
            samples[r] = (parabola){NAN, NAN, NAN};
    }
    free(drawn);
}

bool power_law_fit(const double *x, const double *y, int64_t n, power_law *out)
{
    double sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(x[i] > 0 && y[i] > 0))
            return false;
        sx += log(x[i]);
        sy += log(y[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        sxx += (log(x[i]) - sx / (double)n) * (log(x[i]) - sx / (double)n);
        sxy += (log(x[i]) - sx / (double)n) * (log(y[i]) - sy / (double)n);
    }
    if (n < 2 || !(sxx > 0))
        return false;
    out->exponent = sxy / sxx;
    out->factor = exp(sy / (double)n - out->exponent * sx / (double)n);
    return true;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double quantile(double *values, int64_t n, double q)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    const double at = q * (double)(n - 1);
    const int64_t i = (int64_t)at;
    return i + 1 < n ? values[i] + (at - (double)i) * (values[i + 1] - values[i]) : values[n - 1];
}
