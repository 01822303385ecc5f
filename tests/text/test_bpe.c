/* UTF-8, pre-tokenization and byte-pair encoding, each by itself: hand-made cases, and the fast ways against slow ones. */
#include "base/temp.h"

#include <time.h>
#include <utf8proc.h>

#include "base/rng.h"
#include "text/bpe.h"
#include "text/split.h"
#include "text/unicode.h"

/* --- UTF-8 --- */

static void valid_utf8_is_told(void **state)
{
    (void)state;
    const struct {
        const char *text;
        size_t valid;
    } cases[] = {{"plain ascii, longer than a word", 31}, {"\xC3\xA9t\xC3\xA9", 5}, {"\xE2\x82\xAC\xF0\x9F\x98\x80", 7},
                 {"a\xC0\xAF", 1},          /* overlong */
                 {"\xE0\x80\xAF", 0},       /* overlong */
                 {"\xED\xA0\x80", 0},       /* a surrogate */
                 {"\xED\x9F\xBF", 3},       /* the last before them */
                 {"\xF4\x8F\xBF\xBF", 4},   /* U+10FFFF */
                 {"\xF4\x90\x80\x80", 0},   /* above it */
                 {"ab\xE2\x82", 2},         /* cut short */
                 {"12345678\x80", 8}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(utf8_valid(cases[i].text, strlen(cases[i].text)), cases[i].valid);
    for (uint32_t code = 0; code <= 0x10FFFF; code++) {
        char text[4];
        const size_t n = utf8_encode(code, text);
        const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
        assert_int_equal(utf8_valid(text, n), surrogate ? 0 : n);
        assert_int_equal(utf8_length((unsigned char)text[0]), n);
        assert_int_equal(utf8_decode(text), code);
        if (surrogate)
            continue;
        assert_int_equal(utf8_unfinished(text, n), 0);
        for (size_t cut = 1; cut < n; cut++)
            assert_int_equal(utf8_unfinished(text, cut), cut);
    }
    assert_int_equal(utf8_unfinished("\xED\xA0", 2), 0); /* nothing makes it whole */
    assert_int_equal(utf8_unfinished("a\x80", 2), 0);
}

static void text_is_normalized(void **state)
{
    (void)state;
    const char *const cases[][2] = {{"plain", "plain"}, {"e\xCC\x81t\xC3\xA9", "\xC3\xA9t\xC3\xA9"}, {"ab\xCC\x81", "ab\xCC\x81"},
                                    {"\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"}, {"\xE2\x84\xAB", "\xC3\x85"}, {"", ""},
                                    {"a\xCC\xA3\xCC\x87", "\xE1\xBA\xA1\xCC\x87"}, {"a\xCC\x87\xCC\xA3", "\xE1\xBA\xA1\xCC\x87"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        text_buffer b = {0};
        fathom_error err;
        assert_ok(unicode_nfc(cases[i][0], strlen(cases[i][0]), &b, &err), &err);
        assert_int_equal(b.size, strlen(cases[i][1]));
        assert_memory_equal(b.data ? b.data : "", cases[i][1], b.size);
        text_buffer_free(&b);
    }
}

static void assert_normalized(const char *text, size_t bytes)
{
    utf8proc_uint8_t *expected;
    text_buffer b = {0};
    fathom_error err;
    const utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &expected, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    assert_ok(unicode_nfc(text, bytes, &b, &err), &err);
    assert_int_equal(b.size, n);
    assert_memory_equal(b.data, expected, b.size);
    text_buffer_free(&b);
    free(expected);
}

/* Every character by itself and between marks; then random texts, mostly of marks, in runs below and above those that are counted. */
static void normalizing_is_utf8procs(void **state)
{
    (void)state;
    enum { MARKS = 4096, LONGEST_TEXT = 120 };
    static uint32_t marks[MARKS], decomposing[MARKS * 4];
    size_t mark_count = 0, decomposing_count = 0;
    for (uint32_t code = 1; code <= 0x10FFFF; code++) {
        if (code >= 0xD800 && code <= 0xDFFF)
            continue;
        const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)code);
        char text[16] = "e\xCC\x81";
        size_t n = 3 + utf8_encode(code, text + 3);
        memcpy(text + n, "\xCC\xA3\xCC\x9B", 4);
        assert_normalized(text, n + 4);
        assert_normalized(text + 3, n - 3);
        if (p->combining_class > 0 && mark_count < MARKS)
            marks[mark_count++] = code;
        if (p->decomp_seqindex != UINT16_MAX && !p->decomp_type && decomposing_count < MARKS * 4)
            decomposing[decomposing_count++] = code;
    }
    assert_true(mark_count > 800 && decomposing_count > 1000);
    for (uint64_t draw = 0; draw < 20000; draw++) {
        char text[4 * LONGEST_TEXT];
        const uint64_t codes = 1 + (uint64_t)(rng_uniform(5, 0, draw) * (LONGEST_TEXT - 1));
        const double starters = draw % 4 * 0.1;
        size_t n = 0;
        for (uint64_t i = 0; i < codes; i++) {
            const double kind = rng_uniform(5, 1 + draw, 2 * i), which = rng_uniform(5, 1 + draw, 2 * i + 1);
            n += utf8_encode(kind < starters / 2          ? 'a' + (uint32_t)(which * 26)
                             : kind < starters            ? decomposing[(size_t)(which * (double)decomposing_count)]
                             : kind < 0.5 + starters / 2  ? 0x300 + (uint32_t)(which * 0x70)
                                                          : marks[(size_t)(which * (double)mark_count)],
                             text + n);
        }
        assert_normalized(text, n);
    }
}

/* Marks whose order is as far from canonical as can be: moved one place at a time they would take a minute. */
static void many_marks_take_no_longer(void **state)
{
    (void)state;
    enum { EACH = 1 << 16 };
    char *text = malloc(1 + 4 * EACH), *at = text;
    text_buffer b = {0};
    fathom_error err;
    *at++ = 'a';
    for (size_t i = 0; i < EACH; i++, at += 2)
        memcpy(at, "\xCC\x81", 2); /* class 230 */
    for (size_t i = 0; i < EACH; i++, at += 2)
        memcpy(at, "\xCC\x96", 2); /* 220: these go first */
    const clock_t began = clock();
    assert_ok(unicode_nfc(text, (size_t)(at - text), &b, &err), &err);
    assert_true((double)(clock() - began) / CLOCKS_PER_SEC < 2);
    assert_int_equal(b.size, 4 * EACH); /* the a has taken one mark: two bytes both */
    assert_memory_equal(b.data, "\xC3\xA1\xCC\x96", 4);
    assert_memory_equal(b.data + 2 * EACH, "\xCC\x96\xCC\x81", 4);
    text_buffer_free(&b);
    at = text + 1;
    for (size_t i = 0; i < EACH; i++, at += 4)
        memcpy(at, "\xCC\x81\xCC\x96", 4);
    text_buffer turns = {0};
    assert_ok(unicode_nfc(text, (size_t)(at - text), &turns, &err), &err);
    assert_true((double)(clock() - began) / CLOCKS_PER_SEC < 2);
    assert_int_equal(turns.size, 4 * EACH);
    assert_memory_equal(turns.data + 2 * EACH, "\xCC\x96\xCC\x81", 4);
    text_buffer_free(&turns);
    free(text);
}

/* --- pieces --- */

static fathom_status join_piece(void *user, const char *piece, size_t bytes, fathom_error *err)
{
    TRY(text_buffer_add(user, piece, bytes, err));
    return text_buffer_add(user, "/", 1, err);
}

static void assert_pieces(const splitter *s, const char *text, const char *expected)
{
    split_run *r;
    text_buffer b = {0};
    fathom_error err;
    assert_ok(split_run_new(s, &r, &err), &err);
    assert_ok(split_text(r, text, strlen(text), join_piece, &b, &err), &err);
    assert_ok(text_buffer_add(&b, "", 1, &err), &err);
    assert_string_equal(b.data, expected);
    text_buffer_free(&b);
    split_run_free(r);
}

static splitter *splitter_of(const split_step *steps, int count)
{
    splitter *s;
    fathom_error err;
    assert_ok(splitter_new(&s, &err), &err);
    for (int i = 0; i < count; i++)
        assert_ok(splitter_add(s, &steps[i], &err), &err);
    return s;
}

static void known_patterns_split(void **state)
{
    (void)state;
    splitter *gpt2 = splitter_of(&(split_step){.pattern = split_pattern_gpt2, .behavior = SPLIT_ISOLATED}, 1);
    assert_pieces(gpt2, "Don't  say \xC3\xA9t\xC3\xA9 1234!!\n\n x", "Don/'t/ / say/ \xC3\xA9t\xC3\xA9/ 1234/!!/\n\n/ x/");
    assert_pieces(gpt2, "a\xE1\xA0\x8E""b\xC2\x85", "a/\xE1\xA0\x8E/b/\xC2\x85/"); /* U+180E is no space, U+0085 is one */
    assert_pieces(gpt2, "", "");
    splitter_free(gpt2);
    splitter *llama = splitter_of(&(split_step){.pattern = split_pattern_llama3, .behavior = SPLIT_ISOLATED}, 1);
    assert_pieces(llama, "DON'T say 12345!!\n\n x", "DON/'T/ say/ /123/45/!!\n\n/ x/");
    splitter_free(llama);
}

/* What Oniguruma makes of a pattern, where PCRE2 would make something else of it. */
static void assert_splits(const char *pattern, const char *text, const char *expected)
{
    splitter *s = splitter_of(&(split_step){.pattern = pattern, .behavior = SPLIT_ISOLATED}, 1);
    assert_pieces(s, text, expected);
    splitter_free(s);
}

static void scripts_are_without_what_several_share(void **state)
{
    (void)state;
    static const char text[] = "a\u4f60\u597d\u3001\u4e16\u754c\u3002"; /* Chinese marks are of the Common script */
    assert_splits("\\p{Han}+", text, "a/\u4f60\u597d/\u3001/\u4e16\u754c/\u3002/");
    assert_splits("[\\p{Han}b]+", text, "a/\u4f60\u597d/\u3001/\u4e16\u754c/\u3002/");
    assert_splits("\\P{han}+", text, "a/\u4f60\u597d/\u3001/\u4e16\u754c/\u3002/");
    assert_splits("\\p{^Han}", text, "a/\u4f60\u597d/\u3001/\u4e16\u754c/\u3002/");
    assert_splits("\\p{Greek}+", "\u03b1\u0342b", "\u03b1/\u0342b/");
    assert_splits("\\p{Common}", text, "a\u4f60\u597d/\u3001/\u4e16\u754c/\u3002/");
    assert_splits("\\p{L}+", text, "a\u4f60\u597d/\u3001/\u4e16\u754c/\u3002/");
}

static void refused_pattern(const char *pattern, const char *why)
{
    splitter *s;
    fathom_error err;
    assert_ok(splitter_new(&s, &err), &err);
    assert_error(splitter_add(s, &(split_step){.pattern = pattern, .behavior = SPLIT_ISOLATED}, &err), &err, FATHOM_UNSUPPORTED, why, "not supported");
    splitter_free(s);
}

/* Ruby's x{2}? is (x{2})?, PCRE2's is lazy. */
static void intervals_are_read_alike_or_refused(void **state)
{
    (void)state;
    refused_pattern("a{2}?", "{2}?: ");
    refused_pattern("\\p{N}{3}?", "{3}?: ");
    refused_pattern("(?:ab){12}??", "{12}?: ");
    refused_pattern("a{2}+", "{2}+: ");
    refused_pattern("a{1,2}+", "{1,2}+: ");
    refused_pattern("a{1,}+", "{1,}+: ");
    refused_pattern("a{,2}", "{,: ");
    assert_splits("a{2}", "aaab", "aa/ab/");
    assert_splits("a{1,2}?", "aab", "a/a/b/");
    assert_splits("a{2,2}?b", "aaab", "a/aab/");
    assert_splits("a{1,}?b", "aaab", "aaab/");
    assert_splits("[a{2}?]+", "a{2}?b", "a{2}?/b/");
    assert_splits("a\\{2}?", "a{2a{2}", "a{2/a{2}/");
    assert_splits("a{1 }+", "aa{1 }}", "a/a{1 }}/");
    assert_splits("{x}?a{|}", "{xa{}", "{xa{/}/");
}

/* Oniguruma's own: a fraction is part of a word where \w stands alone, and is none in brackets. */
static void words_are_onigurumas(void **state)
{
    (void)state;
    static const char text[] = "a\u00bd\u00b2_\u00bf \u0663\u0301-\u2153"; /* 1/2, superscript 2; an Arabic digit; 1/3 */
    assert_splits("\\w+", text, "a\u00bd\u00b2_/\u00bf /\u0663\u0301/-\u2153/");
    assert_splits("\\W+", text, "a\u00bd\u00b2_/\u00bf /\u0663\u0301/-\u2153/");
    assert_splits("[\\w]+", text, "a/\u00bd\u00b2/_/\u00bf /\u0663\u0301/-\u2153/");
    assert_splits("[^\\w]+", text, "a/\u00bd\u00b2/_/\u00bf /\u0663\u0301/-\u2153/");
}

/* Oniguruma's (?i:ss) matches U+00DF, and the other way round. */
static void several_characters_as_one_are_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"(?i:ss)", "ss"}, {"x|(?i:'s|les[t])|(?i:MaSs)", "Ss"}, {"(?i:a(?:(?i:s)t))", "s)t"}, {"(?i:s{1}s)", "s{1}s"}, {"(?i:s(?:t|x))", "s(?:t"},
        {"(?i:off)", "ff"}, {"(?i:fi)", "fi"}, {"(?i:fl)", "fl"}, {"(?i:s\\x73)", "s\\x73"}, {"(?i:\\x{73}\\u0074)", "\\x{73}\\u0074"},
        {"(?i:\u017fs)", "\u017fs"}, {"(?i:\u00df)", "\u00df"}, {"(?i:\\x{df})", "\\x{df}"}, {"(?i:i\u0307)", "i\u0307"}, {"(?i:\u03c9\u03b9)", "\u03c9\u03b9"},
        {"(?i:[\u00df])", "\u00df"}, {"(?i:[^'\u00c0-\u00ff])", "\u00c0-\u00ff"}, {"(?i:[!-\\x{ff}a])", "!-\\x{ff}"}, {"(?i:[a-c-\u00df])", "\u00df"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char why[64];
        snprintf(why, sizeof why, "%s in (?i:...)", bad[i][1]);
        refused_pattern(bad[i][0], why);
    }
    assert_splits("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'\u017f'LL'Re'x", "'\u017f/'LL/'Re/'x/");
    assert_splits("(?i:s|t)(?:ss|\u00df)", "Sssst", "Sss/st/"); /* its end is the group's */
    assert_splits("(?i:s\\tf|s.t|s?t|[s]t|s[st\u00e9-])", "s\tF", "s\tF/");
    assert_splits("(?i:[\u2019']s)", "a\u2019S", "a/\u2019S/");
}

/* Oniguruma's (?i:[\p{Lu}]) matches small letters too, (?i:[\w]) ss at once. */
static void classes_of_any_case_are_refused(void **state)
{
    (void)state;
    refused_pattern("(?i:[\\p{Lu}])", "\\p{Lu} in a class in (?i:...)");
    refused_pattern("(?i:x(?:[^\\s\\P{Greek}]))", "\\P{Greek} in a class in (?i:...)");
    refused_pattern("(?i:[a\\w])", "\\w in a class in (?i:...)");
    refused_pattern("(?i:[\\S])", "\\S in a class in (?i:...)");
    refused_pattern("(?i:[\\D])", "\\D in a class in (?i:...)");
    assert_splits("(?i:\\p{Lu}x\\w)", "aAXss", "a/AXs/s/");
    assert_splits("(?i:x)[\\p{Lu}]", "XA", "XA/");
    assert_splits("(?i:[a\\s\\d]+)", "-aA 1", "-/aA 1/");
}

static void matches_go_where_they_are_told(void **state)
{
    (void)state;
    static const char text[] = "ab--c-d-";
    const struct {
        split_behavior behavior;
        bool invert;
        const char *expected;
    } cases[] = {{SPLIT_REMOVED, false, "ab/c/d/"},         {SPLIT_ISOLATED, false, "ab/-/-/c/-/d/-/"}, {SPLIT_MERGED_PREVIOUS, false, "ab-/-/c-/d-/"},
                 {SPLIT_MERGED_NEXT, false, "ab/-/-c/-d/-/"}, {SPLIT_CONTIGUOUS, false, "ab/--/c/-/d/-/"}, {SPLIT_REMOVED, true, "-/-/-/-/"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        splitter *s = splitter_of(&(split_step){.pattern = "-", .behavior = cases[i].behavior, .invert = cases[i].invert}, 1);
        assert_pieces(s, text, cases[i].expected);
        splitter_free(s);
    }
    splitter *chain = splitter_of((const split_step[]){{.pattern = "\\p{N}{1,2}", .behavior = SPLIT_ISOLATED},
                                                       {.pattern = ".", .literal = true, .behavior = SPLIT_ISOLATED}}, 2);
    assert_pieces(chain, "a.b123", "a/./b/12/3/");
    splitter_free(chain);
    splitter *empty = splitter_of(&(split_step){.pattern = "x*", .behavior = SPLIT_ISOLATED}, 1);
    assert_pieces(empty, "axxb\xC3\xA9", "a/xx/b/\xC3\xA9/");
    splitter_free(empty);
}

static void strange_patterns_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"\\h+", "a{1,2}+", "a{,2}", "[a[b]]", "[a&&b]", "(?x)a", "(?<name>a)", "\\b", "\\1", "(*UCP)a", "[]a]", "\\", "[a",
                                      "\\p{Nonsense}", "(a", "", "[\\W]", "\\x{110000000}", "\\u12"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        splitter *s;
        fathom_error err;
        assert_ok(splitter_new(&s, &err), &err);
        const fathom_status status = splitter_add(s, &(split_step){.pattern = bad[i], .behavior = SPLIT_ISOLATED}, &err);
        if (status != FATHOM_UNSUPPORTED && status != FATHOM_FORMAT)
            fail_msg("%s was taken", bad[i]);
        splitter_free(s);
    }
    splitter *slow = splitter_of(&(split_step){.pattern = "(a+)+b", .behavior = SPLIT_ISOLATED}, 1); /* exponential: ends at its limit */
    split_run *r;
    text_buffer b = {0};
    fathom_error err;
    assert_ok(split_run_new(slow, &r, &err), &err);
    char text[64];
    memset(text, 'a', sizeof text);
    memcpy(text + 62, "cb", 2); /* a b there is, so that it looks for one */
    assert_int_equal(split_text(r, text, sizeof text, join_piece, &b, &err), FATHOM_UNSUPPORTED);
    text_buffer_free(&b);
    split_run_free(r);
    splitter_free(slow);
}

/* --- byte-pair encoding --- */

enum { LETTERS = 4, MADE = 60, VOCAB = 256 + MADE, LONGEST = 20 };

/* Merges of random earlier tokens over a few letters. */
typedef struct learnt {
    bpe *b;
    char text[VOCAB][LONGEST];
    token_text tokens[VOCAB];
    int32_t pairs[MADE][2]; /* pairs[i] makes 256 + i */
    int vocab;
} learnt;

static bool is_known(const learnt *m, const char *text, size_t bytes)
{
    for (int i = 0; i < m->vocab; i++)
        if (m->tokens[i].bytes == bytes && memcmp(m->text[i], text, bytes) == 0)
            return true;
    return false;
}

static void learn_at_random(learnt *m, uint64_t seed)
{
    for (m->vocab = 0; m->vocab < 256; m->vocab++) {
        m->text[m->vocab][0] = (char)m->vocab;
        m->tokens[m->vocab] = (token_text){m->text[m->vocab], 1};
    }
    for (uint64_t draw = 0; m->vocab < VOCAB && draw < 10000; draw++) {
        int32_t side[2];
        for (uint64_t j = 0; j < 2; j++) {
            const int pick = (int)(rng_uniform(seed, 1, 2 * draw + j) * (LETTERS + m->vocab - 256));
            side[j] = pick < LETTERS ? 'a' + pick : 256 + pick - LETTERS;
        }
        const token_text l = m->tokens[side[0]], r = m->tokens[side[1]];
        char *both = m->text[m->vocab];
        if (l.bytes + r.bytes > LONGEST)
            continue;
        memcpy(both, l.text, l.bytes);
        memcpy(both + l.bytes, r.text, r.bytes);
        if (is_known(m, both, l.bytes + r.bytes))
            continue;
        memcpy(m->pairs[m->vocab - 256], side, sizeof side);
        m->tokens[m->vocab++] = (token_text){both, l.bytes + r.bytes};
    }
    fathom_error err;
    assert_ok(bpe_new(m->tokens, m->vocab, m->vocab - 256, &m->b, &err), &err);
    for (int i = 256; i < m->vocab; i++)
        assert_ok(bpe_add_merge(m->b, m->pairs[i - 256][0], m->pairs[i - 256][1], &err), &err);
}

/* The definition: the earliest merge that applies anywhere, at its leftmost place, until none does. */
static size_t encode_by_definition(const learnt *m, const char *piece, size_t n, int32_t *ids)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = (unsigned char)piece[i];
    for (int merge = 0; merge < m->vocab - 256; merge++)
        for (size_t i = 0; i + 1 < n; i++)
            if (ids[i] == m->pairs[merge][0] && ids[i + 1] == m->pairs[merge][1]) {
                ids[i] = 256 + merge;
                memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
                n--;
                merge = -1; /* what it made may be part of an earlier one */
                break;
            }
    return n;
}

static void merges_go_by_rank(void **state)
{
    (void)state;
    static learnt m;
    static char piece[300];
    static int32_t ids[300], expected[300];
    bpe_scratch scratch = {0};
    for (uint64_t seed = 1; seed <= 40; seed++) {
        learn_at_random(&m, seed);
        for (uint64_t draw = 0; draw < 50; draw++) {
            const size_t n = 1 + (size_t)(rng_uniform(seed, 2, draw) * (draw % 2 ? 40 : 299)); /* both ways, and where they meet */
            for (size_t i = 0; i < n; i++)
                piece[i] = (char)('a' + (int)(rng_uniform(seed, 3 + draw, i) * (LETTERS + 0.1)));
            size_t count;
            fathom_error err;
            assert_ok(bpe_encode(m.b, piece, n, &scratch, ids, &count, &err), &err);
            assert_int_equal(count, encode_by_definition(&m, piece, n, expected));
            assert_memory_equal(ids, expected, count * sizeof *ids);
        }
        bpe_free(m.b);
    }
    bpe_scratch_free(&scratch);
}

/* A megabyte of one letter in one piece: with a scan for each merge this would take hours. */
static void long_pieces_take_no_longer(void **state)
{
    (void)state;
    enum { LONG = 1 << 20, DOUBLINGS = 6 };
    static char text[256 + DOUBLINGS][1 << DOUBLINGS], piece[LONG];
    static int32_t ids[LONG];
    token_text tokens[256 + DOUBLINGS];
    bpe_scratch scratch = {0};
    bpe *b;
    fathom_error err;
    size_t count;
    for (int i = 0; i < 256 + DOUBLINGS; i++) {
        tokens[i] = (token_text){text[i], i < 256 ? 1 : (size_t)2 << (i - 256)};
        memset(text[i], i < 256 ? i : 'a', tokens[i].bytes);
    }
    assert_ok(bpe_new(tokens, 256 + DOUBLINGS, DOUBLINGS, &b, &err), &err);
    for (int i = 0; i < DOUBLINGS; i++)
        assert_ok(bpe_add_merge(b, i ? 255 + i : 'a', i ? 255 + i : 'a', &err), &err);
    memset(piece, 'a', LONG);
    assert_ok(bpe_encode(b, piece, LONG - 1, &scratch, ids, &count, &err), &err);
    assert_int_equal(count, (LONG >> DOUBLINGS) - 1 + DOUBLINGS); /* 63 = 32 + 16 + 8 + 4 + 2 + 1 are left over */
    for (size_t i = 0; i + DOUBLINGS < count; i++)
        assert_int_equal(ids[i], 255 + DOUBLINGS);
    bpe_scratch_free(&scratch);
    bpe_free(b);
}

static void vocabularies_that_cannot_be_are_refused(void **state)
{
    (void)state;
    token_text tokens[257];
    static char text[257];
    bpe *b;
    fathom_error err;
    for (int i = 0; i < 257; i++) {
        text[i] = (char)i;
        tokens[i] = (token_text){&text[i], 1};
    }
    assert_int_equal(bpe_new(tokens, 257, 0, &b, &err), FATHOM_FORMAT);
    assert_string_equal(err.message, "ids 0 and 256 stand for the same bytes");
    assert_int_equal(bpe_new(tokens, 255, 0, &b, &err), FATHOM_UNSUPPORTED);
    assert_string_equal(err.message, "byte 255 has no token");
    assert_ok(bpe_new(tokens, 256, 1, &b, &err), &err);
    assert_int_equal(bpe_add_merge(b, 'a', 'b', &err), FATHOM_FORMAT);
    assert_int_equal(bpe_find(b, "a", 1), 'a');
    assert_int_equal(bpe_find(b, "ab", 2), -1);
    assert_int_equal(bpe_find(b, "", 0), -1);
    assert_int_equal(bpe_text(b, -1).bytes + bpe_text(b, 256).bytes, 0);
    bpe_free(b);
}

/* What bpe_hash makes of eight bytes, backwards. */
static uint64_t unhash(uint64_t hash)
{
    const uint64_t times = 0x9E3779B97F4A7C15u;
    uint64_t inverse = times;
    for (int i = 0; i < 6; i++)
        inverse *= 2 - times * inverse;
    hash = (hash ^ hash >> 32) * inverse;
    hash = (hash ^ hash >> 32) * inverse;
    return hash ^ 0xcbf29ce484222325u ^ 8;
}

/* Tokens that all fall into one slot: refused, and soon, not read in the square of their number. */
static void collisions_on_purpose_are_refused(void **state)
{
    (void)state;
    enum { COUNT = 200000 };
    token_text *tokens = malloc((256 + COUNT) * sizeof *tokens);
    uint64_t *words = malloc(COUNT * sizeof *words);
    static char bytes[256];
    for (uint64_t i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        tokens[i] = (token_text){&bytes[i], 1};
    }
    for (uint64_t i = 0; i < COUNT; i++) {
        words[i] = unhash((i + 1) << 24);
        assert_int_equal(bpe_hash((const char *)&words[i], 8), (i + 1) << 24);
        tokens[256 + i] = (token_text){(const char *)&words[i], 8};
    }
    bpe *b;
    fathom_error err;
    assert_int_equal(bpe_new(tokens, 256 + COUNT, 0, &b, &err), FATHOM_UNSUPPORTED);
    assert_null(b);
    free(words);
    free(tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_utf8_is_told),           cmocka_unit_test(text_is_normalized),
        cmocka_unit_test(normalizing_is_utf8procs),     cmocka_unit_test(many_marks_take_no_longer),
        cmocka_unit_test(known_patterns_split),         cmocka_unit_test(matches_go_where_they_are_told),
        cmocka_unit_test(scripts_are_without_what_several_share),
        cmocka_unit_test(intervals_are_read_alike_or_refused),
        cmocka_unit_test(words_are_onigurumas),
        cmocka_unit_test(several_characters_as_one_are_refused),
        cmocka_unit_test(classes_of_any_case_are_refused),
        cmocka_unit_test(strange_patterns_are_refused), cmocka_unit_test(merges_go_by_rank),
        cmocka_unit_test(long_pieces_take_no_longer),   cmocka_unit_test(vocabularies_that_cannot_be_are_refused),
        cmocka_unit_test(collisions_on_purpose_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
