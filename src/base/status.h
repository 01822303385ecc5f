/* Errors: how a failing call says what went wrong. Every function that can fail returns a fathom_status and fills the
 * caller's fathom_error (which may be NULL), so messages are thread-safe and nothing below the command line prints. */
#ifndef FATHOM_BASE_STATUS_H
#define FATHOM_BASE_STATUS_H

#include "fathom.h"

#if defined(__GNUC__)
#define FATHOM_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define FATHOM_PRINTF(f, a)
#endif

/* Fills *err (NULL is fine) and returns code, so that a failure is one line: return status_fail(err, FATHOM_IO, ...).
 * Control characters in the message are replaced by '?', so that it is one line whatever a hostile file held. */
fathom_status status_fail(fathom_error *err, fathom_status code, const char *format, ...) FATHOM_PRINTF(3, 4);

/* Returns from the calling function when expr is not FATHOM_OK. For functions that hold nothing to release. */
#define TRY(expr)                                    \
    do {                                             \
        fathom_status try_status_ = (expr);          \
        if (try_status_ != FATHOM_OK)                \
            return try_status_;                      \
    } while (0)

#endif
