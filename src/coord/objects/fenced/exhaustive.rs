//! Words under tokens, tried exhaustively: every order of the requests of some writers and a reader, of whom any may
//! stop for ever, or lose its connection, at any moment.

use std::collections::VecDeque;

use super::{Copied, CurrentWord, FencedAt, Goal, Known, Operation, Turn};
use crate::explorer::{Model, go_every_way};
use crate::fabric::{Request, WordAt};

const RANK_WORDS: usize = 4;

#[derive(Clone, Debug, Hash)]
struct Rank {
    goals: VecDeque<Goal>,
    operation: Option<Operation>,
    asked: VecDeque<Request>,
    answers: Vec<u64>,
    known: Option<Known>,
    /// How many pairs had been current when its operation began.
    since: usize,
    /// Its operation has taken effect: this pair.
    effect: Option<usize>,
    is_dead: bool,
}

#[derive(Clone, Debug, Hash)]
struct World {
    words: Vec<u64>,
    ranks: Vec<Rank>,
    /// The pairs that have been current, in their order.
    current: Vec<(u64, u64)>,
    deaths: u8,
    breaks: u8,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Begin(usize),
    /// The first of its requests takes effect.
    Execute(usize),
    /// Its connection breaks: what has not been executed is dropped, and all answers are lost.
    Break(usize),
    Die(usize),
}

const AT: FencedAt =
    FencedAt { current: WordAt(0), ranks: WordAt(1), stride: RANK_WORDS, job_ranks: usize::MAX, nodes: WordAt(0) };

fn write(token: u64, value: u64) -> Goal {
    Goal::Write { token, value: Some(value) }
}

impl World {
    fn new(goals: &[&[Goal]], deaths: u8, breaks: u8) -> Self {
        let rank = |goals: &&[Goal]| Rank {
            goals: goals.iter().copied().collect(),
            operation: None,
            asked: VecDeque::new(),
            answers: Vec::new(),
            known: None,
            since: 0,
            effect: None,
            is_dead: false,
        };
        let ranks: Vec<Rank> = goals.iter().map(rank).collect();
        Self { words: vec![0; 1 + RANK_WORDS * ranks.len()], ranks, current: vec![(0, 0)], deaths, breaks }
    }

    fn execute(&mut self, index: usize, request: Request) -> Option<u64> {
        let word = &mut self.words[request.at().0];
        let before = *word;
        match request {
            Request::Write { value, .. } => {
                *word = value;
                return None;
            }
            Request::CompareSwap { expected, new, .. } if before == expected => {
                *word = new;
                assert!(CurrentWord(before).version() < CurrentWord(new).version(), "an older pair is current");
                self.become_current(index);
            }
            Request::CompareSwap { .. } | Request::Read { .. } => {}
            Request::FetchAdd { .. } => unreachable!("nothing is added"),
        }
        Some(before)
    }

    /// A write takes effect.
    fn become_current(&mut self, index: usize) {
        let goal = self.ranks[index].operation.as_ref().expect("it has asked").goal;
        let (token, value) = match goal {
            Goal::Write { token, value } => (token, value),
            Goal::Keep(pair) => return self.current.push((pair.token, pair.value)),
            Goal::Read => panic!("a reader has written"),
        };
        let (last_token, last_value) = *self.current.last().expect("there is always one");
        assert!(last_token <= token, "token {token} after {last_token}");
        // Only where another write of the same token has come between is it made again.
        let is_again = |effect: usize| effect + 1 < self.current.len() && last_token == token;
        assert!(self.ranks[index].effect.is_none_or(is_again), "a write has taken effect twice");
        self.ranks[index].effect = Some(self.current.len());
        self.current.push((token, value.unwrap_or(last_value)));
    }

    fn turn(&mut self, index: usize, turn: Turn) {
        let rank = &mut self.ranks[index];
        rank.answers.clear();
        match turn {
            Turn::Ask(requests) => return rank.asked = requests.into(),
            Turn::Done(pair) => match rank.operation.as_ref().expect("it has begun").goal {
                Goal::Read => {
                    let seen = &self.current[rank.since..];
                    assert!(seen.contains(&(pair.token, pair.value)), "{pair:?} is none of {seen:?}");
                }
                Goal::Write { .. } => {
                    let effect = rank.effect.expect("it has taken effect");
                    assert_eq!(self.current[effect], (pair.token, pair.value));
                }
                // The copy's versions are those of the pairs.
                Goal::Keep(wanted) => assert!(CurrentWord(self.words[0]).version() >= wanted.version),
            },
            Turn::Refused(seen) => {
                let Goal::Write { token, .. } = rank.operation.as_ref().expect("it has begun").goal else {
                    panic!("a reader was refused")
                };
                assert!(seen > token && self.current.iter().any(|(current, _)| *current == seen));
            }
        }
        rank.known = rank.operation.take().expect("it has begun").known();
    }
}

impl Model for World {
    type Event = Event;

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (index, rank) in self.ranks.iter().enumerate().filter(|(_, rank)| !rank.is_dead) {
            if !rank.asked.is_empty() {
                events.push(Event::Execute(index));
            } else if !rank.goals.is_empty() {
                events.push(Event::Begin(index));
            }
            if rank.operation.is_some() && self.deaths > 0 {
                events.push(Event::Die(index));
            }
            if rank.operation.is_some() && self.breaks > 0 {
                events.push(Event::Break(index));
            }
        }
        events
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Begin(index) => {
                let since = self.current.len() - 1;
                let rank = &mut self.ranks[index];
                let goal = rank.goals.pop_front().expect("there is one");
                (rank.since, rank.effect) = (since, None);
                let (operation, turn) = Operation::begin(AT, index, goal, rank.known);
                rank.operation = Some(operation);
                self.turn(index, turn);
            }
            Event::Execute(index) => {
                let request = self.ranks[index].asked.pop_front().expect("it has asked");
                let answer = self.execute(index, request);
                let rank = &mut self.ranks[index];
                rank.answers.extend(answer);
                if rank.asked.is_empty() {
                    let answers = std::mem::take(&mut rank.answers);
                    let turn = rank.operation.as_mut().expect("it has asked").answered(&answers);
                    self.turn(index, turn);
                }
            }
            Event::Break(index) => {
                self.breaks -= 1;
                let rank = &mut self.ranks[index];
                rank.asked.clear();
                let turn = rank.operation.as_mut().expect("it has begun").broken();
                self.turn(index, turn);
            }
            Event::Die(index) => {
                self.deaths -= 1;
                let rank = &mut self.ranks[index];
                rank.is_dead = true;
                (rank.asked, rank.operation) = (VecDeque::new(), None);
            }
        }
    }
}

fn check(world: World) {
    let (mut states, mut ends) = (0, 0);
    go_every_way(world, |world, way| {
        states += 1;
        if world.events().is_empty() {
            ends += 1;
            let is_open = |rank: &Rank| !rank.is_dead && rank.operation.is_some();
            assert!(!world.ranks.iter().any(is_open), "somebody is stuck: {way:?}");
        }
    });
    assert!(ends > 0);
    println!("{states} states, {ends} of them ends");
}

fn keep(version: u64) -> Goal {
    Goal::Keep(Copied { version, token: version / 2, value: 10 * version })
}

/// Whoever adds what pairs to a copy, in whatever order: the newest is there in the end, whole.
#[test]
fn a_copy_has_the_newest_pair() {
    for goals in
        [&[&[keep(3), keep(5)][..], &[keep(4)], &[keep(2), keep(6)]], &[&[keep(7)][..], &[keep(7)], &[keep(1)]]]
    {
        let newest = goals.iter().copied().flatten().filter_map(|goal| match goal {
            Goal::Keep(pair) => Some(*pair),
            _ => None,
        });
        let newest = newest.max().expect("some");
        let world = World::new(goals, 0, 1);
        go_every_way(world, |world, way| {
            if world.events().is_empty() {
                let word = CurrentWord(world.words[0]);
                let (author, side) = word.pair().expect("there is one");
                let [token, value] = [AT.token(author, side), AT.value(author, side)].map(|at| world.words[at.0]);
                assert_eq!(Copied { version: word.version(), token, value }, newest, "{way:?}");
            }
        });
    }
}

#[test]
fn two_writers_and_a_reader() {
    check(World::new(&[&[write(1, 10), write(3, 30)], &[write(2, 20)], &[Goal::Read, Goal::Read]], 0, 0));
}

#[test]
fn a_late_writer_is_refused_whatever_dies() {
    // The second fences before it writes.
    let second = [Goal::Write { token: 2, value: None }, write(2, 20)];
    check(World::new(&[&[write(1, 10), write(1, 11)], &second, &[Goal::Read]], 2, 0));
}

#[test]
fn three_writers_and_a_reader() {
    check(World::new(&[&[write(1, 10)], &[write(2, 20)], &[write(3, 30)], &[Goal::Read]], 1, 0));
}

#[test]
fn connections_break_at_any_moment() {
    check(World::new(&[&[write(1, 10), write(2, 11)], &[write(3, 20)], &[Goal::Read]], 0, 2));
    check(World::new(&[&[write(1, 10), write(1, 11)], &[write(1, 20)]], 0, 2));
}
