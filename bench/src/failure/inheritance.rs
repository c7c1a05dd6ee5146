//! The faults of `phalanx bench failure` that meet a lock's holder: until all are in its queue, and until one of them
//! has it.

use std::time::{Duration, Instant};

use super::NEVER;
use crate::doomed::DoomedJob;
use crate::doomed::said::{Event, Said};

/// How long ranks may take to be in the queue.
const BEGIN_LIMIT: Duration = Duration::from_secs(20);

/// Has the job begin; waits until the victim holds the lock, and all heirs are about to wait for it. The victim's
/// token.
pub fn await_queue(job: &mut DoomedJob, mut missing: Vec<usize>, victim: usize) -> Result<u64, String> {
    let limit = Instant::now() + BEGIN_LIMIT;
    let mut token = None;
    (0..job.size()).for_each(|rank| job.say(rank, "begin"));
    while token.is_none() || !missing.is_empty() {
        let Ok(Said { rank, event, .. }) = job.hear(limit) else {
            return Err(format!("ranks {missing:?} are not in the queue: {}", job.doing(&missing)));
        };
        match event {
            Event::Holds { token: held } if rank == victim => token = Some(held),
            Event::Queues => missing.retain(|other| *other != rank),
            other => return Err(format!("rank {rank} says {other:?} before the fault")),
        }
    }
    Ok(token.expect("it was looked for"))
}

/// Waits until an heir has the lock of whom `token` was; when it had it.
pub fn await_heir(job: &DoomedJob, heirs: &[usize], token: u64) -> Result<u64, String> {
    let Ok(Said { rank, at_ns, event }) = job.hear(Instant::now() + NEVER) else {
        return Err(format!("nobody has the lock after {NEVER:?}: {}", job.doing(heirs)));
    };
    match event {
        Event::Holds { token: next } if heirs.contains(&rank) && next > token => Ok(at_ns),
        other => Err(format!("rank {rank} says {other:?}, after the token {token}")),
    }
}
