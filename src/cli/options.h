/* Command-line options: one table for a command drives parsing, --config FILE and --help. */
#ifndef FATHOM_CLI_OPTIONS_H
#define FATHOM_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum option_kind {
    OPTION_FLAG,    /* bool; set to true */
    OPTION_INTEGER, /* int64_t */
    OPTION_NUMBER,  /* double */
    OPTION_TEXT,    /* const char * */
    OPTION_LIST,    /* option_list: takes every word up to the next option; may be repeated */
    OPTION_HEADING, /* a line in --help */
} option_kind;

enum { OPTION_LIST_MAX = 256 };
typedef struct option_list {
    const char *items[OPTION_LIST_MAX];
    size_t count;
    bool from_file; /* from --config: the command line replaces it */
} option_list;

typedef struct option {
    option_kind kind;
    const char *name;  /* without the dashes */
    void *target;
    const char *value; /* what the value is called in --help */
    const char *help;
} option;

typedef struct options_input {
    const char *command, *arguments; /* "train", "DIR" (for the usage line) */
    const char *summary;             /* one or two lines */
    const option *options;           /* ends with a zero entry */
    int positional_max;
} options_input;

typedef struct options_result {
    const char *positional[4];
    int positional_count;
    bool help; /* --help was given and has been printed */
    void *config; /* keeps texts from --config alive */
} options_result;

/* Reads --config FILE first (a JSON object whose keys are option names), then the command line, which wins. An unknown option
 * or a value of the wrong form is FATHOM_INVALID_ARGUMENT: the caller exits with 2. A --config file that cannot be read has its
 * own status. */
fathom_status options_parse(const options_input *in, int argc, char **argv, options_result *out, fathom_error *err);
void options_free(options_result *r);

#endif
