//! Where a group's nodes are, and their blocks.

use std::sync::Arc;

use crate::fabric::WordAt;

/// The nodes of a group, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// All of the job's nodes in their own order, with their blocks at the same position: the world.
    All {
        /// How many there are.
        nodes: usize,
        /// The first word of each node's block.
        start: WordAt,
        /// The members of each node.
        members: usize,
    },
    /// Some nodes.
    Some(Arc<[SpanNode]>),
}

/// A node of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanNode {
    /// Its number in the job.
    pub node: usize,
    /// The first word of its block.
    pub start: WordAt,
    /// Its members.
    pub members: usize,
}

impl Span {
    /// How many nodes there are.
    pub fn len(&self) -> usize {
        match self {
            Self::All { nodes, .. } => *nodes,
            Self::Some(list) => list.len(),
        }
    }

    /// Never: a group has at least the node of its member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A node's number in the job and the first word of its block.
    pub fn node(&self, index: usize) -> (usize, WordAt) {
        match self {
            Self::All { start, .. } => (index, *start),
            Self::Some(list) => (list[index].node, list[index].start),
        }
    }

    /// How many members the node of an index has.
    pub fn members(&self, index: usize) -> usize {
        match self {
            Self::All { members, .. } => *members,
            Self::Some(list) => list[index].members,
        }
    }
}
