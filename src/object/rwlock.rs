//! The reader-writer lock: phase-fair, its writers fenced, released by death.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::anchor::{self, Anchor};
use super::error::{LockError, ObjectError};
use super::exclusive::Exclusive;
use super::lock::Token;
use super::shared_hold;
use super::vigil::Vigil;
use super::waiting::{Turn as UseTurn, Use};
use super::{Handle, ObjectKind, not_opened};
use crate::coord::objects::directory::Nature;
use crate::coord::objects::shared_hold::{SharedHold, Turn as HoldTurn};
use crate::coord::objects::sharing::{Called, Member, Sharing, SharingAt, Turn};
use crate::fabric::{Request, raise_alarm};
use crate::job::Job;

/// A named lock that any number of ranks read under together, or one writes under alone. A rank's death releases what it
/// held.
///
/// It is phase-fair (Brandenburg and Anderson 2010): where both are wanted, readers and writers have it by turns. A rank
/// that asks to read waits for at most one writer, whatever queue of them there is; a writer waits for those who read when
/// its turn comes, and for none that ask later. Writers among themselves are first come first served, as with
/// [`Lock`](super::Lock). Ranks of a node away from the lock's home share one hold there: who comes while another one of its
/// node reads joins that, without asking the home. 64 may do so; before another one does the home is asked, so that a writer
/// waits for that many of each node at most that ask later than it.
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
    /// Its share of what its node has, where that is not the home.
    hold: RefCell<SharedHold>,
    anchor: Anchor,
    /// What this rank does with it, whichever of its threads and handles.
    turn: Arc<UseTurn>,
    // Dropped after the other parts; it gives the name back.
    handle: Handle,
}

/// How a call has ended that did not fail.
enum End {
    In,
    Out,
    /// The time was over, and these were waited for.
    GivenUp(Vec<Member>),
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
        let reach = &handle.membership.reach;
        let hold = RefCell::new(SharedHold::new(shared_hold::place_of(reach, &handle.at, at), reach.local()));
        Ok(RwLock { writers: Exclusive::new(&handle), part, hold, anchor, turn, handle })
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
    /// [`LockError::AlreadyReading`], [`LockError::AlreadyHeld`] where this rank writes, [`LockError::AlreadyRequested`],
    /// [`LockError::Excluded`].
    ///
    /// # Cost
    ///
    /// Without a writer: on the lock's home one locked exchange and a load. From another node, where another rank of this one
    /// reads, a locked exchange, a compare-and-swap, and at each 65th time a round trip; else one round trip. The same to
    /// release, by a locked exchange and a look at each rank's word of this node where others read on. With a writer: until it
    /// ends, and one round trip and a half.
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
        Ok(self.read_within(Some(Duration::ZERO))?.ok())
    }

    /// Waits until this rank may write: until it is its turn among those who want to write, and nobody reads.
    ///
    /// # Errors
    ///
    /// [`LockError::UpgradeRefused`] where this rank reads; [`LockError::AlreadyHeld`], [`LockError::AlreadyRequested`],
    /// [`LockError::Excluded`].
    ///
    /// # Cost
    ///
    /// That of a [`Lock`](super::Lock), and one round trip to the home for each 63 ranks and nodes of the job (on the home: a
    /// look at the word of each); the same to release.
    pub fn write(&self) -> Result<WriteGuard<'_>, LockError> {
        self.write_within(None)
    }

    /// As [`write`](Self::write), for at most `timeout`. After that this rank waits no more, and nobody for it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and [`LockError::TimedOut`], which says who writes, or [`LockError::StillRead`], which
    /// says who reads: nodes that share a hold are asked which of their ranks that are, for 20 ms at most.
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
        self.turn.set(if matches!(taken, Ok(Some(_))) { Use::Held } else { Use::Nothing });
        Ok(taken?.map(|token| self.writing(token)))
    }

    /// The ranks of this node that wait for their turn to write, in the order in which they will have it. Cost: a look at
    /// each rank's claim.
    pub fn queue(&self) -> Vec<usize> {
        self.writers.waiting_ranks()
    }

    /// Whether this rank has come to read; else those that it waited for.
    #[inline]
    fn read_within(&self, limit: Option<Duration>) -> Result<Result<ReadGuard<'_>, Vec<usize>>, LockError> {
        self.begin(Asked::ToRead)?;
        let ended = if self.anchor.is_here() { self.read_here(limit) } else { self.read_with_others(limit) };
        let is_in = matches!(ended, Ok(End::In));
        self.turn.set(if is_in { Use::Shared } else { Use::Nothing });
        match ended {
            Ok(End::In) => Ok(Ok(ReadGuard { lock: self })),
            Ok(End::GivenUp(awaited)) => Ok(Err(ranks_of(&awaited))),
            Ok(End::Out) => unreachable!("who wants to read waits"),
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    /// On the home's own node.
    #[inline]
    fn read_here(&self, limit: Option<Duration>) -> Result<End, LockError> {
        self.anchor.note_stake(&self.handle, Sharing::READS);
        if self.part.borrow_mut().read_here(self.handle.segment()) {
            return anchor::look_at_oneself(&self.handle).map(|()| End::In);
        }
        self.read_alone(&mut Vigil::new(&self.handle, limit))
    }

    /// By this rank's own part, as its stake says.
    #[cold]
    fn read_alone(&self, vigil: &mut Vigil<'_>) -> Result<End, LockError> {
        let turn = self.part.borrow_mut().read();
        self.drive(turn, vigil)
    }

    /// From another node than the home.
    fn read_with_others(&self, limit: Option<Duration>) -> Result<End, LockError> {
        anchor::look_at_oneself(&self.handle)?;
        let mut vigil = Vigil::new(&self.handle, limit);
        vigil.note();
        let turn = self.hold.borrow_mut().read(limit != Some(Duration::ZERO));
        match self.share(turn, &mut vigil)? {
            Some(End::In) => anchor::look_at_oneself(&self.handle).map(|()| End::In),
            Some(other) => Ok(other),
            None => self.read_alone(&mut vigil),
        }
    }

    /// Does what the machine of the node's hold wants, until it has ended, or the time is over; `None`: this rank is to go on
    /// by its own part.
    fn share(&self, mut turn: HoldTurn, vigil: &mut Vigil<'_>) -> Result<Option<End>, LockError> {
        let reach = &self.handle.membership.reach;
        let mut given_up = None;
        loop {
            turn = match turn {
                HoldTurn::Step => shared_hold::step(reach, &mut self.hold.borrow_mut()),
                HoldTurn::Ask(requests) => {
                    vigil.note();
                    match self.anchor.ask(&self.handle, &requests).inspect_err(|_| self.forget())? {
                        Some(answers) => shared_hold::answered(reach, &mut self.hold.borrow_mut(), &answers),
                        None => {
                            let at = self.await_next()?;
                            self.part.borrow_mut().set_home(at);
                            self.hold.borrow_mut().restart(at)
                        }
                    }
                }
                HoldTurn::Wait => {
                    let (writer, local) = {
                        let hold = self.hold.borrow();
                        (hold.awaited(), hold.awaited_here().map(|local| shared_hold::rank_at(reach, local)))
                    };
                    let awaited: Vec<usize> = writer.into_iter().chain(local).collect();
                    match vigil.pause(&awaited) {
                        true => {
                            anchor::look_at_oneself(&self.handle).inspect_err(|_| self.forget())?;
                            vigil.note();
                            self.hold.borrow_mut().look()
                        }
                        false => {
                            given_up = Some(writer.into_iter().map(Member::Rank).collect());
                            self.hold.borrow_mut().leave()
                        }
                    }
                }
                HoldTurn::In => return Ok(Some(End::In)),
                HoldTurn::Aside => return Ok(None),
                HoldTurn::Out => return Ok(Some(given_up.map_or(End::Out, End::GivenUp))),
                HoldTurn::Outlive(_) => unreachable!("stewards do"),
            };
        }
    }

    fn write_within(&self, limit: Option<Duration>) -> Result<WriteGuard<'_>, LockError> {
        self.begin(Asked::ToWrite)?;
        let vigil = Vigil::new(&self.handle, limit);
        let entered = self.writers.acquire(limit).and_then(|token| self.enter(token, vigil.left()));
        let token = match entered {
            Ok(Ok(token)) => Ok(token),
            Ok(Err(readers)) => Err(self.not_written(&readers, vigil.waited())),
            Err(error) => Err(error),
        };
        self.turn.set(if token.is_ok() { Use::Held } else { Use::Nothing });
        Ok(self.writing(token?))
    }

    /// This rank has the writers' lock. Whether the readers have left in time; else who reads: then it has given it up.
    fn enter(&self, token: u64, limit: Option<Duration>) -> Result<Result<u64, Vec<Member>>, LockError> {
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
            ended = self.restart().and_then(|turn| self.drive(turn, &mut vigil));
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
                    let has_ended = |member| match member {
                        Member::Rank(rank) => reach.has_ended(rank),
                        Member::Node(node) => reach.has_lost(node),
                    };
                    let poke = |called: Called| shared_hold::call(reach, called);
                    match self.anchor.ask(&self.handle, &requests).inspect_err(|_| self.forget())? {
                        Some(answers) => self.part.borrow_mut().answered(&answers, has_ended, poke),
                        None => self.restart()?,
                    }
                }
                Turn::Wait => {
                    let awaited = self.part.borrow().awaited();
                    match vigil.pause(&shared_hold::to_be_asked_after(reach, &self.handle.at, &awaited)) {
                        true => self.part.borrow_mut().look(),
                        false => {
                            given_up = Some(awaited);
                            self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
                            self.part.borrow_mut().leave()
                        }
                    }
                }
                Turn::In => return Ok(End::In),
                Turn::Out => return Ok(given_up.map_or(End::Out, End::GivenUp)),
            };
        }
    }

    /// Goes on at the next home.
    #[cold]
    fn restart(&self) -> Result<Turn, LockError> {
        let at = self.await_next()?;
        self.hold.borrow_mut().set_home(at);
        Ok(self.part.borrow_mut().restart(at))
    }

    fn await_next(&self) -> Result<SharingAt, LockError> {
        let words = self.anchor.await_next(&self.handle).inspect_err(|_| self.forget())?;
        Ok(SharingAt::of(&words, self.handle.membership.topology.ranks()))
    }

    /// This rank was declared failed, and has nothing to do with the lock any more.
    #[cold]
    fn forget(&self) {
        let at = SharingAt::of(&self.anchor.words(), self.handle.membership.topology.ranks());
        self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
        *self.part.borrow_mut() = Sharing::new(at, self.handle.membership.rank);
        let reach = &self.handle.membership.reach;
        *self.hold.borrow_mut() = SharedHold::new(shared_hold::place_of(reach, &self.handle.at, at), reach.local());
        // Its node's steward looks what it has left there.
        raise_alarm(self.handle.segment());
    }

    #[inline]
    fn begin(&self, asked: Asked) -> Result<(), LockError> {
        self.turn.begin(Use::Requested).map_err(|found| self.busy(asked, found))
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

    fn not_written(&self, members: &[Member], waited: Duration) -> LockError {
        let reach = &self.handle.membership.reach;
        let mut readers = ranks_of(members);
        for member in members {
            if let Member::Node(node) = member {
                let at_home = SharingAt::of(&self.anchor.words(), self.handle.membership.topology.ranks());
                let place = self.anchor.ask(&self.handle, &[Request::Read { at: at_home.places.plus(*node) }]);
                let place = place.ok().flatten().map(|answers| answers[0]);
                readers.extend(shared_hold::readers_on(reach, *node, place));
            }
        }
        readers.sort_unstable();
        readers.dedup();
        LockError::StillRead { rank: self.handle.membership.rank, name: self.name().to_owned(), waited, readers }
    }

    fn writing(&self, token: u64) -> WriteGuard<'_> {
        WriteGuard { lock: self, token: Token(token) }
    }

    #[inline]
    fn stop_reading(&self) -> Result<(), LockError> {
        if self.hold.borrow().is_reading() {
            return self.stop_sharing();
        }
        self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
        let left = match self.anchor.is_here() {
            true => {
                let writer = self.part.borrow_mut().leave_here(self.handle.segment());
                writer.into_iter().for_each(|writer| self.handle.membership.reach.poke(writer));
                anchor::look_at_oneself(&self.handle)
            }
            false => self.leave(),
        };
        self.turn.set(Use::Nothing);
        left
    }

    fn stop_sharing(&self) -> Result<(), LockError> {
        let turn = self.hold.borrow_mut().leave();
        let left = self.share(turn, &mut Vigil::new(&self.handle, None));
        self.turn.set(Use::Nothing);
        left.and_then(|_| anchor::look_at_oneself(&self.handle)).inspect_err(|_| self.forget())
    }

    fn stop_writing(&self) -> Result<(), LockError> {
        self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
        let left = self.leave();
        let released = self.writers.release();
        self.turn.set(Use::Nothing);
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
        if reads_on.is_err() {
            self.forget();
        }
        self.turn.set(if reads_on.is_ok() { Use::Shared } else { Use::Nothing });
        reads_on
    }
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    ToRead,
    ToWrite,
}

/// Those of them that are ranks.
fn ranks_of(members: &[Member]) -> Vec<usize> {
    let rank = |member: &Member| match member {
        Member::Rank(rank) => Some(*rank),
        Member::Node(_) => None,
    };
    members.iter().filter_map(rank).collect()
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
    /// [`LockError::Excluded`]: this rank was declared failed meanwhile, and others may have written since.
    ///
    /// # Cost
    ///
    /// On the home one locked exchange and a load. From another node a locked exchange and a look at each rank's word of this
    /// one where others of it read on; else a round trip.
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
    /// [`LockError::Excluded`]: this rank was declared failed meanwhile, and others may have had the lock since.
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
