//! What can go wrong. One enum for each kind of call, and [`Error`] over them all for callers that only pass it on.

use std::path::PathBuf;
use std::time::Duration;

pub use crate::cluster::bootstrap::BootstrapError;
pub use crate::cluster::environment::EnvironmentError;
pub use crate::cluster::rendezvous::RendezvousError;
use crate::cluster::view::{FailureCause, Lateness};
use crate::coord::barrier::Operation;
pub use crate::fabric::shm::SegmentError;
use crate::object::{CounterError, FencedError, LeaseError, LockError, ObjectError};

/// Why a job could not be joined or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The environment names no rank of a job.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The job's other ranks could not be met.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The job's nodes could not meet.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// The node's segment could not be made or attached.
    #[error("rank {rank}: {source}")]
    Segment {
        /// This rank.
        rank: usize,
        /// What is wrong with it.
        #[source]
        source: SegmentError,
    },
    /// What another rank says of itself makes no sense.
    #[error(
        "rank {rank}: rank {other} brought to the rendezvous {what} (remedy: build all ranks' programs with the same version of phalanx)"
    )]
    Card {
        /// This rank.
        rank: usize,
        /// The other.
        other: usize,
        /// What is wrong.
        what: String,
    },
    /// The system refuses what a job needs.
    #[error("rank {rank}: cannot {step}: {source}")]
    System {
        /// This rank.
        rank: usize,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The fabric that was asked for is not there.
    #[error(
        "rank {rank}: {fabric} cannot join the nodes: {why} (remedy: PHALANX_FABRIC=tcp, or auto for the best that there is)"
    )]
    Fabric {
        /// This rank.
        rank: usize,
        /// What was asked for.
        fabric: &'static str,
        /// Why it is not there.
        why: String,
    },
    /// A node has more ranks than one can have.
    #[error(
        "rank {rank}: {ranks} ranks share one node's memory, which can serve {most} (remedy: pretend several nodes with `phalanx run --nodes`)"
    )]
    NodeTooLarge {
        /// This rank.
        rank: usize,
        /// The node's ranks.
        ranks: usize,
        /// The most.
        most: usize,
    },
    /// The timeline that was asked for cannot be written.
    #[error(
        "rank {rank}: cannot write the timeline to {}: {source} (remedy: name a file in a folder that this rank can write to, with PHALANX_TRACE or JobOptions::trace)", .path.display()
    )]
    Trace {
        /// This rank.
        rank: usize,
        /// The rank's file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// An option in the environment has a value that means nothing.
    #[error("{name}: {why}")]
    Option {
        /// The variable.
        name: &'static str,
        /// What would be valid.
        why: String,
    },
    /// More groups than any segment could hold.
    #[error(
        "space for {groups} groups of {ranks} ranks is more than a segment can have (remedy: ask for fewer with JobOptions::groups)"
    )]
    Groups {
        /// Groups asked for.
        groups: usize,
        /// The job's ranks.
        ranks: usize,
    },
    /// More named objects than any segment could hold.
    #[error(
        "space for {objects} named objects is more than the segment of a node of {ranks} ranks can have (remedy: ask for fewer with JobOptions::objects)"
    )]
    Objects {
        /// Objects asked for.
        objects: usize,
        /// The node's ranks.
        ranks: usize,
    },
    /// The number of ranks is 0 or more than a node can have.
    #[error("a job on one machine has 1 to {most} ranks, not {asked}")]
    Size {
        /// The number asked for.
        asked: usize,
        /// The most.
        most: usize,
    },
}

/// Why a barrier was not passed, or was passed with nothing agreed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// Not all members have arrived in time. The arrival stands: wait again to resume, or abandon it.
    #[error(
        "rank {rank}: barrier {sequence} of group {group} timed out after {waited:?}: ranks {missing:?} have not arrived{} (remedy: look at these ranks; call again to resume, or abandon)", details(.late_by)
    )]
    TimedOut {
        /// This rank.
        rank: usize,
        /// The group's number in the job; the world is 0.
        group: u64,
        /// Which barrier of the group, counted from 1.
        sequence: u64,
        /// How long this call has waited.
        waited: Duration,
        /// Exactly the ranks that have not arrived.
        missing: Vec<usize>,
        /// Each of them: how long ago it was last seen alive, and its last call.
        late_by: Vec<Lateness>,
    },
    /// Members have failed, or left the job, before they arrived: nobody can pass this barrier. The group is broken;
    /// its later calls fail with the same cause. All members that survive are told the same ranks.
    #[error(
        "rank {rank}: barrier {sequence} of group {group} cannot be passed: {} [epoch {epoch}] (remedy: go on without them in the group that Group::shrink makes, or end the job)", failed(.ranks, .causes)
    )]
    RankFailed {
        /// This rank.
        rank: usize,
        /// The group's number in the job; the world is 0.
        group: u64,
        /// Which barrier of the group, counted from 1.
        sequence: u64,
        /// The members that have failed.
        ranks: Vec<usize>,
        /// Why, in the order of `ranks`.
        causes: Vec<FailureCause>,
        /// The epoch that has declared it: the same for all survivors.
        epoch: u64,
    },
    /// Members cannot be reached, and the nodes that can be are too few to agree that they have failed. The arrival
    /// stands: a later call goes on with it, and works again when enough nodes answer.
    #[error(
        "rank {rank}: barrier {sequence} of group {group} cannot be passed: ranks {ranks:?} on nodes {nodes:?} cannot be reached{}, and too few of the nodes that are left answer this one to agree that they have failed (remedy: look whether the network between the nodes is up, and call again; start the job with `phalanx run`, whose launcher decides then; or end the job on the side that is cut off)", within(.waited)
    )]
    Unreachable {
        /// This rank.
        rank: usize,
        /// The group's number in the job.
        group: u64,
        /// Which barrier of the group.
        sequence: u64,
        /// The members that cannot be reached.
        ranks: Vec<usize>,
        /// Their nodes.
        nodes: Vec<usize>,
        /// How long this call has waited; zero where it failed at once.
        waited: Duration,
    },
    /// Members have failed, and this call's time is over before the surviving ones' nodes have said whether one of them
    /// has passed this barrier: then all do, and otherwise none. The arrival stands: a later call goes on with it.
    #[error(
        "rank {rank}: ranks {failed:?} have failed, and whether barrier {sequence} of group {group} is passed is not known: nodes {nodes:?} of the surviving ranks {ranks:?} have not said so within {waited:?} (remedy: call again, with more time; look whether these ranks' processes run and the network to their nodes is up)"
    )]
    Unsettled {
        /// This rank.
        rank: usize,
        /// The group's number in the job.
        group: u64,
        /// Which barrier of the group.
        sequence: u64,
        /// The members that have failed.
        failed: Vec<usize>,
        /// The surviving members whose nodes have not answered.
        ranks: Vec<usize>,
        /// These nodes.
        nodes: Vec<usize>,
        /// How long they were asked.
        waited: Duration,
    },
    /// The others have declared this rank failed, and have gone on without it.
    #[error(
        "rank {rank} was declared failed{}: {cause}; the others have gone on without it (remedy: end this process)", in_epoch(*.epoch)
    )]
    Excluded {
        /// This rank.
        rank: usize,
        /// The epoch; 0 where only the refusal of others tells.
        epoch: u64,
        /// Why.
        cause: FailureCause,
    },
    /// All members have arrived, but they do not agree what this barrier is. It counts as passed, for all members.
    #[error("rank {rank}: members of group {group} disagree about barrier {sequence}: {} (remedy: make all members call the same operation)", list(.named))]
    OperationMismatch {
        /// This rank.
        rank: usize,
        /// The group's number in the job.
        group: u64,
        /// Which barrier of the group.
        sequence: u64,
        /// Each member's rank and what it named.
        named: Vec<(usize, Operation)>,
    },
    /// A split has passed its barrier, but its new group was not there in time.
    #[error(
        "rank {rank}: a split of group {group} has not found its new group yet (remedy: call split again with the same colour and key, or abandon)"
    )]
    SplitUnfinished {
        /// This rank.
        rank: usize,
        /// The group's number in the job.
        group: u64,
    },
    /// An operation that reduces nothing was given to a call that reduces.
    #[error(
        "rank {rank}: {operation} reduces nothing (remedy: name and, or, min or max to the reducing calls of group {group})"
    )]
    NoReduction {
        /// This rank.
        rank: usize,
        /// The group's number in the job.
        group: u64,
        /// What was named.
        operation: Operation,
    },
    /// This rank has arrived already and is not through.
    #[error(
        "rank {rank}: the arrival at barrier {sequence} of group {group} is still outstanding (remedy: wait for it or abandon it first)"
    )]
    ArrivalOutstanding {
        /// This rank.
        rank: usize,
        /// The group's number in the job.
        group: u64,
        /// Which barrier of the group.
        sequence: u64,
    },
    /// An arrival could not be taken back: it was tried too often at one barrier, or another member has stopped in the
    /// middle of doing so. The arrival stands.
    #[error(
        "rank {rank}: the arrival at barrier {sequence} of group {group} cannot be abandoned and stands (remedy: wait for it)"
    )]
    CannotAbandon {
        /// This rank.
        rank: usize,
        /// The group's number in the job.
        group: u64,
        /// Which barrier of the group.
        sequence: u64,
    },
}

impl BarrierError {
    /// Whether the arrival stands because it is not known yet how the barrier ends: a later call goes on with it.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unsettled { .. })
    }
}

/// What is known of late ranks, as the rest of a sentence.
fn details(late_by: &[Lateness]) -> String {
    /// More would fill the screen.
    const MOST: usize = 8;
    if late_by.is_empty() {
        return String::new();
    }
    let mut text: Vec<String> = late_by.iter().take(MOST).map(ToString::to_string).collect();
    if late_by.len() > MOST {
        text.push(format!("and {} more", late_by.len() - MOST));
    }
    format!(": {}", text.join("; "))
}

/// That a node is not heard and nobody can decide about it, and what to do then: the rest of a sentence.
pub(crate) fn unheard(node: &usize, waited: &Duration) -> String {
    format!(
        "node {node} cannot be reached{}, and too few of the nodes that are left answer this one to agree that it has failed (remedy: look whether the network between the nodes is up, and call again; start the job with `phalanx run`, whose launcher decides then; or end the job on the side that is cut off)",
        within(waited)
    )
}

/// That an object's next home has no room for it, and what to do then.
pub(crate) fn no_next_place(rank: usize, name: &str, node: usize, places: usize) -> String {
    format!(
        "rank {rank}: no place for {name:?} on node {node}, its next home: that has {places} objects (remedy: JobOptions::objects of rank 0, or drop handles of other objects that are not used, and call again)"
    )
}

/// That a rank was declared failed, and so has an object no more, and what to do then.
pub(crate) fn declared_failed(rank: usize, epoch: u64, cause: FailureCause, lacks: &str, name: &str) -> String {
    format!(
        "rank {rank} was declared failed{} ({cause}), and {lacks} {name:?} (remedy: end this process; if it was only stopped, allow longer silences with PHALANX_FAILURE_TIMEOUT_MS)",
        in_epoch(epoch)
    )
}

/// How long something was waited for, as the rest of a sentence.
fn within(waited: &Duration) -> String {
    if waited.is_zero() { String::new() } else { format!(" within {waited:?}") }
}

/// In which epoch, as the rest of a sentence, if that is known.
fn in_epoch(epoch: u64) -> String {
    if epoch == 0 { String::new() } else { format!(" in epoch {epoch}") }
}

fn failed(ranks: &[usize], causes: &[FailureCause]) -> String {
    let one = |(rank, cause): (&usize, &FailureCause)| format!("rank {rank}: {cause}");
    ranks.iter().zip(causes).map(one).collect::<Vec<_>>().join("; ")
}

fn list(named: &[(usize, Operation)]) -> String {
    named.iter().map(|(rank, operation)| format!("rank {rank}: {operation}")).collect::<Vec<_>>().join(", ")
}

/// Why a group could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The parent's members did not meet.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// The segment has no space for the group.
    #[error(
        "rank {rank}: no space for a group of {members} in the node's segment: {needed_bytes} bytes in a row needed, {free_bytes} free (remedy: drop groups, or ask for more with JobOptions::groups)"
    )]
    Exhausted {
        /// This rank.
        rank: usize,
        /// The group's members.
        members: usize,
        /// Bytes that it needs.
        needed_bytes: usize,
        /// Bytes that are free, perhaps in pieces.
        free_bytes: usize,
    },
    /// The member that makes the group found no space for it.
    #[error(
        "rank {rank}: rank {leader} found no space for a group of {members} in the node's segment (remedy: drop groups, or ask for more with JobOptions::groups)"
    )]
    Refused {
        /// This rank.
        rank: usize,
        /// The member that makes the group.
        leader: usize,
        /// The group's members.
        members: usize,
    },
    /// A member that makes the group on its node did not come in time.
    #[error(
        "rank {rank}: rank {leader} on node {node}, the first of the new group's members there, has not made it within {waited:?} (remedy: look at that rank)"
    )]
    LeaderMissing {
        /// This rank.
        rank: usize,
        /// The member that makes the group on its node.
        leader: usize,
        /// Its node.
        node: usize,
        /// How long it was waited.
        waited: Duration,
    },
    /// A member's node does not answer, so that it is not known which group the member wants to be in. The split
    /// stands: call it again, or abandon it.
    #[error(
        "rank {rank}: node {node}, where rank {member} is, has not answered within {waited:?} (remedy: look whether its ranks run and the network between is up; then call split again with the same colour and key, or abandon)"
    )]
    MemberUnreachable {
        /// This rank.
        rank: usize,
        /// The member.
        member: usize,
        /// Its node.
        node: usize,
        /// How long it was waited.
        waited: Duration,
    },
    /// Members of earlier groups have not come to take them.
    #[error(
        "rank {rank}: too many groups that their members have not joined yet (waited {waited:?}; remedy: look at the members of the last groups that this rank has made)"
    )]
    OffersPending {
        /// This rank.
        rank: usize,
        /// How long it was waited.
        waited: Duration,
    },
    /// A list of members is no list of members.
    #[error("rank {rank}: {list:?} is no list of members: {why}")]
    BadList {
        /// This rank.
        rank: usize,
        /// The list.
        list: Vec<usize>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A block in the segment is not what its maker said: memory was overwritten.
    #[error(
        "rank {rank}: the block of the group made by rank {leader} is corrupt (remedy: some rank writes where it should not; end the job)"
    )]
    Corrupt {
        /// This rank.
        rank: usize,
        /// The member that made the group.
        leader: usize,
    },
}

/// Any error of this library.
///
/// Its `Debug` is its text, because that is what a `main` that returns it prints.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A job could not be joined or made.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A group could not be made.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A barrier was not passed.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// A named object could not be opened.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A lock was not acquired, or was lost.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A lease was not acquired, or has ended.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A counter was not changed, or it is not known whether it was.
    #[error(transparent)]
    Counter(#[from] CounterError),
    /// A fenced word was not read or written.
    #[error(transparent)]
    Fenced(#[from] FencedError),
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that a program may use `?` with all of them and [`Error`].
    #[test]
    fn the_errors_of_all_calls_are_errors_of_this_library() {
        fn is_one<E: Into<Error>>() {}
        is_one::<JobError>();
        is_one::<GroupError>();
        is_one::<BarrierError>();
        is_one::<ObjectError>();
        is_one::<LockError>();
        is_one::<LeaseError>();
        is_one::<CounterError>();
        is_one::<FencedError>();
    }

    #[test]
    fn who_has_an_object_no_more_is_told_the_epoch_where_that_is_known() {
        let text = |epoch| declared_failed(3, epoch, FailureCause::Silent, "does not hold the lease", "a");
        assert!(
            text(7).starts_with("rank 3 was declared failed in epoch 7 (")
                && text(7).contains("hold the lease \"a\" (")
        );
        assert!(text(0).starts_with("rank 3 was declared failed ("), "{}", text(0));
    }
}
