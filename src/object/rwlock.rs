//! The reader-writer lock: phase-fair, its writers fenced, released by death.
//!
//! What a rank does at the lock's home, and with what its node has there, is driven in `rwlock/driven.rs`; its guards
//! are in `rwlock/guard.rs`.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::driven::End;
pub use self::guard::{ReadGuard, WriteGuard};
use super::anchor::{self, Anchor};
use super::errands;
use super::error::{LockError, ObjectError};
use super::exclusive::Exclusive;
use super::lock::Token;
use super::shared_hold;
use super::usage::{Usage, Use};
use super::vigil::Vigil;
use super::{Handle, ObjectKind, not_opened};
use crate::coord::objects::directory::Nature;
use crate::coord::objects::shared_hold::SharedHold;
use crate::coord::objects::sharing::{Member, Sharing, SharingAt};
use crate::fabric::Request;
use crate::job::Job;

mod driven;
mod guard;

/// A named lock that any number of ranks read under together, or one writes under alone. A rank's death releases what
/// it held.
///
/// It is phase-fair (Brandenburg and Anderson 2010): where both are wanted, readers and writers have it by turns. A
/// rank that asks to read waits for at most one writer, whatever queue of them there is; a writer waits for those who
/// read when its turn comes, and for none that ask later, but those who join others of their node. Writers among
/// themselves are first come first served, as with [`Lock`](super::Lock). Ranks of a node away from the lock's home
/// share one hold there: who comes while another one of its node reads joins that, without asking the home. 64 may do
/// so; before another one does the home is asked, so that a writer waits for that many of each node at most that ask
/// later than it.
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
    usage: Arc<Usage>,
    /// Whether the call that is under way has left something to an errand.
    has_left: Cell<bool>,
    // Dropped after the other parts; it gives the name back.
    handle: Handle,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    ToRead,
    ToWrite,
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
        let reach = &handle.membership.reach;
        let at = SharingAt::of(&anchor.words(), reach.topology.ranks());
        // Another place than that of the lock inside.
        let usage = reach.uses.usage_at(handle.at.check());
        let part = RefCell::new(Sharing::new(at, reach.rank));
        let hold = RefCell::new(SharedHold::new(shared_hold::place_of(reach, &handle.at, at), reach.local()));
        let (writers, has_left) = (Exclusive::new(&handle), Cell::new(false));
        Ok(RwLock { writers, part, hold, anchor, usage, has_left, handle })
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
    /// Without a writer: on the lock's home one locked exchange and a load. From another node, where another rank of
    /// this one reads, a locked exchange, a compare-and-swap, and at each 65th time a round trip; else one round trip.
    /// The same to release, by a locked exchange and a look at each rank's word of this node where others read on. With
    /// a writer: until it ends, and one round trip and a half.
    #[inline]
    pub fn read(&self) -> Result<ReadGuard<'_>, LockError> {
        self.read_within(None)?.map_err(|awaited| self.not_read(&awaited, Duration::ZERO))
    }

    /// As [`read`](Self::read), for at most `timeout`. After that this rank waits no more, and nobody for it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and [`LockError::TimedOut`], which says who writes.
    ///
    /// # Cost
    ///
    /// As [`read`](Self::read). Where the time is over: on the home a few memory accesses; from another node a round
    /// trip more, unless others of this node wait on. Answers that are on their way are waited for 0.2 s more at most.
    pub fn read_timeout(&self, timeout: Duration) -> Result<ReadGuard<'_>, LockError> {
        self.read_within(Some(timeout))?.map_err(|awaited| self.not_read(&awaited, timeout))
    }

    /// Reads if no writer is there, nor waits for readers to leave.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    ///
    /// # Cost
    ///
    /// Without a writer as [`read`](Self::read). With one: on the home a few memory accesses, from another node three
    /// round trips. Answers are waited for 0.2 s at most.
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
    /// That of a [`Lock`](super::Lock), and one round trip to the home for each 63 ranks and nodes of the job (on the
    /// home: a look at the word of each); the same to release.
    pub fn write(&self) -> Result<WriteGuard<'_>, LockError> {
        self.write_within(None)
    }

    /// As [`write`](Self::write), for at most `timeout`. After that this rank waits no more, and nobody for it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and [`LockError::TimedOut`], which says who writes, or [`LockError::StillRead`],
    /// which says who reads.
    ///
    /// # Cost
    ///
    /// As [`write`](Self::write). Where the time is over: while others write, that of
    /// [`Lock::acquire_timeout`](super::Lock::acquire_timeout); while others read, that of a release, and two round
    /// trips for each node that shares a hold, to learn which of its ranks read: 40 ms at most for each. Answers that
    /// are on their way are waited for 0.2 s more at most.
    pub fn write_timeout(&self, timeout: Duration) -> Result<WriteGuard<'_>, LockError> {
        self.write_within(Some(timeout))
    }

    /// Writes if nobody reads or writes. (Those who ask to read in the same moment may wait for one more round trip.)
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    ///
    /// # Cost
    ///
    /// That of [`Lock::try_acquire`](super::Lock::try_acquire). If nobody writes, one round trip to the home for each
    /// 63 ranks and nodes of the job besides (on the home: a look at the word of each); if somebody reads, that of a
    /// release.
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

    /// The ranks of this node that wait for their turn to write, in the order in which they will have it.
    ///
    /// # Cost
    ///
    /// A look at each rank's claim.
    pub fn queue(&self) -> Vec<usize> {
        self.writers.waiting_ranks()
    }

    /// Whether this rank has come to read; else those that it waited for.
    #[inline]
    fn read_within(&self, limit: Option<Duration>) -> Result<Result<ReadGuard<'_>, Vec<usize>>, LockError> {
        self.begin(Asked::ToRead)?;
        let ended = if self.anchor.is_here() { self.read_here(limit) } else { self.read_with_others(limit) };
        let ended = ended.inspect_err(|_| self.forget());
        self.end(if matches!(ended, Ok(End::In)) { Use::Shared } else { Use::Nothing });
        match ended? {
            End::In => Ok(Ok(ReadGuard { lock: self })),
            End::GivenUp(awaited) => Ok(Err(ranks_of(&awaited))),
            End::Out => unreachable!("who wants to read waits"),
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

    fn write_within(&self, limit: Option<Duration>) -> Result<WriteGuard<'_>, LockError> {
        self.begin(Asked::ToWrite)?;
        let vigil = Vigil::new(&self.handle, limit);
        let entered = self.writers.acquire(limit).and_then(|token| self.enter(token, vigil.left()));
        let token = match entered {
            Ok(Ok(token)) => Ok(token),
            Ok(Err(readers)) => Err(self.not_written(&readers, vigil.waited())),
            Err(error) => Err(error),
        };
        self.end(if token.is_ok() { Use::Held } else { Use::Nothing });
        Ok(self.writing(token?))
    }

    #[inline]
    fn begin(&self, asked: Asked) -> Result<(), LockError> {
        self.usage.begin(Use::Requested).or_else(|found| self.begin_later(asked, found))
    }

    /// What this rank has left at the home is taken back first, if that is soon.
    #[cold]
    fn begin_later(&self, asked: Asked, mut found: u32) -> Result<(), LockError> {
        let begun = Instant::now();
        while found == Use::Left as u32 {
            anchor::look_at_oneself(&self.handle)?;
            errands::pause(&self.handle.membership, &self.handle.at, self.name(), begun)?;
            match self.usage.begin(Use::Requested) {
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

    /// A call of this rank has come to its end, which now has this, but where an errand is to be done first.
    fn end(&self, has: Use) {
        if !self.has_left.take() {
            self.usage.set(has);
        }
    }

    fn not_read(&self, awaited: &[usize], waited: Duration) -> LockError {
        let membership = &self.handle.membership;
        let (rank, name, writer) = (membership.rank, self.name().to_owned(), awaited.first().copied());
        let holder_node = writer.map(|writer| membership.node_of(writer));
        LockError::TimedOut { rank, name, waited, holder: writer, holder_node, ahead: Vec::new() }
    }

    fn not_written(&self, members: &[Member], waited: Duration) -> LockError {
        let mut readers = ranks_of(members);
        for member in members {
            if let Member::Node(node) = member {
                readers.extend(shared_hold::readers_on(&self.handle.membership.reach, *node, self.place_on(*node)));
            }
        }
        readers.sort_unstable();
        readers.dedup();
        LockError::StillRead { rank: self.handle.membership.rank, name: self.name().to_owned(), waited, readers }
    }

    /// Where a node whose ranks share a hold has this lock, as its home says, if that answers soon.
    fn place_on(&self, node: usize) -> Option<u64> {
        let at = Request::Read { at: self.at_home().places.plus(node) };
        let asked = self.anchor.ask_until(&self.handle, &[at], Some(Instant::now() + shared_hold::ASKING_LIMIT));
        asked.ok().flatten().map(|answers| answers[0])
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
}

/// Those of them that are ranks.
fn ranks_of(members: &[Member]) -> Vec<usize> {
    let rank = |member: &Member| match member {
        Member::Rank(rank) => Some(*rank),
        Member::Node(_) => None,
    };
    members.iter().filter_map(rank).collect()
}
