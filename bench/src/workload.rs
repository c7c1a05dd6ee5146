//! What is measured, said once for Phalanx and for its rivals: how many ranks, how many iterations, and when each
//! rank arrives at the barrier.
//!
//! Every system under test runs the same loop and leaves the same record: for each iteration, when the rank entered
//! the barrier and when it left it, in ticks of the machine's common clock (see [`crate::samples`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// When ranks arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArrivalPattern {
    /// Each rank enters again as soon as it has left. One clock read an iteration: leaving is entering.
    BackToBack,
    /// In iteration `i` rank `i % ranks` spins `late_ns` before it enters; the others enter at once.
    RotateLate,
    /// Each rank spins a uniformly random time below `late_ns` before it enters.
    RandomLate,
    /// Iteration `i` is due at `start + i * period_ns`. A rank spins until then and its entry counts as the due
    /// time, so that a stall shows in all the iterations that it delays (no coordinated omission).
    OpenLoop,
}

impl ArrivalPattern {
    /// All patterns, in the order in which `--help` lists them.
    pub const ALL: [Self; 4] = [Self::BackToBack, Self::RotateLate, Self::RandomLate, Self::OpenLoop];

    /// The name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::BackToBack => "back-to-back",
            Self::RotateLate => "rotate-late",
            Self::RandomLate => "random-late",
            Self::OpenLoop => "open-loop",
        }
    }
}

impl fmt::Display for ArrivalPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ArrivalPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|pattern| pattern.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("unknown arrival pattern {text:?}; choose one of {names}")
        })
    }
}

/// How many ranks there are, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// How many ranks.
    pub ranks: usize,
    /// Over how many nodes, in blocks: the first ranks are on node 0.
    pub nodes: usize,
    /// The CPU of each rank, `cpus[rank % cpus.len()]`; empty: not pinned.
    pub cpus: Vec<usize>,
}

impl Placement {
    /// A rank's node.
    pub fn node_of(&self, rank: usize) -> usize {
        rank * self.nodes / self.ranks
    }

    /// The ranks of a node.
    pub fn ranks_of(&self, node: usize) -> std::ops::Range<usize> {
        let first = |node: usize| (node * self.ranks).div_ceil(self.nodes);
        first(node)..first(node + 1)
    }

    /// Whether ranks share CPUs.
    pub fn is_oversubscribed(&self) -> bool {
        if self.cpus.is_empty() {
            return self.ranks > std::thread::available_parallelism().map_or(1, usize::from);
        }
        let mut cpus = self.cpus.clone();
        cpus.sort_unstable();
        cpus.dedup();
        self.ranks > cpus.len()
    }
}

/// One round of one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Who meets.
    pub placement: Placement,
    /// Iterations that are recorded, after `warmup` that are not.
    pub iterations: usize,
    /// Iterations before the record begins.
    pub warmup: usize,
    /// When ranks arrive.
    pub arrival: ArrivalPattern,
    /// The delay of [`ArrivalPattern::RotateLate`] and the bound of [`ArrivalPattern::RandomLate`].
    pub late_ns: u64,
    /// The period of [`ArrivalPattern::OpenLoop`].
    pub period_ns: u64,
    /// Seed of the random delays; rank `r` uses `seed + r`.
    pub seed: u64,
    /// Length of one tick of the common clock (the time-stamp counter where it is the kernel's clock source,
    /// nanoseconds of `CLOCK_MONOTONIC` elsewhere).
    pub ns_per_tick: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_ranks_are_nodes_and_none_is_empty() {
        for ranks in 1..20 {
            for nodes in 1..=ranks {
                let placement = Placement { ranks, nodes, cpus: Vec::new() };
                let blocks: Vec<_> = (0..nodes).map(|node| placement.ranks_of(node)).collect();
                assert!(blocks.iter().all(|block| !block.is_empty()));
                assert!(blocks.iter().cloned().flatten().eq(0..ranks), "{ranks} ranks on {nodes} nodes: {blocks:?}");
                for (node, mut block) in blocks.into_iter().enumerate() {
                    assert!(block.all(|rank| placement.node_of(rank) == node));
                }
            }
        }
    }
}
