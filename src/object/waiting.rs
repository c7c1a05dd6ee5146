//! A wait for others: how long it has lasted, what the waiting rank does next, and whether those run who hold it up.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::cluster::stopped::StoppedSince;
use crate::coord::wait::{Step, WaitPlan};
use crate::job::Membership;

/// How long a rank that shares its CPU spins before it sleeps: about what it costs to sleep and be woken.
pub(super) const SPIN_ON_SHARED: Duration = Duration::from_micros(4);
/// After so long the kernel is to run a rank that sleeps as soon as it is woken.
pub(super) const PROMPT_AFTER: Duration = Duration::from_micros(200);
/// How long a wait lasts before this rank looks whether those run who hold it up.
const LOOK_AFTER: Duration = Duration::from_millis(20);
/// Between two such looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A wait as it goes on.
#[derive(Debug)]
pub(super) struct Wait {
    begun: Instant,
    /// When the clock was read last.
    now: Instant,
    /// Those ranks of this node that the last look has found stopped.
    stopped: HashMap<usize, StoppedSince>,
    looked: Instant,
}

impl Wait {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, now, stopped: HashMap::new(), looked: now }
    }

    pub fn waited(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How long it had lasted when the clock was read last.
    pub fn span(&self) -> Duration {
        self.now - self.begun
    }

    /// Reads the clock.
    pub fn look_at_the_clock(&mut self) -> Instant {
        self.now = Instant::now();
        self.now
    }

    /// If it is time, by the clock as it was read last: looks whether those run who hold this rank up.
    pub fn look_at(&mut self, membership: &Membership, awaited: impl FnOnce() -> Vec<usize>) {
        let now = self.now;
        if now - self.begun < LOOK_AFTER || now - self.looked < LOOK_EVERY {
            return;
        }
        let before = std::mem::take(&mut self.stopped);
        self.looked = now;
        for rank in awaited() {
            let seen = membership.look_whether_runs(rank, before.get(&rank).copied(), now - self.begun);
            self.stopped.extend(seen.map(|seen| (rank, seen)));
        }
    }
}

/// The next step of a rank that waits and has been awake for so long.
pub(super) fn step_after(plan: &WaitPlan, awake: Duration) -> Step {
    // Whoever holds this rank up may need this CPU, and a rank that yields would be handed the lock while it does not
    // run.
    if plan.shares_cpus {
        return if awake < SPIN_ON_SHARED.min(plan.yield_until) { Step::Spin } else { Step::Park };
    }
    plan.step(awake, false)
}
