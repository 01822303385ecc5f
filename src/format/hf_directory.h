/* A model directory's description: all of it but the weights and tokenizer.json. */
#ifndef FATHOM_FORMAT_HF_DIRECTORY_H
#define FATHOM_FORMAT_HF_DIRECTORY_H

#include "format/hf_config.h"

/* Beside a model that transformers does not know (FathomForCausalLM) the Python files that run it there; nothing for others. The folder
 * dir must be there. */
fathom_status hf_directory_code(const char *dir, const model_config *c, fathom_error *err);
/* These, then config.json, which names them, and generation_config.json. */
fathom_status hf_directory_write(const char *dir, const model_config *c, weight_type stored, fathom_error *err);

/* Are there weights already, in one file or in several? */
bool hf_directory_occupied(const char *dir);

#endif
