//! What a rank of a job that is hurt says of itself: a line of JSON for each event.

use phalanx::{BarrierError, GroupError};
use serde::{Deserialize, Serialize};

/// Begins each line, so that a stray print is no event.
const PREFIX: &str = "SAID ";

/// One event of one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The rank.
    pub rank: usize,
    /// When, by `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// What.
    pub event: Event,
}

/// What happens to a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It has met all others once.
    Ready,
    /// A barrier has returned an error.
    Failed {
        /// Of which group.
        group: u64,
        /// Which barrier of it.
        sequence: u64,
        /// The error.
        told: Told,
    },
    /// It has a group of survivors.
    Shrunk {
        /// The group's number.
        group: u64,
        /// Its members.
        ranks: Vec<usize>,
    },
    /// It has no group of survivors.
    NotShrunk {
        /// Of which group.
        group: u64,
        /// Why.
        told: Told,
    },
    /// A call has succeeded that must fail: the others have gone on without this rank.
    Undead {
        /// The call.
        call: String,
    },
    /// It has met the others again and again, as nobody was to be hurt.
    Calm {
        /// How many barriers it has passed.
        barriers: u64,
        /// The longest time in one.
        longest_wait_ns: u64,
        /// How many units the job has lost, as it knows.
        epochs: u64,
    },
    /// It is about to wait for a lock that another one holds.
    Queues,
    /// It has a lock.
    Holds {
        /// The number of the grant.
        token: u64,
    },
    /// A call has failed in a way that no fault explains.
    Wrong {
        /// The error.
        what: String,
    },
    /// It has left the job.
    Bye,
}

/// An error, as far as survivors must agree on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Members have failed.
    RankFailed {
        /// They.
        ranks: Vec<usize>,
        /// Why.
        causes: Vec<String>,
        /// Declared in this epoch.
        epoch: u64,
    },
    /// It has been declared failed itself.
    Excluded {
        /// In this epoch.
        epoch: u64,
        /// Why.
        cause: String,
    },
    /// Some cannot be reached, and too few nodes answer to agree that they have failed.
    Unreachable {
        /// They.
        ranks: Vec<usize>,
    },
    /// Members have failed, and survivors' nodes have not said in time whether the barrier is passed.
    Unsettled {
        /// Those survivors.
        ranks: Vec<usize>,
    },
    /// Some are late.
    TimedOut {
        /// They.
        missing: Vec<usize>,
    },
    /// Anything else.
    Other {
        /// Its text.
        text: String,
    },
}

impl Told {
    /// Whether it leaves open how the barrier ends.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unsettled { .. })
    }
}

impl From<&BarrierError> for Told {
    fn from(error: &BarrierError) -> Self {
        match error {
            BarrierError::RankFailed { ranks, causes, epoch, .. } => Self::RankFailed {
                ranks: ranks.clone(),
                causes: causes.iter().map(ToString::to_string).collect(),
                epoch: *epoch,
            },
            BarrierError::Excluded { epoch, cause, .. } => Self::Excluded { epoch: *epoch, cause: cause.to_string() },
            BarrierError::Unreachable { ranks, .. } => Self::Unreachable { ranks: ranks.clone() },
            BarrierError::Unsettled { ranks, .. } => Self::Unsettled { ranks: ranks.clone() },
            BarrierError::TimedOut { missing, .. } => Self::TimedOut { missing: missing.clone() },
            other => Self::Other { text: other.to_string() },
        }
    }
}

impl From<&GroupError> for Told {
    fn from(error: &GroupError) -> Self {
        match error {
            GroupError::Barrier(error) => error.into(),
            other => Self::Other { text: other.to_string() },
        }
    }
}

impl Said {
    /// Prints it.
    pub fn print(&self) {
        // In one piece: whatever else is printed does not come in between.
        println!("{PREFIX}{}", serde_json::to_string(self).expect("plain values"));
    }

    /// A line, if it is one.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix(PREFIX)?).ok()
    }
}
