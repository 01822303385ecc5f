/* Checkpoints: the model directory's model.safetensors and the trainer's state, which change together or not at all.
 *
 *     DIR/model.safetensors            what everybody reads
 *     DIR/trainer/model.safetensors    the same file (a hard link), with which the state beside it was written
 *     DIR/trainer/optimizer.safetensors, state.json
 *
 * A save fills DIR/trainer.new, exchanges it with DIR/trainer in one rename, and then renames the model into place. A reader of
 * DIR/model.safetensors sees a whole file at any time; a resumed run reads DIR/trainer alone, so it never meets parts of two
 * checkpoints. */
#ifndef FATHOM_TRAIN_CHECKPOINT_H
#define FATHOM_TRAIN_CHECKPOINT_H

#include <jansson.h>

#include "model/model.h"

/* m: values, moment1 and moment2 laid out as the parameters. state is borrowed. */
fathom_status checkpoint_save(const char *dir, const model *m, float *moment1, float *moment2, const json_t *state,
                              fathom_error *err);
/* *state is NULL when DIR holds no checkpoint; otherwise the caller's (json_decref). */
fathom_status checkpoint_read_state(const char *dir, json_t **state, fathom_error *err);
fathom_status checkpoint_read_values(const char *dir, model *m, float *moment1, float *moment2, fathom_error *err);

#endif
