//! The bound of a blocking call, and the clock as a group's member reads it.

use std::time::Duration;

use super::Group;

/// The bound of a blocking call, in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub start: u64,
    pub deadline: u64,
    /// What the alarm holds, for steps that end when it is raised.
    pub alarm: Option<u64>,
}

impl Group {
    /// The bound of a call that begins now.
    pub(super) fn limit(&self, timeout: Option<Duration>) -> Option<Limit> {
        let clock = &self.membership.driver.clock;
        let start = clock.now();
        let deadline = |timeout| start.saturating_add(clock.ticks(timeout));
        timeout.map(|timeout| Limit { start, deadline: deadline(timeout), alarm: None })
    }

    /// What is left of a bound.
    pub(super) fn left(&self, limit: Option<Limit>) -> Option<Duration> {
        let clock = &self.membership.driver.clock;
        limit.map(|limit| Duration::from_nanos(clock.ns(limit.deadline.saturating_sub(clock.now()))))
    }

    pub(super) fn waited(&self, limit: Option<Limit>) -> Duration {
        let clock = &self.membership.driver.clock;
        Duration::from_nanos(limit.map_or(0, |limit| clock.ns(clock.now().saturating_sub(limit.start))))
    }

    /// How long ago something was, by the clock.
    pub(super) fn since(&self, ticks: u64) -> Duration {
        let clock = &self.membership.driver.clock;
        Duration::from_nanos(clock.ns(clock.now().saturating_sub(ticks)))
    }

    /// Milliseconds since the clock's origin.
    pub(super) fn now_ms(&self) -> u64 {
        let clock = &self.membership.driver.clock;
        clock.since_origin_ns(clock.now()) / 1_000_000
    }
}
