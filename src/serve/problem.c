/* A request's problem as text and as JSON: see problem.h. */
#include "serve/problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/unicode.h"

/* A message may quote a part of what a client sent: it becomes one line of valid UTF-8, even where it was cut. */
static void tidy(char *text)
{
    size_t length = strlen(text);
    for (size_t at = 0; at < length;) {
        const size_t valid = utf8_valid(text + at, length - at);
        at += valid;
        if (at < length && utf8_unfinished(text, length) == length - at)
            text[at] = '\0', length = at;
        else if (at < length)
            text[at++] = '?';
    }
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

static void fill(serve_problem *p, const char *logged, int status, const char *param, const char *code, const char *format, va_list args)
{
    if (p->status)
        return;
    vsnprintf(p->message, sizeof p->message, format, args);
    snprintf(p->logged, sizeof p->logged, "%s", logged);
    snprintf(p->param, sizeof p->param, "%s", param ? param : "");
    tidy(p->message);
    tidy(p->logged);
    tidy(p->param);
    p->code = code;
    p->status = status;
}

bool problem_set(serve_problem *p, int status, const char *param, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(p, "", status, param, code, format, args);
    va_end(args);
    return false;
}

bool problem_set_quoting(serve_problem *p, const char *logged, int status, const char *param, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(p, logged, status, param, code, format, args);
    va_end(args);
    return false;
}

static const char *problem_type(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 408:
    case 504: return "timeout_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

json_t *problem_json(const serve_problem *p)
{
    return json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", p->message, "type", problem_type(p->status), "param",
                     *p->param ? p->param : NULL, "code", p->code);
}
