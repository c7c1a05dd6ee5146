//! The lease, tried exhaustively: every order of the requests of two or three ranks and of the ticks of a clock. Some renew,
//! some change their minds; any may die, be taken for dead, or lose its connection, at any moment.

use std::collections::VecDeque;

use super::{Fates, HoldWord, LeaseAt, Lessee, Outcome, State, Turn};
use crate::explorer::{Model, execute, go_every_way};
use crate::fabric::{Request, WordAt};

/// In ticks. A holder believes for one less, the others wait for one more.
const TTL: u64 = 2;

#[derive(Clone, Debug, Hash)]
struct Rank {
    lessee: Lessee,
    /// Acquisitions to come.
    left: u8,
    renewals: u8,
    may_withdraw: bool,
    asked: VecDeque<Request>,
    answers: Vec<u64>,
    /// Until when it believes to hold the lease.
    believes_until: Option<u64>,
    /// It has done what it wanted under the lease.
    is_releasing: bool,
    /// The hold that it saw last, as it waits.
    saw: Option<HoldWord>,
    /// Ranks that had been waiting when it began: they are served before it.
    behind: Vec<usize>,
    is_dead: bool,
}

#[derive(Clone, Debug, Hash)]
struct Budget {
    ticks: u64,
    deaths: u8,
    suspicions: u8,
    breaks: u8,
}

#[derive(Clone, Debug, Hash)]
struct World {
    words: Vec<u64>,
    ranks: Vec<Rank>,
    known: Known,
    now: u64,
    left: Budget,
    /// The greatest token that has been given out.
    token: u64,
}

/// What all know of each other.
#[derive(Clone, Debug, Hash)]
struct Known {
    dead: Vec<bool>,
    ended: Vec<bool>,
}

impl Fates for Known {
    fn has_ended(&self, rank: usize) -> bool {
        self.ended[rank]
    }

    fn is_dead(&self, rank: usize) -> bool {
        self.dead[rank]
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Begin(usize),
    Execute(usize),
    Look(usize),
    Renew(usize),
    Release(usize),
    Withdraw(usize),
    Die(usize),
    /// All learn that it is dead.
    Learn(usize),
    /// All take it for one that has ended; it goes on.
    Suspect(usize),
    Break(usize),
    Tick,
}

impl World {
    fn new(ranks: usize, acquisitions: u8, renewals: u8, left: Budget) -> Self {
        let at = LeaseAt { hold: WordAt(0), orders: WordAt(1), claims: WordAt(2), stride: 1, ranks };
        let rank = |me| Rank {
            lessee: Lessee::new(at, me, TTL),
            left: acquisitions,
            renewals,
            may_withdraw: false,
            asked: VecDeque::new(),
            answers: Vec::new(),
            believes_until: None,
            is_releasing: false,
            saw: None,
            behind: Vec::new(),
            is_dead: false,
        };
        let known = Known { dead: vec![false; ranks], ended: vec![false; ranks] };
        Self { words: vec![0; 2 + ranks], ranks: (0..ranks).map(rank).collect(), known, now: 0, left, token: 0 }
    }

    fn withdrawing(mut self, ranks: usize) -> Self {
        self.ranks[..ranks].iter_mut().for_each(|rank| rank.may_withdraw = true);
        self
    }

    fn turn(&mut self, index: usize, turn: Turn) {
        let rank = &mut self.ranks[index];
        rank.answers.clear();
        rank.lessee.take_named();
        match turn {
            Turn::Ask(requests) => rank.asked = requests.into(),
            Turn::Wait => rank.saw = Some(HoldWord(self.words[0])),
            Turn::Over(Outcome::Held(hold)) => {
                let is_new = rank.believes_until.is_none();
                rank.believes_until = Some(hold.until(TTL));
                if is_new {
                    self.grant(index, hold.word.number(), hold.until(TTL));
                }
            }
            Turn::Over(Outcome::Free(_) | Outcome::Lost(_)) => {
                (rank.believes_until, rank.is_releasing) = (None, false);
                assert_eq!(self.words[2 + index], 0, "rank {index} has left its claim");
            }
        }
    }

    fn grant(&mut self, index: usize, number: u64, until: u64) {
        // One that learns it when its time is over may find that others have had it meanwhile.
        assert!(number > self.token || self.now >= until, "token {number} after {}", self.token);
        self.token = self.token.max(number);
        let waits = |other: &usize| self.is_waiting(*other) && !self.known.ended[*other];
        let passed: Vec<usize> = self.ranks[index].behind.iter().copied().filter(waits).collect();
        assert!(passed.is_empty() || self.now > 0, "rank {index} has passed {passed:?}");
        self.ranks.iter_mut().for_each(|other| other.behind.retain(|first| *first != index));
    }

    /// Whether a rank has a claim that all who pass the lease on see.
    fn is_waiting(&self, index: usize) -> bool {
        let rank = &self.ranks[index];
        rank.lessee.is_registered && !rank.is_dead && rank.lessee.goal == super::Goal::Hold
    }

    fn look_pays(&self, rank: &Rank) -> bool {
        let word = HoldWord(self.words[0]);
        rank.saw != Some(word)
            || word.holder().is_none_or(|holder| self.known.dead[holder])
            || rank.lessee.follows_at().is_some_and(|time| self.now >= time)
    }
}

impl Model for World {
    type Event = Event;

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (index, rank) in self.ranks.iter().enumerate() {
            if rank.is_dead {
                if !self.known.dead[index] {
                    events.push(Event::Learn(index));
                }
                continue;
            }
            if self.left.deaths > 0 {
                events.push(Event::Die(index));
            }
            if self.left.suspicions > 0 && !self.known.ended[index] {
                events.push(Event::Suspect(index));
            }
            if !rank.asked.is_empty() {
                events.push(Event::Execute(index));
                if self.left.breaks > 0 {
                    events.push(Event::Break(index));
                }
            } else if rank.lessee.is_waiting() {
                if self.look_pays(rank) {
                    events.push(Event::Look(index));
                }
                if rank.may_withdraw {
                    events.push(Event::Withdraw(index));
                }
            } else if rank.lessee.held().is_some() {
                events.push(Event::Release(index));
                if rank.renewals > 0 {
                    events.push(Event::Renew(index));
                }
            } else if rank.left > 0 && rank.lessee.state == State::Idle {
                events.push(Event::Begin(index));
            }
        }
        if self.left.ticks > 0 {
            events.push(Event::Tick);
        }
        events
    }

    fn apply(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Begin(index) => {
                let behind = (0..self.ranks.len()).filter(|other| self.is_waiting(*other)).collect();
                let rank = &mut self.ranks[index];
                (rank.left, rank.behind) = (rank.left - 1, behind);
                let turn = rank.lessee.acquire(HoldWord(0), now);
                self.turn(index, turn);
            }
            Event::Execute(index) => {
                let request = self.ranks[index].asked.pop_front().expect("it has asked");
                let answer = execute(&mut self.words, request);
                let rank = &mut self.ranks[index];
                rank.answers.extend(answer);
                if rank.asked.is_empty() {
                    let answers = std::mem::take(&mut rank.answers);
                    let turn = rank.lessee.answered(&answers, now, &self.known);
                    self.turn(index, turn);
                }
            }
            Event::Look(index) => {
                let turn = self.ranks[index].lessee.look();
                self.turn(index, turn);
            }
            Event::Renew(index) => {
                let rank = &mut self.ranks[index];
                rank.renewals -= 1;
                let turn = rank.lessee.renew(now);
                self.turn(index, turn);
            }
            Event::Release(index) => {
                let rank = &mut self.ranks[index];
                (rank.is_releasing, rank.believes_until) = (true, None);
                let turn = rank.lessee.release();
                self.turn(index, turn);
            }
            Event::Withdraw(index) => {
                let rank = &mut self.ranks[index];
                rank.may_withdraw = false;
                let turn = rank.lessee.withdraw();
                self.ranks.iter_mut().for_each(|other| other.behind.retain(|first| *first != index));
                self.turn(index, turn);
            }
            Event::Die(index) => {
                self.left.deaths -= 1;
                let rank = &mut self.ranks[index];
                (rank.is_dead, rank.believes_until) = (true, None);
                rank.asked.clear();
            }
            Event::Learn(index) => (self.known.dead[index], self.known.ended[index]) = (true, true),
            Event::Suspect(index) => {
                self.left.suspicions -= 1;
                self.known.ended[index] = true;
            }
            Event::Break(index) => {
                self.left.breaks -= 1;
                let rank = &mut self.ranks[index];
                rank.asked.clear();
                let turn = rank.lessee.broken();
                self.turn(index, turn);
            }
            Event::Tick => {
                self.left.ticks -= 1;
                self.now += 1;
            }
        }
    }
}

fn check(world: World) {
    let (mut states, mut ends, mut shared) = (0, 0, 0);
    go_every_way(world, |world, way| {
        states += 1;
        let believes = |rank: &&Rank| rank.believes_until.is_some_and(|until| world.now < until);
        let believers = world.ranks.iter().filter(believes).count();
        assert!(believers <= 1, "{believers} ranks believe that they hold it: {way:?}");
        shared += believers;
        if world.events().iter().all(|event| matches!(event, Event::Die(_) | Event::Suspect(_))) {
            ends += 1;
            let waits = |index: &usize| world.ranks[*index].lessee.is_waiting() && !world.ranks[*index].is_dead;
            let waiting: Vec<usize> = (0..world.ranks.len()).filter(waits).collect();
            assert!(waiting.is_empty(), "{waiting:?} are forgotten: {way:?}");
        }
    });
    assert!(ends > 0 && shared > 0);
    println!("{states} states, {ends} of them ends");
}

const NOTHING: Budget = Budget { ticks: 0, deaths: 0, suspicions: 0, breaks: 0 };

#[test]
fn in_every_order() {
    check(World::new(2, 2, 1, NOTHING));
    check(World::new(3, 1, 0, NOTHING));
}

#[test]
fn while_time_passes() {
    check(World::new(2, 2, 1, Budget { ticks: 5, ..NOTHING }));
}

#[test]
fn three_while_time_passes() {
    check(World::new(3, 1, 0, Budget { ticks: 4, ..NOTHING }));
}

#[test]
fn ranks_that_change_their_minds() {
    check(World::new(2, 2, 1, NOTHING).withdrawing(2));
    check(World::new(3, 1, 0, NOTHING).withdrawing(2));
    check(World::new(2, 1, 1, Budget { ticks: 4, ..NOTHING }).withdrawing(2));
}

#[test]
fn one_dies_at_any_moment() {
    check(World::new(2, 2, 1, Budget { deaths: 1, ..NOTHING }));
    check(World::new(3, 1, 0, Budget { deaths: 1, ..NOTHING }));
}

/// It goes on, and believes for as long as its clock says.
#[test]
fn one_is_taken_for_dead() {
    check(World::new(2, 2, 1, Budget { ticks: 4, suspicions: 1, ..NOTHING }));
}

#[test]
fn connections_break_at_any_moment() {
    check(World::new(2, 2, 1, Budget { breaks: 1, ..NOTHING }));
    check(World::new(2, 1, 1, Budget { ticks: 4, breaks: 1, ..NOTHING }));
}
