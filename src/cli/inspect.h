/* What the two halves of fathom inspect share: the map of one text and the statistics of a corpus. */
#ifndef FATHOM_CLI_INSPECT_H
#define FATHOM_CLI_INSPECT_H

#include "cli/cli.h"
#include "infer/session.h"
#include "inspect/trace.h"

enum { CELL_COLUMNS = 8, CELL_BYTES = CELL_COLUMNS * 4 }; /* of a token at most */

/* A token as it is shown. */
typedef struct inspect_cell {
    char text[CELL_BYTES + 1];
    int columns;
} inspect_cell;

/* Spaces and line ends are shown by signs, control characters and broken UTF-8 by a question mark: nothing that a text holds
 * reaches the terminal as a command. */
inspect_cell inspect_cell_make(const char *text, size_t bytes);

/* "block  3 ", or "  3 attn " where attention and MLP are routed apart: nine columns. */
void inspect_print_label(const trace_layer *l);

/* Prints; returns the exit code. */
int inspect_print_stats(const trace *t, const int32_t *tokens, const fathom_model *model, const char *routing, bool json);

#endif
