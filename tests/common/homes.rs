//! Named objects whose home a test chooses, and barriers on a network that is being cut.

use std::time::Instant;

use phalanx::{BarrierError, Job};

use super::ranks::LIMIT;

/// For a job whose connections are cut so often that nothing may be heard of a node for a while.
pub const UNDISTURBED: (&str, &str) = ("PHALANX_FAILURE_TIMEOUT_MS", "10000");

/// A name for an object that is at home on a node: the first of some that is, the same for all ranks.
pub fn name_at(job: &Job, home: usize, what: &str) -> String {
    let names = (0..64).map(|index| format!("{what} {index}"));
    names.into_iter().find(|name| job.home_of(name) == Ok(home)).expect("one of so many names")
}

/// All are there. Called again while too few nodes answer, since connections break.
pub fn meet(job: &Job) {
    let begun = Instant::now();
    while let Err(error) = job.world().barrier_timeout(LIMIT) {
        let may_pass = matches!(error, BarrierError::Unreachable { .. } | BarrierError::Unsettled { .. });
        assert!(may_pass && begun.elapsed() < LIMIT, "{error}");
        std::thread::yield_now();
    }
}
