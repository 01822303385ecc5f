/* The command line's own: commands, exit codes, what several commands share. Only this room prints and exits. */
#ifndef FATHOM_CLI_CLI_H
#define FATHOM_CLI_CLI_H

#include <jansson.h>
#include <signal.h>

#include "base/pool.h"
#include "cli/options.h"
#include "model/config.h"
#include "text/corpus.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_BY_SIGNAL = 128 /* and its number */ };

int command_train(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_generate(int argc, char **argv);
int command_flops(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_calibrate(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_convert(int argc, char **argv);
int command_isoflop(int argc, char **argv);
int command_serve(int argc, char **argv);
int command_tokenizer(int argc, char **argv);
int command_tokenize(int argc, char **argv);

/* "fathom: message" on stderr; returns the exit code. A wrong command line exits with 2, everything else with 1. */
int cli_fail(const fathom_error *err);
int cli_usage(const fathom_error *err);
/* One JSON object and a newline on stdout; takes the reference. Returns the exit code. */
int cli_print_json(json_t *object);
/* A number as JSON; null when it is not finite. */
json_t *cli_number(double value);
/* Generated text as JSON, which is UTF-8; a byte model may say anything: bytes that are not UTF-8 become U+FFFD. */
json_t *cli_text(const char *text, size_t length);

/* The signals that ask a command to end: SIGINT (Ctrl-C), SIGTERM (batch systems, docker stop) and SIGHUP (a closed terminal).
 * Blocks them in this thread and in those that it will start, so it belongs before the first. One that the process was started
 * to ignore, as under nohup or in the background of a script, stays ignored and is not in the set. */
sigset_t signals_take(void);
/* From now on the first of these signals sets *flag to its number, and a second one ends the process at once. */
void interrupt_watch(volatile sig_atomic_t *flag);

/* Model options, shared by every command that makes a model. */
typedef struct model_flags {
    int64_t layers, dim, heads, kv_heads, ffn, seq_len, vocab; /* 0 = derived */
    double rope_theta, norm_eps;
    bool untied;
    const char *mod, *mod_capacity, *mod_capacity_schedule, *mod_layers, *mod_gate, *mod_causal, *mod_unit, *mod_route_kv;
    int64_t mod_every, mod_predictor_hidden; /* 0 = d / 2 */
    double mod_aux_weight;
    int64_t experts, experts_per_token, no_op_experts; /* no_op_experts 0 = 1 where they are */
    const char *expert_router, *mode;
    double expert_balance_weight;
} model_flags;
model_flags model_flags_default(void);
/* Every option has its default: the shape was not described. */
bool model_flags_untouched(const model_flags *f);
/* Rows for f, to be put into a command's table. */
#define MODEL_OPTIONS(f) SHAPE_OPTIONS(f), MOD_OPTIONS(f), EXPERT_OPTIONS(f)
#define SHAPE_OPTIONS(f)                                                                                                  \
    {OPTION_HEADING, "model", 0, 0, 0},                                                                                   \
    {OPTION_INTEGER, "layers", &(f)->layers, "N", "blocks (8)"},                                                          \
    {OPTION_INTEGER, "dim", &(f)->dim, "N", "width (128)"},                                                               \
    {OPTION_INTEGER, "heads", &(f)->heads, "N", "attention heads (of 64 dimensions from width 512, else 32)"},            \
    {OPTION_INTEGER, "kv-heads", &(f)->kv_heads, "N", "key/value heads (as heads)"},                                      \
    {OPTION_INTEGER, "ffn", &(f)->ffn, "N", "MLP width (8/3 of the width, rounded up to 32)"},                            \
    {OPTION_INTEGER, "seq-len", &(f)->seq_len, "N", "tokens a sequence (256)"},                                           \
    {OPTION_INTEGER, "vocab", &(f)->vocab, "N", "vocabulary (the tokenizer's; 256, bytes, without one)"},                                          \
    {OPTION_NUMBER, "rope-theta", &(f)->rope_theta, "X", "base of the rotary embedding (10000)"},                         \
    {OPTION_NUMBER, "norm-eps", &(f)->norm_eps, "X", "RMSNorm's epsilon (1e-5)"},                                         \
    {OPTION_FLAG, "untied", &(f)->untied, 0, "a head of its own instead of the embedding's transpose"}
#define MOD_OPTIONS(f)                                                                                                    \
    {OPTION_HEADING, "Mixture-of-Depths", 0, 0, 0},                                                                       \
    {OPTION_TEXT, "mod", &(f)->mod, "KIND", "none, topk (learned), stochastic (the control), token-choice (none)"},                     \
    {OPTION_TEXT, "mod-capacity", &(f)->mod_capacity, "C", "share of tokens a routed block sees, (0, 1], or a list (0.125)"}, \
    {OPTION_TEXT, "mod-capacity-schedule", &(f)->mod_capacity_schedule, "S", "over depth, between two capacities: constant, linear, cosine"}, \
    {OPTION_INTEGER, "mod-every", &(f)->mod_every, "N", "route every N-th block (2: blocks 1, 3, 5 ...)"},                \
    {OPTION_TEXT, "mod-layers", &(f)->mod_layers, "LIST", "route these blocks, from 0, as in 1,3,5"},                     \
    {OPTION_TEXT, "mod-gate", &(f)->mod_gate, "G", "raw, sigmoid, one (raw)"},                                            \
    {OPTION_TEXT, "mod-causal", &(f)->mod_causal, "RULE", "causal rule for sampling: predictor, aux (predictor)"},        \
    {OPTION_INTEGER, "mod-predictor-hidden", &(f)->mod_predictor_hidden, "N", "hidden width of the predictor (dim / 2)"}, \
    {OPTION_NUMBER, "mod-aux-weight", &(f)->mod_aux_weight, "X", "weight of the aux or balancing loss (0.01)"},            \
    {OPTION_TEXT, "mod-unit", &(f)->mod_unit, "U", "what is routed: block, attn, mlp, attn+mlp (each by itself) (block)"}, \
    {OPTION_TEXT, "mod-route-kv", &(f)->mod_route_kv, "WHICH", "yes, or no: queries are routed, keys and values are all tokens' (yes)"}
#define EXPERT_OPTIONS(f)                                                                                                 \
    {OPTION_HEADING, "mixture of experts", 0, 0, 0},                                                                      \
    {OPTION_INTEGER, "experts", &(f)->experts, "N", "experts in the MLP's place, each as wide as --ffn (0: one MLP)"},    \
    {OPTION_INTEGER, "experts-per-token", &(f)->experts_per_token, "K", "experts that a token goes through; with expert-choice on average"}, \
    {OPTION_TEXT, "expert-router", &(f)->expert_router, "R", "token-choice or expert-choice (token-choice; with --mod topk expert-choice)"}, \
    {OPTION_NUMBER, "expert-balance-weight", &(f)->expert_balance_weight, "X", "weight of token-choice's balancing loss (0.01)"}, \
    {OPTION_TEXT, "mode", &(f)->mode, "M", "with --mod: staged (routed blocks of experts), integrated (no-op experts among them) (staged)"}, \
    {OPTION_INTEGER, "no-op-experts", &(f)->no_op_experts, "N", "integrated: outputs of the router that do nothing (1)"}
/* --threads: 0 (all) to THREADS_MOST. To be called before the value is cut to an int. */
fathom_status threads_check(int64_t threads, fathom_error *err);
/* --data-format: auto, or nanogpt (raw uint16 ids) */
fathom_status data_format_parse(const char *text, bool *raw, fathom_error *err);
#define DATA_FORMAT_OPTION(target)                                                                                        \
    {OPTION_TEXT, "data-format", target, "F", "auto, or nanogpt: the files are uint16 ids without a header (auto)"}
/* --dtype: fp32 or bf16 */
fathom_status train_dtype_parse(const char *text, bool *bf16, fathom_error *err);
/* Refused: options that would have no effect, as --mod-unit without --mod. */
fathom_status model_flags_check_use(const model_flags *f, fathom_error *err);
/* The routing that the options describe, onto a plain model. Options of its shape must have been left alone. */
bool model_flags_shape_untouched(const model_flags *f);
fathom_status model_flags_route(const model_flags *f, model_config *c, fathom_error *err);
/* vocab: the tokenizer's, used where --vocab is not given. */
fathom_status model_flags_build(const model_flags *f, int64_t vocab, model_config *out, fathom_error *err);

/* Live progress on stderr: one rewritten line on a terminal, a plain line every `seconds` otherwise. */
typedef struct progress_line {
    bool terminal, open; /* open: an unfinished line stands on the terminal */
    double seconds, last;
} progress_line;
progress_line progress_begin(double seconds);
bool progress_due(progress_line *p);
void progress_show(progress_line *p, const char *format, ...) FATHOM_PRINTF(2, 3);
/* A line that stays. */
void progress_print(progress_line *p, const char *format, ...) FATHOM_PRINTF(2, 3);
/* "1:05:09", "2:07" */
void progress_time(double seconds, char *out, size_t size);

#endif
