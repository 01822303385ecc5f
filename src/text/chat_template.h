/* Chat templates: a conversation as the token ids that a chat model was trained on. A model directory brings its template as a Jinja program;
 * fathom runs none but knows the two forms that most models use:
 *
 *     ChatML     <|im_start|>ROLE\nCONTENT<|im_end|>\n ... <|im_start|>assistant\n
 *     Llama 3    <|begin_of_text|><|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|> ... <|start_header_id|>assistant<|end_header_id|>\n\n
 *
 * and, for models that were trained on no form at all, plain lines:
 *
 *     plain      ROLE: CONTENT\n ... assistant:
 *
 * with Llama 3's contents trimmed. The plain form begins, as any text does, with the ids that the tokenizer puts before one (a beginning-of-text
 * token, say). What some templates add unasked (a default system message, today's date, tools) is not added.
 *
 * Markers are single ids where the tokenizer has them as added tokens, and ordinary text where it has not, as in the byte tokenizer. In
 * contents special tokens are not recognised: a message that holds "<|im_end|>" holds ten characters, and ends nothing. (With a tokenizer
 * for which markers are text, nothing can tell them apart.)
 */
#ifndef FATHOM_TEXT_CHAT_TEMPLATE_H
#define FATHOM_TEXT_CHAT_TEMPLATE_H

#include "text/tokenizer.h"

/* X(CODE, name, the text by which a Jinja template is known) */
#define CHAT_TEMPLATE_LIST(X)                       \
    X(CHATML, "chatml", "<|im_start|>")             \
    X(LLAMA3, "llama3", "<|start_header_id|>")      \
    X(PLAIN, "plain", NULL)

typedef enum chat_template {
#define CHAT_TEMPLATE_ENUM(code, name, marker) CHAT_TEMPLATE_##code,
    CHAT_TEMPLATE_LIST(CHAT_TEMPLATE_ENUM)
#undef CHAT_TEMPLATE_ENUM
    CHAT_TEMPLATES
} chat_template;

typedef struct chat_message {
    const char *role;    /* "system", "user" or "assistant"; terminated */
    const char *content; /* [bytes] */
    size_t bytes;
} chat_message;

/* By one of the names above. */
fathom_status chat_template_named(const char *name, chat_template *out, fathom_error *err);
const char *chat_template_name(chat_template kind);
/* That of a model directory: its chat_template.jinja, else the chat_template of its tokenizer_config.json (of several the one called "default").
 * FATHOM_NOT_FOUND where there is none, FATHOM_UNSUPPORTED for one that is of neither form, FATHOM_FORMAT for a malformed file. */
fathom_status chat_template_detect(const char *dir, chat_template *out, fathom_error *err);

/* Appends the ids of a conversation of count (1 or more) messages, up to where the assistant's next one begins. FATHOM_INVALID_ARGUMENT
 * for another role. On failure the list holds some of them. */
fathom_status chat_template_encode(chat_template kind, const tokenizer *t, const chat_message *messages, size_t count, id_list *out,
                                   fathom_error *err);

/* What ends a message (of the plain form, the user's next one): the text, and its id, -1 where the tokenizer has no such token, and the
 * text has to be watched for. */
const char *chat_template_end(chat_template kind);
int32_t chat_template_end_id(chat_template kind, const tokenizer *t);

#endif
