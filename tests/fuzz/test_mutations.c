/* Of every kind of file (subjects.h) 1,000 that are nearly valid, the same ones in every run: each gets a clear error or is read, and takes
 * neither 5 s of processor time nor more memory than twice its size and 100 MB.
 *
 * In a plain build each file is read in a process of its own under these limits. AddressSanitizer reserves its shadow from the address
 * space that RLIMIT_AS limits, and looks for leaks when a process ends: there the files are read here, under the limit of time alone. */
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "base/rng.h"
#include "base/temp.h"
#include "fuzz/subjects.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { FILES = 1000, CAPACITY = 1 << 21, CPU_SECONDS = 5, WALL_SECONDS = 300, FREE_MEMORY = 100000000 };
enum { ACCEPTED = 0, REFUSED = 1, NO_MEMORY = 2 };

typedef struct dice {
    uint64_t file, draw;
} dice;

/* [0, below) */
static size_t roll(dice *d, size_t below)
{
    uint32_t w[4];
    rng_words(23, d->draw++, d->file, w);
    return below ? ((uint64_t)w[0] << 32 | w[1]) % below : 0;
}

typedef struct buffer {
    unsigned char *bytes; /* [CAPACITY] */
    size_t size;
} buffer;

/* Puts n bytes in the place of `gone` ones; what does not fit is left as it was. put may lie in the buffer where gone is 0. */
static void splice(buffer *b, size_t at, size_t gone, const void *put, size_t n)
{
    if (b->size - gone + n > CAPACITY)
        return;
    unsigned char *copy = malloc(n + 1);
    assert_non_null(copy);
    memcpy(copy, put, n);
    memmove(b->bytes + at + n, b->bytes + at + gone, b->size - at - gone);
    memcpy(b->bytes + at, copy, n);
    b->size += n - gone;
    free(copy);
}

static bool in_number(int c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == '.';
}

/* The number or, with quote, the quoted text at or after a random place; false where there is none. */
static bool find(const buffer *b, dice *d, bool quoted, size_t *at, size_t *length)
{
    size_t i = roll(d, b->size);
    while (i < b->size && (quoted ? b->bytes[i] != '"' : !in_number(b->bytes[i])))
        i++;
    size_t end = i + 1;
    while (end < b->size && (quoted ? b->bytes[end] != '"' : in_number(b->bytes[end])))
        end++;
    end += quoted;
    *at = i;
    *length = end - i;
    return end <= b->size;
}

static void replace(buffer *b, dice *d, bool quoted, const char *const *with, size_t count)
{
    size_t at, length;
    const char *text = with[roll(d, count)];
    if (find(b, d, quoted, &at, &length))
        splice(b, at, length, text, strlen(text));
}

/* In the place of a number: as deep as this, closed or not. */
static void nest(buffer *b, dice *d)
{
    static const size_t depths[] = {1, 40, 2000, 100000};
    const char *open = roll(d, 2) ? "[" : "{\"a\":", *close = *open == '[' ? "]" : "}";
    const size_t depth = depths[roll(d, 4)], width = strlen(open);
    size_t at, length;
    const bool closed = roll(d, 4) > 0;
    char *text = malloc(depth * (width + 1) + 1);
    assert_non_null(text);
    for (size_t i = 0; i < depth; i++) {
        memcpy(text + i * width, open, width);
        text[depth * width + 1 + i] = *close;
    }
    text[depth * width] = '0';
    if (find(b, d, false, &at, &length))
        splice(b, at, length, text, closed ? depth * (width + 1) + 1 : depth * width);
    free(text);
}

static const int64_t hostile[] = {-1, 0, 1, 255, 65536, 0x7fffffff, 0xffffffff, 1LL << 32, 1LL << 40, INT64_MAX, INT64_MIN, INT64_MAX / 4 + 1};
enum { HOSTILE = sizeof hostile / sizeof *hostile };

static void mutate(buffer *b, dice *d, bool text)
{
    static const char *const numbers[] = {"-1", "0", "1", "255", "256", "65536", "2147483647", "2147483648", "4294967295", "4294967296", "1099511627776",
                                          "9223372036854775807", "-9223372036854775808", "9223372036854775808", "1e308", "1e309", "-0", "0.5", "1e-400",
                                          "99999999999999999999999999999999999999999999999999"};
    static const char *const words[] = {"null", "true", "0", "-1", "{}", "[]", "[[]]", "\"\"", "\"\\u0000\"", "\"\\ud800\"", "\"\xff\"", "\"(((((\"",
                                        "\"\\\\p{L}+(?!x)\"", "\"(a*)*b\"", "\"BPE\"", "\"F64\"", "\"a b\"", "\"\xc4\xa0\""};
    const size_t at = roll(d, b->size), most = b->size - at, n = roll(d, 2) ? roll(d, most < 64 ? most : 64) : roll(d, most);
    switch (roll(d, text ? 8 : 5)) {
    case 0:
        for (size_t i = 1 + roll(d, 8); b->size && i > 0; i--)
            b->bytes[roll(d, b->size)] = (unsigned char)roll(d, 256);
        break;
    case 1: b->size = at; break;
    case 2: splice(b, roll(d, b->size + 1), 0, b->bytes + at, n); break;
    case 3: splice(b, at, n, "", 0); break;
    case 4:
        if (text)
            replace(b, d, false, numbers, sizeof numbers / sizeof *numbers);
        else if (b->size >= 48)
            memcpy(b->bytes + 4 * roll(d, 11), &hostile[roll(d, HOSTILE)], 8);
        break;
    case 5: replace(b, d, false, numbers, sizeof numbers / sizeof *numbers); break;
    case 6: replace(b, d, true, words, sizeof words / sizeof *words); break;
    default: nest(b, d);
    }
}

/* The header's length is mostly what it is after the change, so that more than the first check is reached. */
static void mutate_safetensors(buffer *b, dice *d)
{
    uint64_t length;
    memcpy(&length, b->bytes, 8);
    buffer header = {malloc(CAPACITY), length};
    assert_non_null(header.bytes);
    memcpy(header.bytes, b->bytes + 8, length);
    for (size_t i = 1 + roll(d, 2); i > 0; i--)
        mutate(&header, d, true);
    splice(b, 8, length, header.bytes, header.size);
    length = roll(d, 8) ? header.size : (uint64_t)hostile[roll(d, HOSTILE)];
    memcpy(b->bytes, &length, 8);
    if (roll(d, 8) == 0)
        b->size -= roll(d, b->size - 8 - (header.size < b->size - 8 ? header.size : 0));
    free(header.bytes);
}

static void mutate_shard(buffer *b, dice *d)
{
    mutate(b, d, false);
    if (b->size < 40 || roll(d, 2))
        return;
    uint32_t width;
    memcpy(&width, b->bytes + 12, 4);
    const uint64_t count = (b->size - 40) / (width ? width : 1);
    memcpy(b->bytes + 24, &count, 8);
    memcpy(b->bytes + 32, &count, 8);
}

static void change(const fuzz_subject *s, buffer *b, dice *d)
{
    if (strcmp(s->name, "safetensors") == 0) {
        mutate_safetensors(b, d);
    } else if (strcmp(s->name, "shard") == 0) {
        mutate_shard(b, d);
    } else {
        for (size_t i = 1 + roll(d, 2); i > 0; i--)
            mutate(b, d, true);
    }
}

static void limit_time(int cpu_seconds, unsigned wall_seconds)
{
    setitimer(ITIMER_PROF, &(struct itimerval){.it_value = {.tv_sec = cpu_seconds}}, NULL);
    alarm(wall_seconds);
}

static int read_one(const fuzz_subject *s, const buffer *b)
{
    fathom_error err;
    limit_time(CPU_SECONDS, WALL_SECONDS);
    const fathom_status status = fuzz_read(s, ".", b->bytes, b->size, &err);
    limit_time(0, 0);
    return status == FATHOM_OK ? ACCEPTED : status == FATHOM_OUT_OF_MEMORY ? NO_MEMORY : REFUSED;
}

static size_t mapped_bytes(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu", &pages), 1);
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Exit code of the process that read it; a signal's number + 128. */
static int read_apart(const fuzz_subject *s, const buffer *b)
{
    int status;
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        for (int i = 1; i < NSIG; i++) /* cmocka's handlers would go on with the tests, here */
            signal(i, SIG_DFL);
        const rlim_t most = mapped_bytes() + 2 * b->size + FREE_MEMORY;
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        _exit(setrlimit(RLIMIT_AS, &(struct rlimit){most, most}) == 0 ? read_one(s, b) : 255);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static const char *how(int result)
{
    return result == NO_MEMORY ? "took too much memory" : result == 128 + SIGPROF || result == 128 + SIGALRM ? "took too long" : "crashed";
}

/* seeds: the kind's valid files. */
static void read_mutations(const fuzz_subject *s, const file_map *seeds, int seed_count)
{
    int accepted = 0, refused = 0;
    buffer b = {malloc(CAPACITY), 0};
    assert_non_null(b.bytes);
    for (int i = 0; i < FILES; i++) {
        const file_map *from = &seeds[i % seed_count];
        dice d = {(uint64_t)i, 0};
        memcpy(b.bytes, from->data, from->size);
        b.size = from->size;
        change(s, &b, &d);
        const int result = SANITIZED ? read_one(s, &b) : read_apart(s, &b);
        accepted += result == ACCEPTED;
        refused += result == REFUSED;
        if (result != ACCEPTED && result != REFUSED) {
            const char *base = getenv("TMPDIR");
            char kept[FUZZ_PATH];
            snprintf(kept, sizeof kept, "%s/fathom-mutation-%s-%d", base ? base : "/tmp", s->name, i);
            put_file(kept, b.bytes, b.size);
            fail_msg("%s %d: %s (%d); the file is %s", s->name, i, how(result), result, kept);
        }
    }
    free(b.bytes);
    print_message("# %s: %d files read, %d refused\n", s->name, accepted, refused);
    assert_true(accepted > 0); /* both sides were reached */
    assert_true(refused >= FILES / 5 || strcmp(s->name, "log") == 0);
}

static void test_subject(const fuzz_subject *s)
{
    file_map seeds[FUZZ_SEEDS];
    char path[FUZZ_PATH];
    int count = 0;
    assert_int_equal(folder_create("trainer", NULL), FATHOM_OK);
    for (; count < FUZZ_SEEDS && s->seed(".", count); count++) {
        fathom_error err;
        assert_ok(file_map_open(fuzz_join(".", s->file, path), &seeds[count], &err), &err);
        assert_int_equal(unlink(path), 0); /* the map stays */
        const fathom_status status = fuzz_read(s, ".", seeds[count].data, seeds[count].size, &err);
        if (status != FATHOM_OK && status != FATHOM_UNSUPPORTED)
            fail_msg("valid file %d of %s: %s", count, s->name, err.message);
    }
    assert_true(count > 0);
    read_mutations(s, seeds, count);
    for (int i = 0; i < count; i++)
        file_map_close(&seeds[i]);
}

#define SUBJECT_TEST(name, file)                                                                \
    static void test_##name(void **state)                                                       \
    {                                                                                           \
        (void)state;                                                                            \
        test_subject(&(fuzz_subject){#name, file, read_##name, seeds_##name});                  \
    }
FUZZ_SUBJECTS(SUBJECT_TEST)

int main(void)
{
#define SUBJECT_ROW(name, file) temp_test(test_##name),
    const struct CMUnitTest tests[] = {FUZZ_SUBJECTS(SUBJECT_ROW)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
