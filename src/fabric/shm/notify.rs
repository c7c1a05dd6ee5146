//! Sleeping on a word and waking those who sleep: the kernel's futex, shared between processes.
//!
//! A rank that waits sleeps on two words at once, the awaited one and the node's alarm (`futex_waitv`, Linux 5.16).
//! Where there is no such call it sleeps on the first, and looks at the alarm now and then.

use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Timespec, Wait, WaitFlags, WaitvFlags};
use rustix::time::{ClockId, clock_gettime};

use super::segment::Segment;
use crate::fabric::node::header;
use crate::fabric::{Memory, Park, WordAt, lower_half};
use crate::sync::{AtomicU32, Ordering};

/// How long a rank sleeps between two looks at the alarm where the kernel cannot watch two words.
const NAP: Duration = Duration::from_millis(1);

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

    fn park_heeding(&self, at: WordAt, seen: u64, alarm: u64, timeout: Option<Duration>) {
        let waits = [wait_for(self.futex(at), seen), wait_for(self.futex(header::ALARM), alarm)];
        let until = timeout.and_then(deadline);
        // As above: whatever ends it, the caller looks again.
        let waited = futex::waitv(&waits, WaitvFlags::empty(), until.as_ref(), ClockId::Monotonic);
        // SYNC POINT: alarm. Acquire pairs with whoever raises it, here (`raise_alarm`) or through a fabric.
        if matches!(waited, Err(Errno::NOSYS | Errno::PERM))
            && self.word(header::ALARM).load(Ordering::Acquire) == alarm
        {
            self.park(at, seen, Some(timeout.map_or(NAP, |timeout| timeout.min(NAP))));
        }
    }
}

/// A wait until a word that processes share is no longer as it was seen.
pub(crate) fn wait_for(word: &AtomicU32, seen: u64) -> Wait {
    let mut wait = Wait::new();
    wait.val = u64::from(lower_half(seen));
    wait.uaddr = word.as_ptr().cast::<core::ffi::c_void>().into();
    // 32 bits wide, shared between processes.
    wait.flags = WaitFlags::SIZE_U32;
    wait
}

/// The moment after a span from now; `None` for one too far for the kernel's type, which is for ever.
pub(crate) fn deadline(span: Duration) -> Option<Timespec> {
    let now = clock_gettime(ClockId::Monotonic);
    now.checked_add(Timespec::try_from(span).ok()?)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::{Duration, Instant};

    use super::super::segment::tests::segment_of;
    use crate::fabric::node::header;
    use crate::fabric::{Memory, Park, WordAt};
    use crate::sync::Ordering;

    /// Longer than anything takes on a machine that does other things too.
    const LIMIT: Duration = Duration::from_secs(60);

    /// Does what may sleep for ever if something is wrong.
    fn ends(what: impl FnOnce() + Send + 'static) {
        let (sender, has_ended) = mpsc::channel();
        std::thread::spawn(move || {
            what();
            let _ = sender.send(());
        });
        has_ended.recv_timeout(LIMIT).expect("it sleeps");
    }

    #[test]
    fn a_changed_word_is_not_slept_on() {
        let segment = segment_of(1);
        let at = WordAt(64);
        segment.word(at).store(7, Ordering::Release);
        ends(move || segment.park(at, 6, None));
    }

    #[test]
    fn an_alarm_that_was_raised_before_is_not_slept_through() {
        let segment = segment_of(1);
        segment.word(header::ALARM).store(1, Ordering::Release);
        ends(move || segment.park_heeding(WordAt(64), 0, 0, None));
    }

    #[test]
    fn an_alarm_and_a_change_both_end_a_sleep() {
        for changed in [WordAt(64), header::ALARM] {
            let segment = Arc::new(segment_of(1));
            let sleeper = {
                let segment = Arc::clone(&segment);
                std::thread::spawn(move || {
                    while segment.word(changed).load(Ordering::Acquire) == 0 {
                        segment.park_heeding(WordAt(64), 0, 0, None);
                    }
                })
            };
            segment.word(changed).store(1, Ordering::Release);
            segment.wake(changed);
            sleeper.join().expect("the sleeper ends");
        }
    }

    #[test]
    fn a_time_out_ends_a_sleep_on_two_words() {
        const TIMEOUT: Duration = Duration::from_millis(1);
        ends(|| {
            let (segment, begun) = (segment_of(1), Instant::now());
            segment.park_heeding(WordAt(64), 0, 0, Some(TIMEOUT));
            assert!(begun.elapsed() >= TIMEOUT, "nothing has changed, and it ends after {:?}", begun.elapsed());
        });
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
