//! Any trouble, at random: in small jobs and in large ones. The main part of this program.

use phalanx::fabric::sim::Seeded;

use crate::common::seeds::for_each_seed;
use crate::nature::Trouble;
use crate::run::{MS, Run, Shape};
use crate::seeds;

/// When the first fault happens, at the earliest.
const BEGINNING: u64 = 200 * MS;
/// How long a run goes on after its last fault.
pub const AFTERWARDS: u64 = 1_500 * MS;

/// Any of the troubles that have an end by themselves, and when the last of it happens, in ms.
pub fn any_trouble(run: &mut Run, random: &mut Seeded) -> u64 {
    let nodes = run.layouts.len();
    let start = BEGINNING / MS + random.below(100) as u64;
    let mut end = start;
    for _ in 0..1 + usize::from(random.below(3) == 0) {
        let at = start + if random.below(2) == 0 { 0 } else { random.below(200) as u64 };
        let heals = at + [30 + random.below(120), 300 + random.below(500)][random.below(2)] as u64;
        end = end.max(heals);
        let node = random.below(nodes);
        let rank = random.below(run.topology.ranks());
        let has_company = run.topology.ranks_of(run.topology.node_of(rank)).len() > 1;
        match random.below(8) {
            0 => run.at(at, Trouble::Gone(node)),
            1 => run.at(at, Trouble::Silent(node)),
            2 | 3 if has_company => run.at(at, Trouble::Killed(rank)),
            2 => run.at(at, Trouble::Gone(node)),
            3 | 4 => {
                run.at(at, Trouble::Stopped(rank));
                run.at(heals, Trouble::Continued(rank));
            }
            5 => {
                let most = 1 + random.below(nodes);
                let sides = (0..nodes).map(|_| u32::from(random.below(nodes) < most)).collect();
                run.at(at, Trouble::Partition(sides));
                run.at(heals, Trouble::Unite);
            }
            6 => {
                let others = (0..nodes).filter(|other| *other != node);
                let is_outwards = random.below(2) == 0;
                let link = |other| if is_outwards { (node, other) } else { (other, node) };
                others.for_each(|other| {
                    run.at(at, Trouble::Cut(link(other).0, link(other).1));
                    run.at(heals, Trouble::Mend(link(other).0, link(other).1));
                });
            }
            _ => {
                let other = random.below(nodes);
                run.at(at, Trouble::Cut(node, other));
                run.at(heals, Trouble::Mend(node, other));
            }
        }
    }
    end
}

/// Some ranks leave, or all of some nodes, before, while and after others are in trouble.
fn any_leavings(run: &mut Run, random: &mut Seeded) {
    let start = BEGINNING / MS;
    for _ in 0..1 + random.below(3) {
        let at = start + random.below(200) as u64;
        let rank = random.below(run.topology.ranks());
        let leaving = match random.below(2) {
            0 => vec![rank],
            _ => run.topology.ranks_of(run.topology.node_of(rank)).to_vec(),
        };
        leaving.into_iter().for_each(|rank| run.at(at + random.below(3) as u64, Trouble::Leaves(rank)));
    }
}

fn trouble(seed: u64, sizes: &[usize]) {
    let mut random = Seeded::new(seed ^ 0x5e17);
    let nodes = sizes[random.below(sizes.len())];
    let rounds = [0, 100_000][random.below(2)];
    let failed_per_million = [0, 0, 500][random.below(3)];
    let mut run =
        Run::new(random.number(), Shape { nodes, most_ranks: 1 + random.below(3), rounds, failed_per_million });
    if random.below(3) == 0 {
        any_leavings(&mut run, &mut random);
    }
    let end = any_trouble(&mut run, &mut random);
    run.go(end * MS + AFTERWARDS);
    // Who has not failed meets for the last time.
    run.rounds = run.arrived.borrow().iter().copied().max().unwrap_or(0);
    run.go(end * MS + AFTERWARDS + 300 * MS);
    run.check_end();
    let (ranks, epochs, messages) = (run.topology.ranks(), run.agreed.len(), run.world.delivered());
    println!("seed {seed}: {nodes} nodes, {ranks} ranks, {epochs} epochs, {messages} messages");
}

#[test]
fn survivors_agree_on_who_has_failed_whatever_happens() {
    for_each_seed("sentinel", "survivors_agree_on_who_has_failed_whatever_happens", seeds(60), |seed| {
        trouble(seed, &[2, 3, 4, 5, 8, 17, 32]);
    });
}

#[test]
fn large_jobs_hear_of_failures() {
    for_each_seed("sentinel", "large_jobs_hear_of_failures", 0..4, |seed| {
        let mut random = Seeded::new(seed ^ 0x1a49e);
        let nodes = [64, 200][random.below(2)];
        let mut run = Run::new(random.number(), Shape { nodes, most_ranks: 1, rounds: 0, failed_per_million: 0 });
        // Two that watch each other, or any two; the root of the first epoch's tree, sometimes.
        let first = [1, random.below(nodes)][random.below(2)];
        let second = [(first + 1) % nodes, random.below(nodes)][random.below(2)];
        let how = |node| [Trouble::Gone(node), Trouble::Silent(node)];
        run.at(250, how(first)[random.below(2)].clone());
        run.at(250, how(second)[random.below(2)].clone());
        run.go(1_000 * MS);
        run.check_end();
    });
}

/// The largest, with any trouble. In release most seeds take a second or two, and those with a large partition some
/// more.
#[test]
#[ignore = "too slow for a debug build"]
fn the_largest_jobs_hear_of_failures() {
    for_each_seed("sentinel", "the_largest_jobs_hear_of_failures", seeds(6), |seed| trouble(seed, &[512]));
}
