//! Counters, whose ranks' connections to the home may break in the middle of a call, and whose home may crash: then
//! each rank carries what it has noted to node 1, as its node's steward would, and goes on there when all that live
//! have.

use std::task::Poll;

use phalanx::coord::objects::tally::{Bond, End, Goal, Operation, RankAt, Sums, Trouble, Turn, Way};
use phalanx::fabric::sim::{Rates, Seeded, SimFabric, World};
use phalanx::fabric::{Request, WordAt};

use super::super::history::History;
use super::super::specs::{Op, Ret};
use super::{Caller, Clock, Crash, HOME, LOOK_EVERY_NS, draw_crash_of, is_memory, network, run};

/// Where the second copy is, and the home if node 0 crashes.
const SECOND: usize = 1;
/// Of each rank: journal, added, carried, and whether it has carried that.
const RANK_WORDS: usize = 4;

const fn words_of(rank: usize) -> WordAt {
    WordAt(1 + RANK_WORDS * rank)
}

const fn carried(rank: usize) -> WordAt {
    words_of(rank).plus(2)
}

const fn has_moved(rank: usize) -> WordAt {
    words_of(rank).plus(3)
}

/// What a rank waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Nothing: it is between two calls.
    Idle,
    /// The home's answer.
    Home,
    /// The second node's.
    Copy,
    /// That what it has noted has come to the next home.
    Move,
    /// That all have moved: what they have carried.
    Sums,
}

/// A rank that adds, and looks.
struct Adder {
    caller: Caller,
    ranks: usize,
    crash: Option<Crash>,
    operation: Option<(Operation, Goal)>,
    waits: Waits,
    /// Its sum, on its own node.
    sum: u64,
    number: u64,
    home: usize,
    sums: Sums,
    exchanges: bool,
}

impl Adder {
    fn poll(&mut self, clock: &Clock, fabric: &SimFabric) -> Poll<()> {
        if self.is_lost(self.home, fabric) {
            return self.move_on(fabric);
        }
        let turn = match self.waits {
            Waits::Idle if self.caller.left == 0 => return self.end(fabric),
            Waits::Idle => self.begin(clock, fabric),
            Waits::Copy if self.is_lost(SECOND, fabric) => {
                self.caller.give_up(fabric);
                self.operation().copied()
            }
            Waits::Home | Waits::Copy | Waits::Move | Waits::Sums => match self.caller.poll(fabric) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(answers) => match self.answered(answers.ok(), fabric) {
                    Some(turn) => turn,
                    None => return Poll::Pending,
                },
            },
        };
        self.follow(turn, clock, fabric);
        Poll::Pending
    }

    fn operation(&mut self) -> &mut Operation {
        &mut self.operation.as_mut().expect("it has begun").0
    }

    /// Whether a node has crashed, and this rank knows it.
    fn is_lost(&self, node: usize, fabric: &SimFabric) -> bool {
        self.crash.is_some_and(|crash| crash.is_known_of(node, fabric.now_ns()))
    }

    /// A rank that has no more to do is still needed if the home may be lost.
    fn end(&self, fabric: &SimFabric) -> Poll<()> {
        if self.home != HOME || self.crash.is_none_or(|crash| crash.node != HOME) {
            return Poll::Ready(());
        }
        fabric.alarm(fabric.now_ns() + LOOK_EVERY_NS);
        Poll::Pending
    }

    /// The home is lost: what is noted here is carried to the next one.
    fn move_on(&mut self, fabric: &SimFabric) -> Poll<()> {
        self.caller.give_up(fabric);
        self.home = SECOND;
        self.carry(fabric);
        Poll::Pending
    }

    fn carry(&mut self, fabric: &SimFabric) {
        let rank = self.caller.rank;
        let requests = vec![
            Request::Write { at: carried(rank), value: self.sum },
            Request::Write { at: has_moved(rank), value: 1 },
            Request::Read { at: has_moved(rank) },
        ];
        self.waits = Waits::Move;
        self.caller.ask_node(fabric, SECOND, requests);
    }

    fn read_sums(&mut self, fabric: &SimFabric) {
        let all = (0..self.ranks).flat_map(|rank| [carried(rank), has_moved(rank)]);
        let requests = all.map(|at| Request::Read { at }).collect();
        self.waits = Waits::Sums;
        self.caller.ask_node(fabric, SECOND, requests);
    }

    /// All answers have come, or (`None`) the connection broke. `None`: it asks again, or something else.
    fn answered(&mut self, answers: Option<Vec<u64>>, fabric: &SimFabric) -> Option<Turn> {
        match (self.waits, answers) {
            (Waits::Home, Some(answers)) => Some(self.operation().answered(answers[0])),
            (Waits::Home, None) => Some(self.operation().failed(Trouble::Broken)),
            (Waits::Copy, Some(_)) => Some(self.operation().copied()),
            (Waits::Copy, None) => {
                self.copy(fabric);
                None
            }
            (Waits::Move, None) => {
                self.carry(fabric);
                None
            }
            (Waits::Sums, Some(answers)) if self.have_all_moved(&answers, fabric) => self.bind(&answers, fabric),
            (Waits::Move, Some(_)) | (Waits::Sums, _) => {
                self.read_sums(fabric);
                None
            }
            (Waits::Idle, _) => unreachable!("it has asked"),
        }
    }

    fn have_all_moved(&self, answers: &[u64], fabric: &SimFabric) -> bool {
        let mut ranks = answers.chunks_exact(2).enumerate();
        ranks.all(|(rank, pair)| pair[1] != 0 || self.is_lost(rank, fabric))
    }

    /// The next home has all: goes on with what this rank was in the middle of.
    fn bind(&mut self, answers: &[u64], fabric: &SimFabric) -> Option<Turn> {
        let carried: Vec<u64> = answers.chunks_exact(2).map(|pair| pair[0]).collect();
        self.sums = Sums::of(&carried, self.caller.rank);
        self.waits = Waits::Idle;
        let sums = self.sums;
        let Some((operation, _)) = &mut self.operation else {
            fabric.alarm(fabric.now_ns() + 1);
            return None;
        };
        let turn = operation.failed(Trouble::Lost);
        Some(if turn == Turn::Rebind { operation.rebound(sums.carried) } else { turn })
    }

    fn begin(&mut self, clock: &Clock, fabric: &SimFabric) -> Turn {
        let goal = match self.operation.take() {
            // At the next home.
            Some((_, goal)) => goal,
            None => {
                let (goal, op) = self.draw();
                self.caller.left -= 1;
                self.caller.begin(op, clock.read(fabric));
                goal
            }
        };
        self.number += 1;
        let [journal, added] = [0, 1].map(|word| words_of(self.caller.rank).plus(word));
        let way = match self.home == self.caller.rank {
            true if is_memory(fabric) => Way::Memory,
            true => Way::Device,
            false => Way::Away,
        };
        let bond = Bond { at: RankAt { value: WordAt(0), journal, added }, way, sums: self.sums };
        let (operation, turn) = Operation::begin(bond, goal, self.number, self.sum);
        self.operation = Some((operation, goal));
        turn
    }

    fn draw(&mut self) -> (Goal, Op) {
        let random = &mut self.caller.random;
        let add = 1 + random.below(3) as u64;
        match random.below(4) {
            0 => (Goal::Load, Op::Load),
            1 if self.exchanges => {
                let (current, new) = (random.below(4) as u64, 10 + random.below(3) as u64);
                (Goal::Swap { current, new }, Op::Exchange { current, new })
            }
            _ => (Goal::Add(add), Op::Add(add)),
        }
    }

    fn follow(&mut self, turn: Turn, clock: &Clock, fabric: &SimFabric) {
        match turn {
            Turn::Note(sum) => {
                self.sum = sum;
                let turn = self.operation().noted();
                self.follow(turn, clock, fabric);
            }
            // One node crashes: there is no home after that.
            Turn::Copy(_) if self.home == SECOND || self.is_lost(SECOND, fabric) => {
                let turn = self.operation().copied();
                self.follow(turn, clock, fabric);
            }
            Turn::Copy(_) => self.copy(fabric),
            Turn::Ask(batch) => {
                self.waits = Waits::Home;
                self.caller.ask_node(fabric, self.home, batch.to_vec());
            }
            Turn::Rebind => unreachable!("the home is lost only where that is seen first"),
            Turn::Over(end) => self.over(end, clock, fabric),
        }
    }

    fn copy(&mut self, fabric: &SimFabric) {
        let at = carried(self.caller.rank);
        self.waits = Waits::Copy;
        self.caller.ask_node(fabric, SECOND, vec![Request::Write { at, value: self.sum }, Request::Read { at }]);
    }

    fn over(&mut self, end: End, clock: &Clock, fabric: &SimFabric) {
        self.waits = Waits::Idle;
        let op = self.caller.op();
        let ret = match (end, op) {
            (End::Again, _) => {
                fabric.alarm(fabric.now_ns() + 1);
                return;
            }
            (End::Done(value), Op::Exchange { current, .. }) if value != current => Some(Ret::Differs(value)),
            (End::Done(value), _) => Some(Ret::Value(value)),
            (End::AnswerLost, Op::Add(_)) => Some(Ret::Unheard),
            // It has taken effect, or not.
            (End::AnswerLost | End::Uncertain, _) => None,
            (End::NotMade, _) => unreachable!("nobody falls silent"),
        };
        if let Some(ret) = ret {
            self.caller.end(ret, clock.read(fabric));
        }
        self.operation = None;
        self.caller.pause(fabric);
    }
}

pub fn add_in_turns(seed: u64) -> History {
    let mut random = Seeded::new(seed);
    let nodes = 2 + random.below(3);
    let mut options = network(&mut random, nodes, 1 + RANK_WORDS * nodes);
    // As of fenced words.
    options.rates = Rates { failed_per_million: [0, 50_000][random.below(2)], duplicated_per_million: 0 };
    let mut world = World::new(options);
    let lost = random.below(nodes);
    let crash = draw_crash_of(&mut random, lost, &mut world);
    // What was exchanged and is not answered is undone if the home is lost.
    let exchanges = crash.is_none_or(|crash| crash.node != HOME);
    let adder = |rank| Adder {
        caller: Caller::new(rank, seed),
        ranks: nodes,
        crash,
        operation: None,
        waits: Waits::Idle,
        sum: 0,
        number: 0,
        home: HOME,
        sums: Sums::default(),
        exchanges,
    };
    let mut ranks: Vec<Adder> = (0..nodes).map(adder).collect();
    let clock = Clock::default();
    run(&mut world, &mut ranks, |rank, _, fabric| rank.poll(&clock, fabric), |rank| &rank.caller, crash)
}
