/* tokenizer.json: see tokenizer_parts.h. The vocabulary, the merges and the added tokens, which are nearly all of it, are cut out and read as a
 * stream (tokenizer_vocabulary.c); the rest, a page of settings, is read here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "text/tokenizer_parts.h"

enum { REST_MOST = 1 << 20, MOST_SPECIAL = 1024 };

/* --- cutting --- */

typedef struct cutting {
    json_stream in;
    const char *done; /* what is before it was copied or cut */
    text_buffer rest, name;
    bool blanks; /* what is cut leaves a blank for each of its characters */
    vocabulary_parts parts;
    fathom_error *err;
} cutting;

static fathom_status copy_until(cutting *c, const char *end)
{
    TRY(text_buffer_add(&c->rest, c->done, (size_t)(end - c->done), c->err));
    c->done = end;
    if (c->rest.size > REST_MOST && !c->blanks)
        return status_fail(c->err, FATHOM_UNSUPPORTED, "%s: more than %d bytes besides vocab, merges and added_tokens", c->in.path, REST_MOST);
    return FATHOM_OK;
}

/* Takes the value that comes next, and where it has the right brackets cuts what is between them out of the rest. */
static fathom_status cut(cutting *c, json_part *part, char open)
{
    const bool fits = json_stream_peek(&c->in) == open;
    const char *begin = c->in.at;
    TRY(json_stream_skip(&c->in, c->err));
    if (!fits || c->in.at[-1] != open + 2) /* ] is [ + 2, and } { + 2 */
        return FATHOM_OK;
    *part = (json_part){begin, (size_t)(c->in.at - begin)};
    TRY(copy_until(c, begin + 1));
    c->done = c->in.at - 1;
    for (const char *p = begin + 1; c->blanks && p < c->done; p++)
        if (((unsigned char)*p & 0xC0) != 0x80)
            TRY(text_buffer_add(&c->rest, *p == '\n' ? "\n" : " ", 1, c->err));
    return FATHOM_OK;
}

static fathom_status cut_object(cutting *c, bool model)
{
    bool first = true, more;
    TRY(json_stream_take(&c->in, '{', c->err));
    for (;;) {
        TRY(json_stream_next(&c->in, '}', &first, &more, c->err));
        if (!more)
            return FATHOM_OK;
        TRY(json_stream_name(&c->in, &c->name, c->err));
        const char *name = c->name.data;
        if (!model && strcmp(name, "model") == 0 && json_stream_peek(&c->in) == '{')
            TRY(cut_object(c, true));
        else if (!model && strcmp(name, "added_tokens") == 0)
            TRY(cut(c, &c->parts.added, '['));
        else if (model && strcmp(name, "vocab") == 0)
            TRY(cut(c, &c->parts.vocab, '{'));
        else if (model && strcmp(name, "merges") == 0)
            TRY(cut(c, &c->parts.merges, '['));
        else
            TRY(json_stream_skip(&c->in, c->err));
    }
}

/* Cuts the text from its beginning, into parts and rest. */
static fathom_status cut_file(cutting *c)
{
    c->in.at = c->done = c->in.begin;
    c->rest.size = 0;
    TRY(cut_object(c, false));
    return copy_until(c, c->in.end);
}

static fathom_status parse_rest(cutting *c, json_t **root)
{
    const char *path = c->in.path;
    const fathom_status status = json_parse(path, c->rest.data, c->rest.size, root, c->err);
    if (status != FATHOM_FORMAT)
        return status;
    c->blanks = true; /* once more, for a message with the line and the column of the file */
    TRY(cut_file(c));
    TRY(json_parse(path, c->rest.data, c->rest.size, root, c->err));
    json_decref(*root); /* then it was no fault of the text's */
    *root = NULL;
    return status;
}

/* --- settings --- */

static fathom_status refuse(const json_fields *f, const char *name, const char *why, fathom_error *err)
{
    return json_field_refuse(f, name, FATHOM_UNSUPPORTED, why, err);
}

/* The field is absent, null, false or an empty string, so that it changes nothing. */
static fathom_status check_unused(const json_fields *f, const char *name, fathom_error *err)
{
    const json_t *value = json_object_get(f->object, name);
    const bool unused = !value || json_is_null(value) || json_is_false(value) || (json_is_string(value) && json_string_length(value) == 0);
    return unused ? FATHOM_OK : refuse(f, name, "not supported", err);
}

static fathom_status read_flag(const json_fields *f, const char *name, bool missing, bool *out, fathom_error *err)
{
    *out = missing;
    return json_object_get(f->object, name) ? json_field_bool(f, name, out, err) : FATHOM_OK;
}

typedef struct reading {
    tokenizer *t;
    bool byte_level, has_template; /* were read */
} reading;

typedef fathom_status (*part_reader)(reading *r, const json_fields *part, const char *type, fathom_error *err);

/* A part of the pipeline, which may be a Sequence of such parts under `list`: calls read with each. */
static fathom_status read_parts(reading *r, const json_fields *f, const char *list, part_reader read, fathom_error *err)
{
    const char *type;
    TRY(json_field_string(f, "type", &type, err));
    if (strcmp(type, "Sequence") != 0)
        return read(r, f, type, err);
    const json_t *items;
    TRY(json_field_get(f, list, JSON_ARRAY, &items, err));
    for (size_t i = 0; i < json_array_size(items); i++) {
        char where[80];
        snprintf(where, sizeof where, "%s.%s[%zu]", f->inside, list, i);
        const json_t *item = json_array_get(items, i);
        if (!json_is_object(item))
            return status_fail(err, FATHOM_FORMAT, "%s: %s: expected an object", f->path, where);
        const json_fields inner = {item, f->path, where};
        TRY(json_field_string(&inner, "type", &type, err));
        if (strcmp(type, "Sequence") == 0)
            return refuse(&inner, "type", "a sequence in a sequence", err);
        TRY(read(r, &inner, type, err));
    }
    return FATHOM_OK;
}

static fathom_status read_normalizer(reading *r, const json_fields *f, const char *type, fathom_error *err)
{
    if (strcmp(type, "NFC") != 0)
        return refuse(f, "type", "must be NFC, or a Sequence of it", err);
    r->t->nfc = true;
    return FATHOM_OK;
}

static fathom_status add_step(splitter *s, const split_step *step, const json_fields *f, const char *name, fathom_error *err)
{
    fathom_error why;
    const fathom_status status = splitter_add(s, step, &why);
    return status == FATHOM_OK ? FATHOM_OK : status_fail(err, status, "%s: %s.%s: %s", f->path, f->inside, name, why.message);
}

static fathom_status read_split(tokenizer *t, const json_fields *f, fathom_error *err)
{
    const json_t *pattern;
    const char *behavior;
    split_step step = {0};
    TRY(json_field_get(f, "pattern", JSON_OBJECT, &pattern, err));
    char where[100];
    snprintf(where, sizeof where, "%s.pattern", f->inside);
    const json_fields fields = {pattern, f->path, where};
    step.literal = !json_object_get(pattern, "Regex");
    TRY(json_field_string(&fields, step.literal ? "String" : "Regex", &step.pattern, err));
    TRY(json_field_string(f, "behavior", &behavior, err));
    if (!split_behavior_parse(behavior, &step.behavior))
        return refuse(f, "behavior", "must be Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", err);
    TRY(read_flag(f, "invert", false, &step.invert, err));
    return add_step(t->outer, &step, f, "pattern", err);
}

static fathom_status read_pre_tokenizer(reading *r, const json_fields *f, const char *type, fathom_error *err)
{
    tokenizer *t = r->t;
    if (r->byte_level)
        return refuse(f, "type", "behind ByteLevel: it must come last", err);
    if (strcmp(type, "Split") == 0)
        return read_split(t, f, err);
    if (strcmp(type, "ByteLevel") != 0)
        return refuse(f, "type", "must be ByteLevel, Split, or a Sequence of these that ends with ByteLevel", err);
    r->byte_level = true;
    bool prefix, pattern;
    TRY(json_field_bool(f, "add_prefix_space", &prefix, err));
    TRY(read_flag(f, "use_regex", true, &pattern, err));
    if (prefix)
        TRY(splitter_new(&t->inner, err));
    const split_step step = {.pattern = split_pattern_gpt2, .behavior = SPLIT_ISOLATED};
    return pattern ? add_step(prefix ? t->inner : t->outer, &step, f, "use_regex", err) : FATHOM_OK;
}

static fathom_status read_decoder(reading *r, const json_fields *f, const char *type, fathom_error *err)
{
    (void)r;
    return strcmp(type, "ByteLevel") == 0 ? FATHOM_OK : refuse(f, "type", "must be ByteLevel", err);
}

static fathom_status add_template_ids(const json_fields *f, const json_t *special, id_list *out, fathom_error *err)
{
    const char *name;
    const json_t *tokens, *token, *ids;
    TRY(json_field_string(&(json_fields){special, f->path, "post_processor.single.SpecialToken"}, "id", &name, err));
    TRY(json_field_get(f, "special_tokens", JSON_OBJECT, &tokens, err));
    TRY(json_field_get(&(json_fields){tokens, f->path, "post_processor.special_tokens"}, name, JSON_OBJECT, &token, err));
    const json_fields fields = {token, f->path, "post_processor.special_tokens"};
    TRY(json_field_get(&fields, "ids", JSON_ARRAY, &ids, err));
    if (json_array_size(ids) > MOST_SPECIAL - out->count)
        return refuse(&fields, "ids", "more special tokens than any text needs", err);
    TRY(id_list_reserve(out, json_array_size(ids), err));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int64_t id;
        TRY(json_value_int(&fields, "ids", json_array_get(ids, i), &id, err));
        if (id < 0 || id >= INT32_MAX)
            return json_value_refuse(&fields, "ids", json_array_get(ids, i), FATHOM_FORMAT, "no id", err);
        out->ids[out->count++] = (int32_t)id;
    }
    return FATHOM_OK;
}

static fathom_status read_post_processor(reading *r, const json_fields *f, const char *type, fathom_error *err)
{
    if (strcmp(type, "ByteLevel") == 0)
        return FATHOM_OK; /* moves offsets, not ids */
    if (strcmp(type, "TemplateProcessing") != 0)
        return refuse(f, "type", "must be ByteLevel, TemplateProcessing, or a Sequence of these", err);
    if (r->has_template)
        return refuse(f, "type", "a second template", err);
    r->has_template = true;
    const json_t *single;
    TRY(json_field_get(f, "single", JSON_ARRAY, &single, err));
    bool text = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i), *special = json_object_get(piece, "SpecialToken");
        const char *which = json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
        if (special)
            TRY(add_template_ids(f, special, text ? &r->t->behind : &r->t->before, err));
        else if (which && strcmp(which, "A") == 0 && !text)
            text = true;
        else
            return json_value_refuse(f, "single", piece, FATHOM_UNSUPPORTED, "must be special tokens and, once, the sequence A", err);
    }
    return text ? FATHOM_OK : refuse(f, "single", "has no sequence A", err);
}

static fathom_status read_optional(reading *r, const json_fields *file, const char *name, const char *list, part_reader read,
                                   fathom_error *err)
{
    const json_t *part;
    if (!json_field_has(file, name))
        return FATHOM_OK;
    TRY(json_field_get(file, name, JSON_OBJECT, &part, err));
    return read_parts(r, &(json_fields){part, file->path, name}, list, read, err);
}

static fathom_status read_model(tokenizer *t, const json_fields *model, fathom_error *err)
{
    const char *type;
    const json_t *ignored;
    TRY(json_field_string(model, "type", &type, err));
    if (strcmp(type, "BPE") != 0)
        return refuse(model, "type", "must be BPE", err);
    TRY(check_unused(model, "dropout", err));
    TRY(check_unused(model, "unk_token", err));
    TRY(check_unused(model, "continuing_subword_prefix", err));
    TRY(check_unused(model, "end_of_word_suffix", err));
    TRY(check_unused(model, "byte_fallback", err));
    TRY(read_flag(model, "ignore_merges", false, &t->ignore_merges, err));
    TRY(json_field_get(model, "vocab", JSON_OBJECT, &ignored, err));
    return json_field_get(model, "merges", JSON_ARRAY, &ignored, err);
}

static fathom_status read_settings(tokenizer *t, const json_t *root, const char *path, fathom_error *err)
{
    reading r = {.t = t};
    const json_fields file = {root, path, NULL};
    const json_t *part;
    TRY(json_field_get(&file, "model", JSON_OBJECT, &part, err));
    TRY(read_model(t, &(json_fields){part, path, "model"}, err));
    if (json_field_has(&file, "added_tokens"))
        TRY(json_field_get(&file, "added_tokens", JSON_ARRAY, &part, err));
    TRY(check_unused(&file, "truncation", err));
    TRY(check_unused(&file, "padding", err));
    TRY(read_optional(&r, &file, "normalizer", "normalizers", read_normalizer, err));
    TRY(read_optional(&r, &file, "post_processor", "processors", read_post_processor, err));
    TRY(read_optional(&r, &file, "decoder", "decoders", read_decoder, err));
    TRY(splitter_new(&t->outer, err));
    TRY(json_field_get(&file, "pre_tokenizer", JSON_OBJECT, &part, err));
    const json_fields pre = {part, path, "pre_tokenizer"};
    TRY(read_parts(&r, &pre, "pretokenizers", read_pre_tokenizer, err));
    if (!r.byte_level)
        return refuse(&pre, "type", "has no ByteLevel", err);
    return FATHOM_OK;
}

static fathom_status check_special(const tokenizer *t, const id_list *ids, const char *path, fathom_error *err)
{
    for (size_t i = 0; i < ids->count; i++) {
        size_t bytes = 0;
        if (!tokenizer_text(t, ids->ids[i], &bytes) || bytes == 0)
            return status_fail(err, FATHOM_FORMAT, "%s: post_processor.special_tokens.ids: %d: no token has this id", path, ids->ids[i]);
    }
    return FATHOM_OK;
}

fathom_status tokenizer_json_read(tokenizer *t, const char *path, fathom_error *err)
{
    cutting c = {.in = {path, t->file, t->file, t->file + t->file_bytes}, .err = err};
    json_t *root = NULL;
    const size_t valid = utf8_valid(t->file, t->file_bytes);
    fathom_status status = FATHOM_OK;
    if (valid < t->file_bytes)
        status = status_fail(err, FATHOM_FORMAT, "%s: malformed JSON at byte %zu: not UTF-8", path, valid);
    if (status == FATHOM_OK)
        status = cut_file(&c);
    if (status == FATHOM_OK)
        status = parse_rest(&c, &root);
    text_buffer_free(&c.rest);
    text_buffer_free(&c.name);
    if (status == FATHOM_OK)
        status = read_settings(t, root, path, err);
    json_decref(root);
    if (status == FATHOM_OK)
        status = tokenizer_vocabulary_read(t, &c.parts, path, err);
    if (status == FATHOM_OK)
        status = check_special(t, &t->before, path, err);
    return status == FATHOM_OK ? check_special(t, &t->behind, path, err) : status;
}
