/* A model's files as others write them: types and tensors that ours do not have. What a file of ours holds is tested in
 * infer/test_reduced.c. */
#include <math.h>

#include "base/file.h"
#include "base/temp.h"
#include "format/hf_config.h"
#include "format/safetensors.h"
#include "kernels/weight.h"
#include "model/tiny.h"

enum { MOST = 64 };

/* A tensor list to write, from a model; names are its own. */
typedef struct listed {
    safetensors_tensor t[MOST];
    size_t count;
    uint16_t *half[MOST];
} listed;

static listed list_of(const model *m)
{
    listed l = {.count = (size_t)m->list.count};
    assert_true(l.count < MOST - 2);
    for (size_t i = 0; i < l.count; i++) {
        const param_info *p = &m->list.items[i];
        l.t[i] = (safetensors_tensor){p->name, DTYPE_F32, p->rank, {p->shape[0], p->shape[1]}, m->store.values + p->offset,
                                      (size_t)p->size * 4};
    }
    return l;
}

/* Tensor i in bf16, which its values must be exactly. */
static void make_bf16(listed *l, size_t i)
{
    const float *from = l->t[i].data;
    const size_t n = l->t[i].bytes / 4;
    l->half[i] = malloc(2 * n);
    for (size_t j = 0; j < n; j++)
        l->half[i][j] = bf16_round(from[j]);
    l->t[i].dtype = DTYPE_BF16;
    l->t[i].data = l->half[i];
    l->t[i].bytes = 2 * n;
}

static void release(listed *l)
{
    for (size_t i = 0; i < MOST; i++)
        free(l->half[i]);
}

static model saved(model_family family)
{
    model_config c = tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    fathom_error err;
    c.family = family;
    model m = tiny_model(&c, 4);
    for (int64_t i = 0; i < m.list.size; i++)
        m.store.values[i] = bf16_widen(bf16_round(m.store.values[i]));
    assert_ok(model_save(&m, "run", &err), &err);
    return m;
}

static void put(const listed *l)
{
    fathom_error err;
    assert_ok(safetensors_write("run/model.safetensors", l->t, l->count, NULL, &err), &err);
}

/* All of it bf16: bf16 matrices. One matrix in fp32: fp32, nothing rounded. */
static void mixed_types_are_widened(void **state)
{
    (void)state;
    model m = saved(MODEL_FAMILY_QWEN2), back;
    listed l = list_of(&m);
    fathom_error err;
    size_t odd = 0;
    for (size_t i = 0; i < l.count; i++) {
        odd = strcmp(l.t[i].name, "model.layers.2.mlp.up_proj.weight") == 0 ? i : odd;
        make_bf16(&l, i);
    }
    put(&l);
    assert_ok(model_load(&back, "run", &m.kn, &err), &err);
    assert_int_equal(back.store.type, WEIGHT_BF16);
    assert_memory_equal(store_values(&back.store, &back.list.items[back.list.count - 1]),
                        m.store.values + m.list.items[m.list.count - 1].offset, (size_t)m.config.dim * 4);
    model_free(&back);

    m.store.values[m.list.items[odd].offset] = 1 / 3.0f; /* no bf16 */
    const listed full = list_of(&m);
    l.t[odd] = full.t[odd];
    put(&l);
    assert_ok(model_load(&back, "run", &m.kn, &err), &err);
    assert_int_equal(back.store.type, WEIGHT_F32);
    assert_memory_equal(back.store.values, m.store.values, (size_t)m.list.size * sizeof(float));
    model_free(&back);
    model_conversion c = {.as_it_is = true};
    assert_ok(model_convert("run", "copy", &c, &err), &err);
    assert_int_equal(c.type, WEIGHT_F32);
    assert_ok(model_load(&back, "copy", &m.kn, &err), &err);
    assert_memory_equal(back.store.values, m.store.values, (size_t)m.list.size * sizeof(float));
    model_free(&back);
    model_free(&m);
    release(&l);
}

/* RoPE's frequencies and a tied head may be there too, the head only as what it is tied to. */
static void what_says_nothing_new(void **state)
{
    (void)state;
    model m = saved(MODEL_FAMILY_LLAMA), back;
    listed l = list_of(&m);
    fathom_error err;
    static const float inverse[3] = {1, 0.5f, 0.25f};
    l.t[l.count++] = (safetensors_tensor){"model.layers.0.self_attn.rotary_emb.inv_freq", DTYPE_F32, 1, {3}, inverse, 12};
    l.t[l.count] = l.t[0];
    l.t[l.count].name = "lm_head.weight";
    l.count++;
    put(&l);
    assert_ok(model_load(&back, "run", &m.kn, &err), &err);
    assert_memory_equal(back.store.values, m.store.values, (size_t)m.list.size * sizeof(float));
    model_free(&back);
    float *head = malloc(l.t[0].bytes);
    memcpy(head, l.t[0].data, l.t[0].bytes);
    head[5] += 1;
    l.t[l.count - 1].data = head;
    put(&l);
    assert_error(model_load(&back, "run", &m.kn, &err), &err, FATHOM_FORMAT, "run/model.safetensors", "lm_head.weight");
    model_free(&back);
    model_conversion c = {.as_it_is = true};
    assert_error(model_convert("run", "copy", &c, &err), &err, FATHOM_FORMAT, "run/model.safetensors", "lm_head.weight");
    assert_false(path_exists("copy"));
    l.count--;
    l.t[l.count - 1].name = "model.layers.0.self_attn.o_proj.bias";
    put(&l);
    assert_error(model_load(&back, "run", &m.kn, &err), &err, FATHOM_FORMAT, "run/model.safetensors", "o_proj.bias");
    model_free(&back);
    free(head);
    model_free(&m);
}

static void missing_and_misshapen(void **state)
{
    (void)state;
    model m = saved(MODEL_FAMILY_QWEN2), back;
    fathom_error err;
    model_conversion c = {.as_it_is = true};
    for (int kind = 0; kind < 3; kind++) {
        listed l = list_of(&m);
        for (size_t i = 0; i < l.count; i++) {
            if (strcmp(l.t[i].name, "model.layers.1.self_attn.k_proj.bias") != 0)
                continue;
            if (kind == 0)
                l.t[i] = l.t[--l.count];
            else if (kind == 1)
                l.t[i].shape[0]--, l.t[i].bytes -= 4;
            else
                l.t[i].dtype = DTYPE_I32;
            break;
        }
        put(&l);
        const fathom_status code = kind == 2 ? FATHOM_UNSUPPORTED : FATHOM_FORMAT;
        assert_error(model_load(&back, "run", &m.kn, &err), &err, code, "run/model.safetensors", "k_proj.bias");
        if (kind < 2)
            assert_null(back.store.values); /* no memory is taken for it */
        model_free(&back);
        assert_error(model_convert("run", "copy", &c, &err), &err, code, "run/model.safetensors", "k_proj.bias");
        assert_false(path_exists("copy/model.safetensors"));
    }
    model_free(&m);
}

/* A small file whose config.json claims a large model. */
static void claims_take_no_memory(void **state)
{
    (void)state;
    model m = saved(MODEL_FAMILY_LLAMA), back;
    fathom_error err;
    model_config claimed = m.config;
    claimed.vocab = 4000000;
    assert_ok(hf_config_write("run/config.json", &claimed, WEIGHT_F32, &err), &err);
    assert_error(model_load(&back, "run", &m.kn, &err), &err, FATHOM_FORMAT, "model.embed_tokens.weight", "[4000000, 24]");
    assert_null(back.store.values);
    assert_error(model_read_config("run", &claimed, &err), &err, FATHOM_FORMAT, "model.embed_tokens.weight", "[4000000, 24]");
    model reduced;
    assert_ok(model_reduce(&reduced, &m, WEIGHT_Q8, &err), &err);
    assert_ok(model_save(&reduced, "q8", &err), &err);
    model_free(&reduced);
    assert_ok(model_read_config("q8", &claimed, &err), &err);
    assert_true(model_config_equal(&claimed, &m.config));
    safetensors *file;
    assert_ok(safetensors_open("q8/model.safetensors", &file, &err), &err);
    safetensors_tensor tensors[2 * MOST];
    size_t count = 0;
    for (size_t i = 0; i < safetensors_count(file); i++)
        if (strcmp(safetensors_at(file, i)->name, "model.layers.1.mlp.down_proj.weight_scale") != 0)
            tensors[count++] = *safetensors_at(file, i);
    assert_ok(folder_create("lacking", &err), &err);
    assert_ok(hf_config_write("lacking/config.json", &m.config, WEIGHT_Q8, &err), &err);
    assert_ok(safetensors_write("lacking/model.safetensors", tensors, count, NULL, &err), &err);
    assert_error(model_load(&back, "lacking", &m.kn, &err), &err, FATHOM_FORMAT, "lacking/model.safetensors", "down_proj.weight_scale");
    assert_null(back.store.values);
    safetensors_close(file);
    model_free(&m);
}

/* Longer than a piece, and not a whole number of pieces: the same bytes as packing the whole matrix. */
static void pieces_make_a_whole(void **state)
{
    (void)state;
    model_config config = tiny_config(MOD_ROUTER_NONE, MOD_GATE_RAW, MOD_CAUSAL_PREDICTOR);
    config.vocab = 100003;
    fathom_error err;
    model m = tiny_model(&config, 4), reduced;
    assert_ok(model_save(&m, "run", &err), &err);
    static const weight_type types[] = {WEIGHT_F32, WEIGHT_BF16, WEIGHT_Q8};
    for (int i = 0; i < 3; i++) {
        model_conversion c = {.type = types[i]};
        if (types[i] == WEIGHT_F32) {
            assert_ok(model_save(&m, "whole", &err), &err);
        } else {
            assert_ok(model_reduce(&reduced, &m, types[i], &err), &err);
            assert_ok(model_save(&reduced, "whole", &err), &err);
            model_free(&reduced);
        }
        assert_ok(model_convert("run", "pieces", &c, &err), &err);
        size_t a, b;
        char *whole = get_file("whole/model.safetensors", &a), *pieces = get_file("pieces/model.safetensors", &b);
        assert_int_equal(a, b);
        assert_memory_equal(whole, pieces, a);
        free(whole);
        free(pieces);
    }
    model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {temp_test(mixed_types_are_widened), temp_test(what_says_nothing_new),
                                       temp_test(missing_and_misshapen), temp_test(pieces_make_a_whole),
                                       temp_test(claims_take_no_memory)};
    return cmocka_run_group_tests_name("model_files", tests, NULL, NULL);
}
