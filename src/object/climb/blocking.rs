//! What waits on the way between a node's lock and that of all nodes: until the lock is held, given up, or settled for
//! a follower; and the locks of homes' tables, for which nothing else is to be done meanwhile.

use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Ascent, Climb, Goal, LOOK_EVERY, Reached, Stage, Summit};
use crate::coord::objects::directory::SiteFault;
use crate::coord::objects::home::GlobalWord;
use crate::coord::objects::tenure::Tenure;
use crate::fabric::{Await, Request};
use crate::object::catalogue;
use crate::object::homes::Home;
use crate::object::site::{PATIENCE, Site};
use crate::sync::spin_hint;

/// How long a mailbox is watched before this rank sleeps on it.
const WATCH: Duration = Duration::from_micros(50);
/// How long an object that moves is waited for by who gives up what its node has there.
const SETTLING_LIMIT: Duration = Duration::from_millis(20);

impl Climb {
    /// Which node holds the lock, as far as that can be learnt now.
    pub fn holder(&self) -> Option<usize> {
        let (home, until) = (self.home(), Instant::now() + PATIENCE);
        let word = home.site.ask_until(&[Request::Read { at: home.at.home().hold }], Some(until)).ok()?;
        GlobalWord(word[0]).holder()
    }

    /// Waits until an ascent is over, or `limit` has passed since `begun`, and where answers are on their way a little
    /// more. Then it goes on only if it is polled again.
    pub fn wait(&self, ascent: &mut Ascent, begun: Instant, limit: Option<Duration>) -> Option<Reached> {
        self.wait_until(ascent, limit.map(|limit| (begun, limit)))
    }

    /// Waits until an ascent is over, or has nothing more to do: its node's claim stands at the home, for whoever gives
    /// the lock up there (`None`, which also a rank gets that is leaving the job). Waits for the home, however long it
    /// is silent, as long as somebody can decide whether it has failed; where it is lost until the lock has moved; and
    /// for room towards a node that it appoints, whose mailbox it writes.
    pub fn find_place(&self, ascent: &mut Ascent) -> Option<Reached> {
        self.wait_while(ascent, None, |ascent| !ascent.is_waiting())
    }

    /// Goes on with an ascent that waits for others. Where more is to be done at the home than to look, until that is
    /// done, as [`find_place`](Self::find_place) does: left in the middle it would hold those up who come before it,
    /// and lose its place with the home.
    pub fn look(&self, ascent: &mut Ascent) -> Option<Reached> {
        match self.poll(ascent) {
            Poll::Ready(reached) => Some(reached),
            Poll::Pending if self.has_claim() => None,
            Poll::Pending => self.find_place(ascent),
        }
    }

    /// As [`wait`](Self::wait). Reads no clock where nothing is to be waited for.
    fn wait_until(&self, ascent: &mut Ascent, limit: Option<(Instant, Duration)>) -> Option<Reached> {
        self.wait_while(ascent, limit, |_| true)
    }

    /// The same as long as that is so of the ascent, too.
    fn wait_while(
        &self,
        ascent: &mut Ascent,
        limit: Option<(Instant, Duration)>,
        goes_on: impl Fn(&Ascent) -> bool,
    ) -> Option<Reached> {
        let mut since = None;
        loop {
            let polled = self.poll(ascent);
            if polled.is_ready() || !goes_on(ascent) {
                if let (Some(since), Some(network)) = (since, &self.reach.network) {
                    network.hand_over_if_asked(since);
                }
                return match polled {
                    Poll::Ready(reached) => Some(reached),
                    Poll::Pending => None,
                };
            }
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            let patience = if ascent.is_in_the_middle() { PATIENCE } else { Duration::ZERO };
            let left = limit.map(|(begun, limit)| limit.saturating_add(patience).saturating_sub(begun.elapsed()));
            if left == Some(Duration::ZERO) || since.is_some_and(|since| self.reach.gives_up(since)) {
                return None;
            }
            self.pause(ascent, waited, left.unwrap_or(Duration::MAX));
        }
    }

    /// This rank need not wait for anybody: where others ask things of this process they go on.
    pub fn serve_in_passing(&self) {
        if let Some(network) = &self.reach.network {
            network.serve_in_passing();
        }
    }

    fn pause(&self, ascent: &Ascent, waited: Duration, left: Duration) {
        match &ascent.stage {
            Stage::Waiting if waited < WATCH && !self.reach.plan.shares_cpus => spin_hint(),
            Stage::Waiting => {
                let (at, claim) = (self.at.granted(), ascent.machine.claim());
                let seen = self.reach.load(at);
                if claim.is_none_or(|claim| claim.0 != seen) {
                    self.reach.sleep(at, seen, ascent.alarm, left.min(LOOK_EVERY));
                }
            }
            Stage::Moving(_) | Stage::Outliving { .. } | Stage::Mailing(_) if waited >= WATCH => {
                if let Some(network) = &self.reach.network {
                    network.nap(self.reach.alarm(), Duration::from_micros(200));
                }
            }
            _ => ascent.home.site.pause(waited),
        }
    }

    /// Gives up what the node has to do with the lock at its home, within `limit`. This rank has the node's lock. Where
    /// this fails as [`SiteFault::Silent`] or [`SiteFault::Late`] it has to keep that, and leave the rest to an errand
    /// ([`errands`](crate::object::errands)).
    pub fn descend(&self, limit: Option<Duration>) -> Result<(), SiteFault> {
        self.go_down(&mut self.begin_to_leave(), limit)
    }

    fn go_down(&self, descent: &mut Ascent, limit: Option<Duration>) -> Result<(), SiteFault> {
        match self.wait_until(descent, limit.map(|limit| (Instant::now(), limit))) {
            Some(reached) => reached.map(drop),
            None => Err(self.late(descent)),
        }
    }

    /// Begins to give up what the node has to do with the lock at its home. This rank has the node's lock.
    pub fn begin_to_leave(&self) -> Ascent {
        self.begin_with(Goal::Nothing, 0)
    }

    /// The time of an ascent is over. What it has asked for is waited for no more.
    fn late(&self, ascent: &mut Ascent) -> SiteFault {
        if let Stage::Asking(asked) | Stage::Outliving { asked: Some(asked), .. } = &mut ascent.stage {
            ascent.home.site.forget(asked);
        }
        SiteFault::Late { home: ascent.home.site.home }
    }

    /// Gives an ascent up that has not come to its end: the node's claim at the home stays if `others_wait` on this
    /// node, and the lock too where it was granted meanwhile, which the ascent then [tells](Ascent::was_granted).
    /// Answers that are on their way are waited for, as long as `patience` allows. Where this fails: as
    /// [`descend`](Self::descend).
    pub fn abandon(&self, ascent: &mut Ascent, others_wait: bool, patience: Duration) -> Result<(), SiteFault> {
        let begun = Instant::now();
        // What was asked for is answered first: otherwise nobody knows how far the node is.
        while ascent.is_in_the_middle() {
            match self.poll(ascent) {
                Poll::Ready(Ok(reached)) => {
                    ascent.was_granted |= matches!(reached, Summit::Held(_));
                    break;
                }
                Poll::Ready(Err(fault)) => return Err(fault),
                Poll::Pending if begun.elapsed() >= patience => return Err(self.late(ascent)),
                Poll::Pending => self.pause(ascent, WATCH, LOOK_EVERY),
            }
        }
        // Others can go on from a hold or a claim, but not from what this rank was about to do.
        let is_underway = matches!(self.at.load(self.memory()).tenure(), Tenure::Underway(_));
        if others_wait && !is_underway {
            return Ok(());
        }
        let mut descent = self.begin_to_leave();
        let left = self.go_down(&mut descent, Some(PATIENCE));
        // Not what others have left.
        ascent.was_granted |= descent.was_granted && (ascent.is_underway || ascent.has_asked);
        left
    }

    /// Acquires the lock of a home's table for this node. The caller has this node's table. Where this, or giving the
    /// lock back, fails as [`SiteFault::Late`] the rest is an errand's, as above.
    pub fn acquire_alone(&self) -> Result<(), SiteFault> {
        let home = self.home();
        let Home { site, at } = &*home;
        self.settle_table(site)?;
        catalogue::note_home(&self.reach, &self.at.0, site.home, at);
        // Different from that of the last time: each changes the word of the tenure.
        let mut ascent = self.begin(self.at.load(self.memory()).0 >> 21);
        match self.wait_until(&mut ascent, None) {
            Some(reached) => reached.map(drop),
            None => Err(self.late(&mut ascent)),
        }
    }

    /// Gives it back.
    pub fn release_alone(&self) -> Result<(), SiteFault> {
        self.descend(None)
    }

    /// What a rank of this node has left with the table of a home, perhaps another one, is cleared away.
    fn settle_table(&self, site: &Site) -> Result<(), SiteFault> {
        let noted = catalogue::noted_home(&self.reach, &self.at.0).filter(|_| self.is_engaged());
        let Some((home, _)) = noted else { return Ok(()) };
        Self::of_table(&Site { home, ..site.clone() }).settle()
    }

    /// Gives up what the node has to do with the lock at its home, also where that is lost. This rank has the node's
    /// lock. Not while the object moves: whoever calls this may have to move it.
    pub fn settle(&self) -> Result<(), SiteFault> {
        let mut ascent = self.begin_to_leave();
        let settled = match self.wait(&mut ascent, Instant::now(), Some(SETTLING_LIMIT)) {
            Some(reached) => reached.map(drop),
            None if ascent.is_in_the_middle() => Err(self.late(&mut ascent)),
            None => Err(SiteFault::Broken { home: ascent.home.site.home }),
        };
        match settled {
            Err(SiteFault::Lost { .. }) => self.forget_home(),
            other => other,
        }
    }

    /// With the home of a lock that does not move all is lost that this node had there. This rank has the node's lock.
    pub fn forget_home(&self) -> Result<(), SiteFault> {
        let seen = self.at.load(self.memory());
        self.at.change(self.memory(), seen, Tenure::Nothing).map(drop).ok_or(SiteFault::Excluded)
    }
}
