//! What a group makes of failures: which barriers nobody can pass any more, and what its survivors are told.
//!
//! The view log (`cluster::view`) says which ranks the job has lost, in the same order everywhere. A rank that is lost
//! writes no more, so its last arrival is final: barriers that it had arrived at can still be passed, and all others are
//! lost. A barrier is lost by the first epoch that has a member who will never arrive there. All survivors find the same,
//! from the same log and the same arrivals, and whoever fails takes its own arrival back first, by the way that decides
//! between "taken back" and "passed" for all alike. So of one barrier either nobody of this node passes, or nobody fails.

use std::collections::HashMap;
use std::time::Duration;

use super::{Core, Group};
use crate::cluster::view::{self, FailureCause, LastCall, LateState, Lateness, Obituary, Unit};
use crate::coord::activity::CallWord;
use crate::coord::barrier::arrivals_in;
use crate::coord::drive::{self, Bounds};
use crate::error::BarrierError;
use crate::fabric::Memory;
use crate::fabric::node::header;
use crate::job::Sight;
use crate::sync::Ordering;

/// How long a wait lasts before this rank asks after those that it misses: whether they run, or have left.
pub(super) const ASK_AFTER: Duration = Duration::from_millis(20);
/// The time between two such questions.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(10);
/// How long the arrivals of failed members on other nodes are waited for. A node that does not answer has failed with
/// them, for all that can be known.
const FINAL_WORD_PATIENCE: Duration = Duration::from_millis(50);

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
    /// Since when, by the clock's ticks, this rank sees others stopped.
    stopped: HashMap<usize, u64>,
}

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
}

impl Failures {
    /// Whether a call may begin without a second look.
    #[inline]
    pub fn are_none(&self, alarm: u64) -> bool {
        alarm == self.calm
    }

    /// What ends a wait that begins now.
    #[inline]
    pub fn bounds(&self, deadline: Option<u64>, patience: Duration) -> Bounds {
        Bounds { deadline, alarm: self.alarm, patience }
    }
}

impl Group {
    /// Before a call for barrier `sequence`, and whenever the alarm is raised: looks at what has happened.
    ///
    /// # Errors
    ///
    /// What makes the call impossible.
    #[cold]
    pub(super) fn heed(&self, core: &mut Core, sequence: u64) -> Result<(), BarrierError> {
        self.read_log(&mut core.failures);
        match self.fault_at(core, sequence) {
            None => Ok(()),
            Some(error) => {
                // From now on each call looks here first.
                core.failures.calm = u64::MAX;
                Err(error)
            }
        }
    }

    /// Takes in the epochs that are new.
    pub(super) fn read_log(&self, failures: &mut Failures) {
        let (segment, node) = (self.segment(), self.segment().layout());
        // The alarm first: what is raised behind this look is seen at the next.
        failures.alarm = drive::alarm(segment);
        let last = view::epoch(segment, &node);
        for epoch in failures.epoch + 1..=last {
            let Some(obituary) = view::obituary(segment, &node, epoch) else { break };
            self.take_in(failures, &self.ranks, epoch, obituary);
            self.membership.shut_out(obituary);
            self.trace_death(epoch, obituary);
            failures.epoch = epoch;
        }
        if failures.closed.is_none() && segment.word(header::EXCLUDED).load(Ordering::Relaxed) != 0 {
            failures.closed = Some((0, FailureCause::Silent));
        }
        let is_calm = failures.failed.is_empty() && failures.closed.is_none();
        failures.calm = if is_calm { failures.alarm } else { u64::MAX };
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
    fn fault_at(&self, core: &mut Core, sequence: u64) -> Option<BarrierError> {
        let rank = self.membership.rank;
        if let excluded @ Some(_) = self.own_exclusion(&core.failures) {
            return excluded;
        }
        if core.failures.lost.is_none() {
            core.failures.lost = self.loss_at(&core.failures.failed, sequence);
        }
        let group = self.id();
        match &core.failures.lost {
            Some(Loss { epoch, ranks, causes }) => {
                let (ranks, causes, epoch) = (ranks.clone(), causes.clone(), *epoch);
                Some(BarrierError::RankFailed { rank, group, sequence, ranks, causes, epoch })
            }
            None => self.unreachable_at(sequence),
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

    /// By whom barrier `sequence` is lost: the first epoch with a member that will never arrive there.
    fn loss_at(&self, failed: &[FailedMember], sequence: u64) -> Option<Loss> {
        if failed.is_empty() {
            return None;
        }
        let arrived = self.final_arrivals(failed);
        let never_arrives = |at: &usize| arrived[*at].is_none_or(|arrivals| arrivals < sequence);
        let epoch = (0..failed.len()).find(never_arrives).map(|at| failed[at].epoch)?;
        let of_epoch: Vec<&FailedMember> = failed.iter().filter(|failed| failed.epoch == epoch).collect();
        Some(Loss {
            epoch,
            ranks: of_epoch.iter().map(|failed| self.ranks[failed.member]).collect(),
            causes: of_epoch.iter().map(|failed| failed.cause).collect(),
        })
    }

    /// At how many barriers each failed member has arrived; `None` where its node does not answer.
    fn final_arrivals(&self, failed: &[FailedMember]) -> Vec<Option<u64>> {
        let is_reachable =
            |failed: &FailedMember| !self.membership.has_lost_node(self.membership.node_of(self.ranks[failed.member]));
        let asked: Vec<usize> =
            failed.iter().filter(|failed| is_reachable(failed)).map(|failed| failed.member).collect();
        let words = self.words_of_some(&asked, |layout, index| [layout.arrival(index)], FINAL_WORD_PATIENCE);
        let word_of = |failed: &FailedMember| {
            let at = asked.iter().position(|member| *member == failed.member)?;
            words[at].map(|[word]| arrivals_in(word))
        };
        failed.iter().map(word_of).collect()
    }

    /// The members of nodes of which nothing is heard, and on whose failure too few nodes are left to agree.
    fn unreachable_at(&self, sequence: u64) -> Option<BarrierError> {
        let doubtful = |rank: &usize| self.membership.is_doubtful(self.membership.node_of(*rank));
        let ranks: Vec<usize> = self.ranks.iter().copied().filter(doubtful).collect();
        (!ranks.is_empty()).then(|| BarrierError::Unreachable {
            rank: self.membership.rank,
            group: self.id(),
            sequence,
            ranks,
            waited: self.membership.failure.timeout,
            why: "fewer than half of the job's nodes answer this one".to_owned(),
        })
    }

    /// After the alarm: what ends the wait for the outstanding arrival, if it cannot be passed.
    #[cold]
    pub(super) fn heed_while_waiting(&self, core: &mut Core) -> Option<Result<u64, BarrierError>> {
        let error = self.heed(core, core.barrier.passed() + 1).err()?;
        let is_dead = |failed: &&FailedMember| failed.cause.is_final();
        let here = self.membership.here();
        let dead = core.failures.failed.iter().filter(is_dead).map(|failed| self.home_of(failed.member));
        let dead: Vec<usize> = dead.filter(|(node, ..)| *node == here).map(|(.., local)| local).collect();
        let passed = core.barrier.give_up(&self.membership, &dead);
        Some(match passed {
            Some(outcome) => {
                self.trace_release(core);
                self.result(core, outcome)
            }
            None => {
                self.trace_withdrawal(core);
                Err(error)
            }
        })
    }

    /// The members that survive, by the last epoch that is known here: their ranks in the job, in the group's order.
    ///
    /// Survivors that know the same epoch give the same answer.
    pub fn survivors(&self) -> Vec<usize> {
        let mut core = self.core.borrow_mut();
        self.read_log(&mut core.failures);
        self.survivors_in(&core.failures).1
    }

    /// The last epoch that is known here, and who survives it.
    pub(super) fn survivors_in(&self, failures: &Failures) -> (u64, Vec<usize>) {
        let has_failed = |member: usize| failures.failed.iter().any(|failed| failed.member == member);
        let survivors = (0..self.size()).filter(|member| !has_failed(*member)).map(|member| self.ranks[member]);
        (failures.epoch, survivors.collect())
    }

    /// The epoch that [`survivors`](Self::survivors) goes by: it grows with each rank or node that the job loses.
    pub fn epoch(&self) -> u64 {
        view::epoch(self.segment(), &self.segment().layout())
    }

    /// Asks after the members that this rank waits for. Those of this node that have been stopped for too long are
    /// declared failed; other nodes' agents are told that somebody waits.
    #[cold]
    pub(super) fn ask_after_missing(&self, core: &mut Core) {
        let sequence = core.barrier.passed() + 1;
        let clock = &self.membership.driver.clock;
        let missing = self.missing_within(sequence, ASK_EVERY);
        core.failures.stopped.retain(|rank, _| missing.contains(rank));
        for rank in missing {
            match self.membership.sight_of(rank) {
                Sight::Stopped => {
                    let since = *core.failures.stopped.entry(rank).or_insert_with(|| clock.now());
                    let span = Duration::from_nanos(clock.ns(clock.now().saturating_sub(since)));
                    if span >= self.membership.failure.timeout {
                        self.membership.declare_stopped(rank);
                    }
                }
                Sight::Running | Sight::Left => drop(core.failures.stopped.remove(&rank)),
                Sight::Elsewhere => {}
            }
            self.membership.ask_after(rank);
        }
    }

    /// What is known of late ranks, in their order.
    pub(super) fn lateness_of(&self, failures: &Failures, missing: &[usize]) -> Vec<Lateness> {
        missing.iter().map(|rank| self.lateness(failures, *rank)).collect()
    }

    fn lateness(&self, failures: &Failures, rank: usize) -> Lateness {
        let (state, seen_alive) = match self.membership.sight_of(rank) {
            Sight::Running => (LateState::Running, Some(Duration::ZERO)),
            Sight::Stopped => {
                let since = failures.stopped.get(&rank).copied();
                let clock = &self.membership.driver.clock;
                let ago = |since| Duration::from_nanos(clock.ns(clock.now().saturating_sub(since)));
                (LateState::Stopped, since.map(ago))
            }
            Sight::Left => (LateState::Left, None),
            Sight::Elsewhere => match self.membership.heard_of(rank) {
                Some(ago) => (LateState::Remote, Some(ago)),
                None => (LateState::Unreachable, None),
            },
        };
        Lateness { rank, state, seen_alive, last_call: self.last_call_of(rank) }
    }

    /// A rank's last call, as its node's memory says: of this group's barriers, unless it is inside of something else.
    fn last_call_of(&self, rank: usize) -> Option<LastCall> {
        let member = self.ranks.iter().position(|member| *member == rank)?;
        let clock = &self.membership.driver.clock;
        let ago = |ticks: u64| Duration::from_nanos(clock.ns(clock.now().saturating_sub(ticks)));
        if self.membership.node_of(rank) == self.membership.here() {
            let (segment, node) = (self.segment(), self.segment().layout());
            let local = self.membership.local_of(rank);
            let load = |at| segment.word(at).load(Ordering::Relaxed);
            let call = CallWord(load(node.call(local)));
            if call.is_inside() {
                let (group, began) = (load(node.call_group(local)), Some(ago(load(node.call_since(local)))));
                let (name, sequence) = (call.name(), call.sequence());
                return Some(LastCall { name, group, sequence, is_inside: true, began });
            }
        }
        let words = self.words_of_some(
            &[member],
            |layout, index| [layout.arrival(index), layout.arrived_at(index, 0), layout.arrived_at(index, 1)],
            FINAL_WORD_PATIENCE,
        );
        let [arrival, times @ ..] = words[0]?;
        let sequence = arrivals_in(arrival);
        let at = times[usize::from(sequence % 2 == 1)];
        let is_here = self.membership.node_of(rank) == self.membership.here();
        let began = (is_here && sequence > 0 && at > 0).then(|| ago(at));
        Some(LastCall { name: "barrier", group: self.id(), sequence, is_inside: false, began })
    }
}
