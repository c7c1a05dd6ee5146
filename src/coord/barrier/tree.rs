//! Tree: arrivals are gathered up, the release flows down; two half-barriers.
//!
//! The tree follows the machine (see [`super::choice`]), so that most lines travel inside one cache and few between
//! NUMA nodes, and no line is read by more than a handful of waiters. A node waits for its children's words, combines
//! what they bring, and passes one word up; the root swaps the *decision word*; parents copy the release for their
//! children.
//!
//! The decision word decides for all, and *anybody* may swap it who has checked that all members' own arrival words
//! stand: gathering is only the quick way to know it. That makes two things simple:
//!
//! - A member that has arrived but computes instead of polling holds up its subtree's quick way, not the barrier:
//!   a waiter looks at all members' words now and then and decides over its head.
//! - To take an arrival back, a member marks its own word and counts a withdrawal in the decision word. From then on
//!   a decision at this sequence needs a look at all members' words, with the count unchanged around it.

use std::task::Poll;

use super::layout::MemberWord;
use super::word::{ArrivalWord, DecisionWord, Phase, TreeWord};
use super::{GroupLayout, Operation, Outcome, Side, State, Withdrawal};
use crate::fabric::Memory;
use crate::sync::Ordering;

/// This member's place in the tree and how far its gathering has come.
#[derive(Debug)]
pub(super) struct Node {
    parent: Option<Parent>,
    children: Vec<Child>,
    cursor: usize,
    gathering: Option<Gathering>,
    /// A member that was missing when this one last looked at all: if this one decides, that one came last.
    missed: Option<usize>,
    /// The member that came last in the barrier just passed, where that was seen.
    last: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Parent {
    index: usize,
    is_root: bool,
}

#[derive(Clone, Copy, Debug)]
struct Child {
    index: usize,
    is_leaf: bool,
}

/// What the subtree has brought so far.
#[derive(Clone, Copy, Debug)]
struct Gathering {
    value: u64,
    disagrees: bool,
    /// The member seen to come last below, or this one while none was waited for.
    last: usize,
    is_complete: bool,
}

/// The result of looking at a decision.
enum Decision {
    Made,
    Contested,
}

impl Node {
    /// Reads the tree from the group's list of members.
    pub fn read(memory: &impl Memory, layout: GroupLayout, me: usize) -> Self {
        let parent_of = |index| MemberWord(memory.word(layout.member(index)).load(Ordering::Relaxed)).parent();
        let parents: Vec<Option<usize>> = (0..layout.size()).map(parent_of).collect();
        let is_leaf = |index: usize| !parents.contains(&Some(index));
        let children = (0..layout.size()).filter(|index| parents[*index] == Some(me));
        Self {
            parent: parents[me].map(|index| Parent { index, is_root: parents[index].is_none() }),
            children: children.map(|index| Child { index, is_leaf: is_leaf(index) }).collect(),
            cursor: 0,
            gathering: None,
            missed: None,
            last: None,
        }
    }

    /// Starts gathering for a new barrier, or again for the same one after a withdrawal.
    pub fn restart(&mut self, again: bool) {
        self.missed = None;
        if again && self.has_gathered() {
            // What was passed up stays: the decision looks at all members' words now.
            return;
        }
        self.cursor = 0;
        self.gathering = None;
        self.last = None;
    }

    pub fn has_children(&self) -> bool {
        !self.children.is_empty()
    }

    fn has_gathered(&self) -> bool {
        self.gathering.is_some_and(|gathering| gathering.is_complete)
    }

    pub fn last(&self) -> Option<usize> {
        self.last
    }

    /// Notes who is missing, for the record of who came last: whoever looks late does not see it any more.
    pub fn note_missing(&mut self, side: &Side, memory: &impl Memory) {
        self.missed = first_missing(side, memory).or(self.missed);
    }

    pub fn poll(&mut self, side: &Side, memory: &impl Memory) -> Poll<Outcome> {
        let Some(gathering) = self.gather(side, memory) else {
            // A child that was decided for by somebody else may never pass its gathering up.
            return self.see_decision(side, memory).map(|(value, scan)| self.finish(side, memory, value, scan));
        };
        let released = match self.parent {
            None => self.decide(gathering, side, memory),
            Some(parent) => self.see_release(parent, side, memory),
        };
        released.map(|(value, scan)| self.finish(side, memory, value, scan))
    }

    /// Takes in the children's arrivals, as far as they have come; the whole once all have.
    fn gather(&mut self, side: &Side, memory: &impl Memory) -> Option<Gathering> {
        let value = side.contribution.value;
        let last = self.missed.unwrap_or(side.me);
        let start = Gathering { value, disagrees: false, last, is_complete: false };
        let mut gathering = self.gathering.unwrap_or(start);
        if gathering.is_complete {
            return Some(gathering);
        }
        while let Some(child) = self.children.get(self.cursor).copied() {
            let Some(brought) = see_child(child, side, memory) else {
                gathering.last = child.index;
                self.gathering = Some(gathering);
                return None;
            };
            gathering.take_in(child, &brought, side.contribution.operation);
            self.cursor += 1;
        }
        gathering.is_complete = true;
        self.gathering = Some(gathering);
        if self.parent.is_some() && !self.children.is_empty() {
            pass_up(gathering, side, memory);
        }
        Some(gathering)
    }

    /// The root's decision, once all are gathered.
    fn decide(&mut self, gathering: Gathering, side: &Side, memory: &impl Memory) -> Poll<(u64, bool)> {
        let now = side.load_decision(memory);
        if now.sequence() >= side.next() {
            return Poll::Ready(read_result(now, side, memory, &mut self.last));
        }
        if now.count() > 0 {
            return match self.decide_by_scan(now, side, memory) {
                Poll::Ready(Decision::Made) => Poll::Ready((0, true)),
                Poll::Ready(Decision::Contested) | Poll::Pending => Poll::Pending,
            };
        }
        memory.word(side.layout.result()).store(gathering.value, Ordering::Relaxed);
        memory.word(side.layout.result_last()).store(gathering.last as u64, Ordering::Relaxed);
        let then = DecisionWord::new(side.next(), 0, gathering.disagrees, 0);
        if !side.swap_decision(memory, now, then) {
            return Poll::Pending;
        }
        self.last = Some(gathering.last);
        Poll::Ready((gathering.value, gathering.disagrees))
    }

    fn see_decision(&mut self, side: &Side, memory: &impl Memory) -> Poll<(u64, bool)> {
        let decision = side.load_decision(memory);
        match decision.sequence() >= side.next() {
            true => Poll::Ready(read_result(decision, side, memory, &mut self.last)),
            false => Poll::Pending,
        }
    }

    fn see_release(&mut self, parent: Parent, side: &Side, memory: &impl Memory) -> Poll<(u64, bool)> {
        if parent.is_root {
            return self.see_decision(side, memory);
        }
        // SYNC POINT: released. Acquire pairs with the parent's release store.
        let word = TreeWord(memory.word(side.layout.released(parent.index)).load(Ordering::Acquire));
        if word.sequence() < side.next() {
            return Poll::Pending;
        }
        self.last = Some(word.last());
        let value = memory.word(side.layout.released_value(parent.index)).load(Ordering::Relaxed);
        Poll::Ready((value, word.scan()))
    }

    /// Over everybody's head: passes if the barrier is decided, decides it if all members have arrived.
    pub fn decide_for_all(&mut self, side: &Side, memory: &impl Memory) -> Poll<Outcome> {
        let now = side.load_decision(memory);
        let (value, scan) = if now.sequence() >= side.next() {
            read_result(now, side, memory, &mut self.last)
        } else {
            match self.decide_by_scan(now, side, memory) {
                Poll::Ready(Decision::Made) => (0, true),
                Poll::Ready(Decision::Contested) | Poll::Pending => return Poll::Pending,
            }
        };
        Poll::Ready(self.finish(side, memory, value, scan))
    }

    /// Decides if all members' own words stand. `now` was loaded before they are read; a withdrawal in between counts
    /// itself there and makes the swap fail.
    fn decide_by_scan(&mut self, now: DecisionWord, side: &Side, memory: &impl Memory) -> Poll<Decision> {
        if let missing @ Some(_) = first_missing(side, memory) {
            self.missed = missing;
            return Poll::Pending;
        }
        let last = self.missed.unwrap_or(side.me);
        // Another member may write here at the same time: then one of the two is noted, each as good as the other.
        memory.word(side.layout.result_last()).store(last as u64, Ordering::Relaxed);
        let then = DecisionWord::new(side.next(), 0, true, 0);
        Poll::Ready(match side.swap_decision(memory, now, then) {
            true => {
                self.last = Some(last);
                Decision::Made
            }
            false => Decision::Contested,
        })
    }

    /// Hands the release on and reads the outcome.
    fn finish(&mut self, side: &Side, memory: &impl Memory, value: u64, scan: bool) -> Outcome {
        // The root's children read the decision word itself.
        if self.parent.is_some() && !self.children.is_empty() {
            let last = self.last.unwrap_or(0);
            let word = TreeWord::new(side.next(), last, scan, side.contribution.operation);
            memory.word(side.layout.released_value(side.me)).store(value, Ordering::Relaxed);
            // SYNC POINT: released. Release pairs with the children's acquire load; it carries the value.
            memory.word(side.layout.released(side.me)).store(word.0, Ordering::Release);
        }
        match scan {
            true => side.outcome_by_scan(memory),
            false => Ok(if side.contribution.operation.has_value() { value } else { 0 }),
        }
    }
}

impl Gathering {
    fn take_in(&mut self, child: Child, brought: &Brought, operation: Operation) {
        self.disagrees |= brought.disagrees || brought.operation != operation;
        self.value = operation.combine(self.value, brought.value);
        // Waited for this child's subtree: what it saw come last is the last so far.
        if self.last == child.index {
            self.last = brought.last;
        }
    }
}

fn pass_up(gathering: Gathering, side: &Side, memory: &impl Memory) {
    let word = TreeWord::new(side.next(), gathering.last, gathering.disagrees, side.contribution.operation);
    memory.word(side.layout.gathered_value(side.me)).store(gathering.value, Ordering::Relaxed);
    // SYNC POINT: gathered. Release pairs with the parent's acquire load; it carries the value and all arrivals that
    // this member has seen.
    memory.word(side.layout.gathered(side.me)).store(word.0, Ordering::Release);
}

/// What one child's subtree brings.
struct Brought {
    operation: Operation,
    value: u64,
    disagrees: bool,
    last: usize,
}

fn see_child(child: Child, side: &Side, memory: &impl Memory) -> Option<Brought> {
    if child.is_leaf {
        let word = side.arrival(memory, child.index);
        return word.has_arrived(side.next()).then(|| Brought {
            operation: word.operation_at(side.next()),
            value: side.value(memory, child.index),
            disagrees: false,
            last: child.index,
        });
    }
    // SYNC POINT: gathered. Acquire pairs with the child's release store.
    let word = TreeWord(memory.word(side.layout.gathered(child.index)).load(Ordering::Acquire));
    (word.sequence() >= side.next()).then(|| Brought {
        operation: word.operation(),
        value: memory.word(side.layout.gathered_value(child.index)).load(Ordering::Relaxed),
        disagrees: word.scan(),
        last: word.last(),
    })
}

#[allow(clippy::cast_possible_truncation, reason = "an index of a member")]
fn read_result(decision: DecisionWord, side: &Side, memory: &impl Memory, last: &mut Option<usize>) -> (u64, bool) {
    // Relaxed: the acquire load of the decision came before, and the next decision cannot come without this member.
    let word = |at| memory.word(at).load(Ordering::Relaxed);
    *last = Some(word(side.layout.result_last()) as usize);
    (word(side.layout.result()), decision.scan())
}

/// The first member whose own word does not stand.
fn first_missing(side: &Side, memory: &impl Memory) -> Option<usize> {
    let stands = |index| index == side.me || side.arrival(memory, index).has_arrived(side.next());
    (0..side.layout.size()).find(|index| !stands(*index))
}

pub(super) fn withdraw(side: &mut Side, memory: &impl Memory) -> Poll<Withdrawal> {
    let own = side.word_for(Phase::Withdrawn);
    loop {
        let now = side.load_decision(memory);
        if now.sequence() >= side.next() || now.count() == DecisionWord::MAX_COUNT {
            return give_in(side, memory, now);
        }
        mark(side, memory, own);
        if side.swap_decision(memory, now, now.with_count(now.count() + 1)) {
            side.attempt += 1;
            side.state = State::Idle;
            return Poll::Ready(Withdrawal::Withdrawn);
        }
    }
}

/// The withdrawal came too late (the next poll passes), or cannot be counted.
fn give_in(side: &mut Side, memory: &impl Memory, decision: DecisionWord) -> Poll<Withdrawal> {
    side.reinstate(memory);
    match decision.sequence() >= side.next() {
        true => Poll::Pending,
        false => Poll::Ready(Withdrawal::Exhausted),
    }
}

fn mark(side: &Side, memory: &impl Memory, own: ArrivalWord) {
    // SYNC POINT: decision. Release, and before the compare-and-swap that counts the withdrawal: whoever decides with
    // that count or a later one sees the mark.
    memory.word(side.layout.arrival(side.me)).store(own.0, Ordering::Release);
}
