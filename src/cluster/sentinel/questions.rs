//! Questions after ranks: how often those who wait may ask, and what the agent of the ranks' node does.
//!
//! Who waits for a rank, and misses it, adds to the rank's *asked after* word on its node. That node's agent compares the
//! word with what it was. If there is a new question it looks whether the rank is stopped, and from then on at each of
//! its own beats: one that runs in between is stopped another time later. At the first question after the failure
//! time-out the rank is declared stopped.

use std::time::Duration;

use super::{Sentinel, Site, Surroundings};
use crate::cluster::stopped::StoppedSince;
use crate::cluster::view;
use crate::fabric::Memory;

/// The shortest time between two questions of a node after those that its ranks wait for, and how long their answers
/// are waited for.
pub const ASK_EVERY: Duration = Duration::from_millis(10);
/// The longest.
pub const ASK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// So long each node has for each answer where all nodes ask all others, with CPUs that they share.
const ANSWER: Duration = Duration::from_micros(50);
/// Where nobody has asked for so many times the shortest time, what was seen before counts no more.
pub const QUESTIONS_MISSED: u32 = 3;

/// The shortest time between two questions where so many nodes may wait at once.
pub fn shortest_question(nodes: usize) -> Duration {
    let answers = ANSWER.saturating_mul(u32::try_from(nodes.saturating_mul(nodes)).unwrap_or(u32::MAX));
    answers.clamp(ASK_EVERY, ASK_AT_LEAST_EVERY)
}

/// What is known of those who ask after a rank of this node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// How often it had been asked after when it was seen to have left.
    pub at_end: Option<u64>,
    /// How often it had been asked after at the last look.
    pub count: u64,
    /// It has been found stopped by the last question, and at each beat since.
    stopped: Option<StoppedSince>,
}

impl Sentinel {
    /// At each beat: who runs between two questions is stopped another time later. Nothing more is asked of one that has
    /// been declared failed.
    pub(super) fn look_at_the_stopped<M: Memory, F, S: Surroundings>(&mut self, site: &Site<'_, M, F, S>) {
        let node = self.post.layout();
        for (local, asked) in self.asked.iter_mut().enumerate() {
            let is_undeclared = || view::end_of(site.memory, &node, local).is_none();
            asked.stopped = asked.stopped.filter(|_| is_undeclared() && site.surroundings.is_stopped(local));
        }
    }

    pub(super) fn look_whether_stopped<M: Memory, F, S: Surroundings>(
        &mut self,
        site: &Site<'_, M, F, S>,
        local: usize,
        count: u64,
    ) {
        // It was found stopped at each beat. But if nothing has been asked for long, this process may have been stopped
        // itself, and have had no beats.
        let lapse = self.post.options.timeout.max(shortest_question(self.post.nodes()) * QUESTIONS_MISSED);
        let before = self.asked[local].stopped;
        let stopped = site.surroundings.is_stopped(local).then(|| StoppedSince::seen(before, site.now, lapse));
        self.asked[local] = Asked { at_end: None, count, stopped };
        if stopped.is_some_and(|stopped| stopped.span() >= self.post.options.timeout) {
            self.note_stopped(site, local);
        }
    }
}
