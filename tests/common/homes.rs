//! Named objects whose home a test chooses, and barriers on a network that is being cut.

use std::fmt::Debug;
use std::time::Instant;

use phalanx::{BarrierError, Job};

use super::ranks::LIMIT;

/// For a job whose connections are cut so often that nothing may be heard of a node for a while.
pub const UNDISTURBED: (&str, &str) = ("PHALANX_FAILURE_TIMEOUT_MS", "10000");

/// An object that is at home on a node: the first of some names that is, the same for all ranks.
pub fn at_home<T: Debug>(home: usize, what: &str, open: impl Fn(&str) -> T) -> T {
    let is_there = |object: &T| format!("{object:?}").contains(&format!("home: {home} }}"));
    (0..64).map(|index| open(&format!("{what} {index}"))).find(is_there).expect("one of so many names")
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
