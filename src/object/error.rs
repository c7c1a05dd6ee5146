//! What can go wrong with named objects.

use std::time::Duration;

use crate::cluster::view::FailureCause;
use crate::coord::objects::directory::ObjectKind;
use crate::error::{declared_failed, no_next_place, unheard};
use crate::object::Token;

/// Why an object was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The text is no name: that is 1 to 96 bytes of UTF-8 without control characters.
    #[error("rank {rank}: {text:?} names no {kind}: {why} (remedy: 1 to 96 bytes of printable text)")]
    Name {
        /// This rank.
        rank: usize,
        /// What was asked for.
        kind: &'static str,
        /// The text.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The name stands for something else.
    #[error(
        "rank {rank}: the name {name:?} stands for another kind of object: {found}, not {kind} (remedy: give each object a name of its own)"
    )]
    OtherKind {
        /// This rank.
        rank: usize,
        /// The name.
        name: String,
        /// What was asked for.
        kind: ObjectKind,
        /// What there is.
        found: ObjectKind,
    },
    /// The object was made with another parameter.
    #[error(
        "rank {rank}: the {kind} {name:?} was made with {}, not {} (remedy: let all ranks name the same)",
        kind.parameter_text(*found), kind.parameter_text(*wanted)
    )]
    OtherParameter {
        /// This rank.
        rank: usize,
        /// The name.
        name: String,
        /// What it is.
        kind: ObjectKind,
        /// What this rank asked for: permits, a time to live in microseconds, `JobOptions::durable_copies`; of a fenced
        /// word its type's number, and 2^32 for each copy.
        wanted: u64,
        /// What it was made with.
        found: u64,
    },
    /// Another name has the same hash.
    #[error("rank {rank}: the name {name:?} has the same hash as another object's (remedy: change a letter of it)")]
    Collision {
        /// This rank.
        rank: usize,
        /// The name.
        name: String,
    },
    /// The node has no place for another object: this rank's node, or the one where the object would be at home.
    #[error(
        "rank {rank}: no place for {name:?} on node {node}: it has {places} objects (remedy: JobOptions::objects of rank 0, or drop handles that are not used)"
    )]
    Exhausted {
        /// This rank.
        rank: usize,
        /// The name.
        name: String,
        /// The node.
        node: usize,
        /// How many it has room for.
        places: usize,
    },
    /// The table of names could not be locked, or the object's home could not be asked.
    #[error("rank {rank}: {name:?} was not opened: {source}")]
    Table {
        /// This rank.
        rank: usize,
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: Box<LockError>,
    },
}

/// Why a lock, a reader-writer lock or a semaphore was not acquired or released, or an election not won or looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// This rank holds it already.
    #[error(
        "rank {rank} holds {name:?} already, by a guard or a request that was granted (remedy: drop that first; neither locks nor elections are re-entrant)"
    )]
    AlreadyHeld {
        /// This rank.
        rank: usize,
        /// The lock.
        name: String,
    },
    /// This rank has a request that is not finished.
    #[error("rank {rank} has asked for {name:?} already (remedy: wait for that request, or cancel it)")]
    AlreadyRequested {
        /// This rank.
        rank: usize,
        /// The lock.
        name: String,
    },
    /// The time is over. This rank has no claim any more.
    #[error("rank {rank} did not get {name:?} in {waited:.1?}: {} (remedy: look at the holder with `phalanx inspect`, or allow more time)", who_is_ahead(*.holder, *.holder_node, .ahead))]
    TimedOut {
        /// This rank.
        rank: usize,
        /// The lock.
        name: String,
        /// For how long it was waited for.
        waited: Duration,
        /// Which rank of this node holds it, or, where `holder_node` is `None`, has asked the home for it before; of a
        /// reader-writer lock that was to be read, which rank of the job writes; of an election with a time to live,
        /// which rank of the job leads. `None` where another node's rank does, or that is not known.
        holder: Option<usize>,
        /// Which node holds it; `None` where that is not known.
        holder_node: Option<usize>,
        /// Which ranks of this node have asked before this one, in their order.
        ahead: Vec<usize>,
    },
    /// This rank reads already.
    #[error("rank {rank} reads under the lock {name:?} already (remedy: drop its read guard first; a rank reads once)")]
    AlreadyReading {
        /// This rank.
        rank: usize,
        /// The lock.
        name: String,
    },
    /// This rank reads, and asks to write: two that did would wait for each other.
    #[error(
        "rank {rank} reads under the lock {name:?} and cannot go over to writing (remedy: drop its read guard first, or write from the beginning and downgrade)"
    )]
    UpgradeRefused {
        /// This rank.
        rank: usize,
        /// The lock.
        name: String,
    },
    /// The time is over, and others still read. This rank has no claim any more.
    #[error(
        "rank {rank} could not write under the lock {name:?} in {waited:.1?}: ranks {readers:?} read (remedy: look at them, or allow more time)"
    )]
    StillRead {
        /// This rank.
        rank: usize,
        /// The lock.
        name: String,
        /// For how long it has waited.
        waited: Duration,
        /// Who reads.
        readers: Vec<usize>,
    },
    /// The semaphore has not as many permits.
    #[error(
        "rank {rank} wants {wanted} permits of the semaphore {name:?}, which has {permits} in all (remedy: ask for fewer, or open it with more)"
    )]
    TooMany {
        /// This rank.
        rank: usize,
        /// The semaphore.
        name: String,
        /// How many it wants.
        wanted: u64,
        /// How many there are.
        permits: u64,
    },
    /// The time is over, and not enough permits were returned. This rank has no claim any more.
    #[error(
        "rank {rank} did not get {wanted} permits of the semaphore {name:?} in {waited:.1?}: {left} are left (remedy: look at those who have the others, or allow more time)"
    )]
    TooFewLeft {
        /// This rank.
        rank: usize,
        /// The semaphore.
        name: String,
        /// For how long it has waited.
        waited: Duration,
        /// How many it wants.
        wanted: u64,
        /// How many are left.
        left: u64,
    },
    /// Of an election with a time to live: this rank's term was not renewed in time. Another one may lead since.
    #[error(
        "the term {token} by which rank {rank} led the election {name:?} is over{} (remedy: renew sooner, or name a longer time to live; what was done meanwhile is to be fenced by the term)", who_leads(*.holder)
    )]
    Expired {
        /// This rank.
        rank: usize,
        /// The election.
        name: String,
        /// This rank's term.
        token: Token,
        /// Who leads now; `None` where nobody does, or that is not known.
        holder: Option<usize>,
    },
    /// There is no thread that could renew the term of an election's leader.
    #[error(
        "rank {rank}: no thread to renew the term of the election {name:?}: {why} (remedy: allow more threads, or renew by hand)"
    )]
    NoThread {
        /// This rank.
        rank: usize,
        /// The election.
        name: String,
        /// What the kernel says.
        why: String,
    },
    /// Nothing is heard of a node that this call needs: the object's home, or that of who holds it; and the nodes that
    /// answer are too few to agree that it has failed. This rank has no claim, nor does it hold what it was about to
    /// release, as far as can be said without that node: what is left there is taken back as soon as it is heard again,
    /// or is lost with it.
    #[error(
        "rank {rank} waits in vain for {name:?}: {}", unheard(.node, .waited)
    )]
    Unreachable {
        /// This rank.
        rank: usize,
        /// The object.
        name: String,
        /// The node that is not heard.
        node: usize,
        /// How long this call has waited; next to nothing where it failed at once.
        waited: Duration,
    },
    /// The object's home is lost, and the next one has no room for it, or had none for what ranks of some node have of
    /// it. It moves as soon as there is room.
    #[error("{}", no_next_place(*.rank, .name, *.node, *.places))]
    NoRoom {
        /// This rank.
        rank: usize,
        /// The object.
        name: String,
        /// Its next home.
        node: usize,
        /// How many that has room for.
        places: usize,
    },
    /// This rank has been declared failed: the others go on without it, and whatever it held is theirs.
    #[error("{}", declared_failed(*.rank, *.epoch, *.cause, "does not hold", .name))]
    Excluded {
        /// This rank.
        rank: usize,
        /// The lock.
        name: String,
        /// The epoch; 0 where it is not known.
        epoch: u64,
        /// Why.
        cause: FailureCause,
    },
}

fn who_leads(holder: Option<usize>) -> String {
    holder.map_or(", and it leads on only if it renews the term before another one follows".to_owned(), |rank| {
        format!(", and rank {rank} leads")
    })
}

fn who_is_ahead(holder: Option<usize>, node: Option<usize>, ahead: &[usize]) -> String {
    let holder = match (holder, node) {
        (Some(rank), Some(_)) => format!("rank {rank} holds it"),
        (Some(rank), None) => format!("rank {rank} has asked for it before"),
        (None, Some(node)) => format!("node {node} holds it"),
        (None, None) => "nobody is known to hold it".to_owned(),
    };
    match ahead {
        [] => holder,
        _ => format!("{holder}, ranks {ahead:?} come before"),
    }
}
