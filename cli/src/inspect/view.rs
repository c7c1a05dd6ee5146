//! From segments to jobs: who is in which state, and who holds up whom. Everything but the look at processes is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phalanx::cluster::view::{LastCall, Obituary, Unit};
use phalanx::cluster::watch::{ProcessId, ProcessState};
use phalanx::inspect::{self, NodeFacts};
use phalanx::{FailureCause, SegmentError};
use serde::Serialize;

use super::objects::{self, Object};
use crate::segments::Found;

/// A node's facts, and the processes that have its segment open.
pub struct Node {
    pub facts: NodeFacts,
    pub holders: Vec<u32>,
}

/// What a rank's process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Dead,
    Left,
    Stopped,
    Traced,
    Absent,
    Running,
}

impl State {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Left => "left",
            Self::Stopped => "stopped",
            Self::Traced => "traced",
            Self::Absent => "absent",
            Self::Running => "running",
        }
    }

    /// Of the process that a rank was when it joined, by whether it still has the segment open, unless it has said that
    /// it leaves.
    fn of(process: Option<ProcessId>, end: Option<FailureCause>, holders: &[u32]) -> Self {
        let Some(process) = process else { return Self::Absent };
        if end == Some(FailureCause::Left) {
            return Self::Left;
        }
        // A process that cannot be looked at is one whose user this is not any more.
        match process.state().unwrap_or(ProcessState::Gone) {
            ProcessState::Gone => Self::Dead,
            _ if !holders.contains(&process.pid) => Self::Left,
            ProcessState::Stopped => Self::Stopped,
            ProcessState::Traced => Self::Traced,
            ProcessState::Running => Self::Running,
        }
    }
}

/// A rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rank {
    pub rank: usize,
    /// The node's place in the order of the nodes' lowest ranks.
    pub node: usize,
    pub pid: Option<u32>,
    pub state: State,
    /// Barriers of the world that it has arrived at.
    pub barriers: u64,
    /// Whether it waits in the world's barrier.
    pub waits: bool,
    /// Since when, if the library notes times.
    pub waits_ns: Option<u64>,
    /// Its last call that took long.
    pub call: Option<Call>,
    /// How it has ended, for people.
    pub end: Option<String>,
}

/// A wait in the library that took long enough to be noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Call {
    pub name: &'static str,
    pub group: u64,
    /// Which barrier of the group; 0 for a call that is about none.
    pub sequence: u64,
    /// Whether the rank is in it still.
    pub inside: bool,
    /// How long ago it began.
    pub began_ns: u64,
}

impl Call {
    fn new(call: &LastCall) -> Self {
        let LastCall { name, group, sequence, is_inside, began } = *call;
        let began_ns = began.map_or(0, |span| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        Self { name, group, sequence, inside: is_inside, began_ns }
    }
}

/// Whom the job has lost in an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Epoch {
    pub epoch: u64,
    /// A rank or a node: "rank 3".
    pub unit: String,
    /// For people.
    pub cause: String,
    #[serde(skip)]
    lost: Unit,
}

/// A job, as far as it runs on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What it is called by.
    pub number: u64,
    pub nodes: usize,
    /// In order.
    pub ranks: Vec<Rank>,
    /// Barriers that all ranks have reached.
    pub completed: u64,
    /// The ranks that the others wait for, by their places in `ranks`; those that do not run first.
    pub missing: Vec<usize>,
    /// Whom it has lost, as far as any of the nodes knows.
    pub epochs: Vec<Epoch>,
    /// Its named objects, in the order of their names; once for each node whose ranks have them.
    pub objects: Vec<Object>,
    /// All its ranks and nodes, seen here or not.
    pub size: (usize, usize),
}

/// What a job's first line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ranks have not joined yet.
    Joining,
    /// So many ranks wait in the world's barrier for those that are missing, the first of them for so long.
    HeldUp { waiting: usize, longest: Option<Duration> },
    /// Nobody waits in the world's barrier.
    Free,
    /// Nobody who is seen here has part in it any more.
    Over,
}

/// A job that cannot be read.
pub struct Unreadable {
    number: u64,
    /// The processes that have its segments open.
    pub holders: BTreeSet<u32>,
    /// Of the first of its segments.
    pub error: SegmentError,
}

impl Unreadable {
    /// Whether somebody may mean this job, as [`Job::is_called`]; any process that has part in it will do.
    pub fn is_called(&self, wanted: &str) -> bool {
        let has_process = wanted.parse().is_ok_and(|pid| self.holders.contains(&pid));
        has_process || name_of(self.number).starts_with(&wanted.to_lowercase())
    }
}

/// Reads what was found; the nodes, and the jobs that could not be read.
pub fn read(found: Vec<Found>) -> (Vec<Node>, Vec<Unreadable>) {
    let (mut nodes, mut unreadable) = (Vec::new(), BTreeMap::new());
    for Found { holders, segment, family: number } in found {
        match segment.and_then(|segment| inspect::read(&segment)) {
            Ok(facts) => nodes.push(Node { facts, holders }),
            Err(error) => {
                let none = Unreadable { number, holders: BTreeSet::new(), error };
                unreadable.entry(number).or_insert(none).holders.extend(holders);
            }
        }
    }
    (nodes, unreadable.into_values().collect())
}

/// Puts the nodes of a job together; the jobs in the order of their numbers.
pub fn jobs(nodes: Vec<Node>) -> Vec<Job> {
    let mut families: BTreeMap<u64, Vec<Node>> = BTreeMap::new();
    for node in nodes {
        families.entry(node.facts.family).or_default().push(node);
    }
    families.into_iter().map(|(number, nodes)| job(number, nodes)).collect()
}

fn job(number: u64, mut nodes: Vec<Node>) -> Job {
    let world = nodes.iter().find_map(|node| node.facts.world);
    nodes.sort_by_key(|node| node.facts.ranks.iter().map(|rank| rank.rank).min());
    let mut ranks: Vec<Rank> = nodes.iter().enumerate().flat_map(|(index, node)| ranks_of(index, node)).collect();
    ranks.sort_by_key(|rank| rank.rank);
    let completed = ranks.iter().map(|rank| rank.barriers).min().unwrap_or(0);
    let epochs = nodes.iter().map(|node| &node.facts.losses).max_by_key(|losses| losses.len());
    let epochs = epochs
        .map(|losses| (1..).zip(losses).map(|(epoch, lost)| Epoch::new(epoch, lost)).collect())
        .unwrap_or_default();
    let size = nodes.first().map_or((0, 0), |node| (node.facts.job_ranks, node.facts.nodes));
    let facts: Vec<&NodeFacts> = nodes.iter().map(|node| &node.facts).collect();
    let objects = objects::of_nodes(&facts);
    let mut job = Job { number, nodes: nodes.len(), ranks, completed, missing: Vec::new(), epochs, objects, size };
    job.blame_late();
    if job.missing.is_empty() {
        job.blame_halted(world);
    }
    job
}

impl Epoch {
    pub fn new(epoch: u64, lost: &Obituary) -> Self {
        Self { epoch, unit: lost.unit.to_string(), cause: lost.cause.to_string(), lost: lost.unit }
    }
}

fn ranks_of(index: usize, node: &Node) -> Vec<Rank> {
    let rank = |facts: &inspect::RankFacts| {
        let arrived_at_ns = facts.world.as_ref().and_then(|record| record.arrived_at_ns);
        Rank {
            rank: facts.rank,
            node: index,
            pid: facts.process.map(|process| process.pid),
            state: State::of(facts.process, facts.end, &node.holders),
            barriers: facts.world.as_ref().map_or(0, |record| record.arrivals),
            waits: false,
            waits_ns: arrived_at_ns.map(|arrived_at_ns| node.facts.now_ns.saturating_sub(arrived_at_ns)),
            call: facts.call.as_ref().map(Call::new),
            end: facts.end.map(|cause| cause.to_string()),
        }
    };
    node.facts.ranks.iter().map(rank).collect()
}

fn name_of(number: u64) -> String {
    format!("{number:016x}")
}

impl Job {
    /// Its number as people see it.
    pub fn name(&self) -> String {
        name_of(self.number)
    }

    /// Whether somebody may mean this job: by a pid, or by the beginning of its number.
    pub fn is_called(&self, wanted: &str) -> bool {
        let pid = wanted.parse::<u32>().ok();
        let has_process = pid.is_some() && self.ranks.iter().any(|rank| rank.pid == pid);
        has_process || self.name().starts_with(&wanted.to_lowercase())
    }

    /// Some have arrived, and wait for the others. Who is lost waits for nobody: it may have arrived before it ended,
    /// at a barrier that the others will never come to.
    fn blame_late(&mut self) {
        let living = || self.ranks.iter().filter(|rank| !self.is_lost(rank));
        let furthest = living().map(|rank| rank.barriers).max().unwrap_or(0);
        let is_late = |index: &usize| self.ranks[*index].barriers < furthest;
        let mut missing: Vec<usize> = (0..self.ranks.len()).filter(is_late).collect();
        missing.sort_by_key(|index| (self.ranks[*index].state, *index));
        let waits = |rank: &Rank| !missing.is_empty() && rank.barriers == furthest && !self.is_lost(rank);
        let waits: Vec<bool> = self.ranks.iter().map(waits).collect();
        for (rank, waits) in self.ranks.iter_mut().zip(waits) {
            rank.waits = waits;
            rank.waits_ns = rank.waits_ns.filter(|_| waits);
        }
        self.missing = missing;
    }

    /// All have arrived, and yet ranks wait in the world's barrier: for those that have halted behind their arrival,
    /// before they could let the others go.
    fn blame_halted(&mut self, world: Option<u64>) {
        let halted = self.halted();
        let is_in_world = |call: &Call| call.inside && Some(call.group) == world;
        let waits = |index: usize, rank: &Rank| !halted.contains(&index) && rank.call.as_ref().is_some_and(is_in_world);
        let waiting: Vec<usize> = (0..self.ranks.len()).filter(|index| waits(*index, &self.ranks[*index])).collect();
        if halted.is_empty() || waiting.is_empty() {
            return;
        }
        for index in waiting {
            let rank = &mut self.ranks[index];
            rank.waits = true;
            rank.waits_ns = rank.call.as_ref().map(|call| call.began_ns);
        }
        self.missing = halted;
    }

    /// The ranks that do nothing, and may yet be waited for: nobody waits for a rank that has been declared failed.
    pub fn halted(&self) -> Vec<usize> {
        let is_halted = |rank: &Rank| rank.state != State::Running && !self.is_lost(rank);
        (0..self.ranks.len()).filter(|index| is_halted(&self.ranks[*index])).collect()
    }

    /// Whether all its nodes are seen here, so that they are numbered as the job numbers them.
    pub fn is_whole(&self) -> bool {
        self.nodes == self.size.1
    }

    /// Whether a rank has ended or has been declared failed.
    fn is_lost(&self, rank: &Rank) -> bool {
        let is_meant = |lost: Unit| match lost {
            Unit::Rank(number) => number == rank.rank,
            Unit::Node(number) => self.is_whole() && number == rank.node,
        };
        rank.end.is_some() || self.epochs.iter().any(|epoch| is_meant(epoch.lost))
    }

    /// What it does.
    pub fn verdict(&self) -> Verdict {
        if self.ranks.iter().all(|rank| matches!(rank.state, State::Dead | State::Left) || self.is_lost(rank)) {
            return Verdict::Over;
        }
        if self.ranks.iter().any(|rank| rank.state == State::Absent) {
            return Verdict::Joining;
        }
        if self.missing.is_empty() {
            return Verdict::Free;
        }
        let waiting = self.ranks.iter().filter(|rank| rank.waits);
        let longest = waiting.clone().filter_map(|rank| rank.waits_ns).max();
        Verdict::HeldUp { waiting: waiting.count(), longest: longest.map(Duration::from_nanos) }
    }
}

#[cfg(test)]
pub mod tests {
    use phalanx::MemberStats;
    use phalanx::inspect::RankFacts;

    use super::*;

    /// A rank that is this process, with so many arrivals, the last of them at 1 ms.
    pub fn rank(rank: usize, arrivals: u64) -> RankFacts {
        let record = MemberStats {
            rank,
            arrivals,
            arrived_at_ns: Some(1_000_000),
            waited_ns: 0,
            longest_wait_ns: 0,
            times_last: 0,
        };
        RankFacts { rank, process: Some(this_process()), world: Some(record), call: None, end: None }
    }

    fn this_process() -> ProcessId {
        ProcessId::of_this_process().expect("Linux has /proc")
    }

    pub fn node(family: u64, ranks: Vec<RankFacts>) -> Node {
        let (job_ranks, world, losses) = (ranks.len(), Some(0), Vec::new());
        let (objects, at_home) = (Vec::new(), Vec::new());
        let now_ns = 3_001_000_000;
        let facts = NodeFacts { family, now_ns, ranks, nodes: 1, job_ranks, node: 0, world, losses, objects, at_home };
        Node { facts, holders: vec![std::process::id()] }
    }

    #[test]
    fn those_behind_are_missing_and_those_ahead_wait() {
        let jobs = jobs(vec![node(5, vec![rank(0, 8), rank(1, 7), rank(2, 8)])]);
        assert_eq!((jobs.len(), jobs[0].completed, &jobs[0].missing), (1, 7, &vec![1]));
        assert_eq!(jobs[0].ranks[0].waits_ns, Some(3_000_000_000));
        assert_eq!((jobs[0].ranks[1].waits, jobs[0].ranks[1].waits_ns), (false, None));
        let longest = Some(Duration::from_secs(3));
        assert_eq!(jobs[0].verdict(), Verdict::HeldUp { waiting: 2, longest });
    }

    #[test]
    fn nodes_of_one_family_are_one_job_in_the_order_of_their_ranks() {
        let jobs =
            jobs(vec![node(5, vec![rank(2, 4), rank(3, 3)]), node(5, vec![rank(0, 4), rank(1, 4)]), node(4, vec![])]);
        assert_eq!(jobs.iter().map(|job| (job.number, job.nodes)).collect::<Vec<_>>(), [(4, 1), (5, 2)]);
        let places: Vec<_> = jobs[1].ranks.iter().map(|rank| (rank.rank, rank.node)).collect();
        assert_eq!(places, [(0, 0), (1, 0), (2, 1), (3, 1)]);
        assert_eq!(jobs[1].missing, [3]);
    }

    #[test]
    fn when_all_have_arrived_nobody_waits() {
        let jobs = jobs(vec![node(5, vec![rank(0, 8), rank(1, 8)])]);
        assert_eq!(jobs[0].verdict(), Verdict::Free);
        assert!(jobs[0].ranks.iter().all(|rank| !rank.waits && rank.waits_ns.is_none()));
    }

    /// A rank with so many arrivals that waits in a barrier of a group.
    fn waiting(index: usize, arrivals: u64, group: u64) -> RankFacts {
        let began = Some(Duration::from_secs(2));
        let call = LastCall { name: "barrier", group, sequence: arrivals, is_inside: true, began };
        RankFacts { call: Some(call), ..rank(index, arrivals) }
    }

    /// A rank of whose process nothing is left.
    fn dead(index: usize, arrivals: u64) -> RankFacts {
        let process = Some(ProcessId { start_ticks: this_process().start_ticks + 1, ..this_process() });
        RankFacts { process, ..rank(index, arrivals) }
    }

    #[test]
    fn when_all_have_arrived_and_some_wait_they_wait_for_whoever_has_halted() {
        let job = |ranks| jobs(vec![node(5, ranks)]).remove(0);
        let held_up = job(vec![waiting(0, 8, 0), dead(1, 8), rank(2, 8)]);
        assert_eq!((&held_up.missing, held_up.ranks[0].waits_ns), (&vec![1], Some(2_000_000_000)));
        let longest = Some(Duration::from_secs(2));
        assert_eq!(held_up.verdict(), Verdict::HeldUp { waiting: 1, longest });
        // Whether it belongs to a smaller group is not known here.
        assert_eq!(job(vec![waiting(0, 8, 3), dead(1, 8)]).verdict(), Verdict::Free);
        assert_eq!(job(vec![waiting(0, 8, 0), rank(1, 8)]).verdict(), Verdict::Free);
    }

    #[test]
    fn whoever_is_lost_holds_up_nobody() {
        let killed = FailureCause::Killed { signal: 9 };
        let lost = |unit| {
            let mut nodes = [node(5, vec![waiting(0, 8, 0), rank(1, 8)]), node(5, vec![dead(2, 8), waiting(3, 8, 0)])];
            nodes.iter_mut().for_each(|node| node.facts.nodes = 2);
            // One of them has heard of it.
            nodes[1].facts.losses = vec![Obituary { unit, cause: killed }];
            jobs(nodes.into()).remove(0)
        };
        for unit in [Unit::Rank(2), Unit::Node(1)] {
            assert_eq!((lost(unit).verdict(), lost(unit).halted()), (Verdict::Free, vec![]), "{unit}");
        }
        let epochs = lost(Unit::Rank(2)).epochs;
        assert_eq!(
            (epochs[0].epoch, &*epochs[0].unit, &*epochs[0].cause),
            (1, "rank 2", "killed by signal 9 (SIGKILL)")
        );
        assert!(matches!(lost(Unit::Rank(0)).verdict(), Verdict::HeldUp { waiting: 2, .. }));
    }

    #[test]
    fn states_are_those_of_processes_that_have_part_in_the_job() {
        let (own, holders) = (this_process(), [std::process::id()]);
        assert_eq!(State::of(Some(own), None, &holders), State::Running);
        assert_eq!(State::of(Some(own), None, &[]), State::Left);
        assert_eq!(State::of(Some(ProcessId { pid: u32::MAX, ..own }), None, &holders), State::Dead);
        // Another process has its pid now.
        let recycled = ProcessId { start_ticks: own.start_ticks + 1, ..own };
        assert_eq!(State::of(Some(recycled), None, &holders), State::Dead);
        assert_eq!(State::of(None, None, &holders), State::Absent);
        assert_eq!(State::of(Some(own), Some(FailureCause::Left), &holders), State::Left);
        assert_eq!(State::of(Some(own), Some(FailureCause::Panicked), &holders), State::Running);
        let mut absent = rank(1, 0);
        (absent.process, absent.world) = (None, None);
        assert_eq!(jobs(vec![node(5, vec![rank(0, 0), absent])])[0].verdict(), Verdict::Joining);
    }

    #[test]
    fn a_job_is_called_by_pids_and_by_the_beginning_of_its_number() {
        let job = &jobs(vec![node(0xab00_0000_0000_0001, vec![rank(0, 1)])])[0];
        for wanted in [&std::process::id().to_string(), "ab", "AB0", "ab00000000000001"] {
            assert!(job.is_called(wanted), "{wanted}");
        }
        for wanted in ["b", "ab1", "ab000000000000011", "x"] {
            assert!(!job.is_called(wanted), "{wanted}");
        }
    }

    #[test]
    fn who_is_lost_waits_for_nobody_at_a_barrier_that_the_others_never_come_to() {
        let lost = FailureCause::Killed { signal: 9 };
        let of_lost = |arrivals: [u64; 3]| {
            let mut ranks: Vec<RankFacts> = (0..3).map(|index| rank(index, arrivals[index])).collect();
            ranks[2].end = Some(lost);
            jobs(vec![node(1, ranks)]).remove(0)
        };
        let ahead = of_lost([0, 0, 1]);
        assert!(ahead.missing.is_empty() && ahead.ranks.iter().all(|rank| !rank.waits));
        let behind = of_lost([1, 1, 0]);
        assert_eq!(behind.missing, [2], "until the others are told");
    }
}
