/* Pre-tokenization by PCRE2: see split.h. */
#include "text/split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

enum { MOST_STEPS = 16, MOST_PATTERN = 1 << 16, MATCH_LIMIT = 10000000, DEPTH_LIMIT = 100000, HEAP_LIMIT_KIB = 65536,
       JIT_STACK_LEAST = 1 << 16, JIT_STACK_MOST = 8 << 20 };

const char split_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char split_pattern_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                                    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

typedef struct step {
    pcre2_code *code;
    split_behavior behavior;
    bool invert, jit;
} step;

struct splitter {
    step steps[MOST_STEPS];
    int count;
};

struct split_run {
    const splitter *s;
    pcre2_match_data *data[MOST_STEPS];
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

bool split_behavior_parse(const char *name, split_behavior *out)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    for (int i = 0; i < 5; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (split_behavior)i;
            return true;
        }
    return false;
}

fathom_status splitter_new(splitter **out, fathom_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out ? FATHOM_OK : status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
}

void splitter_free(splitter *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->count; i++)
        pcre2_code_free(s->steps[i].code);
    free(s);
}

/* --- a pattern from Oniguruma's syntax to PCRE2's --- */

enum { NONE = -1 };

typedef struct translation {
    const char *at; /* what is left of the pattern */
    text_buffer out;
    bool in_class;
    int open, caseless;       /* parentheses; how many of them the outermost (?i: made it, 0 outside of any */
    int64_t last, before;     /* in one: the character that this element stands for, and that of the element before it; or NONE */
    const char *before_begin; /* in the pattern */
    bool range;               /* in a class: a - came between the two */
    unicode_folding foldings[UNICODE_FOLDINGS_MOST];
    size_t folding_count;
    fathom_error *err;
} translation;

static fathom_status put(translation *t, const char *text)
{
    return text_buffer_add(&t->out, text, strlen(text), t->err);
}

/* Takes so many bytes as they are. */
static fathom_status copy(translation *t, size_t bytes)
{
    t->at += bytes;
    return text_buffer_add(&t->out, t->at - bytes, bytes, t->err);
}

static fathom_status refuse(const translation *t, const char *what, size_t bytes)
{
    return status_fail(t->err, FATHOM_UNSUPPORTED, "%.*s: not supported in a pattern", (int)(bytes < 40 ? bytes : 40), what);
}

/* Classes that the two libraries define differently are spelt out. Outside of brackets Oniguruma takes U+00B2 and its like, digits in small type
 * and fractions, for parts of words; in brackets, and for all that lie above U+00FF, it does not. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD_ALONE WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
static const char *class_of(char letter, bool in_class)
{
    switch (letter) {
    case 's': return "\\p{White_Space}";
    case 'S': return "\\P{White_Space}";
    case 'd': return "\\p{Nd}";
    case 'D': return "\\P{Nd}";
    case 'w': return in_class ? WORD : "[" WORD_ALONE "]";
    case 'W': return in_class ? NULL : "[^" WORD_ALONE "]";
    default: return NULL;
    }
}

/* The element [begin, t->at) stands for this character. In a case-insensitive group Oniguruma matches a character whose folding has several,
 * U+00DF with its s and s, with these, and these with it, also where it lies in a class's range; PCRE2 goes by single characters. */
static fathom_status literal(translation *t, uint32_t code, const char *begin)
{
    const bool range = t->range && t->before != NONE;
    t->range = false;
    if (!t->caseless)
        return FATHOM_OK;
    if (t->folding_count == 0)
        t->folding_count = unicode_foldings(t->foldings);
    const uint32_t least = range ? (uint32_t)t->before : code, folded = unicode_folded(code);
    const uint32_t before = !t->in_class && t->before != NONE ? unicode_folded((uint32_t)t->before) : 0;
    for (size_t i = 0; i < t->folding_count; i++) {
        const unicode_folding *f = &t->foldings[i];
        const bool pair = f->first == before && f->second == folded;
        if (!pair && (f->code < least || f->code > code))
            continue;
        const char *from = pair || range ? t->before_begin : begin;
        return status_fail(t->err, FATHOM_UNSUPPORTED, "%.*s in (?i:...), where one character may match several: not supported in a pattern",
                           (int)(t->at - from < 40 ? t->at - from : 40), from);
    }
    t->last = range ? NONE : (int64_t)code; /* the end of a range begins none */
    t->before_begin = begin;
    return FATHOM_OK;
}

/* \p{Han}: scripts, which PCRE2 reads as Script_Extensions since 10.40, and Oniguruma as Script, without the marks that several scripts share.
 * Whether the name is a script's is PCRE2's to say; an older one, which does not know sc:, means Script by the name alone. */
static bool is_script(const char *name, size_t bytes)
{
    char pattern[64];
    int code;
    size_t at;
    if (snprintf(pattern, sizeof pattern, "\\p{sc:%.*s}", (int)(bytes < sizeof pattern ? bytes : sizeof pattern), name) >= (int)sizeof pattern)
        return false;
    pcre2_code *made = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
    pcre2_code_free(made);
    return made != NULL;
}

/* \p{Name}, \p{^Name} */
static fathom_status property(translation *t)
{
    const char *begin = t->at, *name = begin + 3, *end = begin[2] == '{' ? strchr(begin, '}') : NULL;
    if (!end)
        return refuse(t, begin, 2);
    name += *name == '^';
    t->at = end + 1;
    TRY(text_buffer_add(&t->out, begin, (size_t)(name - begin), t->err));
    if (is_script(name, (size_t)(end - name)))
        TRY(put(t, "sc:"));
    return text_buffer_add(&t->out, name, (size_t)(t->at - name), t->err);
}

static uint32_t hexadecimal(const char *digits, size_t count)
{
    uint32_t value = 0;
    for (size_t i = 0; i < count; i++)
        value = 16 * value + (uint32_t)(digits[i] <= '9' ? digits[i] - '0' : (digits[i] | 32) - 'a' + 10);
    return value;
}

/* In a case-insensitive group Oniguruma gives a class the other cases of all that is in it, and what they fold to: [\p{Lu}] has small letters,
 * [\w] has ss. PCRE2 does so only for characters that are named. */
static fathom_status check_class_of_cases(const translation *t, const char *begin)
{
    if (!t->caseless || !t->in_class || !begin[1] || !strchr("pPwWSD", begin[1]))
        return FATHOM_OK;
    const char *end = begin[2] == '{' ? strchr(begin, '}') : NULL;
    const size_t bytes = end ? (size_t)(end + 1 - begin) : 2;
    return status_fail(t->err, FATHOM_UNSUPPORTED, "%.*s in a class in (?i:...): not supported in a pattern", (int)(bytes < 40 ? bytes : 40), begin);
}

static fathom_status escape(translation *t)
{
    const char *begin = t->at, letter = begin[1];
    TRY(check_class_of_cases(t, begin));
    const char *class = letter ? class_of(letter, t->in_class) : NULL;
    if (class) {
        t->at += 2;
        return put(t, class);
    }
    if (letter == 'p' || letter == 'P')
        return property(t);
    if (letter == 'x' || letter == 'u') { /* \xHH, \uHHHH, \x{H...} */
        const char *digits = begin + 2;
        const bool braces = letter == 'x' && *digits == '{';
        size_t n = strspn(braces ? ++digits : digits, "0123456789abcdefABCDEF");
        const size_t most = letter == 'u' ? 4 : 2;
        n = !braces && n > most ? most : n;
        if (n == 0 || n > 6 || (letter == 'u' && n != 4) || (braces && digits[n] != '}'))
            return refuse(t, begin, 4);
        t->at = digits + n + braces;
        TRY(literal(t, hexadecimal(digits, n), begin));
        TRY(put(t, "\\x{"));
        TRY(text_buffer_add(&t->out, digits, n, t->err));
        return put(t, "}");
    }
    const bool known = letter && (strchr("rntf", letter) || (!((letter | 32) >= 'a' && (letter | 32) <= 'z') && !(letter >= '0' && letter <= '9') &&
                                                            !(letter & 0x80)));
    if (!known)
        return refuse(t, begin, letter ? 2 : 1);
    TRY(copy(t, 2));
    return literal(t, letter >= 'a' && letter <= 'z' ? '\n' : (uint32_t)letter, begin); /* one control character for all of them */
}

/* A brace, outside of a class. Ruby reads x{1,2}+ as (x{1,2})+, PCRE2 as possessive; x{2}? as (x{2})?, PCRE2 as lazy (x{1,2}? is lazy in both);
 * x{,2} as x{0,2}. Any other brace is one, also where a newer PCRE2 sees an interval with spaces in it. */
static fathom_status brace(translation *t)
{
    static const char digits[] = "0123456789";
    const char *p = t->at, *end = p + 1 + strspn(p + 1, digits);
    const bool comma = *end == ',';
    if (end == p + 1 && comma)
        return refuse(t, p, 2);
    if (comma)
        end += 1 + strspn(end + 1, digits);
    if (end == p + 1 || *end != '}') {
        t->at++;
        return put(t, "\\{");
    }
    end++;
    if (*end == '+' || (*end == '?' && !comma))
        return refuse(t, p, (size_t)(end + 1 - p));
    t->last = t->before; /* x{1} is as good as x */
    return copy(t, (size_t)(end - p));
}

/* What is in a plain group follows what is before it as if there were none. */
static fathom_status open_group(translation *t)
{
    const char *p = t->at;
    const bool caseless = strncmp(p, "(?i:", 4) == 0, plain = strncmp(p, "(?:", 3) == 0;
    if (p[1] == '*')
        return refuse(t, p, 2);
    if (p[1] == '?' && !caseless && !strchr(":!=>", p[2]) && strncmp(p, "(?<=", 4) != 0 && strncmp(p, "(?<!", 4) != 0)
        return refuse(t, p, 4);
    t->open++;
    if (caseless && !t->caseless)
        t->caseless = t->open;
    if (caseless || plain)
        t->last = t->before;
    return copy(t, caseless ? 4 : plain ? 3 : 1);
}

static fathom_status close_group(translation *t)
{
    if (t->open == t->caseless)
        t->caseless = 0;
    else
        t->last = t->before;
    t->open--;
    return copy(t, 1);
}

/* One element of the pattern. Set operations and sets in sets are Ruby's own. */
static fathom_status element(translation *t)
{
    const char *p = t->at;
    t->before = t->last;
    t->last = NONE;
    if (*p == '\\')
        return escape(t);
    if (t->in_class) {
        if (*p == '[' || strncmp(p, "&&", 2) == 0)
            return refuse(t, p, 2);
        t->in_class = *p != ']';
        if (!t->in_class)
            return copy(t, 1);
        if (*p == '-' && t->before != NONE && !t->range) {
            t->range = true;
            t->last = t->before;
            return copy(t, 1);
        }
    } else if (*p == '[') {
        const size_t bytes = p[1] == '^' ? 2 : 1;
        t->in_class = true;
        t->range = false;
        return p[bytes] == ']' ? refuse(t, p + bytes - 1, 2) : copy(t, bytes);
    } else if (*p == '(') {
        return open_group(t);
    } else if (*p == ')') {
        return close_group(t);
    } else if (*p == '{') {
        return brace(t);
    }
    TRY(copy(t, utf8_length((unsigned char)*p)));
    return literal(t, utf8_decode(p), p);
}

static fathom_status translate(const split_step *from, text_buffer *out, fathom_error *err)
{
    translation t = {.at = from->pattern, .last = NONE, .err = err};
    const size_t bytes = strlen(from->pattern);
    fathom_status status = FATHOM_OK;
    if (utf8_valid(from->pattern, bytes) < bytes)
        status = status_fail(err, FATHOM_FORMAT, "pattern: not valid UTF-8");
    for (; *t.at && status == FATHOM_OK && from->literal; t.at++) {
        if (strchr("\\^$.[]|()?*+{}#-", *t.at))
            status = put(&t, "\\");
        if (status == FATHOM_OK)
            status = text_buffer_add(&t.out, t.at, 1, err);
    }
    while (*t.at && status == FATHOM_OK)
        status = element(&t);
    *out = t.out;
    return status;
}

fathom_status splitter_add(splitter *s, const split_step *from, fathom_error *err)
{
    text_buffer pattern = {0};
    if (s->count == MOST_STEPS)
        return status_fail(err, FATHOM_UNSUPPORTED, "more than %d pre-tokenizers", MOST_STEPS);
    if (strlen(from->pattern) > MOST_PATTERN || !*from->pattern)
        return status_fail(err, FATHOM_UNSUPPORTED, "a pattern of %zu bytes", strlen(from->pattern));
    fathom_status status = translate(from, &pattern, err);
    int code = 0;
    size_t at = 0;
    step *made = &s->steps[s->count];
    *made = (step){.behavior = from->behavior, .invert = from->invert};
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (status == FATHOM_OK && !context)
        status = status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    if (status == FATHOM_OK) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(context, 50);
        made->code = pcre2_compile((PCRE2_SPTR)pattern.data, pattern.size, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code,
                                   &at, context);
        if (!made->code) {
            char message[120];
            pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
            status = status_fail(err, FATHOM_FORMAT, "pattern: %s, at byte %zu of %.*s", message, at, (int)(pattern.size < 200 ? pattern.size : 200),
                                 pattern.data);
        }
    }
    if (status == FATHOM_OK) {
        made->jit = pcre2_jit_compile(made->code, PCRE2_JIT_COMPLETE) == 0;
        s->count++;
    }
    pcre2_compile_context_free(context);
    text_buffer_free(&pattern);
    return status;
}

/* --- running --- */

fathom_status split_run_new(const splitter *s, split_run **out, fathom_error *err)
{
    split_run *r = calloc(1, sizeof *r);
    bool good = r != NULL;
    if (good) {
        r->s = s;
        r->context = pcre2_match_context_create(NULL);
        r->stack = pcre2_jit_stack_create(JIT_STACK_LEAST, JIT_STACK_MOST, NULL); /* NULL where there is no JIT */
        good = r->context != NULL;
    }
    for (int i = 0; good && i < s->count; i++)
        good = (r->data[i] = pcre2_match_data_create(1, NULL)) != NULL;
    if (!good) {
        split_run_free(r);
        *out = NULL;
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    }
    pcre2_set_depth_limit(r->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(r->context, HEAP_LIMIT_KIB);
    if (r->stack)
        pcre2_jit_stack_assign(r->context, NULL, r->stack);
    *out = r;
    return FATHOM_OK;
}

void split_run_free(split_run *r)
{
    if (!r)
        return;
    for (int i = 0; i < MOST_STEPS; i++)
        pcre2_match_data_free(r->data[i]);
    pcre2_match_context_free(r->context);
    if (r->stack)
        pcre2_jit_stack_free(r->stack);
    free(r);
}

/* A piece that may still grow, of one step. */
typedef struct pending {
    split_run *r;
    int step;
    split_sink sink;
    void *user;
    const char *begin, *end;
    bool any, matched; /* a piece is held; the last span was a match */
} pending;

static fathom_status run_step(split_run *r, int step, const char *text, size_t bytes, split_sink sink, void *user, fathom_error *err);

static fathom_status flush(pending *p, fathom_error *err)
{
    const bool any = p->any && p->end > p->begin;
    p->any = false;
    return any ? run_step(p->r, p->step + 1, p->begin, (size_t)(p->end - p->begin), p->sink, p->user, err) : FATHOM_OK;
}

/* The next span of the text, in order; together they are all of it. */
static fathom_status take(pending *p, const char *begin, const char *end, bool match, fathom_error *err)
{
    const step *s = &p->r->s->steps[p->step];
    const bool before = p->any && p->matched;
    bool joins = false;
    match ^= s->invert;
    switch (s->behavior) {
    case SPLIT_REMOVED:
    case SPLIT_ISOLATED: break;
    case SPLIT_MERGED_PREVIOUS: joins = match && !before; break;
    case SPLIT_MERGED_NEXT: joins = !match && before; break;
    case SPLIT_CONTIGUOUS: joins = match == before; break;
    }
    p->matched = match;
    if (joins && p->any) {
        p->end = end;
        return FATHOM_OK;
    }
    TRY(flush(p, err));
    p->any = !(s->behavior == SPLIT_REMOVED && match);
    p->begin = begin;
    p->end = end;
    return FATHOM_OK;
}

static fathom_status no_match(int code, fathom_error *err)
{
    char message[120];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
    return status_fail(err, FATHOM_UNSUPPORTED, "the tokenizer's pattern: %s", message);
}

static fathom_status run_step(split_run *r, int number, const char *text, size_t bytes, split_sink sink, void *user, fathom_error *err)
{
    if (number == r->s->count)
        return sink(user, text, bytes, err);
    const step *s = &r->s->steps[number];
    pending p = {.r = r, .step = number, .sink = sink, .user = user};
    const size_t *at = pcre2_get_ovector_pointer(r->data[number]);
    size_t done = 0, from = 0;
    bool ended = false; /* a match ends at `done` */
    while (from <= bytes) {
        const int found = s->jit ? pcre2_jit_match(s->code, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK, r->data[number], r->context)
                                 : pcre2_match(s->code, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK, r->data[number], r->context);
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        if (found < 0)
            return no_match(found, err);
        const size_t begin = at[0], end = at[1];
        if (begin < done || end < begin)
            return status_fail(err, FATHOM_UNSUPPORTED, "the tokenizer's pattern: a match begins behind its end");
        if (begin == end && ended && end == done) { /* an empty match right behind the last one is none */
            from = done + (done < bytes ? utf8_length((unsigned char)text[done]) : 1);
            continue;
        }
        if (begin > done)
            TRY(take(&p, text + done, text + begin, false, err));
        TRY(take(&p, text + begin, text + end, true, err));
        done = from = end;
        ended = true;
    }
    if (done < bytes)
        TRY(take(&p, text + done, text + bytes, false, err));
    return flush(&p, err);
}

fathom_status split_text(split_run *r, const char *text, size_t bytes, split_sink sink, void *user, fathom_error *err)
{
    /* a long run of white space takes one match some steps for each of its bytes, and that is no fault of the pattern */
    const size_t limit = bytes < (UINT32_MAX - MATCH_LIMIT) / 4 ? MATCH_LIMIT + 4 * bytes : UINT32_MAX;
    pcre2_set_match_limit(r->context, (uint32_t)limit);
    return bytes > 0 ? run_step(r, 0, text, bytes, sink, user, err) : FATHOM_OK;
}
