//! What it costs and gains: no false alarm in calm however long, and how soon a failure is known to all.

use std::cell::RefCell;

use phalanx::cluster::view::Unit;
use phalanx::fabric::sim::Seeded;

use crate::common::seeds::for_each_seed;
use crate::nature::Trouble;
use crate::run::{MS, Run, Shape};
use crate::seeds;

/// No failure, no epoch, however long; the network delays, and loses connections.
#[test]
fn in_calm_nobody_fails() {
    for_each_seed("sentinel", "in_calm_nobody_fails", seeds(6), |seed| {
        let mut random = Seeded::new(seed ^ 0xca11);
        let shape = Shape {
            nodes: [2, 3, 8][random.below(3)],
            most_ranks: 2,
            rounds: 0,
            failed_per_million: [0, 2_000][random.below(2)],
        };
        let mut run = Run::new(random.number(), shape);
        run.go(20_000 * MS);
        assert_eq!(run.log(), []);
        for node in 0..shape.nodes {
            assert_eq!(run.doubts(node), [0_usize; 0], "node {node} doubts");
        }
    });
}

/// What is the slowest survivor's time to know of a failure, by its kind; printed, and bounded.
#[test]
fn failures_are_known_to_all_soon() {
    // How, on how many nodes, of how many ranks, and the longest that it may take, in ms.
    type Case = (&'static str, usize, usize, u64, fn(&Run) -> (Trouble, Unit));
    let cases: [Case; 6] = [
        ("a node's only process killed", 5, 1, 20, |_| (Trouble::Gone(3), Unit::Node(3))),
        ("a node's processes killed", 5, 2, 20, |_| (Trouble::Gone(3), Unit::Node(3))),
        ("a process of several killed", 5, 2, 10, |run| {
            let rank = run.topology.ranks_of(3)[0];
            (Trouble::Killed(rank), Unit::Rank(rank))
        }),
        ("a machine dead, 3 nodes", 3, 1, 170, |_| (Trouble::Silent(2), Unit::Node(2))),
        ("a machine dead, 16 nodes", 16, 1, 170, |_| (Trouble::Silent(3), Unit::Node(3))),
        ("a machine dead, 64 nodes", 64, 1, 250, |_| (Trouble::Silent(3), Unit::Node(3))),
    ];
    for (name, nodes, ranks, bound, how) in cases {
        let times = RefCell::new(Vec::new());
        for_each_seed("sentinel", "failures_are_known_to_all_soon", seeds(12), |seed| {
            let mut run = Run::of_counts(seed, vec![ranks; nodes], 0, 0);
            let at = 250 + seed % 20;
            let (trouble, unit) = how(&run);
            run.at(at, trouble);
            run.go(1_000 * MS);
            let taken = run.detection(unit, at * MS).expect("it is known");
            assert!(taken < bound * MS, "{name}: {} ms", taken / MS);
            times.borrow_mut().push(taken);
        });
        let mut times = times.into_inner();
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100] as f64 / 1e6;
        println!("{name}: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms of {}", at(50), at(99), at(100), times.len());
    }
}
