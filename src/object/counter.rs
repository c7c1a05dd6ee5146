//! The counter: a word that all ranks add to.

use super::error::ObjectError;
use super::{Handle, ObjectKind};
use crate::coord::objects::directory::Nature;
use crate::fabric::Memory;
use crate::job::Job;
use crate::sync::Ordering;

/// A named counter, as one rank holds it. It begins at 0 and wraps round.
#[derive(Debug)]
pub struct Counter {
    handle: Handle,
}

impl Job {
    /// The counter of a name, the same for all ranks. It exists while some rank has a handle of it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn counter(&self, name: &str) -> Result<Counter, ObjectError> {
        let handle = Handle::open(self.membership(), name, Nature { kind: ObjectKind::Counter, parameter: 0 })?;
        Ok(Counter { handle })
    }
}

impl Counter {
    /// Adds, and gives the value before. Cost: one locked instruction.
    #[inline]
    pub fn fetch_add(&self, add: u64) -> u64 {
        // SYNC POINT: counter. Who sees the sum sees what those did before who have added to it.
        self.handle.segment().word(self.handle.at.value()).fetch_add(add, Ordering::AcqRel)
    }

    /// The value.
    #[inline]
    pub fn load(&self) -> u64 {
        // SYNC POINT: counter. As above.
        self.handle.segment().word(self.handle.at.value()).load(Ordering::Acquire)
    }
}
