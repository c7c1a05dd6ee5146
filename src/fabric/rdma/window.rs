//! What is under way on one connection: a ring of requests, of which the oldest complete first.
//!
//! A reliable connection completes its requests in order, so one completion tells that all before it are complete. Only
//! some requests ask for a completion (are *signaled*): the last of a batch with a value in it, because somebody
//! waits for that, and otherwise every now and then, so that the ring is emptied.
//!
//! The adapter keeps a connection's requests in order, with one exception: a write or an atomic may overtake an earlier
//! read or atomic, unless it is *fenced*, which makes it wait at the sender until those have completed. The contract
//! allows no exception, so it is fenced if there is such a one that is not known to be complete. What is posted behind
//! a fenced request is behind all that the fence waited for, and needs no second one.
//!
//! Soft-RoCE is given no fences ([`Fencing::Soft`]): when a packet is lost it sends again from the oldest request on,
//! and a fenced one then waits for the reads and atomics behind it, or for itself, for ever. It executes requests
//! strictly in order, and repeats no atomic; only a read whose answer was lost is executed again, and would see what
//! came after it. So what may overtake a read must not be posted before that is complete ([`Window::must_wait`]): the
//! connection holds it back.

use crate::fabric::{Request, Ticket};

/// After so many writes that nobody asked to hear of, the next batch asks. A ring has several times as many places.
const UNSIGNALED_MAX: u64 = 32;

/// What a place in the ring is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A write: nobody waits for it.
    Write,
    /// A read or an atomic: the ticket's slot waits for the value.
    Value { ticket: Ticket, is_atomic: bool },
}

/// How many requests may be under way in a ring of so many places: a little fewer, because drivers that keep a place or
/// two of their own free would round a full power of two up to the next.
pub(super) fn capacity(depth: usize) -> usize {
    depth - 2
}

/// What a device needs to keep its requests in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fencing {
    /// What InfiniBand's specification says: reads and atomics may be overtaken, and any request may be fenced.
    Standard,
    /// Soft-RoCE: only reads may be overtaken, and nothing may be fenced.
    Soft,
}

/// Which requests are under way. Counts grow for ever; a request's place in the ring is its count modulo the ring.
pub(super) struct Window {
    entries: Box<[Entry]>,
    posted: u64,
    completed: u64,
    /// What was posted when a completion was last asked for.
    signaled: u64,
    /// What was posted just after the last request that may be overtaken and that no fence has waited for; 0 for none.
    unfenced: u64,
    fencing: Fencing,
}

impl Window {
    /// A ring with a power of two of places.
    pub fn new(depth: usize, fencing: Fencing) -> Self {
        debug_assert!(depth.is_power_of_two(), "places are found by masking");
        Self { entries: vec![Entry::Write; depth].into(), posted: 0, completed: 0, signaled: 0, unfenced: 0, fencing }
    }

    #[inline]
    pub fn room(&self) -> usize {
        capacity(self.entries.len()) - self.under_way()
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "no more are under way than the ring has places")]
    pub fn under_way(&self) -> usize {
        (self.posted - self.completed) as usize
    }

    /// The place in the ring of request number `count`.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "masked to the ring")]
    pub fn place(&self, count: u64) -> usize {
        count as usize & (self.entries.len() - 1)
    }

    /// Whether the request must not be posted yet, because it might overtake a read.
    #[inline]
    pub fn must_wait(&self, request: &Request) -> bool {
        self.fencing == Fencing::Soft && !matches!(request, Request::Read { .. }) && self.unfenced > self.completed
    }

    /// Enters a request; gives its number, and whether it must be fenced.
    #[inline]
    pub fn push(&mut self, request: &Request, entry: Entry) -> (u64, bool) {
        let may_overtake = self.fencing == Fencing::Standard && !matches!(request, Request::Read { .. });
        let fenced = may_overtake && self.unfenced > self.completed;
        if fenced {
            self.unfenced = 0;
        }
        let count = self.posted;
        let place = self.place(count);
        self.entries[place] = entry;
        self.posted += 1;
        let may_be_overtaken = match request {
            Request::Write { .. } => false,
            Request::Read { .. } => true,
            Request::FetchAdd { .. } | Request::CompareSwap { .. } => self.fencing == Fencing::Standard,
        };
        if may_be_overtaken {
            self.unfenced = self.posted;
        }
        (count, fenced)
    }

    /// Whether the batch that has just been entered asks for a completion; if so, it counts as having asked.
    #[inline]
    pub fn signal(&mut self, has_value: bool) -> bool {
        let asks = has_value || self.posted - self.signaled >= UNSIGNALED_MAX;
        if asks {
            self.signaled = self.posted;
        }
        asks
    }

    /// Takes back the last `requests`, which were not posted after all. For a connection that is then given up.
    pub fn rewind(&mut self, requests: usize) {
        self.posted -= requests as u64;
    }

    /// Request number `count` has completed, and all before it: gives each to `each`, with its number and its place in
    /// the ring. Stops before one that `each` does not accept, which is still under way then; `false` tells that.
    #[inline]
    pub fn complete_through(&mut self, count: u64, mut each: impl FnMut(u64, usize, Entry) -> bool) -> bool {
        let end = count.saturating_add(1).min(self.posted);
        while self.completed < end {
            let place = self.place(self.completed);
            if !each(self.completed, place, self.entries[place]) {
                return false;
            }
            self.completed += 1;
        }
        true
    }

    /// All that is under way ends, as it is: gives each to `each`.
    pub fn drain(&mut self, mut each: impl FnMut(Entry)) {
        self.complete_through(u64::MAX, |_, _, entry| {
            each(entry);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::WordAt;

    const AT: WordAt = WordAt(0);
    const WRITE: Request = Request::Write { at: AT, value: 0 };
    const READ: Request = Request::Read { at: AT };
    const ADD: Request = Request::FetchAdd { at: AT, add: 1 };
    const SWAP: Request = Request::CompareSwap { at: AT, expected: 0, new: 1 };

    const TICKET: Ticket = Ticket { slot: 0, generation: 0 };

    fn value(slot: u32) -> Entry {
        Entry::Value { ticket: Ticket { slot, ..TICKET }, is_atomic: false }
    }

    fn entry(request: &Request) -> Entry {
        match request {
            Request::Write { .. } => Entry::Write,
            Request::Read { .. } => value(0),
            _ => Entry::Value { ticket: TICKET, is_atomic: true },
        }
    }

    /// Which of these requests, posted one after the other with nothing completing, are fenced.
    fn fences(requests: &[Request]) -> Vec<bool> {
        let mut window = Window::new(64, Fencing::Standard);
        requests.iter().map(|request| window.push(request, entry(request)).1).collect()
    }

    #[test]
    fn what_may_overtake_a_read_or_an_atomic_is_fenced_once() {
        assert_eq!(fences(&[WRITE, READ, READ]), [false, false, false], "nothing here overtakes");
        assert_eq!(fences(&[READ, WRITE, WRITE]), [false, true, false], "the second is behind the fence");
        assert_eq!(fences(&[ADD, READ, SWAP]), [false, false, true]);
        assert_eq!(fences(&[ADD, SWAP, WRITE]), [false, true, true], "each atomic may be overtaken itself");
        assert_eq!(fences(&[WRITE, ADD, WRITE]), [false, false, true]);
    }

    #[test]
    fn soft_roce_is_given_no_fence_and_nothing_that_could_overtake_a_read() {
        let mut window = Window::new(64, Fencing::Soft);
        for request in [ADD, SWAP, WRITE, ADD, READ] {
            assert!(!window.must_wait(&request), "atomics are executed once and in order");
            assert!(!window.push(&request, entry(&request)).1);
        }
        assert!([WRITE, ADD, SWAP].iter().all(|request| window.must_wait(request)));
        assert!(!window.must_wait(&READ));
        let (read, _) = window.push(&READ, entry(&READ));
        window.complete_through(read - 1, |_, _, _| true);
        assert!(window.must_wait(&WRITE));
        window.complete_through(read, |_, _, _| true);
        assert!(!window.must_wait(&WRITE));
    }

    #[test]
    fn nothing_is_fenced_against_what_is_complete() {
        let mut window = Window::new(64, Fencing::Standard);
        let (read, _) = window.push(&READ, entry(&READ));
        window.complete_through(read, |_, _, _| true);
        assert!(!window.push(&WRITE, Entry::Write).1);
    }

    #[test]
    fn a_ring_never_fills_with_writes_that_nobody_hears_of() {
        for batch in 1..=64 {
            let mut window = Window::new(128, Fencing::Standard);
            let mut last_signaled = None;
            for _ in 0..1000 {
                if window.room() < batch {
                    let signaled = last_signaled.take().expect("a completion has been asked for");
                    window.complete_through(signaled, |_, _, _| true);
                    assert!(window.room() >= batch, "batches of {batch}");
                }
                let mut count = 0;
                (0..batch).for_each(|_| count = window.push(&WRITE, Entry::Write).0);
                if window.signal(false) {
                    last_signaled = Some(count);
                }
            }
        }
    }

    #[test]
    fn one_completion_completes_all_before_it_once() {
        let mut window = Window::new(8, Fencing::Standard);
        let mut done = Vec::new();
        assert_eq!(window.room(), 6);
        for slot in 0..6 {
            window.push(&READ, value(slot));
        }
        let mut complete = |window: &mut Window| {
            window.complete_through(3, |_, place, entry| {
                done.push((place, entry));
                true
            })
        };
        assert!(complete(&mut window) && complete(&mut window));
        assert_eq!(done, (0..4).map(|slot| (slot as usize, value(slot))).collect::<Vec<_>>());
        (0..3).for_each(|_| _ = window.push(&WRITE, Entry::Write));
        assert_eq!((window.room(), window.under_way()), (1, 5));
        let mut left = Vec::new();
        window.drain(|entry| left.push(entry));
        assert_eq!(left, [value(4), value(5), Entry::Write, Entry::Write, Entry::Write]);
        assert_eq!(window.room(), 6);
    }

    #[test]
    fn what_is_not_accepted_stays_under_way_with_all_behind_it() {
        let mut window = Window::new(8, Fencing::Standard);
        (0..4).for_each(|slot| _ = window.push(&READ, value(slot)));
        assert!(!window.complete_through(3, |count, _, _| count != 2));
        assert_eq!(window.under_way(), 2);
        let mut left = Vec::new();
        window.drain(|entry| left.push(entry));
        assert_eq!(left, [value(2), value(3)]);
    }
}
