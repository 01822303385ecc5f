/* Matrix products: the only file that sees the matrix library. oneDNN's dnnl_sgemm is the same call in versions 2 and 3, is
 * row-major, and runs on the calling thread inside a parallel region, as the attention's blocks need. */
#include <assert.h>

#include "kernels/cpu/cpu.h"
#include "kernels/weight.h"

#ifdef FATHOM_GEMM_CBLAS
#include <cblas.h>
#define BF16_PRODUCTS 0
#else
#include <dnnl.h>
#define BF16_PRODUCTS (DNNL_VERSION_MAJOR == 2) /* version 3 makes primitives in another way, which is not written yet */
#endif

#if BF16_PRODUCTS
#if defined(__x86_64__)
#include <cpuid.h>
#include <string.h>
#endif

enum { ALIGNED = 32 }; /* elements: where B begins behind A in scratch */

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

size_t cpu_bf16_scratch(int64_t elements)
{
    return elements > 0 ? (size_t)(elements + ALIGNED) * (cpu_bf16_is_slow() ? sizeof(float) : sizeof(uint16_t)) : 0;
}

CLONES static void round_range(uint16_t *restrict to, const float *restrict from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = bf16_round(from[i]);
}

static void round_all(uint16_t *to, const float *from, int64_t n)
{
    const int64_t chunks = chunk_count(n, 1);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t begin = chunk_begin(n, c, chunks);
        round_range(to + begin, from + begin, chunk_begin(n, c + 1, chunks) - begin);
    }
}

/* The same, kept as fp32; from `rounded` where that is there. */
CLONES static void round_range_f32(float *restrict to, const float *restrict from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = bf16_widen(bf16_round(from[i]));
}

CLONES static void widen_range(float *restrict to, const uint16_t *restrict from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = bf16_widen(from[i]);
}

static void round_all_f32(float *to, const float *from, const uint16_t *rounded, int64_t n)
{
    const int64_t chunks = chunk_count(n, 1);
#pragma omp parallel for if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t begin = chunk_begin(n, c, chunks), count = chunk_begin(n, c + 1, chunks) - begin;
        if (rounded)
            widen_range(to + begin, rounded + begin, count);
        else
            round_range_f32(to + begin, from + begin, count);
    }
}

void cpu_gemm_rounded(const kernels *kn, const gemm_args *g)
{
    if (!g->bf16 || g->m == 0 || g->n == 0) {
        cpu_gemm(kn, g);
        return;
    }
    float *a = g->scratch, *b = a + (g->m * g->k + ALIGNED - 1) / ALIGNED * ALIGNED;
    round_all_f32(a, g->a, g->a16, g->m * g->k);
    round_all_f32(b, g->b, g->b16, g->k * g->n);
    dnnl_sgemm(g->trans_a ? 'T' : 'N', g->trans_b ? 'T' : 'N', g->m, g->n, g->k, 1, a, g->trans_a ? g->m : g->k, b,
               g->trans_b ? g->k : g->n, g->beta, g->c, g->ldc);
}

/* op(X) [rows, columns] of a dense X */
static bool describe(dnnl_memory_desc_t *out, int64_t rows, int64_t columns, bool transposed, dnnl_data_type_t type)
{
    const dnnl_dims_t size = {rows, columns}, stride = {transposed ? 1 : columns, transposed ? rows : 1};
    return dnnl_memory_desc_init_by_strides(out, 2, size, type, stride) == dnnl_success;
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

static bool run(product *p, const gemm_args *g, const uint16_t *a, const uint16_t *b)
{
    dnnl_memory_desc_t da, db, dc;
    dnnl_matmul_desc_t matmul;
    if (!describe(&da, g->m, g->k, g->trans_a, dnnl_bf16) || !describe(&db, g->k, g->n, g->trans_b, dnnl_bf16) ||
        !describe(&dc, g->m, g->n, false, dnnl_f32) || dnnl_matmul_desc_init(&matmul, &da, &db, NULL, &dc) ||
        dnnl_engine_create(&p->engine, dnnl_cpu, 0) ||
        dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) || dnnl_primitive_attr_create(&p->attr))
        return false;
    if (g->beta != 0 && (dnnl_post_ops_create(&p->post) || dnnl_post_ops_append_sum(p->post, g->beta) ||
                         dnnl_primitive_attr_set_post_ops(p->attr, p->post)))
        return false;
    if (dnnl_primitive_desc_create(&p->desc, &matmul, p->attr, p->engine, NULL) ||
        dnnl_primitive_create(&p->primitive, p->desc) || dnnl_memory_create(&p->a, &da, p->engine, (void *)a) ||
        dnnl_memory_create(&p->b, &db, p->engine, (void *)b) || dnnl_memory_create(&p->c, &dc, p->engine, g->c))
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

/* The library keeps made primitives by their description, so that making one again takes some 5 us and this file no state.
 * Should it fail, which only a lack of memory can bring about, the product is made in fp32. */
static bool bf16_product(const gemm_args *g)
{
    uint16_t *a = g->scratch, *b = a + (g->m * g->k + ALIGNED - 1) / ALIGNED * ALIGNED;
    if (!g->a16)
        round_all(a, g->a, g->m * g->k);
    if (!g->b16)
        round_all(b, g->b, g->k * g->n);
    product p = {0};
    const bool done = run(&p, g, g->a16 ? g->a16 : a, g->b16 ? g->b16 : b);
    release(&p);
    return done;
}
#else
#define bf16_product(g) false

bool cpu_bf16(const kernels *kn)
{
    (void)kn;
    return false;
}

bool cpu_bf16_is_slow(void)
{
    return false;
}

size_t cpu_bf16_scratch(int64_t elements)
{
    (void)elements;
    return 0;
}

void cpu_gemm_rounded(const kernels *kn, const gemm_args *a)
{
    cpu_gemm(kn, a);
}
#endif

#ifdef FATHOM_GEMM_CBLAS
void cpu_gemm(const kernels *kn, const gemm_args *a)
{
    (void)kn;
    if (a->m == 0 || a->n == 0)
        return;
    cblas_sgemm(CblasRowMajor, a->trans_a ? CblasTrans : CblasNoTrans, a->trans_b ? CblasTrans : CblasNoTrans, (int)a->m,
                (int)a->n, (int)a->k, a->alpha, a->a, (int)a->lda, a->b, (int)a->ldb, a->beta, a->c, (int)a->ldc);
}
#else
void cpu_gemm(const kernels *kn, const gemm_args *a)
{
    (void)kn;
    if (a->m == 0 || a->n == 0)
        return;
    if (a->bf16 && bf16_product(a))
        return;
    assert(a->a && a->b);
    dnnl_sgemm(a->trans_a ? 'T' : 'N', a->trans_b ? 'T' : 'N', a->m, a->n, a->k, a->alpha, a->a, a->lda, a->b, a->ldb,
               a->beta, a->c, a->ldc);
}
#endif
