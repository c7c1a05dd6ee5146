//! Which kinds of named objects there are.

use std::fmt;
use std::time::Duration;

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
    /// An election, whose leader leads until it ends or resigns.
    Election = 7,
    /// An election whose leader has a time to live.
    LeasedElection = 8,
}

impl ObjectKind {
    const ALL: [Self; 8] = [
        Self::Lock,
        Self::Counter,
        Self::RwLock,
        Self::Semaphore,
        Self::Fenced,
        Self::Lease,
        Self::Election,
        Self::LeasedElection,
    ];

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
            Self::LeasedElection => "leased election",
        }
    }

    /// Whether whoever has it loses it when its time to live is over: its words at home are those of a lease.
    pub fn has_ttl(self) -> bool {
        matches!(self, Self::Lease | Self::LeasedElection)
    }

    /// Whether it has a leader, who is announced.
    pub fn is_election(self) -> bool {
        matches!(self, Self::Election | Self::LeasedElection)
    }

    /// What an object of this kind was made with, for people.
    pub fn parameter_text(self, parameter: u64) -> String {
        match self {
            Self::Semaphore => format!("{parameter} permit{}", if parameter == 1 { "" } else { "s" }),
            Self::Counter => format!("PHALANX_DURABLE_COPIES={parameter}"),
            Self::Lease | Self::LeasedElection => format!("a time to live of {:?}", Duration::from_micros(parameter)),
            Self::Fenced => {
                let (copies, kind) = (parameter >> u32::BITS, parameter & u64::from(u32::MAX));
                format!("a value of type {} and PHALANX_DURABLE_COPIES={copies}", word_type(kind))
            }
            Self::Lock | Self::RwLock | Self::Election => parameter.to_string(),
        }
    }
}

/// The types of fenced words by their numbers, which `object::fenced` gives.
fn word_type(number: u64) -> String {
    let names = ["u64", "i64", "f64", "u32", "i32", "f32", "bool", "[u8; 8]"];
    let name = usize::try_from(number).ok().and_then(|number| names.get(number.checked_sub(1)?));
    name.map_or_else(|| format!("{number}, which this version does not know"), |&name| name.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_object_was_made_with_is_said_in_its_unit() {
        assert_eq!(ObjectKind::Semaphore.parameter_text(1), "1 permit");
        assert_eq!(ObjectKind::Semaphore.parameter_text(3), "3 permits");
        assert_eq!(ObjectKind::Lease.parameter_text(200_000), "a time to live of 200ms");
        assert_eq!(ObjectKind::Counter.parameter_text(1), "PHALANX_DURABLE_COPIES=1");
        assert_eq!(ObjectKind::Fenced.parameter_text(1 << 32 | 2), "a value of type i64 and PHALANX_DURABLE_COPIES=1");
        assert!(ObjectKind::Fenced.parameter_text(0).contains("type 0, which"));
    }
}
