//! What stands on the lock between nodes: locks that readers share, and semaphores. Their machines are told apart by
//! what a call begins with, and whether it has the lock meanwhile; the rest is the same.

use std::task::Poll;

use phalanx::coord::objects::permits::{Permits, PermitsAt};
use phalanx::coord::objects::sharing::{self, Called, Sharing, SharingAt, Turn};
use phalanx::fabric::sim::{Seeded, SimFabric, SimNode, World};
use phalanx::fabric::{Fabric, Memory, Request, WordAt};
use phalanx::sync::Ordering;

use super::super::history::History;
use super::super::specs::{Op, Ret};
use super::lock::{Way, words_of};
use super::{Caller, Clock, Crash, LOOK_EVERY_NS, draw_crash, network, run};

/// How many permits a semaphore has.
pub const PERMITS: u64 = 3;

/// Where a rank has others poke it; behind it the object's own word, and one of each rank.
const fn poked_at(nodes: usize) -> WordAt {
    words_of(nodes)
}

/// One rank's part in an object.
enum Part {
    Permits(Permits),
    Sharing(Sharing),
}

impl Part {
    fn begin(&mut self, op: Op) -> Turn {
        match (self, op) {
            (Self::Permits(part), Op::Take(count)) => part.claim(count, true),
            (Self::Permits(part), Op::Return(_)) => part.give_back(0),
            (Self::Sharing(part), Op::Enter) => part.read(),
            (Self::Sharing(part), Op::Acquire) => part.write(),
            (Self::Sharing(part), Op::Downgrade) => part.downgrade(),
            (Self::Sharing(part), Op::Leave | Op::Release) => part.leave(),
            _ => panic!("it has no {op:?}"),
        }
    }

    fn look(&mut self) -> Turn {
        match self {
            Self::Permits(part) => part.look(),
            Self::Sharing(part) => part.look(),
        }
    }

    fn answered(
        &mut self,
        op: Op,
        answers: &[u64],
        ended: impl Fn(usize) -> bool,
        mut poke: impl FnMut(usize),
    ) -> Turn {
        let own = if let Op::Take(count) = op { count } else { 0 };
        let has_ended = |member| matches!(member, sharing::Member::Rank(rank) if ended(rank));
        match self {
            Self::Permits(part) => part.answered(answers, own, ended, poke),
            Self::Sharing(part) => part.answered(answers, has_ended, |called| match called {
                Called::Rank(rank) => poke(rank),
                Called::Of { .. } => unreachable!("no node has a part"),
            }),
        }
    }

    /// What a rank does that has nothing.
    fn draw(&self, random: &mut Seeded) -> Op {
        match self {
            Self::Permits(_) => Op::Take([1, 2, PERMITS][random.below(3)]),
            Self::Sharing(_) => [Op::Enter, Op::Acquire][random.below(2)],
        }
    }
}

/// What a rank does after it has done something; `None`: it has nothing.
fn next_after(op: Op, random: &mut Seeded) -> Option<Op> {
    match op {
        Op::Take(count) => Some(Op::Return(count)),
        Op::Enter | Op::Downgrade => Some(Op::Leave),
        Op::Acquire => Some([Op::Release, Op::Downgrade][random.below(2)]),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    /// To the exclusive lock.
    Locking,
    /// Answers are on their way.
    Asking,
    /// Until it is poked.
    Waiting,
    /// From the exclusive lock.
    Unlocking,
}

/// A rank that takes and gives back.
struct Member {
    caller: Caller,
    way: Way,
    part: Part,
    state: State,
    /// What it does next, where it has something.
    next: Option<Op>,
    token: u64,
    crash: Option<Crash>,
    /// What its word for that held before it asked last.
    poked: u64,
    looked_ns: u64,
}

impl Member {
    fn poll(&mut self, clock: &Clock, memory: &SimNode, fabric: &SimFabric) -> Poll<()> {
        let op = match self.state {
            State::Between if self.next.is_none() && self.caller.left == 0 => return Poll::Ready(()),
            State::Between => {
                self.begin(clock, memory, fabric);
                return Poll::Pending;
            }
            _ => self.caller.op(),
        };
        match self.state {
            State::Locking | State::Unlocking => match self.way.poll(&mut self.caller, memory, fabric) {
                Poll::Pending => {}
                Poll::Ready(Some(token)) => {
                    self.token = token;
                    self.ask_for(op, clock, memory, fabric);
                }
                Poll::Ready(None) => self.end(op, clock, fabric),
            },
            State::Asking => match self.caller.poll(fabric) {
                Poll::Pending => {}
                Poll::Ready(Err(())) => panic!("no connection breaks here"),
                Poll::Ready(Ok(answers)) => {
                    let turn = self.answered(op, &answers, fabric);
                    self.follow(turn, op, clock, memory, fabric);
                }
            },
            State::Waiting => self.look_if_poked(op, clock, memory, fabric),
            State::Between => unreachable!("it has begun"),
        }
        Poll::Pending
    }

    fn begin(&mut self, clock: &Clock, memory: &SimNode, fabric: &SimFabric) {
        let op = self.next.take().unwrap_or_else(|| {
            self.caller.left -= 1;
            self.part.draw(&mut self.caller.random)
        });
        self.caller.begin(op, clock.read(fabric));
        if matches!(op, Op::Take(_) | Op::Acquire) {
            self.state = State::Locking;
            self.way.acquire(&mut self.caller, fabric);
        } else {
            self.ask_for(op, clock, memory, fabric);
        }
    }

    fn ask_for(&mut self, op: Op, clock: &Clock, memory: &SimNode, fabric: &SimFabric) {
        let turn = self.part.begin(op);
        self.follow(turn, op, clock, memory, fabric);
    }

    fn answered(&mut self, op: Op, answers: &[u64], fabric: &SimFabric) -> Turn {
        let (crash, now_ns) = (self.crash, fabric.now_ns());
        let has_ended = |rank| crash.is_some_and(|crash: Crash| crash.is_known_of(rank, now_ns));
        let poke = |rank| {
            let request = Request::FetchAdd { at: poked_at(fabric.nodes()), add: 1 };
            let mut tickets = Vec::new();
            // Where it is lost, that rank looks by itself.
            let _ = fabric.post(rank, &[request], &mut tickets);
            tickets.into_iter().for_each(|ticket| fabric.forget(ticket));
        };
        self.part.answered(op, answers, has_ended, poke)
    }

    fn look_if_poked(&mut self, op: Op, clock: &Clock, memory: &SimNode, fabric: &SimFabric) {
        let is_late = fabric.now_ns() >= self.looked_ns + LOOK_EVERY_NS;
        if is_late || self.load_poked(memory, fabric) != self.poked {
            let turn = self.part.look();
            self.follow(turn, op, clock, memory, fabric);
        } else {
            fabric.alarm(self.looked_ns + LOOK_EVERY_NS);
        }
    }

    fn load_poked(&self, memory: &SimNode, fabric: &SimFabric) -> u64 {
        memory.word(poked_at(fabric.nodes())).load(Ordering::Acquire)
    }

    fn follow(&mut self, turn: Turn, op: Op, clock: &Clock, memory: &SimNode, fabric: &SimFabric) {
        match turn {
            Turn::Ask(requests) => {
                self.state = State::Asking;
                self.poked = self.load_poked(memory, fabric);
                self.caller.ask(fabric, requests);
            }
            Turn::Wait => {
                self.state = State::Waiting;
                self.looked_ns = fabric.now_ns();
                fabric.alarm(self.looked_ns + LOOK_EVERY_NS);
            }
            Turn::In | Turn::Out if matches!(op, Op::Take(_) | Op::Release | Op::Downgrade) => {
                self.state = State::Unlocking;
                self.way.release(&mut self.caller, fabric);
            }
            Turn::In | Turn::Out => self.end(op, clock, fabric),
        }
    }

    fn end(&mut self, op: Op, clock: &Clock, fabric: &SimFabric) {
        let ret = if op == Op::Acquire { Ret::Granted(self.token) } else { Ret::Done };
        self.caller.end(ret, clock.read(fabric));
        self.next = next_after(op, &mut self.caller.random);
        self.state = State::Between;
        self.caller.pause(fabric);
    }
}

fn take_turns(seed: u64, part: impl Fn(WordAt, usize, usize) -> Part) -> History {
    let mut random = Seeded::new(seed);
    let nodes = 2 + random.below(3);
    let own = poked_at(nodes).plus(1);
    let mut world = World::new(network(&mut random, nodes, own.plus(1 + nodes).0));
    let crash = draw_crash(&mut random, nodes, &mut world);
    let member = |rank| Member {
        caller: Caller::new(rank, seed),
        way: Way::new(nodes, rank, crash),
        part: part(own, nodes, rank),
        state: State::Between,
        next: None,
        token: 0,
        crash,
        poked: 0,
        looked_ns: 0,
    };
    let mut ranks: Vec<Member> = (0..nodes).map(member).collect();
    let clock = Clock::default();
    run(&mut world, &mut ranks, |rank, memory, fabric| rank.poll(&clock, memory, fabric), |rank| &rank.caller, crash)
}

pub fn take_permits(seed: u64) -> History {
    take_turns(seed, |own, ranks, rank| {
        let at = PermitsAt { waiter: own, held: own.plus(1), ranks };
        Part::Permits(Permits::new(at, rank, PERMITS))
    })
}

pub fn read_and_write(seed: u64) -> History {
    take_turns(seed, |own, ranks, rank| {
        // Each rank has its own part.
        let nowhere = own;
        let at = SharingAt { phase: own, parts: own.plus(1), ranks, node_parts: nowhere, places: nowhere, nodes: 0 };
        Part::Sharing(Sharing::new(at, rank))
    })
}
