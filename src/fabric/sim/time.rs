//! Virtual time: the queue of what is to happen, in nanoseconds.
//!
//! A radix heap. Nothing is ever scheduled before what has happened last, so entries are kept in 65 buckets by the
//! highest bit in which their time differs from the last one taken; only the lowest bucket in use is ever looked
//! through, and its entries move to lower ones. An entry moves once per bit of the time that it still has to wait, a
//! push is an append, and once the buckets have grown nothing is allocated. Entries of the same time come out in the
//! order in which they went in: two such are always in one bucket, and moving keeps their order. So a run is determined
//! by its seed.

/// A queue of events by their time.
#[derive(Debug)]
pub struct Queue<E> {
    last: u64,
    /// How much of bucket 0, whose entries are all of time `last`, has been taken.
    taken: usize,
    /// Bit `b - 1` is set while bucket `b` is in use, from 1.
    in_use: u64,
    buckets: Vec<Vec<(u64, E)>>,
}

impl<E: Copy> Queue<E> {
    /// An empty queue at time 0.
    pub fn new() -> Self {
        Self { last: 0, taken: 0, in_use: 0, buckets: (0..=64).map(|_| Vec::new()).collect() }
    }

    /// Schedules an event.
    ///
    /// # Panics
    ///
    /// When it is to be earlier than the event taken last.
    pub fn push(&mut self, time: u64, event: E) {
        assert!(time >= self.last, "{time} is over: the queue has come to {}", self.last);
        self.place(time, event);
    }

    #[inline]
    fn place(&mut self, time: u64, event: E) {
        let bucket = (u64::BITS - (time ^ self.last).leading_zeros()) as usize;
        if bucket > 0 {
            self.in_use |= 1 << (bucket - 1);
        }
        self.buckets[bucket].push((time, event));
    }

    /// Takes the earliest event.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        if self.taken == self.buckets[0].len() {
            self.buckets[0].clear();
            self.taken = 0;
            self.refill()?;
        }
        let entry = self.buckets[0][self.taken];
        self.taken += 1;
        Some(entry)
    }

    /// Moves the entries of the lowest bucket in use down, the earliest into bucket 0.
    fn refill(&mut self) -> Option<()> {
        if self.in_use == 0 {
            return None;
        }
        let lowest = self.in_use.trailing_zeros() as usize + 1;
        self.in_use &= self.in_use - 1;
        let mut entries = std::mem::take(&mut self.buckets[lowest]);
        self.last = entries.iter().map(|(time, _)| *time).min()?;
        for (time, event) in entries.drain(..) {
            self.place(time, event);
        }
        // Given back empty: its memory serves the next to come here.
        self.buckets[lowest] = entries;
        Some(())
    }

    /// The earliest event's time. Unlike [`pop`](Self::pop) it settles nothing: earlier events can still be scheduled.
    pub fn next_time(&self) -> Option<u64> {
        if self.taken < self.buckets[0].len() {
            return Some(self.last);
        }
        let lowest = self.in_use.trailing_zeros() as usize + 1;
        self.buckets.get(lowest)?.iter().map(|(time, _)| *time).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Seeded;
    use super::*;

    /// Against a sorted list, in which equal times stay in order too.
    #[test]
    fn events_come_in_the_order_of_time_and_then_of_scheduling() {
        for seed in 0..200 {
            let mut random = Seeded::new(seed);
            let mut queue = Queue::new();
            let mut sorted: Vec<(u64, u32)> = Vec::new();
            let mut now = 0;
            for number in 0..2000_u32 {
                let span = [1, 3, 1000, 1 << 40][random.below(4)];
                if random.below(5) < 3 {
                    let time = now + random.below(span) as u64;
                    queue.push(time, number);
                    sorted.insert(sorted.partition_point(|(other, _)| *other <= time), (time, number));
                } else {
                    assert_eq!(queue.next_time(), sorted.first().map(|(time, _)| *time), "seed {seed}");
                    let expected = (!sorted.is_empty()).then(|| sorted.remove(0));
                    assert_eq!(queue.pop(), expected, "seed {seed}");
                    now = expected.map_or(now, |(time, _)| time);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "is over")]
    fn the_past_is_closed() {
        let mut queue = Queue::new();
        queue.push(10, ());
        queue.pop();
        queue.push(9, ());
    }
}
