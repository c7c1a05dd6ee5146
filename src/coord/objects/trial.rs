//! Exhaustive trials of protocols that stand on the exclusive lock: every order of the requests of two or three ranks,
//! of which some change their minds, and one or two may die at any moment.
//!
//! The lock itself is taken for granted here: a queue, which goes on when somebody learns that its holder has died.
//! Each rank learns of a death at a time of its own, and what the dead one had asked for may take effect as long as it
//! likes.
//!
//! The home may be lost, too, and the next one. Each rank is on a node of its own, which learns of that at some time of
//! its own, and asks the last home meanwhile, which answers. Its steward reads the rank's stake, tells the next home,
//! and says that it has; before all have nobody begins anew there. (`src/object/anchor.rs` and `src/object/steward.rs`
//! do so; how the lock itself moves is tried in `home/moving/exhaustive.rs`.)

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

    /// A living rank is through with all: panics if something of it is left at the home.
    fn check_end(rank: usize, words: &[u64]);

    /// At a rank's beginning: what `check_entry` is to know of it.
    fn note_beginning(words: &[u64]) -> u64;

    /// What the rank notes on its node then, before it asks for anything; `None`: nothing new.
    fn stake(&self, act: Self::Act, moment: Moment) -> Option<u64>;

    /// What tells the next home of a stake.
    fn carry(&self, rank: usize, stake: u64) -> Option<Request>;

    /// Begins anew what is under way, at the next home.
    fn restart(&mut self, act: Self::Act) -> Turn;

    /// Whether it is to find the home not lost after it has come in and noted its stake, or else begins anew.
    fn comes_in_by_stake(&self) -> bool;
}

/// When a rank notes its stake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Begins,
    /// It goes by the answers to what it has asked.
    IsAnswered,
    IsIn,
    GoesOn,
    GivesUp,
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
    /// Which home it asks, and which one its node knows to be the home.
    home: usize,
    knows: usize,
    /// It has come in when its node knew that the home is lost.
    is_too_late: bool,
    stake: u64,
    /// What its steward is to tell which home; and which homes it has told, a bit each.
    telling: Option<(usize, Option<Request>)>,
    told: u8,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct World<P: Protocol> {
    /// Of each home, the present one last.
    homes: Vec<Vec<u64>>,
    /// How often it may be lost.
    losses: u8,
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
    /// The home is lost.
    LoseHome,
    /// A node learns of that.
    LearnHome(usize),
    /// Its steward reads its rank's stake; or knows that the rank has died.
    ReadStake(usize),
    Bury(usize),
    /// Its steward has told the home.
    Tell(usize),
    /// A rank begins anew at a home that has been told all.
    Restart(usize),
}

impl<P: Protocol> Actor<P> {
    fn note_stake(&mut self, moment: Moment) {
        self.stake = self.part.stake(self.act, moment).unwrap_or(self.stake);
    }

    /// What it asks for is not answered any more, where the home is lost.
    fn is_cut(&self) -> bool {
        !self.asked.is_empty() || self.is_too_late
    }
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
                home: 0,
                knows: 0,
                is_too_late: false,
                stake: 0,
                telling: None,
                told: 0,
            }
        };
        let ranks = ranks.into_iter().map(actor).collect();
        let homes = vec![vec![0; words]];
        Self { homes, losses: 0, ranks, holder: None, queue: Vec::new(), deaths: 0, looks_early: false }
    }

    /// So many may die.
    pub fn with_deaths(self, deaths: u8) -> Self {
        Self { deaths, ..self }
    }

    /// So many homes may be lost.
    pub fn losing_homes(self, losses: u8) -> Self {
        Self { losses, ..self }
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
                rank.note_stake(Moment::IsIn);
                if rank.part.comes_in_by_stake() && rank.knows > rank.home {
                    // Perhaps nobody tells the next home of it.
                    (rank.stake, rank.is_too_late) = (0, true);
                    return;
                }
                rank.phase = Phase::Inside;
                let is_inside = |rank: &usize| self.ranks[*rank].phase == Phase::Inside && !self.ranks[*rank].is_dead;
                let inside: Vec<usize> = (0..self.ranks.len()).filter(is_inside).collect();
                let words = &self.homes[self.ranks[index].home];
                P::check_entry(index, words, &self.ranks, &inside);
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
        rank.note_stake(Moment::IsAnswered);
        poked.into_iter().for_each(|other| self.ranks[other].is_poked = true);
        self.turn(index, turn);
    }

    /// What has to happen if nobody dies or changes their mind, nor looks for no reason.
    fn is_due(&self, event: Event) -> bool {
        match event {
            Event::Die(_) | Event::GiveUp(_) | Event::LoseHome => false,
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

    /// Whether the home that a rank's node knows of has been told all.
    fn is_complete(&self, index: usize) -> bool {
        let bit = 1 << self.ranks[index].knows;
        self.ranks.iter().all(|rank| rank.told & bit != 0)
    }

    fn events_of_move(&self, index: usize, events: &mut Vec<Event>) {
        let rank = &self.ranks[index];
        if rank.knows + 1 < self.homes.len() {
            events.push(Event::LearnHome(index));
        }
        if rank.knows == 0 || rank.told & 1 << rank.knows != 0 {
            return;
        }
        match rank.telling {
            Some((home, _)) if home == rank.knows => events.push(Event::Tell(index)),
            _ => {
                events.push(Event::ReadStake(index));
                events.extend(rank.is_dead.then_some(Event::Bury(index)));
            }
        }
    }

    fn check_end(&self) {
        let words = self.homes.last().expect("there is one");
        let living = (0..self.ranks.len()).filter(|rank| !self.ranks[*rank].is_dead);
        living.for_each(|rank| P::check_end(rank, words));
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
        if self.losses > 0 {
            events.push(Event::LoseHome);
        }
        for (index, rank) in self.ranks.iter().enumerate() {
            self.events_of_move(index, &mut events);
            let is_lost = rank.knows > rank.home;
            if !rank.asked.is_empty() && !is_lost {
                events.push(Event::Execute(index));
            }
            if is_lost && !rank.is_dead && rank.is_cut() && self.is_complete(index) {
                events.push(Event::Restart(index));
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
                let noted = P::note_beginning(&self.homes[self.ranks[index].home]);
                let rank = &mut self.ranks[index];
                rank.act = rank.left.pop().expect("something is left");
                rank.noted = noted;
                if P::begins_with_lock(rank.act) {
                    rank.phase = Phase::Queued;
                    return self.queue.push(index);
                }
                rank.phase = Phase::Busy;
                rank.note_stake(Moment::Begins);
                let turn = rank.part.begin(rank.act);
                self.turn(index, turn);
            }
            Event::Grant(index) => {
                self.holder = Some(index);
                self.queue.retain(|other| *other != index);
                let rank = &mut self.ranks[index];
                rank.phase = Phase::Busy;
                rank.note_stake(Moment::Begins);
                let turn = rank.part.begin(rank.act);
                self.turn(index, turn);
            }
            Event::Execute(index) => {
                let request = self.ranks[index].asked.pop_front().expect("it has asked");
                let answer = execute(&mut self.homes[self.ranks[index].home], request);
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
                rank.note_stake(Moment::GoesOn);
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
                rank.note_stake(Moment::GivesUp);
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
            Event::LoseHome => {
                self.losses -= 1;
                self.homes.push(vec![0; self.homes[0].len()]);
            }
            Event::LearnHome(index) => {
                let rank = &mut self.ranks[index];
                rank.knows += 1;
                rank.is_poked = true;
            }
            Event::ReadStake(index) => {
                let rank = &mut self.ranks[index];
                rank.telling = Some((rank.knows, rank.part.carry(index, rank.stake)));
            }
            Event::Bury(index) => self.ranks[index].telling = Some((self.ranks[index].knows, None)),
            Event::Tell(index) => {
                let (home, request) = self.ranks[index].telling.take().expect("it is to tell something");
                request.map(|request| execute(&mut self.homes[home], request));
                self.ranks[index].told |= 1 << home;
            }
            Event::Restart(index) => {
                let rank = &mut self.ranks[index];
                rank.asked.clear();
                rank.answers.clear();
                // What was there at the last home is not compared with what is here.
                (rank.home, rank.noted, rank.is_too_late) = (rank.knows, 0, false);
                let turn = rank.part.restart(rank.act);
                self.turn(index, turn);
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
        if waiting.is_empty() {
            world.check_end();
        }
        assert!(
            waiting.is_empty() || (may_miss && world.ends_by_looking()),
            "{waiting:?} are forgotten: {way:?}\n{world:#?}"
        );
    });
    assert!(ends > 0);
    println!("{states} states, {ends} of them ends");
}
