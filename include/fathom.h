/* fathom: load a Mixture-of-Depths or plain transformer language model and stream text from it.
 *
 *     fathom_error err;
 *     fathom_model *model;
 *     if (fathom_model_load("run", 0, &model, &err)) { fprintf(stderr, "%s\n", err.message); return 1; }
 *     fathom_generate_options options = fathom_generate_defaults();
 *     fathom_generate(model, "Once", 4, &options, print_piece, NULL, NULL, &err);
 *     fathom_model_free(model);
 *
 * A fathom_model never changes after loading and may be shared between threads. A fathom_session holds one
 * sequence (its key/value cache and its position), belongs to one thread at a time and borrows its model, which must
 * outlive it. Every call that can fail returns a fathom_status and, where err is not NULL, fills *err with a message
 * that names the file, the field and the value. The library never prints and never exits.
 *
 * Signals: the matrix library's generated code uses the stack pointer for its own ends, so a signal handler must not run on the
 * stack of a thread that is inside the library. Block the signals you handle in those threads, or install handlers with
 * SA_ONSTACK and an alternate stack. The library's own threads block every signal.
 */
#ifndef FATHOM_H
#define FATHOM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FATHOM_VERSION "0.1.0"

#if defined(__GNUC__)
#define FATHOM_API __attribute__((visibility("default")))
#else
#define FATHOM_API
#endif

/* X(CODE, text): the one list of results. */
#define FATHOM_STATUS_LIST(X)                                       \
    X(OK, "success")                                                \
    X(INVALID_ARGUMENT, "invalid argument")                         \
    X(NOT_FOUND, "not found")                                       \
    X(IO, "input or output failed")                                 \
    X(FORMAT, "malformed file")                                     \
    X(OUT_OF_MEMORY, "out of memory")                               \
    X(UNSUPPORTED, "not supported")                                 \
    X(INTERRUPTED, "interrupted")                                   \
    X(DIVERGED, "training diverged")

typedef enum fathom_status {
#define FATHOM_STATUS_ENUM(code, text) FATHOM_##code,
    FATHOM_STATUS_LIST(FATHOM_STATUS_ENUM)
#undef FATHOM_STATUS_ENUM
} fathom_status;

typedef struct fathom_error {
    fathom_status code;
    char message[512]; /* one line, no trailing newline */
} fathom_error;

/* The text of a status; never NULL. */
FATHOM_API const char *fathom_status_text(fathom_status code);
FATHOM_API const char *fathom_version(void);

typedef struct fathom_tokenizer fathom_tokenizer;
typedef struct fathom_model fathom_model;
typedef struct fathom_session fathom_session;
typedef struct fathom_generation fathom_generation;
typedef struct fathom_engine fathom_engine;
typedef struct fathom_trace fathom_trace;

/* A tokenizer, without a model: path is a Hugging Face tokenizer.json (byte-level BPE; docs/tokenizers.md) or a folder that holds one. It never
 * changes after loading and may be shared between threads. Anything it cannot do exactly is refused with FATHOM_UNSUPPORTED. On success
 * *out is owned by the caller: fathom_tokenizer_free. */
FATHOM_API fathom_status fathom_tokenizer_load(const char *path, fathom_tokenizer **out, fathom_error *err);
FATHOM_API void fathom_tokenizer_free(fathom_tokenizer *tokenizer); /* NULL is fine */
/* The highest id + 1. */
FATHOM_API int64_t fathom_tokenizer_vocab(const fathom_tokenizer *tokenizer);
/* Text, any bytes, to token ids; special: not 0 for those too that the tokenizer puts around a text (a beginning-of-text token, say). Writes
 * at most capacity ids and sets *count to the number needed; when *count > capacity the call fails with FATHOM_INVALID_ARGUMENT and
 * may be repeated with room enough. */
FATHOM_API fathom_status fathom_tokenizer_encode(const fathom_tokenizer *tokenizer, const char *text, size_t bytes, int special,
                                                 int32_t *ids, size_t capacity, size_t *count, fathom_error *err);
/* The bytes of one token, borrowed; *bytes is their number (0 for an id that no token has). NULL for an id outside the vocabulary. A token
 * may end inside a UTF-8 character. */
FATHOM_API const char *fathom_tokenizer_text(const fathom_tokenizer *tokenizer, int32_t id, size_t *bytes);

typedef struct fathom_model_info {
    int64_t vocab, dim, layers, heads, kv_heads, ffn;
    int64_t max_tokens;    /* the longest sequence the model was made for */
    int64_t params;        /* number of parameters, a tied head counted once */
    int64_t routed_layers; /* 0 for a plain model */
} fathom_model_info;

/* Loads the model directory dir (config.json, model.safetensors or the files that its index names, tokenizer.json). Without a
 * tokenizer.json that is read here only token ids serve: what takes text fails.
 * threads: how many threads each call on this model may use, no matter which thread calls: 1 to 4095, or 0 for OMP_NUM_THREADS
 * if it is set, else as many processors as the affinity mask and the container's quota allow. Results are the same bits for any
 * number. The threads are a pool of the library's own, shared by all models; it starts them when they are first needed and they
 * sleep between calls. A child made by fork() starts its own. The program's own OpenMP settings are left alone.
 * On success *out is owned by the caller: fathom_model_free. */
FATHOM_API fathom_status fathom_model_load(const char *dir, int threads, fathom_model **out, fathom_error *err);
FATHOM_API void fathom_model_free(fathom_model *model); /* NULL is fine */
FATHOM_API fathom_model_info fathom_model_describe(const fathom_model *model);

/* The model's tokenizer, borrowed: it lives as long as the model. NULL where its directory has none that can be read; fathom_encode says why. */
FATHOM_API const fathom_tokenizer *fathom_model_tokenizer(const fathom_model *model);
/* fathom_tokenizer_encode by the model's tokenizer, with its special tokens. */
FATHOM_API fathom_status fathom_encode(const fathom_model *model, const char *text, size_t bytes, int32_t *ids,
                                       size_t capacity, size_t *count, fathom_error *err);
/* fathom_tokenizer_text by the model's tokenizer; NULL without one. */
FATHOM_API const char *fathom_token_text(const fathom_model *model, int32_t id, size_t *bytes);

/* A new sequence of at most max_tokens tokens (0 = the model's own maximum). Allocates everything it will need. */
FATHOM_API fathom_status fathom_session_new(const fathom_model *model, int64_t max_tokens, fathom_session **out,
                                            fathom_error *err);
FATHOM_API void fathom_session_free(fathom_session *session);
/* Forgets the sequence, keeps the memory. */
FATHOM_API void fathom_session_reset(fathom_session *session);
/* Routed blocks take this mean share of the tokens from now on (a routed block each in proportion to its capacity); 0 = the
 * model's own rule. FATHOM_INVALID_ARGUMENT unless `fathom calibrate` has prepared the model for it. */
FATHOM_API fathom_status fathom_session_set_budget(fathom_session *session, double budget, fathom_error *err);
/* Appends count tokens, causally routed; n tokens at once and n single ones give the same logits. */
FATHOM_API fathom_status fathom_session_append(fathom_session *session, const int32_t *ids, size_t count,
                                               fathom_error *err);
/* The logits [vocab] after the last token appended; borrowed until the next call on the session; NULL before any. */
FATHOM_API const float *fathom_session_logits(const fathom_session *session);
FATHOM_API int64_t fathom_session_length(const fathom_session *session);
/* Bytes of keys and values held for the tokens so far: routed layers hold routed tokens only, unless their keys are every token's. */
FATHOM_API int64_t fathom_session_kv_bytes(const fathom_session *session);
/* Share of (token, router) pairs that were routed, or with no-op experts went to one that is none; 1 where no token passes anything by. */
FATHOM_API double fathom_session_routed_fraction(const fathom_session *session);

typedef struct fathom_logit_bias {
    int32_t id;
    float bias; /* -infinity: never chosen */
} fathom_logit_bias;

typedef struct fathom_generate_options {
    int64_t max_tokens;        /* new tokens at most; what does not fit the model's length, or an engine's memory, is cut off */
    float temperature;         /* 0 = greedy */
    int32_t top_k;             /* 0 = off */
    float top_p;               /* 1 = off */
    float min_p;               /* 0 = off: drop tokens below min_p x the likeliest one's probability */
    uint64_t seed;
    const char *const *stop;   /* generation ends before any of these texts */
    size_t stop_count;
    double budget;             /* see fathom_session_set_budget; 0 = the model's own */
    float presence_penalty;    /* taken off the logit of every token that has been generated */
    float frequency_penalty;   /* the same times how often; -2 to 2, as OpenAI's */
    const fathom_logit_bias *logit_bias; /* added to the logits */
    size_t logit_bias_count;
} fathom_generate_options;

typedef struct fathom_generate_stats {
    int64_t prompt_tokens, tokens; /* tokens: new ones */
    double prefill_seconds, decode_seconds;
    double routed_fraction;
    int64_t kv_bytes;
} fathom_generate_stats;

/* Receives each new piece of text (not terminated; whole UTF-8 characters where the text is UTF-8). Return non-zero to
 * end the generation. */
typedef int (*fathom_text_callback)(const char *text, size_t bytes, void *user);

FATHOM_API fathom_generate_options fathom_generate_defaults(void);
/* Continues the prompt. stats may be NULL. A prompt of no tokens is refused, as is one of more than the model's length. */
FATHOM_API fathom_status fathom_generate(const fathom_model *model, const char *prompt, size_t prompt_bytes,
                                         const fathom_generate_options *options, fathom_text_callback callback,
                                         void *user, fathom_generate_stats *stats, fathom_error *err);

/* The same text, asked for piece by piece: fathom_generate is a loop over these. Belongs to one thread at a time and borrows the model
 * until it is freed, which may be before the end; the options are copied. Nothing is computed yet. */
FATHOM_API fathom_status fathom_generation_new(const fathom_model *model, const char *prompt, size_t prompt_bytes,
                                               const fathom_generate_options *options, fathom_generation **out,
                                               fathom_error *err);
FATHOM_API void fathom_generation_free(fathom_generation *generation); /* NULL is fine */
/* Computes one token, the first time the prompt too, and gives the text that is certain by now: *bytes may be 0 where what there is may
 * yet become a character or a stop text. *text is NULL at the end, which a failure brings too, else borrowed until the next call. */
FATHOM_API fathom_status fathom_generation_next(fathom_generation *generation, const char **text, size_t *bytes,
                                                fathom_error *err);
FATHOM_API fathom_generate_stats fathom_generation_stats(const fathom_generation *generation); /* so far */

/* Many requests at once: continuous batching. Requests join and leave between tokens; every active one gets a token a step, all in one
 * batch, and prompts are computed a piece a step beside it, so that a long one stalls nobody. Keys and values lie in pages, of which a
 * routed layer fills few; requests whose prompts begin alike share them. The same request gives the same greedy tokens alone and among
 * others.
 *
 * An engine belongs to one thread at a time and borrows its model. Callbacks run inside fathom_engine_step, on its thread; they may
 * submit and cancel. */
typedef struct fathom_engine_options {
    int64_t max_active;     /* sequences computed side by side, 1 to 4096; more wait their turn (32) */
    int64_t kv_bytes;       /* memory for keys and values; 0 = for max_active sequences of the model's length, at most 2 GiB */
    int64_t prefill_tokens; /* prompt tokens that a step computes while others decode, at most (64) */
    int64_t kept_prefixes;  /* finished sequences whose keys are kept, as long as there is room, for prompts that begin alike (32) */
} fathom_engine_options;
FATHOM_API fathom_engine_options fathom_engine_defaults(void);
FATHOM_API fathom_status fathom_engine_new(const fathom_model *model, const fathom_engine_options *options, fathom_engine **out,
                                           fathom_error *err);
FATHOM_API void fathom_engine_free(fathom_engine *engine); /* NULL is fine; no more callbacks */

typedef struct fathom_logprob {
    int32_t id;
    float logprob; /* natural logarithm of the softmax of the model's own logits, before bias, penalties and temperature */
} fathom_logprob;

typedef enum fathom_event_kind {
    FATHOM_EVENT_PROMPT, /* a token of the prompt has been computed; only where prompt_logprobs asks for it, in order */
    FATHOM_EVENT_TOKEN,  /* a token has been generated; an end-of-text token is none */
    FATHOM_EVENT_END     /* the last event of a request, unless it was cancelled */
} fathom_event_kind;

typedef enum fathom_finish {
    FATHOM_FINISH_LENGTH, /* max_tokens, the model's longest sequence, or what the memory for keys and values holds of one */
    FATHOM_FINISH_STOP,   /* end of text, or a stop text */
    FATHOM_FINISH_FAILED  /* out of memory: see error */
} fathom_finish;

/* Pointers are borrowed until the callback returns. */
typedef struct fathom_event {
    int64_t request;
    fathom_event_kind kind;
    int64_t index;     /* PROMPT, TOKEN: which token of the prompt, or of the new ones, from 0 */
    int32_t token;     /* PROMPT, TOKEN */
    const char *text;  /* TOKEN, END: what has become certain, whole characters; none of a stop text */
    size_t bytes;      /* may be 0 */
    float logprob;     /* PROMPT, TOKEN: the token's; NaN for the first of a prompt */
    const fathom_logprob *top; /* PROMPT, TOKEN: the likeliest tokens, likeliest first; none for the first of a prompt */
    size_t top_count;
    int64_t depth_before;  /* TOKEN: routed stages that the token before this one went through (the last of the prompt at first) */
    fathom_finish finish;  /* END */
    const fathom_error *error; /* END: where it failed, else NULL */
    int64_t prompt_tokens, tokens, cached_tokens; /* END: usage; cached: of the prompt, shared with others */
    double routed_fraction; /* END: of the tokens that were computed for it, again where it was preempted; none of those shared */
} fathom_event;
/* Return non-zero to cancel the request: there is no further event then. */
typedef int (*fathom_event_callback)(const fathom_event *event, void *user);

typedef struct fathom_engine_request {
    const int32_t *ids; /* the prompt, 1 token or more; copied, as are the options and their stop texts */
    size_t count;
    fathom_generate_options options; /* max_tokens may be 0 with prompt_logprobs */
    int top_logprobs;    /* how many likeliest tokens to tell with each, 0 to FATHOM_TOP_LOGPROBS_MAX; -1: no logprobs at all */
    int prompt_logprobs; /* not 0: events for the prompt's tokens too */
    const int32_t *stop_ids; /* tokens that end the text beside the model's end of text */
    size_t stop_id_count;
    fathom_event_callback callback;
    void *user;
} fathom_engine_request;
enum { FATHOM_TOP_LOGPROBS_MAX = 20 };

/* Queues a request; *id is its name in events and for cancelling. Refused with FATHOM_INVALID_ARGUMENT: options out of range, ids outside
 * the vocabulary, a prompt that the model's length or the memory for keys and values has no room for. No event comes yet. */
FATHOM_API fathom_status fathom_engine_submit(fathom_engine *engine, const fathom_engine_request *request, int64_t *id,
                                              fathom_error *err);
/* Frees the request's pages and place at once; no further event. An id that has ended is ignored. */
FATHOM_API void fathom_engine_cancel(fathom_engine *engine, int64_t id);
/* One round for everybody: admits what waits, computes a piece of prompts and one token of each active sequence, calls back. Returns how
 * many requests are left; 0: nothing to do. */
FATHOM_API int64_t fathom_engine_step(fathom_engine *engine);

typedef struct fathom_engine_stats {
    int64_t waiting, active;              /* requests */
    int64_t pages, pages_used, pages_kept; /* used: by active requests; kept: by finished ones alone, given up when needed */
    int64_t page_tokens;                  /* tokens of one layer that a page holds */
    int64_t prompt_tokens, cached_tokens, generated_tokens; /* since the start; cached: of prompt_tokens, not computed */
    int64_t preempted;                    /* times that a sequence gave up its pages, to be computed again later */
    int64_t stages;                       /* routed stages */
    const int64_t *routed;                /* [stages] tokens that went through each; borrowed */
    int64_t routable;                     /* tokens that could have */
} fathom_engine_stats;
FATHOM_API fathom_engine_stats fathom_engine_statistics(const fathom_engine *engine);

/* What follows looks at a given text as a whole. Top-k routing, as in training, sees the whole sequence; causal routing is what
 * sampling does. A plain model gives the same in both. Ids outside the vocabulary are refused, as are counts that are too small or too
 * large, with FATHOM_INVALID_ARGUMENT. Each call allocates what it needs and frees it again. */
typedef enum fathom_routing {
    FATHOM_CAUSAL,
    FATHOM_TOPK
} fathom_routing;

/* The logits after each of count tokens (1 to the model's max_tokens) of one sequence, into logits [count, vocab]. In causal routing
 * row i is what a session gives after i + 1 tokens, up to the order of additions. */
FATHOM_API fathom_status fathom_logits(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing routing,
                                       float *logits, fathom_error *err);

typedef struct fathom_loss_result {
    double loss;            /* mean over the predictions, nats: perplexity is its exponential */
    int64_t predictions;    /* count - 1 */
    double routed_fraction; /* of (token, router) pairs; see fathom_session_routed_fraction */
} fathom_loss_result;

/* The mean cross-entropy of tokens 1 to count - 1 (count is 2 or more) given those before them, in windows of T = min(count - 1,
 * max_tokens): window w reads tokens [w T, w T + T), each on its own, and predicts the token after each of them. It is the loss that
 * `fathom eval --seq-len T` reports for these tokens; a last window that is shorter goes by itself, at its own length. */
FATHOM_API fathom_status fathom_loss(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing routing,
                                     fathom_loss_result *out, fathom_error *err);

/* One routed block, or attention or MLP of one; pointers are borrowed from the trace. */
typedef struct fathom_trace_stage {
    int64_t layer;           /* from 0 */
    const char *unit;        /* "attn" or "mlp" where these are routed apart, else "" */
    int64_t count;           /* tokens that went through */
    const int64_t *selected; /* [count] their indices, ascending */
    const float *weights;    /* [count] the gate's value of each, by which its update is multiplied */
} fathom_trace_stage;

/* Runs count tokens (1 or more) through a routed model in windows of max_tokens, each on its own, and keeps what was decided, as
 * `fathom inspect` shows it. A plain model is refused. *out is the caller's: fathom_trace_free. It does not change and needs the model
 * no longer. */
FATHOM_API fathom_status fathom_trace_new(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing routing,
                                          fathom_trace **out, fathom_error *err);
FATHOM_API void fathom_trace_free(fathom_trace *trace); /* NULL is fine */
/* Number of routed stages, in order of depth. */
FATHOM_API int64_t fathom_trace_stages(const fathom_trace *trace);
FATHOM_API fathom_status fathom_trace_get(const fathom_trace *trace, int64_t stage, fathom_trace_stage *out, fathom_error *err);
/* Nats of each token given those before it in its window [count], borrowed from the trace; NaN for the first of a window. */
FATHOM_API const float *fathom_trace_losses(const fathom_trace *trace);

#ifdef __cplusplus
}
#endif
#endif
