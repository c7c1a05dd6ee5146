//! What counters and fenced words have in common: what is kept of them on a second node, too, so that their home's
//! death loses nothing ([`super::second`]).
//!
//! A rank is *bound* to an object's home for as long as that lives, with what it has found there ([`AtHome`]); when the
//! home is lost it binds itself to the next one, as soon as that has what survivors had. On the home's own node a call
//! is over only when the second node has what the call has changed or seen ([`Custody::copy`]); on another node the
//! rank's own note is the second place.

use super::Handle;
use super::anchor::{self, Found};
use super::error::LockError;
use super::homes::Home;
use super::reach::Reach;
use super::second;
use crate::cluster::view::FailureCause;
use crate::coord::objects::directory::{Nature, SiteFault};
use crate::coord::objects::layout::ObjectAt;
use crate::fabric::WordAt;

/// What a rank keeps of an object for as long as its home is the home.
pub(super) trait AtHome: Sized {
    /// The words that are read there when it becomes that.
    fn words(reach: &Reach, at: ObjectAt) -> Vec<WordAt>;

    /// What they say.
    fn of(reach: &Reach, words: &[u64]) -> Self;
}

/// A home, and what a rank keeps of the object there.
#[derive(Debug)]
pub(super) struct Bound<Kept> {
    pub home: Home,
    pub kept: Kept,
    /// Whether nothing was lost with nodes.
    is_whole: bool,
}

/// How one handle of a rank has an object kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Custody {
    pub is_copied: bool,
    /// Where the object was at home when the handle was opened.
    first_home: usize,
}

impl Custody {
    /// Of a handle that has just been opened.
    pub fn of(handle: &Handle, nature: Nature) -> Self {
        Self { is_copied: second::is_wanted(&handle.membership.reach, nature), first_home: handle.site.home }
    }

    /// Finds the home, if it is not known or lost, and whether it has all that it should.
    ///
    /// # Errors
    ///
    /// [`SiteFault::Lost`]: it has not. [`SiteFault::Excluded`], [`SiteFault::Silent`], [`SiteFault::NoRoom`].
    pub fn bind<Kept: AtHome>(self, handle: &Handle, bound: &mut Option<Bound<Kept>>) -> Result<(), SiteFault> {
        let Bound { home, is_whole, .. } = bind_anew(handle, bound)?;
        let home = home.site.home;
        // Who opens it where something is missing, goes on without that.
        if *is_whole || home == self.first_home { Ok(()) } else { Err(SiteFault::Lost { home }) }
    }

    /// Has the second node, if there is one, have what a call has changed or seen, by `attempt`: once more where the
    /// connection breaks, and at the next one where that is lost. This node is the home.
    ///
    /// # Errors
    ///
    /// [`SiteFault::Excluded`], [`SiteFault::Silent`].
    pub fn copy(
        self,
        handle: &Handle,
        mut attempt: impl FnMut(&Home) -> Result<(), SiteFault>,
    ) -> Result<(), SiteFault> {
        while let Some(second) = self.second(handle)? {
            match attempt(&second) {
                Err(SiteFault::Broken { .. } | SiteFault::Lost { .. }) => {}
                ended => return ended,
            }
        }
        Ok(())
    }

    fn second(self, handle: &Handle) -> Result<Option<Home>, SiteFault> {
        if self.is_copied { second::await_copy(handle).map_err(fault) } else { Ok(None) }
    }
}

/// Finds the home, if it is not known or lost, whether or not it has all that it should.
///
/// # Errors
///
/// [`SiteFault::Excluded`], [`SiteFault::Silent`], [`SiteFault::NoRoom`].
pub(super) fn bind_anew<'bound, Kept: AtHome>(
    handle: &Handle,
    bound: &'bound mut Option<Bound<Kept>>,
) -> Result<&'bound Bound<Kept>, SiteFault> {
    let reach = &handle.membership.reach;
    while bound.as_ref().is_none_or(|bound| reach.has_lost(bound.home.site.home)) {
        let found = anchor::find(handle, |at| Kept::words(reach, at)).map_err(fault)?;
        *bound = found.map(|Found { home, is_whole, words }| Bound { home, kept: Kept::of(reach, &words), is_whole });
    }
    Ok(bound.as_ref().expect("as has been seen"))
}

/// Nothing else happens to who looks for a home without a limit.
fn fault(error: LockError) -> SiteFault {
    match error {
        LockError::Unreachable { node, .. } => SiteFault::Silent { node },
        LockError::NoRoom { node, .. } => SiteFault::NoRoom { home: node },
        error => {
            debug_assert!(matches!(error, LockError::Excluded { .. }), "{error}");
            SiteFault::Excluded
        }
    }
}

/// When, and why, this rank was declared failed, which a home or its own node has told it.
pub(super) fn own_end(reach: &Reach) -> (u64, FailureCause) {
    reach.own_end().unwrap_or((0, FailureCause::Silent))
}
