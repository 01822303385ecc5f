/* A folder's list of token shards: see manifest.h. */
#include "text/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/json.h"

enum { MANIFEST_VERSION = 1, MOST_BYTES = 256 << 20, SNIFFED_BYTES = 512 };

static const char FORMAT[] = "fathom-shards";

fathom_status manifest_add(manifest *m, const manifest_shard *shard, fathom_error *err)
{
    if (shard->tokens > INT64_MAX - m->tokens || shard->bytes > INT64_MAX - m->bytes)
        return status_fail(err, FATHOM_FORMAT, "%s: tokens or bytes: the shards' sum is too large", shard->file);
    if (m->count == m->capacity) {
        const int64_t capacity = m->capacity ? m->capacity * 2 : 16;
        manifest_shard *shards = realloc(m->shards, (size_t)capacity * sizeof *shards);
        if (!shards)
            return status_fail(err, FATHOM_OUT_OF_MEMORY, "list of shards: out of memory");
        m->shards = shards;
        m->capacity = capacity;
    }
    m->shards[m->count++] = *shard;
    m->tokens += shard->tokens;
    m->bytes += shard->bytes;
    return FATHOM_OK;
}

void manifest_free(manifest *m)
{
    free(m->shards);
    *m = (manifest){0};
}

static json_t *hex(uint64_t value)
{
    char text[17];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)value);
    return json_string(text);
}

fathom_status manifest_write(const manifest *m, const char *folder, fathom_error *err)
{
    json_t *shards = json_array();
    for (int64_t i = 0; i < m->count; i++) {
        const manifest_shard *s = &m->shards[i];
        json_t *one = json_pack("{s:s, s:s, s:I, s:I, s:o}", "file", s->file, "split", s->heldout ? "heldout" : "train", "tokens",
                                (json_int_t)s->tokens, "bytes", (json_int_t)s->bytes, "checksum", hex(s->checksum));
        if (!one || json_array_append_new(shards, one) != 0) {
            json_decref(shards);
            shards = NULL;
            break;
        }
    }
    char *path = path_join(folder, "manifest.json");
    json_t *root = json_pack("{s:s, s:i, s:o, s:I, s:I, s:I, s:o}", "format", FORMAT, "version", MANIFEST_VERSION, "tokenizer", hex(m->tokenizer),
                             "vocab", (json_int_t)m->vocab, "tokens", (json_int_t)m->tokens, "bytes", (json_int_t)m->bytes, "shards", shards);
    fathom_status status;
    if (path)
        status = json_file_write(path, root, err);
    else {
        json_decref(root);
        status = status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    free(path);
    return status;
}

static fathom_status read_count(const json_fields *f, const char *name, int64_t *out, fathom_error *err)
{
    TRY(json_field_int(f, name, out, err));
    return *out >= 0 ? FATHOM_OK : json_field_refuse(f, name, FATHOM_FORMAT, "must be 0 or above", err);
}

static fathom_status read_hex(const json_fields *f, const char *name, uint64_t *out, fathom_error *err)
{
    const char *text;
    TRY(json_field_string(f, name, &text, err));
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return json_field_refuse(f, name, FATHOM_FORMAT, "must be 16 digits of hexadecimal", err);
    *out = strtoull(text, NULL, 16);
    return FATHOM_OK;
}

static fathom_status read_shard(const json_fields *f, manifest_shard *out, fathom_error *err)
{
    const char *file, *split;
    TRY(json_field_string(f, "file", &file, err));
    if (strlen(file) >= sizeof out->file || *file == '.' || strchr(file, '/') || *file == 0)
        return json_field_refuse(f, "file", FATHOM_FORMAT, "must be the name of a file in the folder", err);
    strcpy(out->file, file);
    TRY(json_field_string(f, "split", &split, err));
    out->heldout = strcmp(split, "heldout") == 0;
    if (!out->heldout && strcmp(split, "train") != 0)
        return json_field_refuse(f, "split", FATHOM_FORMAT, "must be train or heldout", err);
    TRY(read_count(f, "tokens", &out->tokens, err));
    TRY(read_count(f, "bytes", &out->bytes, err));
    return read_hex(f, "checksum", &out->checksum, err);
}

static fathom_status read_root(const json_fields *f, manifest *out, fathom_error *err)
{
    int64_t version, tokens, bytes;
    const json_t *shards, *one;
    size_t i;
    const char *format;
    TRY(json_field_string(f, "format", &format, err));
    if (strcmp(format, FORMAT) != 0)
        return json_field_refuse(f, "format", FATHOM_FORMAT, "must be fathom-shards", err);
    TRY(json_field_int(f, "version", &version, err));
    if (version != MANIFEST_VERSION)
        return json_field_refuse(f, "version", FATHOM_UNSUPPORTED, "this build reads version 1", err);
    TRY(read_hex(f, "tokenizer", &out->tokenizer, err));
    TRY(read_count(f, "vocab", &out->vocab, err));
    TRY(read_count(f, "tokens", &tokens, err));
    TRY(read_count(f, "bytes", &bytes, err));
    TRY(json_field_get(f, "shards", JSON_ARRAY, &shards, err));
    json_array_foreach(shards, i, one) {
        char inside[32];
        manifest_shard shard;
        snprintf(inside, sizeof inside, "shards[%zu]", i);
        if (!json_is_object(one))
            return json_value_refuse(f, inside, one, FATHOM_FORMAT, "must be an object", err);
        TRY(read_shard(&(json_fields){one, f->path, inside}, &shard, err));
        TRY(manifest_add(out, &shard, err));
    }
    if (out->tokens != tokens)
        return json_field_refuse(f, "tokens", FATHOM_FORMAT, "is not the sum of the shards'", err);
    if (out->bytes != bytes)
        return json_field_refuse(f, "bytes", FATHOM_FORMAT, "is not the sum of the shards'", err);
    return FATHOM_OK;
}

/* Many things are called manifest.json, in folders of text too: ours says what it is at once, whole or not. */
static fathom_status is_ours(const char *path, bool *ours, fathom_error *err)
{
    file_map map;
    *ours = false;
    if (!path_exists(path))
        return FATHOM_OK;
    TRY(file_map_open(path, &map, err));
    *ours = map.size > 0 && memmem(map.data, map.size < SNIFFED_BYTES ? map.size : SNIFFED_BYTES, FORMAT, strlen(FORMAT));
    file_map_close(&map);
    return FATHOM_OK;
}

fathom_status manifest_read(const char *folder, manifest *out, bool *found, fathom_error *err)
{
    *out = (manifest){0};
    *found = false;
    json_t *root = NULL;
    char *path = path_join(folder, "manifest.json");
    fathom_status status = path ? is_ours(path, found, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK && *found)
        status = json_file_read(path, MOST_BYTES, &root, err);
    if (status == FATHOM_OK && *found)
        status = json_is_object(root) ? read_root(&(json_fields){root, path, NULL}, out, err)
                                      : status_fail(err, FATHOM_FORMAT, "%s: not a JSON object", path);
    if (status != FATHOM_OK)
        manifest_free(out);
    json_decref(root);
    free(path);
    return status;
}
