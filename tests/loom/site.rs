//! An object's home with two of its ranks: what they ask is executed there at once, by the library's own code, and who
//! waits sleeps, without a time-out, until it is poked. A poke that is lost is a deadlock, which loom reports.

use phalanx::fabric::model::ModelNode;
use phalanx::fabric::node::{HEADER_WORDS, header};
use phalanx::fabric::{Memory, Park, Request, WordAt, execute};
use phalanx::sync::{Ordering, full_fence};

pub struct Site {
    pub node: ModelNode,
    /// A word of each rank, by which it is told to look.
    poked: [WordAt; 2],
}

impl Site {
    /// With so many words of the object.
    pub fn new(words: usize) -> Self {
        let poked = [0, 1].map(|rank| Self::word(words + rank));
        Self { node: ModelNode::new(HEADER_WORDS + words + 2), poked }
    }

    /// One of the object's words.
    pub const fn word(index: usize) -> WordAt {
        WordAt(HEADER_WORDS + index)
    }

    /// The answers to what is asked.
    pub fn ask(&self, requests: &[Request]) -> Vec<u64> {
        let answer = |request: &Request| {
            let (value, _) = execute(&self.node, *request);
            request.has_ticket().then_some(value)
        };
        requests.iter().filter_map(answer).collect()
    }

    /// Has a rank look.
    pub fn poke(&self, rank: usize) {
        execute(&self.node, Request::FetchAdd { at: self.poked[rank], add: 1 });
    }

    /// What the rank that is to sleep remembers, before it looks.
    pub fn pokes(&self, rank: usize) -> u64 {
        self.node.word(self.poked[rank]).load(Ordering::Acquire)
    }

    /// Until the rank is poked, if it was not since `seen`: as `Reach::sleep` does it.
    pub fn sleep(&self, rank: usize, seen: u64) {
        let sleepers = self.node.word(header::FABRIC_SLEEPERS);
        while self.pokes(rank) == seen {
            sleepers.fetch_add(1, Ordering::Relaxed);
            // SYNC POINT: fabric sleepers. With `execute`.
            full_fence();
            self.node.park(self.poked[rank], seen, None);
            sleepers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
