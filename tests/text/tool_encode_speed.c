/* Encoding speed of one thread, in processor time: tool_encode_speed tokenizer.json FILE (docs/tokenizers.md). An encoder of its own for each of
 * the rounds, of which the best counts. */
#include <stdio.h>
#include <time.h>

#include "base/file.h"
#include "text/tokenizer.h"

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    enum { ROUNDS = 10 };
    tokenizer *t = NULL;
    file_map map = {0};
    fathom_error err;
    id_list list = {0};
    double best = 1e30, loading = processor_seconds();
    if (argc != 3) {
        fputs("usage: tool_encode_speed TOKENIZER FILE\n", stderr);
        return 2;
    }
    fathom_status status = tokenizer_load(argv[1], &t, &err);
    loading = processor_seconds() - loading;
    if (status == FATHOM_OK)
        status = file_map_open(argv[2], &map, &err);
    for (int i = 0; status == FATHOM_OK && i < ROUNDS; i++) {
        const double began = processor_seconds();
        list.count = 0;
        status = tokenizer_encode(t, (const char *)map.data, map.size, true, &list, &err);
        const double took = processor_seconds() - began;
        best = took < best ? took : best;
    }
    if (status == FATHOM_OK)
        printf("%zu bytes, %zu tokens: %.1f MB/s; tokenizer loaded in %.0f ms\n", map.size, list.count, (double)map.size / best * 1e-6, loading * 1e3);
    else
        fprintf(stderr, "%s\n", err.message);
    file_map_close(&map);
    id_list_free(&list);
    tokenizer_free(t);
    return status == FATHOM_OK ? 0 : 1;
}
