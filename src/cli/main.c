/* The command line: picks the command. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"train", "train a plain or Mixture-of-Depths model on text", command_train},
    {"eval", "loss, perplexity and bits per byte of a model on text", command_eval},
    {"generate", "continue a prompt", command_generate},
    {"serve", "answer OpenAI's API over HTTP, many requests at once", command_serve},
    {"flops", "count a model's FLOPs, beside the plain model's", command_flops},
    {"inspect", "show which token went through which block", command_inspect},
    {"calibrate", "prepare a model for several compute budgets", command_calibrate},
    {"convert", "import a checkpoint, add routers, or store matrices in fewer bits", command_convert},
    {"tokenizer", "learn a vocabulary from text", command_tokenizer},
    {"tokenize", "encode text into token shards", command_tokenize},
    {"isoflop", "compare plain and routed models at equal training FLOPs", command_isoflop},
    {"bench", "measure training, decoding, prefill and matrix products", command_bench},
};

static void usage(FILE *to)
{
    fputs("fathom trains, evaluates and runs Mixture-of-Depths transformer language models.\n\n"
          "usage: fathom COMMAND [options]\n\n", to);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\nfathom COMMAND --help lists a command's options; fathom --version prints the version.\n", to);
}

/* A result that could not be written is no success. */
static int finish(int code)
{
    if (code != EXIT_OK || (fflush(stdout) == 0 && !ferror(stdout)))
        return code;
    fputs("fathom: stdout: cannot write\n", stderr);
    return EXIT_FAILED;
}

/* A standard stream that is closed would be the next file that is opened, and messages would land in that. */
static void open_standard_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return;
}

int main(int argc, char **argv)
{
    open_standard_streams();
    /* a file that may not grow any more is an error like a full disk: commands name it and keep what they have */
    sigaction(SIGXFSZ, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("fathom %s\n", fathom_version());
        return EXIT_OK;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return finish(commands[i].run(argc - 2, argv + 2));
    fprintf(stderr, "fathom: unknown command %s (fathom --help lists them)\n", argv[1]);
    return EXIT_USAGE;
}
