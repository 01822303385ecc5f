/* What a workspace holds: for the passes in transformer.c alone. */
#ifndef FATHOM_MODEL_WORKSPACE_H
#define FATHOM_MODEL_WORKSPACE_H

#include "model/transformer.h"

struct workspace {
    const model *m;
    model_env env;
    int64_t B, T; /* largest batch */
    workspace_kind kind;
    void *block;          /* every buffer below, the backend's memory */
    size_t bytes;
    int32_t *starts;      /* host: [S + 2][B + 1]; a row a stage, one for plain blocks, one for experts */
    int64_t *expert_start; /* host [L, E + 1] */
    int64_t *expert_count; /* host [L, E + N] */
    int32_t *position;    /* [B, T] */
    int32_t *host_position, *host_index; /* host [B, T] */
    float *thresholds;    /* host [B] */
    int32_t *tokens, *targets; /* [B, T] */
    float *x, *xf, *rstd; /* the stream [B, T, d]; final norm's output, its s */
    float *loss;          /* [B, T] */
    int64_t head_rows;
    float *logits;        /* [head_rows, V] */
    block_acts *acts;     /* host [S]; all the same one unless training; with recomputation only its input is a stage's own */
    route *routes;        /* host [S], likewise */
    predictor_temps router;
    expert_temps experts;
    float *dx;            /* training: gradient of the stream [B, T, d] */
    block_temps temps;
    route_visitor visitor;
    void *visitor_user;
};

#endif
