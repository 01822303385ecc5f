/* See cpu_wait.h. */
#include "base/cpu_wait.h"

#include <dirent.h>
#include <stdio.h>

cpu_wait cpu_wait_now(void)
{
    cpu_wait sum = {0};
    DIR *tasks = opendir("/proc/self/task");
    for (const struct dirent *e; tasks && (e = readdir(tasks)) != NULL;) {
        char path[300];
        double ran, waited; /* nanoseconds */
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", e->d_name);
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%lf %lf", &ran, &waited) == 2) {
            sum.ran += 1e-9 * ran;
            sum.waited += 1e-9 * waited;
        }
        if (f)
            fclose(f);
    }
    if (tasks)
        closedir(tasks);
    return sum;
}

double cpu_wait_share(const cpu_wait *from)
{
    const cpu_wait now = cpu_wait_now();
    const double ran = now.ran - from->ran, waited = now.waited - from->waited;
    return waited > 0 && ran > 0 ? waited / (ran + waited) : 0;
}
