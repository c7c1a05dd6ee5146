//! What a group makes of failures: which barriers nobody can pass any more, and what its survivors are told.
//!
//! The view log (`cluster::view`) says which ranks the job has lost, in the same order everywhere. A group is broken by the
//! first epoch that has a member of it: every barrier that is not passed by then is lost, though that member may have
//! arrived at it. (Where it has died in the middle of its arrival, or comes back later and goes on with it, its arrival
//! would say one thing to one survivor and another to the next; the log says the same to all.) Whoever fails takes its own
//! arrival back first, by the way that decides between "taken back" and "passed" for all alike. So in a group of one node
//! either nobody passes a barrier, or nobody fails at it. Across nodes the survivors find out together which it is
//! (`coord::barrier::spanning::freeze`).
//!
//! A rank that has *left* was through with all that it had begun: barriers that it had arrived at can still be passed, and
//! its arrivals are looked up. Where nobody can tell them any more, since its node has left with it, the barrier is lost
//! when all others have been there for a second.

use std::task::Poll;
use std::time::Duration;

use super::meeting::{Dead, Meeting, Patience};
use super::{Core, Group, LOOKING_PATIENCE, Limit};
use crate::cluster::view::{self, FailureCause, LastCall, LateState, Lateness, Obituary, Unit};
use crate::coord::activity::CallWord;
use crate::coord::barrier::layout::{QuestionWord, StoppedWord};
use crate::coord::barrier::spanning::Settled;
use crate::coord::barrier::{Outcome, arrivals_in};
use crate::coord::drive::{self, Bounds};
use crate::error::BarrierError;
use crate::fabric::node::header;
use crate::fabric::{Memory, WordAt};
use crate::job::Sight;
use crate::sync::Ordering;

/// How long a wait lasts before this rank asks after those that it misses: whether they run, or have left.
pub(super) const ASK_AFTER: Duration = Duration::from_millis(20);
/// The shortest time between two such questions, and how long their answers are waited for; a wait that has lasted long asks more seldom.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(10);
/// The longest.
const ASK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// How many nodes one question reads a word of.
const MOST_ASKED_NODES: usize = 64;
/// How many ranks one question asks after.
const MOST_ASKED_AFTER: usize = 64;
/// How long the arrivals on other nodes of members that have left are waited for.
const FINAL_WORD_PATIENCE: Duration = Duration::from_millis(50);
/// How long nobody but those who have left must be missing before the barrier is lost. One of the others may have what it
/// takes to pass it in its memory, and compute between `arrive` and `wait`.
const DESERTION_PATIENCE: Duration = Duration::from_secs(1);
/// How long survivors on other nodes are asked at least, also by a call whose time is over: most answer at once.
const SETTLING_GRACE: Duration = Duration::from_millis(20);

/// What a member knows of its group's failures.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// What the alarm held when it was heeded last.
    alarm: u64,
    /// The same, for as long as nothing is wrong: while the alarm holds it, calls need no second look.
    calm: u64,
    /// The last epoch that has been looked at.
    epoch: u64,
    /// Members that have failed, in the order of the log.
    failed: Vec<FailedMember>,
    /// The members by whom a barrier was lost, once one was.
    lost: Option<Loss>,
    /// This rank has been declared failed itself.
    closed: Option<(u64, FailureCause)>,
    /// Ranks that have ended, while too few nodes can be reached to have that decided.
    undecided: Vec<usize>,
    /// Since when, by the clock's ticks, nobody is missing but those who have left.
    deserted: Option<u64>,
}

/// No alarm holds it.
const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
struct FailedMember {
    epoch: u64,
    member: usize,
    cause: FailureCause,
}

/// By whom a barrier was lost.
#[derive(Clone, Debug)]
struct Loss {
    epoch: u64,
    ranks: Vec<usize>,
    causes: Vec<FailureCause>,
    /// Whether that member has never arrived there, as its node says, and never will: nobody can have passed.
    is_certain: bool,
}

/// How long a look at what has happened may take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stay {
    /// It does not wait for anybody.
    Glance,
    /// Other nodes' answers are waited for, as long as the call may last.
    Until(Option<Limit>),
}

impl Stay {
    /// How long other nodes' words are waited for.
    fn patience(self) -> Duration {
        match self {
            Self::Glance => LOOKING_PATIENCE,
            Self::Until(_) => FINAL_WORD_PATIENCE,
        }
    }
}

impl Failures {
    /// Whether a call may begin without a second look.
    #[inline]
    pub fn are_none(&self, alarm: u64) -> bool {
        alarm == self.calm
    }

    /// Whether one who does not wait looks at once at what has happened: at what is new, and at what costs no question.
    pub fn are_looked_at(&self, alarm: u64) -> bool {
        !self.are_none(alarm) && (alarm != self.alarm || !self.asks_abroad())
    }

    /// Whether a look asks other nodes: members have left, and it is not known yet what they have left undone.
    pub fn asks_abroad(&self) -> bool {
        self.lost.is_none() && self.closed.is_none() && !self.failed.is_empty()
    }

    fn has_failed(&self, member: usize) -> bool {
        self.failed.iter().any(|failed| failed.member == member)
    }

    /// Whether a member has failed, or this rank itself.
    pub fn has_broken(&self) -> bool {
        self.closed.is_some() || self.failed.iter().any(|failed| failed.cause != FailureCause::Left)
    }

    /// What ends a wait that begins now.
    #[inline]
    pub fn bounds(&self, deadline: Option<u64>, patience: Duration) -> Bounds {
        Bounds { deadline, alarm: self.alarm, patience }
    }

    /// Has the wait for an arrival that stands from an earlier call look at what has happened before it waits.
    pub fn look_at_once(&mut self) {
        self.alarm = NEVER;
    }
}

impl Group {
    /// Before a call for barrier `sequence`, and whenever the alarm is raised: looks at what has happened.
    ///
    /// # Errors
    ///
    /// What makes the call impossible.
    #[cold]
    pub(super) fn heed(&self, core: &mut Core, sequence: u64, stay: Stay) -> Result<(), BarrierError> {
        // The alarm first: what is raised behind this look is seen at the next.
        let alarm = drive::alarm(self.segment());
        self.read_log(&mut core.failures);
        let fault = self.fault_at(core, sequence, stay);
        let failures = &mut core.failures;
        let is_open = failures.failed.is_empty() && failures.closed.is_none() && failures.undecided.is_empty();
        let is_calm = fault.is_none() && is_open;
        // Once something is wrong each call looks here first.
        (failures.alarm, failures.calm) = (alarm, if is_calm { alarm } else { NEVER });
        fault.map_or(Ok(()), Err)
    }

    /// Takes in the epochs that are new. The alarm is not heeded by that: whoever waits has still to see what it means.
    pub(super) fn read_log(&self, failures: &mut Failures) {
        let (segment, node) = (self.segment(), self.segment().layout());
        self.membership.open_log();
        let last = view::epoch(segment, &node);
        for epoch in failures.epoch + 1..=last {
            let Some(obituary) = view::obituary(segment, &node, epoch) else { break };
            self.take_in(failures, &self.ranks, epoch, obituary);
            self.membership.shut_out(obituary);
            self.trace_death(epoch, obituary);
            failures.epoch = epoch;
            // Whoever has written it may not have raised the alarm yet.
            failures.calm = NEVER;
        }
        if failures.closed.is_none() && segment.word(header::EXCLUDED).load(Ordering::Relaxed) != 0 {
            failures.closed = Some((0, FailureCause::Silent));
        }
    }

    fn take_in(&self, failures: &mut Failures, ranks: &[usize], epoch: u64, Obituary { unit, cause }: Obituary) {
        let is_meant = |rank: usize| match unit {
            Unit::Rank(lost) => lost == rank,
            Unit::Node(lost) => lost == self.membership.node_of(rank),
        };
        if is_meant(self.membership.rank) && failures.closed.is_none() {
            failures.closed = Some((epoch, cause));
        }
        for (member, rank) in ranks.iter().enumerate() {
            let is_known = failures.failed.iter().any(|known| known.member == member);
            if is_meant(*rank) && !is_known {
                failures.failed.push(FailedMember { epoch, member, cause });
            }
        }
    }

    /// Why barrier `sequence` cannot be passed, if it cannot.
    fn fault_at(&self, core: &mut Core, sequence: u64, stay: Stay) -> Option<BarrierError> {
        let rank = self.membership.rank;
        if let excluded @ Some(_) = self.own_exclusion(&core.failures) {
            return excluded;
        }
        if core.failures.lost.is_none() {
            core.failures.lost = self.loss_at(&core.failures.failed, sequence, stay);
        }
        let group = self.id();
        match &core.failures.lost {
            Some(Loss { epoch, ranks, causes, .. }) => {
                let (ranks, causes, epoch) = (ranks.clone(), causes.clone(), *epoch);
                Some(BarrierError::RankFailed { rank, group, sequence, ranks, causes, epoch })
            }
            None => self.unreachable_at(&core.failures, sequence),
        }
    }

    /// The error of a rank that has been declared failed itself.
    pub(super) fn own_exclusion(&self, failures: &Failures) -> Option<BarrierError> {
        let (rank, (epoch, cause)) = (self.membership.rank, failures.closed?);
        Some(BarrierError::Excluded { rank, epoch, cause })
    }

    /// Why a group of these ranks cannot be made, if some of them have failed.
    pub(super) fn fault_among(&self, ranks: &[usize]) -> Option<BarrierError> {
        let (segment, node) = (self.segment(), self.segment().layout());
        let mut failures = Failures::default();
        for epoch in 1..=view::epoch(segment, &node) {
            let Some(obituary) = view::obituary(segment, &node, epoch) else { break };
            self.take_in(&mut failures, ranks, epoch, obituary);
        }
        let first = failures.failed.first()?.epoch;
        let of_epoch = || failures.failed.iter().filter(|failed| failed.epoch == first);
        Some(self.own_exclusion(&failures).unwrap_or_else(|| BarrierError::RankFailed {
            rank: self.membership.rank,
            group: self.id(),
            sequence: self.passed(),
            ranks: of_epoch().map(|failed| ranks[failed.member]).collect(),
            causes: of_epoch().map(|failed| failed.cause).collect(),
            epoch: first,
        }))
    }

    /// By whom barrier `sequence` is lost: the first epoch with a member that will not arrive there, for all that counts.
    fn loss_at(&self, failed: &[FailedMember], sequence: u64, stay: Stay) -> Option<Loss> {
        if failed.is_empty() {
            return None;
        }
        let arrived = self.arrivals_of_left(failed, stay);
        let never_arrives = |at: &usize| match failed[*at].cause {
            FailureCause::Left => arrived[*at].is_some_and(|arrivals| arrivals < sequence),
            _ => true,
        };
        let first = (0..failed.len()).find(never_arrives)?;
        let is_certain = failed[first].cause == FailureCause::Left;
        Some(Loss { is_certain, ..self.loss_by(failed, failed[first].epoch) })
    }

    fn loss_by(&self, failed: &[FailedMember], epoch: u64) -> Loss {
        let of_epoch = || failed.iter().filter(|failed| failed.epoch == epoch);
        Loss {
            epoch,
            ranks: of_epoch().map(|failed| self.ranks[failed.member]).collect(),
            causes: of_epoch().map(|failed| failed.cause).collect(),
            is_certain: false,
        }
    }

    /// At how many barriers each member that has left had arrived; `None` where its node does not say, and for those who
    /// have failed.
    fn arrivals_of_left(&self, failed: &[FailedMember], stay: Stay) -> Vec<Option<u64>> {
        let is_asked = |failed: &&FailedMember| {
            failed.cause == FailureCause::Left
                && !self.membership.has_lost_node(self.membership.node_of(self.ranks[failed.member]))
        };
        let asked: Vec<usize> = failed.iter().filter(is_asked).map(|failed| failed.member).collect();
        let words = self.words_of_some(&asked, |layout, index| [layout.arrival(index)], stay.patience());
        let word_of = |failed: &FailedMember| {
            let at = asked.iter().position(|member| *member == failed.member)?;
            words[at].map(|[word]| arrivals_in(word))
        };
        failed.iter().map(word_of).collect()
    }

    /// While this rank waits, and some have left: the barrier is lost, too, when nobody else is missing for so long.
    fn desertion_at(&self, core: &mut Core, sequence: u64, stay: Stay) -> Option<BarrierError> {
        if core.failures.failed.is_empty() {
            return None;
        }
        let missing = self.missing_within(sequence, stay.patience());
        let failures = &mut core.failures;
        let failed = &failures.failed;
        let epoch_of =
            |rank: &usize| failed.iter().find(|failed| self.ranks[failed.member] == *rank).map(|failed| failed.epoch);
        let epochs: Option<Vec<u64>> = missing.iter().map(epoch_of).collect();
        let Some(first) = epochs.and_then(|epochs| epochs.into_iter().min()) else {
            failures.deserted = None;
            return None;
        };
        let clock = &self.membership.driver.clock;
        let since = *failures.deserted.get_or_insert_with(|| clock.now());
        if Duration::from_nanos(clock.ns(clock.now().saturating_sub(since))) < DESERTION_PATIENCE {
            return None;
        }
        failures.lost = Some(self.loss_by(&failures.failed, first));
        failures.calm = NEVER;
        self.fault_at(core, sequence, stay)
    }

    /// The members of nodes of which nothing is heard, and on whose failure too few nodes are left to agree.
    fn unreachable_at(&self, failures: &Failures, sequence: u64) -> Option<BarrierError> {
        let is_undecided = |rank: &usize| failures.undecided.contains(rank);
        let doubtful = |rank: &usize| is_undecided(rank) || self.membership.is_doubtful(self.membership.node_of(*rank));
        let ranks: Vec<usize> = self.ranks.iter().copied().filter(doubtful).collect();
        (!ranks.is_empty()).then(|| BarrierError::Unreachable {
            rank: self.membership.rank,
            group: self.id(),
            sequence,
            ranks,
            // Whoever has waited puts it in.
            waited: Duration::ZERO,
            why: "too few of the nodes that are left answer this one to agree on it".to_owned(),
        })
    }

    /// After the alarm: what ends the wait for the outstanding arrival, if it cannot be passed. The arrival stands after
    /// [`BarrierError::Unreachable`], which may pass, and is gone otherwise.
    #[cold]
    pub(super) fn heed_while_waiting(&self, core: &mut Core, stay: Stay) -> Option<Result<u64, BarrierError>> {
        let sequence = core.barrier.passed() + 1;
        let error = match self.heed(core, sequence, stay) {
            Err(error @ BarrierError::Unreachable { .. }) => return Some(Err(error)),
            Err(error) => error,
            Ok(()) => self.frozen_at(core, sequence, stay).or_else(|| self.desertion_at(core, sequence, stay))?,
        };
        let is_certain = core.failures.lost.as_ref().is_none_or(|loss| loss.is_certain);
        let is_excluded = matches!(error, BarrierError::Excluded { .. });
        match &core.barrier {
            Meeting::Spanning(_) if !is_certain && !is_excluded => self.settle(core, error, stay),
            _ => Some(self.give_up_lost(core, error)),
        }
    }

    /// Leaves a barrier that this member cannot pass.
    fn give_up_lost(&self, core: &mut Core, error: BarrierError) -> Result<u64, BarrierError> {
        let is_dead = |failed: &&FailedMember| failed.cause.is_final();
        let here = self.membership.here();
        let dead = core.failures.failed.iter().filter(is_dead).map(|failed| failed.member);
        let homes = dead.map(|member| (member, self.home_of(member)));
        let dead = homes.filter(|(_, (node, ..))| *node == here);
        let dead = dead.map(|(member, (.., index))| Dead { index, rank: self.ranks[member] });
        match core.barrier.give_up(&self.membership, &dead.collect::<Vec<_>>()) {
            Some(outcome) => self.pass_lost(core, outcome),
            None => {
                self.trace_withdrawal(core);
                Err(error)
            }
        }
    }

    /// The barrier is passed, after all; the next one is lost for reasons of its own.
    fn pass_lost(&self, core: &mut Core, outcome: Outcome) -> Result<u64, BarrierError> {
        (core.failures.lost, core.failures.deserted) = (None, None);
        self.trace_release(core);
        self.result(core, outcome)
    }

    /// Across nodes: whether the barrier at which the group breaks is passed, as all survivors find it.
    fn settle(&self, core: &mut Core, error: BarrierError, stay: Stay) -> Option<Result<u64, BarrierError>> {
        let (mut patience, mut asked) = (Patience::new(), Duration::ZERO);
        loop {
            if let Poll::Ready(settled) = self.look_whether_settled(core) {
                return Some(match settled {
                    Settled::Passed(outcome) => self.pass_lost(core, outcome),
                    Settled::Lost => self.give_up_lost(core, error),
                });
            }
            let Stay::Until(limit) = stay else { return None };
            // Somebody else may have failed since, and be the one who does not answer.
            self.read_log(&mut core.failures);
            if let Some(excluded) = self.own_exclusion(&core.failures) {
                return Some(self.give_up_lost(core, excluded));
            }
            if let unreachable @ Some(_) = self.unreachable_at(&core.failures, core.barrier.passed() + 1) {
                return unreachable.map(Err);
            }
            let waited = patience.waited();
            // Before a call without time ends: if no call asked, nobody would ever say whether they have failed.
            if waited >= asked + ASK_AFTER {
                asked = waited;
                self.unsettled_ranks(core).into_iter().for_each(|rank| self.membership.ask_after(rank));
            }
            if waited >= SETTLING_GRACE && self.left(limit).is_some_and(|left| left.is_zero()) {
                return Some(Err(self.unsettled(core, waited)));
            }
            patience.pause(&self.membership);
        }
    }

    fn look_whether_settled(&self, core: &mut Core) -> Poll<Settled> {
        let Core { barrier, failures, .. } = core;
        let (Meeting::Spanning(barrier), Some(abroad)) = (barrier, &self.abroad) else {
            unreachable!("whoever settles a barrier has members on several nodes");
        };
        let mut has_survivor = vec![false; abroad.span().len()];
        let survivors = (0..self.size()).filter(|member| !failures.has_failed(*member));
        survivors.for_each(|member| has_survivor[abroad.home_of(member).0] = true);
        let reach = self.membership.reach();
        barrier.settle(reach.memory, reach.fabric, failures.epoch, |index| has_survivor[index])
    }

    /// The surviving members of nodes that have not said how far they have come.
    fn unsettled_ranks(&self, core: &Core) -> Vec<usize> {
        let Meeting::Spanning(barrier) = &core.barrier else { return Vec::new() };
        let nodes: Vec<usize> = barrier.unsettled().collect();
        let is_meant = |member: &usize| {
            nodes.contains(&self.membership.node_of(self.ranks[*member])) && !core.failures.has_failed(*member)
        };
        (0..self.size()).filter(is_meant).map(|member| self.ranks[member]).collect()
    }

    /// The error of a survivor that does not know in time what the others do.
    fn unsettled(&self, core: &Core, waited: Duration) -> BarrierError {
        BarrierError::Unreachable {
            rank: self.membership.rank,
            group: self.id(),
            sequence: core.barrier.passed() + 1,
            ranks: self.unsettled_ranks(core),
            waited,
            why: "a member has failed, and their nodes have not said whether they have passed this barrier".to_owned(),
        }
    }

    /// While this rank waits: survivors of other nodes may know more of what has failed, or have waited for longer for who
    /// has left, and have closed the barrier.
    fn frozen_at(&self, core: &mut Core, sequence: u64, stay: Stay) -> Option<BarrierError> {
        let Meeting::Spanning(barrier) = &core.barrier else { return None };
        let first = core.failures.failed.first()?.epoch;
        if !barrier.is_frozen(self.segment()) {
            return None;
        }
        core.failures.lost = Some(self.loss_by(&core.failures.failed, first));
        core.failures.calm = NEVER;
        self.fault_at(core, sequence, stay)
    }

    /// Whether there is something to look at though no alarm says so: whoever was to raise it may have been stopped on the
    /// way, and members that have left are looked at again and again.
    pub(super) fn has_more_to_heed(&self, failures: &Failures) -> bool {
        failures.calm == NEVER || view::epoch(self.segment(), &self.segment().layout()) > failures.epoch
    }

    /// The members that survive, by the last epoch that is known here: their ranks in the job, in the group's order.
    ///
    /// Survivors that know the same epoch give the same answer.
    pub fn survivors(&self) -> Vec<usize> {
        let mut core = self.core.borrow_mut();
        self.read_log(&mut core.failures);
        self.survivors_in(&core.failures).1
    }

    /// Who survives, and the last epoch that has made a difference to that.
    fn survivors_in(&self, failures: &Failures) -> (u64, Vec<usize>) {
        let survivors =
            (0..self.size()).filter(|member| !failures.has_failed(*member)).map(|member| self.ranks[member]);
        (failures.failed.last().map_or(0, |failed| failed.epoch), survivors.collect())
    }

    /// Who survives by all that is known here, and the last epoch that has made a difference to that: members that know
    /// the one alike know the other alike.
    ///
    /// # Errors
    ///
    /// This rank does not.
    pub(super) fn known_survivors(&self) -> Result<(u64, Vec<usize>), BarrierError> {
        let mut core = self.core.borrow_mut();
        self.read_log(&mut core.failures);
        match self.own_exclusion(&core.failures) {
            Some(error) => Err(error),
            None => Ok(self.survivors_in(&core.failures)),
        }
    }

    /// The epoch that [`survivors`](Self::survivors) goes by: it grows with each rank or node that the job loses.
    pub fn epoch(&self) -> u64 {
        view::epoch(self.segment(), &self.segment().layout())
    }

    /// How long a wait that has lasted for `waited` goes on before this rank asks again. Each question is a look into
    /// `/proc` or a message, which whoever computes on this CPU meanwhile pays for.
    pub(super) fn next_question(&self, waited: Duration) -> Duration {
        let longest = (self.membership.failure.timeout / 2).clamp(ASK_EVERY, ASK_AT_LEAST_EVERY);
        (waited / 2).clamp(ASK_EVERY, longest)
    }

    /// Asks after the members that are missing, for all of this node's members that wait: those of this node that have been
    /// stopped for too long are declared failed, and other nodes' agents are told that somebody waits. Whoever comes
    /// while another has just asked, or is about to, leaves it to that one. Waits for other nodes' answers for `patience`,
    /// twice at most.
    #[cold]
    pub(super) fn ask_after_missing(&self, core: &mut Core, waited: Duration, patience: Duration) {
        let sequence = core.barrier.passed() + 1;
        if self.membership.has_doubts() {
            let missing = self.missing_within(sequence, patience);
            core.failures.undecided = self.undecided_among(&missing);
            if !core.failures.undecided.is_empty() {
                core.failures.calm = NEVER;
            }
        } else {
            core.failures.undecided.clear();
        }
        let Some(turn) = self.take_turn(sequence, self.next_question(waited)) else { return };
        let missing = self.missing_on(sequence, &self.nodes_of_turn(turn), patience);
        // Bounded: the others' turn comes with the next questions.
        let begin = (turn * MOST_ASKED_AFTER) % missing.len().max(1);
        let (before, behind) = missing.split_at(begin);
        for rank in behind.iter().chain(before).take(MOST_ASKED_AFTER) {
            match self.membership.sight_of(*rank) {
                Sight::Stopped => self.note_stopped(*rank, sequence),
                Sight::Running => self.note_running(*rank),
                Sight::Ending(cause) => self.membership.declare_ending(*rank, cause),
                Sight::Left | Sight::Elsewhere => {}
            }
            self.membership.ask_after(*rank);
        }
    }

    /// The number of this node's next question about a barrier, if it is this member that asks it.
    fn take_turn(&self, sequence: u64, period: Duration) -> Option<usize> {
        let word = self.segment().word(self.layout.question());
        let (now, period) = (self.now_ms(), u64::try_from(period.as_millis()).unwrap_or(u64::MAX));
        // Relaxed: a count, and nothing hangs on who asks.
        let seen = word.load(Ordering::Relaxed);
        let (turn, next) = QuestionWord(seen).next(sequence, now, period)?;
        let swapped = word.compare_exchange(seen, next.0, Ordering::Relaxed, Ordering::Relaxed);
        swapped.ok().and(usize::try_from(turn).ok())
    }

    /// The nodes that a question is about, as indices in the span: one after the other, from the one behind this node.
    fn nodes_of_turn(&self, turn: usize) -> Vec<usize> {
        let Some(abroad) = &self.abroad else { return Vec::new() };
        let (nodes, here) = (abroad.span().len(), abroad.home_of(self.me).0);
        let step = |step: usize| (here + 1 + turn * MOST_ASKED_NODES + step) % nodes;
        (0..nodes.min(MOST_ASKED_NODES)).map(step).collect()
    }

    /// A member of this node is stopped; it has failed if it has been so for the time-out.
    fn note_stopped(&self, rank: usize, sequence: u64) {
        if self.stopped_for(rank, sequence).is_some_and(|span| span >= self.membership.failure.timeout) {
            return self.membership.declare_stopped(rank);
        }
        let Some(at) = self.stopped_at(rank) else { return };
        let word = self.segment().word(at);
        // Relaxed: times, of which those that are noted stand, or some just as good.
        let known = StoppedWord(word.load(Ordering::Relaxed));
        word.store(known.seen(sequence, self.now_ms(), self.lapse_ms()).0, Ordering::Relaxed);
    }

    /// A member of this node runs: when it is stopped again, that is another time.
    fn note_running(&self, rank: usize) {
        let Some(at) = self.stopped_at(rank) else { return };
        let word = self.segment().word(at);
        // Relaxed: as in `note_stopped`.
        if word.load(Ordering::Relaxed) != 0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// A member that nobody has seen stopped for longer than this may have run meanwhile.
    fn lapse_ms(&self) -> u64 {
        let lapse = self.membership.failure.timeout.max(ASK_EVERY * 4);
        u64::try_from(lapse.as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long a member of this node has been seen stopped by those who wait for it at a barrier.
    fn stopped_for(&self, rank: usize, sequence: u64) -> Option<Duration> {
        let word = self.segment().word(self.stopped_at(rank)?).load(Ordering::Relaxed);
        StoppedWord(word).span_ms(sequence, self.now_ms(), self.lapse_ms()).map(Duration::from_millis)
    }

    /// Where it is noted since when a member of this node is stopped.
    fn stopped_at(&self, rank: usize) -> Option<WordAt> {
        let member = self.ranks.iter().position(|member| *member == rank)?;
        let (node, layout, local) = self.home_of(member);
        (node == self.membership.here()).then(|| layout.stopped(local))
    }

    /// Milliseconds since the clock's origin.
    fn now_ms(&self) -> u64 {
        let clock = &self.membership.driver.clock;
        clock.since_origin_ns(clock.now()) / 1_000_000
    }

    /// Those of some ranks that have ended, as their own nodes know, while too few nodes can be reached to decide it.
    fn undecided_among(&self, missing: &[usize]) -> Vec<usize> {
        if !self.membership.has_doubts() {
            return Vec::new();
        }
        let has_failed = |end: u64| Obituary::unpack(end).is_some_and(|end| end.cause != FailureCause::Left);
        let (here, others): (Vec<usize>, Vec<usize>) =
            missing.iter().partition(|rank| self.membership.node_of(**rank) == self.membership.here());
        let local = here.into_iter().filter(|rank| {
            let at = self.membership.end_at(*rank).at;
            has_failed(self.segment().word(at).load(Ordering::Acquire))
        });
        let ends = self.read_abroad(others.iter().map(|rank| self.membership.end_at(*rank)).collect(), ASK_EVERY);
        let remote = others.iter().zip(ends).filter(|(_, end)| end.is_some_and(has_failed)).map(|(rank, _)| *rank);
        local.chain(remote).collect()
    }

    /// What is known of late ranks, in their order.
    pub(super) fn lateness_of(&self, sequence: u64, missing: &[usize]) -> Vec<Lateness> {
        let last_calls = self.last_calls_of(missing);
        missing.iter().zip(last_calls).map(|(rank, last_call)| self.lateness(sequence, *rank, last_call)).collect()
    }

    fn lateness(&self, sequence: u64, rank: usize, last_call: Option<LastCall>) -> Lateness {
        let (state, seen_alive) = match self.membership.sight_of(rank) {
            // One that ends is declared failed at the next question.
            Sight::Running | Sight::Ending(_) => (LateState::Running, Some(Duration::ZERO)),
            Sight::Stopped => (LateState::Stopped, self.stopped_for(rank, sequence)),
            Sight::Left => (LateState::Left, None),
            // Its node has just answered, or has not.
            Sight::Elsewhere if last_call.is_some() => (LateState::Remote, Some(Duration::ZERO)),
            Sight::Elsewhere => (LateState::Unreachable, None),
        };
        Lateness { rank, state, seen_alive, last_call }
    }

    /// The last calls of some members, as their nodes' memories say; the nodes are asked all at once.
    fn last_calls_of(&self, ranks: &[usize]) -> Vec<Option<LastCall>> {
        let member = |rank: &usize| self.ranks.iter().position(|member| member == rank).expect("a member");
        let members: Vec<usize> = ranks.iter().map(member).collect();
        let words = self.words_of_some(
            &members,
            |layout, index| [layout.arrival(index), layout.arrived_at(index, 0), layout.arrived_at(index, 1)],
            FINAL_WORD_PATIENCE,
        );
        let call = |(rank, words): (&usize, Option<[u64; 3]>)| {
            self.call_inside(*rank).or_else(|| words.map(|words| self.call_in(*rank, words)))
        };
        ranks.iter().zip(words).map(call).collect()
    }

    /// What a rank of this node is inside of, if it is.
    fn call_inside(&self, rank: usize) -> Option<LastCall> {
        if self.membership.node_of(rank) != self.membership.here() {
            return None;
        }
        let (segment, node, local) = (self.segment(), self.segment().layout(), self.membership.local_of(rank));
        let load = |at| segment.word(at).load(Ordering::Relaxed);
        let call = CallWord(load(node.call(local)));
        let since = load(node.call_since(local));
        call.is_inside().then(|| LastCall {
            name: call.name(),
            group: load(node.call_group(local)),
            sequence: call.sequence(),
            is_inside: true,
            began: Some(self.since(since)),
        })
    }

    /// A member's last call of this group's barriers, by its words.
    fn call_in(&self, rank: usize, [arrival, times @ ..]: [u64; 3]) -> LastCall {
        let sequence = arrivals_in(arrival);
        let at = times[usize::from(sequence % 2 == 1)];
        let is_here = self.membership.node_of(rank) == self.membership.here();
        let began = (is_here && sequence > 0 && at > 0).then(|| self.since(at));
        LastCall { name: "barrier", group: self.id(), sequence, is_inside: false, began }
    }
}
