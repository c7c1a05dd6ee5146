//! Sentinels on a simulated network in trouble: nodes die with and without a word, ranks are killed and stopped, links are
//! cut one way and both, partitions come and heal. On some seeds the job's ranks meet at barriers meanwhile. In every run
//! an oracle, which knows what has happened, checks that
//!
//! - all nodes that know an epoch know the same, and it never changes;
//! - nobody is declared failed without a reason, and in calm nobody is at all;
//! - every surviving node learns of every failure, within a bound, where enough nodes are left to agree;
//! - a minority decides nothing; what it doubts ends with the partition, unless it was excluded meanwhile;
//! - every wait at a barrier ends, and nobody passes one that a member had not reached.
//!
//! `PHALANX_SEEDS=N` runs N seeds instead of the usual number, `PHALANX_SEED=S` one.
#![cfg(not(model))]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use common::seeds::for_each_seed;
use phalanx::FailureCause;
use phalanx::cluster::sentinel::{BUSY_PAUSE, Post, Sentinel, SentinelOptions, Site, Surroundings};
use phalanx::cluster::view::{self, Obituary, Unit};
use phalanx::coord::barrier::spanning::{Schedule, Span, SpanNode, Spanning};
use phalanx::coord::barrier::{Algorithm, Contribution};
use phalanx::coord::formation::{self, Member};
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS, header};
use phalanx::fabric::sim::{Costs, Fault, Jitter, Options, Rates, Seeded, SimFabric, SimNode, World};
use phalanx::fabric::{AtomicScope, Fabric, FabricKind, Memory, OperationError, PostError, Request, Ticket, Topology};
use phalanx::sync::Ordering;

const MS: u64 = 1_000_000;
/// Faults happen at the ends of such slices of time only.
const SLICE: u64 = MS;
const TIMEOUT: Duration = Duration::from_millis(100);
const HEARTBEAT: Duration = Duration::from_millis(20);
/// When the first fault happens, at the earliest.
const BEGINNING: u64 = 200 * MS;
/// How long a run goes on after its last fault.
const AFTERWARDS: u64 = 1_500 * MS;
/// After this long in a wait a member looks into others' outboxes, and then asks after those that it misses.
const REPAIR_AFTER: u64 = 2 * MS;
const ASK_AFTER: u64 = 20 * MS;
const ASK_EVERY: u64 = 10 * MS;

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
enum Trouble {
    /// All processes of a node end: its kernel refuses whoever connects.
    Gone(usize),
    /// A machine dies.
    Silent(usize),
    /// A process of a node that others of its node survive.
    Killed(usize),
    Stopped(usize),
    Continued(usize),
    Cut(usize, usize),
    Mend(usize, usize),
    Partition(Vec<u32>),
    Unite,
}

/// What kernels and connections know, outside of the nodes' words.
#[derive(Default)]
struct Nature {
    /// Nodes whose processes have ended, and when.
    refuses: HashMap<usize, u64>,
    /// Since when one node has found another's ports closed.
    refused: HashMap<(usize, usize), (u64, u64)>,
    /// Who has shut out whom.
    excluded: HashSet<(usize, usize)>,
    stopped: HashSet<usize>,
    agents: HashSet<usize>,
    sides: Option<Vec<u32>>,
    cuts: HashSet<(usize, usize)>,
}

impl Nature {
    fn is_open(&self, from: usize, to: usize) -> bool {
        let is_one_side = self.sides.as_ref().is_none_or(|sides| sides[from] == sides[to]);
        is_one_side && !self.cuts.contains(&(from, to)) && !self.cuts.contains(&(to, from))
    }
}

/// A node's way to the others, which keeps out whoever was shut out.
struct Gate<'run> {
    fabric: &'run SimFabric,
    memory: &'run SimNode,
    nature: &'run RefCell<Nature>,
}

impl Fabric for Gate<'_> {
    fn here(&self) -> usize {
        self.fabric.here()
    }

    fn nodes(&self) -> usize {
        self.fabric.nodes()
    }

    fn words_of(&self, node: usize) -> usize {
        self.fabric.words_of(node)
    }

    fn kind_of(&self, node: usize) -> FabricKind {
        self.fabric.kind_of(node)
    }

    fn atomic_scope(&self, node: usize) -> AtomicScope {
        self.fabric.atomic_scope(node)
    }

    fn incarnation(&self, node: usize) -> u64 {
        self.fabric.incarnation(node)
    }

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        let nature = self.nature.borrow();
        let unreachable = |why: &str| Err(PostError::Unreachable { node, why: why.to_owned() });
        if nature.excluded.contains(&(self.here(), node)) {
            return unreachable("it has been declared failed");
        }
        if nature.excluded.contains(&(node, self.here())) && nature.is_open(self.here(), node) {
            if self.memory.word(header::EXCLUDED).swap(1, Ordering::Relaxed) == 0 {
                view::raise_alarm(self.memory);
            }
            return unreachable("it has declared this node failed");
        }
        self.fabric.post(node, requests, tickets)
    }

    fn progress(&self) {}

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        self.fabric.take(ticket)
    }

    fn forget(&self, ticket: Ticket) {
        self.fabric.forget(ticket);
    }
}

/// A rank's surroundings.
struct Place<'run> {
    nature: &'run RefCell<Nature>,
    topology: &'run Topology,
    rank: usize,
    now: u64,
}

impl Place<'_> {
    fn here(&self) -> usize {
        self.topology.node_of(self.rank)
    }
}

impl Surroundings for Place<'_> {
    fn is_agent(&self) -> bool {
        self.nature.borrow().agents.contains(&self.rank)
    }

    fn become_agent(&self) -> bool {
        self.nature.borrow_mut().agents.insert(self.rank)
    }

    fn is_stopped(&self, local: usize) -> bool {
        self.nature.borrow().stopped.contains(&self.topology.ranks_of(self.here())[local])
    }

    fn probe(&self, node: usize) {
        let mut nature = self.nature.borrow_mut();
        let link = (self.here(), node);
        if nature.refuses.contains_key(&node) && nature.is_open(link.0, link.1) {
            nature.refused.entry(link).or_insert((self.now, self.now)).1 = self.now;
        } else {
            nature.refused.remove(&link);
        }
    }

    fn refused_by_all(&self, node: usize) -> Option<Duration> {
        let nature = self.nature.borrow();
        let (first, last) = nature.refused.get(&(self.here(), node))?;
        Some(Duration::from_nanos(last - first))
    }

    fn shut_out(&self, lost: Obituary) {
        if let Unit::Node(node) = lost.unit
            && node != self.here()
            && lost.cause != FailureCause::Left
        {
            self.nature.borrow_mut().excluded.insert((self.here(), node));
        }
    }

    fn rouse(&self) {}
}

/// How a rank's part in the barriers stands.
#[derive(Clone, Debug, PartialEq)]
enum Stand {
    /// It computes until then.
    Computing(u64),
    Waiting {
        since: u64,
        repairs_at: u64,
        asks_at: u64,
    },
    /// All rounds are over.
    Done,
    /// A member will never come.
    Failed,
    Excluded,
}

struct Meeting {
    machine: Spanning,
    stand: Stand,
    alarm: u64,
    /// It has been told that nodes are unreachable, in the wait that goes on.
    is_doubtful: bool,
}

/// A rank's process.
struct Actor {
    rank: usize,
    node: usize,
    sentinel: Sentinel,
    due: u64,
    is_busy: bool,
    alarm: u64,
    has_breach: bool,
    is_dead: bool,
    meeting: Option<Meeting>,
}

struct Run {
    world: World,
    topology: Arc<Topology>,
    layouts: Arc<[NodeLayout]>,
    nature: RefCell<Nature>,
    actors: Vec<Actor>,
    /// At how many barriers each rank has arrived.
    arrived: RefCell<Vec<u64>>,
    rounds: u64,
    random: RefCell<Seeded>,
    /// When each node knew how many epochs.
    known: RefCell<Vec<Vec<u64>>>,
    logs: Vec<Vec<u64>>,
    alarms: RefCell<Vec<u64>>,
    /// Reasons to declare somebody failed, and since when there are.
    reasons: HashMap<Unit, u64>,
    plan: BTreeMap<u64, Vec<Trouble>>,
    /// What has happened, and when, in ms.
    history: Vec<(u64, Trouble)>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ranks: Vec<&[usize]> = (0..self.layouts.len()).map(|node| self.topology.ranks_of(node)).collect();
            eprintln!("ranks of the nodes: {ranks:?}\nit happened, in ms: {:?}", self.history);
            eprintln!("at how many barriers each rank has arrived: {:?}", self.arrived.borrow());
            let stands = self.actors.iter().filter_map(|actor| Some(&actor.meeting.as_ref()?.stand));
            eprintln!("how each stands: {:?}", stands.collect::<Vec<&Stand>>());
        }
    }
}

/// How a job is made.
#[derive(Clone, Copy, Debug)]
struct Shape {
    nodes: usize,
    most_ranks: usize,
    rounds: u64,
    failed_per_million: u32,
}

impl Run {
    fn new(seed: u64, shape: Shape) -> Self {
        let mut random = Seeded::new(seed);
        let Shape { nodes, most_ranks, rounds, failed_per_million } = shape;
        let counts = (0..nodes).map(|_| 1 + random.below(most_ranks)).collect();
        Self::of_counts(random.number(), counts, rounds, failed_per_million)
    }

    /// With so many ranks on each node.
    fn of_counts(seed: u64, counts: Vec<usize>, rounds: u64, failed_per_million: u32) -> Self {
        let (mut random, nodes) = (Seeded::new(seed), counts.len());
        let keys: Vec<usize> = counts.iter().enumerate().flat_map(|(node, count)| vec![node; *count]).collect();
        let topology = Arc::new(Topology::from_keys(&keys));
        let ranks = topology.ranks();
        let schedule = Schedule::dissemination(nodes, 2 + random.below(3));
        let arena = |count| if rounds > 0 { formation::units_spanning(&schedule, count) * UNIT_WORDS } else { 1 };
        let layouts = counts.iter().map(|count| NodeLayout::new(*count, arena(*count)).in_job(ranks, nodes));
        let layouts: Arc<[NodeLayout]> = layouts.collect();
        let mut options = Options::new(nodes, 0);
        options.seed = random.number();
        options.requests_max = 8192;
        options.detection_ns = [100_000, MS][random.below(2)];
        let jitters = [
            Jitter::Uniform { most_ns: 50_000 },
            Jitter::HeavyTail { mean_ns: 20_000, most_ns: 5 * MS },
            Jitter::Exponential { mean_ns: 200_000 },
        ];
        options.costs = Costs { latency_ns: 20_000, jitter: jitters[random.below(3)], ..Costs::default() };
        options.rates = Rates { failed_per_million, duplicated_per_million: 0 };
        let world = World::with_words(options, |node| layouts[node].words());
        let span_layouts: Vec<_> = (0..if rounds > 0 { nodes } else { 0 })
            .map(|node| {
                let members: Vec<Member> = (0..counts[node]).map(|local| Member { rank: local, local }).collect();
                let algorithm = Algorithm::ALL[random.below(3)];
                formation::make_spanning(world.memory(node), &layouts[node], schedule, &members, algorithm)
                    .expect("space")
            })
            .collect();
        let place = |(node, layout): (usize, &phalanx::coord::barrier::spanning::layout::SpanLayout)| SpanNode {
            node,
            start: layout.start(),
            members: counts[node],
        };
        let span = Span::Some(span_layouts.iter().enumerate().map(place).collect());
        let actor = |rank: usize| {
            let node = topology.node_of(rank);
            let post = Post {
                rank,
                layouts: Arc::clone(&layouts),
                topology: Arc::clone(&topology),
                options: SentinelOptions { timeout: TIMEOUT, heartbeat: HEARTBEAT },
                seed,
            };
            let meeting = (rounds > 0).then(|| Meeting {
                machine: Spanning::new(
                    world.memory(node),
                    span_layouts[node],
                    span.clone(),
                    node,
                    topology.local_of(rank),
                ),
                stand: Stand::Computing(0),
                alarm: 0,
                is_doubtful: false,
            });
            // Processes do not begin together.
            let due = (rank as u64 * 7_919_993) % (20 * MS);
            Actor {
                rank,
                node,
                sentinel: Sentinel::new(post),
                due,
                is_busy: false,
                alarm: 0,
                has_breach: false,
                is_dead: false,
                meeting,
            }
        };
        let actors = (0..ranks).map(actor).collect();
        Self {
            world,
            nature: RefCell::default(),
            actors,
            arrived: RefCell::new(vec![0; ranks]),
            rounds,
            random: RefCell::new(random),
            known: RefCell::new(vec![Vec::new(); nodes]),
            logs: vec![Vec::new(); nodes],
            alarms: RefCell::new(vec![0; nodes]),
            reasons: HashMap::new(),
            plan: BTreeMap::new(),
            history: Vec::new(),
            topology,
            layouts,
        }
    }

    fn at(&mut self, ms: u64, trouble: Trouble) {
        self.plan.entry(ms * MS).or_default().push(trouble);
    }

    /// Lets time go on to `end`, with all that is planned on the way.
    fn go(&mut self, end: u64) {
        while self.world.now_ns() < end {
            let now = self.world.now_ns();
            let due: Vec<u64> = self.plan.range(..=now).map(|(at, _)| *at).collect();
            for at in due {
                self.plan.remove(&at).into_iter().flatten().for_each(|trouble| self.apply(&trouble));
            }
            self.slice((now + SLICE).min(end));
            self.shut_out();
            self.check_logs();
        }
    }

    fn is_last(&self, rank: usize) -> bool {
        let others = self.topology.ranks_of(self.topology.node_of(rank)).iter().filter(|other| **other != rank);
        others.into_iter().all(|other| self.actors[*other].is_dead)
    }

    fn apply(&mut self, trouble: &Trouble) {
        let now = self.world.now_ns();
        self.history.push((now / MS, trouble.clone()));
        if let Trouble::Killed(rank) = *trouble
            && self.is_last(rank)
        {
            return self.apply(&Trouble::Gone(self.topology.node_of(rank)));
        }
        let mut blame = |unit| {
            self.reasons.entry(unit).or_insert(now);
        };
        match *trouble {
            Trouble::Gone(node) | Trouble::Silent(node) => {
                blame(Unit::Node(node));
                self.world.apply(&Fault::Crash { node });
                self.actors.iter_mut().filter(|actor| actor.node == node).for_each(|actor| actor.is_dead = true);
                if matches!(trouble, Trouble::Gone(_)) {
                    self.nature.borrow_mut().refuses.insert(node, now);
                    // The kernel resets its connections.
                    let nature = self.nature.borrow();
                    let others = self.actors.iter_mut().filter(|actor| nature.is_open(actor.node, node));
                    others.for_each(|actor| actor.has_breach = true);
                }
            }
            Trouble::Killed(rank) => {
                blame(Unit::Rank(rank));
                self.actors[rank].is_dead = true;
                let (node, local) = (self.topology.node_of(rank), self.topology.local_of(rank));
                let killed = Obituary { unit: Unit::Rank(rank), cause: FailureCause::Killed { signal: 9 } };
                view::note_end(self.world.memory(node), self.layouts[node].end(local), killed);
                view::raise_alarm(self.world.memory(node));
            }
            Trouble::Stopped(rank) => {
                blame(Unit::Rank(rank));
                let node = self.topology.node_of(rank);
                let mut nature = self.nature.borrow_mut();
                nature.stopped.insert(rank);
                let is_idle = |rank: &usize| nature.stopped.contains(rank) || self.actors[*rank].is_dead;
                if self.topology.ranks_of(node).iter().all(is_idle) {
                    blame(Unit::Node(node));
                }
            }
            Trouble::Continued(rank) => drop(self.nature.borrow_mut().stopped.remove(&rank)),
            Trouble::Cut(from, to) => {
                [from, to].into_iter().for_each(|node| blame(Unit::Node(node)));
                self.nature.borrow_mut().cuts.insert((from, to));
                self.world.apply(&Fault::Cut { from, to });
            }
            Trouble::Mend(from, to) => {
                self.nature.borrow_mut().cuts.remove(&(from, to));
                self.world.apply(&Fault::Mend { from, to });
            }
            Trouble::Partition(ref sides) => {
                (0..sides.len()).for_each(|node| blame(Unit::Node(node)));
                self.nature.borrow_mut().sides = Some(sides.clone());
                self.world.apply(&Fault::Partition { sides: sides.clone() });
            }
            Trouble::Unite => {
                self.nature.borrow_mut().sides = None;
                self.world.apply(&Fault::Unite);
            }
        }
    }

    /// What comes from those who are shut out is not read.
    fn shut_out(&mut self) {
        for (judge, lost) in &self.nature.borrow().excluded {
            self.world.apply(&Fault::Cut { from: *lost, to: *judge });
        }
    }

    fn slice(&mut self, end: u64) {
        let Self { world, topology, layouts, nature, actors, arrived, rounds, random, known, alarms, .. } = self;
        world.run_until(end, |node, memory, fabric| {
            let now = fabric.now_ns();
            let gate = Gate { fabric, memory, nature };
            let mut next = u64::MAX;
            for rank in topology.ranks_of(node) {
                let actor = &mut actors[*rank];
                if actor.is_dead || nature.borrow().stopped.contains(rank) {
                    continue;
                }
                let place = Place { nature, topology, rank: *rank, now };
                actor.look(&gate, &place, now);
                next = next.min(actor.due);
                let table = Table { topology, layouts, nature, arrived, rounds: *rounds, random };
                next = next.min(actor.meet(&gate, &table, now));
            }
            let epochs = usize::try_from(view::epoch(memory, &layouts[node])).expect("few");
            let known = &mut known.borrow_mut()[node];
            let news = epochs - known.len();
            known.extend(std::iter::repeat_n(now, news));
            let alarm = &mut alarms.borrow_mut()[node];
            if next < u64::MAX && (*alarm <= now || next < *alarm) {
                *alarm = next.max(now + 1);
                fabric.alarm(*alarm);
            }
            Poll::Pending
        });
    }

    /// All know the same, and it stays.
    fn check_logs(&mut self) {
        for node in 0..self.layouts.len() {
            let layout = self.layouts[node];
            let memory = self.world.memory(node);
            let epochs = view::epoch(memory, &layout);
            for epoch in 1..=epochs {
                let word = memory.word(layout.epoch(epoch).decided()).load(Ordering::Relaxed);
                let at = usize::try_from(epoch - 1).expect("few");
                match self.logs[node].get(at) {
                    Some(before) => assert_eq!(*before, word, "epoch {epoch} has changed on node {node}"),
                    None => self.logs[node].push(word),
                }
            }
        }
        let longest = self.logs.iter().max_by_key(|log| log.len()).expect("nodes").clone();
        for (node, log) in self.logs.iter().enumerate() {
            assert_eq!(log[..], longest[..log.len()], "node {node} knows other epochs");
        }
        for word in &longest {
            let lost = Obituary::unpack(*word).expect("an obituary");
            assert!(self.reasons.contains_key(&lost.unit), "{lost:?} for no reason");
        }
        let units: HashSet<Unit> =
            longest.iter().filter_map(|word| Obituary::unpack(*word)).map(|lost| lost.unit).collect();
        assert_eq!(units.len(), longest.len(), "each unit once");
    }

    /// Units in the log, as far as anybody knows it.
    fn log(&self) -> Vec<Obituary> {
        let longest = self.logs.iter().max_by_key(|log| log.len()).expect("nodes");
        longest.iter().filter_map(|word| Obituary::unpack(*word)).collect()
    }

    fn has_failed(&self, unit: Unit) -> bool {
        let home = match unit {
            Unit::Rank(rank) => self.topology.node_of(rank),
            Unit::Node(node) => node,
        };
        self.log().iter().any(|lost| lost.unit == unit || lost.unit == Unit::Node(home))
    }

    /// Nodes that live and have not been declared failed.
    fn survivors(&self) -> Vec<usize> {
        let lives = |node: &usize| self.world.is_alive(*node) && !self.has_failed(Unit::Node(*node));
        (0..self.layouts.len()).filter(lives).collect()
    }

    /// Whether these can decide anything.
    fn can_decide(&self, nodes: &[usize]) -> bool {
        let gone = (0..self.layouts.len()).filter(|node| self.nature.borrow().refuses.contains_key(node)).count();
        let majority = self.layouts.len() / 2 + 1;
        !nodes.is_empty() && nodes.len() >= majority.min(self.layouts.len() - gone)
    }

    fn doubts(&self, node: usize) -> Vec<usize> {
        let load =
            |other: &usize| self.world.memory(node).word(self.layouts[node].doubt(*other)).load(Ordering::Relaxed);
        (0..self.layouts.len()).filter(|other| load(other) != 0).collect()
    }

    fn is_excluded(&self, node: usize) -> bool {
        self.world.memory(node).word(header::EXCLUDED).load(Ordering::Relaxed) != 0
    }

    /// At the end, when no link is cut any more.
    fn check_end(&self) {
        let survivors = self.survivors();
        let log = self.log();
        if self.can_decide(&survivors) {
            for node in &survivors {
                assert_eq!(self.logs[*node].len(), log.len(), "node {node} has not heard all: {log:?}");
                assert_eq!(self.doubts(*node), [0_usize; 0], "node {node} doubts still");
            }
            for actor in self.actors.iter().filter(|actor| actor.is_dead) {
                let is_known = self.has_failed(Unit::Rank(actor.rank));
                assert!(is_known, "nobody has noticed that rank {} is dead: {log:?}", actor.rank);
            }
        }
        for node in (0..self.layouts.len()).filter(|node| self.world.is_alive(*node)) {
            let is_lost = self.has_failed(Unit::Node(node));
            if is_lost && !survivors.is_empty() {
                assert!(
                    self.is_excluded(node) || self.knows_of_itself(node),
                    "node {node} does not know that it is lost"
                );
            }
            assert!(is_lost || !self.is_excluded(node), "node {node} is excluded for no reason");
        }
        self.check_waits(self.can_decide(&survivors));
    }

    fn knows_of_itself(&self, node: usize) -> bool {
        self.logs[node].iter().any(|word| Obituary::unpack(*word).is_some_and(|lost| lost.unit == Unit::Node(node)))
    }

    fn check_waits(&self, has_quorum: bool) {
        for actor in self.actors.iter().filter(|actor| !actor.is_dead) {
            let Some(meeting) = &actor.meeting else { continue };
            let has_ended = match &meeting.stand {
                Stand::Done | Stand::Failed | Stand::Excluded => true,
                Stand::Computing(_) => false,
                Stand::Waiting { .. } => meeting.is_doubtful && !has_quorum,
            };
            let what = &meeting.stand;
            let log = self.log();
            assert!(
                has_ended,
                "rank {} on node {} is left: {what:?}, passed {}, {log:?}",
                actor.rank,
                actor.node,
                meeting.machine.passed()
            );
        }
    }

    /// From a failure until the last surviving node knew of it.
    fn detection(&self, unit: Unit, since: u64) -> Option<u64> {
        let home = match unit {
            Unit::Rank(rank) => Unit::Node(self.topology.node_of(rank)),
            node => node,
        };
        let at = self.log().iter().position(|lost| lost.unit == unit || lost.unit == home)?;
        let known = self.known.borrow();
        self.survivors().iter().map(|node| known[*node][at].saturating_sub(since)).max()
    }
}

/// What a rank's part in the barriers needs to know, and what the oracle knows.
struct Table<'run> {
    topology: &'run Topology,
    layouts: &'run [NodeLayout],
    nature: &'run RefCell<Nature>,
    arrived: &'run RefCell<Vec<u64>>,
    rounds: u64,
    random: &'run RefCell<Seeded>,
}

impl Actor {
    /// As the thread does that drives a sentinel.
    fn look(&mut self, gate: &Gate<'_>, place: &Place<'_>, now: u64) {
        let site = Site { memory: gate.memory, fabric: gate, surroundings: place, now: Duration::from_nanos(now) };
        let alarm = gate.memory.word(header::ALARM).load(Ordering::Relaxed);
        if std::mem::take(&mut self.has_breach) {
            self.sentinel.handle_breach(&site);
        } else if alarm == self.alarm && now < self.due && !self.is_busy {
            return;
        }
        self.alarm = alarm;
        let pause = self.sentinel.step(&site);
        self.is_busy = pause == Some(Duration::ZERO);
        let pause = pause.map(|pause| if pause.is_zero() { BUSY_PAUSE } else { pause });
        self.due = pause.map_or(u64::MAX, |pause| now + u64::try_from(pause.as_nanos()).expect("short"));
    }

    /// As a rank does that passes barriers. When it wants to look again.
    fn meet(&mut self, gate: &Gate<'_>, table: &Table<'_>, now: u64) -> u64 {
        let Some(mut meeting) = self.meeting.take() else { return u64::MAX };
        let next = self.meet_by(&mut meeting, gate, table, now);
        self.meeting = Some(meeting);
        next
    }

    fn meet_by(&self, meeting: &mut Meeting, gate: &Gate<'_>, table: &Table<'_>, now: u64) -> u64 {
        match meeting.stand {
            Stand::Computing(until) if now < until => return until,
            Stand::Computing(_) if meeting.machine.passed() == table.rounds => meeting.stand = Stand::Done,
            Stand::Computing(_) => {
                meeting.machine.arrive(gate.memory, Contribution::NONE, None);
                table.arrived.borrow_mut()[self.rank] += 1;
                meeting.stand = Stand::Waiting { since: now, repairs_at: now + REPAIR_AFTER, asks_at: now + ASK_AFTER };
                meeting.alarm = u64::MAX;
            }
            Stand::Waiting { .. } => {}
            Stand::Done | Stand::Failed | Stand::Excluded => return u64::MAX,
        }
        let Stand::Waiting { repairs_at, asks_at, .. } = &mut meeting.stand else { return u64::MAX };
        let polled = if now >= *repairs_at {
            *repairs_at = now + REPAIR_AFTER;
            meeting.machine.repair(gate.memory, gate)
        } else {
            meeting.machine.poll_thoroughly(gate.memory, gate)
        };
        let mut next = *repairs_at;
        if now >= *asks_at {
            *asks_at = now + ASK_EVERY;
            self.ask(meeting.machine.passed() + 1, gate, table);
        }
        if polled.is_ready() {
            let sequence = meeting.machine.passed();
            let late = table.arrived.borrow().iter().position(|arrived| *arrived < sequence);
            assert_eq!(late, None, "rank {} passed {sequence} before that rank", self.rank);
            let pause = table.random.borrow_mut().number() % (20 * MS);
            (meeting.stand, meeting.is_doubtful) = (Stand::Computing(now + pause), false);
            next = now + pause;
        } else {
            self.heed(meeting, gate, table);
        }
        next
    }

    /// Asks after those that have not arrived.
    fn ask(&self, sequence: u64, gate: &Gate<'_>, table: &Table<'_>) {
        if table.nature.borrow().stopped.is_empty() {
            return;
        }
        for (rank, arrived) in table.arrived.borrow().iter().enumerate() {
            let home = table.topology.node_of(rank);
            if *arrived < sequence {
                let at = table.layouts[home].asked_after(table.topology.local_of(rank));
                if let Ok(ticket) = gate.fetch_add(home, at, 1) {
                    gate.forget(ticket);
                }
            }
        }
    }

    /// The rule of `src/group/failures.rs`: who has failed never arrives, whatever its word says.
    fn heed(&self, meeting: &mut Meeting, gate: &Gate<'_>, table: &Table<'_>) {
        let alarm = gate.memory.word(header::ALARM).load(Ordering::Relaxed);
        if alarm == meeting.alarm {
            return;
        }
        meeting.alarm = alarm;
        let layout = table.layouts[self.node];
        let sequence = meeting.machine.passed() + 1;
        let mut is_lost = false;
        let mut is_closed = gate.memory.word(header::EXCLUDED).load(Ordering::Relaxed) != 0;
        for epoch in 1..=view::epoch(gate.memory, &layout) {
            match view::obituary(gate.memory, &layout, epoch) {
                Some(Obituary { unit: Unit::Rank(rank), cause }) => {
                    is_closed |= rank == self.rank;
                    is_lost |= cause != FailureCause::Left || table.arrived.borrow()[rank] < sequence;
                }
                Some(Obituary { unit: Unit::Node(node), .. }) => {
                    is_closed |= node == self.node;
                    is_lost = true;
                }
                None => {}
            }
        }
        let is_doubtful = |node: usize| gate.memory.word(layout.doubt(node)).load(Ordering::Relaxed) != 0;
        meeting.is_doubtful |= (0..table.layouts.len()).any(is_doubtful);
        if is_closed || is_lost {
            meeting.machine.give_up(gate.memory, gate);
            meeting.stand = if is_closed { Stand::Excluded } else { Stand::Failed };
        }
    }
}

/// Any of the troubles that have an end by themselves, and when the last of it happens, in ms.
fn any_trouble(run: &mut Run, random: &mut Seeded) -> u64 {
    let nodes = run.layouts.len();
    let start = BEGINNING / MS + random.below(100) as u64;
    let mut end = start;
    for _ in 0..1 + usize::from(random.below(3) == 0) {
        let at = start + if random.below(2) == 0 { 0 } else { random.below(200) as u64 };
        let heals = at + [30 + random.below(120), 300 + random.below(500)][random.below(2)] as u64;
        end = end.max(heals);
        let node = random.below(nodes);
        let rank = random.below(run.topology.ranks());
        let has_company = run.topology.ranks_of(run.topology.node_of(rank)).len() > 1;
        match random.below(8) {
            0 => run.at(at, Trouble::Gone(node)),
            1 => run.at(at, Trouble::Silent(node)),
            2 | 3 if has_company => run.at(at, Trouble::Killed(rank)),
            2 => run.at(at, Trouble::Gone(node)),
            3 | 4 => {
                run.at(at, Trouble::Stopped(rank));
                run.at(heals, Trouble::Continued(rank));
            }
            5 => {
                let most = 1 + random.below(nodes);
                let sides = (0..nodes).map(|_| u32::from(random.below(nodes) < most)).collect();
                run.at(at, Trouble::Partition(sides));
                run.at(heals, Trouble::Unite);
            }
            6 => {
                let others = (0..nodes).filter(|other| *other != node);
                let is_outwards = random.below(2) == 0;
                let link = |other| if is_outwards { (node, other) } else { (other, node) };
                others.for_each(|other| {
                    run.at(at, Trouble::Cut(link(other).0, link(other).1));
                    run.at(heals, Trouble::Mend(link(other).0, link(other).1));
                });
            }
            _ => {
                let other = random.below(nodes);
                run.at(at, Trouble::Cut(node, other));
                run.at(heals, Trouble::Mend(node, other));
            }
        }
    }
    end
}

fn seeds(usual: u64) -> std::ops::Range<u64> {
    0..std::env::var("PHALANX_SEEDS").map_or(usual, |text| text.parse().expect("PHALANX_SEEDS is a number"))
}

fn trouble(seed: u64, sizes: &[usize]) {
    let mut random = Seeded::new(seed ^ 0x5e17);
    let nodes = sizes[random.below(sizes.len())];
    let rounds = if nodes <= 32 { [0, 100_000][random.below(2)] } else { 0 };
    let failed_per_million = [0, 0, 500][random.below(3)];
    let mut run =
        Run::new(random.number(), Shape { nodes, most_ranks: 1 + random.below(3), rounds, failed_per_million });
    let end = any_trouble(&mut run, &mut random);
    run.go(end * MS + AFTERWARDS);
    // Who has not failed meets for the last time.
    run.rounds = run.arrived.borrow().iter().copied().max().unwrap_or(0);
    run.go(end * MS + AFTERWARDS + 300 * MS);
    run.check_end();
}

#[test]
fn survivors_agree_on_who_has_failed_whatever_happens() {
    for_each_seed("sentinel", "survivors_agree_on_who_has_failed_whatever_happens", seeds(60), |seed| {
        trouble(seed, &[2, 3, 4, 5, 8, 17, 32]);
    });
}

#[test]
fn large_jobs_hear_of_failures() {
    for_each_seed("sentinel", "large_jobs_hear_of_failures", 0..4, |seed| {
        let mut random = Seeded::new(seed ^ 0x1a49e);
        let nodes = [64, 200][random.below(2)];
        let mut run = Run::new(random.number(), Shape { nodes, most_ranks: 1, rounds: 0, failed_per_million: 0 });
        // Two that watch each other, or any two; the root of the first epoch's tree, sometimes.
        let first = [1, random.below(nodes)][random.below(2)];
        let second = [(first + 1) % nodes, random.below(nodes)][random.below(2)];
        let how = |node| [Trouble::Gone(node), Trouble::Silent(node)];
        run.at(250, how(first)[random.below(2)].clone());
        run.at(250, how(second)[random.below(2)].clone());
        run.go(1_000 * MS);
        run.check_end();
    });
}

/// One such job in each of some seeds, with any trouble.
#[test]
#[ignore = "minutes"]
fn the_largest_jobs_hear_of_failures() {
    for_each_seed("sentinel", "the_largest_jobs_hear_of_failures", seeds(20), |seed| trouble(seed, &[512]));
}

/// No failure, no epoch, however long; the network delays, and loses connections.
#[test]
fn in_calm_nobody_fails() {
    for_each_seed("sentinel", "in_calm_nobody_fails", seeds(6), |seed| {
        let mut random = Seeded::new(seed ^ 0xca11);
        let shape = Shape {
            nodes: [2, 3, 8][random.below(3)],
            most_ranks: 2,
            rounds: 0,
            failed_per_million: [0, 2_000][random.below(2)],
        };
        let mut run = Run::new(random.number(), shape);
        run.go(20_000 * MS);
        assert_eq!(run.log(), []);
        for node in 0..shape.nodes {
            assert_eq!(run.doubts(node), [0_usize; 0], "node {node} doubts");
        }
    });
}

/// A partition that lasts: the majority gives the others up, who decide nothing, doubt, and are excluded when it ends.
#[test]
fn a_minority_decides_nothing_and_is_excluded() {
    for_each_seed("sentinel", "a_minority_decides_nothing_and_is_excluded", seeds(12), |seed| {
        let mut random = Seeded::new(seed ^ 0x3a17);
        let nodes = [3, 4, 5, 8, 9, 17][random.below(6)];
        let few = 1 + random.below((nodes - 1) / 2);
        let start = random.below(nodes);
        let is_scattered = random.below(2) == 0;
        let mut order: Vec<usize> = (0..nodes).map(|step| (start + step) % nodes).collect();
        if is_scattered {
            (1..nodes).for_each(|at| order.swap(at, random.below(at + 1)));
        }
        let mut sides = vec![0; nodes];
        order[..few].iter().for_each(|node| sides[*node] = 1);
        let shape = Shape { nodes, most_ranks: 2, rounds: 100_000, failed_per_million: 0 };
        let mut run = Run::new(random.number(), shape);
        run.at(250, Trouble::Partition(sides));
        run.go(1_750 * MS);
        let (lost, kept) = order.split_at(few);
        for node in kept {
            assert_eq!(run.logs[*node].len(), few, "node {node} has given all of the others up");
        }
        for node in lost {
            assert_eq!(run.logs[*node], [0_u64; 0], "node {node} has decided something");
            assert!(kept.iter().all(|other| run.doubts(*node).contains(other)), "node {node} doubts the others");
            assert!(run.doubts(*node).iter().all(|other| kept.contains(other)), "node {node} doubts its own side");
        }
        run.at(1_750, Trouble::Unite);
        run.go(2_500 * MS);
        run.check_end();
        assert!(lost.iter().all(|node| run.has_failed(Unit::Node(*node)) && run.is_excluded(*node)));
    });
}

/// No side is a majority: nobody decides, and when the partition ends, so do the doubts, and all go on.
#[test]
fn halves_doubt_each_other_until_the_partition_ends() {
    for_each_seed("sentinel", "halves_doubt_each_other_until_the_partition_ends", seeds(12), |seed| {
        let mut random = Seeded::new(seed ^ 0x4a1f);
        let nodes = [2, 2, 4, 6, 10][random.below(5)];
        let shape = Shape { nodes, most_ranks: 2, rounds: 100_000, failed_per_million: 0 };
        let mut run = Run::new(random.number(), shape);
        run.at(250, Trouble::Partition((0..nodes).map(|node| u32::from(node % 2 == 0)).collect()));
        run.go(1_000 * MS);
        run.check_waits(false);
        for node in 0..nodes {
            let others: Vec<usize> = (0..nodes).filter(|other| other % 2 != node % 2).collect();
            assert_eq!(run.doubts(node), others, "node {node}");
        }
        run.at(1_000, Trouble::Unite);
        run.go(1_500 * MS);
        assert_eq!(run.log(), [], "nobody has failed");
        run.rounds = run.arrived.borrow().iter().copied().max().unwrap_or(0);
        run.go(1_800 * MS);
        run.check_end();
        assert!(
            run.actors.iter().all(|actor| actor.meeting.as_ref().is_some_and(|meeting| meeting.stand == Stand::Done))
        );
    });
}

/// What is the slowest survivor's time to know of a failure, by its kind; printed, and bounded.
#[test]
fn failures_are_known_to_all_soon() {
    // How, on how many nodes, of how many ranks, and the longest that it may take, in ms.
    type Case = (&'static str, usize, usize, u64, fn(&Run) -> (Trouble, Unit));
    let cases: [Case; 6] = [
        ("a node's only process killed", 5, 1, 20, |_| (Trouble::Gone(3), Unit::Node(3))),
        ("a node's processes killed", 5, 2, 150, |_| (Trouble::Gone(3), Unit::Node(3))),
        ("a process of several killed", 5, 2, 10, |run| {
            let rank = run.topology.ranks_of(3)[0];
            (Trouble::Killed(rank), Unit::Rank(rank))
        }),
        ("a machine dead, 3 nodes", 3, 1, 170, |_| (Trouble::Silent(2), Unit::Node(2))),
        ("a machine dead, 16 nodes", 16, 1, 170, |_| (Trouble::Silent(3), Unit::Node(3))),
        ("a machine dead, 64 nodes", 64, 1, 250, |_| (Trouble::Silent(3), Unit::Node(3))),
    ];
    for (name, nodes, ranks, bound, how) in cases {
        let times = RefCell::new(Vec::new());
        for_each_seed("sentinel", "failures_are_known_to_all_soon", seeds(12), |seed| {
            let mut run = Run::of_counts(seed, vec![ranks; nodes], 0, 0);
            let at = 250 + seed % 20;
            let (trouble, unit) = how(&run);
            run.at(at, trouble);
            run.go(1_000 * MS);
            let taken = run.detection(unit, at * MS).expect("it is known");
            assert!(taken < bound * MS, "{name}: {} ms", taken / MS);
            times.borrow_mut().push(taken);
        });
        let mut times = times.into_inner();
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100] as f64 / 1e6;
        println!("{name}: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms of {}", at(50), at(99), at(100), times.len());
    }
}
