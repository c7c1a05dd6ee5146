//! A value that is written under a token, and not any more once a greater one was seen. Pure: whoever drives it asks
//! the object's home what it says.
//!
//! At the home one word, *current*, names the pair of token and value that is current: by the rank whose words they
//! are. It is changed by compare-and-swap, and no two of its values are alike. Each rank has two pairs, its *sides*,
//! that only it writes, and of them only the one that is not current:
//!
//! ```text
//!   current: version 8, rank 2, side 1 ──┐
//!                                        ▼
//!   rank 2:   side 0: token 4, "b"    side 1: token 5, "c"
//!   rank 3:   side 0: token 4, "a"    side 1: –
//! ```
//!
//! *Write.* The pair is written to the side that is not current, then current is changed to name it if it still is what
//! it was when its token was looked at: that is when the write takes effect. If it is not, its new token is looked at
//! first. So tokens never decrease from one current pair to the next, and a token less than that of the current pair is
//! refused.
//!
//! *Read.* A pair that is read while current names it is whole, since nobody writes there: it is the current one when
//! current was last seen to name it.
//!
//! Whoever dies between two steps has written what nobody sees, or all of it. Whoever comes late finds another word
//! than it has seen: a version does not come back. `exhaustive` tries every order.
//!
//! # Copies
//!
//! The same words are there on the node that has the copies ([`Goal::Keep`]), where they become current by their
//! versions: a pair that is less new than the current one is not wanted there. Ranks that the home's death leaves have
//! noted what they last knew to be current ([`Copied::note`]), which their node's stewards add in the same way. So the
//! next home begins with the newest pair that any of them has seen. Stewards have words of their own for that, beside
//! the ranks': authors are the job's ranks, and then the nodes.

use super::layout::{NOTE_WORDS, ObjectAt, RANK_WORDS};
use super::note::{NoteAt, Noted};
use crate::fabric::{Memory, Request, WordAt};

#[cfg(test)]
mod exhaustive;

/// Where the words stand, at the object's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FencedAt {
    /// [`CurrentWord`].
    pub current: WordAt,
    /// The first of rank 0's words.
    pub ranks: WordAt,
    /// From one author's words to the next's.
    pub stride: usize,
    /// How many ranks there are.
    pub job_ranks: usize,
    /// The first of node 0's.
    pub nodes: WordAt,
}

impl FencedAt {
    /// Of an object at its home, in a job of so many ranks.
    pub const fn of(at: &ObjectAt, job_ranks: usize) -> Self {
        Self { current: at.own(0), ranks: at.of_rank(0), stride: RANK_WORDS, job_ranks, nodes: at.note(0, 0) }
    }

    /// A node's steward, as an author.
    pub const fn steward(self, node: usize) -> usize {
        self.job_ranks + node
    }

    const fn token(self, author: usize, side: usize) -> WordAt {
        let words = match author.checked_sub(self.job_ranks) {
            None => self.ranks.plus(self.stride * author),
            Some(node) => self.nodes.plus(self.stride * node),
        };
        words.plus(2 * side)
    }

    const fn value(self, author: usize, side: usize) -> WordAt {
        self.token(author, side).plus(1)
    }

    /// An author's pair: token and value.
    pub const fn pair(self, author: usize, side: usize) -> [WordAt; 2] {
        [self.token(author, side), self.value(author, side)]
    }
}

const _: () = assert!(RANK_WORDS == NOTE_WORDS, "one stride for both");

/// Which pair is current; 0 before the first is.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0 | side | which of the author's two |
/// | 1–18 | author | plus 1; 0: nobody's |
/// | 19–63 | version | grows with each write |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CurrentWord(pub u64);

impl CurrentWord {
    const AUTHOR_AT: u32 = 1;
    const AUTHOR: u64 = 0x3ffff;
    pub(super) const VERSION_AT: u32 = 19;

    /// The author and the side; `None` before the first write.
    #[allow(clippy::cast_possible_truncation, reason = "18 bits and one")]
    pub const fn pair(self) -> Option<(usize, usize)> {
        match self.0 >> Self::AUTHOR_AT & Self::AUTHOR {
            0 => None,
            author => Some((author as usize - 1, (self.0 & 1) as usize)),
        }
    }

    /// How many writes there have been.
    pub const fn version(self) -> u64 {
        self.0 >> Self::VERSION_AT
    }

    const fn new(version: u64, author: usize, side: usize) -> Self {
        Self(version << Self::VERSION_AT | (author as u64 + 1) << Self::AUTHOR_AT | side as u64)
    }

    /// The side of an author's that this word does not name.
    const fn other_side(self, author: usize) -> usize {
        match self.pair() {
            Some((current, side)) if current == author => 1 - side,
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

/// A pair that was current, with its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Copied {
    /// [`CurrentWord::version`].
    pub version: u64,
    /// Its token.
    pub token: u64,
    /// Its value.
    pub value: u64,
}

impl Copied {
    /// Notes this pair, if it is another one than this rank has noted last.
    pub fn note(self, at: NoteAt, memory: &impl Memory) {
        if at.last_mark(memory) != self.version {
            at.write(memory, Noted { mark: self.version, words: [self.token, self.value] });
        }
    }

    /// What a rank has noted last: the newest pair that it knows to have been current.
    pub fn noted(at: NoteAt, memory: &impl Memory) -> Option<Self> {
        let Noted { mark: version, words: [token, value] } = at.read(memory)?;
        Some(Self { version, token, value })
    }
}

impl From<Known> for Copied {
    fn from(known: Known) -> Self {
        Self { version: known.word.version(), token: known.token, value: known.value }
    }
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
    /// That a copy has this pair, or a newer one.
    Keep(Copied),
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

/// One author's operation. An author has one at a time.
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
            (Goal::Write { .. } | Goal::Keep(_), Some(known)) => operation.go_on(known),
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
            // Its version says whether it is newer.
            _ if matches!(self.goal, Goal::Keep(_)) => self.go_on(Known { word, ..Known::default() }),
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
        let version = known.word.version();
        let wanted = match self.goal {
            Goal::Read => return Turn::Done(known),
            Goal::Keep(pair) if pair.version <= version => return Turn::Done(known),
            Goal::Write { token, .. } if known.token > token => return Turn::Refused(known.token),
            Goal::Keep(pair) => pair,
            Goal::Write { token, value } => Copied { version: version + 1, token, value: value.unwrap_or(known.value) },
        };
        let side = known.word.other_side(self.me);
        let word = CurrentWord::new(wanted.version, self.me, side);
        let next = Known { word, token: wanted.token, value: wanted.value };
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
