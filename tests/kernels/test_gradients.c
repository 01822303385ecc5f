/* Operations of both backends that have a gradient: forward against a double-precision reference written here, backward against central
 * differences of that reference, relative error at most 1e-3 (of the larger of the difference and the gradient's rms). */
#include "kernels/buffers.h"

enum { INPUTS = 4 };

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
    const kernels both[] = {kernels_ref(), kernels_cpu(0)};
    for (int b = 0; b < 2; b++) {
        draws = 0;
        for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
            fn(&both[b], edges[i][0], edges[i][1]);
        for (int i = 0; i < 6; i++)
            fn(&both[b], pick(1, 70), pick(1, 140));
    }
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
    const kernels both[] = {kernels_ref(), kernels_cpu(0)};
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
    const kernels both[] = {kernels_ref(), kernels_cpu(0)};
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
        cmocka_unit_test(paged_attention_cases), cmocka_unit_test(expert_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
