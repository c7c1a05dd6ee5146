//! Who takes a lock before others that wait, where ranks share CPUs.
//!
//! There a lock that goes from rank to rank in the order of their claims makes each of them sleep and be woken for each
//! grant. So whoever runs may have it again and again, for a bounded time ([`Passing`]), while the first of those that
//! wait wakes up. That one then asks whether the lock is *hot* ([`Heat`]): granted so often on the other CPU that to
//! move it costs more than it is held for. A hot lock is left where it is, for a bounded time again; one that is not is
//! taken whenever it is free, so that ranks which do other work between two grants keep all CPUs busy.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// For how long it may do so where ranks share CPUs.
const PASSING_LIMIT: Duration = Duration::from_micros(100);
/// The clock is read this seldom for that, or so seldom that this share of the limit goes by meanwhile.
const PASSED_PER_LOOK: u64 = 16;
const LOOKS_PER_LIMIT: u64 = 8;
/// A lock that is granted again within this time is hot: to go from CPU to CPU takes it longer than its users need it
/// for.
const HOT_GRANT: Duration = Duration::from_nanos(400);
/// For how long a rank that is awake leaves a hot lock to its users: then they have had their turn.
const HOT_LIMIT: Duration = Duration::from_micros(120);

/// A rank's right to take a lock before others that wait, where ranks share CPUs: it ends with a span of time.
#[derive(Debug, Default)]
pub(super) struct Passing {
    /// Since when it has done so.
    since: Cell<Option<Instant>>,
    /// How often it had at the last call.
    last: Cell<u64>,
    /// The clock is not read before it has done so this often.
    next_look: Cell<u64>,
}

impl Passing {
    /// Whether it may do so once more, having done so this often.
    #[inline]
    pub fn goes_on(&self, passed: u64) -> bool {
        let is_next = passed >= self.last.replace(passed) && passed != 0;
        (is_next && passed < self.next_look.get()) || self.look(passed, is_next, Instant::now())
    }

    #[allow(clippy::cast_possible_truncation, reason = "no more than the limit")]
    fn look(&self, passed: u64, is_next: bool, now: Instant) -> bool {
        if passed == 0 {
            self.since.set(Some(now));
        } else if !is_next {
            self.since.set(None);
            self.next_look.set(0);
        }
        // By another handle of this rank nobody knows since when.
        let Some(since) = self.since.get() else { return false };
        let elapsed = now - since;
        if elapsed >= PASSING_LIMIT {
            return false;
        }
        let share_ns = PASSING_LIMIT.as_nanos() as u64 / LOOKS_PER_LIMIT;
        let at_this_pace = passed * share_ns / (elapsed.as_nanos() as u64).max(1);
        self.next_look.set(passed + at_this_pace.clamp(1, PASSED_PER_LOOK));
        true
    }
}

/// Whether a lock is hot: others use it all the time while this rank, which shares CPUs with them, waits for it.
#[derive(Debug, Default)]
pub(super) struct Heat {
    /// The version at the last look, and when that was.
    last: Cell<Option<(u64, Instant)>>,
    /// When it was seen to be hot first, since this rank has slept.
    since: Cell<Option<Instant>>,
    /// And last.
    felt: Cell<Option<Instant>>,
}

impl Heat {
    /// Whether the lock is to be left to them, which has this version now. At the first look that is not known, and it
    /// is.
    pub fn feel(&self, version: u64, now: Instant) -> bool {
        let is_hot = self.last.replace(Some((version, now))).is_none_or(|(before, then)| {
            let grants = u32::try_from(version.wrapping_sub(before)).unwrap_or(u32::MAX);
            grants > 1 && now - then < HOT_GRANT.saturating_mul(grants)
        });
        let since = self.since.get().unwrap_or(now);
        if !is_hot || now - since > HOT_LIMIT {
            return false;
        }
        self.since.set(Some(since));
        self.felt.set(Some(now));
        true
    }

    /// Whether it was hot not longer ago than this.
    pub fn was_felt(&self, now: Instant, within: Duration) -> bool {
        self.felt.get().is_some_and(|felt| now - felt < within)
    }

    /// Whether there is a look to compare the next one with.
    pub fn has_looked(&self) -> bool {
        self.last.get().is_some()
    }

    /// This rank has slept.
    pub fn forget(&self) {
        self.last.set(None);
        self.since.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ns(ns: u64) -> Duration {
        Duration::from_nanos(ns)
    }

    #[test]
    fn who_passes_others_does_so_for_a_span_of_time() {
        let (passing, begun) = (Passing::default(), Instant::now());
        assert!(passing.look(0, true, begun));
        assert!(passing.look(1, true, begun + ns(50)));
        assert_eq!(passing.next_look.get(), 1 + PASSED_PER_LOOK, "a quick one reads the clock seldom");
        assert!(passing.look(17, true, begun + PASSING_LIMIT - ns(1)));
        assert!(!passing.look(33, true, begun + PASSING_LIMIT));
        assert!(passing.look(0, true, begun + PASSING_LIMIT), "it has waited since");
    }

    #[test]
    fn who_holds_for_long_passes_nobody_twice() {
        let (passing, begun) = (Passing::default(), Instant::now());
        assert!(passing.look(0, true, begun));
        assert_eq!(passing.next_look.get(), 1);
        assert!(!passing.look(1, true, begun + Duration::from_millis(1)));
        assert!(passing.look(0, true, begun) && passing.look(1, true, begun + PASSING_LIMIT / 2));
        assert_eq!(passing.next_look.get(), 2, "the clock is read each time");
    }

    #[test]
    fn what_another_handle_has_begun_does_not_go_on_by_this_one() {
        assert!(!Passing::default().goes_on(1));
        let passing = Passing::default();
        assert!((0..40).all(|passed| passing.goes_on(passed)));
        assert!(!passing.goes_on(3), "this rank has waited since, and passed others, by another handle");
        assert!(!passing.goes_on(4) && passing.goes_on(0) && passing.goes_on(1));
    }

    #[test]
    fn a_lock_is_hot_while_its_grants_follow_each_other_quickly() {
        let (heat, begun) = (Heat::default(), Instant::now());
        assert!(!heat.has_looked());
        assert!(heat.feel(7, begun), "not known yet");
        assert!(heat.feel(17, begun + ns(800)));
        assert!(!heat.feel(18, begun + ns(1600)), "once in a while");
        assert!(!heat.feel(20, begun + ns(2600)));
        assert!(!heat.feel(20, begun + ns(3400)), "not used at all");
        assert!(heat.was_felt(begun + ns(1700), ns(1000)) && !heat.was_felt(begun + ns(1800), ns(1000)));
    }

    #[test]
    fn a_hot_lock_is_left_to_its_users_for_a_span_of_time() {
        let (heat, begun) = (Heat::default(), Instant::now());
        let at = |micros| heat.feel(micros * 50, begun + Duration::from_micros(micros));
        assert!((0..=120).all(at));
        assert!(!at(121));
        heat.forget();
        assert!(at(122), "it has slept");
    }
}
