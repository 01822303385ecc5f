/* Signals that ask a command to end, without a handler on the threads that compute. oneDNN's generated matrix code uses the stack
 * pointer for its own ends; a handler that starts there writes its frame into whatever memory that is (seen: heap corruption,
 * two runs in three under a timer of 300 us). So the signals are blocked in this thread and in all that it starts, and one
 * thread that does nothing else waits for them. */
#include <pthread.h>
#include <unistd.h>

#include "cli/cli.h"

sigset_t signals_take(void)
{
    static const int asking[] = {SIGINT, SIGTERM, SIGHUP};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof asking / sizeof *asking; i++) {
        struct sigaction before;
        if (sigaction(asking[i], NULL, &before) != 0 || before.sa_handler == SIG_IGN)
            continue;
        sigaction(asking[i], &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        sigaddset(&set, asking[i]);
    }
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return set;
}

static sigset_t watched;

static void *wait_for_interrupt(void *flag)
{
    int signal_number;
    if (sigwait(&watched, &signal_number) == 0)
        *(volatile sig_atomic_t *)flag = signal_number;
    pthread_sigmask(SIG_UNBLOCK, &watched, NULL); /* a second one ends the process at once */
    while (pause() != 0)
        continue;
    return NULL;
}

void interrupt_watch(volatile sig_atomic_t *flag)
{
    pthread_t thread;
    watched = signals_take();
    if (pthread_create(&thread, NULL, wait_for_interrupt, (void *)flag) == 0)
        pthread_detach(thread);
    else
        pthread_sigmask(SIG_UNBLOCK, &watched, NULL);
}
