/* What the commands share: errors, JSON, the progress line. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/timing.h"
#include "cli/cli.h"
#include "kernels/kernels.h"

int cli_fail(const fathom_error *err)
{
    fprintf(stderr, "fathom: %s\n", err->message);
    return EXIT_FAILED;
}

int cli_usage(const fathom_error *err)
{
    fprintf(stderr, "fathom: %s\n", err->message);
    return err->code == FATHOM_INVALID_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
}

int cli_print_json(json_t *object)
{
    const bool failed = !object || json_dumpf(object, stdout, JSON_REAL_PRECISION(12)) != 0 || putchar('\n') == EOF ||
                        fflush(stdout) != 0;
    json_decref(object);
    if (failed)
        fputs("fathom: stdout: cannot write\n", stderr);
    return failed ? EXIT_FAILED : EXIT_OK;
}

json_t *cli_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *cli_text(const char *text, size_t length)
{
    json_t *whole = json_stringn(text ? text : "", length);
    if (whole)
        return whole;
    char *clean = malloc(3 * length + 1);
    size_t n = 0;
    for (size_t i = 0; clean && i < length;) {
        size_t take = length - i < 4 ? length - i : 4;
        json_t *probe = NULL;
        for (; take > 0 && !(probe = json_stringn(text + i, take)); take--)
            ;
        json_decref(probe);
        memcpy(clean + n, take ? text + i : "\xEF\xBF\xBD", take ? take : 3);
        n += take ? take : 3;
        i += take ? take : 1;
    }
    json_t *result = clean ? json_stringn(clean, n) : NULL;
    free(clean);
    return result;
}

fathom_status threads_check(int64_t threads, fathom_error *err)
{
    if (threads >= 0 && threads <= THREADS_MOST)
        return FATHOM_OK;
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "--threads: %lld: must be 0 (all) to %d", (long long)threads, THREADS_MOST);
}

fathom_status data_format_parse(const char *text, bool *raw, fathom_error *err)
{
    *raw = text && strcmp(text, "nanogpt") == 0;
    if (*raw || !text || strcmp(text, "auto") == 0)
        return FATHOM_OK;
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data-format: %s: must be auto or nanogpt", text);
}

progress_line progress_begin(double seconds)
{
    const bool terminal = isatty(STDERR_FILENO);
    return (progress_line){.terminal = terminal, .seconds = terminal ? 0.1 : seconds, .last = timing_now()};
}

bool progress_due(progress_line *p)
{
    const double t = timing_now();
    if (t - p->last < p->seconds)
        return false;
    p->last = t;
    return true;
}

void progress_show(progress_line *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (p->terminal)
        fputs("\r\033[K", stderr);
    vfprintf(stderr, format, args);
    if (!p->terminal)
        fputc('\n', stderr);
    p->open = p->terminal;
    va_end(args);
}

void progress_print(progress_line *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (p->open)
        fputs("\r\033[K", stderr);
    p->open = false;
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

void progress_time(double seconds, char *out, size_t size)
{
    const long long s = isfinite(seconds) && seconds > 0 ? (long long)(seconds + 0.5) : 0;
    if (s >= 3600)
        snprintf(out, size, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, size, "%lld:%02lld", s / 60, s % 60);
}
