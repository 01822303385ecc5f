/* The files that fathom reads and whose makers it does not trust: for each a reader that opens one and uses all that it was given,
 * and valid ones to begin from. test_mutations.c and the libFuzzer targets (fuzz.c) share them. A file that is refused must be refused by a
 * message of one line that names it; one that is accepted must keep what the format's reader promises. */
#ifndef FATHOM_TESTS_FUZZ_SUBJECTS_H
#define FATHOM_TESTS_FUZZ_SUBJECTS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/hf_config.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "model/params.h"
#include "serve/request.h"
#include "text/corpus.h"
#include "text/manifest.h"
#include "text/put_shard.h"
#include "train/run_log.h"
#include "train/trainer.h"

/* X(name, the file's name in its folder): read_NAME and seeds_NAME below; CMakeLists.txt lists the names again. */
#define FUZZ_SUBJECTS(X)                                                                                        \
    X(safetensors, "model.safetensors") X(config, "config.json") X(tokenizer, "tokenizer.json")                  \
    X(index, "model.safetensors.index.json") X(shard, "shard.bin") X(manifest, "manifest.json") \
    X(state, "trainer/state.json") X(log, "log.jsonl") X(request, "request.json")

enum { FUZZ_PATH = 4096, FUZZ_SEEDS = 8 };

/* What stands for "this must never be": a crash, which libFuzzer keeps the input of. */
static inline void must(bool holds)
{
    if (!holds)
        __builtin_trap();
}

/* Reads every byte, so that the sanitizers see a range that is not ours. */
static inline void touch(const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        volatile unsigned char seen = ((const unsigned char *)data)[i];
        (void)seen;
    }
}

static inline const char *fuzz_join(const char *folder, const char *name, char path[FUZZ_PATH])
{
    must(snprintf(path, FUZZ_PATH, "%s/%s", folder, name) < FUZZ_PATH);
    return path;
}

static inline void use_tensors(safetensors *s)
{
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const safetensors_tensor *t = safetensors_at(s, i);
        touch(t->data, t->bytes);
        must(safetensors_find(s, t->name) == t);
        const size_t count = t->bytes / safetensors_dtype_bytes(t->dtype);
        float *values = malloc((count + 1) * sizeof *values);
        if (values)
            safetensors_read_f32(s, t->name, t->rank, t->shape, values, NULL);
        free(values);
    }
    safetensors_metadata(s, "format");
    safetensors_close(s);
}

static inline fathom_status read_safetensors(const char *folder, fathom_error *err)
{
    char path[FUZZ_PATH];
    safetensors *s;
    TRY(safetensors_open(fuzz_join(folder, "model.safetensors", path), &s, err));
    use_tensors(s);
    return FATHOM_OK;
}

static inline fathom_status read_index(const char *folder, fathom_error *err)
{
    safetensors *s;
    TRY(safetensors_open_model(folder, &s, err));
    use_tensors(s);
    return FATHOM_OK;
}

/* What was accepted is the same model after it was written and read again, and its parameters can be laid out. */
static inline fathom_status read_config(const char *folder, fathom_error *err)
{
    char path[FUZZ_PATH];
    model_config c, again;
    param_list list;
    TRY(hf_config_read(fuzz_join(folder, "config.json", path), &c, err));
    must(model_config_check(&c, NULL) == FATHOM_OK);
    const fathom_status status = param_list_build(&c, &list, NULL);
    must(status == FATHOM_OK || status == FATHOM_OUT_OF_MEMORY);
    if (status == FATHOM_OK)
        param_list_free(&list);
    fuzz_join(folder, "again.json", path);
    must(hf_config_write(path, &c, WEIGHT_F32, NULL) == FATHOM_OK);
    must(hf_config_read(path, &again, NULL) == FATHOM_OK && model_config_equal(&c, &again));
    return FATHOM_OK;
}

/* A long shard's ids are looked at only here. */
static inline fathom_status check_tokens(const corpus_part *part, int64_t vocab, fathom_error *err)
{
    for (int64_t i = 0; i < part->count; i++) {
        int32_t id;
        TRY(corpus_part_read(part, i, 1, &id, err));
        must(id >= 0 && id < vocab);
    }
    return FATHOM_OK;
}

/* Encodes a text that has something for every rule: through the corpus, as training does. */
static inline fathom_status read_tokenizer(const char *folder, fathom_error *err)
{
    static const char text[] = "Hello,  world's 12345 \xc3\xa9 e\xcc\x81 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80\n\n\t<|endoftext|> <s>x</s> ab aab"
                               "\xff\xc0\x80\xed\xa0\x80\xf4\x90 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    char path[FUZZ_PATH], text_path[FUZZ_PATH];
    tokenizer *t;
    corpus c;
    size_t bytes;
    TRY(tokenizer_load(fuzz_join(folder, "tokenizer.json", path), &t, err));
    const int64_t vocab = tokenizer_vocab(t);
    must(vocab > 0);
    const int64_t shown = vocab < 5000 ? vocab : 5000; /* a file may jump to an id of a thousand million */
    must(!tokenizer_text(t, -1, &bytes) && (vocab > INT32_MAX || !tokenizer_text(t, (int32_t)vocab, &bytes)));
    for (int64_t id = 0; id < shown; id++) {
        const char *piece = tokenizer_text(t, (int32_t)id, &bytes);
        touch(piece, piece ? bytes : 0);
    }
    fuzz_join(folder, "text.txt", text_path);
    if (!path_exists(text_path))
        must(file_write(text_path, text, sizeof text - 1, NULL) == FATHOM_OK);
    const char *paths[] = {text_path};
    const fathom_status status = corpus_load(&(corpus_input){.paths = paths, .count = 1, .tokenizer = t, .heldout_fraction = 0.25}, &c, err);
    if (status == FATHOM_OK) {
        must(check_tokens(&c.train, vocab, NULL) == FATHOM_OK && check_tokens(&c.heldout, vocab, NULL) == FATHOM_OK);
        corpus_free(&c);
    }
    tokenizer_free(t);
    return status == FATHOM_OUT_OF_MEMORY ? status : FATHOM_OK; /* a vocabulary may lack what the text needs */
}

static inline fathom_status read_shard(const char *folder, fathom_error *err)
{
    char path[FUZZ_PATH];
    const char *paths[] = {fuzz_join(folder, "shard.bin", path)};
    tokenizer *t;
    corpus c;
    TRY(tokenizer_bytes(&t, err));
    const int64_t vocab = tokenizer_vocab(t);
    fathom_status status = corpus_load(&(corpus_input){.paths = paths, .count = 1, .tokenizer = t, .vocab = 50257, .heldout_fraction = 0.25}, &c, err);
    tokenizer_free(t);
    if (status == FATHOM_OK) {
        const int64_t limit = c.foreign ? 50257 : vocab; /* a mutation may make it llm.c's */
        status = check_tokens(&c.train, limit, err);
        if (status == FATHOM_OK)
            status = check_tokens(&c.heldout, limit, err);
        corpus_free(&c);
    }
    return status;
}

static inline fathom_status read_manifest(const char *folder, fathom_error *err)
{
    manifest m;
    bool found;
    TRY(manifest_read(folder, &m, &found, err));
    if (!found) /* it does not say that it is ours: text, to a corpus */
        return FATHOM_OK;
    int64_t tokens = 0, bytes = 0;
    for (int64_t i = 0; i < m.count; i++) {
        const manifest_shard *s = &m.shards[i];
        must(s->tokens >= 0 && s->bytes >= 0 && *s->file && !strchr(s->file, '/') && strcmp(s->file, "..") != 0);
        tokens += s->tokens;
        bytes += s->bytes;
    }
    must(tokens == m.tokens && bytes == m.bytes);
    manifest_free(&m);
    return FATHOM_OK;
}

static inline fathom_status read_state(const char *folder, fathom_error *err)
{
    train_options o;
    bool found;
    TRY(trainer_saved_options(folder, &o, &found, err));
    must(found);
    train_options_check(&o, NULL); /* whatever numbers they are */
    return FATHOM_OK;
}

/* Lines that are not ours are dropped; no log is refused for what it holds. */
static inline fathom_status read_log(const char *folder, fathom_error *err)
{
    run_log log;
    TRY(run_log_open(folder, 5, false, &log, err));
    run_log_close(&log);
    return FATHOM_OK;
}

/* A body of a request, as a completion and as a chat: what is taken keeps to the limits. Its refusals name fields, not files. */
static inline fathom_status read_request(const char *folder, fathom_error *err)
{
    static const request_limits limits = {.model = "small", .vocab = 256, .max_n = 4, .max_choices = 8, .max_prompt = 6};
    char path[FUZZ_PATH];
    file_map map;
    bool taken = false, memory = true;
    TRY(file_map_open(fuzz_join(folder, "request.json", path), &map, err));
    for (int chat = 0; chat < 2; chat++) {
        generate_request r;
        serve_problem problem = {0};
        if (request_parse((const char *)map.data, map.size, chat, &limits, &r, &problem)) {
            must(r.n >= 1 && r.n <= limits.max_n && r.max_tokens >= -1 && r.options.stop_count <= REQUEST_STOPS);
            must(chat ? r.message_count > 0 : r.prompt_count > 0 && (int64_t)r.prompt_count * r.n <= limits.max_choices);
            for (size_t i = 0; i < r.prompt_count; i++)
                for (size_t k = 0; k < r.prompts[i].count; k++)
                    must(r.prompts[i].ids[k] >= 0 && r.prompts[i].ids[k] < limits.vocab);
            for (size_t i = 0; i < r.options.logit_bias_count; i++)
                must(r.biases[i].id >= 0 && r.biases[i].id < limits.vocab);
            request_free(&r);
            taken = true;
            continue;
        }
        json_t *said = problem_json(&problem);
        must(said && problem.status >= 400 && *problem.message && !strchr(problem.message, '\n'));
        json_decref(said);
        memory &= problem.status != 500;
    }
    file_map_close(&map);
    if (!memory)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    return taken ? FATHOM_OK : status_fail(err, FATHOM_FORMAT, "%s: refused", path);
}

/* Valid files: each writes the i-th one of its kind into folder and says whether there is one. */
static inline bool seeds_safetensors(const char *folder, int i)
{
    static const float w[6] = {1, -2, 3, -4, 5, -6};
    static const char *const metadata[] = {"format", "pt", NULL};
    const safetensors_tensor tensors[] = {
        {"model.norm.weight", DTYPE_F32, 2, {2, 3}, w, 24}, {"a", DTYPE_BF16, 1, {4}, w, 8}, {"b", DTYPE_F16, 3, {1, 2, 1}, w, 4},
        {"none", DTYPE_I64, 2, {0, 7}, w, 0},               {"scalar", DTYPE_U8, 0, {0}, w, 1},
    };
    char path[FUZZ_PATH];
    fuzz_join(folder, "model.safetensors", path);
    if (i < 2)
        must(safetensors_write(path, tensors, i ? 1 : 5, i ? NULL : metadata, NULL) == FATHOM_OK);
    return i < 2;
}

/* Two files of one model, and their index, which alone is then damaged. */
static inline bool seeds_index(const char *folder, int i)
{
    static const char text[] = "{\"metadata\": {\"total_size\": 32},\n\"weight_map\": {\"model.norm.weight\": \"one.safetensors\", "
                               "\"a\": \"two.safetensors\"}}";
    static const float w[6] = {1, -2, 3, -4, 5, -6};
    const safetensors_tensor tensors[] = {{"model.norm.weight", DTYPE_F32, 2, {2, 3}, w, 24}, {"a", DTYPE_BF16, 1, {4}, w, 8}};
    char path[FUZZ_PATH];
    must(safetensors_write(fuzz_join(folder, "one.safetensors", path), &tensors[0], 1, NULL, NULL) == FATHOM_OK);
    must(safetensors_write(fuzz_join(folder, "two.safetensors", path), &tensors[1], 1, NULL, NULL) == FATHOM_OK);
    must(file_write(fuzz_join(folder, "model.safetensors.index.json", path), text, sizeof text - 1, NULL) == FATHOM_OK);
    return i < 1;
}

static inline bool seeds_config(const char *folder, int i)
{
    model_config c = model_config_default();
    char path[FUZZ_PATH];
    c.layers = 4;
    if (i >= 1) {
        c.mod.router = i == 3 ? MOD_ROUTER_STOCHASTIC : MOD_ROUTER_TOPK;
        c.mod.gate = i == 3 ? MOD_GATE_ONE : MOD_GATE_RAW;
        c.mod.causal = i == 3 ? MOD_CAUSAL_NOISE : MOD_CAUSAL_PREDICTOR;
        c.mod.predictor_hidden = i == 3 ? 0 : 8;
        c.mod.capacity[1] = 0.125f;
        c.mod.capacity[3] = i == 2 ? 0.25f : 0.125f;
    }
    if (i == 2) {
        c.mod.budgets = 2;
        for (int b = 0; b < 2; b++) {
            c.mod.budget[b] = 0.25f * (float)(b + 1);
            c.mod.budget_threshold[b][1] = c.mod.budget_threshold[b][3] = 0.5f;
        }
    }
    if (i == 4) {
        c.experts.count = 4;
        c.experts.per_token = 2;
        c.experts.router = EXPERT_ROUTER_TOKEN_CHOICE;
    }
    if (i < 5)
        must(hf_config_write(fuzz_join(folder, "config.json", path), &c, WEIGHT_F32, NULL) == FATHOM_OK);
    return i < 5;
}

/* The byte tokenizer, and two that build on its vocabulary: GPT-2's kind, Llama 3's and Qwen 2's. */
static inline bool seeds_tokenizer(const char *folder, int i)
{
    static const char *const others[] = {
        "{\"added_tokens\":[{\"id\":258,\"content\":\"<|endoftext|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
        "\"special\":true}],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}}",
        "{\"added_tokens\":[{\"id\":258,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true},"
        "{\"id\":260,\"content\":\"x</s>\",\"single_word\":false,\"lstrip\":true,\"rstrip\":true,\"normalized\":true,\"special\":false}],"
        "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
        "\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},\"post_processor\":{\"type\":"
        "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
        "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[258],\"tokens\":[\"<s>\"]}}}}",
    };
    enum { OTHERS = sizeof others / sizeof *others };
    char path[FUZZ_PATH];
    tokenizer *t;
    fuzz_join(folder, "tokenizer.json", path);
    must(tokenizer_bytes(&t, NULL) == FATHOM_OK && tokenizer_save(t, path, NULL) == FATHOM_OK);
    tokenizer_free(t);
    if (i > 0 && i <= OTHERS) {
        json_t *root = json_load_file(path, 0, NULL), *other = json_loads(others[i - 1], 0, NULL), *m = json_object_get(root, "model");
        json_t *merges = json_loads(i == 1 ? "[\"a b\",\"a ab\"]" : "[[\"a\",\"b\"],[\"a\",\"ab\"]]", 0, NULL);
        must(other && json_object_update(root, other) == 0 && json_object_set_new(m, "merges", merges) == 0);
        must(json_object_set_new(json_object_get(m, "vocab"), "ab", json_integer(256)) == 0);
        must(json_object_set_new(json_object_get(m, "vocab"), "aab", json_integer(257)) == 0);
        json_decref(other);
        must(json_file_write(path, root, NULL) == FATHOM_OK);
    }
    return i <= OTHERS;
}

static inline bool seeds_shard(const char *folder, int i)
{
    static const int32_t tokens[] = {72, 105, 0, 255, 10, 1, 2, 3};
    char path[FUZZ_PATH];
    static const unsigned char llmc[][12] = {{0x88, 0xd8, 0x34, 1, 1, 0, 0, 0, 4}, {0xa1, 0xd9, 0x34, 1, 7, 0, 0, 0, 2}};
    fuzz_join(folder, "shard.bin", path);
    if (i < 2) {
        must(put_shard(path, tokens, i ? 1 : 8, i ? 1 : 8, 256, NULL) == FATHOM_OK);
    } else if (i < 4) {
        unsigned char raw[1024 + 8] = {0};
        memcpy(raw, llmc[i - 2], sizeof *llmc);
        must(file_write(path, raw, sizeof raw, NULL) == FATHOM_OK);
    }
    return i < 4;
}

static inline bool seeds_manifest(const char *folder, int i)
{
    manifest m = {.tokenizer = 7, .vocab = 256};
    for (int k = 0; k < 2 * i; k++) {
        const manifest_shard shard = {.file = "train-00000.bin", .heldout = k % 2, .tokens = 10 * k, .bytes = 11 * k, .checksum = 1};
        must(manifest_add(&m, &shard, NULL) == FATHOM_OK);
    }
    if (i < 2)
        must(manifest_write(&m, folder, NULL) == FATHOM_OK);
    manifest_free(&m);
    return i < 2;
}

static inline bool seeds_state(const char *folder, int i)
{
    static const char text[] =
        "{\"step\":20,\"tokens\":2560,\"sequences\":40,\"flops\":396963840.0,\"skipped\":0,\"skipped_in_a_row\":0,\"last_loss\":4.99,\"best_loss\":null,"
        "\"format\":1,\"updates\":20,\"total_steps\":20,\"data\":\"cbf776581e1c53bd\",\"options\":{\"steps\":20,\"flops\":0.0,\"epochs\":0.0,\"batch\":2,"
        "\"grad_accum\":1,\"lr\":0.001,\"min_lr\":-1.0,\"warmup\":-1,\"weight_decay\":0.1,\"clip\":1.0,\"beta1\":0.9,\"beta2\":0.95,\"epsilon\":1e-8,"
        "\"seed\":1,\"eval_every\":10,\"save_every\":0,\"log_every\":5,\"eval_tokens\":65536,\"bf16\":0,\"capacity_warmup\":0}}";
    char path[FUZZ_PATH];
    if (i < 1)
        must(file_write(fuzz_join(folder, "trainer/state.json", path), text, sizeof text - 1, NULL) == FATHOM_OK);
    return i < 1;
}

static inline bool seeds_log(const char *folder, int i)
{
    static const char text[] = "{\"step\": 5, \"tokens\": 640, \"loss\": 5.7, \"aux_loss\": null}\n{\"step\": 10, \"eval_loss\": 5.3}\n{\"step\": 11, \"lo";
    char path[FUZZ_PATH];
    if (i < 1)
        must(file_write(fuzz_join(folder, "log.jsonl", path), text, sizeof text - 1, NULL) == FATHOM_OK);
    return i < 1;
}

static inline bool seeds_request(const char *folder, int i)
{
    static const char *const texts[] = {
        "{\"model\":\"small\",\"prompt\":\"line\",\"max_tokens\":3,\"temperature\":0.5,\"top_p\":0.5,\"top_k\":7,\"min_p\":0.1,\"seed\":5,"
        "\"stop\":[\"x\",\"yz\"],\"n\":2,\"best_of\":2,\"echo\":true,\"logprobs\":2,\"suffix\":null,\"logit_bias\":{\"3\":-100,\"0\":2.5},"
        "\"frequency_penalty\":1,\"presence_penalty\":-2,\"stream\":true,\"stream_options\":{\"include_usage\":true},\"budget\":0.5,\"routing\":true}",
        "{\"prompt\":[[1,2,3],[255]],\"max_tokens\":16.0,\"n\":1}",
        ("{\"messages\":[{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"b\"}]}],"
         "\"max_completion_tokens\":4,\"logprobs\":true,\"top_logprobs\":3,\"tools\":[],\"response_format\":{\"type\":\"text\"}}"),
    };
    enum { TEXTS = sizeof texts / sizeof *texts };
    char path[FUZZ_PATH];
    if (i < TEXTS)
        must(file_write(fuzz_join(folder, "request.json", path), texts[i], strlen(texts[i]), NULL) == FATHOM_OK);
    return i < TEXTS;
}

typedef struct fuzz_subject {
    const char *name, *file;
    fathom_status (*read)(const char *folder, fathom_error *err);
    bool (*seed)(const char *folder, int i);
} fuzz_subject;

/* Puts data in the place of the subject's file and reads it. */
static inline fathom_status fuzz_read(const fuzz_subject *s, const char *folder, const void *data, size_t size, fathom_error *err)
{
    char path[FUZZ_PATH];
    FILE *f = fopen(fuzz_join(folder, s->file, path), "wbe");
    must(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    const fathom_status status = s->read(folder, err);
    /* an index may name a file that is not there, which is then the one to be named */
    must(status == FATHOM_OK || (err->code == status && !strchr(err->message, '\n') &&
                                 strstr(err->message, strcmp(s->name, "index") == 0 ? folder : s->file)));
    return status;
}

#endif
