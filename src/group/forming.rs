//! Making groups out of a group: splits and lists of members.
//!
//! Only the new group's members take part. On each node of the group the first member there, its *leader*, makes the
//! node's block; in a group that spans nodes the leaders then introduce themselves to each other; and each leader offers
//! the block to its node's other members.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::members::Abroad;
use super::{AlgorithmChoice, Group, Limit, Standing};
use crate::coord::barrier::spanning::layout::SpanLayout;
use crate::coord::barrier::{Contribution, Operation};
use crate::coord::formation::{self, Member, NoSpace};
use crate::coord::introductions::{Introductions, Stranger};
use crate::error::{BarrierError, GroupError};
use crate::fabric::Memory;
use crate::fabric::node::{UNIT_WORDS, hash};
use crate::sync::Ordering;

/// The number of the group of all ranks.
const WORLD: u64 = 0;
/// Kinds of keys under which groups are offered.
const SPLIT_KEY: u64 = 1;
const LIST_KEY: u64 = 2;
/// Makes of a group's key the one under which leaders of different nodes meet.
const ABROAD_KEY: u64 = 3;
/// How long members wait for each other to make a group that no time-out was given for.
pub(super) const FORMING_PATIENCE: Duration = Duration::from_secs(30);

/// What a member needs to join the group of a split again, after a time-out.
#[derive(Debug)]
pub(super) struct Forming {
    color: u64,
    key: u64,
    ranks: Vec<usize>,
    offer_key: u64,
}

/// A leader's block of a spanning group, while it waits for the other nodes' leaders.
#[derive(Debug)]
pub(super) struct HalfMade {
    layout: SpanLayout,
    introductions: Introductions,
    is_offered: bool,
}

impl Group {
    pub(super) fn split_by(&self, color: u64, key: u64, timeout: Option<Duration>) -> Result<Group, GroupError> {
        let limit = self.limit(timeout);
        self.settle_given_up();
        let forming = match self.resume_forming(color, key)? {
            Some(forming) => forming,
            None => self.meet_and_sort(color, key, limit)?,
        };
        let formed = self.form(forming.ranks.clone(), forming.offer_key, limit);
        if is_time_out(&formed) {
            let mut core = self.core.borrow_mut();
            core.standing = Standing::Forming;
            core.forming = Some(forming);
        }
        formed
    }

    /// The split that timed out while its group was formed, if this is the same one again.
    fn resume_forming(&self, color: u64, key: u64) -> Result<Option<Forming>, BarrierError> {
        let mut core = self.core.borrow_mut();
        if core.standing != Standing::Forming {
            return Ok(None);
        }
        let Some(forming) = core.forming.take_if(|forming| forming.color == color && forming.key == key) else {
            return Err(self.outstanding(&core));
        };
        core.standing = Standing::Nothing;
        Ok(Some(forming))
    }

    /// Takes the groups that were given up and are there by now, and gives their space back.
    pub(super) fn settle_given_up(&self) {
        self.membership.bury_departed();
        let given_up = std::mem::take(&mut self.core.borrow_mut().given_up);
        let (membership, segment) = (&self.membership, &*self.membership.segment);
        for forming in given_up {
            let leader = self.local_leader(&forming.ranks);
            let Some(value) =
                formation::take(segment, &segment.layout(), membership.local_of(leader), forming.offer_key)
            else {
                self.core.borrow_mut().given_up.push(forming);
                continue;
            };
            // Taken and dropped at once.
            drop(self.attach_taken(&forming.ranks, value));
        }
    }

    /// Passes a split's barrier and finds out who is in this member's new group.
    fn meet_and_sort(&self, color: u64, key: u64, limit: Option<Limit>) -> Result<Forming, GroupError> {
        let sequence = self.meet_to_split(color, key, limit)?;
        let given = self.given_at(sequence, limit)?;
        let ranks = formation::members_of(color, &given).into_iter().map(|index| self.ranks[index]).collect();
        Ok(Forming { color, key, ranks, offer_key: hash(SPLIT_KEY, &[self.id(), sequence, color]) })
    }

    /// The barrier inside a split: every member's colour and key lie in its line before it arrives.
    fn meet_to_split(&self, color: u64, key: u64, limit: Option<Limit>) -> Result<u64, BarrierError> {
        let contribution = Contribution { operation: Operation::Split, value: 0 };
        let mut core = self.core.borrow_mut();
        if core.standing != Standing::Nothing && core.standing != Standing::Splitting(color, key) {
            self.settle_earlier(&mut core, contribution, limit)?;
        }
        if !core.barrier.is_outstanding() {
            let sequence = core.barrier.passed() + 1;
            // Relaxed: the arrival that follows publishes them (SYNC POINT: arrival).
            let store = |at, value| self.segment().word(at).store(value, Ordering::Relaxed);
            let me = self.local_index();
            store(self.layout.color(me, sequence), color);
            store(self.layout.key(me, sequence), key);
        }
        self.arrive_unless_arrived(&mut core, contribution);
        self.finish(&mut core, limit, Standing::Splitting(color, key))?;
        Ok(core.barrier.passed())
    }

    /// Makes or takes the group of a list of ranks, which all its members name alike and as often.
    pub(super) fn form_list(&self, ranks: Vec<usize>, timeout: Duration) -> Result<Self, GroupError> {
        let list: Vec<u64> = ranks.iter().map(|rank| *rank as u64).collect();
        let list = hash(self.id(), &list);
        self.settle_given_up();
        let made = self.core.borrow().lists_made.get(&list).copied().unwrap_or(0) + 1;
        let formed = self.form(ranks, hash(LIST_KEY, &[list, made]), self.limit(Some(timeout)));
        // After a time-out the next call is for the same group, or it would miss the one that is made meanwhile.
        if !is_time_out(&formed) {
            self.core.borrow_mut().lists_made.insert(list, made);
        }
        formed
    }

    /// Makes or takes the group of `ranks` under a key that all its members know.
    fn form(&self, ranks: Vec<usize>, key: u64, limit: Option<Limit>) -> Result<Self, GroupError> {
        // The barrier is passed, so the others are about to come: a wait without a bound of its own gets one.
        let limit = limit.or_else(|| self.limit(Some(FORMING_PATIENCE)));
        let leader = self.local_leader(&ranks);
        if leader != self.membership.rank {
            return self.take(&ranks, leader, key, limit);
        }
        match self.membership.is_on_one_node(&ranks) {
            true => self.make(ranks, key, limit),
            false => self.make_spanning(ranks, key, limit),
        }
    }

    /// The first of `ranks` that lives on this node.
    fn local_leader(&self, ranks: &[usize]) -> usize {
        *self.membership.neighbours_among(ranks).first().expect("this rank is a member")
    }

    fn local_members(&self, ranks: &[usize]) -> Vec<Member> {
        let member = |rank: &usize| Member { rank: *rank, local: self.membership.local_of(*rank) };
        self.membership.neighbours_among(ranks).iter().map(member).collect()
    }

    fn make(&self, ranks: Vec<usize>, key: u64, limit: Option<Limit>) -> Result<Self, GroupError> {
        let (segment, rank) = (self.segment(), self.membership.rank);
        let node = segment.layout();
        let choice = AlgorithmChoice::new(self.membership.algorithm, &self.membership.cpus, ranks.len());
        let made = formation::make_for(segment, &node, &self.local_members(&ranks), choice.algorithm);
        let value = made.as_ref().map_or(formation::REFUSED, |layout| layout.start().0 as u64);
        let is_offered = self.offer(key, value, ranks.len() - 1, limit);
        match made {
            Ok(layout) if is_offered => {
                self.membership.name_group(layout);
                Ok(Self::attach(Arc::clone(&self.membership), layout, ranks))
            }
            Ok(layout) => {
                // Nobody has seen the block: all the holds on it are this rank's to give back.
                ranks.iter().for_each(|_| formation::leave(segment, &node, layout));
                Err(GroupError::OffersPending { rank, waited: self.waited(limit) })
            }
            Err(space) => Err(self.exhausted(ranks.len(), space)),
        }
    }

    fn exhausted(&self, members: usize, space: NoSpace) -> GroupError {
        GroupError::Exhausted {
            rank: self.membership.rank,
            members,
            needed_bytes: space.needed * UNIT_WORDS * 8,
            free_bytes: space.free * UNIT_WORDS * 8,
        }
    }

    /// Offers a block to the node's other members.
    fn offer(&self, key: u64, value: u64, takers: usize, limit: Option<Limit>) -> bool {
        let (segment, local) = (self.segment(), self.membership.local_of(self.membership.rank));
        let node = segment.layout();
        let offer = || formation::offer(segment, &node, local, key, value, takers).then_some(());
        takers == 0 || self.patiently(limit, offer).is_ok()
    }

    /// This node's part of a group that spans nodes.
    fn make_spanning(&self, ranks: Vec<usize>, key: u64, limit: Option<Limit>) -> Result<Self, GroupError> {
        let members = self.local_members(&ranks);
        let mut half = match self.take_half_made(key) {
            Some(half) => half,
            None => self.begin_spanning(&ranks, &members, key)?,
        };
        match self.finish_spanning(&ranks, &members, key, &mut half, limit) {
            Err(error @ (GroupError::LeaderMissing { .. } | GroupError::OffersPending { .. })) => {
                half.introductions.abandon(self.membership.reach().fabric);
                self.core.borrow_mut().half_made.insert(key, half);
                Err(error)
            }
            finished => finished,
        }
    }

    fn take_half_made(&self, key: u64) -> Option<HalfMade> {
        match self.core.borrow_mut().half_made.entry(key) {
            Entry::Occupied(entry) => Some(entry.remove()),
            Entry::Vacant(_) => None,
        }
    }

    fn begin_spanning(&self, ranks: &[usize], members: &[Member], key: u64) -> Result<HalfMade, GroupError> {
        let (segment, membership) = (self.segment(), &self.membership);
        let nodes = membership.nodes_of(ranks);
        let schedule = membership.schedule_for(nodes.len());
        let choice = AlgorithmChoice::new(membership.algorithm, &membership.cpus, members.len());
        let made = formation::make_spanning(segment, &segment.layout(), schedule, members, choice.algorithm);
        let layout = match made {
            Ok(layout) => layout,
            Err(space) => {
                // The others are told; whether they have heard is theirs to notice.
                let askers = nodes.len() - 1;
                let (node, local) = (segment.layout(), membership.local_of(membership.rank));
                let refusal = (formation::REFUSED, 0);
                formation::offer_abroad(segment, &node, local, hash(ABROAD_KEY, &[key]), refusal, askers);
                formation::offer(segment, &node, local, key, formation::REFUSED, members.len() - 1);
                return Err(self.exhausted(ranks.len(), space));
            }
        };
        let here = membership.here();
        let stranger = |node: usize| {
            let leader = ranks.iter().find(|rank| membership.node_of(**rank) == node).expect("a node of the group");
            Stranger { node, leader: membership.local_of(*leader), layout: membership.layout_of(node) }
        };
        let strangers = nodes.iter().copied().filter(|node| *node != here).map(stranger).collect();
        let introductions = Introductions::new(hash(ABROAD_KEY, &[key]), strangers);
        Ok(HalfMade { layout, introductions, is_offered: false })
    }

    fn finish_spanning(
        &self,
        ranks: &[usize],
        members: &[Member],
        key: u64,
        half: &mut HalfMade,
        limit: Option<Limit>,
    ) -> Result<Self, GroupError> {
        let (segment, membership) = (self.segment(), &self.membership);
        let (node, local, here) = (segment.layout(), membership.local_of(membership.rank), membership.here());
        let nodes = membership.nodes_of(ranks);
        let own_id = membership.group_id(half.layout.local());
        if !half.is_offered {
            let own = (half.layout.start().0 as u64, own_id);
            let abroad_key = hash(ABROAD_KEY, &[key]);
            let offer =
                || formation::offer_abroad(segment, &node, local, abroad_key, own, nodes.len() - 1).then_some(());
            let offered = self.patiently(limit, offer);
            offered.map_err(|waited| GroupError::OffersPending { rank: membership.rank, waited })?;
            half.is_offered = true;
        }
        let fabric = membership.reach().fabric;
        let met = self.patiently(limit, || match half.introductions.poll(fabric) {
            Poll::Ready(()) => Some(()),
            Poll::Pending => None,
        });
        met.map_err(|waited| self.leader_missing(ranks, half, waited))?;
        let introduced = half.introductions.introduced();
        let mut others = introduced.iter();
        let mut known = Vec::with_capacity(nodes.len());
        for node in &nodes {
            let start = match *node == here {
                true => (half.layout.start().0 as u64, own_id),
                false => others.next().map(|other| (other.start, other.group)).expect("one for each other node"),
            };
            known.push((*node, start.0, start.1));
        }
        let refused = known.iter().any(|(_, start, _)| *start == formation::REFUSED);
        let value = if refused { formation::REFUSED } else { half.layout.start().0 as u64 };
        if !refused {
            self.write_nodes(half.layout, &known);
        }
        if !self.offer(key, value, members.len() - 1, limit) {
            return Err(GroupError::OffersPending { rank: membership.rank, waited: self.waited(limit) });
        }
        if refused {
            let units = formation::units_spanning(half.layout.schedule(), members.len());
            formation::give_back(segment, &node, half.layout.start(), units);
            return Err(GroupError::Refused { rank: membership.rank, leader: ranks[0], members: ranks.len() });
        }
        self.attach_abroad(ranks, half.layout).ok_or(GroupError::Corrupt { rank: membership.rank, leader: ranks[0] })
    }

    fn leader_missing(&self, ranks: &[usize], half: &HalfMade, waited: Duration) -> GroupError {
        let membership = &self.membership;
        let node = half.introductions.missing().map_or(membership.here(), |stranger| stranger.node);
        let leader = ranks.iter().find(|rank| membership.node_of(**rank) == node);
        GroupError::LeaderMissing { rank: membership.rank, leader: leader.copied().unwrap_or(ranks[0]), waited }
    }

    /// Notes in this node's block where the others are, and the number that the first node has given to the group.
    fn write_nodes(&self, layout: SpanLayout, known: &[(usize, u64, u64)]) {
        // Relaxed: the offer that follows publishes them (SYNC POINT: offer).
        let store = |at, value| self.segment().word(at).store(value, Ordering::Relaxed);
        for (index, (node, start, _)) in known.iter().enumerate() {
            store(layout.node(index), Abroad::pack(*node, *start).0);
        }
        store(layout.local().id(), known[0].2);
    }

    fn take(&self, ranks: &[usize], leader: usize, key: u64, limit: Option<Limit>) -> Result<Self, GroupError> {
        let (segment, rank) = (self.segment(), self.membership.rank);
        let (node, local) = (segment.layout(), self.membership.local_of(leader));
        let taken = self.patiently(limit, || formation::take(segment, &node, local, key));
        let value = taken.map_err(|waited| GroupError::LeaderMissing { rank, leader, waited })?;
        if value == formation::REFUSED {
            return Err(GroupError::Refused { rank, leader, members: ranks.len() });
        }
        self.attach_taken(ranks, value).ok_or(GroupError::Corrupt { rank, leader })
    }

    /// The group whose block on this node starts at `value`, if that is one.
    fn attach_taken(&self, ranks: &[usize], value: u64) -> Option<Self> {
        let (segment, membership) = (self.segment(), &self.membership);
        let node = segment.layout();
        if membership.is_on_one_node(ranks) {
            let layout = formation::checked_block(segment, &node, value, ranks.len())?;
            return Some(Self::attach(Arc::clone(membership), layout, ranks.to_vec()));
        }
        let nodes = membership.nodes_of(ranks).len();
        let schedule = membership.schedule_for(nodes);
        let members = membership.neighbours_among(ranks).len();
        let layout = formation::checked_spanning_block(segment, &node, value, schedule, members)?;
        self.attach_abroad(ranks, layout)
    }

    fn attach_abroad(&self, ranks: &[usize], layout: SpanLayout) -> Option<Self> {
        let abroad = Abroad::read(&self.membership, layout, ranks)?;
        Some(Self::attach_spanning(Arc::clone(&self.membership), abroad, ranks.to_vec()))
    }

    /// Gives this member's hold on the group's block back.
    pub(super) fn leave(&self) {
        let (segment, node) = (self.segment(), self.segment().layout());
        let Some(abroad) = &self.abroad else {
            return formation::leave(segment, &node, self.layout);
        };
        // Nobody makes anything of the world's block when the job ends, and to say goodbye to all nodes would connect each
        // with all others.
        if self.id() == WORLD {
            return;
        }
        if self.local_index() == 0 {
            abroad.say_goodbye(&self.membership);
        }
        if formation::is_last_to_leave(segment, self.layout) {
            abroad.say_goodbye(&self.membership);
            self.membership.depart(abroad.layout());
        }
    }

    /// Tries again and again until the deadline, more and more patiently: making groups is rare.
    pub(super) fn patiently<T>(
        &self,
        limit: Option<Limit>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, Duration> {
        let clock = &self.membership.driver.clock;
        let start = clock.now();
        let mut pause = Duration::ZERO;
        loop {
            if let Some(value) = attempt() {
                return Ok(value);
            }
            let now = clock.now();
            if limit.is_some_and(|limit| now >= limit.deadline) {
                return Err(Duration::from_nanos(clock.ns(now.saturating_sub(start))));
            }
            if clock.ns(now.saturating_sub(start)) < 100_000 {
                crate::machine::yield_cpu();
            } else {
                pause = (pause * 2).clamp(Duration::from_micros(20), Duration::from_millis(1));
                std::thread::sleep(pause);
            }
        }
    }
}

/// Whether a group is not there yet, but may still come.
fn is_time_out(formed: &Result<Group, GroupError>) -> bool {
    matches!(formed, Err(GroupError::LeaderMissing { .. } | GroupError::OffersPending { .. }))
}
