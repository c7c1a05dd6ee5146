//! A simulated network in which anything may go wrong at any time: what the contract promises holds all the same.
//!
//! Nodes post at random to each other while a random plan of faults runs. After every single event, and at the end,
//! an oracle checks that
//!
//! - a poster's writes to a node take effect in order: a word that it writes grows, and its flag never comes before its
//!   payload, duplicates and restarts included;
//! - every ticket completes, and on one connection no value follows an error;
//! - an addition that succeeded took effect once, one that was lost once at most, no other did;
//! - a write is not lost while the incarnation stays the same and a later request completes;
//! - when everything is mended, everybody alive reaches everybody alive.
#![cfg(not(model))]

mod common;

use std::collections::HashMap;
use std::task::Poll;

use common::seeds::for_each_seed;
use phalanx::fabric::sim::{
    Atomics, Costs, Fault, Jitter, Level, Options, Placement, Rates, Seeded, World, random_plan,
};
use phalanx::fabric::{Fabric, Memory, PostError, Request, Ticket, WordAt};
use phalanx::sync::Ordering;

const SPAN_NS: u64 = 400_000;
const COUNTER: usize = 0;

/// The words that node `from` writes at another.
fn payload(from: usize) -> WordAt {
    WordAt(1 + 2 * from)
}

fn flag(from: usize) -> WordAt {
    payload(from).plus(1)
}

/// A request whose outcome is awaited.
struct Open {
    ticket: Ticket,
    target: usize,
    incarnation: u64,
    /// `Some`: a read of the own flag, which was this when the read was posted. `None`: an addition.
    written: Option<u64>,
}

#[derive(Default)]
struct Poster {
    boots: u32,
    open: Vec<Open>,
    /// The sequence last written at each node, and on which incarnation.
    written: HashMap<usize, (u64, u64)>,
    /// Connections, by target and incarnation, on which an error has been seen.
    broken: Vec<(usize, u64)>,
}

/// What is known of the additions at a node.
#[derive(Clone, Copy, Default)]
struct Sum {
    done: u64,
    doubtful: u64,
}

struct Trouble {
    world: World,
    random: Seeded,
    posters: Vec<Poster>,
    sums: Vec<Sum>,
    /// What each node's words held after the event before, and in which life of the node.
    seen: Vec<(u32, Vec<u64>)>,
}

impl Trouble {
    fn new(seed: u64) -> Self {
        let mut random = Seeded::new(seed);
        let nodes = 2 + random.below(5);
        let mut options = Options::new(nodes, 1 + 2 * nodes);
        options.seed = random.number();
        options.costs = any_costs(&mut random);
        options.atomics = [Atomics::Cpu, Atomics::Adapter { apart_ns: 200 }][random.below(2)];
        options.requests_max = [64, 4096][random.below(2)];
        options.detection_ns = [0, 5_000, 50_000][random.below(3)];
        options.rates = [
            Rates::default(),
            Rates { failed_per_million: 5000, duplicated_per_million: 0 },
            Rates { failed_per_million: 1000, duplicated_per_million: 200_000 },
        ][random.below(3)];
        let mut world = World::new(options);
        for (at, fault) in random_plan(&mut random, nodes, 1, SPAN_NS) {
            world.schedule(at, fault);
        }
        let posters = (0..nodes).map(|_| Poster::default()).collect();
        let seen = vec![(0, vec![0; 1 + 2 * nodes]); nodes];
        Self { world, random, posters, sums: vec![Sum::default(); nodes], seen }
    }

    fn run(&mut self) {
        while self.world.now_ns() < SPAN_NS {
            for _ in 0..self.random.below(8) {
                let poster = self.random.below(self.world.nodes());
                self.act(poster);
            }
            let most_ns = [100, 1000, 10_000][self.random.below(3)];
            self.let_pass(most_ns);
        }
        self.settle();
        self.check_sums();
        self.mend();
    }

    fn let_pass(&mut self, most_ns: usize) {
        let end = self.world.now_ns() + self.random.below(most_ns) as u64;
        while self.world.next_event_ns().is_some_and(|time| time <= end) {
            self.world.step();
            self.check_words();
        }
        self.world.advance_to(end);
    }

    fn act(&mut self, node: usize) {
        if !self.world.is_alive(node) {
            return;
        }
        self.notice_restart(node);
        self.take(node);
        let target = self.random.below(self.world.nodes());
        let at = WordAt(COUNTER);
        match self.random.below(3) {
            0 => self.write(node, target),
            1 => self.post(node, target, Request::FetchAdd { at, add: 1 }, None),
            _ => {
                let incarnation = self.world.fabric(node).incarnation(target);
                let written = self.posters[node].written.get(&target).filter(|(_, on)| *on == incarnation);
                let expected = written.map_or(0, |(sequence, _)| *sequence);
                self.post(node, target, Request::Read { at: flag(node) }, Some(expected));
            }
        }
    }

    /// A node that has restarted knows of no ticket; its additions may have taken effect.
    fn notice_restart(&mut self, node: usize) {
        let boots = self.world.fabric(node).boots();
        if self.posters[node].boots != boots {
            self.posters[node].boots = boots;
            self.give_up(node);
        }
    }

    fn give_up(&mut self, node: usize) {
        for open in self.posters[node].open.drain(..).filter(|open| open.written.is_none()) {
            self.sums[open.target].doubtful += 1;
        }
    }

    /// Payload and flag, in one batch or in two.
    fn write(&mut self, node: usize, target: usize) {
        let sequence = self.posters[node].written.get(&target).map_or(0, |(sequence, _)| *sequence) + 1;
        let writes =
            [Request::Write { at: payload(node), value: sequence }, Request::Write { at: flag(node), value: sequence }];
        let fabric = self.world.fabric(node);
        let parts = 1 + self.random.below(2);
        let mut posted = Ok(());
        for batch in writes.chunks(2 / parts) {
            posted = posted.and_then(|()| fabric.post(target, batch, &mut Vec::new()));
        }
        // The next sequence is higher also when only a part was posted; then nothing is to be expected of this one.
        let on = if posted.is_ok() { fabric.incarnation(target) } else { u64::MAX };
        check_refusal(posted, target);
        self.posters[node].written.insert(target, (sequence, on));
    }

    fn post(&mut self, node: usize, target: usize, request: Request, written: Option<u64>) {
        let fabric = self.world.fabric(node);
        let before = fabric.incarnation(target);
        let mut tickets = Vec::new();
        check_refusal(fabric.post(target, &[request], &mut tickets), target);
        let incarnation = fabric.incarnation(target);
        // On a new connection nothing is known of what an older one carried.
        let written = written.map(|sequence| if before == incarnation { sequence } else { 0 });
        let open = tickets.into_iter().map(|ticket| Open { ticket, target, incarnation, written });
        self.posters[node].open.extend(open);
    }

    /// Takes what has completed, in the order posted.
    fn take(&mut self, node: usize) {
        let open = std::mem::take(&mut self.posters[node].open);
        for one in open {
            match self.world.fabric(node).take(one.ticket) {
                Poll::Pending => self.posters[node].open.push(one),
                Poll::Ready(outcome) => self.note(node, &one, outcome.ok()),
            }
        }
    }

    fn note(&mut self, node: usize, open: &Open, value: Option<u64>) {
        let connection = (open.target, open.incarnation);
        let poster = &mut self.posters[node];
        let sum = &mut self.sums[open.target];
        match (value, open.written) {
            (None, kind) => {
                sum.doubtful += u64::from(kind.is_none());
                poster.broken.push(connection);
                return;
            }
            (Some(_), None) => sum.done += 1,
            (Some(value), Some(expected)) => {
                let is_life_of_then = self.world.fabric(open.target).boots() == self.seen[open.target].0;
                assert!(!is_life_of_then || value >= expected, "node {node} wrote {expected} and read {value}");
            }
        }
        assert!(!poster.broken.contains(&connection), "a value after an error, from {node} on {connection:?}");
    }

    /// After every event: words grow while their node lives, and no flag is ahead of its payload.
    fn check_words(&mut self) {
        for node in 0..self.world.nodes() {
            let memory = self.world.memory(node);
            let now: Vec<u64> = (0..memory.words()).map(|at| memory.word(WordAt(at)).load(Ordering::Relaxed)).collect();
            let boots = self.world.fabric(node).boots();
            let (life, before) = &mut self.seen[node];
            if *life == boots {
                let fell = (1..now.len()).find(|at| now[*at] < before[*at]);
                assert_eq!(fell, None, "a word of node {node} fell: {before:?}, then {now:?}");
            }
            for from in 0..self.world.nodes() {
                assert!(now[payload(from).0] >= now[flag(from).0], "flag before payload, {from} to {node}: {now:?}");
            }
            (*life, *before) = (boots, now);
        }
    }

    /// Nothing is under way any more: every ticket of those alive has completed.
    fn settle(&mut self) {
        while self.world.step() {
            self.check_words();
        }
        for node in 0..self.world.nodes() {
            if self.world.is_alive(node) && self.world.fabric(node).boots() == self.posters[node].boots {
                self.take(node);
                assert!(self.posters[node].open.is_empty(), "tickets of node {node} that never complete");
            } else {
                self.give_up(node);
            }
        }
    }

    fn check_sums(&self) {
        for (node, sum) in self.sums.iter().enumerate() {
            let held = self.world.memory(node).word(WordAt(COUNTER)).load(Ordering::Relaxed);
            assert!(held <= sum.done + sum.doubtful, "node {node} holds more than was added");
            // A restart begins again at 0.
            assert!(held >= sum.done || self.world.fabric(node).boots() > 0, "additions were lost at node {node}");
        }
    }

    /// Plans end with cuts and partitions mended: those alive reach each other within a few attempts.
    fn mend(&mut self) {
        let alive: Vec<usize> = (0..self.world.nodes()).filter(|node| self.world.is_alive(*node)).collect();
        for from in &alive {
            for to in &alive {
                let reached = (0..20).any(|_| {
                    let Ok(ticket) = self.world.fabric(*from).read(*to, WordAt(COUNTER)) else { return false };
                    while self.world.step() {}
                    matches!(self.world.fabric(*from).take(ticket), Poll::Ready(Ok(_)))
                });
                assert!(reached, "node {from} does not reach node {to}, though all is mended");
            }
        }
    }
}

fn check_refusal(posted: Result<(), PostError>, target: usize) {
    match posted {
        Ok(()) | Err(PostError::Full { .. }) => {}
        Err(PostError::Unreachable { node, .. }) => assert_eq!(node, target),
        Err(error) => panic!("{error}"),
    }
}

fn any_costs(random: &mut Seeded) -> Costs {
    let jitter = [
        Jitter::None,
        Jitter::Uniform { most_ns: 2000 },
        Jitter::Exponential { mean_ns: 1000 },
        Jitter::HeavyTail { mean_ns: 1000, most_ns: 100_000 },
    ];
    Costs {
        jitter: jitter[random.below(4)],
        receive_overhead_ns: [0, 150][random.below(2)],
        receive_gap_ns: [0, 100][random.below(2)],
        placement: Placement { levels: vec![Level { nodes: 2, extra_ns: [0, 700][random.below(2)] }] },
        ..Costs::default()
    }
}

#[test]
fn the_contract_holds_whatever_goes_wrong() {
    for_each_seed("faults", "the_contract_holds_whatever_goes_wrong", 0..400, |seed| Trouble::new(seed).run());
}

/// What a failure is repeated by: the same seed makes the same events.
#[test]
fn a_seed_repeats_its_trouble() {
    let trace = |seed| {
        let mut trouble = Trouble::new(seed);
        trouble.run();
        (trouble.world.trace(), trouble.world.delivered(), trouble.world.now_ns())
    };
    let traces: Vec<_> = (0..20).map(trace).collect();
    assert_eq!((0..20).map(trace).collect::<Vec<_>>(), traces);
    assert!(traces.iter().all(|(_, delivered, _)| *delivered > 30), "little happened: {traces:?}");
}

/// Plans contain what they are for.
#[test]
fn random_plans_have_every_kind_of_fault() {
    let mut random = Seeded::new(1);
    let plan: Vec<Fault> =
        (0..200).flat_map(|_| random_plan(&mut random, 5, 2, 1000)).map(|(_, fault)| fault).collect();
    let count = |is_one: fn(&Fault) -> bool| plan.iter().filter(|fault| is_one(fault)).count();
    assert!(count(|fault| matches!(fault, Fault::Crash { node } if *node >= 2)) > 20);
    assert_eq!(count(|fault| matches!(fault, Fault::Crash { node } if *node < 2)), 0);
    assert!(count(|fault| matches!(fault, Fault::Restart { .. })) > 10);
    assert!(count(|fault| matches!(fault, Fault::Cut { .. })) > 20);
    assert_eq!(count(|f| matches!(f, Fault::Cut { .. })), count(|f| matches!(f, Fault::Mend { .. })));
    assert_eq!(count(|f| matches!(f, Fault::Partition { .. })), count(|f| matches!(f, Fault::Unite)));
}
