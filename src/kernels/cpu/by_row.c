/* y = x W^T where a row of y has the same bits alone and among others: decoding for several sequences at once. Every sum is one
 * chain of fused multiply-adds from column 0 on, whatever else is computed beside it:
 *
 * - Of few rows of x: a vector's lanes are 16 rows of W, which are transposed in registers as they are read, for reading them is
 *   what takes the time.
 * - Of more: the lanes are rows of x, which are transposed beforehand; a weight is loaded once for all of them, and R rows of W
 *   by V vectors of x have their sums in registers. No sum ever goes across lanes, which is what makes products of few rows slow.
 *
 * x lies transposed in scratch, [columns][lanes], with zeros where there is none. */
#include "kernels/cpu/cpu.h"
#include "kernels/weight.h"

enum {
    FEW = 8,        /* rows of x, the most with lanes along W */
    LANES_MAX = 64, /* rows of x at a time */
    PADDING = 64,   /* columns of x: what a vector of 8-bit weights has */
    ROWS_MAX = 24,  /* of W, whose sums with one vector of x are in registers */
    STEP = 48,      /* rows of W, a multiple of what each loop takes at a time */
    ALIASED = 4096, /* bytes between lines that share a place in the first cache, of which there are */
    CACHE_WAYS = 12,
};

static int64_t padded(int64_t in)
{
    return (in + PADDING - 1) / PADDING * PADDING;
}

size_t cpu_by_row_scratch(const kernel_sizes *s)
{
    return (size_t)(padded(s->linear_in) * LANES_MAX) * sizeof(float);
}

#if defined(__x86_64__) && !defined(FATHOM_NO_CLONES)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define INLINE static inline __attribute__((always_inline)) /* with constants: the sums' arrays are registers then */

static size_t width_of(weight_type type)
{
    return type == WEIGHT_F32 ? 4 : type == WEIGHT_BF16 ? 2 : 1;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* to[c] = column c of 16 rows of 16 words. */
AVX512 INLINE void transpose(__m512i to[16], const __m512i row[16])
{
    __m512i pairs[16], fours[16]; /* fours[4 i + c]: columns c, c + 4, c + 8 and c + 12 of the rows 4 i ... 4 i + 3 */
    for (int i = 0; i < 8; i++) {
        pairs[2 * i] = _mm512_unpacklo_epi32(row[2 * i], row[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(row[2 * i], row[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        fours[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    for (int c = 0; c < 4; c++) {
        const __m512i a = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88), b = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xdd);
        const __m512i d = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88), e = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xdd);
        to[c] = _mm512_shuffle_i32x4(a, d, 0x88);
        to[8 + c] = _mm512_shuffle_i32x4(a, d, 0xdd);
        to[4 + c] = _mm512_shuffle_i32x4(b, e, 0x88);
        to[12 + c] = _mm512_shuffle_i32x4(b, e, 0xdd);
    }
}

/* Columns [16 block, 16 block + 16) of n rows of x into their place among `lanes`. */
AVX512 static void pack_block(float *to, const float *x, int64_t n, int64_t in, int64_t lanes, int64_t block)
{
    const int64_t columns = least(16, in - 16 * block);
    const __mmask16 there = columns <= 0 ? 0 : (__mmask16)((1u << columns) - 1);
    for (int64_t i = 0; i < lanes; i += 16) {
        __m512i row[16], column[16];
        for (int k = 0; k < 16; k++)
            row[k] = i + k < n && columns > 0 ? _mm512_maskz_loadu_epi32(there, x + (i + k) * in + 16 * block) : _mm512_setzero_si512();
        transpose(column, row);
        const __mmask16 kept = lanes - i < 16 ? (__mmask16)((1u << (lanes - i)) - 1) : 0xffff;
        for (int c = 0; c < 16; c++)
            _mm512_mask_storeu_epi32(to + (16 * block + c) * lanes + i, kept, column[c]);
    }
}

/* What is left of a range of rows of W that is shorter than a vector. */
AVX512 static void short_range(const linear_args *a, const float *packed, int64_t lanes, int64_t begin, int64_t end)
{
    for (int64_t r = begin; r < end; r++)
        for (int64_t i = 0; i < a->n; i++) {
            float sum = 0;
            for (int64_t j = 0; j < a->in; j++) {
                const int64_t at = r * a->in + j;
                const float w = a->w.type == WEIGHT_F32    ? ((const float *)a->w.data)[at]
                                : a->w.type == WEIGHT_BF16 ? bf16_widen(((const uint16_t *)a->w.data)[at])
                                                           : (float)((const int8_t *)a->w.data)[at];
                sum = __builtin_fmaf(w, packed[j * lanes + i], sum);
            }
            float *y = a->y + i * a->out + r;
            const float scale = a->w.scale ? a->w.scale[r] : 1;
            *y = a->add ? __builtin_fmaf(sum, scale, *y) : sum * scale;
        }
}

/* 16 outputs side by side, of which `kept` are stored. */
AVX512 INLINE void finish(const linear_args *a, int64_t i, int64_t r, __m512 sum, __mmask16 kept)
{
    float *y = a->y + i * a->out + r;
    const __m512 scale = a->w.scale ? _mm512_maskz_loadu_ps(kept, a->w.scale + r) : _mm512_set1_ps(1);
    _mm512_mask_storeu_ps(y, kept, a->add ? _mm512_fmadd_ps(sum, scale, _mm512_maskz_loadu_ps(kept, y)) : _mm512_mul_ps(sum, scale));
}

/* --- few rows of x --- */

/* The 8-bit integer in the lowest byte of each word, in fp32: its bits with the sign turned round are the mantissa of 2^23 + 128 + it, in
 * the second byte of 2^15 + 128 + it. Two shifts and a conversion would do as well, but shifts have one port. */
AVX512 INLINE __m512 low_byte(__m512i v)
{
    const __m512i bits = _mm512_ternarylogic_epi32(v, _mm512_set1_epi32(0xff), _mm512_set1_epi32(0x4b000080), 0x6a); /* (v & a) ^ b */
    return _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(8388608 + 128));
}

AVX512 INLINE __m512 second_byte(__m512i v)
{
    const __m512i bits = _mm512_ternarylogic_epi32(v, _mm512_set1_epi32(0xff00), _mm512_set1_epi32(0x47008000), 0x6a);
    return _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(32768 + 128));
}

/* sum[i] += w times row i of x, at one column. */
AVX512 INLINE void add_column(__m512 *sum, __m512 w, const float *x, int N)
{
    for (int i = 0; i < N; i++)
        sum[i] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[i]), sum[i]);
}

/* 64 bytes from each of 16 rows of W, of which `there` are the row's. */
AVX512 INLINE void few_columns(__m512 *sum, const char *w, size_t stride, __mmask64 there, const float *x, weight_type type, int N)
{
    __m512i row[16], word[16];
    for (int k = 0; k < 16; k++)
        row[k] = there == ~(__mmask64)0 ? _mm512_loadu_si512(w + (size_t)k * stride) : _mm512_maskz_loadu_epi8(there, w + (size_t)k * stride);
    transpose(word, row);
    for (int k = 0; k < 16; k++) {
        const __m512i v = word[k], upper = _mm512_srli_epi32(v, 16);
        if (type == WEIGHT_F32) {
            add_column(sum, _mm512_castsi512_ps(v), x + k * N, N);
        } else if (type == WEIGHT_BF16) {
            add_column(sum, _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), x + 2 * k * N, N);
            add_column(sum, _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000))), x + (2 * k + 1) * N, N);
        } else {
            add_column(sum, low_byte(v), x + 4 * k * N, N);
            add_column(sum, second_byte(v), x + (4 * k + 1) * N, N);
            add_column(sum, low_byte(upper), x + (4 * k + 2) * N, N);
            add_column(sum, second_byte(upper), x + (4 * k + 3) * N, N);
        }
    }
}

/* The rows [begin, end) of W, at least 16, by N lanes of x. */
AVX512 INLINE void few(const linear_args *a, const float *packed, int64_t begin, int64_t end, weight_type type, int N)
{
    const size_t bytes = width_of(type), stride = (size_t)a->in * bytes, whole = stride / 64 * 64;
    const int64_t per_vector = 64 / (int64_t)bytes;
    for (int64_t done = begin; done < end; done += 16) {
        const int64_t r = least(done, end - 16); /* the last ones again, where fewer are left */
        const char *w = (const char *)a->w.data + (size_t)r * stride, *ahead = w + 16 * stride;
        __m512 sum[FEW];
        for (int i = 0; i < N; i++)
            sum[i] = _mm512_setzero_ps();
        const float *x = packed;
        for (size_t at = 0; at < whole; at += 64, x += per_vector * N) {
            for (int k = 0; k < 16; k++, ahead += 64)
                _mm_prefetch(ahead, _MM_HINT_T1);
            few_columns(sum, w + at, stride, ~(__mmask64)0, x, type, N);
        }
        if (whole < stride)
            few_columns(sum, w + whole, stride, ((__mmask64)1 << (stride - whole)) - 1, x, type, N);
        for (int i = 0; i < N; i++)
            if (i < a->n)
                finish(a, i, r, sum[i], (__mmask16)(0xffffu << (done - r)));
    }
}

/* --- more rows of x --- */

/* sum += `columns` columns of R rows of w by 16 V lanes of x. */
AVX512 INLINE void columns_of(__m512 sum[ROWS_MAX][4], const float *w, int64_t stride, const float *x, int64_t columns, int R, int V)
{
    for (int64_t j = 0; j < columns; j++) {
        __m512 lane[4];
        for (int v = 0; v < V; v++)
            lane[v] = _mm512_loadu_ps(x + (j * V + v) * 16);
#pragma GCC unroll 24
        for (int c = 0; c < R; c++) {
            const __m512 one = _mm512_set1_ps(w[c * stride + j]);
            for (int v = 0; v < V; v++)
                sum[c][v] = _mm512_fmadd_ps(one, lane[v], sum[c][v]);
        }
    }
}

/* 16 weights in fp32, of which those in m are there. */
AVX512 INLINE void widen(float *to, const void *w, int64_t at, __mmask16 m, weight_type type)
{
    __m512i v;
    if (type == WEIGHT_F32)
        v = _mm512_maskz_loadu_epi32(m, (const float *)w + at);
    else if (type == WEIGHT_BF16)
        v = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, (const uint16_t *)w + at)), 16);
    else
        v = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(m, (const int8_t *)w + at))));
    _mm512_storeu_si512(to, v);
}

/* Sums [R, 16 V] of the rows [r, r + R) of W, whole; asks for the next R rows on the way, a little at a time. aside: fp32 weights are copied,
 * as others are widened, 64 bytes of each row at once: rows whose distance is a multiple of 4096 bytes lie in the same few places of
 * the first cache, which cannot hold R lines there until all their columns are used. */
AVX512 INLINE void panel(float *sums, const linear_args *a, const float *packed, int64_t r, weight_type type, int R, int V, bool aside)
{
    const int64_t bytes = (int64_t)width_of(type), block = 64 / bytes; /* columns */
    const char *ahead = (const char *)a->w.data + (r + R) * a->in * bytes;
    float wide[ROWS_MAX * 64];
    __m512 sum[ROWS_MAX][4];
#pragma GCC unroll 24
    for (int c = 0; c < R; c++)
        for (int v = 0; v < V; v++)
            sum[c][v] = _mm512_setzero_ps();
    for (int64_t j = 0; j < a->in; j += block) {
        const int64_t columns = least(block, a->in - j), at = r * a->in + j;
        for (int c = 0; c < R; c++, ahead += 64)
            _mm_prefetch(ahead, _MM_HINT_T1);
        for (int c = 0; c < R && aside; c++)
            for (int64_t k = 0; k < columns; k += 16)
                widen(wide + c * 64 + k, a->w.data, at + c * a->in + k, columns - k < 16 ? (__mmask16)((1u << (columns - k)) - 1) : 0xffff, type);
        const float *x = packed + j * V * 16;
        if (aside)
            columns_of(sum, wide, 64, x, columns, R, V);
        else
            columns_of(sum, (const float *)a->w.data + at, a->in, x, columns, R, V);
    }
#pragma GCC unroll 24
    for (int c = 0; c < R; c++)
        for (int v = 0; v < V; v++)
            _mm512_storeu_ps(sums + (c * V + v) * 16, sum[c][v]);
}

typedef void panel_function(float *sums, const linear_args *a, const float *packed, int64_t r);

/* The rows [begin, end) of W, at least R, by 16 V lanes of x. */
AVX512 INLINE void many(const linear_args *a, const float *packed, int64_t begin, int64_t end, panel_function *panel_of, int R, int V)
{
    for (int64_t done = begin; done < end; done += R) {
        const int64_t r = least(done, end - R);
        float sums[ROWS_MAX * 64];
        panel_of(sums, a, packed, r);
        for (int v = 0; v < V; v++)
            for (int c = 0; c < R; c += 16) {
                const int rows = R - c < 16 ? R - c : 16;
                __m512i row[16], column[16];
#pragma GCC unroll 16
                for (int k = 0; k < 16; k++)
                    row[k] = k < rows ? _mm512_loadu_si512(sums + ((c + k) * V + v) * 16) : _mm512_setzero_si512();
                transpose(column, row);
                const int64_t again = done - r - c; /* of these 16, stored before */
                const uint32_t kept = ((1u << rows) - 1) & (again <= 0 ? ~0u : again >= 16 ? 0 : ~0u << again);
                for (int k = 0; k < 16; k++)
                    if (v * 16 + k < a->n)
                        finish(a, v * 16 + k, r + c, _mm512_castsi512_ps(column[k]), (__mmask16)kept);
            }
    }
}

/* Do R rows of W get into each other's way in the first cache? */
static bool is_aliased(const linear_args *a, int R)
{
    return R > CACHE_WAYS && a->in * (int64_t)sizeof(float) % ALIASED == 0;
}

/* A loop for each number of lanes, each type of weights. */
typedef struct row_loop {
    int lanes, rows; /* of x; of W, at least */
    void (*run[3])(const linear_args *a, const float *packed, int64_t begin, int64_t end);
} row_loop;

#define LOOP(name, body)                                                                                               \
    AVX512 static void name(const linear_args *a, const float *packed, int64_t begin, int64_t end)                     \
    {                                                                                                                  \
        body;                                                                                                          \
    }
#define FEW_LOOPS(N)                                                                                                   \
    LOOP(few_f32_##N, few(a, packed, begin, end, WEIGHT_F32, N))                                                       \
    LOOP(few_bf16_##N, few(a, packed, begin, end, WEIGHT_BF16, N))                                                     \
    LOOP(few_q8_##N, few(a, packed, begin, end, WEIGHT_Q8, N))
/* The sums stand in a function of their own, where nothing else wants registers: inlined into the transposing, one of the vectors of x was
 * kept on the stack, at two thirds of the speed. */
#define PANEL(name, type, R, V, aside)                                                                                 \
    AVX512 __attribute__((noinline)) static void name(float *sums, const linear_args *a, const float *packed, int64_t r) \
    {                                                                                                                  \
        panel(sums, a, packed, r, type, R, V, aside);                                                                  \
    }
#define MANY_LOOPS(R, V)                                                                                               \
    PANEL(panel_f32_##V, WEIGHT_F32, R, V, false)                                                                      \
    PANEL(panel_aside_##V, WEIGHT_F32, R, V, true)                                                                     \
    PANEL(panel_bf16_##V, WEIGHT_BF16, R, V, true)                                                                     \
    PANEL(panel_q8_##V, WEIGHT_Q8, R, V, true)                                                                         \
    LOOP(many_f32_##V, many(a, packed, begin, end, is_aliased(a, R) ? panel_aside_##V : panel_f32_##V, R, V))             \
    LOOP(many_bf16_##V, many(a, packed, begin, end, panel_bf16_##V, R, V))                                             \
    LOOP(many_q8_##V, many(a, packed, begin, end, panel_q8_##V, R, V))
FEW_LOOPS(1)
FEW_LOOPS(2)
FEW_LOOPS(4)
FEW_LOOPS(8)
MANY_LOOPS(24, 1)
MANY_LOOPS(12, 2)
MANY_LOOPS(8, 3)
MANY_LOOPS(6, 4)

static const row_loop loops[] = {
    {1, 16, {few_f32_1, few_bf16_1, few_q8_1}},      {2, 16, {few_f32_2, few_bf16_2, few_q8_2}},
    {4, 16, {few_f32_4, few_bf16_4, few_q8_4}},      {FEW, 16, {few_f32_8, few_bf16_8, few_q8_8}},
    {16, 24, {many_f32_1, many_bf16_1, many_q8_1}},  {32, 12, {many_f32_2, many_bf16_2, many_q8_2}},
    {48, 8, {many_f32_3, many_bf16_3, many_q8_3}},   {LANES_MAX, 6, {many_f32_4, many_bf16_4, many_q8_4}},
};

typedef struct by_row_call {
    const linear_args *args;
    float *packed;
    const row_loop *loop;
    int64_t tiles;
} by_row_call;

static void pack_blocks(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const by_row_call *c = context;
    for (int64_t b = begin; b < end; b++)
        pack_block(c->packed, c->args->x, c->args->n, c->args->in, c->loop->lanes, b);
}

/* A tile begins with a whole step of every loop. */
static void multiply_tile(void *context, int64_t tile, int seat)
{
    (void)seat;
    const by_row_call *c = context;
    const linear_args *a = c->args;
    const int64_t steps = (a->out + STEP - 1) / STEP, begin = chunk_begin(steps, tile, c->tiles) * STEP;
    const int64_t end = least(chunk_begin(steps, tile + 1, c->tiles) * STEP, a->out);
    if (end - begin < c->loop->rows)
        short_range(a, c->packed, c->loop->lanes, begin, end);
    else
        c->loop->run[a->w.type](a, c->packed, begin, end);
}

bool cpu_by_row(const kernels *kn, const linear_args *whole)
{
    if (!cpu_has_avx512())
        return false;
    const int64_t steps = (whole->out + STEP - 1) / STEP, tiles = cpu_weight_tiles(whole->out, whole->in);
    for (int64_t first = 0; first < whole->n; first += LANES_MAX) {
        linear_args a = *whole;
        a.n = least(LANES_MAX, whole->n - first);
        a.x += first * a.in;
        a.y += first * a.out;
        const row_loop *loop = loops;
        while (loop->lanes < a.n)
            loop++;
        by_row_call c = {&a, whole->scratch, loop, least(tiles, steps)};
        cpu_chunks(kn, padded(a.in) / 16, 16 * loop->lanes, pack_blocks, &c);
        pool_run(kn->threads, c.tiles, multiply_tile, &c);
    }
    return true;
}
#else
bool cpu_by_row(const kernels *kn, const linear_args *a)
{
    (void)kn;
    (void)a;
    return false;
}
#endif
