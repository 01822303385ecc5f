/* Checkpoints: see checkpoint.h. */
#include "train/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "format/json.h"

enum { STATE_BYTES_MOST = 1 << 20 };

/* Every path of one directory, owned together. */
typedef struct checkpoint_paths {
    char *model, *model_link, *current, *fresh, *old;
    char *fresh_model, *fresh_optimizer, *fresh_state;
    char *current_model, *current_optimizer, *current_state;
} checkpoint_paths;

static void paths_free(checkpoint_paths *p)
{
    char **all[] = {&p->model, &p->model_link, &p->current, &p->fresh, &p->old, &p->fresh_model, &p->fresh_optimizer,
                    &p->fresh_state, &p->current_model, &p->current_optimizer, &p->current_state};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(*all[i]);
    *p = (checkpoint_paths){0};
}

static fathom_status paths_make(const char *dir, checkpoint_paths *p, fathom_error *err)
{
    *p = (checkpoint_paths){
        .model = path_join(dir, "model.safetensors"),
        .model_link = path_join(dir, "model.safetensors.tmp"),
        .current = path_join(dir, "trainer"),
        .fresh = path_join(dir, "trainer.new"),
        .old = path_join(dir, "trainer.old"),
        .fresh_model = path_join(dir, "trainer.new/model.safetensors"),
        .fresh_optimizer = path_join(dir, "trainer.new/optimizer.safetensors"),
        .fresh_state = path_join(dir, "trainer.new/state.json"),
        .current_model = path_join(dir, "trainer/model.safetensors"),
        .current_optimizer = path_join(dir, "trainer/optimizer.safetensors"),
        .current_state = path_join(dir, "trainer/state.json"),
    };
    if (p->model && p->model_link && p->current && p->fresh && p->old && p->fresh_model && p->fresh_optimizer &&
        p->fresh_state && p->current_model && p->current_optimizer && p->current_state)
        return FATHOM_OK;
    paths_free(p);
    return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
}

static fathom_status write_fresh(const checkpoint_paths *p, const model *m, float *moment1, float *moment2,
                                 const json_t *state, fathom_error *err)
{
    TRY(folder_remove(p->fresh, err));
    TRY(folder_create(p->fresh, err));
    TRY(model_write_blocks(m, &(param_block){"", m->store.values}, 1, p->fresh_model, err));
    const param_block moments[] = {{"exp_avg.", moment1}, {"exp_avg_sq.", moment2}};
    TRY(model_write_blocks(m, moments, 2, p->fresh_optimizer, err));
    char *text = json_dumps(state, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    if (!text)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", p->fresh_state);
    fathom_status status = file_write(p->fresh_state, text, strlen(text), err);
    free(text);
    return status;
}

static fathom_status rename_or_fail(const char *from, const char *to, fathom_error *err)
{
    if (rename(from, to) != 0)
        return status_fail(err, FATHOM_IO, "%s: cannot rename to %s: %s", from, to, strerror(errno));
    return FATHOM_OK;
}

/* trainer.new becomes trainer, in one step where the file system can exchange names. Where it cannot, there is a moment with
 * trainer.old only, from which `recover` returns. */
static fathom_status swap_in(const checkpoint_paths *p, fathom_error *err)
{
    if (!path_exists(p->current))
        return rename_or_fail(p->fresh, p->current, err);
    if (renameat2(AT_FDCWD, p->fresh, AT_FDCWD, p->current, RENAME_EXCHANGE) == 0)
        return folder_remove(p->fresh, err);
    TRY(folder_remove(p->old, err));
    TRY(rename_or_fail(p->current, p->old, err));
    TRY(rename_or_fail(p->fresh, p->current, err));
    return folder_remove(p->old, err);
}

static fathom_status recover(const checkpoint_paths *p, fathom_error *err)
{
    if (!path_exists(p->current) && path_exists(p->old))
        return rename_or_fail(p->old, p->current, err);
    return FATHOM_OK;
}

static fathom_status copy_file(const char *from, const char *to, fathom_error *err)
{
    file_map map;
    TRY(file_map_open(from, &map, err));
    fathom_status status = file_write(to, map.data, map.size, err);
    file_map_close(&map);
    return status;
}

/* The checkpoint's model under the name that everybody reads. */
static fathom_status publish(const checkpoint_paths *p, fathom_error *err)
{
    unlink(p->model_link);
    if (link(p->current_model, p->model_link) != 0)
        return copy_file(p->current_model, p->model, err); /* a file system without hard links */
    TRY(rename_or_fail(p->model_link, p->model, err));
    unlink(p->model_link); /* two names of one file are left as they are by a rename */
    return FATHOM_OK;
}

fathom_status checkpoint_save(const char *dir, const model *m, float *moment1, float *moment2, const json_t *state,
                              fathom_error *err)
{
    checkpoint_paths p;
    TRY(paths_make(dir, &p, err));
    fathom_status status = recover(&p, err);
    if (status == FATHOM_OK)
        status = write_fresh(&p, m, moment1, moment2, state, err);
    if (status != FATHOM_OK)
        folder_remove(p.fresh, NULL); /* what a full disk cut short; the last checkpoint is untouched */
    else
        status = swap_in(&p, err);
    if (status == FATHOM_OK)
        status = publish(&p, err);
    if (status == FATHOM_OK)
        status = folder_sync(dir, err);
    paths_free(&p);
    return status;
}

fathom_status checkpoint_read_state(const char *dir, json_t **state, fathom_error *err)
{
    *state = NULL;
    checkpoint_paths p;
    TRY(paths_make(dir, &p, err));
    fathom_status status = recover(&p, err);
    if (status == FATHOM_OK && path_exists(p.current)) {
        status = json_file_read(p.current_state, STATE_BYTES_MOST, state, err);
    }
    paths_free(&p);
    return status;
}

fathom_status checkpoint_read_values(const char *dir, model *m, float *moment1, float *moment2, fathom_error *err)
{
    checkpoint_paths p;
    TRY(paths_make(dir, &p, err));
    const param_block moments[] = {{"exp_avg.", moment1}, {"exp_avg_sq.", moment2}};
    fathom_status status = model_read_values(m, p.current_model, err);
    if (status == FATHOM_OK)
        status = model_read_blocks(m, moments, 2, p.current_optimizer, err);
    if (status == FATHOM_OK)
        status = publish(&p, err); /* a run killed between the exchange and this */
    paths_free(&p);
    return status;
}
