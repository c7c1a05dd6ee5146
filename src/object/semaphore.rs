//! The semaphore: permits, first come first served, returned by death.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::anchor::{self, Anchor};
use super::errands::{self, Errand};
use super::error::{LockError, ObjectError};
use super::exclusive::Exclusive;
use super::homes::Home;
use super::reach::Reach;
use super::site::PATIENCE;
use super::vigil::Vigil;
use super::{Handle, ObjectKind, not_opened};
use crate::coord::objects::directory::Nature;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::permits::{Permits as Part, PermitsAt};
use crate::coord::objects::sharing::Turn;
use crate::fabric::{Memory, Request, WordAt};
use crate::job::Job;
use crate::sync::publish;

/// A named semaphore: so many permits, of which ranks take some for as long as they need them. A rank's death returns
/// its permits.
///
/// First come first served: who wants many waits at the head of the queue until there are enough, and nobody passes it
/// by who wants few. A rank may acquire more where it has some already; that it does not wait for what it holds itself
/// is its own care. Its threads acquire one at a time.
///
/// ```
/// use phalanx::Job;
///
/// let job = Job::from_env()?;
/// // No more than 4 ranks write to the file system at a time.
/// let writers = job.semaphore("writers", 4)?;
/// let permit = writers.acquire(1)?;
/// // … write …
/// drop(permit);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Semaphore {
    queue: Exclusive,
    part: RefCell<Part>,
    anchor: Anchor,
    /// What this rank has, whichever of its threads and handles.
    holding: Arc<Mutex<Holding>>,
    // Dropped after the other parts; it gives the name back.
    handle: Handle,
}

/// How long an attempt waits for its turn to look, where nobody waits for permits.
const TURN_WAIT: Duration = Duration::from_millis(5);

/// A rank's permits of one semaphore. Its lock is held while the word at the home is written.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    held: u64,
    /// What is being acquired.
    claimed: u64,
    /// Whether the home was asked what this rank has. From then on this says so, and what is there may be older.
    is_known: bool,
}

impl Holding {
    /// What the word at the home is to hold.
    fn all(&self) -> u64 {
        self.held + self.claimed
    }

    fn settle(&mut self) {
        self.held += std::mem::take(&mut self.claimed);
    }
}

impl Job {
    /// The semaphore of a name, the same for all ranks, with so many permits: all have to name the same number. Of
    /// one without permits none can be acquired. It exists while some rank has a handle of it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock), and [`ObjectError::OtherParameter`] where it was made with another number of permits.
    ///
    /// # Cost
    ///
    /// The node's table of names is locked and looked through; the home's too, for the node's first handle; and a round
    /// trip to the home, for this rank's first one.
    pub fn semaphore(&self, name: &str, permits: u64) -> Result<Semaphore, ObjectError> {
        let handle = Handle::open(self.membership(), name, Nature { kind: ObjectKind::Semaphore, parameter: permits })?;
        let membership = &handle.membership;
        let anchor = Anchor::of(&handle).map_err(|source| not_opened(&handle, source))?;
        let at = PermitsAt::of(&anchor.words(), membership.topology.ranks());
        let holding = membership.reach.uses.holding_at(handle.at.key());
        let part = RefCell::new(Part::new(at, membership.rank, permits));
        let semaphore = Semaphore { queue: Exclusive::new(&handle), part, anchor, holding, handle };
        semaphore.recall().map_err(|source| not_opened(&semaphore.handle, source))?;
        Ok(semaphore)
    }
}

impl Semaphore {
    /// The semaphore's name.
    pub fn name(&self) -> &str {
        self.queue.name()
    }

    /// How many permits there are, taken or not.
    pub fn permits(&self) -> u64 {
        self.part.borrow().permits()
    }

    /// Waits until this rank has `count` permits more. Also who wants none waits for those who came before.
    ///
    /// # Errors
    ///
    /// [`LockError::TooMany`]: there are not as many. [`LockError::AlreadyRequested`] or [`LockError::AlreadyHeld`]
    /// where another thread of this rank is acquiring. [`LockError::Excluded`], [`LockError::Unreachable`],
    /// [`LockError::NoRoom`].
    ///
    /// # Cost
    ///
    /// That of a [`Lock`](super::Lock), acquired and released, and one round trip to the home for each 63 ranks of the
    /// job (on the home: a look at each rank's word). Where it has to wait: until enough are returned, and two round
    /// trips.
    pub fn acquire(&self, count: u64) -> Result<Permits<'_>, LockError> {
        self.acquire_within(count, None)
    }

    /// As [`acquire`](Self::acquire), for at most `timeout`. After that this rank waits no more, and nobody for it.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire); [`LockError::TimedOut`]: others were before this rank; [`LockError::TooFewLeft`]:
    /// it was first, and not enough were returned.
    ///
    /// # Cost
    ///
    /// As [`acquire`](Self::acquire); where the time is over a round trip more, by which the claim is taken back.
    pub fn acquire_timeout(&self, count: u64, timeout: Duration) -> Result<Permits<'_>, LockError> {
        self.acquire_within(count, Some(timeout))
    }

    /// Takes permits if enough are left and nobody waits for some. `None` also where that is not known within some
    /// tenths of a second.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cost
    ///
    /// As [`acquire`](Self::acquire) of permits that are left; where others wait a round trip at the least.
    pub fn try_acquire(&self, count: u64) -> Result<Option<Permits<'_>>, LockError> {
        self.check(count)?;
        if self.queue.try_acquire()?.is_none() && !self.awaits_turn()? {
            return Ok(None);
        }
        let claimed = self.claim(count, &mut Vigil::new(&self.handle, Some(Duration::ZERO)));
        match self.after_claim(claimed) {
            Err(LockError::TimedOut { .. }) => Ok(None),
            claimed => Ok(claimed?.then(|| Permits { semaphore: self, count })),
        }
    }

    /// The ranks of this node that wait for their turn, in their order, without the one that waits for permits to be
    /// returned.
    ///
    /// # Cost
    ///
    /// A look at each rank's claim.
    pub fn queue(&self) -> Vec<usize> {
        self.queue.waiting_ranks()
    }

    /// Others may be about to take permits, or wait for them: whether this rank has come to hold the queue's lock.
    fn awaits_turn(&self) -> Result<bool, LockError> {
        // Where the home is lost, who has the queue's lock finds the next one.
        let until = Instant::now() + PATIENCE;
        let waiter = self.anchor.ask_until(&self.handle, &[Request::Read { at: self.at().waiter }], Some(until));
        let waiter = match waiter {
            Err(LockError::TimedOut { .. }) => return Ok(false),
            waiter => waiter?,
        };
        if waiter.is_some_and(|waiter| waiter[0] != 0) {
            return Ok(false);
        }
        match self.queue.acquire(Some(TURN_WAIT)) {
            Ok(_) => Ok(true),
            Err(LockError::TimedOut { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn acquire_within(&self, count: u64, limit: Option<Duration>) -> Result<Permits<'_>, LockError> {
        self.check(count)?;
        let mut vigil = Vigil::new(&self.handle, limit);
        self.queue.acquire(limit)?;
        let claimed = self.claim(count, &mut vigil);
        match self.after_claim(claimed)? {
            true => Ok(Permits { semaphore: self, count }),
            false => Err(vigil.in_vain().unwrap_or_else(|| self.too_few_left(count, vigil.waited()))),
        }
    }

    /// Gives the queue's lock up, whatever became of the claim.
    fn after_claim(&self, claimed: Result<bool, LockError>) -> Result<bool, LockError> {
        let released = self.queue.release();
        claimed.and_then(|claimed| released.map(|()| claimed)).inspect_err(|_| self.forget_claim())
    }

    fn check(&self, wanted: u64) -> Result<(), LockError> {
        let (rank, permits) = (self.handle.membership.rank, self.permits());
        match wanted > permits {
            true => Err(LockError::TooMany { rank, name: self.name().to_owned(), wanted, permits }),
            false => Ok(()),
        }
    }

    fn too_few_left(&self, wanted: u64, waited: Duration) -> LockError {
        let left = self.permits().saturating_sub(self.part.borrow().others()).saturating_sub(self.holding().held);
        LockError::TooFewLeft { rank: self.handle.membership.rank, name: self.name().to_owned(), waited, wanted, left }
    }

    /// This rank has the queue's lock. Whether it has come to have as many permits more.
    fn claim(&self, count: u64, vigil: &mut Vigil<'_>) -> Result<bool, LockError> {
        let is_patient = vigil.left() != Some(Duration::ZERO);
        if self.claim_at_once(count) {
            return anchor::look_at_oneself(&self.handle).map(|()| true);
        }
        let mut turn = self.step(vigil, |part, holding| {
            holding.claimed = count;
            part.claim(holding.all(), is_patient)
        })?;
        while turn == Turn::Wait {
            let awaited = self.part.borrow().holders().to_vec();
            turn = match is_patient && vigil.pause(&awaited) {
                true => self.step(vigil, |part, _| part.look())?,
                false => self.step(vigil, |part, holding| {
                    holding.claimed = 0;
                    part.withdraw(holding.all())
                })?,
            };
        }
        Ok(turn == Turn::In)
    }

    fn claim_at_once(&self, count: u64) -> bool {
        if !self.anchor.is_here() {
            return false;
        }
        let (mut holding, reach) = (self.holding(), &self.handle.membership.reach);
        let has_ended = |rank| reach.has_ended(rank);
        let own = holding.all() + count;
        self.anchor.note_stake(&self.handle, own);
        let is_enough = self.part.borrow_mut().claim_here(self.handle.segment(), own, has_ended);
        // Either way the home has it by now: another thread that reads it there must know.
        match is_enough {
            true => holding.held += count,
            false => holding.claimed = count,
        }
        is_enough
    }

    /// Does what the machine wants, until it waits or has ended. While its words are written no other thread writes
    /// them.
    fn step(
        &self,
        vigil: &mut Vigil<'_>,
        begin: impl FnOnce(&mut Part, &mut Holding) -> Turn,
    ) -> Result<Turn, LockError> {
        let (mut holding, reach) = (self.holding(), &self.handle.membership.reach);
        let mut turn = begin(&mut self.part.borrow_mut(), &mut holding);
        self.anchor.note_stake(&self.handle, holding.all());
        while let Turn::Ask(requests) = turn {
            vigil.note();
            let (has_ended, poke) = (|rank| reach.has_ended(rank), |rank| reach.poke(rank));
            let asked = self.anchor.ask_until(&self.handle, &requests, vigil.until());
            turn = match asked.inspect_err(|error| self.leave_behind(error))? {
                Some(answers) => self.part.borrow_mut().answered(&answers, holding.all(), has_ended, poke),
                None => {
                    let next = self.anchor.await_next_until(&self.handle, vigil.until());
                    next.inspect_err(|error| self.leave_behind(error))?;
                    self.part.borrow_mut().restart(self.at(), holding.all())
                }
            };
        }
        if turn == Turn::In {
            holding.settle();
        }
        Ok(turn)
    }

    /// The home has not answered: it is told what this rank has when it does.
    fn leave_behind(&self, error: &LockError) {
        if let LockError::Excluded { .. } = error {
            return;
        }
        let (at, holding) = (self.handle.at, Arc::clone(&self.holding));
        errands::leave(&self.handle.membership.reach, Telling { at, holding, permits: self.permits() });
    }

    /// Returns permits.
    fn give_back(&self, count: u64) -> Result<(), LockError> {
        if self.anchor.is_here() {
            let mut holding = self.holding();
            holding.held -= count;
            self.anchor.note_stake(&self.handle, holding.all());
            let waiter = self.part.borrow().return_here(self.handle.segment(), holding.all());
            waiter.into_iter().for_each(|waiter| self.handle.membership.reach.poke(waiter));
            return anchor::look_at_oneself(&self.handle);
        }
        let returned = self.step(&mut Vigil::new(&self.handle, None), |part, holding| {
            holding.held -= count;
            part.give_back(holding.all())
        });
        returned.map(drop)
    }

    /// What the home says this rank has: guards may have been forgotten together with an earlier handle. Not while
    /// another handle is there, or an errand: the home may not have heard of all yet.
    fn recall(&self) -> Result<(), LockError> {
        let mut holding = self.holding();
        while !holding.is_known {
            let own = self.at().held.plus(self.handle.membership.rank);
            if let Some(found) = self.anchor.ask(&self.handle, &[Request::Read { at: own }])? {
                (holding.held, holding.is_known) = (found[0], true);
                break;
            }
            self.anchor.await_next(&self.handle)?;
            let part = self.new_part();
            *self.part.borrow_mut() = part;
        }
        Ok(())
    }

    /// Where the words are.
    fn at(&self) -> PermitsAt {
        PermitsAt::of(&self.anchor.words(), self.handle.membership.topology.ranks())
    }

    fn new_part(&self) -> Part {
        Part::new(self.at(), self.handle.membership.rank, self.permits())
    }

    /// This rank was declared failed.
    #[cold]
    fn forget_claim(&self) {
        self.holding().claimed = 0;
        let part = self.new_part();
        *self.part.borrow_mut() = part;
    }

    fn holding(&self) -> MutexGuard<'_, Holding> {
        lock(&self.holding)
    }
}

/// No code panics while it holds it.
fn lock(holding: &Mutex<Holding>) -> MutexGuard<'_, Holding> {
    holding.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The home is to be told what permits a rank has, and that it waits for none.
#[derive(Debug)]
struct Telling {
    at: ObjectAt,
    holding: Arc<Mutex<Holding>>,
    permits: u64,
}

impl Errand for Telling {
    fn object(&self) -> WordAt {
        self.at.key()
    }

    fn run(&mut self, reach: &Reach) -> Poll<()> {
        let Some(home) = errands::home_now(reach, &self.at) else { return Poll::Pending };
        let words = PermitsAt::of(&home.at, reach.topology.ranks());
        // Whatever other threads of this rank write comes before or after it.
        let holding = lock(&self.holding);
        publish(reach.segment.word(self.at.stake(reach.local())), holding.all());
        let told = errands::ask(&home, &Part::new(words, reach.rank, self.permits).tell(holding.all()));
        // It may have moved meanwhile, with what was noted before.
        let has_moved = Home::of(reach, &self.at).site.home != home.site.home;
        if told.is_none() || has_moved { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// Permits of a semaphore, until it is dropped.
#[derive(Debug)]
#[must_use = "the permits are returned when this is dropped"]
pub struct Permits<'semaphore> {
    semaphore: &'semaphore Semaphore,
    count: u64,
}

impl Permits<'_> {
    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns them, and tells whether this rank has had them to the end.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`]: this rank was declared failed meanwhile, and others may have had them since.
    /// [`LockError::Unreachable`]: they are returned when the home is heard again.
    ///
    /// # Cost
    ///
    /// On the home one locked exchange and a load, from another node a round trip.
    pub fn release(self) -> Result<(), LockError> {
        let (semaphore, count) = (self.semaphore, self.count);
        std::mem::forget(self);
        semaphore.give_back(count)
    }
}

impl Drop for Permits<'_> {
    fn drop(&mut self) {
        // The error says that there is nothing to return; `release` returns it.
        let _ = self.semaphore.give_back(self.count);
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::job::pretended::{await_that, doubt, name_at, on_nodes};

    /// Permits are returned while nothing is heard of the home, and the semaphore is opened once more as soon as it is
    /// heard again, before that has been told.
    #[test]
    fn permits_that_are_returned_late_are_not_had_again_by_opening_the_semaphore() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let name = name_at(&[1], 2, 0);
        let open = |rank: usize| jobs[rank].semaphore(&name, 3).expect("room");
        let (semaphore, other) = (open(0), open(1));
        let permits = semaphore.acquire(2).expect("they are left");
        doubt(&jobs[0], 1, true);
        assert!(matches!(permits.release(), Err(LockError::Unreachable { node: 1, .. })));
        let errands = &jobs[0].membership().reach.uses.errands;
        let again = errands.held_up(|| {
            doubt(&jobs[0], 1, false);
            open(0)
        });
        await_that("they are not returned", || other.try_acquire(3).expect("in reach").is_some());
        drop((semaphore, again));
    }
}
