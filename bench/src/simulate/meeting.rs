//! All ranks of all simulated nodes, what wakes them, and the oracle that watches them.
//!
//! A node is polled when something has come in, when its CPU is free, and when one of its ranks is due to arrive. Its
//! ranks' machines are then polled in turn until none moves. A driver that waits for messages does what a sleeping one
//! would: it looks at one word, the last of its round that is missing, and is polled only when that has come. (All of
//! a round must come. With 65,536 nodes and a radix of 64 most polls would be for nothing.)
//!
//! With faults, every node also looks around thoroughly now and then, by its driver or by any other of its ranks, and
//! barriers carry words, whose reduction the oracle knows.

use std::task::Poll;

use phalanx::coord::barrier::layout::MemberWord;
use phalanx::coord::barrier::spanning::layout::{ExchangeWord, SpanLayout};
use phalanx::coord::barrier::spanning::schedule::Message;
use phalanx::coord::barrier::spanning::{Schedule, Span, Spanning};
use phalanx::coord::barrier::{Algorithm, Contribution, Operation, Outcome};
use phalanx::fabric::sim::{Jitter, Seeded, SimFabric, SimNode, World};
use phalanx::fabric::{LINE_WORDS, Memory, WordAt};
use phalanx::sync::Ordering;

use super::Scenario;

/// The block's first word: a simulated node has no header and no rank table.
const START: WordAt = WordAt(0);
/// The most ranks of a node that exchange flatly, as the library chooses.
const FLAT_RANKS: usize = 8;
/// How often a node of a faulty network looks around.
const REPAIR_EVERY_NS: u64 = 100_000;

/// Words that a node's barrier uses: its block without the list of nodes, of which a world has no need.
pub(super) fn words(schedule: Schedule, ranks: usize) -> usize {
    SpanLayout::new(START, schedule, ranks).node(0).0
}

/// Words of the whole block.
pub(super) fn block_words(schedule: Schedule, ranks: usize) -> usize {
    SpanLayout::words(&schedule, ranks)
}

/// What was measured.
pub(super) struct Measured {
    pub mean_ns: f64,
    pub p50_ns: u64,
    pub max_ns: u64,
    pub last_exit_ns: u64,
}

struct Rank {
    machine: Spanning,
    /// When it arrives next.
    due_ns: u64,
}

#[derive(Clone, Copy)]
struct Node {
    /// The word without which its driver need not be polled.
    watched: Option<(WordAt, u64)>,
    repair_ns: u64,
    /// Ranks that have passed the last barrier.
    done: usize,
}

/// What the oracle knows of one barrier.
#[derive(Clone, Copy, Default)]
struct Tally {
    arrived: usize,
    last_ns: u64,
    value: Option<u64>,
}

pub(super) struct Meeting<'scenario> {
    scenario: &'scenario Scenario,
    schedule: Schedule,
    random: Seeded,
    ranks: Vec<Rank>,
    nodes: Vec<Node>,
    /// By sequence, from 1.
    tallies: Vec<Tally>,
    latencies: Vec<u64>,
    last_exit_ns: u64,
    /// When each shared CPU is free.
    cpus_free_ns: Vec<u64>,
    broken: Option<String>,
}

impl<'scenario> Meeting<'scenario> {
    pub fn new(scenario: &'scenario Scenario, world: &World) -> Self {
        let schedule = scenario.schedule();
        let (nodes, ranks) = (scenario.nodes, scenario.ranks_per_node);
        let layout = SpanLayout::new(START, schedule, ranks);
        let span = Span::All { nodes, start: START, members: ranks };
        let mut random = Seeded::new(scenario.seed ^ 0x006d_6565_7469_6e67);
        let mut machines = Vec::with_capacity(nodes * ranks);
        for node in 0..nodes {
            lay_out(world.memory(node), layout);
            for me in 0..ranks {
                let machine = Spanning::new(world.memory(node), layout, span.clone(), node, me);
                machines.push(Rank { machine, due_ns: scenario.skew.sample_ns(&mut random) });
            }
        }
        let barriers = usize::try_from(scenario.barriers).expect("a count of barriers");
        Self {
            scenario,
            schedule,
            random,
            ranks: machines,
            nodes: vec![Node { watched: None, repair_ns: REPAIR_EVERY_NS, done: 0 }; nodes],
            tallies: vec![Tally::default(); barriers + 1],
            latencies: Vec::new(),
            last_exit_ns: 0,
            cpus_free_ns: vec![0; scenario.cpus.unwrap_or(0)],
            broken: None,
        }
    }

    /// What was measured, or which promise was broken.
    pub fn into_measured(mut self) -> Result<Measured, String> {
        if let Some(what) = self.broken {
            return Err(what);
        }
        let count = self.latencies.len();
        if count == 0 {
            return Ok(Measured { mean_ns: 0.0, p50_ns: 0, max_ns: 0, last_exit_ns: 0 });
        }
        let sum: u64 = self.latencies.iter().sum();
        let p50_ns = *self.latencies.select_nth_unstable(count / 2).1;
        let max_ns = self.latencies.iter().copied().max().unwrap_or(0);
        Ok(Measured { mean_ns: sum as f64 / count as f64, p50_ns, max_ns, last_exit_ns: self.last_exit_ns })
    }

    /// Polls a node; ready when all its ranks have passed the last barrier, or a promise is broken.
    pub fn poll(&mut self, node: usize, memory: &SimNode, fabric: &SimFabric) -> Poll<()> {
        if self.broken.is_some() {
            return Poll::Ready(());
        }
        let now = fabric.now_ns();
        if self.waits_in_vain(node, memory, now) || self.waits_for_a_cpu(node, fabric, now) {
            return Poll::Pending;
        }
        self.arrange_first_arrivals(node, fabric, now);
        let is_thorough = self.is_time_to_repair(node, fabric, now);
        self.poll_ranks(node, memory, fabric, is_thorough);
        if let Some(cpu) = self.cpu_of(node) {
            self.cpus_free_ns[cpu] = fabric.busy_until_ns();
        }
        if self.nodes[node].done == self.scenario.ranks_per_node {
            return Poll::Ready(());
        }
        self.watch(node, memory);
        Poll::Pending
    }

    /// Whether nothing can move: the word that this node needs has not come.
    fn waits_in_vain(&self, node: usize, memory: &SimNode, now: u64) -> bool {
        let Some((at, seen)) = self.nodes[node].watched else { return false };
        memory.word(at).load(Ordering::Relaxed) == seen && self.members(node).all(|rank| !self.is_due(rank, now))
    }

    fn cpu_of(&self, node: usize) -> Option<usize> {
        self.scenario.cpus.map(|cpus| node % cpus)
    }

    fn waits_for_a_cpu(&self, node: usize, fabric: &SimFabric, now: u64) -> bool {
        let Some(cpu) = self.cpu_of(node) else { return false };
        let left = self.cpus_free_ns[cpu].saturating_sub(now);
        fabric.compute(left);
        left > 0
    }

    /// At the first poll: later arrivals are arranged when the barrier before is passed.
    fn arrange_first_arrivals(&mut self, node: usize, fabric: &SimFabric, now: u64) {
        if now == 0 && self.scenario.skew != Jitter::None {
            self.members(node).for_each(|rank| fabric.alarm(self.ranks[rank].due_ns));
        }
    }

    fn is_time_to_repair(&mut self, node: usize, fabric: &SimFabric, now: u64) -> bool {
        if self.scenario.faults == 0 && !self.scenario.leaves_cut {
            return false;
        }
        let node = &mut self.nodes[node];
        let is_time = now >= node.repair_ns;
        if is_time || now == 0 {
            node.repair_ns = now + REPAIR_EVERY_NS;
            fabric.alarm(node.repair_ns);
        }
        is_time
    }

    fn members(&self, node: usize) -> std::ops::Range<usize> {
        node * self.scenario.ranks_per_node..(node + 1) * self.scenario.ranks_per_node
    }

    fn is_due(&self, rank: usize, now: u64) -> bool {
        let Rank { machine, due_ns } = &self.ranks[rank];
        !machine.is_outstanding() && machine.passed() < self.scenario.barriers && *due_ns <= now
    }

    /// From the last rank to the driver, so that a gathering comes through in one round; until nobody moves. Two quiet
    /// rounds are needed where one rank's look may be another's news.
    fn poll_ranks(&mut self, node: usize, memory: &SimNode, fabric: &SimFabric, is_thorough: bool) {
        let quiet_rounds = self.scenario.ranks_per_node.min(2);
        let mut quiet = 0;
        let mut is_thorough = is_thorough;
        while quiet < quiet_rounds {
            let mut has_moved = false;
            for rank in self.members(node).rev() {
                has_moved |= self.arrive(rank, memory, fabric);
                has_moved |= self.look(rank, memory, fabric, is_thorough);
                if self.broken.is_some() {
                    return;
                }
            }
            is_thorough = false;
            quiet = if has_moved { 0 } else { quiet + 1 };
        }
    }

    fn arrive(&mut self, rank: usize, memory: &SimNode, fabric: &SimFabric) -> bool {
        if !self.is_due(rank, fabric.now_ns()) {
            return false;
        }
        let sequence = self.ranks[rank].machine.passed() + 1;
        let contribution = self.contribution(rank, sequence);
        self.ranks[rank].machine.arrive(memory, contribution, None);
        if !rank.is_multiple_of(self.scenario.ranks_per_node) {
            fabric.compute(self.scenario.local_ns);
        }
        let tally = &mut self.tallies[index(sequence)];
        tally.arrived += 1;
        tally.last_ns = tally.last_ns.max(fabric.now_ns());
        let combined = |value| contribution.operation.combine(value, contribution.value);
        tally.value = Some(tally.value.map_or(contribution.value, combined));
        true
    }

    /// Plain barriers, one word a message; where things go wrong, reductions too.
    fn contribution(&self, rank: usize, sequence: u64) -> Contribution {
        const OPERATIONS: [Operation; 5] =
            [Operation::Barrier, Operation::Min, Operation::Max, Operation::And, Operation::Or];
        if self.scenario.faults == 0 {
            return Contribution::NONE;
        }
        let value = Seeded::new(self.scenario.seed ^ (rank as u64) << 32 ^ sequence).number();
        Contribution { operation: OPERATIONS[index(sequence) % OPERATIONS.len()], value }
    }

    /// Polls one rank; whether it has passed.
    fn look(&mut self, rank: usize, memory: &SimNode, fabric: &SimFabric, is_thorough: bool) -> bool {
        let how = if is_thorough { self.random.below(3) } else { 0 };
        let machine = &mut self.ranks[rank].machine;
        if !machine.is_outstanding() {
            return false;
        }
        let polled = match how {
            0 => machine.poll(memory, fabric),
            1 => machine.poll_thoroughly(memory, fabric),
            _ => machine.repair(memory, fabric),
        };
        let Poll::Ready(outcome) = polled else { return false };
        self.pass(rank, &outcome, fabric);
        true
    }

    fn pass(&mut self, rank: usize, outcome: &Outcome, fabric: &SimFabric) {
        let ranks = self.scenario.ranks_per_node;
        let is_driver = rank.is_multiple_of(ranks);
        let sequence = self.ranks[rank].machine.passed();
        let exit_ns = fabric.busy_until_ns() + if is_driver { 0 } else { self.scenario.local_ns };
        let tally = self.tallies[index(sequence)];
        let missing = self.ranks.len() - tally.arrived;
        if missing > 0 {
            let what = format!("rank {rank} passes barrier {sequence} before {missing} others have arrived");
            self.broken.get_or_insert(what);
            return;
        }
        let contribution = self.contribution(rank, sequence);
        let expected = if contribution.operation.has_value() { tally.value.unwrap_or(0) } else { 0 };
        if *outcome != Ok(expected) {
            let what = format!("rank {rank} passes barrier {sequence} with {outcome:?} instead of {expected}");
            self.broken.get_or_insert(what);
            return;
        }
        self.latencies.push(exit_ns.saturating_sub(tally.last_ns));
        self.last_exit_ns = self.last_exit_ns.max(exit_ns);
        if sequence == self.scenario.barriers {
            self.nodes[rank / ranks].done += 1;
            return;
        }
        let due_ns = exit_ns + self.scenario.skew.sample_ns(&mut self.random);
        self.ranks[rank].due_ns = due_ns;
        if due_ns > fabric.busy_until_ns() {
            fabric.alarm(due_ns);
        }
    }

    /// Notes the last missing word of the driver's round.
    fn watch(&mut self, node: usize, memory: &SimNode) {
        self.nodes[node].watched = None;
        let driver = &self.ranks[node * self.scenario.ranks_per_node].machine;
        let is_calm = self.scenario.faults == 0 && !self.scenario.leaves_cut && driver.trouble().is_none();
        let awaited = if is_calm { driver.awaited_from_afar(memory) } else { None };
        let Some((first, _)) = awaited else { return };
        let (layout, schedule) = (driver.layout(), self.schedule);
        let slot = (first.0 - layout.inbox(0, 0).0) / LINE_WORDS;
        let sequence = driver.passed() + 1;
        let word = |message: Message| {
            let at = layout.inbox(message.slot, sequence);
            (at, memory.word(at).load(Ordering::Relaxed))
        };
        let is_missing = |(_, value): &(WordAt, u64)| ExchangeWord(*value).sequence() < sequence;
        self.nodes[node].watched = schedule.hears(node, schedule.round_of(slot)).map(word).filter(is_missing).last();
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a count of barriers, which a vector holds")]
fn index(sequence: u64) -> usize {
    sequence as usize
}

/// The local members' part of a block, as the library makes it.
fn lay_out(memory: &SimNode, layout: SpanLayout) {
    let local = layout.local();
    let size = local.size();
    let algorithm = if size <= FLAT_RANKS { Algorithm::Flat } else { Algorithm::Tree };
    let store = |at, value| memory.word(at).store(value, Ordering::Relaxed);
    store(local.size_word(), size as u64);
    store(local.algorithm(), algorithm as u64);
    for member in 0..size {
        let parent = member.checked_sub(1).map(|before| before / FLAT_RANKS);
        store(local.member(member), MemberWord::new(member, parent).0);
    }
}
