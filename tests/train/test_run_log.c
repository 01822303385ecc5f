/* The run's log: what was logged past a checkpoint goes, events begin where it is wanted, and a full disk is found, in either file. */
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/file.h"
#include "base/temp.h"
#include "train/run_log.h"

static const train_step_info a_step = {.step = 3, .tokens = 30, .flops = 300, .loss = 0.5, .lr = 0.25, .grad_norm = INFINITY,
                                       .tokens_per_s = 8, .aux_loss = NAN, .router_accuracy = NAN, .dropped = NAN};

static run_log open_log(int64_t step, bool tensorboard)
{
    run_log log;
    fathom_error err;
    assert_ok(run_log_open(".", step, tensorboard, &log, &err), &err);
    return log;
}

static void test_lines(void **state)
{
    (void)state;
    const train_eval_info evaluation = {.topk = {.loss = 2, .router_accuracy = NAN}, .causal = {.loss = 4, .routed_fraction = 0.5}};
    run_log log = open_log(0, false);
    assert_null(log.events);
    run_log_step(&log, &a_step);
    train_step_info skipped = a_step;
    skipped.step = 4;
    skipped.dropped = 0.125;
    skipped.skipped = true;
    run_log_step(&log, &skipped);
    run_log_evaluation(&log, &a_step, &evaluation);
    assert_int_equal(run_log_check(&log, NULL), FATHOM_OK);
    run_log_close(&log);
    size_t size;
    char *text = get_file("log.jsonl", &size);
    assert_string_equal(text,
                        "{\"step\": 3, \"tokens\": 30, \"flops\": 300, \"loss\": 0.5, \"lr\": 0.25, \"grad_norm\": null, "
                        "\"tokens_per_s\": 8, \"aux_loss\": null, \"router_accuracy\": null}\n"
                        "{\"step\": 4, \"tokens\": 30, \"flops\": 300, \"loss\": 0.5, \"lr\": 0.25, \"grad_norm\": null, "
                        "\"tokens_per_s\": 8, \"aux_loss\": null, \"router_accuracy\": null, \"dropped\": 0.125, \"skipped\": true}\n"
                        "{\"step\": 3, \"tokens\": 30, \"flops\": 300, \"eval_loss\": 2, \"eval_loss_causal\": 4, "
                        "\"eval_router_accuracy\": null, \"eval_routed_fraction\": 0.5}\n");
    free(text);
    log = open_log(3, false);
    run_log_close(&log);
    text = get_file("log.jsonl", &size);
    assert_null(strstr(text, "\"step\": 4"));
    assert_non_null(strstr(text, "\"eval_loss\": 2"));
    free(text);
}

/* A run killed before its first line is resumed. */
static void test_empty(void **state)
{
    (void)state;
    put_text("log.jsonl", "");
    run_log log = open_log(0, false);
    run_log_close(&log);
    assert_int_equal(path_size("log.jsonl"), 0);
}

/* Writes until the files may not grow any more. */
static void expect_full(run_log *log, const char *name)
{
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){20000, before.rlim_max});
    for (int i = 0; i < 300; i++)
        run_log_step(log, &a_step);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    fathom_error err;
    assert_error(run_log_check(log, &err), &err, FATHOM_IO, name, "File too large");
    run_log_close(log);
}

static void test_full_disk(void **state)
{
    (void)state;
    run_log log = open_log(0, false);
    expect_full(&log, "./log.jsonl: cannot write");
    log = open_log(0, true);
    fclose(log.lines);
    log.lines = fopen("/dev/null", "we");
    expect_full(&log, "./events.out.tfevents.");
}

static void test_cannot_open(void **state)
{
    (void)state;
    run_log log;
    fathom_error err;
    assert_error(run_log_open("absent", 0, true, &log, &err), &err, FATHOM_IO, "absent/log.jsonl", "No such file");
    assert_null(log.lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {temp_test(test_lines), temp_test(test_empty), temp_test(test_full_disk), temp_test(test_cannot_open)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
