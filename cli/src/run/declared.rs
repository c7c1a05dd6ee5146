//! Ranks that the others have declared failed although their processes live: stopped ones, and those of a node of which
//! nothing was heard. No death tells of them, so the supervisor reads the job's view logs, four times a second.
//!
//! A node's segment is looked for among the files of its ranks and then stays mapped, to the job's end: also when all
//! who knew more have ended, it tells what there was. To look again is a load of a word for each node. Where no segment
//! is found (a program that does not use Phalanx, a job that has not formed) the searches get rare.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use phalanx::FailureCause;
use phalanx::cluster::view::{Obituary, Unit};
use phalanx::fabric::shm::ReadOnlySegment;
use phalanx::inspect::{self, NodeFacts};

use super::last_seen::{NEIGHBOURS, Placed};
use crate::segments;

/// Between two looks; and so long a rank may take to end by itself when it has been declared failed.
const PERIOD: Duration = Duration::from_millis(250);
/// Between two searches for segments, at most.
const SEARCH_PAUSE_MAX: Duration = Duration::from_secs(4);

/// What is known of the job's memory, and whom it declares failed.
pub struct Declarations {
    kept: Kept,
    next_look: Instant,
    next_search: Instant,
    search_pause: Duration,
    /// Since when ranks that run have been seen to be declared failed.
    seen: BTreeMap<usize, Instant>,
    told: BTreeSet<usize>,
}

impl Declarations {
    /// For a job of so many nodes that starts now.
    pub fn new(now: Instant, nodes: usize) -> Self {
        let kept = Kept { job_nodes: nodes, nodes: BTreeMap::new() };
        let (next_look, next_search) = (now + PERIOD, now + PERIOD);
        Self { kept, next_look, next_search, search_pause: PERIOD, seen: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// When to look again.
    pub fn next_look(&self) -> Instant {
        if self.kept.nodes.is_empty() { self.next_search } else { self.next_look.min(self.next_search) }
    }

    /// A rank has ended: whatever is to be found is to be found soon.
    pub fn note_end(&mut self, now: Instant) {
        self.search_pause = PERIOD;
        self.next_search = self.next_search.min(now + PERIOD);
    }

    /// The segments that were found.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether a rank was given by `look`.
    pub fn has_told(&self, rank: usize) -> bool {
        self.told.contains(&rank)
    }

    /// Those of the running ranks, which are in order, that have been declared failed and have had time to end. Each is
    /// given once.
    pub fn look(&mut self, now: Instant, running: &[Placed]) -> Vec<(Placed, FailureCause)> {
        self.next_look = now + PERIOD;
        if now >= self.next_search {
            self.kept.search(running);
            self.search_pause = (self.search_pause * 2).min(SEARCH_PAUSE_MAX);
            self.next_search = now + self.search_pause;
        }
        let declared = running.iter().filter_map(|placed| Some((*placed, self.kept.cause_of(*placed)?)));
        let mut due = Vec::new();
        for (placed, cause) in declared {
            let since = *self.seen.entry(placed.rank).or_insert(now);
            if now >= since + PERIOD && self.told.insert(placed.rank) {
                due.push((placed, cause));
            }
        }
        due
    }
}

/// A segment of each node of which one was found.
pub struct Kept {
    /// The nodes of the job.
    job_nodes: usize,
    nodes: BTreeMap<usize, KeptSegment>,
}

struct KeptSegment {
    /// The number that all nodes of the job have in common.
    family: u64,
    segment: ReadOnlySegment,
}

impl Kept {
    /// Nothing yet.
    #[cfg(test)]
    pub fn nothing() -> Self {
        Self { job_nodes: 1, nodes: BTreeMap::new() }
    }

    /// What a node's segment tells now.
    pub fn facts_of(&self, node: usize) -> Option<NodeFacts> {
        inspect::read(&self.nodes.get(&node)?.segment).ok()
    }

    /// The nodes of which there is one.
    pub fn nodes(&self) -> impl Iterator<Item = usize> {
        self.nodes.keys().copied()
    }

    /// Looks for segments of nodes that have none yet.
    fn search(&mut self, running: &[Placed]) {
        for ranks in running.chunk_by(|left, right| left.node == right.node) {
            if !self.nodes.contains_key(&ranks[0].node)
                && let Some(found) = self.find(ranks)
            {
                self.nodes.insert(ranks[0].node, found);
            }
        }
    }

    /// The segment in which all these ranks of a node are the ranks that the launcher means: a program may make other
    /// jobs, too, of its threads.
    fn find(&self, ranks: &[Placed]) -> Option<KeptSegment> {
        let segments = ranks.iter().take(NEIGHBOURS).flat_map(|placed| segments::of_process(placed.pid));
        for segment in segments {
            let Ok(facts) = inspect::read(&segment) else { continue };
            if facts.nodes == self.job_nodes && are_all_in(ranks, &facts) {
                return Some(KeptSegment { family: facts.family, segment });
            }
        }
        None
    }

    /// Why the job goes on without a rank, if it does. Who has left it has not failed.
    fn cause_of(&self, placed: Placed) -> Option<FailureCause> {
        let family = self.nodes.get(&placed.node)?.family;
        let kept = self.nodes.values().filter(|kept| kept.family == family);
        let is_meant = |lost: &Obituary| match lost.unit {
            Unit::Rank(rank) => rank == placed.rank,
            Unit::Node(node) => node == placed.node,
        };
        let lost = kept.flat_map(|kept| inspect::losses(&kept.segment)).find(is_meant)?;
        (lost.cause != FailureCause::Left).then_some(lost.cause)
    }
}

fn are_all_in(ranks: &[Placed], facts: &NodeFacts) -> bool {
    let entered: BTreeMap<usize, u32> =
        facts.ranks.iter().filter_map(|rank| Some((rank.rank, rank.process?.pid))).collect();
    facts.world.is_some() && ranks.iter().all(|placed| entered.get(&placed.rank) == Some(&placed.pid))
}
