//! What a rank does at a reader-writer lock's home, and with what its node has there: its machines
//! ([`crate::coord::objects::sharing`], [`crate::coord::objects::shared_hold`]) are given what they want, until the
//! call has ended, its time is over, or the home does not answer.

use std::mem::{self, Discriminant};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::RwLock;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::shared_hold::{Awaited, HoldTurn, SharedHold};
use crate::coord::objects::sharing::{Member, Sharing, SharingAt, Turn};
use crate::fabric::{WordAt, raise_alarm};
use crate::object::anchor;
use crate::object::errands::{self, Errand};
use crate::object::error::LockError;
use crate::object::homes::Home;
use crate::object::reach::Reach;
use crate::object::shared_hold::{self, Parting};
use crate::object::usage::{Usage, Use};
use crate::object::vigil::Vigil;

/// How a call has ended that did not fail.
pub(super) enum End {
    In,
    Out,
    /// The time was over, and these were waited for.
    GivenUp(Vec<Member>),
}

impl RwLock {
    /// Reads by this rank's own part, as its stake says.
    #[cold]
    pub(super) fn read_alone(&self, vigil: &mut Vigil<'_>) -> Result<End, LockError> {
        let turn = self.part.borrow_mut().read();
        self.drive(turn, vigil)
    }

    /// Reads from another node than the home.
    pub(super) fn read_with_others(&self, limit: Option<Duration>) -> Result<End, LockError> {
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

    pub(super) fn stop_sharing(&self) -> Result<(), LockError> {
        let turn = self.hold.borrow_mut().leave();
        let left = self.share(turn, &mut Vigil::new(&self.handle, None));
        let left = left.and_then(|_| anchor::look_at_oneself(&self.handle)).inspect_err(|_| self.forget());
        self.end(Use::Nothing);
        left
    }

    /// This rank has the writers' lock. Whether the readers have left in time; else who reads: then it has given it up.
    pub(super) fn enter(&self, token: u64, limit: Option<Duration>) -> Result<Result<u64, Vec<Member>>, LockError> {
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

    /// Gives up what this rank has by its own part.
    pub(super) fn leave(&self) -> Result<(), LockError> {
        let turn = self.part.borrow_mut().leave();
        self.drive(turn, &mut Vigil::new(&self.handle, None)).map(drop)
    }

    /// From writing to reading.
    pub(super) fn read_on(&self) -> Result<(), LockError> {
        self.anchor.note_stake(&self.handle, Sharing::READS);
        let turn = self.part.borrow_mut().downgrade();
        let reads = self.drive(turn, &mut Vigil::new(&self.handle, None));
        let released = self.writers.release();
        let reads_on = reads.and(released);
        if reads_on.is_err() {
            self.forget();
        }
        self.end(if reads_on.is_ok() { Use::Shared } else { Use::Nothing });
        reads_on
    }

    /// Does what the machine of the node's hold wants, until it has ended, or the time is over; `None`: this rank is to
    /// go on by its own part.
    fn share(&self, mut turn: HoldTurn, vigil: &mut Vigil<'_>) -> Result<Option<End>, LockError> {
        let reach = &self.handle.membership.reach;
        let (mut given_up, mut wait) = (None, Waiting::default());
        loop {
            turn = match turn {
                HoldTurn::Step => shared_hold::step(reach, &mut self.hold.borrow_mut()),
                HoldTurn::Ask(requests) => {
                    vigil.note();
                    let asked = self.anchor.ask_until(&self.handle, &requests, vigil.until());
                    match asked.inspect_err(|error| self.leave_hold_behind(error))? {
                        Some(answers) => shared_hold::answered(reach, &mut self.hold.borrow_mut(), &answers),
                        None => self.share_anew(vigil)?,
                    }
                }
                HoldTurn::Wait => {
                    let awaited = self.hold.borrow().awaited().expect("it waits for something");
                    match vigil.pause_at_most(&ranks_of(reach, awaited), awaited.patience(wait.so_far(awaited))) {
                        true => {
                            anchor::look_at_oneself(&self.handle)?;
                            vigil.note();
                            self.hold.borrow_mut().look(wait.so_far(awaited))
                        }
                        false => {
                            given_up = Some(awaited.writer().into_iter().map(Member::Rank).collect());
                            self.hold.borrow_mut().leave()
                        }
                    }
                }
                HoldTurn::In => return Ok(Some(End::In)),
                HoldTurn::Aside => return Ok(None),
                HoldTurn::Out => match vigil.in_vain() {
                    Some(error) => return Err(error),
                    None => return Ok(Some(given_up.map_or(End::Out, End::GivenUp))),
                },
                HoldTurn::Outlive(_) => unreachable!("stewards do"),
            };
        }
    }

    /// Goes on with the node's hold at the next home.
    #[cold]
    fn share_anew(&self, vigil: &Vigil<'_>) -> Result<HoldTurn, LockError> {
        let next = self.anchor.await_next_until(&self.handle, vigil.until());
        next.inspect_err(|error| self.leave_hold_behind(error))?;
        let at = self.at_home();
        self.part.borrow_mut().set_home(at);
        Ok(self.hold.borrow_mut().restart(at))
    }

    /// Does what the machine of this rank's own part wants, until it has ended, or the time is over.
    fn drive(&self, mut turn: Turn, vigil: &mut Vigil<'_>) -> Result<End, LockError> {
        let reach = &self.handle.membership.reach;
        let mut given_up = None;
        loop {
            turn = match turn {
                Turn::Ask(requests) => {
                    vigil.note();
                    let asked = self.anchor.ask_until(&self.handle, &requests, vigil.until());
                    match asked.inspect_err(|error| self.leave_behind(error))? {
                        Some(answers) => answered(reach, &mut self.part.borrow_mut(), &answers),
                        None => self.restart(vigil)?,
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
                Turn::Out => match vigil.in_vain() {
                    Some(error) => return Err(error),
                    None => return Ok(given_up.map_or(End::Out, End::GivenUp)),
                },
            };
        }
    }

    /// Goes on with this rank's own part at the next home.
    #[cold]
    fn restart(&self, vigil: &Vigil<'_>) -> Result<Turn, LockError> {
        let next = self.anchor.await_next_until(&self.handle, vigil.until());
        next.inspect_err(|error| self.leave_behind(error))?;
        let at = self.at_home();
        self.hold.borrow_mut().set_home(at);
        Ok(self.part.borrow_mut().restart(at))
    }

    /// This rank was declared failed; or the home has not answered, and is told that this rank has nothing to do with
    /// the lock when it does.
    #[cold]
    fn leave_behind(&self, error: &LockError) {
        self.forget();
        if !matches!(error, LockError::Excluded { .. }) {
            self.leave_to(Leaving { at: self.handle.at, usage: Arc::clone(&self.usage) });
        }
    }

    /// The same in the middle of what this rank does with its node's hold.
    #[cold]
    fn leave_hold_behind(&self, error: &LockError) {
        let hold = self.hold.replace(self.no_share());
        self.forget();
        if !matches!(error, LockError::Excluded { .. }) {
            self.leave_to(Parting::of_rank(self.handle.at, hold, self.anchor.node(), Arc::clone(&self.usage)));
        }
    }

    fn leave_to(&self, errand: impl Errand + 'static) {
        self.has_left.set(true);
        self.usage.leave();
        errands::leave(&self.handle.membership.reach, errand);
    }

    /// This rank has nothing to do with the lock any more; where it has left an errand, that sees to it.
    #[cold]
    pub(super) fn forget(&self) {
        if self.has_left.get() {
            return;
        }
        self.anchor.note_stake(&self.handle, Sharing::NO_STAKE);
        *self.part.borrow_mut() = Sharing::new(self.at_home(), self.handle.membership.rank);
        *self.hold.borrow_mut() = self.no_share();
        if self.handle.membership.reach.own_end().is_some() {
            // Its node's steward looks what it has left there.
            raise_alarm(self.handle.segment());
        }
    }

    /// Where the words are.
    pub(super) fn at_home(&self) -> SharingAt {
        SharingAt::of(&self.anchor.words(), self.handle.membership.topology.ranks())
    }

    fn no_share(&self) -> SharedHold {
        let reach = &self.handle.membership.reach;
        SharedHold::new(shared_hold::place_of(reach, &self.handle.at, self.at_home()), reach.local())
    }
}

/// The ranks of the job that hold up who waits for this.
fn ranks_of(reach: &Reach, awaited: Awaited) -> Vec<usize> {
    match awaited {
        Awaited::Phase(writer) | Awaited::Room(writer) => writer.into_iter().collect(),
        Awaited::Neighbour(local) => vec![shared_hold::rank_at(reach, local)],
    }
}

/// Since when a call waits for what it waits for now.
#[derive(Default)]
struct Waiting(Option<(Discriminant<Awaited>, Instant)>);

impl Waiting {
    /// How long it has waited for something like this without a break.
    fn so_far(&mut self, awaited: Awaited) -> Duration {
        let kind = mem::discriminant(&awaited);
        let since = self.0.filter(|(before, _)| *before == kind).map_or_else(Instant::now, |(_, since)| since);
        self.0 = Some((kind, since));
        since.elapsed()
    }
}

fn answered(reach: &Reach, part: &mut Sharing, answers: &[u64]) -> Turn {
    let has_ended = |member| match member {
        Member::Rank(rank) => reach.has_ended(rank),
        Member::Node(node) => reach.has_lost(node),
    };
    part.answered(answers, has_ended, |called| shared_hold::call(reach, called))
}

/// The home is to be told that a rank neither reads nor writes.
#[derive(Debug)]
struct Leaving {
    at: ObjectAt,
    usage: Arc<Usage>,
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
            turn = answered(reach, &mut part, &answers);
        }
        if Home::of(reach, &self.at).site.home != home.site.home {
            // What was noted before has moved with it.
            return Poll::Pending;
        }
        self.usage.end_errand();
        Poll::Ready(())
    }
}
