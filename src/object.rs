//! Named objects as users see them: opened under a name by any rank of the job, the same for all of them, gone when the
//! last handle is dropped.
//!
//! | file | is |
//! | --- | --- |
//! | `lock.rs` | the lock: handle, guard, request |
//! | `waiting.rs` | the wait for a lock |
//! | `counter.rs` | the counter |
//! | `error.rs` | what can go wrong |

mod counter;
mod error;
mod lock;
mod waiting;

use std::fmt;
use std::sync::Arc;

pub use self::counter::Counter;
pub use self::error::{LockError, ObjectError};
pub use self::lock::{Lock, LockGuard, LockRequest, Token};
use self::waiting::NodeLock;
pub(crate) use self::waiting::Turn;
use crate::coord::objects::directory::{Directory, DirectoryFault, Nature};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::name::{Name, NameFault};
use crate::fabric::shm::Segment;
use crate::job::{Membership, is_dead};

pub use crate::coord::objects::directory::ObjectKind;

/// A rank's handle of an object.
pub(crate) struct Handle {
    membership: Arc<Membership>,
    at: ObjectAt,
    name: Name,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("name", &self.name.text()).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Handle {
    /// Opens the object of a name, or makes it.
    pub fn open(membership: &Arc<Membership>, text: &str, nature: Nature) -> Result<Self, ObjectError> {
        let rank = membership.rank;
        let name = Name::new(text).map_err(|fault| {
            let why = match fault {
                NameFault::Empty => "it is empty",
                NameFault::TooLong => "it is too long",
                NameFault::NotPrintable => "it has control characters",
            };
            ObjectError::Name { rank, kind: nature.kind, text: text.to_owned(), why }
        })?;
        let table_error = |source| ObjectError::Table { rank, name: text.to_owned(), source };
        loop {
            let opened = with_table(membership, || directory(membership).open(&name, nature)).map_err(table_error)?;
            match opened {
                Ok(at) => return Ok(Self { membership: Arc::clone(membership), at, name }),
                // By one that has been declared failed; this rank holds the table.
                Err(DirectoryFault::Overtaken) => {}
                Err(fault) => return Err(error_of(membership, &name, nature, fault)),
            }
        }
    }

    fn segment(&self) -> &Segment {
        &self.membership.segment
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Where this rank has been declared failed its handles count no more.
        let _ = with_table(&self.membership, || directory(&self.membership).close(&self.at));
    }
}

/// Does something while this rank has the table of objects for itself.
fn with_table<T>(membership: &Arc<Membership>, act: impl FnOnce() -> T) -> Result<T, LockError> {
    // Another thread of this rank would be taken for this one.
    let _turn = membership.table_turn();
    NodeLock::of_table(membership).during(act)
}

fn directory(membership: &Membership) -> Directory<'_, Segment, impl Fn(usize) -> bool> {
    let segment = &*membership.segment;
    Directory::new(segment, segment.layout(), membership.local_of(membership.rank), |local| is_dead(segment, local))
}

fn error_of(membership: &Membership, name: &Name, nature: Nature, fault: DirectoryFault) -> ObjectError {
    let (rank, kind) = (membership.rank, nature.kind);
    let name = name.text().to_owned();
    match fault {
        DirectoryFault::Collision => ObjectError::Collision { rank, name },
        DirectoryFault::OtherKind(found) => ObjectError::OtherKind { rank, name, kind, found },
        DirectoryFault::OtherParameter(found) => {
            ObjectError::OtherParameter { rank, name, kind, wanted: nature.parameter, found }
        }
        DirectoryFault::Full => {
            let (node, places) = (membership.here(), membership.segment.layout().objects());
            ObjectError::Exhausted { rank, name, node, places }
        }
        DirectoryFault::Overtaken => unreachable!("tried again"),
    }
}
