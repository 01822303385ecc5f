/* Continuous batching: see fathom.h. Each step computes a piece of the prompts and then one token of every sequence that decodes, in two
 * passes over the model: a decoding one, in which a sequence gets the same bits alone and among others, and one for prompts.
 *
 * A request waits (for a place and for pages), is active, and leaves; its keys may stay behind, for prompts that begin alike, as long as
 * nobody needs the pages. When the pages run out, the youngest active request gives up its own and waits again, first in line: what it
 * has told stays told, its tokens are computed again. Nothing is allocated in a step but what text grows by. */
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "base/timing.h"

#include "infer/engine.h"
#include "infer/engine_request.h"

enum {
    ALONE_TOKENS = 512,    /* of prompts a step while nobody decodes */
    PROMPT_LOGITS = 128,   /* rows of logits that a pass over prompts can want */
    LEAST_SHARED = 16,     /* a shorter common beginning is computed again */
    LEAST_PIECE = 16,      /* of a prompt beside those that decode */
    WORTH_SHARING = 4096,  /* logits of all draws: fewer are drawn by one thread */
    PASSES_SEEN = 8,       /* the fastest of so many says how long a pass takes: the machine may have kept the others waiting */
};

/* How long a piece of a prompt may keep those that decode waiting, as a multiple of their own pass. */
static const double piece_share = 0.6;

typedef struct request_list {
    engine_request *first;
    int64_t count;
} request_list;

struct fathom_engine {
    const fathom_model *model;
    fathom_engine_options options;
    kv_pool *pool;
    workspace *ws;
    int64_t rows;          /* the most of a pass */
    request_list waiting, active, kept; /* kept: the one used last first */
    int64_t next_id;
    bool stepping;
    float *logits;         /* host [max(max_active, PROMPT_LOGITS), V] */
    uint8_t *mark;         /* [pages] */
    /* a pass: its sequences and their tokens */
    engine_request **member; /* [max_active] */
    kv_sequence **sequence;
    const float **threshold;
    int32_t *start, *tokens, *wanted, *depth; /* [max_active + 1], [rows], [rows], [rows] */
    int64_t *row;          /* [max_active] of logits */
    int64_t *stage_of;     /* [stages of the model]: which of the routed ones */
    int32_t *index;        /* [rows] */
    fathom_engine_stats stats;
    int64_t *routed;
    route_visitor visitor;
    void *visitor_user;
    double decode_seconds[PASSES_SEEN]; /* of the last passes that decoded, a ring */
    int64_t decode_passes;
    double row_seconds;                 /* a row of the last pass over prompts */
    int64_t piece_rows;                 /* of the last one beside those that decode */
};

fathom_engine_options fathom_engine_defaults(void)
{
    return (fathom_engine_options){.max_active = 32, .prefill_tokens = 64, .kept_prefixes = 32};
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* --- lists --- */

static void list_append(request_list *list, engine_request *r)
{
    engine_request **at = &list->first;
    while (*at)
        at = &(*at)->next;
    r->next = NULL;
    *at = r;
    list->count++;
}

static void list_prepend(request_list *list, engine_request *r)
{
    r->next = list->first;
    list->first = r;
    list->count++;
}

static bool list_remove(request_list *list, const engine_request *r)
{
    for (engine_request **at = &list->first; *at; at = &(*at)->next)
        if (*at == r) {
            *at = r->next;
            list->count--;
            return true;
        }
    return false;
}

static engine_request *list_last(const request_list *list)
{
    engine_request *r = list->first;
    while (r && r->next)
        r = r->next;
    return r;
}

/* --- making and freeing --- */

static void count_routed(void *user, int64_t stage, const route *r, int64_t B, int64_t T)
{
    fathom_engine *e = user;
    const kernels *kn = &e->model->m.kn;
    if (e->visitor)
        e->visitor(e->visitor_user, stage, r, B, T);
    kn->mem_download(kn, e->index, r->index, (size_t)r->n * sizeof *e->index);
    for (int64_t i = 0; i < r->n; i++)
        e->depth[e->index[i]]++;
    e->routed[e->stage_of[stage]] += r->n;
}

void engine_set_visitor(fathom_engine *e, route_visitor visitor, void *user)
{
    e->visitor = visitor;
    e->visitor_user = user;
}

static fathom_status check_options(const fathom_engine_options *o, fathom_error *err)
{
    if (o->max_active < 1 || o->max_active > ENGINE_MAX_ACTIVE)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "max_active: %lld: must be 1 to %d", (long long)o->max_active, (int)ENGINE_MAX_ACTIVE);
    if (o->kv_bytes < 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "kv_bytes: %lld: must be 0 or more", (long long)o->kv_bytes);
    if (o->prefill_tokens < 1)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "prefill_tokens: %lld: must be 1 or more", (long long)o->prefill_tokens);
    if (o->kept_prefixes < 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "kept_prefixes: %lld: must be 0 or more", (long long)o->kept_prefixes);
    return FATHOM_OK;
}

static int64_t pages_wanted(const model_config *c, const fathom_engine_options *o)
{
    const int64_t one = kv_pages_for(c, c->seq_len), bytes = o->kv_bytes > 0 ? o->kv_bytes : (int64_t)2 << 30;
    const int64_t room = bytes / (int64_t)kv_page_bytes(c);
    return max64(1, min64(room, one * o->max_active));
}

static fathom_status allocate(fathom_engine *e, fathom_error *err)
{
    const model *m = &e->model->m;
    const model_config *c = &m->config;
    const size_t active = (size_t)e->options.max_active, rows = (size_t)e->rows;
    const int64_t pages = pages_wanted(c, &e->options), shown = max64(e->options.max_active, PROMPT_LOGITS);
    TRY(kv_pool_new(&m->kn, c, pages, e->options.max_active, e->rows, &e->pool, err));
    TRY(workspace_new(m, e->options.max_active, e->rows / e->options.max_active, WORKSPACE_FORWARD, &e->ws, err));
    e->logits = calloc((size_t)(shown * c->vocab), sizeof *e->logits);
    e->mark = calloc((size_t)pages, 1);
    e->member = calloc(active, sizeof *e->member);
    e->sequence = calloc(active, sizeof *e->sequence);
    e->threshold = calloc(active, sizeof *e->threshold);
    e->row = calloc(active, sizeof *e->row);
    e->start = calloc(active + 1, sizeof *e->start);
    e->tokens = calloc(rows, sizeof *e->tokens);
    e->wanted = calloc(rows, sizeof *e->wanted);
    e->depth = calloc(rows, sizeof *e->depth);
    e->index = calloc(rows, sizeof *e->index);
    e->stage_of = calloc((size_t)model_stages(c), sizeof *e->stage_of);
    e->routed = calloc((size_t)model_stages(c), sizeof *e->routed);
    if (!e->logits || !e->mark || !e->member || !e->sequence || !e->threshold || !e->row || !e->start || !e->tokens || !e->wanted ||
        !e->depth || !e->index || !e->stage_of || !e->routed)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    return FATHOM_OK;
}

fathom_status fathom_engine_new(const fathom_model *model, const fathom_engine_options *options, fathom_engine **out, fathom_error *err)
{
    *out = NULL;
    TRY(check_options(options, err));
    fathom_engine *e = calloc(1, sizeof *e);
    if (!e)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "out of memory");
    const model_config *c = &model->m.config;
    e->model = model;
    e->options = *options;
    /* no more than every sequence at its full length */
    const int64_t wanted = max64(options->max_active, max64(ALONE_TOKENS, min64(options->prefill_tokens, options->max_active * c->seq_len)));
    const int64_t each = (wanted + options->max_active - 1) / options->max_active;
    e->rows = options->max_active * min64(each, c->seq_len);
    const fathom_status status = allocate(e, err);
    if (status != FATHOM_OK) {
        fathom_engine_free(e);
        return status;
    }
    e->stats = (fathom_engine_stats){.pages = e->pool->pages, .page_tokens = KV_PAGE_TOKENS, .routed = e->routed};
    for (int64_t s = 0; s < model_stages(c); s++)
        if (model_stage_skips(c, s))
            e->stage_of[s] = e->stats.stages++;
    workspace_set_visitor(e->ws, count_routed, e);
    *out = e;
    return FATHOM_OK;
}

static void drop(fathom_engine *e, engine_request *r)
{
    kv_clear(e->pool, &r->kv);
    engine_request_free(r);
}

static void drop_all(fathom_engine *e, request_list *list)
{
    while (list->first) {
        engine_request *r = list->first;
        list_remove(list, r);
        drop(e, r);
    }
}

void fathom_engine_free(fathom_engine *e)
{
    if (!e)
        return;
    drop_all(e, &e->waiting);
    drop_all(e, &e->active);
    drop_all(e, &e->kept);
    workspace_free(e->ws);
    kv_pool_free(e->pool);
    void *const all[] = {e->logits, e->mark, e->member, e->sequence, e->threshold, e->row, e->start, e->tokens, e->wanted,
                         e->depth, e->index, e->stage_of, e->routed, e};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* --- coming and going --- */

fathom_status fathom_engine_submit(fathom_engine *e, const fathom_engine_request *asked, int64_t *id, fathom_error *err)
{
    engine_request *r;
    TRY(engine_request_new(e->model, asked, kv_tokens_in(&e->model->m.config, e->pool->pages), &r, err));
    *id = r->id = ++e->next_id;
    list_append(&e->waiting, r);
    return FATHOM_OK;
}

/* Its keys stay for prompts that begin alike; the ones that they cover, or that are one too many, go. */
static void keep(fathom_engine *e, engine_request *r)
{
    kv_trim(e->pool, &r->kv);
    sampler_free(&r->pick);
    text_stream_free(&r->text);
    for (engine_request *k = e->kept.first, *next; k; k = next) {
        next = k->next;
        if (k->budget == r->budget && k->kv.length <= r->kv.length &&
            memcmp(k->ids, r->ids, (size_t)k->kv.length * sizeof *k->ids) == 0) {
            list_remove(&e->kept, k);
            drop(e, k);
        }
    }
    list_prepend(&e->kept, r);
    while (e->kept.count > e->options.kept_prefixes) {
        engine_request *last = list_last(&e->kept);
        list_remove(&e->kept, last);
        drop(e, last);
    }
}

static void leave(fathom_engine *e, engine_request *r)
{
    list_remove(&e->active, r);
    if (r->kv.length >= LEAST_SHARED && e->options.kept_prefixes > 0)
        keep(e, r);
    else
        drop(e, r);
}

static void sweep(fathom_engine *e, request_list *list)
{
    for (engine_request *r = list->first, *next; r; r = next) {
        next = r->next;
        if (!r->gone)
            continue;
        if (list == &e->active) {
            leave(e, r);
        } else {
            list_remove(list, r);
            drop(e, r);
        }
    }
}

void fathom_engine_cancel(fathom_engine *e, int64_t id)
{
    request_list *const lists[] = {&e->waiting, &e->active};
    for (size_t i = 0; i < 2; i++)
        for (engine_request *r = lists[i]->first; r; r = r->next)
            if (r->id == id)
                r->gone = true;
    if (!e->stepping) {
        sweep(e, &e->waiting);
        sweep(e, &e->active);
    }
}

/* --- pages --- */

/* The longest beginning that r has in common with keys that are there; at least one token is left to compute. */
static int64_t shared_with(const engine_request *r, const engine_request *other)
{
    if (other == r || other->budget != r->budget)
        return 0;
    const int64_t most = min64(other->kv.length, r->known - 1);
    int64_t n = 0;
    while (n < most && other->ids[n] == r->ids[n])
        n++;
    return n;
}

static void share_prefix(fathom_engine *e, engine_request *r)
{
    if (r->wants_prompt) /* every token's logits are wanted */
        return;
    const request_list *const lists[] = {&e->active, &e->kept};
    engine_request *best = NULL;
    int64_t most = LEAST_SHARED - 1;
    for (size_t i = 0; i < 2; i++)
        for (engine_request *other = lists[i]->first; other; other = other->next) {
            const int64_t n = shared_with(r, other);
            if (n > most) {
                most = n;
                best = other;
            }
        }
    if (!best)
        return;
    kv_share(e->pool, &r->kv, &best->kv, most);
    if (r->known == r->prompt) {
        r->cached = most;
        e->stats.prompt_tokens += most;
        e->stats.cached_tokens += most;
    }
    if (list_remove(&e->kept, best)) /* now the one used last */
        list_prepend(&e->kept, best);
}

/* Gives up the keys that were used longest ago; false: there are none. */
static bool forget_one(fathom_engine *e)
{
    engine_request *last = list_last(&e->kept);
    if (!last)
        return false;
    list_remove(&e->kept, last);
    drop(e, last);
    return true;
}

/* Room for `tokens` more of r, which kept prefixes make if they must. */
static bool reserve(fathom_engine *e, engine_request *r, int64_t tokens)
{
    while (!kv_reserve(e->pool, &r->kv, tokens))
        if (!forget_one(e))
            return false;
    return true;
}

/* The youngest gives up its pages and waits again, first in line. */
static void preempt(fathom_engine *e)
{
    engine_request *r = list_last(&e->active);
    list_remove(&e->active, r);
    kv_clear(e->pool, &r->kv);
    r->decoding = false;
    list_prepend(&e->waiting, r);
    e->stats.preempted++;
}

/* As many as there are places, and pages for their prompts and a little more. */
static void admit(fathom_engine *e)
{
    const model_config *c = &e->model->m.config;
    while (e->waiting.first && e->active.count < e->options.max_active) {
        engine_request *r = e->waiting.first;
        const int64_t wanted = kv_pages_for(c, r->known) + c->layers;
        while (e->active.first && e->pool->free_count < wanted)
            if (!forget_one(e))
                return;
        list_remove(&e->waiting, r);
        list_append(&e->active, r);
    }
}

/* --- passes --- */

/* A pass over members [0, count): rows [start, start + 1) each are in tokens, `wanted` of them in wanted. */
static void compute(fathom_engine *e, int64_t count, int64_t wanted, bool decode)
{
    const int64_t rows = e->start[count], stages = e->stats.stages;
    bool budgets = false;
    for (int64_t i = 0; i < count; i++) {
        e->sequence[i] = &e->member[i]->kv;
        e->threshold[i] = e->member[i]->budget != 0 ? e->member[i]->threshold : NULL;
        budgets |= e->threshold[i] != NULL;
    }
    memset(e->depth, 0, (size_t)rows * sizeof *e->depth);
    pass_result result;
    transformer_append(e->ws, &(append_input){.sequences = count, .sequence = e->sequence, .start = e->start, .tokens = e->tokens,
                                              .threshold = budgets ? e->threshold : NULL, .wanted = e->wanted, .wanted_count = wanted,
                                              .decode = decode, .pool = e->pool},
                       e->logits, &result);
    for (int64_t i = 0; i < count; i++) {
        engine_request *r = e->member[i];
        for (int32_t row = e->start[i]; row < e->start[i + 1]; row++)
            r->routed += e->depth[row];
        r->routable += stages * (e->start[i + 1] - e->start[i]);
        r->depth = e->depth[e->start[i + 1] - 1];
        kv_trim(e->pool, &r->kv);
    }
    e->stats.routable += rows;
}

static void draw(void *context, int64_t member, int seat)
{
    (void)seat;
    fathom_engine *e = context;
    engine_request_draw(e->member[member], e->logits + e->row[member] * e->model->m.config.vocab);
}

/* The next token of members [0, count), each from its row of logits: drawn side by side, told one after the other. */
static void sample(fathom_engine *e, int64_t count)
{
    const int64_t V = e->model->m.config.vocab;
    engine_request *const *member = e->member;
    pool_run(count * V > WORTH_SHARING ? e->model->m.kn.threads : 1, count, draw, e);
    for (int64_t i = 0; i < count; i++) {
        const int64_t before = member[i]->known;
        if (!member[i]->gone)
            engine_request_tell(member[i]);
        e->stats.generated_tokens += member[i]->known - before;
        member[i]->decoding = true;
    }
}

/* Room for r's next token; false: it had to give up its own place. */
static bool make_room(fathom_engine *e, engine_request *r)
{
    while (!reserve(e, r, 1)) {
        const bool self = list_last(&e->active) == r;
        preempt(e);
        if (self)
            return false;
    }
    return true;
}

static void decode(fathom_engine *e)
{
    for (engine_request *r = e->active.first; r; r = r->next)
        if (r->decoding && !r->gone && !make_room(e, r))
            break; /* it was the last */
    int64_t count = 0;
    for (engine_request *r = e->active.first; r; r = r->next)
        if (r->decoding && !r->gone) {
            e->row[count] = count;
            e->member[count] = r;
            e->tokens[count] = r->ids[r->known - 1];
            e->wanted[count] = e->start[count] = (int32_t)count;
            count++;
        }
    e->start[count] = (int32_t)count;
    if (count == 0)
        return;
    const double began = timing_now();
    compute(e, count, count, true);
    sample(e, count);
    e->decode_seconds[e->decode_passes++ % PASSES_SEEN] = timing_now() - began;
}

/* A piece of r's prompt, at most `room` rows of it, `shown` rows of logits: how many. */
static int64_t piece(const engine_request *r, int64_t room, int64_t shown)
{
    const int64_t left = r->known - r->kv.length;
    return min64(left, r->wants_prompt ? min64(room, shown) : room);
}

/* Somebody in this pass computes what r begins with: r waits for those keys. */
static bool will_share(const fathom_engine *e, const engine_request *r, int64_t count)
{
    for (int64_t i = 0; i < count && !r->wants_prompt && r->kv.length == 0; i++) {
        const engine_request *other = e->member[i];
        const int64_t most = min64(other->known, r->known - 1);
        int64_t n = 0;
        while (n < most && other->ids[n] == r->ids[n])
            n++;
        if (other->budget == r->budget && n >= LEAST_SHARED && n > other->kv.length)
            return true;
    }
    return false;
}

/* Puts pieces of prompts together, the oldest request's first; returns how many sequences. */
static int64_t gather_prompts(fathom_engine *e, int64_t room, bool alone, int64_t *wanted)
{
    int64_t count = 0, rows = 0;
    *wanted = 0;
    for (engine_request *r = e->active.first; r && rows < room && *wanted < PROMPT_LOGITS; r = r->next) {
        if (r->decoding || r->gone || will_share(e, r, count))
            continue;
        if (r->kv.length == 0)
            share_prefix(e, r);
        const int64_t n = piece(r, room - rows, PROMPT_LOGITS - *wanted);
        while (alone && count == 0 && !reserve(e, r, n) && list_last(&e->active) != r)
            preempt(e); /* nobody will leave by himself */
        if (!reserve(e, r, n))
            break; /* those that decode go on, and leave */
        const bool last = r->kv.length + n == r->known;
        e->member[count] = r;
        e->start[count++] = (int32_t)rows;
        memcpy(e->tokens + rows, r->ids + r->kv.length, (size_t)n * sizeof *e->tokens);
        for (int64_t i = 0; i < n; i++)
            if (r->wants_prompt || (last && i == n - 1))
                e->wanted[(*wanted)++] = (int32_t)(rows + i);
        rows += n;
    }
    e->start[count] = (int32_t)rows;
    return count;
}

/* The prompt's tokens that a piece of n tokens from `from` on has logits for, from row `at` on. */
static void tell_prompt(const fathom_engine *e, engine_request *r, int64_t from, int64_t n, int64_t at)
{
    const int64_t V = e->model->m.config.vocab;
    if (r->told == 0) {
        engine_request_tell_prompt(r, 0, NULL);
        r->told = 1;
    }
    for (int64_t i = 0; i < n; i++)
        if (from + i + 1 < r->prompt && from + i + 1 >= r->told) {
            engine_request_tell_prompt(r, from + i + 1, e->logits + (at + i) * V);
            r->told = from + i + 2;
        }
}

/* How long a pass that decodes takes; 0: not known yet. */
static double decode_time(const fathom_engine *e)
{
    double least = e->decode_seconds[0];
    for (int64_t i = 1; i < min64(e->decode_passes, PASSES_SEEN); i++)
        least = e->decode_seconds[i] < least ? e->decode_seconds[i] : least;
    return least;
}

/* Rows of prompts for this step: beside those that decode as many as do not keep them waiting for long, which takes more time the
 * longer a prompt has become. */
static int64_t prompt_room(const fathom_engine *e, bool alone)
{
    if (alone)
        return min64(ALONE_TOKENS, e->rows);
    const double fitting = e->row_seconds > 0 ? piece_share * decode_time(e) / e->row_seconds : 0;
    const int64_t most = min64(e->options.prefill_tokens, max64(2 * e->piece_rows, LEAST_PIECE)); /* a few rows tell little of many */
    return min64(e->rows, fitting < (double)most ? max64((int64_t)fitting, min64(LEAST_PIECE, most)) : most);
}

/* alone: nobody decodes. */
static void prefill(fathom_engine *e, bool alone)
{
    int64_t wanted, ready = 0, at = 0;
    const int64_t count = gather_prompts(e, prompt_room(e, alone), alone, &wanted);
    if (count == 0)
        return;
    const double began = timing_now();
    compute(e, count, wanted, false);
    e->row_seconds = (timing_now() - began) / e->start[count];
    e->piece_rows = alone ? 0 : e->start[count];
    for (int64_t i = 0; i < count; i++) {
        engine_request *r = e->member[i];
        const int64_t n = e->start[i + 1] - e->start[i], from = r->kv.length - n;
        const bool last = r->kv.length == r->known;
        if (r->known == r->prompt)
            e->stats.prompt_tokens += n;
        if (r->wants_prompt) {
            tell_prompt(e, r, from, n, at);
            at += n;
        } else {
            at += last;
        }
        if (!last)
            continue;
        if (r->max_tokens == 0) {
            engine_request_end(r, FATHOM_FINISH_LENGTH, NULL);
            continue;
        }
        e->member[ready] = r;
        e->row[ready++] = at - 1;
    }
    sample(e, ready);
}

int64_t fathom_engine_step(fathom_engine *e)
{
    e->stepping = true;
    sweep(e, &e->waiting);
    admit(e);
    bool decodes = false;
    for (const engine_request *r = e->active.first; r; r = r->next)
        decodes |= r->decoding;
    prefill(e, !decodes);
    if (decodes)
        decode(e);
    sweep(e, &e->active);
    sweep(e, &e->waiting);
    e->stepping = false;
    return e->active.count + e->waiting.count;
}

fathom_engine_stats fathom_engine_statistics(const fathom_engine *e)
{
    fathom_engine_stats stats = e->stats;
    stats.waiting = e->waiting.count;
    stats.active = e->active.count;
    memset(e->mark, 0, (size_t)e->pool->pages);
    for (const engine_request *r = e->active.first; r; r = r->next)
        for (int64_t l = 0; l < r->kv.layers; l++)
            for (int64_t p = 0; p < r->kv.layer[l].pages; p++)
                e->mark[r->kv.layer[l].page[p]] = 1;
    for (int64_t p = 0; p < e->pool->pages; p++)
        stats.pages_used += e->mark[p];
    stats.pages_kept = e->pool->pages - e->pool->free_count - stats.pages_used;
    return stats;
}
