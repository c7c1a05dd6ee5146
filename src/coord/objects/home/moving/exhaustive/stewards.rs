//! What nodes' stewards do in these trials, request by request, as `src/object/steward.rs` does it.

use std::collections::VecDeque;

use super::{Event, MOST_NODES, MOVED, World, lock_of, tenure_at};
use crate::coord::objects::home::moving::{Carried, Change, LastHome, MoveTurn, Moving, least_number};
use crate::coord::objects::tenure::{PlaceWord, Tenure};
use crate::explorer::execute;
use crate::fabric::{Request, WordAt};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    Idle,
    Raising(Moving),
    Carrying(Moving, LastHome),
    Noting(Moving, LastHome, Carried),
    /// How far the node is at the next home is to be noted.
    Settling(Moving, LastHome),
    Saying(Change),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Steward {
    pub work: Work,
    pub asked: VecDeque<Request>,
    pub answers: Vec<u64>,
    /// Whom it asks.
    pub to: usize,
    /// The losses that it sees to, a bit each; and those of which it has told each node that it has.
    pub lost: u64,
    pub said: [u64; MOST_NODES],
}

impl Steward {
    /// One that has nothing to do.
    pub fn idle() -> Self {
        Self { work: Work::Idle, asked: VecDeque::new(), answers: Vec::new(), to: 0, lost: 0, said: [0; MOST_NODES] }
    }
}

impl World {
    /// The losses that a node is to be told of; the others mean nothing to it as a home.
    pub(super) fn to_be_told(&self, steward: usize, node: usize) -> u64 {
        let is_told = self.tells_all || node == self.live(steward)[0];
        (0..node).filter(|lost| is_told && self.knows(steward, *lost)).fold(0, |all, lost| all | 1 << lost)
    }

    pub(super) fn unsaid(&self, node: usize) -> Option<usize> {
        let steward = &self.nodes[node].steward;
        self.live(node).into_iter().find(|other| {
            let wanted = self.to_be_told(node, *other);
            steward.said[*other] != wanted && (steward.work == Work::Idle || wanted & !steward.lost == 0)
        })
    }

    pub(super) fn is_homeless(&self, node: usize) -> bool {
        self.knows(node, self.home_of(node))
    }

    /// The steward begins with what there is to do.
    pub(super) fn attend(&mut self, node: usize) {
        let lost = (0..self.nodes.len()).filter(|lost| self.knows(node, *lost)).fold(0, |all, lost| all | 1 << lost);
        self.nodes[node].steward.lost = lost;
        if !self.is_homeless(node) {
            return self.say(node);
        }
        let to = self.live(node)[0];
        let least = least_number(self.load(node, tenure_at().number()), lost.count_ones().into());
        let mut moving = Moving::new(lock_of(node, self.nodes.len()));
        let turn = moving.raise(least);
        self.nodes[node].steward.to = to;
        self.move_on(node, moving, None, turn);
    }

    pub(super) fn move_on(&mut self, node: usize, mut moving: Moving, last: Option<LastHome>, turn: MoveTurn) {
        let work = match turn {
            MoveTurn::Ask(requests) => {
                self.nodes[node].steward.asked = requests.into();
                last.map_or(Work::Raising(moving.clone()), |last| Work::Carrying(moving, last))
            }
            MoveTurn::Raised => {
                let last = self.own(node, |own, at| LastHome::of(at, own));
                let turn = moving.carry(&last);
                return self.move_on(node, moving, Some(last), turn);
            }
            MoveTurn::Carried(carried) => Work::Noting(moving, last.expect("it was carried"), carried),
            MoveTurn::Overtaken => {
                assert!(self.is_lost(node), "node {node} lives, and another one holds its lock");
                Work::Idle
            }
        };
        self.nodes[node].steward.work = work;
    }

    /// Tells the next node that all has moved.
    pub(super) fn say(&mut self, node: usize) {
        self.nodes[node].steward.work = Work::Saying(Change::of(WordAt(0)));
        let Some(to) = self.unsaid(node) else {
            self.nodes[node].steward.work = Work::Idle;
            return;
        };
        let change = Change::of(WordAt(MOVED + node));
        let steward = &mut self.nodes[node].steward;
        (steward.to, steward.work) = (to, Work::Saying(change));
        steward.asked = VecDeque::from([change.begin()]);
    }

    pub(super) fn tell(&mut self, node: usize) {
        let to = self.nodes[node].steward.to;
        let request = self.nodes[node].steward.asked.pop_front().expect("it has asked");
        let answer = execute(&mut self.homes[to], request);
        let steward = &mut self.nodes[node].steward;
        steward.answers.extend(answer);
        if !steward.asked.is_empty() {
            return;
        }
        let answers = std::mem::take(&mut steward.answers);
        if !self.can_act(node) {
            return;
        }
        let lost: Vec<bool> = (0..self.nodes.len()).map(|other| self.knows(node, other)).collect();
        match self.nodes[node].steward.work.clone() {
            Work::Raising(mut moving) => {
                let turn = moving.answered(&answers, |other| lost[other]);
                self.move_on(node, moving, None, turn);
            }
            Work::Carrying(mut moving, last) => {
                let turn = moving.answered(&answers, |other| lost[other]);
                self.move_on(node, moving, Some(last), turn);
            }
            Work::Saying(mut change) => {
                // What it has seen to; the rest is said later.
                let moved = self.nodes[node].steward.lost & self.to_be_told(node, to);
                match change.answered(answers[0], |found| found | moved) {
                    Ok(_) => {
                        self.nodes[node].steward.said[to] = moved;
                        self.say(node);
                    }
                    Err(next) => {
                        let steward = &mut self.nodes[node].steward;
                        (steward.work, steward.asked) = (Work::Saying(change), VecDeque::from([next]));
                    }
                }
            }
            work => unreachable!("nothing was asked: {work:?}"),
        }
    }

    pub(super) fn note(&mut self, node: usize) {
        let Work::Noting(moving, last, carried) = self.nodes[node].steward.work.clone() else { unreachable!() };
        let place = PlaceWord::new(self.nodes[node].steward.to, 1);
        let is_noted = self.own(node, |own, at| last.note(at, own, place, carried));
        self.nodes[node].steward.work = if is_noted { Work::Settling(moving, last) } else { Work::Idle };
    }

    pub(super) fn settle(&mut self, node: usize) {
        let Work::Settling(mut moving, last) = self.nodes[node].steward.work.clone() else { unreachable!() };
        if self.own(node, |own, at| at.change(own, last.seen, last.kept())).is_some() {
            if last.kept() != Tenure::Waiting {
                self.let_pass(node);
            }
            return self.say(node);
        }
        let last = self.own(node, |own, at| LastHome::of(at, own));
        let turn = moving.carry(&last);
        self.move_on(node, moving, Some(last), turn);
    }

    pub(super) fn events_of_steward(&self, node: usize, events: &mut Vec<Event>) {
        let steward = &self.nodes[node].steward;
        match &steward.work {
            Work::Idle if self.is_homeless(node) || self.unsaid(node).is_some() => events.push(Event::Attend(node)),
            Work::Idle => return,
            Work::Noting(..) => events.push(Event::Note(node)),
            Work::Settling(..) => events.push(Event::Settle(node)),
            _ if self.knows(node, steward.to) => events.push(Event::Desist(node)),
            _ => {}
        }
        if self.followers > 0 && steward.work != Work::Idle {
            events.push(Event::Follow(node));
        }
    }
}
