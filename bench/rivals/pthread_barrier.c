/*
 * pthread_barrier_wait of the C library, on a process-shared barrier in an anonymous shared mapping. Ranks are forked
 * processes, or threads with --threads.
 */
#include "common.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared {
    pthread_barrier_t barrier;
    uint64_t word_of_rank_0;
};

static struct shared *shared;

/* What the functions below must know of the rank that calls them. */
struct context {
    int rank;
};

static inline void meet(void *context)
{
    (void)context;
    pthread_barrier_wait(&shared->barrier);
}

/* The first barrier publishes the word, the second keeps rank 0 from the next word until all have read this one. */
static uint64_t from_rank_0(void *context, uint64_t value)
{
    if (((struct context *)context)->rank == 0)
        shared->word_of_rank_0 = value;
    meet(context);
    value = shared->word_of_rank_0;
    meet(context);
    return value;
}

static void run_rank(const struct options *options, int rank)
{
    struct context context = {rank};
    measure(options, rank, meet, from_rank_0, &context);
}

static void share_barrier(int ranks)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("no shared memory: %s", strerror(errno));
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    int error = pthread_barrier_init(&shared->barrier, &attributes, (unsigned)ranks);
    if (error)
        die("pthread_barrier_init: %s", strerror(error));
}

static void end_ranks(const pid_t *pids, int count)
{
    for (int i = 0; i < count; i++)
        if (pids[i] > 0)
            kill(pids[i], SIGKILL);
}

/* Once one rank has failed the others would wait for ever, so they are ended. Returns whether all went well. */
static bool await_ranks(pid_t *pids, int count)
{
    bool well = true;
    int status;
    pid_t pid;
    while ((pid = wait(&status)) > 0) {
        for (int i = 0; i < count; i++)
            if (pids[i] == pid)
                pids[i] = 0;
        if (well && status != 0) {
            well = false;
            end_ranks(pids, count);
        }
    }
    return well;
}

static bool run_ranks_as_processes(const struct options *options)
{
    pid_t *pids = calloc((size_t)options->ranks, sizeof *pids);
    if (!pids)
        die("no memory for %d ranks", options->ranks);
    for (int rank = 0; rank < options->ranks; rank++) {
        pids[rank] = fork();
        if (pids[rank] == 0) {
            run_rank(options, rank);
            exit(0);
        }
        if (pids[rank] < 0) {
            end_ranks(pids, rank);
            die("rank %d: fork: %s", rank, strerror(errno));
        }
    }
    bool well = await_ranks(pids, options->ranks);
    free(pids);
    return well;
}

int main(int count, char **arguments)
{
    struct options options = parse_options(count, arguments);
    share_barrier(options.ranks);
    if (options.threads) {
        run_ranks_as_threads(&options, run_rank);
        return 0;
    }
    return run_ranks_as_processes(&options) ? 0 : 1;
}
