//! Drivers: what turns the barrier's state machine into calls that block.
//!
//! A wait polls, and between polls takes the step that the [`WaitPlan`] says: spin, yield the CPU, or park on the
//! arrival word of a missing rank (on the counter, for a central barrier). The clock is read once after arriving, for
//! the record, and then once for a handful of spins.

use std::task::Poll;
use std::time::Duration;

use super::barrier::{Barrier, Contribution, Outcome, Withdrawal};
use super::wait::{Step, WaitPlan};
use crate::clock::Clock;
use crate::fabric::Park;
use crate::sync::{Ordering, full_fence, spin_hint};

/// Polls between two readings of the clock.
const SPINS: u64 = 16;
/// After this long, and then again and again, a wait looks at all members itself; see [`Barrier::poll_thoroughly`].
const THOROUGH_AFTER: Duration = Duration::from_micros(5);
/// The longest time between two such looks.
const THOROUGH_AT_LEAST_EVERY: Duration = Duration::from_micros(50);
/// How long a withdrawal waits for another member that is in the middle of one.
const WITHDRAWAL_LIMIT: Duration = Duration::from_secs(1);

/// Where this rank runs.
#[derive(Clone, Copy, Debug)]
pub enum CpuHint {
    /// Every rank has its own CPU: nobody needs to know.
    Dedicated,
    /// Pinned to this one, which others may share.
    Pinned(usize),
    /// Floating: the kernel is asked at each arrival.
    Floating,
}

/// Drives barriers for one rank.
#[derive(Clone, Debug)]
pub struct Driver {
    /// The node's clock.
    pub clock: Clock,
    /// How to wait.
    pub plan: WaitPlan,
    /// Where the rank runs.
    pub cpu: CpuHint,
    /// What one turn of the spin loop costs, in ticks.
    pub spin_ticks: u64,
}

/// An arrival that a driver has made: what the wait for it needs to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrived {
    cpu: Option<usize>,
}

impl Driver {
    /// A driver; measures the cost of a spin, which takes some microseconds.
    pub fn new(clock: Clock, plan: WaitPlan, cpu: CpuHint) -> Self {
        const TURNS: u64 = 64;
        let start = clock.now();
        for _ in 0..TURNS {
            spin_hint();
        }
        let spin_ticks = clock.now().saturating_sub(start).div_ceil(TURNS);
        let cpu = if plan.shares_cpus { cpu } else { CpuHint::Dedicated };
        Self { clock, plan, cpu, spin_ticks }
    }

    /// Arrives.
    #[inline]
    pub fn arrive(&self, barrier: &mut Barrier, memory: &impl Park, contribution: Contribution) -> Arrived {
        let cpu = match self.cpu {
            CpuHint::Dedicated => None,
            CpuHint::Pinned(cpu) => Some(cpu),
            CpuHint::Floating => Some(crate::machine::current_cpu()),
        };
        barrier.arrive(memory, contribution, cpu);
        if cfg!(feature = "attribution") {
            barrier.note_arrival_time(memory, self.clock.now());
        }
        Arrived { cpu }
    }

    /// Looks once. Looking is not waiting: what passes between two looks is the caller's own time.
    pub fn test(&self, barrier: &mut Barrier, memory: &impl Park) -> Option<Outcome> {
        let Poll::Ready(outcome) = barrier.poll_thoroughly(memory) else { return None };
        self.note_wait(barrier, memory, || 0);
        Some(outcome)
    }

    /// Waits until the barrier is passed, or until the clock reads `deadline`.
    ///
    /// `None` is a time-out: the arrival stands, and waiting can be resumed.
    #[inline]
    pub fn wait(
        &self,
        barrier: &mut Barrier,
        memory: &impl Park,
        arrived: &Arrived,
        deadline: Option<u64>,
    ) -> Option<Outcome> {
        for turn in 0..self.polls() {
            if turn > 0 {
                spin_hint();
            }
            if let Poll::Ready(outcome) = barrier.poll(memory) {
                self.note_wait(barrier, memory, || turn * self.spin_ticks);
                return Some(outcome);
            }
        }
        self.wait_long(barrier, memory, arrived, deadline)
    }

    #[cold]
    fn wait_long(
        &self,
        barrier: &mut Barrier,
        memory: &impl Park,
        arrived: &Arrived,
        deadline: Option<u64>,
    ) -> Option<Outcome> {
        let entered = self.clock.now();
        let mut now = entered;
        let mut thorough_at = THOROUGH_AFTER;
        loop {
            let waited = Duration::from_nanos(self.clock.ns(now.saturating_sub(entered)));
            let is_late = deadline.is_some_and(|deadline| now >= deadline);
            let neighbour_is_missing = arrived.cpu.is_some_and(|cpu| barrier.is_missing_on(memory, cpu));
            let step = self.plan.step(waited, neighbour_is_missing);
            if is_late || waited >= thorough_at || step == Step::Park {
                thorough_at = waited + waited.min(THOROUGH_AT_LEAST_EVERY);
                if let Poll::Ready(outcome) = barrier.poll_thoroughly(memory) {
                    self.note_wait(barrier, memory, || self.clock.now().saturating_sub(entered));
                    return Some(outcome);
                }
            }
            if is_late {
                // This call's share; a later one adds its own.
                if cfg!(feature = "attribution") {
                    barrier.note_wait(memory, now.saturating_sub(entered), false);
                }
                return None;
            }
            match step {
                Step::Spin => spin_hint(),
                Step::Yield => crate::machine::yield_cpu(),
                Step::Park => park(barrier, memory, deadline.map(|deadline| self.span(now, deadline))),
            }
            if let Poll::Ready(outcome) = self.poll_a_few(barrier, memory) {
                self.note_wait(barrier, memory, || self.clock.now().saturating_sub(entered));
                return Some(outcome);
            }
            now = self.clock.now();
        }
    }

    fn span(&self, from: u64, to: u64) -> Duration {
        Duration::from_nanos(self.clock.ns(to.saturating_sub(from)))
    }

    /// Polls between two readings of the clock. A neighbour on this CPU cannot arrive while this rank spins.
    #[inline]
    fn polls(&self) -> u64 {
        if self.plan.shares_cpus { 1 } else { SPINS }
    }

    fn poll_a_few(&self, barrier: &mut Barrier, memory: &impl Park) -> Poll<Outcome> {
        for _ in 1..self.polls() {
            if let ready @ Poll::Ready(_) = barrier.poll(memory) {
                return ready;
            }
            spin_hint();
        }
        barrier.poll(memory)
    }

    /// Takes the arrival back, waiting briefly for another member that is in the middle of the same.
    pub fn withdraw(&self, barrier: &mut Barrier, memory: &impl Park) -> Withdrawal {
        let limit = self.clock.now().saturating_add(self.clock.ticks(WITHDRAWAL_LIMIT));
        loop {
            if let Poll::Ready(withdrawal) = barrier.withdraw(memory) {
                return withdrawal;
            }
            if self.clock.now() >= limit {
                barrier.insist(memory);
                return Withdrawal::Exhausted;
            }
            crate::machine::yield_cpu();
        }
    }

    #[inline]
    fn note_wait(&self, barrier: &Barrier, memory: &impl Park, ticks: impl FnOnce() -> u64) {
        if cfg!(feature = "attribution") {
            let came_last = barrier.came_last();
            barrier.note_wait(memory, if came_last { 0 } else { ticks() }, came_last);
        }
    }
}

/// Sleeps until something that the barrier waits for has changed, or `timeout` has passed, or for no reason.
pub fn park(barrier: &Barrier, memory: &impl Park, timeout: Option<Duration>) {
    let Some(awaited) = barrier.awaited(memory) else { return };
    let sleepers = memory.word(awaited.sleepers);
    sleepers.fetch_add(1, Ordering::Relaxed);
    // SYNC POINT: arrival, decision sleepers. This rank is counted before the word is compared (by the kernel, in
    // `park`); whoever changes the word does so before it looks at the count. One of the two sees the other.
    full_fence();
    memory.park(awaited.word, awaited.seen, timeout);
    sleepers.fetch_sub(1, Ordering::Relaxed);
}
