/* From plain to Mixture-of-Depths: see conversion.h. */
#include "train/conversion.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "train/evaluate.h"

enum { MOST_WINDOW = 1024 }; /* models of others may take a hundred times as many, and memory grows with it */

static const double ridge = 1e-4, sigmoid_target = 4;

/* X^T X and X^T 1 of what one stage's router reads, [d, d] and [d]. */
typedef struct moments {
    const kernels *kn;
    int64_t stage, d, n;
    float *square, *sum; /* the backend's memory */
    void *scratch;
} moments;

static void gather_moments(void *user, int64_t stage, const route *r, int64_t B, int64_t T)
{
    moments *of = user;
    const int64_t n = B * T, d = of->d;
    if (stage != of->stage)
        return;
    of->kn->gemm(of->kn, &(gemm_args){.trans_a = true, .m = d, .n = d, .k = n, .a = r->x, .lda = d, .b = r->x, .ldb = d, .c = of->square,
                                      .ldc = d, .alpha = 1, .beta = 1, .scratch = of->scratch});
    for (int64_t i = 0; i < n; i++)
        of->kn->add(of->kn, of->sum, r->x + i * d, d);
    of->n += n;
}

/* Solves a x = b, a [d, d] symmetric and positive: a becomes its Cholesky factor, b the solution. False where it is not positive. */
static bool solve(double *a, double *b, int64_t d)
{
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = a[i * d + j];
            for (int64_t k = 0; k < j; k++)
                sum -= a[i * d + k] * a[j * d + k];
            if (i == j && !(sum > 0))
                return false;
            a[i * d + j] = i == j ? sqrt(sum) : sum / a[j * d + j];
        }
    for (int64_t i = 0; i < d; i++) {
        for (int64_t k = 0; k < i; k++)
            b[i] -= a[i * d + k] * b[k];
        b[i] /= a[i * d + i];
    }
    for (int64_t i = d - 1; i >= 0; i--) {
        for (int64_t k = i + 1; k < d; k++)
            b[i] -= a[k * d + i] * b[k];
        b[i] /= a[i * d + i];
    }
    return true;
}

/* mean, square: of the logits X w that the router then gives: w X^T 1 / n and w X^T X w / n. */
static fathom_status start_router(model *m, const moments *of, float *host, double *a, double *b, double *mean, double *square,
                                  fathom_error *err)
{
    const kernels *kn = &m->kn;
    const int64_t d = of->d;
    const double n = (double)of->n, target = m->config.mod.gate == MOD_GATE_SIGMOID ? sigmoid_target : 1;
    double trace = 0, wanted = 0, length = 0;
    kn->mem_download(kn, host, of->square, (size_t)(d * d) * sizeof *host);
    for (int64_t i = 0; i < d * d; i++)
        a[i] = (double)host[i] / n;
    for (int64_t i = 0; i < d; i++)
        trace += a[i * d + i];
    for (int64_t i = 0; i < d; i++)
        a[i * d + i] += ridge * trace / (double)d;
    kn->mem_download(kn, host, of->sum, (size_t)d * sizeof *host);
    for (int64_t i = 0; i < d; i++)
        b[i] = target * (double)host[i] / n;
    if (!solve(a, b, d))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "the stream of layer %lld is zero or not finite: no router can start from it",
                           (long long)model_stage_at(&m->config, of->stage).layer);
    for (int64_t i = 0; i < d; i++) {
        wanted += b[i] * (double)host[i] / n; /* host still holds X^T 1 */
        length += b[i] * b[i];
    }
    *mean = wanted;
    *square = target * wanted - ridge * trace / (double)d * length; /* (X^T X / n + lambda I) w = target X^T 1 / n */
    for (int64_t i = 0; i < d; i++)
        host[i] = (float)b[i];
    kn->mem_upload(kn, m->params.router[of->stage].router, host, (size_t)d * sizeof *host);
    return FATHOM_OK;
}

static fathom_status start_all(model *m, evaluator *e, const batcher *b, int64_t tokens, double *mean, double *deviation, fathom_error *err)
{
    const kernels *kn = &m->kn;
    const int64_t d = m->config.dim;
    const size_t matrix = (size_t)(d * d), bytes = (matrix + (size_t)d) * sizeof(float);
    void *scratch = kn->mem_alloc(kn, kn->scratch_bytes(kn, &(kernel_sizes){0}));
    float *device = kn->mem_alloc(kn, bytes), *host = malloc(matrix * sizeof *host);
    double *a = malloc((matrix + (size_t)d) * sizeof *a), sum = 0, squares = 0;
    fathom_status status = device && scratch && host && a ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (int64_t s = 0; s < model_stages(&m->config) && status == FATHOM_OK; s++) {
        if (!model_stage_routed(&m->config, s))
            continue;
        moments of = {.kn = kn, .stage = s, .d = d, .square = device, .sum = device + matrix, .scratch = scratch};
        kn->mem_zero(kn, device, bytes);
        workspace_set_visitor(e->ws, gather_moments, &of);
        evaluation ignored;
        double first = 0, second = 0;
        status = evaluator_run(e, b, ROUTING_TOPK, tokens, &ignored, err);
        if (status == FATHOM_OK)
            status = start_router(m, &of, host, a, a + matrix, &first, &second, err);
        sum += first;
        squares += second;
    }
    workspace_set_visitor(e->ws, NULL, NULL);
    const double routers = (double)model_routed_stages(&m->config);
    *mean = sum / routers;
    *deviation = sqrt(fmax(0, squares / routers - *mean * *mean));
    kn->mem_free(kn, scratch);
    kn->mem_free(kn, device);
    free(host);
    free(a);
    return status;
}

fathom_status conversion_start_routers(model *m, const corpus_part *text, int64_t tokens, int64_t batch, double *mean, double *deviation,
                                       fathom_error *err)
{
    const int64_t T = m->config.seq_len < MOST_WINDOW ? m->config.seq_len : MOST_WINDOW;
    *mean = *deviation = NAN;
    if (m->config.mod.router == MOD_ROUTER_STOCHASTIC || m->config.mod.gate == MOD_GATE_ONE || model_routed_stages(&m->config) == 0)
        return FATHOM_OK;
    /* the same parameters, every token through every block: the plain model with its routers looking on */
    model open = *m;
    open.config.mod.router = MOD_ROUTER_TOPK;
    open.config.mod.gate = MOD_GATE_ONE;
    for (int64_t s = 0; s < model_stages(&open.config); s++)
        open.config.mod.capacity[s] = model_stage_routed(&m->config, s) ? 1 : 0;
    batcher b;
    evaluator e = {0};
    TRY(batcher_init(&b, text, T, 0, "training data", err));
    fathom_status status = evaluator_init(&e, &open, batch, T, err);
    if (status == FATHOM_OK)
        status = start_all(m, &e, &b, tokens, mean, deviation, err);
    evaluator_free(&e);
    return status;
}
