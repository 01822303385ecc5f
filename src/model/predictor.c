/* The predictor: see predictor.h. */
#include "model/predictor.h"

void predictor_temps_plan(const predictor_shape *shape, arena *a, int64_t n, bool train, predictor_temps *out)
{
    *out = (predictor_temps){.pre = arena_floats(a, n, shape->hidden), .hidden = arena_floats(a, n, shape->hidden)};
    if (train) {
        out->dhidden = arena_floats(a, n, shape->hidden);
        out->dlogit = arena_floats(a, n, shape->outputs);
    }
}

void predictor_forward(const model_env *env, const predictor_shape *shape, const router_params *p, weight fc1, const float *x, int64_t n,
                       const predictor_temps *t, float *logit)
{
    const kernels *kn = env->kn;
    kn->linear(kn, &(linear_args){.n = n, .in = env->config->dim, .out = shape->hidden, .x = x, .w = fc1, .y = t->pre,
                                  .by_row = env->by_row, .scratch = env->scratch});
    kn->bias_silu_forward(kn, t->hidden, t->pre, p->fc1_bias, n, shape->hidden);
    for (int64_t o = 0; o < shape->outputs; o++)
        kn->rowdot_forward(kn, logit + o * n, t->hidden, p->fc2 + o * shape->hidden, p->fc2_bias + o, n, shape->hidden);
}

void predictor_backward(const model_env *env, const predictor_shape *shape, const router_params *p, const router_params *g,
                        const float *x, int64_t n, const predictor_temps *t)
{
    const kernels *kn = env->kn;
    const int64_t d = env->config->dim, hidden = shape->hidden;
    kn->gemm(kn, &(gemm_args){.trans_a = true, .m = n, .n = hidden, .k = shape->outputs, .a = t->dlogit, .lda = n, .b = p->fc2,
                              .ldb = hidden, .c = t->dhidden, .ldc = hidden, .alpha = 1, .scratch = env->scratch});
    for (int64_t o = 0; o < shape->outputs; o++)
        kn->rowdot_backward(kn, NULL, NULL, g->fc2 + o * hidden, g->fc2_bias + o, t->dlogit + o * n, t->hidden, p->fc2 + o * hidden, n,
                            hidden, env->scratch);
    kn->bias_silu_backward(kn, t->dhidden, g->fc1_bias, t->dhidden, t->pre, p->fc1_bias, n, hidden, env->scratch);
    kn->gemm(kn, &(gemm_args){.trans_a = true, .m = hidden, .n = d, .k = n, .a = t->dhidden, .lda = hidden, .b = x, .ldb = d,
                              .c = g->fc1, .ldc = d, .alpha = 1, .beta = 1, .scratch = env->scratch});
}
