//! The word by which an acceptor takes part, and the ranges of ballots.

use crate::fabric::WordAt;

/// What a node has promised and accepted in one slot. 0: nothing yet.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–31 | value | what was accepted; 0: nothing |
/// | 32–47 | accepted | the ballot of that; 0: none |
/// | 48–63 | promised | the highest ballot seen; not less than `accepted` |
///
/// A ballot is a number: 1 to 32,767 by a majority, from 32,768 to 65,534 by all survivors
/// ([`Rule`](super::Rule)), and 65,535 stands for *closed*: the value is decided and the word changes no more. Changed
/// by compare-and-swap through the fabric only, and every change makes it larger in (promised, accepted): a word that
/// holds what it held has not changed in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AcceptorWord(pub u64);

/// The ballot of a closed word.
const CLOSED: u16 = u16::MAX;

impl AcceptorWord {
    /// Nothing promised, nothing accepted.
    pub const EMPTY: Self = Self(0);

    /// A word of its parts.
    pub const fn new(promised: u16, accepted: u16, value: u32) -> Self {
        Self((promised as u64) << 48 | (accepted as u64) << 32 | value as u64)
    }

    /// The value is decided, for good.
    pub const fn closed(value: u32) -> Self {
        Self::new(CLOSED, CLOSED, value)
    }

    /// The highest ballot seen.
    #[allow(clippy::cast_possible_truncation, reason = "16 bits are left")]
    pub const fn promised(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The ballot of the value.
    #[allow(clippy::cast_possible_truncation, reason = "the 16 bits are meant")]
    pub const fn accepted(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// What was accepted.
    pub const fn value(self) -> u32 {
        crate::fabric::lower_half(self.0)
    }

    /// The same with a higher promise.
    pub const fn promising(self, ballot: u16) -> Self {
        Self::new(ballot, self.accepted(), self.value())
    }

    /// What it decides, if it is closed.
    pub const fn decided(self) -> Option<u32> {
        if self.accepted() == CLOSED { Some(self.value()) } else { None }
    }

    /// Whether a proposer can have made it. What is not is memory gone wrong: it votes for nothing.
    pub const fn is_sound(self) -> bool {
        let has_value = self.value() != 0;
        let is_half_closed = self.promised() == CLOSED && self.accepted() != CLOSED;
        self.accepted() <= self.promised() && (self.accepted() != 0) == has_value && !is_half_closed
    }
}

/// Where a node's words of one instance of agreement are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// An [`AcceptorWord`].
    pub acceptor: WordAt,
    /// 0, or what was decided: the readers' word. See [`Announcement`](super::Announcement) for who may write it.
    pub decided: WordAt,
    /// The decided word of the instance before, which the node is to know first; `None` for the first instance.
    pub before: Option<WordAt>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_its_parts_where_the_table_says() {
        let word = AcceptorWord::new(0x1234, 0x0567, 0x89ab_cdef);
        assert_eq!(word.0, 0x1234_0567_89ab_cdef);
        assert_eq!((word.promised(), word.accepted(), word.value()), (0x1234, 0x0567, 0x89ab_cdef));
        assert_eq!(word.promising(0x2000).0, 0x2000_0567_89ab_cdef);
        assert_eq!((word.decided(), AcceptorWord::closed(7).decided()), (None, Some(7)));
        assert_eq!(AcceptorWord::closed(7).0, 0xffff_ffff_0000_0007);
    }

    #[test]
    fn what_nobody_makes_is_not_sound() {
        for word in
            [AcceptorWord::EMPTY, AcceptorWord::new(3, 0, 0), AcceptorWord::new(3, 2, 9), AcceptorWord::closed(1)]
        {
            assert!(word.is_sound(), "{word:?}");
        }
        let spoilt = [(3, 0, 9), (3, 2, 0), (2, 3, 9), (u16::MAX, 3, 9), (u16::MAX, u16::MAX, 0), (u16::MAX, 0, 0)];
        for (promised, accepted, value) in spoilt {
            let word = AcceptorWord::new(promised, accepted, value);
            assert!(!word.is_sound(), "{word:?}");
        }
    }
}
