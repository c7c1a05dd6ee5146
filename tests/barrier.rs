//! The barrier through the library's interface, with ranks as threads: the plain case, for every algorithm and policy.
//! What goes wrong stands in `errors.rs`, everything at once in `stress.rs`.
#![cfg(not(model))]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::block::{REDUCTIONS, reduced};
use common::ranks::on_ranks;
use phalanx::{Algorithm, JobOptions, WaitPolicy};

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
                        assert!((round..=round + 1).contains(&count.load(Ordering::Relaxed)));
                    }
                }
            });
        }
    }
}

#[test]
fn reductions_come_out_the_same_for_all() {
    for algorithm in Algorithm::ALL {
        for wait in WaitPolicy::ALL {
            on_ranks(4, &JobOptions::new().barrier(algorithm).wait(wait), |job| {
                for round in 0..40 {
                    let operation = REDUCTIONS[round % 4];
                    let words = [0, 1, 2, 3].map(|rank| (round as u64 + 3) << (rank * 2) ^ rank);
                    let result = job.world().barrier_reduce(operation, words[job.rank()]);
                    assert_eq!(result, Ok(reduced(operation, &words)), "{algorithm}, {wait}, {operation}");
                }
            });
        }
    }
}

#[test]
fn half_barriers_pass_when_the_other_halves_have_come() {
    for algorithm in Algorithm::ALL {
        let counts: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
        on_ranks(3, &JobOptions::new().barrier(algorithm), |job| {
            for round in 1..=200 {
                counts[job.rank()].store(round, Ordering::Relaxed);
                let arrival = job.world().arrive().expect("nothing outstanding");
                while job.rank() == 1 && !arrival.test().expect("all agree") {
                    std::thread::yield_now();
                }
                arrival.wait().expect("all agree");
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) >= round));
            }
        });
    }
}
