/* See log_writer.h. */
#include "serve/log_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE_LINES = 4096, QUEUE_BYTES = 8 << 20 };

struct log_writer {
    const char *path; /* NULL: of a descriptor that was given */
    log_writer *faults;
    int fd;
    bool regular; /* a file that can be cut */
    bool complained; /* the fault that lasts was told */
    pthread_mutex_t lock; /* all below */
    pthread_cond_t work, idle;
    char *lines[QUEUE_LINES]; /* a ring */
    size_t first, count, bytes;
    int64_t dropped, told; /* told: of them the log knows */
    bool reopen, closing;
    bool finished, gone; /* the thread has ended; log_writer_close has: the later of the two frees */
};

static int open_file(const char *path)
{
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
}

static void use_file(log_writer *w, int fd)
{
    struct stat s;
    w->fd = fd;
    w->regular = fstat(fd, &s) == 0 && S_ISREG(s.st_mode);
}

/* Once for a fault that lasts. */
static void complain(log_writer *w, const char *what, int why)
{
    char *line = NULL;
    if (!w->complained && w->faults && asprintf(&line, "fathom: --log: %s: cannot %s: %s", w->path, what, strerror(why)) >= 0) {
        pthread_mutex_lock(&w->lock);
        if (!w->gone) /* else faults may be gone, too */
            log_writer_add(w->faults, line);
        pthread_mutex_unlock(&w->lock);
        free(line);
    }
    w->complained = true;
}

/* Writes all of it, or nothing where the file can be cut. */
static bool write_whole(log_writer *w, const char *line, size_t length)
{
    size_t at = 0;
    while (at < length) {
        const ssize_t n = write(w->fd, line + at, length - at);
        if (n > 0) {
            at += (size_t)n;
        } else if (n < 0 && errno != EINTR) {
            const int why = errno;
            const off_t end = lseek(w->fd, 0, SEEK_END);
            if (at > 0 && w->regular && end >= (off_t)at)
                (void)!ftruncate(w->fd, end - (off_t)at);
            complain(w, "write, lines are dropped", why);
            return false;
        }
    }
    w->complained = false;
    return true;
}

static void use_new_file(log_writer *w)
{
    const int fd = w->path ? open_file(w->path) : -1;
    if (fd >= 0) {
        close(w->fd);
        use_file(w, fd);
    } else if (w->path) {
        complain(w, "open again", errno);
    }
}

/* The line, behind a note of the lines that are missing before it. */
static void write_line(log_writer *w, const char *line)
{
    pthread_mutex_lock(&w->lock);
    const int64_t missing = w->dropped - w->told;
    const bool reopen = w->reopen;
    w->reopen = false;
    pthread_mutex_unlock(&w->lock);
    if (reopen)
        use_new_file(w);
    char note[64] = "", *text = NULL;
    if (missing > 0)
        snprintf(note, sizeof note, "{\"dropped_lines\":%lld}\n", (long long)missing);
    const int length = asprintf(&text, "%s%s\n", note, line);
    const bool written = length >= 0 && write_whole(w, text, (size_t)length);
    if (length >= 0)
        free(text);
    pthread_mutex_lock(&w->lock);
    if (written)
        w->told += missing;
    else
        w->dropped++;
    pthread_mutex_unlock(&w->lock);
}

static void release(log_writer *w)
{
    for (size_t i = 0; i < w->count; i++)
        free(w->lines[(w->first + i) % QUEUE_LINES]);
    close(w->fd);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->work);
    pthread_cond_destroy(&w->idle);
    free(w);
}

static void *write_lines(void *context)
{
    log_writer *w = context;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (w->count == 0 && !w->closing)
            pthread_cond_wait(&w->work, &w->lock);
        if (w->count == 0 || w->gone)
            break;
        char *line = w->lines[w->first];
        w->first = (w->first + 1) % QUEUE_LINES;
        w->count--;
        w->bytes -= strlen(line);
        pthread_mutex_unlock(&w->lock);
        write_line(w, line);
        free(line);
        pthread_mutex_lock(&w->lock);
    }
    w->finished = true;
    const bool last = w->gone;
    pthread_cond_signal(&w->idle);
    pthread_mutex_unlock(&w->lock);
    if (last)
        release(w);
    return NULL;
}

/* Takes the descriptor, which is below 0 where it could not be had. */
static fathom_status start(const char *path, int fd, log_writer *faults, log_writer **out, fathom_error *err)
{
    if (fd < 0)
        return status_fail(err, FATHOM_IO, "--log: %s: cannot open: %s", path, strerror(errno));
    log_writer *w = calloc(1, sizeof *w);
    pthread_t thread;
    if (!w) {
        close(fd);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    w->path = path;
    w->faults = faults;
    use_file(w, fd);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    pthread_cond_init(&w->idle, NULL);
    if (pthread_create(&thread, NULL, write_lines, w) != 0) {
        release(w);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "cannot start the log's thread");
    }
    pthread_detach(thread);
    *out = w;
    return FATHOM_OK;
}

fathom_status log_writer_on(int descriptor, log_writer **out, fathom_error *err)
{
    const int fd = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    return fd < 0 ? status_fail(err, FATHOM_IO, "the log's descriptor: %s", strerror(errno)) : start(NULL, fd, NULL, out, err);
}

fathom_status log_writer_open(const char *path, log_writer *faults, log_writer **out, fathom_error *err)
{
    return start(path, open_file(path), faults, out, err);
}

void log_writer_add(log_writer *w, const char *line)
{
    if (!w)
        return;
    const size_t length = strlen(line);
    char *copy = malloc(length + 1);
    if (copy)
        memcpy(copy, line, length + 1);
    pthread_mutex_lock(&w->lock);
    if (copy && w->count < QUEUE_LINES && w->bytes + length <= QUEUE_BYTES) {
        w->lines[(w->first + w->count++) % QUEUE_LINES] = copy;
        w->bytes += length;
        pthread_cond_signal(&w->work);
        copy = NULL;
    } else {
        w->dropped++;
    }
    pthread_mutex_unlock(&w->lock);
    free(copy);
}

void log_writer_reopen(log_writer *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->reopen = true;
    pthread_mutex_unlock(&w->lock);
}

int64_t log_writer_dropped(log_writer *w)
{
    if (!w)
        return 0;
    pthread_mutex_lock(&w->lock);
    const int64_t dropped = w->dropped;
    pthread_mutex_unlock(&w->lock);
    return dropped;
}

void log_writer_close(log_writer *w, double seconds)
{
    if (!w)
        return;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    const double end = (double)until.tv_sec + (double)until.tv_nsec * 1e-9 + seconds;
    until.tv_sec = (time_t)end;
    until.tv_nsec = (long)((end - (double)until.tv_sec) * 1e9);
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_signal(&w->work);
    while (!w->finished && pthread_cond_timedwait(&w->idle, &w->lock, &until) == 0)
        continue;
    const bool last = w->finished;
    w->gone = true;
    pthread_mutex_unlock(&w->lock);
    if (last)
        release(w);
}
