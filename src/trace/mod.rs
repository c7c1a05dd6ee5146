//! The timeline of a rank, written on request: when it arrived where, how long it waited, what it was told.
//!
//! What is frequent goes as a record of fixed size into a [`ring`] that never blocks and counts what it cannot hold;
//! what is rare, and has a list or a text with it, is a [`Remark`] in a vector. One background thread for each process
//! turns both into lines of JSON, about every 10 ms, sooner when a ring fills (`drain.rs`; the lines are in `lines.rs`,
//! and which wait goes on which track is in `lanes.rs`). A rank's own handle is in `recorder.rs`.
//! Whoever drops a [`Trace`] completes its file.
//!
//! docs/design.md, "The timeline", has the picture and the reasons.
//!
//! This is a base module: it knows the clock, and neither ranks' memory nor barriers. A kind is added here, and
//! recorded by one call where it happens.

#[cfg(not(model))]
mod drain;
#[cfg(not(model))]
mod lanes;
#[cfg(not(model))]
mod lines;
#[cfg(not(model))]
mod recorder;
pub mod ring;
#[cfg(all(test, not(model)))]
mod tests;

#[cfg(not(model))]
pub use recorder::{Settings, Trace, file_of};

/// What is recorded often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// This rank has arrived at a barrier.
    Arrival = 1,
    /// This rank has passed a barrier. The argument is the reading of the clock when it arrived.
    Release = 2,
    /// This rank has taken its arrival back.
    Withdrawal = 3,
    /// This rank has left a group, after as many barriers as the sequence says.
    GroupLeft = 4,
}

impl Kind {
    #[cfg(not(model))]
    fn from_word(word: u64) -> Option<Self> {
        [Self::Arrival, Self::Release, Self::Withdrawal, Self::GroupLeft].into_iter().find(|kind| *kind as u64 == word)
    }
}

/// One event, as it lies in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, as the clock was read.
    pub ticks: u64,
    /// What.
    pub kind: Kind,
    /// In which group.
    pub group: u64,
    /// Which barrier of the group.
    pub sequence: u64,
    /// What the kind says.
    pub argument: u64,
}

#[cfg(not(model))]
impl Record {
    #[inline]
    fn to_words(self) -> [u64; ring::RECORD_WORDS] {
        [self.kind as u64, self.ticks, self.group, self.sequence, self.argument]
    }

    fn from_words(words: [u64; ring::RECORD_WORDS]) -> Option<Self> {
        let [kind, ticks, group, sequence, argument] = words;
        Some(Self { ticks, kind: Kind::from_word(kind)?, group, sequence, argument })
    }
}

/// What is rare enough to bring a list or a text along.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remark {
    /// A wait has ended without the barrier being passed; the arrival stands.
    TimedOut {
        /// The group's number.
        group: u64,
        /// Which barrier of it.
        sequence: u64,
        /// The ranks that had not arrived.
        missing: Vec<usize>,
    },
    /// This rank has become a member of a group.
    GroupMade {
        /// The group's number.
        group: u64,
        /// Its members.
        ranks: Vec<usize>,
    },
    /// This rank has learnt that a part of the job has failed.
    Death {
        /// What has failed.
        unit: Unit,
        /// Why, in words.
        cause: String,
        /// The number of the membership view that says so.
        epoch: u64,
    },
    /// This rank has seen its node's alarm raised.
    Alarm {
        /// How often it has been.
        alarms: u64,
        /// The newest membership view that this rank knows.
        epoch: u64,
    },
}

/// What fails as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// One rank.
    Rank(usize),
    /// A node with all its ranks.
    Node(usize),
}
