/* What the files of fathom generate share. */
#ifndef FATHOM_CLI_GENERATE_H
#define FATHOM_CLI_GENERATE_H

#include "fathom.h"

/* Continues every prompt in the file, many side by side; one JSON object a line on stdout, in the order of the file. Returns the exit code:
 * failed if any prompt did. */
int generate_batch(const fathom_model *model, const char *path, int64_t max_active, const fathom_generate_options *options);

#endif
