//! What a rank notes on its own node of its hold of a lease, for whoever moves the lease to its next home.
//!
//! A note is two words, and the rank may die between any two stores. So it has two *sides*, of which it writes the one that
//! is not current, and then says by a third word, the count of its notes, that this one is. Only the rank writes them; one of
//! its threads at a time.

use crate::coord::objects::layout::ObjectAt;
use crate::fabric::{Memory, WordAt};
use crate::sync::{Ordering, publish};

/// Where the words stand, in the table of objects that the rank's node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoteAt {
    /// How many notes there have been: the side of the last one is its lowest bit.
    count: WordAt,
    /// Side 0, and behind it side 1.
    sides: WordAt,
}

/// What a rank has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The number of its last hold; 0 where it has had none.
    pub number: u64,
    /// Until when it surely has it, by its node's clock, in nanoseconds; 0: it has it no more.
    pub until: u64,
}

impl NoteAt {
    /// Of a rank of the node, by its place there.
    pub const fn of(at: &ObjectAt, local: usize) -> Self {
        Self { count: at.stake(local), sides: at.note(local, 0) }
    }

    /// This rank's next note. Whoever looks at something after this has published it before: a full fence.
    pub fn write(self, memory: &impl Memory, note: Note) {
        let [number, until, (count, next)] = self.stores(memory, note);
        for (at, value) in [number, until] {
            // SYNC POINT: note. Release pairs with `read`: who finds this finds the count that was stored before, by which
            // the side is not current.
            memory.word(at).store(value, Ordering::Release);
        }
        publish(memory.word(count), next);
    }

    /// The stores of a note, in their order.
    fn stores(self, memory: &impl Memory, note: Note) -> [(WordAt, u64); 3] {
        let next = memory.word(self.count).load(Ordering::Relaxed) + 1;
        let side = self.side(next);
        [(side, note.number), (side.plus(1), note.until), (self.count, next)]
    }

    /// The last note of a rank, which may be writing the next one.
    pub fn read(self, memory: &impl Memory) -> Note {
        loop {
            // SYNC POINT: note. Acquire pairs with `write`, here and below.
            let count = memory.word(self.count).load(Ordering::Acquire);
            if count == 0 {
                return Note::default();
            }
            let [number, until] = [0, 1].map(|word| memory.word(self.side(count).plus(word)).load(Ordering::Acquire));
            // Where the side has been written anew there has been another note before.
            if memory.word(self.count).load(Ordering::Relaxed) == count {
                return Note { number, until };
            }
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a bit")]
    const fn side(self, count: u64) -> WordAt {
        self.sides.plus(2 * (count & 1) as usize)
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::coord::objects::layout::with_objects;
    use crate::fabric::node::{NodeLayout, ObjectTable};
    use crate::fabric::shm::Segment;

    fn node() -> (Segment, NoteAt) {
        let layout = with_objects(NodeLayout::new(2, 1), 1);
        let segment = Segment::create(layout, 1, 1).expect("memory");
        (segment, NoteAt::of(&ObjectAt::of(&layout, ObjectTable::Here, 1), 1))
    }

    #[test]
    fn who_dies_between_two_stores_leaves_the_old_note_or_the_new_one() {
        let (segment, at) = node();
        let mut old = Note::default();
        for number in 1..6 {
            let new = Note { number, until: 100 * number };
            for (stored, (word, value)) in at.stores(&segment, new).into_iter().enumerate() {
                assert_eq!(at.read(&segment), old, "after {stored} stores");
                segment.word(word).store(value, Ordering::Relaxed);
            }
            assert_eq!(at.read(&segment), new);
            old = new;
        }
    }

    #[test]
    fn a_note_is_whole_while_the_next_ones_are_written() {
        let (segment, at) = node();
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=100_000).for_each(|number| at.write(&segment, Note { number, until: 3 * number })));
            let mut last = 0;
            while last < 100_000 {
                let note = at.read(&segment);
                assert!(note.until == 3 * note.number && note.number >= last, "{note:?} after {last}");
                last = note.number;
            }
        });
    }
}
