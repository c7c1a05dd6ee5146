/*
 * The barrier of Rust's standard library, which `std_barrier.rs` hands out behind two C functions. Ranks are threads.
 */
#include "common.h"

struct std_barrier;

struct std_barrier *std_barrier_new(size_t ranks);
void std_barrier_wait(struct std_barrier *barrier);

static struct std_barrier *barrier;
static uint64_t word_of_rank_0;

/* What the functions below must know of the rank that calls them. */
struct context {
    int rank;
};

static inline void meet(void *context)
{
    (void)context;
    std_barrier_wait(barrier);
}

/* The first barrier publishes the word, the second keeps rank 0 from the next word until all have read this one. */
static uint64_t from_rank_0(void *context, uint64_t value)
{
    if (((struct context *)context)->rank == 0)
        word_of_rank_0 = value;
    meet(context);
    value = word_of_rank_0;
    meet(context);
    return value;
}

static void run_rank(const struct options *options, int rank)
{
    struct context context = {rank};
    measure(options, rank, meet, from_rank_0, &context);
}

int main(int count, char **arguments)
{
    struct options options = parse_options(count, arguments);
    barrier = std_barrier_new((size_t)options.ranks);
    run_ranks_as_threads(&options, run_rank);
    return 0;
}
