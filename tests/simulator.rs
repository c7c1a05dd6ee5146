//! The barrier's state machines in a simulated node: one thread steps up to 64 members in an order drawn from a seed.
//!
//! Each *actor* is one member of one group. A step is one call on its machine: arrive, poll, withdraw, park. Members
//! come late, take arrivals back, stop polling until everybody else is through, and sleep until a wake-up that the
//! simulator delivers only if the machines asked for it. An oracle that knows every step checks that
//!
//! - nobody passes before all have arrived, and whoever passes gets the outcome of the arrivals that stood;
//! - an arrival is withdrawn only from a barrier that nobody has passed or passes by it;
//! - `missing` names exactly those that have not arrived;
//! - everybody gets through in the end, and nobody sleeps for ever.
#![cfg(not(model))]

mod common;

use std::collections::HashSet;
use std::task::Poll;

use common::conduct::{Conduct, Mood, any_contribution, fall_asleep, is_missed_by_nobody, must_get, wake_up};
use common::seeds::for_each_seed;
use phalanx::coord::barrier::layout::GroupLayout;
use phalanx::coord::barrier::{Algorithm, Barrier, Contribution, Outcome, Withdrawal};
use phalanx::coord::offers::Named;
use phalanx::coord::{arena, formation, offers};
use phalanx::fabric::Memory;
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::sim::{Seeded, SimNode};
use phalanx::machine::Place;
use phalanx::sync::Ordering;

/// One member of one group.
struct Actor {
    barrier: Barrier,
    conduct: Conduct,
}

/// A group, its members and the simulated node that they are in.
struct Meeting<'node> {
    node: &'node SimNode,
    layout: GroupLayout,
    actors: Vec<Actor>,
    rounds: u64,
    random: Seeded,
    /// How likely a member is to act up, in percent.
    unrest: usize,
}

impl<'node> Meeting<'node> {
    fn new(node: &'node SimNode, layout: GroupLayout, rounds: u64, unrest: usize, seed: u64) -> Self {
        let actor = |me| Actor { barrier: Barrier::new(node, layout, me), conduct: Conduct::new() };
        let actors = (0..layout.size()).map(actor).collect();
        Self { node, layout, actors, rounds, random: Seeded::new(seed), unrest }
    }

    fn is_over(&self) -> bool {
        self.actors.iter().all(|actor| actor.barrier.passed() == self.rounds)
    }

    /// All members, each with the barrier that it is at.
    fn all(&self) -> impl Iterator<Item = (u64, &Conduct)> {
        self.actors.iter().map(|actor| (actor.barrier.passed() + 1, &actor.conduct))
    }

    fn is_unlucky(&mut self) -> bool {
        self.random.below(100) < self.unrest
    }

    /// The barrier that a member is at.
    fn next(&self, index: usize) -> u64 {
        self.actors[index].barrier.passed() + 1
    }

    /// Whether a member has arrived at `sequence`, its withdrawal, if it is at one, left open.
    fn may_stand(&self, index: usize, sequence: u64) -> bool {
        self.actors[index].conduct.may_stand(self.next(index), sequence)
    }

    /// Steps one member that can act. `false` when there is none: everybody sleeps or is through.
    fn step(&mut self) -> bool {
        let able: Vec<usize> = (0..self.actors.len()).filter(|index| self.can_act(*index)).collect();
        if able.is_empty() {
            return false;
        }
        let index = able[self.random.below(able.len())];
        match self.actors[index].conduct.mood {
            Mood::Idle => self.arrive(index),
            Mood::Waiting | Mood::Absent => self.wait(index),
            Mood::Withdrawing => self.withdraw(index),
            Mood::Parked(_) => unreachable!("a sleeper cannot act"),
        }
        self.deliver_wakes();
        true
    }

    fn can_act(&self, index: usize) -> bool {
        match self.actors[index].conduct.mood {
            Mood::Idle => self.next(index) <= self.rounds,
            Mood::Waiting | Mood::Withdrawing => true,
            Mood::Absent => is_missed_by_nobody(self.all(), self.next(index)),
            Mood::Parked(_) => false,
        }
    }

    fn arrive(&mut self, index: usize) {
        let sequence = self.next(index);
        let contribution = any_contribution(sequence, &mut self.random);
        let actor = &mut self.actors[index];
        actor.conduct.arrive(sequence, contribution);
        actor.barrier.arrive(self.node, contribution, Some(index % 4));
        let is_absent = self.is_unlucky() && self.someone_polls(index);
        self.actors[index].conduct.mood = if is_absent { Mood::Absent } else { Mood::Waiting };
    }

    /// Whether another member will look at the barrier that this one is at.
    fn someone_polls(&self, index: usize) -> bool {
        self.actors.iter().enumerate().any(|(other, actor)| other != index && actor.conduct.mood != Mood::Absent)
    }

    fn wait(&mut self, index: usize) {
        self.check_missing(index);
        if self.actors[index].conduct.attempts < 20 && self.is_unlucky() {
            self.actors[index].conduct.mood = Mood::Withdrawing;
            return self.withdraw(index);
        }
        let is_thorough = self.random.below(3) == 0;
        let barrier = &mut self.actors[index].barrier;
        let polled = if is_thorough { barrier.poll_thoroughly(self.node) } else { barrier.poll(self.node) };
        match polled {
            Poll::Ready(outcome) => self.pass(index, &outcome),
            Poll::Pending if is_thorough && self.random.below(3) == 0 => self.park(index),
            Poll::Pending => {}
        }
    }

    /// The oracle on passing. The machine has passed, so the barrier in question is the one before its next.
    fn pass(&mut self, index: usize, outcome: &Outcome) {
        self.actors[index].conduct.pass();
        let sequence = self.next(index) - 1;
        assert_eq!(*outcome, must_get(self.all(), index, sequence), "member {index} at barrier {sequence}");
    }

    fn withdraw(&mut self, index: usize) {
        let sequence = self.next(index);
        match self.actors[index].barrier.withdraw(self.node) {
            Poll::Pending => {}
            Poll::Ready(Withdrawal::Passed(outcome)) => self.pass(index, &outcome),
            Poll::Ready(Withdrawal::Withdrawn) => {
                let passed = (0..self.actors.len()).find(|other| self.next(*other) > sequence);
                assert_eq!(passed, None, "member {index} withdrew from {sequence}, which has been passed");
                self.actors[index].conduct.withdraw();
            }
            Poll::Ready(Withdrawal::Exhausted) => panic!("nobody withdraws that often"),
        }
    }

    /// Those that have surely not arrived are named, those that have are not; members at a withdrawal may be either.
    fn check_missing(&self, index: usize) {
        let sequence = self.next(index);
        let missing: HashSet<usize> = self.actors[index].barrier.missing(self.node).into_iter().collect();
        for other in (0..self.actors.len()).filter(|other| *other != index) {
            let is_open = self.next(other) == sequence && self.actors[other].conduct.mood == Mood::Withdrawing;
            let is_right = is_open || missing.contains(&other) != self.may_stand(other, sequence);
            assert!(is_right, "member {index} at {sequence}, about {other}: {missing:?}");
        }
    }

    fn park(&mut self, index: usize) {
        let Some(awaited) = self.actors[index].barrier.awaited(self.node) else {
            assert!(self.actors[index].barrier.missing(self.node).is_empty(), "somebody is missing, nothing awaited");
            return;
        };
        if fall_asleep(self.node, awaited) {
            self.actors[index].conduct.mood = Mood::Parked(awaited);
        }
    }

    fn deliver_wakes(&mut self) {
        let woken = self.node.take_woken();
        for actor in &mut self.actors {
            if let Mood::Parked(awaited) = actor.conduct.mood
                && woken.contains(&awaited.word)
            {
                wake_up(self.node, awaited);
                actor.conduct.mood = Mood::Waiting;
            }
        }
    }

    /// Why nobody can act: for the message of a failure.
    fn situation(&self) -> String {
        let line = |(index, actor): (usize, &Actor)| {
            format!("{index}: passed {}, {:?}\n", actor.barrier.passed(), actor.conduct.mood)
        };
        self.actors.iter().enumerate().map(line).collect()
    }
}

/// Steps until all are through. Steps are bounded: random polls get there soon if they can get there at all.
fn run(meetings: &mut [Meeting<'_>], random: &mut Seeded) {
    let most_steps: u64 = meetings.iter().map(|meeting| meeting.rounds * 4000 * meeting.actors.len() as u64).sum();
    for _ in 0..most_steps {
        let open: Vec<usize> = (0..meetings.len()).filter(|index| !meetings[*index].is_over()).collect();
        if open.is_empty() {
            return;
        }
        let meeting = &mut meetings[open[random.below(open.len())]];
        assert!(meeting.step(), "everybody sleeps:\n{}", meeting.situation());
    }
    let stuck = meetings.iter().find(|meeting| !meeting.is_over()).expect("not all are over");
    panic!("nobody gets through:\n{}", stuck.situation());
}

/// A node with random places for its ranks, and space for `groups` groups of all of them.
fn node_of(ranks: usize, groups: usize, random: &mut Seeded) -> (SimNode, NodeLayout) {
    let layout = NodeLayout::new(ranks, groups * formation::units(ranks) * UNIT_WORDS);
    let node = SimNode::new(layout.words());
    for rank in 0..ranks {
        let mut number = |bound| u16::try_from(random.below(bound)).expect("small");
        let place = Place { numa: number(2), cache: number(4) };
        let is_known = random.below(4) > 0;
        node.word(layout.place(rank)).store(if is_known { place.pack() } else { 0 }, Ordering::Relaxed);
    }
    (node, layout)
}

fn any_algorithm(random: &mut Seeded) -> Algorithm {
    Algorithm::ALL[random.below(3)]
}

fn one_group(seed: u64, size: usize, rounds: u64) {
    let mut random = Seeded::new(seed);
    let (node, layout) = node_of(size, 1, &mut random);
    let ranks: Vec<usize> = (0..size).collect();
    let block = formation::make(&node, &layout, &ranks, any_algorithm(&mut random)).expect("space for one group");
    let unrest = [0, 5, 30][random.below(3)];
    run(&mut [Meeting::new(&node, block, rounds, unrest, random.number())], &mut random);
}

#[test]
fn small_groups_pass_together_whatever_their_members_do() {
    for_each_seed("simulator", "small_groups_pass_together_whatever_their_members_do", 0..3000, |seed| {
        one_group(seed, 1 + Seeded::new(seed ^ 0xabcd).below(9), 8);
    });
}

#[test]
fn sixty_four_members_pass_together_whatever_they_do() {
    for_each_seed("simulator", "sixty_four_members_pass_together_whatever_they_do", 0..60, |seed| {
        one_group(seed, 64, 3);
    });
}

/// Random members in random order.
fn some_ranks(ranks: usize, random: &mut Seeded) -> Vec<usize> {
    let mut pool: Vec<usize> = (0..ranks).collect();
    let size = 1 + random.below(ranks);
    (0..size).map(|_| pool.swap_remove(random.below(pool.len()))).collect()
}

/// Groups that share members, stepped in one random order: each keeps its own count, and all space is given back.
#[test]
fn overlapping_groups_do_not_disturb_each_other() {
    for_each_seed("simulator", "overlapping_groups_do_not_disturb_each_other", 0..400, |seed| {
        let mut random = Seeded::new(seed);
        let ranks = 2 + random.below(11);
        let groups = 2 + random.below(4);
        let (node, layout) = node_of(ranks, groups, &mut random);
        let mut meetings: Vec<Meeting<'_>> = (0..groups)
            .map(|_| {
                let members = some_ranks(ranks, &mut random);
                let made = formation::make(&node, &layout, &members, any_algorithm(&mut random));
                let rounds = 1 + random.below(5) as u64;
                Meeting::new(&node, made.expect("space for all"), rounds, random.below(25), random.number())
            })
            .collect();
        run(&mut meetings, &mut random);
        for meeting in &meetings {
            let leave = |member| formation::leave(&node, &layout, meeting.layout, member);
            (0..meeting.actors.len()).for_each(leave);
        }
        assert_eq!(arena::taken(&node, &layout), 0);
    });
}

/// A leader offers more groups than it has places for offers; takers come in random order, each for all its groups.
#[test]
fn offers_reach_their_takers_in_any_order() {
    const LEADER: usize = 0;
    for_each_seed("simulator", "offers_reach_their_takers_in_any_order", 0..2000, |seed| {
        let mut random = Seeded::new(seed);
        let ranks = 2 + random.below(6);
        let (node, layout) = node_of(ranks, 1, &mut random);
        let keys: Vec<u64> = (0..30).map(|_| random.number()).collect();
        let mut offered = 0;
        let mut taken = vec![0; ranks];
        for _ in 0..100_000 {
            let rank = random.below(ranks);
            if rank == LEADER && offered < keys.len() {
                let (value, named) = (keys[offered] ^ 1, Named { key: keys[offered], call: 1 });
                offered += usize::from(offers::offer(&node, &layout, LEADER, named, value, ranks - 1).is_some());
            } else if rank != LEADER && taken[rank] < keys.len() {
                let key = keys[taken[rank]];
                if let Some(value) = offers::take(&node, &layout, LEADER, Named { key, call: 1 }) {
                    assert_eq!(value, key ^ 1);
                    taken[rank] += 1;
                }
            }
        }
        assert_eq!(offered, keys.len(), "all are offered in the end");
        assert!(taken[1..].iter().all(|count| *count == keys.len()), "and taken by all: {taken:?}");
    });
}

/// A member that has withdrawn as often as an arrival word can count is told so, and its arrival stands.
#[test]
fn the_last_withdrawal_that_can_be_counted_is_refused_and_the_arrival_stands() {
    for algorithm in Algorithm::ALL {
        let (node, layout) = node_of(2, 1, &mut Seeded::new(1));
        let block = formation::make(&node, &layout, &[0, 1], algorithm).expect("space for one group");
        let (mut restless, mut other) = (Barrier::new(&node, block, 0), Barrier::new(&node, block, 1));
        for _ in 0..255 {
            restless.arrive(&node, Contribution::NONE, None);
            assert_eq!(restless.withdraw(&node), Poll::Ready(Withdrawal::Withdrawn), "{algorithm}");
        }
        restless.arrive(&node, Contribution::NONE, None);
        assert_eq!(restless.withdraw(&node), Poll::Ready(Withdrawal::Exhausted), "{algorithm}");
        other.arrive(&node, Contribution::NONE, None);
        assert_eq!(other.poll_thoroughly(&node), Poll::Ready(Ok(0)), "{algorithm}");
        assert_eq!(restless.poll_thoroughly(&node), Poll::Ready(Ok(0)), "{algorithm}");
    }
}
