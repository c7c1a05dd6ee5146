//! A node's hold of a lock that is at home somewhere: the words by which its ranks pass it on to each other.
//!
//! Only the rank that has the node's own lock ([`super::queue`]) changes them, by compare-and-swap with a version: one
//! that was declared failed and comes back changes nothing. Before it asks the home for anything that changes words
//! there it says so here ([`Tenure::Underway`]); if it ends meanwhile, the next one finds that, and asks the home how
//! far it came. When the home is lost the node's steward moves the hold to the next home, and changes the word, too.
//!
//! A node that has given the lock up may note that the word there was kept for it ([`super::home`]), and which token
//! was the last of that hold ([`Tenure::Kept`]). That note ends with whatever is begun next.

use super::layout::ObjectAt;
use crate::fabric::{Memory, WordAt};
use crate::sync::Ordering;

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// It has nothing to do with the lock.
    Nothing,
    /// As above, and when it had the lock last the word at the home was kept for it.
    Kept,
    /// A rank, by its place on the node, is in the middle of something at the home.
    Underway(usize),
    /// It has a claim there.
    Waiting,
    /// It holds the lock, and its ranks have passed it on so often.
    Held(u64),
}

impl Tenure {
    /// Whether the node has anything to do with the lock: holds it, waits for it, or has asked for something.
    pub fn is_engaged(self) -> bool {
        !matches!(self, Self::Nothing | Self::Kept)
    }
}

/// A [`Tenure`], packed.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–1 | state | 0 nothing, 1 under way, 2 waiting, 3 held |
/// | 2–12 | rank | under way: whose place on the node it is; nothing: 1 where the word was kept |
/// | 13–20 | passed | held: how often it was passed on |
/// | 21–63 | version | grows with each change |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TenureWord(pub u64);

impl TenureWord {
    const RANK_AT: u32 = 2;
    const RANK: u64 = 0x7ff;
    const PASSED_AT: u32 = 13;
    const PASSED: u64 = 0xff;
    pub(super) const VERSION_AT: u32 = 21;

    /// What it says.
    #[allow(clippy::cast_possible_truncation, reason = "11 bits")]
    pub const fn tenure(self) -> Tenure {
        match self.0 & 3 {
            0 if self.0 >> Self::RANK_AT & Self::RANK != 0 => Tenure::Kept,
            0 => Tenure::Nothing,
            1 => Tenure::Underway((self.0 >> Self::RANK_AT & Self::RANK) as usize),
            2 => Tenure::Waiting,
            _ => Tenure::Held(self.0 >> Self::PASSED_AT & Self::PASSED),
        }
    }

    /// The next word.
    #[must_use]
    pub const fn then(self, tenure: Tenure) -> Self {
        let version = (self.0 >> Self::VERSION_AT).wrapping_add(1) << Self::VERSION_AT;
        let state = match tenure {
            Tenure::Nothing => 0,
            Tenure::Kept => 1 << Self::RANK_AT,
            Tenure::Underway(rank) => 1 | (rank as u64 & Self::RANK) << Self::RANK_AT,
            Tenure::Waiting => 2,
            Tenure::Held(passed) => 3 | (passed & Self::PASSED) << Self::PASSED_AT,
        };
        Self(version | state)
    }
}

/// At which node, and where in its table of homes, an object is kept, as another one notes it.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–31 | index | its place in that table; 0: sought there. Where bits 32–63 are 0: 0 not known, 1 no other node lives |
/// | 32–63 | node | plus 1 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlaceWord(pub u64);

impl PlaceWord {
    /// No other node lives.
    pub const NOWHERE: Self = Self(1);
    pub(super) const NODE_AT: u32 = 32;

    /// At a place of a node's table.
    pub const fn new(node: usize, index: usize) -> Self {
        Self((node as u64 + 1) << Self::NODE_AT | index as u64)
    }

    /// At a place of a node's table that is not known yet. (The first is the table's own.)
    pub const fn sought_at(node: usize) -> Self {
        Self::new(node, 0)
    }

    /// The node where a place is sought.
    pub const fn sought(self) -> Option<usize> {
        match self.place() {
            Some((node, 0)) => Some(node),
            _ => None,
        }
    }

    /// The node and the place.
    #[allow(clippy::cast_possible_truncation, reason = "32 bits each")]
    pub const fn place(self) -> Option<(usize, usize)> {
        match self.0 >> Self::NODE_AT {
            0 => None,
            node => Some((node as usize - 1, (self.0 & ((1 << Self::NODE_AT) - 1)) as usize)),
        }
    }
}

/// Where the words stand, in the table of objects that the node's ranks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenureAt(pub ObjectAt);

impl TenureAt {
    /// How far the node is: [`TenureWord`].
    pub const fn word(self) -> WordAt {
        self.0.own(0)
    }

    /// Its claim, while it waits.
    pub const fn claim(self) -> WordAt {
        self.0.own(1)
    }

    /// The number of its hold: its tokens are those behind it. Where the word was kept: the last token of the last
    /// hold.
    pub const fn number(self) -> WordAt {
        self.0.own(2)
    }

    /// The word by which it holds the lock at the home.
    pub const fn hold(self) -> WordAt {
        self.0.own(3)
    }

    /// Its mailbox: the claim that was granted. Written by whoever grants it, after the number.
    pub const fn granted(self) -> WordAt {
        self.0.own(4)
    }

    /// Its mailbox: the number of that hold.
    pub const fn granted_number(self) -> WordAt {
        self.0.own(5)
    }

    /// Where the object is at home: [`PlaceWord`].
    pub const fn home(self) -> WordAt {
        self.0.own(6)
    }

    /// The home that is known to have all that survivors of those before it had: the node, plus 1. Where the home is
    /// lost, and the next one has no room: that one, plus 1, and [`NO_ROOM`](Self::NO_ROOM).
    pub const fn complete_home(self) -> WordAt {
        self.0.own(7)
    }

    /// Marks in [`complete_home`](Self::complete_home) that the object cannot move.
    pub const NO_ROOM: u64 = 1 << 63;

    /// How often it has had the lock in a row, as far as it knows. Only to guess how it goes on: nothing depends on it.
    pub const fn streak(self) -> WordAt {
        self.0.own(12)
    }

    /// What the word holds.
    pub fn load(self, memory: &impl Memory) -> TenureWord {
        // SYNC POINT: tenure. Acquire pairs with `change`: the other words are those that were stored before.
        TenureWord(memory.word(self.word()).load(Ordering::Acquire))
    }

    /// Changes it; `None` where somebody else has.
    pub fn change(self, memory: &impl Memory, seen: TenureWord, tenure: Tenure) -> Option<TenureWord> {
        let wanted = seen.then(tenure);
        // SYNC POINT: tenure. Release pairs with `load`.
        let changed = memory.word(self.word()).compare_exchange(seen.0, wanted.0, Ordering::AcqRel, Ordering::Relaxed);
        changed.is_ok().then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_packed() {
        for place in [(0, 1), (65_535, 1 << 20)] {
            assert_eq!(PlaceWord::new(place.0, place.1).place(), Some(place));
        }
        assert_eq!((PlaceWord(0).place(), PlaceWord::NOWHERE.place()), (None, None));
    }

    #[test]
    fn a_tenure_is_read_as_it_was_packed_and_each_word_is_new() {
        let idle = [Tenure::Nothing, Tenure::Kept];
        let all = [Tenure::Underway(0), Tenure::Underway(1023), Tenure::Waiting, Tenure::Held(0), Tenure::Held(254)];
        let mut word = TenureWord(0);
        assert_eq!(word.tenure(), Tenure::Nothing, "of a new object");
        for tenure in idle.into_iter().chain(all).chain(idle) {
            let next = word.then(tenure);
            assert_eq!(next.tenure(), tenure);
            assert_eq!(next.0 >> TenureWord::VERSION_AT, (word.0 >> TenureWord::VERSION_AT) + 1);
            word = next;
        }
    }
}
