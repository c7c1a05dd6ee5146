//! Drivers: what turns the barriers' state machines into calls that block.
//!
//! A wait polls, and between polls takes the step that the [`WaitPlan`] says: spin, yield the CPU, or park on the
//! arrival word of a missing rank (on the counter, for a central barrier; on the connections, for a node that waits for
//! another). The clock is read once after arriving, for the record, and then once for a handful of spins.
//!
//! What is driven is a [`Machine`]: the barrier of one node ([`Barrier`], in its memory) or of several ([`Spanning`],
//! in its memory and a fabric).

use std::task::Poll;
use std::time::Duration;

use super::barrier::spanning::Spanning;
use super::barrier::{Awaited, Barrier, Contribution, Outcome, Withdrawal};
use super::wait::{Step, WaitPlan};
use crate::clock::Clock;
use crate::fabric::node::header;
use crate::fabric::{Await, Memory, Park};
use crate::scheduling::Prompt;
use crate::sync::{Ordering, full_fence, spin_hint};

/// Polls between two readings of the clock.
const SPINS: u64 = 16;
/// After this long, and then again and again, a wait looks at all members itself; see [`Barrier::poll_thoroughly`].
const THOROUGH_AFTER: Duration = Duration::from_micros(5);
/// The longest time between two such looks.
const THOROUGH_AT_LEAST_EVERY: Duration = Duration::from_micros(50);
/// How long a spinning rank leaves the fabric alone between two looks.
const BETWEEN_REMOTE_LOOKS: Duration = Duration::from_nanos(100);
/// After this long a wait across nodes suspects that a message was lost or a process is held up; see
/// [`Spanning::repair`].
const REPAIR_AFTER: Duration = Duration::from_millis(2);
/// The longest time between two repairs.
const REPAIR_AT_LEAST_EVERY: Duration = Duration::from_millis(20);
/// From then on a rank that parks has the kernel run it at once when it is woken; sooner, that would cost more than it
/// brings.
const PROMPT_AFTER: Duration = Duration::from_micros(200);
/// How long a withdrawal waits for another member that is in the middle of one.
const WITHDRAWAL_LIMIT: Duration = Duration::from_secs(1);

/// A barrier's state machine, with the place `W` where its words are. See [`Barrier`] for what the methods do.
pub trait Machine<W> {
    /// Whether words come from other nodes: a look costs more than a clock's reading, and a message can be lost.
    const IS_REMOTE: bool;

    /// Arrives.
    fn arrive(&mut self, world: &W, contribution: Contribution, cpu: Option<usize>);
    /// Notes when.
    fn note_arrival_time(&self, world: &W, ticks: u64);
    /// Whether all have arrived.
    fn poll(&mut self, world: &W) -> Poll<Outcome>;
    /// Whether all have arrived, trusting nobody else on the node to be polling.
    fn poll_thoroughly(&mut self, world: &W) -> Poll<Outcome>;
    /// Whether all have arrived, trusting no message to have come.
    fn repair(&mut self, world: &W) -> Poll<Outcome>;
    /// Adds a wait to the record.
    fn note_wait(&self, world: &W, ticks: u64, came_last: bool);
    /// Whether this member was seen to come last.
    fn came_last(&self) -> bool;
    /// Whether yielding the CPU may help.
    fn is_missing_on(&mut self, world: &W, cpu: usize) -> bool;
    /// What [`header::ALARM`] holds.
    fn alarm(&self, world: &W) -> u64;
    /// Sleeps until something that is waited for has changed, or the alarm holds something else than `alarm`, or
    /// `timeout` has passed, or for no reason.
    fn park(&self, world: &W, alarm: u64, timeout: Option<Duration>);
    /// Takes the arrival back.
    fn withdraw(&mut self, world: &W) -> Poll<Withdrawal>;
    /// Gives a pending withdrawal up.
    fn insist(&mut self, world: &W);
}

impl<M: Park> Machine<M> for Barrier {
    const IS_REMOTE: bool = false;

    #[inline]
    fn arrive(&mut self, memory: &M, contribution: Contribution, cpu: Option<usize>) {
        Self::arrive(self, memory, contribution, cpu);
    }

    #[inline]
    fn note_arrival_time(&self, memory: &M, ticks: u64) {
        Self::note_arrival_time(self, memory, ticks);
    }

    #[inline]
    fn poll(&mut self, memory: &M) -> Poll<Outcome> {
        Self::poll(self, memory)
    }

    fn poll_thoroughly(&mut self, memory: &M) -> Poll<Outcome> {
        Self::poll_thoroughly(self, memory)
    }

    fn repair(&mut self, memory: &M) -> Poll<Outcome> {
        Self::poll_thoroughly(self, memory)
    }

    #[inline]
    fn note_wait(&self, memory: &M, ticks: u64, came_last: bool) {
        Self::note_wait(self, memory, ticks, came_last);
    }

    #[inline]
    fn came_last(&self) -> bool {
        Self::came_last(self)
    }

    fn is_missing_on(&mut self, memory: &M, cpu: usize) -> bool {
        Self::is_missing_on(self, memory, cpu)
    }

    fn alarm(&self, memory: &M) -> u64 {
        alarm(memory)
    }

    fn park(&self, memory: &M, alarm: u64, timeout: Option<Duration>) {
        if let Some(awaited) = self.awaited(memory) {
            sleep_on(memory, awaited, alarm, timeout);
        }
    }

    fn withdraw(&mut self, memory: &M) -> Poll<Withdrawal> {
        Self::withdraw(self, memory)
    }

    fn insist(&mut self, memory: &M) {
        Self::insist(self, memory);
    }
}

/// Where the words of a spanning group are: this node's memory, and the fabric to the others.
#[derive(Debug)]
pub struct Reach<'world, M, F> {
    /// This node's words.
    pub memory: &'world M,
    /// The other nodes' words.
    pub fabric: &'world F,
}

impl<M: Park, F: Await> Machine<Reach<'_, M, F>> for Spanning {
    const IS_REMOTE: bool = true;

    fn arrive(&mut self, reach: &Reach<'_, M, F>, contribution: Contribution, cpu: Option<usize>) {
        Self::arrive(self, reach.memory, contribution, cpu);
    }

    fn note_arrival_time(&self, reach: &Reach<'_, M, F>, ticks: u64) {
        Self::note_arrival_time(self, reach.memory, ticks);
    }

    #[inline]
    fn poll(&mut self, reach: &Reach<'_, M, F>) -> Poll<Outcome> {
        Self::poll(self, reach.memory, reach.fabric)
    }

    fn poll_thoroughly(&mut self, reach: &Reach<'_, M, F>) -> Poll<Outcome> {
        Self::poll_thoroughly(self, reach.memory, reach.fabric)
    }

    fn repair(&mut self, reach: &Reach<'_, M, F>) -> Poll<Outcome> {
        Self::repair(self, reach.memory, reach.fabric)
    }

    fn note_wait(&self, reach: &Reach<'_, M, F>, ticks: u64, came_last: bool) {
        Self::note_wait(self, reach.memory, ticks, came_last);
    }

    fn came_last(&self) -> bool {
        Self::came_last(self)
    }

    fn is_missing_on(&mut self, reach: &Reach<'_, M, F>, cpu: usize) -> bool {
        Self::is_missing_on(self, reach.memory, cpu)
    }

    fn alarm(&self, reach: &Reach<'_, M, F>) -> u64 {
        alarm(reach.memory)
    }

    fn park(&self, reach: &Reach<'_, M, F>, alarm: u64, timeout: Option<Duration>) {
        let nap = reach.fabric.longest_nap();
        let timeout = timeout.into_iter().chain(nap).min();
        if let Some(awaited) = self.awaited(reach.memory) {
            reach.fabric.hand_over();
            return sleep_on(reach.memory, awaited, alarm, timeout);
        }
        let Some((word, seen)) = self.awaited_from_afar(reach.memory) else { return };
        if !reach.fabric.sleep(word, seen, alarm, timeout) {
            sleep_on(reach.memory, Awaited { word, seen, sleepers: header::FABRIC_SLEEPERS }, alarm, timeout);
        }
    }

    fn withdraw(&mut self, reach: &Reach<'_, M, F>) -> Poll<Withdrawal> {
        Self::withdraw(self, reach.memory, reach.fabric)
    }

    fn insist(&mut self, reach: &Reach<'_, M, F>) {
        Self::insist(self, reach.memory, reach.fabric);
    }
}

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

/// What ends a wait, apart from the barrier.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The clock's reading after which it has taken too long.
    pub deadline: Option<u64>,
    /// What the alarm held when this rank heeded it last.
    pub alarm: u64,
    /// After this long, from the wait's beginning, the caller wants to look for itself.
    pub patience: Duration,
}

impl Bounds {
    /// How a wait ends now that began at `entered`, unless the barrier is passed: `None` while no bound is reached.
    fn reached(&self, alarm: u64, now: u64, waited: Duration, entered: u64) -> Option<Waited> {
        if alarm != self.alarm {
            Some(Waited::Alarmed { since: entered })
        } else if self.deadline.is_some_and(|deadline| now >= deadline) {
            Some(Waited::TimedOut)
        } else if waited >= self.patience {
            Some(Waited::Long { since: entered })
        } else {
            None
        }
    }
}

/// How a wait has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The barrier is passed.
    Passed(Outcome),
    /// The deadline has passed. The arrival stands, and waiting can be resumed.
    TimedOut,
    /// The alarm has been raised. The arrival stands, and the wait that began at `since` can be resumed.
    Alarmed {
        /// By the clock.
        since: u64,
    },
    /// It takes long. The arrival stands, and the wait that began at `since` can be resumed.
    Long {
        /// By the clock.
        since: u64,
    },
}

/// The looks of a long wait that cost more than a poll, and when each is due, counted from the wait's beginning.
struct DearLooks {
    thorough_at: Duration,
    repair_at: Duration,
}

impl DearLooks {
    fn new() -> Self {
        Self { thorough_at: THOROUGH_AFTER, repair_at: REPAIR_AFTER }
    }

    /// Looks in those ways that are due after `waited`; `is_to_be_sure`: thoroughly in any case.
    fn look<W, B: Machine<W>>(
        &mut self,
        barrier: &mut B,
        world: &W,
        waited: Duration,
        is_to_be_sure: bool,
    ) -> Poll<Outcome> {
        if is_to_be_sure || waited >= self.thorough_at {
            self.thorough_at = waited + waited.min(THOROUGH_AT_LEAST_EVERY);
            if let ready @ Poll::Ready(_) = barrier.poll_thoroughly(world) {
                return ready;
            }
        }
        if B::IS_REMOTE && waited >= self.repair_at {
            self.repair_at = waited + waited.min(REPAIR_AT_LEAST_EVERY);
            return barrier.repair(world);
        }
        Poll::Pending
    }
}

/// An arrival that a driver has made: what the wait for it needs to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrived {
    cpu: Option<usize>,
    /// When, as the clock was read; 0 without attribution.
    pub at: u64,
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
    pub fn arrive<W>(&self, barrier: &mut impl Machine<W>, world: &W, contribution: Contribution) -> Arrived {
        let cpu = match self.cpu {
            CpuHint::Dedicated => None,
            CpuHint::Pinned(cpu) => Some(cpu),
            CpuHint::Floating => Some(crate::machine::current_cpu()),
        };
        barrier.arrive(world, contribution, cpu);
        let at = if cfg!(feature = "attribution") { self.clock.now() } else { 0 };
        if cfg!(feature = "attribution") {
            barrier.note_arrival_time(world, at);
        }
        Arrived { cpu, at }
    }

    /// Looks once. Looking is not waiting: what passes between two looks is the caller's own time.
    pub fn test<W>(&self, barrier: &mut impl Machine<W>, world: &W) -> Option<Outcome> {
        let Poll::Ready(outcome) = barrier.poll_thoroughly(world) else { return None };
        self.note_wait(barrier, world, || 0);
        Some(outcome)
    }

    /// Waits until the barrier is passed, or one of the bounds is reached.
    #[inline]
    pub fn wait<W, B: Machine<W>>(&self, barrier: &mut B, world: &W, arrived: &Arrived, bounds: Bounds) -> Waited {
        // The first look at another node is what tells it, and may take long; all is timed there.
        if B::IS_REMOTE {
            let entered = self.clock.now();
            if let Poll::Ready(outcome) = barrier.poll(world) {
                self.note_wait(barrier, world, || self.clock.now().saturating_sub(entered));
                return Waited::Passed(outcome);
            }
            return self.wait_long(barrier, world, arrived, bounds, entered);
        }
        // Turns are counted instead of timed, where they are all alike.
        let turns = self.polls();
        for turn in 0..turns {
            if turn > 0 {
                spin_hint();
            }
            if let Poll::Ready(outcome) = barrier.poll(world) {
                self.note_wait(barrier, world, || turn * self.spin_ticks);
                return Waited::Passed(outcome);
            }
        }
        self.wait_long(barrier, world, arrived, bounds, self.clock.now())
    }

    /// Goes on with a wait that was interrupted; it began at `since`.
    pub fn resume<W, B: Machine<W>>(
        &self,
        barrier: &mut B,
        world: &W,
        arrived: &Arrived,
        bounds: Bounds,
        since: u64,
    ) -> Waited {
        self.wait_long(barrier, world, arrived, bounds, since)
    }

    #[cold]
    fn wait_long<W, B: Machine<W>>(
        &self,
        barrier: &mut B,
        world: &W,
        arrived: &Arrived,
        bounds: Bounds,
        entered: u64,
    ) -> Waited {
        let mut now = self.clock.now();
        let (mut dear, mut prompt) = (DearLooks::new(), None);
        let outcome = loop {
            let waited = Duration::from_nanos(self.clock.ns(now.saturating_sub(entered)));
            let reached = bounds.reached(barrier.alarm(world), now, waited, entered);
            let neighbour_is_missing = arrived.cpu.is_some_and(|cpu| barrier.is_missing_on(world, cpu));
            let step = self.plan.step(waited, neighbour_is_missing);
            let is_to_be_sure = reached.is_some() || step == Step::Park;
            if let Poll::Ready(outcome) = dear.look(barrier, world, waited, is_to_be_sure) {
                break outcome;
            }
            if let Some(end) = reached {
                return Self::break_off(barrier, world, end, now.saturating_sub(entered));
            }
            match step {
                Step::Spin if B::IS_REMOTE => self.pause_between_looks(),
                Step::Spin => spin_hint(),
                Step::Yield => crate::machine::yield_cpu(),
                Step::Park => {
                    if waited >= PROMPT_AFTER {
                        prompt.get_or_insert_with(Prompt::new);
                    }
                    let repair = B::IS_REMOTE.then(|| dear.repair_at.saturating_sub(waited));
                    let timeout = self.left(&bounds, now, waited).min(repair.unwrap_or(Duration::MAX));
                    barrier.park(world, bounds.alarm, Some(timeout));
                }
            }
            let looks = if B::IS_REMOTE { 1 } else { self.polls() };
            if let Poll::Ready(outcome) = self.poll_a_few(looks, barrier, world) {
                break outcome;
            }
            now = self.clock.now();
        };
        self.note_wait(barrier, world, || self.clock.now().saturating_sub(entered));
        Waited::Passed(outcome)
    }

    /// A bound ends the wait, after so many ticks.
    fn break_off<W, B: Machine<W>>(barrier: &mut B, world: &W, end: Waited, ticks: u64) -> Waited {
        // This call's share; a later one adds its own.
        if cfg!(feature = "attribution") && end == Waited::TimedOut {
            barrier.note_wait(world, ticks, false);
        }
        end
    }

    /// How long it is until a bound is reached that time alone reaches.
    fn left(&self, bounds: &Bounds, now: u64, waited: Duration) -> Duration {
        let patience = bounds.patience.saturating_sub(waited);
        bounds.deadline.map_or(patience, |deadline| patience.min(self.span(now, deadline)))
    }

    fn span(&self, from: u64, to: u64) -> Duration {
        Duration::from_nanos(self.clock.ns(to.saturating_sub(from)))
    }

    /// Polls between two readings of the clock. A neighbour on this CPU cannot arrive while this rank spins.
    #[inline]
    fn polls(&self) -> u64 {
        if self.plan.shares_cpus { 1 } else { SPINS }
    }

    /// A look at a socket takes its lock, which whoever delivers to it needs.
    fn pause_between_looks(&self) {
        let until = self.clock.now() + self.clock.ticks(BETWEEN_REMOTE_LOOKS);
        while self.clock.now() < until {
            spin_hint();
        }
    }

    fn poll_a_few<W>(&self, looks: u64, barrier: &mut impl Machine<W>, world: &W) -> Poll<Outcome> {
        for _ in 1..looks {
            if let ready @ Poll::Ready(_) = barrier.poll(world) {
                return ready;
            }
            spin_hint();
        }
        barrier.poll(world)
    }

    /// Takes the arrival back, waiting briefly for another member that is in the middle of the same.
    pub fn withdraw<W>(&self, barrier: &mut impl Machine<W>, world: &W) -> Withdrawal {
        let limit = self.clock.now().saturating_add(self.clock.ticks(WITHDRAWAL_LIMIT));
        loop {
            if let Poll::Ready(withdrawal) = barrier.withdraw(world) {
                return withdrawal;
            }
            if self.clock.now() >= limit {
                barrier.insist(world);
                return Withdrawal::Exhausted;
            }
            crate::machine::yield_cpu();
        }
    }

    #[inline]
    fn note_wait<W>(&self, barrier: &impl Machine<W>, world: &W, ticks: impl FnOnce() -> u64) {
        if cfg!(feature = "attribution") {
            let came_last = barrier.came_last();
            barrier.note_wait(world, if came_last { 0 } else { ticks() }, came_last);
        }
    }
}

/// Sleeps until something that the barrier waits for has changed, or `timeout` has passed, or for no reason. For tests
/// of the protocol by which sleepers are woken.
pub fn park(barrier: &Barrier, memory: &impl Park, timeout: Option<Duration>) {
    if let Some(awaited) = barrier.awaited(memory) {
        counted(memory, awaited, || memory.park(awaited.word, awaited.seen, timeout));
    }
}

/// What the alarm holds.
pub fn alarm(memory: &impl Memory) -> u64 {
    // SYNC POINT: alarm. Acquire pairs with whoever raises it: what it is about is seen.
    memory.word(header::ALARM).load(Ordering::Acquire)
}

fn sleep_on(memory: &impl Park, awaited: Awaited, alarm: u64, timeout: Option<Duration>) {
    counted(memory, awaited, || memory.park_heeding(awaited.word, awaited.seen, alarm, timeout));
}

/// Sleeps as one of those who are counted.
fn counted(memory: &impl Park, awaited: Awaited, sleep: impl FnOnce()) {
    let sleepers = memory.word(awaited.sleepers);
    sleepers.fetch_add(1, Ordering::Relaxed);
    // SYNC POINT: arrival, decision, release, fabric sleepers. This rank is counted before the word is compared (by the
    // kernel, in `park`); whoever changes the word does so before it looks at the count. One of the two sees the other.
    full_fence();
    sleep();
    sleepers.fetch_sub(1, Ordering::Relaxed);
}
