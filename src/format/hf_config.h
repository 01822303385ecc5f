/* config.json and generation_config.json as Hugging Face writes them: LlamaForCausalLM, or the family's own, for a plain model,
 * FathomForCausalLM with a "mod" object for an MoD one (docs/formats.md lists every field). */
#ifndef FATHOM_FORMAT_HF_CONFIG_H
#define FATHOM_FORMAT_HF_CONFIG_H

#include "kernels/kernels.h"
#include "model/config.h"

/* Reads and checks (model_config_check). A field of the wrong type, a missing field that has no default and a value
 * that the engine does not support are refused by name. */
fathom_status hf_config_read(const char *path, model_config *out, fathom_error *err);
/* Is it FathomForCausalLM, or a plain LlamaForCausalLM? */
bool hf_config_is_ours(const model_config *c);
/* Every number that the model uses comes back with the same bits; mod's fields of a plain model, and thresholds of
 * plain layers, mean nothing and are not written. stored: how the large matrices are. c must pass model_config_check. */
fathom_status hf_config_write(const char *path, const model_config *c, weight_type stored, fathom_error *err);
/* The file `from`, which hf_config_read takes, with nothing changed but how the large matrices are stored; byte for byte where it
 * says that already. */
fathom_status hf_config_copy(const char *from, const char *to, weight_type stored, fathom_error *err);
fathom_status hf_generation_config_write(const char *path, const model_config *c, fathom_error *err);

#endif
