/* How busy the machine is with others: how long this process's threads wanted a processor and did not get one. */
#ifndef FATHOM_BASE_CPU_WAIT_H
#define FATHOM_BASE_CPU_WAIT_H

/* Seconds, summed over the process's threads that live now. */
typedef struct cpu_wait {
    double ran, waited;
} cpu_wait;

/* From /proc/self/task/N/schedstat; zeros where the system has none. */
cpu_wait cpu_wait_now(void);
/* The share of the time since `from` in which threads that could run had to wait, 0 to 1. */
double cpu_wait_share(const cpu_wait *from);

#endif
