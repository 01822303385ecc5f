/* Statistics of a trace: see stats.h. */
#include "inspect/stats.h"

#include <math.h>
#include <stdlib.h>

#define CLASS_NAME(name, text) text,
static const char *const class_names[] = {TOKEN_CLASS_LIST(CLASS_NAME)};
#undef CLASS_NAME

const char *token_class_name(token_class c)
{
    return class_names[c];
}

token_class token_class_of(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char c = (unsigned char)text[i], lower = c | 0x20;
        if (c == ' ' || (c >= '\t' && c <= '\r'))
            continue;
        if (c < 0x20 || c >= 0x7f)
            return TOKEN_OTHER;
        return lower >= 'a' && lower <= 'z' ? TOKEN_LETTER : c >= '0' && c <= '9' ? TOKEN_DIGIT : TOKEN_PUNCTUATION;
    }
    return bytes > 0 ? TOKEN_SPACE : TOKEN_OTHER;
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void count_layer(const trace *t, const trace_layer *from, float *room, layer_stats *to)
{
    static const double at[WEIGHT_QUANTILES] = {0.05, 0.25, 0.5, 0.75, 0.95};
    int64_t n = 0, agreed = 0;
    for (int64_t i = 0; i < t->count; i++) {
        if (from->routed[i])
            room[n++] = from->weight[i];
        agreed += (from->rule[i] > 0) == from->routed[i];
    }
    *to = (layer_stats){.routed_fraction = (double)n / (double)t->count,
                        .rule_accuracy = t->scored ? (double)agreed / (double)t->count : NAN};
    qsort(room, (size_t)n, sizeof *room, ascending);
    for (int q = 0; q < WEIGHT_QUANTILES; q++)
        to->weight[q] = n > 0 ? room[llround(at[q] * (double)(n - 1))] : NAN;
}

/* Phi: the correlation of two yes-or-no columns. */
static double correlation(const trace *t, const trace_layer *a, const trace_layer *b)
{
    int64_t both = 0;
    for (int64_t i = 0; i < t->count; i++)
        both += a->routed[i] & b->routed[i];
    const double n = (double)t->count, p = (double)a->selected / n, q = (double)b->selected / n;
    const double deviation = sqrt(p * (1 - p) * q * (1 - q));
    return deviation > 0 ? ((double)both / n - p * q) / deviation : NAN;
}

static int most_routed_first(const void *a, const void *b)
{
    const token_stats *x = a, *y = b;
    if (x->routed_fraction != y->routed_fraction)
        return x->routed_fraction < y->routed_fraction ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static void count_tokens(const trace *t, const int32_t *tokens, const tokenizer *tok, int64_t vocab, token_stats *id,
                         inspect_stats *s)
{
    const int64_t least = t->count / 2000 > 5 ? t->count / 2000 : 5;
    int64_t routed = 0;
    for (int64_t i = 0; i < t->count; i++) {
        const int64_t depth = trace_depth(t, i);
        size_t bytes = 0;
        const char *text = tokenizer_text(tok, tokens[i], &bytes);
        class_stats *c = &s->classes[token_class_of(text ? text : "", text ? bytes : 0)];
        c->tokens++;
        c->routed += depth;
        id[tokens[i]].count++;
        id[tokens[i]].routed_fraction += (double)depth;
        routed += depth;
    }
    s->routed_fraction = (double)routed / (double)(t->count * t->layers);
    for (int64_t v = 0; v < vocab; v++)
        if (id[v].count >= least)
            id[s->ids++] = (token_stats){(int32_t)v, id[v].count, id[v].routed_fraction / (double)(id[v].count * t->layers)};
    qsort(id, (size_t)s->ids, sizeof *id, most_routed_first);
}

fathom_status inspect_stats_make(const trace *t, const int32_t *tokens, const tokenizer *tok, int64_t vocab, inspect_stats *out,
                                 fathom_error *err)
{
    const size_t n = (size_t)t->layers;
    float *room = malloc((size_t)t->count * sizeof *room);
    *out = (inspect_stats){.layers = t->layers, .layer = calloc(n, sizeof *out->layer),
                           .agreement = calloc(n * n, sizeof *out->agreement), .id = calloc((size_t)vocab, sizeof *out->id)};
    if (!room || !out->layer || !out->agreement || !out->id) {
        free(room);
        inspect_stats_free(out);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    count_tokens(t, tokens, tok, vocab, out->id, out);
    for (int64_t l = 0; l < t->layers; l++) {
        count_layer(t, &t->layer[l], room, &out->layer[l]);
        for (int64_t k = 0; k < t->layers; k++)
            out->agreement[l * t->layers + k] = correlation(t, &t->layer[l], &t->layer[k]);
    }
    free(room);
    return FATHOM_OK;
}

void inspect_stats_free(inspect_stats *s)
{
    free(s->layer);
    free(s->agreement);
    free(s->id);
    *s = (inspect_stats){0};
}
