//! Leaving a group that spans nodes: when its block on this node can be given back.
//!
//! Other nodes read a node's block, and drivers write into it; so it must stay until nothing of theirs can come any
//! more. Nobody is told so: each node says in its own block that it has departed, and who waits for it reads.
//!
//! 1. A member that leaves first makes sure that nothing of its own is on its way: a read of each node that it has ever
//!    reached has come back, and what it has posted before has taken effect, or is lost for good.
//! 2. Then it lets its hold on the node's block go. The last one marks the block *departed*, and is its *heir*.
//! 3. The heir reads the other nodes' marks. A block that is another group's by now was given back, by a node that
//!    had departed, too. Once all have departed, this node's block is given back.
//!
//! *Failures.* A member that has died made sure of nothing; its hold is let go for it ([`super::burial`]) once its node
//! knows the epoch that has lost it. So of a node that has departed the epoch is read, too, after its mark: when this
//! node has come as far, everybody is shut out here for whom others have let go. A node that has been lost itself is
//! shut out, and not waited for. (What a process of *this* node may still let in that was its agent, has been declared
//! failed and lives, nobody can shut out: nothing is given back before that process has ended.)
//!
//! A leader may have died after its vote, before it knew of the group. Others then may still find the votes, and make
//! it. So a node that has another ballot in its block, or none yet, counts only if it knew the same epochs when that
//! was read: a group that its members take from then on is broken for them before they can say a word in it.
//!
//! Reading may be repeated as often as one likes. An heir that ends is followed by another rank of the node. A node
//! that cannot be reached, and is not lost, keeps the others waiting.

use std::task::Poll;

use super::barrier::spanning::layout::{NodeWord, SpanLayout};
use super::formation::{self, Hold};
use super::losses::{self, Losses};
use super::reads::{Place, Reads};
use crate::fabric::node::{NodeLayout, header};
use crate::fabric::{Fabric, Memory, WordAt};
use crate::sync::Ordering;

/// A word that every segment has.
const ANY_WORD: WordAt = WordAt(0);

/// Words read of each other node.
const WORDS: usize = 4;

/// One member's way out of a group, or the rest of it for all members of its node.
#[derive(Debug)]
pub struct Farewell {
    block: SpanLayout,
    /// Who takes it, as its place in the rank table.
    heir: usize,
    /// The other nodes that matter still, with their blocks.
    others: Vec<(usize, WordAt)>,
    stage: Stage,
    reads: Option<Reads>,
    /// Whether a node could not be reached, at least once.
    is_held_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Something of this member, by its place among the node's, may still be on its way to these nodes.
    Fencing { member: usize },
    /// All members of this node have left, who knew this epoch; these nodes have not been seen to depart.
    Departed { epoch: u64 },
}

impl Farewell {
    /// A member of this node, by its place among those, leaves the group of `block`, which has the list of the group's
    /// nodes. `heir` is the place of its rank in the rank table, or of the rank that leaves for it.
    pub fn of_member(memory: &impl Memory, block: SpanLayout, member: usize, heir: usize, here: usize) -> Self {
        Self::new(memory, block, heir, here, Stage::Fencing { member })
    }

    /// `block` is departed, and `heir` its heir.
    pub fn of_departed(memory: &impl Memory, block: SpanLayout, heir: usize, here: usize) -> Self {
        // SYNC POINT: departed. Release: all that this node's members did with other nodes' blocks comes before.
        memory.word(block.departed()).store(1, Ordering::Release);
        Self::new(memory, block, heir, here, Stage::Departed { epoch: losses::epoch(memory) })
    }

    /// Lets holds of members go that have not taken the group, and so have said nothing in it.
    pub fn of_untaken(
        memory: &impl Memory,
        node: &NodeLayout,
        block: SpanLayout,
        holds: usize,
        heir: usize,
        here: usize,
    ) -> Option<Self> {
        let were_last = holds > 0 && formation::let_go_spanning(memory, node, &block, holds as u64, heir);
        were_last.then(|| Self::of_departed(memory, block, heir, here))
    }

    fn new(memory: &impl Memory, block: SpanLayout, heir: usize, here: usize, stage: Stage) -> Self {
        // Relaxed: whoever holds the block, or is its heir, has seen the list.
        let load = |at| memory.word(at).load(Ordering::Relaxed);
        let nodes = (0..block.schedule().nodes()).map(|index| NodeWord(load(block.node(index))));
        let others = nodes.filter(|word| word.node() != here).map(|word| (word.node(), word.start()));
        // Without a vote nobody has heard of this block, and the list may not be there.
        let others = if load(block.ballot()) == 0 { Vec::new() } else { others.collect() };
        Self { block, heir, others, stage, reads: None, is_held_up: false }
    }

    /// Whether it will soon be done with what others wait for, if it is not yet: the member's hold is let go as soon as
    /// all nodes have answered that can be reached.
    pub fn is_about_to_let_go(&self) -> bool {
        matches!(self.stage, Stage::Fencing { .. }) && !self.is_held_up
    }

    /// Moves on; ready when nothing is left to do. May be called as seldom as one likes.
    pub fn poll(&mut self, memory: &impl Memory, node: &NodeLayout, fabric: &impl Fabric, losses: &Losses) -> Poll<()> {
        match self.stage {
            Stage::Fencing { member } => {
                if self.fence(fabric, losses).is_pending() {
                    return Poll::Pending;
                }
                let has_let_go = formation::take_away(memory, self.block.local(), member) == Hold::LetGo;
                if has_let_go || !formation::let_go_spanning(memory, node, &self.block, 1, self.heir) {
                    return Poll::Ready(());
                }
                *self = Self::of_departed(memory, self.block, self.heir, fabric.here());
                self.give_back(memory, node, fabric, losses)
            }
            Stage::Departed { .. } => self.give_back(memory, node, fabric, losses),
        }
    }

    /// Reads of all nodes that have been reached and are not lost, each until it has come back.
    fn fence(&mut self, fabric: &impl Fabric, losses: &Losses) -> Poll<()> {
        self.others.retain(|(node, _)| !losses.has_lost(*node));
        let reached = || self.others.iter().map(|(node, _)| *node).filter(|node| fabric.incarnation(*node) > 0);
        let mut reads = match self.reads.take() {
            Some(reads) => reads,
            None => Reads::new(reached().map(|node| Place { node, at: ANY_WORD }).collect()),
        };
        if reads.poll(fabric).is_ready() {
            if !reads.lacks_any(|node| !losses.has_lost(node)) {
                return Poll::Ready(());
            }
            // What was lost is asked again, the next time.
            self.is_held_up = true;
            reads.try_again();
        }
        self.reads = Some(reads);
        Poll::Pending
    }

    fn give_back(
        &mut self,
        memory: &impl Memory,
        node: &NodeLayout,
        fabric: &impl Fabric,
        losses: &Losses,
    ) -> Poll<()> {
        if self.see_departed(memory, fabric, losses).is_pending() || losses.is_haunted {
            return Poll::Pending;
        }
        formation::give_back_departed(memory, node, &self.block, self.heir);
        Poll::Ready(())
    }

    fn see_departed(&mut self, memory: &impl Memory, fabric: &impl Fabric, losses: &Losses) -> Poll<()> {
        // Relaxed: the same ever since this node's leader has voted.
        let ballot = memory.word(self.block.ballot()).load(Ordering::Relaxed);
        let schedule = *self.block.schedule();
        let mut reads = self.reads.take().unwrap_or_else(|| {
            let words = |(node, start): &(usize, WordAt)| {
                let block = SpanLayout::new(*start, schedule, 0);
                // The epoch before, for a ballot that is not there yet, and after, for a mark that is.
                [header::EPOCH, block.ballot(), block.departed(), header::EPOCH].map(|at| Place { node: *node, at })
            };
            Reads::new(self.others.iter().flat_map(words).collect())
        });
        if reads.poll(fabric).is_pending() {
            self.reads = Some(reads);
            return Poll::Pending;
        }
        let Stage::Departed { epoch } = self.stage else { return Poll::Pending };
        let values = reads.into_values(fabric);
        let mut values = values.chunks_exact(WORDS);
        self.others.retain(|(node, _)| {
            // SYNC POINT: departed.
            let is_through = match *values.next().expect("some for each") {
                [Some(before), Some(found), Some(departed), Some(after)] => {
                    (found != ballot || departed != 0) && before >= epoch && after <= losses.epoch
                }
                _ => false,
            };
            !is_through && !losses.has_lost(*node)
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
