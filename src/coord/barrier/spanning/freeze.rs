//! What becomes of the barrier at which a failure breaks a group: all survivors pass it, or all fail at it.
//!
//! In the usual way each node knows by itself that a barrier is passed, and one may know it while another never will: a
//! node that has died may have told the one and not the other. So whoever is about to fail first asks the survivors'
//! nodes how far they have come, and sees to it that none of them goes further meanwhile.
//!
//! Every member of a node is released by the node's *release word* ([`ReleaseWord`]), and by nothing else. A survivor
//! that knows the view log up to epoch `v`
//!
//! 1. *freezes* that word on each node that has a survivor by that log, its own the first: a compare-and-swap sets the
//!    highest bit, so that `fetch_max` changes the word no more, and writes `v` beside it. Where it is frozen with an
//!    earlier epoch, `v` takes that one's place; where with a later one, the survivor waits until it knows that one,
//!    too, and begins again;
//! 2. takes the highest barrier that it has found, `P`, and swaps it into its own node's word, as *settled*, if `v`
//!    still stands there; and begins again if not;
//! 3. passes its barrier if that is not above `P`, and fails at it otherwise. Its neighbours find the word settled, and
//!    do the same without asking anybody.
//!
//! # Why all survivors do the same
//!
//! Take two that have settled: X with `v`, and Y with `w ≥ v`, both of them alive by the log up to `w`, so that X's
//! node is among those that Y asks.
//!
//! *`w = v`.* They ask the same nodes. When a node's word has been frozen with `v` it changes only by being settled
//! (and by later epochs), at the highest that is found with `v`; so both find the same.
//!
//! *`w > v`.* X's node was settled while `v` stood in its word, so before Y froze it with `w`: Y finds `P` there, or
//! more. And it finds no more: it asks only nodes that X has asked (a log only grows, and so do the dead), in each of
//! which X has found `P` at most, and which have since been settled only at what was found in such nodes.
//!
//! It makes no difference how many die meanwhile, in which order, or whether X has settled by what it has found on a
//! node that Y cannot ask any more. Whoever cannot reach a node that has survivors waits: it will answer, or be
//! declared failed (a later epoch), or nobody can agree on that (then the wait ends as unreachable, and the arrival
//! stands). Nobody needs the ranks of a node to look: its agent's fabric executes the swaps, and a rank that computes
//! meanwhile finds the word frozen when it looks again.
//!
//! What a barrier brought is the same wherever it has been released, so whoever is behind takes it from there.

use std::task::Poll;

use super::layout::{ReleaseWord, SpanLayout};
use super::{Outcome, Spanning};
use crate::fabric::{Fabric, Memory, PostError, Ticket, WordAt};
use crate::sync::{Ordering, full_fence_after_rmw};

/// How a barrier of a broken group has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is passed, by all survivors.
    Passed(Outcome),
    /// No survivor passes it.
    Lost,
}

/// The way there.
#[derive(Debug)]
pub(super) struct Freeze {
    epoch: u64,
    asked: Vec<Asked>,
    value: Value,
}

/// A node whose word is being frozen.
#[derive(Debug)]
struct Asked {
    index: usize,
    ask: Ask,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Its word is to be read.
    Look,
    /// It is being read.
    Looking(Ticket),
    /// It is to be swapped.
    Swap(ReleaseWord),
    /// It is being swapped.
    Swapping(Ticket, ReleaseWord),
    /// It is frozen.
    Frozen(ReleaseWord),
}

/// The value of a barrier that this node has not released, and another one has.
#[derive(Clone, Copy, Debug)]
enum Value {
    Unknown,
    Asked(Ticket),
    Known(u64),
}

impl Spanning {
    /// How the outstanding barrier of a group ends that is broken; `epoch` is the last of the view log that is known
    /// here, and `has_survivor` says of a node, by its index in the group, whether by that log a member survives there.
    ///
    /// Ready at once where a neighbour has been quicker.
    ///
    /// # Panics
    ///
    /// When nothing is outstanding.
    ///
    /// # Cost
    ///
    /// Two round trips to each node, all at a time, and a third where this node is behind and the barrier carries a
    /// value.
    pub fn settle(
        &mut self,
        memory: &impl Memory,
        fabric: &impl Fabric,
        epoch: u64,
        has_survivor: impl Fn(usize) -> bool,
    ) -> Poll<Settled> {
        assert!(self.is_outstanding(), "nothing to settle");
        fabric.progress();
        let own = self.freeze_here(memory, epoch);
        if own.has_released(self.next()) {
            self.let_go(fabric);
            return Poll::Ready(Settled::Passed(self.pass_as_released(memory, fabric, own)));
        }
        if own.is_settled() {
            self.let_go(fabric);
            return Poll::Ready(Settled::Lost);
        }
        if own.epoch() > epoch {
            return Poll::Pending;
        }
        let mut freeze = match self.freeze.take() {
            Some(freeze) if freeze.epoch == epoch => freeze,
            earlier => {
                earlier.into_iter().for_each(|freeze| freeze.abandon(fabric));
                let others = (0..self.span.len()).filter(|index| *index != self.here && has_survivor(*index));
                let asked = others.map(|index| Asked { index, ask: Ask::Look }).collect();
                Freeze { epoch, asked, value: Value::Unknown }
            }
        };
        let settled = self.settle_as_found(&mut freeze, own, memory, fabric);
        self.freeze = Some(freeze);
        if settled.is_ready() {
            self.let_go(fabric);
        }
        settled
    }

    /// Whether survivors of a failure have closed the usual way on this node.
    pub fn is_frozen(&self, memory: &impl Memory) -> bool {
        // Relaxed: who cares looks again, by a swap.
        ReleaseWord(memory.word(self.layout.release()).load(Ordering::Relaxed)).is_frozen()
    }

    /// The nodes that have not answered the survivor's questions, by their numbers in the job.
    pub fn unsettled(&self) -> impl Iterator<Item = usize> {
        let asked = self.freeze.iter().flat_map(|freeze| freeze.asked.iter());
        let unanswered = asked.filter(|asked| !matches!(asked.ask, Ask::Frozen(_)));
        unanswered.map(|asked| self.span.node(asked.index).0)
    }

    /// Freezes this node's word for the survivors of an epoch, or of the later one that it is frozen for already.
    fn freeze_here(&self, memory: &impl Memory, epoch: u64) -> ReleaseWord {
        let word = memory.word(self.layout.release());
        // SYNC POINT: release. Acquire: of whoever has released last, or frozen the word.
        let mut found = ReleaseWord(word.load(Ordering::Acquire));
        while found.epoch() < epoch {
            // SYNC POINT: release. Acquire: of whoever has released last; release: of the value, which a member that is
            // behind takes from here.
            let frozen = found.frozen(epoch);
            match word.compare_exchange(found.0, frozen.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return frozen,
                Err(other) => found = ReleaseWord(other),
            }
        }
        found
    }

    /// Goes on with asking; settles this node's word when all have answered.
    fn settle_as_found(
        &mut self,
        freeze: &mut Freeze,
        own: ReleaseWord,
        memory: &impl Memory,
        fabric: &impl Fabric,
    ) -> Poll<Settled> {
        for asked in &mut freeze.asked {
            asked.step(self.place_of(asked.index, SpanLayout::release), freeze.epoch, fabric);
        }
        // No node can have been released from a later barrier than this one, at which this member is: so the first that
        // has been released from it is as far as any, and what that brought is the same in all of them.
        let mut highest = None;
        for asked in &freeze.asked {
            match asked.ask {
                Ask::Frozen(word) if word.epoch() == freeze.epoch => {
                    highest = highest.or(word.has_released(self.next()).then_some((asked.index, word)));
                }
                // One that is frozen for a later epoch waits until that is known here.
                _ => return Poll::Pending,
            }
        }
        let Some((index, word)) = highest else {
            return match self.swap_here(memory, own, own.settled()) {
                true => Poll::Ready(Settled::Lost),
                false => Poll::Pending,
            };
        };
        let at = self.place_of(index, SpanLayout::release_value);
        let Some(value) = freeze.value.take_from(at, self.contribution.operation.has_value(), fabric) else {
            return Poll::Pending;
        };
        // All of this node have arrived at this barrier, so they have read what stood here of the one before. Several
        // members may store here, all the same.
        memory.word(self.layout.release_value()).store(value, Ordering::Relaxed);
        memory.word(self.layout.release_last()).store(0, Ordering::Relaxed);
        let raised = word.frozen(freeze.epoch).settled();
        if !self.swap_here(memory, own, raised) {
            return Poll::Pending;
        }
        // SYNC POINT: release sleepers.
        full_fence_after_rmw();
        self.wake_those_released(memory);
        Poll::Ready(Settled::Passed(self.pass_as_released(memory, fabric, raised)))
    }

    /// Whether this node's word was still `own`, and now is `new`.
    fn swap_here(&self, memory: &impl Memory, own: ReleaseWord, new: ReleaseWord) -> bool {
        // SYNC POINT: release. Release: it carries the value.
        let word = memory.word(self.layout.release());
        word.compare_exchange(own.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn place_of(&self, index: usize, which: impl Fn(&SpanLayout) -> WordAt) -> (usize, WordAt) {
        let (node, start) = self.span.node(index);
        (node, which(&SpanLayout::new(start, *self.layout.schedule(), self.span.members(index))))
    }
}

impl Freeze {
    /// Gives up what is on its way.
    pub fn abandon(self, fabric: &impl Fabric) {
        for asked in self.asked {
            if let Ask::Looking(ticket) | Ask::Swapping(ticket, _) = asked.ask {
                fabric.forget(ticket);
            }
        }
        if let Value::Asked(ticket) = self.value {
            fabric.forget(ticket);
        }
    }
}

impl Asked {
    /// Moves on as far as answers have come. What cannot be posted is posted at the next look; after an answer that was
    /// lost the word tells what it is.
    fn step(&mut self, (node, at): (usize, WordAt), epoch: u64, fabric: &impl Fabric) {
        if let Ask::Looking(ticket) | Ask::Swapping(ticket, _) = self.ask {
            let Poll::Ready(answer) = fabric.take(ticket) else { return };
            self.ask = match (answer.map(ReleaseWord), self.ask) {
                (Err(_), _) => Ask::Look,
                (Ok(found), Ask::Swapping(_, expected)) if found == expected => Ask::Frozen(expected.frozen(epoch)),
                (Ok(found), _) if found.epoch() >= epoch => Ask::Frozen(found),
                (Ok(found), _) => Ask::Swap(found),
            };
        }
        let posted = match self.ask {
            Ask::Look => fabric.read(node, at).map(Ask::Looking),
            Ask::Swap(found) => Self::swap(node, at, found, epoch, fabric),
            waits => Ok(waits),
        };
        self.ask = posted.unwrap_or(self.ask);
    }

    fn swap(node: usize, at: WordAt, found: ReleaseWord, epoch: u64, fabric: &impl Fabric) -> Result<Ask, PostError> {
        let ticket = fabric.compare_swap(node, at, found.0, found.frozen(epoch).0)?;
        Ok(Ask::Swapping(ticket, found))
    }
}

impl Value {
    /// The value that stands in another node's word, once it is here; nothing is asked where the barrier carries none.
    fn take_from(&mut self, (node, at): (usize, WordAt), is_carried: bool, fabric: &impl Fabric) -> Option<u64> {
        if !is_carried {
            return Some(0);
        }
        if let Self::Asked(ticket) = *self
            && let Poll::Ready(answer) = fabric.take(ticket)
        {
            *self = answer.map_or(Self::Unknown, Self::Known);
        }
        if let Self::Unknown = *self {
            *self = fabric.read(node, at).map_or(Self::Unknown, Self::Asked);
        }
        if let Self::Known(value) = *self { Some(value) } else { None }
    }
}
