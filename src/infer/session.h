/* What stands behind the public handles. A fathom_model is immutable and shared; a fathom_session is mutable and owned by one
 * thread at a time. */
#ifndef FATHOM_INFER_SESSION_H
#define FATHOM_INFER_SESSION_H

#include "model/transformer.h"
#include "text/tokenizer.h"

struct fathom_model {
    model m;
    tokenizer *tok;         /* NULL where there is none that this build reads, */
    fathom_error tok_error; /* and why */
};

/* The tokenizer, borrowed, or the reason why there is none. */
fathom_status session_tokenizer(const fathom_model *model, const tokenizer **out, fathom_error *err);

/* Sees each routing decision of the session as it is made, in the order of tokens and layers; see workspace_set_visitor. */
void session_set_visitor(fathom_session *s, route_visitor visitor, void *user);
/* FLOPs of the forward passes so far, as they were done. */
double session_flops(const fathom_session *s);

#endif
