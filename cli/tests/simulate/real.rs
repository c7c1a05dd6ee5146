//! The simulator beside the real thing: barriers over TCP between 2 to 16 pretended nodes on this machine.
//!
//! The simulator's two parameters, the latency and the overhead of a message, are fitted to what was measured, by least
//! squares of the relative errors; then once more to two of the sizes only, to see how it predicts the others. All
//! nodes share this machine's CPUs, in the simulation too. The errors are printed. They are not asserted: how busy a
//! machine is says more about them than the simulator.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use phalanx::clock::Clock;
use phalanx::fabric::sim::Costs;
use phalanx_bench::rank::RankTask;
use phalanx_bench::simulate::Scenario;
use phalanx_bench::workload::{ArrivalPattern, Placement, Workload};
use phalanx_bench::{figures, samples};

const SIZES: [usize; 4] = [2, 4, 8, 16];
const RADIX: usize = 2;
const ROUNDS: usize = 5;
const BARRIERS: usize = 300;

/// A directory for records, gone with its test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn scratch(name: &str) -> Scratch {
    let path = std::env::temp_dir().join(format!("phalanx-simulate-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a directory");
    Scratch(path)
}

/// The usable CPUs.
fn cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).expect("a process has CPUs");
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Nanoseconds for each barrier between so many nodes of one rank, back to back.
fn measure(nodes: usize, round: usize) -> f64 {
    let directory = scratch(&format!("{nodes}-{round}"));
    let ns_per_tick = Clock::calibrate().ns_per_tick();
    let workload = Workload {
        placement: Placement { ranks: nodes, nodes, cpus: cpus() },
        iterations: BARRIERS,
        warmup: 50,
        arrival: ArrivalPattern::BackToBack,
        late_ns: 0,
        period_ns: 0,
        seed: 1,
        ns_per_tick,
    };
    let task = RankTask { workload, algorithm: None, wait: None, fabric: None, directory: directory.0.clone() };
    let (program, nodes_text) = (env!("CARGO_BIN_EXE_phalanx"), nodes.to_string());
    let output = Command::new(program)
        .args(["run", "-n", &nodes_text, "--nodes", &nodes_text, "--bind", "none", "--timeout", "100s", "--"])
        .args([program, "bench-rank", &serde_json::to_string(&task).expect("a task is text")])
        .env("PHALANX_RADIX", RADIX.to_string())
        .stdin(Stdio::null())
        .output()
        .expect("the command starts");
    assert!(output.status.success(), "{nodes} nodes: {output:?}");
    let record = samples::read_all(&directory.0, nodes).expect("each rank leaves its record");
    // The median over barriers, from one's last exit to the next one's: a mean would be of whoever else the CPUs serve.
    let last_exit = |barrier: usize| record.iter().map(|rank| rank[barrier].exit).max().expect("ranks");
    let period = |barrier| last_exit(barrier).saturating_sub(last_exit(barrier - 1)) as f64;
    figures::median_of((1..BARRIERS).map(period)) * ns_per_tick
}

/// The simulator's two parameters, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Fit {
    latency_ns: f64,
    overhead_ns: f64,
}

impl Fit {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole nanoseconds are meant")]
    fn predict(self, nodes: usize) -> f64 {
        let costs = Costs {
            latency_ns: self.latency_ns as u64,
            overhead_ns: self.overhead_ns as u64,
            gap_ns: 0,
            ..Costs::default()
        };
        let scenario = Scenario { costs, cpus: Some(cpus().len()), barriers: 30, ..Scenario::new(nodes, RADIX) };
        scenario.run().unwrap_or_else(|error| panic!("{error}")).period_ns
    }

    fn badness(self, points: &[(usize, f64)]) -> f64 {
        points.iter().map(|(nodes, ns)| (self.predict(*nodes) / ns - 1.0).powi(2)).sum()
    }

    /// Goes downhill in both parameters by ever smaller factors.
    fn least_squares(points: &[(usize, f64)]) -> Self {
        let mut best = Self { latency_ns: 10_000.0, overhead_ns: 3000.0 };
        let mut badness = best.badness(points);
        let mut factor = 2.0;
        while factor > 1.005 {
            let Self { latency_ns, overhead_ns } = best;
            let (less, more) = (1.0 / factor, factor);
            let around = [(less, 1.0), (more, 1.0), (1.0, less), (1.0, more), (less, more), (more, less)];
            let tries = around.map(|(by_latency, by_overhead)| Self {
                latency_ns: (latency_ns * by_latency).max(1.0),
                overhead_ns: (overhead_ns * by_overhead).max(1.0),
            });
            let better = tries.into_iter().map(|fit| (fit.badness(points), fit)).min_by(|a, b| a.0.total_cmp(&b.0));
            match better {
                Some((less_bad, fit)) if less_bad < badness => (badness, best) = (less_bad, fit),
                _ => factor = factor.sqrt(),
            }
        }
        best
    }

    fn print(self, what: &str, points: &[(usize, f64)]) {
        println!("{what}: latency {:.0} ns, overhead {:.0} ns", self.latency_ns, self.overhead_ns);
        for (nodes, ns) in points {
            let simulated = self.predict(*nodes);
            let error = (simulated / ns - 1.0) * 100.0;
            println!(
                "  {nodes:>2} nodes: measured {:>7.1} µs, simulated {:>7.1} µs, {error:+.0} %",
                ns / 1e3,
                simulated / 1e3
            );
        }
    }
}

/// Sound: every size was measured, and what was fitted is finite and better than where it began.
#[test]
fn the_simulator_is_fitted_to_the_real_barrier_and_its_error_reported() {
    let _alone = crate::alone();
    // Sizes take turns, so that a machine that is busy for a while does not spoil one of them.
    let rounds: Vec<Vec<f64>> = (0..ROUNDS).map(|round| SIZES.map(|nodes| measure(nodes, round)).to_vec()).collect();
    // Of each the least: what others do on this machine only adds.
    let least = |size: usize| rounds.iter().map(|round| round[size]).fold(f64::INFINITY, f64::min);
    let points: Vec<(usize, f64)> = SIZES.iter().enumerate().map(|(size, nodes)| (*nodes, least(size))).collect();
    assert!(points.iter().all(|(_, ns)| *ns > 0.0), "{points:?}");
    let fit = Fit::least_squares(&points);
    println!("barriers over TCP between pretended nodes on {} CPUs, radix {RADIX}", cpus().len());
    fit.print("fitted to all sizes", &points);
    let two = [points[0], points[2]];
    Fit::least_squares(&two).print("fitted to 2 and 8 nodes", &points);
    let begun = Fit { latency_ns: 10_000.0, overhead_ns: 3000.0 };
    assert!(fit.badness(&points).is_finite() && fit.badness(&points) <= begun.badness(&points));
}
