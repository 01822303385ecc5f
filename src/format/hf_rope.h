/* RoPE in config.json. Older files have rope_theta at the root and rope_scaling, an object that names its kind `type` or
 * `rope_type`, or null; newer ones have both in rope_parameters. Written as rope_theta and rope_scaling, which all read. */
#ifndef FATHOM_FORMAT_HF_ROPE_H
#define FATHOM_FORMAT_HF_ROPE_H

#include "format/json.h"
#include "model/config.h"

/* Sets rope_theta where the file has it, and scaling. What is inside either object and not known is refused by name: it would
 * change the angles. */
fathom_status hf_rope_read(const json_fields *f, model_config *c, fathom_error *err);
/* 0, or below it when out of memory. */
int hf_rope_put(json_t *o, const model_config *c);

#endif
