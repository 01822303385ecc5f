/* Matrix products in tiles on the pool, each by one call into the matrix library on the thread that took the tile. The only file
 * that sees the library: oneDNN's dnnl_sgemm is the same call in versions 2 and 3, and row-major.
 *
 * C is cut into tiles of rows and columns. Where C is small and the sums are long, as in gradients of small matrices, the sums are
 * cut into pieces too: each piece has a C of its own in scratch, and these are added in the order of the pieces. */
#include <assert.h>
#include <stdlib.h>

#include "kernels/cpu/cpu.h"
#include "kernels/weight.h"

#ifdef FATHOM_GEMM_CBLAS
#include <cblas.h>
#include <pthread.h>
#define BF16_PRODUCTS 0
#else
#include <dnnl.h>
#define BF16_PRODUCTS (DNNL_VERSION_MAJOR == 2) /* version 3 makes primitives in another way, which is not written yet */
#endif

/* --- one product on the calling thread --- */

#ifdef FATHOM_GEMM_CBLAS
/* A serial OpenBLAS shares one buffer among all who call it, and gives wrong numbers to two at a time. */
static pthread_mutex_t serial_library = PTHREAD_MUTEX_INITIALIZER;

static void multiply(const gemm_args *a)
{
    const bool serial = openblas_get_parallel() == OPENBLAS_SEQUENTIAL;
    if (serial)
        pthread_mutex_lock(&serial_library);
    cblas_sgemm(CblasRowMajor, a->trans_a ? CblasTrans : CblasNoTrans, a->trans_b ? CblasTrans : CblasNoTrans, (int)a->m,
                (int)a->n, (int)a->k, a->alpha, a->a, (int)a->lda, a->b, (int)a->ldb, a->beta, a->c, (int)a->ldc);
    if (serial)
        pthread_mutex_unlock(&serial_library);
}

/* OpenBLAS keeps this number for the whole process, so it stays 1: setting it back would change it under another thread's product. */
static int keep_to_one_thread(void)
{
    if (openblas_get_num_threads() != 1)
        openblas_set_num_threads(1);
    return 1;
}

static void give_back_threads(int before)
{
    (void)before;
}
#else
static void multiply(const gemm_args *a)
{
    dnnl_sgemm(a->trans_a ? 'T' : 'N', a->trans_b ? 'T' : 'N', a->m, a->n, a->k, a->alpha, a->a, a->lda, a->b, a->ldb,
               a->beta, a->c, a->ldc);
}

/* oneDNN asks OpenMP how many threads to start. The number belongs to the calling thread, which may be the host program's. */
int omp_get_max_threads(void);
void omp_set_num_threads(int count);

static int keep_to_one_thread(void)
{
    const int before = omp_get_max_threads();
    if (before != 1)
        omp_set_num_threads(1);
    return before;
}

static void give_back_threads(int before)
{
    if (before != 1)
        omp_set_num_threads(before);
}
#endif

void cpu_gemm_one(const gemm_args *a)
{
    if (a->m == 0 || a->n == 0)
        return;
    assert(a->a && a->b);
    const int before = keep_to_one_thread();
    multiply(a);
    give_back_threads(before);
}

/* --- bfloat16 --- */

enum { ALIGNED = 32 }; /* elements: where B begins behind A in scratch */

#if BF16_PRODUCTS
#if defined(__x86_64__)
#include <cpuid.h>
#include <string.h>
#endif

/* Intel's cores since Sapphire Rapids take two cycles for a bfloat16 multiply-add outside AMX (measured: 85 GFLOP/s a core beside 173 in
 * fp32). Where a virtual machine hides AMX, fp32 products of rounded operands are twice as fast, and the same but for the order of
 * the sums: a product of two bfloat16 numbers is exact in fp32. Told by features, not by a timing, so that bits do not depend on the day. */
bool cpu_bf16_is_slow(void)
{
#if defined(__x86_64__)
    enum { AVX512_FP16 = 1 << 23, AMX_BF16 = 1 << 22 };
    unsigned a, b, c, d, vendor[3];
    return __get_cpuid(0, &a, &vendor[0], &vendor[2], &vendor[1]) && memcmp(vendor, "GenuineIntel", sizeof vendor) == 0 &&
           __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AVX512_FP16) && !(d & AMX_BF16);
#else
    return false;
#endif
}

bool cpu_bf16(const kernels *kn)
{
    (void)kn;
    const int isa = (int)dnnl_get_effective_cpu_isa(), wanted = dnnl_cpu_isa_avx512_core_bf16;
    return (isa & wanted) == wanted;
}

/* op(X) [rows, columns] of an X whose rows as stored are `stride` apart */
static bool describe(dnnl_memory_desc_t *out, int64_t rows, int64_t columns, int64_t stride, bool transposed, dnnl_data_type_t type)
{
    const dnnl_dims_t size = {rows, columns}, strides = {transposed ? 1 : stride, transposed ? stride : 1};
    return dnnl_memory_desc_init_by_strides(out, 2, size, type, strides) == dnnl_success;
}

typedef struct product {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t post;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c;
} product;

static bool run(product *p, const gemm_args *g)
{
    dnnl_memory_desc_t da, db, dc;
    dnnl_matmul_desc_t matmul;
    if (!describe(&da, g->m, g->k, g->lda, g->trans_a, dnnl_bf16) || !describe(&db, g->k, g->n, g->ldb, g->trans_b, dnnl_bf16) ||
        !describe(&dc, g->m, g->n, g->ldc, false, dnnl_f32) || dnnl_matmul_desc_init(&matmul, &da, &db, NULL, &dc) ||
        dnnl_engine_create(&p->engine, dnnl_cpu, 0) ||
        dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) || dnnl_primitive_attr_create(&p->attr))
        return false;
    if (g->beta != 0 && (dnnl_post_ops_create(&p->post) || dnnl_post_ops_append_sum(p->post, g->beta) ||
                         dnnl_primitive_attr_set_post_ops(p->attr, p->post)))
        return false;
    if (dnnl_primitive_desc_create(&p->desc, &matmul, p->attr, p->engine, NULL) ||
        dnnl_primitive_create(&p->primitive, p->desc) || dnnl_memory_create(&p->a, &da, p->engine, (void *)g->a16) ||
        dnnl_memory_create(&p->b, &db, p->engine, (void *)g->b16) || dnnl_memory_create(&p->c, &dc, p->engine, g->c))
        return false;
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->a}, {DNNL_ARG_WEIGHTS, p->b}, {DNNL_ARG_DST, p->c}};
    return dnnl_primitive_execute(p->primitive, p->stream, 3, args) == dnnl_success &&
           dnnl_stream_wait(p->stream) == dnnl_success;
}

static void release(product *p)
{
    if (p->a)
        dnnl_memory_destroy(p->a);
    if (p->b)
        dnnl_memory_destroy(p->b);
    if (p->c)
        dnnl_memory_destroy(p->c);
    if (p->primitive)
        dnnl_primitive_destroy(p->primitive);
    if (p->desc)
        dnnl_primitive_desc_destroy(p->desc);
    if (p->post)
        dnnl_post_ops_destroy(p->post);
    if (p->attr)
        dnnl_primitive_attr_destroy(p->attr);
    if (p->stream)
        dnnl_stream_destroy(p->stream);
    if (p->engine)
        dnnl_engine_destroy(p->engine);
}

/* C [m, n] (+)= op(A) op(B) of bf16 operands, which only a lack of memory can make fail; then in plain loops, slow and right. The
 * library keeps made primitives by their description, so that making one again takes some 5 us and this file no state. */
static void multiply_bf16(const gemm_args *g)
{
    product p = {0};
    const bool done = run(&p, g);
    release(&p);
    for (int64_t i = 0; !done && i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            float sum = 0;
            for (int64_t l = 0; l < g->k; l++)
                sum += bf16_widen(g->a16[g->trans_a ? l * g->lda + i : i * g->lda + l]) *
                       bf16_widen(g->b16[g->trans_b ? j * g->ldb + l : l * g->ldb + j]);
            g->c[i * g->ldc + j] = sum + (g->beta != 0 ? g->c[i * g->ldc + j] : 0);
        }
}
#else
bool cpu_bf16(const kernels *kn)
{
    (void)kn;
    return false;
}

bool cpu_bf16_is_slow(void)
{
    return false;
}

static void multiply_bf16(const gemm_args *g)
{
    (void)g;
    assert(false); /* cpu_bf16 says no, so nobody asks */
}
#endif

typedef struct rounding {
    uint16_t *to;
    float *to_f32; /* unless NULL: what the bfloat16 number is, as fp32 */
    const float *from;
    const uint16_t *rounded; /* `from`, where somebody has rounded it already; NULL: no */
} rounding;

CLONES static void round_range(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const rounding *r = context;
    const float *restrict from = r->from;
    if (!r->to_f32) {
        uint16_t *restrict to = r->to;
        for (int64_t i = begin; i < end; i++)
            to[i] = bf16_round(from[i]);
    } else if (r->rounded) {
        float *restrict to = r->to_f32;
        for (int64_t i = begin; i < end; i++)
            to[i] = bf16_widen(r->rounded[i]);
    } else {
        float *restrict to = r->to_f32;
        for (int64_t i = begin; i < end; i++)
            to[i] = bf16_widen(bf16_round(from[i]));
    }
}

/* --- tiles --- */

enum {
    ROWS = 256, COLUMNS = 512,          /* of a tile, at most */
    LARGE_ROWS = 512, LARGE_COLUMNS = 1024, /* of a product that is many such: the library packs the operands of these itself */
    LEAST_SIDE = 64,                    /* of a tile that is cut in two */
    TILES = 16,                         /* wanted, of products that are worth it */
    TILE_WORK = 1 << 20,                /* multiply-adds of a tile that is not cut any more */
    PIECE = 512,                        /* the least depth of a piece */
    PARTIAL_FLOATS = 1 << 18,           /* of all pieces' own C */
    COPY_DEPTH = 256, COPY_PADDING = 16,
    ALIASED = 128, /* floats: rows a multiple of this apart share a few places of the first cache */
};

/* How a product is cut. */
typedef struct tiling {
    int64_t down, across, pieces; /* tiles along m, n and k */
    bool copies_a, copies_b;      /* see multiply_copied */
} tiling;

/* Floats of a thread's copies of parts of A and of B. */
enum { COPY_A = COPY_DEPTH * (ROWS + COPY_PADDING), COPY_B = COPY_DEPTH * (COLUMNS + COPY_PADDING) };

size_t cpu_gemm_scratch(const kernels *kn, int64_t bf16_floats)
{
    const size_t operands = bf16_floats > 0 ? (size_t)(bf16_floats + 4 * ALIGNED) * sizeof(float) : 0;
    return operands + (PARTIAL_FLOATS + (size_t)kn->threads * (COPY_A + COPY_B)) * sizeof(float);
}

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static tiling tiling_of(const gemm_args *g)
{
    const double work = (double)g->m * (double)g->n * (double)g->k;
    tiling t = {divide_up(g->m, LARGE_ROWS), divide_up(g->n, LARGE_COLUMNS), 1, false, false};
    if (g->m >= LARGE_ROWS && g->n >= LARGE_COLUMNS && 2 * t.down * t.across >= TILES)
        return t;
    t.down = divide_up(g->m, ROWS);
    t.across = divide_up(g->n, COLUMNS);
    for (;;) {
        const int64_t rows = g->m / t.down, columns = g->n / t.across, tiles = t.down * t.across;
        if (tiles >= TILES || work / (double)tiles < 2.0 * TILE_WORK)
            break;
        if (rows >= 2 * LEAST_SIDE && (rows >= columns || columns < 2 * LEAST_SIDE))
            t.down *= 2;
        else if (columns >= 2 * LEAST_SIDE)
            t.across *= 2;
        else
            break;
    }
    const int64_t tiles = t.down * t.across;
    if (g->trans_a && !g->bf16 && tiles < TILES && g->k >= 2 * PIECE && g->m * g->n <= PARTIAL_FLOATS / 2)
        t.pieces = min64(min64(g->k / PIECE, divide_up(TILES, tiles)), PARTIAL_FLOATS / (g->m * g->n));
    t.copies_a = !g->bf16 && g->trans_a && g->lda % ALIASED == 0 && g->n / t.across >= 3 * LEAST_SIDE;
    t.copies_b = !g->bf16 && !g->trans_b && g->ldb % ALIASED == 0 && g->m / t.down >= LEAST_SIDE;
    return t;
}

typedef struct gemm_call {
    gemm_args args; /* operands in the precision that is multiplied */
    tiling t;
    float *partial, *copies;
} gemm_call;

static const float *copy_rows(float *to, int64_t stride, const float *from, int64_t from_stride, int64_t rows, int64_t width)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * stride, from + i * from_stride, (size_t)width * sizeof *to);
    return to;
}

/* The product with A^T, B or both, which are stored [k, ...], copied a few rows of k at a time to where these lie apart by no large
 * power of two. The library walks through them row by row, a few columns at a time, and lines that far apart share a few places of
 * the caches: 46 -> 92 GFLOP/s a core for 256 x 512 of 2048 x 2048 x 768 on Zen 3. */
static void multiply_copied(const gemm_args *g, const tiling *t, float *room)
{
    gemm_args part = *g;
    for (int64_t k = 0; k < g->k; k += COPY_DEPTH) {
        part.k = min64(COPY_DEPTH, g->k - k);
        part.a = g->a + (g->trans_a ? k * g->lda : k);
        part.b = g->b + (g->trans_b ? k : k * g->ldb);
        if (t->copies_a) {
            part.lda = (g->m + 15) / 16 * 16 + COPY_PADDING;
            part.a = copy_rows(room, part.lda, part.a, g->lda, part.k, g->m);
        }
        if (t->copies_b) {
            part.ldb = (g->n + 15) / 16 * 16 + COPY_PADDING;
            part.b = copy_rows(room + COPY_A, part.ldb, part.b, g->ldb, part.k, g->n);
        }
        multiply(&part);
        part.beta = 1;
    }
}

static void multiply_tile(void *context, int64_t tile, int seat)
{
    const gemm_call *c = context;
    const tiling *t = &c->t;
    gemm_args g = c->args;
    const int64_t piece = tile / (t->down * t->across), row = tile / t->across % t->down, column = tile % t->across;
    const int64_t i = chunk_begin(g.m, row, t->down), j = chunk_begin(g.n, column, t->across), k = chunk_begin(g.k, piece, t->pieces);
    const int64_t a = g.trans_a ? k * g.lda + i : i * g.lda + k, b = g.trans_b ? j * g.ldb + k : k * g.ldb + j;
    g.m = chunk_begin(g.m, row + 1, t->down) - i;
    g.n = chunk_begin(g.n, column + 1, t->across) - j;
    g.k = chunk_begin(g.k, piece + 1, t->pieces) - k;
    if (g.bf16) {
        g.a16 += a;
        g.b16 += b;
    } else {
        g.a += a;
        g.b += b;
    }
    if (t->pieces > 1) {
        g.c = c->partial + piece * c->args.m * c->args.n;
        g.ldc = c->args.n;
        g.beta = 0;
    }
    g.c += i * g.ldc + j;
    const int before = keep_to_one_thread();
    if (g.bf16)
        multiply_bf16(&g);
    else if (t->copies_a || t->copies_b)
        multiply_copied(&g, t, c->copies + (size_t)seat * (COPY_A + COPY_B));
    else
        multiply(&g);
    give_back_threads(before);
}

/* C = beta C + the sum of the pieces, rows [begin, end). */
CLONES static void add_pieces(const void *context, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk;
    const gemm_call *call = context;
    const gemm_args *g = &call->args;
    for (int64_t i = begin; i < end; i++) {
        float *restrict c = g->c + i * g->ldc;
        const float *restrict from = call->partial + i * g->n;
        if (g->beta == 0)
            memset(c, 0, (size_t)g->n * sizeof *c);
        else if (g->beta != 1)
            for (int64_t j = 0; j < g->n; j++)
                c[j] *= g->beta;
        for (int64_t p = 0; p < call->t.pieces; p++)
            for (int64_t j = 0; j < g->n; j++)
                c[j] += from[p * g->m * g->n + j];
    }
}

/* g's operands are as they are to be multiplied; room: scratch behind them */
static void multiply_tiles(const kernels *kn, const gemm_args *g, float *room)
{
    gemm_call c = {.args = *g, .t = tiling_of(g), .partial = room, .copies = room + PARTIAL_FLOATS};
    pool_run(kn->threads, c.t.down * c.t.across * c.t.pieces, multiply_tile, &c);
    if (c.t.pieces > 1)
        cpu_chunks(kn, g->m, g->n * c.t.pieces, add_pieces, &c);
}

void cpu_gemm(const kernels *kn, const gemm_args *a)
{
    if (a->m == 0 || a->n == 0)
        return;
    gemm_args g = *a;
    uint16_t *room = g.scratch, *room_b = room + (g.m * g.k + ALIGNED - 1) / ALIGNED * ALIGNED;
    if (g.bf16 && !g.a16) {
        cpu_chunks(kn, g.m * g.k, 1, round_range, &(rounding){.to = room, .from = g.a});
        g.a16 = room;
    }
    if (g.bf16 && !g.b16) {
        cpu_chunks(kn, g.k * g.n, 1, round_range, &(rounding){.to = room_b, .from = g.b});
        g.b16 = room_b;
    }
    const int64_t operands = (g.m * g.k + g.k * g.n) / 2 + 2 * ALIGNED; /* in floats */
    multiply_tiles(kn, &g, (float *)a->scratch + (g.bf16 ? operands / ALIGNED * ALIGNED : 0));
}

void cpu_gemm_rounded(const kernels *kn, const gemm_args *a)
{
    if (!a->bf16 || a->m == 0 || a->n == 0) {
        cpu_gemm(kn, a);
        return;
    }
    gemm_args g = *a;
    float *room = g.scratch, *room_b = room + (g.m * g.k + ALIGNED - 1) / ALIGNED * ALIGNED;
    cpu_chunks(kn, g.m * g.k, 1, round_range, &(rounding){.to_f32 = room, .from = g.a, .rounded = g.a16});
    cpu_chunks(kn, g.k * g.n, 1, round_range, &(rounding){.to_f32 = room_b, .from = g.b, .rounded = g.b16});
    g.a = room;
    g.b = room_b;
    g.lda = g.trans_a ? g.m : g.k;
    g.ldb = g.trans_b ? g.k : g.n;
    g.bf16 = false;
    multiply_tiles(kn, &g, room_b + (g.k * g.n + ALIGNED - 1) / ALIGNED * ALIGNED);
}
