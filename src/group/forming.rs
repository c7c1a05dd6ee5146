//! Making groups out of a group: splits and lists of members.
//!
//! Only the new group's members take part. On each node of the group the first member there, its *leader*, makes the
//! node's block; in a group that spans nodes the leaders then introduce themselves to each other; and each leader
//! offers the block to its node's other members.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::asking::{ASK_AFTER, time_to_question};
use super::failures::Stay;
use super::limit::Limit;
use super::members::Abroad;
use super::waiting::Standing;
use super::{AlgorithmChoice, Core, Group};
use crate::cluster::sentinel::ASK_EVERY;
use crate::cluster::stopped::StoppedSince;
use crate::coord::barrier::layout::GroupLayout;
use crate::coord::barrier::spanning::layout::SpanLayout;
use crate::coord::barrier::{Contribution, Operation};
use crate::coord::drive;
use crate::coord::endings::{Ending, TakenBack, Why};
use crate::coord::formation::{self, Member, NoSpace};
use crate::coord::introductions::{Introductions, Met, Own, Stranger};
use crate::coord::offers::{self, Named, Offered, REFUSED};
use crate::coord::reads::Reads;
use crate::error::{BarrierError, GroupError};
use crate::fabric::Memory;
use crate::fabric::node::{UNIT_WORDS, hash};
use crate::job::Declined;
use crate::sync::Ordering;

/// The number of the group of all ranks.
pub(super) const WORLD: u64 = 0;
/// Kinds of keys under which groups are offered.
const SPLIT_KEY: u64 = 1;
const LIST_KEY: u64 = 2;
/// How long members wait for each other to make a group that no time-out was given for.
pub(super) const FORMING_PATIENCE: Duration = Duration::from_secs(30);
/// How long a leader without a place for its offer waits for those who are to take the groups that it has dropped.
const PLACE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a leader without space waits for groups that are being given back.
const SPACE_PATIENCE: Duration = Duration::from_millis(100);

/// What a member needs to join the group of a split again, after a time-out.
#[derive(Debug)]
pub(super) struct Forming {
    color: u64,
    key: u64,
    /// The split's barrier, which has been passed.
    sequence: u64,
    /// The question for the members' colours and keys, while it is on its way.
    asked: Option<Reads>,
    /// The new group's members, once all have been asked.
    ranks: Option<Vec<usize>>,
}

impl Group {
    pub(super) fn split_by(&self, color: u64, key: u64, timeout: Option<Duration>) -> Result<Group, GroupError> {
        let limit = self.limit(timeout);
        self.membership.settle();
        let mut forming = match self.resume_forming(color, key)? {
            Some(forming) => forming,
            None => {
                let sequence = self.meet_to_split(color, key, limit)?;
                Forming { color, key, sequence, asked: None, ranks: None }
            }
        };
        let formed = self.sort_and_form(&mut forming, limit);
        if is_time_out(&formed) {
            let mut core = self.core.borrow_mut();
            core.standing = Standing::Forming;
            core.forming = Some(forming);
        }
        formed
    }

    /// Finds out who is in this member's new group, and makes or takes it.
    fn sort_and_form(&self, forming: &mut Forming, limit: Option<Limit>) -> Result<Group, GroupError> {
        let ranks = match &forming.ranks {
            Some(ranks) => ranks.clone(),
            None => {
                // They stay what they are while this member is at no later barrier.
                let given = self.given_at(forming.sequence, &mut forming.asked, limit)?;
                let members = formation::members_of(forming.color, &given);
                forming.ranks.insert(members.into_iter().map(|index| self.ranks[index]).collect()).clone()
            }
        };
        self.form(ranks, self.name_of_split(forming), limit)
    }

    fn name_of_split(&self, forming: &Forming) -> Named {
        Named { key: hash(SPLIT_KEY, &[self.id(), forming.sequence, forming.color]), call: 1 }
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

    /// Gives up the split whose group is not there yet, if there is one.
    pub(super) fn decline_forming(&self, core: &mut Core) {
        let Some(forming) = core.forming.take() else { return };
        let named = self.name_of_split(&forming);
        if let Some(reads) = forming.asked {
            drop(reads.into_values(self.membership.reach().fabric));
        }
        self.membership.give_up_half_made(Why::Unwanted, |other, _| other == named);
        // Whoever does not know its group is in nobody's way: its leader takes back what is not taken.
        let Some(ranks) = forming.ranks else { return };
        if self.membership.local_leader(&ranks) != self.membership.rank {
            self.membership.decline(Declined { named, ranks });
        }
    }

    /// The barrier inside a split: every member's colour and key lie in its line before it arrives.
    fn meet_to_split(&self, color: u64, key: u64, limit: Option<Limit>) -> Result<u64, BarrierError> {
        let contribution = Contribution { operation: Operation::Split, value: 0 };
        let mut core = self.core.borrow_mut();
        self.begin_call(&mut core, Stay::Until(limit))?;
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
        let key = hash(LIST_KEY, &[hash(self.id(), &list)]);
        self.membership.settle();
        let call = self.core.borrow().lists_made.get(&key).copied().unwrap_or(0) + 1;
        let formed = self.form(ranks, Named { key, call }, self.limit(Some(timeout)));
        // After a time-out the next call is for the same group, or it would miss the one that is made meanwhile.
        if !is_time_out(&formed) {
            self.core.borrow_mut().lists_made.insert(key, call);
        }
        formed
    }

    /// Makes or takes the group of `ranks` under a name that all its members know; not if one of them has failed.
    pub(super) fn form(&self, ranks: Vec<usize>, named: Named, limit: Option<Limit>) -> Result<Self, GroupError> {
        // The barrier is passed, so the others are about to come: a wait without a bound of its own gets one.
        let limit = limit.or_else(|| self.limit(Some(FORMING_PATIENCE)));
        loop {
            // The alarm first: what is raised behind this look interrupts the attempt.
            let alarm = drive::alarm(self.segment());
            if let Some(error) = self.fault_among(&ranks) {
                self.membership.give_up_half_made(Why::Unwanted, |other, _| other == named);
                return Err(error.into());
            }
            let interrupted = limit.map(|limit| Limit { alarm: Some(alarm), ..limit });
            let formed = self.form_once(ranks.clone(), named, interrupted);
            let is_over = self.left(limit).is_none_or(|left| left.is_zero());
            if is_over || drive::alarm(self.segment()) == alarm || !is_time_out(&formed) {
                return formed;
            }
        }
    }

    fn form_once(&self, ranks: Vec<usize>, named: Named, limit: Option<Limit>) -> Result<Self, GroupError> {
        let leader = self.membership.local_leader(&ranks);
        if leader != self.membership.rank {
            return self.take(&ranks, leader, named, limit);
        }
        match self.membership.is_on_one_node(&ranks) {
            true => self.make(ranks, named, limit),
            false => self.make_spanning(&ranks, named, limit),
        }
    }

    fn local_members(&self, ranks: &[usize]) -> Vec<Member> {
        let member = |rank: &usize| Member { rank: *rank, local: self.membership.local_of(*rank) };
        self.membership.neighbours_among(ranks).iter().map(member).collect()
    }

    fn make(&self, ranks: Vec<usize>, named: Named, limit: Option<Limit>) -> Result<Self, GroupError> {
        let (segment, rank) = (self.segment(), self.membership.rank);
        let node = segment.layout();
        let choice = AlgorithmChoice::new(self.membership.algorithm, &self.membership.cpus, ranks.len());
        let members = self.local_members(&ranks);
        let made = self.claim(limit, || formation::make_for(segment, &node, &members, choice.algorithm));
        // Before it is offered: whoever takes it knows its number at once.
        made.iter().for_each(|layout| self.membership.name_group(*layout));
        let offered = match ranks.len() - 1 {
            0 => Some(None),
            takers => self.offer(named, made.as_ref().ok().copied(), takers, limit).map(Some),
        };
        match (made, offered) {
            (Ok(layout), Some(offered)) => {
                Ok(Self::attach(Arc::clone(&self.membership), layout, ranks).made_by_this_rank(offered))
            }
            (Ok(layout), None) => {
                // Nobody has seen the block.
                formation::leave(segment, &node, layout, 0);
                Err(GroupError::OffersPending { rank, waited: self.waited(limit) })
            }
            (Err(space), _) => Err(self.exhausted(ranks.len(), space)),
        }
    }

    fn made_by_this_rank(mut self, offered: Option<Offered>) -> Self {
        self.offered = offered;
        self
    }

    /// Claims space; if there is none, gives up what was begun, waits a little for what is being given back, and takes
    /// back what nobody has taken.
    fn claim<T>(&self, limit: Option<Limit>, claim: impl Fn() -> Result<T, NoSpace>) -> Result<T, NoSpace> {
        let claimed = claim();
        if claimed.is_ok() {
            return claimed;
        }
        self.membership.give_up_half_made(Why::Space, |_, _| true);
        if let Ok(claimed) = self.claim_as_space_comes(limit, &claim) {
            return Ok(claimed);
        }
        match self.membership.revoke_untaken() {
            true => self.claim_as_space_comes(limit, &claim),
            false => claimed,
        }
    }

    /// Claims space as soon as what is being given back suffices, if that is soon.
    fn claim_as_space_comes<T>(
        &self,
        limit: Option<Limit>,
        claim: &impl Fn() -> Result<T, NoSpace>,
    ) -> Result<T, NoSpace> {
        let patience = self.left(limit).unwrap_or(SPACE_PATIENCE).min(SPACE_PATIENCE);
        let attempt = || {
            let is_over = !self.membership.endings().iter().any(Ending::frees_space)
                && !formation::has_departed(self.segment(), &self.segment().layout());
            self.membership.settle();
            match claim() {
                Err(_) if !is_over => None,
                claimed => Some(claimed),
            }
        };
        self.patiently(self.limit(Some(patience)), attempt).unwrap_or_else(|_| claim())
    }

    fn exhausted(&self, members: usize, space: NoSpace) -> GroupError {
        GroupError::Exhausted {
            rank: self.membership.rank,
            members,
            needed_bytes: space.needed * UNIT_WORDS * 8,
            free_bytes: space.free * UNIT_WORDS * 8,
        }
    }

    /// Offers a block, or a refusal, to the node's other members.
    fn offer(&self, named: Named, made: Option<GroupLayout>, takers: usize, limit: Option<Limit>) -> Option<Offered> {
        let (segment, local) = (self.segment(), self.membership.local_of(self.membership.rank));
        let node = segment.layout();
        let value = made.map_or(REFUSED, |layout| layout.start().0 as u64);
        let offered = self.find_a_place(limit, || offers::prepare(segment, &node, local, named, value))?;
        if let Some(layout) = made {
            formation::share(segment, &node, layout.start(), takers);
        }
        offers::open(segment, offered, takers, made.is_none());
        offers::let_go(segment, offered);
        Some(offered)
    }

    /// Waits for a free place for an offer.
    fn find_a_place(&self, limit: Option<Limit>, offer: impl Fn() -> Option<Offered>) -> Option<Offered> {
        let begun = Instant::now();
        let attempt = || {
            offer().or_else(|| {
                self.make_room(begun);
                None
            })
        };
        self.patiently(limit, attempt).ok().or_else(offer)
    }

    /// A place for an offer is needed. What this leader has begun makes room at once, since that can be begun again;
    /// what it has made and dropped, and others have not taken, after a while.
    fn make_room(&self, since: Instant) {
        if !self.membership.give_up_oldest() && since.elapsed() > PLACE_PATIENCE {
            self.membership.revoke_untaken();
        }
        self.membership.settle();
    }

    /// This node's part of a group that spans nodes.
    fn make_spanning(&self, ranks: &[usize], named: Named, limit: Option<Limit>) -> Result<Self, GroupError> {
        let (segment, membership) = (self.segment(), &self.membership);
        let refused = GroupError::Refused { rank: membership.rank, leader: ranks[0], members: ranks.len() };
        let mut half = match membership.take_half_made(named) {
            Some(TakenBack::Begun(half)) => half,
            Some(TakenBack::Missed) => return Err(refused),
            None => self.begin_spanning(ranks, named, limit)?,
        };
        let takers = half.block().local().size() - 1;
        match self.meet_leaders(&mut half, ranks, limit) {
            Ok(Met::Agreed) => {
                let offered = half.open(segment, takers, false);
                let block = half.block();
                membership.endings().push(Ending::Acknowledging(half));
                let group = self.attach_abroad(ranks, block);
                let corrupt = GroupError::Corrupt { rank: membership.rank, leader: ranks[0] };
                group.map(|group| group.made_by_this_rank(offered)).ok_or(corrupt)
            }
            Ok(Met::Refused | Met::Ended) => {
                let block = half.block();
                half.close(segment, membership.reach().fabric, takers);
                formation::discard(segment, &segment.layout(), &block, membership.local_of(membership.rank));
                Err(refused)
            }
            // What it has asked stays asked: calls with next to no time get on, too.
            Err(waited) => {
                let error = match half.is_offered() {
                    true => self.leader_missing(ranks, &half, waited),
                    false => GroupError::OffersPending { rank: membership.rank, waited },
                };
                membership.half_made().push(half);
                Err(error)
            }
        }
    }

    /// Introduces this node's leader to the others until it is known what comes of it. The error is how long that has
    /// taken by the limit.
    fn meet_leaders(&self, half: &mut Introductions, ranks: &[usize], limit: Option<Limit>) -> Result<Met, Duration> {
        let (segment, fabric) = (self.segment(), self.membership.reach().fabric);
        let (begun, mut asker) = (Instant::now(), Asker::new(self));
        self.patiently(limit, || match half.poll(segment, fabric) {
            Poll::Ready(Met::Ended) => {
                half.begin_again(segment, self.membership.next_number());
                None
            }
            Poll::Ready(met) => Some(met),
            Poll::Pending if half.is_offered() => {
                half.missing().iter().for_each(|stranger| asker.ask_after(self.leader_of(ranks, stranger.node)));
                None
            }
            Poll::Pending => {
                self.make_room(begun);
                None
            }
        })
    }

    fn begin_spanning(&self, ranks: &[usize], named: Named, limit: Option<Limit>) -> Result<Introductions, GroupError> {
        let (segment, membership) = (self.segment(), &self.membership);
        let (nodes, members) = (membership.nodes_of(ranks), self.local_members(ranks));
        let schedule = membership.schedule_for(nodes.len());
        let choice = AlgorithmChoice::new(membership.algorithm, &membership.cpus, members.len());
        let layout = segment.layout();
        let make = || formation::make_spanning(segment, &layout, schedule, &members, choice.algorithm);
        let block = self.claim(limit, make).map_err(|space| {
            self.refuse(named, members.len() - 1, limit);
            self.exhausted(ranks.len(), space)
        })?;
        let here = membership.here();
        let stranger = |node: usize| {
            let leader = ranks.iter().find(|rank| membership.node_of(**rank) == node).expect("a node of the group");
            Stranger { node, leader: membership.local_of(*leader), layout: membership.layout_of(node) }
        };
        let strangers = nodes.iter().copied().filter(|node| *node != here).map(stranger).collect();
        let own = Own {
            node: here,
            leader: membership.local_of(membership.rank),
            segment: layout,
            block,
            index: nodes.iter().position(|node| *node == here).expect("this rank is a member"),
            group: membership.group_id(block.local()),
            parent: self.id(),
        };
        Ok(Introductions::new(named, own, strangers))
    }

    /// Tells the other nodes' leaders, and the node's other members, that there is no space here.
    fn refuse(&self, named: Named, takers: usize, limit: Option<Limit>) {
        let (segment, local) = (self.segment(), self.membership.local_of(self.membership.rank));
        let (node, refusal) = (segment.layout(), (REFUSED, self.membership.next_number()));
        let offer = || offers::offer_abroad(segment, &node, local, named, refusal);
        if let Some(offered) = self.find_a_place(limit, offer) {
            offers::open(segment, offered, takers, true);
            offers::let_go(segment, offered);
        }
    }

    fn leader_missing(&self, ranks: &[usize], half: &Introductions, waited: Duration) -> GroupError {
        let membership = &self.membership;
        let node = half.missing().map_or(membership.here(), |stranger| stranger.node);
        GroupError::LeaderMissing { rank: membership.rank, leader: self.leader_of(ranks, node), node, waited }
    }

    /// The first of some ranks on a node.
    fn leader_of(&self, ranks: &[usize], node: usize) -> usize {
        *ranks.iter().find(|rank| self.membership.node_of(**rank) == node).unwrap_or(&ranks[0])
    }

    fn take(&self, ranks: &[usize], leader: usize, named: Named, limit: Option<Limit>) -> Result<Self, GroupError> {
        let (segment, rank) = (self.segment(), self.membership.rank);
        let (node, local) = (segment.layout(), self.membership.local_of(leader));
        let mut asker = Asker::new(self);
        let taken = self.patiently(limit, || {
            offers::take(segment, &node, local, named).or_else(|| {
                asker.ask_after(leader);
                None
            })
        });
        let value = taken.map_err(|waited| {
            let node = self.membership.here();
            GroupError::LeaderMissing { rank, leader, node, waited }
        })?;
        if value == REFUSED {
            return Err(GroupError::Refused { rank, leader, members: ranks.len() });
        }
        self.attach_taken(ranks, value).ok_or(GroupError::Corrupt { rank, leader })
    }

    /// The group whose block on this node starts at `value`, if that is one.
    fn attach_taken(&self, ranks: &[usize], value: u64) -> Option<Self> {
        let (segment, membership) = (self.segment(), &self.membership);
        if membership.is_on_one_node(ranks) {
            let layout = formation::checked_block(segment, &segment.layout(), value, ranks.len())?;
            return Some(Self::attach(Arc::clone(membership), layout, ranks.to_vec()));
        }
        self.attach_abroad(ranks, membership.spanning_block(value, ranks)?)
    }

    fn attach_abroad(&self, ranks: &[usize], layout: SpanLayout) -> Option<Self> {
        let abroad = Abroad::read(&self.membership, layout, ranks)?;
        Some(Self::attach_spanning(Arc::clone(&self.membership), abroad, ranks.to_vec()))
    }

    /// Whether the alarm has been raised in a call that looks for itself what has happened.
    fn is_interrupted(&self, limit: Limit) -> bool {
        limit.alarm.is_some_and(|alarm| drive::alarm(self.segment()) != alarm)
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
            if limit.is_some_and(|limit| now >= limit.deadline || self.is_interrupted(limit)) {
                return Err(Duration::from_nanos(clock.ns(now.saturating_sub(start))));
            }
            if clock.ns(now.saturating_sub(start)) < 100_000 {
                crate::machine::yield_cpu();
            } else {
                pause = (pause * 2).clamp(Duration::from_micros(20), Duration::from_millis(1));
                self.membership.nap(pause);
            }
        }
    }
}

/// Asks after a leader that is waited for, so that a wait for one that is stopped or has left ends: its failure raises
/// the alarm, which interrupts the attempt.
struct Asker<'group> {
    group: &'group Group,
    begun: Instant,
    /// How long it has been waited for when it is asked after next.
    next: Duration,
    /// Whom the last look has found stopped.
    stopped: Option<(usize, StoppedSince)>,
}

impl<'group> Asker<'group> {
    fn new(group: &'group Group) -> Self {
        Self { group, begun: Instant::now(), next: ASK_AFTER, stopped: None }
    }

    fn ask_after(&mut self, leader: usize) {
        let waited = self.begun.elapsed();
        if waited < self.next {
            return;
        }
        self.next = waited + time_to_question(waited, self.group.membership.failure.timeout, ASK_EVERY);
        let membership = &self.group.membership;
        let before = self.stopped.filter(|(rank, _)| *rank == leader).map(|(_, seen)| seen);
        self.stopped = membership.look_whether_runs(leader, before, waited).map(|seen| (leader, seen));
        membership.ask_after(leader);
    }
}

/// Whether a group is not there yet, but may still come.
fn is_time_out(formed: &Result<Group, GroupError>) -> bool {
    matches!(
        formed,
        Err(GroupError::LeaderMissing { .. } | GroupError::OffersPending { .. } | GroupError::MemberUnreachable { .. })
    )
}
