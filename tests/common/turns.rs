//! In which order ranks have a lock, against that of their claims: the oracle of the models of a node's lock.
//!
//! Between claims first come first served is strict: whose claim was there before another one's was begun has the lock
//! before it. A rank that has none may pass those who wait so often in a row, and then has to queue behind them.
//!
//! Its words are no model's: they are read as they are when the code under test gets that far.

use std::sync::atomic::{AtomicU64, Ordering};

/// What ranks of a lock wait for, and since when.
pub struct Turns {
    clock: AtomicU64,
    /// For each rank since when its claim is there, by the clock; 0: it has none.
    claimed: Vec<AtomicU64>,
    /// For each rank how often each other one has passed it since then.
    passed: Vec<Vec<AtomicU64>>,
}

impl Turns {
    /// Of so many ranks, which have no claims.
    pub fn new(ranks: usize) -> Self {
        let zeros = || (0..ranks).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        Self { clock: AtomicU64::new(1), claimed: zeros(), passed: (0..ranks).map(|_| zeros()).collect() }
    }

    /// Now: what is over before, and what begins after it, are told apart by it.
    pub fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A rank's claim is there.
    pub fn claim(&self, rank: usize) {
        self.passed[rank].iter().for_each(|passed| passed.store(0, Ordering::SeqCst));
        self.claimed[rank].store(self.now(), Ordering::SeqCst);
    }

    /// A rank does not insist on its claim any more, or has the lock.
    pub fn leave(&self, rank: usize) {
        self.claimed[rank].store(0, Ordering::SeqCst);
    }

    /// A rank has the lock by its claim, which it began to make then.
    pub fn granted(&self, rank: usize, begun: u64, has_ended: impl Fn(usize) -> bool) {
        self.leave(rank);
        let first = (0..self.claimed.len()).find(|other| self.waits_before(*other, begun) && !has_ended(*other));
        assert_eq!(first, None, "rank {rank} has the lock before it, whose claim was there before");
    }

    /// A rank has the lock without a claim; it may pass those who wait so often.
    pub fn taken(&self, rank: usize, begun: u64, most: u64) {
        for (other, passed) in self.passed.iter().enumerate().filter(|(other, _)| self.waits_before(*other, begun)) {
            let passed = passed[rank].fetch_add(1, Ordering::SeqCst) + 1;
            assert!(passed <= most, "rank {rank} has passed rank {other} {passed} times");
        }
    }

    fn waits_before(&self, rank: usize, begun: u64) -> bool {
        (1..begun).contains(&self.claimed[rank].load(Ordering::SeqCst))
    }
}
