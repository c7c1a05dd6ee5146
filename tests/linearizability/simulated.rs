//! Histories of the machines of fenced words and of locks between nodes, on the simulated network: a node is a rank, node 0 is
//! the home. Messages take times of their own; in some runs connections break in the middle of a call, and one node crashes.
//!
//! Time is virtual. Edges of calls at the same virtual nanosecond are told apart by the order in which they happened.

use std::cell::Cell;
use std::task::Poll;

use phalanx::coord::objects::fenced::{self, FencedAt, Goal, Known};
use phalanx::coord::objects::home::{self, HomeAt, HomeLock, Outcome};
use phalanx::fabric::sim::{Costs, Fault, Jitter, Options, Rates, Seeded, SimFabric, SimNode, World};
use phalanx::fabric::{Fabric, Memory, OperationError, PostError, Request, Ticket, WordAt};
use phalanx::sync::Ordering;

use super::common::seeds::for_each_seed;
use super::history::{Entry, History};
use super::seeds;
use super::specs::{Call, Object, Op, Ret};

const HOME: usize = 0;
/// Calls of a rank, or pairs of them.
const CALLS: usize = 3;
/// After so long without an answer somebody looks again.
const LOOK_EVERY_NS: u64 = 20_000;
/// From a crash until the others know of it: nothing of the node is under way any more.
const DETECTION_NS: u64 = 300_000;
/// No run takes longer.
const LIMIT_NS: u64 = 100_000_000;

/// The order of edges at the same time.
#[derive(Default)]
struct Clock(Cell<u64>);

impl Clock {
    fn read(&self, fabric: &SimFabric) -> u64 {
        self.0.set(self.0.get() + 1);
        fabric.now_ns() * 10_000 + self.0.get()
    }
}

/// A rank's calls, as they begin and end.
struct Caller {
    rank: usize,
    random: Seeded,
    entries: Vec<Entry>,
    /// Calls to come.
    left: usize,
    tickets: Vec<Ticket>,
    answers: Vec<u64>,
    /// What could not be posted yet.
    refused: Vec<Request>,
}

impl Caller {
    fn new(rank: usize, seed: u64) -> Self {
        let (random, entries) = (Seeded::new(seed * 64 + rank as u64), Vec::new());
        Self { rank, random, entries, left: CALLS, tickets: Vec::new(), answers: Vec::new(), refused: Vec::new() }
    }

    fn begin(&mut self, op: Op, at_ns: u64) {
        self.entries.push(Entry { call: Call { rank: self.rank, op }, begun_ns: at_ns, ended: None });
    }

    fn end(&mut self, ret: Ret, at_ns: u64) {
        self.entries.last_mut().expect("it has begun").ended = Some((at_ns, ret));
    }

    /// Posts requests to the home, now or as soon as it is reached.
    fn ask(&mut self, fabric: &SimFabric, requests: Vec<Request>) {
        self.answers.clear();
        match fabric.post(HOME, &requests, &mut self.tickets) {
            Ok(()) => self.refused.clear(),
            Err(PostError::Invalid { why, .. }) => panic!("{why}"),
            Err(_) => {
                self.refused = requests;
                fabric.alarm(fabric.now_ns() + LOOK_EVERY_NS);
            }
        }
    }

    /// The answers to all that was asked, or that the connection broke.
    fn poll(&mut self, fabric: &SimFabric) -> Poll<Result<Vec<u64>, ()>> {
        if !self.refused.is_empty() {
            let requests = std::mem::take(&mut self.refused);
            self.ask(fabric, requests);
            return Poll::Pending;
        }
        while let Some(ticket) = self.tickets.first() {
            match fabric.take(*ticket) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(answer)) => self.answers.push(answer),
                Poll::Ready(Err(OperationError::NotSent { .. } | OperationError::Lost { .. })) => {
                    self.tickets.drain(1..).for_each(|ticket| fabric.forget(ticket));
                    self.tickets.clear();
                    return Poll::Ready(Err(()));
                }
                Poll::Ready(Err(error)) => panic!("{error}"),
            }
            self.tickets.remove(0);
        }
        Poll::Ready(Ok(std::mem::take(&mut self.answers)))
    }

    /// Computes for a moment between two calls.
    fn pause(&mut self, fabric: &SimFabric) {
        fabric.compute(self.random.below(3_000) as u64);
    }
}

/// A network on which some messages are quicker than others.
fn network(random: &mut Seeded, nodes: usize, words: usize) -> Options {
    let mut options = Options::new(nodes, words);
    options.seed = random.number();
    let jitters =
        [Jitter::Uniform { most_ns: 2000 }, Jitter::Exponential { mean_ns: 1000 }, Jitter::Uniform { most_ns: 20_000 }];
    options.costs = Costs { jitter: jitters[random.below(jitters.len())], ..Costs::default() };
    options
}

/// Runs ranks to their ends; their calls together.
fn run<P>(
    world: &mut World,
    ranks: &mut [P],
    mut poll: impl FnMut(&mut P, &SimNode, &SimFabric) -> Poll<()>,
    caller: impl Fn(&P) -> &Caller,
    crashed: Option<(usize, u64)>,
) -> History {
    let ready = world.run_until(LIMIT_NS, |node, memory, fabric| poll(&mut ranks[node], memory, fabric));
    let is_crashed = |node: usize| crashed.is_some_and(|(other, _)| other == node);
    let stuck: Vec<usize> = (0..ranks.len()).filter(|node| ready[*node].is_none() && !is_crashed(*node)).collect();
    let mut history = History(ranks.iter().flat_map(|rank| caller(rank).entries.clone()).collect());
    if let Some((rank, at_ns)) = crashed {
        history.0.push(Entry { call: Call { rank, op: Op::Die }, begun_ns: at_ns * 10_000, ended: None });
    }
    assert!(stuck.is_empty(), "ranks {stuck:?} never end: {history:?}");
    history
}

/// Fenced words.
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
        fabric.alarm(fabric.busy_until_ns());
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

fn write_in_turns(seed: u64) -> History {
    let mut random = Seeded::new(seed);
    let nodes = 3 + random.below(3);
    let mut options = network(&mut random, nodes, 1 + 4 * nodes);
    // A connection may break: what was under way then is lost from some message on, and its end is not heard of.
    options.rates = Rates { failed_per_million: [0, 50_000][random.below(2)], duplicated_per_million: 0 };
    let mut world = World::new(options);
    let crashed = draw_crash(&mut random, nodes, &mut world);
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
    run(&mut world, &mut ranks, |rank, _, fabric| rank.poll(&clock, fabric), |rank| &rank.caller, crashed)
}

/// A node other than the home may crash at some time.
fn draw_crash(random: &mut Seeded, nodes: usize, world: &mut World) -> Option<(usize, u64)> {
    let (node, at_ns) = (1 + random.below(nodes - 1), random.below(60_000) as u64);
    let crashes = random.below(2) == 0;
    if crashes {
        world.schedule(at_ns, Fault::Crash { node });
    }
    crashes.then_some((node, at_ns))
}

/// Locks between nodes.
struct Holder {
    caller: Caller,
    machine: HomeLock,
    state: State,
    stamp: u32,
    /// That of its last hold.
    token: u64,
    crashed: Option<(usize, u64)>,
    looked_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    /// Of a call that is not over.
    Asking,
    Waiting,
    Inside,
}

const NUMBERS: WordAt = WordAt(1);
const CLAIMS: WordAt = WordAt(2);

/// A node's mailbox: which claim was granted, and its first token.
fn mailbox(nodes: usize) -> [WordAt; 2] {
    [CLAIMS.plus(nodes), CLAIMS.plus(nodes + 1)]
}

impl Holder {
    fn poll(&mut self, clock: &Clock, memory: &SimNode, fabric: &SimFabric) -> Poll<()> {
        let now_ns = fabric.now_ns();
        let turn = match self.state {
            State::Outside if self.caller.left == 0 => return Poll::Ready(()),
            State::Outside => {
                self.caller.left -= 1;
                self.stamp += 1;
                let is_patient = self.caller.random.below(3) > 0;
                self.caller.begin(if is_patient { Op::Acquire } else { Op::TryAcquire }, clock.read(fabric));
                match is_patient {
                    true => self.machine.acquire(self.stamp),
                    false => self.machine.try_acquire(self.stamp),
                }
            }
            State::Inside => {
                self.caller.begin(Op::Release, clock.read(fabric));
                // Now it leaves the word kept, now free for all alike.
                let keeps = self.caller.random.below(2) == 0;
                self.machine.release(keeps.then_some(self.token))
            }
            State::Asking => match self.caller.poll(fabric) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(())) => panic!("no connection breaks here"),
                Poll::Ready(Ok(answers)) => {
                    let crashed = self.crashed;
                    let is_lost =
                        |node| crashed.is_some_and(|(lost, at_ns)| lost == node && now_ns >= at_ns + DETECTION_NS);
                    self.machine.answered(&answers, is_lost)
                }
            },
            State::Waiting => match self.look_into_mailbox(memory, fabric) {
                None => return Poll::Pending,
                Some(turn) => turn,
            },
        };
        self.follow(turn, clock, fabric);
        Poll::Pending
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

    fn follow(&mut self, turn: home::Turn, clock: &Clock, fabric: &SimFabric) {
        match turn {
            home::Turn::Ask(requests) => {
                self.state = State::Asking;
                self.caller.ask(fabric, requests);
            }
            home::Turn::Mail(mail) => {
                let [granted, number] = mailbox(fabric.nodes());
                let writes = [
                    Request::Write { at: number, value: mail.number },
                    Request::Write { at: granted, value: mail.claim.0 },
                ];
                // Where it is lost, its reader looks by itself.
                let _ = fabric.post(mail.node, &writes, &mut Vec::new());
                let turn = self.machine.mailed();
                self.follow(turn, clock, fabric);
            }
            home::Turn::Wait => {
                self.state = State::Waiting;
                fabric.alarm(fabric.now_ns() + LOOK_EVERY_NS);
            }
            home::Turn::Over(outcome) => {
                let is_try = self.caller.entries.last().is_some_and(|entry| entry.call.op == Op::TryAcquire);
                let (state, ret) = match outcome {
                    Outcome::Granted(number) => {
                        self.token = number + 1;
                        (State::Inside, Ret::Granted(self.token))
                    }
                    Outcome::Free if is_try => (State::Outside, Ret::Busy),
                    Outcome::Free => (State::Outside, Ret::Done),
                    Outcome::Lost => panic!("nobody is declared failed who lives"),
                };
                self.state = state;
                self.caller.end(ret, clock.read(fabric));
                self.caller.pause(fabric);
                fabric.alarm(fabric.busy_until_ns());
            }
        }
    }
}

fn hold_in_turns(seed: u64) -> History {
    let mut random = Seeded::new(seed);
    let nodes = 2 + random.below(3);
    let words = mailbox(nodes)[1].0 + 1;
    let mut world = World::new(network(&mut random, nodes, words));
    let crashed = draw_crash(&mut random, nodes, &mut world);
    let at = HomeAt { hold: WordAt(0), numbers: NUMBERS, claims: CLAIMS, nodes };
    let holder = |rank| Holder {
        caller: Caller::new(rank, seed),
        machine: HomeLock::new(at, rank, 1),
        state: State::Outside,
        stamp: 0,
        token: 0,
        crashed,
        looked_ns: 0,
    };
    let mut ranks: Vec<Holder> = (0..nodes).map(holder).collect();
    let clock = Clock::default();
    run(&mut world, &mut ranks, |rank, memory, fabric| rank.poll(&clock, memory, fabric), |rank| &rank.caller, crashed)
}

/// How many of some histories have calls that overlap, and calls that nobody has heard the end of.
fn overlapping_and_open(histories: &[History]) -> (usize, usize) {
    let overlaps = |history: &&History| {
        let is_beside = |one: &Entry, other: &Entry| {
            let ended = |entry: &Entry| entry.ended.map_or(u64::MAX, |(at_ns, _)| at_ns);
            one.call.rank != other.call.rank && one.begun_ns < ended(other) && other.begun_ns < ended(one)
        };
        history.0.iter().any(|one| history.0.iter().any(|other| is_beside(one, other)))
    };
    let is_open = |entry: &Entry| entry.ended.is_none() && entry.call.op != Op::Die;
    let has_open = |history: &&History| history.0.iter().any(is_open);
    (histories.iter().filter(overlaps).count(), histories.iter().filter(has_open).count())
}

fn check(test: &str, object: Object, make: impl Fn(u64) -> History) {
    let mut made = std::cell::RefCell::new(Vec::new());
    for_each_seed("linearizability", test, seeds(1500), |seed| {
        let history = make(seed);
        if let Err(why) = history.judge(object.clone()) {
            panic!("seed {seed}: {why}");
        }
        made.borrow_mut().push(history);
    });
    let histories = made.get_mut();
    let (overlapping, open) = overlapping_and_open(histories);
    println!("{} histories: {overlapping} with calls that overlap, {open} with one that never ended", histories.len());
    let is_one_seed = histories.len() == 1;
    assert!(is_one_seed || (overlapping > histories.len() / 2 && open > 0), "they show nothing");
}

#[test]
fn fenced_words_on_the_simulated_network() {
    let object = Object::Fenced { token: 0, value: 0 };
    check("simulated::fenced_words_on_the_simulated_network", object, write_in_turns);
}

#[test]
fn locks_on_the_simulated_network() {
    check("simulated::locks_on_the_simulated_network", Object::lock(), hold_in_turns);
}
