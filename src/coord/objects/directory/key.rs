//! The key word of a table's place: whose it is. It is changed by compare-and-swap only, and its generation tells an
//! object from one that had the place before it, and from the same one before it was opened again.

use super::super::name::Name;

/// Whose a place of the table is.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–1 | state | 0 nobody's, 1 a rank is filling it, 2 an object's, 3 that rank has ended meanwhile |
/// | 2–25 | generation | how often it has become an object's, or that was opened |
/// | 26–63 | key | of the object's name; while it is being filled, the rank's place in the node's rank table |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyWord(pub u64);

/// What a key word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Filling(usize),
    Live,
    Orphaned(usize),
}

impl KeyWord {
    const GENERATION_AT: u32 = 2;
    const GENERATION: u64 = 0xff_ffff;
    const KEY_AT: u32 = 26;

    /// What it says.
    #[allow(clippy::cast_possible_truncation, reason = "a rank's place")]
    pub(super) const fn state(self) -> State {
        let rank = (self.0 >> Self::KEY_AT) as usize;
        match self.0 & 3 {
            0 => State::Free,
            1 => State::Filling(rank),
            2 => State::Live,
            _ => State::Orphaned(rank),
        }
    }

    const fn generation(self) -> u64 {
        self.0 >> Self::GENERATION_AT & Self::GENERATION
    }

    const fn with(self, state: u64, key: u64, generation: u64) -> Self {
        Self(state | (generation & Self::GENERATION) << Self::GENERATION_AT | key << Self::KEY_AT)
    }

    /// A rank fills this free place.
    pub(in crate::coord::objects) const fn filled_by(self, rank: usize) -> Self {
        self.with(1, rank as u64, self.generation() + 1)
    }

    /// It has become an object's, of a name with this key.
    pub(in crate::coord::objects) const fn live(self, key: u64) -> Self {
        self.with(2, key, self.generation())
    }

    /// The same object, opened once more.
    pub(super) const fn opened(self) -> Self {
        self.with(2, self.0 >> Self::KEY_AT, self.generation() + 1)
    }

    /// The rank that was filling it has ended, or been declared failed.
    pub(super) const fn orphaned(self) -> Self {
        Self(self.0 | 3)
    }

    /// It is nobody's any more.
    pub(super) const fn freed(self) -> Self {
        self.with(0, 0, self.generation())
    }

    /// Whether an object has this place.
    pub fn is_live(self) -> bool {
        self.state() == State::Live
    }

    /// Whether it may be that of an object of this name: names can have the same key.
    pub(super) fn is_of(self, name: &Name) -> bool {
        self.is_live() && self.0 >> Self::KEY_AT == name.key() << Self::KEY_AT >> Self::KEY_AT
    }
}
