//! `phalanx simulate`: the real barrier machine on the simulated network, for as many nodes as one likes; and the real
//! failure detector on generated heartbeats, which is [`detector`]'s alone.
//!
//! A [`Scenario`] says how many nodes, what messages cost and what goes wrong; [`Scenario::run`] has every rank's
//! [`Spanning`](phalanx::coord::barrier::spanning::Spanning), unchanged, pass its barriers in one thread and in virtual
//! time (`meeting.rs`), and checks at every passing that nobody was early. [`study`] tries radixes and sizes; [`page`]
//! and [`svg`] show what came out.
//!
//! A run is a function of its scenario. So whatever fails, by an invariant or by a panic, names the one command that
//! repeats it ([`Scenario::command`]).

pub mod detector;
mod faults;
mod meeting;
pub mod page;
pub mod study;
pub mod svg;

use std::fmt;

use phalanx::coord::barrier::spanning::schedule::{MAX_RADIX, Schedule};
use phalanx::fabric::sim::{Costs, Jitter, Options, Rates, World};

use meeting::Meeting;

/// What is simulated: a run is a function of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// How many nodes.
    pub nodes: usize,
    /// How many ranks each has.
    pub ranks_per_node: usize,
    /// The radix of the dissemination.
    pub radix: usize,
    /// What messages cost.
    pub costs: Costs,
    /// What it costs a node's first rank to see a neighbour arrive, and a neighbour to see the release.
    pub local_ns: u64,
    /// How late ranks arrive, each on its own.
    pub skew: Jitter,
    /// How many barriers, back to back.
    pub barriers: u64,
    /// How many CPUs all nodes share; `None`: each node has its own.
    pub cpus: Option<usize>,
    /// What all random numbers come from.
    pub seed: u64,
    /// How many links are cut and mended, and networks divided and united; with any, completions fail and writes
    /// repeat.
    pub faults: usize,
    /// One link is never mended: the barrier cannot be passed. For seeing what a failure looks like.
    pub leaves_cut: bool,
}

impl Scenario {
    /// Nodes of one rank with the default costs, three barriers and no trouble.
    pub fn new(nodes: usize, radix: usize) -> Self {
        Self {
            nodes,
            ranks_per_node: 1,
            radix,
            costs: Costs::default(),
            local_ns: 100,
            skew: Jitter::None,
            barriers: 3,
            cpus: None,
            seed: 1,
            faults: 0,
            leaves_cut: false,
        }
    }

    /// Who sends to whom.
    pub fn schedule(&self) -> Schedule {
        Schedule::dissemination(self.nodes, self.radix)
    }

    /// The command that repeats the run, in one line.
    pub fn command(&self) -> String {
        Command(self).to_string()
    }

    /// Runs it.
    ///
    /// # Errors
    ///
    /// [`SimulationError`]; each names the command that repeats it. A panic of the machine does, too, on standard
    /// error.
    pub fn run(&self) -> Result<Outcome, SimulationError> {
        self.check()?;
        let _named = NamedPanic(self);
        let schedule = self.schedule();
        let words = meeting::words(schedule, self.ranks_per_node);
        let mut world = World::new(self.options(words));
        for (at_ns, fault) in faults::plan(self) {
            world.schedule(at_ns, fault);
        }
        let mut meeting = Meeting::new(self, &world);
        let ready = world.run_until(self.limit_ns(), |node, memory, fabric| meeting.poll(node, memory, fabric));
        let broken = |what| SimulationError::Broken { what, command: self.command() };
        let measured = meeting.into_measured().map_err(broken)?;
        if let Some(node) = ready.iter().position(Option::is_none) {
            let stuck = ready.iter().filter(|time| time.is_none()).count();
            return Err(SimulationError::Stuck { node, stuck, at_ns: world.now_ns(), command: self.command() });
        }
        let nodes = self.nodes as u64 * self.barriers;
        let traffic = |count: fn(phalanx::fabric::sim::Traffic) -> u64| {
            (0..self.nodes).map(|node| count(world.traffic(node))).sum::<u64>() as f64 / nodes as f64
        };
        Ok(Outcome {
            schedule,
            words_per_node: words,
            block_words_per_node: meeting::block_words(schedule, self.ranks_per_node),
            messages_per_node: traffic(|traffic| traffic.sent),
            wire_bytes_per_node: traffic(|traffic| traffic.sent_bytes),
            period_ns: measured.last_exit_ns as f64 / self.barriers as f64,
            mean_ns: measured.mean_ns,
            p50_ns: measured.p50_ns,
            max_ns: measured.max_ns,
            trace: world.trace(),
        })
    }

    fn check(&self) -> Result<(), SimulationError> {
        let invalid = |what: &str| Err(SimulationError::Invalid { what: what.to_owned() });
        match () {
            () if self.nodes == 0 || self.nodes > 1 << 24 => invalid("nodes are 1 to 16,777,216"),
            () if self.ranks_per_node == 0 || self.ranks_per_node > 1024 => invalid("ranks of a node are 1 to 1,024"),
            () if self.radix < 2 || self.radix > MAX_RADIX => invalid("a radix is 2 to 64"),
            () if self.barriers == 0 || self.cpus == Some(0) => invalid("barriers and CPUs are 1 at least"),
            () => Ok(()),
        }
    }

    fn options(&self, words: usize) -> Options {
        let mut options = Options::new(self.nodes, words);
        options.seed = self.seed;
        options.costs = self.costs.clone();
        if self.faults > 0 {
            options.rates = Rates { failed_per_million: 5_000, duplicated_per_million: 50_000 };
        }
        options
    }

    /// Without faults every run ends by itself. With them whoever is stuck repairs for ever: a second after the last
    /// fault is thousands of repairs.
    fn limit_ns(&self) -> u64 {
        let has_trouble = self.faults > 0 || self.leaves_cut;
        if has_trouble { faults::span_ns(self) + 1_000_000_000 } else { u64::MAX }
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Who sent to whom.
    pub schedule: Schedule,
    /// Words that a node's barrier uses.
    pub words_per_node: usize,
    /// Words of the block that the library reserves for it: a group's has a list of its nodes, too.
    pub block_words_per_node: usize,
    /// Messages that a node sends for a barrier, on the average.
    pub messages_per_node: f64,
    /// Their bytes, with headers.
    pub wire_bytes_per_node: f64,
    /// From the beginning to the last exit, for each barrier.
    pub period_ns: f64,
    /// From the last arrival to a rank's exit: the mean over ranks and barriers.
    pub mean_ns: f64,
    /// The median.
    pub p50_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// A hash over everything that happened.
    pub trace: u64,
}

/// Why a simulation is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// Something is asked for that cannot be.
    #[error("cannot be simulated: {what}")]
    Invalid {
        /// What.
        what: String,
    },
    /// The barrier has broken its promise.
    #[error("{what}\nto repeat: {command}")]
    Broken {
        /// Which.
        what: String,
        /// What repeats it.
        command: String,
    },
    /// Some nodes never pass.
    #[error("node {node} and {} others do not pass by {at_ns} ns, though nothing is wrong any more\nto repeat: {command}", .stuck - 1)]
    Stuck {
        /// One of them.
        node: usize,
        /// How many.
        stuck: usize,
        /// When it was given up.
        at_ns: u64,
        /// What repeats it.
        command: String,
    },
}

/// Prints the command when the machine panics.
struct NamedPanic<'scenario>(&'scenario Scenario);

impl Drop for NamedPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat: {}", self.0.command());
        }
    }
}

struct Command<'scenario>(&'scenario Scenario);

impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { nodes, ranks_per_node, radix, costs, .. } = self.0;
        write!(f, "phalanx simulate barrier --nodes {nodes} --ranks-per-node {ranks_per_node} --radix {radix}")?;
        write!(f, " --latency {}ns --overhead {}ns", costs.latency_ns, costs.overhead_ns)?;
        write!(f, " --receive-overhead {}ns --gap {}ns", costs.receive_overhead_ns, costs.gap_ns)?;
        write!(f, " --local {}ns --jitter {}", self.0.local_ns, distribution(costs.jitter))?;
        for level in &costs.placement.levels {
            write!(f, " --level {}:{}ns", level.nodes, level.extra_ns)?;
        }
        write!(f, " --skew {} --barriers {}", distribution(self.0.skew), self.0.barriers)?;
        if let Some(cpus) = self.0.cpus {
            write!(f, " --cpus {cpus}")?;
        }
        if self.0.faults > 0 {
            write!(f, " --faults {}", self.0.faults)?;
        }
        if self.0.leaves_cut {
            f.write_str(" --leave-cut")?;
        }
        write!(f, " --seed {} --plot none", self.0.seed)
    }
}

/// A distribution as the command line has it.
pub fn distribution(jitter: Jitter) -> String {
    match jitter {
        Jitter::None => "none".to_owned(),
        Jitter::Uniform { most_ns } => format!("uniform:{most_ns}ns"),
        Jitter::Exponential { mean_ns } => format!("exponential:{mean_ns}ns"),
        Jitter::HeavyTail { mean_ns, most_ns } => format!("tail:{mean_ns}ns:{most_ns}ns"),
    }
}
