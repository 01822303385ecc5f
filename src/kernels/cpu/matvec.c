/* y = x W^T for a few rows of x: one token's products. Bound by reading W, so W is read once, row after row, prefetched, and
 * widened to fp32 in registers. One row at a time by one loop: the processor's prefetcher follows a load instruction that walks
 * through memory in order, and four rows at once reach four fifths of its rate. A thread reads one range of rows and a row's
 * sum is one thread's, so the result does not depend on the number of threads.
 *
 * The one file with intrinsics: the compilers at hand vectorise the widening of 8-bit integers at 23 Gweights/s a core at
 * best, and some not at all; written out it is 40, above what memory delivers. */
#include <omp.h>

#include "kernels/cpu/cpu.h"
#include "kernels/weight.h"

enum { PREFETCH = 8192 }; /* bytes ahead */

static inline float at_f32(const float *w, int64_t j)
{
    return w[j];
}

static inline float at_bf16(const uint16_t *w, int64_t j)
{
    return bf16_widen(w[j]);
}

static inline float at_q8(const int8_t *w, int64_t j)
{
    return (float)w[j];
}

/* Any processor: 64 partial sums, so that the additions can run side by side. */
#define PORTABLE(name, type, at)                                                                                       \
    CLONES static void name(const linear_args *a, int64_t begin, int64_t end)                                          \
    {                                                                                                                  \
        enum { LANES = 64 };                                                                                           \
        const int64_t whole = a->in / LANES * LANES;                                                                   \
        for (int64_t r = begin; r < end; r++) {                                                                        \
            const type *restrict w = (const type *)a->w.data + r * a->in;                                              \
            const float scale = a->w.scale ? a->w.scale[r] : 1;                                                        \
            for (int64_t i = 0; i < a->n; i++) {                                                                       \
                const float *restrict x = a->x + i * a->in;                                                            \
                float lane[LANES] = {0}, sum = 0;                                                                      \
                for (int64_t j = 0; j < whole; j += LANES)                                                             \
                    for (int64_t l = 0; l < LANES; l++)                                                                \
                        lane[l] += x[j + l] * at(w, j + l);                                                            \
                for (int64_t l = 0; l < LANES; l++)                                                                    \
                    sum += lane[l];                                                                                    \
                for (int64_t j = whole; j < a->in; j++)                                                                \
                    sum += x[j] * at(w, j);                                                                            \
                float *y = a->y + i * a->out + r;                                                                      \
                *y = sum * scale + (a->add ? *y : 0);                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }
PORTABLE(matvec_f32, float, at_f32)
PORTABLE(matvec_bf16, uint16_t, at_bf16)
PORTABLE(matvec_q8, int8_t, at_q8)

#if defined(__x86_64__) && !defined(FATHOM_NO_CLONES)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

AVX512 static inline __m512 widen_f32(const float *w, __mmask16 m)
{
    return _mm512_maskz_loadu_ps(m, w);
}

AVX512 static inline __m512 widen_bf16(const uint16_t *w, __mmask16 m)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, w)), 16));
}

AVX512 static inline __m512 widen_q8(const int8_t *w, __mmask16 m)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(m, w)));
}

/* ROWS rows of x at once: each weight is loaded and widened once for all of them. */
#define WIDE(name, type, widen, ROWS)                                                                                  \
    AVX512 static void name(const linear_args *a, const float *x, float *y, int64_t begin, int64_t end)                \
    {                                                                                                                  \
        enum { STEP = 64 };                                                                                            \
        const int64_t in = a->in, whole = in / STEP * STEP;                                                            \
        for (int64_t r = begin; r < end; r++) {                                                                        \
            const type *w = (const type *)a->w.data + r * in;                                                          \
            __m512 sum[ROWS][4];                                                                                       \
            for (int i = 0; i < ROWS; i++)                                                                             \
                for (int k = 0; k < 4; k++)                                                                            \
                    sum[i][k] = _mm512_setzero_ps();                                                                   \
            for (int64_t j = 0; j < whole; j += STEP) {                                                                \
                for (size_t line = 0; line < STEP * sizeof(type); line += 64)                                          \
                    _mm_prefetch((const char *)(w + j) + PREFETCH + line, _MM_HINT_T0);                                \
                for (int k = 0; k < 4; k++) {                                                                          \
                    const __m512 v = widen(w + j + 16 * k, 0xffff);                                                    \
                    for (int i = 0; i < ROWS; i++)                                                                     \
                        sum[i][k] = _mm512_fmadd_ps(v, _mm512_loadu_ps(x + i * in + j + 16 * k), sum[i][k]);           \
                }                                                                                                      \
            }                                                                                                          \
            for (int64_t j = whole; j < in; j += 16) {                                                                 \
                const __mmask16 m = in - j < 16 ? (__mmask16)((1u << (in - j)) - 1) : 0xffff;                          \
                const __m512 v = widen(w + j, m);                                                                      \
                for (int i = 0; i < ROWS; i++)                                                                         \
                    sum[i][0] = _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(m, x + i * in + j), sum[i][0]);               \
            }                                                                                                          \
            const float scale = a->w.scale ? a->w.scale[r] : 1;                                                        \
            for (int i = 0; i < ROWS; i++) {                                                                           \
                const __m512 total = _mm512_add_ps(_mm512_add_ps(sum[i][0], sum[i][1]),                                \
                                                   _mm512_add_ps(sum[i][2], sum[i][3]));                               \
                float *to = y + i * a->out + r;                                                                        \
                *to = _mm512_reduce_add_ps(total) * scale + (a->add ? *to : 0);                                        \
            }                                                                                                          \
        }                                                                                                              \
    }
#define WIDE_ALL(type, name, widen) WIDE(name##_1, type, widen, 1) WIDE(name##_2, type, widen, 2) WIDE(name##_4, type, widen, 4)
WIDE_ALL(float, wide_f32, widen_f32)
WIDE_ALL(uint16_t, wide_bf16, widen_bf16)
WIDE_ALL(int8_t, wide_q8, widen_q8)

/* Many rows of x: tiles of TILE_W rows of w by TILE_X of x, whose sums are in registers together, so that a load serves several
 * multiplications. The sums have the order of the loops above: a row of x gets the same bits by either. */
enum {
    TILE_W = 2,
    TILE_X = 3,
    MANY_ROWS = 5,
    X_FLOATS = 8192,        /* of a block of x: stays in the nearest cache, */
    W_ROWS = 48,            /* while so many rows of w, in the next one, pass by */
    WIDENED_COLUMNS = 4096, /* of w that fit the stack widened */
};

AVX512 static inline __m512 total(const __m512 part[4])
{
    return _mm512_add_ps(_mm512_add_ps(part[0], part[1]), _mm512_add_ps(part[2], part[3]));
}

/* The sums of four vectors, each in the order of _mm512_reduce_add_ps: halves, quarters, pairs, ones. */
AVX512 static inline void sums_of_four(float out[4], __m512 a, __m512 b, __m512 c, __m512 d)
{
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    const __m512 q = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    const __m512 p = _mm512_add_ps(q, _mm512_permute_ps(q, 0x4e)), one = _mm512_add_ps(p, _mm512_permute_ps(p, 0xb1));
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, one)));
}

/* y of the rows [i, i + X) of x and [r, r + W) of w, which begin at `w`, dense and in fp32. */
AVX512 static inline __attribute__((always_inline)) void tile(const linear_args *a, const float *w, int64_t r, int64_t i, int W, int X)
{
    const int64_t in = a->in, whole = in / 64 * 64;
    __m512 sum[TILE_W][4][4]; /* X of the second, the rest 0 */
    for (int c = 0; c < W; c++)
        for (int b = 0; b < 4; b++)
            for (int k = 0; k < 4; k++)
                sum[c][b][k] = _mm512_setzero_ps();
    const float *x = a->x + i * in;
    for (int64_t j = 0; j < whole; j += 64)
        for (int k = 0; k < 4; k++)
            for (int c = 0; c < W; c++) {
                const __m512 v = _mm512_loadu_ps(w + c * in + j + 16 * k);
                for (int b = 0; b < X; b++)
                    sum[c][b][k] = _mm512_fmadd_ps(v, _mm512_loadu_ps(x + b * in + j + 16 * k), sum[c][b][k]);
            }
    for (int64_t j = whole; j < in; j += 16) {
        const __mmask16 m = in - j < 16 ? (__mmask16)((1u << (in - j)) - 1) : 0xffff;
        for (int c = 0; c < W; c++) {
            const __m512 v = _mm512_maskz_loadu_ps(m, w + c * in + j);
            for (int b = 0; b < X; b++)
                sum[c][b][0] = _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(m, x + b * in + j), sum[c][b][0]);
        }
    }
    for (int c = 0; c < W; c++) {
        const float scale = a->w.scale ? a->w.scale[r + c] : 1;
        float dot[4];
        sums_of_four(dot, total(sum[c][0]), total(sum[c][1]), total(sum[c][2]), total(sum[c][3]));
        for (int b = 0; b < X; b++) {
            float *to = a->y + (i + b) * a->out + r + c;
            *to = dot[b] * scale + (a->add ? *to : 0);
        }
    }
}

/* The rows [begin, end) of x by `rows` rows of w. */
#define TILES(name, W)                                                                                                 \
    AVX512 static void name(const linear_args *a, const float *w, int64_t r, int64_t begin, int64_t end)               \
    {                                                                                                                  \
        int64_t i = begin;                                                                                             \
        for (; i + TILE_X <= end; i += TILE_X)                                                                         \
            tile(a, w, r, i, W, TILE_X);                                                                               \
        if (end - i == 2)                                                                                              \
            tile(a, w, r, i, W, 2);                                                                                    \
        else if (end - i == 1)                                                                                         \
            tile(a, w, r, i, W, 1);                                                                                    \
    }
TILES(tiles_whole, TILE_W)
TILES(tiles_single, 1)

static void tiles(const linear_args *a, const float *w, int64_t r, int64_t rows, int64_t begin, int64_t end)
{
    (rows == TILE_W ? tiles_whole : tiles_single)(a, w, r, begin, end);
}

/* A row of w in fp32, without its scale. */
AVX512 static void widen_row(const linear_args *a, int64_t r, float *to)
{
    for (int64_t j = 0; j < a->in; j += 16) {
        const __mmask16 m = a->in - j < 16 ? (__mmask16)((1u << (a->in - j)) - 1) : 0xffff;
        const int64_t at = r * a->in + j;
        const __m512 v = a->w.type == WEIGHT_BF16 ? widen_bf16((const uint16_t *)a->w.data + at, m)
                                                  : widen_q8((const int8_t *)a->w.data + at, m);
        _mm512_mask_storeu_ps(to + j, m, v);
    }
}

/* Asks for the lines of [*at, *at + bytes), up to `end`, and goes on behind them. */
static inline void ask_ahead(const char **at, const char *end, size_t bytes)
{
    for (const char *stop = *at + bytes; *at < stop && *at < end; *at += 64)
        _mm_prefetch(*at, _MM_HINT_T1);
}

static void many_f32(const linear_args *a, int64_t begin, int64_t end)
{
    const float *w = a->w.data;
    const int64_t fitting = X_FLOATS / a->in / TILE_X * TILE_X, block = fitting > 0 ? fitting : TILE_X;
    const size_t share = (size_t)(TILE_W * a->in) * sizeof *w / (size_t)((a->n + block - 1) / block); /* of the next rows, for each turn */
    for (int64_t r = begin; r < end; r += W_ROWS) {
        const int64_t last = r + W_ROWS < end ? r + W_ROWS : end, next = last + W_ROWS < end ? last + W_ROWS : end;
        const char *ahead = (const char *)(w + last * a->in), *ahead_end = (const char *)(w + next * a->in);
        for (int64_t i = 0; i < a->n; i += block) {
            const int64_t stop = i + block < a->n ? i + block : a->n;
            for (int64_t k = r, rows; k < last; k += rows) {
                rows = last - k < TILE_W ? 1 : TILE_W;
                ask_ahead(&ahead, ahead_end, share);
                tiles(a, w + k * a->in, k, rows, i, stop);
            }
        }
    }
}

static void many_widened(const linear_args *a, int64_t begin, int64_t end)
{
    float widened[TILE_W * WIDENED_COLUMNS];
    for (int64_t r = begin, rows; r < end; r += rows) {
        rows = end - r < TILE_W ? 1 : TILE_W;
        for (int64_t c = 0; c < rows; c++)
            widen_row(a, r + c, widened + c * a->in);
        tiles(a, widened, r, rows, 0, a->n);
    }
}

typedef void (*wide_loop)(const linear_args *a, const float *x, float *y, int64_t begin, int64_t end);

/* False where the processor has no AVX-512. A row of x gets the same bits alone and among others. */
static bool wide(const linear_args *a, int64_t begin, int64_t end)
{
    static const wide_loop loops[3][3] = {{wide_f32_1, wide_f32_2, wide_f32_4},
                                          {wide_bf16_1, wide_bf16_2, wide_bf16_4},
                                          {wide_q8_1, wide_q8_2, wide_q8_4}};
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return false;
    if (a->n >= MANY_ROWS && (a->w.type == WEIGHT_F32 || a->in <= WIDENED_COLUMNS)) {
        (a->w.type == WEIGHT_F32 ? many_f32 : many_widened)(a, begin, end);
        return true;
    }
    for (int64_t i = 0; i < a->n;) {
        const int step = a->n - i >= 4 ? 2 : a->n - i >= 2 ? 1 : 0;
        loops[a->w.type][step](a, a->x + i * a->in, a->y + i * a->out, begin, end);
        i += 1 << step;
    }
    return true;
}
#else
static bool wide(const linear_args *a, int64_t begin, int64_t end)
{
    (void)a, (void)begin, (void)end;
    return false;
}
#endif

void cpu_matvec_rows(const linear_args *a, int64_t begin, int64_t end)
{
    if (wide(a, begin, end))
        return;
    if (a->w.type == WEIGHT_F32)
        matvec_f32(a, begin, end);
    else if (a->w.type == WEIGHT_BF16)
        matvec_bf16(a, begin, end);
    else
        matvec_q8(a, begin, end);
}

void cpu_matvec(const linear_args *a)
{
#pragma omp parallel if (chunk_count(a->out, a->in) > 1)
    {
        const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
        cpu_matvec_rows(a, chunk_begin(a->out, thread, threads), chunk_begin(a->out, thread + 1, threads));
    }
}
