/* One request of the engine: what was asked, the tokens so far, what turns logits into events. Nothing here knows of other requests. */
#ifndef FATHOM_INFER_ENGINE_REQUEST_H
#define FATHOM_INFER_ENGINE_REQUEST_H

#include "infer/sampler.h"
#include "infer/session.h"
#include "infer/text_stream.h"

typedef struct engine_request {
    struct engine_request *next;
    const fathom_model *model;
    int64_t id;
    fathom_event_callback callback;
    void *user;
    int32_t *ids;              /* [prompt + max_tokens] the prompt, then what was generated */
    int64_t prompt, known;     /* of ids: the prompt's; all so far */
    int64_t max_tokens;        /* cut to the model's length, and to the memory's */
    int64_t told;              /* prompt tokens whose events were sent */
    int64_t cached;            /* of the prompt, shared with others */
    int64_t depth;             /* routed stages that the last computed token went through */
    int64_t routed, routable;  /* pairs, of the tokens computed */
    double budget;
    float threshold[MODEL_MAX_STAGES]; /* of the budget, if there is one */
    bool wants_logprobs, wants_prompt;
    size_t top;                /* likeliest tokens to tell */
    int32_t *stop_ids;
    size_t stop_id_count;
    sampler pick;
    text_stream text;
    kv_sequence kv;
    bool decoding;             /* all but the last token are in kv, and the last came from its logits */
    bool gone;                 /* ended or cancelled: no more events */
    /* what the last logits gave, until it is told */
    int32_t chosen;
    fathom_logprob *likeliest; /* [top] */
    float logprob;
} engine_request;

/* Checks and copies. held: tokens whose keys there is memory for, at most; what goes beyond, as beyond the model's length, is cut off. */
fathom_status engine_request_new(const fathom_model *model, const fathom_engine_request *asked, int64_t held, engine_request **out,
                                 fathom_error *err);
/* Its kv must hold no pages. */
void engine_request_free(engine_request *r);

/* Draws the next token from logits [vocab], with its log-probability where that is wanted: touches this request alone, so that several can
 * draw at once. */
void engine_request_draw(engine_request *r, const float *logits);
/* Tells the token that was drawn, and the end where it is one. */
void engine_request_tell(engine_request *r);
/* Tells the prompt's token `index`, given the logits before it (NULL for the first). */
void engine_request_tell_prompt(engine_request *r, int64_t index, const float *before);
/* Ends it. err: why it failed, or NULL. */
void engine_request_end(engine_request *r, fathom_finish finish, const fathom_error *err);

#endif
