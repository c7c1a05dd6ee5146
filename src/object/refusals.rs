//! Errors that calls of every kind of object have in common.

use std::time::Duration;

use super::error::LockError;
use crate::cluster::view::FailureCause;
use crate::job::Membership;

/// The error of a rank that has been declared failed.
pub(super) fn excluded(membership: &Membership, name: &str) -> LockError {
    let (epoch, cause) = membership.reach.own_end().unwrap_or((0, FailureCause::Silent));
    LockError::Excluded { rank: membership.rank, name: name.to_owned(), epoch, cause }
}

/// The error of a call that needs a node of which nothing is heard, and that nobody can declare failed.
pub(super) fn unreachable(membership: &Membership, name: &str, node: usize, waited: Duration) -> LockError {
    LockError::Unreachable { rank: membership.rank, name: name.to_owned(), node, waited }
}

/// The error of a call whose object cannot move to its next home.
pub(super) fn no_room(membership: &Membership, name: &str, home: usize) -> LockError {
    let places = membership.layout_of(home).objects();
    LockError::NoRoom { rank: membership.rank, name: name.to_owned(), node: home, places }
}

/// The error of a rank whose time is over, while another node may have what it asked for.
pub(super) fn timed_out(rank: usize, name: &str, waited: Duration, holder_node: Option<usize>) -> LockError {
    LockError::TimedOut { rank, name: name.to_owned(), waited, holder: None, holder_node, ahead: Vec::new() }
}
