/* y = x W^T for a few rows of x: one token's products. Bound by reading W, so W is read once, row after row, prefetched, and
 * widened to fp32 in registers. One row at a time by one loop: the processor's prefetcher follows a load instruction that walks
 * through memory in order, and four rows at once reach four fifths of its rate. A tile is a range of rows, and a row's sum is
 * one thread's.
 *
 * Written with intrinsics, as by_row.c is: the compilers at hand vectorise the widening of 8-bit integers at 23 Gweights/s a core at
 * best, and some not at all; written out it is 40, above what memory delivers. */
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

typedef void (*wide_loop)(const linear_args *a, const float *x, float *y, int64_t begin, int64_t end);

bool cpu_has_avx512(void)
{
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* The same with AVX2, 8 lanes and half as many rows of x. What is left of a row behind its last 8 columns is added at the end. */
#define AVX2 __attribute__((target("avx2,fma")))

AVX2 static inline __m256 widen8_f32(const float *w)
{
    return _mm256_loadu_ps(w);
}

AVX2 static inline __m256 widen8_bf16(const uint16_t *w)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)w)), 16));
}

AVX2 static inline __m256 widen8_q8(const int8_t *w)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)w)));
}

AVX2 static inline float sum8(__m256 v)
{
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#define NARROW(name, type, widen, at, ROWS)                                                                            \
    AVX2 static void name(const linear_args *a, const float *x, float *y, int64_t begin, int64_t end)                  \
    {                                                                                                                  \
        enum { STEP = 32 };                                                                                            \
        const int64_t in = a->in, whole = in / STEP * STEP, eights = in / 8 * 8;                                       \
        for (int64_t r = begin; r < end; r++) {                                                                        \
            const type *w = (const type *)a->w.data + r * in;                                                          \
            __m256 sum[ROWS][4];                                                                                       \
            for (int i = 0; i < ROWS; i++)                                                                             \
                for (int k = 0; k < 4; k++)                                                                            \
                    sum[i][k] = _mm256_setzero_ps();                                                                   \
            for (int64_t j = 0; j < whole; j += STEP) {                                                                \
                for (size_t line = 0; line < STEP * sizeof(type); line += 64)                                          \
                    _mm_prefetch((const char *)(w + j) + PREFETCH + line, _MM_HINT_T0);                                \
                for (int k = 0; k < 4; k++) {                                                                          \
                    const __m256 v = widen(w + j + 8 * k);                                                             \
                    for (int i = 0; i < ROWS; i++)                                                                     \
                        sum[i][k] = _mm256_fmadd_ps(v, _mm256_loadu_ps(x + i * in + j + 8 * k), sum[i][k]);            \
                }                                                                                                      \
            }                                                                                                          \
            for (int64_t j = whole; j < eights; j += 8)                                                                \
                for (int i = 0; i < ROWS; i++)                                                                         \
                    sum[i][0] = _mm256_fmadd_ps(widen(w + j), _mm256_loadu_ps(x + i * in + j), sum[i][0]);             \
            const float scale = a->w.scale ? a->w.scale[r] : 1;                                                        \
            for (int i = 0; i < ROWS; i++) {                                                                           \
                float total = sum8(_mm256_add_ps(_mm256_add_ps(sum[i][0], sum[i][1]), _mm256_add_ps(sum[i][2], sum[i][3]))); \
                for (int64_t j = eights; j < in; j++)                                                                  \
                    total += x[i * in + j] * at(w, j);                                                                 \
                float *to = y + i * a->out + r;                                                                        \
                *to = total * scale + (a->add ? *to : 0);                                                              \
            }                                                                                                          \
        }                                                                                                              \
    }
#define NARROW_ALL(type, name, widen, at) NARROW(name##_1, type, widen, at, 1) NARROW(name##_2, type, widen, at, 2)
NARROW_ALL(float, narrow_f32, widen8_f32, at_f32)
NARROW_ALL(uint16_t, narrow_bf16, widen8_bf16, at_bf16)
NARROW_ALL(int8_t, narrow_q8, widen8_q8, at_q8)

/* False where the processor has no AVX2. */
static bool narrow(const linear_args *a, int64_t begin, int64_t end)
{
    static const wide_loop loops[3][2] = {{narrow_f32_1, narrow_f32_2}, {narrow_bf16_1, narrow_bf16_2}, {narrow_q8_1, narrow_q8_2}};
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return false;
    for (int64_t i = 0; i < a->n;) {
        const int step = a->n - i >= 2;
        loops[a->w.type][step](a, a->x + i * a->in, a->y + i * a->out, begin, end);
        i += 1 + step;
    }
    return true;
}

/* False where the processor has no AVX-512. */
static bool wide(const linear_args *a, int64_t begin, int64_t end)
{
    static const wide_loop loops[3][3] = {{wide_f32_1, wide_f32_2, wide_f32_4},
                                          {wide_bf16_1, wide_bf16_2, wide_bf16_4},
                                          {wide_q8_1, wide_q8_2, wide_q8_4}};
    if (!cpu_has_avx512())
        return false;
    for (int64_t i = 0; i < a->n;) {
        const int step = a->n - i >= 4 ? 2 : a->n - i >= 2 ? 1 : 0;
        loops[a->w.type][step](a, a->x + i * a->in, a->y + i * a->out, begin, end);
        i += 1 << step;
    }
    return true;
}
#else
bool cpu_has_avx512(void)
{
    return false;
}

static bool wide(const linear_args *a, int64_t begin, int64_t end)
{
    (void)a, (void)begin, (void)end;
    return false;
}

static bool narrow(const linear_args *a, int64_t begin, int64_t end)
{
    (void)a, (void)begin, (void)end;
    return false;
}
#endif

void cpu_matvec_rows(const linear_args *a, int64_t begin, int64_t end)
{
    if (wide(a, begin, end) || narrow(a, begin, end))
        return;
    if (a->w.type == WEIGHT_F32)
        matvec_f32(a, begin, end);
    else if (a->w.type == WEIGHT_BF16)
        matvec_bf16(a, begin, end);
    else
        matvec_q8(a, begin, end);
}

int64_t cpu_weight_tiles(int64_t out, int64_t in)
{
    enum { WORTHWHILE = 24576, MOST = 16 }; /* weights of a tile; tiles of a matrix */
    int64_t tiles = 1;
    while (2 * tiles <= MOST && 2 * tiles <= out && 2 * tiles * WORTHWHILE <= out * in)
        tiles *= 2;
    return tiles;
}

typedef struct matvec_call {
    const linear_args *args;
    int64_t tiles;
} matvec_call;

static void matvec_tile(void *context, int64_t tile, int seat)
{
    (void)seat;
    const matvec_call *c = context;
    const int64_t out = c->args->out;
    cpu_matvec_rows(c->args, chunk_begin(out, tile, c->tiles), chunk_begin(out, tile + 1, c->tiles));
}

void cpu_matvec(const kernels *kn, const linear_args *a)
{
    matvec_call c = {a, cpu_weight_tiles(a->out, a->in)};
    pool_run(kn->threads, c.tiles, matvec_tile, &c);
}
