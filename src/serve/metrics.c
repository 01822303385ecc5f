/* Prometheus' text format: see metrics.h. */
#include "serve/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define STATUS_ROW(status) status,
static const int statuses[] = {METRICS_STATUSES(STATUS_ROW)};

metrics metrics_begin(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (metrics){
        .started = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec,
        .first_token = {.bounds = {.005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 10, 30, 60}},
        .between_tokens = {.bounds = {.0005, .001, .0025, .005, .01, .015, .025, .05, .075, .1, .2, .4, .75, 1, 2.5, 5}},
        .duration = {.bounds = {.001, .005, .025, .1, .3, .5, .8, 1, 2.5, 5, 10, 20, 40, 60, 120, 600}},
    };
}

void histogram_add(histogram *h, double seconds)
{
    h->count++;
    h->sum += seconds;
    for (int i = 0; i < METRICS_BUCKETS; i++)
        if (seconds <= h->bounds[i]) {
            h->counts[i]++;
            return;
        }
}

void metrics_request(metrics *m, size_t route, int status, double seconds)
{
    size_t column = 0;
    while (column < METRICS_STATUS_COUNT - 1 && statuses[column] != status)
        column++;
    m->requests[route][column]++;
    histogram_add(&m->duration, seconds);
}

static void head(FILE *to, const char *name, const char *type, const char *help)
{
    fprintf(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(FILE *to, const char *name, const char *type, const char *help, double number)
{
    head(to, name, type, help);
    fprintf(to, "%s %.15g\n", name, number);
}

static void put_histogram(FILE *to, const char *name, const char *help, const histogram *h)
{
    int64_t below = 0;
    head(to, name, "histogram", help);
    for (int i = 0; i < METRICS_BUCKETS; i++) {
        below += h->counts[i];
        fprintf(to, "%s_bucket{le=\"%g\"} %lld\n", name, h->bounds[i], (long long)below);
    }
    fprintf(to, "%s_bucket{le=\"+Inf\"} %lld\n%s_sum %.9g\n%s_count %lld\n", name, (long long)h->count, name, h->sum, name,
            (long long)h->count);
}

static void put_requests(FILE *to, const metrics *m, const metrics_moment *now)
{
    head(to, "fathom_requests_total", "counter", "Requests answered, by route and status; 499: the client went away.");
    for (size_t r = 0; r < now->route_count; r++)
        for (size_t s = 0; s < METRICS_STATUS_COUNT; s++)
            if (m->requests[r][s])
                fprintf(to, "fathom_requests_total{route=\"%s\",status=\"%d\"} %lld\n", now->routes[r], statuses[s],
                        (long long)m->requests[r][s]);
}

static void put_engine(FILE *to, const metrics_moment *now)
{
    const fathom_engine_stats *e = &now->stats.engine;
    const int64_t waiting = now->sequences - e->active;
    value(to, "fathom_sequences_waiting", "gauge", "Sequences that wait for a place.", (double)(waiting > 0 ? waiting : 0));
    value(to, "fathom_sequences_active", "gauge", "Sequences computed side by side.", (double)e->active);
    value(to, "fathom_sequences_unfinished", "gauge", "Both together.", (double)now->sequences);
    value(to, "fathom_prompt_tokens_total", "counter", "Tokens of prompts.", (double)e->prompt_tokens);
    value(to, "fathom_cached_tokens_total", "counter", "Of these, shared with other sequences and not computed.", (double)e->cached_tokens);
    value(to, "fathom_generated_tokens_total", "counter", "Tokens generated.", (double)e->generated_tokens);
    value(to, "fathom_preempted_total", "counter", "Times that a sequence gave up its pages, to be computed again.", (double)e->preempted);
    value(to, "fathom_kv_pages", "gauge", "Pages for keys and values.", (double)e->pages);
    value(to, "fathom_kv_pages_used", "gauge", "Pages that active sequences hold.", (double)e->pages_used);
    value(to, "fathom_kv_pages_kept", "gauge", "Pages kept for prompts that begin alike.", (double)e->pages_kept);
    value(to, "fathom_engine_steps_total", "counter", "Rounds of the engine.", (double)now->stats.steps);
    value(to, "fathom_engine_step_seconds_total", "counter", "Time inside them.", now->stats.step_seconds);
    if (e->stages == 0)
        return;
    head(to, "fathom_routed_fraction", "gauge", "Share of the tokens since the start that went through a routed stage.");
    for (int64_t i = 0; i < e->stages; i++)
        fprintf(to, "fathom_routed_fraction{stage=\"%lld\"} %.9g\n", (long long)i,
                e->routable > 0 ? (double)now->stats.routed[i] / (double)e->routable : 0.0);
}

static double resident_bytes(void)
{
    long pages = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm && fscanf(statm, "%ld %ld", &pages, &resident) != 2)
        resident = 0;
    if (statm)
        fclose(statm);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

char *metrics_text(const metrics *m, const metrics_moment *now)
{
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    put_requests(to, m, now);
    put_engine(to, now);
    value(to, "fathom_log_dropped_lines_total", "counter", "Lines of the log that were dropped.", (double)now->dropped_lines);
    value(to, "fathom_connections", "gauge", "Connections that are open.", (double)now->connections);
    put_histogram(to, "fathom_time_to_first_token_seconds", "From the request's end to the first token of a choice.", &m->first_token);
    put_histogram(to, "fathom_inter_token_latency_seconds", "Between two tokens of a choice.", &m->between_tokens);
    put_histogram(to, "fathom_request_duration_seconds", "From the request's first line to the end of its answer.", &m->duration);
    value(to, "process_start_time_seconds", "gauge", "When the server started, seconds since 1970.", m->started);
    value(to, "process_resident_memory_bytes", "gauge", "Memory that the process holds.", resident_bytes());
    if (fclose(to) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
