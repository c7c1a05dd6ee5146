//! `phalanx bench lock|rwlock|semaphore|counter|election`: ranks contend for objects for a fixed time.
//!
//! Every system under test runs the same loop (`bench/rivals/contest.h` says it for the rivals, [`rank`] for Phalanx):
//! the first [`Contest::busy`] ranks draw an object at random, acquire it, hold it, give it back and think, until the
//! time is over; the others are idle. Each leaves a [`record`] of when it asked, acquired and began to give back, in
//! ticks of the machine's common clock. Afterwards [`figures`] puts all ranks' records together: what excludes each
//! other is in the order of its times, so that the owner that followed another is found without a word in shared
//! memory, which would have to be fetched in the very handover that it is to time. Two owners at once would show as an
//! overlap.
//!
//! With one busy rank the second half of the time goes to batches of acquire and release with no clock between them: at
//! tens of nanoseconds the clock's reads would be a good part of each pair.
//!
//! Object `k` lives on node `(nodes - 1 - k) mod nodes` with every system that places its objects, so that the first
//! one is on another node than rank 0, which is the busy one where only one is.

pub mod compare;
pub mod figures;
mod page;
mod phalanx;
pub mod rank;
pub mod record;
pub mod report;

use std::process::Command;

use serde::{Deserialize, Serialize};

pub use self::page::{json_lines, render};
pub use crate::rivals::Object;
use crate::rivals::{Rival, RivalError, Task, append_placement};
use crate::workload::Placement;

/// The most objects of a contest: each rank has all of them, in a job that has space for so many.
pub const OBJECTS_MAX: usize = 1024;
/// The longest turn: an hour.
pub const SECONDS_MAX: f64 = 3600.0;

/// One turn of one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contest {
    /// What is contended for.
    pub object: Object,
    /// The ranks.
    pub placement: Placement,
    /// How many of them contend, from the first.
    pub busy: usize,
    /// How many objects there are.
    pub objects: usize,
    /// How long each possession lasts, at least.
    pub hold_ns: u64,
    /// How long a rank waits after it has given back.
    pub think_ns: u64,
    /// The share of possessions that are shared with other readers: of a lock with readers.
    pub readers: f64,
    /// How many may hold it at once: a semaphore.
    pub permits: u32,
    /// How long a turn lasts.
    pub seconds: f64,
    /// The most possessions of each rank in a turn.
    pub iterations: usize,
    /// Possessions of each rank before the record begins, for as long as a fifth of the turn.
    pub warmup: usize,
    /// The most possessions that each rank records.
    pub most_samples: usize,
    /// Seed of what is drawn; rank `r` uses `seed + r`.
    pub seed: u64,
    /// Length of one tick of the common clock.
    pub ns_per_tick: f64,
}

impl Contest {
    /// The node that an object lives on.
    pub fn home_of(&self, object: usize) -> usize {
        let nodes = self.placement.nodes;
        nodes - 1 - object % nodes
    }

    /// Whether one rank has all to itself.
    pub fn is_uncontended(&self) -> bool {
        self.busy == 1
    }
}

impl Task for Contest {
    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn record_extension(&self) -> &'static str {
        record::EXTENSION
    }

    fn append_to(&self, command: &mut Command, max_seconds: f64) {
        append_placement(command, &self.placement);
        let mut option = |name: &str, value: String| {
            command.args([name, &value]);
        };
        option("--object", self.object.name().to_owned());
        option("--nodes", self.placement.nodes.to_string());
        option("--busy", self.busy.to_string());
        option("--objects", self.objects.to_string());
        option("--hold-ns", self.hold_ns.to_string());
        option("--think-ns", self.think_ns.to_string());
        option("--readers", self.readers.to_string());
        option("--permits", self.permits.to_string());
        option("--iterations", self.iterations.to_string());
        option("--warmup", self.warmup.to_string());
        option("--most-samples", self.most_samples.to_string());
        option("--seed", self.seed.to_string());
        option("--ns-per-tick", self.ns_per_tick.to_string());
        option("--max-seconds", max_seconds.to_string());
    }

    fn check_lengths(&self, rival: Rival, lengths: &[u64]) -> Result<(), RivalError> {
        match lengths.iter().position(|length| *length < record::HEAD_BYTES) {
            Some(rank) => Err(RivalError::Record { rival, rank, bytes: lengths[rank], expected: record::HEAD_BYTES }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn contest(object: Object) -> Contest {
        Contest {
            object,
            placement: Placement { ranks: 2, nodes: 1, cpus: Vec::new() },
            busy: 2,
            objects: 1,
            hold_ns: 0,
            think_ns: 0,
            readers: 0.0,
            permits: 1,
            seconds: 0.05,
            iterations: 100_000,
            warmup: 10,
            most_samples: 50_000,
            seed: 3,
            ns_per_tick: 1.0,
        }
    }

    #[test]
    fn the_first_object_is_on_the_last_node_and_each_node_has_its_share() {
        let mut contest = contest(Object::Lock);
        contest.placement = Placement { ranks: 6, nodes: 3, cpus: Vec::new() };
        let homes: Vec<_> = (0..6).map(|object| contest.home_of(object)).collect();
        assert_eq!(homes, [2, 1, 0, 2, 1, 0]);
    }
}
