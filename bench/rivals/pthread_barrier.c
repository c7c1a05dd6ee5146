/*
 * pthread_barrier_wait of the C library, on a process-shared barrier in an anonymous shared mapping. Ranks are forked
 * processes, or threads with --threads.
 */
#include "processes.h"

static struct team *team;

static void run_rank(const struct options *options, int rank)
{
    struct member member = {team, rank};
    measure(options, rank, meet_team, team_word_of_rank_0, &member);
}

int main(int count, char **arguments)
{
    struct options options = parse_options(count, arguments);
    team = share_team(options.ranks);
    if (options.threads) {
        run_ranks_as_threads(&options, run_rank);
        return 0;
    }
    return run_ranks_as_processes(&options, run_rank) ? 0 : 1;
}
