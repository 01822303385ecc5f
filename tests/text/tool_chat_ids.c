/* Conversations as token ids: tool_chat_ids TEMPLATE tokenizer.json. Standard input has a JSON list of conversations, each a list of
 * {"role", "content"}; standard output gets a list of lists of ids. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat_template.h"

static fathom_status encode(chat_template kind, const tokenizer *t, const json_t *conversation, id_list *ids, fathom_error *err)
{
    const size_t count = json_array_size(conversation);
    chat_message *messages = calloc(count + 1, sizeof *messages);
    if (!messages)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    for (size_t i = 0; i < count; i++) {
        const json_t *m = json_array_get(conversation, i), *content = json_object_get(m, "content");
        messages[i] = (chat_message){json_string_value(json_object_get(m, "role")), json_string_value(content), json_string_length(content)};
    }
    const fathom_status status = chat_template_encode(kind, t, messages, count, ids, err);
    free(messages);
    return status;
}

int main(int argc, char **argv)
{
    chat_template kind;
    tokenizer *t = NULL;
    fathom_error err;
    if (argc != 3) {
        fputs("usage: tool_chat_ids TEMPLATE TOKENIZER\n", stderr);
        return 2;
    }
    fathom_status status = chat_template_named(argv[1], &kind, &err);
    if (status == FATHOM_OK)
        status = tokenizer_load(argv[2], &t, &err);
    json_t *conversations = json_loadf(stdin, JSON_ALLOW_NUL, NULL), *out = json_array();
    for (size_t i = 0; status == FATHOM_OK && i < json_array_size(conversations); i++) {
        id_list ids = {0};
        json_t *list = json_array();
        status = encode(kind, t, json_array_get(conversations, i), &ids, &err);
        for (size_t k = 0; k < ids.count; k++)
            json_array_append_new(list, json_integer(ids.ids[k]));
        json_array_append_new(out, list);
        id_list_free(&ids);
    }
    if (status == FATHOM_OK)
        json_dumpf(out, stdout, JSON_COMPACT);
    else
        fprintf(stderr, "%s\n", err.message);
    json_decref(conversations);
    json_decref(out);
    tokenizer_free(t);
    return status == FATHOM_OK ? 0 : 1;
}
