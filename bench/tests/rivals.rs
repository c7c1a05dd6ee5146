//! Every rival that is installed here leaves the record that it promises: of barriers for every arrival pattern, and of
//! contests for each object that it has. One that is not installed is named on standard output; a test of which none is
//! counts as not run.

use std::fs;
use std::path::{Path, PathBuf};

use phalanx_bench::contest::record::{self, Record};
use phalanx_bench::contest::{self, Contest, Object};
use phalanx_bench::rivals::{Bench, PreparedRival, Rival, Skipped};
use phalanx_bench::workload::{ArrivalPattern, Placement, Workload};

const ITERATIONS: usize = 300;
const MAX_SECONDS: f64 = 4.0;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rivals-{name}"))
}

/// What has come of a rival: why it was not run.
type Tried = Result<(), Skipped>;

/// Says what was not run, and of a test of which nothing was, that it was not.
fn conclude(tried: impl IntoIterator<Item = Tried>) {
    let (mut skipped, mut run) = (Vec::new(), 0);
    for one in tried {
        match one {
            Ok(()) => run += 1,
            Err(why) => skipped.push(why.to_string()),
        }
    }
    match run {
        0 => phalanx::testing::not_run(skipped.join("; ")),
        _ => skipped.iter().for_each(|why| println!("{why}")),
    }
}

/// Builds in a directory of the test's own, since tests run side by side.
fn prepare(rival: Rival, test: &str) -> Result<PreparedRival, Skipped> {
    rival.prepare(Bench::Barrier, &directory("build").join(test))
}

fn workload(arrival: ArrivalPattern) -> Workload {
    Workload {
        placement: Placement { ranks: 2, nodes: 1, cpus: Vec::new() },
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
fn check_across_nodes(rival: Rival) -> Tried {
    assert!(rival.spans_nodes());
    let prepared = prepare(rival, &format!("{rival}-nodes"))?;
    let out = directory("out").join(rival.name()).join("nodes");
    let workload = Workload {
        placement: Placement { ranks: 2, nodes: 2, cpus: Vec::new() },
        ..workload(ArrivalPattern::BackToBack)
    };
    prepared.run(&workload, MAX_SECONDS, &out).unwrap();
    let ranks: Vec<_> = (0..2).map(|rank| read_samples(&out, rank)).collect();
    check_barrier(&ranks);
    // Sending costs whoever sends it a system call and the way through the loopback interface, also when all the others
    // are there already. The luckiest wait of all tells, since a busy machine makes the others long whatever they
    // cross.
    let shortest = ranks.iter().flatten().map(|(enter, exit)| exit - enter).min();
    assert!(shortest > Some(500), "{rival} took {shortest:?} ns: that was shared memory");
    Ok(())
}

fn check(rival: Rival) -> Tried {
    let prepared = prepare(rival, rival.name())?;
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
    Ok(())
}

#[test]
fn open_mpi_leaves_its_record() {
    conclude([check(Rival::OpenMpi)]);
}

#[test]
fn mpich_leaves_its_record() {
    conclude([check(Rival::Mpich)]);
}

#[test]
fn mpi_goes_by_tcp_across_nodes() {
    conclude([Rival::OpenMpi, Rival::Mpich].map(check_across_nodes));
}

#[test]
fn libgomp_leaves_its_record() {
    conclude([check(Rival::Libgomp)]);
}

#[test]
fn pthread_barrier_leaves_its_record() {
    conclude([check(Rival::PthreadBarrier)]);
}

#[test]
fn std_barrier_leaves_its_record() {
    conclude([check(Rival::StdBarrier)]);
}

#[test]
fn gloo_barrier_leaves_its_record() {
    conclude([check(Rival::GlooBarrier)]);
}

#[test]
fn gloo_monitored_barrier_leaves_its_record() {
    conclude([check(Rival::GlooMonitoredBarrier)]);
}

#[test]
fn a_short_budget_shortens_the_record_equally() {
    let prepared = match prepare(Rival::PthreadBarrier, "budget") {
        Ok(prepared) => prepared,
        Err(skipped) => return conclude([Err(skipped)]),
    };
    let out = directory("out").join("budget");
    let workload = Workload {
        placement: Placement { ranks: 2, nodes: 1, cpus: vec![0] },
        iterations: 5_000_000,
        ..workload(ArrivalPattern::BackToBack)
    };
    prepared.run(&workload, 0.2, &out).unwrap();
    let lengths: Vec<_> = (0..2).map(|rank| read_samples(&out, rank).len()).collect();
    assert_eq!(lengths[0], lengths[1]);
    assert!(lengths[0] < workload.iterations);
}

fn contest(object: Object) -> Contest {
    Contest {
        object,
        placement: Placement { ranks: 3, nodes: 1, cpus: Vec::new() },
        busy: 2,
        objects: 2,
        hold_ns: if object.is_held() { 20_000 } else { 0 },
        think_ns: 1000,
        readers: if object == Object::RwLock { 0.5 } else { 0.0 },
        permits: 2,
        seconds: 0.3,
        iterations: 300,
        warmup: 5,
        most_samples: 300,
        seed: 7,
        ns_per_tick: 1.0,
    }
}

/// That the rival leaves a sound record of a contest: its times in order, no more than was asked for, objects and
/// readers as drawn, and nothing held twice at once.
fn check_record(rival: Rival, contest: &Contest, records: &[Record]) {
    for (rank, record) in records.iter().enumerate() {
        let is_busy = rank < contest.busy;
        assert_eq!(!record.possessions.is_empty(), is_busy, "{rival}: rank {rank}");
        assert!(record.possessions.len() <= contest.iterations);
        assert!(record.head.count <= record.possessions.len() as u64 && record.head.start <= record.head.end);
        for possession in &record.possessions {
            assert!(possession.request <= possession.acquired, "{rival}: {possession:?}");
            assert!(possession.released - possession.acquired >= contest.hold_ns, "{rival}: {possession:?}");
            assert!(possession.object < contest.objects as u64);
            assert!(!possession.is_shared || contest.readers > 0.0);
        }
        for pair in record.possessions.windows(2) {
            assert!(pair[0].released <= pair[1].request, "{rival}: {pair:?}");
        }
    }
    let figures = contest::figures::Figures::of_round(records, contest);
    assert_eq!(figures.overlaps, 0, "{rival} lets two own a {} at once", contest.object.name());
}

fn prepare_contest(rival: Rival, object: Object, test: &str) -> Result<PreparedRival, Skipped> {
    let name = format!("{rival}-{}-{test}", object.name());
    let prepared = rival.prepare(Bench::Contest(object), &directory("build").join(name))?;
    assert!(prepared.version().contains(|c: char| c.is_ascii_digit()), "{}", prepared.version());
    Ok(prepared)
}

fn run_contest(prepared: &PreparedRival, contest: &Contest, test: &str) -> Vec<Record> {
    let out = directory("out").join(format!("{}-{}-{test}", prepared.rival(), contest.object.name()));
    prepared.run(contest, contest.seconds, &out).unwrap();
    let records = record::read_all(&out, contest.placement.ranks).unwrap();
    check_record(prepared.rival(), contest, &records);
    records
}

/// Contends, and then has it alone.
fn check_contest(rival: Rival, object: Object) -> Tried {
    let prepared = prepare_contest(rival, object, "node")?;
    let mut contest = contest(object);
    if rival.spans_nodes() && object.is_held() {
        // A good part of what a request of a server takes, so that two owners at once would show.
        contest.hold_ns = 1_000_000;
    }
    run_contest(&prepared, &contest, "together");
    let alone = Contest { busy: 1, ..contest };
    let records = run_contest(&prepared, &alone, "alone");
    assert!(records[0].head.pairs_of_batch > 0 && !records[0].batches.is_empty(), "{rival}: pairs were timed");
    assert_eq!(records[1], Record::default(), "{rival}: an idle rank leaves zeros");
    Ok(())
}

fn check_contests(contests: impl IntoIterator<Item = (Rival, Object)>) {
    conclude(contests.into_iter().map(|(rival, object)| check_contest(rival, object)));
}

#[test]
fn mpi_has_locks_with_readers_and_counters() {
    let objects = [Object::Lock, Object::RwLock, Object::Counter];
    check_contests([Rival::OpenMpi, Rival::Mpich].into_iter().flat_map(|rival| objects.map(|object| (rival, object))));
}

#[test]
fn mpi_locks_go_by_tcp_across_nodes() {
    conclude([Rival::OpenMpi, Rival::Mpich].map(|rival| {
        let placement = Placement { ranks: 2, nodes: 2, cpus: Vec::new() };
        let contest = Contest { placement, objects: 1, ..contest(Object::Lock) };
        let prepared = prepare_contest(rival, Object::Lock, "nodes")?;
        let records = run_contest(&prepared, &contest, "nodes");
        // Of the rank that is not where the lock lives.
        let shortest = records[0].possessions.iter().map(|possession| possession.acquired - possession.request).min();
        assert!(shortest > Some(500), "{rival} took {shortest:?} ns: that was shared memory");
        Ok(())
    }));
}

#[test]
fn the_c_librarys_objects_and_file_locks_contend() {
    check_contests([
        (Rival::RobustMutex, Object::Lock),
        (Rival::PthreadRwLock, Object::RwLock),
        (Rival::PosixSemaphore, Object::Semaphore),
        (Rival::Flock, Object::Lock),
        (Rival::Flock, Object::RwLock),
        (Rival::Atomic, Object::Counter),
    ]);
}

#[test]
fn redis_locks_and_counts() {
    check_contests([(Rival::Redis, Object::Lock), (Rival::Redis, Object::Counter), (Rival::RedisPy, Object::Lock)]);
}

#[test]
fn etcd_locks_and_elects() {
    check_contests([(Rival::Etcd, Object::Lock), (Rival::Etcd, Object::Election)]);
}

#[test]
fn zookeeper_has_all_but_counters() {
    let objects = [Object::Lock, Object::RwLock, Object::Semaphore, Object::Election];
    check_contests(objects.map(|object| (Rival::ZooKeeper, object)));
}
