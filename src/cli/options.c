/* Command-line options: see options.h. */
#include "cli/options.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"

enum { CONFIG_BYTES_MOST = 1 << 20 };

static bool listed(const option *o)
{
    return o->name != NULL;
}

static const option *find(const option *table, const char *name, size_t length)
{
    for (const option *o = table; listed(o); o++)
        if (o->kind != OPTION_HEADING && strlen(o->name) == length && strncmp(o->name, name, length) == 0)
            return o;
    return NULL;
}

static fathom_status bad_value(const option *o, const char *text, const char *want, fathom_error *err)
{
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: %s: %s", o->name, text, want);
}

static fathom_status set_value(const option *o, const char *text, fathom_error *err)
{
    char *end;
    errno = 0;
    switch (o->kind) {
    case OPTION_INTEGER:
        *(int64_t *)o->target = strtoll(text, &end, 10);
        return *text && !*end && !errno ? FATHOM_OK : bad_value(o, text, "not a whole number", err);
    case OPTION_NUMBER:
        *(double *)o->target = strtod(text, &end);
        return *text && !*end && !errno ? FATHOM_OK : bad_value(o, text, "not a number", err);
    case OPTION_TEXT:
        *(const char **)o->target = text;
        return FATHOM_OK;
    case OPTION_LIST: {
        option_list *list = o->target;
        if (list->count == OPTION_LIST_MAX)
            return bad_value(o, text, "too many values", err);
        list->items[list->count++] = text;
        return FATHOM_OK;
    }
    default: return FATHOM_OK;
    }
}

static void print_help(const options_input *in)
{
    printf("usage: fathom %s %s%s[options]\n\n%s\n\n", in->command, in->arguments, *in->arguments ? " " : "", in->summary);
    for (const option *o = in->options; listed(o); o++) {
        char left[64];
        if (o->kind == OPTION_HEADING) {
            printf("%s%s:\n", o == in->options ? "" : "\n", o->name);
            continue;
        }
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-28s %s\n", left, o->help);
    }
    printf("  %-28s %s\n  %-28s %s\n", "--config FILE", "a JSON object that may hold any of these options", "--help",
           "this text");
}

static fathom_status set_from_json(const option *o, json_t *value, const char *path, fathom_error *err)
{
    const json_type type = json_typeof(value);
    if (o->kind == OPTION_FLAG && (type == JSON_TRUE || type == JSON_FALSE)) {
        *(bool *)o->target = type == JSON_TRUE;
        return FATHOM_OK;
    }
    if (o->kind == OPTION_INTEGER && type == JSON_INTEGER) {
        *(int64_t *)o->target = json_integer_value(value);
        return FATHOM_OK;
    }
    if (o->kind == OPTION_NUMBER && (type == JSON_INTEGER || type == JSON_REAL)) {
        *(double *)o->target = json_number_value(value);
        return FATHOM_OK;
    }
    if ((o->kind == OPTION_TEXT || o->kind == OPTION_LIST) && type == JSON_STRING)
        return set_value(o, json_string_value(value), err);
    if (o->kind == OPTION_LIST && type == JSON_ARRAY) {
        size_t i;
        json_t *item;
        json_array_foreach(value, i, item)
        {
            if (!json_is_string(item))
                return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %s: must hold texts", path, o->name);
            TRY(set_value(o, json_string_value(item), err));
        }
        return FATHOM_OK;
    }
    const char *const wanted = o->kind == OPTION_FLAG ? "true or false" : o->kind == OPTION_INTEGER ? "a whole number"
                               : o->kind == OPTION_NUMBER ? "a number" : o->kind == OPTION_LIST ? "texts in an array" : "a text, in quotes";
    return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %s: must be %s", path, o->name, wanted);
}

static fathom_status read_config(const options_input *in, const char *path, options_result *out, fathom_error *err)
{
    json_t *root;
    TRY(json_file_read(path, CONFIG_BYTES_MOST, &root, err));
    out->config = root;
    if (!json_is_object(root))
        return status_fail(err, FATHOM_FORMAT, "%s: not a JSON object", path);
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        const option *o = find(in->options, key, strlen(key));
        if (!o)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %s: fathom %s has no such option", path, key, in->command);
        TRY(set_from_json(o, value, path, err));
        if (o->kind == OPTION_LIST)
            ((option_list *)o->target)->from_file = true;
    }
    return FATHOM_OK;
}

/* --config is read before the other options, wherever it stands. */
static fathom_status find_config(const options_input *in, int argc, char **argv, options_result *out, fathom_error *err)
{
    const char *path = NULL;
    for (int i = 0; i < argc; i++) {
        const bool separate = strcmp(argv[i], "--config") == 0;
        if (!separate && strncmp(argv[i], "--config=", 9) != 0)
            continue;
        if (separate && i + 1 == argc)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--config: needs a value");
        if (path)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "--config: %s: given twice", separate ? argv[i + 1] : argv[i] + 9);
        path = separate ? argv[++i] : argv[i] + 9;
    }
    return path ? read_config(in, path, out, err) : FATHOM_OK;
}

/* One option at argv[*i]; leaves *i at the last word it took. A list given on the command line replaces the file's. */
static fathom_status parse_option(const options_input *in, int argc, char **argv, int *i, fathom_error *err)
{
    const char *word = argv[*i] + 2, *equals = strchr(word, '=');
    const size_t length = equals ? (size_t)(equals - word) : strlen(word);
    if (length == 6 && strncmp(word, "config", 6) == 0) {
        *i += equals ? 0 : 1;
        return FATHOM_OK;
    }
    const option *o = find(in->options, word, length);
    if (!o)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "unknown option %s (fathom %s --help lists them)", argv[*i],
                           in->command);
    if (o->kind == OPTION_FLAG) {
        if (equals)
            return bad_value(o, equals + 1, "takes no value", err);
        *(bool *)o->target = true;
        return FATHOM_OK;
    }
    if (o->kind == OPTION_LIST && ((option_list *)o->target)->from_file)
        *(option_list *)o->target = (option_list){0};
    if (equals)
        return set_value(o, equals + 1, err);
    if (*i + 1 >= argc || (o->kind == OPTION_LIST && strncmp(argv[*i + 1], "--", 2) == 0))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--%s: needs a value", o->name);
    TRY(set_value(o, argv[++*i], err));
    while (o->kind == OPTION_LIST && *i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0)
        TRY(set_value(o, argv[++*i], err));
    return FATHOM_OK;
}

fathom_status options_parse(const options_input *in, int argc, char **argv, options_result *out, fathom_error *err)
{
    *out = (options_result){0};
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(in);
            out->help = true;
            return FATHOM_OK;
        }
    TRY(find_config(in, argc, argv, out, err));
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) == 0 && argv[i][2]) {
            TRY(parse_option(in, argc, argv, &i, err));
        } else if (argv[i][0] == '-' && argv[i][1]) {
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "unknown option %s (fathom %s --help lists them)", argv[i],
                               in->command);
        } else if (out->positional_count == in->positional_max) {
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "unexpected argument %s", argv[i]);
        } else {
            out->positional[out->positional_count++] = argv[i];
        }
    }
    return FATHOM_OK;
}

void options_free(options_result *r)
{
    json_decref(r->config);
    *r = (options_result){0};
}
