//! What a group tells the timeline, if its rank keeps one: one branch for each event where it does not.

use super::{Core, Group};
use crate::cluster::view::{self, Obituary};
use crate::error::BarrierError;
use crate::sync::Ordering;
use crate::trace::{Kind, Record, Remark, Trace, Unit};

impl Group {
    #[inline]
    pub(super) fn trace_arrival(&self, core: &mut Core) {
        if let Some(trace) = &self.membership.trace {
            // With attribution the driver has read it.
            if !cfg!(feature = "attribution") {
                core.arrived.at = self.membership.driver.clock.now();
            }
            self.trace_event(trace, Kind::Arrival, core.arrived.at, core.barrier.passed() + 1, 0);
        }
    }

    /// Of the barrier that was passed last.
    #[inline]
    pub(super) fn trace_release(&self, core: &Core) {
        if let Some(trace) = &self.membership.trace {
            let now = self.membership.driver.clock.now();
            self.trace_event(trace, Kind::Release, now, core.barrier.passed(), core.arrived.at);
        }
    }

    pub(super) fn trace_withdrawal(&self, core: &Core) {
        if let Some(trace) = &self.membership.trace {
            let now = self.membership.driver.clock.now();
            self.trace_event(trace, Kind::Withdrawal, now, core.barrier.passed() + 1, 0);
        }
    }

    pub(super) fn trace_leaving(&self, core: &Core) {
        if let Some(trace) = &self.membership.trace {
            let now = self.membership.driver.clock.now();
            self.trace_event(trace, Kind::GroupLeft, now, core.barrier.passed(), 0);
        }
    }

    #[cold]
    pub(super) fn trace_time_out(&self, error: &BarrierError) {
        let (Some(trace), BarrierError::TimedOut { group, sequence, missing, .. }) = (&self.membership.trace, error)
        else {
            return;
        };
        let remark = Remark::TimedOut { group: *group, sequence: *sequence, missing: missing.clone() };
        trace.remark(self.membership.driver.clock.now(), remark);
    }

    /// A death that this rank learns of: once, whichever of its groups does.
    #[cold]
    pub(super) fn trace_death(&self, epoch: u64, obituary: Obituary) {
        let Some(trace) = &self.membership.trace else { return };
        // Relaxed: a number of its own.
        if self.membership.traced_epoch.fetch_max(epoch, Ordering::Relaxed) < epoch {
            let unit = match obituary.unit {
                view::Unit::Rank(rank) => Unit::Rank(rank),
                view::Unit::Node(node) => Unit::Node(node),
            };
            let remark = Remark::Death { unit, cause: obituary.cause.to_string(), epoch };
            trace.remark(self.membership.driver.clock.now(), remark);
        }
    }

    /// A group that this rank has just joined.
    pub(super) fn traced(self) -> Self {
        if let Some(trace) = &self.membership.trace {
            let remark = Remark::GroupMade { group: self.id(), ranks: self.ranks.clone() };
            trace.remark(self.membership.driver.clock.now(), remark);
        }
        self
    }

    #[inline]
    fn trace_event(&self, trace: &Trace, kind: Kind, ticks: u64, sequence: u64, argument: u64) {
        trace.record(&Record { ticks, kind, group: self.id(), sequence, argument });
    }
}
