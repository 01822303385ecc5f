/* AdamW: see optimizer.h. */
#include "train/optimizer.h"

#include <math.h>

fathom_status optimizer_init(optimizer *o, const model *m, fathom_error *err)
{
    const kernels *kn = &m->kn;
    const size_t bytes = (size_t)m->list.size * sizeof(float);
    *o = (optimizer){0};
    float **blocks[] = {&o->grads, &o->moment1, &o->moment2};
    for (int i = 0; i < 3; i++) {
        *blocks[i] = kn->mem_alloc(kn, bytes);
        if (!*blocks[i])
            return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory: gradients and moments take %.1f MB",
                               3e-6 * (double)bytes);
        kn->mem_zero(kn, *blocks[i], bytes);
    }
    params_view(&m->config, &m->list, o->grads, &o->grad_views);
    return FATHOM_OK;
}

void optimizer_free(optimizer *o, const model *m)
{
    float *blocks[] = {o->grads, o->moment1, o->moment2};
    for (int i = 0; i < 3; i++)
        if (blocks[i])
            m->kn.mem_free(&m->kn, blocks[i]);
    *o = (optimizer){0};
}

/* Neighbours [begin, end) that are all predictors' or all not; *next: the tensor behind them. */
typedef struct span {
    int64_t begin, end;
    bool predictor;
} span;

static span span_from(const param_list *list, int64_t first, int64_t *next)
{
    const bool predictor = list->items[first].predictor;
    int64_t i = first;
    while (i < list->count && list->items[i].predictor == predictor)
        i++;
    *next = i;
    return (span){list->items[first].offset, i < list->count ? list->items[i].offset : list->size, predictor};
}

grad_norms optimizer_grad_norms(const optimizer *o, const model *m)
{
    double squares[2] = {0, 0};
    for (int64_t i = 0; i < m->list.count;) {
        const span s = span_from(&m->list, i, &i);
        squares[s.predictor] += m->kn.sum_squares(&m->kn, o->grads + s.begin, s.end - s.begin);
    }
    return (grad_norms){.model = sqrt(squares[0]), .predictors = sqrt(squares[1])};
}

static void update_range(optimizer *o, model *m, adamw_args *a, int64_t begin, int64_t end)
{
    if (begin >= end)
        return;
    a->n = end - begin;
    a->p = m->store.values + begin;
    a->g = o->grads + begin;
    a->m = o->moment1 + begin;
    a->v = o->moment2 + begin;
    m->kn.adamw(&m->kn, a);
}

static float clip_scale(float clip, double norm)
{
    return clip > 0 && norm > clip ? (float)(clip / norm) : 1;
}

void optimizer_update(optimizer *o, model *m, const optimizer_step *s, grad_norms norms)
{
    const float scale[2] = {clip_scale(s->clip, norms.model), clip_scale(s->clip, norms.predictors)};
    const int64_t decayed = m->list.decayed;
    adamw_args a = {.lr = s->lr, .beta1 = s->beta1, .beta2 = s->beta2, .eps = s->epsilon, .step = ++o->updates};
    for (int64_t i = 0; i < m->list.count;) {
        const span at = span_from(&m->list, i, &i);
        a.grad_scale = scale[at.predictor];
        a.decay = s->weight_decay;
        update_range(o, m, &a, at.begin, at.end < decayed ? at.end : decayed);
        a.decay = 0;
        update_range(o, m, &a, at.begin > decayed ? at.begin : decayed, at.end);
    }
}

void optimizer_skip(optimizer *o, const model *m)
{
    m->kn.mem_zero(&m->kn, o->grads, (size_t)m->list.size * sizeof(float));
}
