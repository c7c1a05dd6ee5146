//! A directory, tried exhaustively: every order of the accesses of two members that open and close objects, of which
//! any may die or be declared failed at each access. Who is declared failed with the table's lock is followed by the
//! next one, and goes on beside it to the end of its call.
//!
//! The directory's own code runs here, one access to the table at a time: a call is begun anew for each, with the
//! answers that it has had before, and is cut off behind the next one. (What it reads or writes together is one access;
//! it is published by a word that is swapped alone.)

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::super::layout::with_objects;
use super::*;
use crate::explorer::{Model, go_every_way};

const LOCK: Nature = Nature { kind: ObjectKind::Lock, parameter: 0 };
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Members that open and close, and one that does not until all is over.
const MEMBERS: usize = 3;
const SPARE: usize = 2;

fn layout(places: usize) -> NodeLayout {
    with_objects(NodeLayout::new(MEMBERS, 1), places)
}

fn name(index: usize) -> Name {
    Name::new(NAMES[index]).expect("a name")
}

type Memory = BTreeMap<usize, u64>;

/// The table as a call has it that is begun anew: what it has had answered, then some accesses, and no more.
struct Script {
    words: RefCell<Memory>,
    dead: Vec<bool>,
    log: RefCell<Vec<u64>>,
    /// How much of that the call has had.
    had: Cell<usize>,
    left: Cell<usize>,
    is_cut: Cell<bool>,
}

impl Script {
    fn again(&self) -> Option<u64> {
        let answer = self.log.borrow().get(self.had.get()).copied();
        self.had.set(self.had.get() + usize::from(answer.is_some()));
        answer
    }

    fn note(&self, answer: u64) -> u64 {
        self.log.borrow_mut().push(answer);
        self.had.set(self.had.get() + 1);
        answer
    }

    /// An access takes place now, unless the call is cut off before it.
    fn spend(&self) -> Result<(), SiteFault> {
        if self.left.get() == 0 {
            self.is_cut.set(true);
            return Err(SiteFault::Excluded);
        }
        self.left.set(self.left.get() - 1);
        Ok(())
    }

    fn is_gone(&self, member: usize) -> bool {
        self.again().unwrap_or_else(|| self.note(u64::from(self.dead[member]))) != 0
    }

    fn word(&self, at: WordAt) -> u64 {
        self.words.borrow().get(&at.0).copied().unwrap_or(0)
    }

    fn put(&self, at: WordAt, value: u64) {
        let mut words = self.words.borrow_mut();
        match value {
            0 => drop(words.remove(&at.0)),
            _ => drop(words.insert(at.0, value)),
        }
    }
}

impl Words for &Script {
    fn load(&self, at: &[WordAt]) -> Result<Vec<u64>, SiteFault> {
        let Some(first) = self.again() else {
            self.spend()?;
            return Ok(at.iter().map(|at| self.note(self.word(*at))).collect());
        };
        Ok(std::iter::once(first).chain(at[1..].iter().map(|_| self.again().expect("together"))).collect())
    }

    fn store(&self, words: &[(WordAt, u64)]) -> Result<(), SiteFault> {
        if self.again().is_none() {
            self.spend()?;
            words.iter().for_each(|(at, value)| self.put(*at, *value));
            self.note(0);
        }
        Ok(())
    }

    fn swap(&self, at: WordAt, seen: u64, wanted: u64) -> Result<bool, SiteFault> {
        if let Some(swapped) = self.again() {
            return Ok(swapped != 0);
        }
        self.spend()?;
        let is_as_seen = self.word(at) == seen;
        if is_as_seen {
            self.put(at, wanted);
        }
        Ok(self.note(u64::from(is_as_seen)) != 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Act {
    Open(usize),
    Close,
}

#[derive(Clone, Debug, Hash)]
struct Member {
    /// What it is still to do, the last one first.
    left: Vec<Act>,
    /// The answers of the call that it is in.
    log: Vec<u64>,
    is_inside: bool,
    /// Declared failed: it does nothing after its call.
    is_suspected: bool,
    is_dead: bool,
    /// Its object: the name, and the place.
    has: Option<(usize, usize)>,
}

#[derive(Clone, Debug, Hash)]
struct World {
    places: usize,
    words: Memory,
    members: Vec<Member>,
    holder: Option<usize>,
    deaths: u8,
    suspicions: u8,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The table's lock is this member's.
    Enter(usize),
    /// Its next access.
    Step(usize),
    Suspect(usize),
    Die(usize),
}

/// What has come of a call.
enum Ended {
    Opened(Fallible<ObjectAt>),
    Closed(Fallible<bool>),
}

impl World {
    fn new(places: usize, acts: [&[Act]; 2], deaths: u8, suspicions: u8) -> Self {
        let member = |acts: &[Act]| {
            let left = acts.iter().rev().copied().collect();
            Member { left, log: Vec::new(), is_inside: false, is_suspected: false, is_dead: false, has: None }
        };
        let members = [acts[0], acts[1], &[]].map(member).into();
        Self { places, words: Memory::new(), members, holder: None, deaths, suspicions }
    }

    fn place(&self, index: usize) -> ObjectAt {
        ObjectAt::of(&layout(self.places), ObjectTable::Here, index)
    }

    fn word(&self, at: WordAt) -> u64 {
        self.words.get(&at.0).copied().unwrap_or(0)
    }

    /// So many accesses of a call; what has come of it, if it has ended.
    fn call(&mut self, me: usize, act: Act, accesses: usize) -> Option<Ended> {
        let script = Script {
            words: RefCell::new(std::mem::take(&mut self.words)),
            dead: self.members.iter().map(|member| member.is_dead).collect(),
            log: RefCell::new(std::mem::take(&mut self.members[me].log)),
            had: Cell::new(0),
            left: Cell::new(accesses),
            is_cut: Cell::new(false),
        };
        let is_gone = |member| script.is_gone(member);
        let directory = Directory::new(&script, layout(self.places), ObjectTable::Here, me, is_gone);
        let ended = match act {
            Act::Open(index) => Ended::Opened(directory.open(&name(index), LOCK)),
            Act::Close => {
                let (_, place) = self.members[me].has.expect("it has opened it");
                Ended::Closed(directory.close(&self.place(place)))
            }
        };
        drop(directory);
        let is_cut = script.is_cut.get();
        self.words = script.words.into_inner();
        if is_cut {
            self.members[me].log = script.log.into_inner();
        }
        (!is_cut).then_some(ended)
    }

    fn step(&mut self, me: usize) {
        let act = *self.members[me].left.last().expect("it is inside");
        let numbers = |world: &Self| world.word(world.place(0).greatest());
        let before = numbers(self);
        let ended = self.call(me, act, 1);
        assert!(numbers(self) >= before, "member {me} turns the numbers of objects back");
        let Some(ended) = ended else { return };
        let place = |at: ObjectAt| (1..=self.places).find(|index| self.place(*index) == at).expect("one of them");
        let opened = match &ended {
            Ended::Opened(Ok(at)) => Some(place(*at)),
            _ => None,
        };
        let member = &mut self.members[me];
        member.is_inside = false;
        match (ended, act) {
            // It tries again.
            (Ended::Opened(Err(DirectoryFault::Overtaken)), _) => {}
            (Ended::Opened(Err(fault)), _) => {
                assert_eq!(fault, DirectoryFault::Full, "member {me}");
                // Nor closes it.
                member.left.truncate(member.left.len() - 2);
            }
            (Ended::Opened(Ok(_)), Act::Open(name)) => {
                member.left.pop();
                member.has = opened.map(|place| (name, place));
            }
            (Ended::Closed(closed), _) => {
                closed.expect("in reach");
                member.left.pop();
                member.has = None;
            }
            (Ended::Opened(_), Act::Close) => unreachable!("it has closed"),
        }
        if member.is_suspected {
            member.left.clear();
        }
        if self.holder == Some(me) {
            self.holder = None;
        }
    }

    fn check(&self) {
        for (me, member) in self.members.iter().enumerate() {
            let is_sound = !member.is_dead && !member.is_suspected && !member.is_inside;
            let Some((index, place)) = member.has.filter(|_| is_sound) else { continue };
            let at = self.place(place);
            assert!(KeyWord(self.word(at.key())).is_of(&name(index)), "member {me}'s object is gone");
            assert!(self.word(at.handles(me)) > 0, "member {me}'s handle is gone");
        }
        for text in NAMES {
            let name = Name::new(text).expect("a name");
            let is_of = |place: &usize| {
                let at = self.place(*place);
                KeyWord(self.word(at.key())).is_of(&name) && self.word(at.check()) == name.check()
            };
            let places: Vec<usize> = (1..=self.places).filter(is_of).collect();
            assert!(places.len() <= 1, "{text:?} is at {places:?}");
        }
    }

    /// All is over: those that live, or were declared failed and have come back, fill no place, and the former have
    /// left nothing of what they had. When all have ended all places are there for others.
    fn check_end(&self) {
        for place in (1..=self.places).map(|index| self.place(index)) {
            let key = KeyWord(self.word(place.key()));
            let is_live = key.is_live();
            if let State::Filling(member) | State::Orphaned(member) = key.state() {
                assert!(self.members[member].is_dead, "a place is kept for member {member}");
            }
            let lives = |me: &usize| !self.members[*me].is_dead && !self.members[*me].is_suspected;
            let has_some = |me: usize| self.word(place.handles(me)) > 0;
            assert!(!is_live || !(0..MEMBERS).filter(lives).any(has_some), "a handle is left");
        }
        let mut world = self.clone();
        world.members[..SPARE].iter_mut().for_each(|member| member.is_dead = true);
        for index in 0..world.places {
            let opened = world.call(SPARE, Act::Open(NAMES.len() - 1 - index), usize::MAX);
            assert!(matches!(opened, Some(Ended::Opened(Ok(_)))), "a place is lost");
            world.members[SPARE].log.clear();
        }
    }
}

impl Model for World {
    type Event = Event;

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (me, member) in self.members.iter().enumerate().filter(|(_, member)| !member.is_dead) {
            let is_free = self.holder.is_none_or(|holder| self.members[holder].is_dead);
            if !member.is_inside && !member.left.is_empty() && is_free {
                events.push(Event::Enter(me));
            }
            if member.is_inside {
                events.push(Event::Step(me));
                events.extend((self.suspicions > 0 && !member.is_suspected).then_some(Event::Suspect(me)));
            }
            events.extend((self.deaths > 0 && me != SPARE).then_some(Event::Die(me)));
        }
        events
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Enter(me) => (self.holder, self.members[me].is_inside) = (Some(me), true),
            Event::Step(me) => self.step(me),
            Event::Suspect(me) => {
                (self.suspicions, self.members[me].is_suspected) = (self.suspicions - 1, true);
                self.holder = self.holder.filter(|holder| *holder != me);
            }
            Event::Die(me) => (self.deaths, self.members[me].is_dead) = (self.deaths - 1, true),
        }
    }
}

fn go(world: World) {
    let mut states = 0;
    go_every_way(world, |world, way| {
        states += 1;
        let looked = std::panic::catch_unwind(|| {
            world.check();
            let is_over = world.events().iter().all(|event| matches!(event, Event::Die(_)));
            if is_over {
                world.check_end();
            }
        });
        assert!(looked.is_ok(), "{way:?}");
    });
    println!("{states} states");
    assert!(states > 100, "they show nothing");
}

const OPENS_AND_CLOSES: &[Act] = &[Act::Open(0), Act::Close];
const TWICE: &[Act] = &[Act::Open(0), Act::Close, Act::Open(0), Act::Close];
const ANOTHER: &[Act] = &[Act::Open(1), Act::Close];

#[test]
fn two_members_share_an_object_and_one_dies_at_any_access() {
    go(World::new(2, [TWICE, OPENS_AND_CLOSES], 1, 0));
}

#[test]
fn one_that_was_declared_failed_comes_back_and_does_no_harm() {
    go(World::new(2, [TWICE, OPENS_AND_CLOSES], 1, 1));
}

#[test]
fn two_names_in_want_of_one_place() {
    go(World::new(1, [TWICE, ANOTHER], 1, 1));
}

#[test]
fn two_that_were_declared_failed_make_no_two_objects_of_a_name() {
    go(World::new(2, [OPENS_AND_CLOSES, OPENS_AND_CLOSES], 0, 2));
}
