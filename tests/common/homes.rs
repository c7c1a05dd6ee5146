//! Named objects whose home a test chooses, who waits there, and barriers on a network that is being cut.

use std::fs;
use std::time::Instant;

use phalanx::fabric::shm::ReadOnlySegment;
use phalanx::inspect::objects::HomeFacts;
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

/// The nodes that wait at a lock's home, as a process of the home's node shows it to those who look from outside.
pub fn waiting_at(pid: u32, name: &str) -> Vec<usize> {
    at_home(pid, name).map_or_else(Vec::new, |object| object.queue)
}

/// The node that holds a lock as its home has it, likewise.
pub fn holder_at(pid: u32, name: &str) -> Option<usize> {
    at_home(pid, name).and_then(|object| object.holder)
}

fn at_home(pid: u32, name: &str) -> Option<HomeFacts> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").flatten().map(|entry| entry.path());
    let mut segments = files
        .filter(|path| fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:phalanx")));
    let file = fs::File::open(segments.next().expect("it has its node's segment")).expect("the same user");
    let segment = ReadOnlySegment::attach(&file.into(), phalanx::coord::LAYOUT_HASH).expect("of this version");
    let facts = phalanx::inspect::read(&segment).expect("a segment");
    facts.at_home.into_iter().find(|object| object.name == name)
}
