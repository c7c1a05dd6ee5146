//! What a proposer's shell does, for the model checks beside this file.

use std::time::Duration;

use super::proposer::Proposer;

/// When so many pauses are over, the longest that there can be.
pub fn after_pauses(pauses: u32) -> Duration {
    Duration::from_secs(3600 * u64::from(pauses))
}

/// Has a proposer go on as far as it can by itself, as its shell does; at the beginning of each of its rounds, of which
/// `round` is the one that its shell knows, `forget` gives up what the one before has asked.
pub fn advance(proposer: &mut Proposer, round: &mut u32, now: Duration, mut forget: impl FnMut()) {
    loop {
        proposer.advance(now);
        if proposer.round() == *round {
            return;
        }
        *round = proposer.round();
        forget();
    }
}
