/* What is wrong with a request, in the terms of OpenAI's error object: {"error": {"message", "type", "param", "code"}}. */
#ifndef FATHOM_SERVE_PROBLEM_H
#define FATHOM_SERVE_PROBLEM_H

#include <jansson.h>
#include <stdbool.h>

#include "base/status.h"

typedef struct serve_problem {
    int status;        /* of HTTP; 0: nothing is wrong */
    const char *code;  /* static: "model_not_found"; NULL: null */
    char param[64];    /* the field; "": null */
    char message[512]; /* for the client: names the field and the value */
    char logged[256];  /* for the log: no text out of a body; "": the message has none */
} serve_problem;

/* Fills *p (the first problem is kept) and returns false, so that a refusal is one line. The message goes to the log as well, where no
 * text of a prompt belongs: no text out of a body may be in it. */
bool problem_set(serve_problem *p, int status, const char *param, const char *code, const char *format, ...) FATHOM_PRINTF(5, 6);
/* The same where the message quotes the body; `logged` says what is wrong without. */
bool problem_set_quoting(serve_problem *p, const char *logged, int status, const char *param, const char *code, const char *format, ...)
    FATHOM_PRINTF(6, 7);
/* The object above; NULL when out of memory. */
json_t *problem_json(const serve_problem *p);

#endif
