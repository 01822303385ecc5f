/* Causal inference: prefill equals single steps, later tokens never change earlier logits, the cache holds what was routed,
 * generation stops where it should. */
#include <math.h>
#include <stdio.h>

#include <jansson.h>

#include "base/temp.h"
#include "infer/session.h"
#include "model/tiny.h"

enum { T = 23 };

static fathom_model make(int kind)
{
    const model_config c = tiny_variant_config(&tiny_variants[kind]);
    fathom_model owner = {.m = tiny_model(&c, 11 + (uint64_t)kind)};
    fathom_error err;
    assert_int_equal(tokenizer_bytes(&owner.tok, &err), FATHOM_OK);
    return owner;
}

static void release(fathom_model *owner)
{
    tokenizer_free(owner->tok);
    model_free(&owner->m);
}

static fathom_session *start(const fathom_model *owner)
{
    fathom_session *s;
    fathom_error err;
    if (fathom_session_new(owner, 0, &s, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    return s;
}

static void append(fathom_session *s, const int32_t *tokens, size_t n)
{
    fathom_error err;
    if (fathom_session_append(s, tokens, n, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
}

static double distance(const float *a, const float *b, int64_t n)
{
    double most = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)(a[i] - b[i])));
        scale = fmax(scale, fabs((double)b[i]));
    }
    return most / scale;
}

static void prefill_equals_steps(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++) {
        fathom_model owner = make(kind);
        int32_t tokens[T];
        tiny_tokens(tokens, T, 37, 1);
        fathom_session *steps = start(&owner), *whole = start(&owner), *parts = start(&owner);
        for (size_t n = 1; n <= T; n++) {
            append(steps, tokens + n - 1, 1);
            fathom_session_reset(whole);
            append(whole, tokens, n);
            assert_true(distance(fathom_session_logits(whole), fathom_session_logits(steps), 37) < 1e-4);
            assert_int_equal(fathom_session_kv_bytes(whole), fathom_session_kv_bytes(steps));
        }
        append(parts, tokens, 7);
        append(parts, tokens + 7, 9);
        append(parts, tokens + 16, T - 16);
        assert_true(distance(fathom_session_logits(parts), fathom_session_logits(steps), 37) < 1e-4);
        const double routed = fathom_session_routed_fraction(steps);
        if (tiny_variants[kind].router == MOD_ROUTER_NONE)
            assert_float_equal(routed, 1, 0);
        else /* a test of routing that routes nothing or everything would show nothing */
            assert_true(routed > 0.02 && routed < 0.98);
        fathom_session_free(steps);
        fathom_session_free(whole);
        fathom_session_free(parts);
        release(&owner);
    }
}

/* Causal logits of every position, by one pass. */
static void all_logits(const fathom_model *owner, const int32_t *tokens, float *logits)
{
    workspace *ws;
    fathom_error err;
    kv_pool *pool;
    kv_sequence sequence, *const one = &sequence;
    const model_config *c = &owner->m.config;
    int32_t wanted[T];
    for (int i = 0; i < T; i++)
        wanted[i] = i;
    assert_int_equal(kv_pool_new(&owner->m.kn, c, kv_pages_for(c, T), 1, T, &pool, &err), FATHOM_OK);
    assert_int_equal(kv_sequence_new(c, T, &sequence, &err), FATHOM_OK);
    assert_int_equal(workspace_new(&owner->m, 1, T, WORKSPACE_FORWARD, &ws, &err), FATHOM_OK);
    assert_true(kv_reserve(pool, &sequence, T));
    pass_result r;
    transformer_append(ws, &(append_input){.sequences = 1, .sequence = &one, .start = (int32_t[]){0, T}, .tokens = tokens,
                                           .wanted = wanted, .wanted_count = T, .pool = pool}, logits, &r);
    workspace_free(ws);
    kv_sequence_free(&sequence);
    kv_pool_free(pool);
}

static void the_future_changes_nothing(void **state)
{
    (void)state;
    for (int kind = 0; kind < TINY_VARIANTS; kind++) {
        fathom_model owner = make(kind);
        int32_t tokens[T], changed[T];
        static float before[T * 37], after[T * 37];
        tiny_tokens(tokens, T, 37, 2);
        all_logits(&owner, tokens, before);
        for (int i = 0; i < T - 1; i++) {
            tiny_tokens(changed, T, 37, 100 + (uint64_t)i);
            memcpy(changed, tokens, (size_t)(i + 1) * sizeof *tokens);
            changed[i + 1] = (tokens[i + 1] + 1) % 37;
            all_logits(&owner, changed, after);
            assert_true(distance(after, before, (i + 1) * 37) < 1e-5);
            assert_true(distance(after + (i + 1) * 37, before + (i + 1) * 37, (T - 1 - i) * 37) > 1e-3);
        }
        release(&owner);
    }
}

static void the_cache_holds_routed_tokens(void **state)
{
    (void)state;
    fathom_model owner = make(tiny_variant_named("raw"));
    int32_t tokens[T];
    tiny_tokens(tokens, T, 37, 3);
    fathom_session *s = start(&owner);
    append(s, tokens, T);
    const double plain = 2, routed = 2 * fathom_session_routed_fraction(s); /* layers' worth of tokens */
    assert_int_equal(fathom_session_kv_bytes(s), (int64_t)llround((plain + routed) * T) * 2 * 2 * 6 * 4);
    fathom_session_free(s);
    release(&owner);
}

static void bad_tokens_are_refused(void **state)
{
    (void)state;
    fathom_model owner = make(0);
    fathom_session *s = start(&owner);
    fathom_error err;
    const int32_t bad[] = {1, 37}, negative[] = {-1}, many[T + 1] = {0};
    assert_null(fathom_session_logits(s));
    assert_int_equal(fathom_session_append(s, bad, 2, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "37"));
    assert_int_equal(fathom_session_append(s, negative, 1, &err), FATHOM_INVALID_ARGUMENT);
    assert_int_equal(fathom_session_append(s, many, T + 1, &err), FATHOM_INVALID_ARGUMENT);
    assert_int_equal(fathom_session_length(s), 0);
    fathom_session_free(s);
    release(&owner);
}

typedef struct collected {
    char text[4096];
    size_t length;
    int pieces, limit;
} collected;

static int collect(const char *text, size_t bytes, void *user)
{
    collected *c = user;
    memcpy(c->text + c->length, text, bytes);
    c->length += bytes;
    return ++c->pieces == c->limit;
}

/* A byte model whose head strongly prefers the byte after the last one, modulo 256: it writes any text we like. */
static fathom_model counting_model(void)
{
    model_config c = model_config_default();
    c.dim = 256;
    c.heads = c.kv_heads = 4;
    c.head_dim = 64;
    c.layers = 1;
    c.ffn = 8;
    c.seq_len = 300;
    c.tied = false;
    fathom_model owner = {0};
    fathom_error err;
    const kernels kn = kernels_cpu(0);
    assert_int_equal(model_init(&owner.m, &c, WEIGHT_F32, &kn, &err), FATHOM_OK);
    assert_int_equal(tokenizer_bytes(&owner.tok, &err), FATHOM_OK);
    for (int i = 0; i < 256; i++) {
        owner.m.params.embed[i * 256 + i] = 1;
        owner.m.params.head[((i + 1) % 256) * 256 + i] = 10;
        owner.m.params.norm[i] = owner.m.params.layer[0].norm1[i] = owner.m.params.layer[0].norm2[i] = 1;
    }
    return owner;
}

static void generate_stops_where_it_should(void **state)
{
    (void)state;
    fathom_model owner = counting_model();
    fathom_error err;
    fathom_generate_stats stats;
    fathom_generate_options o = fathom_generate_defaults();
    o.temperature = 0;
    o.max_tokens = 10;
    collected all = {0};
    assert_int_equal(fathom_generate(&owner, "a", 1, &o, collect, &all, &stats, &err), FATHOM_OK);
    assert_int_equal(all.length, 10);
    assert_memory_equal(all.text, "bcdefghijk", 10);
    assert_int_equal(stats.tokens, 10);
    const char *const stop[] = {"xyz", "fgh", "ef!"};
    o.stop = stop;
    o.stop_count = 3;
    collected stopped = {0};
    assert_int_equal(fathom_generate(&owner, "a", 1, &o, collect, &stopped, &stats, &err), FATHOM_OK);
    assert_int_equal(stopped.length, 4);
    assert_memory_equal(stopped.text, "bcde", 4);
    o.stop_count = 0;
    const int32_t ends[] = {'z', 'e'}; /* any of a model's ends of text */
    memcpy(owner.m.config.eos_id, ends, sizeof ends);
    owner.m.config.eos_count = 2;
    collected ended = {0};
    assert_int_equal(fathom_generate(&owner, "a", 1, &o, collect, &ended, &stats, &err), FATHOM_OK);
    assert_int_equal(ended.length, 3);
    assert_memory_equal(ended.text, "bcd", 3);
    owner.m.config.eos_count = 0;
    collected cancelled = {.limit = 3};
    assert_int_equal(fathom_generate(&owner, "a", 1, &o, collect, &cancelled, &stats, &err), FATHOM_OK);
    assert_int_equal(cancelled.length, 3);
    /* bytes 0xC3 0xC4 ... are lead bytes: held back, but never for ever and never lost */
    collected raw = {0};
    assert_int_equal(fathom_generate(&owner, "\xC2", 1, &o, collect, &raw, &stats, &err), FATHOM_OK);
    assert_int_equal(raw.length, 10);
    assert_memory_equal(raw.text, "\xC3\xC4\xC5\xC6\xC7\xC8\xC9\xCA\xCB\xCC", 10);
    assert_int_equal(fathom_generate(&owner, "", 0, &o, collect, &raw, &stats, &err), FATHOM_INVALID_ARGUMENT);
    o.max_tokens = INT64_MAX; /* the last token needs no place */
    char prompt[302];
    memset(prompt, 'a', sizeof prompt);
    for (size_t room = 1; room <= 3; room += 2) {
        collected cut = {0};
        assert_int_equal(fathom_generate(&owner, prompt, 301 - room, &o, collect, &cut, &stats, &err), FATHOM_OK);
        assert_int_equal(cut.length, room);
        assert_memory_equal(cut.text, "bcd", room);
        assert_int_equal(stats.tokens, room);
    }
    assert_int_equal(fathom_generate(&owner, prompt, 301, &o, collect, &raw, &stats, &err), FATHOM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "301 tokens"));
    release(&owner);
}

/* Asked for piece by piece: one token a call, the same text, nothing after the end; given up half-way. */
static void pieces_are_asked_for(void **state)
{
    (void)state;
    fathom_model owner = counting_model();
    fathom_error err;
    fathom_generation *g;
    fathom_generate_options o = fathom_generate_defaults();
    const char *text, *const stop[] = {"hj", "gh!", "mn"};
    size_t bytes;
    o.temperature = 0;
    o.stop = stop;
    o.stop_count = 3;
    assert_int_equal(fathom_generation_new(&owner, "", 0, &o, &g, &err), FATHOM_INVALID_ARGUMENT);
    assert_null(g);
    assert_int_equal(fathom_generation_new(&owner, "abc", 3, &o, &g, &err), FATHOM_OK);
    const char *const wanted[] = {"d", "e", "f", "", "", "ghi", "j", "k", "l", "", ""}; /* g, gh and h may begin a stop text; m n ends it */
    const size_t held[] = {1, 1, 1, 0, 0, 3, 1, 1, 1, 0, 0};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        assert_int_equal(fathom_generation_next(g, &text, &bytes, &err), FATHOM_OK);
        assert_non_null(text);
        assert_int_equal(bytes, held[i]);
        assert_memory_equal(text, wanted[i], bytes);
        assert_int_equal(fathom_generation_stats(g).tokens, i + 1);
    }
    for (int again = 0; again < 2; again++) {
        assert_int_equal(fathom_generation_next(g, &text, &bytes, &err), FATHOM_OK);
        assert_null(text);
    }
    assert_int_equal(fathom_generation_stats(g).prompt_tokens, 3);
    assert_int_equal(fathom_generation_stats(g).kv_bytes, (3 + 10) * 2 * 4 * 64 * 4);
    fathom_generation_free(g);
    assert_int_equal(fathom_generation_new(&owner, "abc", 3, &o, &g, &err), FATHOM_OK);
    assert_int_equal(fathom_generation_next(g, &text, &bytes, &err), FATHOM_OK);
    fathom_generation_free(g);
    fathom_generation_free(NULL);
    release(&owner);
}

/* Without a token for every byte a tokenizer cannot take any text, but the model takes ids. */
static void a_tokenizer_that_lacks_a_byte(void **state)
{
    (void)state;
    fathom_model owner = make(0), *loaded;
    fathom_error err;
    size_t count;
    int32_t ids[4];
    assert_int_equal(model_save(&owner.m, "saved", &err), FATHOM_OK);
    assert_int_equal(tokenizer_save(owner.tok, "saved/tokenizer.json", &err), FATHOM_OK);
    json_t *root = json_load_file("saved/tokenizer.json", 0, NULL);
    assert_int_equal(json_object_del(json_object_get(json_object_get(root, "model"), "vocab"), "q"), 0);
    assert_int_equal(json_dump_file(root, "saved/tokenizer.json", 0), 0);
    json_decref(root);
    if (fathom_model_load("saved", 1, &loaded, &err) != FATHOM_OK)
        fail_msg("%s", err.message);
    fathom_model *none;
    for (int threads = -1; threads < 5000; threads += 4098) {
        assert_int_equal(fathom_model_load("saved", threads, &none, &err), FATHOM_INVALID_ARGUMENT);
        assert_non_null(strstr(err.message, "threads"));
    }
    assert_null(fathom_model_tokenizer(loaded));
    assert_int_equal(fathom_encode(loaded, "a", 1, ids, 4, &count, &err), FATHOM_UNSUPPORTED);
    assert_non_null(strstr(err.message, "byte 113"));
    fathom_session *s = start(loaded);
    append(s, (int32_t[]){1, 2}, 2);
    fathom_session_free(s);
    fathom_model_free(loaded);
    release(&owner);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefill_equals_steps),           cmocka_unit_test(the_future_changes_nothing),
        cmocka_unit_test(the_cache_holds_routed_tokens),  cmocka_unit_test(bad_tokens_are_refused),
        cmocka_unit_test(generate_stops_where_it_should), cmocka_unit_test(pieces_are_asked_for),
        temp_test(a_tokenizer_that_lacks_a_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
