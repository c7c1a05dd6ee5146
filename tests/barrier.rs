//! The barrier through the library's interface, with ranks as threads.

use std::sync::atomic::{AtomicU64, Ordering};

use phalanx::{Algorithm, Job, JobOptions};

/// Runs `body` as every rank of a job of threads and returns what each returned, in the order of ranks.
fn on_ranks<T: Send>(n: usize, options: &JobOptions, body: impl Fn(Job) -> T + Sync) -> Vec<T> {
    let jobs = Job::threads_with(n, options).expect("a job of threads");
    std::thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = jobs.into_iter().map(|job| scope.spawn(move || body(job))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

#[test]
fn nobody_passes_before_all_have_arrived() {
    for algorithm in Algorithm::ALL {
        for n in [1, 2, 3, 5, 12] {
            let counts: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
            on_ranks(n, &JobOptions::new().barrier(algorithm), |job| {
                for round in 1..=500 {
                    counts[job.rank()].store(round, Ordering::Relaxed);
                    job.world().barrier().expect("a barrier");
                    for count in &counts {
                        assert!(count.load(Ordering::Relaxed) >= round);
                    }
                }
            });
        }
    }
}
