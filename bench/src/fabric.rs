//! `phalanx bench fabric`: what single operations on another node's words cost, by the fabric alone.
//!
//! Two processes, each a node with a segment of its own. Node 0 asks, node 1 is asked, in one of two states:
//!
//! | peer | what node 1 does |
//! | --- | --- |
//! | polling | waits, as in a barrier: moves its fabric on again and again |
//! | computing | computes and never looks: its fabric's background thread serves, on the same CPU |
//!
//! Every operation is measured with 1 to 64 outstanding: its latency from being posted to being taken, and the rate at
//! which a full window completes. A write has no completion; it counts as done when a read that was posted after it has
//! completed, and a window of writes shares one read. In shared memory the asking CPU does everything itself, and by
//! RDMA the device does, so there is nobody to poll: node 1 computes.

mod endpoint;
mod page;
mod perftest;

use phalanx::clock::Clock;
use phalanx::fabric::FabricKind;
use phalanx::fabric::rdma::{self, AtomicCapability, DeviceFacts, RdmaError};
use phalanx::machine::CpuSet;
use serde::{Deserialize, Serialize};

pub use self::endpoint::{EndpointError, run_process};
pub use self::page::{json_lines, render};
use crate::compare::{Directory, Progress};
use crate::figures::{Figures, median_of};
use crate::samples::{self, Sample, SamplesError};
use crate::turn::TurnError;
use crate::{build, limit};

/// The hidden subcommand that makes this program one end; its argument is a [`Task`] as JSON.
pub const ENDPOINT_COMMAND: &str = "bench-fabric-end";
/// Operations under way at a time.
const WINDOWS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// What is asked of the other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Stores, and a read behind them that tells when they have taken effect.
    Write,
    /// A load.
    Read,
    /// A fetch-and-add.
    FetchAdd,
    /// A compare-and-swap that succeeds.
    CompareSwap,
}

impl Operation {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Write, Self::Read, Self::FetchAdd, Self::CompareSwap];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::FetchAdd => "fetch_add",
            Self::CompareSwap => "compare_swap",
        }
    }
}

/// What the asked node does meanwhile; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Waits in the fabric.
    Polling,
    /// Does something else.
    Computing,
}

impl Peer {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::Computing => "computing",
        }
    }
}

/// What an end is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The fabric's name.
    pub fabric: String,
    /// What node 1 does.
    pub peer: Peer,
    /// The CPU of each end; empty: not pinned.
    pub cpus: Vec<usize>,
    /// How many operations a record has at most.
    pub operations: usize,
    /// Where records go: a directory for each operation and window.
    pub directory: std::path::PathBuf,
}

/// The directory of one record.
fn record_of(directory: &std::path::Path, operation: Operation, outstanding: usize) -> std::path::PathBuf {
    directory.join(format!("{}-{outstanding}", operation.name()))
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The fabric.
    pub fabric: FabricKind,
    /// The most operations of one record.
    pub operations: usize,
    /// How many rounds.
    pub rounds: usize,
    /// Whether perftest is measured too.
    pub with_perftest: bool,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// There is no such fabric, or a number makes no measurement.
    #[error("{0}")]
    Request(String),
    /// An end failed.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// A record cannot be used.
    #[error(transparent)]
    Samples(#[from] SamplesError),
    /// A directory for records cannot be made.
    #[error("cannot make a directory for records: {0}")]
    Directory(std::io::Error),
}

/// One result. The field names are a contract.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which benchmark: "fabric".
    pub bench: &'static str,
    /// "phalanx" or "perftest".
    pub system: &'static str,
    /// Its version.
    pub system_version: String,
    /// What joins the nodes.
    pub fabric: &'static str,
    /// What the asked node does; absent for perftest.
    pub peer: Option<&'static str>,
    /// The operation.
    pub operation: &'static str,
    /// How many are under way at a time.
    pub outstanding: usize,
    /// Operations recorded, over all rounds.
    pub operations: u64,
    /// Completed in a second: the median over rounds, as are the mean and the next four.
    pub rate_per_s: Option<f64>,
    /// Mean latency.
    pub mean_ns: f64,
    /// The shortest of all.
    pub min_ns: f64,
    /// Median latency.
    pub p50_ns: f64,
    /// 90th percentile; perftest tells none.
    pub p90_ns: Option<f64>,
    /// 99th percentile.
    pub p99_ns: f64,
    /// 99.9th percentile.
    pub p999_ns: f64,
    /// The longest of all.
    pub max_ns: f64,
    /// What a clock read costs; included in all latencies.
    pub clock_overhead_ns: Option<f64>,
    /// A round trip between the same CPUs, in the same rounds: of 32 bytes by raw spinning sockets, or of a word by raw
    /// RDMA writes; `null` where there is no such thing.
    pub limit_ns: Option<f64>,
    /// Median over rounds of the median latency over the limit of the same round.
    pub limit_ratio: Option<f64>,
    /// CPUs that the two ends have.
    pub cpus: usize,
    /// The commit that measured.
    pub commit: &'static str,
    /// Rounds.
    pub rounds: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    /// One for each operation, state of the peer and window.
    pub reports: Vec<Report>,
    /// Why perftest is not among them, if it was asked for.
    pub skipped: Option<String>,
    /// The fabric.
    pub fabric: FabricKind,
    /// The CPU of each end.
    pub cpus: Vec<usize>,
}

/// All rounds of one operation, state and window.
struct Series {
    peer: Peer,
    operation: Operation,
    outstanding: usize,
    figures: Vec<Figures>,
    rates: Vec<f64>,
}

/// Measures.
///
/// # Errors
///
/// [`FabricError`]; nothing is left behind.
pub fn run(request: &Request, progress: &mut dyn Progress) -> Result<Measured, FabricError> {
    let peers = check(request)?;
    let clock = Clock::calibrate();
    let cpus: Vec<usize> = CpuSet::of_this_thread().iter().take(2).collect();
    let directory = Directory::new().map_err(FabricError::Directory)?;
    let mut limits = Vec::new();
    let mut all = every_series(peers);
    let turns = request.rounds * peers.len();
    for round in 0..request.rounds {
        limits.push(raw_round_trip_ns(request.fabric, &cpus, &clock));
        for (index, peer) in peers.iter().enumerate() {
            progress.turn(round * peers.len() + index, turns, peer.name());
            let task = Task {
                fabric: request.fabric.name().to_owned(),
                peer: *peer,
                cpus: cpus.clone(),
                operations: request.operations,
                directory: directory.path.join("fabric"),
            };
            endpoint::start(&task)?;
            for series in all.iter_mut().filter(|series| series.peer == *peer) {
                series.take(&task, clock.ns_per_tick())?;
            }
        }
    }
    progress.turn(turns, turns, "done");
    let about = About { fabric: request.fabric, cpus: cpus.len(), overhead: clock.overhead_ns(), limits };
    let mut reports: Vec<Report> = all.iter().map(|series| series.report(&about)).collect();
    let skipped = match request.with_perftest.then(|| perftest::run(&cpus)) {
        None => None,
        Some(Ok(of_perftest)) => {
            reports.extend(of_perftest);
            None
        }
        Some(Err(why)) => Some(why),
    };
    Ok(Measured { reports, skipped, fabric: request.fabric, cpus })
}

/// The states of the peer that make a difference.
fn check(request: &Request) -> Result<&'static [Peer], FabricError> {
    if request.rounds == 0 || request.operations == 0 {
        return Err(FabricError::Request("rounds and operations must be at least 1".to_owned()));
    }
    match request.fabric {
        FabricKind::Tcp => Ok(&[Peer::Polling, Peer::Computing]),
        FabricKind::Shm => Ok(&[Peer::Computing]),
        FabricKind::Rdma => check_devices(rdma::devices()).map(|()| &[Peer::Computing][..]),
        other => Err(FabricError::Request(format!(
            "{other} cannot be measured: it joins no two processes (remedy: --fabric tcp, shm or rdma)"
        ))),
    }
}

/// Whether there is a device, with atomics.
fn check_devices(devices: Result<Vec<DeviceFacts>, RdmaError>) -> Result<(), FabricError> {
    let refuse = |why: String| {
        FabricError::Request(format!("rdma cannot be measured: {why} (without a device: --fabric tcp or shm)"))
    };
    let devices = devices.map_err(|error| refuse(error.to_string()))?;
    if devices.is_empty() {
        return Err(refuse(RdmaError::NoDevice.to_string()));
    }
    if devices.iter().all(|device| device.atomics == AtomicCapability::None) {
        return Err(refuse("no RDMA device of this machine has atomics".to_owned()));
    }
    Ok(())
}

/// A round trip of nothing but the means; shared memory needs none.
fn raw_round_trip_ns(fabric: FabricKind, cpus: &[usize], clock: &Clock) -> Option<f64> {
    match fabric {
        FabricKind::Shm => None,
        other => limit::round_trip_ns(other.name(), cpus, clock),
    }
}

fn every_series(peers: &[Peer]) -> Vec<Series> {
    let mut all = Vec::new();
    for peer in peers {
        for operation in Operation::ALL {
            for outstanding in WINDOWS {
                all.push(Series { peer: *peer, operation, outstanding, figures: Vec::new(), rates: Vec::new() });
            }
        }
    }
    all
}

/// What all reports of a run share.
struct About {
    fabric: FabricKind,
    cpus: usize,
    overhead: f64,
    limits: Vec<Option<f64>>,
}

impl Series {
    /// Takes the record of a turn that has just ended.
    fn take(&mut self, task: &Task, ns_per_tick: f64) -> Result<(), FabricError> {
        let record = samples::read_all(&record_of(&task.directory, self.operation, self.outstanding), 1)?;
        self.rates.push(rate_per_s(&record[0], ns_per_tick));
        self.figures.push(Figures::of_round(&record, ns_per_tick));
        Ok(())
    }

    fn report(&self, about: &About) -> Report {
        let figures = Figures::of_rounds(&self.figures).waits;
        let tenth = |number: f64| (number * 10.0).round() / 10.0;
        let has_limit = about.limits.iter().any(Option::is_some);
        let ratios = self.figures.iter().zip(&about.limits).filter_map(|(own, limit)| Some(own.waits.p50 / (*limit)?));
        let ratio = (median_of(ratios) * 1000.0).round() / 1000.0;
        Report {
            bench: "fabric",
            system: "phalanx",
            system_version: build::VERSION.to_owned(),
            fabric: about.fabric.name(),
            peer: Some(self.peer.name()),
            operation: self.operation.name(),
            outstanding: self.outstanding,
            operations: figures.count,
            rate_per_s: Some(tenth(median_of(self.rates.iter().copied()))),
            mean_ns: tenth(figures.mean),
            min_ns: figures.min,
            p50_ns: figures.p50,
            p90_ns: Some(figures.p90),
            p99_ns: figures.p99,
            p999_ns: figures.p999,
            max_ns: figures.max,
            clock_overhead_ns: Some(tenth(about.overhead)),
            limit_ns: has_limit.then(|| tenth(median_of(about.limits.iter().copied().flatten()))),
            limit_ratio: has_limit.then_some(ratio),
            cpus: about.cpus,
            commit: build::COMMIT,
            rounds: self.figures.len(),
        }
    }
}

/// Operations in a second, from the first post to the last completion.
fn rate_per_s(samples: &[Sample], ns_per_tick: f64) -> f64 {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return 0.0 };
    let span_ns = last.exit.saturating_sub(first.enter) as f64 * ns_per_tick;
    samples.len() as f64 * 1e9 / span_ns.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_from_the_first_post_to_the_last_completion() {
        let samples =
            [Sample { enter: 0, exit: 400 }, Sample { enter: 0, exit: 500 }, Sample { enter: 400, exit: 1500 }];
        assert_eq!(rate_per_s(&samples, 2.0), 1e6);
        assert_eq!(rate_per_s(&[], 1.0), 0.0);
    }

    #[test]
    fn what_cannot_be_measured_is_refused_with_a_remedy() {
        let request = Request { fabric: FabricKind::Sim, operations: 1, rounds: 1, with_perftest: false };
        let error = check(&request).expect_err("the simulator joins no processes").to_string();
        assert!(error.contains("sim") && error.contains("--fabric tcp"), "{error}");
        assert!(check(&Request { fabric: FabricKind::Tcp, rounds: 0, ..request }).is_err());
    }

    #[test]
    fn without_a_device_or_atomics_rdma_is_refused_with_a_remedy() {
        let device = |atomics| DeviceFacts {
            name: "mlx5_0".to_owned(),
            atomics,
            served_at_once: 16,
            under_way: 16,
            is_soft_roce: false,
            numa: None,
            ports: Vec::new(),
        };
        let refusals = [(Vec::new(), "no RDMA device"), (vec![device(AtomicCapability::None)], "atomics")];
        for (devices, why) in refusals {
            let error = check_devices(Ok(devices)).expect_err("nothing to measure").to_string();
            assert!(error.contains(why) && error.contains("--fabric tcp"), "{error}");
        }
        assert!(check_devices(Ok(vec![device(AtomicCapability::Device)])).is_ok());
    }
}
