//! How ranks of this process follow their waits with others, while other nodes ask things of it: who serves the
//! connections in between.
//!
//! A rank that has waited has stolen the progress ([`super::progress`]), and nobody serves the connections until it
//! waits again, or the background thread takes them back. Most processes are asked nothing; but a lock's home is, and
//! there others would wait all that time. So a rank that is through with a wait *hands over* where something was asked
//! meanwhile, unless its waits follow each other closely. And where it calls again and again and need not wait, as
//! nobody else has its locks just then, it serves the connections *in passing*: the thread, which is woken for each
//! request, would use up its share of a CPU that the rank never leaves, and then come late.

use std::time::{Duration, Instant};

/// A rank whose waits, or calls without any, follow each other as closely is soon back.
const BACK_SOON: Duration = Duration::from_micros(50);
/// Such a one that need not wait serves the connections so often,
const SERVE_EVERY: Duration = Duration::from_micros(5);
/// for so long after something was asked.
const ASKED_LASTS: Duration = Duration::from_millis(1);

/// What a rank that need not wait is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    Nothing,
    /// It looks what has come in.
    Serve,
    /// The background thread serves: this rank is back seldom, or nothing was asked for a while.
    HandOver,
}

/// What is known of waits and requests.
#[derive(Debug)]
pub(super) struct Pace {
    /// How many requests there had been, of those that others wait for, at the last look.
    asked: u32,
    /// When a rank was through last with a wait in which something was asked, or has served the connections in passing.
    through: Instant,
    /// When one called last that need not wait.
    passed: Instant,
    /// Until when such a one serves.
    until: Option<Instant>,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { asked: 0, through: now, passed: now, until: None }
    }

    /// Whether ranks serve in passing now.
    pub fn is_asked(&self) -> bool {
        self.until.is_some()
    }

    /// A rank is through with a wait that began then; so many requests have been executed. Whether the background
    /// thread is to serve.
    pub fn ends_wait(&mut self, asked: u32, begun: Instant, now: Instant) -> bool {
        if !self.note(asked, now) {
            return false;
        }
        let gap = begun.saturating_duration_since(self.through);
        self.through = now;
        gap >= BACK_SOON
    }

    /// A rank need not wait.
    pub fn passes(&mut self, now: Instant) -> Duty {
        let Some(until) = self.until else { return Duty::Nothing };
        let gap = now.saturating_duration_since(std::mem::replace(&mut self.passed, now));
        if now >= until {
            self.until = None;
            return Duty::HandOver;
        }
        if gap >= BACK_SOON {
            return Duty::HandOver;
        }
        if now.saturating_duration_since(self.through) < SERVE_EVERY {
            return Duty::Nothing;
        }
        self.through = now;
        Duty::Serve
    }

    /// So many requests have been executed. Whether there were any since this was called last.
    pub fn note(&mut self, asked: u32, now: Instant) -> bool {
        let was_asked = std::mem::replace(&mut self.asked, asked) != asked;
        if was_asked {
            self.until = Some(now + ASKED_LASTS);
        }
        was_asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn who_is_asked_nothing_keeps_the_connections_after_a_wait() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        assert!(!pace.ends_wait(0, begun + us(1000), begun + us(1010)));
        assert_eq!((pace.passes(begun + us(2000)), pace.is_asked()), (Duty::Nothing, false));
    }

    #[test]
    fn who_is_asked_hands_over_after_a_wait_unless_the_one_before_was_just_now() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        assert!(pace.ends_wait(1, begun + us(50), begun + us(500)));
        assert!(!pace.ends_wait(2, begun + us(549), begun + us(900)), "49 µs later");
        assert!(!pace.ends_wait(2, begun + us(2000), begun + us(2001)), "nothing new");
        assert!(pace.ends_wait(3, begun + us(3000), begun + us(3001)));
    }

    #[test]
    fn who_is_asked_serves_in_passing_until_nothing_was_asked_for_a_while() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        let _ = pace.ends_wait(1, begun, begun);
        assert_eq!(pace.passes(begun + us(4)), Duty::Nothing, "too soon");
        assert_eq!(pace.passes(begun + us(5)), Duty::Serve);
        assert!(pace.note(2, begun + us(40)) && pace.is_asked());
        assert!((1..=25).all(|call| pace.passes(begun + us(40 * call)) == Duty::Serve), "asked once more");
        assert_eq!(pace.passes(begun + us(1041)), Duty::HandOver);
        assert_eq!((pace.passes(begun + us(1042)), pace.is_asked()), (Duty::Nothing, false));
    }

    #[test]
    fn who_is_asked_and_calls_seldom_leaves_the_connections_to_the_thread() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        for call in 1..10 {
            assert!(pace.note(call, begun + us(500 * u64::from(call) - 1)));
            assert_eq!(pace.passes(begun + us(500 * u64::from(call))), Duty::HandOver);
        }
        assert_eq!(pace.passes(begun + us(4510)), Duty::Serve, "10 µs after the last");
    }
}
