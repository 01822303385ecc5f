/* Tokenizers: the byte tokenizer, whose ids are bytes both ways, and small tokenizer.json files made from its own by changing a field or two:
 * what each field does, what is refused, what hostile files do. tests/interop/test_tokenizer.py holds whole ones against Hugging Face's
 * library. */
#include "base/temp.h"

#include <jansson.h>

#include "base/rng.h"
#include "text/corpus.h"
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
    size_t count;
    fathom_error err;
    for (int i = 0; i < 256; i++)
        text[i] = (char)i;
    assert_int_equal(tokenizer_vocab(t), 256);
    assert_ok(fathom_tokenizer_encode(t, text, 256, 1, ids, 256, &count, &err), &err);
    assert_int_equal(count, 256);
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
    size_t count;
    fathom_error err;
    assert_error(fathom_tokenizer_encode(t, "abcdef", 6, 1, NULL, 0, &count, &err), &err, FATHOM_INVALID_ARGUMENT, "6 tokens", "0");
    assert_int_equal(count, 6);
    assert_ok(fathom_tokenizer_encode(t, NULL, 0, 1, ids, 4, &count, &err), &err);
    assert_int_equal(count, 0);
    assert_int_equal(ids[0], -1);
    assert_int_equal(fathom_tokenizer_encode(t, "abcdef", 6, 1, ids, 3, &count, NULL), FATHOM_INVALID_ARGUMENT);
    assert_int_equal(count, 6);
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

/* The byte tokenizer's file with fields changed. */
typedef struct change {
    const char *names[4], *value;
} change;

static void write_changed(const char *path, const change *changes, size_t count)
{
    json_t *root = saved();
    for (size_t i = 0; i < count; i++)
        edit(root, changes[i].names, changes[i].value);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}

static tokenizer *load_changed(const change *changes, size_t count)
{
    tokenizer *t;
    fathom_error err;
    write_changed("changed.json", changes, count);
    assert_ok(tokenizer_load("changed.json", &t, &err), &err);
    return t;
}
#define LOAD(...) load_changed((const change[]){__VA_ARGS__}, sizeof((const change[]){__VA_ARGS__}) / sizeof(change))

static void refuse_changed(const change *changes, size_t count, fathom_status code, const char *a, const char *b)
{
    tokenizer *t;
    fathom_error err;
    write_changed("changed.json", changes, count);
    assert_error(tokenizer_load("changed.json", &t, &err), &err, code, a, b);
    assert_non_null(strstr(err.message, "changed.json: "));
    assert_null(t);
}

/* expected: the ids, ended by -1. */
static void assert_encodes(const tokenizer *t, const char *text, bool special, const int32_t *expected)
{
    id_list list = {0};
    fathom_error err;
    assert_ok(tokenizer_encode(t, text, strlen(text), special, &list, &err), &err);
    for (size_t i = 0; i <= list.count; i++)
        if (i == list.count ? expected[i] != -1 : list.ids[i] != expected[i])
            fail_msg("\"%s\": token %zu of %zu is %d, not %d", text, i, list.count, i < list.count ? list.ids[i] : -1, expected[i]);
    id_list_free(&list);
}
#define ENCODES(t, text, ...) assert_encodes(t, text, false, (const int32_t[]){__VA_ARGS__, -1})

static void assert_text(const tokenizer *t, int32_t id, const char *expected)
{
    size_t bytes;
    const char *text = tokenizer_text(t, id, &bytes);
    assert_int_equal(bytes, strlen(expected));
    assert_memory_equal(text, expected, bytes);
}

#define ADDED(id, content, flags) "{\"id\": " #id ", \"content\": \"" content "\", " flags "}"
#define FLAGS(word, left, right, normal) \
    "\"single_word\": " #word ", \"lstrip\": " #left ", \"rstrip\": " #right ", \"normalized\": " #normal ", \"special\": false"
#define PLAIN FLAGS(false, false, false, false)

static void merges_come_in_both_forms(void **state)
{
    (void)state;
    static const char *const forms[] = {"[\"a b\", \"ab c\"]", "[[\"a\", \"b\"], [\"ab\", \"c\"]]", "[\"#version: 0.2\", \"a b\", [\"ab\", \"c\"]]"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        tokenizer *t = LOAD({{"model", "vocab", "ab"}, "256"}, {{"model", "vocab", "abc"}, "300"}, {{"model", "merges"}, forms[i]});
        assert_int_equal(tokenizer_vocab(t), 301);
        ENCODES(t, "abcabx", 300, 256, 'x');
        assert_text(t, 300, "abc");
        assert_text(t, 299, ""); /* a gap */
        size_t bytes;
        assert_null(tokenizer_text(t, 301, &bytes));
        tokenizer_free(t);
    }
}

static void whole_pieces_may_pass_by_merges(void **state)
{
    (void)state;
    const change vocab = {{"model", "vocab", "\u0120cat"}, "256"}, split = {{"pre_tokenizer", "use_regex"}, "true"};
    tokenizer *t = LOAD(vocab, split, {{"model", "ignore_merges"}, "true"});
    ENCODES(t, "cat cat cats", 'c', 'a', 't', 256, ' ', 'c', 'a', 't', 's');
    assert_text(t, 256, " cat");
    tokenizer_free(t);
    t = LOAD(vocab, split);
    ENCODES(t, " cat", ' ', 'c', 'a', 't');
    tokenizer_free(t);
}

static void added_tokens_are_found_leftmost_then_longest(void **state)
{
    (void)state;
    tokenizer *t = LOAD({{"added_tokens"}, "[" ADDED(256, "ab", PLAIN) "," ADDED(258, "abcd", PLAIN) "," ADDED(257, "bcdef", PLAIN) ","
                                           ADDED(259, "x y", PLAIN) "," ADDED(260, "\u00e9t\u00e9", PLAIN) "]"});
    assert_int_equal(tokenizer_vocab(t), 261);
    ENCODES(t, "abcdef", 258, 'e', 'f');
    ENCODES(t, "abcx yab", 256, 'c', 259, 256);
    ENCODES(t, "bcdefabc\xC3\xA9t\xC3\xA9", 257, 256, 'c', 260);
    assert_text(t, 259, "x y");
    assert_text(t, 260, "\xC3\xA9t\xC3\xA9"); /* its own UTF-8, though it could be read as byte-level text */
    tokenizer_free(t);
}

static void added_tokens_swallow_white_space(void **state)
{
    (void)state;
    tokenizer *t = LOAD({{"added_tokens"}, "[" ADDED(256, "<l>", FLAGS(false, true, false, false)) "," ADDED(257, "<r>", FLAGS(false, false, true, false))
                                           "," ADDED(258, "<b>", FLAGS(false, true, true, true)) "]"});
    ENCODES(t, "a  <l> b", 'a', 256, ' ', 'b');
    ENCODES(t, "a <r> \n\xE3\x80\x80""b", 'a', ' ', 257, 'b');
    ENCODES(t, "<r> <l> <r>", 257, 256, ' ', 257); /* what one has taken the other finds gone */
    ENCODES(t, "x <b> <b>\t", 'x', 258, 258);
    tokenizer_free(t);
    t = LOAD({{"added_tokens"}, "[" ADDED(256, " ", FLAGS(false, true, true, false)) "]"});
    static char spaces[1 << 20];
    memset(spaces, ' ', sizeof spaces);
    id_list list = {0};
    fathom_error err;
    assert_ok(tokenizer_encode(t, spaces, sizeof spaces, false, &list, &err), &err); /* in time that is not the square of it */
    assert_int_equal(list.count, sizeof spaces);
    id_list_free(&list);
    tokenizer_free(t);
}

static void single_words_stand_alone(void **state)
{
    (void)state;
    tokenizer *t = LOAD({{"added_tokens"}, "[" ADDED(256, "ab", FLAGS(true, false, false, false)) "," ADDED(257, "abc", FLAGS(true, false, false, false))
                                           "," ADDED(258, "bc", PLAIN) "]"});
    ENCODES(t, "ab.abc", 256, '.', 257);
    ENCODES(t, "xabc ab_ bcab", 'x', 'a', 'b', 'c', ' ', 'a', 'b', '_', ' ', 258, 'a', 'b'); /* a match that is dropped is not looked into */
    ENCODES(t, "ab\xC3\xA9", 'a', 'b', 0xC3, 0xA9);
    ENCODES(t, "ab\xE2\x80\x8D", 'a', 'b', 0xE2, 0x80, 0x8D);
    ENCODES(t, "ab\xE2\x82\xAC", 256, 0xE2, 0x82, 0xAC);
    ENCODES(t, "ab\xFF""ab", 256, 0xFF, 256); /* no character, so no word's */
    tokenizer_free(t);
}

static void text_is_normalized_between_raw_tokens(void **state)
{
    (void)state;
    tokenizer *t = LOAD({{"normalizer"}, "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}]}"},
                        {{"added_tokens"}, "[" ADDED(256, "e\u0301", FLAGS(false, false, false, false)) "," ADDED(257, "a\u0301", FLAGS(false, false, false, true)) "]"});
    ENCODES(t, "o\xCC\x81", 0xC3, 0xB3);
    ENCODES(t, "e\xCC\x81\xC3\xA9", 256, 0xC3, 0xA9);
    ENCODES(t, "a\xCC\x81\xC3\xA1", 257, 257);
    assert_text(t, 256, "e\xCC\x81");
    assert_text(t, 257, "\xC3\xA1"); /* it stands in normalized text */
    tokenizer_free(t);
}

static void pre_tokenizers_go_one_after_the_other(void **state)
{
    (void)state;
    const change vocab = {{"model", "vocab", "11"}, "256"}, more = {{"model", "vocab", "\u0120x"}, "257"},
                 merges = {{"model", "merges"}, "[\"1 1\", \"\u0120 x\"]"};
    tokenizer *t = LOAD(vocab, more, merges, {{"pre_tokenizer"}, "{\"type\": \"Sequence\", \"pretokenizers\": ["
        "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"1{1,3}\"}, \"behavior\": \"Isolated\", \"invert\": false},"
        "{\"type\": \"Split\", \"pattern\": {\"String\": \".\"}, \"behavior\": \"Removed\", \"invert\": false},"
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}]}"});
    ENCODES(t, "x.x", 257, 257); /* a space before each piece */
    ENCODES(t, "111111", ' ', 256, '1', ' ', 256, '1');
    ENCODES(t, " x", 257);
    assert_encodes(t, "", false, (const int32_t[]){-1});
    tokenizer_free(t);
    t = LOAD(vocab, more, merges, {{"pre_tokenizer", "add_prefix_space"}, "true"}, {{"added_tokens"}, "[" ADDED(258, "<s>", PLAIN) "]"});
    ENCODES(t, "x<s>x<s> x<s>", 257, 258, 257, 258, 257, 258);
    tokenizer_free(t);
}

#define SPECIAL(name) "{\"SpecialToken\": {\"id\": \"" name "\", \"type_id\": 0}}"
#define TEMPLATE(single) "{\"type\": \"TemplateProcessing\", \"single\": [" single "], \"pair\": [], \"special_tokens\": {" \
    "\"b\": {\"id\": \"b\", \"ids\": [1, 2], \"tokens\": [\"x\", \"y\"]}, \"e\": {\"id\": \"e\", \"ids\": [3], \"tokens\": [\"z\"]}}}"
#define SEQUENCE_A "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}"

static void templates_stand_around_the_text(void **state)
{
    (void)state;
    static const char template[] = TEMPLATE(SPECIAL("b") "," SEQUENCE_A "," SPECIAL("e") "," SPECIAL("b"));
    char both[sizeof template + 100];
    snprintf(both, sizeof both, "{\"type\": \"Sequence\", \"processors\": [{\"type\": \"ByteLevel\", \"trim_offsets\": true}, %s]}", template);
    for (int i = 0; i < 2; i++) {
        tokenizer *t = LOAD({{"post_processor"}, i ? both : template});
        assert_encodes(t, "a", true, (const int32_t[]){1, 2, 'a', 3, 1, 2, -1});
        assert_encodes(t, "", true, (const int32_t[]){1, 2, 3, 1, 2, -1});
        assert_encodes(t, "a", false, (const int32_t[]){'a', -1});
        size_t before, behind;
        tokenizer_special_counts(t, &before, &behind);
        assert_int_equal(before, 2);
        assert_int_equal(behind, 3);
        tokenizer_free(t);
    }
    refuse_changed(&(change){{"post_processor"}, TEMPLATE(SPECIAL("b"))}, 1, FATHOM_UNSUPPORTED, "post_processor.single", "no sequence A");
    refuse_changed(&(change){{"post_processor"}, TEMPLATE(SEQUENCE_A "," SEQUENCE_A)}, 1, FATHOM_UNSUPPORTED, "post_processor.single", "once");
    refuse_changed(&(change){{"post_processor"}, TEMPLATE(SEQUENCE_A "," SPECIAL("no"))}, 1, FATHOM_FORMAT, "special_tokens.no", "missing");
    refuse_changed((const change[]){{{"post_processor"}, template}, {{"post_processor", "special_tokens", "e"}, "{\"ids\": [256]}"}}, 2, FATHOM_FORMAT,
                   "post_processor.special_tokens.ids: 256", "no token");
}

static void any_bytes_come_back(void **state)
{
    (void)state;
    tokenizer *t = LOAD({{"pre_tokenizer", "use_regex"}, "true"}, {{"model", "vocab", "\u00e2\u0124"}, "256"}, {{"model", "merges"}, "[\"\u00e2 \u0124\"]"},
                        {{"added_tokens"}, "[" ADDED(257, "<s>", PLAIN) "," ADDED(258, "\u20ac", PLAIN) "]"});
    ENCODES(t, "\xE2\x82<s>\xE2\x82\xAC\x80", 0xE2, 0x82, 257, 258, 0x80); /* what is no character is not merged */
    ENCODES(t, "\xE2\x82\xAD", 256, 0xAD);
    encoder *e;
    id_list list = {0};
    fathom_error err;
    assert_ok(encoder_new(t, &e, &err), &err);
    static const char *const parts[] = {"<s>", "\xE2\x82\xAC", "\xE2\x82", "\xFF", " ", "word", "\n\n", "\xF0\x9F\x98\x80", "\xED\xA0\x80", "\xC0", "0"};
    for (uint64_t draw = 0; draw < 2000; draw++) {
        char text[200] = "", back[200];
        size_t size = 0, done = 0;
        for (uint64_t i = 0; i < draw % 20; i++) {
            const char *part = parts[(size_t)(rng_uniform(1, draw, i) * 11)];
            memcpy(text + size, part, strlen(part));
            size += strlen(part);
        }
        list.count = 0;
        assert_ok(encoder_add(e, text, size, true, &list, &err), &err);
        for (size_t i = 0; i < list.count; i++) {
            size_t bytes;
            const char *token = tokenizer_text(t, list.ids[i], &bytes);
            memcpy(back + done, token, bytes);
            done += bytes;
        }
        assert_int_equal(done, size);
        assert_memory_equal(back, text, size);
    }
    id_list_free(&list);
    encoder_free(e);
    tokenizer_free(t);
}

/* Each file has its special tokens; the bytes are the text's, whatever its tokens stand for. */
static void corpora_are_encoded_file_by_file(void **state)
{
    (void)state;
    tokenizer *t = LOAD({{"normalizer"}, "{\"type\": \"NFC\"}"}, {{"post_processor"}, TEMPLATE(SPECIAL("b") "," SEQUENCE_A "," SPECIAL("e"))});
    put_text("one", "ae\xCC\x81");
    put_text("two", "bcdefghijklmnopq");
    put_text("three", "");
    const char *const paths[] = {"one", "two", "three"};
    corpus_input in = {.paths = paths, .count = 3, .tokenizer = t};
    corpus c;
    fathom_error err;
    assert_ok(corpus_load(&in, &c, &err), &err);
    static const int32_t expected[] = {1, 2, 'a', 0xC3, 0xA9, 3, 1, 2, 'b'};
    int32_t found[9];
    assert_int_equal(c.train.count, 6 + 19);
    assert_int_equal(c.bytes, 4 + 16);
    assert_ok(corpus_part_read(&c.train, 0, 9, found, &err), &err);
    assert_memory_equal(found, expected, sizeof expected);
    corpus_free(&c);
    in.heldout_fraction = 0.5;
    assert_ok(corpus_load(&in, &c, &err), &err);
    assert_int_equal(c.train.count + c.heldout.count, 6 + 19);
    assert_int_equal(c.bytes, 4 + 16);
    corpus_free(&c);
    tokenizer_free(t);
}

/* An encoder that has seen other words says the same as a new one. */
static void remembered_words_are_the_same(void **state)
{
    (void)state;
    tokenizer *t = LOAD({{"pre_tokenizer", "use_regex"}, "true"}, {{"model", "vocab", "ab"}, "256"}, {{"model", "vocab", "abab"}, "257"},
                        {{"model", "merges"}, "[\"a b\", \"ab ab\"]"});
    encoder *e;
    fathom_error err;
    assert_ok(encoder_new(t, &e, &err), &err);
    for (uint64_t draw = 0; draw < 20000; draw++) {
        char text[48];
        const size_t size = 1 + (size_t)(rng_uniform(2, 1, draw) * 47);
        for (size_t i = 0; i < size; i++)
            text[i] = (char)('a' + (int)(rng_uniform(2, draw % 9000 + 2, i) * 2.2));
        id_list known = {0}, fresh = {0};
        assert_ok(encoder_add(e, text, size, false, &known, &err), &err);
        if (draw % 100 == 0) {
            assert_ok(tokenizer_encode(t, text, size, false, &fresh, &err), &err);
            assert_int_equal(known.count, fresh.count);
            assert_memory_equal(known.ids, fresh.ids, fresh.count * sizeof *fresh.ids);
        }
        id_list_free(&known);
        id_list_free(&fresh);
    }
    encoder_free(e);
    tokenizer_free(t);
}

static void a_file_is_saved_as_it_was(void **state)
{
    (void)state;
    json_decref(saved());
    size_t size, again;
    char *text = get_file("tokenizer.json", &size), *spaced = malloc(size + 4);
    snprintf(spaced, size + 4, "  \n%s", text);
    assert_int_equal(mkdir("folder", 0777), 0);
    put_file("folder/tokenizer.json", spaced, size + 3);
    tokenizer *t, *bytes = bytes_tokenizer();
    fathom_error err;
    assert_ok(tokenizer_load("folder", &t, &err), &err);
    assert_is_bytes(t);
    assert_false(tokenizer_same(t, bytes));
    assert_ok(tokenizer_save(t, "copy.json", &err), &err);
    char *copy = get_file("copy.json", &again);
    assert_int_equal(again, size + 3);
    assert_memory_equal(copy, spaced, again);
    tokenizer_free(t);
    assert_ok(tokenizer_load("tokenizer.json", &t, &err), &err);
    assert_true(tokenizer_same(t, bytes));
    tokenizer_free(t);
    tokenizer_free(bytes);
    free(copy);
    free(text);
    free(spaced);
}

static void what_differs_is_refused(void **state)
{
    (void)state;
    static const struct {
        change c;
        fathom_status code;
        const char *field, *why;
    } cases[] = {
        {{{"model"}, NULL}, FATHOM_FORMAT, "model", "missing"},
        {{{"model"}, "7"}, FATHOM_FORMAT, "model: 7", "an object"},
        {{{"model", "type"}, NULL}, FATHOM_FORMAT, "model.type", "missing"},
        {{{"model", "type"}, "\"Unigram\""}, FATHOM_UNSUPPORTED, "model.type", "Unigram"},
        {{{"model", "dropout"}, "0.1"}, FATHOM_UNSUPPORTED, "model.dropout", "0.1"},
        {{{"model", "unk_token"}, "\"<unk>\""}, FATHOM_UNSUPPORTED, "model.unk_token", "<unk>"},
        {{{"model", "byte_fallback"}, "true"}, FATHOM_UNSUPPORTED, "model.byte_fallback", "true"},
        {{{"model", "continuing_subword_prefix"}, "\"##\""}, FATHOM_UNSUPPORTED, "model.continuing_subword_prefix", "##"},
        {{{"model", "end_of_word_suffix"}, "\"</w>\""}, FATHOM_UNSUPPORTED, "model.end_of_word_suffix", "</w>"},
        {{{"model", "ignore_merges"}, "1"}, FATHOM_FORMAT, "model.ignore_merges", "a boolean"},
        {{{"model", "merges"}, NULL}, FATHOM_FORMAT, "model.merges", "missing"},
        {{{"model", "merges"}, "{}"}, FATHOM_FORMAT, "model.merges", "an array"},
        {{{"model", "merges"}, "[\"a b\"]"}, FATHOM_FORMAT, "model.merges[0]: \"a b\"", "not in the vocabulary"},
        {{{"model", "merges"}, "[\"a  b\"]"}, FATHOM_FORMAT, "model.merges[0]", "two tokens"},
        {{{"model", "merges"}, "[\"ab\"]"}, FATHOM_FORMAT, "model.merges[0]", "two tokens"},
        {{{"model", "merges"}, "[[\"a\"]]"}, FATHOM_FORMAT, "model.merges[0]", "two tokens"},
        {{{"model", "merges"}, "[[\"a\", \"\"]]"}, FATHOM_FORMAT, "model.merges[0]", "two tokens"},
        {{{"model", "merges"}, "[[\"a\", \"b\", \"c\"]]"}, FATHOM_FORMAT, "model.merges[0]", "two tokens"},
        {{{"model", "merges"}, "[[\"a\", 7]]"}, FATHOM_FORMAT, "model.merges[0]", "two tokens"},
        {{{"model", "merges"}, "[[\"a\", \"no\"]]"}, FATHOM_FORMAT, "model.merges[0]", "model.vocab"},
        {{{"model", "merges"}, "[[\"a\", \"\\n\"]]"}, FATHOM_FORMAT, "model.merges[0]", "model.vocab"},
        {{{"model", "merges"}, "[7]"}, FATHOM_FORMAT, "model.merges[0]: 7", "expected"},
        {{{"model", "vocab"}, "{\"a\": 97}"}, FATHOM_UNSUPPORTED, "model.vocab", "byte 0 has no token"},
        {{{"model", "vocab"}, "[]"}, FATHOM_FORMAT, "model.vocab", "an object"},
        {{{"model", "vocab", "b"}, "97"}, FATHOM_FORMAT, "model.vocab", "id 97 is there twice"},
        {{{"model", "vocab", "b"}, "\"98\""}, FATHOM_FORMAT, "model.vocab.b: \"98\"", "an integer"},
        {{{"model", "vocab", "b"}, "98.0"}, FATHOM_FORMAT, "model.vocab.b: 98.0", "an integer"},
        {{{"model", "vocab", "b"}, "-1"}, FATHOM_FORMAT, "model.vocab.b: -1", "from 0"},
        {{{"model", "vocab", "b"}, "9223372036854775807"}, FATHOM_FORMAT, "model.vocab.b", "an integer"},
        {{{"model", "vocab", "b"}, "2147483647"}, FATHOM_FORMAT, "model.vocab.b: 2147483647", "from 0"},
        {{{"model", "vocab", "b"}, "2147483645"}, FATHOM_UNSUPPORTED, "highest id is 2147483645", "256 tokens"},
        {{{"added_tokens"}, "{}"}, FATHOM_FORMAT, "added_tokens", "an array"},
        {{{"added_tokens"}, "[7]"}, FATHOM_FORMAT, "added_tokens[0]: 7", "an object"},
        {{{"added_tokens"}, "[{\"id\": 256, \"content\": \"<s>\"}]"}, FATHOM_FORMAT, "added_tokens[0].single_word", "missing"},
        {{{"added_tokens"}, "[" ADDED(256, "", PLAIN) "]"}, FATHOM_UNSUPPORTED, "added_tokens[0].content", "1 to 512"},
        {{{"added_tokens"}, "[" ADDED(2147483640, "<s>", PLAIN) "]"}, FATHOM_UNSUPPORTED, "highest id is 2147483640", "257 tokens"},
        {{{"added_tokens"}, "[" ADDED(255, "<s>", PLAIN) "]"}, FATHOM_FORMAT, "added_tokens[0].id: 255", "<s>"},
        {{{"added_tokens"}, "[" ADDED(256, "a", PLAIN) "]"}, FATHOM_FORMAT, "added_tokens[0].id: 256", "\"a\" as 97"},
        {{{"added_tokens"}, "[" ADDED(256, "<s>", PLAIN) "," ADDED(256, "<t>", PLAIN) "]"}, FATHOM_FORMAT, "added_tokens[1].id: 256", "<t>"},
        {{{"added_tokens"}, "[" ADDED(256, "<s>", "\"special\": 1") "]"}, FATHOM_FORMAT, "added_tokens[0].special: 1", "a boolean"},
        {{{"normalizer"}, "{\"type\": \"NFKC\"}"}, FATHOM_UNSUPPORTED, "normalizer.type", "NFKC"},
        {{{"normalizer"}, "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Lowercase\"}]}"}, FATHOM_UNSUPPORTED,
         "normalizer.normalizers[1].type", "Lowercase"},
        {{{"post_processor"}, "{\"type\": \"RobertaProcessing\"}"}, FATHOM_UNSUPPORTED, "post_processor.type", "Roberta"},
        {{{"truncation"}, "{\"max_length\": 8}"}, FATHOM_UNSUPPORTED, "truncation", "max_length"},
        {{{"padding"}, "{\"pad_id\": 0}"}, FATHOM_UNSUPPORTED, "padding", "pad_id"},
        {{{"decoder", "type"}, "\"Metaspace\""}, FATHOM_UNSUPPORTED, "decoder.type", "Metaspace"},
        {{{"pre_tokenizer"}, "null"}, FATHOM_FORMAT, "pre_tokenizer", "an object"},
        {{{"pre_tokenizer", "type"}, "\"Whitespace\""}, FATHOM_UNSUPPORTED, "pre_tokenizer.type", "Whitespace"},
        {{{"pre_tokenizer", "add_prefix_space"}, "\"no\""}, FATHOM_FORMAT, "pre_tokenizer.add_prefix_space", "a boolean"},
        {{{"pre_tokenizer"}, "{\"type\": \"Sequence\", \"pretokenizers\": []}"}, FATHOM_UNSUPPORTED, "pre_tokenizer.type", "no ByteLevel"},
        {{{"pre_tokenizer"}, "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\", \"add_prefix_space\": false}, {\"type\": \"Split\"}]}"},
         FATHOM_UNSUPPORTED, "pre_tokenizer.pretokenizers[1].type", "come last"},
        {{{"pre_tokenizer"}, "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\b\"}, \"behavior\": \"Isolated\"}"}, FATHOM_UNSUPPORTED,
         "pre_tokenizer.pattern", "\\b"},
        {{{"pre_tokenizer"}, "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"Isolate\"}"}, FATHOM_UNSUPPORTED,
         "pre_tokenizer.behavior", "Isolate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse_changed(&cases[i].c, 1, cases[i].code, cases[i].field, cases[i].why);
}

/* What changes no id may be absent. */
static void harmless_fields_may_be_missing(void **state)
{
    (void)state;
    tokenizer *t = LOAD({{"version"}, NULL}, {{"truncation"}, NULL}, {{"padding"}, NULL}, {{"added_tokens"}, NULL}, {{"normalizer"}, NULL},
                        {{"post_processor"}, NULL}, {{"decoder"}, NULL}, {{"model", "dropout"}, NULL}, {{"model", "fuse_unk"}, NULL},
                        {{"model", "continuing_subword_prefix"}, NULL}, {{"model", "ignore_merges"}, NULL}, {{"model", "end_of_word_suffix"}, "\"\""},
                        {{"pre_tokenizer", "use_regex"}, NULL});
    assert_is_bytes(t);
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

/* What is read apart from the settings, one token to a line and on one line, moves no line and no column. */
static void errors_are_found_where_they_stand(void **state)
{
    (void)state;
    static const struct {
        const char *text, *where;
    } cases[] = {
        {"{\n\"added_tokens\": [\n{\n},\n{}\n],\n\"model\": {\"vocab\": {\n\"a\": 1,\n\"b\": 2\n}, \"merges\": [\n\n]},\n\"version\": 1.0.0\n}", "line 13 column 15"},
        {"{\"model\": {\"vocab\": {\"\u00e9\u20ac\": 1}, \"merges\": []}, \"version\": 1.0.0}", "line 1 column 61"},
        {"{\"version\": 1.0.0, \"model\": {\"vocab\": {\"a\": 1}}}", "line 1 column 16"},
        {"{\"model\": {\"vocab\": {\n}, \"merges\": [],\n \"vocab\": {\n\n}, \"type\": BPE}}", "line 3 column 8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokenizer *t;
        fathom_error err;
        put_text("broken.json", cases[i].text);
        assert_error(tokenizer_load("broken.json", &t, &err), &err, FATHOM_FORMAT, "broken.json: malformed JSON, ", cases[i].where);
        assert_null(t);
    }
}

/* A file with everything in it, cut off and changed anywhere: refused or read, and what was read encodes. */
static void damaged_files_do_no_harm(void **state)
{
    (void)state;
    write_changed("rich.json", (const change[]){
        {{"model", "vocab", "ab"}, "256"}, {{"model", "merges"}, "[\"a b\"]"}, {{"normalizer"}, "{\"type\": \"NFC\"}"},
        {{"pre_tokenizer", "use_regex"}, "true"}, {{"post_processor"}, TEMPLATE(SPECIAL("b") "," SEQUENCE_A)},
        {{"added_tokens"}, "[" ADDED(257, "<s>", FLAGS(true, true, true, true)) "," ADDED(258, "\\ud83d\\ude00", PLAIN) "]"}}, 6);
    static const char sample[] = "ab <s> \xF0\x9F\x98\x80 e\xCC\x81 \xFF";
    size_t size;
    char *text = get_file("rich.json", &size);
    fathom_error err;
    size_t read = 0;
    for (uint64_t draw = 0; draw < 3000; draw++) {
        char *damaged = malloc(size);
        memcpy(damaged, text, size);
        const size_t cut = draw < 500 ? (size_t)(rng_uniform(3, 1, draw) * (double)size) : size;
        for (uint64_t i = 0; draw >= 500 && i <= draw % 3; i++)
            damaged[(size_t)(rng_uniform(3, 2 + i, draw) * (double)size)] = "{}[]\",:0159truefalsn\\u\x80"[(size_t)(rng_uniform(3, 9 + i, draw) * 24)];
        put_file("damaged.json", damaged, cut);
        free(damaged);
        tokenizer *t;
        const fathom_status status = tokenizer_load("damaged.json", &t, &err);
        assert_true((status == FATHOM_OK) == (t != NULL));
        if (status != FATHOM_OK) {
            assert_non_null(strstr(err.message, "damaged.json: "));
            continue;
        }
        id_list list = {0};
        read++;
        assert_ok(tokenizer_encode(t, sample, sizeof sample - 1, true, &list, &err), &err);
        for (size_t i = 0; i < list.count; i++)
            assert_in_range(list.ids[i], 0, tokenizer_vocab(t) - 1);
        id_list_free(&list);
        tokenizer_free(t);
    }
    assert_true(read > 20 && read < 2500);
    free(text);
}

static void hostile_files_are_refused_before_they_grow(void **state)
{
    (void)state;
    enum { SIZE = 1 << 22 };
    static const struct {
        const char *begin, *repeated, *end;
        fathom_status code;
        const char *why;
    } cases[] = {
        {"", "[", "", FATHOM_FORMAT, "malformed"},
        {"{\"a\": ", "[", "", FATHOM_FORMAT, "malformed"},
        {"{\"a\": [", "[],", "7]}", FATHOM_UNSUPPORTED, "1048576 bytes"}, /* a tree of it would take 50 times as much */
        {"{\"added_tokens\": [", "[],", "7]}", FATHOM_FORMAT, "model: missing"},
        {"{\"model\": {\"vocab\": {", "\"a\":1,", "\"b\":2}}}", FATHOM_FORMAT, "model.type: missing"},
        {"{\"model\": {\"type\": \"", "x", "", FATHOM_FORMAT, "string"},
    };
    char *text = malloc(SIZE + 100);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t length = strlen(cases[i].repeated);
        size_t at = (size_t)sprintf(text, "%s", cases[i].begin);
        for (; at < SIZE; at += length)
            memcpy(text + at, cases[i].repeated, length);
        at += (size_t)sprintf(text + at, "%s", cases[i].end);
        put_file("hostile.json", text, at);
        tokenizer *t;
        fathom_error err;
        assert_error(tokenizer_load("hostile.json", &t, &err), &err, cases[i].code, "hostile.json: ", cases[i].why);
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
    fathom_error err;
    json_set_alloc_funcs(failing_malloc, free);
    for (int own = 0; own < 2; own++) {
        fathom_status status = FATHOM_OUT_OF_MEMORY;
        for (fail_at = 1; status != FATHOM_OK; fail_at += 1) {
            allocations = 0;
            tokenizer *t;
            status = own ? tokenizer_bytes(&t, &err) : tokenizer_load("tokenizer.json", &t, &err);
            assert_true((status == FATHOM_OK) == (t != NULL)); /* the library does not always know the reason */
            assert_true(status == FATHOM_OK || strstr(err.message, own ? "byte tokenizer: " : "tokenizer.json: "));
            tokenizer_free(t);
        }
        assert_true(fail_at > 30);
    }
    json_set_alloc_funcs(malloc, free);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_bytes),
        cmocka_unit_test(encode_keeps_to_its_room),
        temp_test(save_and_load_agree),
        temp_test(file_names_bytes_as_gpt2_does),
        temp_test(merges_come_in_both_forms),
        temp_test(whole_pieces_may_pass_by_merges),
        temp_test(added_tokens_are_found_leftmost_then_longest),
        temp_test(added_tokens_swallow_white_space),
        temp_test(single_words_stand_alone),
        temp_test(text_is_normalized_between_raw_tokens),
        temp_test(pre_tokenizers_go_one_after_the_other),
        temp_test(templates_stand_around_the_text),
        temp_test(any_bytes_come_back),
        temp_test(corpora_are_encoded_file_by_file),
        temp_test(remembered_words_are_the_same),
        temp_test(a_file_is_saved_as_it_was),
        temp_test(what_differs_is_refused),
        temp_test(harmless_fields_may_be_missing),
        temp_test(broken_files_are_refused),
        temp_test(errors_are_found_where_they_stand),
        temp_test(damaged_files_do_no_harm),
        temp_test(hostile_files_are_refused_before_they_grow),
        temp_test(running_out_of_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
