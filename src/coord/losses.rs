//! What the job has lost, as those need to know it who give space back: a value, made by the layer above.
//!
//! It is a picture of one moment. What it shows stays so, and what comes later only keeps somebody waiting a little
//! longer.

use crate::fabric::{Memory, node::header};
use crate::sync::Ordering;

/// Who has ended, as a node's ranks go by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The epoch up to which it goes.
    pub epoch: u64,
    /// Nodes that have been declared failed: nothing that they have sent takes effect here any more.
    pub nodes: Vec<usize>,
    /// Ranks of other nodes that have failed or left, by node and place in its rank table, but for those of `nodes`.
    pub ranks: Vec<(usize, usize)>,
    /// Whether a process of this node that has been declared failed, and lives, may hold what other nodes have posted
    /// while it spoke for the node: if it comes back that takes effect late.
    pub is_haunted: bool,
}

impl Losses {
    /// Whether a node has been declared failed.
    pub fn has_lost(&self, node: usize) -> bool {
        self.nodes.contains(&node)
    }

    /// Whether a rank has ended, by its node and its place there.
    pub fn has_ended(&self, node: usize, local: usize) -> bool {
        self.has_lost(node) || self.ranks.contains(&(node, local))
    }
}

/// The epoch that this node's ranks go by.
pub fn epoch(memory: &impl Memory) -> u64 {
    // SYNC POINT: view log. Acquire pairs with the opening: whoever it has lost is shut out of this node.
    memory.word(header::EPOCH).load(Ordering::Acquire)
}
