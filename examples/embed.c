/* Loads a model directory and streams a continuation of a prompt, through fathom.h alone.
 *
 *     cc embed.c $(pkg-config --cflags --libs fathom) -o embed
 *     ./embed DIR "Once upon a time"
 */
#include <fathom.h>
#include <stdio.h>
#include <string.h>

static int print_piece(const char *text, size_t bytes, void *user)
{
    (void)user;
    fwrite(text, 1, bytes, stdout);
    return fflush(stdout); /* non-zero ends the generation */
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: embed DIR PROMPT\n");
        return 2;
    }
    fathom_error err;
    fathom_model *model;
    if (fathom_model_load(argv[1], 0, &model, &err) != FATHOM_OK) {
        fprintf(stderr, "embed: %s\n", err.message);
        return 1;
    }
    fathom_model_info info = fathom_model_describe(model);
    fprintf(stderr, "%lld parameters, %lld of %lld blocks routed\n", (long long)info.params,
            (long long)info.routed_layers, (long long)info.layers);

    fathom_generate_options options = fathom_generate_defaults();
    options.max_tokens = 64;
    fathom_generate_stats stats;
    fathom_status status =
        fathom_generate(model, argv[2], strlen(argv[2]), &options, print_piece, NULL, &stats, &err);
    if (status == FATHOM_OK)
        printf("\n%lld tokens, %.1f %% routed\n", (long long)stats.tokens, 100 * stats.routed_fraction);
    else
        fprintf(stderr, "embed: %s\n", err.message);
    fathom_model_free(model);
    return status != FATHOM_OK;
}
