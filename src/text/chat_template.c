/* Chat templates: see chat_template.h. What stands between two markers is encoded as one text, as by Hugging Face's tokenizers, which find the
 * markers in the whole: "user\n" and a content that begins with a line's end may share a token. */
#include "text/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/json.h"
#include "text/unicode.h"

enum { FILE_MAX = 64 << 20 };

static const char *const names[CHAT_TEMPLATES] = {
#define NAME(code, name, marker) name,
    CHAT_TEMPLATE_LIST(NAME)
#undef NAME
};
static const char *const markers[CHAT_TEMPLATES] = {
#define MARKER(code, name, marker) marker,
    CHAT_TEMPLATE_LIST(MARKER)
#undef MARKER
};
#define SPELLED(code, name, marker) " " name
#define KNOWN CHAT_TEMPLATE_LIST(SPELLED) /* " chatml llama3 plain" */

fathom_status chat_template_named(const char *name, chat_template *out, fathom_error *err)
{
    for (int i = 0; i < CHAT_TEMPLATES; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (chat_template)i;
            return FATHOM_OK;
        }
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "--chat-template: %.100s: must be one of" KNOWN, name);
}

const char *chat_template_name(chat_template kind)
{
    return names[kind];
}

/* --- detection --- */

static fathom_status recognise(const char *path, const char *text, size_t bytes, chat_template *out, fathom_error *err)
{
    for (int i = 0; i < CHAT_TEMPLATES; i++)
        if (bytes > 0 && markers[i] && memmem(text, bytes, markers[i], strlen(markers[i]))) {
            *out = (chat_template)i;
            return FATHOM_OK;
        }
    return status_fail(err, FATHOM_UNSUPPORTED, "%s: a chat template of neither form that is known: if one fits, name it by --chat-template:" KNOWN,
                       path);
}

static fathom_status detect_jinja(const char *path, chat_template *out, fathom_error *err)
{
    file_map map;
    TRY(file_map_open(path, &map, err));
    const fathom_status status = recognise(path, (const char *)map.data, map.size, out, err);
    file_map_close(&map);
    return status;
}

/* The template of the name "default" among [{"name", "template"}]; NULL where there is none. */
static fathom_status default_template(const json_fields *config, const json_t *list, const char **out, fathom_error *err)
{
    size_t i;
    const json_t *item;
    *out = NULL;
    json_array_foreach(list, i, item) {
        const json_fields fields = {item, config->path, "chat_template[]"};
        const char *name, *text;
        if (!json_is_object(item))
            return json_value_refuse(config, "chat_template[]", item, FATHOM_FORMAT, "expected an object", err);
        TRY(json_field_string(&fields, "name", &name, err));
        TRY(json_field_string(&fields, "template", &text, err));
        if (strcmp(name, "default") == 0)
            *out = text;
    }
    return FATHOM_OK;
}

static fathom_status detect_field(const json_fields *config, chat_template *out, fathom_error *err)
{
    const json_t *value = json_object_get(config->object, "chat_template");
    const char *text = NULL;
    if (json_is_array(value))
        TRY(default_template(config, value, &text, err));
    else if (json_field_has(config, "chat_template"))
        TRY(json_field_string(config, "chat_template", &text, err));
    if (text)
        return recognise(config->path, text, strlen(text), out, err);
    return status_fail(err, FATHOM_NOT_FOUND, "%s: no chat_template: name one by --chat-template:" KNOWN, config->path);
}

static fathom_status detect_config(const char *path, chat_template *out, fathom_error *err)
{
    json_t *root;
    TRY(json_file_read(path, FILE_MAX, &root, err));
    const json_fields config = {root, path, NULL};
    const fathom_status status = json_is_object(root) ? detect_field(&config, out, err)
                                                      : status_fail(err, FATHOM_FORMAT, "%s: expected an object", path);
    json_decref(root);
    return status;
}

fathom_status chat_template_detect(const char *dir, chat_template *out, fathom_error *err)
{
    char *jinja = path_join(dir, "chat_template.jinja"), *config = path_join(dir, "tokenizer_config.json");
    fathom_status status;
    if (!jinja || !config)
        status = status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    else if (path_exists(jinja))
        status = detect_jinja(jinja, out, err);
    else if (path_exists(config))
        status = detect_config(config, out, err);
    else
        status = status_fail(err, FATHOM_NOT_FOUND, "%s: no tokenizer_config.json, so no chat template: name one by --chat-template:" KNOWN, dir);
    free(jinja);
    free(config);
    return status;
}

/* --- a conversation --- */

typedef struct writer {
    const tokenizer *t;
    encoder *e;
    text_buffer text; /* since the last marker that is a token */
    id_list *out;
    fathom_error *err;
} writer;

static fathom_status flush(writer *w)
{
    const size_t bytes = w->text.size;
    w->text.size = 0;
    return encoder_add_ordinary(w->e, w->text.data, bytes, w->out, w->err);
}

static fathom_status add_text(writer *w, const char *text)
{
    return text_buffer_add(&w->text, text, strlen(text), w->err);
}

static fathom_status add_marker(writer *w, const char *marker)
{
    const int32_t id = tokenizer_added(w->t, marker, strlen(marker));
    if (id < 0)
        return add_text(w, marker);
    TRY(flush(w));
    TRY(id_list_reserve(w->out, 1, w->err));
    w->out->ids[w->out->count++] = id;
    return FATHOM_OK;
}

/* Bytes of the white space character that a text of n bytes begins with, 0 where it begins with another. Jinja's trim is Python's strip(),
 * for which the separators U+001C to U+001F are white space too. */
static size_t space_at(const char *text, size_t n)
{
    const size_t length = n > 0 ? utf8_length((unsigned char)*text) : 0;
    if (length == 0 || length > n || utf8_valid(text, length) != length)
        return 0;
    const uint32_t code = utf8_decode(text);
    return unicode_is_space(code) || (code >= 0x1C && code <= 0x1F) ? length : 0;
}

/* The same at the end. */
static size_t space_before(const char *text, size_t n)
{
    size_t begin = n;
    while (begin > 0 && n - begin < 4) {
        begin--;
        if ((text[begin] & 0xC0) != 0x80)
            return space_at(text + begin, n - begin) == n - begin ? n - begin : 0;
    }
    return 0;
}

static fathom_status add_trimmed(writer *w, const char *text, size_t bytes)
{
    for (size_t space; (space = space_at(text, bytes)) > 0; bytes -= space)
        text += space;
    for (size_t space; (space = space_before(text, bytes)) > 0;)
        bytes -= space;
    return text_buffer_add(&w->text, text, bytes, w->err);
}

static fathom_status begin_message(writer *w, chat_template kind, const char *role)
{
    if (kind == CHAT_TEMPLATE_PLAIN) {
        TRY(add_text(w, role));
        return add_text(w, ":");
    }
    TRY(add_marker(w, kind == CHAT_TEMPLATE_LLAMA3 ? "<|start_header_id|>" : "<|im_start|>"));
    TRY(add_text(w, role));
    if (kind == CHAT_TEMPLATE_LLAMA3)
        TRY(add_marker(w, "<|end_header_id|>"));
    return add_text(w, kind == CHAT_TEMPLATE_LLAMA3 ? "\n\n" : "\n");
}

static fathom_status end_message(writer *w, chat_template kind)
{
    if (kind == CHAT_TEMPLATE_PLAIN)
        return add_text(w, "\n");
    TRY(add_marker(w, chat_template_end(kind)));
    return add_text(w, kind == CHAT_TEMPLATE_LLAMA3 ? "" : "\n");
}

static fathom_status write_messages(writer *w, chat_template kind, const chat_message *messages, size_t count)
{
    if (kind == CHAT_TEMPLATE_LLAMA3)
        TRY(add_marker(w, "<|begin_of_text|>"));
    if (kind == CHAT_TEMPLATE_PLAIN) /* a text like any other; the other forms bring all their markers */
        TRY(encoder_add_before(w->e, w->out, w->err));
    for (size_t i = 0; i < count; i++) {
        TRY(begin_message(w, kind, messages[i].role));
        TRY(add_text(w, kind == CHAT_TEMPLATE_PLAIN ? " " : ""));
        if (kind == CHAT_TEMPLATE_LLAMA3)
            TRY(add_trimmed(w, messages[i].content, messages[i].bytes));
        else
            TRY(text_buffer_add(&w->text, messages[i].content, messages[i].bytes, w->err));
        TRY(end_message(w, kind));
    }
    TRY(begin_message(w, kind, "assistant"));
    return flush(w);
}

static fathom_status check_messages(const chat_message *messages, size_t count, fathom_error *err)
{
    if (count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "messages: none: a conversation has at least one");
    for (size_t i = 0; i < count; i++) {
        const char *role = messages[i].role;
        if (strcmp(role, "system") != 0 && strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "messages[%zu].role: %.100s: must be system, user or assistant", i, role);
    }
    return FATHOM_OK;
}

fathom_status chat_template_encode(chat_template kind, const tokenizer *t, const chat_message *messages, size_t count, id_list *out,
                                   fathom_error *err)
{
    TRY(check_messages(messages, count, err));
    writer w = {.t = t, .out = out, .err = err};
    TRY(encoder_new(t, &w.e, err));
    const fathom_status status = write_messages(&w, kind, messages, count);
    encoder_free(w.e);
    text_buffer_free(&w.text);
    return status;
}

const char *chat_template_end(chat_template kind)
{
    return kind == CHAT_TEMPLATE_LLAMA3 ? "<|eot_id|>" : kind == CHAT_TEMPLATE_PLAIN ? "\nuser:" : "<|im_end|>";
}

int32_t chat_template_end_id(chat_template kind, const tokenizer *t)
{
    const char *end = chat_template_end(kind);
    return tokenizer_added(t, end, strlen(end));
}
