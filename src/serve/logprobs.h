/* OpenAI's two shapes of log probabilities. Legacy: {tokens, token_logprobs, top_logprobs, text_offset}, where the first token of an
 * echoed prompt has null; chat: {content: [{token, logprob, bytes, top_logprobs}], refusal: null}. */
#ifndef FATHOM_SERVE_LOGPROBS_H
#define FATHOM_SERVE_LOGPROBS_H

#include "serve/job.h"

/* An object without tokens. */
json_t *logprobs_new(bool chat);
/* Adds the event's token. top: how many of the likeliest were asked for. *offset: characters before it, moved on. */
void logprobs_add(json_t *object, bool chat, const fathom_model *model, const job_event *e, int top, int64_t *offset);

#endif
