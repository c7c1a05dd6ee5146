//! A node in one thread: the same contract, for tests that must replay.
//!
//! [`SimNode`] holds words in plain memory and remembers whom a wake would have woken. The test owns the schedule: it
//! polls the ranks' machines in an order drawn from a seed, so that a failing run is named by its seed and repeats
//! exactly. (Interleavings inside one poll are the model checkers' business.)

use std::cell::RefCell;
use std::collections::HashSet;

use super::{Memory, WordAt};
use crate::sync::AtomicU64;

/// The words of one simulated node.
#[derive(Debug)]
pub struct SimNode {
    words: Vec<AtomicU64>,
    woken: RefCell<HashSet<WordAt>>,
}

impl SimNode {
    /// A node of `words` zeroed words.
    pub fn new(words: usize) -> Self {
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), woken: RefCell::new(HashSet::new()) }
    }

    /// The words on which sleepers were woken since the last call.
    pub fn take_woken(&self) -> HashSet<WordAt> {
        self.woken.take()
    }
}

impl Memory for SimNode {
    fn word(&self, at: WordAt) -> &AtomicU64 {
        &self.words[at.0]
    }

    fn words(&self) -> usize {
        self.words.len()
    }

    fn wake(&self, at: WordAt) {
        self.woken.borrow_mut().insert(at);
    }
}

/// A small seeded generator (xorshift64*), so that a schedule is the same on every platform and with every version of
/// every dependency.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not 0.
    #[allow(clippy::cast_possible_truncation, reason = "below a bound that is a usize")]
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }
}
