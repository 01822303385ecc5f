/* libFuzzer target of the safetensors reader: clang -fsanitize=fuzzer,address,undefined. The input is the whole file; of one
 * that is accepted everything is read. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0)
        return 0;
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    safetensors *s;
    if (write(fd, data, size) == (ssize_t)size && safetensors_open(path, &s, NULL) == FATHOM_OK) {
        volatile unsigned char sink = 0;
        for (size_t i = 0; i < safetensors_count(s); i++) {
            const safetensors_tensor *t = safetensors_at(s, i);
            for (size_t b = 0; b < t->bytes; b++)
                sink ^= ((const unsigned char *)t->data)[b];
            if (safetensors_find(s, t->name) != t)
                __builtin_trap();
        }
        safetensors_close(s);
    }
    close(fd);
    return 0;
}
