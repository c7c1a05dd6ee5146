//! How a leader is announced, at its election's home and on its own node, and how others look who that is.
//!
//! What is written in which order: [`crate::coord::objects::election`].

use std::task::Poll;
use std::time::{Duration, Instant};

use super::seat::{Mandate, Seat};
use super::{Election, Leader};
use crate::coord::objects::directory::{ObjectKind, SiteFault};
use crate::coord::objects::election::{Announced, Announcement, Announcer, Announcing, ElectionAt, KeptAt};
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::word::SinceWord;
use crate::fabric::{Memory, Request, WordAt};
use crate::object::errands::{self, Errand};
use crate::object::error::LockError;
use crate::object::homes::{self, Home, MOVING_PAUSE};
use crate::object::reach::Reach;
use crate::object::site::PATIENCE;
use crate::object::{Token, anchor, lease, node_lock, refusals};
use crate::sync::{Ordering, full_fence};

impl Election {
    /// Who leads, by the words of the election's home; pending where it has not answered until a time.
    pub(super) fn look(&self, is_watching: bool, until: Option<Instant>) -> Result<Poll<Option<Leader>>, LockError> {
        let handle = self.handle();
        let reach = &handle.site.reach;
        let begun = self.begun();
        let [term, leader] = loop {
            let home = Home::of(reach, &handle.at);
            let at = ElectionAt::of(&home.at);
            let requests = at.look(is_watching.then(|| ElectionAt::watches(&home.at, reach.rank)));
            match home.site.ask_until(&requests, until).as_deref() {
                Ok([term, leader]) => break [*term, *leader],
                Ok(_) => unreachable!("two reads"),
                Err(SiteFault::Late { .. }) if until.is_some() => return Ok(Poll::Pending),
                Err(fault) => self.await_mending(*fault, begun)?,
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Poll::Pending);
            }
        };
        if reach.own_end().is_some() {
            return Err(self.excluded());
        }
        let announced = Announcement::of([term, leader]).leader();
        let alive = announced.filter(|(rank, _)| *rank < reach.topology.ranks() && !reach.has_ended(*rank));
        Ok(Poll::Ready(alive.map(|(rank, term)| Leader { rank, term: Token(term) })))
    }

    /// The home was not reached. What was asked for may be asked for again: there, or where the object moves.
    fn await_mending(&self, fault: SiteFault, begun: Option<Instant>) -> Result<(), LockError> {
        let reach = &self.handle().site.reach;
        if reach.own_end().is_some() {
            return Err(self.excluded());
        }
        let next = homes::without_room(reach, &self.handle().at);
        match (fault, next, reach.doubted()) {
            (SiteFault::Lost { .. }, Some(home), _) => return Err(self.error(SiteFault::NoRoom { home }, begun)),
            // The next home, or one of those that are to tell it something, may be that one.
            (SiteFault::Lost { .. }, None, Some(node)) => return Err(self.error(SiteFault::Silent { node }, begun)),
            (SiteFault::Broken { .. } | SiteFault::Lost { .. }, ..) => {}
            (fault, ..) => return Err(self.error(fault, begun)),
        }
        std::thread::sleep(MOVING_PAUSE);
        Ok(())
    }

    fn error(&self, fault: SiteFault, begun: Option<Instant>) -> LockError {
        match fault {
            SiteFault::Silent { node } | SiteFault::Late { home: node } => {
                let waited = begun.map_or(Duration::ZERO, |begun| begun.elapsed());
                anchor::unreachable(self.handle(), node, waited)
            }
            SiteFault::NoRoom { home } => refusals::no_room(&self.handle().membership, self.name(), home),
            SiteFault::Excluded | SiteFault::Lost { .. } | SiteFault::Broken { .. } => self.excluded(),
        }
    }

    /// The home has not answered: what it was told of a term is taken back when it does.
    pub(super) fn leave_behind(&self, term: Token, error: &LockError) {
        // First, so that a steward that announces it anew sees that it is not to.
        self.forget(term);
        if let LockError::Unreachable { .. } | LockError::NoRoom { .. } = error {
            let reach = &self.handle().site.reach;
            errands::leave(reach, Withdrawing { at: self.handle().at, term });
        }
    }

    /// Another one has been elected since.
    fn superseded(&self, term: Token) -> LockError {
        match &self.seat {
            Seat::Lock(_) => self.excluded(),
            Seat::Lease(_) => LockError::Expired {
                rank: self.handle().membership.rank,
                name: self.name().to_owned(),
                token: term,
                holder: None,
            },
        }
    }

    fn excluded(&self) -> LockError {
        refusals::excluded(&self.handle().membership, self.name())
    }

    /// Shows those who look from outside since when this rank leads. A lease is shown whenever it is granted, a lock
    /// only where somebody has waited for it: that is this hold's then.
    pub(super) fn show(&self, term: Token) {
        let (reach, at) = (&self.handle().site.reach, &self.handle().at);
        let (segment, local) = (&*reach.segment, reach.local());
        // Relaxed: for those who look. This rank's note goes with its hold.
        let noted = SinceWord(segment.word(at.held_since()).load(Ordering::Relaxed));
        if noted.holder() != Some(local) {
            node_lock::show(segment, at, SinceWord::granted(local, segment.clock().now()), term.0);
        }
    }

    /// Has all who look find this rank; gives whether somebody watches.
    pub(super) fn announce(&self, mandate: &Mandate<'_>) -> Result<bool, LockError> {
        let (handle, term) = (self.handle(), mandate.token());
        let reach = &handle.site.reach;
        let begun = self.begun();
        loop {
            // Whoever has followed may have been lost with the last home: the next one would not know of it.
            mandate.assure()?;
            let home = Home::of(reach, &handle.at);
            match announce(&home, reach.rank, term.0) {
                Ok(Some(is_watched)) => {
                    if !keep(reach, &handle.at, term) {
                        return Err(self.superseded(term));
                    }
                    // Where the home is lost meanwhile, the steward may have looked for the copy before.
                    if !is_lost(&home) {
                        return Ok(is_watched);
                    }
                    self.await_mending(SiteFault::Lost { home: home.site.home }, begun)?;
                }
                Ok(None) => return Err(self.superseded(term)),
                Err(fault) => self.await_mending(fault, begun)?,
            }
        }
    }

    /// Takes the announcement of this rank's term back, if it is the last one; gives whether somebody watches.
    pub(super) fn withdraw(&self, term: Token) -> Result<bool, LockError> {
        let handle = self.handle();
        let reach = &handle.site.reach;
        let begun = self.begun();
        // First, so that a steward that announces it anew sees that it is not to.
        self.forget(term);
        loop {
            let home = Home::of(reach, &handle.at);
            match withdraw(&home, reach.rank, term.0) {
                // The steward may have announced it at the next one before it was forgotten here.
                Ok(_) if is_lost(&home) => self.await_mending(SiteFault::Lost { home: home.site.home }, begun)?,
                Ok(is_watched) => return Ok(is_watched),
                Err(fault) => self.await_mending(fault, begun)?,
            }
        }
    }

    /// Keeps it no longer, if it is this rank's.
    fn forget(&self, term: Token) {
        let reach = &self.handle().site.reach;
        reach.execute(KeptAt::of(&self.handle().at).forget(reach.rank, term.0));
    }

    /// Has those look who watch. Where that fails they look by themselves.
    pub(super) fn poke_watchers(&self) {
        let handle = self.handle();
        let reach = &handle.site.reach;
        let home = Home::of(reach, &handle.at);
        let ranks = 0..reach.topology.ranks();
        let reads: Vec<Request> =
            ranks.clone().map(|rank| Request::Read { at: ElectionAt::watches(&home.at, rank) }).collect();
        let watches = home.site.ask_until(&reads, Some(Instant::now() + PATIENCE)).unwrap_or_default();
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

/// Keeps a copy of a rank's announcement on its own node; `false` where another rank of it has been elected since.
fn keep(reach: &Reach, at: &ObjectAt, term: Token) -> bool {
    let kept = KeptAt::of(at);
    loop {
        let found = kept.reads().map(|read| reach.execute(read));
        match kept.keep(found, reach.rank, term.0) {
            Announcing::Ask(swaps) => swaps.map(|swap| reach.execute(swap)),
            Announcing::Done => break,
            Announcing::Superseded => return false,
        };
    }
    // SYNC POINT: stake. The fence pairs with the steward's: it finds the copy, or this rank finds the home lost.
    full_fence();
    true
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
pub(in crate::object) fn move_announcement(
    reach: &Reach,
    at: &ObjectAt,
    kind: ObjectKind,
    home: &Home,
) -> Result<(), SiteFault> {
    let leads = |rank: usize| {
        // One whose time is over may have been followed, by one that was lost with the home.
        !reach.has_ended(rank) && (!kind.has_ttl() || lease::is_held(reach, at, reach.topology.local_of(rank)))
    };
    let kept = || {
        let words = KeptAt::of(at).reads().map(|read| reach.execute(read));
        Announcement::of(words).leader().filter(|(rank, _)| leads(*rank))
    };
    let Some((rank, term)) = kept() else { return Ok(()) };
    announce(home, rank, term)?;
    if kept() != Some((rank, term)) {
        withdraw(home, rank, term)?;
    }
    Ok(())
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::job::pretended::{await_that, doubt, name_at, on_nodes};
    use crate::object::error::ObjectError;

    /// A rank has won the election, and is announced at the home and on its node.
    fn win(election: &Election) -> Mandate<'_> {
        let guard = election.seat.acquire(None).expect("nobody else has it");
        let home = Home::of(&election.handle().membership.reach, &election.handle().at);
        assert_eq!(announce(&home, home.site.reach.rank, guard.token().0), Ok(Some(false)));
        assert!(keep(&home.site.reach, &election.handle().at, guard.token()));
        guard
    }

    /// Longer than one step of a call takes that fails at once.
    const A_WHILE: Duration = Duration::from_millis(100);

    /// How long a call has waited in vain, as its error says.
    fn waited_of<T: std::fmt::Debug>(called: Result<T, LockError>) -> Duration {
        match called {
            Err(LockError::Unreachable { waited, .. }) => waited,
            other => panic!("{other:?}"),
        }
    }

    /// It looks again and again.
    #[test]
    fn who_watches_until_the_home_is_silent_says_how_long_it_has_watched() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let election = jobs[0].election(&name_at(&[1], 2, 0)).expect("room");
        let home = Home::of(&jobs[0].membership().reach, &election.handle().at);
        let ((watched, _election), lasted) = std::thread::scope(|scope| {
            let watch = move || (election.wait_for_change(None, Duration::from_secs(60)), election);
            let watching = scope.spawn(watch);
            let watches = ElectionAt::watches(&home.at, 0);
            await_that("it does not watch", || jobs[1].membership().reach.load(watches) != 0);
            let begun = Instant::now();
            std::thread::sleep(A_WHILE);
            let lasted = begun.elapsed();
            doubt(&jobs[0], 1, true);
            (watching.join().expect("no panic"), lasted)
        });
        doubt(&jobs[0], 1, false);
        assert!(waited_of(watched) >= lasted);
    }

    /// It is not heard of its home any more, and gives up: when that is heard again nobody leads.
    #[test]
    fn who_gives_up_as_the_home_is_silent_is_announced_there_no_more() {
        let jobs = on_nodes(&[0, 1], &JobOptions::new());
        let name = name_at(&[1], 2, 0);
        let [election, other] = [0, 1].map(|rank: usize| jobs[rank].election(&name).expect("room"));
        let (begun, guard) = (Instant::now(), win(&election));
        std::thread::sleep(A_WHILE);
        doubt(&jobs[0], 1, true);
        let given_up = election.lead(guard, Some(begun)).map(drop);
        let has_waited =
            |error| matches!(error, Some(LockError::Unreachable { node: 1, waited, .. }) if !waited.is_zero());
        assert!(waited_of(given_up) >= A_WHILE, "also for being elected");
        assert!(has_waited(election.leader().err()));
        let unopened = jobs[0].election(&name_at(&[1], 2, 1)).err();
        let Some(ObjectError::Table { source, .. }) = unopened else { panic!("{unopened:?}") };
        assert!(has_waited(Some(*source)));
        assert_eq!(other.leader().expect("it is here").map(|leader| leader.rank), Some(0), "it was told so");
        doubt(&jobs[0], 1, false);
        await_that("it leads for ever", || other.leader() == Ok(None));
    }

    /// Its time is over when the home is lost: another one may have followed it there, and be lost with the home.
    #[test]
    fn whose_time_is_over_is_not_announced_at_the_next_home() {
        for ttl in [Duration::from_secs(600), Duration::from_millis(50)] {
            let mut jobs = on_nodes(&[0, 1, 2], &JobOptions::new());
            let name = name_at(&[1, 2], 3, 0);
            let [election, other] = [0, 2].map(|rank: usize| jobs[rank].election_with_ttl(&name, ttl).expect("room"));
            let leadership = election.campaign().expect("nobody leads");
            let is_brief = ttl < Duration::from_secs(1);
            await_that("it does not end", || !is_brief || leadership.remaining() == Some(Duration::ZERO));
            let (reach, at) = (jobs[0].membership().reach.clone(), election.handle().at);
            drop(jobs.remove(1));
            await_that("it does not move", || Home::of(&reach, &at).site.home == 2);
            let leader = other.leader().expect("it is there").map(|leader| leader.rank);
            assert_eq!(leader, (!is_brief).then_some(0), "{ttl:?}");
        }
    }

    /// One of its node comes late, when another one has been elected since.
    #[test]
    fn who_comes_late_takes_no_copy_of_the_next_one() {
        let jobs = on_nodes(&[0, 0, 1], &JobOptions::new());
        let name = name_at(&[1], 2, 0);
        let election = jobs[0].election(&name).expect("room");
        let [first, second] = [0, 1].map(|rank: usize| jobs[rank].membership().reach.clone());
        let at = &election.handle().at;
        assert!(keep(&second, at, Token(7)));
        assert!(!keep(&first, at, Token(6)));
        let kept = KeptAt::of(at).reads().map(|read| first.execute(read));
        assert_eq!(Announcement::of(kept).leader(), Some((1, 7)));
        assert!(keep(&first, at, Token(8)));
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
        let given_up = election.lead(guard, None).map(drop);
        assert!(matches!(given_up, Err(LockError::NoRoom { node: 2, .. })), "{given_up:?}");
        drop(full);
        await_that("it does not move", || Home::of(&reach, &at).site.home == 2);
        assert_eq!(election.leader(), Ok(None));
        // What was left to do is done.
        await_that("something is left to do", || !errands::is_left(&reach, &at));
        assert_eq!(election.leader(), Ok(None));
    }
}
