//! A simulated node's words, in plain memory.

use std::cell::RefCell;
use std::collections::HashSet;

use crate::fabric::{Memory, WordAt};
use crate::sync::{AtomicU64, Ordering};

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

    /// As after a restart: every word holds 0, and nobody has been woken.
    pub(super) fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.woken.take();
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
