/* What the engine offers inside fathom beside fathom.h. */
#ifndef FATHOM_INFER_ENGINE_H
#define FATHOM_INFER_ENGINE_H

#include "fathom.h"
#include "model/transformer.h"

enum { ENGINE_MAX_ACTIVE = 4096 };

/* Sees each routing decision as it is made, or nobody where NULL; see workspace_set_visitor. */
void engine_set_visitor(fathom_engine *e, route_visitor visitor, void *user);

#endif
