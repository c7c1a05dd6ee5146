//! A simulated job, and time that goes on for it, with all the troubles that are planned on the way. What must hold,
//! slice by slice and at the end, is in `oracle.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use phalanx::FailureCause;
use phalanx::cluster::sentinel::{Post, Sentinel, SentinelOptions};
use phalanx::cluster::view::{self, Obituary, Unit};
use phalanx::cluster::witness;
use phalanx::coord::barrier::Algorithm;
use phalanx::coord::barrier::spanning::layout::SpanLayout;
use phalanx::coord::barrier::spanning::{Schedule, Span, SpanNode, Spanning};
use phalanx::coord::formation;
use phalanx::fabric::Topology;
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::sim::{Costs, Fault, Jitter, Options, Rates, Seeded, World};

use crate::actor::{Actor, Leaving, Meeting, Stand, Table};
use crate::common::spanned::members;
use crate::nature::{Gate, Nature, Place, Trouble};
use crate::oracle::check_told;

pub const MS: u64 = 1_000_000;
/// Faults happen at the ends of such slices of time only.
pub const SLICE: u64 = MS;
pub const TIMEOUT: Duration = Duration::from_millis(100);
pub const HEARTBEAT: Duration = Duration::from_millis(20);

pub struct Run {
    pub world: World,
    pub topology: Arc<Topology>,
    pub layouts: Arc<[NodeLayout]>,
    /// The witness is the world's last node, and no process of the job's is there.
    pub has_witness: bool,
    pub nature: RefCell<Nature>,
    pub actors: Vec<Actor>,
    /// At how many barriers each rank has arrived.
    pub arrived: RefCell<Vec<u64>>,
    pub rounds: u64,
    pub random: RefCell<Seeded>,
    /// When each node knew how many epochs.
    pub known: RefCell<Vec<Vec<u64>>>,
    pub logs: Vec<Vec<u64>>,
    /// The longest of them.
    pub agreed: Vec<u64>,
    pub alarms: RefCell<Vec<u64>>,
    /// Reasons to declare somebody failed, and since when there are.
    pub reasons: HashMap<Unit, u64>,
    pub loses_messages: bool,
    pub plan: BTreeMap<u64, Vec<Trouble>>,
    /// What has happened, and when, in ms.
    pub history: Vec<(u64, Trouble)>,
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
pub struct Shape {
    pub nodes: usize,
    pub most_ranks: usize,
    pub rounds: u64,
    pub failed_per_million: u32,
}

/// How such a world's messages travel.
fn any_options(nodes: usize, failed_per_million: u32, random: &mut Seeded) -> Options {
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
    options
}

/// The blocks of the group of all ranks, and where they are.
fn make_world(
    world: &World,
    layouts: &[NodeLayout],
    counts: &[usize],
    schedule: Schedule,
    random: &mut Seeded,
) -> (Vec<SpanLayout>, Span) {
    let (mut blocks, mut list) = (Vec::new(), Vec::new());
    for (node, count) in counts.iter().enumerate() {
        let (memory, algorithm) = (world.memory(node), Algorithm::ALL[random.below(3)]);
        let made = formation::make_spanning(memory, &layouts[node], schedule, &members(*count), algorithm);
        let block = made.expect("space");
        list.push(SpanNode { node, start: block.start(), members: *count });
        blocks.push(block);
    }
    (blocks, Span::Some(list.into()))
}

impl Run {
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut random = Seeded::new(seed);
        let Shape { nodes, most_ranks, rounds, failed_per_million } = shape;
        let counts = (0..nodes).map(|_| 1 + random.below(most_ranks)).collect();
        Self::of_counts(random.number(), counts, rounds, failed_per_million)
    }

    /// With so many ranks on each node.
    pub fn of_counts(seed: u64, counts: Vec<usize>, rounds: u64, failed_per_million: u32) -> Self {
        Self::make(seed, counts, rounds, failed_per_million, false)
    }

    /// With so many ranks on each node, and a witness.
    pub fn with_witness(seed: u64, counts: Vec<usize>, rounds: u64, failed_per_million: u32) -> Self {
        Self::make(seed, counts, rounds, failed_per_million, true)
    }

    fn make(seed: u64, counts: Vec<usize>, rounds: u64, failed_per_million: u32, has_witness: bool) -> Self {
        let (mut random, nodes) = (Seeded::new(seed), counts.len());
        let keys: Vec<usize> = counts.iter().enumerate().flat_map(|(node, count)| vec![node; *count]).collect();
        let topology = Arc::new(Topology::from_keys(&keys));
        let ranks = topology.ranks();
        let schedule = Schedule::dissemination(nodes, 2 + random.below(3));
        let arena = |count| if rounds > 0 { formation::units_spanning(&schedule, count) * UNIT_WORDS } else { 1 };
        let layouts = counts.iter().map(|count| NodeLayout::new(*count, arena(*count)).in_job(ranks, nodes));
        let layouts: Arc<[NodeLayout]> = layouts.collect();
        let of_witness = witness::layout(ranks, nodes);
        let options = any_options(nodes + usize::from(has_witness), failed_per_million, &mut random);
        let world = World::with_words(options, |node| layouts.get(node).unwrap_or(&of_witness).words());
        let group = (rounds > 0).then(|| make_world(&world, &layouts, &counts, schedule, &mut random));
        let actor = |rank: usize| {
            let node = topology.node_of(rank);
            let post = Post {
                rank,
                layouts: Arc::clone(&layouts),
                topology: Arc::clone(&topology),
                has_witness,
                options: SentinelOptions { timeout: TIMEOUT, heartbeat: HEARTBEAT },
                seed,
            };
            let meeting = group.as_ref().map(|(blocks, span)| {
                let (memory, local) = (world.memory(node), topology.local_of(rank));
                Meeting::new(Spanning::new(memory, blocks[node], span.clone(), node, local))
            });
            Actor::new(rank, node, Sentinel::new(post), meeting)
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
            agreed: Vec::new(),
            alarms: RefCell::new(vec![0; nodes]),
            reasons: HashMap::new(),
            loses_messages: failed_per_million > 0,
            plan: BTreeMap::new(),
            history: Vec::new(),
            topology,
            layouts,
            has_witness,
        }
    }

    pub fn at(&mut self, ms: u64, trouble: Trouble) {
        self.plan.entry(ms * MS).or_default().push(trouble);
    }

    /// Lets time go on to `end`, with all that is planned on the way.
    pub fn go(&mut self, end: u64) {
        while self.world.now_ns() < end {
            let now = self.world.now_ns();
            let due: Vec<u64> = self.plan.range(..=now).map(|(at, _)| *at).collect();
            for at in due {
                self.plan.remove(&at).into_iter().flatten().for_each(|trouble| self.apply(&trouble));
            }
            self.slice((now + SLICE).min(end));
            self.shut_out();
            self.end_nodes_that_have_left();
            self.check_news();
        }
        self.check_logs();
    }

    pub fn is_last(&self, rank: usize) -> bool {
        let others = self.topology.ranks_of(self.topology.node_of(rank)).iter().filter(|other| **other != rank);
        others.into_iter().all(|other| self.actors[*other].is_dead)
    }

    /// Whether it concerns only who has ended already.
    fn comes_too_late(&self, trouble: &Trouble) -> bool {
        match *trouble {
            // The witness has no ranks.
            Trouble::Gone(node) | Trouble::Silent(node) if node >= self.topology.nodes() => false,
            Trouble::Gone(node) | Trouble::Silent(node) => {
                self.topology.ranks_of(node).iter().all(|rank| self.actors[*rank].is_dead)
            }
            Trouble::Killed(rank) | Trouble::Stopped(rank) | Trouble::Leaves(rank) => self.actors[rank].is_dead,
            _ => false,
        }
    }

    /// Their ports are closed, and their kernels reset their connections.
    fn end_nodes_that_have_left(&mut self) {
        for node in 0..self.topology.nodes() {
            let ranks = self.topology.ranks_of(node);
            let has_left = |rank: &usize| self.actors[*rank].leaving == Leaving::Left;
            if self.world.is_alive(node) && ranks.iter().any(has_left) && self.comes_too_late(&Trouble::Gone(node)) {
                self.end_node(node);
            }
        }
    }

    fn end_node(&mut self, node: usize) {
        self.world.apply(&Fault::Crash { node });
        let mut nature = self.nature.borrow_mut();
        nature.refuses.insert(node, self.world.now_ns());
        let others = self.actors.iter_mut().filter(|actor| nature.is_open(actor.node, node));
        others.for_each(|actor| actor.has_breach = true);
    }

    pub fn apply(&mut self, trouble: &Trouble) {
        if self.comes_too_late(trouble) {
            return;
        }
        let now = self.world.now_ns();
        self.history.push((now / MS, trouble.clone()));
        match *trouble {
            Trouble::Gone(node) => {
                self.kill_all_of(node);
                self.end_node(node);
            }
            Trouble::Silent(node) => {
                self.kill_all_of(node);
                self.world.apply(&Fault::Crash { node });
            }
            Trouble::Leaves(rank) => {
                self.nature.borrow_mut().leaving += 1;
                self.actors[rank].leaving = Leaving::Wants(now);
            }
            Trouble::Killed(rank) if self.is_last(rank) => self.apply(&Trouble::Gone(self.topology.node_of(rank))),
            Trouble::Killed(rank) => self.kill(rank),
            Trouble::Stopped(rank) => self.stop(rank),
            Trouble::Continued(rank) => drop(self.nature.borrow_mut().stopped.remove(&rank)),
            Trouble::Cut(from, to) => {
                [from, to].into_iter().for_each(|node| self.blame(Unit::Node(node)));
                self.nature.borrow_mut().cuts.insert((from, to));
                self.world.apply(&Fault::Cut { from, to });
            }
            Trouble::Mend(from, to) => {
                let mut nature = self.nature.borrow_mut();
                nature.cuts.remove(&(from, to));
                if !nature.excluded.contains(&(to, from)) {
                    self.world.apply(&Fault::Mend { from, to });
                }
            }
            Trouble::Partition(ref sides) => self.part(sides.clone()),
            Trouble::Unite => {
                self.nature.borrow_mut().sides = None;
                self.world.apply(&Fault::Unite);
            }
        }
    }

    /// From now on there is a reason to declare it failed.
    fn blame(&mut self, unit: Unit) {
        self.reasons.entry(unit).or_insert(self.world.now_ns());
    }

    fn kill_all_of(&mut self, node: usize) {
        self.blame(Unit::Node(node));
        self.actors.iter_mut().filter(|actor| actor.node == node).for_each(|actor| actor.is_dead = true);
    }

    /// A rank that others of its node survive, who note its end.
    fn kill(&mut self, rank: usize) {
        self.blame(Unit::Rank(rank));
        self.actors[rank].is_dead = true;
        let (node, local) = (self.topology.node_of(rank), self.topology.local_of(rank));
        let killed = Obituary { unit: Unit::Rank(rank), cause: FailureCause::Killed { signal: 9 } };
        view::note_end(self.world.memory(node), self.layouts[node].end(local), killed);
        view::raise_alarm(self.world.memory(node));
    }

    fn stop(&mut self, rank: usize) {
        self.blame(Unit::Rank(rank));
        self.nature.borrow_mut().stopped.insert(rank);
        let node = self.topology.node_of(rank);
        let is_idle = |rank: &usize| self.nature.borrow().stopped.contains(rank) || self.actors[*rank].is_dead;
        if self.topology.ranks_of(node).iter().all(is_idle) {
            self.blame(Unit::Node(node));
        }
    }

    fn part(&mut self, mut sides: Vec<u32>) {
        (0..sides.len()).for_each(|node| self.blame(Unit::Node(node)));
        // The witness is where node 0 is, unless it is said.
        sides.resize(self.world.nodes(), sides[0]);
        self.nature.borrow_mut().sides = Some(sides.clone());
        self.world.apply(&Fault::Partition { sides });
    }

    /// What comes from those who are shut out is not read.
    pub fn shut_out(&mut self) {
        for (judge, lost) in self.nature.borrow_mut().newly_excluded.drain(..) {
            self.world.apply(&Fault::Cut { from: lost, to: judge });
        }
    }

    pub fn slice(&mut self, end: u64) {
        let Self { world, topology, layouts, nature, actors, arrived, rounds, random, known, alarms, .. } = self;
        world.run_until(end, |node, memory, fabric| {
            if node == layouts.len() {
                // The witness does nothing of its own.
                return Poll::Pending;
            }
            let now = fabric.now_ns();
            check_told(memory, &layouts[node], node, &nature.borrow());
            let gate = Gate { fabric, memory, nature };
            let mut next = u64::MAX;
            for rank in topology.ranks_of(node) {
                let actor = &mut actors[*rank];
                if actor.is_dead || nature.borrow().stopped.contains(rank) {
                    continue;
                }
                let place = Place { memory, nature, topology, layouts, rank: *rank };
                let leaves = actor.leave(&gate, &place, now);
                if matches!(actor.leaving, Leaving::Ends | Leaving::Left) {
                    next = next.min(leaves);
                    continue;
                }
                actor.look(&gate, &place, now);
                next = next.min(actor.due).min(leaves);
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
}
