//! Sleeping on a word and waking those who sleep: the kernel's futex, shared between processes.

use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};

use super::segment::Segment;
use crate::fabric::{Park, WordAt, lower_half};

/// Wakes everyone who sleeps on the word.
pub(super) fn wake(segment: &Segment, at: WordAt) {
    // The call fails only for an address that is not mapped, and the segment is.
    let _ = futex::wake(segment.futex(at), Flags::empty(), i32::MAX.unsigned_abs());
}

impl Park for Segment {
    fn park(&self, at: WordAt, seen: u64, timeout: Option<Duration>) {
        // A time-out too long for the kernel's type is for ever.
        let timeout = timeout.and_then(|span| Timespec::try_from(span).ok());
        // EAGAIN (the word has changed), EINTR and ETIMEDOUT all mean the same to the caller: look again.
        let _ = futex::wait(self.futex(at), Flags::empty(), lower_half(seen), timeout.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::segment::tests::segment_of;
    use crate::fabric::{Memory, Park, WordAt};
    use crate::sync::Ordering;

    #[test]
    fn a_changed_word_is_not_slept_on() {
        let segment = segment_of(1);
        let at = WordAt(64);
        segment.word(at).store(7, Ordering::Release);
        segment.park(at, 6, None);
    }

    #[test]
    fn a_wake_ends_a_sleep_without_a_timeout() {
        let segment = Arc::new(segment_of(1));
        let at = WordAt(64);
        let sleeper = {
            let segment = Arc::clone(&segment);
            std::thread::spawn(move || {
                while segment.word(at).load(Ordering::Acquire) == 0 {
                    segment.park(at, 0, None);
                }
            })
        };
        segment.word(at).store(1, Ordering::Release);
        segment.wake(at);
        sleeper.join().expect("the sleeper ends");
    }
}
