//! How an object's words are divided, and where in a node's table of objects they stand. Positions only.
//!
//! Each object has a place of the same size, whatever it is: the ranks that open it under a name find it by that name
//! ([`super::directory`]). The picture stands in docs/design.md, "Objects".

use super::queue::QueueAt;
use crate::fabric::node::{NodeLayout, hash};
use crate::fabric::{LINE_WORDS, WordAt};

/// The longest name of an object, in bytes.
pub const NAME_BYTES: usize = 96;
/// Words of a name.
pub const NAME_WORDS: usize = NAME_BYTES / 8;
/// Words before the name: the check, and two parameters.
const FACTS: usize = 4;

const _: () = assert!(FACTS + NAME_WORDS <= LINE_WORDS);

/// Lines of an object, besides those with a word for each rank: who it is, its state, its arrivals.
const LINES: usize = 3;
/// Words for each rank: its claim, how often it has passed others, and how many handles it has.
const RANK_WORDS: usize = 3;

/// The most objects that a node can have room for.
pub const MOST_OBJECTS: usize = 1 << 20;

/// Words of one object on a node of so many ranks.
pub const fn object_words(ranks: usize) -> usize {
    LINES * LINE_WORDS + RANK_WORDS * ranks.next_multiple_of(LINE_WORDS)
}

/// A node's division with places for so many objects.
pub const fn with_objects(node: NodeLayout, objects: usize) -> NodeLayout {
    node.with_objects(objects, object_words(node.ranks()))
}

/// Where the words of one object stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectAt {
    key: WordAt,
    start: WordAt,
    ranks: usize,
}

impl ObjectAt {
    /// The object at place `index` of a node's table. Place 0 is the table's own: its lock guards the others' names.
    ///
    /// # Panics
    ///
    /// When there is no such place.
    pub const fn of(node: &NodeLayout, index: usize) -> Self {
        assert!(index <= node.objects(), "there is no such object");
        Self { key: node.object_key(index), start: node.object(index), ranks: node.ranks() }
    }

    /// Whose place it is; see [`super::directory::KeyWord`].
    pub const fn key(&self) -> WordAt {
        self.key
    }

    /// The rest of the name's hash: two names with the same key differ here.
    pub const fn check(&self) -> WordAt {
        self.start
    }

    /// Parameter 0 or 1: what kind of object it is, and what the kind wants.
    pub const fn parameter(&self, index: usize) -> WordAt {
        self.start.plus(1 + index)
    }

    /// Word `index` of the name, for people who look.
    pub const fn name(&self, index: usize) -> WordAt {
        self.start.plus(FACTS + index)
    }

    /// A counter's value; what a lock counts is in [`queue`](Self::queue).
    pub const fn value(&self) -> WordAt {
        self.start.plus(LINE_WORDS + 2)
    }

    /// The lock.
    pub const fn queue(&self) -> QueueAt {
        QueueAt {
            hold: self.start.plus(LINE_WORDS),
            high: self.start.plus(LINE_WORDS + 1),
            arrivals: self.start.plus(2 * LINE_WORDS),
            claims: self.of_ranks(0),
            passings: self.of_ranks(1),
            ranks: self.ranks,
        }
    }

    /// Since when the lock is held by its holder, in ticks: for those who look, where somebody has waited for it.
    pub const fn held_since(&self) -> WordAt {
        self.start.plus(2 * LINE_WORDS + 1)
    }

    /// How many handles a rank has of the object.
    pub const fn handles(&self, rank: usize) -> WordAt {
        self.of_ranks(2).plus(rank)
    }

    /// The first of the ranks' words of a sort.
    const fn of_ranks(&self, sort: usize) -> WordAt {
        self.start.plus(LINES * LINE_WORDS + sort * self.ranks.next_multiple_of(LINE_WORDS))
    }

    /// How many ranks the node has.
    pub const fn ranks(&self) -> usize {
        self.ranks
    }

    /// All words of the object that are 0 when it is new: those behind who it is.
    pub fn state(&self) -> impl Iterator<Item = WordAt> {
        let start = self.start;
        (LINE_WORDS..object_words(self.ranks)).map(move |offset| start.plus(offset))
    }
}

/// Hash over the positions in this file.
pub const LAYOUT_HASH: u64 = {
    let at = ObjectAt { key: WordAt(10), start: WordAt(1000), ranks: 3 };
    hash(
        7,
        &[
            object_words(3) as u64,
            at.parameter(1).0 as u64,
            at.name(1).0 as u64,
            at.value().0 as u64,
            at.queue().high.0 as u64,
            at.queue().arrivals.0 as u64,
            at.queue().claims.0 as u64,
            at.queue().passings.0 as u64,
            at.held_since().0 as u64,
            at.handles(1).0 as u64,
        ],
    )
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_object_do_not_overlap() {
        for ranks in [1, 2, 16, 17, 1000] {
            let node = with_objects(NodeLayout::new(ranks, 1), 3);
            let at = ObjectAt::of(&node, 2);
            let queue = at.queue();
            assert!(at.name(NAME_WORDS - 1) < queue.hold && queue.high < at.value() && at.value() < queue.arrivals);
            assert!(at.held_since() < queue.claims);
            assert!(queue.claims.plus(ranks - 1) < queue.passings && queue.passings.plus(ranks - 1) < at.handles(0));
            assert!(at.handles(ranks - 1) < ObjectAt::of(&node, 3).check());
            assert!(ObjectAt::of(&node, 3).handles(ranks - 1).0 < node.words());
            assert!(ObjectAt::of(&node, 3).key() < ObjectAt::of(&node, 0).check());
            assert!(ObjectAt::of(&node, 2).key() < ObjectAt::of(&node, 3).key());
            assert_eq!((at.check().0 % LINE_WORDS, queue.claims.0 % LINE_WORDS), (0, 0));
        }
    }
}
