/* A conversation to token ids, in the form that a model was trained on. */
#ifndef FATHOM_SERVE_CHAT_H
#define FATHOM_SERVE_CHAT_H

#include "serve/request.h"
#include "text/tokenizer.h"

/* encode appends the ids of the messages and of the beginning of the assistant's answer; a message that the form cannot take is
 * FATHOM_INVALID_ARGUMENT. The ids in stop_ids end an answer beside the model's end of text. */
typedef struct chat_format {
    fathom_status (*encode)(const struct chat_format *format, encoder *encode, const chat_message *messages, size_t count, id_list *ids,
                            fathom_error *err);
    void *user;
    const int32_t *stop_ids; /* borrowed */
    size_t stop_id_count;
} chat_format;

/* For models that have no form of their own: "role: content" lines, then "assistant:". */
extern const chat_format chat_plain;

#endif
