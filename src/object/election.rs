//! The election of a leader: a lock or a lease that is held long, whose token is the term (`election/seat.rs`), and an
//! announcement at its home of who holds it (`election/announcing.rs`).
//!
//! Candidates wait in the queue, so that a leader's death or resignation, or the end of its time to live, elects the
//! first of them, within the time in which a lock or lease follows its holder. Whoever is elected announces itself
//! before it leads, and has those look who watch. A watcher says in its word at the home that it is one; since a poke
//! may be lost, it also looks by itself ([`super::vigil`]), now and then and whenever somebody has failed.

use std::task::Poll;
use std::time::{Duration, Instant};

pub(super) use self::announcing::move_announcement;
use self::seat::{Claim, Mandate, Seat};
use super::error::{LockError, ObjectError};
use super::lease::Lease;
use super::lock::{Lock, Token};
use super::vigil::Vigil;
use super::{Handle, ObjectKind, named, not_named};
use crate::coord::objects::name::Name;
use crate::group::Group;
use crate::job::Job;

mod announcing;
mod seat;

/// Who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    /// Its rank in the job.
    pub rank: usize,
    /// Of two leaders of the same election the later one has the greater term: what is done in the name of one is to be
    /// refused wherever a greater one has been seen.
    pub term: Token,
}

/// A named election, as one rank takes part in it: as a candidate, or as one that wants to know who leads.
///
/// There is at most one leader, and a rank that is one remains it until it resigns, by dropping its [`Leadership`], or
/// ends, or is declared failed. Candidates follow it in the order in which they have come, as they would have a
/// [`super::Lock`] of that name: within the time in which a death is noticed. A rank that was declared failed and comes
/// back may believe that it leads: what it does is to be refused by its term ([`Token`], [`super::Fenced`]), or it asks
/// first ([`Leadership::check`]).
///
/// # Time to live
///
/// A leader whose process runs on and does nothing leads for ever, unless the election has a time to live
/// ([`Job::election_with_ttl`]). Then the leader is to renew its term ([`Leadership::renew`], [`Leadership::keep`]),
/// and if it does not, for that long, the first candidate follows it, as the holder of a [`super::Lease`] is followed:
/// by the clocks that are described there. A leader that has died is followed at once, one that was declared failed
/// since nothing was heard of it when its time is over.
///
/// ```
/// use phalanx::Job;
///
/// let job = Job::from_env()?;
/// let election = job.election("coordinator")?;
/// let leadership = election.campaign()?;
/// let leader = election.leader()?.expect("this rank leads");
/// assert_eq!((leader.rank, leader.term), (job.rank(), leadership.term()));
/// leadership.resign()?;
/// assert_eq!(election.leader()?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Election {
    seat: Seat,
}

impl Job {
    /// The election of a name, the same for all ranks. It exists while some rank has a handle of it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    ///
    /// # Cost
    ///
    /// As [`lock`](Self::lock).
    pub fn election(&self, name: &str) -> Result<Election, ObjectError> {
        let kind = ObjectKind::Election;
        let lock = Lock::open(self.membership(), named(self.rank(), kind.name(), name)?, kind)?;
        Ok(Election { seat: Seat::Lock(Box::new(lock)) })
    }

    /// The election of a name whose leader leads for this long, unless it renews its term. All ranks name the same time
    /// to live, as of a [`lease`](Self::lease).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let job = phalanx::Job::from_env()?;
    /// let election = job.election_with_ttl("coordinator", Duration::from_secs(5))?;
    /// let leadership = election.campaign()?;
    /// for _step in 0..3 {
    ///     // Who hangs here is followed after five seconds, and is told so when it comes back.
    ///     leadership.renew()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lease`](Self::lease).
    ///
    /// # Cost
    ///
    /// As [`lease`](Self::lease).
    pub fn election_with_ttl(&self, name: &str, ttl: Duration) -> Result<Election, ObjectError> {
        let kind = ObjectKind::LeasedElection;
        let lease = Lease::open(self.membership(), named(self.rank(), kind.name(), name)?, kind, ttl)?;
        Ok(Election { seat: Seat::Lease(lease) })
    }
}

impl Group {
    /// The election of a name among this group's members: another one than that of the same name in any other group,
    /// and than all of the job, though it is shown as "name of group 42". Its leader is named by its rank in the job.
    /// Not collective: who takes part opens it.
    ///
    /// # Errors
    ///
    /// As [`Job::lock`]; the group's number takes up to 28 bytes of the name.
    ///
    /// # Cost
    ///
    /// As [`Job::election`].
    pub fn election(&self, name: &str) -> Result<Election, ObjectError> {
        let kind = ObjectKind::Election;
        let lock = Lock::open(self.shared(), self.own_name(kind, name)?, kind)?;
        Ok(Election { seat: Seat::Lock(Box::new(lock)) })
    }

    /// As [`election`](Self::election), with a time to live: see [`Job::election_with_ttl`].
    ///
    /// # Errors
    ///
    /// As [`election`](Self::election), and as [`Job::lease`].
    ///
    /// # Cost
    ///
    /// As [`Job::election_with_ttl`].
    pub fn election_with_ttl(&self, name: &str, ttl: Duration) -> Result<Election, ObjectError> {
        let kind = ObjectKind::LeasedElection;
        let lease = Lease::open(self.shared(), self.own_name(kind, name)?, kind, ttl)?;
        Ok(Election { seat: Seat::Lease(lease) })
    }

    /// The name of an election that is this group's own.
    fn own_name(&self, kind: ObjectKind, name: &str) -> Result<Name, ObjectError> {
        let rank = self.shared().rank;
        Name::of_group(name, self.id()).map_err(|fault| not_named(rank, kind.name(), name, fault))
    }
}

impl Election {
    /// The election's name.
    pub fn name(&self) -> &str {
        self.seat.name()
    }

    /// For how long a leader leads that does not renew its term; `None`: to its end.
    pub fn ttl(&self) -> Option<Duration> {
        self.seat.ttl()
    }

    /// Waits until this rank is elected.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`], with a time to live as well: this rank leads already ([`LockError::AlreadyHeld`]), or is a
    /// candidate already ([`LockError::AlreadyRequested`]), or has been declared failed.
    ///
    /// # Cost
    ///
    /// That of [`Lock::acquire`], then two round trips to the election's home for the announcement (on one node: four
    /// locked instructions) and a poke for each watcher. With a time to live that of [`super::Lease::acquire`], and the
    /// same.
    pub fn campaign(&self) -> Result<Leadership<'_>, LockError> {
        let begun = self.begun();
        self.lead(self.seat.acquire(None)?, begun)
    }

    /// As [`campaign`](Self::campaign), for at most `timeout`. After that this rank is no candidate any more.
    ///
    /// # Errors
    ///
    /// As [`campaign`](Self::campaign), and [`LockError::TimedOut`].
    ///
    /// # Cost
    ///
    /// As [`campaign`](Self::campaign).
    pub fn campaign_timeout(&self, timeout: Duration) -> Result<Leadership<'_>, LockError> {
        let begun = self.begun();
        self.lead(self.seat.acquire(Some(timeout))?, begun)
    }

    /// Makes this rank a candidate without waiting for other ranks: it has its place before all who stand later, but
    /// for the exception that [`Lock::request`] names. It may be elected from then on, and leads when it takes that up
    /// by [`Candidacy::wait`]; until then nobody does.
    ///
    /// # Errors
    ///
    /// As [`campaign`](Self::campaign).
    ///
    /// # Cost
    ///
    /// As [`super::Lock::request`], or [`super::Lease::request`].
    pub fn stand(&self) -> Result<Candidacy<'_>, LockError> {
        Ok(Candidacy { election: self, claim: self.seat.request()? })
    }

    /// The candidates in the order in which they will be elected: those of this node, or, with a time to live, all of
    /// which the election's home knows (none where it does not answer).
    ///
    /// # Cost
    ///
    /// A look at each rank's claim; with a time to live they are at the home, 64 for a round trip.
    pub fn candidates(&self) -> Vec<usize> {
        self.seat.queue()
    }

    /// Who leads now; nobody does from when a leader resigns or ends until the next one has announced itself. When the
    /// election's home is lost nobody does for the moment until the leader is announced at the next one. A leader whose
    /// time to live is over is told of until another one follows it.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`], [`LockError::Unreachable`], [`LockError::NoRoom`].
    ///
    /// # Cost
    ///
    /// A round trip to the election's home; on one node two memory accesses.
    pub fn leader(&self) -> Result<Option<Leader>, LockError> {
        match self.look(false, None)? {
            Poll::Ready(leader) => Ok(leader),
            Poll::Pending => unreachable!("it has no end but an error"),
        }
    }

    /// Waits until what `known` says is so no more: until another one leads, or the same in another term, or nobody;
    /// returns what is so then. After `timeout` that is `known`.
    ///
    /// What comes and goes between two calls is not told: a term is seen only while it lasts.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let job = phalanx::Job::from_env()?;
    /// let election = job.election("coordinator")?;
    /// let mut leader = None;
    /// # let _leadership = election.campaign()?;
    /// while leader.is_none() {
    ///     leader = election.wait_for_change(leader, Duration::from_secs(1))?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`leader`](Self::leader).
    ///
    /// # Cost
    ///
    /// As [`leader`](Self::leader), for each look. Whoever has once waited is poked at each change as long as the
    /// election exists.
    pub fn wait_for_change(&self, known: Option<Leader>, timeout: Duration) -> Result<Option<Leader>, LockError> {
        let mut vigil = Vigil::new(self.handle(), Some(timeout));
        loop {
            vigil.note();
            let looked = self.look(true, vigil.until()).map_err(|error| since(error, vigil.begun()));
            let Poll::Ready(leader) = looked? else { return Ok(known) };
            if leader != known || !vigil.pause(&[]) {
                return Ok(leader);
            }
        }
    }

    fn handle(&self) -> &Handle {
        self.seat.handle()
    }

    /// When a call begins that may wait for its home; in a job of one node, whose home is always there, no clock is
    /// read.
    fn begun(&self) -> Option<Instant> {
        self.handle().site.reach.spans_nodes().then(Instant::now)
    }

    /// This rank has been elected, in a call that began then: announces it.
    fn lead<'election>(
        &'election self,
        mandate: Mandate<'election>,
        begun: Option<Instant>,
    ) -> Result<Leadership<'election>, LockError> {
        let leadership = Leadership { election: self, term: mandate.token(), mandate: Some(mandate) };
        self.show(leadership.term);
        // Where that fails, dropping it takes back what was announced.
        if self.announce(leadership.mandate()).map_err(|error| since(error, begun))? {
            self.poke_watchers();
        }
        // That may have taken long.
        leadership.mandate().assure().map_err(|error| since(error, begun))?;
        Ok(leadership)
    }
}

/// The error of one step of a call, as that of the call, which began then.
fn since(error: LockError, begun: Option<Instant>) -> LockError {
    match (error, begun) {
        (LockError::Unreachable { rank, name, node, .. }, Some(begun)) => {
            LockError::Unreachable { rank, name, node, waited: begun.elapsed() }
        }
        (error, _) => error,
    }
}

/// A rank's place among an election's candidates. Dropping it gives the place up.
#[derive(Debug)]
#[must_use = "the candidacy is given up when this is dropped"]
pub struct Candidacy<'election> {
    election: &'election Election,
    claim: Claim<'election>,
}

impl<'election> Candidacy<'election> {
    /// Whether this rank is elected, without waiting for other ranks. Until it takes that up by [`wait`](Self::wait)
    /// nobody leads.
    ///
    /// # Errors
    ///
    /// As [`super::LockRequest::test`], or [`super::LeaseRequest::test`]: whoever calls this again stands anew.
    ///
    /// # Cost
    ///
    /// As [`super::LockRequest::test`], or [`super::LeaseRequest::test`].
    pub fn test(&mut self) -> Result<bool, LockError> {
        self.claim.test()
    }

    /// Waits until this rank is elected.
    ///
    /// # Errors
    ///
    /// As [`Election::campaign`].
    ///
    /// # Cost
    ///
    /// As [`Election::campaign`].
    pub fn wait(self) -> Result<Leadership<'election>, LockError> {
        let begun = self.election.begun();
        self.election.lead(self.claim.wait(None)?, begun)
    }

    /// As [`wait`](Self::wait), for at most `timeout`. After that this rank is no candidate any more.
    ///
    /// # Errors
    ///
    /// As [`Election::campaign_timeout`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<Leadership<'election>, LockError> {
        let begun = self.election.begun();
        self.election.lead(self.claim.wait(Some(timeout))?, begun)
    }

    /// Gives the candidacy up. Whether this rank had not been elected: as [`super::LockRequest::cancel`] says it, or
    /// [`super::LeaseRequest::cancel`].
    ///
    /// # Cost
    ///
    /// As [`super::LockRequest::cancel`], or [`super::LeaseRequest::cancel`].
    pub fn withdraw(self) -> bool {
        self.claim.cancel()
    }
}

/// This rank leads, until this is dropped.
#[derive(Debug)]
#[must_use = "the rank resigns when this is dropped"]
pub struct Leadership<'election> {
    election: &'election Election,
    /// Always there, but while it is dropped.
    mandate: Option<Mandate<'election>>,
    term: Token,
}

impl Leadership<'_> {
    /// The term: greater than that of each leader before.
    pub fn term(&self) -> Token {
        self.term
    }

    /// Whether this rank leads still, as the election's home knows it. What is done afterwards is to be fenced by the
    /// term all the same: a rank that is stopped after it has looked may be followed.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`]: this rank was declared failed, and leads no more. [`LockError::Expired`]: its time to
    /// live is over; whether another one has followed [`renew`](Self::renew) finds out. [`LockError::Unreachable`],
    /// [`LockError::NoRoom`]: that cannot be told.
    ///
    /// # Cost
    ///
    /// As [`Election::leader`].
    pub fn check(&self) -> Result<(), LockError> {
        self.mandate().look_at_oneself()?;
        // It stands there, but where the home was lost just now.
        self.election.announce(self.mandate()).map(drop)
    }

    /// Renews the term: its time to live begins anew. Where it was over and nobody has followed, this rank leads again.
    /// Where there is no time to live this does what [`check`](Self::check) does.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`], [`LockError::Excluded`]: it leads no more. [`LockError::Unreachable`],
    /// [`LockError::NoRoom`]: the term was not renewed; it lasts for what [remains](Self::remaining), and another call
    /// may renew it.
    ///
    /// # Cost
    ///
    /// That of [`super::LeaseGuard::renew`], a round trip.
    pub fn renew(&self) -> Result<(), LockError> {
        match self.election.seat {
            Seat::Lock(_) => self.check(),
            Seat::Lease(_) => self.mandate().renew(),
        }
    }

    /// Has a thread renew the term, whenever a third of its time to live is over, to its end; nothing where there is no
    /// time to live. The leader then loses it only where its process is stopped or cut off.
    ///
    /// # Errors
    ///
    /// [`LockError::NoThread`].
    ///
    /// # Cost
    ///
    /// As [`super::LeaseGuard::keep`].
    pub fn keep(&mut self) -> Result<(), LockError> {
        self.mandate.as_mut().expect("it is there until this is dropped").keep()
    }

    /// For how long this rank surely leads yet, by its own clock, if it does not renew its term; `None`: without end.
    ///
    /// # Cost
    ///
    /// The clock is read, and nobody is asked.
    pub fn remaining(&self) -> Option<Duration> {
        self.mandate().remaining()
    }

    /// Whether less than a quarter of the time to live is left: time to renew, or to come to an end.
    ///
    /// # Cost
    ///
    /// As [`remaining`](Self::remaining).
    pub fn is_expiring(&self) -> bool {
        self.mandate().is_expiring()
    }

    fn mandate(&self) -> &Mandate<'_> {
        self.mandate.as_ref().expect("it is there until this is dropped")
    }

    /// Resigns: the first candidate is elected. Tells whether this rank led to the end.
    ///
    /// # Errors
    ///
    /// As [`super::LockGuard::release`]; [`LockError::Expired`]: another one has followed.
    ///
    /// # Cost
    ///
    /// A round trip to the election's home to take the announcement back, that of [`super::LockGuard::release`], and a
    /// poke for each watcher.
    pub fn resign(mut self) -> Result<(), LockError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), LockError> {
        let Some(mandate) = self.mandate.take() else { return Ok(()) };
        let withdrawn = self.election.withdraw(self.term);
        let withdrawn = withdrawn.inspect_err(|error| self.election.leave_behind(self.term, error));
        mandate.release()?;
        // After the release: whoever is first is on its way while the others are told.
        if withdrawn? {
            self.election.poke_watchers();
        }
        Ok(())
    }
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        // The error says that there is nothing to resign from; `resign` returns it.
        let _ = self.end();
    }
}
