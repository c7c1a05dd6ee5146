//! Random trouble that ends: links cut and mended, networks divided and united, each for a while.
//!
//! No node crashes, so that all must pass once the network is whole.

use phalanx::coord::barrier::spanning::schedule::Costs;
use phalanx::fabric::sim::{Fault, Jitter, Seeded};

use super::Scenario;

/// The longest that a fault lasts: several repairs.
const LONGEST_NS: u64 = 400_000;

/// When the last fault is over. They begin while barriers are under way.
pub(super) fn span_ns(scenario: &Scenario) -> u64 {
    begin_ns(scenario) + LONGEST_NS
}

/// How long the barriers would take without faults, roughly.
fn begin_ns(scenario: &Scenario) -> u64 {
    let costs = &scenario.costs;
    let (latency_ns, overhead_ns) = (costs.latency_ns as f64, costs.overhead_ns as f64);
    let costs = Costs { latency_ns, overhead_ns, nodes_per_cpu: 0.0 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive nanoseconds")]
    let barrier_ns = scenario.schedule().cost_ns(&costs) as u64;
    let skew_ns = match scenario.skew {
        Jitter::None => 0,
        Jitter::Uniform { most_ns } => most_ns,
        Jitter::Exponential { mean_ns } | Jitter::HeavyTail { mean_ns, .. } => 3 * mean_ns,
    };
    scenario.barriers * (barrier_ns + skew_ns)
}

/// All faults, by time.
pub(super) fn plan(scenario: &Scenario) -> Vec<(u64, Fault)> {
    // Not the world's own sequence: its numbers would repeat these.
    let mut random = Seeded::new(scenario.seed ^ 0x6661_756c_7473);
    let mut plan = Vec::new();
    for _ in 0..scenario.faults {
        let begin = random.number() % begin_ns(scenario).max(1);
        let end = begin + random.number() % LONGEST_NS;
        let (from, to) = (random.below(scenario.nodes), random.below(scenario.nodes));
        match random.below(4) {
            0 => plan.extend([(begin, Fault::Cut { from, to }), (end, Fault::Mend { from, to })]),
            1 => {
                plan.extend([(begin, Fault::Cut { from, to }), (begin, Fault::Cut { from: to, to: from })]);
                plan.extend([(end, Fault::Mend { from, to }), (end, Fault::Mend { from: to, to: from })]);
            }
            // A neighbour of the first round: this link is certainly used.
            2 => {
                let to = (from + 1) % scenario.nodes;
                plan.extend([(begin, Fault::Cut { from, to }), (end, Fault::Mend { from, to })]);
            }
            _ => {
                let sides = (0..scenario.nodes).map(|_| u32::from(random.below(2) == 1)).collect();
                plan.extend([(begin, Fault::Partition { sides }), (end, Fault::Unite)]);
            }
        }
    }
    plan.sort_by_key(|(at, _)| *at);
    if scenario.leaves_cut && scenario.nodes > 1 {
        let end = span_ns(scenario);
        plan.extend([(0, Fault::Cut { from: 0, to: 1 }), (end, Fault::Cut { from: 0, to: 1 })]);
        plan.extend([(0, Fault::Cut { from: 1, to: 0 }), (end, Fault::Cut { from: 1, to: 0 })]);
    }
    plan
}
