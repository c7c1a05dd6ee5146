//! The exclusive lock inside of every kind of object that has one: its node's lock, and above it that of all nodes.
//!
//! In a job of one node the node's lock is all there is. In a job of several, whoever has it climbs on to the object's
//! home ([`Climb`]); a release leaves the node's hold there in place if others of the node wait, for a bounded number
//! of times. A request that is not waited for does the same: where it gets its node's lock at once it climbs until its
//! node's claim stands at the home, so that whoever gives the lock up finds it whether this rank looks or not.
//!
//! Where the home does not answer in time, a call ends all the same: the rank keeps its node's lock, which nobody of
//! the node could use, and an errand ([`super::errands`]) gives both up when the home is heard again.

use std::task::Poll;
use std::time::{Duration, Instant};

use super::Handle;
use super::climb::{Ascent, Climb, Reached, Summit};
use super::error::LockError;
use super::node_lock::{NodeLock, Taken};
use super::site::PATIENCE;
use super::waiting::Wait;
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::queue::Withdrawn;

/// A lock, as one rank has it.
#[derive(Debug)]
pub(super) struct Exclusive {
    node: NodeLock,
    /// In a job of several nodes.
    climb: Option<Climb>,
}

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Queued {
    wait: Wait,
    place: Place,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "whoever waits for other nodes is to allocate nothing for it")]
enum Place {
    /// Among the ranks of the node.
    OnNode,
    /// The node's lock is this rank's: on its way to the home, or waiting there for other nodes.
    Climbing(Ascent),
    /// The lock is this rank's, with this token.
    Granted(u64),
}

impl Exclusive {
    pub fn new(handle: &Handle) -> Self {
        let membership = &handle.membership;
        let usage = membership.reach.uses.usage_at(handle.at.key());
        let node = NodeLock::new(membership, &handle.at, handle.name.text(), usage);
        let climb = membership.reach.spans_nodes().then(|| Climb::new(&membership.reach, handle.at));
        Self { node, climb }
    }

    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// Waits until this rank holds the lock, for at most `limit`; gives the token.
    #[inline]
    pub fn acquire(&self, limit: Option<Duration>) -> Result<u64, LockError> {
        match self.node.take_at_once() {
            Taken::Held(token) if self.climb.is_none() => Ok(token),
            taken => self.acquire_long(taken, limit),
        }
    }

    #[cold]
    fn acquire_long(&self, taken: Taken, limit: Option<Duration>) -> Result<u64, LockError> {
        let mut granted = match taken {
            Taken::Held(token) => Some(token),
            Taken::Busy => None,
            Taken::Refused => self.node.try_take()?,
        };
        if granted.is_none() {
            granted = self.node.take_in_passing()?;
        }
        if granted.is_none() {
            self.node.request()?;
            granted = self.node.watch()?;
            if granted.is_none() {
                self.node.note_undisputed();
            }
        }
        if let (Some(token), None) = (granted, &self.climb) {
            return Ok(token);
        }
        let place = granted.map_or(Place::OnNode, |granted| self.place_from(granted));
        self.wait(Queued { wait: Wait::new(), place }, limit)
    }

    /// The place of a rank that has its node's lock, by this grant: of several nodes it has only asked for the lock.
    fn place_from(&self, granted: u64) -> Place {
        let Some(climb) = &self.climb else { return Place::Granted(granted) };
        self.node.note_request();
        Place::Climbing(climb.begin(granted))
    }

    /// Takes the lock if nobody holds it and nobody would be passed by for too long.
    #[inline]
    pub fn try_acquire(&self) -> Result<Option<u64>, LockError> {
        match (self.node.try_take_thoroughly()?, &self.climb) {
            (Some(granted), Some(climb)) => self.try_to_climb(climb, granted),
            (taken, _) => Ok(taken),
        }
    }

    #[cold]
    fn try_to_climb(&self, climb: &Climb, granted: u64) -> Result<Option<u64>, LockError> {
        self.node.note_request();
        let (mut ascent, begun) = (climb.begin_to_try(granted), Instant::now());
        match climb.wait(&mut ascent, begun, Some(PATIENCE)) {
            Some(Ok(Summit::Held(token))) => self.granted(token).map(Some),
            Some(Ok(Summit::Free)) => self.leave(climb).map(|()| None),
            Some(Err(fault)) => Err(self.fail(climb, &mut ascent, fault, begun.elapsed())),
            None => self.back_out(climb, &mut ascent, Duration::ZERO).map(|()| None),
        }
    }

    /// Makes a claim, or takes the lock at once. Where this rank gets its node's lock it waits for the home, but for no
    /// other rank.
    pub fn request(&self) -> Result<Queued, LockError> {
        let granted = self.node.try_take()?;
        let mut queued = Queued { wait: Wait::new(), place: Place::OnNode };
        match granted {
            Some(granted) => queued.place = self.place_from(granted),
            None => {
                self.node.request()?;
                self.node.note_undisputed();
            }
        }
        if let (Place::Climbing(ascent), Some(climb)) = (&mut queued.place, &self.climb)
            && let Some(reached) = climb.find_place(ascent)
        {
            let token = self.arrive(climb, ascent, reached, &queued.wait)?;
            queued.place = Place::Granted(token);
        }
        Ok(queued)
    }

    /// Whether the claim has been granted: the token. Waits for no other rank, and for the home only where it has to be
    /// told something. Where this fails the claim is taken back.
    pub fn test(&self, queued: &mut Queued) -> Result<Option<u64>, LockError> {
        let Queued { wait, place } = queued;
        if let Place::OnNode = place {
            let Some(granted) = self.node.test(wait)? else { return Ok(None) };
            if self.climb.is_none() {
                return Ok(Some(self.node.noted_if_long(granted, wait)));
            }
            *place = self.place_from(granted);
        }
        match (place, &self.climb) {
            (Place::Climbing(ascent), Some(climb)) => match climb.look(ascent) {
                Some(reached) => self.arrive(climb, ascent, reached, wait).map(Some),
                None => Ok(None),
            },
            (Place::Granted(token), _) => self.node.look_at_oneself().map(|()| Some(*token)),
            (Place::OnNode | Place::Climbing(_), _) => unreachable!("it has its node's lock, and climbs"),
        }
    }

    /// Waits until the claim is granted. Where this fails it is taken back.
    pub fn wait(&self, mut queued: Queued, limit: Option<Duration>) -> Result<u64, LockError> {
        let begun = Instant::now();
        let Queued { wait, place } = &mut queued;
        if let Place::OnNode = place {
            let granted = self.node.wait(wait, limit).inspect_err(|_| self.settle())?;
            if self.climb.is_none() {
                return Ok(self.node.noted_if_long(granted, wait));
            }
            *place = self.place_from(granted);
        }
        match (place, &self.climb) {
            (Place::Climbing(ascent), Some(climb)) => match climb.wait(ascent, begun, limit) {
                Some(reached) => self.arrive(climb, ascent, reached, wait),
                None => Err(self.give_up(climb, ascent, wait)),
            },
            (Place::Granted(token), _) => self.node.look_at_oneself().map(|()| *token),
            (Place::OnNode | Place::Climbing(_), _) => unreachable!("it has its node's lock, and climbs"),
        }
    }

    /// An ascent of this rank, which waits, has come to its end: the token.
    fn arrive(&self, climb: &Climb, ascent: &mut Ascent, reached: Reached, wait: &Wait) -> Result<u64, LockError> {
        match reached {
            Ok(Summit::Held(token)) => self.granted(token),
            Ok(Summit::Free) => unreachable!("who wants to hold it waits"),
            Err(fault) => Err(self.fail(climb, ascent, fault, wait.waited())),
        }
    }

    /// Takes a claim back, or what it has been granted. Whether it had not been granted; so also where the home does
    /// not answer, or this rank has been declared failed.
    pub fn cancel(&self, queued: Queued) -> bool {
        match (queued.place, &self.climb) {
            (Place::OnNode, None) => self.node.cancel(),
            (Place::OnNode, Some(climb)) => !self.leave_queue(climb),
            (Place::Climbing(mut ascent), Some(climb)) => !self.turn_back(climb, &mut ascent),
            (Place::Granted(_), _) => !self.give_back(),
            (Place::Climbing(_), None) => unreachable!("there is nothing to climb"),
        }
    }

    /// Releases what was granted, and says so.
    fn give_back(&self) -> bool {
        // Where this rank has been declared failed, or the home is not heard, nothing else can be done.
        let _ = self.release();
        true
    }

    /// Takes the claim back of a rank that has no more than a place among those of its node. Whether it had been
    /// granted the lock: its node's, also as it looks now, together with what that has at the home or is granted there.
    fn leave_queue(&self, climb: &Climb) -> bool {
        match self.node.look_and_withdraw() {
            Withdrawn::Cancelled => {
                self.settle_above(climb);
                false
            }
            Withdrawn::Granted(_) if climb.take_over() => self.give_back(),
            // The one before has left its claim.
            Withdrawn::Granted(granted) if climb.has_claim() => self.turn_back(climb, &mut climb.begin(granted)),
            Withdrawn::Granted(_) => {
                let _ = self.leave(climb);
                false
            }
        }
    }

    /// Gives an ascent up, wherever it is. Whether the lock had been granted to this rank by then.
    fn turn_back(&self, climb: &Climb, ascent: &mut Ascent) -> bool {
        if self.node.look_at_oneself().is_err() {
            return false;
        }
        // What is in the mailbox counts.
        let polled = if climb.has_claim() { climb.poll(ascent) } else { Poll::Pending };
        match polled {
            Poll::Ready(Ok(Summit::Held(_))) => return self.give_back(),
            Poll::Ready(Err(fault)) => drop(self.fail(climb, ascent, fault, Duration::ZERO)),
            // Where the home is lost, or not heard, nothing else can be done.
            Poll::Ready(Ok(Summit::Free)) | Poll::Pending => drop(self.back_out(climb, ascent, PATIENCE)),
        }
        ascent.was_granted()
    }

    /// Gives the lock up.
    #[inline]
    pub fn release(&self) -> Result<(), LockError> {
        match &self.climb {
            None => self.node.release(),
            Some(climb) => self.release_above(climb),
        }
    }

    #[cold]
    fn release_above(&self, climb: &Climb) -> Result<(), LockError> {
        climb.serve_in_passing();
        if let Err(error) = self.node.look_at_oneself() {
            // There is nothing to give back, but this rank is through with it.
            let _ = self.node.release();
            return Err(error);
        }
        if self.node.others_wait() && climb.may_pass_on() {
            return self.leave(climb);
        }
        let begun = Instant::now();
        match climb.descend(None) {
            Ok(()) => self.leave(climb),
            Err(fault) => {
                let left = self.stay(climb, fault);
                Err(left.err().unwrap_or_else(|| self.error(fault, begun.elapsed())))
            }
        }
    }

    /// Gives the node's lock up. What the node has at the home stays if others of it have use of it.
    fn leave(&self, climb: &Climb) -> Result<(), LockError> {
        let released = self.node.release();
        self.settle_above(climb);
        released
    }

    fn settle(&self) {
        if let Some(climb) = &self.climb {
            self.settle_above(climb);
        }
    }

    /// If the node has something at the home, and nobody of it has or wants its lock any more: gives that back.
    fn settle_above(&self, climb: &Climb) {
        while self.node.is_idle() && climb.is_engaged() {
            // Another rank of the node may have come; or another thread of this one.
            let Ok(Some(_)) = self.node.try_take() else { return };
            let settled = match climb.settle() {
                Err(fault @ (SiteFault::Silent { .. } | SiteFault::Late { .. })) => {
                    return drop(self.stay(climb, fault));
                }
                settled => settled,
            };
            if self.node.release().is_err() || settled.is_err() {
                return;
            }
        }
    }

    /// The node holds it, and this rank has the node's lock, unless it has been declared failed.
    fn granted(&self, token: u64) -> Result<u64, LockError> {
        match self.node.look_at_oneself() {
            Ok(()) => {
                self.node.note_request_granted();
                Ok(self.node.noted(token))
            }
            Err(error) => {
                let _ = self.node.release();
                Err(error)
            }
        }
    }

    /// A call has failed on its way: this rank was declared failed, or waits for a node that nobody hears.
    fn fail(&self, climb: &Climb, ascent: &mut Ascent, fault: SiteFault, waited: Duration) -> LockError {
        let left = match fault {
            SiteFault::Silent { .. } | SiteFault::NoRoom { .. } => self.back_out(climb, ascent, PATIENCE),
            _ => self.stay(climb, fault),
        };
        left.err().unwrap_or_else(|| self.error(fault, waited))
    }

    /// This rank gives its ascent up, and its node's lock: now, or as soon as the home answers.
    fn back_out(&self, climb: &Climb, ascent: &mut Ascent, patience: Duration) -> Result<(), LockError> {
        match climb.abandon(ascent, self.node.others_wait(), patience) {
            Ok(()) => self.leave(climb),
            Err(fault) => self.stay(climb, fault),
        }
    }

    /// The home could not be told that this rank gives something up. Where it may be told later this rank keeps its
    /// node's lock until then, and has nothing to do with it any more; otherwise it was declared failed.
    fn stay(&self, climb: &Climb, fault: SiteFault) -> Result<(), LockError> {
        let is_later = matches!(fault, SiteFault::Silent { .. } | SiteFault::Late { .. } | SiteFault::NoRoom { .. });
        if is_later && climb.is_engaged() {
            self.node.leave();
            return Ok(());
        }
        let released = self.node.release();
        if is_later { released } else { Err(self.node.excluded()) }
    }

    fn error(&self, fault: SiteFault, waited: Duration) -> LockError {
        match fault {
            SiteFault::Silent { node } | SiteFault::Late { home: node } => self.node.unreachable(node, waited),
            SiteFault::NoRoom { home } => self.node.no_room(home),
            SiteFault::Excluded | SiteFault::Lost { .. } | SiteFault::Broken { .. } => self.node.excluded(),
        }
    }

    /// The time is over.
    fn give_up(&self, climb: &Climb, ascent: &mut Ascent, wait: &Wait) -> LockError {
        let holder_node = if ascent.is_in_the_middle() { None } else { climb.holder() };
        match self.back_out(climb, ascent, Duration::ZERO) {
            Ok(()) => self.node.timed_out(wait, holder_node),
            Err(error) => error,
        }
    }

    /// The ranks of this node that wait, in their order.
    pub fn waiting_ranks(&self) -> Vec<usize> {
        self.node.waiting_ranks()
    }

    /// If this rank has been declared failed, it has neither the lock nor a claim.
    pub fn look_at_oneself(&self) -> Result<(), LockError> {
        self.node.look_at_oneself()
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::job::Job;
    use crate::job::pretended::{await_that, name_at, on_nodes};

    /// A lock at home on node 0 of two, the other of which has two ranks: that of each rank, with what keeps it there.
    fn of_three(jobs: &[Job]) -> [(Exclusive, crate::Lock); 3] {
        let name = name_at(&[0], 2, 0);
        [0, 1, 2].map(|rank: usize| {
            let lock = jobs[rank].lock(&name).expect("room");
            (Exclusive::new(lock.handle()), lock)
        })
    }

    /// A thread waits in a call; others of its rank hold nothing whose guard they could drop.
    #[test]
    fn who_asks_beside_a_thread_that_waits_is_told_that_its_rank_has_asked() {
        let jobs = on_nodes(&[0, 1, 1], &JobOptions::new());
        let [(there, _there), (here, _here), _] = of_three(&jobs);
        let beside = Exclusive::new(_here.handle());
        there.acquire(None).expect("it is free");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || here.acquire(None).map(|_| here.release()));
            await_that("it does not ask", || beside.climb.as_ref().expect("several nodes").has_claim());
            let refused = [beside.acquire(None).err(), beside.try_acquire().err(), beside.request().err()];
            there.release().expect("it was held");
            assert_eq!(waiting.join().expect("no panic"), Ok(Ok(())));
            let is_request = |error: &Option<LockError>| matches!(error, Some(LockError::AlreadyRequested { .. }));
            assert!(refused.iter().all(is_request), "{refused:?}");
        });
    }

    /// The rank before it on its node has left neither the lock nor a claim: the look that finds that asks for a place.
    #[test]
    fn who_inherits_nothing_has_a_place_as_soon_as_it_looks() {
        let jobs = on_nodes(&[0, 1, 1], &JobOptions::new());
        let [(there, _there), (neighbour, _neighbour), (here, _here)] = of_three(&jobs);
        there.acquire(None).expect("it is free");
        neighbour.node.try_take().expect("nobody fails").expect("nobody of its node has it");
        let mut queued = here.request().expect("a place");
        neighbour.node.release().expect("it was held");
        let mut looks = || here.test(&mut queued).map(|_| matches!(queued.place, Place::OnNode));
        await_that("its turn on its node never comes", || looks() == Ok(false));
        assert!(here.climb.as_ref().expect("there are several nodes").has_claim());
        there.release().expect("it was held");
        assert!(here.wait(queued, None).is_ok());
        here.release().expect("it was held");
    }
}
