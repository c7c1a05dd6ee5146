//! Central counter: every arrival is counted in one word, and the last one's count is the release.
//!
//! For more members than CPUs. There, arrivals do not collide (one rank of a CPU runs at a time) and the cost is
//! context switches: a member that waits yields its CPU while a member of the same CPU is missing, spins for the other
//! CPUs' members a little, and then parks on the decision word.
//!
//! The word decides for all: its sequence grows at the instant of the last arrival. Taking an arrival back is one
//! compare-and-swap that counts down, and fails once the sequence has grown.

use std::task::Poll;

use super::word::{ArrivalWord, DecisionWord, Phase};
use super::{Awaited, Outcome, Side, State, Withdrawal};
use crate::fabric::Memory;
use crate::sync::{Ordering, full_fence_after_rmw};

/// How many barriers a list of neighbours is trusted for: ranks that are not pinned move, but rarely.
const NEIGHBOURS_LAST: u64 = 64;

/// The members that share this member's CPU, as last seen. Kept, because looking at every member's line costs a
/// transfer each, and a waiter asks at every turn.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    cpu: Option<usize>,
    members: Vec<usize>,
    stale_after: u64,
}

impl Neighbours {
    /// Whether one of those on `cpu` has not arrived.
    pub fn is_missing(&mut self, cpu: usize, side: &Side, memory: &impl Memory) -> bool {
        if self.cpu != Some(cpu) || side.next() > self.stale_after {
            self.look_around(cpu, side, memory);
        }
        self.members.iter().any(|index| !side.arrival(memory, *index).has_arrived(side.next()))
    }

    fn look_around(&mut self, cpu: usize, side: &Side, memory: &impl Memory) {
        let is_here = |index: &usize| {
            *index != side.me && memory.word(side.layout.cpu(*index)).load(Ordering::Relaxed) == cpu as u64 + 1
        };
        self.members.clear();
        self.members.extend((0..side.layout.size()).filter(is_here));
        self.cpu = Some(cpu);
        // The first barriers teach where everybody is; after that the list is good for a while.
        let trusted_for = if side.next() < 4 { 0 } else { NEIGHBOURS_LAST };
        self.stale_after = side.next() + trusted_for;
    }
}

/// Counts this member's arrival, which is published already, and releases all if it is the last.
pub(super) fn count_in(side: &mut Side, memory: &impl Memory) {
    let operation = side.contribution.operation.bit();
    loop {
        let now = side.load_decision(memory);
        let named = if now.count() == 0 { operation } else { now.operations() | operation };
        let is_last = now.count() + 1 == side.layout.size() as u64;
        let then = if is_last {
            let disagree = named != operation;
            DecisionWord::new(side.next(), 0, disagree, named)
        } else {
            DecisionWord::new(now.sequence(), now.count() + 1, now.scan(), named)
        };
        if side.swap_decision(memory, now, then) {
            side.has_waited = !is_last;
            if is_last {
                wake_all(side, memory);
            }
            return;
        }
    }
}

fn wake_all(side: &Side, memory: &impl Memory) {
    // SYNC POINT: decision sleepers. The release is visible before the sleepers are counted; a rank that parks counts
    // itself, fences, and looks at the decision again.
    full_fence_after_rmw();
    if memory.word(side.layout.decision_sleepers()).load(Ordering::Relaxed) != 0 {
        memory.wake(side.layout.decision());
    }
}

#[inline]
pub(super) fn poll(side: &Side, memory: &impl Memory) -> Poll<Outcome> {
    let decision = side.load_decision(memory);
    if decision.sequence() < side.next() {
        return Poll::Pending;
    }
    // A later barrier cannot be decided without this member, so the scan bit is this one's. It may be a false alarm
    // (an operation named by an arrival that was taken back); the members' words tell.
    let must_scan = decision.scan() || side.contribution.operation.has_value();
    Poll::Ready(if must_scan { side.outcome_by_scan(memory) } else { Ok(0) })
}

pub(super) fn awaited(side: &Side, memory: &impl Memory) -> Option<Awaited> {
    let seen = side.load_decision(memory);
    let awaited = Awaited { word: side.layout.decision(), seen: seen.0, sleepers: side.layout.decision_sleepers() };
    (seen.sequence() < side.next()).then_some(awaited)
}

pub(super) fn withdraw(side: &mut Side, memory: &impl Memory) -> Poll<Withdrawal> {
    store_own(side, memory, side.word_for(Phase::Withdrawn));
    loop {
        let now = side.load_decision(memory);
        if now.sequence() >= side.next() {
            return passed_after_all(side, memory);
        }
        if side.swap_decision(memory, now, now.with_count(now.count() - 1)) {
            side.attempt += 1;
            side.state = State::Idle;
            return Poll::Ready(Withdrawal::Withdrawn);
        }
    }
}

fn passed_after_all(side: &mut Side, memory: &impl Memory) -> Poll<Withdrawal> {
    side.reinstate(memory);
    let Poll::Ready(outcome) = poll(side, memory) else { return Poll::Pending };
    side.pass();
    Poll::Ready(Withdrawal::Passed(outcome))
}

fn store_own(side: &Side, memory: &impl Memory, word: ArrivalWord) {
    // Release: pairs with the acquire loads of those who list the missing. The decision word decides, not this one.
    memory.word(side.layout.arrival(side.me)).store(word.0, Ordering::Release);
}
