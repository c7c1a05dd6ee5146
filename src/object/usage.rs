//! What a rank does with an object, so that it does one thing at a time whatever its threads and handles do.

use crate::sync::{AtomicU32, Ordering};

/// What a rank does with a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Nothing = 0,
    /// It has a claim.
    Requested = 1,
    Held = 2,
    /// Its steward uses it, for a moment.
    Swept = 3,
    /// It has it together with others.
    Shared = 4,
    /// What it has left at the home is to be taken back first: see [`super::errands`].
    Left = 5,
}

/// What a rank does with a lock: the same for all of its handles. To others it is one, whatever its threads do.
#[derive(Debug, Default)]
pub(crate) struct Usage(AtomicU32);

impl Usage {
    /// Whether nothing was done with it, and now is.
    #[inline]
    pub(super) fn begin(&self, what: Use) -> Result<(), u32> {
        // Acquire pairs with `set`: the thread before this one is through.
        self.0.compare_exchange(Use::Nothing as u32, what as u32, Ordering::Acquire, Ordering::Relaxed).map(drop)
    }

    /// The steward begins to use the lock, if nobody does.
    pub fn begin_sweeping(&self) -> bool {
        self.begin(Use::Swept).is_ok()
    }

    pub fn end_sweeping(&self) {
        self.set(Use::Nothing);
    }

    /// What the rank has left is to be taken back first.
    pub(super) fn leave(&self) {
        self.set(Use::Left);
    }

    pub(super) fn end_errand(&self) {
        self.set(Use::Nothing);
    }

    #[inline]
    pub(super) fn set(&self, what: Use) {
        // Release pairs with `begin`.
        self.0.store(what as u32, Ordering::Release);
    }
}
