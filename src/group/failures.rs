//! What a group makes of failures: which barriers nobody can pass any more, and what its survivors are told.
//!
//! The view log (`cluster::view`) says which ranks the job has lost, in the same order everywhere. A group is broken by
//! the first epoch that has a member of it: every barrier that is not passed by then is lost, though that member may
//! have arrived at it. (Where it has died in the middle of its arrival, or comes back later and goes on with it, its
//! arrival would say one thing to one survivor and another to the next; the log says the same to all.) Whoever fails
//! takes its own arrival back first, by the way that decides between "taken back" and "passed" for all alike. So in a
//! group of one node either nobody passes a barrier, or nobody fails at it. Across nodes the survivors find out
//! together which it is (`coord::barrier::spanning::freeze`).
//!
//! A rank that has *left* was through with all that it had begun: barriers that it had arrived at can still be passed,
//! and its arrivals are looked up.
//!
//! | file | is |
//! | --- | --- |
//! | `loss.rs` | which barrier is lost, and by whom |
//! | `settling.rs` | how that barrier ends for a member that has arrived there |

mod loss;
mod settling;

use std::time::Duration;

use self::loss::Loss;
use super::asking::LOOKING_PATIENCE;
use super::limit::Limit;
use super::{Core, Group};
use crate::cluster::view::{self, FailureCause, Obituary, Unit};
use crate::coord::drive::{self, Bounds};
use crate::error::BarrierError;
use crate::fabric::Memory;
use crate::fabric::node::header;
use crate::sync::Ordering;

/// How long the last words on other nodes of members that are late, or have left, are waited for.
pub(super) const FINAL_WORD_PATIENCE: Duration = Duration::from_millis(50);

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

    pub fn has_failed(&self, member: usize) -> bool {
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

    /// The last epoch that has taken a member; 0 if none has.
    pub fn last_of_members(&self) -> u64 {
        self.failed.last().map_or(0, |failed| failed.epoch)
    }

    /// These ranks have ended, and too few nodes can be reached to have that decided.
    pub fn note_undecided(&mut self, ranks: Vec<usize>) {
        if !ranks.is_empty() {
            self.calm = NEVER;
        }
        self.undecided = ranks;
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

    /// Whether there is something to look at though no alarm says so: whoever was to raise it may have been stopped on
    /// the way, and members that have left are looked at again and again.
    pub(super) fn has_more_to_heed(&self, failures: &Failures) -> bool {
        failures.calm == NEVER || view::epoch(self.segment(), &self.segment().layout()) > failures.epoch
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

    /// The members of nodes of which nothing is heard, and on whose failure too few nodes are left to agree.
    fn unreachable_at(&self, failures: &Failures, sequence: u64) -> Option<BarrierError> {
        let is_undecided = |rank: &usize| failures.undecided.contains(rank);
        let doubtful = |rank: &usize| is_undecided(rank) || self.membership.is_doubtful(self.membership.node_of(*rank));
        let ranks: Vec<usize> = self.ranks.iter().copied().filter(doubtful).collect();
        (!ranks.is_empty()).then(|| BarrierError::Unreachable {
            rank: self.membership.rank,
            group: self.id(),
            sequence,
            nodes: self.membership.nodes_of(&ranks),
            ranks,
            // Whoever has waited puts it in.
            waited: Duration::ZERO,
        })
    }
}
