//! What the words of a lease say, at its home and on a holder's own node; and by whose clock a hold lasts how long.

use crate::coord::objects::layout::{ObjectAt, RANK_WORDS};
use crate::coord::objects::note::{NoteAt, Noted};
use crate::fabric::{Memory, WordAt};

/// One in so many: by how much clocks may go apart, both ways together.
const DRIFT: u64 = 1000;

/// Where the words stand, at the lease's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseAt {
    /// [`LeaseWord`].
    pub hold: WordAt,
    /// How many claims have been made.
    pub orders: WordAt,
    /// What the tokens begin with.
    pub base: WordAt,
    /// Rank 0's claim: its order, plus 1, or 0.
    pub claims: WordAt,
    /// From one rank's claim to the next's.
    pub stride: usize,
    /// How many ranks the job has.
    pub ranks: usize,
    /// Whether there was no home before.
    pub is_first: bool,
}

impl LeaseAt {
    /// Of an object at its home, in a job of so many ranks.
    pub const fn of(at: &ObjectAt, ranks: usize, is_first: bool) -> Self {
        let (hold, orders, base, claims) = (at.own(0), at.own(1), at.home().numbers, at.of_rank(0));
        Self { hold, orders, base, claims, stride: RANK_WORDS, ranks, is_first }
    }

    /// A rank's claim.
    pub const fn claim(self, rank: usize) -> WordAt {
        self.claims.plus(self.stride * rank)
    }
}

/// Stands for a holder that is not known: a rank that the job has lost with an earlier home, if there was one.
pub const SOMEBODY: usize = 0x1_fffe;

const _: () = assert!(SOMEBODY as u64 + 1 == LeaseWord::HOLDER);

/// Who holds the lease.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–16 | holder | plus 1; 0: nobody; all ones: [`SOMEBODY`] |
/// | 17–23 | claims | changed by each new claim; 0: none since the holder was named |
/// | 24–63 | number | of the grant or renewal |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeaseWord(pub u64);

impl LeaseWord {
    const HOLDER: u64 = 0x1ffff;
    const CLAIMS_AT: u32 = 17;
    const CLAIMS: u64 = 0x7f;
    pub(in crate::coord::objects) const NUMBER_AT: u32 = 24;

    /// What the next home is told of a hold: the holder, if its time is not over.
    pub const fn carried(number: u64, holder: Option<usize>) -> Self {
        match holder {
            Some(_) => Self::new(number, 0, holder),
            None => Self::new(number, 0, Some(SOMEBODY)),
        }
    }

    const fn new(number: u64, claims: u64, holder: Option<usize>) -> Self {
        let holder = match holder {
            Some(rank) => rank as u64 + 1,
            None => 0,
        };
        Self(number << Self::NUMBER_AT | claims << Self::CLAIMS_AT | holder)
    }

    /// The holder, which may be [`SOMEBODY`].
    #[allow(clippy::cast_possible_truncation, reason = "17 bits")]
    pub const fn holder(self) -> Option<usize> {
        match self.0 & Self::HOLDER {
            0 => None,
            holder => Some(holder as usize - 1),
        }
    }

    /// The holder, if it is known.
    pub(super) fn known_holder(self) -> Option<usize> {
        self.holder().filter(|holder| *holder != SOMEBODY)
    }

    /// The number of the last grant or renewal.
    pub const fn number(self) -> u64 {
        self.0 >> Self::NUMBER_AT
    }

    pub(super) const fn claims(self) -> u64 {
        self.0 >> Self::CLAIMS_AT & Self::CLAIMS
    }

    /// Whether it is the same hold as another word, whatever claims have been made since.
    pub(super) fn is_same_hold(self, other: Self) -> bool {
        self.number() == other.number() && self.holder() == other.holder()
    }

    /// Somebody else is named.
    pub(super) const fn granted(self, rank: usize, others_wait: bool) -> Self {
        Self::new(self.number() + 1, others_wait as u64, Some(rank))
    }

    /// The same holder is named once more.
    pub(super) fn renewed(self) -> Self {
        Self::new(self.number() + 1, self.claims(), self.holder())
    }

    /// A claim was made, or taken back.
    pub(super) fn changed(self) -> Self {
        Self::new(self.number(), (self.claims() % Self::CLAIMS) + 1, self.holder())
    }

    /// Nobody is named.
    pub(super) const fn freed(self) -> Self {
        Self::new(self.number(), 0, None)
    }
}

/// A hold as its holder knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hold {
    /// What named this rank last.
    pub word: LeaseWord,
    /// From when on its time to live counts, in nanoseconds.
    pub since: u64,
    /// Greater than that of each hold before.
    pub token: u64,
}

impl Hold {
    /// Until when it surely holds, for a lease with such a time to live.
    pub const fn until(self, ttl_ns: u64) -> u64 {
        self.since.saturating_add(ttl_ns - ttl_ns.div_ceil(DRIFT))
    }
}

/// From when on a hold can be followed that was first seen at a time, and not renewed since: later than [`Hold::until`]
/// by any two clocks.
pub(super) const fn followed_from(seen: u64, ttl_ns: u64) -> u64 {
    seen.saturating_add(ttl_ns + ttl_ns.div_ceil(DRIFT))
}

/// What a rank notes on its own node of its hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The number of its last hold; 0 where it has had none.
    pub number: u64,
    /// Until when it surely has it, by its node's clock, in nanoseconds; 0: it has it no more.
    pub until: u64,
}

impl Note {
    /// This rank's next note.
    pub fn write(self, at: NoteAt, memory: &impl Memory) {
        at.write(memory, Noted { mark: at.last_mark(memory) + 1, words: [self.number, self.until] });
    }

    /// The last note of a rank.
    pub fn read(at: NoteAt, memory: &impl Memory) -> Self {
        at.read(memory).map_or_else(Self::default, |Noted { words: [number, until], .. }| Self { number, until })
    }
}
