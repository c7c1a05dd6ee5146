//! The rank table: entering this rank's facts, counting who has joined, and opening the job when all have.

use std::time::{Duration, Instant};

use super::bootstrap::BootstrapError;
use super::watch::ProcessId;
use crate::fabric::node::{NodeLayout, header};
use crate::fabric::{Park, WordAt};
use crate::machine::{self, CpuSet};
use crate::sync::{Ordering, full_fence};

/// Enters the process, CPUs and place of the node's rank `rank`, which is `job_rank` in the job, and counts it in.
/// `false` when somebody has entered as this rank.
pub fn enter(memory: &impl Park, node: &NodeLayout, rank: usize, job_rank: usize, mask: &CpuSet) -> bool {
    let process = memory.word(node.process(rank));
    let pid = u64::from(std::process::id());
    if process.compare_exchange(0, pid, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return false;
    }
    // Without a start time a process counts as gone, which nobody must take this one for; /proc is there on every
    // Linux.
    let started = ProcessId::of_this_process().map_or(0, |process| process.start_ticks);
    memory.word(node.started(rank)).store(started, Ordering::Relaxed);
    memory.word(node.job_rank(rank)).store(job_rank as u64, Ordering::Relaxed);
    for (index, word) in mask.words().iter().enumerate() {
        memory.word(node.mask(rank, index)).store(*word, Ordering::Relaxed);
    }
    memory.word(node.place(rank)).store(machine::place_of(mask).pack(), Ordering::Relaxed);
    // SYNC POINT: joined. Release pairs with the acquire load of who waits for all: it sees the entry above.
    memory.word(header::JOINED).fetch_add(1, Ordering::AcqRel);
    wake(memory, header::JOINED);
    true
}

/// Opens the job: the world group, whose block for this node's members stands at `world`, is ready for everybody.
pub fn open(memory: &impl Park, world: WordAt) {
    memory.word(header::WORLD).store(world.0 as u64, Ordering::Relaxed);
    // SYNC POINT: ready. Release pairs with the acquire load of those who wait or look: they see the world group.
    memory.word(header::READY).store(1, Ordering::Release);
    wake(memory, header::READY);
}

fn wake(memory: &impl Park, at: WordAt) {
    // SYNC POINT: bootstrap sleepers, as for a barrier's words.
    full_fence();
    if memory.word(header::SLEEPERS).load(Ordering::Relaxed) != 0 {
        memory.wake(at);
    }
}

/// Waits until all ranks have entered.
///
/// # Errors
///
/// [`BootstrapError::RanksMissing`] with those that have not after `limit`.
pub fn await_all(memory: &impl Park, node: &NodeLayout, rank: usize, limit: Duration) -> Result<(), BootstrapError> {
    let all = node.ranks() as u64;
    await_word(memory, header::JOINED, limit, |joined| joined >= all).map_err(|waited| BootstrapError::RanksMissing {
        rank,
        missing: missing(memory, node),
        waited,
    })
}

/// Waits until rank 0 has opened the job.
///
/// # Errors
///
/// [`BootstrapError::RanksMissing`] or [`BootstrapError::NotOpened`] after `limit`.
pub fn await_open(memory: &impl Park, node: &NodeLayout, rank: usize, limit: Duration) -> Result<(), BootstrapError> {
    await_word(memory, header::READY, limit, |ready| ready == 1).map_err(|waited| {
        let missing = missing(memory, node);
        match missing.is_empty() {
            true => BootstrapError::NotOpened { rank, waited },
            false => BootstrapError::RanksMissing { rank, missing, waited },
        }
    })
}

fn await_word(
    memory: &impl Park,
    at: WordAt,
    limit: Duration,
    is_reached: impl Fn(u64) -> bool,
) -> Result<(), Duration> {
    let start = Instant::now();
    loop {
        // SYNC POINT: joined, ready.
        let seen = memory.word(at).load(Ordering::Acquire);
        if is_reached(seen) {
            return Ok(());
        }
        let waited = start.elapsed();
        if waited >= limit {
            return Err(waited);
        }
        memory.word(header::SLEEPERS).fetch_add(1, Ordering::Relaxed);
        full_fence();
        memory.park(at, seen, Some(limit - waited));
        memory.word(header::SLEEPERS).fetch_sub(1, Ordering::Relaxed);
    }
}

fn missing(memory: &impl Park, node: &NodeLayout) -> Vec<usize> {
    (0..node.ranks()).filter(|rank| memory.word(node.process(*rank)).load(Ordering::Relaxed) == 0).collect()
}

/// The CPUs that a rank may use, as it entered them.
pub fn mask_of(memory: &impl Park, node: &NodeLayout, rank: usize) -> CpuSet {
    CpuSet::from_words(std::array::from_fn(|index| memory.word(node.mask(rank, index)).load(Ordering::Relaxed)))
}
