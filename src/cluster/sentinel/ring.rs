//! Which nodes watch which: each is watched by the two before it, of those that have not failed, in a ring of the job's
//! nodes. All find the same from the same view log.

use crate::cluster::view::{self, Unit};
use crate::fabric::Memory;
use crate::fabric::node::NodeLayout;

/// How many nodes watch each node.
pub const WATCHERS: usize = 2;

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

/// The nodes that watch a node.
pub fn watchers_of(memory: &impl Memory, layout: &NodeLayout, node: usize) -> Vec<usize> {
    let nodes = layout.nodes();
    let failed = failed(memory, layout);
    let before = (1..nodes).map(|step| (node + nodes - step) % nodes);
    before.filter(|other| !failed[*other]).take(WATCHERS).collect()
}

/// The nodes that a node watches.
pub fn watched_by(memory: &impl Memory, layout: &NodeLayout, node: usize) -> Vec<usize> {
    let nodes = layout.nodes();
    let failed = failed(memory, layout);
    let behind = (1..nodes).map(|step| (node + step) % nodes);
    behind.filter(|other| !failed[*other]).take(WATCHERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::view::{FailureCause, Obituary};
    use crate::fabric::sim::SimNode;

    #[test]
    fn whoever_watches_is_whoever_is_watched_by_also_without_those_that_have_failed() {
        for nodes in [2, 3, 5, 9] {
            let layout = NodeLayout::new(1, 1).in_job(nodes, nodes);
            let memory = SimNode::new(layout.words());
            for lost in 0..nodes {
                for node in (0..nodes).filter(|node| !has_failed(&memory, &layout, *node)) {
                    for other in watched_by(&memory, &layout, node) {
                        assert!(watchers_of(&memory, &layout, other).contains(&node), "{node} watches {other}");
                    }
                }
                let obituary = Obituary { unit: Unit::Node(lost), cause: FailureCause::Gone };
                view::append(&memory, &layout, obituary);
            }
        }
    }
}
