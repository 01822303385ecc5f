/* Counters and histograms in Prometheus' text format. They belong to the HTTP thread: what the engine's thread has to say comes by its
 * statistics and by the times in its events. */
#ifndef FATHOM_SERVE_METRICS_H
#define FATHOM_SERVE_METRICS_H

#include "serve/worker.h"

enum { METRICS_BUCKETS = 16, METRICS_ROUTES = 16 };

typedef struct histogram {
    double bounds[METRICS_BUCKETS]; /* seconds, ascending; what is above the last counts in `count` alone */
    int64_t counts[METRICS_BUCKETS], count;
    double sum;
} histogram;

/* X(status): those that a request may end with; 499: the client went away. */
#define METRICS_STATUSES(X) X(200) X(400) X(401) X(404) X(405) X(413) X(415) X(429) X(499) X(500) X(503) X(504)
#define METRICS_COUNT(status) +1
enum { METRICS_STATUS_COUNT = 0 METRICS_STATUSES(METRICS_COUNT) };

typedef struct metrics {
    double started; /* seconds since 1970 */
    int64_t requests[METRICS_ROUTES][METRICS_STATUS_COUNT];
    histogram first_token, between_tokens, duration;
} metrics;

metrics metrics_begin(void);
void metrics_request(metrics *m, size_t route, int status, double seconds);
void histogram_add(histogram *h, double seconds);

/* What stands beside the counters at the moment of asking. */
typedef struct metrics_moment {
    const char *const *routes; /* [route_count] their names */
    size_t route_count;
    worker_stats stats;
    int64_t sequences;   /* unfinished, those that the engine has not seen yet too */
    int64_t connections;
    int64_t dropped_lines; /* of the log */
} metrics_moment;
/* malloc'd; NULL when out of memory. */
char *metrics_text(const metrics *m, const metrics_moment *now);

#endif
