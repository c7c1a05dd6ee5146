//! The ring between those who record and the one who writes: bounded, many producers, one consumer, nobody waits.
//!
//! A rank's groups may live on different threads, and a death may be seen by yet another, so there can be several
//! producers; nearly always there is one. It reserves a slot by one compare-and-swap on a line that is its own, fills
//! the slot, and stamps it. The consumer takes what is stamped and publishes how far it has come; producers read that
//! only when the ring seems full, so that the two share a line no more often than once in a round. A full ring loses
//! the new record and counts it.

use crate::sync::{AtomicU64, Ordering};

/// Words of a record.
pub const RECORD_WORDS: usize = 5;

/// What stands in a slot. A line for each, so that none lies across two.
#[derive(Debug)]
#[repr(align(64))]
struct Slot {
    /// The number of the record that is complete here, counted from 1; 0 before the first.
    stamp: AtomicU64,
    words: [AtomicU64; RECORD_WORDS],
}

/// Keeps what producers write off the lines of what the consumer writes. Two lines: some CPUs fetch pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

/// What the producers share.
#[derive(Debug)]
struct Producers {
    /// Records reserved so far.
    tail: AtomicU64,
    /// Records taken, as a producer has last looked: at most [`Ring::taken`].
    taken_seen: AtomicU64,
    lost: AtomicU64,
}

/// The ring. [`push`](Self::push) is for anybody, [`pop`](Self::pop) for one at a time.
#[derive(Debug)]
pub struct Ring {
    slots: Box<[Slot]>,
    producers: Apart<Producers>,
    taken: Apart<AtomicU64>,
}

impl Ring {
    /// A ring of a power of two of slots.
    ///
    /// # Panics
    ///
    /// For any other number.
    pub fn new(slots: usize) -> Self {
        assert!(slots.is_power_of_two(), "{slots} slots are no power of two");
        let word = || AtomicU64::new(0);
        let slot = || Slot { stamp: word(), words: std::array::from_fn(|_| word()) };
        Self {
            slots: (0..slots).map(|_| slot()).collect(),
            producers: Apart(Producers { tail: word(), taken_seen: word(), lost: word() }),
            taken: Apart(word()),
        }
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "masked to the number of slots")]
    fn slot(&self, number: u64) -> &Slot {
        &self.slots[(number & (self.capacity() - 1)) as usize]
    }

    /// Puts a record in, and returns its number, counted from 0; `None` when the ring is full and the record is lost.
    #[inline]
    pub fn push(&self, record: [u64; RECORD_WORDS]) -> Option<u64> {
        let number = self.reserve()?;
        let slot = self.slot(number);
        for (word, value) in slot.words.iter().zip(record) {
            word.store(value, Ordering::Relaxed);
        }
        // SYNC POINT: record. Release pairs with the acquire load in `pop`: who sees the stamp sees the words.
        slot.stamp.store(number + 1, Ordering::Release);
        Some(number)
    }

    #[inline]
    fn reserve(&self) -> Option<u64> {
        let Apart(Producers { tail, taken_seen, lost }) = &self.producers;
        let mut number = tail.load(Ordering::Relaxed);
        loop {
            // SYNC POINT: free again, passed on by the producer that has looked.
            if number.wrapping_sub(taken_seen.load(Ordering::Acquire)) >= self.capacity() && !self.has_room(number) {
                lost.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            // Relaxed: it hands out numbers; the stamp publishes.
            match tail.compare_exchange_weak(number, number + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(number),
                Err(now) => number = now,
            }
        }
    }

    /// Looks how far the consumer is.
    #[cold]
    fn has_room(&self, number: u64) -> bool {
        // SYNC POINT: free again. Acquire pairs with the release store in `pop`: what was in the slots has been read.
        let taken = self.taken.0.load(Ordering::Acquire);
        // Another producer may have seen more meanwhile; going back costs it another look, no more. Release passes the
        // above on to producers that do not look themselves.
        self.producers.0.taken_seen.store(taken, Ordering::Release);
        // A number that is behind the times fails at the compare-and-swap.
        number.saturating_sub(taken) < self.capacity()
    }

    /// Takes the oldest record. Only one thread at a time calls it.
    pub fn pop(&self) -> Option<[u64; RECORD_WORDS]> {
        // Relaxed: written here only.
        let number = self.taken.0.load(Ordering::Relaxed);
        let slot = self.slot(number);
        // SYNC POINT: record.
        if slot.stamp.load(Ordering::Acquire) != number + 1 {
            return None;
        }
        let record = std::array::from_fn(|index| slot.words[index].load(Ordering::Relaxed));
        // SYNC POINT: free again. Release: the loads above are done before a producer may store.
        self.taken.0.store(number + 1, Ordering::Release);
        Some(record)
    }

    /// Records lost so far.
    pub fn lost(&self) -> u64 {
        self.producers.0.lost.load(Ordering::Relaxed)
    }
}
