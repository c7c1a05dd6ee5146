//! Fenced words, whose ranks' connections to the home may break in the middle of a call.

use std::task::Poll;

use phalanx::coord::objects::fenced::{self, FencedAt, Goal, Known};
use phalanx::fabric::WordAt;
use phalanx::fabric::sim::{Rates, Seeded, SimFabric, World};

use super::super::history::History;
use super::super::specs::{Op, Ret};
use super::{Caller, Clock, draw_crash, network, run};

/// A rank that reads and writes.
struct Writer {
    caller: Caller,
    operation: Option<(fenced::Operation, Op)>,
    /// Whether a connection broke in the middle of it.
    was_broken: bool,
    known: Option<Known>,
    ranks: usize,
}

const FENCED: FencedAt =
    FencedAt { current: WordAt(0), ranks: WordAt(1), stride: 4, job_ranks: usize::MAX, nodes: WordAt(0) };

impl Writer {
    fn poll(&mut self, clock: &Clock, fabric: &SimFabric) -> Poll<()> {
        let turn = match &mut self.operation {
            None if self.caller.left == 0 => return Poll::Ready(()),
            None => {
                let (goal, op) = self.draw();
                self.caller.left -= 1;
                self.caller.begin(op, clock.read(fabric));
                let (operation, turn) = fenced::Operation::begin(FENCED, self.caller.rank, goal, self.known.take());
                (self.operation, self.was_broken) = (Some((operation, op)), false);
                turn
            }
            Some((operation, _)) => match self.caller.poll(fabric) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(answers)) => operation.answered(&answers),
                Poll::Ready(Err(())) => {
                    self.was_broken = true;
                    operation.broken()
                }
            },
        };
        let ret = match (turn, self.operation.as_ref().map(|(_, op)| *op)) {
            (fenced::Turn::Ask(requests), _) => {
                self.caller.ask(fabric, requests);
                return Poll::Pending;
            }
            // The pair may have been current before the greater token was seen, as `FencedError::Refused` says.
            (fenced::Turn::Refused(_), _) if self.was_broken => None,
            (fenced::Turn::Refused(seen), _) => Some(Ret::Refused(seen)),
            (fenced::Turn::Done(_), Some(Op::Write { .. })) => Some(Ret::Done),
            (fenced::Turn::Done(known), Some(Op::Fence(_))) => Some(Ret::Value(known.value)),
            (fenced::Turn::Done(known), _) => Some(Ret::Pair(known.token, known.value)),
        };
        if let Some(ret) = ret {
            self.caller.end(ret, clock.read(fabric));
        }
        self.known = self.operation.take().expect("it has begun").0.known();
        self.caller.pause(fabric);
        Poll::Pending
    }

    fn draw(&mut self) -> (Goal, Op) {
        let caller = &mut self.caller;
        let token = ((1 + caller.random.below(4)) * self.ranks + caller.rank) as u64;
        let value = (100 * (caller.rank + 1) + caller.left) as u64;
        match caller.random.below(3) {
            0 => (Goal::Read, Op::Read),
            1 => (Goal::Write { token, value: None }, Op::Fence(token)),
            _ => (Goal::Write { token, value: Some(value) }, Op::Write { token, value }),
        }
    }
}

pub fn write_in_turns(seed: u64) -> History {
    let mut random = Seeded::new(seed);
    let nodes = 3 + random.below(3);
    let mut options = network(&mut random, nodes, 1 + 4 * nodes);
    // A connection may break: what was under way then is lost from some message on, and its end is not heard of.
    options.rates = Rates { failed_per_million: [0, 50_000][random.below(2)], duplicated_per_million: 0 };
    let mut world = World::new(options);
    let crash = draw_crash(&mut random, nodes, &mut world);
    let mut ranks: Vec<Writer> = (0..nodes)
        .map(|rank| Writer {
            caller: Caller::new(rank, seed),
            operation: None,
            was_broken: false,
            known: None,
            ranks: nodes,
        })
        .collect();
    let clock = Clock::default();
    run(&mut world, &mut ranks, |rank, _, fabric| rank.poll(&clock, fabric), |rank| &rank.caller, crash)
}
