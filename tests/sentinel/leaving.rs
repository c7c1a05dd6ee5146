//! Ranks that leave as they should, while nobody is in trouble.

use phalanx::cluster::view::Unit;
use phalanx::fabric::sim::Seeded;

use crate::actor::{Leaving, Stand};
use crate::common::seeds::for_each_seed;
use crate::nature::Trouble;
use crate::run::{MS, Run, Shape};
use crate::seeds;

/// A job that ends: all are through with their barriers, and leave in any order. Nobody is missed, so nobody has
/// failed.
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

/// Some nodes leave together or one after the other, neighbours among them, and the others stay. Nobody has failed.
/// When one dies later, that is noticed as soon as ever, also where those who watched it have left; and those that have
/// left, next to whom others come by its death, are not taken for dead.
#[test]
fn those_who_stay_watch_each_other() {
    for_each_seed("sentinel", "those_who_stay_watch_each_other", seeds(60), |seed| {
        let mut random = Seeded::new(seed ^ 0x57a7);
        let nodes = [5, 6, 9, 17, 40][random.below(5)];
        let shape = Shape { nodes, most_ranks: 2, rounds: 0, failed_per_million: 0 };
        let mut run = Run::new(random.number(), shape);
        // Who has left has a vote still: without the one that dies they are a majority.
        let least = nodes / 2 + 2;
        let stay = least + random.below(nodes - least);
        let start = random.below(nodes);
        let mut order: Vec<usize> = (0..nodes).map(|step| (start + step) % nodes).collect();
        let (is_scattered, spread) = (random.below(2) == 0, [1, 2, 5, 60, 300][random.below(5)]);
        if is_scattered {
            (1..nodes).for_each(|at| order.swap(at, random.below(at + 1)));
        }
        for node in &order[stay..] {
            let at = 250 + random.below(spread) as u64;
            run.topology.ranks_of(*node).to_vec().into_iter().for_each(|rank| run.at(at, Trouble::Leaves(rank)));
        }
        run.go(700 * MS);
        assert_eq!(run.log(), [], "who has left was not missed, and nobody has failed");
        let lost = order[random.below(stay)];
        run.at(700, [Trouble::Silent(lost), Trouble::Gone(lost)][random.below(2)].clone());
        run.go(1_200 * MS);
        run.check_end();
        assert_eq!(run.log().len(), 1, "only node {lost} has failed: {:?}", run.log());
        let taken = run.detection(Unit::Node(lost), 700 * MS).expect("it is known");
        assert!(taken < 170 * MS, "after {} ms", taken / MS);
    });
}
