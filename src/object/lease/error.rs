//! What can go wrong with a lease.

use std::time::Duration;

use crate::cluster::view::FailureCause;
use crate::error::{declared_failed, no_next_place, unheard};
use crate::object::Token;
use crate::object::error::LockError;

/// Why a lease was not acquired, renewed or released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// This rank holds it already.
    #[error("rank {rank} holds the lease {name:?} already (remedy: release it first)")]
    AlreadyHeld {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
    },
    /// This rank has a request that is not finished, or another of its threads is about to acquire the lease.
    #[error("rank {rank} has asked for the lease {name:?} already (remedy: wait for that request, or cancel it)")]
    AlreadyRequested {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
    },
    /// The time is over. This rank has no claim any more.
    #[error(
        "rank {rank} did not get the lease {name:?} in {waited:.1?}: {} (remedy: allow more than its time to live)", who(*.holder)
    )]
    TimedOut {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// For how long it was waited for.
        waited: Duration,
        /// Who holds it.
        holder: Option<usize>,
    },
    /// The lease was not renewed in time, and others have had it since.
    #[error(
        "rank {rank} has lost the lease {name:?} that it held with token {token}: {} now (remedy: renew sooner, or name a longer time to live; what was written meanwhile is to be fenced by the token)", who(*.holder)
    )]
    Expired {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// Of this rank's grant.
        token: Token,
        /// Who has it now.
        holder: Option<usize>,
    },
    /// Nothing is heard of the lease's home, and the nodes that answer are too few to agree that it has failed. A hold
    /// that was to be renewed lasts until its time is over ([`LeaseGuard::remaining`](super::LeaseGuard::remaining)),
    /// and may be renewed if the home is heard again before. What this rank has left at the home otherwise is taken
    /// back then.
    #[error(
        "rank {rank} does not reach the lease {name:?}: {}", unheard(.node, .waited)
    )]
    Unreachable {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// The node that is not heard.
        node: usize,
        /// How long this call has waited; next to nothing where it failed at once.
        waited: Duration,
    },
    /// The home is lost, and the next one has no room. The lease moves as soon as there is room.
    #[error("{}", no_next_place(*.rank, .name, *.node, *.places))]
    NoRoom {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// Its next home.
        node: usize,
        /// How many that has room for.
        places: usize,
    },
    /// This rank has been declared failed: the others go on without it.
    #[error("{}", declared_failed(*.rank, *.epoch, *.cause, "does not hold the lease", .name))]
    Excluded {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// The epoch; 0 where it is not known.
        epoch: u64,
        /// Why.
        cause: FailureCause,
    },
    /// There is no thread that could renew it in the background.
    #[error("rank {rank}: no thread to renew the lease {name:?}: {why} (remedy: allow more threads, or renew by hand)")]
    NoThread {
        /// This rank.
        rank: usize,
        /// The lease.
        name: String,
        /// What the kernel says.
        why: String,
    },
}

fn who(holder: Option<usize>) -> String {
    holder.map_or("nobody holds it".to_owned(), |rank| format!("rank {rank} holds it"))
}

impl From<LockError> for LeaseError {
    /// Nothing else happens to who asks a home.
    fn from(error: LockError) -> Self {
        match error {
            LockError::Excluded { rank, name, epoch, cause } => Self::Excluded { rank, name, epoch, cause },
            LockError::Unreachable { rank, name, node, waited } => Self::Unreachable { rank, name, node, waited },
            LockError::NoRoom { rank, name, node, places } => Self::NoRoom { rank, name, node, places },
            LockError::TimedOut { rank, name, waited, .. } => Self::TimedOut { rank, name, waited, holder: None },
            other => unreachable!("{other}"),
        }
    }
}
