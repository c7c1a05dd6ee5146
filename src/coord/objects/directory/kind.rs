//! Which kinds of named objects there are.

use std::fmt;

/// What a named object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ObjectKind {
    /// A lock.
    Lock = 1,
    /// A counter.
    Counter = 2,
    /// A reader-writer lock.
    RwLock = 3,
    /// A semaphore.
    Semaphore = 4,
    /// A word that is written under a token.
    Fenced = 5,
    /// A lock with a time to live.
    Lease = 6,
    /// An election.
    Election = 7,
}

impl ObjectKind {
    const ALL: [Self; 7] =
        [Self::Lock, Self::Counter, Self::RwLock, Self::Semaphore, Self::Fenced, Self::Lease, Self::Election];

    /// The kind with a number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u64 == number)
    }

    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Counter => "counter",
            Self::RwLock => "reader-writer lock",
            Self::Semaphore => "semaphore",
            Self::Fenced => "fenced word",
            Self::Lease => "lease",
            Self::Election => "election",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an object is, and what it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// Which kind.
    pub kind: ObjectKind,
    /// What the kind wants to be the same for all.
    pub parameter: u64,
}
