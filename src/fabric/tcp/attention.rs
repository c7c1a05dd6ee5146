//! Whether somebody who is about to sleep on the connections polls them for a little longer: where requests follow each
//! other closely, the next one would only wake it again, which costs as much as the request's whole round trip.
//!
//! Polled is after something has come that was not long after what had come before; not where that has failed lately:
//! after each failure in a row twice as many occasions pass unused. So a node from which nothing is asked loses
//! nothing, and one whose requests come at the wrong pace loses one span of polling in [`MOST_PASSED`] of them.

use std::time::{Duration, Instant};

/// So many occasions pass unused after many failures in a row.
const MOST_PASSED: u32 = 256;

/// What is known of the pace at which things come.
#[derive(Debug, Default)]
pub struct Attention {
    /// How long is polled; not at all where it is nothing.
    span: Duration,
    /// How much had been heard when somebody was about to sleep last.
    heard: u64,
    /// When something had come last by then.
    last: Option<Instant>,
    /// Occasions that are passed yet.
    to_pass: u32,
    /// So many are passed after the next failure.
    next_pass: u32,
}

impl Attention {
    /// Polls for so long from now on.
    pub fn set_span(&mut self, span: Duration) {
        self.span = span;
    }

    /// Whether it ever polls.
    pub fn is_wanted(&self) -> bool {
        !self.span.is_zero()
    }

    /// Somebody is about to sleep, when so much has been heard. Until when it polls instead, if so.
    pub fn begin(&mut self, heard: u64, now: Instant) -> Option<Instant> {
        if heard == self.heard {
            return None;
        }
        self.heard = heard;
        // Who had to be woken has lost time by it: the pace may be twice as fast as it looks.
        let is_close = self.last.replace(now).is_some_and(|last| now - last <= 2 * self.span);
        if !is_close {
            return None;
        }
        if self.to_pass > 0 {
            self.to_pass -= 1;
            return None;
        }
        Some(now + self.span)
    }

    /// It has polled, and something has come, or not.
    pub fn end(&mut self, has_come: bool) {
        if has_come {
            self.next_pass = 0;
        } else {
            self.next_pass = (2 * self.next_pass).clamp(1, MOST_PASSED);
            self.to_pass = self.next_pass;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_micros(50);

    fn attention() -> Attention {
        let mut attention = Attention::default();
        attention.set_span(SPAN);
        attention
    }

    #[test]
    fn it_polls_after_the_second_of_two_that_come_close_to_one_another() {
        let (mut attention, start) = (attention(), Instant::now());
        assert_eq!(attention.begin(1, start), None, "the first");
        assert_eq!(attention.begin(1, start + SPAN), None, "nothing new");
        let now = start + 2 * SPAN;
        assert_eq!(attention.begin(2, now), Some(now + SPAN));
        assert_eq!(attention.begin(3, now + 3 * SPAN), None, "too late");
    }

    #[test]
    fn each_failure_makes_it_rarer_and_one_success_as_before() {
        let (mut attention, mut now) = (attention(), Instant::now());
        let mut heard = 0;
        let mut passes = |attention: &mut Attention| {
            let mut passed = 0;
            loop {
                (heard, now) = (heard + 1, now + SPAN);
                if attention.begin(heard, now).is_some() {
                    return passed;
                }
                passed += 1;
            }
        };
        assert_eq!(passes(&mut attention), 1, "the first of all");
        let mut seen = Vec::new();
        for _ in 0..12 {
            attention.end(false);
            seen.push(passes(&mut attention));
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 256]);
        attention.end(true);
        assert_eq!(passes(&mut attention), 0);
    }
}
