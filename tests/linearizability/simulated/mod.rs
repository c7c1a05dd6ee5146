//! Histories of the machines of objects on the simulated network: a node is a rank, node 0 is the home. Messages take
//! times of their own; in some runs connections break in the middle of a call (of counters, fenced words and leases),
//! and one node crashes: of counters the home, too.
//!
//! Half of the networks have an adapter's atomics, which take time between their read and their write, and which the
//! CPU's are not atomic with. There the home's own rank, too, adds and swaps through the adapter, as the library does
//! it (`src/object/site.rs`); elsewhere it goes by the node's memory.
//!
//! Time is virtual. Edges of calls at the same virtual nanosecond are told apart by the order in which they happened.

mod counter;
mod election;
mod fenced;
mod lease;
mod lock;
mod sharing;

use std::cell::Cell;
use std::collections::VecDeque;
use std::task::Poll;

use phalanx::fabric::sim::{Atomics, Costs, Fault, Jitter, Options, Seeded, SimFabric, SimNode, World};
use phalanx::fabric::{AtomicScope, Fabric, OperationError, PostError, Request, Ticket};

use super::common::seeds::for_each_seed;
use super::common::wires::execute;
use super::history::{Entry, History, is_fate};
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
    /// Whom it asks.
    to: usize,
    /// What is still to be posted, or to be done here.
    unposted: VecDeque<Request>,
}

impl Caller {
    fn new(rank: usize, seed: u64) -> Self {
        let (random, entries) = (Seeded::new(seed * 64 + rank as u64), Vec::new());
        Self {
            rank,
            random,
            entries,
            left: CALLS,
            tickets: Vec::new(),
            answers: Vec::new(),
            to: HOME,
            unposted: VecDeque::new(),
        }
    }

    fn begin(&mut self, op: Op, at_ns: u64) {
        self.entries.push(Entry { call: Call { rank: self.rank, op }, begun_ns: at_ns, ended: None });
    }

    fn end(&mut self, ret: Ret, at_ns: u64) {
        self.entries.last_mut().expect("it has begun").ended = Some((at_ns, ret));
    }

    /// Posts requests to the home, now or as soon as it is reached.
    fn ask(&mut self, fabric: &SimFabric, requests: Vec<Request>) {
        self.ask_node(fabric, HOME, requests);
    }

    /// The same, to another node.
    fn ask_node(&mut self, fabric: &SimFabric, to: usize, requests: Vec<Request>) {
        self.answers.clear();
        (self.to, self.unposted) = (to, requests.into());
        self.go_on(fabric);
    }

    fn go_on(&mut self, fabric: &SimFabric) {
        if self.to != self.rank {
            return self.post(fabric, self.unposted.len());
        }
        let by_adapter = !is_memory(fabric);
        let is_mine = |request: &Request| !(by_adapter && request.is_atomic());
        while let Some(request) = self.unposted.front().copied().filter(is_mine) {
            self.unposted.pop_front();
            let value = execute(fabric.memory(), request);
            self.answers.extend(request.has_ticket().then_some(value));
        }
        match self.unposted.iter().take_while(|request| request.is_atomic()).count() {
            0 => fabric.alarm(fabric.now_ns() + 1),
            together => self.post(fabric, together),
        }
    }

    /// Posts the first of what is to be asked, now or as soon as the node is reached.
    fn post(&mut self, fabric: &SimFabric, together: usize) {
        let requests = &self.unposted.make_contiguous()[..together];
        match fabric.post(self.to, requests, &mut self.tickets) {
            Ok(()) => drop(self.unposted.drain(..together)),
            Err(PostError::Invalid { why, .. }) => panic!("{why}"),
            Err(_) => fabric.alarm(fabric.now_ns() + LOOK_EVERY_NS),
        }
    }

    /// The call that has begun last.
    fn op(&self) -> Op {
        self.entries.last().expect("it has begun").call.op
    }

    /// The answers to all that was asked, or that the connection broke.
    fn poll(&mut self, fabric: &SimFabric) -> Poll<Result<Vec<u64>, ()>> {
        while let Some(ticket) = self.tickets.first() {
            match fabric.take(*ticket) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(answer)) => self.answers.push(answer),
                Poll::Ready(Err(OperationError::NotSent { .. } | OperationError::Lost { .. })) => {
                    self.tickets.remove(0);
                    self.give_up(fabric);
                    return Poll::Ready(Err(()));
                }
                Poll::Ready(Err(error)) => panic!("{error}"),
            }
            self.tickets.remove(0);
        }
        if !self.unposted.is_empty() {
            self.go_on(fabric);
            return Poll::Pending;
        }
        Poll::Ready(Ok(std::mem::take(&mut self.answers)))
    }

    /// Waits for no answers any more.
    fn give_up(&mut self, fabric: &SimFabric) {
        self.tickets.drain(..).for_each(|ticket| fabric.forget(ticket));
        self.unposted.clear();
    }

    /// Computes for a moment between two calls.
    fn pause(&mut self, fabric: &SimFabric) {
        fabric.compute(self.random.below(3_000) as u64);
        fabric.alarm(fabric.busy_until_ns());
    }
}

/// Whether all that a node's own rank does to words that are at home there is memory accesses.
fn is_memory(fabric: &SimFabric) -> bool {
    fabric.atomic_scope(fabric.here()) == AtomicScope::Cpu
}

/// A network on which some messages are quicker than others, whose atomics are the CPUs' or the adapters'.
fn network(random: &mut Seeded, nodes: usize, words: usize) -> Options {
    let mut options = Options::new(nodes, words);
    options.seed = random.number();
    let jitters =
        [Jitter::Uniform { most_ns: 2000 }, Jitter::Exponential { mean_ns: 1000 }, Jitter::Uniform { most_ns: 20_000 }];
    options.costs = Costs { jitter: jitters[random.below(jitters.len())], ..Costs::default() };
    let by_adapter = Atomics::Adapter { apart_ns: 500 + random.below(4000) as u64 };
    options.atomics = [Atomics::Cpu, by_adapter][random.below(2)];
    options
}

/// Runs ranks to their ends; their calls together.
fn run<P>(
    world: &mut World,
    ranks: &mut [P],
    poll: impl FnMut(&mut P, &SimNode, &SimFabric) -> Poll<()>,
    caller: impl Fn(&P) -> &Caller,
    crash: Option<Crash>,
) -> History {
    run_until(LIMIT_NS, world, ranks, poll, caller, crash)
}

/// The same, with a limit of its own.
fn run_until<P>(
    limit_ns: u64,
    world: &mut World,
    ranks: &mut [P],
    mut poll: impl FnMut(&mut P, &SimNode, &SimFabric) -> Poll<()>,
    caller: impl Fn(&P) -> &Caller,
    crash: Option<Crash>,
) -> History {
    let ready = world.run_until(limit_ns, |node, memory, fabric| poll(&mut ranks[node], memory, fabric));
    let is_crashed = |node: usize| crash.is_some_and(|crash| crash.node == node);
    let stuck: Vec<usize> = (0..ranks.len()).filter(|node| ready[*node].is_none() && !is_crashed(*node)).collect();
    let mut history = History(ranks.iter().flat_map(|rank| caller(rank).entries.clone()).collect());
    if let Some(Crash { node: rank, at_ns }) = crash {
        history.0.push(Entry { call: Call { rank, op: Op::Die }, begun_ns: at_ns * 10_000, ended: None });
    }
    assert!(stuck.is_empty(), "ranks {stuck:?} never end: {history:?}");
    history
}

/// A node that crashes, and when.
#[derive(Clone, Copy)]
struct Crash {
    node: usize,
    at_ns: u64,
}

impl Crash {
    /// Whether a node has crashed, and the others know of it.
    fn is_known_of(self, node: usize, now_ns: u64) -> bool {
        self.node == node && now_ns >= self.at_ns + DETECTION_NS
    }
}

/// A node other than the home may crash at some time.
fn draw_crash(random: &mut Seeded, nodes: usize, world: &mut World) -> Option<Crash> {
    let node = 1 + random.below(nodes - 1);
    draw_crash_of(random, node, world)
}

fn draw_crash_of(random: &mut Seeded, node: usize, world: &mut World) -> Option<Crash> {
    let crash = Crash { node, at_ns: random.below(60_000) as u64 };
    if random.below(2) > 0 {
        return None;
    }
    world.schedule(crash.at_ns, Fault::Crash { node: crash.node });
    Some(crash)
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
    let is_open = |entry: &Entry| entry.ended.is_none() && !is_fate(entry.call.op);
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
fn counters_on_the_simulated_network() {
    check("simulated::counters_on_the_simulated_network", Object::Counter(0), counter::add_in_turns);
}

#[test]
fn fenced_words_on_the_simulated_network() {
    let object = Object::Fenced { token: 0, value: 0 };
    check("simulated::fenced_words_on_the_simulated_network", object, fenced::write_in_turns);
}

#[test]
fn elections_on_the_simulated_network() {
    check("simulated::elections_on_the_simulated_network", Object::election(), election::lead_in_turns);
}

#[test]
fn leases_on_the_simulated_network() {
    check("simulated::leases_on_the_simulated_network", Object::lease(), lease::rent_in_turns);
}

#[test]
fn locks_on_the_simulated_network() {
    check("simulated::locks_on_the_simulated_network", Object::lock(), lock::hold_in_turns);
}

#[test]
fn semaphores_on_the_simulated_network() {
    let object = Object::semaphore(sharing::PERMITS);
    check("simulated::semaphores_on_the_simulated_network", object, sharing::take_permits);
}

#[test]
fn shared_locks_on_the_simulated_network() {
    check("simulated::shared_locks_on_the_simulated_network", Object::rwlock(), sharing::read_and_write);
}
