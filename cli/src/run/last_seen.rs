//! What a rank that has ended did last, and who waited for it: read from its job's shared memory.
//!
//! The supervisor has kept the job's segments (`declared.rs`), so that it reads what survivors have noted that are gone
//! by now, too. Of a job too young for that it opens the segments of a few ranks that still run, reads words, and
//! closes them. It waits for nobody. Where nothing is found (a program that does not use Phalanx, a job that has not
//! formed) there is nothing to say, and that is no failure.

use std::time::Duration;

use phalanx::inspect::{self, NodeFacts, RankFacts};
use phalanx::{FailureCause, LastCall};

use super::course::End;
use super::declared::Kept;
use super::ranks::describe;
use crate::segments;

/// How many ranks of the dead one's node are asked for its segment: others may be on their way out.
pub const NEIGHBOURS: usize = 3;
/// How many other nodes are looked at, for ranks that waited for the dead one.
const OTHER_NODES: usize = 8;

/// A rank's process, on a node of the launcher's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub rank: usize,
    pub node: usize,
    pub pid: u32,
}

/// The rest of the sentence that says how a rank has ended; `None` where nothing is known.
pub fn clause(dead: Placed, end: End, survivors: &[Placed], kept: &Kept) -> Option<String> {
    let neighbours = survivors.iter().filter(|survivor| survivor.node == dead.node).take(NEIGHBOURS);
    let look = || neighbours.flat_map(|survivor| facts_of(survivor.pid)).find(|facts| holds(facts, dead));
    let home = kept.facts_of(dead.node).filter(|facts| holds(facts, dead)).or_else(look)?;
    let family = home.family;
    let mut nodes = vec![home];
    let others = survivors.chunk_by(|left, right| left.node == right.node).map(|ranks| ranks[0]);
    let unkept = others.filter(|survivor| !kept.nodes().any(|node| node == survivor.node));
    let looks = unkept.filter(|survivor| survivor.node != dead.node).map(|survivor| facts_of(survivor.pid));
    let known = kept.nodes().filter(|node| *node != dead.node).map(|node| kept.facts_of(node).into_iter().collect());
    for facts in known.chain(looks).take(OTHER_NODES) {
        let facts: Vec<NodeFacts> = facts;
        nodes.extend(facts.into_iter().find(|facts| facts.family == family));
    }
    tell(dead.rank, end, &nodes)
}

/// What the segments tell that a process has open.
fn facts_of(pid: u32) -> Vec<NodeFacts> {
    segments::of_process(pid).iter().filter_map(|segment| inspect::read(segment).ok()).collect()
}

/// Whether the job is the one in which the launcher's rank is the same rank.
fn holds(facts: &NodeFacts, dead: Placed) -> bool {
    let is_meant = |rank: &RankFacts| rank.rank == dead.rank && rank.process.is_some_and(|it| it.pid == dead.pid);
    facts.world.is_some() && facts.ranks.iter().any(is_meant)
}

/// From the dead rank's node, the first, and others.
fn tell(rank: usize, end: End, nodes: &[NodeFacts]) -> Option<String> {
    let is_declared = matches!(end, End::Declared(_));
    let world = nodes[0].world?;
    let dead = nodes[0].ranks.iter().find(|facts| facts.rank == rank)?;
    let reached = dead.world.as_ref()?.arrivals;
    let waiters = waiters_for(rank, reached + 1, nodes);
    let place = match (dead.end, &dead.call) {
        (Some(FailureCause::Left), _) => return Some(" after it had left the job".to_owned()),
        (_, Some(call)) if call.is_inside => format!(" {}", inside(call, world, rank, nodes)),
        _ => outside(reached, world, rank, nodes, waiters.is_noted),
    };
    // What survivors have seen of its end is no news here.
    let earlier = match dead.end {
        Some(cause @ (FailureCause::Stopped | FailureCause::Silent | FailureCause::Panicked)) if !is_declared => {
            format!(" (it had failed before: {cause})")
        }
        _ => String::new(),
    };
    let waiting = match waiters.ranks.is_empty() {
        true => String::new(),
        false => format!("; {} waited for it", describe(&waiters.ranks)),
    };
    Some(format!("{place}{earlier}{waiting}"))
}

/// In a wait of its own.
fn inside(call: &LastCall, world: u64, rank: usize, nodes: &[NodeFacts]) -> String {
    let (name, group) = (call.name, call.group);
    let sequence = if call.sequence == 0 { String::new() } else { format!(" {}", call.sequence) };
    let span = call.began.map(|span| format!(" for {}", seconds(span))).unwrap_or_default();
    // Of other groups it is not known here who belongs to them.
    let missing = if group == world { behind(call.sequence, rank, nodes) } else { Vec::new() };
    let whom = if missing.is_empty() { String::new() } else { format!(", for {}", describe(&missing)) };
    format!("while it waited in {name}{sequence} of group {group}{span}{whom}")
}

/// In no wait that was long enough to be noted.
fn outside(reached: u64, world: u64, rank: usize, nodes: &[NodeFacts], is_noted: bool) -> String {
    let missing = behind(reached, rank, nodes);
    if !missing.is_empty() {
        let verb = if missing.len() == 1 { "is" } else { "are" };
        return format!(", last seen at barrier {reached} of group {world}, where {} {verb} not", describe(&missing));
    }
    // While others waited long, it did not, or its own wait would have been noted.
    let place = if is_noted { " in its application code" } else { "" };
    match reached {
        0 => format!("{place}, before its first barrier of group {world}"),
        _ => format!("{place}, last seen at barrier {reached} of group {world}"),
    }
}

/// Those who wait in the world's barrier for a rank.
struct Waiters {
    ranks: Vec<usize>,
    /// Whether one of them has waited so long that it was noted.
    is_noted: bool,
}

/// Who has arrived at barrier `sequence` of the world, where `rank` has not.
fn waiters_for(rank: usize, sequence: u64, nodes: &[NodeFacts]) -> Waiters {
    let mut waiters = Waiters { ranks: Vec::new(), is_noted: false };
    for member in others(rank, nodes) {
        if member.is_at(sequence) {
            waiters.ranks.push(member.facts.rank);
        }
        waiters.is_noted |= member.has_noted(sequence);
    }
    waiters.ranks.sort_unstable();
    waiters
}

/// The ranks that are not at barrier `sequence` of the world.
fn behind(sequence: u64, rank: usize, nodes: &[NodeFacts]) -> Vec<usize> {
    let mut late: Vec<usize> =
        others(rank, nodes).filter(|member| !member.is_at(sequence)).map(|member| member.facts.rank).collect();
    late.sort_unstable();
    late
}

/// A rank, and the number that its node gives to the world.
struct Member<'facts> {
    facts: &'facts RankFacts,
    world: Option<u64>,
}

impl Member<'_> {
    /// Whether it has come as far in the world's barriers. Whoever has heard of a death has taken its arrival back by
    /// now, but what it waited in last stays noted if it was long.
    fn is_at(&self, sequence: u64) -> bool {
        let arrivals = self.facts.world.as_ref().map(|record| record.arrivals);
        arrivals >= Some(sequence) || self.has_noted(sequence)
    }

    /// Whether its last long wait is, or was, in this barrier of the world.
    fn has_noted(&self, sequence: u64) -> bool {
        let is_meant = |call: &LastCall| Some(call.group) == self.world && call.sequence == sequence;
        self.facts.call.as_ref().is_some_and(is_meant)
    }
}

/// All ranks but one.
fn others(rank: usize, nodes: &[NodeFacts]) -> impl Iterator<Item = Member<'_>> {
    let all = nodes.iter().flat_map(|node| node.ranks.iter().map(|facts| Member { facts, world: node.world }));
    all.filter(move |member| member.facts.rank != rank)
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use phalanx::MemberStats;

    use super::*;

    const KILLED: End = End::Killed(9);

    fn rank(rank: usize, arrivals: u64) -> RankFacts {
        let (arrived_at_ns, waited_ns, longest_wait_ns, times_last) = (None, 0, 0, 0);
        let world = MemberStats { rank, arrivals, arrived_at_ns, waited_ns, longest_wait_ns, times_last };
        RankFacts { rank, process: None, world: Some(world), call: None, end: None }
    }

    /// The same in a barrier, or having been in it.
    fn with_call(facts: RankFacts, group: u64, sequence: u64, is_inside: bool) -> RankFacts {
        let began = Some(Duration::from_millis(3200));
        RankFacts { call: Some(LastCall { name: "barrier", group, sequence, is_inside, began }), ..facts }
    }

    fn node(ranks: Vec<RankFacts>) -> NodeFacts {
        NodeFacts {
            family: 7,
            now_ns: 0,
            job_ranks: ranks.len(),
            ranks,
            nodes: 1,
            node: 0,
            world: Some(0),
            losses: Vec::new(),
            objects: Vec::new(),
            at_home: Vec::new(),
        }
    }

    fn told(dead: usize, ranks: Vec<RankFacts>) -> String {
        tell(dead, KILLED, &[node(ranks)]).expect("the job is open")
    }

    #[test]
    fn whoever_computed_while_others_waited_was_in_its_application() {
        let ranks = vec![rank(0, 42), rank(1, 42), with_call(rank(2, 42), 0, 42, true), rank(3, 41), rank(4, 42)];
        let expected = " in its application code, last seen at barrier 41 of group 0; ranks 0-2, 4 waited for it";
        assert_eq!(told(3, ranks), expected);
        // They know already, and have taken their arrivals back.
        let ranks = vec![with_call(rank(0, 41), 0, 42, false), with_call(rank(1, 41), 0, 40, false), rank(2, 41)];
        assert_eq!(
            told(2, ranks),
            " in its application code, last seen at barrier 41 of group 0; rank 0 waited for it"
        );
        // Nobody has waited for long: it may have been in a short wait itself.
        assert_eq!(
            told(1, vec![rank(0, 42), rank(1, 41)]),
            ", last seen at barrier 41 of group 0; rank 0 waited for it"
        );
        assert_eq!(told(1, vec![rank(0, 0), rank(1, 0)]), ", before its first barrier of group 0");
    }

    #[test]
    fn whoever_waited_itself_waited_for_those_behind() {
        // Rank 0 waited there, too, and has taken its arrival back.
        let left = with_call(rank(0, 41), 0, 42, false);
        let ranks = vec![left, with_call(rank(1, 42), 0, 42, true), rank(2, 41), rank(3, 41)];
        assert_eq!(told(1, ranks), " while it waited in barrier 42 of group 0 for 3.2 s, for ranks 2, 3");
        let ranks = vec![rank(0, 42), with_call(rank(1, 41), 5, 8, true)];
        assert_eq!(told(1, ranks), " while it waited in barrier 8 of group 5 for 3.2 s; rank 0 waited for it");
        let ranks = vec![rank(0, 42), rank(1, 42), rank(2, 41)];
        assert_eq!(told(1, ranks), ", last seen at barrier 42 of group 0, where rank 2 is not");
    }

    #[test]
    fn ranks_of_other_nodes_wait_too() {
        let nodes = [node(vec![rank(2, 5), rank(3, 6)]), node(vec![rank(0, 6), rank(1, 5)])];
        assert_eq!(
            tell(2, KILLED, &nodes).as_deref(),
            Some(", last seen at barrier 5 of group 0; ranks 0, 3 waited for it")
        );
    }

    #[test]
    fn what_had_happened_before_is_told() {
        let ended = |end| told(1, vec![rank(0, 4), RankFacts { end: Some(end), ..rank(1, 4) }]);
        assert_eq!(ended(FailureCause::Left), " after it had left the job");
        let stopped = " (it had failed before: was stopped for longer than the failure time-out)";
        assert_eq!(ended(FailureCause::Stopped), format!(", last seen at barrier 4 of group 0{stopped}"));
        let declared = End::Declared(FailureCause::Stopped);
        let stopped = RankFacts { end: Some(FailureCause::Stopped), ..rank(1, 4) };
        let told = tell(1, declared, &[node(vec![rank(0, 5), stopped])]);
        assert_eq!(told.as_deref(), Some(", last seen at barrier 4 of group 0; rank 0 waited for it"));
        assert_eq!(ended(FailureCause::Killed { signal: 9 }), ", last seen at barrier 4 of group 0");
    }

    #[test]
    fn of_a_job_that_is_not_open_or_another_ones_nothing_is_told() {
        let closed = NodeFacts { world: None, ..node(vec![rank(0, 0), rank(1, 0)]) };
        assert_eq!(tell(1, KILLED, &[closed]), None);
        assert_eq!(tell(9, KILLED, &[node(vec![rank(0, 0)])]), None);
        let nobody = Placed { rank: 0, node: 0, pid: u32::MAX };
        assert_eq!(clause(nobody, KILLED, &[], &Kept::nothing()), None);
        // This process has no segment open.
        let this = Placed { rank: 1, node: 0, pid: std::process::id() };
        assert_eq!(clause(nobody, KILLED, &[this], &Kept::nothing()), None);
    }
}
