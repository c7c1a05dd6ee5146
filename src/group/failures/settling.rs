//! How the barrier ends at which a failure breaks the group, for a member that has arrived there.
//!
//! On one node the member takes its arrival back, by the way that decides between "taken back" and "passed" for all
//! alike. Across nodes it finds out with the other survivors whether any of them has passed
//! (`coord::barrier::spanning::freeze`): then all do, and otherwise none. Where their nodes do not say in time, the
//! arrival stands, and a later call goes on.

use std::task::Poll;
use std::time::Duration;

use super::{FailedMember, Group, Stay};
use crate::coord::barrier::Outcome;
use crate::coord::barrier::spanning::Settled;
use crate::error::BarrierError;
use crate::group::Core;
use crate::group::asking::ASK_AFTER;
use crate::group::meeting::{Dead, Meeting, Patience};

/// How long survivors on other nodes are asked at least, also by a call whose time is over: most answer at once.
const SETTLING_GRACE: Duration = Duration::from_millis(20);

impl Group {
    /// After the alarm: what ends the wait for the outstanding arrival, if it cannot be passed. The arrival stands
    /// after an error that leaves the barrier's end open ([`BarrierError::is_open`]), and is gone otherwise.
    #[cold]
    pub(in crate::group) fn heed_while_waiting(
        &self,
        core: &mut Core,
        stay: Stay,
    ) -> Option<Result<u64, BarrierError>> {
        let sequence = core.barrier.passed() + 1;
        let error = match self.heed(core, sequence, stay) {
            Err(error) if error.is_open() => return Some(Err(error)),
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

    /// While this rank waits: survivors of other nodes may know more of what has failed, or have waited for longer for
    /// who has left, and have closed the barrier.
    fn frozen_at(&self, core: &mut Core, sequence: u64, stay: Stay) -> Option<BarrierError> {
        let Meeting::Spanning(barrier) = &core.barrier else { return None };
        let first = core.failures.failed.first()?.epoch;
        if !barrier.is_frozen(self.segment()) {
            return None;
        }
        self.lose(core, first, sequence, stay)
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
        let ranks = self.unsettled_ranks(core);
        BarrierError::Unsettled {
            rank: self.membership.rank,
            group: self.id(),
            sequence: core.barrier.passed() + 1,
            failed: core.failures.lost.as_ref().map_or_else(Vec::new, |loss| loss.ranks.clone()),
            nodes: self.membership.nodes_of(&ranks),
            ranks,
            waited,
        }
    }
}
