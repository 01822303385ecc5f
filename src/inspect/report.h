/* A trace as one HTML page that needs nothing else: no network, no framework. The page itself is report.html, compiled in. */
#ifndef FATHOM_INSPECT_REPORT_H
#define FATHOM_INSPECT_REPORT_H

#include "inspect/trace.h"
#include "text/tokenizer.h"

/* Writes the page to path, atomically. tokens [t->count]; title: what the page calls the model. */
fathom_status report_write(const char *path, const char *title, const trace *t, const int32_t *tokens, const tokenizer *tok,
                           fathom_error *err);

#endif
