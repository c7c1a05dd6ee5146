//! The plainest machine that keeps a simulated network busy: a dissemination barrier of radix 2, one word a round.
//!
//! In round `r` each node writes its sequence into word `r` of the node `2^r` further on, and waits for its own word
//! `r`.

use std::task::Poll;

use phalanx::fabric::sim::{SimFabric, SimNode, World};
use phalanx::fabric::{Fabric, Memory, WordAt};
use phalanx::sync::Ordering;

/// Words that it needs at each node.
pub const WORDS: usize = 17;

#[derive(Clone, Debug)]
pub struct Dissemination {
    sequence: u64,
    last: u64,
    round: usize,
    has_sent: bool,
}

impl Dissemination {
    pub fn new(barriers: u64) -> Self {
        Self { sequence: 1, last: barriers, round: 0, has_sent: false }
    }

    /// All nodes of the world pass so many barriers; when each had passed the last.
    pub fn run(world: &mut World, barriers: u64) -> Vec<Option<u64>> {
        let mut machines = vec![Self::new(barriers); world.nodes()];
        world.run(|node, memory, fabric| machines[node].poll(memory, fabric))
    }

    pub fn poll(&mut self, memory: &SimNode, fabric: &SimFabric) -> Poll<()> {
        let nodes = fabric.nodes();
        while self.sequence <= self.last {
            if 1 << self.round >= nodes {
                (self.sequence, self.round) = (self.sequence + 1, 0);
                continue;
            }
            let word = WordAt(self.round);
            if !self.has_sent {
                let peer = (fabric.here() + (1 << self.round)) % nodes;
                if fabric.write(peer, word, self.sequence).is_err() {
                    return Poll::Pending;
                }
                self.has_sent = true;
            }
            if memory.word(word).load(Ordering::Acquire) < self.sequence {
                return Poll::Pending;
            }
            (self.round, self.has_sent) = (self.round + 1, false);
        }
        Poll::Ready(())
    }
}
