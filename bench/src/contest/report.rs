//! A result in machine-readable form: one JSON object for each system measured. The field names are a contract.

use serde::Serialize;

use crate::build;
use crate::contest::figures::Figures;
use crate::contest::{Contest, Object};
use crate::figures::{Spread, median_of};

/// What was measured of one system. Times are medians over rounds, `min` and `max` over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which benchmark: "lock", "rwlock", "semaphore", "counter" or "election".
    pub bench: &'static str,
    /// "phalanx", or a rival's name.
    pub system: &'static str,
    /// Its version.
    pub system_version: String,
    /// Ranks of the job.
    pub ranks: usize,
    /// How many of them contended; the others were idle.
    pub busy: usize,
    /// Nodes that they ran on.
    pub nodes: usize,
    /// What joined them: "shm" on one node, else "tcp" or "rdma".
    pub fabric: String,
    /// Phalanx's wait policy; absent for rivals.
    pub wait: Option<String>,
    /// Objects that ranks drew from.
    pub objects: usize,
    /// How long each was held, at least.
    pub hold_ns: u64,
    /// How long a rank waited after it had given back.
    pub think_ns: u64,
    /// The share of readers; of "rwlock" only.
    pub readers: Option<f64>,
    /// Permits; of "semaphore" only.
    pub permits: Option<u32>,
    /// The length of a turn.
    pub seconds: f64,
    /// Rounds in which all systems had their turn.
    pub rounds: usize,
    /// How often something came to be held, by all ranks in all rounds.
    pub acquisitions: u64,
    /// How long acquiring took: mean.
    pub acquire_mean_ns: f64,
    /// The shortest of all.
    pub acquire_min_ns: f64,
    /// Median.
    pub acquire_p50_ns: f64,
    /// 90th percentile.
    pub acquire_p90_ns: f64,
    /// 99th percentile.
    pub acquire_p99_ns: f64,
    /// 99.9th percentile.
    pub acquire_p999_ns: f64,
    /// The longest of all.
    pub acquire_max_ns: f64,
    /// How many acquisitions took how long, in all rounds: pairs of an upper bound in nanoseconds and how many come up
    /// to that and not to the bound before, four bounds to each doubling; bounds that none comes up to are left out.
    pub acquire_histogram: Vec<(u64, u64)>,
    /// Median of the readers alone; `null` without readers.
    pub shared_p50_ns: Option<f64>,
    /// Their 99th percentile.
    pub shared_p99_ns: Option<f64>,
    /// How often an owner was followed by one that was waiting; the next five are `null` where none was.
    pub handovers: u64,
    /// From when an owner began to give back until the next one had it: median.
    pub handover_p50_ns: Option<f64>,
    /// 90th percentile.
    pub handover_p90_ns: Option<f64>,
    /// 99th percentile.
    pub handover_p99_ns: Option<f64>,
    /// 99.9th percentile.
    pub handover_p999_ns: Option<f64>,
    /// The longest of all.
    pub handover_max_ns: Option<f64>,
    /// As `acquire_histogram`, of handovers; empty where none was.
    pub handover_histogram: Vec<(u64, u64)>,
    /// A pair of acquire and release without a clock's reads; `null` unless one rank alone was busy.
    pub pair_ns: Option<f64>,
    /// How often something came to be held in a second, by all ranks.
    pub throughput_per_s: f64,
    /// Jain's fairness index over the busy ranks' counts: 1 is fair.
    pub jain: f64,
    /// How often somebody held what another had not given back: 0, or the system does not exclude.
    pub overlaps: u64,
    /// What one read of the clock costs; each of the times above, pairs excepted, has one.
    pub clock_overhead_ns: f64,
    /// What the hardware needs between the CPUs of ranks 0 and 1: on one node a cache line's way, across nodes a round
    /// trip of raw spinning sockets or of raw RDMA writes; `null` with one CPU.
    pub limit_ns: Option<f64>,
    /// Median over rounds of `acquire_p50_ns` over `limit_ns` of the same round.
    pub acquire_limit_ratio: Option<f64>,
    /// The same of `handover_p50_ns`.
    pub handover_limit_ratio: Option<f64>,
    /// Median over rounds of Phalanx's `pair_ns` over this system's; this and the next three are 1 for Phalanx, `null`
    /// where either has no such figure.
    pub phalanx_pair_ratio: Option<f64>,
    /// The same of `acquire_p50_ns`.
    pub phalanx_acquire_p50_ratio: Option<f64>,
    /// The same of `handover_p50_ns`.
    pub phalanx_handover_p50_ratio: Option<f64>,
    /// The same of `throughput_per_s`: more is better.
    pub phalanx_throughput_ratio: Option<f64>,
    /// CPUs that the ranks were spread over.
    pub cpus: usize,
    /// The commit that measured.
    pub commit: &'static str,
}

/// What all reports of a run share.
#[derive(Clone, Debug)]
pub struct About {
    /// What was measured.
    pub contest: Contest,
    /// What joined the ranks.
    pub fabric: String,
    /// How Phalanx waited.
    pub wait: String,
    /// What a clock read costs.
    pub clock_overhead_ns: f64,
    /// Rounds.
    pub rounds: usize,
    /// The limit of each.
    pub limits: Vec<Option<f64>>,
}

/// Ratios formed round by round; see [`Report`].
#[derive(Clone, Copy, Debug)]
pub struct Ratios {
    /// Of acquiring to the limit.
    pub acquire_limit: Option<f64>,
    /// Of handovers to the limit.
    pub handover_limit: Option<f64>,
    /// Of pairs.
    pub pair: Option<f64>,
    /// Of acquiring.
    pub acquire: Option<f64>,
    /// Of handovers.
    pub handover: Option<f64>,
    /// Of throughputs.
    pub throughput: Option<f64>,
}

impl Report {
    /// Puts a report together.
    pub fn new(about: &About, system: &'static str, system_version: String, figures: &Figures, ratios: Ratios) -> Self {
        let tenth = |ns: f64| (ns * 10.0).round() / 10.0;
        let thousandth = |ratio: Option<f64>| ratio.map(|ratio| (ratio * 1000.0).round() / 1000.0);
        let (contest, acquire) = (&about.contest, &figures.acquire);
        let shared = |figure: fn(&Spread) -> f64| figures.shared.as_ref().map(figure);
        let handover = |figure: fn(&Spread) -> f64| figures.handover.as_ref().map(figure).map(tenth);
        let limits: Vec<f64> = about.limits.iter().copied().flatten().collect();
        Self {
            bench: contest.object.name(),
            system,
            system_version,
            ranks: contest.placement.ranks,
            busy: contest.busy,
            nodes: contest.placement.nodes,
            fabric: about.fabric.clone(),
            wait: (system == "phalanx").then(|| about.wait.clone()),
            objects: contest.objects,
            hold_ns: contest.hold_ns,
            think_ns: contest.think_ns,
            readers: (contest.object == Object::RwLock).then_some(contest.readers),
            permits: (contest.object == Object::Semaphore).then_some(contest.permits),
            seconds: contest.seconds,
            rounds: about.rounds,
            acquisitions: figures.acquisitions,
            acquire_mean_ns: tenth(acquire.mean),
            acquire_min_ns: tenth(acquire.min),
            acquire_p50_ns: tenth(acquire.p50),
            acquire_p90_ns: tenth(acquire.p90),
            acquire_p99_ns: tenth(acquire.p99),
            acquire_p999_ns: tenth(acquire.p999),
            acquire_max_ns: tenth(acquire.max),
            acquire_histogram: acquire.buckets(),
            shared_p50_ns: shared(|shared| shared.p50),
            shared_p99_ns: shared(|shared| shared.p99),
            handovers: figures.handover.as_ref().map_or(0, |handover| handover.count),
            handover_p50_ns: handover(|handover| handover.p50),
            handover_p90_ns: handover(|handover| handover.p90),
            handover_p99_ns: handover(|handover| handover.p99),
            handover_p999_ns: handover(|handover| handover.p999),
            handover_max_ns: handover(|handover| handover.max),
            handover_histogram: figures.handover.as_ref().map_or_else(Vec::new, Spread::buckets),
            pair_ns: figures.pair.map(tenth),
            throughput_per_s: tenth(figures.throughput),
            jain: thousandth(Some(figures.jain)).unwrap_or_default(),
            overlaps: figures.overlaps,
            clock_overhead_ns: tenth(about.clock_overhead_ns),
            limit_ns: (!limits.is_empty()).then(|| tenth(median_of(limits.into_iter()))),
            acquire_limit_ratio: thousandth(ratios.acquire_limit),
            handover_limit_ratio: thousandth(ratios.handover_limit),
            phalanx_pair_ratio: thousandth(ratios.pair),
            phalanx_acquire_p50_ratio: thousandth(ratios.acquire),
            phalanx_handover_p50_ratio: thousandth(ratios.handover),
            phalanx_throughput_ratio: thousandth(ratios.throughput),
            cpus: contest.placement.cpus.len(),
            commit: build::COMMIT,
        }
    }
}
