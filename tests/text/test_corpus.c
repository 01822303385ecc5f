/* Corpora: which files of a folder are read and in which order, the held-out share of each, shards there and back, and
 * what is said of a hostile shard or a missing file. */
#include "base/temp.h"

#include "text/corpus.h"
#include "text/shard.h"

typedef struct loaded {
    corpus c;
    fathom_status status;
    fathom_error err;
} loaded;

/* With the byte tokenizer. */
static loaded load_as(corpus_input in)
{
    loaded l;
    tokenizer *t;
    assert_ok(tokenizer_bytes(&t, &l.err), &l.err);
    in.tokenizer = t;
    l.status = corpus_load(&in, &l.c, &l.err);
    tokenizer_free(t);
    if (l.status != FATHOM_OK) {
        assert_null(l.c.memory);
        assert_null(l.c.train.pieces);
        assert_null(l.c.heldout.pieces);
    }
    return l;
}

static loaded load(const char *const *paths, size_t count, double heldout)
{
    return load_as((corpus_input){.paths = paths, .count = count, .heldout_fraction = heldout});
}

static corpus load_ok(const char *path, double heldout)
{
    loaded l = load(&path, 1, heldout);
    assert_ok(l.status, &l.err);
    return l.c;
}

static void assert_refused(const char *path, fathom_status code, const char *a, const char *b)
{
    loaded l = load(&path, 1, 0);
    assert_error(l.status, &l.err, code, a, b);
}

static int32_t token(const corpus_part *part, int64_t i)
{
    int32_t id;
    fathom_error err;
    assert_ok(corpus_part_read(part, i, 1, &id, &err), &err);
    return id;
}

static void assert_part(const corpus_part *part, const char *text, size_t size)
{
    assert_int_equal(part->count, size);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(token(part, (int64_t)i), (unsigned char)text[i]);
}

static void assert_train(corpus *c, const char *text)
{
    assert_part(&c->train, text, strlen(text));
    assert_int_equal(c->bytes, strlen(text));
    corpus_free(c);
}

static void folders_are_read_in_order(void **state)
{
    (void)state;
    assert_int_equal(mkdir("d", 0777), 0);
    assert_int_equal(mkdir("d/b", 0777), 0);
    assert_int_equal(mkdir("d/b/a", 0777), 0);
    assert_int_equal(mkdir("d/.git", 0777), 0);
    put_text("d/b/a/z", "<b/a/z>");
    put_text("d/b/B", "<b/B>");
    put_text("d/b.txt", "<b.txt>"); /* '.' comes before '/' */
    put_text("d/Z", "<Z>");
    put_text("d/a", "<a>");
    put_text("d/\xc3\xa9", "<e>");
    put_text("d/.hidden", "<hidden>");
    put_text("d/.git/config", "<config>");
    put_text("d/empty", "");
    const char *expected = "<Z><a><b.txt><b/B><b/a/z><e>";
    corpus c = load_ok("d", 0);
    assert_int_equal(c.files, 7);
    assert_int_equal(c.files_skipped, 0);
    assert_train(&c, expected);
    c = load_ok("d/", 0);
    assert_train(&c, expected);
    c = load_ok("d/.git", 0); /* named outright */
    assert_train(&c, "<config>");

    loaded l = load((const char *const[]){"d/b", "d/Z", "d/a", "d/Z"}, 4, 0); /* paths stay in the caller's order */
    assert_ok(l.status, &l.err);
    assert_train(&l.c, "<b/B><b/a/z><Z><a><Z>");
}

static void binaries_in_folders_are_skipped(void **state)
{
    (void)state;
    static char late[8192 + 1];
    memset(late, 'x', sizeof late);
    late[8191] = 0;
    assert_int_equal(mkdir("d", 0777), 0);
    put_file("d/binary", late, sizeof late);
    late[8191] = 'x';
    late[8192] = 0; /* past where it is looked for */
    put_file("d/text", late, sizeof late);
    assert_int_equal(mkfifo("d/pipe", 0666), 0);
    corpus c = load_ok("d", 0);
    assert_int_equal(c.files, 1);
    assert_int_equal(c.files_skipped, 2);
    assert_part(&c.train, late, sizeof late);
    corpus_free(&c);
    c = load_ok("d/binary", 0); /* named outright */
    assert_int_equal(c.train.count, sizeof late);
    assert_int_equal(token(&c.train, 8191), 0);
    corpus_free(&c);
    alarm(20); /* ends a run that waits for a writer */
    assert_refused("d/pipe", FATHOM_IO, "d/pipe: ", "not a regular file");
    alarm(0);
}

static void links_to_folders_do_not_loop(void **state)
{
    (void)state;
    assert_int_equal(mkdir("d", 0777), 0);
    assert_int_equal(mkdir("d/sub", 0777), 0);
    put_text("d/sub/a", "<a>");
    put_text("outside", "<outside>");
    assert_int_equal(symlink("..", "d/sub/up"), 0);
    assert_int_equal(symlink(".", "d/here"), 0);
    assert_int_equal(symlink("../outside", "d/file"), 0);
    assert_int_equal(symlink("d", "door"), 0);
    corpus c = load_ok("d", 0);
    assert_train(&c, "<outside><a>");
    c = load_ok("door", 0); /* named outright */
    assert_train(&c, "<outside><a>");

    assert_int_equal(symlink("nowhere", "d/broken"), 0);
    assert_refused("d", FATHOM_NOT_FOUND, "d/broken: ", "No such file");
    assert_int_equal(unlink("d/broken"), 0);
    assert_int_equal(symlink("self", "d/self"), 0);
    assert_refused("d", FATHOM_IO, "d/self: ", "");
}

/* More levels than a process has open files. */
static void deep_folders_are_read(void **state)
{
    (void)state;
    enum { LEVELS = 1500 };
    char path[2 * LEVELS + 8] = "d";
    for (size_t i = 0; i < LEVELS; i++) {
        assert_int_equal(mkdir(path, 0777), 0);
        strcpy(path + 2 * i + 1, "/d");
    }
    put_text(path, "deep");
    corpus c = load_ok("d", 0);
    assert_train(&c, "deep");
}

static void any_byte_is_text(void **state)
{
    (void)state;
    char text[1024];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(i * 7 % 255 + 1); /* not UTF-8, no NUL */
    assert_int_equal(mkdir("d", 0777), 0);
    put_file("d/latin", text, sizeof text);
    corpus c = load_ok("d", 0);
    assert_part(&c.train, text, sizeof text);
    corpus_free(&c);
}

static void the_end_of_each_file_is_held_out(void **state)
{
    (void)state;
    put_text("a", "abcdefghij");
    put_text("b", "0123");
    put_text("c", "");
    put_text("e", "ABCDEFG");
    static const struct {
        double fraction;
        const char *train, *heldout;
    } cases[] = {
        {0, "abcdefghij0123ABCDEFG", ""},
        {0.1, "abcdefghi0123ABCDEFG", "j"},
        {0.25, "abcdefgh012ABCDEF", "ij3G"},
        {0.5, "abcde01ABCD", "fghij23EFG"},
        {0.99, "a0A", "bcdefghij123BCDEFG"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        loaded l = load((const char *const[]){"a", "b", "c", "e"}, 4, cases[i].fraction);
        assert_ok(l.status, &l.err);
        assert_part(&l.c.train, cases[i].train, strlen(cases[i].train));
        assert_part(&l.c.heldout, cases[i].heldout, strlen(cases[i].heldout));
        assert_int_equal(l.c.files, 4);
        corpus_free(&l.c);
    }
    static const double wrong[] = {-0.1, 1, 2};
    for (size_t i = 0; i < 3; i++) {
        loaded l = load((const char *const[]){"a"}, 1, wrong[i]);
        assert_error(l.status, &l.err, FATHOM_INVALID_ARGUMENT, "held-out fraction: ", "[0, 1)");
    }
}

/* Growth in many steps moves nothing. */
static void many_files_add_up(void **state)
{
    (void)state;
    assert_int_equal(mkdir("d", 0777), 0);
    int64_t total = 0, held = 0;
    for (int i = 0; i < 200; i++) {
        char name[16], text[400];
        snprintf(name, sizeof name, "d/%03d", i);
        memset(text, 'a' + i % 26, sizeof text);
        put_file(name, text, (size_t)(2 * i));
        total += 2 * i - i / 5;
        held += i / 5;
    }
    corpus c = load_ok("d", 0.1);
    assert_int_equal(c.train.count, total);
    assert_int_equal(c.heldout.count, held);
    int64_t at = 0, held_at = 0;
    for (int i = 0; i < 200; i++) {
        for (int k = 0; k < 2 * i - i / 5; k++)
            assert_int_equal(token(&c.train, at++), 'a' + i % 26);
        for (int k = 0; k < i / 5; k++)
            assert_int_equal(token(&c.heldout, held_at++), 'a' + i % 26);
    }
    corpus_free(&c);
}

static void missing_and_empty_data_are_errors(void **state)
{
    (void)state;
    assert_refused("missing", FATHOM_NOT_FOUND, "missing: ", "No such file");
    put_text("empty", "");
    assert_refused("empty", FATHOM_INVALID_ARGUMENT, "empty: ", "no text");
    assert_int_equal(mkdir("d", 0777), 0);
    assert_refused("d", FATHOM_INVALID_ARGUMENT, "d: ", "0 files read");
    put_file("d/binary", "\0", 1);
    assert_refused("d", FATHOM_INVALID_ARGUMENT, "d: ", "1 not text");
    put_text("good", "text");
    loaded l = load((const char *const[]){"good", "empty", "missing"}, 3, 0.5);
    assert_error(l.status, &l.err, FATHOM_NOT_FOUND, "missing: ", "");
    l = load((const char *const[]){"empty", "d"}, 2, 0);
    assert_error(l.status, &l.err, FATHOM_INVALID_ARGUMENT, "empty", "no text");
    l = load(NULL, 0, 0);
    assert_error(l.status, &l.err, FATHOM_INVALID_ARGUMENT, "data: ", "");
    l = load((const char *const[]){"empty", "good"}, 2, 0);
    assert_ok(l.status, &l.err);
    assert_train(&l.c, "text");
}

static uint64_t fingerprint_of(const char *text, double heldout)
{
    put_text("f", text);
    corpus c = load_ok("f", heldout);
    const uint64_t fingerprint = c.fingerprint;
    corpus_free(&c);
    return fingerprint;
}

static void the_fingerprint_knows_the_data(void **state)
{
    (void)state;
    const uint64_t base = fingerprint_of("abcdefgh", 0);
    assert_true(base == fingerprint_of("abcdefgh", 0));
    assert_true(base == 0x53405ff6f5123db9); /* runs and studies of earlier versions are known by it */
    assert_true(fingerprint_of("abcdefgh", 0.25) == 0xba559cbaa3cfb2a8);
    assert_true(base == fingerprint_of("abcdefgh", 0.1)); /* nothing held out: the same data */
    assert_true(base != fingerprint_of("abcdefgi", 0));
    assert_true(base != fingerprint_of("bacdefgh", 0));
    assert_true(base != fingerprint_of("abcdefg", 0));
    assert_true(base != fingerprint_of("abcdefgh", 0.125));
    assert_true(fingerprint_of("abcdefgh", 0.25) != fingerprint_of("abcdefgh", 0.125));
    put_text("1", "ab");
    put_text("2", "cdefgh");
    loaded l = load((const char *const[]){"1", "2"}, 2, 0); /* the cut between files is not data */
    assert_true(l.c.fingerprint == base);
    corpus_free(&l.c);
}

enum { TOKENS = 300, HEADER = 40 };

static fathom_status shard_write(const char *path, const int32_t *ids, int64_t count, int64_t bytes, int64_t vocab, fathom_error *err)
{
    shard_writer w;
    TRY(shard_writer_open(&w, path, vocab, err));
    const fathom_status status = shard_writer_add(&w, ids, count, bytes, err);
    if (status == FATHOM_OK)
        return shard_writer_commit(&w, err);
    shard_writer_abort(&w);
    return status;
}

static void write_shard(const char *path)
{
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++)
        ids[i] = i % 256;
    fathom_error err;
    assert_ok(shard_write(path, ids, TOKENS, TOKENS, 256, &err), &err);
}

static void shards_come_back(void **state)
{
    (void)state;
    write_shard("s.bin");
    corpus c = load_ok("s.bin", 0.1);
    assert_int_equal(c.files, 1);
    assert_int_equal(c.train.count, 270);
    assert_int_equal(c.heldout.count, 30);
    assert_int_equal(c.bytes, 300);
    for (int i = 0; i < TOKENS; i++)
        assert_int_equal(i < 270 ? token(&c.train, i) : token(&c.heldout, i - 270), i % 256);
    corpus_free(&c);

    size_t size;
    unsigned char *raw = (unsigned char *)get_file("s.bin", &size);
    static const unsigned char start[] = {'F', 'A', 'T', 'H', 'O', 'M', 'T', 'K', 1, 0, 0, 0, 2, 0, 0, 0,
                                          0,   1,   0,   0,   0,   0,   0,   0,   44, 1};
    assert_int_equal(size, HEADER + 2 * TOKENS);
    assert_memory_equal(raw, start, sizeof start);
    assert_int_equal(raw[HEADER + 2 * 255], 255);
    assert_int_equal(raw[HEADER + 2 * 255 + 1], 0);
    free(raw);

    put_text("t", "text");
    fathom_error err;
    assert_ok(shard_write("none.bin", NULL, 0, 0, 256, &err), &err);
    loaded l = load((const char *const[]){"none.bin", "t", "s.bin"}, 3, 0);
    assert_ok(l.status, &l.err);
    assert_int_equal(l.c.train.count, 4 + TOKENS);
    assert_int_equal(token(&l.c.train, 0), 't');
    assert_int_equal(l.c.files, 3);
    corpus_free(&l.c);
}

/* A larger vocabulary takes four bytes an id; this build's tokenizer refuses it by name. */
static void wide_shards_are_written(void **state)
{
    (void)state;
    static const int32_t ids[] = {0, 65536, 70000};
    fathom_error err;
    assert_ok(shard_write("wide.bin", ids, 3, 9, 70001, &err), &err);
    size_t size;
    unsigned char *raw = (unsigned char *)get_file("wide.bin", &size);
    assert_int_equal(size, HEADER + 12);
    assert_int_equal(raw[12], 4);
    assert_memory_equal(raw + HEADER, "\0\0\0\0\0\0\1\0\x70\x11\1\0", 12);
    free(raw);
    assert_refused("wide.bin", FATHOM_INVALID_ARGUMENT, "wide.bin: vocabulary: 70001", "256");
    assert_error(shard_write("bad.bin", ids, 3, 9, 70000, &err), &err, FATHOM_INVALID_ARGUMENT, "bad.bin: token 2",
                 "70000");
    assert_int_equal(access("bad.bin", F_OK), -1);
}

static void put_le(unsigned char *p, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (unsigned char)(value >> (8 * i));
}

static void four_byte_ids_are_read(void **state)
{
    (void)state;
    write_shard("s.bin");
    unsigned char raw[HEADER + 8] = {0};
    size_t size;
    char *good = get_file("s.bin", &size);
    memcpy(raw, good, HEADER);
    free(good);
    put_le(raw + 12, 4, 4);
    put_le(raw + 24, 2, 8);
    put_le(raw + 32, 2, 8);
    put_le(raw + HEADER, 'h', 4);
    put_le(raw + HEADER + 4, 'i', 4);
    put_file("w.bin", raw, sizeof raw);
    corpus c = load_ok("w.bin", 0);
    assert_train(&c, "hi");
    put_le(raw + HEADER + 4, 0xffffffff, 4);
    put_file("w.bin", raw, sizeof raw);
    assert_refused("w.bin", FATHOM_FORMAT, "w.bin: token 1: ", "4294967295");
}

static void hostile_shards_are_refused(void **state)
{
    (void)state;
    static const struct {
        int offset, bytes;
        uint64_t value;
        fathom_status code;
        const char *field, *shown;
    } cases[] = {
        {8, 4, 0, FATHOM_UNSUPPORTED, "version", "0"},
        {8, 4, 2, FATHOM_UNSUPPORTED, "version", "2"},
        {12, 4, 0, FATHOM_FORMAT, "bytes per token", "0"},
        {12, 4, 3, FATHOM_FORMAT, "bytes per token", "3"},
        {12, 4, 4, FATHOM_FORMAT, "count", "300"},
        {12, 4, 0xffffffff, FATHOM_FORMAT, "bytes per token", "4294967295"},
        {16, 8, 255, FATHOM_INVALID_ARGUMENT, "vocabulary", "255"},
        {16, 8, 0, FATHOM_FORMAT, "vocabulary", "0"},
        {16, 8, UINT64_MAX, FATHOM_FORMAT, "vocabulary", "18446744073709551615"},
        {24, 8, 299, FATHOM_FORMAT, "count", "299"},
        {24, 8, 301, FATHOM_FORMAT, "count", "301"},
        {24, 8, 0, FATHOM_FORMAT, "count", "0"},
        {24, 8, UINT64_MAX, FATHOM_FORMAT, "count", "18446744073709551615"},
        {24, 8, (1ull << 63) + TOKENS, FATHOM_FORMAT, "count", "9223372036854776108"}, /* 2 count wraps to 600 */
        {32, 8, UINT64_MAX, FATHOM_FORMAT, "bytes of text", "18446744073709551615"},
        {HEADER, 2, 256, FATHOM_FORMAT, "token 0", "256"},
        {HEADER + 2 * 299, 2, 0xffff, FATHOM_FORMAT, "token 299", "65535"},
    };
    write_shard("s.bin");
    size_t size;
    unsigned char *good = (unsigned char *)get_file("s.bin", &size);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char raw[HEADER + 2 * TOKENS];
        memcpy(raw, good, sizeof raw);
        put_le(raw + cases[i].offset, cases[i].value, cases[i].bytes);
        put_file("h.bin", raw, sizeof raw);
        assert_refused("h.bin", cases[i].code, "h.bin: ", cases[i].field);
        assert_refused("h.bin", cases[i].code, cases[i].field, cases[i].shown);
    }
    for (size_t cut = 8; cut < size; cut++) {
        put_file("h.bin", good, cut);
        assert_refused("h.bin", FATHOM_FORMAT, "h.bin: ", cut < HEADER ? "header" : "count");
    }
    free(good);
}

/* llm.c's: 256 int32 and the ids, each its own number. */
static void put_llmc(const char *path, uint32_t magic, uint32_t version, uint32_t count, int width, size_t ids)
{
    unsigned char *raw = calloc(1, 1024 + ids * (size_t)width);
    assert_non_null(raw);
    put_le(raw, magic, 4);
    put_le(raw + 4, version, 4);
    put_le(raw + 8, count, 4);
    for (size_t i = 0; i < ids; i++)
        put_le(raw + 1024 + i * (size_t)width, i, width);
    put_file(path, raw, 1024 + ids * (size_t)width);
    free(raw);
}

static loaded load_foreign(const char *path, int64_t vocab, bool raw)
{
    return load_as((corpus_input){.paths = &path, .count = 1, .vocab = vocab, .heldout_fraction = 0.25, .raw = raw});
}

static void assert_numbers(loaded l, int64_t count)
{
    assert_ok(l.status, &l.err);
    assert_int_equal(l.c.train.count, count - count / 4);
    assert_int_equal(l.c.heldout.count, count / 4);
    assert_int_equal(l.c.bytes, -1);
    assert_int_equal(l.c.foreign, 1);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(i < l.c.train.count ? token(&l.c.train, i) : token(&l.c.heldout, i - l.c.train.count), i);
    corpus_free(&l.c);
}

static void shards_of_other_programs_are_read(void **state)
{
    (void)state;
    put_llmc("a.bin", 20240520, 1, 1000, 2, 1000);
    put_llmc("b.bin", 20240801, 7, 70000, 4, 70000); /* past what uint16 holds */
    assert_numbers(load_foreign("a.bin", 1000, false), 1000);
    assert_numbers(load_foreign("b.bin", 128256, false), 70000);
    unsigned char ids[2000];
    for (size_t i = 0; i < 1000; i++)
        put_le(ids + 2 * i, i, 2);
    put_file("c.bin", ids, sizeof ids);
    assert_numbers(load_foreign("c.bin", 1000, true), 1000);
    loaded l = load_foreign("c.bin", 1000, false); /* unless told, it is what it always was */
    assert_ok(l.status, &l.err);
    assert_int_equal(l.c.train.count + l.c.heldout.count, 2000);
    assert_int_equal(l.c.foreign, 0);
    corpus_free(&l.c);

    static const struct {
        uint32_t magic, version, count;
        int width;
        size_t ids;
        int64_t vocab;
        fathom_status code;
        const char *a, *b;
    } cases[] = {
        {20240520, 1, 10, 2, 10, 0, FATHOM_INVALID_ARGUMENT, "h.bin: ", "vocabulary"},
        {20240520, 1, 10, 2, 10, 9, FATHOM_FORMAT, "h.bin: token 9: id 9", "vocabulary of 9"},
        {20240801, 7, 10, 4, 10, 9, FATHOM_FORMAT, "h.bin: token 9: id 9", "vocabulary of 9"},
        {20240520, 2, 10, 2, 10, 99, FATHOM_UNSUPPORTED, "h.bin: ", "version 2"},
        {20240801, 1, 10, 4, 10, 99, FATHOM_UNSUPPORTED, "h.bin: ", "version 1"},
        {20240522, 1, 10, 2, 10, 99, FATHOM_UNSUPPORTED, "h.bin: ", "multiple-choice"},
        {20240520, 1, 11, 2, 10, 99, FATHOM_FORMAT, "h.bin: count: 11", "20 bytes"},
        {20240520, 1, 9, 2, 10, 99, FATHOM_FORMAT, "h.bin: count: 9", "20 bytes"},
        {20240801, 7, 10, 2, 10, 99, FATHOM_FORMAT, "h.bin: count: 10", "20 bytes"},
        {20240520, 1, UINT32_MAX, 2, 10, 99, FATHOM_FORMAT, "h.bin: count: -1", ""},
        {20240801, 7, 0x80000000, 4, 0, 99, FATHOM_FORMAT, "h.bin: count: -2147483648", ""},
        {20240801, 7, 0x40000000, 4, 0, 99, FATHOM_FORMAT, "h.bin: count: 1073741824", ""}, /* 4 count wraps to 0 */
        {20240520, 1, 0, 2, 0, 99, FATHOM_INVALID_ARGUMENT, "h.bin: ", "no text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_llmc("h.bin", cases[i].magic, cases[i].version, cases[i].count, cases[i].width, cases[i].ids);
        l = load_foreign("h.bin", cases[i].vocab, false);
        assert_error(l.status, &l.err, cases[i].code, cases[i].a, cases[i].b);
    }
    size_t size;
    char *good = get_file("a.bin", &size);
    for (size_t cut = 4; cut < size; cut += cut < 1030 ? 1 : 97) {
        put_file("h.bin", good, cut);
        l = load_foreign("h.bin", 1000, false);
        assert_error(l.status, &l.err, FATHOM_FORMAT, "h.bin: ", cut < 1024 ? "header" : "count");
    }
    free(good);

    l = load_foreign("a.bin", 1000, true);
    assert_error(l.status, &l.err, FATHOM_INVALID_ARGUMENT, "a.bin: ", "has the header");
    put_file("c.bin", ids, 1999);
    l = load_foreign("c.bin", 1000, true);
    assert_error(l.status, &l.err, FATHOM_FORMAT, "c.bin: ", "1999 bytes");
    put_file("c.bin", ids, 2000);
    l = load_foreign("c.bin", 999, true);
    assert_error(l.status, &l.err, FATHOM_FORMAT, "c.bin: token 999: id 999", "");
    assert_int_equal(mkdir("d", 0777), 0);
    l = load_foreign("d", 999, true);
    assert_error(l.status, &l.err, FATHOM_INVALID_ARGUMENT, "d: ", "one by one");
}

/* A long shard is sampled when it is loaded; the rest is checked where it is read, and names the token by its number in the file. */
static void ids_are_checked_where_they_are_read(void **state)
{
    (void)state;
    enum { LONG = 1 << 20, HOLE = LONG / 2 + 40000 };
    fathom_error err;
    int32_t *ids = calloc(LONG, sizeof *ids), window[64];
    assert_non_null(ids);
    for (int i = 0; i < LONG; i++)
        ids[i] = (i * 7) % 256;
    assert_ok(shard_write("s.bin", ids, LONG, LONG, 256, &err), &err);
    const char *path = "s.bin";
    loaded whole = load(&path, 1, 0.5);
    assert_ok(whole.status, &whole.err);
    for (int64_t at = 0; at + 64 <= LONG / 2; at += 4099) {
        assert_ok(corpus_part_read(&whole.c.train, at, 64, window, &err), &err);
        assert_memory_equal(window, ids + at, sizeof window);
        assert_ok(corpus_part_read(&whole.c.heldout, at, 64, window, &err), &err);
        assert_memory_equal(window, ids + LONG / 2 + at, sizeof window);
    }

    FILE *f = fopen("s.bin", "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, HEADER + 2 * HOLE, SEEK_SET), 0);
    assert_int_equal(fwrite("\0\1", 1, 2, f), 2);
    assert_int_equal(fclose(f), 0);
    loaded l = load(&path, 1, 0.5);
    assert_ok(l.status, &l.err);
    assert_true(l.c.fingerprint == whole.c.fingerprint); /* nobody looked there: so this test is about the other check */
    const int64_t at = HOLE - LONG / 2;
    assert_ok(corpus_part_read(&l.c.heldout, at - 64, 64, window, &err), &err);
    assert_ok(corpus_part_read(&l.c.heldout, at + 1, 64, window, &err), &err);
    char name[64];
    snprintf(name, sizeof name, "s.bin: token %d: id 256:", (int)HOLE);
    for (int64_t before = 0; before < 64; before += 21)
        assert_error(corpus_part_read(&l.c.heldout, at - before, 64, window, &err), &err, FATHOM_FORMAT, name, "vocabulary of 256");
    corpus_free(&l.c);
    corpus_free(&whole.c);

    /* its first and last tokens are always looked at */
    static const int ends[] = {0, LONG / 2 - 1, LONG / 2, LONG - 1};
    for (int i = 0; i < 4; i++) {
        ids[ends[i]] ^= 1;
        assert_ok(shard_write("t.bin", ids, LONG, LONG, 256, &err), &err);
        ids[ends[i]] ^= 1;
        const char *other = "t.bin";
        l = load(&other, 1, 0.5);
        assert_ok(l.status, &l.err);
        assert_true(l.c.fingerprint != whole.c.fingerprint);
        corpus_free(&l.c);
    }
    free(ids);
}

/* Text, shards, text: the parts are what the files would be one behind the other. */
static void text_and_shards_mix(void **state)
{
    (void)state;
    fathom_error err;
    static const int32_t ids[] = {'s', 'h', 'a', 'r', 'd', '1', '2', '3'};
    put_text("a", "abcdefgh");
    put_text("b", "0123");
    put_text("c", "ABCDEFGH");
    assert_ok(shard_write("s.bin", ids, 8, 8, 256, &err), &err);
    loaded l = load((const char *const[]){"a", "b", "s.bin", "s.bin", "c"}, 5, 0.25);
    assert_ok(l.status, &l.err);
    assert_part(&l.c.train, "abcdef012shard1shard1ABCDEF", 27);
    assert_part(&l.c.heldout, "gh32323GH", 9);
    assert_int_equal(l.c.bytes, 36);
    int32_t read[27];
    assert_ok(corpus_part_read(&l.c.train, 7, 18, read, &err), &err); /* across all of them */
    for (int i = 0; i < 18; i++)
        assert_int_equal(read[i], "12shard1shard1ABCD"[i]);
    corpus_free(&l.c);
}

/* What makes a shard is its name and its magic; in a folder of text it has no business. */
static void other_bin_files_are_text(void **state)
{
    (void)state;
    put_text("x.bin", "plain");
    corpus c = load_ok("x.bin", 0);
    assert_train(&c, "plain");
    put_text("y.bin", "FATHOM");
    c = load_ok("y.bin", 0);
    assert_train(&c, "FATHOM");
    put_text("z.txt", "FATHOMTK and more");
    c = load_ok("z.txt", 0);
    assert_train(&c, "FATHOMTK and more");

    assert_int_equal(mkdir("d", 0777), 0);
    write_shard("d/s.bin");
    put_text("d/t", "text");
    assert_refused("d", FATHOM_INVALID_ARGUMENT, "d/s.bin: ", "manifest.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        temp_test(folders_are_read_in_order),
        temp_test(binaries_in_folders_are_skipped),
        temp_test(links_to_folders_do_not_loop),
        temp_test(deep_folders_are_read),
        temp_test(any_byte_is_text),
        temp_test(the_end_of_each_file_is_held_out),
        temp_test(many_files_add_up),
        temp_test(missing_and_empty_data_are_errors),
        temp_test(the_fingerprint_knows_the_data),
        temp_test(shards_come_back),
        temp_test(wide_shards_are_written),
        temp_test(four_byte_ids_are_read),
        temp_test(hostile_shards_are_refused),
        temp_test(shards_of_other_programs_are_read),
        temp_test(ids_are_checked_where_they_are_read),
        temp_test(text_and_shards_mix),
        temp_test(other_bin_files_are_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
