/* See pool.h.
 *
 * A caller takes one of SLOTS slots and publishes its job there. `state` packs all that changes while the job runs:
 *
 *     generation (28 bits) | free seats (12) | first untaken tile (12) | end of untaken tiles (12)
 *
 * One compare-and-swap takes a seat or a tile. It fails if the job ended meanwhile, because the generation changed. A thread
 * reads the other fields of the job only while it holds a tile: the caller cannot return before that tile is done.
 *
 * The caller takes tiles from the front, workers from the back. So with two threads each one meets the same rows in one
 * operation after another, and finds them in its own cache. */
#include "base/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>

#include "base/timing.h"

enum {
    SLOTS = 64,
    FIELD_BITS = 12,
    FIELD = (1 << FIELD_BITS) - 1, /* the most tiles of a round, and the most seats */
    STACK_BYTES = 1 << 20,
};

/* How long a thread spins before it sleeps. Where other programs want the processors: longer than what lies between two operations
 * of a step, and much shorter than the milliseconds for which such a machine takes a processor away. Elsewhere: longer than a tile
 * takes, because to wake a processor that has gone idle takes 50 us and more, above all in a virtual machine. */
static const double short_spin = 20e-6, long_spin = 1e-3;

typedef struct slot {
    _Atomic uint64_t state;
    _Atomic int64_t done; /* tiles that are finished */
    atomic_bool taken, caller_sleeps;
    pool_tile *run;
    void *context;
    int64_t first; /* tile 0 of this round */
    int threads;
    pthread_cond_t finished;
    char apart[64]; /* slots do not share a cache line */
} slot;

static struct {
    _Atomic uint64_t open; /* bit s: slot s has a job */
    atomic_int sleepers, workers, wanted;
    atomic_bool contended; /* do other programs want the processors? */
    _Atomic double looked; /* when this was last found out, and how often threads had been pushed off their processors by then */
    _Atomic long pushed;
    pthread_mutex_t lock; /* sleeping and waking, and starting workers */
    pthread_cond_t work;
    slot slots[SLOTS];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER};

static uint64_t pack(uint64_t generation, int64_t seats, int64_t begin, int64_t end)
{
    return generation << 3 * FIELD_BITS | (uint64_t)seats << 2 * FIELD_BITS | (uint64_t)begin << FIELD_BITS | (uint64_t)end;
}

static uint64_t generation_of(uint64_t state)
{
    return state >> 3 * FIELD_BITS;
}

static int seats_of(uint64_t state)
{
    return (int)(state >> 2 * FIELD_BITS & FIELD);
}

static int64_t begin_of(uint64_t state)
{
    return (int64_t)(state >> FIELD_BITS & FIELD);
}

static int64_t end_of(uint64_t state)
{
    return (int64_t)(state & FIELD);
}

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* On an idle machine a thread is pushed off its processor some 20 times a second, beside other work 200 times and more. */
static bool is_contended(double now)
{
    enum { PUSHED_PER_SECOND = 100 };
    static const double stretch = 0.05; /* seconds */
    double before = atomic_load(&pool.looked);
    if (now - before < stretch || !atomic_compare_exchange_strong(&pool.looked, &before, now))
        return atomic_load(&pool.contended);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const long pushed = usage.ru_nivcsw - atomic_exchange(&pool.pushed, usage.ru_nivcsw);
    atomic_store(&pool.contended, (double)pushed > PUSHED_PER_SECOND * (now - before) * (atomic_load(&pool.workers) + 1));
    return atomic_load(&pool.contended);
}

/* Spins until the time is over; false then. The clock is read now and then, for reading it takes longer than a pause. */
typedef struct spin {
    double began;
    int turns;
} spin;

static bool spin_on(spin *s)
{
    enum { TURNS = 32 };
    pause_briefly();
    if (++s->turns % TURNS != 0)
        return true;
    const double now = timing_now();
    if (s->turns == TURNS)
        s->began = now;
    const double spun = now - s->began;
    return spun < short_spin || (spun < long_spin && !is_contended(now));
}

static void compute(slot *s, int64_t tile, int seat)
{
    s->run(s->context, s->first + tile, seat);
}

/* --- workers --- */

static void report_done(slot *s)
{
    atomic_fetch_add(&s->done, 1);
    if (!atomic_load(&s->caller_sleeps))
        return;
    pthread_mutex_lock(&pool.lock);
    pthread_cond_signal(&s->finished);
    pthread_mutex_unlock(&pool.lock);
}

/* Takes a seat of the slot's job and computes tiles until none is left; false if there was no seat or no tile. */
static bool take_part(slot *s)
{
    uint64_t state = atomic_load_explicit(&s->state, memory_order_acquire);
    int seat = -1;
    uint64_t generation = 0;
    for (;;) {
        const int64_t begin = begin_of(state), end = end_of(state);
        const int seats = seats_of(state) - (seat < 0);
        if (begin == end || seats < 0 || (seat >= 0 && generation_of(state) != generation))
            return seat >= 0;
        if (!atomic_compare_exchange_weak_explicit(&s->state, &state, pack(generation_of(state), seats, begin, end - 1),
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        if (seat < 0) {
            seat = s->threads - 1 - seats;
            generation = generation_of(state);
        }
        compute(s, end - 1, seat);
        report_done(s);
        state = atomic_load_explicit(&s->state, memory_order_acquire);
    }
}

static bool help_anyone(void)
{
    bool helped = false;
    for (uint64_t open = atomic_load(&pool.open); open; open &= open - 1)
        helped |= take_part(&pool.slots[__builtin_ctzll(open)]);
    return helped;
}

static bool is_anything_left(void)
{
    for (uint64_t open = atomic_load(&pool.open); open; open &= open - 1) {
        const uint64_t state = atomic_load(&pool.slots[__builtin_ctzll(open)].state);
        if (begin_of(state) != end_of(state) && seats_of(state) > 0)
            return true;
    }
    return false;
}

static void *worker_loop(void *unused)
{
    (void)unused;
    for (spin s = {0};;) {
        if (help_anyone())
            s = (spin){0};
        else if (!spin_on(&s)) {
            pthread_mutex_lock(&pool.lock);
            atomic_fetch_add(&pool.sleepers, 1);
            while (!is_anything_left())
                pthread_cond_wait(&pool.work, &pool.lock);
            atomic_fetch_sub(&pool.sleepers, 1);
            pthread_mutex_unlock(&pool.lock);
            s = (spin){0};
        }
    }
    return NULL;
}

/* In the child of a fork only the calling thread lives: what the others held or counted is void. */
static void after_fork(void)
{
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    atomic_store(&pool.open, 0);
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.workers, 0);
    atomic_store(&pool.wanted, 0);
    for (int i = 0; i < SLOTS; i++) {
        pthread_cond_init(&pool.slots[i].finished, NULL);
        atomic_store(&pool.slots[i].taken, false);
    }
}

static void watch_fork(void)
{
    pthread_atfork(NULL, NULL, after_fork);
}

/* Signals are for the program's own threads. */
static bool start_worker(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    sigfillset(&all);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const bool started = pthread_create(&thread, &attributes, worker_loop, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return started;
}

/* As many as all present callers want together, but one caller's wish or the processors at most. */
static void start_workers(int wanted, int helpers)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static atomic_int processors;
    pthread_once(&once, watch_fork);
    if (atomic_load(&processors) == 0)
        atomic_store(&processors, threads_allowed());
    const int most = helpers > atomic_load(&processors) - 1 ? helpers : atomic_load(&processors) - 1;
    const int count = wanted < most ? wanted : most;
    if (atomic_load(&pool.workers) >= count)
        return;
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&pool.workers) < count && start_worker())
        atomic_fetch_add(&pool.workers, 1);
    pthread_mutex_unlock(&pool.lock);
}

/* --- callers --- */

static slot *take_slot(void)
{
    for (int i = 0; i < SLOTS; i++) {
        bool taken = false;
        if (!atomic_load_explicit(&pool.slots[i].taken, memory_order_relaxed) &&
            atomic_compare_exchange_strong(&pool.slots[i].taken, &taken, true))
            return &pool.slots[i];
    }
    return NULL;
}

static void wake(int64_t count)
{
    const int sleepers = atomic_load(&pool.sleepers);
    if (sleepers == 0)
        return;
    pthread_mutex_lock(&pool.lock);
    if (count >= sleepers)
        pthread_cond_broadcast(&pool.work);
    else
        for (int64_t i = 0; i < count; i++)
            pthread_cond_signal(&pool.work);
    pthread_mutex_unlock(&pool.lock);
}

static void wait_for(slot *s, int64_t tiles)
{
    for (spin p = {0}; atomic_load(&s->done) < tiles;) {
        if (spin_on(&p))
            continue;
        pthread_mutex_lock(&pool.lock);
        atomic_store(&s->caller_sleeps, true);
        while (atomic_load(&s->done) < tiles)
            pthread_cond_wait(&s->finished, &pool.lock);
        atomic_store(&s->caller_sleeps, false);
        pthread_mutex_unlock(&pool.lock);
    }
}

/* FIELD tiles at most. */
static void run_round(slot *s, int threads, int64_t first, int64_t tiles, pool_tile *run, void *context)
{
    s->run = run;
    s->context = context;
    s->first = first;
    s->threads = threads;
    atomic_store_explicit(&s->done, 0, memory_order_relaxed);
    uint64_t state = atomic_load_explicit(&s->state, memory_order_relaxed);
    const uint64_t bit = (uint64_t)1 << (s - pool.slots);
    atomic_store(&s->state, pack(generation_of(state) + 1, threads - 1, 0, tiles));
    atomic_fetch_or(&pool.open, bit);
    wake(tiles - 1 < threads - 1 ? tiles - 1 : threads - 1);
    state = atomic_load_explicit(&s->state, memory_order_acquire);
    for (;;) {
        const int64_t begin = begin_of(state);
        if (begin == end_of(state))
            break;
        if (!atomic_compare_exchange_weak_explicit(&s->state, &state, state + ((uint64_t)1 << FIELD_BITS), memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        compute(s, begin, 0);
        atomic_fetch_add(&s->done, 1);
        state = atomic_load_explicit(&s->state, memory_order_acquire);
    }
    atomic_fetch_and(&pool.open, ~bit);
    wait_for(s, tiles);
}

void pool_run(int threads, int64_t tiles, pool_tile *run, void *context)
{
    const int used = threads > THREADS_MOST ? THREADS_MOST : threads;
    slot *s = used > 1 && tiles > 1 ? take_slot() : NULL;
    if (!s) {
        for (int64_t i = 0; i < tiles; i++)
            run(context, i, 0);
        return;
    }
    start_workers(atomic_fetch_add(&pool.wanted, used - 1) + used - 1, used - 1);
    for (int64_t first = 0; first < tiles; first += FIELD)
        run_round(s, used, first, tiles - first < FIELD ? tiles - first : FIELD, run, context);
    atomic_fetch_sub(&pool.wanted, used - 1);
    atomic_store(&s->taken, false);
}
