//! Jobs with a witness, and jobs whose log has lost nodes: who is left decides, however few they are, and of two halves
//! one.

use phalanx::cluster::view::Unit;
use phalanx::fabric::sim::Seeded;

use crate::common::seeds::for_each_seed;
use crate::nature::Trouble;
use crate::run::{MS, Run};
use crate::seeds;
use crate::trouble::{AFTERWARDS, any_trouble};

/// Half the nodes fall silent, one of two at least: the others and the witness decide it.
#[test]
fn half_of_the_nodes_and_the_witness_give_the_silent_half_up() {
    for_each_seed("sentinel", "half_of_the_nodes_and_the_witness_give_the_silent_half_up", seeds(20), |seed| {
        let mut random = Seeded::new(seed ^ 0x3c1e);
        let nodes = [2, 2, 4, 6][random.below(4)];
        let counts = (0..nodes).map(|_| 1 + random.below(2)).collect();
        let mut run = Run::with_witness(random.number(), counts, 100_000, [0, 500][random.below(2)]);
        let start = random.below(nodes);
        let lost: Vec<usize> = (0..nodes / 2).map(|step| (start + step) % nodes).collect();
        lost.iter().for_each(|node| run.at(250, Trouble::Silent(*node)));
        run.go(1_750 * MS);
        run.rounds = run.arrived.borrow().iter().copied().max().unwrap_or(0);
        run.go(2_050 * MS);
        assert!(lost.iter().all(|node| run.has_failed(Unit::Node(*node))), "{:?}", run.log());
        run.check_end();
    });
}

/// A job is parted into halves that both reach the witness: one of them wins, the other learns that it is lost.
#[test]
fn of_two_halves_that_reach_the_witness_exactly_one_goes_on() {
    for_each_seed("sentinel", "of_two_halves_that_reach_the_witness_exactly_one_goes_on", seeds(20), |seed| {
        let mut random = Seeded::new(seed ^ 0x2a1f);
        let nodes = [2, 2, 4][random.below(3)];
        let counts = (0..nodes).map(|_| 1 + random.below(2)).collect();
        let mut run = Run::with_witness(random.number(), counts, 100_000, 0);
        let (left, right) = (0..nodes).partition::<Vec<usize>, _>(|node| node % 2 == 0);
        for (one, other) in left.iter().flat_map(|one| right.iter().map(|other| (*one, *other))) {
            [Trouble::Cut(one, other), Trouble::Cut(other, one)].into_iter().for_each(|cut| run.at(250, cut));
        }
        run.go(2_000 * MS);
        let lost: Vec<usize> = (0..nodes).filter(|node| run.has_failed(Unit::Node(*node))).collect();
        assert!(lost == left || lost == right, "{lost:?} of {left:?} and {right:?}");
        for node in &lost {
            assert!(run.knows_of_itself(*node) || run.is_excluded(*node), "node {node} knows: {:?}", run.log());
        }
        run.check_end();
    });
}

/// A side that the witness is on wins, and the other decides nothing, until it comes back and is excluded.
#[test]
fn a_half_without_the_witness_doubts_and_is_excluded() {
    for_each_seed("sentinel", "a_half_without_the_witness_doubts_and_is_excluded", seeds(20), |seed| {
        let mut random = Seeded::new(seed ^ 0x1c0f);
        let nodes = [2, 2, 4, 6][random.below(4)];
        let counts = (0..nodes).map(|_| 1 + random.below(2)).collect();
        let mut run = Run::with_witness(random.number(), counts, 100_000, 0);
        let sides = (0..=nodes).map(|one| u32::from(one % 2 == 0)).collect();
        run.at(250, Trouble::Partition(sides));
        run.go(1_500 * MS);
        for node in (0..nodes).filter(|node| node % 2 == 1) {
            assert_eq!(run.logs[node], [0_u64; 0], "node {node} has decided something");
            assert_eq!(run.doubts(node), (0..nodes).step_by(2).collect::<Vec<usize>>(), "node {node}");
        }
        for node in (0..nodes).step_by(2) {
            assert_eq!(run.logs[node].len(), nodes / 2, "node {node} has given the others up");
        }
        run.at(1_500, Trouble::Unite);
        run.go(2_500 * MS);
        run.check_end();
    });
}

/// One node after the other falls silent, until one is left. Without a witness two that are left are no majority of two
/// when one of them is silent.
#[test]
fn a_job_loses_one_node_after_the_other_down_to_the_last() {
    for_each_seed("sentinel", "a_job_loses_one_node_after_the_other_down_to_the_last", seeds(20), |seed| {
        let mut random = Seeded::new(seed ^ 0x7a57);
        let nodes = [3, 3, 4, 5][random.below(4)];
        let has_witness = random.below(3) > 0;
        let counts = (0..nodes).map(|_| 1 + random.below(2)).collect();
        let (seed, failed) = (random.number(), [0, 500][random.below(2)]);
        let mut run = match has_witness {
            true => Run::with_witness(seed, counts, 100_000, failed),
            false => Run::of_counts(seed, counts, 100_000, failed),
        };
        let start = random.below(nodes);
        let lost = nodes - if has_witness { 1 } else { 2 };
        for step in 0..lost {
            run.at(250 + 600 * step as u64, Trouble::Silent((start + step) % nodes));
        }
        run.go((250 + 600 * lost as u64) * MS + 1_000 * MS);
        run.rounds = run.arrived.borrow().iter().copied().max().unwrap_or(0);
        run.go((250 + 600 * lost as u64) * MS + 1_300 * MS);
        assert_eq!(run.survivors().len(), nodes - lost);
        assert_eq!(run.log().len(), lost, "{:?}", run.log());
        run.check_end();
    });
}

/// Any trouble of a small job's, and some of its witness': it is cut off, dies, or its process ends.
#[test]
fn with_a_witness_survivors_agree_whatever_happens() {
    for_each_seed("sentinel", "with_a_witness_survivors_agree_whatever_happens", seeds(60), |seed| {
        let mut random = Seeded::new(seed ^ 0x66e1);
        let nodes = [2, 2, 3, 4, 4, 5, 6][random.below(7)];
        let counts = (0..nodes).map(|_| 1 + random.below(3)).collect();
        let (rounds, failed) = ([0, 100_000][random.below(2)], [0, 0, 500][random.below(3)]);
        let mut run = Run::with_witness(random.number(), counts, rounds, failed);
        let mut end = any_trouble(&mut run, &mut random).max(any_trouble(&mut run, &mut random));
        let (witness, node, at) = (nodes, random.below(nodes), 200 + random.below(300) as u64);
        match random.below(6) {
            0 => run.at(at, Trouble::Gone(witness)),
            1 => run.at(at, Trouble::Silent(witness)),
            2 => {
                let heals = at + random.below(500) as u64;
                run.at(at, Trouble::Cut(node, witness));
                run.at(heals, Trouble::Mend(node, witness));
                end = end.max(heals);
            }
            _ => {}
        }
        run.go(end * MS + AFTERWARDS);
        run.rounds = run.arrived.borrow().iter().copied().max().unwrap_or(0);
        run.go(end * MS + AFTERWARDS + 300 * MS);
        run.check_end();
    });
}

/// The witness dies before a node falls silent: what is left of two nodes decides nothing. It dies before a node is
/// gone with all its processes: that needs nobody's vote.
#[test]
fn without_its_witness_a_job_is_what_it_was() {
    for_each_seed("sentinel", "without_its_witness_a_job_is_what_it_was", seeds(12), |seed| {
        let mut random = Seeded::new(seed ^ 0x91b3);
        let is_gone = random.below(2) == 0;
        let mut run = Run::with_witness(random.number(), vec![1, 1 + random.below(2)], 100_000, 0);
        run.at(240, Trouble::Gone(2));
        run.at(250, if is_gone { Trouble::Gone(1) } else { Trouble::Silent(1) });
        run.go(1_750 * MS);
        assert_eq!(run.has_failed(Unit::Node(1)), is_gone, "{:?}", run.log());
        assert_eq!(run.doubts(0), if is_gone { vec![] } else { vec![1] });
        run.check_waits(is_gone);
    });
}
