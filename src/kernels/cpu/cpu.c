/* The CPU backend's table: the reference's entries, overlaid with the fast ones. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <sys/mman.h>

typedef struct chunked {
    cpu_range *range;
    const void *context;
    int64_t n, chunks;
} chunked;

static void chunk_tile(void *context, int64_t tile, int seat)
{
    (void)seat;
    const chunked *c = context;
    c->range(c->context, tile, chunk_begin(c->n, tile, c->chunks), chunk_begin(c->n, tile + 1, c->chunks));
}

void cpu_chunks(const kernels *kn, int64_t n, int64_t cost, cpu_range *range, const void *context)
{
    chunked c = {range, context, n, chunk_count(n, cost)};
    pool_run(kn->threads, c.chunks, chunk_tile, &c);
}

int cpu_threads_for(const kernels *kn, int64_t elements)
{
    return chunk_count(elements, 1) > 1 ? kn->threads : 1;
}

/* Large blocks on huge pages: streaming through gigabytes on pages of 4 KiB spends its time on address translation. A block must
 * be released by free(), as the reference's are. */
static void *cpu_mem_alloc(const kernels *kn, size_t bytes)
{
    (void)kn;
    const size_t huge = (size_t)2 << 20, align = bytes >= 2 * huge ? huge : 64;
    if (bytes > SIZE_MAX - huge)
        return NULL;
    const size_t size = (bytes + align - 1) / align * align;
    void *p = aligned_alloc(align, size ? size : align);
#ifdef MADV_HUGEPAGE
    if (p && align == huge)
        madvise(p, size, MADV_HUGEPAGE); /* advice: refused where the system has none */
#endif
    return p;
}

static size_t cpu_scratch_bytes(const kernels *kn, const kernel_sizes *s)
{
    const size_t needs[] = {(size_t)MAX_CHUNKS * (size_t)s->width * sizeof(float), cpu_attention_scratch(kn, s),
                            cpu_linear_scratch(kn, s), cpu_gemm_scratch(kn, s->bf16_floats)};
    size_t most = 0;
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
        most = needs[i] > most ? needs[i] : most;
    return most;
}

kernels kernels_cpu(int threads)
{
    kernels kn = kernels_ref();
    kn.name = "cpu";
    kn.threads = threads_choose(threads);
    kn.mem_alloc = cpu_mem_alloc;
    kn.scratch_bytes = cpu_scratch_bytes;
    kn.gemm = cpu_bf16_is_slow() ? cpu_gemm_rounded : cpu_gemm;
    kn.bf16 = cpu_bf16;
    kn.linear = cpu_linear;
    kn.embed_forward = cpu_embed_forward;
    kn.embed_backward = cpu_embed_backward;
    kn.norm_forward = cpu_norm_forward;
    kn.norm_backward = cpu_norm_backward;
    kn.rope = cpu_rope;
    kn.attention_forward = cpu_attention_forward;
    kn.attention_backward = cpu_attention_backward;
    kn.kv_store = cpu_kv_store;
    kn.swiglu_forward = cpu_swiglu_forward;
    kn.swiglu_backward = cpu_swiglu_backward;
    kn.bias_silu_forward = cpu_bias_silu_forward;
    kn.bias_silu_backward = cpu_bias_silu_backward;
    kn.rowdot_forward = cpu_rowdot_forward;
    kn.rowdot_backward = cpu_rowdot_backward;
    kn.topk = cpu_topk;
    kn.noise = cpu_noise;
    kn.expert_softmax = cpu_expert_softmax;
    kn.expert_softmax_backward = cpu_expert_softmax_backward;
    kn.scatter_forward = cpu_scatter_forward;
    kn.scatter_backward = cpu_scatter_backward;
    kn.cross_entropy = cpu_cross_entropy;
    kn.adamw = cpu_adamw;
    kn.add = cpu_add;
    kn.sum = cpu_sum;
    kn.sum_squares = cpu_sum_squares;
    return kn;
}
