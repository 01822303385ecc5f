/* A model directory's description: see hf_directory.h. */
#include "format/hf_directory.h"

#include <stdlib.h>

#include "base/file.h"

/* python/fathom_hf, made by CMake into files of their own. */
extern const unsigned char modeling_fathom[], fathom_layers[];
extern const size_t modeling_fathom_size, fathom_layers_size;

static fathom_status write_code(const char *dir, const char *name, const unsigned char *text, size_t size, fathom_error *err)
{
    char *path = path_join(dir, name);
    const fathom_status status = path ? file_write(path, text, size, err) : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    free(path);
    return status;
}

static fathom_status write_config(const char *dir, const model_config *c, weight_type stored, fathom_error *err)
{
    char *config = path_join(dir, "config.json"), *generation = path_join(dir, "generation_config.json");
    fathom_status status = config && generation ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK)
        status = hf_generation_config_write(generation, c, err);
    if (status == FATHOM_OK)
        status = hf_config_write(config, c, stored, err);
    free(config);
    free(generation);
    return status;
}

fathom_status hf_directory_code(const char *dir, const model_config *c, fathom_error *err)
{
    if (!hf_config_is_ours(c))
        return FATHOM_OK;
    TRY(write_code(dir, "fathom_layers.py", fathom_layers, fathom_layers_size, err));
    return write_code(dir, "modeling_fathom.py", modeling_fathom, modeling_fathom_size, err);
}

fathom_status hf_directory_write(const char *dir, const model_config *c, weight_type stored, fathom_error *err)
{
    TRY(hf_directory_code(dir, c, err));
    return write_config(dir, c, stored, err);
}

bool hf_directory_occupied(const char *dir)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    bool there = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = path_join(dir, names[i]);
        there |= !path || path_exists(path);
        free(path);
    }
    return there;
}
