//! What a rank of Phalanx contends for: the one file here that knows the library's locks and their family.
//!
//! To add an object: name it in [`is_there`], and in [`contend`] hand a [`Contestant`] that wraps it to [`Place::run`].
//! Its names are to be chosen so that object `k` lives on node [`Contest::home_of`]`(k)`, as the rivals' do.

use phalanx::{Counter, Job, Lock, LockGuard};

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
        Object::Lock | Object::Counter => true,
        Object::RwLock | Object::Semaphore | Object::Election => false,
    }
}

/// Opens the contest's objects and contends for them as a rank of `job`.
///
/// # Errors
///
/// [`RankError`].
pub fn contend(job: &Job, contest: &Contest, place: &mut Place<'_>) -> Result<(), RankError> {
    let names = || (0..contest.objects).map(|index| name_at(job, index, contest.home_of(index)));
    let object = contest.object;
    match object {
        Object::Lock => {
            let locks: Result<_, _> = names().map(|name| job.lock(&name)).collect();
            place.run(Locks(locks.map_err(|why| failed(object, &why))?))
        }
        Object::Counter => {
            let counters: Result<_, _> = names().map(|name| job.counter(&name)).collect();
            place.run(Counters(counters.map_err(|why| failed(object, &why))?))
        }
        _ => Err(failed(object, &"this version of Phalanx has none")),
    }
}

/// A name for an object that is at home there.
fn name_at(job: &Job, index: usize, home: usize) -> String {
    let mut names = (0..).map(|attempt| format!("contest {index}.{attempt}"));
    names.find(|name| job.home_of(name) == Ok(home)).expect("some name has this home")
}

struct Locks(Vec<Lock>);

impl Contestant for Locks {
    const IS_HELD: bool = true;
    type Held<'own> = LockGuard<'own>;

    fn acquire(&mut self, object: usize, _is_shared: bool) -> Result<Self::Held<'_>, RankError> {
        self.0[object].acquire().map_err(|why| failed(Object::Lock, &why))
    }

    fn release<'own>(held: Self::Held<'own>) -> Result<(), RankError>
    where
        Self: 'own,
    {
        held.release().map_err(|why| failed(Object::Lock, &why))
    }
}

struct Counters(Vec<Counter>);

impl Contestant for Counters {
    const IS_HELD: bool = false;
    type Held<'own> = ();

    fn acquire(&mut self, object: usize, _is_shared: bool) -> Result<(), RankError> {
        std::hint::black_box(self.0[object].fetch_add(1).map_err(|why| failed(Object::Counter, &why))?);
        Ok(())
    }

    fn release<'own>((): ()) -> Result<(), RankError>
    where
        Self: 'own,
    {
        Ok(())
    }
}

fn failed(object: Object, why: &dyn std::fmt::Display) -> RankError {
    RankError::Object { object: object.name(), why: why.to_string() }
}
