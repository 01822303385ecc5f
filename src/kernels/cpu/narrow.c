/* Attention's products where a head is narrow: C [rows, columns] = alpha A B (+ C) with few rows at a time, whose sums stay in
 * registers. The matrix library reaches half of its rate on blocks of 64 x 256 x 16; these loops also skip what causality masks, six
 * rows at a time. Called by attention.c on the thread that owns the block.
 *
 * Processors with AVX2 and no AVX-512; elsewhere attention.c takes the matrix library. */
#include "kernels/cpu/cpu.h"

#if defined(__x86_64__) && !defined(FATHOM_NO_CLONES)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma")))

bool cpu_narrow_fits(int64_t columns)
{
    return columns % NARROW_COLUMNS == 0 && !cpu_has_avx512() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

/* R rows by 16 columns: 2 R sums, two vectors of B and one number of A are 15 registers of 16. */
#define ROWS(R)                                                                                                        \
    AVX2 static void rows_##R(const narrow_args *p, const float *a, float *c)                                          \
    {                                                                                                                  \
        for (int64_t j = 0; j < p->columns; j += NARROW_COLUMNS) {                                                     \
            __m256 sum[R][2];                                                                                          \
            for (int i = 0; i < R; i++)                                                                                \
                sum[i][0] = sum[i][1] = _mm256_setzero_ps();                                                           \
            const float *b = p->b + j, *at = a;                                                                        \
            for (int64_t l = 0; l < p->depth; l++, b += p->b_stride, at += p->a_depth) {                               \
                const __m256 low = _mm256_loadu_ps(b), high = _mm256_loadu_ps(b + 8);                                  \
                for (int i = 0; i < R; i++) {                                                                          \
                    const __m256 one = _mm256_broadcast_ss(at + i * p->a_row);                                         \
                    sum[i][0] = _mm256_fmadd_ps(one, low, sum[i][0]);                                                  \
                    sum[i][1] = _mm256_fmadd_ps(one, high, sum[i][1]);                                                 \
                }                                                                                                      \
            }                                                                                                          \
            const __m256 alpha = _mm256_set1_ps(p->alpha);                                                             \
            for (int i = 0; i < R; i++)                                                                                \
                for (int half = 0; half < 2; half++) {                                                                 \
                    float *to = c + i * p->c_stride + j + 8 * half;                                                    \
                    const __m256 v = _mm256_mul_ps(alpha, sum[i][half]);                                               \
                    _mm256_storeu_ps(to, p->add ? _mm256_add_ps(v, _mm256_loadu_ps(to)) : v);                          \
                }                                                                                                      \
        }                                                                                                              \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)
ROWS(5)
ROWS(6)

void cpu_narrow_product(const narrow_args *p)
{
    static void (*const loops[])(const narrow_args *p, const float *a, float *c) = {rows_1, rows_2, rows_3, rows_4, rows_5, rows_6};
    loops[p->rows - 1](p, p->a, p->c);
}

/* to [columns, stride] = from [n, columns] transposed, eight by eight; n is padded with zeros to a multiple of NARROW_COLUMNS. */
AVX2 void cpu_narrow_transpose(float *to, int64_t stride, const float *from, int64_t from_stride, int64_t n, int64_t columns)
{
    const int64_t padded = (n + NARROW_COLUMNS - 1) / NARROW_COLUMNS * NARROW_COLUMNS;
    for (int64_t i = 0; i < padded; i += 8)
        for (int64_t j = 0; j < columns; j += 8) {
            __m256 r[8], t[8], u[8];
            for (int k = 0; k < 8; k++)
                r[k] = i + k < n ? _mm256_loadu_ps(from + (i + k) * from_stride + j) : _mm256_setzero_ps();
            for (int k = 0; k < 4; k++) {
                t[2 * k] = _mm256_unpacklo_ps(r[2 * k], r[2 * k + 1]);
                t[2 * k + 1] = _mm256_unpackhi_ps(r[2 * k], r[2 * k + 1]);
            }
            for (int k = 0; k < 2; k++)
                for (int l = 0; l < 2; l++) {
                    u[4 * k + 2 * l] = _mm256_shuffle_ps(t[4 * k + l], t[4 * k + 2 + l], 0x44);
                    u[4 * k + 2 * l + 1] = _mm256_shuffle_ps(t[4 * k + l], t[4 * k + 2 + l], 0xee);
                }
            for (int k = 0; k < 4; k++) {
                _mm256_storeu_ps(to + (j + k) * stride + i, _mm256_permute2f128_ps(u[k], u[4 + k], 0x20));
                _mm256_storeu_ps(to + (j + 4 + k) * stride + i, _mm256_permute2f128_ps(u[k], u[4 + k], 0x31));
            }
        }
}
#else
bool cpu_narrow_fits(int64_t columns)
{
    (void)columns;
    return false;
}

void cpu_narrow_product(const narrow_args *p)
{
    (void)p;
}

void cpu_narrow_transpose(float *to, int64_t stride, const float *from, int64_t from_stride, int64_t n, int64_t columns)
{
    (void)to, (void)stride, (void)from, (void)from_stride, (void)n, (void)columns;
}
#endif
