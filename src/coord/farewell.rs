//! Leaving a group that spans nodes: when its block on this node can be given back.
//!
//! Other nodes read a node's block, and drivers write into it; so it must stay until all the others have left. Nobody is
//! told so: each node says it in its own block, and who waits for it reads.
//!
//! 1. A member that leaves first makes sure that nothing of its own is on its way: a read of each node that it has ever
//!    reached has come back, and what it has posted before has taken effect, or is lost for good.
//! 2. Then it lets its hold on the node's block go. The last one marks the block *departed*.
//! 3. The last one reads the other nodes' marks. A block that is another group's by now was given back, by a node that
//!    had departed, too. Once all have departed, this node's block is given back.
//!
//! Reading may be repeated as often as one likes. A node that cannot be reached keeps the others waiting.

use std::task::Poll;

use super::barrier::spanning::layout::{NodeWord, SpanLayout};
use super::formation;
use super::reads::{Place, Reads};
use crate::fabric::node::NodeLayout;
use crate::fabric::{Fabric, Memory, WordAt};
use crate::sync::Ordering;

/// A word that every segment has.
const ANY_WORD: WordAt = WordAt(0);

/// Some members' way out of a group.
#[derive(Debug)]
pub struct Farewell {
    block: SpanLayout,
    /// Holds that are let go together.
    holds: u64,
    /// The other nodes that matter still, with their blocks.
    others: Vec<(usize, WordAt)>,
    stage: Stage,
    reads: Option<Reads>,
    /// Whether a node could not be reached, at least once.
    is_held_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Something may still be on its way to these nodes.
    Fencing,
    /// These nodes have not been seen to depart.
    Waiting,
}

impl Farewell {
    /// So many holds of members of node `here` on `block`, which has the list of the group's nodes, are to be let go.
    pub fn new(memory: &impl Memory, block: SpanLayout, holds: usize, here: usize) -> Self {
        // Relaxed: whoever holds the block has seen the list.
        let word = |index| NodeWord(memory.word(block.node(index)).load(Ordering::Relaxed));
        let nodes = (0..block.schedule().nodes()).map(word).filter(|word| word.node() != here);
        let others = nodes.map(|word| (word.node(), word.start())).collect();
        Self { block, holds: holds as u64, others, stage: Stage::Fencing, reads: None, is_held_up: false }
    }

    /// Whether it will soon be done with what others wait for, if it is not yet: the members' holds are let go as soon as
    /// all nodes have answered that can be reached.
    pub fn is_about_to_let_go(&self) -> bool {
        self.stage == Stage::Fencing && !self.is_held_up
    }

    /// Moves on; ready when nothing is left to do. May be called as seldom as one likes.
    pub fn poll(&mut self, memory: &impl Memory, node: &NodeLayout, fabric: &impl Fabric) -> Poll<()> {
        if self.stage == Stage::Fencing {
            if self.fence(fabric).is_pending() {
                return Poll::Pending;
            }
            if !self.let_go(memory, node) {
                return Poll::Ready(());
            }
        }
        if self.see_departed(memory, fabric).is_pending() {
            return Poll::Pending;
        }
        formation::give_back(memory, node, self.block.start(), formation::units_of(&self.block));
        Poll::Ready(())
    }

    /// Reads of all nodes that have been reached, each until it has come back.
    fn fence(&mut self, fabric: &impl Fabric) -> Poll<()> {
        let reached = || self.others.iter().map(|(node, _)| *node).filter(|node| fabric.incarnation(*node) > 0);
        let mut reads = match self.reads.take() {
            Some(reads) => reads,
            None => Reads::new(reached().map(|node| Place { node, at: ANY_WORD }).collect()),
        };
        if reads.poll(fabric).is_ready() {
            if !reads.has_failed() {
                return Poll::Ready(());
            }
            // What was lost is asked again, the next time.
            self.is_held_up = true;
            reads.try_again();
        }
        self.reads = Some(reads);
        Poll::Pending
    }

    /// Whether these holds are the last of their node.
    fn let_go(&mut self, memory: &impl Memory, node: &NodeLayout) -> bool {
        if !formation::were_last(memory, node, self.block.start(), self.holds) {
            return false;
        }
        // SYNC POINT: departed. Release: all that this node's members did with other nodes' blocks comes before.
        memory.word(self.block.departed()).store(1, Ordering::Release);
        self.stage = Stage::Waiting;
        true
    }

    fn see_departed(&mut self, memory: &impl Memory, fabric: &impl Fabric) -> Poll<()> {
        // Relaxed: the same ever since this node's leader has voted.
        let ballot = memory.word(self.block.ballot()).load(Ordering::Relaxed);
        let schedule = *self.block.schedule();
        let mut reads = self.reads.take().unwrap_or_else(|| {
            let words = |(node, start): &(usize, WordAt)| {
                let block = SpanLayout::new(*start, schedule, 0);
                [block.ballot(), block.departed()].map(|at| Place { node: *node, at })
            };
            Reads::new(self.others.iter().flat_map(words).collect())
        });
        if reads.poll(fabric).is_pending() {
            self.reads = Some(reads);
            return Poll::Pending;
        }
        let values = reads.into_values(fabric);
        let mut values = values.chunks_exact(2);
        self.others.retain(|_| match *values.next().expect("two for each") {
            // SYNC POINT: departed.
            [Some(found), Some(departed)] => found == ballot && departed == 0,
            // Not the group's any more, whatever the other word says.
            [Some(found), None] => found == ballot,
            _ => true,
        });
        if self.others.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Gives up what is on its way.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        if let Some(reads) = self.reads.take() {
            drop(reads.into_values(fabric));
        }
    }
}
