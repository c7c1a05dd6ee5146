//! A value that is written under a token, and not any more once a greater one was seen. Pure: whoever drives it asks the
//! object's home what it says.
//!
//! At the home one word, *current*, names the pair of token and value that is current: by the rank whose words they are. It
//! is changed by compare-and-swap, and no two of its values are alike. Each rank has two pairs, its *sides*, that only it
//! writes, and of them only the one that is not current:
//!
//! ```text
//!   current: version 8, rank 2, side 1 ──┐
//!                                        ▼
//!   rank 2:   side 0: token 4, "b"    side 1: token 5, "c"
//!   rank 3:   side 0: token 4, "a"    side 1: –
//! ```
//!
//! *Write.* The pair is written to the side that is not current, then current is changed to name it if it still is what it
//! was when its token was looked at: that is when the write takes effect. If it is not, its new token is looked at first. So
//! tokens never decrease from one current pair to the next, and a token less than that of the current pair is refused.
//!
//! *Read.* A pair that is read while current names it is whole, since nobody writes there: it is the current one when
//! current was last seen to name it.
//!
//! Whoever dies between two steps has written what nobody sees, or all of it. Whoever comes late finds another word than
//! it has seen: a version does not come back. `exhaustive` tries every order.

use super::layout::ObjectAt;
use crate::fabric::{Request, WordAt};

#[cfg(test)]
mod exhaustive;

/// Where the words stand, at the object's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FencedAt {
    /// [`CurrentWord`].
    pub current: WordAt,
    /// The first of rank 0's words.
    pub ranks: WordAt,
    /// From one rank's words to the next's.
    pub stride: usize,
}

impl FencedAt {
    /// Of an object at its home.
    pub const fn of(at: &ObjectAt) -> Self {
        Self { current: at.own(0), ranks: at.of_rank(0), stride: super::layout::RANK_WORDS }
    }

    const fn token(self, rank: usize, side: usize) -> WordAt {
        self.ranks.plus(self.stride * rank + 2 * side)
    }

    const fn value(self, rank: usize, side: usize) -> WordAt {
        self.token(rank, side).plus(1)
    }
}

/// Which pair is current; 0 before the first is.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0 | side | which of the rank's two |
/// | 1–18 | rank | plus 1; 0: nobody's |
/// | 19–63 | version | grows with each write |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CurrentWord(pub u64);

impl CurrentWord {
    const RANK_AT: u32 = 1;
    const RANK: u64 = 0x3ffff;
    const VERSION_AT: u32 = 19;

    /// The rank and the side; `None` before the first write.
    #[allow(clippy::cast_possible_truncation, reason = "18 bits and one")]
    pub const fn pair(self) -> Option<(usize, usize)> {
        match self.0 >> Self::RANK_AT & Self::RANK {
            0 => None,
            rank => Some((rank as usize - 1, (self.0 & 1) as usize)),
        }
    }

    /// The next word, which names a rank's side.
    #[must_use]
    pub const fn then(self, rank: usize, side: usize) -> Self {
        let version = (self.0 >> Self::VERSION_AT).wrapping_add(1) << Self::VERSION_AT;
        Self(version | (rank as u64 + 1) << Self::RANK_AT | side as u64)
    }

    /// The side of a rank's that this word does not name.
    const fn other_side(self, rank: usize) -> usize {
        match self.pair() {
            Some((current, side)) if current == rank => 1 - side,
            _ => 0,
        }
    }
}

/// The pair that was current when [`word`](Self::word) was seen last: as long as that is so, it stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// What named it.
    pub word: CurrentWord,
    /// Its token.
    pub token: u64,
    /// Its value.
    pub value: u64,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// The current pair.
    Read,
    /// That this value is current, under this token.
    Write {
        /// The token.
        token: u64,
        /// The value; `None`: the one that is there.
        value: Option<u64>,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Ask the home, in this order, and hand the answers in; or say that the connection broke.
    Ask(Vec<Request>),
    /// The goal is reached: this pair is current.
    Done(Known),
    /// A greater token was seen, this one.
    Refused(u64),
}

/// One rank's operation. A rank has one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    at: FencedAt,
    me: usize,
    goal: Goal,
    known: Option<Known>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Which word is there?
    Looking,
    /// The pair that this word names is read.
    Reading { word: CurrentWord },
    /// This pair is to become current.
    Writing { next: Known },
    /// It may have.
    Settling { next: Known },
}

impl Operation {
    /// Begins; `known`: what this rank's last operation has left.
    pub fn begin(at: FencedAt, me: usize, goal: Goal, known: Option<Known>) -> (Self, Turn) {
        let mut operation = Self { at, me, goal, known, state: State::Looking };
        let turn = match (goal, known) {
            (Goal::Write { .. }, Some(known)) => operation.go_on(known),
            _ => operation.look(),
        };
        (operation, turn)
    }

    /// What the next operation should know.
    pub fn known(&self) -> Option<Known> {
        self.known
    }

    /// The answers have come, to all requests but writes.
    pub fn answered(&mut self, answers: &[u64]) -> Turn {
        let last = CurrentWord(*answers.last().expect("each batch has an answer"));
        match self.state {
            State::Looking => self.found(last),
            State::Reading { word } if word == last => {
                let [token, value, _] = *answers else { unreachable!("two words and the current one were read") };
                self.go_on(Known { word, token, value })
            }
            State::Reading { .. } => self.found(last),
            State::Writing { next } => {
                let seen = self.known.expect("a write follows something").word;
                if last == seen { self.done(next) } else { self.found(last) }
            }
            State::Settling { next } if last == next.word => self.done(next),
            // It had no effect; or it has been followed by another one, whose token is looked at.
            State::Settling { .. } => self.found(last),
        }
    }

    /// The connection broke before the answers came: what was asked for has taken effect up to some point.
    pub fn broken(&mut self) -> Turn {
        match self.state {
            State::Writing { next } | State::Settling { next } => {
                self.state = State::Settling { next };
                Turn::Ask(vec![Request::Read { at: self.at.current }])
            }
            State::Looking | State::Reading { .. } => self.look(),
        }
    }

    fn look(&mut self) -> Turn {
        self.state = State::Looking;
        Turn::Ask(vec![Request::Read { at: self.at.current }])
    }

    /// The word that is there.
    fn found(&mut self, word: CurrentWord) -> Turn {
        match (self.known, word.pair()) {
            (Some(known), _) if known.word == word => self.go_on(known),
            (_, None) => self.go_on(Known::default()),
            (_, Some((rank, side))) => {
                self.state = State::Reading { word };
                Turn::Ask(vec![
                    Request::Read { at: self.at.token(rank, side) },
                    Request::Read { at: self.at.value(rank, side) },
                    Request::Read { at: self.at.current },
                ])
            }
        }
    }

    /// This is the current pair, or was when it was seen last.
    fn go_on(&mut self, known: Known) -> Turn {
        self.known = Some(known);
        let Goal::Write { token, value } = self.goal else { return Turn::Done(known) };
        if known.token > token {
            return Turn::Refused(known.token);
        }
        let side = known.word.other_side(self.me);
        let next = Known { word: known.word.then(self.me, side), token, value: value.unwrap_or(known.value) };
        self.state = State::Writing { next };
        Turn::Ask(vec![
            Request::Write { at: self.at.token(self.me, side), value: next.token },
            Request::Write { at: self.at.value(self.me, side), value: next.value },
            Request::CompareSwap { at: self.at.current, expected: known.word.0, new: next.word.0 },
        ])
    }

    fn done(&mut self, current: Known) -> Turn {
        self.known = Some(current);
        Turn::Done(current)
    }
}
