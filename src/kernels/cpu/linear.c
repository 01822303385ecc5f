/* y = x W^T with W as it is stored. Few rows of x go to matvec.c. Some rows, and rows that must not depend on each other, go to
 * by_row.c. Many go to a matrix product. A W in fewer bits is widened for it: where narrow.c's loops run, a tile widens its own part
 * of W; elsewhere a slice of W at a time is widened into scratch for the matrix library. */
#include "kernels/cpu/cpu.h"
#include "kernels/weight.h"

enum {
    FEW_ROWS = 8,           /* up to here reading W is what takes the time */
    SOME_ROWS = 256,        /* up to here rows by themselves are faster than the matrix library's product */
    SLICE_FLOATS = 1 << 20, /* of W widened at a time: stays in the cache */
    SLICE_ROWS_MIN = 64,
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t slice_rows(int64_t in)
{
    return SLICE_FLOATS / in < SLICE_ROWS_MIN ? SLICE_ROWS_MIN : SLICE_FLOATS / in;
}

/* Of every matrix with at most `in` columns: a narrower one's slice, whose rows are more, may be the larger one. */
static size_t slice_floats(int64_t in)
{
    return SLICE_ROWS_MIN * in > SLICE_FLOATS ? (size_t)(SLICE_ROWS_MIN * in) : SLICE_FLOATS;
}

/* A tile of W: TILE_ROWS of its rows, TILE_DEPTH numbers of each at a time. X_ROWS rows of x meet all of a tile before the next do. */
enum { TILE_ROWS = 4 * NARROW_COLUMNS, TILE_DEPTH = 256, X_ROWS = 4 * NARROW_ROWS };

/* Floats of a thread's room: some rows of W, and the tile, transposed. */
enum { WIDENED = NARROW_COLUMNS * TILE_DEPTH, TILE_ROOM = WIDENED + TILE_ROWS * TILE_DEPTH };

size_t cpu_linear_scratch(const kernels *kn, const kernel_sizes *s)
{
    const size_t slice = s->packed ? slice_floats(s->linear_in) * sizeof(float) + cpu_gemm_scratch(kn, 0) : 0;
    const size_t tiles = s->packed ? (size_t)kn->threads * TILE_ROOM * sizeof(float) : 0;
    const size_t rows = cpu_by_row_scratch(s), most = slice > tiles ? slice : tiles;
    return most > rows ? most : rows;
}

CLONES static void widen_range_bf16(float *restrict to, const uint16_t *restrict from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = bf16_widen(from[i]);
}

CLONES static void widen_range_q8(float *restrict to, const int8_t *restrict from, float scale, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = scale * (float)from[i];
}

/* to [count] = w's row from its number `first` on */
static void widen_part(float *to, const weight *w, int64_t in, int64_t row, int64_t first, int64_t count)
{
    if (w->type == WEIGHT_BF16)
        widen_range_bf16(to, (const uint16_t *)w->data + row * in + first, count);
    else
        widen_range_q8(to, (const int8_t *)w->data + row * in + first, w->scale[row], count);
}

static void widen_rows(float *to, const weight *w, int64_t in, int64_t begin, int64_t end)
{
    if (w->type == WEIGHT_F32)
        memcpy(to, (const float *)w->data + begin * in, (size_t)((end - begin) * in) * sizeof *to);
    else if (w->type == WEIGHT_BF16)
        widen_range_bf16(to, (const uint16_t *)w->data + begin * in, (end - begin) * in);
    else
        for (int64_t r = begin; r < end; r++)
            widen_part(to + (r - begin) * in, w, in, r, 0, in);
}

/* The rows [first, ...) of w, into `to`. */
typedef struct widening {
    float *to;
    const weight *w;
    int64_t in, first;
} widening;

static void widen_slice(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const widening *a = context;
    widen_rows(a->to + begin * a->in, a->w, a->in, a->first + begin, a->first + end);
}

static void widened_product(const kernels *kn, const linear_args *a)
{
    float *slice = a->scratch;
    const int64_t step = slice_rows(a->in);
    for (int64_t r = 0; r < a->out; r += step) {
        const int64_t rows = a->out - r < step ? a->out - r : step;
        cpu_chunks(kn, rows, a->in, widen_slice, &(widening){slice, &a->w, a->in, r});
        cpu_gemm(kn, &(gemm_args){.trans_b = true, .m = a->n, .n = rows, .k = a->in, .a = a->x, .lda = a->in, .b = slice,
                                  .ldb = a->in, .c = a->y + r, .ldc = a->out, .alpha = 1, .beta = a->add,
                                  .scratch = slice + slice_floats(a->in)});
    }
}

/* The columns of y that belong to a tile of W, of all rows of x. */
static void product_tile(void *context, int64_t tile, int seat)
{
    const linear_args *a = context;
    float *widened = (float *)a->scratch + (size_t)seat * TILE_ROOM, *transposed = widened + WIDENED;
    const int64_t first = tile * TILE_ROWS, rows = min64(TILE_ROWS, a->out - first);
    for (int64_t k = 0; k < a->in; k += TILE_DEPTH) {
        const int64_t depth = min64(TILE_DEPTH, a->in - k);
        for (int64_t r = 0; r < rows; r += NARROW_COLUMNS) {
            for (int64_t i = 0; i < NARROW_COLUMNS; i++)
                widen_part(widened + i * depth, &a->w, a->in, first + r + i, k, depth);
            cpu_narrow_transpose(transposed + r * depth, NARROW_COLUMNS, widened, depth, NARROW_COLUMNS, depth);
        }
        for (int64_t begin = 0; begin < a->n; begin += X_ROWS)
            for (int64_t r = 0; r < rows; r += NARROW_COLUMNS)
                for (int64_t i = begin; i < min64(begin + X_ROWS, a->n); i += NARROW_ROWS)
                    cpu_narrow_product(&(narrow_args){.rows = min64(NARROW_ROWS, a->n - i), .columns = NARROW_COLUMNS, .depth = depth,
                                                      .a = a->x + i * a->in + k, .a_row = a->in, .a_depth = 1,
                                                      .b = transposed + r * depth, .b_stride = NARROW_COLUMNS,
                                                      .c = a->y + i * a->out + first + r, .c_stride = a->out, .alpha = 1,
                                                      .add = a->add || k > 0});
    }
}

static bool product_in_tiles(const kernels *kn, const linear_args *a)
{
    if (!cpu_narrow_fits(a->out) || a->in % 8 != 0)
        return false;
    pool_run(kn->threads, (a->out + TILE_ROWS - 1) / TILE_ROWS, product_tile, (void *)a);
    return true;
}

void cpu_linear(const kernels *kn, const linear_args *a)
{
    if ((a->by_row || (a->n > FEW_ROWS && a->n <= SOME_ROWS)) && !a->bf16 && cpu_by_row(kn, a))
        return;
    if ((a->n <= FEW_ROWS || a->by_row) && !a->bf16)
        cpu_matvec(kn, a);
    else if (a->w.type == WEIGHT_F32)
        kn->gemm(kn, &(gemm_args){.trans_b = true, .m = a->n, .n = a->out, .k = a->in, .a = a->x, .lda = a->in,
                                  .b = a->w.data, .ldb = a->in, .c = a->y, .ldc = a->out, .alpha = 1, .beta = a->add,
                                  .bf16 = a->bf16, .scratch = a->scratch});
    else if (a->bf16 || !product_in_tiles(kn, a))
        widened_product(kn, a);
}

typedef struct lookup {
    float *x;
    const weight *table;
    const int32_t *tokens;
    int64_t d;
} lookup;

static void look_up(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const lookup *a = context;
    for (int64_t i = begin; i < end; i++)
        widen_rows(a->x + i * a->d, a->table, a->d, a->tokens[i], a->tokens[i] + 1);
}

void cpu_embed_forward(const kernels *kn, float *x, weight table, const int32_t *tokens, int64_t n, int64_t d)
{
    cpu_chunks(kn, n, d, look_up, &(lookup){x, &table, tokens, d});
}
