//! Taking an arrival back when it has been told to other nodes, and what becomes of that barrier.
//!
//! In the usual way nobody decides that a spanning barrier is passed: each node knows by itself, when the words of all
//! nodes have reached it. So what has been told cannot be taken back, unless the usual way is closed first; a barrier
//! at which that happens is *contested*, and decided by one word: the *decision word* in the block of the group's first
//! node, its home.
//!
//! # Closing the usual way
//!
//! A node's *completion word* says how far its members have come: *completing*, then *open* (they go the usual way) or
//! *closed* (they do not). Between the two the node looks at its *gate*, in which other nodes write the number of the
//! barrier that they contest. A member that withdraws
//!
//! 1. opens the contest in the decision word,
//! 2. looks for a node that is not complete, raises its gate, and looks at its completion word again. Still not
//!    complete: since that node looks at its gate only after it has begun to complete, it will find it raised, and
//!    tell nobody. The words of all nodes are needed for passing, so nobody passes in the usual way any more. Complete
//!    and closed: somebody else has done it. Complete and open: the next node. If all are, the barrier is passed, for
//!    all.
//!
//! # Deciding
//!
//! From then on it is as in a tree (`tree.rs`): the member marks its own word as withdrawn and then counts itself in
//! the decision word. Whoever finds the contest (members of closed nodes, members that come back, and members that wait
//! for long) reads the decision word, then of each node the completion word and after it its members' own words, and if
//! all stand swaps the decision word. Before a node is complete its members may withdraw without being counted; after
//! that a withdrawal in between has changed the decision word and makes the swap fail. So a barrier is decided, or a
//! withdrawal is counted, never both.

use std::task::Poll;

use super::layout::SpanLayout;
use super::{Schedule, Span};
use crate::coord::barrier::Operation;
use crate::coord::barrier::word::ArrivalWord;
use crate::coord::reads::{Place, Reads};
use crate::fabric::{Fabric, Memory, PostError, Ticket, WordAt};
use crate::sync::{Ordering, full_fence};

/// How far the members of a node have come with a barrier. Written by this node's members.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–1 | phase | 1 completing, 2 open, 3 closed |
/// | 2–15 | – | 0 |
/// | 16–63 | sequence | which barrier |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletionWord(pub u64);

/// The second half of a completion word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionPhase {
    /// All have arrived, and nobody has looked at the gate yet.
    Completing = 1,
    /// The usual way.
    Open = 2,
    /// Not the usual way.
    Closed = 3,
}

impl CompletionWord {
    /// The word for a barrier.
    pub const fn new(sequence: u64, phase: CompletionPhase) -> Self {
        Self(sequence << 16 | phase as u64)
    }

    const fn sequence(self) -> u64 {
        self.0 >> 16
    }

    /// What it says of a barrier; `None` when not all members have arrived at it.
    fn phase_at(self, sequence: u64) -> Option<CompletionPhase> {
        let is_later = self.sequence() > sequence;
        match self.0 & 3 {
            _ if self.sequence() < sequence => None,
            // Whoever is further has passed it.
            2 => Some(CompletionPhase::Open),
            _ if is_later => Some(CompletionPhase::Open),
            3 => Some(CompletionPhase::Closed),
            _ => Some(CompletionPhase::Completing),
        }
    }
}

/// The one word by which a contested barrier is decided, at the group's home. Changed through the fabric only.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0 | decided | all have arrived |
/// | 1–15 | withdrawals | counted at this barrier |
/// | 16–63 | sequence | the last barrier that was contested |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContestWord(pub u64);

impl ContestWord {
    const MAX_WITHDRAWALS: u64 = (1 << 15) - 1;

    /// The contest of a barrier, just opened.
    pub const fn opened(sequence: u64) -> Self {
        Self(sequence << 16)
    }

    const fn sequence(self) -> u64 {
        self.0 >> 16
    }

    const fn decided(self) -> Self {
        Self(self.0 | 1)
    }

    const fn withdrawals(self) -> u64 {
        self.0 >> 1 & Self::MAX_WITHDRAWALS
    }

    const fn with_one_more(self) -> Self {
        Self(self.0 + 2)
    }

    /// Whether it says that a barrier is passed: decided here, or a later one is contested.
    const fn has_passed(self, sequence: u64) -> bool {
        self.sequence() > sequence || (self.sequence() == sequence && self.0 & 1 == 1)
    }

    const fn is_open_at(self, sequence: u64) -> bool {
        self.sequence() == sequence && self.0 & 1 == 0
    }
}

/// Whether all members of a node have arrived at a barrier and none of them has taken that back, by the node's
/// completion word and the group's contest word. `false` where their own words have to tell.
pub const fn are_all_there(completion: u64, contest: u64, sequence: u64) -> bool {
    CompletionWord(completion).sequence() >= sequence && ContestWord(contest).sequence() < sequence
}

/// What a member needs to know of its group to go through a contest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'group> {
    pub span: &'group Span,
    pub schedule: Schedule,
    pub sequence: u64,
    /// The operation that this member named.
    pub operation: Operation,
}

impl Field<'_> {
    fn block(&self, index: usize) -> (usize, SpanLayout) {
        let (node, start) = self.span.node(index);
        (node, SpanLayout::new(start, self.schedule, self.span.members(index)))
    }

    /// The decision word.
    fn decision(&self) -> (usize, WordAt) {
        let (node, home) = self.block(0);
        (node, home.contest())
    }

    fn completion(&self, index: usize) -> (usize, WordAt) {
        let (node, block) = self.block(index);
        (node, block.completion())
    }

    fn gate(&self, index: usize) -> (usize, WordAt) {
        let (node, block) = self.block(index);
        (node, block.gate())
    }

    /// The completion word of every node, and after it the arrival word and the value of each of its members. In this
    /// order: as long as a node is not complete its members may withdraw without being counted.
    fn members(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for index in 0..self.span.len() {
            let (node, block) = self.block(index);
            places.push(Place { node, at: block.completion() });
            for member in 0..self.span.members(index) {
                let local = block.local();
                places.push(Place { node, at: local.arrival(member) });
                places.push(Place { node, at: local.value(member, self.sequence) });
            }
        }
        places
    }
}

/// Reads those words again that have failed. Of a node whose completion word is among them, all: its members' words
/// were not read after it.
fn read_again(field: &Field<'_>, reads: &mut Reads) {
    let mut first = 0;
    for index in 0..field.span.len() {
        let end = first + 1 + 2 * field.span.members(index);
        if reads.value(first).is_none() {
            reads.discard(first..end);
        }
        first = end;
    }
    reads.try_again();
}

/// Whether all members of this node have been seen to arrive at a barrier, and others may have been told.
pub(super) fn is_complete(memory: &impl Memory, layout: SpanLayout, sequence: u64) -> bool {
    // SYNC POINT: completion. Acquire pairs with `complete`, of whichever member has settled the word: the arrivals
    // that it had seen are seen here. A neighbour's withdrawal abroad, which this member has seen before it looks
    // here, comes after that: it does not find the word as it was.
    CompletionWord(memory.word(layout.completion()).load(Ordering::Acquire)).phase_at(sequence).is_some()
}

/// Notes that all members of this node have arrived, and tells whether they go the usual way.
pub(super) fn complete(memory: &impl Memory, layout: SpanLayout, sequence: u64) -> bool {
    let word = memory.word(layout.completion());
    let completing = CompletionWord::new(sequence, CompletionPhase::Completing);
    // SYNC POINT: gate. Before the gate is looked at; who raises it looks at this word after that. Several members of
    // the node may be here at once: the first to settle the word settles it for all.
    word.fetch_max(completing.0, Ordering::SeqCst);
    full_fence();
    let is_raised = memory.word(layout.gate()).load(Ordering::SeqCst) >= sequence;
    let phase = if is_raised { CompletionPhase::Closed } else { CompletionPhase::Open };
    let settled = CompletionWord::new(sequence, phase);
    let found = word.compare_exchange(completing.0, settled.0, Ordering::SeqCst, Ordering::Acquire);
    let settled = found.map_or_else(CompletionWord, |_| settled);
    settled.phase_at(sequence) == Some(CompletionPhase::Open)
}

/// What all members brought to a contested barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Brought {
    pub operations: u64,
    pub value: u64,
}

/// A look at a contest, which may decide it.
#[derive(Debug, Default)]
pub(super) enum Look {
    /// None is under way.
    #[default]
    Idle,
    /// The decision word is being read.
    AtDecision(Ticket),
    /// All members' words are being read.
    AtMembers(ContestWord, Reads),
    /// The decision word is being swapped.
    Deciding(Ticket, ContestWord, Brought),
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The barrier is not contested.
    NoContest,
    /// It is, and not decided.
    Undecided,
    /// It is passed.
    Passed(Brought),
}

/// Where a look has come to with one step.
enum Moved {
    /// To its next question, or to the answer that is there already.
    On(Look),
    /// It still waits for an answer.
    Nowhere(Look),
    ToEnd(Seen),
}

impl Look {
    /// Begins, if none is under way and there is room.
    pub fn begin(&mut self, field: &Field<'_>, fabric: &impl Fabric) {
        if let Self::Idle = self {
            let (node, at) = field.decision();
            if let Ok(ticket) = fabric.read(node, at) {
                *self = Self::AtDecision(ticket);
            }
        }
    }

    /// Tells all other nodes that it is decided, so that they look. Who is not reached looks by itself after a while.
    fn tell(field: &Field<'_>, fabric: &impl Fabric) {
        for index in 0..field.span.len() {
            let (node, block) = field.block(index);
            let _ = fabric.write(node, block.verdict(), field.sequence);
        }
    }

    /// Moves on. Ready once, at the end of a look that was begun.
    ///
    /// `may_tell`: this member is the one of its node that writes to others. What another one wrote could come after
    /// all have left the group, by a connection of its own.
    pub fn poll(&mut self, field: &Field<'_>, may_tell: bool, fabric: &impl Fabric) -> Poll<Seen> {
        loop {
            let moved = match std::mem::take(self) {
                Self::Idle => return Poll::Pending,
                Self::AtDecision(ticket) => Self::take_decision(ticket, field, fabric),
                Self::AtMembers(word, reads) => Self::take_members(word, reads, field, fabric),
                Self::Deciding(ticket, word, brought) => match fabric.take(ticket) {
                    Poll::Pending => Moved::Nowhere(Self::Deciding(ticket, word, brought)),
                    Poll::Ready(Ok(found)) if found == word.0 => {
                        if may_tell {
                            Self::tell(field, fabric);
                        }
                        Moved::ToEnd(Seen::Passed(brought))
                    }
                    // Somebody else was quicker, or the answer was lost: the next look tells.
                    Poll::Ready(_) => Moved::ToEnd(Seen::Undecided),
                },
            };
            match moved {
                Moved::On(next) => *self = next,
                Moved::Nowhere(same) => {
                    *self = same;
                    return Poll::Pending;
                }
                Moved::ToEnd(seen) => return Poll::Ready(seen),
            }
        }
    }

    /// The decision word, if it has come: whether the members' words are worth reading.
    fn take_decision(ticket: Ticket, field: &Field<'_>, fabric: &impl Fabric) -> Moved {
        match fabric.take(ticket) {
            Poll::Pending => Moved::Nowhere(Self::AtDecision(ticket)),
            Poll::Ready(Err(_)) => Moved::ToEnd(Seen::NoContest),
            Poll::Ready(Ok(word)) => {
                let word = ContestWord(word);
                if !word.has_passed(field.sequence) && !word.is_open_at(field.sequence) {
                    return Moved::ToEnd(Seen::NoContest);
                }
                Moved::On(Self::AtMembers(word, Reads::new(field.members())))
            }
        }
    }

    /// All members' words, if they have come. If all stand, and nobody has decided yet, that is tried next.
    fn take_members(word: ContestWord, mut reads: Reads, field: &Field<'_>, fabric: &impl Fabric) -> Moved {
        if reads.poll(fabric).is_pending() {
            return Moved::Nowhere(Self::AtMembers(word, reads));
        }
        // Of a barrier that is passed the rest can still be read; of another one, too, since a withdrawal meanwhile
        // would make the swap fail.
        if reads.has_failed() {
            read_again(field, &mut reads);
            return Moved::Nowhere(Self::AtMembers(word, reads));
        }
        let Some(brought) = brought_by_all(field, &reads.into_values(fabric)) else {
            return Moved::ToEnd(Seen::Undecided);
        };
        if word.has_passed(field.sequence) {
            return Moved::ToEnd(Seen::Passed(brought));
        }
        let (node, at) = field.decision();
        match fabric.compare_swap(node, at, word.0, word.decided().0) {
            Ok(ticket) => Moved::On(Self::Deciding(ticket, word, brought)),
            Err(_) => Moved::ToEnd(Seen::Undecided),
        }
    }

    /// Whether a look is under way.
    pub fn is_under_way(&self) -> bool {
        !matches!(self, Self::Idle)
    }

    /// Gives it up.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        match std::mem::take(self) {
            Self::Idle => {}
            Self::AtDecision(ticket) | Self::Deciding(ticket, ..) => fabric.forget(ticket),
            Self::AtMembers(_, reads) => drop(reads.into_values(fabric)),
        }
    }
}

/// What all members brought, if all of them stand.
fn brought_by_all(field: &Field<'_>, values: &[Option<u64>]) -> Option<Brought> {
    let mut brought: Option<Brought> = None;
    let mut values = values.iter().copied();
    for index in 0..field.span.len() {
        CompletionWord(values.next()??).phase_at(field.sequence)?;
        for _ in 0..field.span.members(index) {
            let (word, value) = (ArrivalWord(values.next()??), values.next()??);
            if !word.has_arrived(field.sequence) {
                return None;
            }
            let named = word.operation_at(field.sequence).bit();
            brought = Some(match brought {
                None => Brought { operations: named, value },
                Some(sum) => {
                    Brought { operations: sum.operations | named, value: field.operation.combine(sum.value, value) }
                }
            });
        }
    }
    brought
}

/// A member's way back: what it asks next, and the answer that is on its way.
///
/// Each request is posted again until it can be, and reads are posted again when they are lost. After a swap that is
/// lost the word is read again: raising a gate or counting a withdrawal twice does no harm.
#[derive(Debug, Default)]
pub(super) struct Retreat {
    request: Option<Ask>,
    ticket: Option<Ticket>,
}

/// A request on the way back.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Read the decision word, to open the contest.
    Contest,
    /// Open the contest.
    Open { found: u64 },
    /// Read the completion word of a node.
    Completion { index: usize },
    /// Read its gate.
    Gate { index: usize },
    /// Raise its gate.
    Raise { index: usize, found: u64 },
    /// Read its completion word again.
    CompletionAgain { index: usize },
    /// The usual way is closed, and the member has marked its word. Read the decision word, to count the withdrawal.
    Withdrawals,
    /// Count the withdrawal.
    Count { found: ContestWord },
}

/// What is to be done on a way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Call again.
    Wait,
    /// The usual way is closed: mark the member's word, then call [`Retreat::marked`].
    Mark,
    /// The withdrawal is counted: it is as if the member had never arrived.
    Withdrawn,
    /// The barrier is passed.
    Passed,
    /// No more withdrawals can be counted.
    Impossible,
}

impl Retreat {
    /// Whether it has begun.
    pub fn is_under_way(&self) -> bool {
        self.request.is_some()
    }

    /// Gives it up.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        if let Some(ticket) = std::mem::take(self).ticket {
            fabric.forget(ticket);
        }
    }

    /// The member has marked its word.
    pub fn marked(&mut self) {
        self.request = Some(Ask::Withdrawals);
    }

    /// Moves on by one step. `is_closed`: this member's own node does not go the usual way.
    pub fn step(&mut self, field: &Field<'_>, is_closed: bool, fabric: &impl Fabric) -> Step {
        let request = *self.request.get_or_insert(Ask::Contest);
        let Some(ticket) = self.ticket else {
            self.ticket = request.post(field, fabric).ok();
            return Step::Wait;
        };
        let Poll::Ready(answer) = fabric.take(ticket) else { return Step::Wait };
        self.ticket = None;
        let next = match answer {
            Ok(found) => request.understand(found, field, is_closed),
            Err(_) => Err(request.after_loss()),
        };
        match next {
            Err(request) => {
                self.request = Some(request);
                Step::Wait
            }
            Ok(step) => {
                self.request = None;
                step
            }
        }
    }
}

impl Ask {
    fn post(self, field: &Field<'_>, fabric: &impl Fabric) -> Result<Ticket, PostError> {
        let read = |(node, at)| fabric.read(node, at);
        match self {
            Self::Contest | Self::Withdrawals => read(field.decision()),
            Self::Completion { index } | Self::CompletionAgain { index } => read(field.completion(index)),
            Self::Gate { index } => read(field.gate(index)),
            Self::Open { found } => {
                let (node, at) = field.decision();
                fabric.compare_swap(node, at, found, ContestWord::opened(field.sequence).0)
            }
            Self::Raise { index, found } => {
                let (node, at) = field.gate(index);
                fabric.compare_swap(node, at, found, field.sequence)
            }
            Self::Count { found } => {
                let (node, at) = field.decision();
                fabric.compare_swap(node, at, found.0, found.with_one_more().0)
            }
        }
    }

    /// What to ask when the answer was lost.
    fn after_loss(self) -> Self {
        match self {
            Self::Open { .. } => Self::Contest,
            Self::Raise { index, .. } => Self::Gate { index },
            Self::Count { .. } => Self::Withdrawals,
            read => read,
        }
    }

    /// What follows from an answer: the end of asking, or the next request.
    fn understand(self, found: u64, field: &Field<'_>, is_closed: bool) -> Result<Step, Self> {
        let sequence = field.sequence;
        let (contest, completion) = (ContestWord(found), CompletionWord(found));
        match self {
            Self::Contest | Self::Withdrawals if contest.has_passed(sequence) => Ok(Step::Passed),
            Self::Contest if !contest.is_open_at(sequence) => Err(Self::Open { found }),
            Self::Contest if is_closed => Ok(Step::Mark),
            Self::Contest => Err(Self::Completion { index: 0 }),
            // Opened, or somebody else was quicker: reading again tells.
            Self::Open { .. } => Err(Self::Contest),
            Self::Completion { index } => match completion.phase_at(sequence) {
                None => Err(Self::Gate { index }),
                Some(phase) => Self::after_phase(index, phase, field),
            },
            Self::Gate { index } if found >= sequence => Err(Self::CompletionAgain { index }),
            Self::Gate { index } => Err(Self::Raise { index, found }),
            Self::Raise { index, .. } => Err(Self::Gate { index }),
            Self::CompletionAgain { index } => match completion.phase_at(sequence) {
                None => Ok(Step::Mark),
                Some(phase) => Self::after_phase(index, phase, field),
            },
            Self::Withdrawals if contest.withdrawals() == ContestWord::MAX_WITHDRAWALS => Ok(Step::Impossible),
            Self::Withdrawals => Err(Self::Count { found: contest }),
            Self::Count { found: expected } if contest == expected => Ok(Step::Withdrawn),
            Self::Count { .. } => Err(Self::Withdrawals),
        }
    }

    /// A node that is complete: closed is what is wanted, open means the next (all open: passed), and completing to ask
    /// again.
    fn after_phase(index: usize, phase: CompletionPhase, field: &Field<'_>) -> Result<Step, Self> {
        match phase {
            CompletionPhase::Closed => Ok(Step::Mark),
            CompletionPhase::Completing => Err(Self::Completion { index }),
            CompletionPhase::Open if index + 1 == field.span.len() => Ok(Step::Passed),
            CompletionPhase::Open => Err(Self::Completion { index: index + 1 }),
        }
    }
}
