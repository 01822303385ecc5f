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
static json_t *token_text(const tokenizer *tok, int32_t id)
{
    size_t bytes = 0;
    const char *text = tokenizer_text(tok, id, &bytes);
    json_t *whole = text ? json_stringn(text, bytes) : NULL;
    return whole ? whole : json_string("\xEF\xBF\xBD");
}

/* jansson's containers take NULL for an error, and json_dumps fails on it; so only the end need be checked. */
static json_t *layer_data(const trace *t, const trace_layer *l)
{
    json_t *o = json_object(), *selected = json_array(), *weights = json_array();
    for (int64_t i = 0; i < t->count; i++) {
        if (l->routed[i])
            json_array_append_new(selected, json_integer(i));
        json_array_append_new(weights, number(l->weight[i]));
    }
    json_object_set_new(o, "layer", json_integer(l->layer));
    json_object_set_new(o, "selected", selected);
    json_object_set_new(o, "weights", weights);
    return o;
}

static json_t *data_of(const char *title, const trace *t, const int32_t *tokens, const tokenizer *tok)
{
    json_t *o = json_object(), *texts = json_array(), *ids = json_array(), *loss = json_array(), *layers = json_array();
    for (int64_t i = 0; i < t->count; i++) {
        json_array_append_new(texts, token_text(tok, tokens[i]));
        json_array_append_new(ids, json_integer(tokens[i]));
        json_array_append_new(loss, number(t->loss[i]));
    }
    for (int64_t l = 0; l < t->layers; l++)
        json_array_append_new(layers, layer_data(t, &t->layer[l]));
    json_object_set_new(o, "model", json_string(title));
    json_object_set_new(o, "routing", json_string(t->routing == ROUTING_TOPK ? "topk" : "causal"));
    json_object_set_new(o, "mean_loss", number((float)t->mean_loss));
    json_object_set_new(o, "tokens", texts);
    json_object_set_new(o, "ids", ids);
    json_object_set_new(o, "loss", loss);
    json_object_set_new(o, "layers", layers);
    return o;
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
    json_t *data = data_of(title, t, tokens, tok);
    char *json = json_dumps(data, JSON_COMPACT | JSON_REAL_PRECISION(7));
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
