//! A node's words under a model checker: the same contract as shared memory, built from the checker's own atomics,
//! mutex and condition variable, so that the real primitives run in every interleaving that the checker tries.

#[cfg(model = "loom")]
use loom::sync::{Condvar, Mutex};
#[cfg(model = "shuttle")]
use shuttle::sync::{Condvar, Mutex};
use std::time::Duration;

use super::node::header;
use super::{Memory, Park, WordAt, lower_half};
use crate::sync::{AtomicU64, Ordering};

/// The words and the bed of those who sleep.
#[derive(Debug)]
pub struct ModelNode {
    words: Vec<AtomicU64>,
    bed: Mutex<()>,
    bell: Condvar,
}

impl ModelNode {
    /// A node of `words` zeroed words.
    pub fn new(words: usize) -> Self {
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), bed: Mutex::new(()), bell: Condvar::new() }
    }
}

impl Memory for ModelNode {
    fn word(&self, at: WordAt) -> &AtomicU64 {
        &self.words[at.0]
    }

    fn words(&self) -> usize {
        self.words.len()
    }

    fn wake(&self, _at: WordAt) {
        // Taking the lock orders this wake before or after a sleeper's comparison, as the kernel's futex does.
        drop(self.bed.lock().expect("no panic holds the lock"));
        self.bell.notify_all();
    }
}

impl ModelNode {
    /// Sleeps if all of some words hold what was seen.
    fn sleep_while(&self, seen: &[(WordAt, u64)]) {
        let guard = self.bed.lock().expect("no panic holds the lock");
        let is_as_seen =
            |(at, seen): &(WordAt, u64)| lower_half(self.word(*at).load(Ordering::Relaxed)) == lower_half(*seen);
        if seen.iter().all(is_as_seen) {
            drop(self.bell.wait(guard).expect("no panic holds the lock"));
        }
    }
}

impl Park for ModelNode {
    fn park(&self, at: WordAt, seen: u64, _timeout: Option<Duration>) {
        self.sleep_while(&[(at, seen)]);
    }

    fn park_heeding(&self, at: WordAt, seen: u64, alarm: u64, _timeout: Option<Duration>) {
        self.sleep_while(&[(at, seen), (header::ALARM, alarm)]);
    }
}
