/* Small models for tests: shapes with odd sizes and grouped heads, values large enough that routing and attention matter. */
#ifndef FATHOM_TESTS_TINY_H
#define FATHOM_TESTS_TINY_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "model/model.h"

static inline model_config tiny_config(mod_router router, mod_gate gate, mod_causal causal)
{
    model_config c = model_config_default();
    c.vocab = 37;
    c.dim = 24;
    c.layers = 4;
    c.heads = 4;
    c.kv_heads = 2;
    c.head_dim = 6;
    c.ffn = 29;
    c.seq_len = 23;
    c.mod.router = router;
    c.mod.gate = gate;
    c.mod.causal = causal;
    if (router != MOD_ROUTER_NONE) {
        c.mod.capacity[1] = 0.25f;
        c.mod.capacity[3] = 0.4f;
        c.mod.predictor_hidden = causal == MOD_CAUSAL_PREDICTOR ? 11 : 0;
    }
    return c;
}

/* Values of a deviation that makes every part of the model count; a predictor that routes about a third. */
static inline void tiny_fill(model *m, uint64_t seed)
{
    for (int64_t i = 0; i < m->list.count; i++) {
        const param_info *p = &m->list.items[i];
        const double std = p->rank == 2 ? 1.2 / sqrt((double)p->shape[1]) : 0.1;
        for (int64_t j = 0; j < p->size; j++)
            m->store.values[p->offset + j] = p->init_mean + (float)(std * rng_normal(seed, (uint64_t)i + 100, (uint64_t)j));
    }
}

static inline model tiny_model(const model_config *c, uint64_t seed)
{
    model m;
    fathom_error err;
    const kernels kn = kernels_cpu();
    if (model_init(&m, c, WEIGHT_F32, &kn, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    tiny_fill(&m, seed);
    return m;
}

static inline void tiny_tokens(int32_t *tokens, int64_t n, int64_t vocab, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(rng_uniform(seed, 77, (uint64_t)i) * (double)vocab);
}

#endif
