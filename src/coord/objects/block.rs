//! Numbers that a node has taken from a counter at once, and that its ranks draw from: one word of the node.

use super::layout::ObjectAt;
use crate::fabric::WordAt;

/// The word of a node's block, of a counter that this node has: behind the words of a lock.
pub const fn block_of(at: &ObjectAt) -> WordAt {
    at.own(8)
}

/// The most numbers that can be left.
pub const MOST_LEFT: u64 = 0xfffe - 1;

const LEFT: u64 = 0xffff;
const FETCHED: u64 = 0xffff;
const END_AT: u32 = 16;

/// What a node has of a counter's numbers. All of it is changed by compare-and-swap, and no two blocks are alike: so
/// each number is drawn once, and whoever dies takes nothing with it but what it had drawn.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–15 | left | how many numbers are left; `0xffff`: a rank fetches some |
/// | 16–63 | end | the number behind the last of them; that rank, by its place on the node |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockWord(pub u64);

/// A [`BlockWord`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Nothing is left, or was ever there.
    Empty,
    /// Numbers are left.
    Left {
        /// The next.
        next: u64,
    },
    /// A rank fetches some.
    Fetched {
        /// By its place on the node.
        by: usize,
    },
}

impl BlockWord {
    /// So many numbers, up to `end`; `None` where they are too great.
    pub const fn left(end: u64, left: u64) -> Option<Self> {
        assert!(left <= MOST_LEFT, "they are taken that way");
        if end >> (64 - END_AT) == 0 { Some(Self(end << END_AT | left)) } else { None }
    }

    /// A rank fetches some.
    pub const fn fetched(by: usize) -> Self {
        Self((by as u64) << END_AT | FETCHED)
    }

    /// What it says.
    #[allow(clippy::cast_possible_truncation, reason = "a rank's place")]
    pub const fn block(self) -> Block {
        match self.0 & LEFT {
            0 => Block::Empty,
            FETCHED => Block::Fetched { by: (self.0 >> END_AT) as usize },
            left => Block::Left { next: (self.0 >> END_AT) - left },
        }
    }

    /// The next number, and the word without it.
    #[inline]
    pub const fn drawn(self) -> Option<(u64, Self)> {
        match self.block() {
            Block::Left { next } => Some((next, Self(self.0 - 1))),
            Block::Empty | Block::Fetched { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_of_a_block_are_drawn_in_order() {
        for (end, count) in [(5, 5), (MOST_LEFT, MOST_LEFT), ((1 << 48) - 1, 3)] {
            let mut word = BlockWord::left(end, count).expect("small");
            for expected in end - count..end {
                let (number, rest) = word.drawn().expect("some are left");
                assert_eq!(number, expected);
                word = rest;
            }
            assert_eq!((word.drawn(), word.block()), (None, Block::Empty));
        }
        assert_eq!(BlockWord::left(1 << 48, 1), None);
    }

    #[test]
    fn who_fetches_is_named() {
        for by in [0, 1, 1023] {
            assert_eq!(BlockWord::fetched(by).block(), Block::Fetched { by });
            assert_eq!(BlockWord::fetched(by).drawn(), None);
        }
        assert_eq!(BlockWord(0).block(), Block::Empty);
    }
}
