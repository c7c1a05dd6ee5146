//! What a rank of Phalanx contends for: the one file here that knows the library's locks and their family.
//!
//! To add an object: name it in [`is_there`], and in [`contend`] hand a [`Contestant`] that wraps it to [`Place::run`].
//! Its names are to be chosen so that object `k` lives on node [`Contest::home_of`]`(k)`, as the rivals' do.

use phalanx::{Counter, Election, Job, Leadership, Lock, LockGuard, Permits, ReadGuard, RwLock, Semaphore, WriteGuard};

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
        Object::Lock | Object::RwLock | Object::Semaphore | Object::Counter | Object::Election => true,
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
        Object::RwLock => {
            let locks: Result<_, _> = names().map(|name| job.rwlock(&name)).collect();
            place.run(RwLocks(locks.map_err(|why| failed(object, &why))?))
        }
        Object::Semaphore => {
            let permits = u64::from(contest.permits);
            let semaphores: Result<_, _> = names().map(|name| job.semaphore(&name, permits)).collect();
            place.run(Semaphores(semaphores.map_err(|why| failed(object, &why))?))
        }
        Object::Counter => {
            let counters: Result<_, _> = names().map(|name| job.counter(&name)).collect();
            place.run(Counters(counters.map_err(|why| failed(object, &why))?))
        }
        Object::Election => {
            let elections: Result<_, _> = names().map(|name| job.election(&name)).collect();
            place.run(Elections(elections.map_err(|why| failed(object, &why))?))
        }
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

struct RwLocks(Vec<RwLock>);

/// A lock with readers, as it is held.
enum Shared<'own> {
    Read(ReadGuard<'own>),
    Write(WriteGuard<'own>),
}

impl Contestant for RwLocks {
    const IS_HELD: bool = true;
    type Held<'own> = Shared<'own>;

    fn acquire(&mut self, object: usize, is_shared: bool) -> Result<Self::Held<'_>, RankError> {
        let lock = &self.0[object];
        let held = match is_shared {
            true => lock.read().map(Shared::Read),
            false => lock.write().map(Shared::Write),
        };
        held.map_err(|why| failed(Object::RwLock, &why))
    }

    fn release<'own>(held: Self::Held<'own>) -> Result<(), RankError>
    where
        Self: 'own,
    {
        let released = match held {
            Shared::Read(guard) => guard.release(),
            Shared::Write(guard) => guard.release(),
        };
        released.map_err(|why| failed(Object::RwLock, &why))
    }
}

struct Semaphores(Vec<Semaphore>);

impl Contestant for Semaphores {
    const IS_HELD: bool = true;
    type Held<'own> = Permits<'own>;

    fn acquire(&mut self, object: usize, _is_shared: bool) -> Result<Self::Held<'_>, RankError> {
        self.0[object].acquire(1).map_err(|why| failed(Object::Semaphore, &why))
    }

    fn release<'own>(held: Self::Held<'own>) -> Result<(), RankError>
    where
        Self: 'own,
    {
        held.release().map_err(|why| failed(Object::Semaphore, &why))
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

struct Elections(Vec<Election>);

impl Contestant for Elections {
    const IS_HELD: bool = true;
    type Held<'own> = Leadership<'own>;

    fn acquire(&mut self, object: usize, _is_shared: bool) -> Result<Self::Held<'_>, RankError> {
        self.0[object].campaign().map_err(|why| failed(Object::Election, &why))
    }

    fn release<'own>(held: Self::Held<'own>) -> Result<(), RankError>
    where
        Self: 'own,
    {
        held.resign().map_err(|why| failed(Object::Election, &why))
    }
}

fn failed(object: Object, why: &dyn std::fmt::Display) -> RankError {
    RankError::Object { object: object.name(), why: why.to_string() }
}
