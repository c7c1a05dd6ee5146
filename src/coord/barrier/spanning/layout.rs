//! Where the words of a group that spans nodes stand. The picture stands in docs/design.md, "A spanning group's block".
//!
//! Each node of the group has a block of its own in its own segment: first what the nodes say to each other, at
//! positions that are the same on all of them, then the local members' block as in a group of one node.

use super::schedule::{ExchangePattern, Schedule};
use crate::coord::barrier::layout::{GroupLayout, parity};
use crate::fabric::node::hash;
use crate::fabric::{LINE_WORDS, WordAt};

/// A node's block of a spanning group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanLayout {
    start: WordAt,
    schedule: Schedule,
    local: GroupLayout,
}

impl SpanLayout {
    /// The block that starts at `start`, of a node with `members` local members.
    pub const fn new(start: WordAt, schedule: Schedule, members: usize) -> Self {
        let local = GroupLayout::new(start.plus(Self::exchange_words(&schedule)), members);
        Self { start, schedule, local }
    }

    /// Words of a block.
    pub const fn words(schedule: &Schedule, members: usize) -> usize {
        Self::exchange_words(schedule) + GroupLayout::words(members) + schedule.nodes().next_multiple_of(LINE_WORDS)
    }

    /// A line for the release, one for each round's outbox, one for each slot of the inbox.
    const fn exchange_words(schedule: &Schedule) -> usize {
        (1 + schedule.rounds() + schedule.slots()) * LINE_WORDS
    }

    /// The first word.
    pub const fn start(&self) -> WordAt {
        self.start
    }

    /// The rounds between the nodes.
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The local members' block.
    pub const fn local(&self) -> GroupLayout {
        self.local
    }

    /// The last barrier that is passed for the node's members, and whether it will stay that; see [`ReleaseWord`].
    pub const fn release(&self) -> WordAt {
        self.start
    }

    /// Members parked on the release.
    pub const fn release_sleepers(&self) -> WordAt {
        self.start.plus(1)
    }

    /// The reduced value of the barrier that was released last: the next is not released before all local members have
    /// read it.
    pub const fn release_value(&self) -> WordAt {
        self.start.plus(2)
    }

    /// The local member that came last of all to the barrier that was released last: its index plus one; 0 for none.
    pub const fn release_last(&self) -> WordAt {
        self.start.plus(3)
    }

    /// 1 once this node's members have all left and nothing of theirs is on its way to other nodes; see
    /// [`crate::coord::farewell`].
    pub const fn departed(&self) -> WordAt {
        self.start.plus(4)
    }

    /// How far this node's members have come; see [`super::contest::CompletionWord`].
    pub const fn completion(&self) -> WordAt {
        self.start.plus(5)
    }

    /// The last barrier that other nodes contest here. Changed through the fabric only; only grows.
    pub const fn gate(&self) -> WordAt {
        self.start.plus(6)
    }

    /// At the group's first node: the decision of a contested barrier; see [`super::contest::ContestWord`].
    pub const fn contest(&self) -> WordAt {
        self.start.plus(7)
    }

    /// The last contested barrier of which another node has said that it is decided. Only a hint to look.
    pub const fn verdict(&self) -> WordAt {
        self.start.plus(8)
    }

    /// What the group's leaders have agreed on, the same on all nodes: tells the block from others that stand here
    /// before it or after it; see [`crate::coord::introductions`].
    pub const fn ballot(&self) -> WordAt {
        self.start.plus(9)
    }

    /// The node of an index in the group, and its block: see [`NodeWord`]. The world has no need of it.
    pub const fn node(&self, index: usize) -> WordAt {
        self.local.start().plus(GroupLayout::words(self.local.size()) + index)
    }

    /// What this node sends in a round, for whoever missed it to read.
    pub const fn outbox(&self, round: usize, sequence: u64) -> WordAt {
        self.start.plus((1 + round) * LINE_WORDS + parity(sequence))
    }

    /// What comes in by a slot.
    pub const fn inbox(&self, slot: usize, sequence: u64) -> WordAt {
        self.start.plus((1 + self.schedule.rounds() + slot) * LINE_WORDS + parity(sequence))
    }

    /// The value that belongs to a word of the outbox or the inbox.
    pub const fn value_of(word: WordAt) -> WordAt {
        word.plus(2)
    }
}

/// What one node says to another in a round. Written by one node only; there is one for odd sequences and one for even
/// ones, because a node may be one barrier ahead of a reader.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–5 | operations | a bit for each operation that the members known so far have named |
/// | 6–15 | – | 0 |
/// | 16–63 | sequence | which barrier |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeWord(pub u64);

impl ExchangeWord {
    const OPERATIONS: u64 = 0x3f;

    /// The word for a barrier.
    pub const fn new(sequence: u64, operations: u64) -> Self {
        Self(sequence << 16 | operations)
    }

    /// Which barrier.
    pub const fn sequence(self) -> u64 {
        self.0 >> 16
    }

    /// What was named.
    pub const fn operations(self) -> u64 {
        self.0 & Self::OPERATIONS
    }
}

/// The last barrier that a node's members have been released from, and what they need to know of it. While it is open
/// it is raised by `fetch_max`, by whichever of them sees the end first. Once it is *frozen* it is none of theirs: the
/// survivors of a failure, of this node and of others, find out by compare-and-swaps what it shall be for good, and
/// `fetch_max` changes it no more; see [`super::freeze`].
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–5 | operations | a bit for each operation that the members have named |
/// | 6 | contested | the barrier was decided by members' own words; see [`super::contest`] |
/// | 7 | settled | frozen: no survivor passes a later barrier, or fails at this one |
/// | 8–15 | – | 0 |
/// | 16–44 | sequence | which barrier: the lower half, known from what a reader is at itself |
/// | 45–62 | sequence or epoch | open: its upper half. Frozen: the last epoch whose survivors have asked |
/// | 63 | frozen | |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseWord(pub u64);

impl ReleaseWord {
    const CONTESTED: u64 = 1 << 6;
    const SETTLED: u64 = 1 << 7;
    const SEQUENCE_AT: u32 = 16;
    const EPOCH_AT: u32 = 45;
    const FROZEN: u64 = 1 << 63;
    /// What stays of an open word when it is frozen.
    const KEPT: u64 = (1 << Self::EPOCH_AT) - 1;
    /// Sequences modulo this are in a frozen word.
    const SEQUENCES: u64 = 1 << (Self::EPOCH_AT - Self::SEQUENCE_AT);

    /// The word of a barrier.
    pub const fn new(sequence: u64, operations: u64, was_contested: bool) -> Self {
        let contested = if was_contested { Self::CONTESTED } else { 0 };
        Self(sequence << Self::SEQUENCE_AT | operations | contested)
    }

    /// What was named.
    pub const fn operations(self) -> u64 {
        self.0 & ExchangeWord::OPERATIONS
    }

    /// Whether the barrier was contested.
    pub const fn was_contested(self) -> bool {
        self.0 & Self::CONTESTED != 0
    }

    /// Whether this barrier has been released. Of a frozen word `sequence` must be less than 2^28 off.
    #[inline]
    pub const fn has_released(self, sequence: u64) -> bool {
        match self.is_frozen() {
            false => self.0 >> Self::SEQUENCE_AT >= sequence,
            true => {
                let ahead = (self.0 >> Self::SEQUENCE_AT).wrapping_sub(sequence) % Self::SEQUENCES;
                ahead < Self::SEQUENCES / 2
            }
        }
    }

    /// Whether nobody is released in the usual way any more.
    #[inline]
    pub const fn is_frozen(self) -> bool {
        self.0 & Self::FROZEN != 0
    }

    /// Whether survivors have found out what it is for good.
    pub const fn is_settled(self) -> bool {
        self.is_frozen() && self.0 & Self::SETTLED != 0
    }

    /// The last epoch whose survivors have asked; 0 for an open word.
    pub const fn epoch(self) -> u64 {
        if self.is_frozen() { (self.0 & !Self::FROZEN) >> Self::EPOCH_AT } else { 0 }
    }

    /// The same, frozen for the survivors of an epoch.
    pub const fn frozen(self, epoch: u64) -> Self {
        Self(Self::FROZEN | epoch << Self::EPOCH_AT | self.0 & Self::KEPT)
    }

    /// The same, settled.
    pub const fn settled(self) -> Self {
        Self(self.0 | Self::SETTLED)
    }
}

/// A node in a spanning group's list.
///
/// | bits | field |
/// | --- | --- |
/// | 0–39 | the first word of its block |
/// | 40–63 | its number in the job |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeWord(pub u64);

impl NodeWord {
    const START: u64 = (1 << 40) - 1;

    /// Packs a node and its block.
    pub const fn new(node: usize, start: WordAt) -> Self {
        Self(start.0 as u64 & Self::START | (node as u64) << 40)
    }

    /// Its number in the job.
    #[allow(clippy::cast_possible_truncation, reason = "24 bits after the shift")]
    pub const fn node(self) -> usize {
        (self.0 >> 40) as usize
    }

    /// The first word of its block.
    #[allow(clippy::cast_possible_truncation, reason = "an index on a 64-bit system")]
    pub const fn start(self) -> WordAt {
        WordAt((self.0 & Self::START) as usize)
    }
}

/// Hash over the positions in this file.
pub const LAYOUT_HASH: u64 = {
    let layout = SpanLayout::new(WordAt(0), Schedule::dissemination(9, 3), 2);
    let star = SpanLayout::new(WordAt(0), Schedule::new(9, ExchangePattern::Star), 2);
    hash(
        6,
        &[
            SpanLayout::words(layout.schedule(), 2) as u64,
            layout.local().start().0 as u64,
            layout.release_sleepers().0 as u64,
            layout.release_value().0 as u64,
            layout.release_last().0 as u64,
            layout.departed().0 as u64,
            layout.completion().0 as u64,
            layout.gate().0 as u64,
            layout.contest().0 as u64,
            layout.verdict().0 as u64,
            layout.ballot().0 as u64,
            layout.node(1).0 as u64,
            layout.outbox(1, 1).0 as u64,
            layout.inbox(3, 1).0 as u64,
            star.inbox(8, 1).0 as u64,
            star.local().start().0 as u64,
            SpanLayout::value_of(WordAt(0)).0 as u64,
            ExchangeWord::new(1, 0).0,
            ReleaseWord::new(1, 0, true).0,
            ReleaseWord::new(1, 0, false).frozen(1).settled().0,
            NodeWord::new(1, WordAt(0)).0,
            super::contest::CompletionWord::new(1, super::contest::CompletionPhase::Closed).0,
            super::contest::ContestWord::opened(1).0,
        ],
    )
};

// A job of 65,536 ranks, each a node of its own, has so many epochs.
const _: () = assert!(2 * 65_536 < 1 << (63 - ReleaseWord::EPOCH_AT));

// The law of docs/design.md, "A spanning group's block", for nine nodes and radix 3: two rounds, four slots.
const _: () = {
    let layout = SpanLayout::new(WordAt(0), Schedule::dissemination(9, 3), 2);
    assert!(layout.outbox(0, 0).0 == LINE_WORDS && layout.outbox(1, 0).0 == 2 * LINE_WORDS);
    assert!(layout.inbox(0, 0).0 == 3 * LINE_WORDS && layout.inbox(3, 0).0 == 6 * LINE_WORDS);
    assert!(layout.local().start().0 == 7 * LINE_WORDS);
};

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_word_keeps_its_fields() {
        let word = ExchangeWord::new((1 << 48) - 1, 0x3f);
        assert_eq!((word.sequence(), word.operations()), ((1 << 48) - 1, 0x3f));
        assert!(ExchangeWord::new(7, 0).0 > ExchangeWord::new(6, 0x3f).0);
        let word = NodeWord::new((1 << 24) - 1, WordAt(1 << 33));
        assert_eq!((word.node(), word.start()), ((1 << 24) - 1, WordAt(1 << 33)));
    }

    #[test]
    fn a_release_that_is_frozen_keeps_what_it_says_and_stands_against_later_ones() {
        for sequence in [1, 5, (1 << 29) - 1, 1 << 29, (1 << 40) + 7] {
            let open = ReleaseWord::new(sequence, 0x3f, true);
            let epoch = (1 << 18) - 1;
            let frozen = open.frozen(epoch);
            for word in [open, frozen, frozen.settled(), frozen.frozen(epoch)] {
                assert_eq!((word.operations(), word.was_contested()), (0x3f, true));
                let found = [sequence - 1, sequence, sequence + 1].map(|sequence| word.has_released(sequence));
                assert_eq!(found, [true, true, false], "{sequence} {word:?}");
            }
            assert_eq!((open.epoch(), open.is_frozen(), open.is_settled()), (0, false, false));
            assert_eq!((frozen.epoch(), frozen.is_frozen(), frozen.is_settled()), (epoch, true, false));
            assert!(frozen.settled().is_settled() && frozen.settled().frozen(3).is_settled());
            assert!(ReleaseWord::new(0, 0, false).frozen(1).0 > ReleaseWord::new((1 << 47) - 1, 0x3f, true).0);
        }
    }
}
