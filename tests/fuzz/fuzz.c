/* libFuzzer target of one kind of file, FUZZ_SUBJECT (subjects.h): the input is the whole file. With FUZZ_SEEDS=FOLDER in the environment
 * it writes its valid files there instead. tests/fuzz/run.sh builds and runs them all. */
#include "fuzz/subjects.h"

#include <unistd.h>

#define SUBJECT_ROW(name, file) {#name, file, read_##name, seeds_##name},
static const fuzz_subject subjects[] = {FUZZ_SUBJECTS(SUBJECT_ROW)};
static const fuzz_subject *subject;
static char folder[FUZZ_PATH];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void remove_folder(void)
{
    char path[FUZZ_PATH];
    folder_remove(fuzz_join(folder, "trainer", path), NULL);
    folder_remove(folder, NULL);
}

static void write_seeds(const char *to)
{
    for (int i = 0; subject->seed(folder, i); i++) {
        char from[FUZZ_PATH], path[FUZZ_PATH], name[16];
        file_map map;
        snprintf(name, sizeof name, "seed-%d", i);
        must(file_map_open(fuzz_join(folder, subject->file, from), &map, NULL) == FATHOM_OK);
        must(file_write(fuzz_join(to, name, path), map.data, map.size, NULL) == FATHOM_OK);
        file_map_close(&map);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    const char *base = getenv("TMPDIR"), *seeds = getenv("FUZZ_SEEDS");
    char path[FUZZ_PATH];
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++)
        if (strcmp(subjects[i].name, FUZZ_SUBJECT) == 0)
            subject = &subjects[i];
    must(subject && mkdtemp(strcpy(folder, fuzz_join(base ? base : "/tmp", "fathom-fuzz-XXXXXX", path))));
    must(folder_create(fuzz_join(folder, "trainer", path), NULL) == FATHOM_OK);
    atexit(remove_folder);
    if (seeds) {
        write_seeds(seeds);
        exit(0);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fathom_error err;
    fuzz_read(subject, folder, data, size, &err);
    return 0;
}
