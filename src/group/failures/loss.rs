//! Which barrier is lost, and by whom.
//!
//! A member that has failed arrives nowhere any more, for all that counts. One that has left may have arrived at later
//! barriers; where nobody can tell, its node having left with it, the barrier is lost by *desertion*: when nobody but
//! those who have left has been missing for a second.

use std::time::Duration;

use super::{FailedMember, Group, NEVER, Stay};
use crate::cluster::view::FailureCause;
use crate::coord::barrier::arrivals_in;
use crate::error::BarrierError;
use crate::group::Core;

/// How long nobody but those who have left must be missing before the barrier is lost. One of the others may have what
/// it takes to pass it in its memory, and compute between `arrive` and `wait`.
const DESERTION_PATIENCE: Duration = Duration::from_secs(1);

/// By whom a barrier was lost.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub epoch: u64,
    pub ranks: Vec<usize>,
    pub causes: Vec<FailureCause>,
    /// Whether a member of that epoch has left without arriving there, as its node says: nobody can have passed.
    pub is_certain: bool,
}

impl Group {
    /// By whom barrier `sequence` is lost: the first epoch with a member that will not arrive there, for all that
    /// counts.
    pub(super) fn loss_at(&self, failed: &[FailedMember], sequence: u64, stay: Stay) -> Option<Loss> {
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

    /// At how many barriers each member that has left had arrived; `None` where its node does not say, and for those
    /// who have failed.
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
    pub(super) fn desertion_at(&self, core: &mut Core, sequence: u64, stay: Stay) -> Option<BarrierError> {
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
        self.lose(core, first, sequence, stay)
    }

    /// Barrier `sequence` is lost by those who have failed in an epoch, whatever they have arrived at.
    pub(super) fn lose(&self, core: &mut Core, epoch: u64, sequence: u64, stay: Stay) -> Option<BarrierError> {
        core.failures.lost = Some(self.loss_by(&core.failures.failed, epoch));
        core.failures.calm = NEVER;
        self.fault_at(core, sequence, stay)
    }
}
