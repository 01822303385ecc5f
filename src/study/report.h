/* A study's result files: DIR/results.json, DIR/results.csv, DIR/report.html, and plots by gnuplot in DIR/plots. */
#ifndef FATHOM_STUDY_REPORT_H
#define FATHOM_STUDY_REPORT_H

#include "study/summary.h"

/* {"points": [the runs' own objects without their curves], "optima": [...], "optimum": {"vanilla", "mod"} at the largest budget that has
 * both, "comparisons": [...], "laws": {variant: {factor, exponent}}, "scaling": the law of size and tokens or null}; NULL when out of memory. */
json_t *study_report_json(const study_result *results, int64_t count, const study_summary *s);
fathom_status study_report_write(const char *dir, const study_result *results, int64_t count, const study_summary *s, fathom_error *err);

/* SVG and PNG: losses over size with the parabolas and their least, losses over budgets, losses over forward FLOPs per token as a share of
 * the plain optimum's, learning curves, step time over FLOPs of a step. *drawn is false, and DIR/plots holds the scripts, where there is no
 * gnuplot. */
fathom_status study_plots(const char *dir, const study_result *results, int64_t count, const study_summary *s, bool *drawn,
                          fathom_error *err);

/* DIR/report.html, one file with the plots that study_plots has drawn inside. */
fathom_status study_page(const char *dir, const study_result *results, int64_t count, const study_summary *s, fathom_error *err);

#endif
