//! A rank's part in finding out who has failed: what it sees of others, and what it says of itself when it ends.

use std::time::{Duration, Instant};

use super::Membership;
use super::watcher::{Condition, condition_of};
use crate::cluster::sentinel::{self, ring};
use crate::cluster::stopped::{StoppedSince, lapse_of_waiting};
use crate::cluster::view::{self, FailureCause, Obituary, Unit};
use crate::coord::burial;
use crate::coord::losses::{self, Losses};
use crate::coord::reads::Place;
use crate::fabric::network::Network;
use crate::fabric::shm::Segment;
use crate::fabric::{Await, Fabric, Memory};
use crate::sync::Ordering;

/// How long a rank that is stopped, or a node that is silent, is late before it has failed, unless told otherwise.
const FAILURE_TIMEOUT: Duration = Duration::from_millis(100);
/// How often nodes tell each other that they live, unless told otherwise.
const HEARTBEAT: Duration = Duration::from_millis(20);
/// The shortest time between two heartbeats.
const LEAST_HEARTBEAT: Duration = Duration::from_millis(1);
/// The least heartbeats in a failure time-out.
const LEAST_HEARTBEATS: u32 = 3;

/// Between two looks at whether a process that is ending is gone.
const STILLNESS_PAUSE: Duration = Duration::from_micros(50);

/// When somebody has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailureOptions {
    /// How long a rank that is stopped, or a node that is silent, is late before it has failed.
    pub timeout: Duration,
    /// How often nodes tell each other that they live.
    pub heartbeat: Duration,
}

impl FailureOptions {
    /// What was chosen, and the defaults for the rest; the error says what would be valid.
    pub fn new(timeout: Option<Duration>, heartbeat: Option<Duration>) -> Result<Self, String> {
        let timeout = timeout.unwrap_or(FAILURE_TIMEOUT);
        let heartbeat = heartbeat.unwrap_or(HEARTBEAT.min(timeout / LEAST_HEARTBEATS));
        if heartbeat < LEAST_HEARTBEAT || timeout < heartbeat.saturating_mul(LEAST_HEARTBEATS) {
            return Err(format!(
                "the failure time-out must be at least {LEAST_HEARTBEATS} heartbeats, and a heartbeat at least 1 ms; not {timeout:?} and {heartbeat:?}"
            ));
        }
        Ok(Self { timeout, heartbeat })
    }
}

/// What a rank sees of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Its process runs.
    Running,
    /// Its process is stopped.
    Stopped,
    /// Its process will run no more, and takes long to end.
    Ending(FailureCause),
    /// It has left the job.
    Left,
    /// It is on another node.
    Elsewhere,
}

/// What the process of a rank that has ended may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// It is ending, and one of its threads may be in the middle of something on some CPU; or it is stopped.
    MayAct,
    /// It is gone, or through with this job.
    Gone,
}

/// Notes how a rank of this node has ended, unless somebody has, and raises the alarm. What it held is let go when it
/// does nothing any more.
pub(super) fn note_end(segment: &Segment, local: usize, end: Obituary, process: Process) {
    let node = segment.layout();
    // SYNC POINT: end. Release pairs with `is_dead`: all that it did is seen.
    let is_still = process == Process::Gone && segment.word(node.gone(local)).swap(1, Ordering::AcqRel) == 0;
    let is_first = view::note_end(segment, node.end(local), end);
    match node.nodes() {
        // Also where another process was quicker: it may have died before it came to this.
        1 => drop(view::end_of(segment, &node, local).map(|end| view::append(segment, &node, end))),
        // The node's agent has it agreed on.
        _ if is_first => view::raise_alarm(segment),
        // Its end was known before, and now what it held of blocks across nodes can be let go.
        _ if is_still => view::raise_alarm(segment),
        _ => {}
    }
    if process == Process::Gone {
        // Also one whose end was noted before, as it was stopped or ending.
        burial::bury(segment, &node, |other| other == local || is_dead(segment, other));
    }
}

/// Whether a rank of this node has ended and does nothing any more, as its node's table says.
pub(crate) fn is_dead(segment: &Segment, local: usize) -> bool {
    // SYNC POINT: end. Acquire pairs with `note_end`.
    segment.word(segment.layout().gone(local)).load(Ordering::Acquire) != 0
}

/// Drops the connections to whoever has failed. One that has left is left alone: what it has said last may be on its
/// way.
pub(crate) fn shut_out(network: &Network, here: usize, lost: Obituary) {
    match lost.unit {
        _ if lost.cause == FailureCause::Left => {}
        Unit::Rank(rank) => network.exclude_rank(rank),
        Unit::Node(node) if node != here => network.exclude_node(node),
        Unit::Node(_) => {}
    }
}

impl Membership {
    /// What this rank sees of another one.
    pub fn sight_of(&self, rank: usize) -> Sight {
        if self.node_of(rank) != self.here() {
            return Sight::Elsewhere;
        }
        let (node, local) = (self.segment.layout(), self.local_of(rank));
        match view::end_of(&*self.segment, &node, local) {
            Some(Obituary { cause: FailureCause::Left, .. }) => Sight::Left,
            _ => match condition_of(&self.segment, local) {
                Condition::Stopped => Sight::Stopped,
                Condition::Ending(cause) => Sight::Ending(cause),
                // One that is gone is noticed otherwise.
                Condition::Runs => Sight::Running,
            },
        }
    }

    /// A look of one that waits for a rank and looks now and then whether it runs; `before`: whether, and since when, the
    /// look before has found it stopped. One of this node that has been so for the time-out, or is ending, is declared
    /// failed.
    pub fn look_whether_runs(&self, rank: usize, before: Option<StoppedSince>, now: Duration) -> Option<StoppedSince> {
        match self.sight_of(rank) {
            Sight::Stopped => {
                let seen = StoppedSince::seen(before, now, lapse_of_waiting(self.failure.timeout));
                if seen.span() >= self.failure.timeout {
                    self.declare_stopped(rank);
                }
                return Some(seen);
            }
            Sight::Ending(cause) => self.declare_ending(rank, cause),
            Sight::Running | Sight::Left | Sight::Elsewhere => {}
        }
        None
    }

    /// A rank of this node has been stopped for too long.
    pub fn declare_stopped(&self, rank: usize) {
        self.note_end(rank, FailureCause::Stopped, Process::MayAct);
    }

    /// A rank of this node has been seen to end.
    pub fn declare_ending(&self, rank: usize, cause: FailureCause) {
        self.note_end(rank, cause, Process::MayAct);
    }

    /// This rank will do nothing more.
    pub fn note_own_end(&self, cause: FailureCause) {
        self.note_end(self.rank, cause, Process::Gone);
    }

    /// Waits until a rank of this node whose process has ended or is ending does nothing any more, until the failure
    /// time-out after `begun` at most: by then each of its threads has met the signal that ends it.
    pub fn await_stillness(&self, rank: usize, begun: Instant) {
        let local = self.local_of(rank);
        while !is_dead(&self.segment, local) && begun.elapsed() < self.failure.timeout {
            std::thread::sleep(STILLNESS_PAUSE);
        }
    }

    /// Notes how a rank of this node has ended, and tells all whom it concerns.
    fn note_end(&self, rank: usize, cause: FailureCause, process: Process) {
        note_end(&self.segment, self.local_of(rank), Obituary { unit: Unit::Rank(rank), cause }, process);
        self.rouse();
    }

    /// Ends the sleep of those of this process who sleep on connections.
    pub fn rouse(&self) {
        if let Some(network) = &self.network {
            network.rouse();
        }
    }

    /// Drops the connections of this process to whoever has failed, so that nothing comes late from there.
    pub fn shut_out(&self, lost: Obituary) {
        if let Some(network) = &self.network {
            shut_out(network, self.here(), lost);
        }
    }

    /// If this process speaks for its node: drops its connections to whoever the log has lost, and then lets the node's
    /// ranks go by it. Its sentinel does so, too; whoever waits here need not wait for that thread.
    pub fn open_log(&self) {
        let Some(network) = &self.network else { return };
        let (segment, node) = (&*self.segment, self.segment.layout());
        let (open, logged) = (view::epoch(segment, &node), view::logged(segment, &node));
        // One that has been given up by its own node may still believe that it speaks for it.
        let has_ended = view::has_ended(segment, &node, self.local_of(self.rank));
        if open == logged || has_ended || !network.is_agent() {
            return;
        }
        let lost = (open + 1..=logged).filter_map(|epoch| view::obituary(segment, &node, epoch));
        lost.for_each(|lost| shut_out(network, self.here(), lost));
        if view::open_to(segment, logged) {
            network.rouse();
        }
    }

    /// Tells the agent of a rank's node that somebody waits for that rank.
    pub fn ask_after(&self, rank: usize) {
        let (home, local) = (self.node_of(rank), self.local_of(rank));
        let at = self.layout_of(home).asked_after(local);
        if home == self.here() {
            self.segment.word(at).fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Some(network) = &self.network else { return };
        if let Ok(ticket) = network.fetch_add(home, at, 1) {
            return network.forget(ticket);
        }
        self.reach.ask_watchers_of(home);
    }

    /// What the job has lost, as this node's ranks go by it. Nothing of that takes effect here any more, and no answer
    /// from there is waited for.
    pub fn losses(&self) -> Losses {
        self.open_log();
        let (segment, node) = (&*self.segment, self.segment.layout());
        let mut losses = Losses { epoch: losses::epoch(segment), ..Losses::default() };
        // Relaxed: once is enough, and again does no harm.
        let known = self.shut_out_to.fetch_max(losses.epoch, Ordering::Relaxed);
        let lost = |epoch| view::obituary(segment, &node, epoch);
        (known + 1..=losses.epoch).filter_map(lost).for_each(|lost| self.shut_out(lost));
        for obituary in (1..=losses.epoch).filter_map(lost) {
            match obituary.unit {
                Unit::Node(lost) if obituary.cause != FailureCause::Left => losses.nodes.push(lost),
                Unit::Node(left) => losses.ranks.extend((0..self.layout_of(left).ranks()).map(|local| (left, local))),
                Unit::Rank(rank) => losses.ranks.push((self.node_of(rank), self.local_of(rank))),
            }
        }
        losses.is_haunted = losses.epoch > 0 && self.is_haunted();
        losses
    }

    /// Whether a rank of this node has been declared failed, may act still, and may have spoken for the node before: it
    /// may be the first of those that have not ended, with all below it.
    fn is_haunted(&self) -> bool {
        let (segment, node) = (&*self.segment, self.segment.layout());
        let ends = (0..node.ranks()).map_while(|local| view::end_of(segment, &node, local));
        ends.enumerate().any(|(local, _)| !is_dead(segment, local))
    }

    /// Whether a node has been declared failed.
    pub fn has_lost_node(&self, node: usize) -> bool {
        ring::has_failed(&*self.segment, &self.segment.layout(), node)
    }

    /// Whether a node has said to this one that all of its ranks have left.
    pub fn has_said_farewell(&self, node: usize) -> bool {
        sentinel::has_left(&*self.segment, &self.segment.layout(), node)
    }

    /// How a rank of this node has ended, if it has.
    pub fn end_of(&self, rank: usize) -> Option<FailureCause> {
        view::end_of(&*self.segment, &self.segment.layout(), self.local_of(rank)).map(|end| end.cause)
    }

    /// Whether this node knows that too few others can be reached to decide who has failed.
    pub fn has_doubts(&self) -> bool {
        (0..self.topology.nodes()).any(|node| self.is_doubtful(node))
    }

    /// Where a rank's node notes how it has ended.
    pub fn end_at(&self, rank: usize) -> Place {
        let node = self.node_of(rank);
        Place { node, at: self.layout_of(node).end(self.local_of(rank)) }
    }

    /// Whether nothing is heard of a node, and too few are left to agree on its failure.
    pub fn is_doubtful(&self, node: usize) -> bool {
        self.segment.word(self.segment.layout().doubt(node)).load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::shm::segment_of;

    #[test]
    fn a_death_that_another_process_has_noted_and_not_told_is_told() {
        let segment = segment_of(2);
        let node = segment.layout();
        let noted = Obituary { unit: Unit::Rank(1), cause: FailureCause::Killed { signal: 9 } };
        assert!(view::note_end(&segment, node.end(1), noted));
        note_end(&segment, 1, Obituary { cause: FailureCause::Died, ..noted }, Process::Gone);
        assert_eq!(
            view::obituary(&segment, &node, view::epoch(&segment, &node)),
            Some(noted),
            "the first cause stands"
        );
        note_end(&segment, 1, noted, Process::Gone);
        assert_eq!(view::epoch(&segment, &node), 1);
    }

    #[test]
    fn failure_options_that_cannot_be_kept_are_refused() {
        let ms = Duration::from_millis;
        let options = |timeout, heartbeat| FailureOptions::new(timeout, heartbeat);
        assert_eq!(options(None, None), Ok(FailureOptions { timeout: FAILURE_TIMEOUT, heartbeat: HEARTBEAT }));
        assert!(options(Some(ms(3)), None).is_ok() && options(Some(Duration::MAX), Some(ms(1))).is_ok());
        for (timeout, heartbeat) in [
            (Some(ms(2)), None),
            (None, Some(Duration::MAX)),
            (None, Some(Duration::from_micros(999))),
            (None, Some(ms(34))),
        ] {
            assert!(options(timeout, heartbeat).is_err(), "{timeout:?} {heartbeat:?}");
        }
    }
}
