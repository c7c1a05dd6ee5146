//! Which nodes watch which: each is watched by the two before it in a ring of the job's nodes, of those that have
//! neither failed nor left. Who has failed all find in the same view log. Who has left is known where it matters, to
//! those next to it in the ring on both sides (`farewell.rs`).

use super::has_left;
use crate::cluster::view::{self, Unit};
use crate::fabric::Memory;
use crate::fabric::node::NodeLayout;

/// How many nodes watch each node.
pub const WATCHERS: usize = 2;
/// Of so many nodes all may ask all others at the same time.
const SMALL: usize = 16;

/// The nodes that are in the log as failed: one look at the log for all of them.
pub fn failed(memory: &impl Memory, layout: &NodeLayout) -> Vec<bool> {
    failed_by(memory, layout, view::epoch(memory, layout))
}

/// The nodes that are in the log as failed up to an epoch.
pub(super) fn failed_by(memory: &impl Memory, layout: &NodeLayout, last: u64) -> Vec<bool> {
    let mut failed = vec![false; layout.nodes()];
    for epoch in 1..=last {
        if let Some(Unit::Node(lost)) = view::obituary(memory, layout, epoch).map(|obituary| obituary.unit) {
            failed[lost] = true;
        }
    }
    failed
}

/// Whether a node is in the log as failed.
pub fn has_failed(memory: &impl Memory, layout: &NodeLayout, node: usize) -> bool {
    is_in_log(memory, layout, Unit::Node(node))
}

/// Whether a unit itself is in the log.
pub fn is_in_log(memory: &impl Memory, layout: &NodeLayout, unit: Unit) -> bool {
    let last = view::epoch(memory, layout);
    (1..=last).any(|epoch| view::obituary(memory, layout, epoch).is_some_and(|lost| lost.unit == unit))
}

/// The nodes that take part no more, as far as is known here: the log has lost them, or they have said that they leave.
pub fn absent(memory: &impl Memory, layout: &NodeLayout) -> Vec<bool> {
    let mut absent = failed(memory, layout);
    for (node, is_absent) in absent.iter_mut().enumerate() {
        *is_absent |= has_left(memory, layout, node);
    }
    absent
}

/// What is next to a node on one side of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// The nearest that are not absent, the nearest of all first.
    pub near: Vec<usize>,
    /// Those that are absent, between it and the last of them.
    pub passed: Vec<usize>,
}

/// Those before a node: they watch it.
pub fn before(absent: &[bool], node: usize) -> Side {
    let nodes = absent.len();
    walk(absent, (1..nodes).map(|step| (node + nodes - step) % nodes))
}

/// Those behind a node: it watches them.
pub fn behind(absent: &[bool], node: usize) -> Side {
    let nodes = absent.len();
    walk(absent, (1..nodes).map(|step| (node + step) % nodes))
}

fn walk(absent: &[bool], way: impl Iterator<Item = usize>) -> Side {
    let mut side = Side::default();
    for node in way {
        match absent[node] {
            true => side.passed.push(node),
            false => side.near.push(node),
        }
        if side.near.len() == WATCHERS {
            break;
        }
    }
    side
}

/// Whether so few nodes are left that all of them may ask all others at the same time.
pub(super) fn is_small(absent: &[bool]) -> bool {
    absent.iter().filter(|is_absent| !**is_absent).count() <= SMALL
}

/// How many turns a node lets pass before it proposes the next epoch after one that has lost something `at` a node: the
/// nearer before that, the fewer, and the same number for as many nodes as have a lower one. So if few want something
/// they are not late, and if many do, some near one is first, and its epoch has all others begin to wait anew.
pub(super) fn turns_after(absent: &[bool], at: usize, node: usize) -> u32 {
    let nodes = absent.len();
    if is_small(absent) {
        return 0;
    }
    let way = (at + nodes - node) % nodes;
    let between = (1..way).filter(|step| !absent[(node + step) % nodes]).count();
    (between + 1).ilog2() + 1
}

/// The nodes that watch a node, as far as is known here. Who is far from them in the ring is not told that one of them
/// has left: `is_gone` says what it has seen itself, that nobody answers for a node any more. It is asked of few.
pub fn watchers_of(
    memory: &impl Memory,
    layout: &NodeLayout,
    node: usize,
    is_gone: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let (absent, nodes) = (absent(memory, layout), layout.nodes());
    let before = (1..nodes).map(|step| (node + nodes - step) % nodes);
    before.filter(|other| !absent[*other] && !is_gone(*other)).take(WATCHERS).collect()
}

#[cfg(test)]
mod tests {
    use super::super::FAREWELL;
    use super::*;
    use crate::cluster::detector::HeartbeatWord;
    use crate::cluster::view::{FailureCause, Obituary};
    use crate::fabric::sim::SimNode;
    use crate::sync::Ordering;

    #[test]
    fn whoever_watches_is_whoever_is_watched_by_also_without_those_that_have_failed_or_left() {
        for nodes in [2, 3, 5, 9] {
            let layout = NodeLayout::new(1, 1).in_job(nodes, nodes);
            let memory = SimNode::new(layout.words());
            for lost in 0..nodes {
                let absent = absent(&memory, &layout);
                for node in (0..nodes).filter(|node| !absent[*node]) {
                    for other in behind(&absent, node).near {
                        let watchers = watchers_of(&memory, &layout, other, |_| false);
                        assert!(watchers.contains(&node), "{node} watches {other}");
                    }
                }
                if lost % 2 == 0 {
                    let obituary = Obituary { unit: Unit::Node(lost), cause: FailureCause::Gone };
                    view::append(&memory, &layout, obituary);
                } else {
                    let farewell = HeartbeatWord::new(FAREWELL, 7);
                    memory.word(layout.heartbeat(lost)).store(farewell.0, Ordering::Relaxed);
                }
            }
        }
    }

    #[test]
    fn who_is_found_gone_is_no_watcher_and_the_one_before_it_is() {
        let layout = NodeLayout::new(1, 1).in_job(7, 7);
        let memory = SimNode::new(layout.words());
        let watchers = |gone: &[usize]| watchers_of(&memory, &layout, 1, |node| gone.contains(&node));
        assert_eq!(watchers(&[]), [0, 6]);
        assert_eq!(watchers(&[0, 5]), [6, 4]);
        assert_eq!(watchers(&[0, 2, 3, 4, 5, 6]), [0; 0]);
    }

    #[test]
    fn the_nearer_before_the_lost_the_sooner_and_all_at_once_where_they_are_few() {
        let absent: Vec<bool> = (0..40).map(|node| node == 20).collect();
        let turns = |nodes: &[usize]| nodes.iter().map(|node| turns_after(&absent, 20, *node)).collect::<Vec<u32>>();
        assert_eq!(turns(&[19, 18, 17, 16, 13, 12, 5, 4, 21]), [1, 2, 2, 3, 3, 4, 4, 5, 6]);
        assert_eq!(turns_after(&absent[4..21], 16, 3), 0);
    }

    #[test]
    fn a_side_is_the_nearest_that_are_present_and_all_between() {
        let absent = [false, true, false, true, true, false, false];
        assert_eq!(behind(&absent, 0), Side { near: vec![2, 5], passed: vec![1, 3, 4] });
        assert_eq!(before(&absent, 0), Side { near: vec![6, 5], passed: vec![] });
        assert_eq!(before(&absent, 3), Side { near: vec![2, 0], passed: vec![1] });
        let alone = [false, true, true];
        assert_eq!(behind(&alone, 0), Side { near: vec![], passed: vec![1, 2] });
    }
}
