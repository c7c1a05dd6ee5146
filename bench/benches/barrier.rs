//! Micro-benchmarks of the barrier's parts: arriving and testing, waiting, the reduce, a split, and each algorithm with
//! two ranks. Means only; tails are `phalanx bench barrier`'s.
//!
//! The measuring thread is rank 0; rank 1 is a thread that does the same as often as it is told.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use phalanx::clock::Clock;
use phalanx::trace::{Kind, Record, Settings, Trace, file_of};
use phalanx::{Algorithm, Group, Job, JobOptions, Operation};
use phalanx_bench::rank::pin;

type Work = fn(&Group);
/// What to do, and how often.
type Order = (Work, u64);

/// Rank 0, and a second rank that follows it.
struct Pair {
    job: Job,
    orders: Sender<Order>,
}

impl Pair {
    fn new(options: &JobOptions) -> Self {
        let mut jobs = Job::threads_with(2, options).expect("a job of two threads").into_iter();
        let (job, other) = (jobs.next().expect("rank 0"), jobs.next().expect("rank 1"));
        let (orders, received): (Sender<Order>, Receiver<Order>) = channel();
        std::thread::spawn(move || {
            pin(1);
            while let Ok((work, times)) = received.recv() {
                (0..times).for_each(|_| work(other.world()));
            }
        });
        pin(0);
        Self { job, orders }
    }

    /// The time that `times` repetitions take when both ranks do them.
    fn time(&self, work: Work, times: u64) -> Duration {
        self.orders.send((work, times + 1)).expect("rank 1 lives");
        // The first repetition brings both ranks to the start.
        work(self.job.world());
        let start = Instant::now();
        (0..times).for_each(|_| work(self.job.world()));
        start.elapsed()
    }
}

fn barrier(group: &Group) {
    group.barrier().expect("a barrier");
}

fn arrive_test_wait(group: &Group) {
    let arrival = group.arrive().expect("an arrival");
    while !arrival.test().expect("a test") {
        std::hint::spin_loop();
    }
    arrival.wait().expect("passed already");
}

fn reduce(group: &Group) {
    group.barrier_reduce(Operation::Max, 7).expect("a barrier");
}

fn split(group: &Group) {
    drop(group.split(1, 0).expect("a group"));
}

/// Recording an event on a timeline that is being written meanwhile, the reading of the clock included. Between two
/// batches the ring is emptied, so that none is full and all slots come from the other CPU's cache.
fn record_events(criterion: &mut Criterion) {
    const BATCH: u64 = 2048;
    let path = std::env::temp_dir().join(format!("phalanx-bench-trace-{}.json", std::process::id()));
    let clock = Clock::calibrate();
    let settings = Settings { path: path.clone(), rank: 0, node: 0, ranks: 1, clock, origin_time_ns: 0 };
    let trace = Trace::start(&settings).expect("a file");
    let time_batch = |events: u64| {
        std::thread::sleep(Duration::from_millis(15));
        let start = Instant::now();
        for sequence in 0..events {
            trace.record(&Record { ticks: clock.now(), kind: Kind::Arrival, group: 0, sequence, argument: 0 });
        }
        start.elapsed()
    };
    criterion.bench_function("trace/record", |bencher| {
        bencher.iter_custom(|times| {
            let batches = (0..times.div_ceil(BATCH)).map(|batch| time_batch(BATCH.min(times - batch * BATCH)));
            batches.sum()
        });
    });
    assert_eq!(trace.lost(), 0, "what is lost is cheaper");
    drop(trace);
    let _ = std::fs::remove_file(file_of(&path, 0));
}

fn benchmarks(criterion: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let pair = Pair::new(&JobOptions::new().barrier(algorithm));
        criterion.bench_function(&format!("barrier/{algorithm}/2"), |bencher| {
            bencher.iter_custom(|times| pair.time(barrier, times));
        });
    }
    let pair = Pair::new(&JobOptions::new());
    for (name, work) in
        [("arrive-test-wait/2", arrive_test_wait as Work), ("reduce-max/2", reduce), ("split-and-drop/2", split)]
    {
        criterion.bench_function(name, |bencher| bencher.iter_custom(|times| pair.time(work, times)));
    }
    record_events(criterion);
    let alone = Job::threads(1).expect("a job of one rank");
    criterion.bench_function("barrier/alone", |bencher| bencher.iter(|| barrier(alone[0].world())));
}

criterion_group!(benches, benchmarks);
criterion_main!(benches);
