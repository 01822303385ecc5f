/* What a study's finished runs say: an optimum for each variant and budget, laws over budgets, and the paper's question in its own
 * words: at equal training FLOPs, how do the best plain and the best routed model compare, and what does a routed model with the plain
 * optimum's loss cost? */
#ifndef FATHOM_STUDY_SUMMARY_H
#define FATHOM_STUDY_SUMMARY_H

#include "study/scaling.h"

enum { STUDY_ROUNDS = 1000 }; /* of the bootstrap; intervals are its middle 95 % */

/* "[low, high]", both times `scale`, or "[no interval]"; `digits` behind the point, or of all where significant. Returns text. */
enum { INTERVAL_TEXT = 64 };
const char *interval_text(interval r, double scale, int digits, bool significant, char text[INTERVAL_TEXT]);

/* Least of the parabola through (ln size, loss) of a variant at one budget. */
typedef struct optimum {
    double size, loss;       /* parameters outside embedding and head; nats */
    interval size_range, loss_range;
    double forward_flops;    /* per token at that size, between the sizes that were trained along a line in the logarithms */
    double tokens_per_s;     /* likewise, in training */
    bool found;              /* there is a parabola that opens upwards */
    bool inside;             /* its least lies between the sizes that were trained */
} optimum;

/* A variant at one budget. */
typedef struct study_curve {
    const study_result *points; /* [count] by size; several seeds a size */
    int64_t count, sizes; /* runs; different sizes among those that have a loss */
    optimum trained, causal; /* of the loss as trained, and routed causally */
    double least;         /* ln of the smallest size with a causal loss */
    parabola fit_trained, fit_causal, *samples_causal; /* [STUDY_ROUNDS] where found */
} study_curve;
/* Why a curve's optimum is not known, in words: there is none, or not inside. */
const char *optimum_missing(const study_curve *c, const optimum *o);

/* A variant beside the best plain one (plain, plain-b6, ...) of its budget, where both optima lie inside the sizes that were trained. What compares losses uses the causal one, which is what
 * the model is worth when sampling. */
typedef struct comparison {
    const study_curve *plain, *other;
    double difference; /* (other - plain) / plain of the optima's causal losses */
    interval difference_range;
    /* The smallest model of the variant with the plain optimum's loss. reaches: its parabola comes down to that loss; matches: at a size
     * that is not below all that were trained, so that what follows is known. */
    bool reaches, matches;
    double match_size, match_flops_ratio, match_speed_ratio; /* forward FLOPs per token and training tokens/s over the plain optimum's */
    interval match_flops_range, match_speed_range;
} comparison;

typedef struct study_summary {
    study_curve *curves;
    comparison *comparisons;
    int64_t curve_count, comparison_count;
    study_scaling scaling; /* of all budgets together */
} study_summary;

/* results: sorted as study_results leaves them, borrowed for as long as *out lives; study_summary_free. */
fathom_status study_summarize(const study_result *results, int64_t count, study_summary *out, fathom_error *err);

/* Of a kind ("plain", "mod") the variant whose optimum, inside the sizes that were trained, has the lowest causal loss at a budget; NULL: none has one. */
const study_curve *study_best(const study_summary *s, const char *kind, double budget);
void study_summary_free(study_summary *s);

/* loss = factor x budget^exponent through a variant's optima over budgets that have one inside; false below two. */
bool study_law(const study_summary *s, const char *variant, power_law *out);

#endif
