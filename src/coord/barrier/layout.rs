//! Where a group's words stand: a block of the segment's arena. The picture stands in docs/design.md, "A group's
//! block".
//!
//! Each member has one *hot* line, which others read while it waits, and half a line of *cold* words, which it
//! writes at every arrival and others read only to park or to look at statistics. Hot words of two members never
//! share a line.

use crate::fabric::node::hash;
use crate::fabric::{LINE_WORDS, WordAt};

const COLD_WORDS: usize = LINE_WORDS / 2;

/// A group's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLayout {
    start: WordAt,
    size: usize,
    /// The first hot line and the first cold word, worked out once: they are needed at every arrival.
    hot: WordAt,
    cold: WordAt,
}

/// Which of two buffers a barrier uses: a member may be one barrier ahead of a reader, never two.
#[allow(clippy::cast_possible_truncation, reason = "one bit")]
pub const fn parity(sequence: u64) -> usize {
    (sequence & 1) as usize
}

impl GroupLayout {
    /// A block for `size` members whose first word is `start`.
    pub const fn new(start: WordAt, size: usize) -> Self {
        let hot = start.plus(Self::hot_start(size));
        Self { start, size, hot, cold: hot.plus(size * LINE_WORDS) }
    }

    /// Words of a block for `size` members.
    pub const fn words(size: usize) -> usize {
        let cold_lines = (size * COLD_WORDS).div_ceil(LINE_WORDS);
        Self::hot_start(size) + (size + cold_lines) * LINE_WORDS
    }

    const fn hot_start(size: usize) -> usize {
        (2 + size.div_ceil(LINE_WORDS)) * LINE_WORDS
    }

    /// The first word.
    pub const fn start(&self) -> WordAt {
        self.start
    }

    /// Members.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// The group's number in its job.
    pub const fn id(&self) -> WordAt {
        self.start
    }

    /// How many members the block is for.
    pub const fn size_word(&self) -> WordAt {
        self.start.plus(1)
    }

    /// The algorithm's number.
    pub const fn algorithm(&self) -> WordAt {
        self.start.plus(2)
    }

    /// When this node's members asked last after those that they miss; see [`QuestionWord`].
    pub const fn question(&self) -> WordAt {
        self.start.plus(3)
    }

    /// The decision word of a tree or a central counter.
    pub const fn decision(&self) -> WordAt {
        self.start.plus(LINE_WORDS)
    }

    /// Members parked on the decision word.
    pub const fn decision_sleepers(&self) -> WordAt {
        self.start.plus(LINE_WORDS + 1)
    }

    /// The outcome that a tree's root publishes with its decision.
    pub const fn result(&self) -> WordAt {
        self.start.plus(LINE_WORDS + 2)
    }

    /// The member that a tree's root saw come last.
    pub const fn result_last(&self) -> WordAt {
        self.start.plus(LINE_WORDS + 3)
    }

    /// Member `index`: its rank in the job and its parent in the tree; see [`MemberWord`].
    pub const fn member(&self, index: usize) -> WordAt {
        self.start.plus(2 * LINE_WORDS + index)
    }

    #[inline]
    const fn hot(&self, index: usize) -> WordAt {
        self.hot.plus(index * LINE_WORDS)
    }

    #[inline]
    const fn cold(&self, index: usize) -> WordAt {
        self.cold.plus(index * COLD_WORDS)
    }

    /// Hot: the member's arrival.
    #[inline]
    pub const fn arrival(&self, index: usize) -> WordAt {
        self.hot(index)
    }

    /// Hot: the CPU on which the member arrived, plus one.
    pub const fn cpu(&self, index: usize) -> WordAt {
        self.hot(index).plus(1)
    }

    /// Hot: the member's contribution to the reduction of a barrier.
    pub const fn value(&self, index: usize, sequence: u64) -> WordAt {
        self.hot(index).plus(2 + parity(sequence))
    }

    /// Hot: all below the member in the tree have arrived.
    pub const fn gathered(&self, index: usize) -> WordAt {
        self.hot(index).plus(4)
    }

    /// Hot: the reduction over all below the member.
    pub const fn gathered_value(&self, index: usize) -> WordAt {
        self.hot(index).plus(5)
    }

    /// Hot: the barrier is passed, for the member's children.
    pub const fn released(&self, index: usize) -> WordAt {
        self.hot(index).plus(6)
    }

    /// Hot: the outcome, for the member's children.
    pub const fn released_value(&self, index: usize) -> WordAt {
        self.hot(index).plus(7)
    }

    /// Hot: the colour that the member gave to a split.
    pub const fn color(&self, index: usize, sequence: u64) -> WordAt {
        self.hot(index).plus(8 + parity(sequence))
    }

    /// Hot: the key that the member gave to a split.
    pub const fn key(&self, index: usize, sequence: u64) -> WordAt {
        self.hot(index).plus(10 + parity(sequence))
    }

    /// Cold: how many ranks are parked on the member's arrival word.
    #[inline]
    pub const fn sleepers(&self, index: usize) -> WordAt {
        self.cold(index)
    }

    /// Cold: when the member arrived at a barrier, in ticks.
    pub const fn arrived_at(&self, index: usize, sequence: u64) -> WordAt {
        self.cold(index).plus(1 + parity(sequence))
    }

    /// Cold: how long the member has waited in all, in ticks.
    pub const fn waited(&self, index: usize) -> WordAt {
        self.cold(index).plus(3)
    }

    /// Cold: the member's longest wait, in ticks.
    pub const fn longest_wait(&self, index: usize) -> WordAt {
        self.cold(index).plus(4)
    }

    /// Cold: how often the member came last.
    pub const fn times_last(&self, index: usize) -> WordAt {
        self.cold(index).plus(5)
    }

    /// Cold: since when the others see the member stopped; see [`StoppedWord`]. Not touched by barriers.
    pub const fn stopped(&self, index: usize) -> WordAt {
        self.cold(index).plus(7)
    }

    /// Cold: whether the member holds the block; see [`crate::coord::formation::Hold`]. Not touched by barriers.
    pub const fn hold(&self, index: usize) -> WordAt {
        self.cold(index).plus(6)
    }
}

/// A member in a group's list.
///
/// | bits | field |
/// | --- | --- |
/// | 0–31 | rank in the job |
/// | 32–63 | parent in the tree: its index plus one; 0 for the root |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberWord(pub u64);

impl MemberWord {
    /// Packs a rank and a parent's index.
    pub fn new(rank: usize, parent: Option<usize>) -> Self {
        Self(rank as u64 & 0xffff_ffff | parent.map_or(0, |index| index as u64 + 1) << 32)
    }

    /// The rank in the job.
    #[allow(clippy::cast_possible_truncation, reason = "cut to 32 bits on purpose")]
    pub fn rank(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    /// The parent's index in the group.
    #[allow(clippy::cast_possible_truncation, reason = "32 bits after the shift")]
    pub fn parent(self) -> Option<usize> {
        ((self.0 >> 32) as usize).checked_sub(1)
    }
}

/// When a node's members asked last after those that they miss: so that one of them asks for all.
///
/// | bits | field |
/// | --- | --- |
/// | 0–31 | milliseconds since the clock's origin |
/// | 32–47 | the how many-th question about the barrier |
/// | 48–63 | the barrier's sequence, lower half |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuestionWord(pub u64);

impl QuestionWord {
    const MILLISECONDS: u64 = 0xffff_ffff;
    const TURN_AT: u32 = 32;
    const TURNS: u64 = 0xffff;
    const SEQUENCE_AT: u32 = 48;
    const SEQUENCES: u64 = 0xffff;

    /// Question `turn` about a barrier.
    pub const fn new(sequence: u64, turn: u64, now_ms: u64) -> Self {
        Self(now_ms & Self::MILLISECONDS | (turn & Self::TURNS) << Self::TURN_AT | sequence << Self::SEQUENCE_AT)
    }

    /// The next question about a barrier, if nobody has asked for so long; with its number.
    pub const fn next(self, sequence: u64, now_ms: u64, period_ms: u64) -> Option<(u64, Self)> {
        if self.0 >> Self::SEQUENCE_AT != sequence & Self::SEQUENCES {
            return Some((0, Self::new(sequence, 0, now_ms)));
        }
        let since_ms = now_ms.wrapping_sub(self.0) & Self::MILLISECONDS;
        let turn = (self.0 >> Self::TURN_AT & Self::TURNS) + 1;
        if since_ms >= period_ms { Some((turn, Self::new(sequence, turn, now_ms))) } else { None }
    }
}

/// Since when the others that wait at a barrier see a member stopped.
///
/// | bits | field |
/// | --- | --- |
/// | 0–27 | since when: milliseconds since the clock's origin, lower 28 bits |
/// | 28–55 | when it was last seen so, likewise |
/// | 56–63 | the barrier's sequence, lower 8 bits |
///
/// 0: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoppedWord(pub u64);

impl StoppedWord {
    const TIME_BITS: u32 = 28;
    const TIME: u64 = (1 << Self::TIME_BITS) - 1;
    const SEQUENCE_AT: u32 = 2 * Self::TIME_BITS;
    const SEQUENCES: u64 = 0xff;

    /// Seen so while barrier `sequence` is waited for.
    pub const fn new(sequence: u64, now_ms: u64) -> Self {
        let time = now_ms & Self::TIME;
        Self(time | time << Self::TIME_BITS | sequence << Self::SEQUENCE_AT)
    }

    /// Seen so once more, or for the first time after it has lapsed.
    pub const fn seen(self, sequence: u64, now_ms: u64, lapse_ms: u64) -> Self {
        match self.span_ms(sequence, now_ms, lapse_ms) {
            Some(_) => Self(self.0 & !(Self::TIME << Self::TIME_BITS) | (now_ms & Self::TIME) << Self::TIME_BITS),
            None => Self::new(sequence, now_ms),
        }
    }

    /// For how many milliseconds, if it has been seen so while barrier `sequence` was waited for, and last no longer
    /// ago than `lapse_ms`.
    pub const fn span_ms(self, sequence: u64, now_ms: u64, lapse_ms: u64) -> Option<u64> {
        let is_of_it = self.0 != 0 && self.0 >> Self::SEQUENCE_AT == sequence & Self::SEQUENCES;
        let has_lapsed = now_ms.wrapping_sub(self.0 >> Self::TIME_BITS) & Self::TIME > lapse_ms;
        if is_of_it && !has_lapsed { Some(now_ms.wrapping_sub(self.0) & Self::TIME) } else { None }
    }
}

/// Hash over the positions in this file, for the layout hash.
pub const LAYOUT_HASH: u64 = {
    let group = GroupLayout::new(WordAt(0), 3);
    hash(
        2,
        &[
            GroupLayout::words(3) as u64,
            group.decision().0 as u64,
            group.member(2).0 as u64,
            group.arrival(2).0 as u64,
            group.value(2, 1).0 as u64,
            group.gathered(2).0 as u64,
            group.released_value(2).0 as u64,
            group.key(2, 1).0 as u64,
            group.sleepers(2).0 as u64,
            group.arrived_at(2, 1).0 as u64,
            group.times_last(2).0 as u64,
            group.hold(2).0 as u64,
            group.stopped(2).0 as u64,
            group.question().0 as u64,
            QuestionWord::new(1, 1, 1).0,
            StoppedWord::new(1, 1).0,
            super::word::LAYOUT_HASH,
        ],
    )
};

// The law of docs/design.md, "A group's block", for a group of three.
const _: () = {
    let group = GroupLayout::new(WordAt(0), 3);
    assert!(group.decision().0 == 16 && group.member(0).0 == 32 && group.arrival(0).0 == 48);
    assert!(group.arrival(1).0 - group.arrival(0).0 == LINE_WORDS);
    assert!(group.key(2, 1).0 < group.arrival(2).0 + LINE_WORDS);
    assert!(group.sleepers(0).0 == 96 && group.sleepers(1).0 == 104);
    assert!(group.stopped(2).0 < GroupLayout::words(3) && GroupLayout::words(3) == 128);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_for_128_ranks_and_64_groups_of_all_of_them_fits_into_2_mib() {
        use crate::fabric::node::{NodeLayout, UNIT_WORDS};
        let block = GroupLayout::words(128).next_multiple_of(UNIT_WORDS);
        let bytes = NodeLayout::new(128, 64 * block).words() * 8;
        assert!(bytes <= 2 << 20, "{bytes} bytes");
    }

    #[test]
    fn one_of_those_who_wait_asks_in_each_period_and_every_barrier_begins_anew() {
        let (turn, first) = QuestionWord(0).next(5, 1000, 20).expect("nobody has asked");
        assert_eq!((turn, first.next(5, 1019, 20)), (0, None));
        assert_eq!(first.next(5, 1020, 20).map(|(turn, _)| turn), Some(1));
        assert_eq!(first.next(6, 1001, 20).map(|(turn, _)| turn), Some(0));
        let late = QuestionWord::new(5, 0, (1 << 32) - 10);
        assert_eq!((late.next(5, 1 << 32, 20), late.next(5, (1 << 32) + 10, 20).is_some()), (None, true));
    }

    #[test]
    fn how_long_a_member_is_seen_stopped_is_told_of_one_barrier() {
        let word = StoppedWord::new(9, (1 << 28) - 5);
        assert_eq!((word.span_ms(9, (1 << 28) + 5, 10), word.span_ms(10, 1 << 28, 10)), (Some(10), None));
        assert_eq!(StoppedWord(0).span_ms(0, 7, 10), None);
        let renewed = word.seen(9, (1 << 28) + 5, 10);
        assert_eq!((renewed.span_ms(9, (1 << 28) + 15, 10), renewed.span_ms(9, (1 << 28) + 16, 10)), (Some(20), None));
        assert_eq!(renewed.seen(9, (1 << 28) + 16, 10), StoppedWord::new(9, (1 << 28) + 16));
    }

    #[test]
    fn a_member_word_keeps_its_fields() {
        let word = MemberWord::new(77, Some(0));
        assert_eq!((word.rank(), word.parent()), (77, Some(0)));
        assert_eq!(MemberWord::new(5, None).parent(), None);
    }
}
