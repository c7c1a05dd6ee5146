//! What a rank does to a counter of a job with several nodes: drives the machine of [`crate::coord::objects::tally`],
//! which says how an addition is made once, and so that no node's death loses it.
//!
//! The machine's words are this node's memory, or behind a fabric; its second node is [`super::second`]'s, and which
//! home comes next [`super::custody`]'s to say. Where the home is this node and its words are memory nothing here
//! leaves the CPU but what the second node is told.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Handle;
use super::counter::CounterError;
use super::custody::{self, AtHome, Bound, Custody};
use super::reach::Reach;
use super::site::Site;
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::tally::{Bond, End, Goal, Operation, Sums, TallyAt, Trouble, Turn, Way};
use crate::fabric::shm::Segment;
use crate::fabric::{Memory, Request, WordAt};
use crate::sync::{Ordering, publish};

/// What a rank's handles of a counter share: one of its threads at a time changes it.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Option<Bound<Sums>>>);

impl AtHome for Sums {
    fn words(reach: &Reach, at: ObjectAt) -> Vec<WordAt> {
        // Where no node was lost, nothing was carried. (Asked when there is a home: one may be lost before.)
        let ranks = if reach.lives() == 0 { 0 } else { reach.topology.ranks() };
        (0..ranks).map(|rank| TallyAt(at).carried(rank)).collect()
    }

    fn of(reach: &Reach, carried: &[u64]) -> Self {
        Self::of(carried, reach.rank)
    }
}

/// One handle's use of its rank's part.
struct Use<'call> {
    handle: &'call Handle,
    bound: MutexGuard<'call, Option<Bound<Sums>>>,
    custody: Custody,
}

impl Tally {
    /// Changes the value, once, and gives the one before; or only gives it.
    pub fn reach(&self, handle: &Handle, custody: Custody, goal: Goal) -> Result<u64, CounterError> {
        // No code panics while it holds it.
        let bound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut using = Use { handle, bound, custody };
        loop {
            custody.bind(handle, &mut using.bound).map_err(|fault| using.error(fault))?;
            if let Some(value) = using.operate(goal)? {
                return Ok(value);
            }
        }
    }
}

impl Use<'_> {
    /// Reaches a goal at one home; `None`: it is lost, and the goal is to be reached at the next one.
    fn operate(&mut self, goal: Goal) -> Result<Option<u64>, CounterError> {
        let bond = self.bond();
        let (mut operation, mut turn) = Operation::begin(bond, goal, self.number(bond.way), self.sum());
        let mut fault = None;
        loop {
            turn = match turn {
                Turn::Note(sum) => {
                    self.note(sum);
                    operation.noted()
                }
                Turn::Copy(sum) => match self.copy(sum) {
                    Ok(()) => operation.copied(),
                    Err(silent @ SiteFault::Silent { .. }) => {
                        fault = Some(silent);
                        operation.uncopied()
                    }
                    Err(fault) => return Err(self.error(fault)),
                },
                Turn::Ask(batch) if bond.way == Way::Memory => {
                    operation.answered(change_here(self.handle.segment(), &batch))
                }
                Turn::Ask(batch) => match ask(self.site(), &batch) {
                    Ok(answer) => operation.answered(answer),
                    Err(met) => {
                        let trouble = trouble(met).ok_or_else(|| self.error(met))?;
                        fault = Some(met);
                        operation.failed(trouble)
                    }
                },
                Turn::Rebind => {
                    match custody::bind_anew(self.handle, &mut self.bound).map(|bound| bound.kept.carried) {
                        Ok(carried) => operation.rebound(carried),
                        // What is noted counts as soon as the object is at home somewhere.
                        Err(SiteFault::Silent { node: home } | SiteFault::NoRoom { home }) => {
                            return Err(self.error(SiteFault::Broken { home }));
                        }
                        Err(fault) => return Err(self.error(fault)),
                    }
                }
                Turn::Over(end) => return self.end(end, fault),
            };
        }
    }

    fn end(&self, end: End, fault: Option<SiteFault>) -> Result<Option<u64>, CounterError> {
        let home = self.site().home;
        match end {
            End::Done(value) => Ok(Some(value)),
            End::Again => Ok(None),
            End::AnswerLost => {
                let (rank, name) = (self.handle.membership.rank, self.handle.name.text().to_owned());
                Err(CounterError::AnswerLost { rank, name, home })
            }
            End::Uncertain => Err(self.error(SiteFault::Broken { home })),
            End::NotMade => Err(self.error(fault.unwrap_or(SiteFault::Silent { node: home }))),
        }
    }

    /// The home, as it was bound to before.
    fn bond(&self) -> Bond {
        let Bound { home, kept, .. } = self.bound();
        let way = match (home.site.is_here(), home.site.is_memory()) {
            (_, true) => Way::Memory,
            (true, false) => Way::Device,
            (false, _) => Way::Away,
        };
        Bond { at: TallyAt(home.at).of_rank(self.handle.membership.rank), way, sums: *kept }
    }

    /// For the journal, which is not written in memory.
    fn number(&self, way: Way) -> u64 {
        if way == Way::Memory { 0 } else { self.handle.membership.reach.uses.next_number() }
    }

    fn bound(&self) -> &Bound<Sums> {
        self.bound.as_ref().expect("bound before")
    }

    fn site(&self) -> &Site {
        &self.bound().home.site
    }

    /// Writes this rank's sum to the second node, if there is one: this node is the home.
    fn copy(&self, sum: u64) -> Result<(), SiteFault> {
        let rank = self.handle.membership.rank;
        self.custody.copy(self.handle, |second| {
            let at = TallyAt(second.at).carried(rank);
            ask(&second.site, &[Request::Write { at, value: sum }, Request::Read { at }]).map(drop)
        })
    }

    /// What this rank has added, with what it was about to add last.
    fn sum(&self) -> u64 {
        let (handle, reach) = (self.handle, &self.handle.membership.reach);
        reach.load(TallyAt::sum(&handle.at, reach.local()))
    }

    /// Notes it on this node.
    fn note(&self, sum: u64) {
        let (handle, reach) = (self.handle, &self.handle.membership.reach);
        // SYNC POINT: stake. A full fence pairs with the steward's: it finds this, or this rank finds the home lost.
        publish(handle.segment().word(TallyAt::sum(&handle.at, reach.local())), sum);
    }

    fn error(&self, fault: SiteFault) -> CounterError {
        CounterError::of(self.handle, fault)
    }
}

/// Does what is to be done to the home's words where they are this node's memory; gives the one answer.
fn change_here(segment: &Segment, batch: &[Request]) -> u64 {
    let answers = batch.iter().map(|request| {
        let word = segment.word(request.at());
        // SYNC POINT: counter. Who sees the sum sees what those did before who have added to it, also through a fabric.
        match *request {
            Request::FetchAdd { add, .. } => Some(word.fetch_add(add, Ordering::AcqRel)),
            Request::CompareSwap { expected, new, .. } => {
                let found = word.compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire);
                Some(found.unwrap_or_else(|found| found))
            }
            Request::Read { .. } => Some(word.load(Ordering::Acquire)),
            Request::Write { value, .. } => {
                // Relaxed: read by others once this rank has ended, or has no handle.
                word.store(value, Ordering::Relaxed);
                None
            }
        }
    });
    // All of them are done.
    answers.fold(None, |first, answer| first.or(answer)).expect("one request of each batch has an answer")
}

/// What a fault is to the machine; `None`: this rank was declared failed, or there is no home.
fn trouble(fault: SiteFault) -> Option<Trouble> {
    match fault {
        SiteFault::Broken { .. } => Some(Trouble::Broken),
        SiteFault::Lost { .. } => Some(Trouble::Lost),
        SiteFault::Silent { .. } => Some(Trouble::Silent),
        SiteFault::Late { .. } | SiteFault::NoRoom { .. } | SiteFault::Excluded => None,
    }
}

/// One batch, of which one request is answered, unless the home is lost or this rank was declared failed.
fn ask(site: &Site, batch: &[Request]) -> Result<u64, SiteFault> {
    if site.reach.has_lost(site.home) {
        return Err(SiteFault::Lost { home: site.home });
    }
    if site.reach.own_end().is_some() {
        return Err(SiteFault::Excluded);
    }
    site.ask(batch).map(|answers| answers[0])
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::coord::objects::directory::{Nature, ObjectKind};
    use crate::job::pretended::{await_that, name_at, on_nodes};

    /// The home is lost while a rank adds to it, and the next one has no room: what the rank has noted counts there as
    /// soon as there is some.
    #[test]
    fn an_addition_whose_next_home_has_no_room_is_uncertain() {
        const PLACES: usize = 2;
        let mut jobs = on_nodes(&[0, 1, 2], &JobOptions::new().objects(PLACES).durable_copies(0));
        let full = [0, 1].map(|index| jobs[2].lock(&name_at(&[2], 3, index)).expect("room"));
        let name = name_at(&[1, 2], 3, 0);
        let nature = Nature { kind: ObjectKind::Counter, parameter: 0 };
        let handle = Handle::open(jobs[0].membership(), &name, nature).expect("room");
        let (tally, custody) = (Tally::default(), Custody::of(&handle, nature));
        assert_eq!(tally.reach(&handle, custody, Goal::Add(3)), Ok(0));
        drop(jobs.remove(1));
        await_that("it does not leave", || handle.membership.reach.has_lost(1));
        let mut using = Use { handle: &handle, bound: tally.0.lock().expect("nobody panics with it"), custody };
        let ended = using.operate(Goal::Add(5));
        assert!(matches!(ended, Err(CounterError::Uncertain { home: 2, .. })), "{ended:?}");
        drop(using);
        let not_begun = tally.reach(&handle, custody, Goal::Add(7));
        assert!(matches!(not_begun, Err(CounterError::NoRoom { node: 2, .. })), "{not_begun:?}");
        drop(full);
        await_that("it does not move", || jobs[0].counter(&name).is_ok_and(|counter| counter.load() == Ok(8)));
    }
}
