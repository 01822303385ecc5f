/* fathom inspect: which token went through which block, as a heat map on a terminal or as JSON. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/inspect.h"
#include "inspect/report.h"
#include "model/budget.h"

typedef struct inspect_command {
    const char *text, *file, *html, *routing, *color;
    option_list data;
    double budget;
    int64_t threads, width, tokens;
    bool stats, json;
} inspect_command;

enum { LABEL = 9, MOST_HTML = 20000 }; /* columns of a layer's label; tokens that a browser draws in one page */

/* --- a token as it stands in a column of the map --- */

/* Bytes of the whole UTF-8 character at s, 0 where there is none. Columns are counted one a character. */
static size_t character(const char *s, size_t left)
{
    const unsigned char first = (unsigned char)*s;
    const size_t size = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    if (size == 0 || size > left)
        return 0;
    /* neither longer than need be, nor half of a pair, nor past the last character */
    const unsigned char second = size > 1 ? (unsigned char)s[1] : 0, low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    if (size > 1 && (second < low || second > (first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf)))
        return 0;
    for (size_t i = 1; i < size; i++)
        if (((unsigned char)s[i] & 0xc0) != 0x80)
            return 0;
    return size;
}

inspect_cell inspect_cell_make(const char *text, size_t bytes)
{
    inspect_cell c = {0};
    size_t at = 0;
    for (size_t i = 0; i < bytes && c.columns < CELL_COLUMNS;) {
        size_t size = character(text + i, bytes - i);
        const unsigned char first = (unsigned char)text[i];
        const char *sign = size == 0 ? "?" : first == ' ' ? "\u00b7" : first == '\n' ? "\u21b5" : first == '\t' ? "\u2192"
                           : first < 0x20 || first == 0x7f || (size == 2 && first == 0xc2 && (unsigned char)text[i + 1] < 0xa0) ? "?" : NULL;
        const size_t length = sign ? strlen(sign) : size;
        memcpy(c.text + at, sign ? sign : text + i, length);
        at += length;
        c.columns++;
        i += size ? size : 1;
    }
    if (c.columns == 0) {
        strcpy(c.text, "?");
        c.columns = 1;
    }
    return c;
}

/* --- the map --- */

typedef struct map {
    const trace *t;
    const inspect_cell *cells;
    bool color;
    int width;
    const float *low, *high; /* [layers] weights of the routed tokens */
} map;

/* Dark violet over green to yellow: light grows with the value, so it reads without colour vision too. */
static void shade(double value, int rgb[3])
{
    static const int stops[4][3] = {{68, 1, 84}, {49, 104, 142}, {53, 183, 121}, {253, 231, 37}};
    const double at = fmin(fmax(value, 0), 1) * 3;
    const int i = at >= 3 ? 2 : (int)at;
    for (int k = 0; k < 3; k++)
        rgb[k] = (int)lround(stops[i][k] + (at - i) * (stops[i + 1][k] - stops[i][k]));
}

static void weight_range(const trace *t, const trace_layer *l, float *low, float *high)
{
    *low = INFINITY;
    *high = -INFINITY;
    for (int64_t i = 0; i < t->count; i++)
        if (l->routed[i]) {
            *low = fminf(*low, l->weight[i]);
            *high = fmaxf(*high, l->weight[i]);
        }
}

static void put(const map *m, bool routed, double value, int columns)
{
    if (!m->color || !routed) {
        for (int k = 0; k < columns; k++)
            putchar(routed ? '#' : '.');
        return;
    }
    int rgb[3];
    shade(value, rgb);
    printf("\x1b[48;2;%d;%d;%dm%*s\x1b[0m", rgb[0], rgb[1], rgb[2], columns, "");
}

void inspect_print_label(const trace_layer *l)
{
    if (*l->part)
        printf("%3d %-4s ", (int)l->layer, l->part);
    else
        printf("block%3d ", (int)l->layer);
}

static void print_layer(const map *m, int64_t layer, int64_t begin, int64_t end)
{
    const trace_layer *l = &m->t->layer[layer];
    const float low = m->low[layer], high = m->high[layer];
    inspect_print_label(l);
    for (int64_t i = begin; i < end; i++)
        put(m, l->routed[i], high > low ? (double)((l->weight[i] - low) / (high - low)) : 1, m->cells[i].columns);
    putchar('\n');
}

static void print_map(const map *m)
{
    for (int64_t begin = 0; begin < m->t->count;) {
        int64_t end = begin;
        for (int used = LABEL; end < m->t->count && (end == begin || used + m->cells[end].columns <= m->width); end++)
            used += m->cells[end].columns;
        printf("%-*s", LABEL, "");
        for (int64_t i = begin; i < end; i++)
            fputs(m->cells[i].text, stdout);
        putchar('\n');
        for (int64_t l = m->t->layers - 1; l >= 0; l--) /* depth upwards, as in the paper's figure */
            print_layer(m, l, begin, end);
        putchar('\n');
        begin = end;
    }
    for (int64_t l = 0; l < m->t->layers; l++) {
        inspect_print_label(&m->t->layer[l]);
        printf(" %5.1f %% of the tokens", 100.0 * (double)m->t->layer[l].selected / (double)m->t->count);
        if (m->t->layer[l].selected > 0)
            printf(", weights %.3f to %.3f", (double)m->low[l], (double)m->high[l]);
        putchar('\n');
    }
}

/* --- the command --- */

static json_t *numbers(const float *values, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(list, cli_number((double)values[i]));
    return list;
}

static int print_json(const inspect_command *c, const trace *t, const int32_t *ids)
{
    json_t *o = json_object(), *tokens = json_array(), *layers = json_array();
    for (int64_t i = 0; i < t->count; i++)
        json_array_append_new(tokens, json_integer(ids[i]));
    for (int64_t l = 0; l < t->layers; l++) {
        const trace_layer *from = &t->layer[l];
        json_t *layer = json_object(), *selected = json_array(), *weights = json_array();
        for (int64_t i = 0; i < t->count; i++)
            if (from->routed[i]) {
                json_array_append_new(selected, json_integer(i));
                json_array_append_new(weights, cli_number((double)from->weight[i]));
            }
        json_object_set_new(layer, "layer", json_integer(from->layer));
        if (*from->part)
            json_object_set_new(layer, "unit", json_string(from->part));
        json_object_set_new(layer, "selected", selected);
        json_object_set_new(layer, "weights", weights);
        json_array_append_new(layers, layer);
    }
    json_object_set_new(o, "routing", json_string(c->routing));
    json_object_set_new(o, "tokens", tokens);
    json_object_set_new(o, "loss", numbers(t->loss, t->count));
    json_object_set_new(o, "mean_loss", cli_number(t->mean_loss));
    json_object_set_new(o, "layers", layers);
    return cli_print_json(o);
}

/* 24-bit colour where the terminal says that it has it. */
static bool wants_color(const char *choice)
{
    const char *kind = getenv("COLORTERM"), *no = getenv("NO_COLOR");
    if (strcmp(choice, "auto") != 0)
        return strcmp(choice, "always") == 0;
    return isatty(STDOUT_FILENO) && !(no && *no) && kind && (strcmp(kind, "truecolor") == 0 || strcmp(kind, "24bit") == 0);
}

static int terminal_width(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static int show(const inspect_command *c, const char *dir, const fathom_model *model, const trace *t, const int32_t *ids)
{
    fathom_error err;
    if (c->html && report_write(c->html, dir, t, ids, model->tok, &err) != FATHOM_OK)
        return cli_fail(&err);
    if (c->html && !c->json) {
        printf("%s: %lld tokens\n", c->html, (long long)t->count);
        return EXIT_OK;
    }
    if (c->stats)
        return inspect_print_stats(t, ids, model, c->routing, c->json);
    if (c->json)
        return print_json(c, t, ids);
    inspect_cell *cells = calloc((size_t)t->count, sizeof *cells);
    if (!cells) {
        status_fail(&err, FATHOM_OUT_OF_MEMORY, "out of memory");
        return cli_fail(&err);
    }
    for (int64_t i = 0; i < t->count; i++) {
        size_t bytes = 0;
        const char *text = tokenizer_text(model->tok, ids[i], &bytes);
        cells[i] = inspect_cell_make(text ? text : "", bytes);
    }
    float low[MODEL_MAX_STAGES], high[MODEL_MAX_STAGES];
    for (int64_t l = 0; l < t->layers; l++)
        weight_range(t, &t->layer[l], &low[l], &high[l]);
    print_map(&(map){t, cells, wants_color(c->color), c->width ? (int)c->width : terminal_width(), low, high});
    printf("%s routing, %lld tokens", c->routing, (long long)t->count);
    if (isfinite(t->mean_loss))
        printf(", loss %.4f nats/token", t->mean_loss);
    putchar('\n');
    free(cells);
    return EXIT_OK;
}

static fathom_status read_text(const inspect_command *c, const fathom_model *model, int32_t **ids, int64_t *count,
                               fathom_error *err)
{
    file_map map = {.data = (void *)c->text, .size = c->text ? strlen(c->text) : 0};
    if (c->file)
        TRY(file_map_open(c->file, &map, err));
    id_list list = {0};
    const fathom_status status = tokenizer_encode(model->tok, (const char *)map.data, map.size, true, &list, err);
    *ids = list.ids;
    *count = (int64_t)list.count;
    if (c->file)
        file_map_close(&map);
    if (status == FATHOM_OK && *count == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: no tokens", c->file ? c->file : "--text");
    return status;
}

/* Whole windows of the model's length, spread evenly over the text, one after the other. */
static fathom_status read_corpus(const inspect_command *c, const fathom_model *model, int32_t **ids, int64_t *count,
                                 fathom_error *err)
{
    corpus data = {0};
    const corpus_input in = {.paths = c->data.items, .count = c->data.count, .tokenizer = model->tok, .vocab = model->m.config.vocab,
                             .evaluation = true};
    fathom_status status = corpus_load(&in, &data, err);
    const int64_t T = model->m.config.seq_len, n = data.train.count, all = n > T ? n / T : 1, wanted = (c->tokens + T - 1) / T;
    const int64_t windows = wanted < all ? wanted : all, length = n > T ? T : n;
    if (status == FATHOM_OK) {
        *ids = malloc((size_t)(windows * length + 1) * sizeof **ids);
        if (!*ids)
            status = status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    for (int64_t w = 0; status == FATHOM_OK && w < windows; w++)
        status = corpus_part_read(&data.train, w * all / windows * length, length, *ids + w * length, err);
    *count = windows * length;
    corpus_free(&data);
    return status;
}

static int run(const inspect_command *c, const char *dir, routing r)
{
    fathom_error err, problem;
    fathom_model *loaded = NULL;
    trace t = {0};
    int32_t *ids = NULL;
    int64_t count = 0;
    float threshold[MODEL_MAX_STAGES];
    const tokenizer *tok;
    fathom_status status = fathom_model_load(dir, (int)c->threads, &loaded, &err);
    if (status == FATHOM_OK)
        status = session_tokenizer(loaded, &tok, &err); /* what follows shows text */
    if (status == FATHOM_OK && c->budget != 0)
        status = budget_thresholds(&loaded->m.config, c->budget, threshold, &err);
    if (status == FATHOM_OK)
        status = (c->stats ? read_corpus : read_text)(c, loaded, &ids, &count, &err);
    if (status == FATHOM_OK && c->html && count > MOST_HTML)
        status = status_fail(&err, FATHOM_INVALID_ARGUMENT, "--html: %lld tokens: a page holds at most %d", (long long)count, MOST_HTML);
    if (status == FATHOM_OK && trace_run(&loaded->m, r, c->budget != 0 ? threshold : NULL, ids, count, &t, &problem) != FATHOM_OK)
        status = status_fail(&err, problem.code, "%s: %s", dir, problem.message);
    const int code = status == FATHOM_OK ? show(c, dir, loaded, &t, ids) : cli_fail(&err);
    trace_free(&t);
    free(ids);
    fathom_model_free(loaded);
    return code;
}

static fathom_status check(const inspect_command *c, int directories, routing *r, fathom_error *err)
{
    TRY(threads_check(c->threads, err));
    *r = strcmp(c->routing, "topk") == 0 ? ROUTING_TOPK : ROUTING_CAUSAL;
    if (directories != 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "inspect needs a model directory");
    if ((c->text != NULL) + (c->file != NULL) + c->stats != 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "inspect needs one of --text, --file and --stats");
    if (c->html && c->stats)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--html: shows one text, not --stats");
    if (c->stats != (c->data.count > 0))
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--data: goes with --stats, which needs it");
    if (c->tokens < 1 || c->tokens > (int64_t)1 << 32)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--tokens: %lld: must be 1 to 4294967296", (long long)c->tokens);
    if (*r == ROUTING_CAUSAL && strcmp(c->routing, "causal") != 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--routing: %s: must be topk or causal", c->routing);
    if (*r == ROUTING_TOPK && c->budget != 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--budget: %g: goes with causal routing; topk has its fixed capacity",
                           c->budget);
    if (strcmp(c->color, "auto") != 0 && strcmp(c->color, "always") != 0 && strcmp(c->color, "never") != 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--color: %s: must be auto, always or never", c->color);
    if (c->width < 0 || (c->width > 0 && c->width < 20) || c->width > 10000)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "--width: %lld: must be 20 to 10000", (long long)c->width);
    return FATHOM_OK;
}

int command_inspect(int argc, char **argv)
{
    inspect_command c = {.routing = "causal", .color = "auto", .tokens = 65536};
    const option table[] = {
        {OPTION_TEXT, "text", &c.text, "TEXT", "what to route"},
        {OPTION_TEXT, "file", &c.file, "PATH", "the same from a file"},
        {OPTION_TEXT, "html", &c.html, "PATH", "write one page with the tokens, the map, the weights and the losses, instead of the map"},
        {OPTION_FLAG, "stats", &c.stats, 0, "statistics over --data: by block, by kind of token, agreement of blocks"},
        {OPTION_LIST, "data", &c.data, "PATH...", "with --stats: text files, folders of text, or token shards"},
        {OPTION_INTEGER, "tokens", &c.tokens, "N", "with --stats: tokens to read, spread over the text (65536)"},
        {OPTION_TEXT, "routing", &c.routing, "R", "causal (what sampling does) or topk (as trained) (causal)"},
        {OPTION_NUMBER, "budget", &c.budget, "X", "causal routing of this mean share of tokens; needs fathom calibrate (the model's own)"},
        {OPTION_TEXT, "color", &c.color, "WHEN", "auto (24-bit where the terminal has it), always, never (auto)"},
        {OPTION_INTEGER, "width", &c.width, "N", "columns (the terminal's, or 80)"},
        {OPTION_INTEGER, "threads", &c.threads, "N", "processor threads (all)"},
        {OPTION_FLAG, "json", &c.json, 0, "one JSON object on stdout"},
        {0},
    };
    const options_input in = {"inspect", "DIR", "Shows which tokens of a text go through which routed block of the model in DIR.\n"
                              "A column a token, a row a block, the last block on top; a lighter cell has a greater weight, # is a\n"
                              "routed token where there is no colour.", table, 1};
    fathom_error err;
    options_result parsed;
    routing r = ROUTING_CAUSAL;
    fathom_status status = options_parse(&in, argc, argv, &parsed, &err);
    if (status == FATHOM_OK && parsed.help)
        return EXIT_OK;
    if (status == FATHOM_OK)
        status = check(&c, parsed.positional_count, &r, &err);
    const int code = status == FATHOM_OK ? run(&c, parsed.positional[0], r) : cli_usage(&err);
    options_free(&parsed);
    return code;
}
