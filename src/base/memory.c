/* See memory.h. Linux tells both as small text files. */
#include "base/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* "MemAvailable:  123 kB" of /proc/meminfo */
static size_t system_available(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    char line[128];
    unsigned long long kib;
    size_t found = SIZE_MAX;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            found = (size_t)kib * 1024;
    if (f)
        fclose(f);
    return found;
}

/* One number; SIZE_MAX for "max", or when there is no such file. */
static size_t read_number(const char *folder, const char *name)
{
    char path[512];
    unsigned long long value;
    if (snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", folder, name) >= (int)sizeof path)
        return SIZE_MAX;
    FILE *f = fopen(path, "r");
    const size_t found = f && fscanf(f, "%llu", &value) == 1 ? (size_t)value : SIZE_MAX;
    if (f)
        fclose(f);
    return found;
}

/* Control groups, version 2: the limit minus what is in use, of the process's group. */
static size_t group_available(void)
{
    char folder[400] = "";
    FILE *f = fopen("/proc/self/cgroup", "r");
    if (f && fscanf(f, "0::%399s", folder) == 1 && strcmp(folder, "/") == 0)
        folder[0] = 0;
    if (f)
        fclose(f);
    const size_t limit = read_number(folder, "memory.max"), used = read_number(folder, "memory.current");
    if (limit == SIZE_MAX || used == SIZE_MAX)
        return SIZE_MAX;
    return limit > used ? limit - used : 0;
}

size_t memory_available(void)
{
    const size_t system = system_available(), group = group_available();
    return system < group ? system : group;
}
