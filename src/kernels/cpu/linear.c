/* y = x W^T with W as it is stored: few rows of x by matvec.c, some, and those that must not depend on each other, by by_row.c, many
 * by a matrix product, for which a W in fewer bits is widened a slice of rows at a time into scratch. */
#include "kernels/cpu/cpu.h"
#include "kernels/weight.h"

enum {
    FEW_ROWS = 8,           /* up to here reading W is what takes the time */
    SOME_ROWS = 256,        /* up to here rows by themselves are faster than the matrix library's product */
    SLICE_FLOATS = 1 << 20, /* of W widened at a time: stays in the cache */
    SLICE_ROWS_MIN = 64,
};

static int64_t slice_rows(int64_t in)
{
    return SLICE_FLOATS / in < SLICE_ROWS_MIN ? SLICE_ROWS_MIN : SLICE_FLOATS / in;
}

/* Of every matrix with at most `in` columns: a narrower one's slice, whose rows are more, may be the larger one. */
static size_t slice_floats(int64_t in)
{
    return SLICE_ROWS_MIN * in > SLICE_FLOATS ? (size_t)(SLICE_ROWS_MIN * in) : SLICE_FLOATS;
}

size_t cpu_linear_scratch(const kernels *kn, const kernel_sizes *s)
{
    const size_t slice = s->packed ? slice_floats(s->linear_in) * sizeof(float) + cpu_gemm_scratch(kn, 0) : 0;
    const size_t rows = cpu_by_row_scratch(s);
    return slice > rows ? slice : rows;
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

static void widen_rows(float *to, const weight *w, int64_t in, int64_t begin, int64_t end)
{
    if (w->type == WEIGHT_F32)
        memcpy(to, (const float *)w->data + begin * in, (size_t)((end - begin) * in) * sizeof *to);
    else if (w->type == WEIGHT_BF16)
        widen_range_bf16(to, (const uint16_t *)w->data + begin * in, (end - begin) * in);
    else
        for (int64_t r = begin; r < end; r++)
            widen_range_q8(to + (r - begin) * in, (const int8_t *)w->data + r * in, w->scale[r], in);
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
    else
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
