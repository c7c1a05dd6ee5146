//! A blocking call on a group's barrier, from its beginning to its end: what an earlier call has left is settled, the
//! member arrives, and waits; whatever interrupts the wait is looked at, until the barrier is passed or lost, or the
//! time is over.
//!
//! After a time-out the arrival stands. Who answers for it then, [`Standing`] says.

use std::time::{Duration, Instant};

use super::asking::ASK_AFTER;
use super::failures::Stay;
use super::limit::Limit;
use super::noted::Noted;
use super::{Core, Group};
use crate::cluster::sentinel::ASK_EVERY;
use crate::coord::activity::Call;
use crate::coord::barrier::{Contribution, Outcome};
use crate::coord::drive::{self, Waited};
use crate::error::BarrierError;

/// How long a time-out waits for an arrival that is published but not counted yet, rather than name nobody.
const COUNTING_PATIENCE: Duration = Duration::from_millis(10);

/// Who answers for the outstanding arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is none.
    Nothing,
    /// A blocking call that timed out; the next such call resumes it.
    Suspended,
    /// An [`Arrival`](super::Arrival) that the caller holds.
    Held,
    /// An [`Arrival`](super::Arrival) that was dropped; the next blocking call finishes it first.
    Detached,
    /// A split whose barrier timed out, with its colour and key.
    Splitting(u64, u64),
    /// A split whose barrier is passed, but whose group is not there yet: see [`Core::forming`].
    Forming,
}

impl Group {
    /// Arrives and waits, for as long as the limit says; goes on with an arrival of the same kind that a time-out has
    /// left.
    #[inline]
    pub(super) fn meet(&self, contribution: Contribution, limit: Option<Limit>) -> Result<u64, BarrierError> {
        let mut core = self.core.borrow_mut();
        self.begin_call(&mut core, Stay::Until(limit))?;
        if core.standing != Standing::Nothing {
            self.settle_earlier(&mut core, contribution, limit)?;
        }
        self.arrive_unless_arrived(&mut core, contribution);
        self.finish(&mut core, limit, Standing::Suspended)
    }

    /// Before each call: whether something has happened since the last one that makes it impossible.
    #[inline]
    pub(super) fn begin_call(&self, core: &mut Core, stay: Stay) -> Result<(), BarrierError> {
        match core.failures.are_none(drive::alarm(self.segment())) {
            true => Ok(()),
            false => self.look_before(core, stay),
        }
    }

    /// Something has happened since the last call: whether the next barrier can still be passed. Where that is not
    /// known at once, the arrival that it hangs on stands.
    #[cold]
    fn look_before(&self, core: &mut Core, stay: Stay) -> Result<(), BarrierError> {
        match core.standing {
            Standing::Nothing | Standing::Forming => self.heed(core, core.barrier.passed() + 1, stay),
            // It may be passed, and whoever waits for it is to know: it is that wait that looks.
            Standing::Suspended | Standing::Splitting(..) | Standing::Held => {
                core.failures.look_at_once();
                Ok(())
            }
            Standing::Detached => match self.heed_while_waiting(core, stay) {
                None => Ok(()),
                Some(ended) => {
                    core.standing = standing_after(&ended, core.standing);
                    ended?;
                    self.heed(core, core.barrier.passed() + 1, stay)
                }
            },
        }
    }

    /// Before the wait for an arrival that the caller holds.
    pub(super) fn look_first(&self, core: &mut Core) {
        if !core.failures.are_none(drive::alarm(self.segment())) {
            core.failures.look_at_once();
        }
    }

    /// Before a blocking call arrives: a suspended arrival of the same kind is the call's own; a dropped one is
    /// finished first; any other is in the way.
    #[cold]
    pub(super) fn settle_earlier(
        &self,
        core: &mut Core,
        contribution: Contribution,
        limit: Option<Limit>,
    ) -> Result<(), BarrierError> {
        match core.standing {
            Standing::Suspended if core.barrier.contribution() == contribution => Ok(()),
            // Whoever dropped it does not want to know how it ended.
            Standing::Detached => match self.finish(core, limit, Standing::Detached) {
                Ok(_) | Err(BarrierError::OperationMismatch { .. }) => Ok(()),
                Err(error) => Err(error),
            },
            _ => Err(self.outstanding(core)),
        }
    }

    #[inline]
    pub(super) fn arrive_unless_arrived(&self, core: &mut Core, contribution: Contribution) {
        if !core.barrier.is_outstanding() {
            core.arrived = core.barrier.arrive(&self.membership, contribution);
            self.trace_arrival(core);
        }
    }

    /// Waits for the outstanding arrival; after a time-out it stands as `otherwise` says.
    #[inline]
    pub(super) fn finish(
        &self,
        core: &mut Core,
        limit: Option<Limit>,
        otherwise: Standing,
    ) -> Result<u64, BarrierError> {
        let Core { barrier, arrived, failures, .. } = &mut *core;
        let bounds = failures.bounds(limit.map(|limit| limit.deadline), ASK_AFTER);
        match barrier.wait(&self.membership, arrived, bounds) {
            Waited::Passed(outcome) => self.pass(core, outcome),
            interrupted => {
                let ended = self.finish_long(core, limit, otherwise, interrupted);
                // The caller may not come back soon, and others still ask what has happened here.
                ended.inspect_err(|_| self.membership.hand_over())
            }
        }
    }

    /// The outstanding barrier is passed.
    #[inline]
    fn pass(&self, core: &mut Core, outcome: Outcome) -> Result<u64, BarrierError> {
        core.standing = Standing::Nothing;
        self.trace_release(core);
        self.result(core, outcome)
    }

    /// Goes on waiting after something has interrupted it: an alarm, the time to ask after those who are missing, or
    /// the end of the time.
    #[cold]
    fn finish_long(
        &self,
        core: &mut Core,
        limit: Option<Limit>,
        otherwise: Standing,
        mut interrupted: Waited,
    ) -> Result<u64, BarrierError> {
        let mut noted = None;
        loop {
            let (since, ended) = match interrupted {
                Waited::Passed(outcome) => return self.pass(core, outcome),
                Waited::TimedOut => {
                    drop(noted);
                    return self.finish_late(core, limit, otherwise);
                }
                Waited::Alarmed { since } => (since, self.heed_while_waiting(core, Stay::Until(limit))),
                Waited::Long { since } => {
                    noted.get_or_insert_with(|| self.note_wait(core, since));
                    (since, self.ask_while_waiting(core, limit, since))
                }
            };
            if let Some(ended) = ended {
                return self.finish_heeding(core, ended, since, otherwise);
            }
            interrupted = self.wait_on(core, limit, since);
        }
    }

    /// Notes for those who look from outside that this rank waits in a barrier since then.
    fn note_wait(&self, core: &Core, since: u64) -> Noted<'_> {
        Noted::new(&self.membership, Call::Barrier, core.barrier.passed() + 1, self.id(), since)
    }

    /// A wait takes long: asks after those that are missing. What ends the wait, if there is something that does.
    fn ask_while_waiting(
        &self,
        core: &mut Core,
        limit: Option<Limit>,
        since: u64,
    ) -> Option<Result<u64, BarrierError>> {
        self.ask_after_missing(core, self.since(since), ASK_EVERY);
        match self.has_more_to_heed(&core.failures) {
            true => self.heed_while_waiting(core, Stay::Until(limit)),
            false => None,
        }
    }

    /// Goes on with a wait that began at `since`, until it is time to ask again.
    fn wait_on(&self, core: &mut Core, limit: Option<Limit>, since: u64) -> Waited {
        let waited = self.since(since);
        let patience = ASK_AFTER.max(waited + self.next_question(waited));
        let Core { barrier, arrived, failures, .. } = core;
        let bounds = failures.bounds(limit.map(|limit| limit.deadline), patience);
        barrier.resume(&self.membership, arrived, bounds, since)
    }

    /// What has happened meanwhile ends a wait that began at `since`.
    fn finish_heeding(
        &self,
        core: &mut Core,
        ended: Result<u64, BarrierError>,
        since: u64,
        otherwise: Standing,
    ) -> Result<u64, BarrierError> {
        core.standing = standing_after(&ended, otherwise);
        self.having_waited(ended, since)
    }

    /// The time is over. Whoever comes again and again, each time with next to no time, learns of what happens, too.
    fn finish_late(&self, core: &mut Core, limit: Option<Limit>, otherwise: Standing) -> Result<u64, BarrierError> {
        let since = core.looks.since(core.barrier.passed() + 1, || self.membership.driver.clock.now());
        match self.ask_if_long(core, since) {
            Some(ended) => self.finish_heeding(core, ended, since, otherwise),
            None => self.look_again(core, limit, otherwise).inspect_err(|error| self.trace_time_out(error)),
        }
    }

    /// After a time-out: the last ranks may have come since the last look, and an error that names nobody helps nobody.
    /// When nobody is missing the barrier is as good as passed: only a rank that has published its arrival has to
    /// count it, too.
    #[cold]
    fn look_again(&self, core: &mut Core, limit: Option<Limit>, otherwise: Standing) -> Result<u64, BarrierError> {
        core.standing = otherwise;
        let start = Instant::now();
        loop {
            let error = self.timed_out(core, limit);
            let names_somebody = matches!(&error, BarrierError::TimedOut { missing, .. } if !missing.is_empty());
            if names_somebody {
                return Err(error);
            }
            if let Some(outcome) = self.test_outstanding(core) {
                core.standing = Standing::Nothing;
                return self.result(core, outcome);
            }
            if start.elapsed() > COUNTING_PATIENCE {
                return Err(error);
            }
            crate::machine::yield_cpu();
        }
    }

    /// How a wait that began at `since` has ended: with how long it was, where the error does not know.
    pub(super) fn having_waited(&self, mut ended: Result<u64, BarrierError>, since: u64) -> Result<u64, BarrierError> {
        if let Err(BarrierError::Unreachable { waited, .. }) = &mut ended
            && waited.is_zero()
        {
            *waited = self.since(since);
        }
        ended
    }

    pub(super) fn test_outstanding(&self, core: &mut Core) -> Option<Outcome> {
        core.barrier.test(&self.membership).inspect(|_| self.trace_release(core))
    }

    #[inline]
    pub(super) fn result(&self, core: &Core, outcome: Outcome) -> Result<u64, BarrierError> {
        outcome.map_err(|_| self.mismatch(core))
    }

    #[cold]
    fn mismatch(&self, core: &Core) -> BarrierError {
        let sequence = core.barrier.passed();
        BarrierError::OperationMismatch {
            rank: self.ranks[self.me],
            group: self.id(),
            sequence,
            named: self.named_at(sequence),
        }
    }

    #[cold]
    fn timed_out(&self, core: &Core, limit: Option<Limit>) -> BarrierError {
        let sequence = core.barrier.passed() + 1;
        let missing = self.missing_at(sequence);
        BarrierError::TimedOut {
            rank: self.ranks[self.me],
            group: self.id(),
            sequence,
            waited: self.waited(limit),
            late_by: self.lateness_of(sequence, &missing),
            missing,
        }
    }

    #[cold]
    pub(super) fn outstanding(&self, core: &Core) -> BarrierError {
        let (rank, group) = (self.ranks[self.me], self.id());
        match core.standing {
            Standing::Forming => BarrierError::SplitUnfinished { rank, group },
            _ => BarrierError::ArrivalOutstanding { rank, group, sequence: core.barrier.passed() + 1 },
        }
    }
}

/// Who answers for an arrival when the wait for it has ended.
fn standing_after(ended: &Result<u64, BarrierError>, otherwise: Standing) -> Standing {
    match ended {
        Err(error) if error.is_open() => otherwise,
        _ => Standing::Nothing,
    }
}
