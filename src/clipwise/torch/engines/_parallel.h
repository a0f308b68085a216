/* Work shared among the threads that torch already has.
 *
 * A pool of one's own competes with torch's, whose threads spin for milliseconds after each operation: clipping
 * a ResNet-50 right after one took a quarter longer. So the team is that of the OpenMP runtime torch has loaded,
 * reached through GCC's entry point (libgomp; LLVM's runtime has it too). Without one, and in a forked child,
 * where such a team does not survive, everything runs on the calling thread. The team rounds as that thread
 * does, and counts denormal numbers as it does (torch.set_flush_denormal is about one thread): results must not
 * depend on who does which part.
 */

typedef void (*Work)(void *task, int64_t begin, int64_t end);

/* How much there is to do: all of it, and what is in tensors that torch shares out, too. */
typedef struct {
    int64_t bytes, large;
} Extent;

/* Where other processes keep the cores busy (data loaders do), a thread that is waited for may not run for
 * milliseconds. torch waits for it where a tensor has more than LARGE entries and clips smaller ones on one
 * thread, so for these a thread has to bring more than such a wait. */
enum { LARGE = 1 << 15, BYTES_A_THREAD = 16 << 20, LARGE_BYTES_A_THREAD = 1 << 19, BYTES_WITH_GIL = 2 << 20 };

static void extend(Extent *extent, int64_t numel, int64_t entry_bytes) {
    extent->bytes += numel * entry_bytes;
    if (numel > LARGE) extent->large += numel * entry_bytes;
}

static int threads_for(const Extent *extent, int threads) {
    int64_t most = extent->bytes / BYTES_A_THREAD, of_large = extent->large / LARGE_BYTES_A_THREAD;
    if (of_large > most) most = of_large;
    return most < threads ? (int)most : threads;
}

#if defined(__GNUC__) && !defined(_WIN32)
#include <dlfcn.h>
#include <fenv.h>
#include <unistd.h>

typedef void (*Gomp)(void (*body)(void *), void *data, unsigned threads, unsigned flags);

static Gomp team;
static long team_process;

static void find_team(void) {
    if (team) return;
    *(void **)&team = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    team_process = (long)getpid();
}

typedef struct {
    Work work;
    void *task;
    int64_t next, items;
    int threads;
    fenv_t arithmetic;
} Shared;

/* Each thread takes a part of what is left, ever smaller ones, until nothing is. */
static void take_part(void *data) {
    Shared *shared = data;
    fenv_t own;
    fegetenv(&own);
    fesetenv(&shared->arithmetic);
    int64_t begin = __atomic_load_n(&shared->next, __ATOMIC_RELAXED);
    while (begin < shared->items) {
        int64_t part = (shared->items - begin) / (4 * shared->threads);
        int64_t end = begin + (part > 1 ? part : 1);
        if (__atomic_compare_exchange_n(&shared->next, &begin, end, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            shared->work(shared->task, begin, end);
            begin = __atomic_load_n(&shared->next, __ATOMIC_RELAXED);
        }
    }
    fesetenv(&own);
}

static int share_out(Work work, void *task, int64_t items, int threads) {
    if (threads < 2 || items < 2 || !team || (long)getpid() != team_process) return 0;
    Shared shared = {work, task, 0, items, threads};
    fegetenv(&shared.arithmetic);
    team(take_part, &shared, (unsigned)threads, 0);
    return 1;
}

#else

static void find_team(void) {}
static int share_out(Work work, void *task, int64_t items, int threads) {
    (void)work, (void)task, (void)items, (void)threads;
    return 0;
}

#endif

/* Runs work on the items 0 .. items - 1, whose results must not depend on who does which. Large work lets go
 * of the GIL. */
static void run(Work work, void *task, int64_t items, const Extent *extent, int threads) {
    if (items <= 0) return;
    threads = threads_for(extent, threads);
    if (threads < 2 && extent->bytes < BYTES_WITH_GIL) {
        work(task, 0, items);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    if (!share_out(work, task, items, threads)) work(task, 0, items);
    Py_END_ALLOW_THREADS
}
