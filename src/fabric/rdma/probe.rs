//! What a device's atomics answer: tried out once, on a connection of the device to itself.
//!
//! Some adapters give the old value of an atomic in network order whatever the CPU's is, and verbs do not say which. A
//! value whose bytes all differ tells. A device whose loopback does not work, or whose answer is neither, is taken as
//! one without atomics: the home's own ranks could not reach their words through it anyway.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::connection::{Batch, Connection, Posted, Quirks, RemoteSegment};
use super::device::{Choice, DeviceFacts, Domain};
use super::endpoint::Endpoint;
use super::memory::Rings;
use super::offer::AtomicCapability;
use super::options::{RdmaError, RdmaOptions};
use super::window::capacity;
use crate::fabric::Request;
use crate::fabric::tickets::TicketTable;
use crate::sync::Ordering;

/// A value that is another one when its bytes are swapped.
const SAMPLE: u64 = 0x0102_0304_0506_0708;
const PATIENCE: Duration = Duration::from_secs(2);

/// How a device gives atomics' answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// As the CPU reads them.
    Native,
    /// With their bytes swapped.
    Swapped,
    /// Not at all, or not so that they can be understood.
    None,
}

pub(super) fn probe(domain: &Arc<Domain>, facts: &DeviceFacts, choice: &Choice, options: &RdmaOptions) -> Answers {
    if facts.atomics == AtomicCapability::None {
        return Answers::None;
    }
    match add_one(domain, facts, choice, options) {
        Ok(Some((answer, after))) => judge(answer, after),
        Ok(None) | Err(_) => Answers::None,
    }
}

/// What an answer to adding 1 to the sample means, with what the word held then.
fn judge(answer: u64, after: u64) -> Answers {
    match answer {
        _ if after != SAMPLE + 1 => Answers::None,
        SAMPLE => Answers::Native,
        _ if answer == SAMPLE.swap_bytes() => Answers::Swapped,
        _ => Answers::None,
    }
}

/// Adds 1 to a word that holds the sample; gives the answer as it came, and what the word then holds.
fn add_one(
    domain: &Arc<Domain>,
    facts: &DeviceFacts,
    choice: &Choice,
    options: &RdmaOptions,
) -> Result<Option<(u64, u64)>, RdmaError> {
    let target = Rings::new(domain, 1, true).get()?;
    // Relaxed, here and below: posting and completing order them.
    target.word(0).store(SAMPLE, Ordering::Relaxed);
    let endpoint = Endpoint::new(domain, choice, options, capacity(options.queue_depth))?;
    let offer = endpoint.offer(facts, choice, target.registration());
    endpoint.connect(facts, choice, options, &offer)?;
    let ring = Rings::new(domain, options.queue_depth, false).get()?;
    let quirks = Quirks { swaps_answers: false, is_soft_roce: facts.is_soft_roce };
    let mut connection = Connection::new(endpoint, ring, options.queue_depth, RemoteSegment::of(&offer), quirks);
    let (mut table, mut tickets) = (TicketTable::new(1), Vec::new());
    let request = Request::FetchAdd { at: target.at(), add: 1 };
    let mut batch = Batch::new();
    if !matches!(connection.post(&[request], &mut batch, &mut table, &mut tickets), Posted::All) {
        return Ok(None);
    }
    let started = Instant::now();
    while started.elapsed() < PATIENCE && connection.poll(&mut batch, &mut table).is_ok() {
        if let Some(Poll::Ready(answer)) = table.take(tickets[0]) {
            return Ok(answer.ok().map(|answer| (answer, target.word(0).load(Ordering::Relaxed))));
        }
        std::thread::yield_now();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_native_or_swapped_or_of_no_use() {
        assert_eq!(judge(SAMPLE, SAMPLE + 1), Answers::Native);
        assert_eq!(judge(SAMPLE.swap_bytes(), SAMPLE + 1), Answers::Swapped);
        assert_eq!(judge(SAMPLE, SAMPLE), Answers::None, "nothing was added");
        assert_eq!(judge(0, SAMPLE + 1), Answers::None);
    }
}
