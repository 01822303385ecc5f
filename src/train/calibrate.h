/* Finding the thresholds of causal routing for several compute budgets, from the causal rule's logits on text. */
#ifndef FATHOM_TRAIN_CALIBRATE_H
#define FATHOM_TRAIN_CALIBRATE_H

#include "model/model.h"
#include "text/corpus.h"

typedef struct calibration_point {
    double budget, routed_fraction, loss; /* measured causally on other windows than it was fitted on, unless the text has only one */
} calibration_point;

typedef struct calibrate_input {
    const corpus_part *text;
    int64_t tokens;        /* to fit on, and to measure on; spread evenly over the text */
    int64_t batch;         /* sequences at a time */
    const double *budgets; /* ascending, in (0, 1) */
    int64_t count;         /* 1 to MODEL_MAX_BUDGETS */
} calibrate_input;

/* Puts the budgets and their thresholds into m's configuration (in memory only) and what they give into points [count]. A
 * layer sees what earlier layers let through, so thresholds are found again until they describe the stream that they make. */
fathom_status calibrate(model *m, const calibrate_input *in, calibration_point *points, fathom_error *err);

#endif
