//! What a rank still has to do for groups that it has made, given up, or left: done along with its later calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::members::Abroad;
use super::{Group, position};
use crate::cluster::sentinel::ring::is_in_log;
use crate::cluster::view::{self, FailureCause};
use crate::coord::barrier::spanning::layout::SpanLayout;
use crate::coord::burial;
use crate::coord::drive;
use crate::coord::endings::{Awaited, Ending, TakenBack, Why};
use crate::coord::farewell::Farewell;
use crate::coord::formation;
use crate::coord::offers::{self, Named};
use crate::job::{Declined, GroupBlock, Membership, Parted, Untaken, is_dead};
use crate::sync::Ordering;

/// How long a member that leaves a group waits for what it has posted to arrive. What has not by then is seen to later.
const LEAVING_PATIENCE: Duration = Duration::from_millis(100);

/// How long a rank that ends goes on with groups that other leaders are still about to find made, or given up.
const LINGER: Duration = Duration::from_secs(3);
/// The longest time between two looks meanwhile.
const LINGERING_NAP: Duration = Duration::from_millis(1);

impl Membership {
    /// The first of some ranks that lives on this node.
    pub fn local_leader(&self, ranks: &[usize]) -> usize {
        *self.neighbours_among(ranks).first().expect("this rank is a member")
    }

    /// Moves everything on that is left to do.
    pub fn settle(self: &Arc<Self>) {
        self.settle_endings();
        let declined = std::mem::take(&mut *self.declined());
        for declined in declined {
            if !self.take_and_leave(&declined) {
                self.declined().push(declined);
            }
        }
    }

    fn settle_endings(&self) {
        self.see_parted_off();
        let Some(network) = &self.network else { return };
        let node = self.segment.layout();
        let losses = self.losses();
        let mut endings = self.endings();
        self.bury_abroad(&mut endings);
        for ending in std::mem::take(&mut *endings) {
            ending.poll(&*self.segment, &node, &**network, &losses, &mut endings);
        }
    }

    /// If somebody of this node has ended since the last time: lets go what the dead hold of groups across nodes, and
    /// becomes the heir of what they have left.
    fn bury_abroad(&self, endings: &mut Vec<Ending>) {
        let (segment, node) = (&*self.segment, self.segment.layout());
        // The alarm first: it is raised after what it tells of.
        let alarm = drive::alarm(segment);
        // Relaxed: whoever looks twice finds nothing the second time.
        if self.buried.swap(alarm, Ordering::Relaxed) == alarm {
            return;
        }
        let me = self.local_of(self.rank);
        let schedule_for = |nodes| self.schedule_for(nodes);
        let mut departed = burial::bury_abroad(segment, &node, schedule_for, me, |local| self.is_buried_abroad(local));
        // One that is only stopped may be about to say that the block has departed.
        let has_ended = |local| local != me && is_dead(segment, local);
        departed.extend(burial::inherit(segment, &node, schedule_for, me, has_ended));
        let farewell = |block| Ending::Leaving(Farewell::of_departed(segment, block, me, self.here()));
        endings.extend(departed.into_iter().map(farewell));
    }

    /// Whether a rank of this node has failed by the log and does nothing any more. Of one that has left something may
    /// still be on its way.
    fn is_buried_abroad(&self, local: usize) -> bool {
        let (segment, node) = (&*self.segment, self.segment.layout());
        let Some(end) = view::end_of(segment, &node, local) else { return false };
        end.cause != FailureCause::Left && is_dead(segment, local) && is_in_log(segment, &node, end.unit)
    }

    /// Before this rank ends: a leader that has voted must find what came of it, or one has a group that another never
    /// gets. Nobody is waited for who has ended before.
    pub fn linger(&self) {
        let (begun, mut nap) = (Instant::now(), Duration::from_micros(20));
        loop {
            self.settle_endings();
            let waited = begun.elapsed();
            let is_awaited = |ending: &Ending| match ending.awaited() {
                Awaited::Nothing => false,
                Awaited::Unanswered => waited < LEAVING_PATIENCE,
                Awaited::ByLeaders => waited < LINGER,
            };
            if !self.endings().iter().any(is_awaited) {
                return;
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(LINGERING_NAP);
        }
    }

    /// Takes a group that is not wanted any more, if it is there, and leaves it.
    fn take_and_leave(self: &Arc<Self>, declined: &Declined) -> bool {
        let Declined { named, ranks } = declined;
        let (segment, node) = (&*self.segment, self.segment.layout());
        let leader = self.local_of(self.local_leader(ranks));
        let Some(value) = offers::take(segment, &node, leader, *named) else { return false };
        if value == offers::REFUSED {
            return true;
        }
        if self.is_on_one_node(ranks) {
            if let Some(layout) = formation::checked_block(segment, &node, value, ranks.len()) {
                formation::leave(segment, &node, layout, position(ranks, self.rank));
            }
        } else if let Some(block) = self.spanning_block(value, ranks)
            && Abroad::read(self, block, ranks).is_some()
        {
            let member = position(&self.neighbours_among(ranks), self.rank);
            formation::note_taken(segment, block.local(), member);
            self.leave_spanning(block, member);
        }
        true
    }

    /// This node's block of a spanning group, if `value` can be one.
    pub fn spanning_block(&self, value: u64, ranks: &[usize]) -> Option<SpanLayout> {
        let nodes = self.nodes_of(ranks).len();
        let schedule = self.schedule_for(nodes);
        let members = self.neighbours_among(ranks).len();
        formation::checked_spanning_block(&*self.segment, &self.segment.layout(), value, schedule, members)
    }

    /// This rank, by its place among its node's members, leaves a spanning group, and will not touch any of its blocks
    /// any more.
    pub fn leave_spanning(&self, block: SpanLayout, member: usize) {
        let (node, fabric) = (self.segment.layout(), self.reach().fabric);
        let mut farewell = Farewell::of_member(&*self.segment, block, member, self.local_of(self.rank), self.here());
        let begun = Instant::now();
        // Other nodes wait for it, and this rank may not come back soon.
        while farewell.poll(&*self.segment, &node, fabric, &self.losses()).is_pending() {
            if !farewell.is_about_to_let_go() || begun.elapsed() > LEAVING_PATIENCE {
                self.endings().push(Ending::Leaving(farewell));
                return;
            }
            crate::machine::yield_cpu();
        }
    }

    /// A spanning group that this leader has begun, and may just be giving up.
    pub fn take_half_made(&self, named: Named) -> Option<TakenBack> {
        let mut half_made = self.half_made();
        match half_made.iter().position(|half| half.named() == named) {
            Some(index) => Some(TakenBack::Begun(half_made.remove(index))),
            None => Ending::take_back(&mut self.endings(), named, self.reach().fabric),
        }
    }

    /// Gives some of those up that were begun, by their names and their parents.
    pub fn give_up_half_made(&self, why: Why, is_meant: impl Fn(Named, u64) -> bool) {
        if self.network.is_none() {
            return;
        }
        let (mut half_made, mut endings) = (self.half_made(), self.endings());
        for ending in std::mem::take(&mut *endings) {
            match ending.may_be_asked_for() {
                Some((named, parent)) if is_meant(named, parent) => {
                    ending.give_up(why, &*self.segment, self.here(), &mut endings);
                }
                _ => endings.push(ending),
            }
        }
        let given_up = half_made.extract_if(.., |half| is_meant(half.named(), half.parent()));
        endings.extend(given_up.map(|half| Ending::GivingUp(half, why)));
    }

    /// Gives the oldest of those up that were begun, if there is one: its place is needed.
    pub fn give_up_oldest(&self) -> bool {
        let mut half_made = self.half_made();
        let is_there = !half_made.is_empty();
        let oldest = half_made.drain(..usize::from(is_there)).map(|half| Ending::GivingUp(half, Why::Place));
        self.endings().extend(oldest);
        is_there
    }

    /// Takes back what others have not taken of groups that this rank has dropped: its places for offers, or the space,
    /// are needed. Those who come for them later are refused, or miss them. Whether there was any.
    pub fn revoke_untaken(&self) -> bool {
        let untaken = std::mem::take(&mut *self.untaken());
        let (segment, node) = (&*self.segment, self.segment.layout());
        for Untaken { offered, block } in &untaken {
            match (offers::revoke(segment, *offered), block) {
                (0, _) => {}
                (holds, GroupBlock::Local(layout)) => {
                    formation::let_go(segment, &node, *layout, holds as u64);
                }
                (holds, GroupBlock::Spanning(block)) => self.let_go_untaken(*block, holds),
            }
        }
        !untaken.is_empty()
    }

    /// Lets holds on a spanning group's block go of members that have not taken it, and of dead ones.
    fn let_go_untaken(&self, block: SpanLayout, holds: usize) {
        let (segment, node) = (&*self.segment, self.segment.layout());
        let departed = Farewell::of_untaken(segment, &node, block, holds, self.local_of(self.rank), self.here());
        self.endings().extend(departed.map(Ending::Leaving));
    }
}

impl Group {
    /// Gives this member's hold on the group's block back.
    pub(super) fn leave(&self, parted: Option<Parted>) {
        // Nobody makes anything of the world's block when the job ends, and to ask all nodes whether they have left
        // would connect each with all others.
        if self.abroad.is_some() && self.id() == super::forming::WORLD {
            return self.membership.parted().extend(parted);
        }
        match &self.abroad {
            Some(abroad) => {
                let block = abroad.layout();
                let taken_back = self.see_to_untaken(GroupBlock::Spanning(block));
                self.conclude();
                let of_dead = self.take_from_the_dead(|local| self.membership.is_buried_abroad(local));
                self.membership.let_go_untaken(block, taken_back + of_dead);
                match parted {
                    Some(parted) => self.membership.parted().push(parted),
                    None => self.membership.leave_spanning(block, self.local_index()),
                }
            }
            None => self.leave_local(self.see_to_untaken(GroupBlock::Local(self.layout))),
        }
    }

    /// As [`leave`](Self::leave) in a group of this node alone, with holds that were taken back.
    fn leave_local(&self, taken_back: usize) {
        let (segment, node) = (self.segment(), self.segment().layout());
        let others = taken_back + self.take_from_the_dead(|local| is_dead(segment, local));
        if others > 0 {
            formation::let_go(segment, &node, self.layout, others as u64);
        }
        formation::leave(segment, &node, self.layout, self.me);
    }

    /// What dead members of this node hold of the block; whoever buries the dead may have come before this group was
    /// made.
    fn take_from_the_dead(&self, is_dead: impl Fn(usize) -> bool) -> usize {
        let (segment, node) = (self.segment(), self.segment().layout());
        let start = self.abroad.as_ref().map_or(self.layout.start(), |abroad| abroad.layout().start());
        match drive::alarm(segment) {
            0 => 0,
            _ => burial::take_from_the_dead(segment, &node, self.layout, start, is_dead),
        }
    }

    /// Where a barrier has been passed all members had the group, so that all leaders know it.
    fn conclude(&self) {
        let Some(offered) = self.offered.filter(|_| self.passed() > 0) else { return };
        self.membership
            .endings()
            .retain_mut(|ending| !ending.conclude(self.segment(), offered, self.membership.reach().fabric));
    }

    /// What others have not taken yet of a group that this rank has made stands, unless they would make nothing of it:
    /// how many holds that is.
    fn see_to_untaken(&self, block: GroupBlock) -> usize {
        let segment = self.segment();
        let Some(offered) = self.offered.filter(|offered| offers::is_untaken(segment, *offered)) else { return 0 };
        // Whoever comes for it will learn that a member has failed, and take it no more.
        if self.fault_among(&self.ranks).is_some() {
            return offers::revoke(segment, offered);
        }
        let mut untaken = self.membership.untaken();
        untaken.retain(|untaken| offers::is_untaken(segment, untaken.offered));
        untaken.push(Untaken { offered, block });
        0
    }
}
