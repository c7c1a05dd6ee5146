/*
 * Ranks as forked processes that share memory and meet at a process-shared barrier of the C library.
 */
#ifndef PHALANX_RIVALS_PROCESSES_H
#define PHALANX_RIVALS_PROCESSES_H

#include "common.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where the ranks meet. */
struct team {
    pthread_barrier_t barrier;
    uint64_t word_of_rank_0;
};

/* A rank's place in its team: the context of the functions below. */
struct member {
    struct team *team;
    int rank;
};

/* Zeroed memory that the ranks will have in common. */
static inline void *share(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("no shared memory: %s", strerror(errno));
    return memory;
}

static inline struct team *share_team(int ranks)
{
    struct team *team = share(sizeof *team);
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    int error = pthread_barrier_init(&team->barrier, &attributes, (unsigned)ranks);
    if (error)
        die("pthread_barrier_init: %s", strerror(error));
    return team;
}

static inline void meet_team(void *member)
{
    pthread_barrier_wait(&((struct member *)member)->team->barrier);
}

/* The first barrier publishes the word, the second keeps rank 0 from the next word until all have read this one. */
static inline uint64_t team_word_of_rank_0(void *context, uint64_t value)
{
    struct member *member = context;
    if (member->rank == 0)
        member->team->word_of_rank_0 = value;
    meet_team(member);
    value = member->team->word_of_rank_0;
    meet_team(member);
    return value;
}

static inline void end_ranks(const pid_t *pids, int count)
{
    for (int i = 0; i < count; i++)
        if (pids[i] > 0)
            kill(pids[i], SIGKILL);
}

/* Once one rank has failed the others would wait for ever, so they are ended. Returns whether all went well. */
static inline bool await_ranks(pid_t *pids, int count)
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

/* Runs `body` once for each rank, each in a process of its own. Returns whether all went well. */
static inline bool run_ranks_as_processes(const struct options *options, void (*body)(const struct options *, int))
{
    pid_t *pids = calloc((size_t)options->ranks, sizeof *pids);
    if (!pids)
        die("no memory for %d ranks", options->ranks);
    for (int rank = 0; rank < options->ranks; rank++) {
        pids[rank] = fork();
        if (pids[rank] == 0) {
            body(options, rank);
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

#endif
