//! Every rival that is installed here leaves the record that it promises, for every arrival pattern. One that is not
//! installed is named on standard output and counts as not run.

use std::fs;
use std::path::{Path, PathBuf};

use phalanx_bench::rivals::{PreparedRival, Rival};
use phalanx_bench::workload::{ArrivalPattern, Workload};

const ITERATIONS: usize = 300;
const MAX_SECONDS: f64 = 4.0;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rivals-{name}"))
}

/// Builds in a directory of the test's own, since tests run side by side.
fn prepare(rival: Rival, test: &str) -> Option<PreparedRival> {
    match rival.prepare(&directory("build").join(test)) {
        Ok(prepared) => Some(prepared),
        Err(skipped) => {
            println!("{skipped}");
            None
        }
    }
}

fn workload(arrival: ArrivalPattern) -> Workload {
    Workload {
        ranks: 2,
        nodes: 1,
        cpus: Vec::new(),
        iterations: ITERATIONS,
        warmup: 20,
        arrival,
        late_ns: 20_000,
        period_ns: 200_000,
        seed: 7,
        // The nanosecond clock, which every machine has.
        ns_per_tick: 1.0,
    }
}

/// Entries and exits of one rank.
fn read_samples(out: &Path, rank: usize) -> Vec<(u64, u64)> {
    let bytes = fs::read(out.join(format!("{rank}.samples"))).unwrap();
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    bytes.chunks_exact(16).map(|pair| (word(&pair[..8]), word(&pair[8..]))).collect()
}

fn check_one_rank(samples: &[(u64, u64)], arrival: ArrivalPattern) {
    for &(enter, exit) in samples {
        assert!(enter <= exit, "left at {exit} before it entered at {enter}");
    }
    for pair in samples.windows(2) {
        let ((enter, exit), (next_enter, next_exit)) = (pair[0], pair[1]);
        assert!(enter <= next_enter && exit <= next_exit);
        match arrival {
            ArrivalPattern::BackToBack => assert_eq!(exit, next_enter, "leaving is entering"),
            ArrivalPattern::OpenLoop => assert!(next_enter.abs_diff(enter + 200_000) <= 1),
            _ => assert!(exit <= next_enter),
        }
    }
}

/// Nobody leaves before all have entered: on a common clock this holds for whatever calls itself a barrier.
fn check_barrier(ranks: &[Vec<(u64, u64)>]) {
    for i in 0..ranks[0].len() {
        let last_entry = ranks.iter().map(|samples| samples[i].0).max();
        let first_exit = ranks.iter().map(|samples| samples[i].1).min();
        assert!(last_entry <= first_exit, "iteration {i}: left at {first_exit:?}, entered at {last_entry:?}");
    }
}

/// The same by TCP, for the rivals that can.
fn check_across_nodes(rival: Rival) {
    assert!(rival.spans_nodes());
    let Some(prepared) = prepare(rival, &format!("{rival}-nodes")) else { return };
    let out = directory("out").join(rival.name()).join("nodes");
    let workload = Workload { nodes: 2, ..workload(ArrivalPattern::BackToBack) };
    prepared.run(&workload, MAX_SECONDS, &out).unwrap();
    let ranks: Vec<_> = (0..2).map(|rank| read_samples(&out, rank)).collect();
    check_barrier(&ranks);
    // Sending costs whoever sends it a system call and the way through the loopback interface, also when all the others
    // are there already. The luckiest wait of all tells, since a busy machine makes the others long whatever they cross.
    let shortest = ranks.iter().flatten().map(|(enter, exit)| exit - enter).min();
    assert!(shortest > Some(500), "{rival} took {shortest:?} ns: that was shared memory");
}

fn check(rival: Rival) {
    let Some(prepared) = prepare(rival, rival.name()) else { return };
    assert_eq!(prepared.rival(), rival);
    assert!(prepared.version().contains(|c: char| c.is_ascii_digit()), "{}", prepared.version());
    for arrival in ArrivalPattern::ALL {
        let out = directory("out").join(rival.name()).join(arrival.name());
        prepared.run(&workload(arrival), MAX_SECONDS, &out).unwrap();
        let ranks: Vec<_> = (0..2).map(|rank| read_samples(&out, rank)).collect();
        assert_eq!(ranks[0].len(), ranks[1].len());
        assert!((1..=ITERATIONS).contains(&ranks[0].len()));
        for samples in &ranks {
            check_one_rank(samples, arrival);
        }
        check_barrier(&ranks);
    }
}

#[test]
fn open_mpi_leaves_its_record() {
    check(Rival::OpenMpi);
}

#[test]
fn mpich_leaves_its_record() {
    check(Rival::Mpich);
}

#[test]
fn mpi_goes_by_tcp_across_nodes() {
    check_across_nodes(Rival::OpenMpi);
    check_across_nodes(Rival::Mpich);
}

#[test]
fn libgomp_leaves_its_record() {
    check(Rival::Libgomp);
}

#[test]
fn pthread_barrier_leaves_its_record() {
    check(Rival::PthreadBarrier);
}

#[test]
fn std_barrier_leaves_its_record() {
    check(Rival::StdBarrier);
}

#[test]
fn gloo_barrier_leaves_its_record() {
    check(Rival::GlooBarrier);
}

#[test]
fn gloo_monitored_barrier_leaves_its_record() {
    check(Rival::GlooMonitoredBarrier);
}

#[test]
fn a_short_budget_shortens_the_record_equally() {
    let Some(prepared) = prepare(Rival::PthreadBarrier, "budget") else { return };
    let out = directory("out").join("budget");
    let workload = Workload { iterations: 5_000_000, cpus: vec![0], ..workload(ArrivalPattern::BackToBack) };
    prepared.run(&workload, 0.2, &out).unwrap();
    let lengths: Vec<_> = (0..2).map(|rank| read_samples(&out, rank).len()).collect();
    assert_eq!(lengths[0], lengths[1]);
    assert!(lengths[0] < workload.iterations);
}
