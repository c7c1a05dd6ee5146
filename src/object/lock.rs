//! The lock: exclusive, first come first served, released by its holder's death, and fenced by tokens.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::{LockError, ObjectError};
use super::exclusive::{Exclusive, Queued};
use super::{Handle, ObjectKind, named};
use crate::coord::objects::directory::Nature;
use crate::coord::objects::name::Name;
use crate::job::{Job, Membership};

/// The number of a grant. Of two grants of the same lock the later one has the greater token, whoever has died between
/// them: what is done under a token is to be refused wherever a greater one has been seen. That holds within one job:
/// another job, or the same one started again, begins anew. Storage that outlives jobs is to be told which one it is,
/// too. Tokens of two locks cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A named lock, as one rank holds it. Its holder's death releases it.
///
/// Between nodes it is first come first served: a node that has it passes it on among its own ranks, at most 64 times
/// while another one waits. Among the ranks of a node it is first come first served, but for ranks that sleep: while
/// the first of them wakes up, another one may take the lock up to 64 times before it queues behind, and where ranks
/// share CPUs again and again for 100 µs (and for 120 µs more while it is used too often to be worth moving to another
/// CPU). A lock belongs to a rank and not to a thread, and is not re-entrant. A death
/// is known when the kernel begins with it: what must not be written by a dying holder's last instructions is to be
/// fenced by the token.
///
/// ```
/// use phalanx::Job;
///
/// let job = Job::from_env()?;
/// let lock = job.lock("checkpoint")?;
/// let guard = lock.acquire()?;
/// println!("write as {}", guard.token());
/// drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Lock {
    lock: Exclusive,
    // Dropped after the lock's other parts; it gives the name back.
    handle: Handle,
}

impl Job {
    /// The lock of a name, the same for all ranks. It exists while some rank has a handle of it.
    ///
    /// # Errors
    ///
    /// [`ObjectError`]: no name, another kind of object under that name, no room.
    ///
    /// # Cost
    ///
    /// The node's table of names is locked and looked through; in a job of several nodes, for the node's first handle,
    /// the home's too: some round trips.
    pub fn lock(&self, name: &str) -> Result<Lock, ObjectError> {
        let kind = ObjectKind::Lock;
        Lock::open(self.membership(), named(self.rank(), kind.name(), name)?, kind)
    }
}

impl Lock {
    /// The lock that is an object of this kind, or its part.
    pub(super) fn open(membership: &Arc<Membership>, name: Name, kind: ObjectKind) -> Result<Self, ObjectError> {
        let handle = Handle::open_as(membership, name, Nature { kind, parameter: 0 })?;
        Ok(Self { lock: Exclusive::new(&handle), handle })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// If this rank has been declared failed, it has neither the lock nor a claim.
    pub(super) fn look_at_oneself(&self) -> Result<(), LockError> {
        self.lock.look_at_oneself()
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.lock.name()
    }

    /// Waits until this rank holds the lock.
    ///
    /// # Errors
    ///
    /// [`LockError::AlreadyHeld`], [`LockError::AlreadyRequested`], [`LockError::Excluded`]. In a job of several nodes
    /// [`LockError::Unreachable`]: nobody can decide whether a silent node has failed that is the lock's home, or holds
    /// it; and [`LockError::NoRoom`]: its home was lost, and the next one has no place for it.
    ///
    /// # Cost
    ///
    /// On a node one locked instruction if it is free; two transfers of a cache line when it is handed over between two
    /// CPUs. In a job of several nodes also: a round trip to the lock's home if no node has it (docs/design.md,
    /// "Objects").
    #[inline]
    pub fn acquire(&self) -> Result<LockGuard<'_>, LockError> {
        Ok(self.guarded(self.lock.acquire(None)?))
    }

    /// As [`acquire`](Self::acquire), for at most `timeout`; and where another node is being asked, and does not
    /// answer, for some tenths of a second more. After that this rank has no claim any more.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and [`LockError::TimedOut`], which says who holds the lock and who came before.
    ///
    /// # Cost
    ///
    /// As [`acquire`](Self::acquire). Where the time is over the claim is taken back: a locked instruction on the node,
    /// and where this rank was the one that waits for another node a round trip to the home.
    #[inline]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<LockGuard<'_>, LockError> {
        Ok(self.guarded(self.lock.acquire(Some(timeout))?))
    }

    /// Takes the lock if nobody holds it and nobody would be passed by for too long. `None` also where that is not
    /// known within some tenths of a second.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cost
    ///
    /// As [`acquire`](Self::acquire) of a free lock, whether it is or not.
    #[inline]
    pub fn try_acquire(&self) -> Result<Option<LockGuard<'_>>, LockError> {
        Ok(self.lock.try_acquire()?.map(|token| self.guarded(token)))
    }

    /// Asks for the lock without waiting for other ranks: this rank has its place in the queue when this returns,
    /// before all who ask later on whichever node. The request is finished by [`LockRequest::wait`] or
    /// [`LockRequest::test`]. The lock may be granted before, and then is this rank's: all others wait until it has
    /// taken that up and released it, or [cancelled](LockRequest::cancel). Who has a request and does other things is
    /// to look soon and often.
    ///
    /// In a job of several nodes this waits for the home's answers, since only what stands there counts on other nodes.
    /// Where another rank of this node has the lock, or has asked before, the place is behind that one in the node's
    /// queue, and among nodes it is what that one leaves: the lock itself, or the node's place at the home. Only where
    /// it leaves neither the node asks for another place as this rank looks: where the lock has been handed on 64
    /// times, was being given up as this rank asked, or was only tried; and where the one before has died or given up
    /// in the middle of a call that was asking the home, or the home was lost just then.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cost
    ///
    /// As [`acquire`](Self::acquire) of a free lock; where another node has it one round trip to the home more, and
    /// none where a rank of this node does. While the home is silent it is waited for as by [`acquire`](Self::acquire).
    pub fn request(&self) -> Result<LockRequest<'_>, LockError> {
        Ok(LockRequest { lock: self, place: Place::Queued(Box::new(self.lock.request()?)) })
    }

    /// The ranks of this node that wait for the lock, in the order in which they will have it.
    ///
    /// # Cost
    ///
    /// A look at each rank's claim.
    pub fn queue(&self) -> Vec<usize> {
        self.lock.waiting_ranks()
    }

    #[inline]
    fn guarded(&self, token: u64) -> LockGuard<'_> {
        LockGuard { lock: self, token: Token(token) }
    }
}

/// Holds a lock until it is dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct LockGuard<'lock> {
    lock: &'lock Lock,
    token: Token,
}

impl LockGuard<'_> {
    /// The number of this grant: greater than that of each earlier one.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Releases the lock, and tells whether this rank held it to the end.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`]: this rank was declared failed while it held the lock, and others may have had it since.
    /// [`LockError::Unreachable`]: so they may, as the home could not be told; it is when it is heard again.
    ///
    /// # Cost
    ///
    /// On a node one locked instruction if nobody waits, or if one rank does, on its CPU; else a look at each rank's
    /// claim and one more. In a job of several nodes also, unless a rank of this node is next: the round trips of a
    /// release (docs/design.md, "The lock between nodes").
    #[inline]
    pub fn release(self) -> Result<(), LockError> {
        let lock = self.lock;
        std::mem::forget(self);
        lock.lock.release()
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // The error says that there is nothing to release; `release` returns it.
        let _ = self.lock.lock.release();
    }
}

/// A place in a lock's queue. Dropping it gives the place up.
#[derive(Debug)]
#[must_use = "the place in the queue is given up when this is dropped"]
pub struct LockRequest<'lock> {
    lock: &'lock Lock,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Queued(Box<Queued>),
    /// With its token.
    Granted(u64),
    /// Lost, as `test` has said; given up, or made a guard.
    None,
}

impl<'lock> LockRequest<'lock> {
    /// Whether the lock is granted, without waiting for other ranks. After that the request is spent:
    /// [`wait`](Self::wait) returns the guard at once.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`], [`LockError::Unreachable`], [`LockError::NoRoom`]: the place is lost. Whoever calls
    /// this or [`wait`](Self::wait) again asks anew, behind all others, and may fail as [`Lock::request`].
    ///
    /// # Cost
    ///
    /// A look at this node's memory; where this node waits for another one its connections are polled, too. Where there
    /// is something to be done at the home this waits for that: a round trip to take up what was granted, up to five
    /// where the node is lost that holds the lock (docs/design.md, "When a holder dies"), and those of
    /// [`Lock::request`] where this node asks for a place, as after an error.
    pub fn test(&mut self) -> Result<bool, LockError> {
        if let Place::None = self.place {
            self.place = Place::Queued(Box::new(self.lock.lock.request()?));
        }
        if let Place::Queued(queued) = &mut self.place {
            match self.lock.lock.test(queued) {
                Ok(Some(token)) => self.place = Place::Granted(token),
                Ok(None) => return Ok(false),
                Err(error) => {
                    self.place = Place::None;
                    return Err(error);
                }
            }
        }
        Ok(matches!(self.place, Place::Granted(_)))
    }

    /// Waits until the lock is granted.
    ///
    /// # Errors
    ///
    /// As [`test`](Self::test).
    ///
    /// # Cost
    ///
    /// As [`Lock::acquire`], without what [`Lock::request`] has done.
    pub fn wait(self) -> Result<LockGuard<'lock>, LockError> {
        self.finish(None)
    }

    /// As [`wait`](Self::wait), for at most `timeout`. After that the place in the queue is given up.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire_timeout`].
    ///
    /// # Cost
    ///
    /// As [`wait`](Self::wait); where the time is over, as [`cancel`](Self::cancel).
    pub fn wait_timeout(self, timeout: Duration) -> Result<LockGuard<'lock>, LockError> {
        self.finish(Some(timeout))
    }

    /// Gives the place up. Whether the lock had not been granted; if it had, also where nobody has looked since, it is
    /// released. Where the home does not answer, and this rank knows of no grant, it is said that there was none; what
    /// stands there is taken back when the home is heard again. A place behind which other ranks of this node wait goes
    /// to the first of them.
    ///
    /// # Cost
    ///
    /// As [`Lock::acquire_timeout`] whose time is over; if the lock had been granted, as [`LockGuard::release`], and
    /// a round trip to the home more in a job of several nodes if this rank had not looked.
    pub fn cancel(mut self) -> bool {
        self.give_up()
    }

    fn finish(mut self, limit: Option<Duration>) -> Result<LockGuard<'lock>, LockError> {
        let lock = self.lock;
        let token = match std::mem::replace(&mut self.place, Place::None) {
            Place::Granted(token) => {
                lock.lock.look_at_oneself()?;
                token
            }
            Place::Queued(queued) => lock.lock.wait(*queued, limit)?,
            // It was lost, as `test` has said.
            Place::None => lock.lock.acquire(limit)?,
        };
        Ok(lock.guarded(token))
    }

    fn give_up(&mut self) -> bool {
        match std::mem::replace(&mut self.place, Place::None) {
            Place::Queued(queued) => self.lock.lock.cancel(*queued),
            Place::Granted(_) => {
                // Where this rank has been declared failed there is nothing to release.
                let _ = self.lock.lock.release();
                false
            }
            Place::None => true,
        }
    }
}

impl Drop for LockRequest<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::job::pretended::{await_that, doubt, name_at, on_nodes};

    /// Its home is not heard for a while: whoever looks again has a place again, and the lock in the end.
    #[test]
    fn who_has_lost_its_place_asks_anew_when_it_looks_again() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let name = name_at(&[1], 2, 0);
        let [here, there] = [0, 1].map(|rank: usize| jobs[rank].lock(&name).expect("room"));
        let guard = there.acquire().expect("it is free");
        let mut request = here.request().expect("a place");
        assert_eq!(request.test(), Ok(false));
        doubt(&jobs[0], 1, true);
        let is_lost = |tested: &Result<bool, LockError>| matches!(tested, Err(LockError::Unreachable { node: 1, .. }));
        await_that("its place is not lost", || is_lost(&request.test()));
        for _ in 0..3 {
            let tested = request.test();
            assert!(is_lost(&tested), "{tested:?}");
        }
        doubt(&jobs[0], 1, false);
        await_that("it has no place again", || request.test() == Ok(false));
        guard.release().expect("it was held");
        await_that("it is never granted", || request.test() == Ok(true));
        request.wait().expect("it is granted").release().expect("it was held");
    }
}
