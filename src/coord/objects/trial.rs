//! Exhaustive trials of protocols that stand on the exclusive lock: every order of the requests of two or three ranks,
//! of which some change their minds, and one or two may die at any moment.
//!
//! The lock itself is taken for granted here: a queue, which goes on when somebody learns that its holder has died.
//! Each rank learns of a death at a time of its own, and what the dead one had asked for may take effect as long as it
//! likes.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::hash::Hash;

use super::sharing::Turn;
use crate::explorer::{Model, execute, go_every_way};
use crate::fabric::Request;

/// A protocol, as one rank has it.
pub(super) trait Protocol: Clone + Hash + Debug {
    /// Something that a rank does.
    type Act: Copy + Hash + Debug;

    /// Whether it begins with the exclusive lock.
    fn begins_with_lock(act: Self::Act) -> bool;

    fn begin(&mut self, act: Self::Act) -> Turn;

    fn look(&mut self) -> Turn;

    fn give_up(&mut self, act: Self::Act) -> Turn;

    /// What a rank does next that has what it wanted.
    fn go_on(&mut self, act: Self::Act) -> Turn;

    fn answered(
        &mut self,
        act: Self::Act,
        answers: &[u64],
        has_ended: impl Fn(usize) -> bool,
        poke: impl FnMut(usize),
    ) -> Turn;

    /// Whether it still needs the exclusive lock, where it has come to an end or to what it wanted.
    fn keeps_lock(&self) -> bool;

    /// A rank has come to have what it wanted: panics if that is wrong. `inside` are the living ones that have
    /// something.
    fn check_entry(rank: usize, words: &[u64], ranks: &[Actor<Self>], inside: &[usize]);

    /// At a rank's beginning: what `check_entry` is to know of it.
    fn note_beginning(words: &[u64]) -> u64;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Outside,
    /// For the exclusive lock.
    Queued,
    /// Something is asked or waited for.
    Busy,
    Inside,
    /// It gives back what it has, or its claim.
    Leaving,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Actor<P: Protocol> {
    pub part: P,
    /// What it is doing, or has done last.
    pub act: P::Act,
    /// What [`Protocol::note_beginning`] has said.
    pub noted: u64,
    phase: Phase,
    /// What it is still to do, the last one first.
    left: Vec<P::Act>,
    asked: VecDeque<Request>,
    answers: Vec<u64>,
    is_waiting: bool,
    /// Since it has begun to ask something last.
    is_poked: bool,
    may_give_up: bool,
    pub is_dead: bool,
    /// Who it knows to be dead.
    known: Vec<bool>,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct World<P: Protocol> {
    words: Vec<u64>,
    ranks: Vec<Actor<P>>,
    holder: Option<usize>,
    queue: Vec<usize>,
    deaths: u8,
    /// Ranks that wait look at any time, and not only when they are poked.
    looks_early: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Begin(usize),
    /// The exclusive lock is this rank's.
    Grant(usize),
    /// The first of its requests takes effect.
    Execute(usize),
    Look(usize),
    GoOn(usize),
    GiveUp(usize),
    Die(usize),
    /// Who learns of whose death.
    Learn(usize, usize),
}

impl<P: Protocol> World<P> {
    /// Ranks with what they do, in this order.
    pub fn new(words: usize, ranks: Vec<(P, Vec<P::Act>)>) -> Self {
        let count = ranks.len();
        let actor = |(part, mut left): (P, Vec<P::Act>)| {
            left.reverse();
            Actor {
                part,
                act: left[0],
                noted: 0,
                phase: Phase::Outside,
                left,
                asked: VecDeque::new(),
                answers: Vec::new(),
                is_waiting: false,
                is_poked: false,
                may_give_up: false,
                is_dead: false,
                known: vec![false; count],
            }
        };
        let ranks = ranks.into_iter().map(actor).collect();
        Self { words: vec![0; words], ranks, holder: None, queue: Vec::new(), deaths: 0, looks_early: false }
    }

    /// So many may die.
    pub fn with_deaths(self, deaths: u8) -> Self {
        Self { deaths, ..self }
    }

    /// Each may give up once.
    pub fn with_doubts(mut self) -> Self {
        self.ranks.iter_mut().for_each(|rank| rank.may_give_up = true);
        self
    }

    pub fn looking_early(self) -> Self {
        Self { looks_early: true, ..self }
    }

    /// Whether the lock can become this rank's.
    fn is_next(&self, rank: usize) -> bool {
        let known = &self.ranks[rank].known;
        let is_free = self.holder.is_none_or(|holder| known[holder]);
        is_free && self.queue.iter().find(|other| !known[**other]) == Some(&rank)
    }

    fn turn(&mut self, index: usize, turn: Turn) {
        let rank = &mut self.ranks[index];
        rank.is_waiting = turn == Turn::Wait;
        match turn {
            Turn::Ask(requests) => (rank.asked, rank.is_poked) = (requests.into(), false),
            Turn::Wait => {}
            Turn::In => {
                rank.phase = Phase::Inside;
                let is_inside = |rank: &usize| self.ranks[*rank].phase == Phase::Inside && !self.ranks[*rank].is_dead;
                let inside: Vec<usize> = (0..self.ranks.len()).filter(is_inside).collect();
                P::check_entry(index, &self.words, &self.ranks, &inside);
            }
            Turn::Out => rank.phase = Phase::Outside,
        }
        let rank = &self.ranks[index];
        let is_settled = matches!(rank.phase, Phase::Inside | Phase::Outside);
        if is_settled && self.holder == Some(index) && !rank.part.keeps_lock() {
            self.holder = None;
        }
    }

    fn finish_asking(&mut self, index: usize) {
        let known = self.ranks[index].known.clone();
        let mut poked = Vec::new();
        let rank = &mut self.ranks[index];
        let answers = std::mem::take(&mut rank.answers);
        let turn = rank.part.answered(rank.act, &answers, |other| known[other], |other| poked.push(other));
        poked.into_iter().for_each(|other| self.ranks[other].is_poked = true);
        self.turn(index, turn);
    }

    /// What has to happen if nobody dies or changes their mind, nor looks for no reason.
    fn is_due(&self, event: Event) -> bool {
        match event {
            Event::Die(_) | Event::GiveUp(_) => false,
            Event::Execute(index) => !self.ranks[index].is_dead,
            Event::Look(index) => self.ranks[index].is_poked,
            _ => true,
        }
    }

    fn due(&self) -> Option<Event> {
        self.events().into_iter().find(|event| self.is_due(*event))
    }

    fn unfinished(&self) -> Vec<usize> {
        let is_there = |rank: &&usize| !self.ranks[**rank].is_dead && self.ranks[**rank].phase != Phase::Outside;
        (0..self.ranks.len()).collect::<Vec<_>>().iter().filter(is_there).copied().collect()
    }

    /// Where nothing more has to happen, all look once, as they do now and then: whether that ends all waits.
    fn ends_by_looking(&self) -> bool {
        let mut world = self.clone();
        for _ in 0..4 {
            for index in world.unfinished() {
                if world.ranks[index].is_waiting {
                    world.ranks[index].is_poked = true;
                }
            }
            while let Some(event) = world.due() {
                world.apply(event);
            }
        }
        world.unfinished().is_empty()
    }
}

impl<P: Protocol> Model for World<P> {
    type Event = Event;

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (index, rank) in self.ranks.iter().enumerate() {
            if !rank.asked.is_empty() {
                events.push(Event::Execute(index));
            }
            if rank.is_dead {
                continue;
            }
            if self.deaths > 0 {
                events.push(Event::Die(index));
            }
            let is_unknown = |other: &usize| self.ranks[*other].is_dead && !rank.known[*other];
            events.extend((0..self.ranks.len()).filter(is_unknown).map(|other| Event::Learn(index, other)));
            match rank.phase {
                Phase::Outside if !rank.left.is_empty() => events.push(Event::Begin(index)),
                Phase::Inside => events.push(Event::GoOn(index)),
                Phase::Queued if self.is_next(index) => events.push(Event::Grant(index)),
                Phase::Busy if rank.is_waiting && (rank.is_poked || self.looks_early) => {
                    events.push(Event::Look(index));
                }
                _ => {}
            }
            if rank.may_give_up && (rank.phase == Phase::Queued || rank.is_waiting) {
                events.push(Event::GiveUp(index));
            }
        }
        events
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Begin(index) => {
                let noted = P::note_beginning(&self.words);
                let rank = &mut self.ranks[index];
                rank.act = rank.left.pop().expect("something is left");
                rank.noted = noted;
                if P::begins_with_lock(rank.act) {
                    rank.phase = Phase::Queued;
                    return self.queue.push(index);
                }
                rank.phase = Phase::Busy;
                let turn = rank.part.begin(rank.act);
                self.turn(index, turn);
            }
            Event::Grant(index) => {
                self.holder = Some(index);
                self.queue.retain(|other| *other != index);
                let rank = &mut self.ranks[index];
                rank.phase = Phase::Busy;
                let turn = rank.part.begin(rank.act);
                self.turn(index, turn);
            }
            Event::Execute(index) => {
                let request = self.ranks[index].asked.pop_front().expect("it has asked");
                let answer = execute(&mut self.words, request);
                let rank = &mut self.ranks[index];
                rank.answers.extend(answer);
                // A rank that has been declared failed looks for that before it goes on.
                if rank.asked.is_empty() && !rank.is_dead {
                    self.finish_asking(index);
                }
            }
            Event::Look(index) => {
                let turn = self.ranks[index].part.look();
                self.turn(index, turn);
            }
            Event::GoOn(index) => {
                let rank = &mut self.ranks[index];
                rank.phase = Phase::Leaving;
                let turn = rank.part.go_on(rank.act);
                self.turn(index, turn);
            }
            Event::GiveUp(index) => {
                self.queue.retain(|other| *other != index);
                let rank = &mut self.ranks[index];
                rank.may_give_up = false;
                if std::mem::replace(&mut rank.phase, Phase::Leaving) == Phase::Queued {
                    rank.phase = Phase::Outside;
                    return;
                }
                let turn = rank.part.give_up(rank.act);
                self.turn(index, turn);
            }
            Event::Die(index) => {
                self.deaths -= 1;
                self.ranks[index].is_dead = true;
            }
            Event::Learn(index, other) => {
                let rank = &mut self.ranks[index];
                rank.known[other] = true;
                rank.is_poked = true;
            }
        }
    }
}

/// Tries everything: nobody is inside who must not be, and nobody is left waiting.
pub(super) fn check<P: Protocol>(world: World<P>) {
    let (mut states, mut ends) = (0, 0);
    go_every_way(world, |world, way| {
        states += 1;
        if world.due().is_some() {
            return;
        }
        ends += 1;
        // A death may have taken a poke with it; then those who wait look by themselves after a while.
        let may_miss = world.ranks.iter().any(|rank| rank.is_dead);
        let waiting = world.unfinished();
        assert!(
            waiting.is_empty() || (may_miss && world.ends_by_looking()),
            "{waiting:?} are forgotten: {way:?}\n{world:#?}"
        );
    });
    assert!(ends > 0);
    println!("{states} states, {ends} of them ends");
}
