//! Ranks as threads of the test.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use phalanx::{Group, Job, JobOptions};

/// Longer than anything here takes on a machine that does other things too. No test waits for it unless it fails.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until something is so, and lets others have the CPU meanwhile. `otherwise`: what is wrong if it never is.
#[track_caller]
pub fn await_that(otherwise: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "{otherwise}");
        std::thread::yield_now();
    }
}

/// Runs `body` as every rank of a job of threads and returns what each returned, in the order of ranks.
pub fn on_ranks<T: Send>(n: usize, options: &JobOptions, body: impl Fn(Job) -> T + Sync) -> Vec<T> {
    let jobs = Job::threads_with(n, options).expect("a job of threads");
    std::thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = jobs.into_iter().map(|job| scope.spawn(move || body(job))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

/// What is taken of a node's space before anybody has made a group.
pub fn space_before(world: &Group) -> usize {
    world.barrier().expect("all are there");
    let before = world.space().0;
    world.barrier().expect("all have looked");
    before
}

/// Stops ranks until all are there. Unlike `std::sync::Barrier` it lets nobody stand for ever when one has failed.
pub struct Gate {
    size: usize,
    state: Mutex<Count>,
    bell: Condvar,
}

#[derive(Clone, Copy)]
struct Count {
    here: usize,
    openings: u64,
}

impl Gate {
    pub fn new(size: usize) -> Self {
        Self { size, state: Mutex::new(Count { here: 0, openings: 0 }), bell: Condvar::new() }
    }

    pub fn wait(&self) {
        let mut count = self.state.lock().expect("a rank has failed at the gate");
        let mine = count.openings;
        count.here += 1;
        if count.here == self.size {
            *count = Count { here: 0, openings: mine + 1 };
            self.bell.notify_all();
            return;
        }
        let is_shut = |count: &mut Count| count.openings == mine;
        let (_count, waited) = self.bell.wait_timeout_while(count, LIMIT, is_shut).expect("a rank has failed");
        assert!(!waited.timed_out(), "not all ranks have come to the gate");
    }
}
