//! Flat exchange: every member writes its own line and reads all the others'.
//!
//! With each member on its own CPU the cost is one line transfer, all of them at once: the physical limit. There is no
//! word that decides for all; a member has passed when it has seen all arrived *at one instant*. With two members
//! that is one load. With more, the words are read twice: equal words mean that all held at the instant between
//! (a double collect; attempts make every step of a word unique).
//!
//! # Taking an arrival back
//!
//! Let P be "at some instant all were arrived": somebody may have passed exactly if P. A member that wants to withdraw
//! first publishes *withdrawing*; from then on P cannot become true without it. Then it looks at the others:
//!
//! - One has surely not arrived: P was never true (once P, nobody's word can reach *withdrawn*, by this same rule),
//!   so it publishes *withdrawn*.
//! - All are arrived or withdrawing: P may have been true. It reinstates its arrival and polls. If all the others
//!   still stand, it passes; if not, it tries again.
//!
//! Of several that withdraw at once, the one with the lowest index decides first: the others step back when they see
//! a lower one withdrawing, and it waits for them.

use std::task::Poll;

use super::word::{ArrivalWord, Phase};
use super::{Outcome, Side, State, Withdrawal};
use crate::fabric::Memory;
use crate::sync::{Ordering, publish, snapshot_fence};

/// The first collect: what has been seen so far, starting with the next member round the ring.
#[derive(Debug)]
pub(super) struct Scan {
    seen: Vec<ArrivalWord>,
    cursor: usize,
}

impl Scan {
    pub fn new(size: usize) -> Self {
        Self { seen: vec![ArrivalWord(0); size - 1], cursor: 0 }
    }

    #[inline]
    pub fn restart(&mut self) {
        self.cursor = 0;
    }

    /// The member at a position of the scan; each starts behind itself, so that they do not all read one line first.
    #[inline]
    fn member(&self, me: usize, position: usize) -> usize {
        let index = me + 1 + position;
        let size = self.seen.len() + 1;
        if index < size { index } else { index - size }
    }

    #[inline]
    pub fn poll(&mut self, side: &Side, memory: &impl Memory) -> Poll<Outcome> {
        if self.seen.len() == 1 {
            return self.poll_pair(side, memory);
        }
        self.poll_many(side, memory)
    }

    /// Two members: one load decides, and in the usual case one comparison: the other's word equals mine.
    #[inline]
    fn poll_pair(&mut self, side: &Side, memory: &impl Memory) -> Poll<Outcome> {
        let word = side.arrival(memory, 1 - side.me);
        if word == side.arrived_with && !side.contribution.operation.has_value() {
            return Poll::Ready(Ok(0));
        }
        if !word.has_arrived(side.next()) {
            return Poll::Pending;
        }
        self.seen[0] = word;
        Poll::Ready(self.outcome(side, memory))
    }

    fn poll_many(&mut self, side: &Side, memory: &impl Memory) -> Poll<Outcome> {
        while self.cursor < self.seen.len() {
            let word = side.arrival(memory, self.member(side.me, self.cursor));
            if !word.has_arrived(side.next()) {
                return Poll::Pending;
            }
            self.seen[self.cursor] = word;
            self.cursor += 1;
        }
        if !self.still_holds(side, memory) {
            self.restart();
            return Poll::Pending;
        }
        Poll::Ready(self.outcome(side, memory))
    }

    /// The second collect.
    fn still_holds(&self, side: &Side, memory: &impl Memory) -> bool {
        snapshot_fence();
        self.seen.iter().enumerate().all(|(position, seen)| {
            let now = side.arrival(memory, self.member(side.me, position));
            now == *seen || now.sequence() > side.next()
        })
    }

    fn outcome(&self, side: &Side, memory: &impl Memory) -> Outcome {
        let mine = side.word_for(Phase::Arrived);
        let all_agree = self.seen.iter().all(|word| word.agrees_with(mine));
        if all_agree && !side.contribution.operation.has_value() {
            return Ok(0);
        }
        side.outcome_by_scan(memory)
    }
}

pub(super) fn withdraw(scan: &mut Scan, side: &mut Side, memory: &impl Memory) -> Poll<Withdrawal> {
    if side.state == State::Arrived {
        if lower_one_withdraws(side, memory) {
            return Poll::Pending;
        }
        side.state = State::Withdrawing;
        // SYNC POINT: withdrawing. Visible before the others' words are read below: of a member that arrives and one
        // that withdraws, one sees the other.
        publish(memory.word(side.layout.arrival(side.me)), side.word_for(Phase::Withdrawing).0);
    }
    let others: Vec<ArrivalWord> = (0..side.layout.size()).map(|index| side.arrival(memory, index)).collect();
    let is_other = |index: &usize| *index != side.me;
    let mut indices = (0..others.len()).filter(is_other);
    if indices.clone().any(|index| others[index].has_not_arrived(side.next())) {
        publish(memory.word(side.layout.arrival(side.me)), side.word_for(Phase::Withdrawn).0);
        side.attempt += 1;
        side.state = State::Idle;
        return Poll::Ready(Withdrawal::Withdrawn);
    }
    let withdraws = |index: usize| others[index].sequence() == side.next() && others[index].is_withdrawing();
    let lower_one = (0..side.me).any(withdraws);
    if !lower_one && indices.any(withdraws) {
        return Poll::Pending;
    }
    side.reinstate(memory);
    scan.restart();
    match scan.poll(side, memory) {
        Poll::Ready(outcome) => {
            side.pass();
            Poll::Ready(Withdrawal::Passed(outcome))
        }
        Poll::Pending => Poll::Pending,
    }
}

/// Settles the arrival of a member that has died while it took it back, as that member would have: by the same look at
/// the others, with the same rule. Whoever is first does it for all.
pub(super) fn bury(side: &Side, memory: &impl Memory, dead: usize) {
    let word = side.arrival(memory, dead);
    if !is_retreat(side, word) {
        return;
    }
    // All that the member did happens before its death is known, its fence after *withdrawing* included: whom those saw
    // arrived who passed on its arrival, this member sees arrived, too.
    let mut others = (0..side.layout.size()).filter(|index| *index != dead);
    let was_missed = others.any(|index| side.arrival(memory, index).has_not_arrived(side.next()));
    let settled = word.settled(!was_missed);
    // SYNC POINT: withdrawing, as for the member's own step.
    let at = memory.word(side.layout.arrival(dead));
    let _ = at.compare_exchange(word.0, settled.0, Ordering::SeqCst, Ordering::Relaxed);
}

fn lower_one_withdraws(side: &Side, memory: &impl Memory) -> bool {
    (0..side.me).any(|index| withdraws(side, memory, index))
}

/// Whether a member is taking its arrival back.
pub(super) fn withdraws(side: &Side, memory: &impl Memory, member: usize) -> bool {
    is_retreat(side, side.arrival(memory, member))
}

fn is_retreat(side: &Side, word: ArrivalWord) -> bool {
    word.sequence() == side.next() && word.is_withdrawing()
}
