/* Errors: texts and the one way to fill a fathom_error. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

const char *fathom_status_text(fathom_status code)
{
    switch (code) {
#define STATUS_CASE(name, text) \
    case FATHOM_##name: return text;
        FATHOM_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}

const char *fathom_version(void)
{
    return FATHOM_VERSION;
}

fathom_status status_fail(fathom_error *err, fathom_status code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        for (char *p = err->message; *p; p++)
            if ((unsigned char)*p < 0x20 || *p == 0x7f)
                *p = '?';
        err->code = code;
    }
    return code;
}
