/* Every operation of both backends: forward against a double-precision reference written here, backward against central
 * differences of that reference, relative error at most 1e-3 (of the larger of the difference and the gradient's rms). */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kernels/kernels.h"

enum { INPUTS = 4, GUARD = 16 };
static const float guard_value = 12345.5f;
static uint64_t draws;

static double uniform(void)
{
    return rng_uniform(99, 1, draws++);
}

static double normal(void)
{
    return rng_normal(99, 2, draws++);
}

static int64_t pick(int64_t low, int64_t high)
{
    return low + (int64_t)(uniform() * (double)(high - low + 1));
}

/* A buffer between guards, so that a write past its ends is found. */
static float *buffer(int64_t n)
{
    float *p = calloc((size_t)(n + 2 * GUARD), sizeof *p);
    for (int i = 0; i < GUARD; i++)
        p[i] = p[GUARD + n + i] = guard_value;
    return p + GUARD;
}

static void release(float *p, int64_t n)
{
    for (int i = 0; i < GUARD; i++)
        if (p[i - GUARD] != guard_value || p[n + i] != guard_value)
            fail_msg("a kernel wrote past its buffer");
    free(p - GUARD);
}

typedef struct input {
    int64_t n;
    double *x;        /* what is differenced */
    float *values, *gradient;
} input;

/* An operation: `forward` in double on the inputs; out is what the backend made, weight the gradient of the loss <weight, out>. */
typedef struct operation {
    const char *name;
    input in[INPUTS];
    int64_t out_n;
    float *out, *weight;
    void (*forward)(const struct operation *op, double *out);
    const void *shape;
} operation;

static operation make(const char *name, void (*forward)(const operation *, double *), const void *shape, int64_t out_n,
                      const int64_t sizes[INPUTS])
{
    operation op = {.name = name, .forward = forward, .shape = shape, .out_n = out_n};
    for (int i = 0; i < INPUTS && sizes[i] > 0; i++) {
        input *in = &op.in[i];
        *in = (input){sizes[i], calloc((size_t)sizes[i], sizeof *in->x), buffer(sizes[i]), buffer(sizes[i])};
        for (int64_t j = 0; j < sizes[i]; j++) {
            in->values[j] = (float)normal();
            in->x[j] = (double)in->values[j];
        }
    }
    op.out = buffer(out_n);
    op.weight = buffer(out_n);
    for (int64_t j = 0; j < out_n; j++)
        op.weight[j] = (float)normal();
    return op;
}

static double loss(const operation *op, double *out)
{
    double sum = 0;
    op->forward(op, out);
    for (int64_t j = 0; j < op->out_n; j++)
        sum += out[j] * (double)op->weight[j];
    return sum;
}

/* `base` was in the gradients of parameters before: += must have kept it. */
static void check(operation *op, const char *backend, double base)
{
    double *out = calloc((size_t)op->out_n, sizeof *out), scale = 1e-6;
    op->forward(op, out);
    for (int64_t j = 0; j < op->out_n; j++)
        scale = fmax(scale, fabs(out[j]));
    for (int64_t j = 0; j < op->out_n; j++)
        if (!(fabs(out[j] - (double)op->out[j]) <= 2e-5 * scale))
            fail_msg("%s %s: out[%d] is %g, should be %g", backend, op->name, (int)j, (double)op->out[j], out[j]);
    for (int i = 0; i < INPUTS && op->in[i].n > 0; i++) {
        input *in = &op->in[i];
        double squares = 0;
        for (int64_t j = 0; j < in->n; j++)
            squares += pow((double)in->gradient[j] - base, 2);
        const double rms = sqrt(squares / (double)in->n), step = 1e-5;
        const int64_t tries = in->n < 60 ? in->n : 25;
        for (int64_t t = 0; t < tries; t++) {
            const int64_t j = in->n < 60 ? t : pick(0, in->n - 1);
            const double kept = in->x[j];
            in->x[j] = kept + step;
            const double up = loss(op, out);
            in->x[j] = kept - step;
            const double slope = (up - loss(op, out)) / (2 * step), found = (double)in->gradient[j] - base;
            in->x[j] = kept;
            if (!(fabs(found - slope) <= 1e-3 * fmax(fabs(slope), rms) + 1e-6))
                fail_msg("%s %s: gradient of input %d at %d is %g, central difference %g", backend, op->name, i, (int)j, found, slope);
        }
    }
    free(out);
    for (int i = 0; i < INPUTS && op->in[i].n > 0; i++) {
        free(op->in[i].x);
        release(op->in[i].values, op->in[i].n);
        release(op->in[i].gradient, op->in[i].n);
    }
    release(op->out, op->out_n);
    release(op->weight, op->out_n);
}

/* Runs fn for both backends on random shapes: the first few are the edges, the rest random. */
static void for_shapes(void (*fn)(const kernels *kn, int64_t n, int64_t d))
{
    const int64_t edges[][2] = {{1, 1}, {1, 2}, {3, 17}, {5, 64}, {130, 33}, {700, 96}, {33, 129}, {2, 500}};
    const kernels both[] = {kernels_ref(), kernels_cpu()};
    for (int b = 0; b < 2; b++) {
        draws = 0;
        for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
            fn(&both[b], edges[i][0], edges[i][1]);
        for (int i = 0; i < 6; i++)
            fn(&both[b], pick(1, 70), pick(1, 140));
    }
}

static void *scratch_for(const kernels *kn, int64_t n, int64_t width, int64_t keys)
{
    const kernel_sizes sizes = {.rows = n, .width = width, .keys = keys, .heads = 8, .kv_heads = 8, .head_dim = 64, .vocab = width};
    return kn->mem_alloc(kn, kn->scratch_bytes(kn, &sizes) + 64);
}

/* n of 2 n + 1 rows, ascending */
static int32_t *some_rows(int64_t n)
{
    int32_t *index = calloc((size_t)n, sizeof *index);
    for (int64_t i = 0; i < n; i++)
        index[i] = (int32_t)(2 * i + (uniform() < 0.5));
    return index;
}

typedef struct row_shape {
    int64_t n, d;
    const int32_t *index;
    int gate;
    bool plus;
} row_shape;

/* norm: inputs x (stream), weight, plus */
static void norm_reference(const operation *op, double *out)
{
    const row_shape *s = op->shape;
    for (int64_t i = 0; i < s->n; i++) {
        const double *x = op->in[0].x + (s->index ? s->index[i] : i) * s->d;
        double sum = 0;
        for (int64_t j = 0; j < s->d; j++) {
            out[i * s->d + j] = x[j] + (s->plus ? op->in[2].x[i * s->d + j] : 0);
            sum += pow(out[i * s->d + j], 2);
        }
        for (int64_t j = 0; j < s->d; j++)
            out[i * s->d + j] *= op->in[1].x[j] / sqrt(sum / (double)s->d + 1e-3);
    }
}

static void norm_case(const kernels *kn, int64_t n, int64_t d)
{
    for (int kind = 0; kind < 3; kind++) {
        int32_t *index = kind ? some_rows(n) : NULL;
        const row_shape s = {.n = n, .d = d, .index = index, .plus = kind == 2};
        const int64_t stream = (kind ? 2 * n + 1 : n) * d, sizes[INPUTS] = {stream, d, s.plus ? n * d : 0};
        operation op = make("norm", norm_reference, &s, n * d, sizes);
        float *saved = buffer(n * d), *rstd = buffer(n), *add = buffer(n * d);
        void *scratch = scratch_for(kn, n, d, 1);
        norm_args a = {.n = n, .d = d, .eps = 1e-3f, .x = op.in[0].values, .index = index, .plus = s.plus ? op.in[2].values : NULL,
                       .weight = op.in[1].values, .out = op.out, .saved = saved, .rstd = rstd};
        kn->norm_forward(kn, &a);
        for (int64_t j = 0; j < op.in[0].n; j++)
            op.in[0].gradient[j] = 0.5f;
        for (int64_t j = 0; j < d; j++)
            op.in[1].gradient[j] = 0.5f;
        a.x = saved;
        a.dout = op.weight;
        a.dx = op.in[0].gradient;
        a.dweight = op.in[1].gradient;
        a.accumulate = true;
        a.scratch = scratch;
        kn->norm_backward(kn, &a);
        if (s.plus) { /* the gradient of what was added is the packed one; `add` must come on top of it */
            for (int64_t j = 0; j < n * d; j++)
                add[j] = 0.5f;
            float *ignored = buffer(d);
            a.index = NULL;
            a.add = add;
            a.accumulate = false;
            a.dx = op.in[2].gradient;
            a.dweight = ignored;
            kn->norm_backward(kn, &a);
            release(ignored, d);
        }
        check(&op, kn->name, 0.5);
        release(saved, n * d);
        release(rstd, n);
        release(add, n * d);
        kn->mem_free(kn, scratch);
        free(index);
    }
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void swiglu_reference(const operation *op, double *out)
{
    const row_shape *s = op->shape;
    for (int64_t i = 0; i < s->n; i++)
        for (int64_t j = 0; j < s->d; j++) {
            const double g = op->in[0].x[i * 2 * s->d + j], u = op->in[0].x[i * 2 * s->d + s->d + j];
            out[i * s->d + j] = g * sigmoid(g) * u;
        }
}

static void swiglu_case(const kernels *kn, int64_t n, int64_t d)
{
    const row_shape s = {.n = n, .d = d};
    operation op = make("swiglu", swiglu_reference, &s, n * d, (int64_t[INPUTS]){2 * n * d});
    kn->swiglu_forward(kn, op.out, op.in[0].values, n, d);
    kn->swiglu_backward(kn, op.in[0].gradient, op.weight, op.in[0].values, n, d);
    check(&op, kn->name, 0);
}

static void bias_silu_reference(const operation *op, double *out)
{
    const row_shape *s = op->shape;
    for (int64_t i = 0; i < s->n * s->d; i++) {
        const double z = op->in[0].x[i] + op->in[1].x[i % s->d];
        out[i] = z * sigmoid(z);
    }
}

static void bias_silu_case(const kernels *kn, int64_t n, int64_t d)
{
    const row_shape s = {.n = n, .d = d};
    operation op = make("bias_silu", bias_silu_reference, &s, n * d, (int64_t[INPUTS]){n * d, d});
    void *scratch = scratch_for(kn, n, d, 1);
    kn->bias_silu_forward(kn, op.out, op.in[0].values, op.in[1].values, n, d);
    memcpy(op.in[0].gradient, op.weight, (size_t)(n * d) * sizeof(float)); /* in place, as the predictor does */
    kn->bias_silu_backward(kn, op.in[0].gradient, op.in[1].gradient, op.in[0].gradient, op.in[0].values, op.in[1].values, n, d, scratch);
    check(&op, kn->name, 0);
    kn->mem_free(kn, scratch);
}

static void rowdot_reference(const operation *op, double *out)
{
    const row_shape *s = op->shape;
    for (int64_t i = 0; i < s->n; i++) {
        out[i] = op->in[2].x[0];
        for (int64_t j = 0; j < s->d; j++)
            out[i] += op->in[0].x[i * s->d + j] * op->in[1].x[j];
    }
}

static void rowdot_case(const kernels *kn, int64_t n, int64_t d)
{
    const row_shape s = {.n = n, .d = d};
    operation op = make("rowdot", rowdot_reference, &s, n, (int64_t[INPUTS]){n * d, d, 1});
    void *scratch = scratch_for(kn, n, d, 1);
    int32_t *index = some_rows(n);
    float *stream = buffer((2 * n + 1) * d);
    kn->rowdot_forward(kn, op.out, op.in[0].values, op.in[1].values, op.in[2].values, n, d);
    kn->rowdot_backward(kn, stream, index, op.in[1].gradient, op.in[2].gradient, op.weight, op.in[0].values, op.in[1].values, n, d,
                        scratch);
    for (int64_t i = 0; i < n; i++)
        memcpy(op.in[0].gradient + i * d, stream + index[i] * d, (size_t)d * sizeof(float));
    check(&op, kn->name, 0);
    release(stream, (2 * n + 1) * d);
    free(index);
    kn->mem_free(kn, scratch);
}

/* scatter: inputs u, logits; out is the stream that was zero */
static void scatter_reference(const operation *op, double *out)
{
    const row_shape *s = op->shape;
    memset(out, 0, (size_t)op->out_n * sizeof *out);
    for (int64_t i = 0; i < s->n; i++) {
        const double r = op->in[1].x[i], g = s->gate == 0 ? r : s->gate == 1 ? sigmoid(r) : 1;
        for (int64_t j = 0; j < s->d; j++)
            out[s->index[i] * s->d + j] = g * op->in[0].x[i * s->d + j];
    }
}

static void scatter_case(const kernels *kn, int64_t n, int64_t d)
{
    for (int gate = 0; gate < 3; gate++) {
        int32_t *index = some_rows(n);
        const row_shape s = {.n = n, .d = d, .index = index, .gate = gate};
        operation op = make("scatter", scatter_reference, &s, (2 * n + 1) * d, (int64_t[INPUTS]){n * d, n});
        float *logit = buffer(2 * n + 1);
        for (int64_t i = 0; i < n; i++)
            logit[index[i]] = op.in[1].values[i];
        const scatter_args a = {.n = n, .d = d, .gate = gate, .index = index, .logit = logit, .u = op.in[0].values, .x = op.out,
                                .dx = op.weight, .du = op.in[0].gradient, .dlogit = op.in[1].gradient};
        kn->scatter_forward(kn, &a);
        kn->scatter_backward(kn, &a);
        check(&op, kn->name, 0);
        release(logit, 2 * n + 1);
        free(index);
    }
}

static void cross_entropy_reference(const operation *op, double *out)
{
    const row_shape *s = op->shape;
    for (int64_t i = 0; i < s->n; i++) {
        const double *z = op->in[0].x + i * s->d;
        double sum = 0;
        for (int64_t j = 0; j < s->d; j++)
            sum += exp(z[j]);
        out[i] = s->index[i] < 0 ? 0 : log(sum) - z[s->index[i]];
    }
}

static void cross_entropy_case(const kernels *kn, int64_t n, int64_t d)
{
    int32_t *target = calloc((size_t)n, sizeof *target);
    for (int64_t i = 0; i < n; i++)
        target[i] = (int32_t)pick(-1, d - 1);
    const row_shape s = {.n = n, .d = d, .index = target};
    operation op = make("cross_entropy", cross_entropy_reference, &s, n, (int64_t[INPUTS]){n * d});
    for (int64_t i = 0; i < n; i++)
        op.weight[i] = 0.7f;
    memcpy(op.in[0].gradient, op.in[0].values, (size_t)(n * d) * sizeof(float));
    kn->cross_entropy(kn, op.out, op.in[0].gradient, target, 0.7f, n, d);
    float *again = buffer(n);
    kn->cross_entropy(kn, again, op.in[0].values, target, 0, n, d); /* loss only: logits stay */
    for (int64_t i = 0; i < n; i++)
        assert_float_equal(again[i], op.out[i], 1e-5);
    check(&op, kn->name, 0);
    release(again, n);
    free(target);
}

static void bce_reference(const operation *op, double *out)
{
    const row_shape *s = op->shape;
    out[0] = 0;
    for (int64_t i = 0; i < s->n; i++)
        out[0] += (log1p(exp(op->in[0].x[i])) - op->in[0].x[i] * (double)(s->index[i] & 1)) / (double)s->n;
}

static void bce_case(const kernels *kn, int64_t n, int64_t d)
{
    (void)d;
    int32_t *odd = some_rows(n);
    uint8_t *member = calloc((size_t)n, 1);
    int64_t agreed = 0;
    const row_shape s = {.n = n, .index = odd};
    operation op = make("bce", bce_reference, &s, 1, (int64_t[INPUTS]){n});
    for (int64_t i = 0; i < n; i++) {
        member[i] = odd[i] & 1;
        agreed += (op.in[0].values[i] > 0.25f) == (member[i] != 0);
    }
    op.weight[0] = 0.3f;
    bce_args a = {.n = n, .logit = op.in[0].values, .member = member, .scale = 0.3f, .threshold = 0.25f, .dlogit = op.in[0].gradient};
    kn->bce(kn, &a);
    op.out[0] = (float)(a.loss / (double)n);
    assert_int_equal(a.agreed, agreed);
    check(&op, kn->name, 0);
    free(member);
    free(odd);
}

/* Softmax over the first of [E, n]. The shift is the gradient of sum_e shift_e p_e added to what comes from outside. */
typedef struct expert_shape {
    int64_t E, n;
    const float *shift;
} expert_shape;

static void expert_reference(const operation *op, double *out)
{
    const expert_shape *s = op->shape;
    out[s->E * s->n] = 0;
    for (int64_t i = 0; i < s->n; i++) {
        double sum = 0;
        for (int64_t e = 0; e < s->E; e++)
            sum += out[e * s->n + i] = exp(op->in[0].x[e * s->n + i]);
        for (int64_t e = 0; e < s->E; e++) {
            out[e * s->n + i] /= sum;
            out[s->E * s->n] += (double)s->shift[e] * out[e * s->n + i];
        }
    }
}

static void expert_case(const kernels *kn, int64_t E, int64_t n)
{
    const int64_t pairs = E * n;
    float *shift = buffer(E), *dp = buffer(pairs), *p;
    for (int64_t e = 0; e < E; e++)
        shift[e] = (float)normal();
    const expert_shape s = {E, n, shift};
    operation op = make("expert_softmax", expert_reference, &s, pairs + 1, (int64_t[INPUTS]){pairs});
    p = op.out;
    op.weight[pairs] = 1;
    memcpy(p, op.in[0].values, (size_t)pairs * sizeof *p);
    kn->expert_softmax(kn, p, E, n);
    memcpy(op.in[0].gradient, op.weight, (size_t)pairs * sizeof *p);
    kn->expert_softmax_backward(kn, op.in[0].gradient, p, shift, E, n);
    double balance = 0;
    for (int64_t i = 0; i < pairs; i++)
        balance += (double)shift[i / n] * (double)p[i];
    p[pairs] = (float)balance;
    /* the K largest of each token, ties to the lower expert */
    const int64_t K = pick(1, E);
    float *chosen = buffer(pairs);
    int64_t *count = calloc((size_t)E, sizeof *count), *seen = calloc((size_t)E, sizeof *seen);
    memcpy(dp, p, (size_t)pairs * sizeof *dp);
    for (int64_t i = 0; i < pairs; i++)
        if (uniform() < 0.3)
            dp[i] = 0.25f; /* ties */
    kn->expert_choose(kn, chosen, count, dp, E, n, K);
    for (int64_t i = 0; i < n; i++)
        for (int64_t e = 0; e < E; e++) {
            int64_t before = 0;
            for (int64_t o = 0; o < E; o++)
                before += dp[o * n + i] > dp[e * n + i] || (dp[o * n + i] == dp[e * n + i] && o < e);
            assert_true(chosen[e * n + i] == (before < K));
            seen[e] += before < K;
        }
    for (int64_t e = 0; e < E; e++)
        assert_int_equal(count[e], seen[e]);
    release(chosen, pairs);
    release(dp, pairs);
    free(count);
    free(seen);
    check(&op, kn->name, 0);
    release(shift, E);
}

static void embed_reference(const operation *op, double *out)
{
    const row_shape *s = op->shape;
    for (int64_t i = 0; i < s->n; i++)
        memcpy(out + i * s->d, op->in[0].x + s->index[i] * s->d, (size_t)s->d * sizeof *out);
}

static void embed_case(const kernels *kn, int64_t n, int64_t d)
{
    int32_t *tokens = calloc((size_t)n, sizeof *tokens);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (int32_t)pick(0, 6); /* repeated ones add up */
    const row_shape s = {.n = n, .d = d, .index = tokens};
    operation op = make("embed", embed_reference, &s, n * d, (int64_t[INPUTS]){7 * d});
    kn->embed_forward(kn, op.out, (weight){.data = op.in[0].values}, tokens, n, d);
    kn->embed_backward(kn, op.in[0].gradient, op.weight, tokens, n, d);
    check(&op, kn->name, 0);
    free(tokens);
}

/* attention: inputs q, k, v with strides of their own */
typedef struct attention_shape {
    int64_t sequences, heads, kv_heads, dh, q_stride, kv_stride;
    const int32_t *q_start, *kv_start, *q_position;
} attention_shape;

static void attention_reference(const operation *op, double *out)
{
    const attention_shape *s = op->shape;
    double p[1400];
    for (int64_t b = 0; b < s->sequences; b++)
        for (int64_t i = s->q_start[b]; i < s->q_start[b + 1]; i++)
            for (int64_t h = 0; h < s->heads; h++) {
                const int64_t kv = h / (s->heads / s->kv_heads) * s->dh, k0 = s->kv_start[b];
                const int64_t visible = s->q_position ? s->q_position[i] + 1 : s->kv_start[b + 1] - k0 - (s->q_start[b + 1] - i) + 1;
                double sum = 0;
                for (int64_t j = 0; j < visible; j++) {
                    p[j] = 0;
                    for (int64_t c = 0; c < s->dh; c++)
                        p[j] += op->in[0].x[i * s->q_stride + h * s->dh + c] * op->in[1].x[(k0 + j) * s->kv_stride + kv + c];
                    sum += p[j] = exp(0.3 * p[j]);
                }
                for (int64_t c = 0; c < s->dh; c++) {
                    double o = 0;
                    for (int64_t j = 0; j < visible; j++)
                        o += p[j] * op->in[2].x[(k0 + j) * s->kv_stride + kv + c];
                    out[(i * s->heads + h) * s->dh + c] = o / sum;
                }
            }
}

static void attention_on(const kernels *kn, int64_t heads, int64_t kv_heads, int64_t dh, const int32_t *q_start,
                         const int32_t *kv_start, const int32_t *q_position, int64_t sequences)
{
    const bool cached = kv_start && !q_position;
    const attention_shape s = {sequences, heads, kv_heads, dh, heads * dh + 3, kv_heads * dh + 5, q_start, kv_start ? kv_start : q_start,
                               q_position};
    const int64_t nq = q_start[sequences], nk = s.kv_start[sequences];
    operation op = make("attention", attention_reference, &s, nq * heads * dh,
                        (int64_t[INPUTS]){nq * s.q_stride, nk * s.kv_stride, nk * s.kv_stride});
    int64_t longest = 0;
    for (int64_t b = 0; b < sequences; b++)
        longest = s.kv_start[b + 1] - s.kv_start[b] > longest ? s.kv_start[b + 1] - s.kv_start[b] : longest;
    void *scratch = scratch_for(kn, nq, heads * dh, longest);
    float *lse = buffer(nq * heads);
    attention_args a = {.sequences = sequences, .heads = heads, .kv_heads = kv_heads, .head_dim = dh, .q_start = q_start,
                        .kv_start = kv_start, .q_position = q_position, .q = op.in[0].values, .k = op.in[1].values, .v = op.in[2].values,
                        .q_stride = s.q_stride, .kv_stride = s.kv_stride, .kv_head_stride = dh, .scale = 0.3f, .out = op.out, .lse = lse, .scratch = scratch};
    kn->attention_forward(kn, &a);
    if (!cached) {
        a.dout = op.weight;
        a.dq = op.in[0].gradient;
        a.dk = op.in[1].gradient;
        a.dv = op.in[2].gradient;
        kn->attention_backward(kn, &a);
        check(&op, kn->name, 0);
    } else {
        for (int i = 0; i < INPUTS; i++) { /* inference: forward only */
            if (op.in[i].n == 0)
                continue;
            free(op.in[i].x);
            op.in[i].x = calloc((size_t)op.in[i].n, sizeof(double));
            for (int64_t j = 0; j < op.in[i].n; j++)
                op.in[i].x[j] = (double)op.in[i].values[j];
        }
        double *expected = calloc((size_t)op.out_n, sizeof *expected);
        attention_reference(&op, expected);
        for (int64_t j = 0; j < op.out_n; j++)
            assert_float_equal(op.out[j], expected[j], 2e-4);
        free(expected);
        memset(op.weight, 0, (size_t)op.out_n * sizeof(float));
        check(&op, kn->name, 0);
    }
    release(lse, nq * heads);
    kn->mem_free(kn, scratch);
}

/* Keys in pages, in an order of their own and some of them two sequences', against the same keys one after the other; stored by the
 * backend. */
static void paged_on(const kernels *kn, int64_t heads, int64_t kv_heads, int64_t dh, const int32_t *q_start, const int32_t *kv_start,
                     int64_t sequences)
{
    enum { PAGE = 32 };
    const int64_t nq = q_start[sequences], nk = kv_start[sequences], stride = kv_heads * dh + 7, page = kv_heads * PAGE * dh;
    float *q = buffer(nq * heads * dh), *k = buffer(nk * stride), *v = buffer(nk * stride), *out = buffer(nq * heads * dh);
    float *want = buffer(nq * heads * dh);
    int32_t table[200], page_start[5] = {0}, *slot = calloc((size_t)nk, sizeof *slot);
    int64_t pages = 0, longest = 0;
    for (int64_t s = 0; s < sequences; s++) {
        const int64_t n = kv_start[s + 1] - kv_start[s];
        for (int64_t p = 0; p < (n + PAGE - 1) / PAGE; p++)
            table[page_start[s] + p] = (int32_t)(199 - pages++);
        page_start[s + 1] = (int32_t)pages;
        for (int64_t j = 0; j < n; j++)
            slot[kv_start[s] + j] = table[page_start[s] + j / PAGE] * PAGE + (int32_t)(j % PAGE);
        longest = n > longest ? n : longest;
    }
    float *pool_k = kn->mem_alloc(kn, (size_t)(200 * page) * sizeof(float)), *pool_v = kn->mem_alloc(kn, (size_t)(200 * page) * sizeof(float));
    for (int64_t i = 0; i < nq * heads * dh; i++)
        q[i] = (float)normal();
    for (int64_t i = 0; i < nk * stride; i++) {
        k[i] = (float)normal();
        v[i] = (float)normal();
    }
    void *scratch = scratch_for(kn, nq, heads * dh, longest);
    kn->kv_store(kn, &(kv_store_args){.n = nk, .kv_heads = kv_heads, .head_dim = dh, .stride = stride, .k = k, .v = v, .slot = slot,
                                      .page_keys = PAGE, .to_k = pool_k, .to_v = pool_v});
    attention_args a = {.sequences = sequences, .heads = heads, .kv_heads = kv_heads, .head_dim = dh, .q_start = q_start,
                        .kv_start = kv_start, .q = q, .k = k, .v = v, .q_stride = heads * dh, .kv_stride = stride,
                        .kv_head_stride = dh, .scale = 0.3f, .out = want, .scratch = scratch};
    kn->attention_forward(kn, &a);
    a.k = pool_k;
    a.v = pool_v;
    a.kv_stride = dh;
    a.kv_head_stride = PAGE * dh;
    a.page = table;
    a.page_start = page_start;
    a.page_keys = PAGE;
    a.page_stride = page;
    a.out = out;
    kn->attention_forward(kn, &a);
    for (int64_t i = 0; i < nq * heads * dh; i++)
        assert_float_equal(out[i], want[i], 2e-5);
    kn->mem_free(kn, pool_k);
    kn->mem_free(kn, pool_v);
    kn->mem_free(kn, scratch);
    free(slot);
    release(q, nq * heads * dh);
    release(k, nk * stride);
    release(v, nk * stride);
    release(out, nq * heads * dh);
    release(want, nq * heads * dh);
}

static void paged_attention_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu()};
    const int32_t ones[] = {0, 1, 2, 3}, lengths[] = {0, 1, 33, 33 + 700}, none[] = {0, 1, 1, 2}, parts[] = {0, 5, 5, 305};
    const int32_t kv[] = {0, 64, 64, 64 + 900};
    for (int b = 0; b < 2; b++) {
        paged_on(&both[b], 4, 2, 16, ones, lengths, 3);
        paged_on(&both[b], 3, 3, 80, ones, lengths, 3);
        paged_on(&both[b], 2, 1, 6, none, lengths, 3);
        paged_on(&both[b], 2, 2, 32, parts, kv, 3);
        paged_on(&both[b], 4, 1, 64, parts, kv, 3);
    }
}

static void attention_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu()};
    for (int b = 0; b < 2; b++) {
        draws = 0;
        const int32_t one[] = {0, 1}, mixed[] = {0, 5, 5, 70, 71}, blocks[] = {0, 63, 127, 192}, longer[] = {0, 300};
        attention_on(&both[b], 1, 1, 2, one, NULL, NULL, 1);
        attention_on(&both[b], 4, 2, 6, mixed, NULL, NULL, 4);
        attention_on(&both[b], 6, 1, 5 + 1, blocks, NULL, NULL, 3);
        attention_on(&both[b], 2, 2, 16, longer, NULL, NULL, 1);
        const int32_t q[] = {0, 1, 4, 74}, kv[] = {0, 9, 12, 160};
        attention_on(&both[b], 4, 2, 8, q, kv, NULL, 3);
        /* heads of whole vectors */
        attention_on(&both[b], 2, 2, 32, blocks, NULL, NULL, 3);
        attention_on(&both[b], 4, 2, 16, q, kv, NULL, 3);
        attention_on(&both[b], 2, 1, 48, mixed, NULL, NULL, 4);
        attention_on(&both[b], 2, 1, 64, longer, NULL, NULL, 1);
        /* several blocks of keys, and sequences on either side of one */
        const int32_t several[] = {0, 1100, 1611, 2123}, part[] = {0, 700}, cached[] = {0, 1300};
        attention_on(&both[b], 2, 1, 8, several, NULL, NULL, 3);
        attention_on(&both[b], 2, 1, 16, several, NULL, NULL, 3);
        attention_on(&both[b], 2, 1, 8, part, cached, NULL, 1);
        /* some queries of a sequence, by their positions: few and many, none, all but the last, across blocks of keys */
        const int32_t some[] = {0, 3, 3, 4, 9}, dense[] = {0, 7, 12, 14, 20}, at[] = {0, 2, 5, 1, 0, 1, 3, 4, 5};
        attention_on(&both[b], 4, 2, 6, some, dense, at, 4);
        const int32_t many[] = {0, 150, 160}, all_keys[] = {0, 1300, 1330};
        int32_t spread[160];
        for (int32_t i = 0; i < 160; i++)
            spread[i] = i < 150 ? 8 * i + i % 7 : 3 * (i - 150);
        attention_on(&both[b], 2, 1, 8, many, all_keys, spread, 2);
        attention_on(&both[b], 2, 1, 32, many, all_keys, spread, 2);
    }
}

static void gemm_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu()};
    for (int b = 0; b < 2; b++)
        for (int kind = 0; kind < 24; kind++) {
            const int64_t m = kind < 4 ? 1 : pick(1, 90), n = pick(1, 90), k = kind >= 4 && kind < 8 ? 1 : pick(1, 90);
            const bool ta = kind & 1, tb = kind & 2;
            const float alpha = 0.5f, beta = kind & 4 ? 2 : 0;
            const int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 2, ldc = n + 1;
            float *A = buffer(lda * (ta ? k : m)), *B = buffer(ldb * (tb ? n : k)), *C = buffer(ldc * m), *before = buffer(ldc * m);
            for (int64_t i = 0; i < lda * (ta ? k : m); i++)
                A[i] = (float)normal();
            for (int64_t i = 0; i < ldb * (tb ? n : k); i++)
                B[i] = (float)normal();
            for (int64_t i = 0; i < ldc * m; i++)
                before[i] = C[i] = beta != 0 ? (float)normal() : NAN; /* beta 0 must not read C */
            both[b].gemm(&both[b], &(gemm_args){.trans_a = ta, .trans_b = tb, .m = m, .n = n, .k = k, .a = A, .lda = lda, .b = B,
                                                .ldb = ldb, .c = C, .ldc = ldc, .alpha = alpha, .beta = beta});
            for (int64_t i = 0; i < m; i++) {
                for (int64_t j = 0; j < n; j++) {
                    double sum = beta != 0 ? 2 * (double)before[i * ldc + j] : 0;
                    for (int64_t l = 0; l < k; l++)
                        sum += 0.5 * (double)(ta ? A[l * lda + i] : A[i * lda + l]) * (double)(tb ? B[j * ldb + l] : B[l * ldb + j]);
                    assert_float_equal(C[i * ldc + j], sum, 1e-4);
                }
                assert_memory_equal(C + i * ldc + n, before + i * ldc + n, sizeof(float)); /* past the row: untouched */
            }
            release(A, lda * (ta ? k : m));
            release(B, ldb * (tb ? n : k));
            release(C, ldc * m);
            release(before, ldc * m);
        }
}

static void rope_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu()};
    enum { N = 7, H = 3, DH = 10, STRIDE = H * DH + 4 };
    float table[50 * DH], x[N * STRIDE], before[N * STRIDE];
    int32_t position[N];
    for (int p = 0; p < 50; p++)
        for (int j = 0; j < DH / 2; j++) {
            table[p * DH + j] = (float)cos(p * pow(100, -2.0 * j / DH));
            table[p * DH + DH / 2 + j] = (float)sin(p * pow(100, -2.0 * j / DH));
        }
    for (int b = 0; b < 2; b++) {
        for (int i = 0; i < N * STRIDE; i++)
            x[i] = before[i] = (float)normal();
        for (int i = 0; i < N; i++)
            position[i] = (int32_t)pick(0, 49);
        both[b].rope(&both[b], x, STRIDE, N, H, DH, table, position, 1);
        for (int i = 0; i < N; i++)
            for (int h = 0; h < H; h++)
                for (int j = 0; j < DH / 2; j++) {
                    const double angle = position[i] * pow(100, -2.0 * j / DH);
                    const double low = (double)before[i * STRIDE + h * DH + j], high = (double)before[i * STRIDE + h * DH + j + DH / 2];
                    assert_float_equal(x[i * STRIDE + h * DH + j], low * cos(angle) - high * sin(angle), 1e-5);
                    assert_float_equal(x[i * STRIDE + h * DH + j + DH / 2], high * cos(angle) + low * sin(angle), 1e-5);
                }
        both[b].rope(&both[b], x, STRIDE, N, H, DH, table, position, -1);
        for (int i = 0; i < N * STRIDE; i++)
            assert_float_equal(x[i], before[i], 1e-5);
    }
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void topk_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu()};
    for (int b = 0; b < 2; b++)
        for (int kind = 0; kind < 60; kind++) {
            const int64_t B = pick(1, 4), T = kind < 5 ? 1 : pick(1, 200), k = kind % 3 == 0 ? 1 : kind % 3 == 1 ? T : pick(1, T);
            float *r = buffer(B * T), *sorted = buffer(T);
            const int32_t bounds[5] = {0, (int32_t)T, (int32_t)(2 * T), (int32_t)(3 * T), (int32_t)(4 * T)};
            int32_t *index = calloc((size_t)(B * k), sizeof *index), start[5], *rows = calloc((size_t)(B * T), sizeof *rows);
            uint8_t *member = calloc((size_t)(B * T), 1);
            for (int64_t i = 0; i < B * T; i++) /* ties, zeros of both signs, infinities, NaN */
                r[i] = kind % 4 == 0 ? (float)pick(-2, 2) * (uniform() < 0.5 ? 0.0f : 1.0f)
                       : kind % 4 == 1 && uniform() < 0.2 ? (uniform() < 0.5 ? INFINITY : -INFINITY)
                       : kind % 4 == 2 && uniform() < 0.3 ? NAN
                                                          : (float)normal();
            void *scratch = scratch_for(&both[b], 1, 1, T);
            both[b].topk(&both[b], index, member, r, B, T, k, scratch);
            both[b].mem_free(&both[b], scratch);
            for (int64_t s = 0; s < B; s++) {
                int64_t chosen = 0, numbers = 0;
                for (int64_t t = 0; t < T; t++)
                    if (member[s * T + t])
                        assert_int_equal(index[s * k + chosen++], s * T + t); /* distinct, ascending */
                assert_int_equal(chosen, k);
                for (int64_t t = 0; t < T; t++)
                    if (!isnan(r[s * T + t]))
                        sorted[numbers++] = r[s * T + t];
                qsort(sorted, (size_t)numbers, sizeof *sorted, by_value);
                const float least = k <= numbers ? sorted[k - 1] : -INFINITY;
                bool closed = false; /* a tie that was left out closes the door for later ones */
                for (int64_t t = 0; t < T && k <= numbers; t++) {
                    const float v = r[s * T + t];
                    assert_false(isnan(v) && member[s * T + t]);
                    if (v > least)
                        assert_true(member[s * T + t]);
                    if (v < least)
                        assert_false(member[s * T + t]);
                    if (v == least) {
                        assert_false(closed && member[s * T + t]);
                        closed |= !member[s * T + t];
                    }
                }
            }
            /* with a limit: the first k of a sequence, the rest counted */
            above_args above = {.sequences = B, .limit = k, .row_start = bounds, .logit = r, .threshold = 0.5f, .index = rows, .start = start};
            const int64_t over = both[b].above(&both[b], &above);
            int64_t passed = 0;
            for (int64_t s = 0; s < B; s++) {
                int64_t here = 0;
                for (int64_t t = 0; t < T; t++)
                    if (r[s * T + t] > 0.5f && here++ < k)
                        assert_int_equal(rows[start[s] + here - 1], s * T + t);
                assert_int_equal(start[s + 1] - start[s], here < k ? here : k);
                passed += here;
            }
            assert_int_equal(start[B] + over, passed);
            const float each[4] = {0.5f, -1, 3, -INFINITY};
            above.thresholds = each;
            both[b].above(&both[b], &above);
            for (int64_t s = 0; s < B; s++) {
                int64_t here = 0;
                for (int64_t t = 0; t < T; t++)
                    here += r[s * T + t] > each[s];
                assert_int_equal(start[s + 1] - start[s], here < k ? here : k);
            }
            above.thresholds = NULL;
            above.limit = T;
            assert_int_equal(both[b].above(&both[b], &above), 0);
            int32_t n = 0;
            for (int64_t i = 0; i < B * T; i++) {
                if (i % T == 0)
                    assert_int_equal(start[i / T], n);
                if (r[i] > 0.5f)
                    assert_int_equal(rows[n++], i);
            }
            assert_int_equal(start[B], n);
            release(r, B * T);
            release(sorted, T);
            free(index);
            free(rows);
            free(member);
        }
}

/* The balancing loss against its formula, its gradient against differences with the share of choosers frozen. */
static void balance_cases(void **state)
{
    (void)state;
    enum { N = 57 };
    const kernels both[] = {kernels_ref(), kernels_cpu()};
    const double c = 0.3;
    for (int b = 0; b < 2; b++) {
        float z[N], gradient[N];
        double f = 0;
        for (int i = 0; i < N; i++) {
            z[i] = (float)normal();
            f += z[i] > 0.1f ? 1.0 / N : 0;
        }
        balance_args a = {.n = N, .logit = z, .threshold = 0.1f, .capacity = (float)c, .scale = 1.7f, .dlogit = gradient};
        both[b].balance(&both[b], &a);
        for (int i = -1; i < N; i++) {
            double losses[2];
            for (int up = 0; up < 2; up++) {
                double p = 0;
                for (int j = 0; j < N; j++)
                    p += 1 / (1 + exp(-((double)z[j] + (j == i ? (up ? 1e-5 : -1e-5) : 0)))) / N;
                losses[up] = f * p / c + (1 - f) * (1 - p) / (1 - c);
            }
            if (i < 0)
                assert_float_equal(a.loss, losses[0], 1e-6);
            else
                assert_float_equal(gradient[i], 1.7 * (losses[1] - losses[0]) / 2e-5, 1e-6);
        }
        /* least, 1, where as many choose as should, with that probability */
        float even[10];
        for (int i = 0; i < 10; i++)
            even[i] = (float)log(0.3 / 0.7) + (i < 3 ? 1e-3f : -1e-3f);
        balance_args at = {.n = 10, .logit = even, .threshold = (float)log(0.3 / 0.7), .capacity = 0.3f};
        both[b].balance(&both[b], &at);
        assert_float_equal(at.loss, 1, 1e-3);
    }
}

static void adamw_cases(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu()};
    for (int b = 0; b < 2; b++) {
        enum { N = 1003 };
        static float p[N], g[N], m[N], v[N];
        static double P[N], M[N], V[N];
        for (int i = 0; i < N; i++) {
            P[i] = (double)(p[i] = (float)normal());
            M[i] = V[i] = m[i] = v[i] = 0;
        }
        for (int step = 1; step <= 10; step++) {
            for (int i = 0; i < N; i++) {
                g[i] = (float)normal();
                const double s = 0.5 * (double)g[i];
                M[i] = 0.9 * M[i] + 0.1 * s;
                V[i] = 0.95 * V[i] + 0.05 * s * s;
                P[i] -= 0.01 * (M[i] / (1 - pow(0.9, step)) / (sqrt(V[i] / (1 - pow(0.95, step))) + 1e-8) + 0.1 * P[i]);
            }
            both[b].adamw(&both[b], &(adamw_args){.n = N, .p = p, .g = g, .m = m, .v = v, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f,
                                                  .eps = 1e-8f, .decay = 0.1f, .grad_scale = 0.5f, .step = step});
        }
        for (int i = 0; i < N; i++) {
            assert_float_equal(p[i], P[i], 1e-5);
            assert_true(g[i] == 0);
        }
    }
}

/* NaN in, NaN out; huge logits stay finite; noise is the generator's; sums. */
static void special_values(void **state)
{
    (void)state;
    const kernels both[] = {kernels_ref(), kernels_cpu()};
    for (int b = 0; b < 2; b++) {
        const kernels *kn = &both[b];
        float x[40], w[40], out[40], lse[40], loss_out[2];
        const int32_t start[] = {0, 4}, target[] = {3, 1};
        for (int i = 0; i < 40; i++)
            x[i] = w[i] = 1;
        x[5] = NAN;
        void *scratch = scratch_for(kn, 8, 40, 40);
        kn->norm_forward(kn, &(norm_args){.n = 4, .d = 10, .eps = 1e-5f, .x = x, .weight = w, .out = out});
        assert_true(isnan(out[0]) && !isnan(out[10]));
        kn->swiglu_forward(kn, out, x, 2, 10);
        assert_true(isnan(out[5]) && !isnan(out[15]));
        kn->attention_forward(kn, &(attention_args){.sequences = 1, .heads = 1, .kv_heads = 1, .head_dim = 10, .q_start = start,
                                                    .q = x, .k = x, .v = w, .q_stride = 10, .kv_stride = 10, .kv_head_stride = 10, .scale = 1, .out = out,
                                                    .lse = lse, .scratch = scratch});
        assert_true(isnan(out[30])); /* the last query sees the key that is NaN */
        kn->cross_entropy(kn, loss_out, x, target, 0, 2, 20);
        assert_true(isnan(loss_out[0]) && !isnan(loss_out[1]));
        memcpy(out, x, sizeof out);
        kn->expert_softmax(kn, out, 4, 10); /* of token 5 */
        assert_true(isnan(out[5]) && isnan(out[35]) && out[4] == 0.25f);
        assert_true(isnan(kn->sum_squares(kn, x, 40)) && isnan(kn->sum(kn, x, 40)));
        x[5] = 1e4f;
        x[6] = -1e4f;
        kn->cross_entropy(kn, loss_out, x, target, 1, 2, 20);
        for (int i = 0; i < 40; i++)
            assert_true(isfinite(x[i]));
        assert_float_equal(loss_out[0], 1e4 - 1, 1);
        kn->noise(kn, out, 5, 6, 7, 40);
        for (int i = 0; i < 40; i++)
            assert_true(out[i] == (float)rng_normal(5, 6, 7 + (uint64_t)i));
        kn->mem_free(kn, scratch);
    }
}

static void tables_are_complete(void **state)
{
    (void)state;
    kernels kn = kernels_ref();
    assert_null(kernels_missing(&kn));
    kn = kernels_cpu();
    assert_null(kernels_missing(&kn));
    kn.bce = NULL;
    assert_string_equal(kernels_missing(&kn), "bce");
}

#define SHAPES(name)                \
    static void name##_cases(void **state) \
    {                               \
        (void)state;                \
        for_shapes(name##_case);    \
    }
SHAPES(norm)
SHAPES(swiglu)
SHAPES(bias_silu)
SHAPES(rowdot)
SHAPES(scatter)
SHAPES(cross_entropy)
SHAPES(bce)
SHAPES(embed)
SHAPES(expert)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_cases),    cmocka_unit_test(swiglu_cases),        cmocka_unit_test(bias_silu_cases),
        cmocka_unit_test(rowdot_cases),  cmocka_unit_test(scatter_cases),       cmocka_unit_test(cross_entropy_cases),
        cmocka_unit_test(bce_cases),     cmocka_unit_test(embed_cases),         cmocka_unit_test(attention_cases),
        cmocka_unit_test(paged_attention_cases),
        cmocka_unit_test(gemm_cases),    cmocka_unit_test(rope_cases),          cmocka_unit_test(topk_cases),
        cmocka_unit_test(adamw_cases),   cmocka_unit_test(special_values),      cmocka_unit_test(tables_are_complete),
        cmocka_unit_test(balance_cases), cmocka_unit_test(expert_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
