/* fathom inspect --stats: what is routed on a whole corpus. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/inspect.h"
#include "inspect/stats.h"

enum { SHOWN_IDS = 10 };

static json_t *layers_json(const trace *t, const inspect_stats *s)
{
    json_t *list = json_array();
    for (int64_t l = 0; l < s->layers; l++) {
        json_t *o = json_object(), *weights = json_array(), *agreement = json_array();
        for (int q = 0; q < WEIGHT_QUANTILES; q++)
            json_array_append_new(weights, cli_number((double)s->layer[l].weight[q]));
        for (int64_t k = 0; k < s->layers; k++)
            json_array_append_new(agreement, cli_number(s->agreement[l * s->layers + k]));
        json_object_set_new(o, "layer", json_integer(t->layer[l].layer));
        if (*t->layer[l].part)
            json_object_set_new(o, "unit", json_string(t->layer[l].part));
        json_object_set_new(o, "routed_fraction", cli_number(s->layer[l].routed_fraction));
        json_object_set_new(o, "rule_accuracy", cli_number(s->layer[l].rule_accuracy));
        json_object_set_new(o, "weight_quantiles", weights);
        json_object_set_new(o, "agreement", agreement);
        json_array_append_new(list, o);
    }
    return list;
}

static int print_json(const trace *t, const inspect_stats *s, const char *routing)
{
    json_t *o = json_object(), *classes = json_object(), *ids = json_array();
    for (int c = 0; c < TOKEN_CLASSES; c++) {
        json_t *class = json_object();
        const class_stats *k = &s->classes[c];
        json_object_set_new(class, "tokens", json_integer(k->tokens));
        json_object_set_new(class, "routed_fraction", cli_number((double)k->routed / (double)(k->tokens * s->layers)));
        json_object_set_new(classes, token_class_name((token_class)c), class);
    }
    for (int64_t i = 0; i < s->ids; i++) {
        json_t *id = json_object();
        json_object_set_new(id, "id", json_integer(s->id[i].id));
        json_object_set_new(id, "count", json_integer(s->id[i].count));
        json_object_set_new(id, "routed_fraction", cli_number(s->id[i].routed_fraction));
        json_array_append_new(ids, id);
    }
    json_object_set_new(o, "routing", json_string(routing));
    json_object_set_new(o, "tokens", json_integer(t->count));
    json_object_set_new(o, "mean_loss", cli_number(t->mean_loss));
    json_object_set_new(o, "routed_fraction", cli_number(s->routed_fraction));
    json_object_set_new(o, "layers", layers_json(t, s));
    json_object_set_new(o, "classes", classes);
    json_object_set_new(o, "ids", ids);
    return cli_print_json(o);
}

static void print_layers(const trace *t, const inspect_stats *s)
{
    printf("%-9s %7s %10s   %s\n", "block", "routed", "rule agrees", "weights of routed tokens: 5, 25, 50, 75, 95 %");
    for (int64_t l = 0; l < s->layers; l++) {
        const layer_stats *k = &s->layer[l];
        inspect_print_label(&t->layer[l]);
        printf(" %6.2f %% ", 100 * k->routed_fraction);
        if (isnan(k->rule_accuracy))
            printf("%11s  ", "");
        else
            printf("%9.2f %%  ", 100 * k->rule_accuracy);
        for (int q = 0; q < WEIGHT_QUANTILES && k->routed_fraction > 0; q++)
            printf(" %8.3f", (double)k->weight[q]);
        putchar('\n');
    }
    printf("\nhow far two blocks choose the same tokens (correlation; 0 = as by chance)\n%-9s", "");
    for (int64_t l = 0; l < s->layers; l++)
        printf(*t->layer[l].part ? " %4d%.2s" : " %6d%s", (int)t->layer[l].layer, t->layer[l].part);
    putchar('\n');
    for (int64_t l = 0; l < s->layers; l++) {
        inspect_print_label(&t->layer[l]);
        for (int64_t k = 0; k < s->layers; k++)
            printf(" %6.2f", s->agreement[l * s->layers + k]);
        putchar('\n');
    }
}

static void print_ids(const char *what, const tokenizer *tok, const inspect_stats *s, int64_t from, int64_t step, int64_t count)
{
    printf("%s:", what);
    for (int64_t i = 0; i < count; i++) {
        const token_stats *k = &s->id[from + i * step];
        size_t bytes = 0;
        const char *text = tokenizer_text(tok, k->id, &bytes);
        const inspect_cell cell = inspect_cell_make(text ? text : "", text ? bytes : 0);
        printf("  %s %.1f %%", cell.text, 100 * k->routed_fraction);
    }
    putchar('\n');
}

int inspect_print_stats(const trace *t, const int32_t *tokens, const fathom_model *model, const char *routing, bool json)
{
    inspect_stats s;
    fathom_error err;
    if (inspect_stats_make(t, tokens, model->tok, model->m.config.vocab, &s, &err) != FATHOM_OK)
        return cli_fail(&err);
    int code = EXIT_OK;
    if (json) {
        code = print_json(t, &s, routing);
    } else {
        const int64_t shown = s.ids < SHOWN_IDS ? s.ids : SHOWN_IDS;
        print_layers(t, &s);
        printf("\n%-12s %9s %8s\n", "token", "count", "routed");
        for (int c = 0; c < TOKEN_CLASSES; c++)
            if (s.classes[c].tokens > 0)
                printf("%-12s %9lld %6.2f %%\n", token_class_name((token_class)c), (long long)s.classes[c].tokens,
                       100.0 * (double)s.classes[c].routed / (double)(s.classes[c].tokens * s.layers));
        print_ids("most routed", model->tok, &s, 0, 1, shown);
        print_ids("least routed", model->tok, &s, s.ids - 1, -1, shown);
        printf("%s routing, %lld tokens, %.2f %% routed, loss %.4f nats/token\n", routing, (long long)t->count,
               100 * s.routed_fraction, t->mean_loss);
    }
    inspect_stats_free(&s);
    return code;
}
