/* RoPE in config.json: see hf_rope.h. */
#include "format/hf_rope.h"

#include <string.h>

static fathom_status read_kind(const json_fields *rope, rope_scaling *out, fathom_error *err)
{
    const char *text, *name = json_field_has(rope, "rope_type") ? "rope_type" : "type";
    if (!json_field_has(rope, name))
        return FATHOM_OK;
    TRY(json_field_string(rope, name, &text, err));
    if (!rope_scaling_parse(text, out))
        return json_field_refuse(rope, name, FATHOM_UNSUPPORTED, "expected \"default\", \"linear\" or \"llama3\"", err);
    return FATHOM_OK;
}

static fathom_status refuse_unknown(const json_fields *rope, fathom_error *err)
{
    static const char *const known[] = {"rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor",
                                        "original_max_position_embeddings"};
    const char *name;
    const json_t *value;
    json_object_foreach((json_t *)rope->object, name, value) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(name, known[i]) != 0)
            i++;
        if (i == sizeof known / sizeof *known && !json_is_null(value))
            return json_value_refuse(rope, name, value, FATHOM_UNSUPPORTED, "not supported", err);
    }
    return FATHOM_OK;
}

static fathom_status read_object(const json_fields *f, const char *name, model_config *c, fathom_error *err)
{
    json_fields rope = {.path = f->path, .inside = name};
    TRY(json_field_get(f, name, JSON_OBJECT, &rope.object, err));
    TRY(read_kind(&rope, &c->scaling.kind, err));
    TRY(refuse_unknown(&rope, err));
    if (json_field_has(&rope, "rope_theta"))
        TRY(json_field_float(&rope, "rope_theta", &c->rope_theta, err));
    if (c->scaling.kind != ROPE_SCALING_NONE)
        TRY(json_field_float(&rope, "factor", &c->scaling.factor, err));
    if (c->scaling.kind != ROPE_SCALING_LLAMA3)
        return FATHOM_OK;
    TRY(json_field_float(&rope, "low_freq_factor", &c->scaling.low_freq_factor, err));
    TRY(json_field_float(&rope, "high_freq_factor", &c->scaling.high_freq_factor, err));
    return json_field_int(&rope, "original_max_position_embeddings", &c->scaling.original, err);
}

fathom_status hf_rope_read(const json_fields *f, model_config *c, fathom_error *err)
{
    const bool older = json_field_has(f, "rope_scaling"), newer = json_field_has(f, "rope_parameters");
    if (json_field_has(f, "rope_theta"))
        TRY(json_field_float(f, "rope_theta", &c->rope_theta, err));
    if (json_field_has(f, "partial_rotary_factor")) {
        float share;
        TRY(json_field_float(f, "partial_rotary_factor", &share, err));
        if (share != 1)
            return json_field_refuse(f, "partial_rotary_factor", FATHOM_UNSUPPORTED, "expected 1", err);
    }
    if (older && newer)
        return json_field_refuse(f, "rope_scaling", FATHOM_UNSUPPORTED, "there is rope_parameters too: which one counts?", err);
    return older || newer ? read_object(f, older ? "rope_scaling" : "rope_parameters", c, err) : FATHOM_OK;
}

int hf_rope_put(json_t *o, const model_config *c)
{
    int failed = json_object_set_new(o, "rope_theta", json_float(c->rope_theta));
    if (c->scaling.kind == ROPE_SCALING_NONE)
        return failed;
    json_t *rope = json_object();
    failed |= json_object_set_new(rope, "rope_type", json_string(rope_scaling_name(c->scaling.kind)));
    failed |= json_object_set_new(rope, "factor", json_float(c->scaling.factor));
    if (c->scaling.kind == ROPE_SCALING_LLAMA3) {
        failed |= json_object_set_new(rope, "low_freq_factor", json_float(c->scaling.low_freq_factor));
        failed |= json_object_set_new(rope, "high_freq_factor", json_float(c->scaling.high_freq_factor));
        failed |= json_object_set_new(rope, "original_max_position_embeddings", json_integer(c->scaling.original));
    }
    return failed | json_object_set_new(o, "rope_scaling", rope);
}
