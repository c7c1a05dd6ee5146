//! Asking after the members that a long wait misses: whether they run, are stopped, or have left.
//!
//! Each question is a look into `/proc` or a message, which whoever computes on that CPU meanwhile pays for. So one
//! member asks for all of its node, a wait that has lasted long asks more seldom, and one question is about a bounded
//! number of nodes and ranks: the others have their turn with the next ones.

use std::time::Duration;

use super::failures::Stay;
use super::{Core, Group};
use crate::cluster::sentinel::{ASK_AT_LEAST_EVERY, ASK_EVERY, shortest_question};
use crate::cluster::view::{FailureCause, Obituary};
use crate::coord::barrier::layout::QuestionWord;
use crate::error::BarrierError;
use crate::fabric::Memory;
use crate::job::Sight;
use crate::sync::Ordering;

/// How long a wait lasts before this rank asks after those that it misses: whether they run, or have left.
pub(super) const ASK_AFTER: Duration = Duration::from_millis(20);
/// How long a rank that does not wait gives other nodes to say who is missing.
pub(super) const LOOKING_PATIENCE: Duration = Duration::from_millis(2);
/// How many nodes one question reads a word of.
const MOST_ASKED_NODES: usize = 64;
/// How many ranks one question asks after.
const MOST_ASKED_AFTER: usize = 64;
/// So many calls of a rank that only looks go by between two looks at the clock.
const LOOKS_PER_TICK: u32 = 16;

/// How long a rank that only looks, or comes with short time-outs, has done so for the same barrier.
#[derive(Debug, Default)]
pub(super) struct Looks {
    count: u32,
    sequence: u64,
    /// By the clock; since the first look at it for this barrier.
    since: u64,
    /// By the clock: not before then other nodes are asked again.
    next: u64,
}

impl Looks {
    /// One more look at barrier `sequence`. Since when it has been looked at, if it is time to ask how long that is.
    pub fn one_more(&mut self, sequence: u64, now: impl Fn() -> u64) -> Option<u64> {
        self.count += 1;
        if self.count < LOOKS_PER_TICK {
            return None;
        }
        Some(self.since(sequence, now))
    }

    /// Since when barrier `sequence` has been looked at.
    pub fn since(&mut self, sequence: u64, now: impl Fn() -> u64) -> u64 {
        self.count = 0;
        if self.sequence != sequence {
            (self.sequence, self.since, self.next) = (sequence, now(), 0);
        }
        self.since
    }

    /// Whether it is time to ask other nodes; the next time is a `period` later.
    pub fn take_turn(&mut self, now: u64, period: u64) -> bool {
        let is_time = now >= self.next;
        if is_time {
            self.next = now.saturating_add(period);
        }
        is_time
    }
}

/// How long a wait that has lasted for `waited` goes on before it asks again, after `shortest` at least.
pub(super) fn time_to_question(waited: Duration, timeout: Duration, shortest: Duration) -> Duration {
    (waited / 2).clamp(shortest, longest_period(timeout).max(shortest))
}

/// The longest time between two questions, where those that may ask at once are few.
fn longest_period(timeout: Duration) -> Duration {
    (timeout / 2).clamp(ASK_EVERY, ASK_AT_LEAST_EVERY)
}

/// Whether questions that are no closer together than `shortest` tell who has been stopped for the time-out: at least
/// one falls between its beginning and its end. Otherwise who is stopped at two moments, by a debugger say, may have run
/// all the time between.
pub(super) fn tell_who_is_stopped(shortest: Duration, timeout: Duration) -> bool {
    shortest <= longest_period(timeout)
}

impl Group {
    /// How long a wait that has lasted for `waited` goes on before this rank asks again.
    pub(super) fn next_question(&self, waited: Duration) -> Duration {
        time_to_question(waited, self.membership.failure.timeout, self.shortest_question())
    }

    /// The shortest time between two questions of a node after members of this group.
    pub(super) fn shortest_question(&self) -> Duration {
        shortest_question(self.abroad.as_ref().map_or(1, |abroad| abroad.span().len()))
    }

    /// Asks after the members that are missing, for all of this node's members that wait: those of this node that have
    /// been stopped for too long are declared failed, and other nodes' agents are told that somebody waits. Whoever
    /// comes while another has just asked, or is about to, leaves it to that one. Waits for other nodes' answers for
    /// `patience`, twice at most.
    #[cold]
    pub(super) fn ask_after_missing(&self, core: &mut Core, waited: Duration, patience: Duration) {
        let sequence = core.barrier.passed() + 1;
        let undecided = match self.membership.has_doubts() {
            true => self.undecided_among(&self.missing_within(sequence, patience)),
            false => Vec::new(),
        };
        core.failures.note_undecided(undecided);
        let Some(turn) = self.take_turn(sequence, self.next_question(waited)) else { return };
        let missing = self.missing_on(sequence, &self.nodes_of_turn(turn), patience);
        // Bounded: the others' turn comes with the next questions.
        let begin = (turn * MOST_ASKED_AFTER) % missing.len().max(1);
        let (before, behind) = missing.split_at(begin);
        for rank in behind.iter().chain(before).take(MOST_ASKED_AFTER) {
            match self.membership.sight_of(*rank) {
                Sight::Stopped => self.note_stopped(*rank, sequence),
                Sight::Running => self.note_running(*rank),
                Sight::Ending(cause) => self.membership.declare_ending(*rank, cause),
                Sight::Left | Sight::Elsewhere => {}
            }
            self.membership.ask_after(*rank);
        }
    }

    /// A rank that has looked for the others since then without waiting asks after them, as one that waits does.
    pub(super) fn ask_if_long(&self, core: &mut Core, since: u64) -> Option<Result<u64, BarrierError>> {
        let waited = self.since(since);
        if waited < ASK_AFTER {
            return None;
        }
        self.ask_after_missing(core, waited, LOOKING_PATIENCE);
        let clock = &self.membership.driver.clock;
        let period = clock.ticks(self.next_question(waited));
        let is_time = !core.failures.asks_abroad() || core.looks.take_turn(clock.now(), period);
        match is_time && self.has_more_to_heed(&core.failures) {
            true => self.heed_while_waiting(core, Stay::Glance),
            false => None,
        }
    }

    /// The number of this node's next question about a barrier, if it is this member that asks it.
    fn take_turn(&self, sequence: u64, period: Duration) -> Option<usize> {
        let word = self.segment().word(self.layout.question());
        let (now, period) = (self.now_ms(), u64::try_from(period.as_millis()).unwrap_or(u64::MAX));
        // Relaxed: a count, and nothing hangs on who asks.
        let seen = word.load(Ordering::Relaxed);
        let (turn, next) = QuestionWord(seen).next(sequence, now, period)?;
        let swapped = word.compare_exchange(seen, next.0, Ordering::Relaxed, Ordering::Relaxed);
        swapped.ok().and(usize::try_from(turn).ok())
    }

    /// The nodes that a question is about, as indices in the span: one after the other, from the one behind this node.
    fn nodes_of_turn(&self, turn: usize) -> Vec<usize> {
        let Some(abroad) = &self.abroad else { return Vec::new() };
        let (nodes, here) = (abroad.span().len(), abroad.home_of(self.me).0);
        let step = |step: usize| (here + 1 + turn * MOST_ASKED_NODES + step) % nodes;
        (0..nodes.min(MOST_ASKED_NODES)).map(step).collect()
    }

    /// Those of some ranks that have ended, as their own nodes know, while too few nodes can be reached to decide it.
    fn undecided_among(&self, missing: &[usize]) -> Vec<usize> {
        let has_failed = |end: u64| Obituary::unpack(end).is_some_and(|end| end.cause != FailureCause::Left);
        let (here, others): (Vec<usize>, Vec<usize>) =
            missing.iter().partition(|rank| self.membership.node_of(**rank) == self.membership.here());
        let local = here
            .into_iter()
            .filter(|rank| self.membership.end_of(*rank).is_some_and(|cause| cause != FailureCause::Left));
        let ends = self.read_abroad(others.iter().map(|rank| self.membership.end_at(*rank)).collect(), ASK_EVERY);
        let remote = others.iter().zip(ends).filter(|(_, end)| end.is_some_and(has_failed)).map(|(rank, _)| *rank);
        local.chain(remote).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_seen_stopped_twice_may_have_run_where_many_nodes_ask() {
        let tell = |nodes, timeout_ms| tell_who_is_stopped(shortest_question(nodes), Duration::from_millis(timeout_ms));
        let default: Vec<usize> = [1, 2, 31, 32, 45, 64].into_iter().filter(|nodes| tell(*nodes, 100)).collect();
        assert_eq!(default, [1, 2, 31]);
        assert!(tell(1, 3), "nobody else would say so on a job's only node");
        assert!(tell(64, 410) && !tell(64, 409) && tell(1_000, 2_000));
    }

    #[test]
    fn a_long_wait_asks_seldom_and_one_of_many_nodes_leaves_them_time_to_answer() {
        let ms = Duration::from_millis;
        let few = shortest_question(8);
        assert_eq!(few, ms(10));
        assert_eq!(time_to_question(ms(20), ms(100), few), ms(10));
        assert_eq!(time_to_question(ms(60), ms(100), few), ms(30));
        assert_eq!(time_to_question(ms(500), ms(100), few), ms(50), "half of the time-out");
        assert_eq!(time_to_question(ms(9_000), ms(9_000), few), ASK_AT_LEAST_EVERY);
        let many = shortest_question(64);
        assert_eq!(many, Duration::from_micros(204_800));
        assert_eq!(time_to_question(ms(20), ms(100), many), many, "also longer than that");
        assert_eq!(shortest_question(10_000), ASK_AT_LEAST_EVERY);
    }
}
