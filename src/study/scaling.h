/* All runs of a study in one law of size and tokens, after Hoffmann et al. (2022), approach 3, with what a parameter is worth in each kind:
 *
 *     L(N, D) = E + A (w N)^-a + B D^-b
 *
 * by least squares of ln L over all finite runs. N: parameters of the blocks' matrices, D: training tokens, L: causal loss. w is 1 for `plain`
 * and one number for each other variant, whatever its size and budget. A variant whose forward pass takes the share c of the FLOPs of a plain
 * model of its size has, at equal training FLOPs, the losses of a plain model whose budget is w / c times as large, because both size and
 * tokens of the best plain model then grow as if it were. Optima are compared one budget at a time (summary.h); this uses every run. */
#ifndef FATHOM_STUDY_SCALING_H
#define FATHOM_STUDY_SCALING_H

#include "study/fit.h"
#include "study/runs.h"

typedef struct scaling_law {
    double floor;                        /* E, nats */
    double size_factor, size_exponent;   /* A, a: of parameters */
    double token_factor, token_exponent; /* B, b: of tokens */
} scaling_law;
double scaling_loss(const scaling_law *law, double worth, double size, double tokens);
/* The least loss of a plain model for a budget of which each parameter takes `each` FLOPs a token: 6 and a little more. */
double scaling_least(const scaling_law *law, double budget, double each);

typedef struct variant_worth {
    const char *variant; /* borrowed from the results */
    int64_t runs;
    double worth, share, budget; /* w, c and w / c */
    interval worth_range, budget_range;
} variant_worth;

typedef struct study_scaling {
    bool found;
    scaling_law law;
    double deviation; /* of ln L from the law, for the degrees of freedom that are left */
    double budget, percent;   /* the largest that plain has, and how many times as large one must be for 1 % less loss; infinite: none is */
    int64_t runs, count;
    variant_worth *variants; /* [count], without plain */
} study_scaling;

/* results: as study_results leaves them, borrowed for as long as *out lives; study_scaling_free. Not found where there is too little to fit:
 * fewer than six pairs of size and tokens of `plain`, or three sizes, or three numbers of tokens; no other variant of three runs; fewer than five
 * runs more than numbers to fit. Variants of fewer than three runs are left out. */
fathom_status study_scaling_fit(const study_result *results, int64_t count, study_scaling *out, fathom_error *err);
void study_scaling_free(study_scaling *s);

#endif
