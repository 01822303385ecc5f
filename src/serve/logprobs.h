/* OpenAI's two shapes of log probabilities. Legacy: {tokens, token_logprobs, top_logprobs, text_offset}, where the first token of an
 * echoed prompt has null; chat: {content: [{token, logprob, bytes, top_logprobs}], refusal: null}. */
#ifndef FATHOM_SERVE_LOGPROBS_H
#define FATHOM_SERVE_LOGPROBS_H

#include "serve/job.h"
#include "serve/token_text.h"

/* How far tokens have come in the text that the client sees. */
typedef struct text_place {
    int64_t characters; /* before the tail */
    text_tail tail;
} text_place;

/* An object without tokens. */
json_t *logprobs_new(bool chat);
/* Adds the event's token. top: how many of the likeliest were asked for. *place: where it begins, moved on by its bytes where it is shown:
 * part of the text. */
void logprobs_add(json_t *object, bool chat, const fathom_model *model, const job_event *e, int top, text_place *place, bool shown);
/* Whether the next bytes may change a text_offset of the object, which may be NULL: a token that begins behind two bytes of a character
 * stands behind one character if they become one, behind two U+FFFD if not. */
bool logprobs_waiting(const json_t *object, const text_place *place);

#endif
