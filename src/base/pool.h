/* The thread pool: one for the process, shared by every caller.
 *
 * An operation is cut into tiles. How many depends on its sizes alone, and a tile's result depends on its inputs alone, so
 * results are the same bits for any number of threads. The calling thread computes tiles too; workers take what is left, one
 * tile at a time. A thread that loses its processor delays the tile it holds and nothing else.
 *
 * Waiting spins for some microseconds, then sleeps. Workers are started when they are first needed and live until the process
 * ends. A child made by fork() starts its own. When no worker can be started the caller computes every tile itself. */
#ifndef FATHOM_BASE_POOL_H
#define FATHOM_BASE_POOL_H

#include <stdint.h>

/* The most threads that one call may use. */
enum { THREADS_MOST = 4095 };

/* Computes tile `tile`. seat, 0 to threads - 1, is no other running tile's of this call: it picks scratch memory. */
typedef void pool_tile(void *context, int64_t tile, int seat);

/* Computes the tiles 0 to tiles - 1 on up to `threads` threads, the caller among them, and returns when all are done. What the
 * tiles wrote is then visible to the caller. Any thread may call it, and a tile may call it again. */
void pool_run(int threads, int64_t tiles, pool_tile *run, void *context);

/* How many threads to use: `wanted`, or where that is 0 OMP_NUM_THREADS, or where that is not set threads_allowed. */
int threads_choose(int wanted);
/* As many as the affinity mask and the container's quota (cgroup version 1 or 2) allow, a quota of 1.5 processors being 2. At
 * least 1. */
int threads_allowed(void);
/* The quota in processors, 0 when there is none. root: where control groups are mounted; groups: the file that names the
 * process's own, /proc/self/cgroup. */
double threads_quota(const char *root, const char *groups);

#endif
