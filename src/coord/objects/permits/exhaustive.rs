//! The semaphore, tried exhaustively ([`crate::coord::objects::trial`]): never more permits out than there are, nobody
//! forgotten.

use super::{Permits, PermitsAt, State, Turn};
use crate::coord::objects::trial::{Actor, Moment, Protocol, World, check};
use crate::explorer::execute;
use crate::fabric::{Request, WordAt};

const WAITER: usize = 0;
const HELD: usize = 1;

/// So many permits at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Take {
    count: u64,
    is_patient: bool,
}

impl Protocol for Permits {
    type Act = Take;

    fn begins_with_lock(_act: Take) -> bool {
        true
    }

    fn begin(&mut self, act: Take) -> Turn {
        self.claim(act.count, act.is_patient)
    }

    fn look(&mut self) -> Turn {
        self.look()
    }

    fn give_up(&mut self, _act: Take) -> Turn {
        self.withdraw(0)
    }

    fn go_on(&mut self, _act: Take) -> Turn {
        self.give_back(0)
    }

    fn answered(
        &mut self,
        act: Take,
        answers: &[u64],
        has_ended: impl Fn(usize) -> bool,
        poke: impl FnMut(usize),
    ) -> Turn {
        let is_trying = matches!(self.state, State::Claiming { is_patient: false });
        match self.answered(answers, act.count, has_ended, poke) {
            Turn::Wait if is_trying => self.withdraw(0),
            turn => turn,
        }
    }

    fn keeps_lock(&self) -> bool {
        false
    }

    fn check_entry(rank: usize, words: &[u64], ranks: &[Actor<Self>], inside: &[usize]) {
        let out: u64 = inside.iter().map(|rank| ranks[*rank].act.count).sum();
        let permits = ranks[rank].part.permits();
        assert!(out <= permits, "{inside:?} have {out} of {permits} permits");
        assert!(inside.iter().all(|rank| words[HELD + rank] == ranks[*rank].act.count));
    }

    fn check_end(rank: usize, words: &[u64]) {
        assert_eq!(words[HELD + rank], 0, "permits of rank {rank} are lost");
        assert_ne!(words[WAITER], rank as u64 + 1, "rank {rank} does not wait any more");
    }

    fn note_beginning(_words: &[u64]) -> u64 {
        0
    }

    fn stake(&self, act: Take, moment: Moment) -> Option<u64> {
        match moment {
            Moment::Begins => Some(act.count),
            // An attempt that has found too few.
            Moment::IsAnswered => (self.state == State::Withdrawing).then_some(0),
            Moment::IsIn => None,
            Moment::GoesOn | Moment::GivesUp => Some(0),
        }
    }

    fn carry(&self, rank: usize, stake: u64) -> Option<Request> {
        self.at.carry(rank, stake)
    }

    fn restart(&mut self, act: Take) -> Turn {
        let is_to_have = !matches!(self.state, State::Withdrawing | State::Returning);
        self.restart(self.at, if is_to_have { act.count } else { 0 })
    }

    fn comes_in_by_stake(&self) -> bool {
        false
    }
}

/// Ranks with what they take, one after another; 0 stands for an attempt to take 2.
fn world(permits: u64, takes: &[&[u64]]) -> World<Permits> {
    let at = PermitsAt { waiter: WordAt(WAITER), held: WordAt(HELD), ranks: takes.len() };
    let take = |count: &u64| match count {
        0 => Take { count: 2, is_patient: false },
        count => Take { count: *count, is_patient: true },
    };
    let rank = |(rank, takes): (usize, &&[u64])| (Permits::new(at, rank, permits), takes.iter().map(take).collect());
    World::new(HELD + takes.len(), takes.iter().enumerate().map(rank).collect())
}

#[test]
fn two_ranks_in_every_order() {
    check(world(2, &[&[1, 2, 1], &[2, 0, 1]]));
    check(world(1, &[&[1, 1], &[1, 1]]).looking_early());
}

#[test]
fn three_ranks_in_every_order() {
    check(world(2, &[&[1], &[2], &[1]]));
    check(world(3, &[&[2], &[0], &[2, 1]]));
}

#[test]
fn ranks_that_give_up() {
    check(world(2, &[&[1, 2], &[2, 1]]).with_doubts());
    check(world(2, &[&[1], &[2], &[2]]).with_doubts());
}

#[test]
fn one_dies_at_any_moment() {
    check(world(2, &[&[1, 2], &[2, 0]]).with_deaths(1));
    check(world(2, &[&[1], &[2], &[2]]).with_deaths(1));
}

/// No permit is doubled or lost, and nobody is forgotten.
#[test]
fn the_home_is_lost_at_any_moment() {
    check(world(2, &[&[1], &[2]]).losing_homes(1));
    check(world(2, &[&[2], &[0]]).losing_homes(1));
    check(world(1, &[&[1], &[1]]).losing_homes(1).with_doubts());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization")]
fn the_home_is_lost_and_one_dies() {
    check(world(2, &[&[1], &[2]]).losing_homes(1).with_deaths(1));
    check(world(2, &[&[1, 2], &[2, 1]]).losing_homes(1));
    check(world(2, &[&[1], &[2]]).losing_homes(2));
}

#[test]
#[ignore = "minutes: millions of states"]
fn the_home_of_three_is_lost() {
    check(world(2, &[&[1], &[2], &[1]]).losing_homes(1));
    check(world(2, &[&[2], &[1]]).losing_homes(2).with_deaths(1).with_doubts());
}

#[test]
#[ignore = "minutes: millions of states"]
fn two_of_three_die_or_give_up_at_any_moment() {
    check(world(2, &[&[1], &[2], &[2]]).with_deaths(2).with_doubts());
    check(world(3, &[&[2, 1], &[2], &[1, 3]]).with_deaths(1));
}

/// A rank has all permits and dies, another one waits: once it knows that it has them after two round trips.
#[test]
fn who_waits_has_the_permits_of_the_dead_after_two_round_trips() {
    let at = PermitsAt { waiter: WordAt(WAITER), held: WordAt(HELD), ranks: 2 };
    let (mut words, mut waits) = (vec![0; HELD + 2], Permits::new(at, 1, 1));
    words[HELD] = 1;
    let mut ask = |waits: &mut Permits, mut turn: Turn, is_dead: bool| {
        let mut rounds = 0;
        while let Turn::Ask(requests) = turn {
            let answers = requests.into_iter().filter_map(|request| execute(&mut words, request));
            let answers: Vec<u64> = answers.collect();
            turn = waits.answered(&answers, 1, |rank| is_dead && rank == 0, |_| {});
            rounds += 1;
        }
        (turn, rounds)
    };
    let turn = waits.claim(1, true);
    assert_eq!(ask(&mut waits, turn, false).0, Turn::Wait);
    let turn = waits.look();
    assert_eq!(ask(&mut waits, turn, true), (Turn::In, 2));
}
