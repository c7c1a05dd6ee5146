//! The directory: which object of a node has which name.
//!
//! Each place of the node's table has a key word; the keys of all places stand side by side, so that looking for a
//! name reads a few lines. Names are added and taken away by whoever holds the table's own lock (that of place 0), so that
//! no name is there twice. A rank that is stopped while it has that lock is followed by others; what it does when it
//! comes back must do no harm, so every change of a key word is a compare-and-swap with a generation, which grows whenever
//! the object is opened, too: who was about to take it away fails. A place that such a rank was filling is left alone
//! until it is gone.
//!
//! An object is there for as long as a rank that has not ended has a handle of it.
//!
//! Cost of opening: the table's lock, and a look at each key; closing costs a store, and for the last handle as much.

use super::layout::ObjectAt;
use super::name::Name;
use crate::fabric::Memory;
use crate::fabric::node::NodeLayout;
use crate::sync::Ordering;

/// What a named object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ObjectKind {
    /// A lock.
    Lock = 1,
    /// A counter.
    Counter = 2,
}

impl ObjectKind {
    const ALL: [Self; 2] = [Self::Lock, Self::Counter];

    /// The kind with a number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u64 == number)
    }

    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Counter => "counter",
        }
    }
}

impl std::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What an object is, and what it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// Which kind.
    pub kind: ObjectKind,
    /// What the kind wants to be the same for all.
    pub parameter: u64,
}

/// Whose a place of the table is.
///
/// | bits | field | meaning |
/// | --- | --- | --- |
/// | 0–1 | state | 0 nobody's, 1 a rank is filling it, 2 an object's, 3 that rank has ended meanwhile |
/// | 2–25 | generation | how often it has become an object's, or that was opened |
/// | 26–63 | key | of the object's name; while it is being filled, the rank's place in the node's rank table |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyWord(pub u64);

/// What a key word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Filling(usize),
    Live,
    Orphaned(usize),
}

impl KeyWord {
    const GENERATION_AT: u32 = 2;
    const GENERATION: u64 = 0xff_ffff;
    const KEY_AT: u32 = 26;

    #[allow(clippy::cast_possible_truncation, reason = "a rank's place")]
    const fn state(self) -> State {
        let rank = (self.0 >> Self::KEY_AT) as usize;
        match self.0 & 3 {
            0 => State::Free,
            1 => State::Filling(rank),
            2 => State::Live,
            _ => State::Orphaned(rank),
        }
    }

    const fn generation(self) -> u64 {
        self.0 >> Self::GENERATION_AT & Self::GENERATION
    }

    const fn with(self, state: u64, key: u64, generation: u64) -> Self {
        Self(state | (generation & Self::GENERATION) << Self::GENERATION_AT | key << Self::KEY_AT)
    }

    const fn filled_by(self, rank: usize) -> Self {
        self.with(1, rank as u64, self.generation() + 1)
    }

    const fn live(self, key: u64) -> Self {
        self.with(2, key, self.generation())
    }

    /// The same object, opened once more.
    const fn opened(self) -> Self {
        self.with(2, self.0 >> Self::KEY_AT, self.generation() + 1)
    }

    const fn orphaned(self) -> Self {
        Self(self.0 | 3)
    }

    const fn freed(self) -> Self {
        self.with(0, 0, self.generation())
    }

    /// Whether an object has this place.
    pub fn is_live(self) -> bool {
        self.state() == State::Live
    }

    fn is_of(self, name: &Name) -> bool {
        self.is_live() && self.0 >> Self::KEY_AT == name.key() << Self::KEY_AT >> Self::KEY_AT
    }
}

/// Why a name was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryFault {
    /// Another name has the same hash.
    Collision,
    /// The name stands for something else.
    OtherKind(ObjectKind),
    /// The object was made with another parameter.
    OtherParameter(u64),
    /// All places are taken.
    Full,
    /// Another rank has changed the directory meanwhile: this one has been declared failed, or one that was comes back.
    Overtaken,
}

/// A node's directory, as one of its ranks uses it. Its methods want the table's lock to be held.
#[derive(Debug)]
pub struct Directory<'memory, M, F> {
    memory: &'memory M,
    node: NodeLayout,
    me: usize,
    is_gone: F,
}

impl<'memory, M: Memory, F: Fn(usize) -> bool> Directory<'memory, M, F> {
    /// The directory of a node, as the rank at place `me` uses it; `is_gone` tells which ranks do nothing any more.
    pub fn new(memory: &'memory M, node: NodeLayout, me: usize, is_gone: F) -> Self {
        Self { memory, node, me, is_gone }
    }

    /// Adds a handle of this rank to the object of a name, which is made if there is none.
    ///
    /// # Errors
    ///
    /// [`DirectoryFault`].
    pub fn open(&self, name: &Name, nature: Nature) -> Result<ObjectAt, DirectoryFault> {
        let at = match self.find(name)? {
            // One that only the dead have left.
            Some((at, _)) if self.free_if_unused(&at) => self.make(name, nature)?,
            Some((at, seen)) => {
                self.check(&at, nature)?;
                self.change_handles(&at, |handles| handles + 1);
                if !self.swap(&at, seen, seen.opened()) {
                    self.change_handles(&at, |handles| handles.saturating_sub(1));
                    return Err(DirectoryFault::Overtaken);
                }
                return Ok(at);
            }
            None => self.make(name, nature)?,
        };
        self.change_handles(&at, |handles| handles + 1);
        Ok(at)
    }

    /// The object of a name, if there is one.
    fn find(&self, name: &Name) -> Result<Option<(ObjectAt, KeyWord)>, DirectoryFault> {
        // Relaxed: ordered by the key word.
        let load = |at| self.memory.word(at).load(Ordering::Relaxed);
        let keys = self.places().map(|at| (at, self.key(&at)));
        let mut found = keys.filter(|(at, key)| key.is_of(name) && load(at.check()) == name.check());
        let Some((at, key)) = found.next() else { return Ok(None) };
        let is_same = name.words().enumerate().all(|(index, word)| load(at.name(index)) == word);
        if is_same { Ok(Some((at, key))) } else { Err(DirectoryFault::Collision) }
    }

    /// Takes a handle of this rank away, and the object with the last of all.
    pub fn close(&self, at: &ObjectAt) {
        self.change_handles(at, |handles| handles.saturating_sub(1));
        self.free_if_unused(at);
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.places().filter(|at| self.key(at).is_live()).count()
    }

    fn places(&self) -> impl Iterator<Item = ObjectAt> {
        (1..=self.node.objects()).map(|index| ObjectAt::of(&self.node, index))
    }

    fn key(&self, at: &ObjectAt) -> KeyWord {
        // SYNC POINT: directory. Acquire pairs with the object's making.
        KeyWord(self.memory.word(at.key()).load(Ordering::Acquire))
    }

    fn swap(&self, at: &ObjectAt, seen: KeyWord, wanted: KeyWord) -> bool {
        // SYNC POINT: directory. Release: who finds the object finds it made.
        let word = self.memory.word(at.key());
        word.compare_exchange(seen.0, wanted.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether an object is what is wanted.
    fn check(&self, at: &ObjectAt, nature: Nature) -> Result<(), DirectoryFault> {
        // Relaxed: ordered by the key word.
        let load = |at| self.memory.word(at).load(Ordering::Relaxed);
        match (ObjectKind::from_number(load(at.parameter(0))), load(at.parameter(1))) {
            (Some(kind), _) if kind != nature.kind => Err(DirectoryFault::OtherKind(kind)),
            (Some(_), found) if found != nature.parameter => Err(DirectoryFault::OtherParameter(found)),
            (Some(_), _) => Ok(()),
            (None, _) => Err(DirectoryFault::Overtaken),
        }
    }

    fn make(&self, name: &Name, nature: Nature) -> Result<ObjectAt, DirectoryFault> {
        let free = self.places().find(|at| self.is_free(at));
        let free = free.or_else(|| self.places().find(|at| self.key(at).is_live() && self.free_if_unused(at)));
        let at = free.ok_or(DirectoryFault::Full)?;
        let seen = self.key(&at);
        let filling = seen.filled_by(self.me);
        if !self.swap(&at, seen, filling) {
            return Err(DirectoryFault::Overtaken);
        }
        // Relaxed: published by the key word.
        let store = |at, value| self.memory.word(at).store(value, Ordering::Relaxed);
        at.state().for_each(|at| store(at, 0));
        store(at.check(), name.check());
        store(at.parameter(0), nature.kind as u64);
        store(at.parameter(1), nature.parameter);
        name.words().enumerate().for_each(|(index, word)| store(at.name(index), word));
        match self.swap(&at, filling, filling.live(name.key())) {
            true => Ok(at),
            false => Err(DirectoryFault::Overtaken),
        }
    }

    /// Whether a place is nobody's; one that was being filled by a rank that is gone becomes so.
    fn is_free(&self, at: &ObjectAt) -> bool {
        let seen = self.key(at);
        match seen.state() {
            State::Free => true,
            State::Live => false,
            State::Filling(rank) | State::Orphaned(rank) if rank == self.me || (self.is_gone)(rank) => {
                self.swap(at, seen, seen.freed())
            }
            // Its rank had the lock that this one has now: it has been declared failed, and may come back.
            State::Filling(_) => {
                self.swap(at, seen, seen.orphaned());
                false
            }
            State::Orphaned(_) => false,
        }
    }

    /// Frees an object's place if nobody has a handle of it. Whether it is free.
    fn free_if_unused(&self, at: &ObjectAt) -> bool {
        let seen = self.key(at);
        let has_handle = |rank: usize| self.handles(at, rank) > 0 && !(self.is_gone)(rank);
        seen.is_live() && !(0..at.ranks()).any(has_handle) && self.swap(at, seen, seen.freed())
    }

    fn handles(&self, at: &ObjectAt, rank: usize) -> u64 {
        // Relaxed: ordered by the table's lock.
        self.memory.word(at.handles(rank)).load(Ordering::Relaxed)
    }

    fn change_handles(&self, at: &ObjectAt, changed: impl Fn(u64) -> u64) {
        // Relaxed, and no read-modify-write: only this rank writes it.
        self.memory.word(at.handles(self.me)).store(changed(self.handles(at, self.me)), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::layout::with_objects;
    use super::*;
    use crate::fabric::sim::SimNode;

    const LOCK: Nature = Nature { kind: ObjectKind::Lock, parameter: 0 };

    struct Table {
        node: NodeLayout,
        memory: SimNode,
        gone: RefCell<Vec<usize>>,
    }

    impl Table {
        fn new(objects: usize) -> Self {
            let node = with_objects(NodeLayout::new(3, 1), objects);
            Self { node, memory: SimNode::new(node.words()), gone: RefCell::default() }
        }

        fn of(&self, rank: usize) -> Directory<'_, SimNode, impl Fn(usize) -> bool> {
            Directory::new(&self.memory, self.node, rank, |rank| self.gone.borrow().contains(&rank))
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn all_find_the_same_object_under_a_name_and_it_goes_with_the_last_handle() {
        let table = Table::new(2);
        let made = table.of(0).open(&name("a"), LOCK).expect("room");
        assert_eq!(table.of(1).open(&name("a"), LOCK), Ok(made));
        assert_eq!(table.of(1).open(&name("a"), LOCK), Ok(made));
        assert_ne!(table.of(2).open(&name("b"), LOCK), Ok(made));
        assert_eq!(table.of(2).open(&name("c"), LOCK), Err(DirectoryFault::Full));
        table.of(0).close(&made);
        table.of(1).close(&made);
        assert_eq!(table.of(2).count(), 2, "rank 1 has one handle left");
        table.of(1).close(&made);
        assert_eq!(table.of(2).count(), 1);
        assert!(table.of(2).open(&name("c"), LOCK).is_ok());
    }

    #[test]
    fn a_new_object_has_nothing_of_the_one_before_it() {
        let table = Table::new(1);
        let first = table.of(0).open(&name("a"), LOCK).expect("room");
        for at in [first.queue().hold, first.value(), first.queue().claims] {
            table.memory.word(at).store(7, Ordering::Relaxed);
        }
        table.of(0).close(&first);
        let second = table.of(0).open(&name("b"), LOCK).expect("room");
        assert!(
            second.state().filter(|at| *at != second.handles(0)).all(|at| table
                .memory
                .word(at)
                .load(Ordering::Relaxed)
                == 0)
        );
        assert_eq!(table.memory.word(second.handles(0)).load(Ordering::Relaxed), 1);
    }

    #[test]
    fn another_kind_another_parameter_and_a_collision_are_told_apart() {
        let table = Table::new(4);
        let made = table.of(0).open(&name("a"), LOCK).expect("room");
        let counter = Nature { kind: ObjectKind::Counter, parameter: 0 };
        assert_eq!(table.of(1).open(&name("a"), counter), Err(DirectoryFault::OtherKind(ObjectKind::Lock)));
        let other = Nature { parameter: 5, ..LOCK };
        assert_eq!(table.of(1).open(&name("a"), other), Err(DirectoryFault::OtherParameter(0)));
        table.memory.word(made.name(0)).store(1, Ordering::Relaxed);
        assert_eq!(table.of(1).open(&name("a"), LOCK), Err(DirectoryFault::Collision));
        table.memory.word(made.check()).store(1, Ordering::Relaxed);
        assert_ne!(table.of(1).open(&name("a"), LOCK).expect("another object"), made);
    }

    #[test]
    fn handles_of_the_dead_keep_nothing() {
        let table = Table::new(1);
        table.of(0).open(&name("a"), LOCK).expect("room");
        assert_eq!(table.of(1).open(&name("b"), LOCK), Err(DirectoryFault::Full));
        table.gone.borrow_mut().push(0);
        assert!(table.of(1).open(&name("b"), LOCK).is_ok());
    }

    #[test]
    fn a_place_that_a_stopped_rank_was_filling_is_left_alone_until_it_is_gone() {
        let table = Table::new(1);
        let at = ObjectAt::of(&table.node, 1);
        let filling = KeyWord(0).filled_by(2);
        table.memory.word(at.key()).store(filling.0, Ordering::Relaxed);
        assert_eq!(table.of(0).open(&name("a"), LOCK), Err(DirectoryFault::Full));
        // What it would do when it comes back.
        assert!(!table.of(2).swap(&at, filling, filling.live(name("z").key())));
        table.gone.borrow_mut().push(2);
        assert!(table.of(0).open(&name("a"), LOCK).is_ok());
    }

    #[test]
    fn a_late_close_does_not_free_an_object_that_was_opened_meanwhile() {
        let table = Table::new(1);
        let at = table.of(0).open(&name("a"), LOCK).expect("room");
        // It has seen that nobody has a handle, and is stopped.
        table.of(0).change_handles(&at, |_| 0);
        let seen = table.of(0).key(&at);
        assert_eq!(table.of(1).open(&name("a"), LOCK), Ok(at));
        assert!(!table.of(0).swap(&at, seen, seen.freed()), "rank 1 has it");
    }

    #[test]
    fn an_object_that_only_the_dead_have_left_is_not_found_again() {
        let table = Table::new(2);
        let at = table.of(0).open(&name("a"), LOCK).expect("room");
        table.memory.word(at.value()).store(7, Ordering::Relaxed);
        table.gone.borrow_mut().push(0);
        let again =
            table.of(1).open(&name("a"), Nature { kind: ObjectKind::Counter, parameter: 0 }).expect("a new one");
        assert_eq!(table.memory.word(again.value()).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_late_close_does_not_free_a_later_object_of_the_same_name() {
        let table = Table::new(1);
        let at = table.of(0).open(&name("a"), LOCK).expect("room");
        let seen = table.of(0).key(&at);
        table.of(0).close(&at);
        table.of(1).open(&name("a"), LOCK).expect("room");
        assert!(!table.of(0).swap(&at, seen, seen.freed()), "another generation");
    }
}
