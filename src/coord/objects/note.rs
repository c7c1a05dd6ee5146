//! What a rank notes on its own node of its part in an object, for whoever moves that to its next home: two words that
//! belong together, as a hold's number and its end, or a token and a value.
//!
//! The rank may die between any two stores. So there are two *sides*, of which it writes the one that is not current,
//! and then says by a third word, the *selector*, that this one is. Only the rank writes them; one of its threads at a
//! time.
//!
//! | bits of the selector | field | meaning |
//! | --- | --- | --- |
//! | 0 | side | which is current |
//! | 1–63 | mark | another one with each note; 0: there is none |

use super::layout::{NOTE_WORDS, ObjectAt};
use crate::fabric::{Memory, WordAt};
use crate::sync::{Ordering, publish};

/// Words of one side.
const SIDE_WORDS: usize = 2;

const _: () = assert!(2 * SIDE_WORDS == NOTE_WORDS, "two sides");

/// Where the words stand, in the table of objects that the rank's node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoteAt {
    selector: WordAt,
    /// Side 0, and behind it side 1.
    sides: WordAt,
}

/// A note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Which of the rank's it is: no other one has this mark.
    pub mark: u64,
    /// What it says.
    pub words: [u64; SIDE_WORDS],
}

impl NoteAt {
    /// Of a rank of the node, by its place there.
    pub const fn of(at: &ObjectAt, local: usize) -> Self {
        Self { selector: at.stake(local), sides: at.note(local, 0) }
    }

    /// The mark of this rank's last note; 0: there is none.
    pub fn last_mark(self, memory: &impl Memory) -> u64 {
        // Relaxed: its own.
        memory.word(self.selector).load(Ordering::Relaxed) >> 1
    }

    /// This rank's next note. Whoever looks at something after this has published it before: a full fence.
    pub fn write(self, memory: &impl Memory, note: Noted) {
        let [sides @ .., (selector, named)] = self.stores(memory, note);
        for (at, value) in sides {
            // SYNC POINT: note. Release pairs with `read`: who finds this finds that the other side was named before.
            memory.word(at).store(value, Ordering::Release);
        }
        // SYNC POINT: stake. A full fence pairs with the steward's: it finds this, or this rank finds the home lost.
        publish(memory.word(selector), named);
    }

    /// The stores of a note, in their order.
    fn stores(self, memory: &impl Memory, note: Noted) -> [(WordAt, u64); SIDE_WORDS + 1] {
        // Relaxed: its own.
        let side = 1 - (memory.word(self.selector).load(Ordering::Relaxed) & 1);
        let [first, second] = self.side(side);
        [(first, note.words[0]), (second, note.words[1]), (self.selector, note.mark << 1 | side)]
    }

    /// The last note of a rank, which may be writing the next one; `None`: there is none.
    pub fn read(self, memory: &impl Memory) -> Option<Noted> {
        loop {
            // SYNC POINT: note. Acquire pairs with `write`, here and below.
            let selector = memory.word(self.selector).load(Ordering::Acquire);
            let mark = selector >> 1;
            if mark == 0 {
                return None;
            }
            let words = self.side(selector & 1).map(|at| memory.word(at).load(Ordering::Acquire));
            // Where the side has been written anew the other one was named before: Acquire, above, has this load see
            // that.
            if memory.word(self.selector).load(Ordering::Relaxed) == selector {
                return Some(Noted { mark, words });
            }
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a bit")]
    fn side(self, side: u64) -> [WordAt; SIDE_WORDS] {
        [0, 1].map(|word| self.sides.plus(SIDE_WORDS * side as usize + word))
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
        let mut old = None;
        for mark in [1, 2, 3, 7, 8] {
            let new = Noted { mark, words: [mark, 100 * mark] };
            for (stored, (word, value)) in at.stores(&segment, new).into_iter().enumerate() {
                assert_eq!(at.read(&segment), old, "after {stored} stores");
                segment.word(word).store(value, Ordering::Relaxed);
            }
            assert_eq!((at.read(&segment), at.last_mark(&segment)), (Some(new), mark));
            old = Some(new);
        }
    }

    #[test]
    fn a_note_is_whole_while_the_next_ones_are_written() {
        let (segment, at) = node();
        let note = |mark| Noted { mark, words: [mark, 3 * mark] };
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=100_000).for_each(|mark| at.write(&segment, note(mark))));
            let mut last = 0;
            while last < 100_000 {
                let Some(found) = at.read(&segment) else { continue };
                assert!(found == note(found.mark) && found.mark >= last, "{found:?} after {last}");
                last = found.mark;
            }
        });
    }
}
