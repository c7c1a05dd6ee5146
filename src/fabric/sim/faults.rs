//! What can go wrong in a simulated network, and what is wrong now.
//!
//! A fault is applied at once ([`World::apply`](super::World::apply)) or at a time
//! ([`World::schedule`](super::World::schedule)). What they do to messages:
//!
//! | fault | message under way | later messages |
//! | --- | --- | --- |
//! | crash of the target | lost, the connection breaks | lost, until the poster knows; then `Unreachable` |
//! | crash of the source | arrives, if it had left the adapter | – |
//! | cut link, partition | lost if it arrives while the link is cut; the connection breaks | likewise |
//! | link back cut | takes effect, but the poster does not hear of it: the connection breaks | likewise |
//! | failed completion | takes effect or not; the connection breaks | lost, until the poster knows |
//! | duplicate | a write takes effect twice, with time in between, and before what was posted after it | |
//!
//! The poster knows [`Options::detection_ns`](super::Options::detection_ns) after the loss. Once a message of a
//! connection is lost, so are all after it: a connection never skips.

use std::collections::HashSet;

use super::Seeded;

/// Something that goes wrong, or is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node stops, with all that its adapter has not sent yet.
    Crash {
        /// The node.
        node: usize,
    },
    /// The node comes back, its words all 0. Nothing if it has not crashed.
    Restart {
        /// The node.
        node: usize,
    },
    /// Messages from one node to another are lost. For a link that is cut both ways, do both.
    Cut {
        /// Their source.
        from: usize,
        /// Their target.
        to: usize,
    },
    /// Ends a cut.
    Mend {
        /// The messages' source.
        from: usize,
        /// Their target.
        to: usize,
    },
    /// Only nodes of the same side reach each other; a node without an entry is on side 0.
    Partition {
        /// Each node's side.
        sides: Vec<u32>,
    },
    /// Ends a partition.
    Unite,
}

/// How often something goes wrong by itself, in a million messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// A request whose completion fails: with or without effect, half of them each.
    pub failed_per_million: u32,
    /// A write that takes effect twice.
    pub duplicated_per_million: u32,
}

impl Rates {
    pub(super) fn are_zero(self) -> bool {
        self == Self::default()
    }
}

/// What is wrong with the links now.
#[derive(Debug, Default)]
pub(super) struct Links {
    cuts: HashSet<(usize, usize)>,
    sides: Option<Vec<u32>>,
}

impl Links {
    /// Whether messages from one to the other are lost. A node always reaches itself.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        if from == to {
            return false;
        }
        let side = |node: usize| self.sides.as_ref().map_or(0, |sides| sides.get(node).copied().unwrap_or(0));
        side(from) != side(to) || self.cuts.contains(&(from, to))
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        self.cuts.remove(&(from, to));
    }

    pub fn divide(&mut self, sides: Option<Vec<u32>>) {
        self.sides = sides;
    }
}

/// A random plan of faults within a span of time, for property tests: some crashes with and without a restart, cuts
/// that are mended, partitions that end. All but the crashes without a restart are over by the end.
///
/// `spared` nodes from the first on never crash.
pub fn random_plan(random: &mut Seeded, nodes: usize, spared: usize, span_ns: u64) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    for _ in 0..random.below(5) {
        let start = random.number() % span_ns.max(1);
        let end = start + random.number() % (span_ns - start).max(1);
        let (from, to) = (random.below(nodes), random.below(nodes));
        match random.below(6) {
            kind @ (0 | 1) if nodes > spared => {
                let node = spared + random.below(nodes - spared);
                plan.push((start, Fault::Crash { node }));
                if kind == 0 {
                    plan.push((end, Fault::Restart { node }));
                }
            }
            2 => plan.extend([(start, Fault::Cut { from, to }), (end, Fault::Mend { from, to })]),
            3 => {
                plan.extend([(start, Fault::Cut { from, to }), (start, Fault::Cut { from: to, to: from })]);
                plan.extend([(end, Fault::Mend { from, to }), (end, Fault::Mend { from: to, to: from })]);
            }
            _ => {
                let sides = (0..nodes).map(|_| u32::from(random.below(2) == 1)).collect();
                plan.extend([(start, Fault::Partition { sides }), (end, Fault::Unite)]);
            }
        }
    }
    plan.sort_by_key(|(at, _)| *at);
    plan
}
