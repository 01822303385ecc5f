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

double optimizer_grad_norm(const optimizer *o, const model *m)
{
    return sqrt(m->kn.sum_squares(&m->kn, o->grads, m->list.size));
}

void optimizer_update(optimizer *o, model *m, const optimizer_step *s, double grad_norm)
{
    adamw_args a = {.lr = s->lr, .beta1 = s->beta1, .beta2 = s->beta2, .eps = s->epsilon, .grad_scale = 1,
                    .step = ++o->updates};
    if (s->clip > 0 && grad_norm > s->clip)
        a.grad_scale = (float)(s->clip / grad_norm);
    const struct {
        int64_t begin, end;
        float decay;
    } ranges[] = {{0, m->list.decayed, s->weight_decay}, {m->list.decayed, m->list.size, 0}};
    for (int i = 0; i < 2; i++) {
        const int64_t begin = ranges[i].begin;
        a.n = ranges[i].end - begin;
        a.p = m->store.values + begin;
        a.g = o->grads + begin;
        a.m = o->moment1 + begin;
        a.v = o->moment2 + begin;
        a.decay = ranges[i].decay;
        m->kn.adamw(&m->kn, &a);
    }
}

void optimizer_skip(optimizer *o, const model *m)
{
    m->kn.mem_zero(&m->kn, o->grads, (size_t)m->list.size * sizeof(float));
}
