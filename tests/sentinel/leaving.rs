//! Ranks that leave as they should, while nobody is in trouble.

use phalanx::cluster::view::Unit;
use phalanx::fabric::sim::Seeded;

use crate::actor::{Leaving, Stand};
use crate::common::seeds::for_each_seed;
use crate::nature::Trouble;
use crate::run::{MS, Run, Shape};
use crate::seeds;

/// A job that ends: all are through with their barriers, and leave in any order. Nobody is missed, so nobody has failed.
#[test]
fn a_job_that_ends_has_lost_nobody() {
    for_each_seed("sentinel", "a_job_that_ends_has_lost_nobody", seeds(20), |seed| {
        let mut random = Seeded::new(seed ^ 0x1eaf);
        let nodes = [2, 3, 5, 8, 17][random.below(5)];
        let rounds = random.below(8) as u64;
        let shape = Shape { nodes, most_ranks: 3, rounds, failed_per_million: 0 };
        let mut run = Run::new(random.number(), shape);
        run.go(400 * MS);
        run.check_waits(true);
        for rank in 0..run.topology.ranks() {
            run.at(400 + random.below(300) as u64, Trouble::Leaves(rank));
        }
        run.go(1_000 * MS);
        assert!(run.actors.iter().all(|actor| actor.leaving == Leaving::Left));
        assert_eq!(run.log(), [], "nobody was missed");
    });
}

/// Some leave while the others still meet: those are told that they have left, and nobody waits for ever.
#[test]
fn whoever_waits_for_those_that_have_left_is_told() {
    for_each_seed("sentinel", "whoever_waits_for_those_that_have_left_is_told", seeds(20), |seed| {
        let mut random = Seeded::new(seed ^ 0x9076);
        let nodes = [2, 3, 5, 8, 17][random.below(5)];
        let shape = Shape { nodes, most_ranks: 3, rounds: 100_000, failed_per_million: 0 };
        let mut run = Run::new(random.number(), shape);
        let rank = random.below(run.topology.ranks());
        let home = run.topology.node_of(rank);
        let leaving = if random.below(2) == 0 { vec![rank] } else { run.topology.ranks_of(home).to_vec() };
        for rank in &leaving {
            run.at(250, Trouble::Leaves(*rank));
        }
        run.go(1_000 * MS);
        run.check_end();
        assert!(leaving.iter().any(|rank| run.has_failed(Unit::Rank(*rank))), "{:?}", run.log());
        let stays = run.actors.iter().filter(|actor| actor.leaving == Leaving::Stays);
        assert!(stays.into_iter().all(|actor| actor.meeting.as_ref().is_some_and(|met| met.stand == Stand::Failed)));
    });
}
