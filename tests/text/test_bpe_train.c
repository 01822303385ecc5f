/* Learning a vocabulary: against the slow definition, over threads and chunks, its rules one by one, hostile text, memory that runs out. */
#include "base/temp.h"

#include "base/rng.h"
#include "format/json.h"
#include "kernels/kernels.h"
#include "text/bpe.h"
#include "text/bpe_train.h"
#include "text/byte_level.h"
#include "text/split.h"
#include "text/tokenizer_write.h"

/* --- allocations that fail: the linker puts these in the library's place of malloc and its kin --- */

static int64_t allocations_left = -1; /* -1: without end */
static bool ran_out;

static bool allowed(void)
{
    if (allocations_left < 0)
        return true;
    ran_out = ran_out || allocations_left == 0;
    allocations_left -= allocations_left > 0;
    return !ran_out;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n)
{
    return allowed() ? __real_malloc(n) : NULL;
}
void *__wrap_calloc(size_t n, size_t size)
{
    return allowed() ? __real_calloc(n, size) : NULL;
}
void *__wrap_realloc(void *p, size_t n)
{
    return allowed() ? __real_realloc(p, n) : NULL;
}

/* --- the definition: count all pairs, merge the best, begin again --- */

enum { MOST_PIECES = 64, MOST_BYTES = 64, MOST_MERGES = 400 };

typedef struct slow_piece {
    int32_t ids[MOST_BYTES];
    int n;
    int64_t count;
} slow_piece;

/* The place of an id among equals. */
static uint32_t order_of(int32_t id)
{
    return id < 256 ? byte_level_character((unsigned char)id) : 0x1000u + (uint32_t)id;
}

static bool before(bpe_merge a, bpe_merge b)
{
    return a.left != b.left ? order_of(a.left) < order_of(b.left) : order_of(a.right) < order_of(b.right);
}

static int64_t count_pair(const slow_piece *pieces, int n, bpe_merge pair)
{
    int64_t count = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j + 1 < pieces[i].n; j++)
            if (pieces[i].ids[j] == pair.left && pieces[i].ids[j + 1] == pair.right)
                count += pieces[i].count;
    return count;
}

static void merge_piece(slow_piece *p, bpe_merge pair, int32_t made)
{
    int n = 0;
    for (int j = 0; j < p->n; j++) {
        const bool here = j + 1 < p->n && p->ids[j] == pair.left && p->ids[j + 1] == pair.right;
        p->ids[n++] = here ? made : p->ids[j];
        j += here;
    }
    p->n = n;
}

/* Returns the number of merges; leaves the pieces merged. */
static int64_t slow_train(slow_piece *pieces, int n, int64_t merges, int64_t min_count, bpe_merge *out)
{
    int64_t learnt = 0;
    for (; learnt < merges; learnt++) {
        bpe_merge best = {0, 0};
        int64_t best_count = 0;
        for (int i = 0; i < n; i++)
            for (int j = 0; j + 1 < pieces[i].n; j++) {
                const bpe_merge pair = {pieces[i].ids[j], pieces[i].ids[j + 1]};
                const int64_t count = count_pair(pieces, n, pair);
                if (count > best_count || (count == best_count && before(pair, best))) {
                    best = pair;
                    best_count = count;
                }
            }
        if (best_count < min_count || best_count == 0)
            break;
        out[learnt] = best;
        for (int i = 0; i < n; i++)
            merge_piece(&pieces[i], best, (int32_t)(256 + learnt));
    }
    return learnt;
}

/* Every piece, encoded by the merges, has the tokens that learning them left it: so no two tokens are the same, and the encoder agrees. */
static void assert_encodes(const piece_table *t, const bpe_learnt *learnt)
{
    const size_t vocab = 256 + (size_t)learnt->count;
    text_buffer text = {0};
    size_t *offset = calloc(vocab + 1, sizeof *offset);
    token_text *tokens = calloc(vocab, sizeof *tokens);
    fathom_error err;
    for (size_t id = 0; id < vocab; id++) {
        if (id < 256) {
            assert_ok(text_buffer_add(&text, &(char){(char)id}, 1, &err), &err);
        } else {
            const int32_t parts[2] = {learnt->merges[id - 256].left, learnt->merges[id - 256].right};
            for (int k = 0; k < 2; k++) {
                const size_t bytes = offset[parts[k] + 1] - offset[parts[k]];
                assert_ok(text_buffer_reserve(&text, bytes, &err), &err);
                assert_ok(text_buffer_add(&text, text.data + offset[parts[k]], bytes, &err), &err);
            }
        }
        offset[id + 1] = text.size;
    }
    for (size_t id = 0; id < vocab; id++)
        tokens[id] = (token_text){text.data + offset[id], offset[id + 1] - offset[id]};
    bpe *b;
    assert_ok(bpe_new(tokens, (int64_t)vocab, learnt->count, &b, &err), &err);
    for (int64_t i = 0; i < learnt->count; i++)
        assert_ok(bpe_add_merge(b, learnt->merges[i].left, learnt->merges[i].right, &err), &err);
    bpe_scratch scratch = {0};
    int64_t total = 0;
    for (size_t i = 0; i < t->count; i++) {
        int32_t *ids = malloc(t->items[i].bytes * sizeof *ids);
        size_t count;
        assert_ok(bpe_encode(b, t->text.data + t->items[i].offset, t->items[i].bytes, &scratch, ids, &count, &err), &err);
        total += (int64_t)count * t->items[i].count;
        free(ids);
    }
    assert_int_equal(total, learnt->tokens);
    bpe_scratch_free(&scratch);
    bpe_free(b);
    text_buffer_free(&text);
    free(offset);
    free(tokens);
}

static void assert_merges(const bpe_learnt *learnt, const bpe_merge *expected, int64_t count)
{
    assert_int_equal(learnt->count, count);
    for (int64_t i = 0; i < count; i++)
        if (learnt->merges[i].left != expected[i].left || learnt->merges[i].right != expected[i].right)
            fail_msg("merge %lld: %d %d, not %d %d", (long long)i, learnt->merges[i].left, learnt->merges[i].right, expected[i].left,
                     expected[i].right);
}

static bpe_learnt learn(const piece_table *t, int64_t merges, int64_t min_count)
{
    bpe_learnt learnt;
    fathom_error err;
    const bpe_train_input in = {.pieces = t, .merges = merges, .min_count = min_count};
    assert_ok(bpe_train(&in, &learnt, &err), &err);
    return learnt;
}

/* Few letters make long runs, overlaps and ties; bytes whose characters are in another order than their values are among them. */
static void merges_are_those_of_the_definition(void **state)
{
    (void)state;
    static const char letters[] = "ab !\n\xC3z";
    for (uint64_t seed = 0; seed < 300; seed++) {
        static slow_piece pieces[MOST_PIECES];
        piece_table t = {0};
        fathom_error err;
        const uint64_t kinds = 1 + seed % 7;
        for (int i = 0; i < MOST_PIECES; i++) {
            uint32_t words[4];
            char text[MOST_BYTES];
            rng_words(seed, 1, (uint64_t)i, words);
            const int bytes = 1 + (int)(words[0] % (i < 4 ? MOST_BYTES : 12));
            const int64_t count = 1 + words[1] % 5;
            for (int j = 0; j < bytes; j++)
                text[j] = letters[rng_permute(seed, (uint64_t)i + 2, (uint64_t)j, 1000) % kinds];
            assert_ok(piece_table_add(&t, text, (size_t)bytes, count, &err), &err);
        }
        const int n = (int)t.count; /* some came twice */
        for (int i = 0; i < n; i++) {
            pieces[i].n = (int)t.items[i].bytes;
            pieces[i].count = t.items[i].count;
            for (int j = 0; j < pieces[i].n; j++)
                pieces[i].ids[j] = (unsigned char)t.text.data[t.items[i].offset + (size_t)j];
        }
        const int64_t min_count = 1 + (int64_t)(seed % 3);
        bpe_merge expected[MOST_MERGES];
        const int64_t count = slow_train(pieces, n, MOST_MERGES, min_count, expected);
        bpe_learnt learnt = learn(&t, MOST_MERGES, min_count);
        assert_merges(&learnt, expected, count);
        int64_t tokens = 0;
        for (int i = 0; i < n; i++)
            tokens += pieces[i].n * pieces[i].count;
        assert_int_equal(learnt.tokens, tokens);
        assert_encodes(&t, &learnt);
        free(learnt.merges);
        piece_table_free(&t);
    }
}

static void put_pieces(piece_table *t, const char *const *texts, const int64_t *counts, int n)
{
    fathom_error err;
    for (int i = 0; i < n; i++)
        assert_ok(piece_table_add(t, texts[i], strlen(texts[i]), counts[i], &err), &err);
}

static void ties_go_to_the_smaller_pair(void **state)
{
    (void)state;
    piece_table t = {0};
    /* the characters of bytes in order: z, then 0xC3 as itself, then newline and blank, named above them */
    put_pieces(&t, (const char *const[]){"\n\n", "  ", "\xC3\xC3", "zz", "za", "zzq"}, (const int64_t[]){5, 5, 5, 2, 5, 3}, 6);
    bpe_learnt learnt = learn(&t, 100, 5);
    assert_merges(&learnt, (const bpe_merge[]){{'z', 'a'}, {'z', 'z'}, {0xC3, 0xC3}, {'\n', '\n'}, {' ', ' '}}, 5);
    free(learnt.merges);
    piece_table_free(&t);
}

static void rare_pairs_are_left(void **state)
{
    (void)state;
    piece_table t = {0};
    put_pieces(&t, (const char *const[]){"abab", "abc", "xyz"}, (const int64_t[]){2, 3, 4}, 3);
    bpe_learnt learnt = learn(&t, 100, 4); /* ab 7, xy 4, yz 4; then (ab, c) 3 is too rare, (xy, z) is not */
    assert_merges(&learnt, (const bpe_merge[]){{'a', 'b'}, {'x', 'y'}, {257, 'z'}}, 3);
    assert_int_equal(learnt.tokens, 2 * 2 + 3 * 2 + 4);
    free(learnt.merges);
    learnt = learn(&t, 1, 1); /* as many as asked for */
    assert_int_equal(learnt.count, 1);
    free(learnt.merges);
    learnt = learn(&t, 0, 1);
    assert_int_equal(learnt.count, 0);
    assert_int_equal(learnt.tokens, 2 * 4 + 3 * 3 + 4 * 3);
    free(learnt.merges);
    piece_table_free(&t);
    learnt = learn(&t, 10, 1); /* nothing to learn from */
    assert_int_equal(learnt.count, 0);
    free(learnt.merges);
}

/* --- counting --- */

static fathom_status add_piece(void *user, const char *text, size_t bytes, fathom_error *err)
{
    return piece_table_add(user, text, bytes, 1, err);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A table as one text, in an order of its own: the caller's. */
static char *listing(const piece_table *t)
{
    char **lines = calloc(t->count + 1, sizeof *lines);
    size_t size = 1;
    for (size_t i = 0; i < t->count; i++) {
        const piece *p = &t->items[i];
        lines[i] = calloc(1, 2 * p->bytes + 32);
        for (uint32_t j = 0; j < p->bytes; j++)
            sprintf(lines[i] + 2 * j, "%02x", (unsigned char)t->text.data[p->offset + j]);
        sprintf(lines[i] + 2 * p->bytes, " %lld\n", (long long)p->count);
        size += strlen(lines[i]);
    }
    qsort(lines, t->count, sizeof *lines, by_text);
    char *all = calloc(1, size), *end = all;
    for (size_t i = 0; i < t->count; i++) {
        end = stpcpy(end, lines[i]);
        free(lines[i]);
    }
    free(lines);
    return all;
}

static char *counted(const pieces_input *in, pieces_totals *totals)
{
    piece_table t;
    fathom_error err;
    assert_ok(pieces_count(in, &t, totals, &err), &err);
    char *list = listing(&t);
    piece_table_free(&t);
    return list;
}

/* What decides where patterns end a piece, and what could mislead the one who cuts: in any order. */
static const char *const shreds[] = {"a", "b", "Don", "'s", "'LL", "'", " ", " ", "  ", "\n", "\n", "\n\n", "\r\n", "\t", "7", "1234", "!", "?!",
                                     "\xC3\xA9", "\xE6\x95\xB0", "\xC2\x85", "\xE2\x80\xA8", "\xC2\xA0", "\xCC\x81", "\xFF", "\xE6\x95",
                                     "\xC3", "<e d\nx>", "<e d", "d\nx>", "zz "};
enum { SHREDS = sizeof shreds / sizeof *shreds };

static void counts_do_not_depend_on_threads(void **state)
{
    (void)state;
    fathom_error err;
    static const char *const specials[] = {"<e d\nx>", "zz ", "<e d"};
    for (uint64_t seed = 0; seed < 40; seed++) {
        text_buffer text = {0};
        for (uint64_t i = 0; i < 400; i++) {
            const char *shred = shreds[rng_permute(seed, 7, i, 100000) % SHREDS];
            assert_ok(text_buffer_add(&text, shred, strlen(shred), &err), &err);
        }
        put_file("one.txt", text.data, text.size);
        put_file("two.txt", text.data, text.size / 2);
        text_buffer_free(&text);
        for (int pattern = 0; pattern < 2; pattern++) {
            pieces_input in = {.paths = (const char *const[]){"one.txt", "two.txt"}, .path_count = 2, .pattern = (piece_pattern)pattern,
                               .specials = specials, .special_count = seed % 4, .chunk = SIZE_MAX / 2};
            pieces_totals totals, again;
            in.threads = 1;
            char *whole = counted(&in, &totals);
            for (int threads = 1; threads <= 5; threads += 2) {
                in.threads = threads;
                for (in.chunk = 1; in.chunk < 200; in.chunk += 1 + 2 * in.chunk) {
                    char *list = counted(&in, &again);
                    assert_string_equal(list, whole);
                    assert_memory_equal(&totals, &again, sizeof totals);
                    free(list);
                }
            }
            free(whole);
        }
    }
}

/* One thread, one chunk against pre-tokenization itself. */
static void pieces_are_those_of_the_pattern(void **state)
{
    (void)state;
    fathom_error err;
    static const char text[] = "Don't  say 12345!!\n\n x y\r\n";
    put_text("text.txt", text);
    for (int pattern = 0; pattern < 2; pattern++) {
        splitter *s;
        split_run *run;
        piece_table t = {0};
        pieces_totals totals;
        assert_ok(splitter_new(&s, &err), &err);
        assert_ok(splitter_add(s, &(split_step){.pattern = pattern ? split_pattern_llama3 : split_pattern_gpt2, .behavior = SPLIT_ISOLATED}, &err),
                  &err);
        assert_ok(split_run_new(s, &run, &err), &err);
        assert_ok(split_text(run, text, strlen(text), add_piece, &t, &err), &err);
        const pieces_input in = {.paths = (const char *const[]){"text.txt"}, .path_count = 1, .pattern = (piece_pattern)pattern};
        char *expected = listing(&t), *list = counted(&in, &totals);
        assert_string_equal(list, expected);
        assert_int_equal(totals.bytes, strlen(text));
        free(expected);
        free(list);
        piece_table_free(&t);
        split_run_free(run);
        splitter_free(s);
    }
}

static void specials_and_stray_bytes_stand_alone(void **state)
{
    (void)state;
    put_file("text.txt", "ab<x>ab<x\xFF\xFE" "c\xE6\x95", 14);
    pieces_totals totals;
    const pieces_input in = {.paths = (const char *const[]){"text.txt"}, .path_count = 1, .specials = (const char *const[]){"<x>"},
                             .special_count = 1};
    char *list = counted(&in, &totals);
    assert_string_equal(list, "3c 1\n6162 2\n63 1\n78 1\n95 1\ne6 1\nfe 1\nff 1\n");
    assert_int_equal(totals.specials, 1);
    free(list);
}

static void folders_are_walked(void **state)
{
    (void)state;
    assert_int_equal(mkdir("folder", 0700), 0);
    assert_int_equal(mkdir("folder/inner", 0700), 0);
    put_text("folder/b.txt", "bb");
    put_text("folder/inner/a.txt", "aa");
    put_file("folder/c.bin", "c\0c", 3);
    put_text("folder/empty.txt", "");
    pieces_totals totals;
    pieces_input in = {.paths = (const char *const[]){"folder", "folder/c.bin"}, .path_count = 2};
    char *list = counted(&in, &totals);
    assert_string_equal(list, "00 1\n6161 1\n6262 1\n63 2\n"); /* named outright, a file is read whatever it holds */
    assert_int_equal(totals.files, 4);
    assert_int_equal(totals.files_skipped, 1);
    assert_int_equal(totals.bytes, 7);
    free(list);

    piece_table t;
    fathom_error err;
    in.paths = (const char *const[]){"folder", "missing.txt"};
    assert_error(pieces_count(&in, &t, &totals, &err), &err, FATHOM_NOT_FOUND, "missing.txt", "No such file");
    assert_int_equal(t.count, 0);
}

static void hostile_texts_are_learnt_from(void **state)
{
    (void)state;
    enum { BYTES = 1000000 };
    char *text = malloc(BYTES);
    pieces_totals totals;
    fathom_error err;
    const pieces_input in = {.paths = (const char *const[]){"text"}, .path_count = 1};
    for (int kind = 0; kind < 3; kind++) { /* one letter; binary data; one piece of random letters */
        for (uint32_t i = 0; i < BYTES; i += 4) {
            uint32_t words[4];
            rng_words(1, 1, i, words);
            for (int j = 0; j < 4; j++)
                text[i + (uint32_t)j] = (char)(kind == 0 ? 'a' : kind == 1 ? words[j] : 'a' + words[j] % 26);
        }
        put_file("text", text, BYTES);
        piece_table t;
        assert_ok(pieces_count(&in, &t, &totals, &err), &err);
        bpe_learnt learnt = learn(&t, 500, 2);
        assert_int_equal(learnt.count, kind == 0 ? 19 : 500); /* of one letter: 2, 4, ... 2^19 of it */
        if (kind == 0)
            assert_int_equal(learnt.tokens, 7); /* ones in 1000000 */
        assert_encodes(&t, &learnt);
        free(learnt.merges);
        piece_table_free(&t);
    }
    put_file("text", text, 0);
    char *list = counted(&in, &totals);
    assert_string_equal(list, "");
    assert_int_equal(totals.files, 1);
    free(list);
    free(text);
}

/* --- the file --- */

static void files_say_what_was_learnt(void **state)
{
    (void)state;
    const bpe_merge merges[] = {{' ', 't'}, {256, 'h'}, {0xC3, 0xA9}};
    trained_tokenizer parts = {.merges = merges, .merge_count = 3, .special_count = 2,
                               .specials = (const char *const[]){"<|a|>", "<|\xC3\xA9 b|>"}};
    fathom_error err;
    for (int pattern = 0; pattern < 2; pattern++) {
        parts.pattern = (piece_pattern)pattern;
        assert_ok(tokenizer_write("t.json", &parts, &err), &err);
        json_t *root;
        assert_ok(json_file_read("t.json", 1 << 20, &root, &err), &err);
        const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
        assert_int_equal(json_object_size(vocab), 259);
        const struct {
            const char *spelling;
            int id;
        } ids[] = {{"a", 'a'}, {"\xC4\xA0", ' '}, {"\xC4\x80", 0}, {"\xC3\xBF", 255},
                   {"\xC4\xA0t", 256}, {"\xC4\xA0th", 257}, {"\xC3\x83\xC2\xA9", 258}};
        for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
            assert_int_equal(json_integer_value(json_object_get(vocab, ids[i].spelling)), ids[i].id);
        const json_t *list = json_object_get(model, "merges");
        assert_int_equal(json_array_size(list), 3);
        assert_string_equal(json_string_value(json_array_get(list, 1)), "\xC4\xA0t h");
        const json_t *added = json_array_get(json_object_get(root, "added_tokens"), 1);
        assert_int_equal(json_integer_value(json_object_get(added, "id")), 260);
        assert_string_equal(json_string_value(json_object_get(added, "content")), "<|\xC3\xA9 b|>");
        assert_string_equal(json_string_value(json_object_get(json_object_get(root, "pre_tokenizer"), "type")), pattern ? "Sequence" : "ByteLevel");
        json_decref(root);
    }
    parts.specials = (const char *const[]){"<|a|>", "\xC4\xA0th"};
    assert_error(tokenizer_write("t.json", &parts, &err), &err, FATHOM_INVALID_ARGUMENT, "\xC4\xA0th", "spelling");
    parts.specials = (const char *const[]){"<|a|>", "<|a|>"};
    assert_error(tokenizer_write("t.json", &parts, &err), &err, FATHOM_INVALID_ARGUMENT, "<|a|>", "twice");
}

/* --- memory --- */

static fathom_status whole_way(fathom_error *err)
{
    piece_table t = {0};
    pieces_totals totals;
    bpe_learnt learnt = {0};
    const pieces_input in = {.paths = (const char *const[]){"folder"}, .path_count = 1, .specials = (const char *const[]){"<x>"}, .special_count = 1,
                             .chunk = 64};
    fathom_status status = pieces_count(&in, &t, &totals, err);
    if (status == FATHOM_OK)
        status = bpe_train(&(bpe_train_input){.pieces = &t, .merges = 100, .min_count = 1}, &learnt, err);
    if (status == FATHOM_OK)
        status = tokenizer_write("t.json", &(trained_tokenizer){.merges = learnt.merges, .merge_count = learnt.count, .specials = in.specials,
                                                              .special_count = 1}, err);
    piece_table_free(&t);
    free(learnt.merges);
    return status;
}

static void memory_that_runs_out_is_said(void **state)
{
    (void)state;
    assert_int_equal(mkdir("folder", 0700), 0);
    put_text("folder/a.txt", "the cat sat on the mat and that was that <x> then the rat ran to the cat");
    put_text("folder/b.txt", "what the hat has that a bat has not");
    int64_t k = 0;
    for (bool done = false; !done; k++) {
        fathom_error err;
        allocations_left = k;
        ran_out = false;
        const fathom_status status = whole_way(&err);
        allocations_left = -1;
        done = !ran_out;
        assert_int_equal(status, done ? FATHOM_OK : FATHOM_OUT_OF_MEMORY);
    }
    assert_true(k > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_are_those_of_the_definition),
        cmocka_unit_test(ties_go_to_the_smaller_pair),
        cmocka_unit_test(rare_pairs_are_left),
        temp_test(counts_do_not_depend_on_threads),
        temp_test(pieces_are_those_of_the_pattern),
        temp_test(specials_and_stray_bytes_stand_alone),
        temp_test(folders_are_walked),
        temp_test(hostile_texts_are_learnt_from),
        temp_test(files_say_what_was_learnt),
        temp_test(memory_that_runs_out_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
