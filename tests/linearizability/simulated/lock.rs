//! Locks between nodes, by themselves.

use std::task::Poll;

use phalanx::coord::objects::home::{self, HomeAt, HomeLock, Outcome};
use phalanx::fabric::sim::{Seeded, SimFabric, SimNode, World};
use phalanx::fabric::{Fabric, Memory, Request, WordAt};
use phalanx::sync::Ordering;

use super::super::history::History;
use super::super::specs::{Op, Ret};
use super::{Caller, Clock, Crash, LOOK_EVERY_NS, draw_crash, network, run};

const NUMBERS: WordAt = WordAt(1);
const CLAIMS: WordAt = WordAt(2);

/// A node's mailbox: which claim was granted, and its first token.
fn mailbox(nodes: usize) -> [WordAt; 2] {
    [CLAIMS.plus(nodes), CLAIMS.plus(nodes + 1)]
}

/// The first of a node's words that the lock has no use of.
pub const fn words_of(nodes: usize) -> WordAt {
    CLAIMS.plus(nodes + 2)
}

/// A rank's way to the lock, and back.
pub struct Way {
    machine: HomeLock,
    /// Whether it waits for its mailbox, and not for answers.
    is_waiting: bool,
    stamp: u32,
    /// That of its last hold.
    token: u64,
    crash: Option<Crash>,
    looked_ns: u64,
}

impl Way {
    pub fn new(nodes: usize, rank: usize, crash: Option<Crash>) -> Self {
        let at = HomeAt { hold: WordAt(0), numbers: NUMBERS, claims: CLAIMS, nodes };
        Self { machine: HomeLock::new(at, rank, 1), is_waiting: false, stamp: 0, token: 0, crash, looked_ns: 0 }
    }

    pub fn acquire(&mut self, caller: &mut Caller, fabric: &SimFabric) {
        self.stamp += 1;
        let turn = self.machine.acquire(self.stamp);
        assert!(self.follow(turn, caller, fabric).is_pending(), "it asks first");
    }

    pub fn try_acquire(&mut self, caller: &mut Caller, fabric: &SimFabric) {
        self.stamp += 1;
        let turn = self.machine.try_acquire(self.stamp);
        assert!(self.follow(turn, caller, fabric).is_pending(), "it asks first");
    }

    pub fn release(&mut self, caller: &mut Caller, fabric: &SimFabric) {
        // Now it leaves the word kept, now free for all alike.
        let keeps = caller.random.below(2) == 0;
        let turn = self.machine.release(keeps.then_some(self.token));
        assert!(self.follow(turn, caller, fabric).is_pending(), "it asks first");
    }

    /// Goes on with what was begun last; gives the token, or that this rank does not hold the lock.
    pub fn poll(&mut self, caller: &mut Caller, memory: &SimNode, fabric: &SimFabric) -> Poll<Option<u64>> {
        let turn = match self.is_waiting {
            true => match self.look_into_mailbox(memory, fabric) {
                Some(turn) => turn,
                None => return Poll::Pending,
            },
            false => match caller.poll(fabric) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(())) => panic!("no connection breaks here"),
                Poll::Ready(Ok(answers)) => {
                    let (crash, now_ns) = (self.crash, fabric.now_ns());
                    self.machine.answered(&answers, |node| crash.is_some_and(|crash| crash.is_known_of(node, now_ns)))
                }
            },
        };
        self.follow(turn, caller, fabric)
    }

    fn look_into_mailbox(&mut self, memory: &SimNode, fabric: &SimFabric) -> Option<home::Turn> {
        let [granted, number] = mailbox(fabric.nodes()).map(|at| memory.word(at).load(Ordering::Acquire));
        let claim = self.machine.claim().expect("who waits has a claim");
        if granted == claim.0 {
            return Some(self.machine.receive(claim.order(), number));
        }
        if fabric.now_ns() < self.looked_ns + LOOK_EVERY_NS {
            fabric.alarm(self.looked_ns + LOOK_EVERY_NS);
            return None;
        }
        self.looked_ns = fabric.now_ns();
        Some(self.machine.look())
    }

    fn follow(&mut self, turn: home::Turn, caller: &mut Caller, fabric: &SimFabric) -> Poll<Option<u64>> {
        self.is_waiting = turn == home::Turn::Wait;
        match turn {
            home::Turn::Ask(requests) => caller.ask(fabric, requests),
            home::Turn::Mail(mail) => {
                let [granted, number] = mailbox(fabric.nodes());
                let writes = [
                    Request::Write { at: number, value: mail.number },
                    Request::Write { at: granted, value: mail.claim.0 },
                ];
                // Where it is lost, its reader looks by itself.
                let _ = fabric.post(mail.node, &writes, &mut Vec::new());
                let turn = self.machine.mailed();
                return self.follow(turn, caller, fabric);
            }
            home::Turn::Wait => fabric.alarm(fabric.now_ns() + LOOK_EVERY_NS),
            home::Turn::Over(Outcome::Granted(number)) => {
                self.token = number + 1;
                return Poll::Ready(Some(self.token));
            }
            home::Turn::Over(Outcome::Free) => return Poll::Ready(None),
            home::Turn::Over(Outcome::Lost) => panic!("nobody is declared failed who lives"),
        }
        Poll::Pending
    }
}

/// A rank that takes the lock and gives it back.
struct Holder {
    caller: Caller,
    way: Way,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    /// In the middle of a call.
    Busy,
    Inside,
}

impl Holder {
    fn poll(&mut self, clock: &Clock, memory: &SimNode, fabric: &SimFabric) -> Poll<()> {
        match self.state {
            State::Outside if self.caller.left == 0 => return Poll::Ready(()),
            State::Outside => self.begin(clock, fabric),
            State::Inside => {
                self.caller.begin(Op::Release, clock.read(fabric));
                self.way.release(&mut self.caller, fabric);
                self.state = State::Busy;
            }
            State::Busy => {
                if let Poll::Ready(token) = self.way.poll(&mut self.caller, memory, fabric) {
                    self.end(token, clock, fabric);
                }
            }
        }
        Poll::Pending
    }

    fn begin(&mut self, clock: &Clock, fabric: &SimFabric) {
        self.caller.left -= 1;
        self.state = State::Busy;
        if self.caller.random.below(3) > 0 {
            self.caller.begin(Op::Acquire, clock.read(fabric));
            self.way.acquire(&mut self.caller, fabric);
        } else {
            self.caller.begin(Op::TryAcquire, clock.read(fabric));
            self.way.try_acquire(&mut self.caller, fabric);
        }
    }

    fn end(&mut self, token: Option<u64>, clock: &Clock, fabric: &SimFabric) {
        let (state, ret) = match token {
            Some(token) => (State::Inside, Ret::Granted(token)),
            None if self.caller.op() == Op::TryAcquire => (State::Outside, Ret::Busy),
            None => (State::Outside, Ret::Done),
        };
        self.state = state;
        self.caller.end(ret, clock.read(fabric));
        self.caller.pause(fabric);
    }
}

pub fn hold_in_turns(seed: u64) -> History {
    let mut random = Seeded::new(seed);
    let nodes = 2 + random.below(3);
    let mut world = World::new(network(&mut random, nodes, words_of(nodes).0));
    let crash = draw_crash(&mut random, nodes, &mut world);
    let holder = |rank| {
        let (caller, way) = (Caller::new(rank, seed), Way::new(nodes, rank, crash));
        Holder { caller, way, state: State::Outside }
    };
    let mut ranks: Vec<Holder> = (0..nodes).map(holder).collect();
    let clock = Clock::default();
    run(&mut world, &mut ranks, |rank, memory, fabric| rank.poll(&clock, memory, fabric), |rank| &rank.caller, crash)
}
