/* results.json and results.csv: see report.h. */
#include "study/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/json.h"

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *range(interval r)
{
    json_t *list = json_array();
    json_array_append_new(list, number(r.low));
    json_array_append_new(list, number(r.high));
    return list;
}

/* 0, or below it when out of memory, as jansson's setters. */
static int put_optimum(json_t *o, const char *key, const optimum *best)
{
    if (!best->found || !best->inside) /* what a parabola says beyond the sizes that were trained is not known */
        return json_object_set_new(o, key, json_null());
    json_t *of = json_object();
    int failed = json_object_set_new(o, key, of);
    failed |= json_object_set_new(of, "size", number(best->size));
    failed |= json_object_set_new(of, "size_range", range(best->size_range));
    failed |= json_object_set_new(of, "loss", number(best->loss));
    failed |= json_object_set_new(of, "loss_range", range(best->loss_range));
    failed |= json_object_set_new(of, "forward_flops_per_token", number(best->forward_flops));
    return failed | json_object_set_new(of, "tokens_per_s", number(best->tokens_per_s));
}

static int put_curve(json_t *list, const study_curve *c)
{
    json_t *o = json_object();
    int failed = json_array_append_new(list, o);
    failed |= json_object_set_new(o, "variant", json_string(c->points->variant));
    failed |= json_object_set_new(o, "budget", number(c->points->budget));
    failed |= json_object_set_new(o, "runs", json_integer((json_int_t)c->count));
    failed |= put_optimum(o, "as_trained", &c->trained);
    return failed | put_optimum(o, "causal", &c->causal);
}

static int put_comparison(json_t *list, const comparison *c)
{
    json_t *o = json_object();
    int failed = json_array_append_new(list, o);
    failed |= json_object_set_new(o, "variant", json_string(c->other->points->variant));
    failed |= json_object_set_new(o, "against", json_string(c->plain->points->variant));
    failed |= json_object_set_new(o, "budget", number(c->other->points->budget));
    failed |= json_object_set_new(o, "loss_difference", number(c->difference));
    failed |= json_object_set_new(o, "loss_difference_range", range(c->difference_range));
    failed |= json_object_set_new(o, "match_size", c->matches ? number(c->match_size) : json_null());
    failed |= json_object_set_new(o, "match_forward_flops_ratio", c->matches ? number(c->match_flops_ratio) : json_null());
    failed |= json_object_set_new(o, "match_forward_flops_ratio_range", range(c->match_flops_range));
    failed |= json_object_set_new(o, "match_speed_ratio", c->matches ? number(c->match_speed_ratio) : json_null());
    return failed | json_object_set_new(o, "match_speed_ratio_range", range(c->match_speed_range));
}

/* The best plain and the best top-k optimum at the largest budget that has both. */
static int put_headline(json_t *o, const study_summary *s)
{
    json_t *both = json_object();
    int failed = json_object_set_new(o, "optimum", both);
    const study_curve *plain = NULL, *mod = NULL;
    for (int64_t i = 0; i < s->curve_count; i++) {
        const double budget = s->curves[i].points->budget;
        const study_curve *p = study_best(s, "plain", budget), *m = study_best(s, "mod", budget);
        if (p && m && (!mod || budget > mod->points->budget)) {
            plain = p;
            mod = m;
        }
    }
    if (!mod) {
        failed |= json_object_set_new(both, "vanilla", json_null());
        return failed | json_object_set_new(both, "mod", json_null());
    }
    failed |= put_optimum(both, "vanilla", &plain->causal);
    failed |= json_object_set_new(json_object_get(both, "vanilla"), "variant", json_string(plain->points->variant));
    failed |= put_optimum(both, "mod", &mod->causal);
    return failed | json_object_set_new(json_object_get(both, "mod"), "variant", json_string(mod->points->variant));
}

static int put_laws(json_t *o, const study_summary *s)
{
    json_t *laws = json_object();
    int failed = json_object_set_new(o, "laws", laws);
    for (int64_t i = 0; i < s->curve_count; i++) {
        const char *variant = s->curves[i].points->variant;
        power_law law;
        if (json_object_get(laws, variant) || !study_law(s, variant, &law))
            continue;
        failed |= json_object_set_new(laws, variant, json_pack("{s:f, s:f}", "factor", law.factor, "exponent", law.exponent));
    }
    return failed;
}

static int put_worth(json_t *list, const variant_worth *w)
{
    json_t *o = json_object();
    int failed = json_array_append_new(list, o);
    failed |= json_object_set_new(o, "variant", json_string(w->variant));
    failed |= json_object_set_new(o, "runs", json_integer((json_int_t)w->runs));
    failed |= json_object_set_new(o, "worth", number(w->worth));
    failed |= json_object_set_new(o, "worth_range", range(w->worth_range));
    failed |= json_object_set_new(o, "flops_share", number(w->share));
    failed |= json_object_set_new(o, "budget_factor", number(w->budget));
    return failed | json_object_set_new(o, "budget_factor_range", range(w->budget_range));
}

static int put_scaling(json_t *o, const study_scaling *s)
{
    if (!s->found)
        return json_object_set_new(o, "scaling", json_null());
    json_t *of = json_object(), *variants = json_array();
    int failed = json_object_set_new(o, "scaling", of);
    failed |= json_object_set_new(of, "runs", json_integer((json_int_t)s->runs));
    failed |= json_object_set_new(of, "deviation", number(s->deviation));
    failed |= json_object_set_new(of, "floor", number(s->law.floor));
    failed |= json_object_set_new(of, "size_factor", number(s->law.size_factor));
    failed |= json_object_set_new(of, "size_exponent", number(s->law.size_exponent));
    failed |= json_object_set_new(of, "token_factor", number(s->law.token_factor));
    failed |= json_object_set_new(of, "token_exponent", number(s->law.token_exponent));
    failed |= json_object_set_new(of, "budget", number(s->budget));
    failed |= json_object_set_new(of, "percent_budget_factor", number(s->percent));
    failed |= json_object_set_new(of, "variants", variants);
    for (int64_t i = 0; i < s->count; i++)
        failed |= put_worth(variants, &s->variants[i]);
    return failed;
}

json_t *study_report_json(const study_result *results, int64_t count, const study_summary *s)
{
    json_t *o = json_object(), *points = json_array(), *optima = json_array(), *comparisons = json_array();
    int failed = json_object_set_new(o, "points", points);
    failed |= json_object_set_new(o, "optima", optima);
    failed |= put_headline(o, s);
    failed |= json_object_set_new(o, "comparisons", comparisons);
    for (int64_t i = 0; i < count; i++) {
        json_t *point = json_copy(results[i].json);
        json_object_del(point, "curve");
        failed |= json_array_append_new(points, point);
    }
    for (int64_t i = 0; i < s->curve_count; i++)
        failed |= put_curve(optima, &s->curves[i]);
    for (int64_t i = 0; i < s->comparison_count; i++)
        failed |= put_comparison(comparisons, &s->comparisons[i]);
    failed |= put_laws(o, s);
    failed |= put_scaling(o, &s->scaling);
    if (!failed)
        return o;
    json_decref(o);
    return NULL;
}

static fathom_status write_csv(const char *path, const study_result *results, int64_t count, fathom_error *err)
{
    static const char *const columns[] = {"variant", "budget", "width", "layers", "seed", "learning_rate", "size", "params", "steps",
                                          "tokens", "flops", "forward_flops_per_token", "train_loss", "loss", "loss_causal",
                                          "router_accuracy", "routed_fraction_causal", "ms_per_step", "tokens_per_s"};
    enum { COLUMNS = sizeof columns / sizeof *columns };
    file_writer w;
    TRY(file_writer_open(&w, path, err));
    for (int c = 0; c < COLUMNS; c++)
        fprintf(w.stream, "%s%s", columns[c], c + 1 < COLUMNS ? "," : "\n");
    for (int64_t i = 0; i < count; i++)
        for (int c = 0; c < COLUMNS; c++) {
            const json_t *value = json_object_get(results[i].json, columns[c]);
            if (json_is_string(value))
                fputs(json_string_value(value), w.stream);
            else if (json_is_number(value))
                fprintf(w.stream, "%.10g", json_number_value(value));
            fputs(c + 1 < COLUMNS ? "," : "\n", w.stream);
        }
    return file_writer_commit(&w, err);
}

fathom_status study_report_write(const char *dir, const study_result *results, int64_t count, const study_summary *s, fathom_error *err)
{
    char *json = path_join(dir, "results.json"), *csv = path_join(dir, "results.csv");
    fathom_status status = json && csv ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK)
        status = json_file_write(json, study_report_json(results, count, s), err);
    if (status == FATHOM_OK)
        status = write_csv(csv, results, count, err);
    free(json);
    free(csv);
    return status;
}
