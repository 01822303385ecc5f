/* Tokenizers as handles: loading, saving, what an id stands for. See tokenizer.h. */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/json.h"
#include "text/tokenizer_parts.h"

enum { BYTES = 256, FILE_MAX = 64 << 20 };

/* Takes the file's text, which may be NULL: out of memory. */
static fathom_status make(const char *path, char *file, size_t bytes, tokenizer **out, fathom_error *err)
{
    tokenizer *t = file ? calloc(1, sizeof *t) : NULL;
    *out = t;
    if (!t) {
        free(file);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    }
    t->file = file;
    t->file_bytes = bytes;
    const fathom_status status = tokenizer_json_read(t, path, err);
    if (status != FATHOM_OK) {
        tokenizer_free(t);
        *out = NULL;
    }
    return status;
}

static fathom_status load_file(const char *path, tokenizer **out, fathom_error *err)
{
    file_map map;
    TRY(file_map_open(path, &map, err));
    if (map.size > FILE_MAX) {
        const size_t size = map.size;
        file_map_close(&map);
        return status_fail(err, FATHOM_FORMAT, "%s: %zu bytes are more than the %d that such a file may have", path, size, FILE_MAX);
    }
    char *file = malloc(map.size + 1);
    const size_t size = map.size;
    if (file && size > 0)
        memcpy(file, map.data, size);
    file_map_close(&map);
    return make(path, file, size, out, err);
}

fathom_status tokenizer_load(const char *path, tokenizer **out, fathom_error *err)
{
    *out = NULL;
    if (!path_is_folder(path))
        return load_file(path, out, err);
    char *inside = path_join(path, "tokenizer.json");
    const fathom_status status = inside ? load_file(inside, out, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    free(inside);
    return status;
}

static json_t *byte_level(void)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0, "use_regex", 0);
}

static json_t *byte_vocabulary(void)
{
    json_t *vocab = json_object();
    for (int id = 0, shifted = 0x100; vocab && id < BYTES; id++) {
        const bool itself = (id >= '!' && id <= '~') || (id >= 0xA1 && id != 0xAD);
        char name[5] = {0};
        utf8_encode((uint32_t)(itself ? id : shifted++), name);
        if (json_object_set_new(vocab, name, json_integer(id)) != 0) {
            json_decref(vocab);
            vocab = NULL;
        }
    }
    return vocab;
}

fathom_status tokenizer_bytes(tokenizer **out, fathom_error *err)
{
    json_t *root = json_pack(
        "{s:s, s:n, s:n, s:[], s:n, s:o, s:n, s:o, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:[]}}",
        "version", "1.0", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", byte_level(),
        "post_processor", "decoder", byte_level(), "model", "type", "BPE", "dropout", "unk_token",
        "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0,
        "vocab", byte_vocabulary(), "merges");
    char *text = NULL;
    size_t bytes = 0;
    *out = NULL;
    TRY(json_file_text(root, "byte tokenizer", &text, &bytes, err));
    return make("byte tokenizer", text, bytes, out, err);
}

fathom_status tokenizer_save(const tokenizer *t, const char *path, fathom_error *err)
{
    return file_write(path, t->file, t->file_bytes, err);
}

bool tokenizer_same(const tokenizer *a, const tokenizer *b)
{
    return a->file_bytes == b->file_bytes && memcmp(a->file, b->file, a->file_bytes) == 0;
}

void tokenizer_free(tokenizer *t)
{
    if (!t)
        return;
    bpe_free(t->words);
    splitter_free(t->outer);
    splitter_free(t->inner);
    added_set_free(&t->raw);
    added_set_free(&t->normal);
    text_buffer_free(&t->own_bytes);
    text_buffer_free(&t->normal_bytes);
    id_list_free(&t->before);
    id_list_free(&t->behind);
    free(t->own);
    free(t->file);
    free(t);
}

int64_t tokenizer_vocab(const tokenizer *t)
{
    return t->vocab;
}

static int by_id(const void *key, const void *item)
{
    const int32_t id = *(const int32_t *)key, other = ((const own_text *)item)->id;
    return (id > other) - (id < other);
}

const char *tokenizer_text(const tokenizer *t, int32_t id, size_t *bytes)
{
    token_text text = bpe_text(t->words, id);
    if (text.bytes == 0 && t->own_count > 0) {
        const own_text *own = bsearch(&id, t->own, t->own_count, sizeof *t->own, by_id);
        text = own ? own->text : text;
    }
    *bytes = text.bytes;
    return text.text;
}

int32_t tokenizer_added(const tokenizer *t, const char *text, size_t bytes)
{
    const added_set *const sets[] = {&t->raw, &t->normal};
    for (int i = 0; i < 2; i++) {
        added_search s = {.set = sets[i], .text = text, .bytes = bytes};
        added_match found;
        if (added_search_next(&s, &found) && found.begin == 0 && found.end == bytes)
            return found.id;
    }
    return -1;
}

fathom_status id_list_reserve(id_list *l, size_t more, fathom_error *err)
{
    const size_t most = PTRDIFF_MAX / sizeof *l->ids;
    if (more <= l->capacity - l->count)
        return FATHOM_OK;
    const size_t doubled = l->capacity > most / 2 ? most : 2 * l->capacity, needed = l->count + more;
    const size_t wanted = needed > doubled ? needed : doubled;
    int32_t *ids = more > most - l->count ? NULL : realloc(l->ids, wanted * sizeof *ids);
    if (!ids)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory for %zu tokens", more);
    l->ids = ids;
    l->capacity = wanted;
    return FATHOM_OK;
}

void id_list_free(id_list *l)
{
    free(l->ids);
    *l = (id_list){0};
}

/* --- the public API --- */

fathom_status fathom_tokenizer_load(const char *path, fathom_tokenizer **out, fathom_error *err)
{
    return tokenizer_load(path, out, err);
}

void fathom_tokenizer_free(fathom_tokenizer *tokenizer)
{
    tokenizer_free(tokenizer);
}

int64_t fathom_tokenizer_vocab(const fathom_tokenizer *tokenizer)
{
    return tokenizer_vocab(tokenizer);
}

const char *fathom_tokenizer_text(const fathom_tokenizer *tokenizer, int32_t id, size_t *bytes)
{
    return tokenizer_text(tokenizer, id, bytes);
}

fathom_status fathom_tokenizer_encode(const fathom_tokenizer *tokenizer, const char *text, size_t bytes, int special, int32_t *ids,
                                      size_t capacity, size_t *count, fathom_error *err)
{
    id_list list = {0};
    *count = 0;
    fathom_status status = tokenizer_encode(tokenizer, text, bytes, special != 0, &list, err);
    if (status == FATHOM_OK) {
        const size_t fitting = list.count < capacity ? list.count : capacity;
        *count = list.count;
        if (fitting > 0)
            memcpy(ids, list.ids, fitting * sizeof *ids);
        if (list.count > capacity)
            status = status_fail(err, FATHOM_INVALID_ARGUMENT, "text of %zu tokens does not fit %zu", list.count, capacity);
    }
    id_list_free(&list);
    return status;
}
