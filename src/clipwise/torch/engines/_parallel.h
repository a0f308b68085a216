/* Work shared among threads, of which the caller waits for none that has not begun.
 *
 * Where other processes keep the cores busy (data loaders do), a thread that was woken may not run for
 * milliseconds. At the end of an OpenMP region the caller waits for all of them; here it takes what is left
 * itself, part by part, and waits only for a thread that is in the middle of a part. The threads are made when
 * they are first needed, sleep in between, and end with the process. A forked child has none of them: there
 * everything runs on the calling thread. Threads round as the caller does, and count denormal numbers as it
 * does (torch.set_flush_denormal is about one thread): results must not depend on who does which part.
 */

typedef void (*Work)(void *task, int64_t begin, int64_t end);

enum { SHARED_BYTES = 2 << 20 }; /* for each thread at least: with less, waking it costs about what it brings */

#if defined(__GNUC__) && !defined(_WIN32)
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

typedef struct {
    Work work;
    void *task;
    int64_t next, items;
    int threads;
    fenv_t arithmetic;
} Shared;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    Shared *shared; /* NULL: there is nothing to do, or nothing is left of it */
    int open;       /* helpers that may still join in */
    int inside;     /* helpers that have */
    int helpers;    /* helpers that there are */
    long process;
} team = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0, 0, 0, 0};

/* Each thread takes a part of what is left, ever smaller ones, until nothing is. */
static void take_part(Shared *shared) {
    int64_t begin = __atomic_load_n(&shared->next, __ATOMIC_RELAXED);
    while (begin < shared->items) {
        int64_t part = (shared->items - begin) / (4 * shared->threads);
        int64_t end = begin + (part > 1 ? part : 1);
        if (__atomic_compare_exchange_n(&shared->next, &begin, end, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            shared->work(shared->task, begin, end);
            begin = __atomic_load_n(&shared->next, __ATOMIC_RELAXED);
        }
    }
}

/* Everyone who joins in wakes two more: that is sooner done than by the caller alone. */
static void wake_two(void) {
    for (int i = 0; i < 2 && i < team.open; i++) pthread_cond_signal(&team.begin);
}

static void *help(void *unused) {
    pthread_mutex_lock(&team.lock);
    for (;;) {
        while (!team.shared || !team.open) pthread_cond_wait(&team.begin, &team.lock);
        Shared *shared = team.shared;
        team.open--;
        team.inside++;
        wake_two();
        pthread_mutex_unlock(&team.lock);
        fesetenv(&shared->arithmetic);
        take_part(shared);
        pthread_mutex_lock(&team.lock);
        if (!--team.inside) pthread_cond_signal(&team.end);
    }
    return unused;
}

/* One helper more, which leaves signals to the threads that the program knows. */
static int add_helper(void) {
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, NULL, help, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed) pthread_detach(thread);
    return !failed;
}

static int share_out(Work work, void *task, int64_t items, int threads) {
    if (threads < 2 || items < 2) return 0;
    if (!team.process) team.process = (long)getpid();
    if (team.process != (long)getpid()) return 0; /* a lock held by another thread at the fork stays so */
    Shared shared = {work, task, 0, items, threads};
    fegetenv(&shared.arithmetic);
    pthread_mutex_lock(&team.lock);
    int idle = !team.shared && !team.inside; /* or else they work for another thread of the program */
    while (idle && team.helpers < threads - 1 && add_helper()) team.helpers++;
    if (idle) {
        team.shared = &shared;
        team.open = threads - 1 < team.helpers ? threads - 1 : team.helpers;
        wake_two();
    }
    pthread_mutex_unlock(&team.lock);
    if (!idle) return 0;
    take_part(&shared);
    pthread_mutex_lock(&team.lock);
    team.shared = NULL;
    while (team.inside) pthread_cond_wait(&team.end, &team.lock);
    pthread_mutex_unlock(&team.lock);
    return 1;
}

#else

static int share_out(Work work, void *task, int64_t items, int threads) {
    (void)work, (void)task, (void)items, (void)threads;
    return 0;
}

#endif

/* Runs work on the items 0 .. items - 1, whose results must not depend on who does which. Large work lets go
 * of the GIL. */
static void run(Work work, void *task, int64_t items, int64_t bytes, int threads) {
    if (items <= 0) return;
    if (bytes / SHARED_BYTES < threads) threads = (int)(bytes / SHARED_BYTES);
    if (bytes < SHARED_BYTES) {
        work(task, 0, items);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    if (!share_out(work, task, items, threads)) work(task, 0, items);
    Py_END_ALLOW_THREADS
}
