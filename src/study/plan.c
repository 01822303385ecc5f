/* What a study trains: see plan.h. */
#include "study/plan.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/flops.h"

enum { SMALLEST = 16, LARGEST = 4096 };

static fathom_status unknown(const char *name, const char *word, fathom_error *err)
{
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "variant %s: %s: unknown here: plain, mod, stochastic or choice, then b12 or h16, and for what routes c0.25, "
                       "e1, d3 or m2, a gate or a causal rule, joined by -", name, word);
}

/* The number behind a word's first letter; NaN where there is none. */
static double number_of(const char *word)
{
    char *end;
    const double x = strtod(word + 1, &end);
    return end != word + 1 && !*end ? x : NAN;
}

static bool read_kind(const char *word, variant *v)
{
    const struct {
        const char *name;
        mod_router router;
        mod_gate gate;
        mod_causal causal;
    } kinds[] = {{"plain", MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR},
                 {"mod", MOD_ROUTER_TOPK, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR},
                 {"stochastic", MOD_ROUTER_STOCHASTIC, MOD_GATE_ONE, MOD_CAUSAL_NOISE},
                 {"choice", MOD_ROUTER_TOKEN_CHOICE, MOD_GATE_RAW, MOD_CAUSAL_CHOICE}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(word, kinds[i].name) == 0) {
            v->config.mod.router = kinds[i].router;
            v->config.mod.gate = kinds[i].gate;
            v->config.mod.causal = kinds[i].causal;
            return true;
        }
    return false;
}

static bool read_word(const char *word, variant *v)
{
    const double x = number_of(word);
    const bool count = x >= 1 && x <= MODEL_MAX_LAYERS && x == floor(x);
    if (word[0] == 'b' && count && !v->blocks) {
        v->blocks = (int64_t)x;
        return true;
    }
    if (word[0] == 'h' && x >= 2 && x <= LARGEST && x == floor(x) && !v->head) {
        v->head = (int64_t)x;
        return true;
    }
    if (v->config.mod.router == MOD_ROUTER_NONE)
        return false;
    if (mod_gate_parse(word, &v->config.mod.gate) || mod_causal_parse(word, &v->config.mod.causal))
        return true;
    if (word[0] == 'c' && x > 0 && x <= 1) {
        v->capacity = x;
        return true;
    }
    const bool placed = v->every || v->dense || v->ends;
    if (placed || !count)
        return false;
    if (word[0] == 'e')
        v->every = (int64_t)x;
    else if (word[0] == 'd' && x >= 2)
        v->dense = (int64_t)x;
    else if (word[0] == 'm')
        v->ends = (int64_t)x;
    else
        return false;
    return true;
}

/* Dimensions of a head, and steps between widths. */
static int64_t head_width(const variant *v, int64_t width)
{
    return v->head ? v->head : width < 96 ? 16 : width < 512 ? 32 : 64;
}

fathom_status variant_parse(const char *name, variant *out, fathom_error *err)
{
    char words[VARIANT_NAME], *rest = words;
    *out = (variant){.config = model_config_default(), .capacity = 0.125};
    if (strlen(name) >= sizeof words)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "variant %s: longer than %d letters", name, VARIANT_NAME - 1);
    snprintf(out->name, sizeof out->name, "%s", name);
    snprintf(words, sizeof words, "%s", name);
    const char *word = strsep(&rest, "-");
    if (!read_kind(word, out))
        return unknown(name, word, err);
    while ((word = strsep(&rest, "-")))
        if (!read_word(word, out))
            return unknown(name, word, err);
    if (!out->every && !out->dense && !out->ends)
        out->every = 2;
    model_config shape;
    return study_shape(out, 4 * head_width(out, SMALLEST), 64, 256, &shape, err); /* does what was said go together? */
}

static bool is_routed(const variant *v, int64_t layer, int64_t layers)
{
    if (v->ends)
        return layer >= v->ends && layer < layers - v->ends;
    return v->dense ? layer % v->dense != 0 : (layer + 1) % v->every == 0;
}

fathom_status study_shape(const variant *v, int64_t width, int64_t seq_len, int64_t vocab, model_config *out, fathom_error *err)
{
    model_config c = v->config;
    if (width % head_width(v, width) != 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "width %lld: must be a multiple of %lld there", (long long)width,
                           (long long)head_width(v, width));
    c.vocab = vocab;
    c.seq_len = seq_len;
    c.dim = width;
    c.layers = v->blocks ? v->blocks : 2 * llround(3.5 + (double)width / 256);
    c.heads = c.kv_heads = width / head_width(v, width);
    c.ffn = model_default_ffn(width);
    if (c.layers > MODEL_MAX_LAYERS)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "width %lld: more than %d blocks", (long long)width, MODEL_MAX_LAYERS);
    TRY(model_config_set_head_dim(&c, err));
    if (c.mod.router != MOD_ROUTER_NONE) {
        for (int64_t l = 0; l < c.layers; l++) {
            if (!is_routed(v, l, c.layers))
                continue;
            c.mod.capacity[l] = (float)v->capacity;
            c.mod.threshold[l] = c.mod.router == MOD_ROUTER_STOCHASTIC ? mod_noise_threshold(v->capacity) : 0;
        }
        c.mod.predictor_hidden = c.mod.causal == MOD_CAUSAL_PREDICTOR ? width / 2 : 0;
    }
    TRY(model_config_check(&c, err));
    *out = c;
    return FATHOM_OK;
}

double study_learning_rate(double factor, int64_t width)
{
    return fmin(8e-3, factor / (double)width);
}

int64_t study_size(const model_config *c)
{
    const int64_t d = c->dim, q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    return c->layers * (d * (q + 2 * kv) + q * d + 3 * d * c->ffn);
}

/* The width whose forward FLOPs per token come nearest to `wanted` in their ratio. */
static int64_t nearest_width(const variant *v, double wanted, int64_t seq_len, int64_t vocab)
{
    int64_t best = SMALLEST;
    double distance = INFINITY;
    for (int64_t width = head_width(v, SMALLEST); width <= LARGEST; width += head_width(v, width)) {
        model_config c;
        if (study_shape(v, width, seq_len, vocab, &c, NULL) != FATHOM_OK)
            continue;
        const double head = flops_head(&c, seq_len), forward = (flops_forward(&c, seq_len, true) - head) / (double)seq_len;
        const double away = fabs(log(forward / wanted));
        if (away < distance) {
            distance = away;
            best = width;
        }
    }
    return best;
}

void study_ladder(const variant *v, double budget, int64_t count, int64_t seq_len, int64_t vocab, int64_t *widths)
{
    const double middle = 2 * sqrt(budget / 120);
    for (int64_t i = 0; i < count; i++) {
        widths[i] = nearest_width(v, middle * exp2(2.0 / 3 * ((double)i - (double)(count - 1) / 2)), seq_len, vocab);
        if (i > 0 && widths[i] <= widths[i - 1])
            widths[i] = widths[i - 1] + head_width(v, widths[i - 1]);
    }
}
