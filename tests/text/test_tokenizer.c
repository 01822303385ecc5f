/* The byte tokenizer: ids are bytes both ways, its tokenizer.json names them in GPT-2's alphabet, and every other file
 * is refused by what differs. tokenizer_json.py holds the same file against the Hugging Face library. */
#include "base/temp.h"

#include <jansson.h>

#include "text/tokenizer.h"

static tokenizer *bytes_tokenizer(void)
{
    tokenizer *t;
    fathom_error err;
    assert_ok(tokenizer_bytes(&t, &err), &err);
    return t;
}

static void assert_is_bytes(const tokenizer *t)
{
    char text[256];
    int32_t ids[256];
    for (int i = 0; i < 256; i++)
        text[i] = (char)i;
    assert_int_equal(tokenizer_vocab(t), 256);
    assert_int_equal(tokenizer_encode(t, text, 256, ids, 256), 256);
    for (int i = 0; i < 256; i++) {
        size_t length;
        const char *back = tokenizer_text(t, i, &length);
        assert_int_equal(ids[i], i);
        assert_int_equal(length, 1);
        assert_int_equal(*back, text[i]);
    }
}

static void ids_are_bytes(void **state)
{
    (void)state;
    tokenizer *t = bytes_tokenizer();
    assert_is_bytes(t);
    size_t length = 9;
    assert_null(tokenizer_text(t, -1, &length));
    assert_null(tokenizer_text(t, 256, &length));
    assert_null(tokenizer_text(t, INT32_MIN, &length));
    tokenizer_free(t);
    tokenizer_free(NULL);
}

static void encode_keeps_to_its_room(void **state)
{
    (void)state;
    tokenizer *t = bytes_tokenizer();
    int32_t ids[4] = {-1, -1, -1, -1};
    assert_int_equal(tokenizer_encode(t, "abcdef", 6, NULL, 0), 6);
    assert_int_equal(tokenizer_encode(t, NULL, 0, ids, 4), 0);
    assert_int_equal(ids[0], -1);
    assert_int_equal(tokenizer_encode(t, "abcdef", 6, ids, 3), 6);
    assert_int_equal(ids[2], 'c');
    assert_int_equal(ids[3], -1);
    tokenizer_free(t);
}

static json_t *saved(void)
{
    fathom_error err;
    tokenizer *t = bytes_tokenizer();
    assert_ok(tokenizer_save(t, "tokenizer.json", &err), &err);
    tokenizer_free(t);
    json_t *root = json_load_file("tokenizer.json", 0, NULL);
    assert_non_null(root);
    return root;
}

static void save_and_load_agree(void **state)
{
    (void)state;
    json_decref(saved());
    fathom_error err;
    tokenizer *t;
    assert_ok(tokenizer_load("tokenizer.json", &t, &err), &err);
    assert_is_bytes(t);
    tokenizer_free(t);
}

static void file_names_bytes_as_gpt2_does(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int byte;
    } known[] = {{"A", 'A'}, {"~", '~'}, {"Ā", 0}, {"Ċ", '\n'}, {"Ġ", ' '}, {"ġ", 0x7F}, {"Ģ", 0x80},
                 {"ł", 0xA0}, {"¡", 0xA1}, {"Ń", 0xAD}, {"®", 0xAE}, {"ÿ", 0xFF}};
    json_t *root = saved();
    const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    assert_int_equal(json_object_size(vocab), 256);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_int_equal(json_integer_value(json_object_get(vocab, known[i].name)), known[i].byte);
    json_decref(root);
}

/* Sets the field at a path of names (the last NULL) to a JSON text; NULL removes it. */
static void edit(json_t *root, const char *const *names, const char *text)
{
    while (names[1])
        root = json_object_get(root, *names++);
    json_t *value = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    assert_true(!text || value);
    assert_int_equal(value ? json_object_set_new(root, *names, value) : json_object_del(root, *names), 0);
}

static void other_tokenizers_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *names[4], *value;
        fathom_status code;
        const char *field, *why;
    } cases[] = {
        {{"model"}, NULL, FATHOM_FORMAT, "model", "missing"},
        {{"model"}, "7", FATHOM_FORMAT, "model: 7", "an object"},
        {{"model", "type"}, NULL, FATHOM_FORMAT, "model.type", "missing"},
        {{"model", "type"}, "\"Unigram\"", FATHOM_UNSUPPORTED, "model.type", "Unigram"},
        {{"model", "merges"}, "[\"a b\", \"c d\"]", FATHOM_UNSUPPORTED, "model.merges: 2 merges", "byte tokenizer"},
        {{"model", "merges"}, NULL, FATHOM_FORMAT, "model.merges", "missing"},
        {{"model", "merges"}, "{}", FATHOM_FORMAT, "model.merges", "an array"},
        {{"model", "vocab"}, "{\"a\": 97}", FATHOM_UNSUPPORTED, "model.vocab: 1 entries", "byte tokenizer only"},
        {{"model", "vocab"}, "[]", FATHOM_FORMAT, "model.vocab", "an object"},
        {{"model", "vocab", "ab"}, "256", FATHOM_UNSUPPORTED, "model.vocab: 257 entries", "byte tokenizer only"},
        {{"model", "vocab", "b"}, "97", FATHOM_UNSUPPORTED, "model.vocab: byte 98", "97"},
        {{"model", "vocab", "b"}, "\"98\"", FATHOM_FORMAT, "model.vocab.b", "an integer"},
        {{"model", "vocab", "b"}, "98.0", FATHOM_FORMAT, "model.vocab.b", "an integer"},
        {{"model", "continuing_subword_prefix"}, "\"##\"", FATHOM_UNSUPPORTED, "model.continuing_subword_prefix", "##"},
        {{"model", "end_of_word_suffix"}, "\"</w>\"", FATHOM_UNSUPPORTED, "model.end_of_word_suffix", "</w>"},
        {{"added_tokens"}, "[{\"id\": 256, \"content\": \"<s>\"}]", FATHOM_UNSUPPORTED, "added_tokens: 1", "byte"},
        {{"added_tokens"}, "{}", FATHOM_FORMAT, "added_tokens", "an array"},
        {{"normalizer"}, "{\"type\": \"NFC\"}", FATHOM_UNSUPPORTED, "normalizer", "NFC"},
        {{"post_processor"}, "{\"type\": \"TemplateProcessing\"}", FATHOM_UNSUPPORTED, "post_processor", "Template"},
        {{"truncation"}, "{\"max_length\": 8}", FATHOM_UNSUPPORTED, "truncation", "max_length"},
        {{"padding"}, "{\"pad_id\": 0}", FATHOM_UNSUPPORTED, "padding", "pad_id"},
        {{"decoder"}, NULL, FATHOM_FORMAT, "decoder", "missing"},
        {{"decoder", "type"}, "\"Metaspace\"", FATHOM_UNSUPPORTED, "decoder.type", "Metaspace"},
        {{"pre_tokenizer"}, "null", FATHOM_FORMAT, "pre_tokenizer", "an object"},
        {{"pre_tokenizer", "type"}, "\"Whitespace\"", FATHOM_UNSUPPORTED, "pre_tokenizer.type", "Whitespace"},
        {{"pre_tokenizer", "add_prefix_space"}, "true", FATHOM_UNSUPPORTED, "pre_tokenizer.add_prefix_space", "true"},
        {{"pre_tokenizer", "add_prefix_space"}, "\"no\"", FATHOM_FORMAT, "pre_tokenizer.add_prefix_space", "a boolean"},
    };
    json_t *root = saved();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *changed = json_deep_copy(root);
        edit(changed, cases[i].names, cases[i].value);
        assert_int_equal(json_dump_file(changed, "changed.json", 0), 0);
        json_decref(changed);
        tokenizer *t;
        fathom_error err;
        assert_error(tokenizer_load("changed.json", &t, &err), &err, cases[i].code, cases[i].field, cases[i].why);
        assert_non_null(strstr(err.message, "changed.json: "));
        assert_null(t);
    }
    json_t *renamed = json_deep_copy(root); /* 256 entries, one of them no byte's name */
    edit(renamed, (const char *const[]){"model", "vocab", "b", NULL}, NULL);
    edit(renamed, (const char *const[]){"model", "vocab", "bb", NULL}, "98");
    assert_int_equal(json_dump_file(renamed, "renamed.json", 0), 0);
    json_decref(renamed);
    tokenizer *t;
    fathom_error err;
    assert_error(tokenizer_load("renamed.json", &t, &err), &err, FATHOM_FORMAT, "model.vocab.b", "missing");
    json_decref(root);
}

/* What changes no id may be absent. */
static void harmless_fields_may_be_missing(void **state)
{
    (void)state;
    static const char *const optional[][3] = {
        {"version"}, {"truncation"}, {"padding"}, {"added_tokens"}, {"normalizer"}, {"post_processor"},
        {"model", "dropout"}, {"model", "fuse_unk"}, {"model", "continuing_subword_prefix"},
        {"pre_tokenizer", "use_regex"},
    };
    json_t *root = saved();
    for (size_t i = 0; i < sizeof optional / sizeof *optional; i++)
        edit(root, optional[i], NULL);
    edit(root, (const char *const[]){"model", "end_of_word_suffix", NULL}, "\"\"");
    assert_int_equal(json_dump_file(root, "small.json", 0), 0);
    json_decref(root);
    tokenizer *t;
    fathom_error err;
    assert_ok(tokenizer_load("small.json", &t, &err), &err);
    tokenizer_free(t);
}

static void broken_files_are_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "{", "[]", "7", "{\"model\": {}, \"model\": {}}", "\xff\xfe", "{} x"};
    tokenizer *t;
    fathom_error err;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put_text("broken.json", texts[i]);
        assert_error(tokenizer_load("broken.json", &t, &err), &err, FATHOM_FORMAT, "broken.json: ", "JSON");
        assert_null(t);
    }
    assert_error(tokenizer_load("missing.json", &t, &err), &err, FATHOM_NOT_FOUND, "missing.json: ", "");

    json_decref(saved());
    size_t size;
    char *text = get_file("tokenizer.json", &size);
    for (size_t cut = 0; cut + 2 < size; cut += 13) { /* the last two bytes are the closing brace and the line's end */
        put_file("cut.json", text, cut);
        assert_error(tokenizer_load("cut.json", &t, &err), &err, FATHOM_FORMAT, "cut.json: ", "malformed");
    }
    free(text);
}

static size_t allocations, fail_at;

static void *failing_malloc(size_t size)
{
    return ++allocations == fail_at ? NULL : malloc(size);
}

/* Every allocation of the JSON library fails once; a leak would be the sanitizer's to find. */
static void running_out_of_memory_is_an_error(void **state)
{
    (void)state;
    json_decref(saved());
    tokenizer *t = bytes_tokenizer();
    fathom_error err;
    json_set_alloc_funcs(failing_malloc, free);
    fathom_status status = FATHOM_OUT_OF_MEMORY;
    size_t failures = 0;
    for (fail_at = 1; status != FATHOM_OK; fail_at += 1, failures++) {
        allocations = 0;
        status = tokenizer_save(t, "other.json", &err);
        if (status != FATHOM_OK)
            assert_error(status, &err, FATHOM_OUT_OF_MEMORY, "other.json: ", "out of memory");
    }
    assert_true(failures > 256);
    status = FATHOM_OUT_OF_MEMORY;
    for (fail_at = 1; status != FATHOM_OK; fail_at += 1) {
        allocations = 0;
        tokenizer *other;
        status = tokenizer_load("tokenizer.json", &other, &err); /* the library does not always know the reason */
        assert_true((status == FATHOM_OK) == (other != NULL));
        assert_true(status == FATHOM_OK || strstr(err.message, "tokenizer.json: "));
        tokenizer_free(other);
    }
    json_set_alloc_funcs(malloc, free);
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_bytes),
        cmocka_unit_test(encode_keeps_to_its_room),
        temp_test(save_and_load_agree),
        temp_test(file_names_bytes_as_gpt2_does),
        temp_test(other_tokenizers_are_refused),
        temp_test(harmless_fields_may_be_missing),
        temp_test(broken_files_are_refused),
        temp_test(running_out_of_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
