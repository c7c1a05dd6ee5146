//! What a rank has of a reader-writer lock, until it is dropped.

use super::RwLock;
use crate::object::error::LockError;
use crate::object::lock::Token;

/// Reads under a lock until it is dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct ReadGuard<'lock> {
    pub(super) lock: &'lock RwLock,
}

impl ReadGuard<'_> {
    /// Stops reading, and tells whether this rank has read under the lock to the end.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`]: this rank was declared failed meanwhile, and others may have written since;
    /// [`LockError::Unreachable`]: so they may, as the home could not be told.
    ///
    /// # Cost
    ///
    /// On the home one locked exchange and a load. From another node a locked exchange and a look at each rank's word
    /// of this one where others of it read on; else a round trip.
    pub fn release(self) -> Result<(), LockError> {
        let lock = self.lock;
        std::mem::forget(self);
        lock.stop_reading()
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // The error says that there is nothing to release; `release` returns it.
        let _ = self.lock.stop_reading();
    }
}

/// Writes under a lock until it is dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct WriteGuard<'lock> {
    pub(super) lock: &'lock RwLock,
    pub(super) token: Token,
}

impl<'lock> WriteGuard<'lock> {
    /// The number of this grant: greater than that of each earlier one of a writer.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Stops writing, and tells whether this rank had the lock alone to the end.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`]: this rank was declared failed meanwhile, and others may have had the lock since;
    /// [`LockError::Unreachable`]: so they may, as the home could not be told.
    ///
    /// # Cost
    ///
    /// As of [`RwLock::write`].
    pub fn release(self) -> Result<(), LockError> {
        self.into_lock().stop_writing()
    }

    /// Goes over to reading: others may read then, too, and nobody has written in between.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release): this rank then has nothing.
    ///
    /// # Cost
    ///
    /// As of [`RwLock::write`].
    pub fn downgrade(self) -> Result<ReadGuard<'lock>, LockError> {
        let lock = self.into_lock();
        lock.read_on().map(|()| ReadGuard { lock })
    }

    fn into_lock(self) -> &'lock RwLock {
        let lock = self.lock;
        std::mem::forget(self);
        lock
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        // The error says that there is nothing to release; `release` returns it.
        let _ = self.lock.stop_writing();
    }
}
