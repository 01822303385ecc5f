/* Ctrl-C without a signal handler on the threads that compute. oneDNN's generated matrix code uses the stack pointer for its own
 * ends; a handler that starts there writes its frame into whatever memory that is (seen: heap corruption, two runs in three
 * under a timer of 300 us). So SIGINT is blocked in this thread and in all that it starts, and one thread that does nothing
 * else waits for it. */
#include <pthread.h>
#include <unistd.h>

#include "cli/cli.h"

static void *wait_for_interrupt(void *flag)
{
    sigset_t set;
    int signal_number;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    if (sigwait(&set, &signal_number) == 0)
        *(volatile sig_atomic_t *)flag = 1;
    pthread_sigmask(SIG_UNBLOCK, &set, NULL); /* a second Ctrl-C ends the process at once */
    while (pause() != 0)
        continue;
    return NULL;
}

void interrupt_watch(volatile sig_atomic_t *flag)
{
    sigset_t set;
    pthread_t thread;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pthread_create(&thread, NULL, wait_for_interrupt, (void *)flag) == 0)
        pthread_detach(thread);
    else
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}
