//! Named objects as users see them: opened under a name by any rank of the job, the same for all of them, gone when the
//! last handle is dropped.
//!
//! | file | is |
//! | --- | --- |
//! | `lock.rs` | the lock: handle, guard, request |
//! | `waiting.rs` | the wait for a lock of this node |
//! | `passing.rs` | who takes it before others that wait, where ranks share CPUs |
//! | `exclusive.rs` | both together: the lock that every kind of object uses that needs one |
//! | `climb.rs` | from a lock of this node to that of all nodes, at its home |
//! | `homes.rs` | where an object is at home, and whether that node has all it must have |
//! | `catalogue.rs` | how an object is found on this node, and at its home |
//! | `errands.rs` | what a rank has left to do at homes that did not answer in time |
//! | `steward.rs` | gives back what the dead have left at homes; moves objects whose home is lost |
//! | `reach.rs`, `site.rs` | what a rank can reach; the words of an object's home, by requests |
//! | `counter.rs` | the counter |
//! | `drawing.rs` | numbers of it that a node takes at once |
//! | `tally.rs` | what a rank adds to it, across nodes: once, and kept twice |
//! | `custody.rs` | what it and fenced words have in common: bound to a home, kept on a second node |
//! | `second.rs`, `sums.rs`, `pairs.rs` | the node that keeps what would be lost with the home; of counters, and of fenced words |
//! | `rwlock.rs` | the lock that readers share; `rwlock/driven.rs`: what a rank does at its home; `rwlock/guard.rs` |
//! | `shared_hold.rs` | what ranks of a node have of it together |
//! | `semaphore.rs` | the semaphore |
//! | `anchor.rs` | where these two, leases, counters and fenced words have their words, also when a home is lost |
//! | `vigil.rs` | their wait for what others do there |
//! | `fenced.rs` | words that are written under a token |
//! | `lease.rs` | a lock with a time to live: handles; `lease/guard.rs`: a hold, and the thread that renews it; `lease/request.rs`: a place among those who wait; `lease/courier.rs`: who asks its home |
//! | `election.rs` | the election of a leader; `election/seat.rs`: the lock or lease that it has; `election/announcing.rs` |
//! | `error.rs` | what can go wrong |

mod anchor;
mod catalogue;
mod climb;
mod counter;
mod custody;
mod drawing;
mod election;
mod errands;
mod error;
mod exclusive;
mod fenced;
mod homes;
mod lease;
mod lock;
mod pairs;
mod passing;
mod reach;
mod rwlock;
mod second;
mod semaphore;
mod shared_hold;
mod site;
mod steward;
mod sums;
mod tally;
mod vigil;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::catalogue::{Opened, Refused};
pub use self::counter::{Counter, CounterError};
pub use self::election::{Candidacy, Election, Leader, Leadership};
use self::errands::Closing;
pub use self::error::{LockError, ObjectError};
pub use self::fenced::{Fenced, FencedError, FencedWord};
pub use self::lease::{Lease, LeaseError, LeaseGuard, LeaseRequest};
pub use self::lock::{Lock, LockGuard, LockRequest, Token};
pub(crate) use self::reach::Reach;
pub use self::rwlock::{ReadGuard, RwLock, WriteGuard};
pub(crate) use self::semaphore::Holding;
pub use self::semaphore::{Permits, Semaphore};
use self::site::Site;
pub(crate) use self::steward::Steward;
use self::waiting::NodeLock;
pub(crate) use self::waiting::Turn;
use crate::coord::objects::directory::{DirectoryFault, Nature, SiteFault};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::name::{Name, NameFault};
use crate::fabric::shm::Segment;
use crate::job::{Job, Membership};

pub use crate::coord::objects::directory::ObjectKind;

/// Between two attempts to open an object that moves, or that the dead have left.
const MOVING_PAUSE: Duration = Duration::from_micros(200);
/// How long whoever drops a handle waits for the home: longer than one is slow where machines are busy.
const GIVING_BACK: Duration = Duration::from_secs(1);

/// A rank's handle of an object: its place among those of its node, and at its home.
pub(crate) struct Handle {
    membership: Arc<Membership>,
    at: ObjectAt,
    site: Site,
    at_home: ObjectAt,
    name: Name,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = self.site.home;
        f.debug_struct("Handle")
            .field("name", &self.name.text())
            .field("at", &self.at)
            .field("home", &home)
            .field("at_home", &self.at_home)
            .finish()
    }
}

impl Job {
    /// The node where the object of a name is at home, or would be, as long as none of the job's nodes is lost any
    /// more. Its ranks reach its words without a round trip to another node; but what they change of a counter or
    /// fenced word is copied to one ([`JobOptions::durable_copies`](crate::JobOptions::durable_copies)), and where RDMA
    /// was asked for what they add and swap goes through their own device.
    ///
    /// # Errors
    ///
    /// [`ObjectError::Name`].
    ///
    /// # Cost
    ///
    /// A hash of the name for each node that lives; nobody is asked.
    pub fn home_of(&self, name: &str) -> Result<usize, ObjectError> {
        let reach = &self.membership().reach;
        let name = named(reach.rank, "object", name)?;
        Ok(name.home(reach.live_nodes()).expect("this node lives"))
    }
}

fn named(rank: usize, kind: &'static str, text: &str) -> Result<Name, ObjectError> {
    Name::new(text).map_err(|fault| not_named(rank, kind, text, fault))
}

fn not_named(rank: usize, kind: &'static str, text: &str, fault: NameFault) -> ObjectError {
    let why = match fault {
        NameFault::Empty => "it is empty",
        NameFault::TooLong => "it is too long",
        NameFault::NotPrintable => "it has control characters",
    };
    ObjectError::Name { rank, kind, text: text.to_owned(), why }
}

impl Handle {
    /// Opens the object of a name that a user gives, or makes it.
    pub fn open(membership: &Arc<Membership>, text: &str, nature: Nature) -> Result<Self, ObjectError> {
        Self::open_as(membership, named(membership.rank, nature.kind.name(), text)?, nature)
    }

    /// The same, by whatever name.
    pub fn open_as(membership: &Arc<Membership>, name: Name, nature: Nature) -> Result<Self, ObjectError> {
        let rank = membership.rank;
        let table_error = |source| ObjectError::Table { rank, name: name.text().to_owned(), source: Box::new(source) };
        let begun = Instant::now();
        loop {
            let opened = with_table(membership, None, || catalogue::open(&membership.reach, &name, nature))
                .map_err(table_error)?;
            match opened {
                Ok(Opened { at, home, at_home }) => {
                    let site = Site { reach: membership.reach.clone(), home };
                    return Ok(Self { membership: Arc::clone(membership), at, site, at_home, name });
                }
                // By one that has been declared failed, and this rank holds the table; or it has not come through.
                Err(Refused {
                    fault:
                        DirectoryFault::Overtaken
                        // The node's steward moves the object to another home.
                        | DirectoryFault::Away(SiteFault::Broken { .. } | SiteFault::Lost { .. } | SiteFault::Late { .. }),
                    node,
                }) => {
                    // Where the steward cannot move it, nobody can.
                    if let Some(silent) = membership.reach.doubted() {
                        let fault = DirectoryFault::Away(SiteFault::Silent { node: silent });
                        return Err(error_of(membership, &name, nature, Refused { fault, node }, begun));
                    }
                    std::thread::sleep(MOVING_PAUSE);
                }
                Err(refused) => return Err(error_of(membership, &name, nature, refused, begun)),
            }
        }
    }

    fn segment(&self) -> &Segment {
        &self.membership.segment
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Where this rank has been declared failed its handles count no more, nor do its node's at a home that is lost.
        let reach = &self.membership.reach;
        let limit = reach.spans_nodes().then_some(GIVING_BACK);
        let brief = limit.map_or_else(|| reach.clone(), |limit| reach.within(limit));
        // One handle has waited for all.
        let is_left = errands::is_left(reach, &self.at) || limit.is_some() && errands::await_table(reach);
        let close = || with_table(&self.membership, limit, || catalogue::close(&brief, &self.at));
        // Whoever drops it may be about to leave the job, and does not wait for a home that does not answer.
        if is_left || matches!(close(), Err(LockError::Unreachable { .. } | LockError::TimedOut { .. })) {
            errands::leave(reach, Closing(self.at));
        }
    }
}

/// Does something while this rank has the node's table of objects for itself, for which it waits so long.
fn with_table<T>(
    membership: &Arc<Membership>,
    limit: Option<Duration>,
    act: impl FnOnce() -> T,
) -> Result<T, LockError> {
    // Another thread of this rank would be taken for this one.
    let begun = Instant::now();
    let Some(_turn) = membership.reach.uses.table_within(limit) else {
        let (rank, name) = (membership.rank, "the table of objects".to_owned());
        let waited = begun.elapsed();
        return Err(LockError::TimedOut { rank, name, waited, holder: None, holder_node: None, ahead: Vec::new() });
    };
    NodeLock::of_table(membership).during(limit.map(|limit| limit.saturating_sub(begun.elapsed())), act)
}

/// The error of an object whose home could not be asked.
fn not_opened(handle: &Handle, source: LockError) -> ObjectError {
    ObjectError::Table { rank: handle.membership.rank, name: handle.name.text().to_owned(), source: Box::new(source) }
}

/// The error of a call that began then.
fn error_of(membership: &Membership, name: &Name, nature: Nature, refused: Refused, begun: Instant) -> ObjectError {
    let (rank, kind, node) = (membership.rank, nature.kind, refused.node);
    let name = name.text().to_owned();
    match refused.fault {
        DirectoryFault::Collision => ObjectError::Collision { rank, name },
        DirectoryFault::OtherKind(found) => ObjectError::OtherKind { rank, name, kind, found },
        DirectoryFault::OtherParameter(found) => {
            ObjectError::OtherParameter { rank, name, kind, wanted: nature.parameter, found }
        }
        DirectoryFault::Full => {
            let places = membership.layout_of(node).objects();
            ObjectError::Exhausted { rank, name, node, places }
        }
        DirectoryFault::Away(SiteFault::Excluded) => {
            let source = Box::new(waiting::excluded(membership, &name));
            ObjectError::Table { rank, name, source }
        }
        DirectoryFault::Away(SiteFault::Silent { node }) => {
            let source = Box::new(waiting::unreachable(membership, &name, node, begun.elapsed()));
            ObjectError::Table { rank, name, source }
        }
        DirectoryFault::Away(SiteFault::NoRoom { home }) => {
            let source = Box::new(waiting::no_room(membership, &name, home));
            ObjectError::Table { rank, name, source }
        }
        DirectoryFault::Overtaken | DirectoryFault::Away(_) => unreachable!("tried again"),
    }
}
