/* How fast the shapes of a study train, measured so that they can be compared: the runs' own times were taken hours apart, some with
 * another process beside them. */
#ifndef FATHOM_STUDY_SPEED_H
#define FATHOM_STUDY_SPEED_H

#include "study/runs.h"

enum { STUDY_SPEED_ROUNDS = 7 };

typedef struct study_speed_observer {
    void *user;
    void (*round)(void *user, int64_t done, int64_t rounds);
} study_speed_observer;

/* Times optimizer steps of every variant and width that DIR has a result of, in turn, round by round, and writes the median of a shape's
 * rounds to DIR/speeds.json: {"threads", "dtype", "batch", "seq_len", "rounds", "shapes": [{"variant", "width", "ms_per_step", "tokens_per_s"}]}.
 * All of them at once, because times of different calls do not compare. Measure on a machine that does nothing else. */
fathom_status study_speed(const study_options *o, const study_data *data, const study_speed_observer *observer, const volatile sig_atomic_t *stop,
                          fathom_error *err);

/* Puts the times in DIR/speeds.json in the place of the runs' own; without that file nothing happens. *timed: how many results have one. */
fathom_status study_speed_apply(const char *dir, study_result *results, int64_t count, int64_t *timed, fathom_error *err);

#endif
