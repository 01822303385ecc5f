/* Matrix products: the only file that sees the matrix library. oneDNN's dnnl_sgemm is the same call in versions 2 and 3, is
 * row-major, and runs on the calling thread inside a parallel region, as the attention's blocks need. */
#include "kernels/cpu/cpu.h"

#ifdef FATHOM_GEMM_CBLAS
#include <cblas.h>

void cpu_gemm(const kernels *kn, const gemm_args *a)
{
    (void)kn;
    if (a->m == 0 || a->n == 0)
        return;
    cblas_sgemm(CblasRowMajor, a->trans_a ? CblasTrans : CblasNoTrans, a->trans_b ? CblasTrans : CblasNoTrans, (int)a->m,
                (int)a->n, (int)a->k, a->alpha, a->a, (int)a->lda, a->b, (int)a->ldb, a->beta, a->c, (int)a->ldc);
}
#else
#include <dnnl.h>

void cpu_gemm(const kernels *kn, const gemm_args *a)
{
    (void)kn;
    if (a->m == 0 || a->n == 0)
        return;
    dnnl_sgemm(a->trans_a ? 'T' : 'N', a->trans_b ? 'T' : 'N', a->m, a->n, a->k, a->alpha, a->a, a->lda, a->b, a->ldb,
               a->beta, a->c, a->ldc);
}
#endif
