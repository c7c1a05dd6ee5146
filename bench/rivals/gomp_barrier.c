/*
 * The barrier of GCC's OpenMP, libgomp. Ranks are the threads of one parallel region; they pin themselves like the
 * ranks of every rival, so OMP_PROC_BIND and GOMP_CPU_AFFINITY must be unset.
 */
#include "common.h"
#include <omp.h>

static uint64_t word_of_rank_0;

static inline void meet(void *context)
{
    (void)context;
#pragma omp barrier
}

/* The first barrier publishes the word, the second keeps rank 0 from the next word until all have read this one. */
static uint64_t from_rank_0(void *context, uint64_t value)
{
    if (omp_get_thread_num() == 0)
        word_of_rank_0 = value;
    meet(context);
    value = word_of_rank_0;
    meet(context);
    return value;
}

int main(int count, char **arguments)
{
    struct options options = parse_options(count, arguments);
    omp_set_dynamic(0);
#pragma omp parallel num_threads(options.ranks)
    {
        if (omp_get_num_threads() != options.ranks)
            die("OpenMP started %d threads where --ranks says %d", omp_get_num_threads(), options.ranks);
        measure(&options, omp_get_thread_num(), meet, from_rank_0, NULL);
    }
    return 0;
}
