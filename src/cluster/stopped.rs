//! Since when a process is stopped, as somebody sees it who looks again and again.
//!
//! Nobody is told when a process stops or goes on: a look shows how it is now. So it counts as stopped all the time
//! between two looks that both found it so and were no further apart than a *lapse*. Who has not looked for longer does
//! not know what has been meanwhile: it may have been stopped itself, together with the other, which is about to go on
//! just as it does. Then the time begins anew.

use std::time::Duration;

/// Two looks that are further apart than this, and than the failure time-out, say nothing of the time between them.
const LAPSE: Duration = Duration::from_millis(40);

/// The lapse of those who wait for a rank and look whether it runs.
pub fn lapse_of_waiting(timeout: Duration) -> Duration {
    timeout.max(LAPSE)
}

/// Since when a process has been found stopped at each look, or its heartbeat as it was. Times are since any origin, the
/// same for all looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoppedSince {
    since: Duration,
    looked: Duration,
}

impl StoppedSince {
    /// A look finds it stopped; so did the one before, if there is a `before`.
    pub fn seen(before: Option<Self>, now: Duration, lapse: Duration) -> Self {
        let before = before.filter(|before| now.saturating_sub(before.looked) <= lapse);
        Self { since: before.map_or(now, |before| before.since), looked: now }
    }

    /// For how long it had been so at the last look.
    pub fn span(self) -> Duration {
        self.looked.saturating_sub(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_looked_for_long_begins_anew() {
        const MS: Duration = Duration::from_millis(1);
        let lapse = lapse_of_waiting(100 * MS);
        let first = StoppedSince::seen(None, 1000 * MS, lapse);
        let second = StoppedSince::seen(Some(first), 1100 * MS, lapse);
        assert_eq!((first.span(), second.span()), (Duration::ZERO, 100 * MS));
        let late = StoppedSince::seen(Some(second), 1201 * MS, lapse);
        assert_eq!(late.span(), Duration::ZERO, "it was stopped itself, perhaps");
        assert_eq!(StoppedSince::seen(Some(late), 1221 * MS, lapse).span(), 20 * MS);
        assert_eq!(lapse_of_waiting(10 * MS), LAPSE, "looks may be that far apart");
    }
}
