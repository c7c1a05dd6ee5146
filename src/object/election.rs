//! The election of a leader: a lock that is held long, whose token is the term, and an announcement at its home of who
//! holds it.
//!
//! Candidates wait in the lock's queue, so that a leader's death or resignation elects the first of them, within the
//! time in which a lock follows its holder. Whoever is elected announces itself before it leads, and has those look who
//! watch. A watcher says in its word at the home that it is one; since a poke may be lost, it also looks by itself
//! ([`super::vigil`]), now and then and whenever somebody has failed.

use std::task::Poll;
use std::time::{Duration, Instant};

use super::errands::{self, Errand};
use super::error::{LockError, ObjectError};
use super::homes::{self, Home};
use super::lock::{Lock, LockGuard, LockRequest, Token};
use super::reach::Reach;
use super::vigil::Vigil;
use super::{Handle, MOVING_PAUSE, ObjectKind, anchor, waiting};
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::election::{Announced, Announcement, Announcer, ElectionAt, KeptAt};
use crate::coord::objects::layout::ObjectAt;
use crate::fabric::{Request, WordAt};
use crate::group::Group;
use crate::job::Job;

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
/// [`Lock`] of that name: within the time in which a death is noticed. A rank that was declared failed and comes back
/// may believe that it leads: what it does is to be refused by its term ([`Token`], [`super::Fenced`]), or it asks
/// first ([`Leadership::check`]).
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
    lock: Lock,
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
        Ok(Election { lock: Lock::open(self.membership(), name, ObjectKind::Election)? })
    }
}

impl Group {
    /// The election of a name among this group's members: another one than that of the same name in any other group.
    /// Its leader is named by its rank in the job. Not collective: who takes part opens it.
    ///
    /// # Errors
    ///
    /// As [`Job::lock`]; the group's number takes up to 28 bytes of the name.
    ///
    /// # Cost
    ///
    /// As [`Job::election`].
    pub fn election(&self, name: &str) -> Result<Election, ObjectError> {
        let name = format!("{name} of group {}", self.id());
        Ok(Election { lock: Lock::open(self.shared(), &name, ObjectKind::Election)? })
    }
}

impl Election {
    /// The election's name.
    pub fn name(&self) -> &str {
        self.lock.name()
    }

    /// Waits until this rank is elected.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`]: this rank leads already, or is a candidate already, or has been declared failed.
    ///
    /// # Cost
    ///
    /// That of [`Lock::acquire`], then two round trips to the election's home for the announcement (on one node: four
    /// locked instructions) and a poke for each watcher.
    pub fn campaign(&self) -> Result<Leadership<'_>, LockError> {
        self.lead(self.lock.acquire()?)
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
        self.lead(self.lock.acquire_timeout(timeout)?)
    }

    /// Makes this rank a candidate without waiting. It may be elected from then on, and leads when it takes that up by
    /// [`Candidacy::wait`].
    ///
    /// # Errors
    ///
    /// As [`campaign`](Self::campaign).
    ///
    /// # Cost
    ///
    /// As [`Lock::request`].
    pub fn stand(&self) -> Result<Candidacy<'_>, LockError> {
        Ok(Candidacy { election: self, request: self.lock.request()? })
    }

    /// The candidates of this node, in the order in which they will be elected.
    ///
    /// # Cost
    ///
    /// A look at each rank's claim.
    pub fn candidates(&self) -> Vec<usize> {
        self.lock.queue()
    }

    /// Who leads now; nobody does from when a leader resigns or ends until the next one has announced itself. When the
    /// election's home is lost nobody does for the moment until the leader is announced at the next one.
    ///
    /// # Errors
    ///
    /// [`LockError::Excluded`], [`LockError::Unreachable`], [`LockError::NoRoom`].
    ///
    /// # Cost
    ///
    /// A round trip to the election's home; on one node two memory accesses.
    pub fn leader(&self) -> Result<Option<Leader>, LockError> {
        self.look(false, None)?.map_err(|fault| self.error(fault))
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
            let leader = match self.look(true, vigil.until())? {
                Ok(leader) => leader,
                Err(SiteFault::Late { .. }) => return Ok(known),
                Err(fault) => return Err(self.error(fault)),
            };
            if leader != known || !vigil.pause(&[]) {
                return Ok(leader);
            }
        }
    }

    fn handle(&self) -> &Handle {
        self.lock.handle()
    }

    /// Who leads, by the words of the election's home; why that is not known, where it has not answered until a time.
    fn look(&self, is_watching: bool, until: Option<Instant>) -> Result<Result<Option<Leader>, SiteFault>, LockError> {
        let handle = self.handle();
        let reach = &handle.site.reach;
        let [term, leader] = loop {
            let home = Home::of(reach, &handle.at);
            let at = ElectionAt::of(&home.at);
            let requests = at.look(is_watching.then(|| home.at.of_rank(reach.rank)));
            match home.site.ask_until(&requests, until).as_deref() {
                Ok([term, leader]) => break [*term, *leader],
                Ok(_) => unreachable!("two reads"),
                Err(late @ SiteFault::Late { .. }) => return Ok(Err(*late)),
                Err(fault) => self.await_mending(*fault)?,
            }
        };
        if reach.own_end().is_some() {
            return Err(self.excluded());
        }
        let announced = Announcement::of([term, leader]).leader();
        let alive = announced.filter(|(rank, _)| *rank < reach.topology.ranks() && !reach.has_ended(*rank));
        Ok(Ok(alive.map(|(rank, term)| Leader { rank, term: Token(term) })))
    }

    /// The home was not reached. What was asked for may be asked for again: there, or where the object moves.
    fn await_mending(&self, fault: SiteFault) -> Result<(), LockError> {
        let reach = &self.handle().site.reach;
        if reach.own_end().is_some() {
            return Err(self.excluded());
        }
        let next = homes::without_room(reach, &self.handle().at);
        match (fault, next, reach.doubted()) {
            (SiteFault::Lost { .. }, Some(home), _) => return Err(self.error(SiteFault::NoRoom { home })),
            // The next home, or one of those that are to tell it something, may be that one.
            (SiteFault::Lost { .. }, None, Some(node)) => return Err(self.error(SiteFault::Silent { node })),
            (SiteFault::Broken { .. } | SiteFault::Lost { .. }, ..) => {}
            (fault, ..) => return Err(self.error(fault)),
        }
        std::thread::sleep(MOVING_PAUSE);
        Ok(())
    }

    fn error(&self, fault: SiteFault) -> LockError {
        match fault {
            SiteFault::Silent { node } | SiteFault::Late { home: node } => {
                anchor::unreachable(self.handle(), node, Duration::ZERO)
            }
            SiteFault::NoRoom { home } => waiting::no_room(&self.handle().membership, self.name(), home),
            SiteFault::Excluded | SiteFault::Lost { .. } | SiteFault::Broken { .. } => self.excluded(),
        }
    }

    /// The home has not answered: what it was told of a term is taken back when it does.
    fn leave_behind(&self, term: Token, error: &LockError) {
        // First, so that a steward that announces it anew sees that it is not to.
        self.forget(term);
        if let LockError::Unreachable { .. } | LockError::NoRoom { .. } = error {
            let reach = &self.handle().site.reach;
            errands::leave(reach, Withdrawing { at: self.handle().at, term });
        }
    }

    fn excluded(&self) -> LockError {
        waiting::excluded(&self.handle().membership, self.name())
    }

    /// Announces that this rank has been elected. The guard is that of the election's lock.
    fn lead<'election>(&'election self, guard: LockGuard<'election>) -> Result<Leadership<'election>, LockError> {
        let term = guard.token();
        if self.announce(term).inspect_err(|error| self.leave_behind(term, error))? {
            self.poke_watchers();
        }
        Ok(Leadership { election: self, guard: Some(guard), term })
    }

    /// Has all who look find this rank; gives whether somebody watches.
    fn announce(&self, term: Token) -> Result<bool, LockError> {
        let handle = self.handle();
        let reach = &handle.site.reach;
        loop {
            let home = Home::of(reach, &handle.at);
            match announce(&home, reach.rank, term.0) {
                Ok(Some(is_watched)) => {
                    self.keep(term);
                    // Where the home is lost meanwhile, the steward may have looked for the copy before.
                    if !is_lost(&home) {
                        return Ok(is_watched);
                    }
                    self.await_mending(SiteFault::Lost { home: home.site.home })?;
                }
                Ok(None) => return Err(self.excluded()),
                Err(fault) => self.await_mending(fault)?,
            }
        }
    }

    /// Takes the announcement of this rank's term back, if it is the last one; gives whether somebody watches.
    fn withdraw(&self, term: Token) -> Result<bool, LockError> {
        let handle = self.handle();
        let reach = &handle.site.reach;
        // First, so that a steward that announces it anew sees that it is not to.
        self.forget(term);
        loop {
            let home = Home::of(reach, &handle.at);
            match withdraw(&home, reach.rank, term.0) {
                // The steward may have announced it at the next one before it was forgotten here.
                Ok(_) if is_lost(&home) => self.await_mending(SiteFault::Lost { home: home.site.home })?,
                Ok(is_watched) => return Ok(is_watched),
                Err(fault) => self.await_mending(fault)?,
            }
        }
    }

    /// Keeps a copy of the announcement on this node.
    fn keep(&self, term: Token) {
        let reach = &self.handle().site.reach;
        let writes = KeptAt::of(&self.handle().at).keep(reach.rank, term.0);
        // SYNC POINT: stake. The second write's full fence pairs with the steward's: it finds this, or this rank finds
        // the home lost.
        for write in writes {
            reach.execute(write);
        }
    }

    /// Keeps it no longer, if it is this rank's.
    fn forget(&self, term: Token) {
        let reach = &self.handle().site.reach;
        reach.execute(KeptAt::of(&self.handle().at).forget(reach.rank, term.0));
    }

    /// Has those look who watch. Where that fails they look by themselves.
    fn poke_watchers(&self) {
        let handle = self.handle();
        let reach = &handle.site.reach;
        let home = Home::of(reach, &handle.at);
        let ranks = 0..reach.topology.ranks();
        let reads: Vec<Request> = ranks.clone().map(|rank| Request::Read { at: home.at.of_rank(rank) }).collect();
        let watches = home.site.ask(&reads).unwrap_or_default();
        let watchers = ranks.zip(watches).filter(|(rank, watches)| *watches != 0 && *rank != reach.rank);
        watchers.filter(|(rank, _)| !reach.has_ended(*rank)).for_each(|(rank, _)| reach.poke(rank));
    }
}

/// Whether a home is lost, which may answer all the same for a while.
fn is_lost(home: &Home) -> bool {
    home.site.reach.spans_nodes() && home.site.reach.has_lost(home.site.home)
}

/// Announces at a home that a rank leads; gives whether somebody watches, or `None` where another one has been elected
/// since.
fn announce(home: &Home, rank: usize, term: u64) -> Result<Option<bool>, SiteFault> {
    let (mut announcer, mut requests) = Announcer::begin(ElectionAt::of(&home.at), rank, term);
    loop {
        match announcer.answered(&home.site.ask(&requests)?) {
            Announced::Done { is_watched } => return Ok(Some(is_watched)),
            Announced::Superseded => return Ok(None),
            Announced::Ask(next) => requests = next,
        }
    }
}

/// Takes a rank's announcement back at a home, if it is the last one; gives whether somebody watches.
fn withdraw(home: &Home, rank: usize, term: u64) -> Result<bool, SiteFault> {
    let answers = home.site.ask(&ElectionAt::of(&home.at).withdraw(rank, term))?;
    Ok(answers[1] != 0)
}

/// An announcement is to be taken back.
#[derive(Debug)]
struct Withdrawing {
    at: ObjectAt,
    term: Token,
}

impl Errand for Withdrawing {
    fn object(&self) -> WordAt {
        self.at.key()
    }

    fn run(&mut self, reach: &Reach) -> Poll<()> {
        let Some(home) = errands::home_now(reach, &self.at) else { return Poll::Pending };
        let requests = ElectionAt::of(&home.at).withdraw(reach.rank, self.term.0);
        let has_moved = || Home::of(reach, &self.at).site.home != home.site.home;
        if errands::ask(&home, &requests).is_none() || has_moved() { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// An election of this node has moved to another home: if a rank of this node leads, that is announced there.
pub(super) fn move_announcement(reach: &Reach, at: &ObjectAt, home: &Home) -> Result<(), SiteFault> {
    let kept = || {
        let words = KeptAt::of(at).reads().map(|read| reach.execute(read));
        Announcement::of(words).leader().filter(|(rank, _)| !reach.has_ended(*rank))
    };
    let Some((rank, term)) = kept() else { return Ok(()) };
    announce(home, rank, term)?;
    if kept() != Some((rank, term)) {
        withdraw(home, rank, term)?;
    }
    Ok(())
}

/// A rank's place among an election's candidates. Dropping it gives the place up.
#[derive(Debug)]
#[must_use = "the candidacy is given up when this is dropped"]
pub struct Candidacy<'election> {
    election: &'election Election,
    request: LockRequest<'election>,
}

impl<'election> Candidacy<'election> {
    /// Whether this rank is elected, without waiting. Until it takes that up by [`wait`](Self::wait) nobody leads.
    ///
    /// # Errors
    ///
    /// As [`LockRequest::test`].
    ///
    /// # Cost
    ///
    /// As [`LockRequest::test`].
    pub fn test(&mut self) -> Result<bool, LockError> {
        self.request.test()
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
        self.election.lead(self.request.wait()?)
    }

    /// As [`wait`](Self::wait), for at most `timeout`. After that this rank is no candidate any more.
    ///
    /// # Errors
    ///
    /// As [`Election::campaign_timeout`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<Leadership<'election>, LockError> {
        self.election.lead(self.request.wait_timeout(timeout)?)
    }

    /// Gives the candidacy up. Whether this rank had not been elected.
    ///
    /// # Cost
    ///
    /// As [`LockRequest::cancel`].
    pub fn withdraw(self) -> bool {
        self.request.cancel()
    }
}

/// This rank leads, until this is dropped.
#[derive(Debug)]
#[must_use = "the rank resigns when this is dropped"]
pub struct Leadership<'election> {
    election: &'election Election,
    /// Always there, but while it is dropped.
    guard: Option<LockGuard<'election>>,
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
    /// [`LockError::Excluded`]: this rank was declared failed, and leads no more. [`LockError::Unreachable`],
    /// [`LockError::NoRoom`]: that cannot be told.
    ///
    /// # Cost
    ///
    /// As [`Election::leader`].
    pub fn check(&self) -> Result<(), LockError> {
        self.election.lock.look_at_oneself()?;
        // It stands there, but where the home was lost just now.
        self.election.announce(self.term).map(drop)
    }

    /// Resigns: the first candidate is elected. Tells whether this rank led to the end.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::release`].
    ///
    /// # Cost
    ///
    /// A round trip to the election's home to take the announcement back, that of [`LockGuard::release`], and a poke
    /// for each watcher.
    pub fn resign(mut self) -> Result<(), LockError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), LockError> {
        let Some(guard) = self.guard.take() else { return Ok(()) };
        let withdrawn = self.election.withdraw(self.term);
        let withdrawn = withdrawn.inspect_err(|error| self.election.leave_behind(self.term, error));
        guard.release()?;
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

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::job::pretended::{await_that, doubt, name_at, on_nodes};

    /// A rank has won the election, and is announced at the home and on its node.
    fn win(election: &Election) -> LockGuard<'_> {
        let guard = election.lock.acquire().expect("nobody else has it");
        let home = Home::of(&election.handle().membership.reach, &election.handle().at);
        assert_eq!(announce(&home, home.site.reach.rank, guard.token().0), Ok(Some(false)));
        election.keep(guard.token());
        guard
    }

    /// It is not heard of its home any more, and gives up: when that is heard again nobody leads.
    #[test]
    fn who_gives_up_as_the_home_is_silent_is_announced_there_no_more() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let name = name_at(&[1], 2, 0);
        let [election, other] = [0, 1].map(|rank: usize| jobs[rank].election(&name).expect("room"));
        let guard = win(&election);
        doubt(&jobs[0], 1, true);
        let given_up = election.lead(guard).map(drop);
        assert!(matches!(given_up, Err(LockError::Unreachable { node: 1, .. })), "{given_up:?}");
        assert_eq!(other.leader().expect("it is here").map(|leader| leader.rank), Some(0), "it was told so");
        doubt(&jobs[0], 1, false);
        await_that("it leads for ever", || other.leader() == Ok(None));
    }

    /// The home is lost, and the next one has no room; it gives up. When there is room nobody leads.
    #[test]
    fn who_gives_up_as_the_next_home_has_no_room_is_announced_nowhere() {
        const PLACES: usize = 2;
        let mut jobs = on_nodes(&[0, 1, 2], &JobOptions::new().objects(PLACES));
        let full = [0, 1].map(|index| jobs[2].lock(&name_at(&[2], 3, index)).expect("room"));
        let election = jobs[0].election(&name_at(&[1, 2], 3, 0)).expect("room");
        let (reach, at) = (jobs[0].membership().reach.clone(), election.handle().at);
        let guard = win(&election);
        drop(jobs.remove(1));
        let given_up = election.lead(guard).map(drop);
        assert!(matches!(given_up, Err(LockError::NoRoom { node: 2, .. })), "{given_up:?}");
        drop(full);
        await_that("it does not move", || Home::of(&reach, &at).site.home == 2);
        assert_eq!(election.leader(), Ok(None));
        // What was left to do is done.
        await_that("something is left to do", || !errands::is_left(&reach, &at));
        assert_eq!(election.leader(), Ok(None));
    }
}
