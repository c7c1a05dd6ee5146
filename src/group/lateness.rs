//! What is known of late members: since when they are stopped, and the last call that they made.

use std::time::Duration;

use super::Group;
use super::asking::tell_who_is_stopped;
use super::failures::FINAL_WORD_PATIENCE;
use crate::cluster::sentinel::QUESTIONS_MISSED;
use crate::cluster::stopped::lapse_of_waiting;
use crate::cluster::view::{LastCall, LateState, Lateness};
use crate::coord::activity::CallWord;
use crate::coord::barrier::arrivals_in;
use crate::coord::barrier::layout::StoppedWord;
use crate::fabric::{Memory, WordAt};
use crate::job::Sight;
use crate::sync::Ordering;

impl Group {
    /// What is known of late ranks, in their order.
    pub(super) fn lateness_of(&self, sequence: u64, missing: &[usize]) -> Vec<Lateness> {
        let last_calls = self.last_calls_of(missing);
        missing.iter().zip(last_calls).map(|(rank, last_call)| self.lateness(sequence, *rank, last_call)).collect()
    }

    fn lateness(&self, sequence: u64, rank: usize, last_call: Option<LastCall>) -> Lateness {
        let (state, seen_alive) = match self.membership.sight_of(rank) {
            // One that ends is declared failed at the next question.
            Sight::Running | Sight::Ending(_) => (LateState::Running, Some(Duration::ZERO)),
            Sight::Stopped => (LateState::Stopped, self.stopped_for(rank, sequence)),
            Sight::Left => (LateState::Left, None),
            // Its node has just answered, or has not.
            Sight::Elsewhere if last_call.is_some() => (LateState::Remote, Some(Duration::ZERO)),
            Sight::Elsewhere => (LateState::Unreachable, None),
        };
        Lateness { rank, state, seen_alive, last_call }
    }

    /// The last calls of some members, as their nodes' memories say; the nodes are asked all at once.
    fn last_calls_of(&self, ranks: &[usize]) -> Vec<Option<LastCall>> {
        let member = |rank: &usize| self.ranks.iter().position(|member| member == rank).expect("a member");
        let members: Vec<usize> = ranks.iter().map(member).collect();
        let words = self.words_of_some(
            &members,
            |layout, index| [layout.arrival(index), layout.arrived_at(index, 0), layout.arrived_at(index, 1)],
            FINAL_WORD_PATIENCE,
        );
        let call = |(rank, words): (&usize, Option<[u64; 3]>)| {
            self.call_inside(*rank).or_else(|| words.map(|words| self.call_in(*rank, words)))
        };
        ranks.iter().zip(words).map(call).collect()
    }

    /// What a rank of this node is inside of, if it is.
    fn call_inside(&self, rank: usize) -> Option<LastCall> {
        if self.membership.node_of(rank) != self.membership.here() {
            return None;
        }
        let (segment, node, local) = (self.segment(), self.segment().layout(), self.membership.local_of(rank));
        let load = |at| segment.word(at).load(Ordering::Relaxed);
        let call = CallWord(load(node.call(local)));
        let since = load(node.call_since(local));
        call.is_inside().then(|| LastCall {
            name: call.name(),
            group: load(node.call_group(local)),
            sequence: call.sequence(),
            is_inside: true,
            began: Some(self.since(since)),
        })
    }

    /// A member's last call of this group's barriers, by its words.
    fn call_in(&self, rank: usize, [arrival, times @ ..]: [u64; 3]) -> LastCall {
        let sequence = arrivals_in(arrival);
        let at = times[usize::from(sequence % 2 == 1)];
        let is_here = self.membership.node_of(rank) == self.membership.here();
        let began = (is_here && sequence > 0 && at > 0).then(|| self.since(at));
        LastCall { name: "barrier", group: self.id(), sequence, is_inside: false, began }
    }

    /// A member of this node is stopped; it has failed if it has been so for the time-out. Where those who wait ask too
    /// seldom to know that, their node's agent does, or who follows that: they look at each beat.
    pub(super) fn note_stopped(&self, rank: usize, sequence: u64) {
        let timeout = self.membership.failure.timeout;
        if tell_who_is_stopped(self.shortest_question(), timeout)
            && self.stopped_for(rank, sequence).is_some_and(|span| span >= timeout)
        {
            return self.membership.declare_stopped(rank);
        }
        let Some(at) = self.stopped_at(rank) else { return };
        let word = self.segment().word(at);
        // Relaxed: times, of which those that are noted stand, or some just as good.
        let known = StoppedWord(word.load(Ordering::Relaxed));
        word.store(known.seen(sequence, self.now_ms(), self.lapse_ms()).0, Ordering::Relaxed);
    }

    /// A member of this node runs: when it is stopped again, that is another time.
    pub(super) fn note_running(&self, rank: usize) {
        let Some(at) = self.stopped_at(rank) else { return };
        let word = self.segment().word(at);
        // Relaxed: as in `note_stopped`.
        if word.load(Ordering::Relaxed) != 0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// A member that nobody has seen stopped for longer than this may have run meanwhile.
    fn lapse_ms(&self) -> u64 {
        let question = self.shortest_question() * QUESTIONS_MISSED;
        let lapse = lapse_of_waiting(self.membership.failure.timeout).max(question);
        u64::try_from(lapse.as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long a member of this node has been seen stopped by those who wait for it at a barrier.
    fn stopped_for(&self, rank: usize, sequence: u64) -> Option<Duration> {
        let word = self.segment().word(self.stopped_at(rank)?).load(Ordering::Relaxed);
        StoppedWord(word).span_ms(sequence, self.now_ms(), self.lapse_ms()).map(Duration::from_millis)
    }

    /// Where it is noted since when a member of this node is stopped.
    fn stopped_at(&self, rank: usize) -> Option<WordAt> {
        let member = self.ranks.iter().position(|member| *member == rank)?;
        let (node, layout, local) = self.home_of(member);
        (node == self.membership.here()).then(|| layout.stopped(local))
    }
}
