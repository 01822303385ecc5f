/* The plain form of a conversation: see chat.h. */
#include "serve/chat.h"

#include <string.h>

#include "text/unicode.h"

static fathom_status encode_plain(const chat_format *format, encoder *encode, const chat_message *messages, size_t count, id_list *ids,
                                  fathom_error *err)
{
    (void)format;
    text_buffer text = {0};
    fathom_status status = FATHOM_OK;
    for (size_t i = 0; status == FATHOM_OK && i < count; i++) {
        status = text_buffer_add(&text, messages[i].role, strlen(messages[i].role), err);
        if (status == FATHOM_OK)
            status = text_buffer_add(&text, ": ", 2, err);
        if (status == FATHOM_OK)
            status = text_buffer_add(&text, messages[i].content, messages[i].bytes, err);
        if (status == FATHOM_OK)
            status = text_buffer_add(&text, "\n", 1, err);
    }
    if (status == FATHOM_OK)
        status = text_buffer_add(&text, "assistant:", 10, err);
    if (status == FATHOM_OK)
        status = encoder_add(encode, text.data, text.size, true, ids, err);
    text_buffer_free(&text);
    return status;
}

const chat_format chat_plain = {.encode = encode_plain};
