/* How many threads to use when nobody says; see pool.h. */
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/pool.h"

enum { PATH_MAX_BYTES = 512 };

static int affinity_count(void)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    int count = online > 0 ? (int)online : 1;
#ifdef __linux__
    for (int most = 1024; most <= 1 << 18; most *= 4) { /* the call fails where the machine has more processors than the mask */
        cpu_set_t *mask = CPU_ALLOC((size_t)most);
        if (!mask)
            break;
        const int failed = sched_getaffinity(0, CPU_ALLOC_SIZE((size_t)most), mask);
        if (!failed)
            count = CPU_COUNT_S(CPU_ALLOC_SIZE((size_t)most), mask);
        CPU_FREE(mask);
        if (!failed)
            break;
    }
#endif
    return count;
}

/* Reads "quota period" (version 2), or the first number alone; 0 where there is no limit, no file, or no number. */
static double read_quota(const char *folder, const char *group, const char *name)
{
    char path[PATH_MAX_BYTES];
    double quota = 0, period = 1;
    if (snprintf(path, sizeof path, "%s%s/%s", folder, group, name) >= (int)sizeof path)
        return 0;
    FILE *f = fopen(path, "r");
    const int read = f ? fscanf(f, "%lf %lf", &quota, &period) : 0; /* "max 100000" and -1: no limit */
    if (f)
        fclose(f);
    return read >= 1 && quota > 0 && period > 0 ? quota / period : 0;
}

static double least_limit(double a, double b)
{
    return a == 0 ? b : b == 0 ? a : a < b ? a : b;
}

/* The tightest quota of a group and of those above it, in processors; 0: none. A container may not see its own group's folder:
 * then its root holds the limit. */
static double group_quota(const char *folder, const char *group, bool second)
{
    char at[PATH_MAX_BYTES];
    double limit = 0;
    if (snprintf(at, sizeof at, "%s", strcmp(group, "/") == 0 ? "" : group) >= (int)sizeof at)
        return 0;
    for (;;) {
        const double quota = read_quota(folder, at, second ? "cpu.max" : "cpu.cfs_quota_us");
        const double period = second ? 1 : read_quota(folder, at, "cpu.cfs_period_us");
        if (quota > 0 && period > 0)
            limit = least_limit(limit, quota / period);
        char *slash = strrchr(at, '/');
        if (!slash)
            return limit;
        *slash = 0;
    }
}

/* Is `word` in the list "a,b,c"? */
static bool list_has(const char *list, const char *word)
{
    const size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)) != NULL; p += n)
        if ((p == list || p[-1] == ',') && (p[n] == ',' || p[n] == 0))
            return true;
    return false;
}

double threads_quota(const char *root, const char *groups)
{
    char line[PATH_MAX_BYTES], folder[PATH_MAX_BYTES];
    double limit = 0;
    FILE *f = fopen(groups, "r");
    while (f && fgets(line, sizeof line, f)) { /* "4:cpu,cpuacct:/path" of version 1, "0::/path" of version 2 */
        line[strcspn(line, "\n")] = 0;
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        list++;
        if (*list == 0) {
            limit = least_limit(limit, group_quota(root, path, true));
            if (snprintf(folder, sizeof folder, "%s/unified", root) < (int)sizeof folder)
                limit = least_limit(limit, group_quota(folder, path, true));
        } else if (list_has(list, "cpu")) {
            const char *const mounts[] = {"cpu", "cpu,cpuacct", "cpuacct,cpu"};
            for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++)
                if (snprintf(folder, sizeof folder, "%s/%s", root, mounts[i]) < (int)sizeof folder)
                    limit = least_limit(limit, group_quota(folder, path, false));
        }
    }
    if (f)
        fclose(f);
    return limit;
}

int threads_allowed(void)
{
    const double quota = threads_quota("/sys/fs/cgroup", "/proc/self/cgroup");
    int count = affinity_count();
    if (quota > 0 && quota < count) /* 1.5 processors: two threads get all of it, one does not */
        count = (int)quota + (quota > (int)quota);
    return count < 1 ? 1 : count > THREADS_MOST ? THREADS_MOST : count;
}

int threads_choose(int wanted)
{
    if (wanted > 0)
        return wanted;
    const char *set = getenv("OMP_NUM_THREADS"); /* may be a list, whose first number is the outermost level's */
    char *end;
    const long count = set ? strtol(set, &end, 10) : 0;
    return count >= 1 && count <= THREADS_MOST ? (int)count : threads_allowed();
}
