//! What a rank of Phalanx contends for: the one file here that knows the library's locks and their family.
//!
//! To add an object: name it in [`is_there`], and in [`contend`] hand a [`Contestant`] that wraps it to [`Place::run`].
//! Its names are to be chosen so that object `k` lives on node [`Contest::home_of`]`(k)`, as the rivals' do.

use phalanx::Job;

use crate::contest::rank::Place;
use crate::contest::{Contest, Object};
use crate::rank::RankError;

/// Something to acquire and to give back.
pub trait Contestant {
    /// Whether there is anything to give back: not of a counter.
    const IS_HELD: bool;

    /// What holds the object for as long as it lives: a guard.
    type Held<'own>
    where
        Self: 'own;

    /// Returns when this rank has the object.
    ///
    /// # Errors
    ///
    /// Those of the library.
    fn acquire(&mut self, object: usize, is_shared: bool) -> Result<Self::Held<'_>, RankError>;

    /// Gives it back.
    ///
    /// # Errors
    ///
    /// Those of the library.
    fn release<'own>(held: Self::Held<'own>) -> Result<(), RankError>
    where
        Self: 'own;
}

/// Whether this version of Phalanx has such an object.
pub fn is_there(object: Object) -> bool {
    match object {
        Object::Lock | Object::RwLock | Object::Semaphore | Object::Counter | Object::Election => false,
    }
}

/// Opens the contest's objects and contends for them as a rank of `job`.
///
/// # Errors
///
/// [`RankError`].
pub fn contend(_job: &Job, contest: &Contest, _place: &mut Place<'_>) -> Result<(), RankError> {
    let why = "this version of Phalanx has none".to_owned();
    Err(RankError::Object { object: contest.object.name(), why })
}
