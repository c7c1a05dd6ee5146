//! Why ranks could not meet.

use std::time::Duration;

/// Why a rank could not meet the others at a rendezvous.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RendezvousError {
    /// No connection could be made in time.
    #[error(
        "rank {rank}: nobody serves the rendezvous at {address} (waited {waited:?}; last: {last}; remedy: start rank 0 or the launcher that serves it, look whether this host reaches that address, or raise PHALANX_BOOTSTRAP_TIMEOUT_MS)"
    )]
    NobodyServes {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// For how long it was tried.
        waited: Duration,
        /// How the last attempt failed.
        last: String,
    },
    /// The server takes connections, but does not answer in time.
    #[error(
        "rank {rank}: the server of the rendezvous at {address} did not answer within {waited:?} (remedy: look whether it is stopped)"
    )]
    NoAnswer {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// For how long it was waited.
        waited: Duration,
    },
    /// The server knows another key.
    #[error(
        "rank {rank}: wrong key for the job at {address} (remedy: give all ranks the same PHALANX_KEY, and each job its own address)"
    )]
    WrongKey {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
    },
    /// Somebody has joined as this rank already.
    #[error(
        "rank {rank} of the job at {address} has been taken by another process (remedy: give each rank its own PHALANX_RANK)"
    )]
    DuplicateRank {
        /// The rank.
        rank: usize,
        /// The address.
        address: String,
    },
    /// The server's job has another number of ranks.
    #[error(
        "rank {rank}: the job at {address} has {found} ranks, PHALANX_SIZE says {expected} (remedy: give all ranks the same PHALANX_SIZE)"
    )]
    SizeMismatch {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// The server's size.
        found: u64,
        /// Ours.
        expected: usize,
    },
    /// The server speaks another version, or is no Phalanx, or does what it should not.
    #[error(
        "rank {rank}: the server at {address} {what} (remedy: look what listens there, and build all ranks' programs with the same version of phalanx)"
    )]
    Protocol {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// What it did.
        what: String,
    },
    /// The server has ended the connection.
    #[error(
        "rank {rank}: the server of the rendezvous at {address} has closed the connection (remedy: look why rank 0 or the launcher has ended)"
    )]
    ServerLost {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
    },
    /// Not all ranks have come to a round in time.
    #[error(
        "rank {rank}: ranks {missing:?} have not come to round {round} of the rendezvous within {waited:?} (remedy: look why they did not start, or raise PHALANX_BOOTSTRAP_TIMEOUT_MS)"
    )]
    RanksMissing {
        /// This rank.
        rank: usize,
        /// The round, counted from 1.
        round: u64,
        /// Exactly those that have not.
        missing: Vec<usize>,
        /// How long it was waited.
        waited: Duration,
    },
    /// Ranks have come, and gone away again before the last round.
    #[error(
        "rank {rank}: ranks {gone:?} have left before round {round} of the rendezvous was complete (remedy: look why these ranks have ended)"
    )]
    RanksGone {
        /// This rank.
        rank: usize,
        /// The round, counted from 1.
        round: u64,
        /// Those that have left.
        gone: Vec<usize>,
    },
    /// A rank brings too much.
    #[error(
        "rank {rank}: {bytes} bytes are more than the {most} that a rank may bring to a round (remedy: bring less)"
    )]
    BlobTooLarge {
        /// This rank.
        rank: usize,
        /// What it brings.
        bytes: usize,
        /// The most.
        most: usize,
    },
    /// An earlier round has failed, and the client cannot be used any more.
    #[error("rank {rank}: the rendezvous at {address} has failed before (remedy: see its first error; connect anew)")]
    Failed {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
    },
    /// The kernel refused something.
    #[error("rank {rank}: cannot {step} the rendezvous at {address}: {source}")]
    System {
        /// This rank.
        rank: usize,
        /// The address.
        address: String,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}
