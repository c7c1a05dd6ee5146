//! Which radix: a scenario run for each that is worth trying, and for smaller worlds, too.

use phalanx::coord::barrier::spanning::schedule::{Costs, ExchangePattern, MAX_RADIX, Schedule};
use serde::Serialize;

use super::{Outcome, Scenario, SimulationError};

/// One radix, in machine-readable form. The field names are a contract.
#[derive(Clone, Debug, Serialize)]
pub struct RadixReport {
    /// Which primitive: "barrier".
    pub simulate: &'static str,
    /// Nodes.
    pub nodes: usize,
    /// Ranks of each.
    pub ranks_per_node: usize,
    /// The radix of the dissemination between nodes.
    pub radix: usize,
    /// Its rounds.
    pub rounds: usize,
    /// Whether none of the radixes tried has a shorter mean; of equal ones, the least.
    pub is_best: bool,
    /// Messages that a node sends for a barrier.
    pub messages_per_node: f64,
    /// Their bytes, with headers.
    pub wire_bytes_per_node: f64,
    /// Words that a node's barrier uses.
    pub words_per_node: usize,
    /// The same in bytes.
    pub bytes_per_node: usize,
    /// Bytes of the block that the library reserves: with the list of nodes that groups other than the world have.
    pub block_bytes_per_node: usize,
    /// From the last arrival to a rank's exit: mean over ranks and barriers.
    pub latency_ns_mean: f64,
    /// The median.
    pub latency_ns_p50: u64,
    /// The longest.
    pub latency_ns_max: u64,
    /// From the beginning to the last exit, for each barrier.
    pub period_ns: f64,
    /// What the LogP formula says that the library chooses its radix by; no jitter, no gap, no local part.
    pub model_ns: f64,
    /// Barriers, back to back.
    pub barriers: u64,
    /// The network's latency.
    pub network_latency_ns: u64,
    /// The CPU time of a message.
    pub overhead_ns: u64,
    /// The gap between two messages of an adapter.
    pub gap_ns: u64,
    /// The network's jitter, as an option.
    pub jitter: String,
    /// How late ranks arrive, as an option.
    pub skew: String,
    /// Faults.
    pub faults: usize,
    /// The seed.
    pub seed: u64,
    /// A hash over everything that happened: equal for equal runs.
    pub trace: String,
    /// The command that repeats this run.
    pub command: String,
}

impl RadixReport {
    fn new(scenario: &Scenario, outcome: &Outcome) -> Self {
        let tenth = |number: f64| (number * 10.0).round() / 10.0;
        Self {
            simulate: "barrier",
            nodes: scenario.nodes,
            ranks_per_node: scenario.ranks_per_node,
            radix: scenario.radix,
            rounds: outcome.schedule.rounds(),
            is_best: false,
            messages_per_node: tenth(outcome.messages_per_node),
            wire_bytes_per_node: tenth(outcome.wire_bytes_per_node),
            words_per_node: outcome.words_per_node,
            bytes_per_node: outcome.words_per_node * 8,
            block_bytes_per_node: outcome.block_words_per_node * 8,
            latency_ns_mean: tenth(outcome.mean_ns),
            latency_ns_p50: outcome.p50_ns,
            latency_ns_max: outcome.max_ns,
            period_ns: tenth(outcome.period_ns),
            model_ns: tenth(outcome.schedule.cost_ns(&model(scenario))),
            barriers: scenario.barriers,
            network_latency_ns: scenario.costs.latency_ns,
            overhead_ns: scenario.costs.overhead_ns,
            gap_ns: scenario.costs.gap_ns,
            jitter: super::distribution(scenario.costs.jitter),
            skew: super::distribution(scenario.skew),
            faults: scenario.faults,
            seed: scenario.seed,
            trace: format!("{:016x}", outcome.trace),
            command: scenario.command(),
        }
    }
}

fn model(scenario: &Scenario) -> Costs {
    let (latency_ns, overhead_ns) = (scenario.costs.latency_ns as f64, scenario.costs.overhead_ns as f64);
    Costs { latency_ns, overhead_ns, nodes_per_cpu: 0.0 }
}

/// The radixes worth trying: powers of 2, and the one that the library takes where each node has CPUs of its own.
pub fn radixes(scenario: &Scenario) -> Vec<usize> {
    let most = MAX_RADIX.min(scenario.nodes).max(2);
    let mut all: Vec<usize> = (1..).map(|power| 1 << power).take_while(|radix| *radix <= most).collect();
    if let ExchangePattern::Dissemination { radix } = Schedule::cheapest(scenario.nodes, &model(scenario)) {
        all.push(radix);
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Runs a scenario with one radix, or with each that is worth trying.
///
/// # Errors
///
/// [`SimulationError`], of the first that fails.
pub fn compare(scenario: &Scenario, radix: Option<usize>) -> Result<Vec<RadixReport>, SimulationError> {
    let radixes = radix.map_or_else(|| radixes(scenario), |radix| vec![radix]);
    let run = |radix| {
        let scenario = Scenario { radix, ..scenario.clone() };
        scenario.run().map(|outcome| RadixReport::new(&scenario, &outcome))
    };
    let mut reports = radixes.into_iter().map(run).collect::<Result<Vec<_>, _>>()?;
    let by_mean =
        |left: &usize, right: &usize| reports[*left].latency_ns_mean.total_cmp(&reports[*right].latency_ns_mean);
    if let Some(best) = (0..reports.len()).min_by(by_mean) {
        reports[best].is_best = true;
    }
    Ok(reports)
}

/// The same for fewer nodes: powers of 4 below the scenario's, and then what is known of the scenario's own.
///
/// # Errors
///
/// As [`compare`].
pub fn over_nodes(
    scenario: &Scenario,
    radix: Option<usize>,
    own: &[RadixReport],
) -> Result<Vec<Vec<RadixReport>>, SimulationError> {
    let fewer = std::iter::successors(Some(4), |nodes| Some(nodes * 4)).take_while(|nodes| *nodes < scenario.nodes);
    let below = [2].into_iter().filter(|nodes| *nodes < scenario.nodes).chain(fewer);
    let run = |nodes| compare(&Scenario { nodes, ..scenario.clone() }, radix);
    let mut all = below.map(run).collect::<Result<Vec<_>, _>>()?;
    all.push(own.to_vec());
    Ok(all)
}
