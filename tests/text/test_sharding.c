/* Folders of shards: they hold what the text would be in memory, whatever a shard's size and the held-out share; windows are the same bit for
 * bit; nothing is written over; a manifest that does not fit its files, or lies, is refused. */
#include "base/temp.h"

#include "text/batch.h"
#include "text/sharding.h"
#include "text/shard.h"

enum { T = 13 };

static tokenizer *bytes;

static int make_tokenizer(void **state)
{
    (void)state;
    return tokenizer_bytes(&bytes, NULL) == FATHOM_OK ? 0 : -1;
}

static int free_tokenizer(void **state)
{
    (void)state;
    tokenizer_free(bytes);
    return 0;
}

static const char *const TEXTS[] = {"d", "last"};

static void put_texts(void)
{
    assert_int_equal(mkdir("d", 0777), 0);
    for (int i = 0; i < 40; i++) {
        char name[16], text[600];
        snprintf(name, sizeof name, "d/%02d", i);
        for (size_t k = 0; k < sizeof text; k++)
            text[k] = (char)(1 + (k * k + (size_t)i * 31) % 251);
        put_file(name, text, (size_t)(i * 37 % 600));
    }
    put_text("d/empty", "");
    put_file("d/binary", "a\0b", 3);
    put_text("last", "the last of them");
}

static sharding_input input(const char *folder, int64_t shard_tokens, double heldout)
{
    return (sharding_input){.paths = TEXTS, .count = 2, .tokenizer = bytes, .folder = folder, .shard_tokens = shard_tokens,
                            .heldout_fraction = heldout};
}

static void make(const char *folder, int64_t shard_tokens, double heldout)
{
    fathom_error err;
    manifest m;
    const sharding_input in = input(folder, shard_tokens, heldout);
    assert_ok(sharding_run(&in, &m, &err), &err);
    manifest_free(&m);
}

static corpus load(const char *const *paths, size_t count, double heldout, bool evaluation)
{
    corpus c;
    fathom_error err;
    const corpus_input in = {.paths = paths, .count = count, .tokenizer = bytes, .heldout_fraction = heldout, .evaluation = evaluation};
    assert_ok(corpus_load(&in, &c, &err), &err);
    return c;
}

static void assert_same(const corpus_part *a, const corpus_part *b)
{
    assert_int_equal(a->count, b->count);
    for (int64_t i = 0; i < a->count; i++) {
        int32_t x, y;
        fathom_error err;
        assert_ok(corpus_part_read(a, i, 1, &x, &err), &err);
        assert_ok(corpus_part_read(b, i, 1, &y, &err), &err);
        assert_int_equal(x, y);
    }
    if (a->count <= T)
        return;
    batcher from_a, from_b;
    fathom_error err;
    int32_t inputs[2][3 * T], targets[2][3 * T];
    assert_ok(batcher_init(&from_a, a, T, 7, "a", &err), &err);
    assert_ok(batcher_init(&from_b, b, T, 7, "b", &err), &err);
    for (int64_t position = 0; position < 3 * from_a.windows; position += 3) {
        assert_ok(batcher_train(&from_a, position, 3, inputs[0], targets[0], &err), &err);
        assert_ok(batcher_train(&from_b, position, 3, inputs[1], targets[1], &err), &err);
        assert_memory_equal(inputs[0], inputs[1], sizeof inputs[0]);
        assert_memory_equal(targets[0], targets[1], sizeof targets[0]);
    }
    for (int64_t w = 0; w <= a->count / T; w++) {
        assert_ok(batcher_heldout(&from_a, w, inputs[0], targets[0], &err), &err);
        assert_ok(batcher_heldout(&from_b, w, inputs[1], targets[1], &err), &err);
        assert_memory_equal(inputs[0], inputs[1], T * sizeof **inputs);
        assert_memory_equal(targets[0], targets[1], T * sizeof **targets);
    }
}

static void shards_hold_what_the_text_is(void **state)
{
    (void)state;
    static const int64_t sizes[] = {5, 100, 997, 1000000};
    static const double fractions[] = {0, 0.05, 0.5};
    put_texts();
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++) {
            char folder[32];
            snprintf(folder, sizeof folder, "s%d%d", i, k);
            make(folder, sizes[i], fractions[k]);
            corpus text = load(TEXTS, 2, fractions[k], false);
            corpus shards = load((const char *const[]){folder}, 1, 0.9, false); /* its split is its own */
            assert_same(&text.train, &shards.train);
            assert_same(&text.heldout, &shards.heldout);
            assert_int_equal(shards.bytes, text.bytes);
            corpus heldout = load((const char *const[]){folder}, 1, 0, true); /* all, where nothing is held out */
            assert_same(fractions[k] > 0 ? &text.heldout : &text.train, &heldout.train);
            assert_int_equal(heldout.heldout.count, 0);
            corpus_free(&heldout);
            corpus_free(&shards);
            corpus_free(&text);
            assert_int_equal(access("s00.unfinished", F_OK), -1);
        }
}

static void checksums_are_of_the_ids(void **state)
{
    (void)state;
    put_texts();
    make("s", 2000, 0.1);
    manifest m;
    bool found;
    fathom_error err;
    assert_ok(manifest_read("s", &m, &found, &err), &err);
    assert_true(found);
    assert_true(m.count > 3);
    int64_t heldout = 0;
    for (int64_t i = 0; i < m.count; i++) {
        char path[64];
        size_t size;
        snprintf(path, sizeof path, "s/%s", m.shards[i].file);
        char *data = get_file(path, &size);
        assert_int_equal(size, 40 + 2 * m.shards[i].tokens);
        assert_true(checksum_add(CHECKSUM_BEGIN, data + 40, size - 40) == m.shards[i].checksum);
        free(data);
        heldout += m.shards[i].heldout;
    }
    assert_true(heldout >= 1);
    assert_true(checksum_add(CHECKSUM_BEGIN, "foobar", 6) == 0x85944171f73967e8); /* FNV's own example */
    manifest_free(&m);
}

static void refused(const char *what, const char *folder, fathom_status code, const char *a, const char *b)
{
    fathom_error err;
    manifest m;
    sharding_input in = input(folder, 100, 0.1);
    in.paths = &what;
    in.count = 1;
    assert_error(sharding_run(&in, &m, &err), &err, code, a, b);
    assert_null(m.shards);
}

static void nothing_is_written_over(void **state)
{
    (void)state;
    put_texts();
    assert_int_equal(mkdir("full", 0777), 0);
    put_text("full/mine", "mine");
    refused("last", "full", FATHOM_INVALID_ARGUMENT, "full: ", "not as an empty folder");
    refused("last", "last", FATHOM_INVALID_ARGUMENT, "last: ", "");
    refused("last", ".", FATHOM_INVALID_ARGUMENT, ".: ", "");
    assert_int_equal(access("full/mine", F_OK), 0);
    refused("none", "s", FATHOM_NOT_FOUND, "none: ", "No such file");
    refused("d/empty", "s", FATHOM_INVALID_ARGUMENT, "d/empty: ", "no text");
    assert_int_equal(access("s", F_OK), -1);
    assert_int_equal(access("s.unfinished", F_OK), -1);

    assert_int_equal(mkdir("s", 0777), 0); /* an empty folder is taken */
    assert_int_equal(mkdir("s.unfinished", 0777), 0);
    put_text("s.unfinished/train-99999.bin", "of a call that was killed");
    make("s//", 100, 0.1);
    assert_int_equal(access("s/train-99999.bin", F_OK), -1);
    assert_int_equal(access("s/manifest.json", F_OK), 0);
    refused("last", "s", FATHOM_INVALID_ARGUMENT, "s: ", "not as an empty folder");
    refused("s/train-00000.bin", "again", FATHOM_INVALID_ARGUMENT, "s/train-00000.bin: ", "already");
    refused("s", "again", FATHOM_INVALID_ARGUMENT, "s/", "already");
}

static void put_folder(const char *folder, const char *const *names, size_t count)
{
    assert_int_equal(mkdir(folder, 0777), 0);
    for (size_t i = 0; i < count; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        put_text(path, "mine");
    }
}

static void nothing_is_removed_that_others_have_made(void **state)
{
    (void)state;
    static const char *const others[] = {"notes", "train-00000.bin.old", "train-1.bin", "train-.bin", "heldout-00000", "00000.bin", "manifest.json.tmp.tmp",
                                         ".hidden"};
    static const char *const own[] = {"train-00000.bin", "train-123456.bin", "heldout-00001.bin.tmp", "tokenizer.json.tmp", "manifest.json"};
    put_texts();
    assert_int_equal(mkdir("s", 0700), 0); /* is there, empty, and stays where nothing comes of it */
    refused("none", "s", FATHOM_NOT_FOUND, "none: ", "No such file");
    refused("d/empty", "s", FATHOM_INVALID_ARGUMENT, "d/empty: ", "no text");
    assert_int_equal(access("s", F_OK), 0);
    assert_int_equal(access("s.unfinished", F_OK), -1);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        put_folder("s.unfinished", (const char *const[]){own[0], others[i]}, 2);
        refused("last", "s/", FATHOM_INVALID_ARGUMENT, "s.unfinished: ", others[i]);
        refused("none", "s", FATHOM_NOT_FOUND, "none: ", "");
        assert_int_equal(access("s.unfinished/train-00000.bin", F_OK), 0);
        assert_int_equal(unlink("s.unfinished/train-00000.bin"), 0);
        char path[64];
        snprintf(path, sizeof path, "s.unfinished/%s", others[i]);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rmdir("s.unfinished"), 0);
    }
    assert_int_equal(mkdir("s.unfinished", 0777), 0);
    assert_int_equal(mkdir("s.unfinished/train-00000.bin", 0777), 0);
    refused("last", "s", FATHOM_INVALID_ARGUMENT, "s.unfinished: ", "train-00000.bin");
    assert_int_equal(rmdir("s.unfinished/train-00000.bin"), 0);
    assert_int_equal(rmdir("s.unfinished"), 0);

    put_folder("elsewhere", own, 2);
    assert_int_equal(symlink("elsewhere", "s.unfinished"), 0);
    refused("last", "s", FATHOM_INVALID_ARGUMENT, "s.unfinished: ", "not as a folder");
    assert_int_equal(access("elsewhere/train-00000.bin", F_OK), 0);
    assert_int_equal(unlink("s.unfinished"), 0);
    put_text("s.unfinished", "mine");
    refused("last", "s", FATHOM_INVALID_ARGUMENT, "s.unfinished: ", "not as a folder");
    assert_int_equal(unlink("s.unfinished"), 0);
    assert_int_equal(symlink("elsewhere", "link"), 0);
    refused("last", "link/", FATHOM_INVALID_ARGUMENT, "link: ", "not as a folder");
    assert_int_equal(mkdir("empty", 0777), 0);
    assert_int_equal(chdir("empty"), 0);
    refused("../last", ".", FATHOM_INVALID_ARGUMENT, ".: ", "");
    refused("../last", "../empty/.", FATHOM_INVALID_ARGUMENT, ".: ", "");
    assert_int_equal(chdir(".."), 0);

    put_folder("s.unfinished", own, sizeof own / sizeof *own);
    make("s", 100, 0.1);
    assert_int_equal(access("s/train-123456.bin", F_OK), -1);
    assert_int_equal(access("s.unfinished", F_OK), -1);
}

static void one_process_writes_a_folder(void **state)
{
    (void)state;
    int lock;
    fathom_error err;
    put_texts();
    assert_int_equal(mkdir("s.unfinished", 0777), 0);
    put_text("s.unfinished/train-00000.bin", "of the other");
    assert_ok(file_lock("s.unfinished.lock", &lock, &err), &err);
    refused("last", "s//", FATHOM_INVALID_ARGUMENT, "s: another process", "s.unfinished.lock");
    assert_int_equal(access("s.unfinished/train-00000.bin", F_OK), 0);
    assert_int_equal(access("s.unfinished.lock", F_OK), 0);
    assert_int_equal(close(lock), 0); /* as a kill does: the file stays */
    make("s", 100, 0.1);
    assert_int_equal(access("s/manifest.json", F_OK), 0);
    assert_int_equal(access("s.unfinished", F_OK), -1);
    assert_int_equal(access("s.unfinished.lock", F_OK), -1);

    refused("d/empty", "t", FATHOM_INVALID_ARGUMENT, "d/empty: ", "no text");
    refused("none", "new/t", FATHOM_NOT_FOUND, "none: ", "");
    assert_int_equal(access("t.unfinished.lock", F_OK), -1);
    assert_int_equal(access("new", F_OK), -1);
    make("new/t", 100, 0.1); /* the lock's folder is made for it */
    assert_int_equal(access("new/t.unfinished.lock", F_OK), -1);
    put_text("u.unfinished.lock", "mine");
    refused("last", "u", FATHOM_INVALID_ARGUMENT, "u.unfinished.lock: ", "no lock");
    assert_int_equal(access("u.unfinished.lock", F_OK), 0);
}

/* What a killed call left may lie among the texts. */
static void leftovers_are_no_texts(void **state)
{
    (void)state;
    fathom_error err;
    manifest m;
    put_texts();
    make("whole", 100, 0.1);
    assert_int_equal(mkdir("all", 0777), 0);
    put_text("all/text", "a text");
    assert_int_equal(rename("whole", "all/s.unfinished"), 0);
    const char *path = "all";
    sharding_input in = input("all/s", 100, 0);
    in.paths = &path;
    in.count = 1;
    assert_ok(sharding_run(&in, &m, &err), &err);
    assert_int_equal(m.tokens, 6);
    manifest_free(&m);
}

static void load_refused(fathom_status code, const char *a, const char *b)
{
    corpus c;
    fathom_error err;
    const char *path = "s";
    const corpus_input in = {.paths = &path, .count = 1, .tokenizer = bytes};
    assert_error(corpus_load(&in, &c, &err), &err, code, a, b);
}

/* The manifest with the first `from` replaced. */
static void edit(const char *good, const char *from, const char *to)
{
    const char *at = strstr(good, from);
    assert_non_null(at);
    FILE *f = fopen("s/manifest.json", "wb");
    assert_non_null(f);
    fprintf(f, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    assert_int_equal(fclose(f), 0);
}

static void hostile_manifests_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        fathom_status code;
        const char *a, *b;
    } cases[] = {
        {"\"version\": 1", "\"version\": 2", FATHOM_UNSUPPORTED, "version", "2"},
        {"\"vocab\": 256", "\"vocab\": -1", FATHOM_FORMAT, "vocab", "-1"},
        {"\"tokenizer\": \"", "\"tokenizer\": \"0", FATHOM_FORMAT, "tokenizer", "16 digits"},
        {"\"tokenizer\": \"0", "\"tokenizer\": \"1", FATHOM_INVALID_ARGUMENT, "tokenizer", "s/tokenizer.json"},
        {"\"tokens\": ", "\"tokens\": 1", FATHOM_FORMAT, "tokens", "sum"},
        {"\"bytes\": ", "\"bytes\": 1", FATHOM_FORMAT, "bytes", "sum"},
        {"\"file\": \"train-00000.bin\"", "\"file\": \"../d/00\"", FATHOM_FORMAT, "shards[0].file", "in the folder"},
        {"\"file\": \"train-00000.bin\"", "\"file\": \"..\"", FATHOM_FORMAT, "shards[0].file", "in the folder"},
        {"\"file\": \"train-00000.bin\"", "\"file\": \"\"", FATHOM_FORMAT, "shards[0].file", "in the folder"},
        {"\"file\": \"train-00000.bin\"", "\"file\": \"a-name-that-is-longer-than-any-of-ours\"", FATHOM_FORMAT, "shards[0].file", "in the folder"},
        {"\"file\": \"train-00000.bin\"", "\"file\": \"none\"", FATHOM_NOT_FOUND, "s/none", ""},
        {"\"file\": \"train-00000.bin\"", "\"file\": \"tokenizer.json\"", FATHOM_FORMAT, "s/tokenizer.json", "not a token shard"},
        {"\"file\": \"train-00000.bin\"", "\"file\": \"heldout-00000.bin\"", FATHOM_FORMAT, "s/heldout-00000.bin", "manifest.json says"},
        {"\"split\": \"train\"", "\"split\": \"test\"", FATHOM_FORMAT, "shards[0].split", "test"},
        {"\"tokens\": 4000", "\"tokens\": 9223372036854775807", FATHOM_FORMAT, "sum", ""},
        {"\"tokens\": 4000", "\"tokens\": -4000", FATHOM_FORMAT, "shards[0].tokens", "-4000"},
        {"\"tokens\": 4000", "\"tokens\": \"4000\"", FATHOM_FORMAT, "shards[0].tokens", ""},
        {"\"checksum\": \"", "\"checksum\": \"x", FATHOM_FORMAT, "shards[0].checksum", ""},
        {"{\n      \"file\"", "7, {\n      \"file\"", FATHOM_FORMAT, "shards[0]", "object"},
        {"\"shards\": [", "\"shards\": 7, \"x\": [", FATHOM_FORMAT, "shards", ""},
        {"\"version\": 1,", "\"version\": 1,,", FATHOM_FORMAT, "manifest.json", "malformed"},
    };
    put_texts();
    make("s", 4000, 0.1);
    size_t size;
    char *good = get_file("s/manifest.json", &size);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        edit(good, cases[i].from, cases[i].to);
        load_refused(cases[i].code, cases[i].a, cases[i].b);
    }
    for (size_t cut = 40; cut < size - 2; cut += 61) {
        put_file("s/manifest.json", good, cut);
        load_refused(FATHOM_FORMAT, "s/manifest.json: ", "malformed");
    }
    assert_int_equal(unlink("s/manifest.json"), 0); /* its tokenizer.json is not text to train on */
    load_refused(FATHOM_INVALID_ARGUMENT, "s/heldout-00000.bin", "manifest.json");

    put_file("s/manifest.json", good, size);
    free(good);
    char *shard = get_file("s/train-00000.bin", &size);
    put_file("s/train-00000.bin", shard, size - 2);
    free(shard);
    load_refused(FATHOM_FORMAT, "s/train-00000.bin: ", "count");
    assert_int_equal(unlink("s/train-00000.bin"), 0);
    load_refused(FATHOM_NOT_FOUND, "s/train-00000.bin: ", "");
}

/* A manifest.json of something else is text like any other. */
static void other_manifests_are_text(void **state)
{
    (void)state;
    assert_int_equal(mkdir("d", 0777), 0);
    put_text("d/manifest.json", "{\"manifest_version\": 3, // a browser's\n");
    corpus c = load((const char *const[]){"d"}, 1, 0, false);
    assert_int_equal(c.train.count, 39);
    corpus_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_test(shards_hold_what_the_text_is), temp_test(checksums_are_of_the_ids), temp_test(nothing_is_written_over),
        temp_test(nothing_is_removed_that_others_have_made), temp_test(leftovers_are_no_texts),
        temp_test(one_process_writes_a_folder),
        temp_test(hostile_manifests_are_refused), temp_test(other_manifests_are_text),
    };
    return cmocka_run_group_tests(tests, make_tokenizer, free_tokenizer);
}
