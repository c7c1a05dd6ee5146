//! A node's hold of a reader-writer lock, which its ranks share: what drives the machine of
//! [`crate::coord::objects::shared_hold`] besides a rank's calls. A steward closes holds that nobody uses, and carries
//! those in use to the next home; where the home does not answer, whoever was opening or closing one leaves that to an
//! errand, a steward also where the home has not shut a dead rank out yet.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::catalogue;
use super::climb::Climb;
use super::errands::{self, Errand};
use super::homes::Home;
use super::reach::Reach;
use super::site::Site;
use super::usage::Usage;
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::layout::ObjectAt;
use crate::coord::objects::shared_hold::{HoldTurn, SharedAt, SharedHold, SharedWord, Stand};
use crate::coord::objects::sharing::{Called, Member, SharingAt};
use crate::fabric::node::ObjectTable;
use crate::fabric::{Request, WordAt};

/// How long it is waited at a time until nothing of a rank that has ended can arrive at the home.
const OUTLIVING_LIMIT: Duration = Duration::from_millis(20);
/// How long another node is asked which of its ranks read.
pub(super) const ASKING_LIMIT: Duration = Duration::from_millis(20);

/// Where this node's hold of an object stands, whose home has it there.
pub(super) fn place_of(reach: &Reach, at: &ObjectAt, at_home: SharingAt) -> SharedAt {
    SharedAt::of(at, reach.here(), at_home)
}

/// The rank at a place of this node's rank table.
pub(super) fn rank_at(reach: &Reach, local: usize) -> usize {
    reach.topology.ranks_of(reach.here())[local]
}

/// Has a rank look.
pub(super) fn call(reach: &Reach, called: Called) {
    match called {
        Called::Rank(rank) => reach.poke(rank),
        Called::Of { node, local } => {
            reach.topology.ranks_of(node).get(local).into_iter().for_each(|rank| reach.poke(*rank));
        }
    }
}

/// Makes a machine's next step.
#[inline]
pub(super) fn step(reach: &Reach, hold: &mut SharedHold) -> HoldTurn {
    hold.step(&*reach.segment, |local| reach.has_ended_here(local), |called| call(reach, called))
}

/// Gives a machine its answers.
pub(super) fn answered(reach: &Reach, hold: &mut SharedHold, answers: &[u64]) -> HoldTurn {
    hold.answered(answers, |rank| reach.has_ended(rank), |called| call(reach, called))
}

/// After deaths, or before an object of this node goes: closes a hold that nobody uses any more, by an errand where
/// that takes long. Whether there is none now.
pub(super) fn settle(reach: &Reach, at: &ObjectAt) -> bool {
    let is_closed = || SharedWord(reach.load(at.shared_hold())).stand() == Stand::Nothing;
    let Some((sweep, home)) = sweep(reach, at) else { return true };
    // One at a time: it may be an errand already.
    let usage = reach.uses.usage_at(at.shared_hold());
    if !is_closed() && usage.begin_sweeping() {
        let mut closing = Parting { at: *at, hold: sweep, next: HoldTurn::Step, home, usage };
        if closing.run(reach).is_pending() {
            closing.usage.leave();
            errands::leave(reach, closing);
        }
    }
    is_closed()
}

/// What closes a hold that nobody uses any more; and its home, if it has one.
fn sweep(reach: &Reach, at: &ObjectAt) -> Option<(SharedHold, usize)> {
    let (home, at_home) = catalogue::noted_home(reach, at)?;
    let place = place_of(reach, at, SharingAt::of(&at_home, reach.topology.ranks()));
    Some((SharedHold::sweep(place, reach.local()), home))
}

/// The home is lost: carries a hold to the next one.
pub(super) fn carry(reach: &Reach, at: &ObjectAt, new: &Home) -> Result<(), SiteFault> {
    let place = place_of(reach, at, SharingAt::of(&new.at, reach.topology.ranks()));
    let mut hold = SharedHold::carry(place, reach.local());
    let mut turn = HoldTurn::Step;
    while turn != HoldTurn::Out {
        turn = match turn {
            HoldTurn::Ask(requests) => match new.site.ask(&requests) {
                Ok(answers) => answered(reach, &mut hold, &answers),
                // They may have been done or not: once more.
                Err(SiteFault::Broken { .. }) => HoldTurn::Ask(requests),
                Err(fault) => return Err(fault),
            },
            _ => step(reach, &mut hold),
        };
    }
    Ok(())
}

/// What a rank or a steward has begun with its node's hold is to be brought to its end, as far as the home answers.
#[derive(Debug)]
pub(super) struct Parting {
    at: ObjectAt,
    hold: SharedHold,
    next: HoldTurn,
    /// The home that the machine asks.
    home: usize,
    /// Of a rank, that does nothing else with the lock until then; of a steward, that nothing else sweeps this hold.
    usage: Arc<Usage>,
}

impl Parting {
    /// Of a rank's, which has asked that home and got no answer.
    pub fn of_rank(at: ObjectAt, mut hold: SharedHold, home: usize, usage: Arc<Usage>) -> Self {
        let next = hold.abandon();
        Self { at, hold, next, home, usage }
    }

    /// Whether it has come to its end, or the object has gone.
    fn is_over(&self, reach: &Reach) -> bool {
        match self.next {
            HoldTurn::Step => false,
            HoldTurn::Ask(_) | HoldTurn::Outlive(_) => catalogue::noted_home(reach, &self.at).is_none(),
            HoldTurn::Wait | HoldTurn::In | HoldTurn::Aside | HoldTurn::Out => true,
        }
    }

    /// What the machine wants after what it wants now, if that can be done.
    fn go_on(&mut self, reach: &Reach) -> Option<HoldTurn> {
        match &self.next {
            HoldTurn::Ask(requests) => {
                let requests = requests.clone();
                errands::home_now(reach, &self.at).and_then(|home| self.ask(&home, &requests))
            }
            HoldTurn::Outlive(local) => outlive(reach, &self.at, *local).then(|| self.hold.outlived()),
            _ => Some(step(reach, &mut self.hold)),
        }
    }

    /// The home does not answer: those who wait beside a hold that is being closed read by words of their own at once.
    fn give_way(&mut self, reach: &Reach) {
        if self.hold.is_waited_for() {
            self.next = self.hold.abandon();
            while self.next == HoldTurn::Step {
                self.next = step(reach, &mut self.hold);
            }
        }
    }

    fn ask(&mut self, home: &Home, requests: &[Request]) -> Option<HoldTurn> {
        let reach = &home.site.reach;
        if home.site.home != self.home {
            // What has been carried there is known by the hold's word.
            self.home = home.site.home;
            return Some(self.hold.restart(SharingAt::of(&home.at, reach.topology.ranks())));
        }
        errands::ask(home, requests).map(|answers| answered(reach, &mut self.hold, &answers))
    }
}

impl Errand for Parting {
    fn object(&self) -> WordAt {
        self.at.key()
    }

    fn run(&mut self, reach: &Reach) -> Poll<()> {
        // Nothing was changed before that, and by now the object may be at home elsewhere: it is begun anew, as all
        // that stewards do.
        if let (HoldTurn::Outlive(_), Some((sweep, home))) = (&self.next, sweep(reach, &self.at)) {
            (self.hold, self.home, self.next) = (sweep, home, HoldTurn::Step);
        }
        while !self.is_over(reach) {
            match self.go_on(reach) {
                Some(next) => self.next = next,
                None => {
                    self.give_way(reach);
                    return Poll::Pending;
                }
            }
        }
        self.usage.end_errand();
        Poll::Ready(())
    }
}

/// Whether nothing of a rank of this node that has ended can arrive at the home any more.
fn outlive(reach: &Reach, at: &ObjectAt, local: usize) -> bool {
    let Some(home) = errands::home_now(reach, at) else { return false };
    let (climb, begun, mut asked) = (Climb::new(reach, *at), Instant::now(), None);
    loop {
        match climb.outlive(&home.site, local, &mut asked) {
            Poll::Ready(outlived) => return outlived.is_ok(),
            Poll::Pending if begun.elapsed() >= OUTLIVING_LIMIT => {
                asked.iter_mut().for_each(|asked| home.site.forget(asked));
                return false;
            }
            Poll::Pending => home.site.pause(begun.elapsed()),
        }
    }
}

/// The words of a node's hold of an object, and of its ranks' stakes.
fn words_of(at: &ObjectAt) -> impl Iterator<Item = WordAt> {
    let at = *at;
    std::iter::once(at.shared_hold()).chain((0..at.members()).map(move |local| at.stake(local)))
}

/// The places of the ranks that share a hold, by its words.
fn sharers(words: &[u64]) -> Vec<usize> {
    SharedWord(words[0]).sharers(&words[1..])
}

/// Ranks of those who are waited for, to be looked after: of other nodes any one, since they look at all of theirs.
pub(super) fn to_be_asked_after(reach: &Reach, at: &ObjectAt, awaited: &[Member]) -> Vec<usize> {
    let ranks = |member: &Member| match member {
        Member::Rank(rank) => vec![*rank],
        Member::Node(node) if *node == reach.here() => {
            let words: Vec<u64> = words_of(at).map(|at| reach.load(at)).collect();
            sharers(&words).into_iter().map(|local| rank_at(reach, local)).collect()
        }
        Member::Node(node) => reach.topology.ranks_of(*node).iter().take(1).copied().collect(),
    };
    awaited.iter().flat_map(ranks).collect()
}

/// Which ranks of a node read, where it shares a hold; `place`: where the node has the object, as its home says. If it
/// does not answer soon: all that may.
pub(super) fn readers_on(reach: &Reach, node: usize, place: Option<u64>) -> Vec<usize> {
    let ranks = reach.topology.ranks_of(node);
    let layout = reach.layouts[node];
    let place = place.and_then(|place| usize::try_from(place).ok()).filter(|place| *place <= layout.objects());
    let words = place.and_then(|place| ask_soon(reach, node, &ObjectAt::of(&layout, ObjectTable::Here, place)));
    let locals = words.map_or_else(|| (0..ranks.len()).collect(), |words| sharers(&words));
    locals.into_iter().map(|local| ranks[local]).filter(|rank| !reach.has_ended(*rank)).collect()
}

fn ask_soon(reach: &Reach, node: usize, at: &ObjectAt) -> Option<Vec<u64>> {
    if node == reach.here() {
        return Some(words_of(at).map(|at| reach.load(at)).collect());
    }
    let reads: Vec<Request> = words_of(at).map(|at| Request::Read { at }).collect();
    Site { reach: reach.clone(), home: node }.ask_until(&reads, Some(Instant::now() + ASKING_LIMIT)).ok()
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::JobOptions;
    use crate::job::pretended::{await_that, doubt, name_at, on_nodes};

    /// A rank has ended that shared its node's hold, and the home is not heard when the steward closes that.
    #[test]
    fn nobody_waits_beside_a_steward_that_closes_a_hold_at_a_silent_home() {
        let mut jobs = on_nodes(&[0, 0, 1], &JobOptions::new());
        let name = name_at(&[1], 2, 0);
        let open = |job: &crate::Job| job.rwlock(&name).expect("room");
        let (lock, other) = (open(&jobs[0]), open(&jobs[1]));
        std::mem::forget(other.read().expect("it is free"));
        let reach = jobs[0].membership().reach.clone();
        let at = catalogue::here(&reach).all().expect("this node's memory")[0];
        let stand = || SharedWord(reach.load(at.shared_hold())).stand();
        assert!(matches!(stand(), Stand::Open { .. }));
        doubt(&jobs[0], 1, true);
        drop((other, jobs.remove(1)));
        await_that("others wait for who closes it", || matches!(stand(), Stand::Abandoned(_)));
        doubt(&jobs[0], 1, false);
        await_that("it is not closed", || stand() == Stand::Nothing);
        drop(lock.read().expect("it is free"));
    }
}
