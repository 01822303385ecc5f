/* The HTML page of a trace: see report.h. */
#include "inspect/report.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* report.html, made by CMake into a file of its own. */
extern const unsigned char report_page[];
extern const size_t report_page_size;

static const char marker[] = "@DATA@";

static json_t *number(float x)
{
    return isfinite(x) ? json_real((double)x) : json_null();
}

/* Bytes that are no text of their own, as a byte model's parts of a character, become U+FFFD. */
static json_t *text_or_sign(const char *text, size_t bytes)
{
    json_t *whole = text ? json_stringn(text, bytes) : NULL;
    return whole ? whole : json_string("\xEF\xBF\xBD");
}

static json_t *token_text(const tokenizer *tok, int32_t id)
{
    size_t bytes = 0;
    const char *text = tokenizer_text(tok, id, &bytes);
    return text_or_sign(text, bytes);
}

/* 0, or below it when out of memory, as jansson's setters. */
static int put_layer(json_t *layers, const trace *t, const trace_layer *l)
{
    json_t *o = json_object(), *selected = json_array(), *weights = json_array();
    int failed = json_array_append_new(layers, o);
    for (int64_t i = 0; i < t->count; i++) {
        if (l->routed[i])
            failed |= json_array_append_new(selected, json_integer(i));
        failed |= json_array_append_new(weights, number(l->weight[i]));
    }
    failed |= json_object_set_new(o, "layer", json_integer(l->layer));
    failed |= json_object_set_new(o, "unit", json_string(l->part));
    failed |= json_object_set_new(o, "selected", selected);
    return failed | json_object_set_new(o, "weights", weights);
}

static int put_data(json_t *o, const char *title, const trace *t, const int32_t *tokens, const tokenizer *tok)
{
    json_t *texts = json_array(), *ids = json_array(), *loss = json_array(), *layers = json_array();
    int failed = json_object_set_new(o, "tokens", texts);
    failed |= json_object_set_new(o, "ids", ids);
    failed |= json_object_set_new(o, "loss", loss);
    failed |= json_object_set_new(o, "layers", layers);
    for (int64_t i = 0; i < t->count; i++) {
        failed |= json_array_append_new(texts, token_text(tok, tokens[i]));
        failed |= json_array_append_new(ids, json_integer(tokens[i]));
        failed |= json_array_append_new(loss, number(t->loss[i]));
    }
    for (int64_t l = 0; l < t->layers; l++)
        failed |= put_layer(layers, t, &t->layer[l]);
    failed |= json_object_set_new(o, "model", text_or_sign(title, strlen(title)));
    failed |= json_object_set_new(o, "routing", json_string(t->routing == ROUTING_TOPK ? "topk" : "causal"));
    return failed | json_object_set_new(o, "mean_loss", number((float)t->mean_loss));
}

/* In a page "<" could end the script element or begin a comment; inside a JSON string it may be written by its number, and JSON has
 * it nowhere else. */
static void write_json(FILE *to, const char *json)
{
    for (const char *p = json; *p;) {
        const size_t plain = strcspn(p, "<");
        fwrite(p, 1, plain, to);
        p += plain;
        if (*p) {
            fputs("\\u003c", to);
            p++;
        }
    }
}

fathom_status report_write(const char *path, const char *title, const trace *t, const int32_t *tokens, const tokenizer *tok,
                           fathom_error *err)
{
    json_t *data = json_object();
    char *json = put_data(data, title, t, tokens, tok) == 0 ? json_dumps(data, JSON_COMPACT | JSON_REAL_PRECISION(7)) : NULL;
    json_decref(data);
    if (!json)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    const unsigned char *at = memmem(report_page, report_page_size, marker, sizeof marker - 1);
    const size_t before = (size_t)(at - report_page), after = before + sizeof marker - 1;
    file_writer w;
    fathom_status status = file_writer_open(&w, path, err);
    if (status == FATHOM_OK) {
        fwrite(report_page, 1, before, w.stream);
        write_json(w.stream, json);
        fwrite(report_page + after, 1, report_page_size - after, w.stream);
        status = file_writer_commit(&w, err);
    }
    free(json);
    return status;
}
