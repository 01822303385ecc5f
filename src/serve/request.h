/* The body of a generating request: JSON to a checked struct that owns all it needs, so that the JSON can go at once. Nothing here knows
 * of HTTP or of the engine: a function of bytes, which tests and fuzzers call by itself. What a field may hold stands in
 * docs/serving.md; a field that is not known is ignored, as OpenAI's clients send many. */
#ifndef FATHOM_SERVE_REQUEST_H
#define FATHOM_SERVE_REQUEST_H

#include "serve/problem.h"
#include "text/chat_template.h"

enum {
    REQUEST_STOPS = 16,   /* stop texts at most */
    REQUEST_STOP_BYTES = 1024, /* of each: every choice has a copy, and each token is compared with it */
    REQUEST_BIASES = 1024, /* entries of logit_bias at most */
};

/* What a server allows. */
typedef struct request_limits {
    const char *model;   /* the served name */
    int64_t vocab;       /* token ids are below it */
    int64_t max_n;       /* choices a prompt */
    int64_t max_choices; /* prompts x n */
    int64_t max_prompt;  /* tokens a prompt */
} request_limits;

/* Either a text or token ids. */
typedef struct request_prompt {
    char *text; /* NULL: ids */
    size_t bytes;
    int32_t *ids;
    size_t count;
} request_prompt;

typedef struct generate_request {
    bool chat, stream, include_usage, echo, routing;
    request_prompt *prompts; /* [prompt_count]; a chat has none of its own */
    size_t prompt_count;
    chat_message *messages; /* their contents are the request's, their roles static */
    size_t message_count;
    int64_t n;
    int64_t max_tokens; /* -1: what fits */
    int logprobs;       /* likeliest tokens to tell; -1: no logprobs */
    bool seeded;        /* else the server draws a seed */
    char *stops[REQUEST_STOPS + 1]; /* one more for what ends a chat's message */
    fathom_logit_bias *biases;
    fathom_generate_options options; /* max_tokens, stop and, where none was given, the seed are set when it is submitted */
} generate_request;

/* Reads a body of /v1/completions or (chat) /v1/chat/completions. False: *problem says why, and there is nothing to free. */
bool request_parse(const char *body, size_t bytes, bool chat, const request_limits *limits, generate_request *out,
                   serve_problem *problem);
void request_free(generate_request *r);

/* A body as a JSON object, for the routes that are read where they are answered; NULL: *problem says why. */
json_t *request_object(const char *body, size_t bytes, serve_problem *problem);
/* A list of token ids below vocab, malloc'd; *problem names the field. */
bool request_ids(const json_t *value, const char *field, int64_t vocab, int32_t **ids, size_t *count, serve_problem *problem);
/* False with status 400 and the value in the message for the client. */
bool request_refuse(serve_problem *problem, const char *field, const json_t *value, const char *why);
bool request_out_of_memory(serve_problem *problem);

#endif
