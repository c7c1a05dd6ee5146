/*
 * MPI_Barrier, for Open MPI and MPICH alike: which of them is measured is decided by the compiler wrapper and the
 * launcher. Ranks are the launcher's processes; they pin themselves, so the launcher must bind nothing.
 */
#include "common.h"
#include <mpi.h>

static inline void meet(void *context)
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

int main(int count, char **arguments)
{
    struct options options = parse_options(count, arguments);
    int rank, size;
    MPI_Init(NULL, NULL);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != options.ranks)
        die("the launcher started %d ranks where --ranks says %d", size, options.ranks);
    measure(&options, rank, meet, from_rank_0, NULL);
    MPI_Finalize();
    return 0;
}
