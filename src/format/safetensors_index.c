/* A model in several safetensors files: model.safetensors.index.json's "weight_map" says which tensor is in which file. The map
 * and the files must agree in both directions, so no tensor is read twice, left out or taken from elsewhere. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/json.h"
#include "format/safetensors.h"

enum { MAX_INDEX_SIZE = 100 << 20 };

typedef struct index_parts {
    const char *dir;
    const json_fields *map;
    safetensors **parts;
    const char **names; /* of the files, borrowed from the map */
    size_t count;
} index_parts;

/* The part of this name; NULL when it is not open. */
static const safetensors *find_part(const index_parts *p, const char *name)
{
    for (size_t i = p->count; i-- > 0;) /* the map goes file by file, more or less */
        if (strcmp(p->names[i], name) == 0)
            return p->parts[i];
    return NULL;
}

static fathom_status open_part(index_parts *p, const char *tensor, const char *name, fathom_error *err)
{
    if (!*name || *name == '.' || strchr(name, '/'))
        return json_field_refuse(p->map, tensor, FATHOM_FORMAT, "not the name of a file beside the index", err);
    void *parts = realloc(p->parts, (p->count + 1) * sizeof *p->parts);
    p->parts = parts ? parts : p->parts;
    void *names = realloc(p->names, (p->count + 1) * sizeof *p->names);
    p->names = names ? names : p->names;
    char *path = path_join(p->dir, name);
    fathom_status status = parts && names && path ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", p->map->path);
    if (status == FATHOM_OK)
        status = safetensors_open(path, &p->parts[p->count], err);
    if (status == FATHOM_OK)
        p->names[p->count++] = name;
    free(path);
    return status;
}

/* Every tensor of the map is in its file, and every tensor of the files is in the map for that file. */
static fathom_status check_cover(const index_parts *p, fathom_error *err)
{
    const char *tensor;
    const json_t *value;
    json_object_foreach((json_t *)p->map->object, tensor, value)
        if (!safetensors_find(find_part(p, json_string_value(value)), tensor))
            return json_field_refuse(p->map, tensor, FATHOM_FORMAT, "the file has no such tensor", err);
    for (size_t i = 0; i < p->count; i++)
        for (size_t j = 0; j < safetensors_count(p->parts[i]); j++) {
            const char *found = safetensors_at(p->parts[i], j)->name;
            const char *file = json_string_value(json_object_get(p->map->object, found));
            if (!file || strcmp(file, p->names[i]) != 0)
                return status_fail(err, FATHOM_FORMAT, "%s: %.100s: %s of %s has it in %.100s", safetensors_path(p->parts[i]), found,
                                   p->map->inside, p->map->path, file ? file : "no file");
        }
    return FATHOM_OK;
}

static fathom_status open_parts(index_parts *p, fathom_error *err)
{
    const char *tensor, *name;
    const json_t *value;
    json_object_foreach((json_t *)p->map->object, tensor, value) {
        TRY(json_field_string(p->map, tensor, &name, err));
        if (!find_part(p, name))
            TRY(open_part(p, tensor, name, err));
    }
    return check_cover(p, err);
}

static fathom_status open_index(const char *dir, const char *path, safetensors **out, fathom_error *err)
{
    json_t *root;
    TRY(json_file_read(path, MAX_INDEX_SIZE, &root, err));
    const json_fields file = {root, path, NULL};
    json_fields map = {.path = path, .inside = "weight_map"};
    index_parts p = {.dir = dir, .map = &map};
    fathom_status status = json_is_object(root) ? FATHOM_OK : status_fail(err, FATHOM_FORMAT, "%s: not a JSON object", path);
    if (status == FATHOM_OK)
        status = json_field_get(&file, "weight_map", JSON_OBJECT, &map.object, err);
    if (status == FATHOM_OK)
        status = open_parts(&p, err);
    if (status == FATHOM_OK)
        status = safetensors_join(path, p.parts, p.count, out, err);
    for (size_t i = 0; i < p.count && status != FATHOM_OK; i++)
        safetensors_close(p.parts[i]);
    if (status != FATHOM_OK)
        free(p.parts);
    free(p.names);
    json_decref(root);
    return status;
}

fathom_status safetensors_open_model(const char *dir, safetensors **out, fathom_error *err)
{
    *out = NULL;
    char *single = path_join(dir, "model.safetensors"), *several = path_join(dir, "model.safetensors.index.json");
    fathom_status status;
    if (!single || !several)
        status = status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", dir);
    else if (path_exists(several) && !path_exists(single))
        status = open_index(dir, several, out, err);
    else
        status = safetensors_open(single, out, err);
    free(single);
    free(several);
    return status;
}
