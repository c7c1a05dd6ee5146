/*
 * One-sided MPI, for Open MPI and MPICH alike: MPI_Win_lock and MPI_Win_unlock of a window for each object, exclusive
 * or shared, and MPI_Fetch_and_op for counters. Ranks are the launcher's processes; they pin themselves.
 *
 * MPI allows a lock to be put off until something is asked of the window. Open MPI 4.1 does where windows are made of
 * messages, which is what it has across nodes here: with MPI_Win_lock alone two held the lock at once, so a flush
 * follows it, which waits for the lock. MPICH 4.0 never did, nor Open MPI in shared memory.
 */
#include "contest.h"
#include <mpi.h>
#include <unistd.h>

struct place {
    MPI_Win window;
    int home;
};

static struct place *places;

static void meet(void *context)
{
    (void)context;
    MPI_Barrier(MPI_COMM_WORLD);
}

static uint64_t from_rank_0(void *context, uint64_t value)
{
    (void)context;
    MPI_Bcast(&value, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    return value;
}

#ifdef OPEN_MPI
static bool puts_off_locks;
#else
static const bool puts_off_locks = false;
#endif

/* On one node an idle rank sleeps, as in MPI_Barrier it would spin. Across nodes it is needed: whoever another node's
 * operation concerns must be in a call of MPI for it to go on. */
static void sleep_until(const struct options *options, uint64_t until)
{
    while (options->nodes == 1 && now(options) < until)
        usleep(1000);
}

static inline void lock_window(void *context, uint64_t object, bool shared)
{
    (void)context;
    MPI_Win_lock(shared ? MPI_LOCK_SHARED : MPI_LOCK_EXCLUSIVE, places[object].home, 0, places[object].window);
    if (puts_off_locks)
        MPI_Win_flush(places[object].home, places[object].window);
}

static inline void unlock_window(void *context, uint64_t object, bool shared)
{
    (void)context;
    (void)shared;
    MPI_Win_unlock(places[object].home, places[object].window);
}

static inline void fetch_and_add(void *context, uint64_t object, bool shared)
{
    (void)context;
    (void)shared;
    struct place place = places[object];
    uint64_t one = 1, before;
    MPI_Fetch_and_op(&one, &before, MPI_UINT64_T, place.home, 0, MPI_SUM, place.window);
    MPI_Win_flush(place.home, place.window);
}

static void open_windows(const struct options *options, int rank)
{
    places = calloc(options->objects, sizeof *places);
    if (!places)
        die("no memory for %llu windows", (unsigned long long)options->objects);
    for (uint64_t object = 0; object < options->objects; object++) {
        struct place *place = &places[object];
        uint64_t *word;
        place->home = first_rank_of(options, home_of(options, object));
        MPI_Aint bytes = rank == place->home ? sizeof *word : 0;
        MPI_Win_allocate(bytes, sizeof *word, MPI_INFO_NULL, MPI_COMM_WORLD, &word, &place->window);
        if (bytes)
            *word = 0;
        if (is_object(options, "counter"))
            MPI_Win_lock_all(MPI_MODE_NOCHECK, place->window);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static void close_windows(const struct options *options)
{
    for (uint64_t object = 0; object < options->objects; object++) {
        if (is_object(options, "counter"))
            MPI_Win_unlock_all(places[object].window);
        MPI_Win_free(&places[object].window);
    }
    free(places);
}

int main(int count, char **arguments)
{
    struct options options = parse_contest(count, arguments);
    int rank, size;
    MPI_Init(NULL, NULL);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != options.ranks)
        die("the launcher started %d ranks where --ranks says %d", size, options.ranks);
#ifdef OPEN_MPI
    puts_off_locks = options.nodes > 1;
#endif
    open_windows(&options, rank);
    struct contestant contestant = {.meet = meet, .from_rank_0 = from_rank_0, .idle = sleep_until};
    if (is_object(&options, "counter")) {
        contestant.acquire = fetch_and_add;
        contend(&options, rank, contestant, NULL);
    } else {
        contestant.acquire = lock_window;
        contestant.release = unlock_window;
        contend(&options, rank, contestant, NULL);
    }
    close_windows(&options);
    MPI_Finalize();
    return 0;
}
