//! The directory: which object of a node has which name. A node has two: of the objects that its ranks have, and of
//! those that are at home on it. The first's *members*, who have handles, are the node's ranks, the second's the job's
//! nodes.
//!
//! Each place of a table has a key word (`key.rs`); the keys of all places stand side by side, so that looking for a
//! name reads a few lines. Names are added and taken away by whoever holds the table's own lock (that of place 0), so
//! that no name is there twice. A rank that is stopped while it has that lock is followed by others; what it does when
//! it comes back must do no harm, so every change of a key word is a compare-and-swap with a generation, which grows
//! whenever the object is opened, too: who was about to take it away fails. A place that such a rank was filling is
//! left alone until it is gone, or gives it up. Nor do the two make two objects of a name: whoever fills a place looks
//! at all others once more, takes from others what they fill, and gives its own up where somebody was quicker.
//!
//! A home's table tells nodes from each other, and not their ranks: a rank that was declared failed, is followed there
//! by a neighbour, and comes back while it writes a new object's words, is kept from that only by looking for its own
//! end before it writes.
//!
//! An object is there for as long as a member that has not ended has a handle of it. What it can be is in `kind.rs`,
//! what can go wrong with it and with its words in `fault.rs`.
//!
//! `exhaustive` tries every order of the accesses of members that die, or are declared failed and come back.
//!
//! Cost of opening: the table's lock, and a look at each key, of making two; closing costs a store, and for the last
//! handle as much as opening.

#[cfg(all(test, not(model)))]
mod exhaustive;
mod fault;
mod key;
mod kind;

use std::fmt;

pub use self::fault::{DirectoryFault, SiteFault};
pub use self::key::KeyWord;
use self::key::State;
pub use self::kind::{Nature, ObjectKind};
use super::copies::CopyAt;
use super::layout::{NAME_WORDS, ObjectAt};
use super::lease;
use super::name::Name;
use crate::fabric::node::{NodeLayout, ObjectTable};
use crate::fabric::{Memory, WordAt};
use crate::sync::{Ordering, full_fence};

/// A directory's words, wherever they are.
pub trait Words {
    /// What some words hold.
    ///
    /// # Errors
    ///
    /// [`SiteFault`]: they cannot be reached.
    fn load(&self, at: &[WordAt]) -> Result<Vec<u64>, SiteFault>;

    /// Has some words hold something.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    fn store(&self, words: &[(WordAt, u64)]) -> Result<(), SiteFault>;

    /// Changes a word that holds what was seen in it; whether it did.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    fn swap(&self, at: WordAt, seen: u64, wanted: u64) -> Result<bool, SiteFault>;
}

impl<M: Memory> Words for &M {
    fn load(&self, at: &[WordAt]) -> Result<Vec<u64>, SiteFault> {
        // SYNC POINT: directory. Acquire pairs with the object's making.
        Ok(at.iter().map(|at| self.word(*at).load(Ordering::Acquire)).collect())
    }

    fn store(&self, words: &[(WordAt, u64)]) -> Result<(), SiteFault> {
        // Relaxed: published by a key word.
        words.iter().for_each(|(at, value)| self.word(*at).store(*value, Ordering::Relaxed));
        Ok(())
    }

    fn swap(&self, at: WordAt, seen: u64, wanted: u64) -> Result<bool, SiteFault> {
        // SYNC POINT: directory. Release: who finds the object finds it made.
        Ok(self.word(at).compare_exchange(seen, wanted, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }
}

/// One of a node's two directories, as one of its members uses it. Its methods want the table's lock to be held.
pub struct Directory<'call, W, F> {
    words: W,
    node: NodeLayout,
    table: ObjectTable,
    me: usize,
    /// What the numbers of a lock that is made begin with.
    first_number: u64,
    is_gone: F,
    /// Called before an object's place is freed: whether it may be.
    before_freeing: Box<dyn Fn(&ObjectAt) -> bool + 'call>,
}

impl<W, F> fmt::Debug for Directory<'_, W, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("table", &self.table).field("me", &self.me).finish_non_exhaustive()
    }
}

type Fallible<T> = Result<T, DirectoryFault>;

impl<'call, W: Words, F: Fn(usize) -> bool> Directory<'call, W, F> {
    /// A directory as its member `me` uses it; `is_gone` tells which members do nothing any more.
    pub fn new(words: W, node: NodeLayout, table: ObjectTable, me: usize, is_gone: F) -> Self {
        Self { words, node, table, me, first_number: 0, is_gone, before_freeing: Box::new(|_| true) }
    }

    /// The same, where the numbers of a lock that is made begin with this one.
    #[must_use]
    pub fn numbering_from(self, first_number: u64) -> Self {
        Self { first_number, ..self }
    }

    /// The same, where `act` is called before an object goes, of which no member that lives has a handle, and says
    /// whether it may.
    #[must_use]
    pub fn before_freeing(self, act: impl Fn(&ObjectAt) -> bool + 'call) -> Self {
        Self { before_freeing: Box::new(act), ..self }
    }

    /// Adds a handle of this member to the object of a name, which is made if there is none.
    ///
    /// # Errors
    ///
    /// [`DirectoryFault`].
    pub fn open(&self, name: &Name, nature: Nature) -> Fallible<ObjectAt> {
        let keys = self.keys()?;
        match self.find_among(&keys, name)? {
            // One that only the dead have left.
            Some((at, seen)) if self.free_if_unused(&at, seen)? => self.make(name, nature, self.keys()?),
            Some((at, _)) if !self.is_used(&at)? => Err(DirectoryFault::Overtaken),
            Some((at, seen)) => {
                self.check(&at, nature)?;
                self.change_handles(&at, |handles| self.with_one(handles))?;
                if !self.swap(&at, seen, seen.opened())? {
                    self.change_handles(&at, |handles| handles.saturating_sub(1))?;
                    return Err(DirectoryFault::Overtaken);
                }
                Ok(at)
            }
            None => self.make(name, nature, keys),
        }
    }

    /// The handles of a member that opens an object: a node has one at a home, for all of its ranks.
    fn with_one(&self, handles: u64) -> u64 {
        match self.table {
            ObjectTable::Here => handles + 1,
            ObjectTable::Home => 1,
        }
    }

    /// The object of a name, if there is one, by what the places' keys have been.
    fn find_among(&self, keys: &[(ObjectAt, KeyWord)], name: &Name) -> Fallible<Option<(ObjectAt, KeyWord)>> {
        for (at, key) in keys.iter().copied().filter(|(_, key)| key.is_of(name)) {
            let facts: Vec<WordAt> =
                std::iter::once(at.check()).chain((0..NAME_WORDS).map(|index| at.name(index))).collect();
            let facts = self.words.load(&facts)?;
            if facts[0] == name.check() {
                let is_same = name.words().eq(facts[1..].iter().copied());
                return if is_same { Ok(Some((at, key))) } else { Err(DirectoryFault::Collision) };
            }
        }
        Ok(None)
    }

    /// Takes a handle of this member away, and the object with the last of all. Whether it is gone.
    ///
    /// # Errors
    ///
    /// [`DirectoryFault::Away`].
    pub fn close(&self, at: &ObjectAt) -> Fallible<bool> {
        self.change_handles(at, |handles| handles.saturating_sub(1))?;
        self.free_if_unused(at, self.key(at)?)
    }

    /// Takes this member's handle of the object of a name away, as [`close`](Self::close), if it has one.
    ///
    /// # Errors
    ///
    /// [`DirectoryFault::Away`].
    pub fn close_named(&self, name: &Name) -> Fallible<()> {
        match self.find_among(&self.keys()?, name) {
            Ok(Some((at, _))) if self.has_handle(&at, name)? => self.close(&at).map(drop),
            // Another object's.
            Ok(_) | Err(DirectoryFault::Collision) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Whether this member has a handle of the object of a name, and that is at this place.
    ///
    /// # Errors
    ///
    /// [`DirectoryFault::Away`].
    pub fn has_handle(&self, at: &ObjectAt, name: &Name) -> Fallible<bool> {
        let text = (0..NAME_WORDS).map(|index| at.name(index));
        let facts: Vec<WordAt> = [at.handles(self.me), at.key(), at.check()].into_iter().chain(text).collect();
        let facts = self.words.load(&facts)?;
        let is_of_name = KeyWord(facts[1]).is_of(name) && facts[2] == name.check();
        Ok(facts[0] > 0 && is_of_name && name.words().eq(facts[3..].iter().copied()))
    }

    /// Frees the objects of which no member that lives has a handle.
    ///
    /// # Errors
    ///
    /// [`DirectoryFault::Away`].
    pub fn free_unused(&self) -> Fallible<()> {
        let mut live = self.keys()?.into_iter().filter(|(_, key)| key.is_live());
        live.try_for_each(|(at, key)| self.free_if_unused(&at, key).map(drop))
    }

    /// The objects that there are.
    ///
    /// # Errors
    ///
    /// [`DirectoryFault::Away`].
    pub fn all(&self) -> Fallible<Vec<ObjectAt>> {
        Ok(self.keys()?.into_iter().filter(|(_, key)| key.is_live()).map(|(at, _)| at).collect())
    }

    fn place(&self, index: usize) -> ObjectAt {
        ObjectAt::of(&self.node, self.table, index)
    }

    /// Whose the places are.
    fn keys(&self) -> Fallible<Vec<(ObjectAt, KeyWord)>> {
        let places = (1..=self.node.objects()).map(|index| self.place(index));
        let keys: Vec<WordAt> = places.clone().map(|at| at.key()).collect();
        let keys = self.words.load(&keys)?;
        Ok(places.zip(keys.into_iter().map(KeyWord)).collect())
    }

    fn key(&self, at: &ObjectAt) -> Fallible<KeyWord> {
        Ok(KeyWord(self.words.load(&[at.key()])?[0]))
    }

    fn swap(&self, at: &ObjectAt, seen: KeyWord, wanted: KeyWord) -> Fallible<bool> {
        Ok(self.words.swap(at.key(), seen.0, wanted.0)?)
    }

    /// Whether an object is what is wanted.
    fn check(&self, at: &ObjectAt, nature: Nature) -> Fallible<()> {
        let found = self.words.load(&[at.parameter(0), at.parameter(1)])?;
        match (ObjectKind::from_number(found[0]), found[1]) {
            (Some(kind), _) if kind != nature.kind => Err(DirectoryFault::OtherKind(kind)),
            (Some(_), found) if found != nature.parameter => Err(DirectoryFault::OtherParameter(found)),
            (Some(_), _) => Ok(()),
            (None, _) => Err(DirectoryFault::Overtaken),
        }
    }

    /// Makes an object of which this member has a handle as soon as others find it: one that was declared failed, and
    /// comes back, may look for places of objects that nobody has.
    fn make(&self, name: &Name, nature: Nature, keys: Vec<(ObjectAt, KeyWord)>) -> Fallible<ObjectAt> {
        let (at, seen) = self.free_place(keys)?;
        let filling = seen.filled_by(self.me);
        if !self.swap(&at, seen, filling)? {
            return Err(DirectoryFault::Overtaken);
        }
        let is_only = self.is_only_maker(&at, name);
        let fault = match is_only.and_then(|is_only| Ok(is_only && self.fill(&at, filling, name, nature)?)) {
            Ok(true) => return Ok(at),
            Ok(false) => DirectoryFault::Overtaken,
            Err(fault @ DirectoryFault::Away(_)) => return Err(fault),
            Err(fault) => fault,
        };
        // Of two that make an object each may have orphaned the other's place.
        let _ = self.swap(&at, filling, filling.freed())? || self.swap(&at, filling.orphaned(), filling.freed())?;
        Err(fault)
    }

    /// Whether nobody but this member, which fills a place, makes or has made an object of a name: then nobody will.
    /// All others that fill a place are kept from it: the later of two finds the earlier filling, or its object.
    fn is_only_maker(&self, own: &ObjectAt, name: &Name) -> Fallible<bool> {
        // SYNC POINT: making. The fence pairs with that of another maker: one of the two finds the other's place.
        full_fence();
        let keys = self.keys()?;
        let is_filling = |(at, key): &&(ObjectAt, KeyWord)| at != own && matches!(key.state(), State::Filling(_));
        for (at, seen) in keys.iter().filter(is_filling) {
            if !self.swap(at, *seen, seen.orphaned())? {
                return Ok(false);
            }
        }
        Ok(self.find_among(&keys, name)?.is_none())
    }

    /// Has a place that this member fills become an object's. Whether it did.
    fn fill(&self, at: &ObjectAt, filling: KeyWord, name: &Name, nature: Nature) -> Fallible<bool> {
        let facts =
            [(at.check(), name.check()), (at.parameter(0), nature.kind as u64), (at.parameter(1), nature.parameter)];
        let text = name.words().enumerate().map(|(index, word)| (at.name(index), word));
        let number = self.next_number()?;
        let made = (self.table == ObjectTable::Home).then_some((CopyAt(*at).made(), number));
        let own = (at.handles(self.me), 1);
        let number = [(at.home().numbers, number), (at.held_since(), 0), own].into_iter().chain(made);
        let all: Vec<(WordAt, u64)> = at.state().map(|at| (at, 0)).chain(facts).chain(text).chain(number).collect();
        self.words.store(&all)?;
        self.swap(at, filling, filling.live(name.key()))
    }

    /// A place that is nobody's: one that was, or else one of an object that only the dead have left.
    fn free_place(&self, keys: Vec<(ObjectAt, KeyWord)>) -> Fallible<(ObjectAt, KeyWord)> {
        for (at, seen) in &keys {
            if let Some(free) = self.freed(at, *seen)? {
                return Ok((*at, free));
            }
        }
        for (at, seen) in keys.into_iter().filter(|(_, seen)| seen.is_live()) {
            if self.free_if_unused(&at, seen)? {
                return Ok((at, seen.freed()));
            }
        }
        Err(DirectoryFault::Full)
    }

    /// A place's word if it is nobody's; one that was being filled by a member that is gone becomes so.
    fn freed(&self, at: &ObjectAt, seen: KeyWord) -> Fallible<Option<KeyWord>> {
        match seen.state() {
            State::Free => Ok(Some(seen)),
            State::Live => Ok(None),
            State::Filling(member) | State::Orphaned(member) if member == self.me || (self.is_gone)(member) => {
                Ok(self.swap(at, seen, seen.freed())?.then(|| seen.freed()))
            }
            // Its member had the lock that this one has now: it has been declared failed, and may come back.
            State::Filling(_) => {
                self.swap(at, seen, seen.orphaned())?;
                Ok(None)
            }
            State::Orphaned(_) => Ok(None),
        }
    }

    /// Frees an object's place if nobody has a handle of it. Whether it is free.
    fn free_if_unused(&self, at: &ObjectAt, seen: KeyWord) -> Fallible<bool> {
        if !seen.is_live() {
            return Ok(false);
        }
        if self.is_used(at)? {
            return Ok(false);
        }
        if !(self.before_freeing)(at) {
            return Ok(false);
        }
        self.note_numbers_of(at)?;
        self.swap(at, seen, seen.freed())
    }

    /// What the numbers of a lock that is made begin with, so that its tokens are greater than those of one of the same
    /// name that has gone. At a home: behind all that were drawn there. Elsewhere the upper bits of its tokens: how
    /// many objects have been made, in steps of two, as the word of a new lock fits an even number.
    fn next_number(&self) -> Fallible<u64> {
        let at = self.place(0).greatest();
        let greatest = self.words.load(&[at])?[0];
        match self.table {
            ObjectTable::Home => Ok(greatest.max(self.first_number)),
            // Not by a store: one that was declared failed, and comes back, would turn the numbers back.
            ObjectTable::Here => match self.words.swap(at, greatest, greatest + 2)? {
                true => Ok(greatest + 2),
                false => Err(DirectoryFault::Overtaken),
            },
        }
    }

    /// Before an object goes from its home.
    fn note_numbers_of(&self, object: &ObjectAt) -> Fallible<()> {
        if self.table == ObjectTable::Here {
            return Ok(());
        }
        let at = self.place(0).greatest();
        let found = self.words.load(&[at, object.home().numbers, object.parameter(0), object.own(0)])?;
        // What has a time to live counts in its hold.
        let has_ttl = ObjectKind::from_number(found[2]).is_some_and(ObjectKind::has_ttl);
        let last = if has_ttl { found[1] + lease::LeaseWord(found[3]).number() } else { found[1] };
        Ok(self.words.store(&[(at, found[0].max(last))])?)
    }

    /// Whether a member that lives has a handle of an object.
    ///
    /// # Errors
    ///
    /// [`DirectoryFault::Away`].
    pub fn is_used(&self, at: &ObjectAt) -> Fallible<bool> {
        let handles = self.all_handles(at)?;
        Ok(handles.iter().enumerate().any(|(member, count)| *count > 0 && !(self.is_gone)(member)))
    }

    fn all_handles(&self, at: &ObjectAt) -> Fallible<Vec<u64>> {
        let places: Vec<WordAt> = (0..at.members()).map(|member| at.handles(member)).collect();
        Ok(self.words.load(&places)?)
    }

    fn change_handles(&self, at: &ObjectAt, changed: impl Fn(u64) -> u64) -> Fallible<()> {
        // No read-modify-write: only this member writes it.
        let own = at.handles(self.me);
        let handles = self.words.load(&[own])?[0];
        Ok(self.words.store(&[(own, changed(handles))])?)
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

        fn of(&self, rank: usize) -> Directory<'_, &SimNode, impl Fn(usize) -> bool> {
            Directory::new(&self.memory, self.node, ObjectTable::Here, rank, |rank| self.gone.borrow().contains(&rank))
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
        table.of(0).close(&made).expect("in reach");
        table.of(1).close(&made).expect("in reach");
        assert_eq!(table.of(2).all().map(|all| all.len()), Ok(2), "rank 1 has one handle left");
        table.of(1).close(&made).expect("in reach");
        assert_eq!(table.of(2).all().map(|all| all.len()), Ok(1));
        assert!(table.of(2).open(&name("c"), LOCK).is_ok());
    }

    #[test]
    fn a_new_object_has_nothing_of_the_one_before_it() {
        let table = Table::new(1);
        let first = table.of(0).open(&name("a"), LOCK).expect("room");
        for at in [first.queue().hold, first.value(), first.queue().claims] {
            table.memory.word(at).store(7, Ordering::Relaxed);
        }
        table.of(0).close(&first).expect("in reach");
        let second = table.of(0).open(&name("b"), LOCK).expect("room");
        assert!(
            second.state().filter(|at| ![second.handles(0), second.queue().high].contains(at)).all(|at| table
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
        let at = ObjectAt::of(&table.node, ObjectTable::Here, 1);
        let filling = KeyWord(0).filled_by(2);
        table.memory.word(at.key()).store(filling.0, Ordering::Relaxed);
        assert_eq!(table.of(0).open(&name("a"), LOCK), Err(DirectoryFault::Full));
        // What it would do when it comes back.
        assert_eq!(table.of(2).swap(&at, filling, filling.live(name("z").key())), Ok(false));
        table.gone.borrow_mut().push(2);
        assert!(table.of(0).open(&name("a"), LOCK).is_ok());
    }

    #[test]
    fn a_late_close_does_not_free_an_object_that_was_opened_meanwhile() {
        let table = Table::new(1);
        let at = table.of(0).open(&name("a"), LOCK).expect("room");
        // It has seen that nobody has a handle, and is stopped.
        table.of(0).change_handles(&at, |_| 0).expect("in reach");
        let seen = table.of(0).key(&at).expect("in reach");
        assert_eq!(table.of(1).open(&name("a"), LOCK), Ok(at));
        assert_eq!(table.of(0).swap(&at, seen, seen.freed()), Ok(false), "rank 1 has it");
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
        let seen = table.of(0).key(&at).expect("in reach");
        table.of(0).close(&at).expect("in reach");
        table.of(1).open(&name("a"), LOCK).expect("room");
        assert_eq!(table.of(0).swap(&at, seen, seen.freed()), Ok(false), "another generation");
    }
}
