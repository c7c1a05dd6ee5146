//! Partitions that last: what those may decide who are many, and those who are few or just half.

use phalanx::cluster::view::Unit;
use phalanx::fabric::sim::Seeded;

use crate::actor::Stand;
use crate::common::seeds::for_each_seed;
use crate::nature::Trouble;
use crate::run::{MS, Run, Shape};
use crate::seeds;

/// A partition that lasts: the majority gives the others up, who decide nothing, doubt, and are excluded when it ends.
#[test]
fn a_minority_decides_nothing_and_is_excluded() {
    for_each_seed("sentinel", "a_minority_decides_nothing_and_is_excluded", seeds(12), |seed| {
        let mut random = Seeded::new(seed ^ 0x3a17);
        let nodes = [3, 4, 5, 8, 9, 17][random.below(6)];
        let few = 1 + random.below((nodes - 1) / 2);
        let start = random.below(nodes);
        let is_scattered = random.below(2) == 0;
        let mut order: Vec<usize> = (0..nodes).map(|step| (start + step) % nodes).collect();
        if is_scattered {
            (1..nodes).for_each(|at| order.swap(at, random.below(at + 1)));
        }
        let mut sides = vec![0; nodes];
        order[..few].iter().for_each(|node| sides[*node] = 1);
        let shape = Shape { nodes, most_ranks: 2, rounds: 100_000, failed_per_million: 0 };
        let mut run = Run::new(random.number(), shape);
        run.at(250, Trouble::Partition(sides));
        run.go(1_750 * MS);
        let (lost, kept) = order.split_at(few);
        for node in kept {
            assert_eq!(run.logs[*node].len(), few, "node {node} has given all of the others up");
        }
        for node in lost {
            assert_eq!(run.logs[*node], [0_u64; 0], "node {node} has decided something");
            assert!(kept.iter().all(|other| run.doubts(*node).contains(other)), "node {node} doubts the others");
            assert!(run.doubts(*node).iter().all(|other| kept.contains(other)), "node {node} doubts its own side");
        }
        run.at(1_750, Trouble::Unite);
        run.go(2_500 * MS);
        run.check_end();
        assert!(lost.iter().all(|node| run.has_failed(Unit::Node(*node)) && run.is_excluded(*node)));
    });
}

/// No side is a majority: nobody decides, and when the partition ends, so do the doubts, and all go on.
#[test]
fn halves_doubt_each_other_until_the_partition_ends() {
    for_each_seed("sentinel", "halves_doubt_each_other_until_the_partition_ends", seeds(12), |seed| {
        let mut random = Seeded::new(seed ^ 0x4a1f);
        let nodes = [2, 2, 4, 6, 10][random.below(5)];
        let shape = Shape { nodes, most_ranks: 2, rounds: 100_000, failed_per_million: 0 };
        let mut run = Run::new(random.number(), shape);
        run.at(250, Trouble::Partition((0..nodes).map(|node| u32::from(node % 2 == 0)).collect()));
        run.go(1_000 * MS);
        run.check_waits(false);
        for node in 0..nodes {
            let others: Vec<usize> = (0..nodes).filter(|other| other % 2 != node % 2).collect();
            assert_eq!(run.doubts(node), others, "node {node}");
        }
        run.at(1_000, Trouble::Unite);
        run.go(1_500 * MS);
        assert_eq!(run.log(), [], "nobody has failed");
        run.rounds = run.arrived.borrow().iter().copied().max().unwrap_or(0);
        run.go(1_800 * MS);
        run.check_end();
        assert!(
            run.actors.iter().all(|actor| actor.meeting.as_ref().is_some_and(|meeting| meeting.stand == Stand::Done))
        );
    });
}
