//! A result in machine-readable form: one JSON object for each system measured. The field names are a contract.

use serde::Serialize;

use crate::figures::Figures;
use crate::workload::Workload;

/// What was measured of one system.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which benchmark: "barrier".
    pub bench: &'static str,
    /// "phalanx", or a rival's name.
    pub system: String,
    /// Its version.
    pub system_version: String,
    /// Ranks that met.
    pub ranks: usize,
    /// Nodes that they ran on.
    pub nodes: usize,
    /// What joined them: "shm" on one node, else "tcp" or "rdma".
    pub fabric: String,
    /// Phalanx's algorithm; absent for rivals, as is the next.
    pub algorithm: Option<String>,
    /// Phalanx's wait policy.
    pub wait: Option<String>,
    /// The arrival pattern.
    pub arrival: String,
    /// Iterations of each rank, over all rounds.
    pub iterations: usize,
    /// Mean wait; this and the next five are medians over rounds.
    pub mean_ns: f64,
    /// The shortest wait of all.
    pub min_ns: f64,
    /// Median wait.
    pub p50_ns: f64,
    /// 90th percentile.
    pub p90_ns: f64,
    /// 99th percentile.
    pub p99_ns: f64,
    /// 99.9th percentile.
    pub p999_ns: f64,
    /// The longest wait of all.
    pub max_ns: f64,
    /// Last exit minus last entry, on the common clock: the median over iterations, and over rounds.
    pub span_p50_ns: f64,
    /// What the clock read in each iteration costs; included in all waits.
    pub clock_overhead_ns: f64,
    /// What the hardware takes one way between the CPUs of ranks 0 and 1: a cache line on one node, across nodes half a
    /// round trip of raw sockets or of raw RDMA writes; `null` with one CPU.
    pub limit_ns: Option<f64>,
    /// CPUs that the ranks were spread over.
    pub cpus: usize,
    /// The commit that measured.
    pub commit: &'static str,
    /// Rounds in which all systems had their turn.
    pub rounds: usize,
    /// Whether ranks were threads of one process.
    pub threads: bool,
    /// Median over rounds of the median wait over `limit_ns` of the same round.
    pub limit_ratio: Option<f64>,
    /// Median over rounds of Phalanx's median wait over this system's; 1 for Phalanx.
    pub phalanx_p50_ratio: f64,
    /// The same of the means.
    pub phalanx_mean_ratio: f64,
}

/// What all reports of a run share.
#[derive(Clone, Debug)]
pub struct Common {
    /// What was measured.
    pub workload: Workload,
    /// What joined the ranks.
    pub fabric: String,
    /// What a clock read costs.
    pub clock_overhead_ns: f64,
    /// Rounds.
    pub rounds: usize,
    /// The limit, median over rounds.
    pub limit_ns: Option<f64>,
}

/// Who was measured.
#[derive(Clone, Debug)]
pub struct System {
    /// The name in JSON.
    pub name: String,
    /// The name for people.
    pub label: String,
    /// Its version.
    pub version: String,
    /// Phalanx's algorithm.
    pub algorithm: Option<String>,
    /// Phalanx's wait policy.
    pub wait: Option<String>,
    /// Whether its ranks were threads.
    pub threads: bool,
}

/// Ratios formed round by round; see [`Report`].
#[derive(Clone, Copy, Debug)]
pub struct Ratios {
    /// To the limit.
    pub limit: Option<f64>,
    /// Of the medians.
    pub p50: f64,
    /// Of the means.
    pub mean: f64,
}

impl Report {
    /// Puts a report together.
    pub fn new(common: &Common, system: &System, figures: &Figures, ratios: Ratios) -> Self {
        let tenth = |ns: f64| (ns * 10.0).round() / 10.0;
        let thousandth = |ratio: f64| (ratio * 1000.0).round() / 1000.0;
        let (workload, waits) = (&common.workload, &figures.waits);
        Self {
            bench: "barrier",
            system: system.name.clone(),
            system_version: system.version.clone(),
            ranks: workload.placement.ranks,
            nodes: workload.placement.nodes,
            fabric: common.fabric.clone(),
            algorithm: system.algorithm.clone(),
            wait: system.wait.clone(),
            arrival: workload.arrival.name().to_owned(),
            iterations: figures.iterations,
            mean_ns: tenth(waits.mean),
            min_ns: tenth(waits.min),
            p50_ns: tenth(waits.p50),
            p90_ns: tenth(waits.p90),
            p99_ns: tenth(waits.p99),
            p999_ns: tenth(waits.p999),
            max_ns: tenth(waits.max),
            span_p50_ns: tenth(figures.span_p50),
            clock_overhead_ns: tenth(common.clock_overhead_ns),
            limit_ns: common.limit_ns.map(tenth),
            cpus: workload.placement.cpus.len(),
            commit: crate::build::COMMIT,
            rounds: common.rounds,
            threads: system.threads,
            limit_ratio: ratios.limit.map(thousandth),
            phalanx_p50_ratio: thousandth(ratios.p50),
            phalanx_mean_ratio: thousandth(ratios.mean),
        }
    }
}
