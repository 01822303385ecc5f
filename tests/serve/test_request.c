/* Bodies of requests: what is taken and how it is understood, what is refused and that the refusal names its field, and damaged bodies. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "serve/request.h"

static const request_limits limits = {.model = "small", .vocab = 256, .max_n = 4, .max_choices = 8, .max_prompt = 6};

static bool parse(const char *body, bool chat, generate_request *out, serve_problem *problem)
{
    *problem = (serve_problem){0};
    return request_parse(body, strlen(body), chat, &limits, out, problem);
}

static void takes(const char *body, bool chat, generate_request *out)
{
    serve_problem problem;
    if (!parse(body, chat, out, &problem))
        fail_msg("%s: %s", body, problem.message);
}

typedef struct refusal {
    const char *body, *param, *says;
    int status;
} refusal;

static void refuses(const refusal *cases, size_t count, bool chat)
{
    for (size_t i = 0; i < count; i++) {
        generate_request out;
        serve_problem problem;
        if (parse(cases[i].body, chat, &out, &problem))
            fail_msg("taken: %s", cases[i].body);
        if (problem.status != (cases[i].status ? cases[i].status : 400) || strcmp(problem.param, cases[i].param) != 0 ||
            !strstr(problem.message, cases[i].says))
            fail_msg("%s: %d, %s: %s", cases[i].body, problem.status, problem.param, problem.message);
        json_t *o = problem_json(&problem);
        assert_non_null(o);
        json_decref(o);
    }
}

static void test_defaults(void **state)
{
    (void)state;
    generate_request r;
    takes("{\"prompt\": \"a\\u0000b\", \"unknown\": [1], \"user\": \"me\", \"temperature\": null}", false, &r);
    assert_int_equal(r.prompt_count, 1);
    assert_int_equal(r.prompts[0].bytes, 3);
    assert_int_equal(r.max_tokens, 16);
    assert_int_equal(r.n, 1);
    assert_int_equal(r.logprobs, -1);
    assert_true(r.options.temperature == 1 && r.options.top_p == 1 && r.options.top_k == 0 && !r.seeded && !r.stream && !r.echo);
    request_free(&r);
}

static void test_fields(void **state)
{
    (void)state;
    generate_request r;
    takes("{\"model\": \"small\", \"prompt\": [1, 255], \"max_tokens\": 3.0, \"temperature\": 0, \"top_p\": 0.5, \"top_k\": 7, \"min_p\": 0.1,"
          "\"seed\": -5, \"stop\": [\"x\", \"yz\"], \"n\": 2, \"best_of\": 2, \"echo\": true, \"logprobs\": 20, \"suffix\": null,"
          "\"logit_bias\": {\"3\": -100, \"0\": 2.5}, \"frequency_penalty\": 1, \"presence_penalty\": -2, \"stream\": true,"
          "\"stream_options\": {\"include_usage\": true}, \"budget\": 0.5, \"routing\": true}", false, &r);
    assert_int_equal(r.prompts[0].count, 2);
    assert_int_equal(r.prompts[0].ids[1], 255);
    assert_int_equal(r.max_tokens, 3);
    assert_true(r.seeded && r.options.seed == (uint64_t)-5);
    assert_int_equal(r.options.stop_count, 2);
    assert_string_equal(r.stops[1], "yz");
    assert_int_equal(r.options.logit_bias_count, 2);
    assert_true(isinf(r.biases[0].bias) && r.biases[1].bias == 2.5f);
    assert_true(r.options.frequency_penalty == 1 && r.options.presence_penalty == -2 && r.options.budget == 0.5);
    assert_true(r.stream && r.include_usage && r.routing && r.echo && r.logprobs == 20 && r.n == 2);
    request_free(&r);
    takes("{\"prompt\": [[1], [2, 3]], \"stop\": \"end\", \"max_tokens\": 0, \"echo\": true}", false, &r);
    assert_int_equal(r.prompt_count, 2);
    assert_int_equal(r.prompts[1].count, 2);
    request_free(&r);
    takes("{\"prompt\": [\"a\", \"bc\"], \"top_p\": 0}", false, &r); /* the likeliest alone */
    assert_int_equal(r.options.top_k, 1);
    request_free(&r);
}

static void test_chat(void **state)
{
    (void)state;
    generate_request r;
    takes("{\"messages\": [{\"role\": \"developer\", \"content\": \"be brief\"}, {\"role\": \"user\", \"content\": ["
          "{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", \"text\": \"bc\"}]}], \"logprobs\": true, \"top_logprobs\": 2,"
          "\"max_tokens\": 5, \"max_completion_tokens\": 7, \"response_format\": {\"type\": \"text\"}, \"tools\": []}", true, &r);
    assert_int_equal(r.message_count, 2);
    assert_string_equal(r.messages[0].role, "system");
    assert_string_equal(r.messages[1].content, "abc");
    assert_int_equal(r.max_tokens, 7);
    assert_int_equal(r.logprobs, 2);
    request_free(&r);
    takes("{\"messages\": [{\"role\": \"user\", \"content\": \"\"}]}", true, &r);
    assert_int_equal(r.max_tokens, -1);
    request_free(&r);
}

#define P "{\"prompt\": \"a\", "
static const refusal completions[] = {
    {"", "", "malformed JSON", 0},
    {"{", "", "malformed JSON", 0},
    {"[]", "", "object", 0},
    {"\"a\"", "", "malformed JSON", 0},
    {"{\"a\": 1, \"a\": 2}", "", "malformed JSON", 0},
    {"{\"prompt\": NaN}", "", "malformed JSON", 0},
    {"{\"prompt\": 1e999}", "", "malformed JSON", 0},
    {"{\"prompt\": \"a\"} x", "", "malformed JSON", 0},
    {"{\"prompt\": \"\xff\"}", "", "malformed JSON", 0},
    {"{}", "prompt", "prompt: missing", 0},
    {"{\"prompt\": null}", "prompt", "prompt: missing", 0},
    {"{\"prompt\": 5}", "prompt", "prompt: 5", 0},
    {"{\"prompt\": {}}", "prompt", "prompt: an object", 0},
    {"{\"prompt\": []}", "prompt", "empty", 0},
    {"{\"prompt\": [[]]}", "prompt", "a token or more", 0},
    {"{\"prompt\": [1, -1]}", "prompt", "prompt: -1", 0},
    {"{\"prompt\": [1, 256]}", "prompt", "prompt: 256", 0},
    {"{\"prompt\": [1, 1.5]}", "prompt", "prompt: 1.5", 0},
    {"{\"prompt\": [1, \"a\"]}", "prompt", "token id", 0},
    {"{\"prompt\": [\"a\", 1]}", "prompt", "a list must hold", 0},
    {"{\"prompt\": [[1], \"a\"]}", "prompt", "a list must hold", 0},
    {"{\"prompt\": [true]}", "prompt", "a list must hold", 0},
    {"{\"prompt\": [1, 2, 3, 4, 5, 6, 7]}", "prompt", "7 tokens", 0},
    {"{\"prompt\": [\"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\"]}", "prompt", "9 prompts", 0},
    {"{\"model\": \"large\", \"prompt\": \"a\"}", "model", "large", 404},
    {"{\"model\": 3, \"prompt\": \"a\"}", "model", "model: 3", 0},
    {P "\"max_tokens\": 0}", "max_tokens", "max_tokens: 0", 0},
    {P "\"max_tokens\": -1}", "max_tokens", "max_tokens: -1", 0},
    {P "\"max_tokens\": 1.5}", "max_tokens", "max_tokens: 1.5", 0},
    {P "\"max_tokens\": \"9\"}", "max_tokens", "max_tokens: \"9\"", 0},
    {P "\"max_tokens\": 99999999999999999999}", "", "malformed JSON", 0},
    {P "\"temperature\": -0.1}", "temperature", "-0.1", 0},
    {P "\"temperature\": 2.1}", "temperature", "2.1", 0},
    {P "\"temperature\": \"hot\"}", "temperature", "hot", 0},
    {P "\"top_p\": 1.1}", "top_p", "1.1", 0},
    {P "\"top_p\": -1}", "top_p", "-1", 0},
    {P "\"top_k\": -2}", "top_k", "-2", 0},
    {P "\"top_k\": 99999999999}", "top_k", "99999999999", 0},
    {P "\"min_p\": 2}", "min_p", "2", 0},
    {P "\"seed\": 1.5}", "seed", "1.5", 0},
    {P "\"stop\": 5}", "stop", "stop: 5", 0},
    {P "\"stop\": \"\"}", "stop", "stop", 0},
    {P "\"stop\": [\"a\", \"\"]}", "stop", "stop", 0},
    {P "\"stop\": \"a\\u0000\"}", "stop", "NUL", 0},
    {P "\"stop\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", "stop", "17 texts", 0},
    {P "\"n\": 0}", "n", "n: 0", 0},
    {P "\"n\": 5}", "n", "1 to 4", 0},
    {P "\"n\": true}", "n", "n: true", 0},
    {"{\"prompt\": [\"a\", \"b\", \"c\"], \"n\": 4}", "n", "at most 8", 0},
    {P "\"best_of\": 2}", "best_of", "best_of: 2", 0},
    {P "\"best_of\": 0}", "best_of", "best_of: 0", 0},
    {P "\"suffix\": \"z\"}", "suffix", "suffix", 0},
    {P "\"echo\": 1}", "echo", "echo: 1", 0},
    {P "\"logprobs\": 21}", "logprobs", "21", 0},
    {P "\"logprobs\": true}", "logprobs", "true", 0},
    {P "\"logit_bias\": []}", "logit_bias", "object", 0},
    {P "\"logit_bias\": {\"256\": 1}}", "logit_bias", "256", 0},
    {P "\"logit_bias\": {\"-1\": 1}}", "logit_bias", "-1", 0},
    {P "\"logit_bias\": {\"01\": 1}}", "logit_bias", "01", 0},
    {P "\"logit_bias\": {\"\": 1}}", "logit_bias", "logit_bias", 0},
    {P "\"logit_bias\": {\"1\": 101}}", "logit_bias", "101", 0},
    {P "\"logit_bias\": {\"1\": \"x\"}}", "logit_bias", "x", 0},
    {P "\"frequency_penalty\": 3}", "frequency_penalty", "3", 0},
    {P "\"presence_penalty\": -3}", "presence_penalty", "-3", 0},
    {P "\"stream\": \"yes\"}", "stream", "yes", 0},
    {P "\"stream_options\": {}}", "stream_options", "stream", 0},
    {P "\"stream\": true, \"stream_options\": 1}", "stream_options", "stream_options: 1", 0},
    {P "\"stream\": true, \"stream_options\": {\"include_usage\": 1}}", "include_usage", "include_usage: 1", 0},
    {P "\"budget\": 1.5}", "budget", "1.5", 0},
    {P "\"routing\": 1}", "routing", "routing: 1", 0},
};

#define M "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], "
static const refusal chats[] = {
    {"{}", "messages", "messages: missing", 0},
    {"{\"messages\": []}", "messages", "one message", 0},
    {"{\"messages\": \"hi\"}", "messages", "hi", 0},
    {"{\"messages\": [1]}", "messages", "messages: 1", 0},
    {"{\"messages\": [{\"content\": \"a\"}]}", "messages", "role", 0},
    {"{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}]}", "messages", "tool", 0},
    {"{\"messages\": [{\"role\": \"user\"}]}", "messages", "content", 0},
    {"{\"messages\": [{\"role\": \"user\", \"content\": 1}]}", "messages", "content", 0},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}", "messages", "image_url", 0},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [\"a\"]}]}", "messages", "parts", 0},
    {M "\"tools\": [{}]}", "tools", "tools", 0},
    {M "\"functions\": [{}]}", "functions", "functions", 0},
    {M "\"response_format\": {\"type\": \"json_object\"}}", "response_format", "json_object", 0},
    {M "\"response_format\": 1}", "response_format", "response_format: 1", 0},
    {M "\"max_tokens\": 0}", "max_tokens", "max_tokens: 0", 0},
    {M "\"max_completion_tokens\": 0}", "max_completion_tokens", "max_completion_tokens: 0", 0},
    {M "\"logprobs\": 5}", "logprobs", "logprobs: 5", 0},
    {M "\"top_logprobs\": 2}", "top_logprobs", "logprobs", 0},
    {M "\"logprobs\": true, \"top_logprobs\": 21}", "top_logprobs", "21", 0},
    {M "\"n\": 9}", "n", "n: 9", 0},
};

static void test_refusals(void **state)
{
    (void)state;
    refuses(completions, sizeof completions / sizeof *completions, false);
    refuses(chats, sizeof chats / sizeof *chats, true);
}

/* What a refusal quotes is for the client; what goes to the log says the same without. */
static void test_logged(void **state)
{
    (void)state;
    static const struct {
        const char *body, *logged;
        bool chat, unquoted;
    } cases[] = {
        {P "\"suffix\": \"secret\"}", "suffix: not supported by this server", false, false},
        {P "\"stop\": {\"secret\": 1}}", "stop: must be a text", false, true},
        {P "\"stop\": \"secret\\u0000\"}", "stop: must be a text", false, false},
        {P "\"n\": \"secret\"}", "n: must be a whole number from 1 to 4", false, false},
        {P "\"logit_bias\": {\"secret\": 1}}", "logit_bias: must be an object of token ids", false, false},
        {P "\"model\": \"secret\"}", "model: there is no such model", false, false},
        {"{\"prompt\": [1, \"secret\"]}", "prompt: must be a token id from 0 to 255", false, false},
        {"{\"prompt\": \"a\" \"secret\"}", "body: malformed JSON, line 1 column 23", false, false},
        {"{\"secret\": 1, \"secret\": 1}", "body: malformed JSON, line 1", false, false},
        {"{\"messages\": \"secret\"}", "messages: must be a list", true, false},
        {"{\"messages\": [\"secret\"]}", "messages: must be a list", true, false},
        {"{\"messages\": [{\"role\": \"user\", \"content\": [\"secret\"]}]}", "messages: content: only parts", true, false},
        {"{\"messages\": [{\"role\": \"secret\", \"content\": \"a\"}]}", "messages: role: must be", true, false},
        {"{}", "prompt: missing: must be a string", false, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        generate_request r;
        serve_problem problem;
        assert_false(parse(cases[i].body, cases[i].chat, &r, &problem));
        if (strncmp(problem.logged, cases[i].logged, strlen(cases[i].logged)) != 0 || strstr(problem.logged, "secret") ||
            !strstr(problem.message, "secret") != cases[i].unquoted)
            fail_msg("%s: %s: logged %s", cases[i].body, problem.message, problem.logged);
    }
}

/* Of each stop text REQUEST_STOP_BYTES are taken, by themselves and in a list. */
static void test_long_stops(void **state)
{
    (void)state;
    static const char *const forms[] = {"{\"prompt\": \"a\", \"stop\": \"%s\"}", "{\"prompt\": \"a\", \"stop\": [\"b\", \"%s\"]}"};
    char text[REQUEST_STOP_BYTES + 2], body[REQUEST_STOP_BYTES + 64];
    for (size_t i = 0; i < 2; i++)
        for (size_t bytes = REQUEST_STOP_BYTES; bytes <= REQUEST_STOP_BYTES + 1; bytes++) {
            generate_request r;
            memset(text, 'z', bytes);
            text[bytes] = '\0';
            snprintf(body, sizeof body, i ? forms[1] : forms[0], text);
            if (bytes > REQUEST_STOP_BYTES) {
                refuses(&(refusal){body, "stop", "1025 bytes: at most 1024", 0}, 1, false);
                continue;
            }
            takes(body, false, &r);
            assert_string_equal(r.stops[i], text);
            request_free(&r);
        }
}

/* A hundred thousand brackets are refused, not followed. */
static void test_depth(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *body = malloc(DEPTH);
    generate_request r;
    serve_problem problem = {0};
    memset(body, '[', DEPTH);
    memcpy(body, "{\"a\":", 5);
    assert_false(request_parse(body, DEPTH, false, &limits, &r, &problem));
    assert_int_equal(problem.status, 400);
    free(body);
}

/* Damaged bodies: whatever comes of them, nothing is read that is not there, and a refusal is a message of one line. */
static void test_mutations(void **state)
{
    (void)state;
    static const char *const seeds[] = {
        "{\"prompt\": [[1, 2], [3]], \"stop\": [\"a\", \"b\"], \"logit_bias\": {\"1\": 2}, \"n\": 2, \"echo\": true, \"logprobs\": 1}",
        "{\"prompt\": \"h\xc3\xa9\", \"stream\": true, \"stream_options\": {\"include_usage\": true}, \"seed\": 1}",
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}]}], \"top_logprobs\": 1, \"logprobs\": true}"};
    static const char pieces[] = "{}[]\",:0919-.eEtruefalsn\\u\xc3\x80 ";
    for (uint64_t i = 0; i < 20000; i++) {
        char body[256];
        const char *seed = seeds[i % 3];
        size_t size = strlen(seed);
        memcpy(body, seed, size);
        for (uint64_t k = 0; k < 1 + i % 4; k++) {
            uint32_t word[4];
            rng_words(1, i, k, word);
            const size_t at = word[0] % size;
            if (word[1] % 4 == 0)
                memmove(body + at, body + at + 1, --size - at);
            else
                body[at] = pieces[word[2] % (sizeof pieces - 1)];
        }
        generate_request r;
        serve_problem problem = {0};
        if (request_parse(body, size, i % 3 == 2, &limits, &r, &problem)) {
            request_free(&r);
            continue;
        }
        assert_in_range(problem.status, 400, 404);
        assert_true(strlen(problem.message) > 0 && !strchr(problem.message, '\n'));
        json_t *o = problem_json(&problem);
        assert_non_null(o);
        json_decref(o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_fields), cmocka_unit_test(test_chat),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_depth),  cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_long_stops), cmocka_unit_test(test_logged),
    };
    return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
