/* Writing tokenizer.json: see tokenizer_write.h. Merges are "left right" texts, which every version of the tokenizers library reads. */
#include "text/tokenizer_write.h"

#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "text/byte_level.h"
#include "text/split.h"
#include "text/unicode.h"

enum { BYTES = 256 };

/* Tokens in the byte-level alphabet. */
typedef struct spellings {
    text_buffer text; /* of all, each terminated */
    size_t *offset;   /* [BYTES + merges + 1] */
} spellings;

static fathom_status no_memory(const char *path, fathom_error *err)
{
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
}

/* The buffer may move while it grows: room first, then the copy from within. */
static fathom_status append(spellings *s, int32_t token, fathom_error *err)
{
    const size_t begin = s->offset[token], bytes = s->offset[token + 1] - begin - 1;
    TRY(text_buffer_reserve(&s->text, bytes, err));
    return text_buffer_add(&s->text, s->text.data + begin, bytes, err);
}

static fathom_status spell_all(spellings *s, const trained_tokenizer *p, fathom_error *err)
{
    for (int byte = 0; byte < BYTES; byte++) {
        char utf8[4];
        TRY(text_buffer_add(&s->text, utf8, utf8_encode(byte_level_character((unsigned char)byte), utf8), err));
        TRY(text_buffer_add(&s->text, "", 1, err));
        s->offset[byte + 1] = s->text.size;
    }
    for (int64_t i = 0; i < p->merge_count; i++) {
        TRY(append(s, p->merges[i].left, err));
        TRY(append(s, p->merges[i].right, err));
        TRY(text_buffer_add(&s->text, "", 1, err));
        s->offset[BYTES + i + 1] = s->text.size;
    }
    return FATHOM_OK;
}

static const char *spelling(const spellings *s, int64_t id)
{
    return s->text.data + s->offset[id];
}

static json_t *byte_level(bool regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0, "use_regex", (int)regex);
}

static json_t *pre_tokenizer(piece_pattern pattern)
{
    if (pattern == PIECES_GPT2) /* ByteLevel's own expression */
        return byte_level(true);
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex",
                     split_pattern_llama3, "behavior", "Isolated", "invert", 0, byte_level(false));
}

static fathom_status make_vocabulary(json_t *vocab, json_t *merges, const spellings *s, const trained_tokenizer *p, const char *path,
                                     fathom_error *err)
{
    for (int64_t id = 0; id < BYTES + p->merge_count; id++)
        if (json_object_set_new(vocab, spelling(s, id), json_integer(id)) != 0)
            return no_memory(path, err);
    for (int64_t i = 0; i < p->merge_count; i++)
        if (json_array_append_new(merges, json_sprintf("%s %s", spelling(s, p->merges[i].left), spelling(s, p->merges[i].right))) != 0)
            return no_memory(path, err);
    return FATHOM_OK;
}

static fathom_status make_added(json_t *added, const json_t *vocab, const trained_tokenizer *p, const char *path, fathom_error *err)
{
    for (size_t i = 0; i < p->special_count; i++) {
        const char *text = p->specials[i];
        if (json_object_get(vocab, text))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: special token %s: the spelling of another token", path, text);
        for (size_t j = 0; j < i; j++)
            if (strcmp(p->specials[j], text) == 0)
                return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: special token %s: given twice", path, text);
        json_t *token = json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)(BYTES + p->merge_count + (int64_t)i), "content",
                                  text, "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
        if (json_array_append_new(added, token) != 0)
            return no_memory(path, err);
    }
    return FATHOM_OK;
}

fathom_status tokenizer_write(const char *path, const trained_tokenizer *p, fathom_error *err)
{
    spellings s = {.offset = calloc((size_t)(BYTES + p->merge_count + 1), sizeof *s.offset)};
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array();
    fathom_status status = s.offset && vocab && merges && added ? spell_all(&s, p, err) : no_memory(path, err);
    if (status == FATHOM_OK)
        status = make_vocabulary(vocab, merges, &s, p, path, err);
    if (status == FATHOM_OK)
        status = make_added(added, vocab, p, path, err);
    if (status == FATHOM_OK) {
        json_t *root = json_pack("{s:s, s:n, s:n, s:O, s:n, s:o, s:n, s:o, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:O, s:O}}", "version",
                                 "1.0", "truncation", "padding", "added_tokens", added, "normalizer", "pre_tokenizer", pre_tokenizer(p->pattern),
                                 "post_processor", "decoder", byte_level(true), "model", "type", "BPE", "dropout", "unk_token",
                                 "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0, "vocab",
                                 vocab, "merges", merges);
        status = json_file_write(path, root, err);
    }
    json_decref(vocab);
    json_decref(merges);
    json_decref(added);
    text_buffer_free(&s.text);
    free(s.offset);
    return status;
}
