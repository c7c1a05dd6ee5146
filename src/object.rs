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
        let table = NodeLock::of_table(membership);
        let locked = table.acquire().map_err(|source| ObjectError::Table { rank, name: text.to_owned(), source })?;
        let opened = directory(membership).open(&name, nature);
        drop(locked);
        match opened {
            Ok(at) => Ok(Self { membership: Arc::clone(membership), at, name }),
            Err(fault) => Err(error_of(membership, name, nature, fault)),
        }
    }

    fn segment(&self) -> &Segment {
        &self.membership.segment
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let table = NodeLock::of_table(&self.membership);
        // Where this rank has been declared failed its handles count no more.
        if let Ok(_locked) = table.acquire() {
            directory(&self.membership).close(&self.at);
        }
    }
}

fn directory(membership: &Membership) -> Directory<'_, Segment, impl Fn(usize) -> bool> {
    let segment = &*membership.segment;
    Directory::new(segment, segment.layout(), membership.local_of(membership.rank), |local| is_dead(segment, local))
}

fn error_of(membership: &Membership, name: Name, nature: Nature, fault: DirectoryFault) -> ObjectError {
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
        DirectoryFault::Overtaken => {
            let source = waiting::excluded(membership, &name);
            ObjectError::Table { rank, name, source }
        }
    }
}
