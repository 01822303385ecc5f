/* A model directory's description: all of it but the weights and tokenizer.json. */
#ifndef FATHOM_FORMAT_HF_DIRECTORY_H
#define FATHOM_FORMAT_HF_DIRECTORY_H

#include "format/hf_config.h"

/* config.json and generation_config.json into the folder dir, which must be there. Beside a model that transformers does not know
 * (FathomForCausalLM) also the Python files that run it there, before config.json, which names them. */
fathom_status hf_directory_write(const char *dir, const model_config *c, weight_type stored, fathom_error *err);

#endif
