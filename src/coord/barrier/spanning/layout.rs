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

    /// The barrier is passed, for the node's members; see [`ExchangeWord`].
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

    /// What the group's leaders have agreed on, the same on all nodes: tells the block from others that stand here before
    /// it or after it; see [`crate::coord::introductions`].
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

/// What one node says to another in a round, and what a node's members are released with. Written by one node only
/// (the release by any of its members, all alike); there is one for odd sequences and one for even ones, because a
/// node may be one barrier ahead of a reader.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–5 | operations | a bit for each operation that the members known so far have named |
/// | 6 | contested | of a release: the barrier was decided by members' own words; see [`super::contest`] |
/// | 7–15 | – | 0 |
/// | 16–63 | sequence | which barrier |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeWord(pub u64);

impl ExchangeWord {
    const OPERATIONS: u64 = 0x3f;
    const CONTESTED: u64 = 1 << 6;

    /// The word for a barrier.
    pub const fn new(sequence: u64, operations: u64) -> Self {
        Self(sequence << 16 | operations)
    }

    /// The same, of a barrier that was contested or not.
    pub const fn with_contest(self, was_contested: bool) -> Self {
        if was_contested { Self(self.0 | Self::CONTESTED) } else { self }
    }

    /// Whether the barrier was contested.
    pub const fn was_contested(self) -> bool {
        self.0 & Self::CONTESTED != 0
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
            ExchangeWord::new(1, 0).with_contest(true).0,
            NodeWord::new(1, WordAt(0)).0,
            super::contest::CompletionWord::new(1, super::contest::CompletionPhase::Closed).0,
            super::contest::ContestWord::opened(1).0,
        ],
    )
};

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
}
