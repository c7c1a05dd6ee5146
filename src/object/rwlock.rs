//! The reader-writer lock: phase-fair, its writers fenced, released by death.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::anchor::{self, Anchor};
use super::errands::{self, Errand};
use super::error::{LockError, ObjectError};
use super::exclusive::Exclusive;
use super::homes::Home;
use super::lock::Token;
use super::reach::Reach;
use super::vigil::Vigil;
use super::waiting::{Turn as UseTurn, Use};
use super::{Handle, ObjectKind, not_opened};
use crate::coord::objects::directory::Nature;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::sharing::{Sharing, SharingAt, Turn};
use crate::fabric::WordAt;
use crate::job::Job;

/// A named lock that any number of ranks read under together, or one writes under alone. A rank's death releases what
/// it held.
///
/// It is phase-fair (Brandenburg and Anderson 2010): where both are wanted, readers and writers have it by turns. A
/// rank that asks to read waits for at most one writer, whatever queue of them there is; a writer waits for those who
/// read when its turn comes, and for none that ask later. Writers among themselves are first come first served, as with
/// [`Lock`](super::Lock).
///
/// The lock belongs to a rank and not to a thread; a rank reads once at a time. Who reads cannot go over to
/// writing: two that tried would wait for each other for ever, so that is refused ([`LockError::UpgradeRefused`]). Who
/// writes can go over to reading ([`WriteGuard::downgrade`]).
///
/// ```
/// use phalanx::Job;
///
/// let job = Job::from_env()?;
/// let table = job.rwlock("table")?;
/// drop(table.read()?);
/// let guard = table.write()?;
/// println!("write as {}", guard.token());
/// let guard = guard.downgrade()?;
/// // … what was written is read; others read it, too, and nobody has written in between …
/// drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RwLock {
    writers: Exclusive,
    part: RefCell<Sharing>,
    anchor: Anchor,
    /// What this rank does with it, whichever of its threads and handles.
    turn: Arc<UseTurn>,
    /// Whether the call that is under way has left something to an errand.
    has_left: Cell<bool>,
    // Dropped after the other parts; it gives the name back.
    handle: Handle,
}

/// How a call has ended that did not fail.
enum End {
    In,
    Out,
    /// The time was over, and these were waited for.
    GivenUp(Vec<usize>),
}

impl Job {
    /// The reader-writer lock of a name, the same for all ranks. It exists while some rank has a handle of it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    ///
    /// # Cost
    ///
    /// The node's table of names is locked and looked through; the home's too, for the node's first handle.
    pub fn rwlock(&self, name: &str) -> Result<RwLock, ObjectError> {
        let handle = Handle::open(self.membership(), name, Nature { kind: ObjectKind::RwLock, parameter: 0 })?;
        let anchor = Anchor::of(&handle).map_err(|source| not_opened(&handle, source))?;
        let at = SharingAt::of(&anchor.words(), handle.membership.topology.ranks());
        // Another place than that of the lock inside.
        let turn = handle.membership.reach.uses.turn_at(handle.at.check());
        let part = RefCell::new(Sharing::new(at, handle.membership.rank));
        Ok(RwLock { writers: Exclusive::new(&handle), part, anchor, turn, has_left: Cell::new(false), handle })
    }
}

impl RwLock {
    /// The lock's name.
    pub fn name(&self) -> &str {
        self.writers.name()
    }

    /// Waits until this rank may read.
    ///
    /// # Errors
    ///
    /// [`LockError::AlreadyReading`], [`LockError::AlreadyHeld`] where this rank writes,
    /// [`LockError::AlreadyRequested`], [`LockError::Excluded`], [`LockError::Unreachable`].
    ///
    /// # Cost
    ///
    /// Without a writer: on the lock's home one locked exchange and a load, from another node one round trip; the same
    /// to release. With one: until it ends, and half a round trip.
    #[inline]
    pub fn read(&self) -> Result<ReadGuard<'_>, LockError> {
        self.read_within(None)?.map_err(|awaited| self.not_read(&awaited, Duration::ZERO))
    }

    /// As [`read`](Self::read), for at most `timeout`. After that this rank waits no more, and nobody for it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and [`LockError::TimedOut`], which says who writes.
    pub fn read_timeout(&self, timeout: Duration) -> Result<ReadGuard<'_>, LockError> {
        self.read_within(Some(timeout))?.map_err(|awaited| self.not_read(&awaited, timeout))
    }

    /// Reads if no writer is there, nor waits for readers to leave.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn try_read(&self) -> Result<Option<ReadGuard<'_>>, LockError> {
        match self.read_within(Some(Duration::ZERO)) {
            Err(LockError::TimedOut { .. }) => Ok(None),
            read => Ok(read?.ok()),
        }
    }

    /// Waits until this rank may write: until it is its turn among those who want to write, and nobody reads.
    ///
    /// # Errors
    ///
    /// [`LockError::UpgradeRefused`] where this rank reads; [`LockError::AlreadyHeld`],
    /// [`LockError::AlreadyRequested`], [`LockError::Excluded`], [`LockError::Unreachable`].
    ///
    /// # Cost
    ///
    /// That of a [`Lock`](super::Lock), and one round trip to the home for each 63 ranks of the job (on the home: a
    /// look at each rank's word); the same to release.
    pub fn write(&self) -> Result<WriteGuard<'_>, LockError> {
        self.write_within(None)
    }

    /// As [`write`](Self::write), for at most `timeout`. After that this rank waits no more, and nobody for it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and [`LockError::TimedOut`], which says who writes, or [`LockError::StillRead`],
    /// which says who reads.
    pub fn write_timeout(&self, timeout: Duration) -> Result<WriteGuard<'_>, LockError> {
        self.write_within(Some(timeout))
    }

    /// Writes if nobody reads or writes. (Those who ask to read in the same moment may wait for one more round trip.)
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn try_write(&self) -> Result<Option<WriteGuard<'_>>, LockError> {
        self.begin(Asked::ToWrite)?;
        let taken = self.writers.try_acquire().and_then(|token| match token {
            Some(token) => self.enter(token, Some(Duration::ZERO)).map(|entered| entered.ok()),
            None => Ok(None),
        });
        self.end(if matches!(taken, Ok(Some(_))) { Use::Held } else { Use::Nothing });
        match taken {
            Err(LockError::TimedOut { .. }) => Ok(None),
            taken => Ok(taken?.map(|token| self.writing(token))),
        }
    }

    /// The ranks of this node that wait for their turn to write, in the order in which they will have it. Cost: a look
    /// at each rank's claim.
    pub fn queue(&self) -> Vec<usize> {
        self.writers.waiting_ranks()
    }

    /// Whether this rank has come to read; else those that it waited for.
    #[inline]
    fn read_within(&self, limit: Option<Duration>) -> Result<Result<ReadGuard<'_>, Vec<usize>>, LockError> {
        self.begin(Asked::ToRead)?;
        self.anchor.note_stake(&self.handle, Sharing::READS);
        let is_at_once = self.anchor.is_here() && self.part.borrow_mut().read_here(self.handle.segment());
        let ended = match is_at_once {
            true => anchor::look_at_oneself(&self.handle).map(|()| End::In),
            false => self.read_long(limit),
        };
        let is_in = matches!(ended, Ok(End::In));
        self.end(if is_in { Use::Shared } else { Use::Nothing });
        match ended {
            Ok(End::In) => Ok(Ok(ReadGuard { lock: self })),
            Ok(End::GivenUp(awaited)) => Ok(Err(awaited)),
            Ok(End::Out) => unreachable!("who wants to read waits"),
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    #[cold]
    fn read_long(&self, limit: Option<Duration>) -> Result<End, LockError> {
        let turn = self.part.borrow_mut().read();
        self.drive(turn, &mut Vigil::new(&self.handle, limit))
    }

    fn write_within(&self, limit: Option<Duration>) -> Result<WriteGuard<'_>, LockError> {
        self.begin(Asked::ToWrite)?;
        let vigil = Vigil::new(&self.handle, limit);
        let entered = self.writers.acquire(limit).and_then(|token| self.enter(token, vigil.left()));
        let token = match entered {
            Ok(Ok(token)) => Ok(token),
            Ok(Err(readers)) => Err(self.not_written(readers, vigil.waited())),
            Err(error) => Err(error),
        };
        self.end(if token.is_ok() { Use::Held } else { Use::Nothing });
        Ok(self.writing(token?))
    }

    /// This rank has the writers' lock. Whether the readers have left in time; else who reads: then it has given it up.
    fn enter(&self, token: u64, limit: Option<Duration>) -> Result<Result<u64, Vec<usize>>, LockError> {
        let turn = self.part.borrow_mut().write();
        let mut vigil = Vigil::new(&self.handle, limit);
        let mut ended = self.drive(turn, &mut vigil);
        while let Ok(End::In) = ended {
            self.anchor.note_stake(&self.handle, Sharing::WRITES);
            if !self.anchor.is_lost() {
                return Ok(Ok(token));
            }
            // Perhaps nobody tells the next home that this rank writes.
            self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
            ended = self.restart(&vigil).and_then(|turn| self.drive(turn, &mut vigil));
        }
        let released = self.writers.release();
        match ended? {
            End::GivenUp(readers) => released.map(|()| Err(readers)),
            End::In | End::Out => unreachable!("who wants to write waits"),
        }
    }

    /// Does what the machine wants, until it has ended, or the time is over.
    fn drive(&self, mut turn: Turn, vigil: &mut Vigil<'_>) -> Result<End, LockError> {
        let reach = &self.handle.membership.reach;
        let mut given_up = None;
        loop {
            turn = match turn {
                Turn::Ask(requests) => {
                    vigil.note();
                    let (has_ended, poke) = (|rank| reach.has_ended(rank), |rank| reach.poke(rank));
                    let asked = self.anchor.ask_until(&self.handle, &requests, vigil.until());
                    match asked.inspect_err(|error| self.leave_behind(error))? {
                        Some(answers) => self.part.borrow_mut().answered(&answers, has_ended, poke),
                        None => self.restart(vigil)?,
                    }
                }
                Turn::Wait => {
                    let awaited = self.part.borrow().awaited();
                    match vigil.pause(&awaited) {
                        true => self.part.borrow_mut().look(),
                        false => {
                            given_up = Some(awaited);
                            self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
                            self.part.borrow_mut().leave()
                        }
                    }
                }
                Turn::In => return Ok(End::In),
                Turn::Out => match vigil.in_vain() {
                    Some(error) => return Err(error),
                    None => return Ok(given_up.map_or(End::Out, End::GivenUp)),
                },
            };
        }
    }

    /// Goes on at the next home.
    #[cold]
    fn restart(&self, vigil: &Vigil<'_>) -> Result<Turn, LockError> {
        let next = self.anchor.await_next_until(&self.handle, vigil.until());
        let words = next.inspect_err(|error| self.leave_behind(error))?;
        Ok(self.part.borrow_mut().restart(SharingAt::of(&words, self.handle.membership.topology.ranks())))
    }

    /// This rank was declared failed; or the home has not answered, and is told that this rank has nothing to do with
    /// the lock when it does.
    #[cold]
    fn leave_behind(&self, error: &LockError) {
        self.forget();
        if !matches!(error, LockError::Excluded { .. }) {
            self.has_left.set(true);
            self.turn.leave();
            let (at, turn) = (self.handle.at, Arc::clone(&self.turn));
            errands::leave(&self.handle.membership.reach, Leaving { at, turn });
        }
    }

    /// A call of this rank has come to its end, which now has this, but where an errand is to be done first.
    fn end(&self, has: Use) {
        if !self.has_left.take() {
            self.turn.set(has);
        }
    }

    /// This rank has nothing to do with the lock any more.
    #[cold]
    fn forget(&self) {
        let at = SharingAt::of(&self.anchor.words(), self.handle.membership.topology.ranks());
        self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
        *self.part.borrow_mut() = Sharing::new(at, self.handle.membership.rank);
    }

    #[inline]
    fn begin(&self, asked: Asked) -> Result<(), LockError> {
        self.turn.begin(Use::Requested).or_else(|found| self.begin_later(asked, found))
    }

    /// What this rank has left at the home is taken back first, if that is soon.
    #[cold]
    fn begin_later(&self, asked: Asked, mut found: u32) -> Result<(), LockError> {
        let begun = Instant::now();
        while found == Use::Left as u32 {
            anchor::look_at_oneself(&self.handle)?;
            errands::pause(&self.handle.membership, &self.handle.at, self.name(), begun)?;
            match self.turn.begin(Use::Requested) {
                Ok(()) => return Ok(()),
                Err(now) => found = now,
            }
        }
        Err(self.busy(asked, found))
    }

    #[cold]
    fn busy(&self, asked: Asked, found: u32) -> LockError {
        let (rank, name) = (self.handle.membership.rank, self.name().to_owned());
        match asked {
            Asked::ToWrite if found == Use::Shared as u32 => LockError::UpgradeRefused { rank, name },
            Asked::ToRead if found == Use::Shared as u32 => LockError::AlreadyReading { rank, name },
            _ if found == Use::Held as u32 => LockError::AlreadyHeld { rank, name },
            _ => LockError::AlreadyRequested { rank, name },
        }
    }

    fn not_read(&self, awaited: &[usize], waited: Duration) -> LockError {
        let membership = &self.handle.membership;
        let (rank, name, writer) = (membership.rank, self.name().to_owned(), awaited.first().copied());
        let holder_node = writer.map(|writer| membership.node_of(writer));
        LockError::TimedOut { rank, name, waited, holder: writer, holder_node, ahead: Vec::new() }
    }

    fn not_written(&self, readers: Vec<usize>, waited: Duration) -> LockError {
        LockError::StillRead { rank: self.handle.membership.rank, name: self.name().to_owned(), waited, readers }
    }

    fn writing(&self, token: u64) -> WriteGuard<'_> {
        WriteGuard { lock: self, token: Token(token) }
    }

    #[inline]
    fn stop_reading(&self) -> Result<(), LockError> {
        self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
        let left = match self.anchor.is_here() {
            true => {
                let writer = self.part.borrow_mut().leave_here(self.handle.segment());
                writer.into_iter().for_each(|writer| self.handle.membership.reach.poke(writer));
                anchor::look_at_oneself(&self.handle)
            }
            false => self.leave(),
        };
        self.end(Use::Nothing);
        left
    }

    fn stop_writing(&self) -> Result<(), LockError> {
        self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
        let left = self.leave();
        let released = self.writers.release();
        self.end(Use::Nothing);
        left.and(released)
    }

    /// Gives up what this rank has.
    fn leave(&self) -> Result<(), LockError> {
        let turn = self.part.borrow_mut().leave();
        self.drive(turn, &mut Vigil::new(&self.handle, None)).map(drop)
    }

    fn read_on(&self) -> Result<(), LockError> {
        self.anchor.note_stake(&self.handle, Sharing::READS);
        let turn = self.part.borrow_mut().downgrade();
        let reads = self.drive(turn, &mut Vigil::new(&self.handle, None));
        let released = self.writers.release();
        let reads_on = reads.and(released);
        if reads_on.is_err() && !self.has_left.get() {
            self.forget();
        }
        self.end(if reads_on.is_ok() { Use::Shared } else { Use::Nothing });
        reads_on
    }
}

/// The home is to be told that a rank neither reads nor writes.
#[derive(Debug)]
struct Leaving {
    at: ObjectAt,
    turn: Arc<UseTurn>,
}

impl Errand for Leaving {
    fn object(&self) -> WordAt {
        self.at.key()
    }

    fn run(&mut self, reach: &Reach) -> Poll<()> {
        let Some(home) = errands::home_now(reach, &self.at) else { return Poll::Pending };
        let mut part = Sharing::new(SharingAt::of(&home.at, reach.topology.ranks()), reach.rank);
        let mut turn = part.take_back();
        while let Turn::Ask(requests) = turn {
            let Some(answers) = errands::ask(&home, &requests) else { return Poll::Pending };
            turn = part.answered(&answers, |rank| reach.has_ended(rank), |rank| reach.poke(rank));
        }
        if Home::of(reach, &self.at).site.home != home.site.home {
            // What was noted before has moved with it.
            return Poll::Pending;
        }
        self.turn.end_errand();
        Poll::Ready(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    ToRead,
    ToWrite,
}

/// Reads under a lock until it is dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct ReadGuard<'lock> {
    lock: &'lock RwLock,
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
    /// On the home one locked exchange and a load, from another node a round trip.
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
    lock: &'lock RwLock,
    token: Token,
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
