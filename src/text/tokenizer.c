/* The byte tokenizer and its tokenizer.json: see tokenizer.h. The file names a byte by one character (GPT-2's
 * byte-level alphabet): a printable Latin-1 byte is named by itself, the other 68, in order, by U+0100 and up. With no
 * merges every such character is a token of its own, so the ids of a text are its bytes. */
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"

enum { BYTES = 256, FILE_MAX = 64 << 20 };

static const char ONLY_BYTES[] = "this build reads the byte tokenizer only";

struct tokenizer {
    char text[BYTES]; /* of each id */
};

fathom_status tokenizer_bytes(tokenizer **out, fathom_error *err)
{
    tokenizer *t = malloc(sizeof *t);
    *out = t;
    if (!t)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "tokenizer: out of memory");
    for (int id = 0; id < BYTES; id++)
        t->text[id] = (char)id;
    return FATHOM_OK;
}

void tokenizer_free(tokenizer *t)
{
    free(t);
}

int64_t tokenizer_vocab(const tokenizer *t)
{
    return (int64_t)sizeof t->text;
}

size_t tokenizer_encode(const tokenizer *t, const char *text, size_t bytes, int32_t *ids, size_t capacity)
{
    (void)t;
    const size_t count = bytes < capacity ? bytes : capacity;
    for (size_t i = 0; i < count; i++)
        ids[i] = (unsigned char)text[i];
    return bytes;
}

const char *tokenizer_text(const tokenizer *t, int32_t id, size_t *bytes)
{
    const bool known = id >= 0 && id < BYTES;
    *bytes = known ? 1 : 0;
    return known ? &t->text[id] : NULL;
}

static bool stands_for_itself(int byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
}

/* The UTF-8 of the character of every byte, each terminated. */
static void byte_alphabet(char utf8[BYTES][3])
{
    int shifted = 0x100;
    for (int byte = 0; byte < BYTES; byte++) {
        const int code = stands_for_itself(byte) ? byte : shifted++;
        memset(utf8[byte], 0, sizeof utf8[byte]);
        if (code < 0x80) {
            utf8[byte][0] = (char)code;
        } else {
            utf8[byte][0] = (char)(0xC0 | code >> 6);
            utf8[byte][1] = (char)(0x80 | (code & 0x3F));
        }
    }
}

static json_t *byte_level(void)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0, "use_regex",
                     0);
}

static json_t *byte_vocabulary(void)
{
    char alphabet[BYTES][3];
    byte_alphabet(alphabet);
    json_t *vocab = json_object();
    for (int id = 0; vocab && id < BYTES; id++) {
        if (json_object_set_new(vocab, alphabet[id], json_integer(id)) != 0) {
            json_decref(vocab);
            vocab = NULL;
        }
    }
    return vocab;
}

fathom_status tokenizer_save(const tokenizer *t, const char *path, fathom_error *err)
{
    (void)t;
    json_t *root = json_pack(
        "{s:s, s:n, s:n, s:[], s:n, s:o, s:n, s:o, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:[]}}",
        "version", "1.0", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", byte_level(),
        "post_processor", "decoder", byte_level(), "model", "type", "BPE", "dropout", "unk_token",
        "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0,
        "vocab", byte_vocabulary(), "merges");
    return json_file_write(path, root, err);
}

/* The field is absent, null or an empty string, so that it changes nothing. */
static fathom_status check_unused(const json_fields *f, const char *name, fathom_error *err)
{
    const json_t *value = json_object_get(f->object, name);
    if (!value || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0))
        return FATHOM_OK;
    return json_field_refuse(f, name, FATHOM_UNSUPPORTED, ONLY_BYTES, err);
}

static fathom_status check_type(const json_fields *f, const char *expected, fathom_error *err)
{
    const char *type;
    TRY(json_field_string(f, "type", &type, err));
    if (strcmp(type, expected) == 0)
        return FATHOM_OK;
    return json_field_refuse(f, "type", FATHOM_UNSUPPORTED, ONLY_BYTES, err);
}

static fathom_status refuse_count(const json_fields *f, const char *name, size_t count, const char *noun,
                                  fathom_error *err)
{
    return status_fail(err, FATHOM_UNSUPPORTED, "%s: %s%s%s: %zu %s; %s", f->path, f->inside ? f->inside : "",
                       f->inside ? "." : "", name, count, noun, ONLY_BYTES);
}

static fathom_status check_model(const json_fields *model, fathom_error *err)
{
    TRY(check_type(model, "BPE", err));
    TRY(check_unused(model, "continuing_subword_prefix", err));
    TRY(check_unused(model, "end_of_word_suffix", err));
    const json_t *merges, *vocab;
    TRY(json_field_get(model, "merges", JSON_ARRAY, &merges, err));
    if (json_array_size(merges) > 0)
        return refuse_count(model, "merges", json_array_size(merges), "merges", err);
    TRY(json_field_get(model, "vocab", JSON_OBJECT, &vocab, err));
    if (json_object_size(vocab) != BYTES)
        return refuse_count(model, "vocab", json_object_size(vocab), "entries, not 256", err);

    char alphabet[BYTES][3];
    byte_alphabet(alphabet);
    const json_fields entries = {vocab, model->path, "model.vocab"};
    for (int byte = 0; byte < BYTES; byte++) {
        int64_t id;
        TRY(json_field_int(&entries, alphabet[byte], &id, err));
        if (id != byte)
            return status_fail(err, FATHOM_UNSUPPORTED, "%s: model.vocab: byte %d has the id %lld, not its value; %s",
                               model->path, byte, (long long)id, ONLY_BYTES);
    }
    return FATHOM_OK;
}

static fathom_status check_file(const json_t *root, const char *path, fathom_error *err)
{
    if (!json_is_object(root))
        return status_fail(err, FATHOM_FORMAT, "%s: not a JSON object", path);
    const json_fields file = {root, path, NULL};
    const json_t *part;
    TRY(json_field_get(&file, "model", JSON_OBJECT, &part, err));
    TRY(check_model(&(json_fields){part, path, "model"}, err));

    if (json_field_has(&file, "added_tokens")) {
        TRY(json_field_get(&file, "added_tokens", JSON_ARRAY, &part, err));
        if (json_array_size(part) > 0)
            return refuse_count(&file, "added_tokens", json_array_size(part), "added tokens", err);
    }
    TRY(check_unused(&file, "truncation", err));
    TRY(check_unused(&file, "padding", err));
    TRY(check_unused(&file, "normalizer", err));
    TRY(check_unused(&file, "post_processor", err));

    TRY(json_field_get(&file, "decoder", JSON_OBJECT, &part, err));
    TRY(check_type(&(json_fields){part, path, "decoder"}, "ByteLevel", err));
    TRY(json_field_get(&file, "pre_tokenizer", JSON_OBJECT, &part, err));
    const json_fields pre = {part, path, "pre_tokenizer"};
    TRY(check_type(&pre, "ByteLevel", err));
    bool prefix_space;
    TRY(json_field_bool(&pre, "add_prefix_space", &prefix_space, err));
    if (prefix_space)
        return status_fail(err, FATHOM_UNSUPPORTED, "%s: pre_tokenizer.add_prefix_space: true; %s", path, ONLY_BYTES);
    return FATHOM_OK;
}

fathom_status tokenizer_load(const char *path, tokenizer **out, fathom_error *err)
{
    *out = NULL;
    json_t *root;
    TRY(json_file_read(path, FILE_MAX, &root, err));
    fathom_status status = check_file(root, path, err);
    json_decref(root);
    if (status == FATHOM_OK)
        status = tokenizer_bytes(out, err);
    return status;
}
