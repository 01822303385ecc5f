/* What an isoFLOP study trains: kinds of model by name, a ladder of sizes, the learning rate of each, and the runs that follow. */
#ifndef FATHOM_STUDY_PLAN_H
#define FATHOM_STUDY_PLAN_H

#include "model/config.h"

/* A kind of model, by a name of words joined by "-":
 *     plain | mod | stochastic | choice          what routes: nothing, top-k, noise, each token by itself
 *     b12                                        12 blocks, whatever the width
 *     h16                                        heads of 16 dimensions, whatever the width
 *     c0.25                                      capacity (0.125)
 *     e1                                         every block is routed (e2: every other, from block 1 on)
 *     d3                                         every third block, from block 0 on, is dense and all others are routed
 *     m2                                         the first two and the last two blocks are dense and all between are routed
 *     raw | sigmoid | one                        gate
 *     aux | predictor                            causal rule
 * as in mod-c0.25-e1. The name is the variant's in every result. */
enum { VARIANT_NAME = 64 };
typedef struct variant {
    char name[VARIANT_NAME];
    model_config config; /* the default shape with its routing, which study_shape lays over every size */
    double capacity;
    int64_t every, dense, ends; /* all but one are 0 */
    int64_t blocks, head;       /* 0: by the width */
} variant;
fathom_status variant_parse(const char *name, variant *out, fathom_error *err);

/* The shape of a width: 2 round(3.5 + d / 256) blocks, heads of 16 below a width of 96, of 32 below 512 and of 64 above, or what the variant says; the MLP by default
 * (model_default_ffn). A width that is no multiple of its heads' is refused. */
fathom_status study_shape(const variant *v, int64_t width, int64_t seq_len, int64_t vocab, model_config *out, fathom_error *err);

/* Peak learning rate of a width, for every kind alike: factor / d, at most 8e-3. */
#define STUDY_RATE_FACTOR 0.25
double study_learning_rate(double factor, int64_t width);

/* Parameters of the blocks' matrices, without what routes (a few per cent): what a budget is spent on, and what the fits call size. */
int64_t study_size(const model_config *c);

/* Widths of a ladder of `count` sizes for a training budget: those whose forward FLOPs per token come nearest to
 * 2 sqrt(budget / 120) x 1.59^(i - (count - 1) / 2), which for a plain model is Chinchilla's 20 tokens a parameter in the middle (Hoffmann
 * et al., 2022); whole heads, ascending, where widths are scarce the next one. */
void study_ladder(const variant *v, double budget, int64_t count, int64_t seq_len, int64_t vocab, int64_t *widths);

#endif
