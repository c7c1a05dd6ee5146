//! What a simulated network is made with, and what it counts.

use super::{Costs, Rates};
use crate::fabric::{AtomicScope, BATCH_REQUESTS};

/// How a [`World`](super::World) is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// How many words each node has.
    pub words: usize,
    /// What all random numbers come from.
    pub seed: u64,
    /// What messages cost.
    pub costs: Costs,
    /// What executes `fetch_add` and `compare_swap`.
    pub atomics: Atomics,
    /// What goes wrong by itself.
    pub rates: Rates,
    /// How many requests a node can have under way, and how many tickets not taken.
    pub requests_max: usize,
    /// From the loss of a message until its poster knows.
    pub detection_ns: u64,
}

impl Options {
    /// A network with the default costs and without faults.
    pub fn new(nodes: usize, words: usize) -> Self {
        Self {
            nodes,
            words,
            seed: 1,
            costs: Costs::default(),
            atomics: Atomics::Cpu,
            rates: Rates::default(),
            requests_max: 4096,
            detection_ns: 20_000,
        }
    }

    pub(super) fn check(&self) {
        assert!(u32::try_from(self.nodes).is_ok(), "{} nodes are more than 32 bits can number", self.nodes);
        assert!(self.requests_max >= BATCH_REQUESTS, "a node has room for one batch of {BATCH_REQUESTS} at least");
        assert!(u32::try_from(self.requests_max).is_ok(), "{} requests at a time are too many", self.requests_max);
    }
}

/// What executes the network's read-modify-writes, and so what they are atomic against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomics {
    /// The home's CPU: atomic against everything.
    Cpu,
    /// The home's adapter: it reads the word, and writes it later. Read-modify-writes of the network wait for each
    /// other; what the home's CPU stores meanwhile is overwritten.
    Adapter {
        /// From the read to the write.
        apart_ns: u64,
    },
}

impl Atomics {
    pub(super) fn scope(self) -> AtomicScope {
        match self {
            Self::Cpu => AtomicScope::Cpu,
            Self::Adapter { .. } => AtomicScope::Fabric,
        }
    }
}

/// What a node's adapter has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests and replies sent.
    pub sent: u64,
    /// Their bytes, headers included.
    pub sent_bytes: u64,
    /// Requests that took effect here, and replies that came back.
    pub received: u64,
}
