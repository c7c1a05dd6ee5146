//! A counter: its words, what each rank has added, which is kept on two nodes, and the machine by which a rank changes
//! the value once. Pure: whoever drives it (`src/object/tally.rs`) writes, asks and waits as it says.
//!
//! The value of a counter is what its ranks have added, of whatever sign: 64 bits, wrapping round. In the time of one
//! home the value word there takes it all; what was added in the time of the homes before it stands beside, for each
//! rank, and does not change any more:
//!
//! ```text
//!   value of the counter = value word + Σ carried(rank)          rank's sum = carried(rank) + added(rank)
//! ```
//!
//! | word at the home | holds | written by |
//! | --- | --- | --- |
//! | value | what was added here | all, by read-modify-writes |
//! | of each rank: journal | the last change that it began, and whether it was done | that rank |
//! | of each rank: added | what it has added here | that rank |
//! | of each rank: carried | at the home: its sum when this became the home. Before that, as the copy: its sum | see there |
//!
//! A rank's *sum*, what it has added in all, is on two nodes: at the home, as a part of the value, and in the rank's
//! own node's memory; a rank of the home's node writes its sum to the second node instead. It has its sum there before
//! its addition can be seen at the home. So when the home is lost, the sums of all ranks are found on the nodes that
//! live, and with them everything that anybody has seen: the next home has them from the stewards, before it is asked
//! for anything.
//!
//! # Once, over a connection that breaks
//!
//! An addition from another node, or on the home itself where its device changes words, is a batch of four requests,
//! which the home executes in their order, in one round trip. What is added is noted there before it can be seen, as it
//! is on this node: a steward may copy it from there when this node is lost.
//!
//! ```text
//! write journal = begun n │ write added = what this rank has added here │ add to the value │ write journal = done n
//! ```
//!
//! What was not executed when the connection broke is dropped at the latest when the next one is welcomed, by which the
//! journal is read:
//!
//! | the home has | the addition | and the call |
//! | --- | --- | --- |
//! | an earlier journal | had no effect | repeats it |
//! | begun n | was the last or the next thing that was executed | is [`End::Uncertain`] |
//! | done n | took effect, once; the old value is lost | is [`End::AnswerLost`] |
//!
//! Where nothing is heard of the home, and nobody can decide whether it has failed, the journal cannot be read: then a
//! call that has sent its batch is uncertain, too, and one that has not was not made.
//!
//! The second can only be found where the cut fell between two frames of 32 bytes that are sent by one call and
//! executed in one go: where the stream was cut up just there, or the process that serves the home was killed just
//! then. The old value cannot be had again by any request that there is: nothing at the home copies it anywhere.
//!
//! # When the home is lost
//!
//! A rank in the middle of an addition waits for the next home, and reads what the steward has carried there for it. Is
//! that the sum with the addition, then it counts, whether or not the last home had come to it; is it the sum without
//! it, then it was not sent, since it is noted before that, and it is made there.
//!
//! To compare and exchange is an addition whose amount is known only afterwards. Its amount is added to the sum when
//! the answer has come, one round trip later. If the home is lost before that, or later where the answer never came, it
//! is as if it had not been, though others may have seen it.
//!
//! `exhaustive` tries every order of this, with losses of nodes, deaths and broken connections at every step.

use std::ops::Deref;

use super::layout::ObjectAt;
use crate::fabric::{Request, WordAt};

#[cfg(test)]
mod exhaustive;

/// Where the words stand, in the table of a home, or of the node that has the copies.
#[derive(Clone, Copy, Debug)]
pub struct TallyAt(pub ObjectAt);

impl TallyAt {
    /// What was added in this home's time.
    pub const fn value(self) -> WordAt {
        self.0.value()
    }

    /// A rank's journal.
    pub const fn journal(self, rank: usize) -> WordAt {
        self.0.of_rank(rank)
    }

    /// What a rank has added in this home's time.
    pub const fn added(self, rank: usize) -> WordAt {
        self.0.of_rank(rank).plus(1)
    }

    /// A rank's sum when this became the home.
    pub const fn carried(self, rank: usize) -> WordAt {
        self.0.of_rank(rank).plus(2)
    }

    /// A rank's sum on its own node, by its place there: with what it is about to add. In the table of objects that the
    /// node's ranks have.
    pub const fn sum(here: &ObjectAt, local: usize) -> WordAt {
        here.stake(local)
    }

    /// What a rank uses to change the value.
    pub const fn of_rank(self, rank: usize) -> RankAt {
        RankAt { value: self.value(), journal: self.journal(rank), added: self.added(rank) }
    }
}

/// What one rank uses of a home's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RankAt {
    /// The value, which all change.
    pub value: WordAt,
    /// Its journal.
    pub journal: WordAt,
    /// What it has added here.
    pub added: WordAt,
}

/// What was added before a home became that. It stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sums {
    /// By all ranks.
    pub base: u64,
    /// By this one.
    pub carried: u64,
}

impl Sums {
    /// Of a rank, by what is carried there of each; where no node was lost nothing is.
    pub fn of(carried: &[u64], rank: usize) -> Self {
        let base = carried.iter().fold(0, |sum: u64, carried| sum.wrapping_add(*carried));
        Self { base, carried: carried.get(rank).copied().unwrap_or(0) }
    }
}

/// A rank's sum, as a home has it.
pub const fn sum_at_home([carried, added]: [u64; 2]) -> u64 {
    carried.wrapping_add(added)
}

/// How a rank reaches the home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// It is this node, and its words are memory: what is done there is not heard of too late.
    Memory,
    /// It is this node, whose device changes the words, which may fail as a connection may.
    Device,
    /// It is another node.
    Away,
}

/// A home, as a rank knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bond {
    /// Its words.
    pub at: RankAt,
    /// How they are reached.
    pub way: Way,
    /// What was added before.
    pub sums: Sums,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// The value.
    Load,
    /// This is added.
    Add(u64),
    /// If the value is `current` it becomes `new`.
    Swap {
        /// What it must be.
        current: u64,
        /// What it becomes.
        new: u64,
    },
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// Has this rank's sum stand on its own node; then [`Operation::noted`].
    Note(u64),
    /// Has the second node have this rank's sum, if there is one; then [`Operation::copied`] or
    /// [`Operation::uncopied`].
    Copy(u64),
    /// Asks the home, in this order, and hands the one answer in, or why there is none.
    Ask(Batch),
    /// Waits for the next home, and says what is carried there.
    Rebind,
    /// It is over.
    Over(End),
}

/// How a call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It was made, once: the value before, or the value.
    Done(u64),
    /// It was made, once, and nobody has the answer. To compare and exchange: the two were compared.
    AnswerLost,
    /// It took effect once or not at all, or does so when the home is heard again or lost.
    Uncertain,
    /// It was not made: nothing was sent.
    NotMade,
    /// It was not made, as the home is lost: it is to be made at the next one.
    Again,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// The connection broke: the requests have taken effect up to some one, and the others do no more.
    Broken,
    /// The home is lost.
    Lost,
    /// Nothing is heard of it. Nothing was sent.
    Silent,
}

/// Some requests, of which one has an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batch {
    requests: [Request; Self::MOST],
    count: usize,
}

impl Batch {
    const MOST: usize = 4;

    fn of<const N: usize>(requests: [Request; N]) -> Self {
        let mut all = [requests[0]; Self::MOST];
        all[..N].copy_from_slice(&requests);
        Self { requests: all, count: N }
    }
}

impl Deref for Batch {
    type Target = [Request];

    #[inline]
    fn deref(&self) -> &[Request] {
        &self.requests[..self.count]
    }
}

/// One call of a rank, at one home. A rank has one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    bond: Bond,
    goal: Goal,
    /// By which the journal knows it: none of this rank's had it before.
    number: u64,
    /// This rank's sum without it.
    before: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// This rank's sum is written down, and then this comes.
    Noting(Next),
    /// The second node is told.
    Copying,
    /// The home is asked to do it.
    Making,
    /// The connection broke: what does the journal say?
    Looking,
    /// It was exchanged, and the home is told by how much.
    Confirming,
    /// The home is lost.
    Rebinding,
    /// The driver was told.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Next {
    Copy,
    Make,
    Confirm,
    End(End),
}

impl Operation {
    /// Begins; `sum`: what stands on this rank's node. `number`: none that it has had before, and less than 2^63.
    #[inline]
    pub fn begin(bond: Bond, goal: Goal, number: u64, sum: u64) -> (Self, Turn) {
        let goal = if goal == Goal::Add(0) { Goal::Load } else { goal };
        let mut operation = Self { bond, goal, number, before: sum, state: State::Making };
        let turn = match (goal, bond.way) {
            (Goal::Load | Goal::Swap { .. }, _) => operation.make(),
            // Before it can be seen: on two nodes, of which the home is none.
            (Goal::Add(_), Way::Memory | Way::Device) => operation.note(operation.after(), Next::Copy),
            (Goal::Add(_), Way::Away) => operation.note(operation.after(), Next::Make),
        };
        (operation, turn)
    }

    /// The sum is written down.
    #[inline]
    pub fn noted(&mut self) -> Turn {
        match self.state {
            State::Noting(Next::Copy) => self.copy(),
            State::Noting(Next::Make) => self.make(),
            State::Noting(Next::Confirm) => self.confirm(),
            State::Noting(Next::End(end)) => self.end(end),
            state => unreachable!("nothing was to be noted: {state:?}"),
        }
    }

    /// The second node has it, or there is none.
    #[inline]
    pub fn copied(&mut self) -> Turn {
        match self.goal {
            Goal::Swap { current, .. } => self.end(End::Done(current)),
            Goal::Add(_) | Goal::Load => self.make(),
        }
    }

    /// Nothing is heard of the second node. It may have it, also where this rank has asked it for nothing: by the
    /// steward, who makes a node the second one.
    #[cold]
    pub fn uncopied(&mut self) -> Turn {
        match self.goal {
            Goal::Swap { .. } => self.end(End::Uncertain),
            // If it has heard of it, that counts when the home is lost, unless the next addition puts it right before.
            Goal::Add(_) => self.note(self.before, Next::End(End::Uncertain)),
            Goal::Load => self.end(End::NotMade),
        }
    }

    /// The answer has come.
    #[inline]
    pub fn answered(&mut self, answer: u64) -> Turn {
        match (self.state, self.goal) {
            (State::Making, Goal::Swap { current, new }) if answer == self.of_home(current) && current != new => {
                self.note(self.after(), Next::Confirm)
            }
            (State::Making, _) => self.end(End::Done(answer.wrapping_add(self.bond.sums.base))),
            (State::Looking, _) if answer == self.done() => self.end(End::AnswerLost),
            (State::Looking, _) if answer == self.begun() => self.end(End::Uncertain),
            (State::Looking, _) => self.make(),
            (State::Confirming, Goal::Swap { current, .. }) if self.bond.way == Way::Away => {
                self.end(End::Done(current))
            }
            (State::Confirming, _) => self.copy(),
            (state, _) => unreachable!("nothing was asked: {state:?}"),
        }
    }

    /// No answer comes.
    #[cold]
    pub fn failed(&mut self, trouble: Trouble) -> Turn {
        match (self.state, self.goal, trouble) {
            (State::Making, Goal::Load, Trouble::Broken | Trouble::Lost) => self.end(End::Again),
            (State::Making | State::Looking, _, Trouble::Broken) => {
                self.state = State::Looking;
                Turn::Ask(Batch::of([Request::Read { at: self.bond.at.journal }]))
            }
            (State::Making, Goal::Add(_), Trouble::Silent) => self.note(self.before, Next::End(End::NotMade)),
            (State::Making, _, Trouble::Silent) => self.end(End::NotMade),
            (State::Confirming, _, Trouble::Broken) => self.confirm(),
            (State::Making | State::Looking, Goal::Add(_), Trouble::Lost) | (State::Confirming, _, Trouble::Lost) => {
                self.state = State::Rebinding;
                Turn::Rebind
            }
            // It may take effect yet, or has, and is lost with the home.
            _ => self.end(End::Uncertain),
        }
    }

    /// There is a next home, where this is carried of this rank.
    #[cold]
    pub fn rebound(&mut self, carried: u64) -> Turn {
        let is_there = carried == self.after();
        match self.goal {
            Goal::Swap { current, .. } => {
                let end = if is_there { End::Done(current) } else { End::Uncertain };
                self.note(carried, Next::End(end))
            }
            _ if is_there => self.end(End::AnswerLost),
            _ => self.note(self.before, Next::End(End::Again)),
        }
    }

    /// This rank's sum with it.
    #[inline]
    fn after(&self) -> u64 {
        match self.goal {
            Goal::Load => self.before,
            Goal::Add(add) => self.before.wrapping_add(add),
            Goal::Swap { current, new } => self.before.wrapping_add(new.wrapping_sub(current)),
        }
    }

    /// What the home's word holds where this is the value.
    #[inline]
    fn of_home(&self, value: u64) -> u64 {
        value.wrapping_sub(self.bond.sums.base)
    }

    const fn begun(&self) -> u64 {
        self.number << 1
    }

    const fn done(&self) -> u64 {
        self.number << 1 | 1
    }

    #[inline]
    fn note(&mut self, sum: u64, next: Next) -> Turn {
        self.state = State::Noting(next);
        Turn::Note(sum)
    }

    #[inline]
    fn copy(&mut self) -> Turn {
        self.state = State::Copying;
        Turn::Copy(self.after())
    }

    #[inline]
    fn make(&mut self) -> Turn {
        self.state = State::Making;
        let RankAt { value, journal, added } = self.bond.at;
        let [begun, done] = [self.begun(), self.done()].map(|value| Request::Write { at: journal, value });
        let added = Request::Write { at: added, value: self.after().wrapping_sub(self.bond.sums.carried) };
        Turn::Ask(match (self.goal, self.bond.way) {
            (Goal::Load, _) => Batch::of([Request::Read { at: value }]),
            (Goal::Add(add), Way::Memory) => Batch::of([Request::FetchAdd { at: value, add }, added]),
            (Goal::Add(add), _) => Batch::of([begun, added, Request::FetchAdd { at: value, add }, done]),
            (Goal::Swap { current, new }, way) => {
                let (expected, new) = (self.of_home(current), self.of_home(new));
                let swap = Request::CompareSwap { at: value, expected, new };
                if way == Way::Memory { Batch::of([swap]) } else { Batch::of([begun, swap, done]) }
            }
        })
    }

    /// What was exchanged is a part of this rank's sum: there before the call is over.
    #[inline]
    fn confirm(&mut self) -> Turn {
        self.state = State::Confirming;
        let (at, value) = (self.bond.at.added, self.after().wrapping_sub(self.bond.sums.carried));
        Turn::Ask(Batch::of([Request::Write { at, value }, Request::Read { at }]))
    }

    #[inline]
    fn end(&mut self, end: End) -> Turn {
        self.state = State::Over;
        Turn::Over(end)
    }
}
