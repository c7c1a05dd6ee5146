//! What a rank is doing in the library, for those who look at it from outside: noted in its entry of the node's table
//! when a wait gets long, so that a quick barrier pays nothing.

use crate::fabric::Memory;
use crate::fabric::node::NodeLayout;
use crate::sync::Ordering;

/// A call that may take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// Waiting for a barrier.
    Barrier = 1,
    /// Waiting for a new group to be made.
    Forming = 2,
    /// Waiting for the survivors' agreement.
    Shrink = 3,
}

/// A rank's last long call.
///
/// | bits | field |
/// | --- | --- |
/// | 0–7 | which call; 0 none so far |
/// | 8 | 1 while the rank is in it |
/// | 9–15 | 0 |
/// | 16–63 | the barrier's sequence, where it is about one |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallWord(pub u64);

impl CallWord {
    const INSIDE: u64 = 1 << 8;

    /// The rank is in a call.
    pub fn inside(call: Call, sequence: u64) -> Self {
        Self(call as u64 | Self::INSIDE | sequence << 16)
    }

    /// Whether there has been a call.
    pub fn is_one(self) -> bool {
        self.0 & 0xff != 0
    }

    /// Whether the rank is in the call still.
    pub fn is_inside(self) -> bool {
        self.0 & Self::INSIDE != 0
    }

    /// Which barrier it is about; 0 for none.
    pub fn sequence(self) -> u64 {
        self.0 >> 16
    }

    /// Which call, for people.
    pub fn name(self) -> &'static str {
        match self.0 & 0xff {
            1 => "barrier",
            2 => "the making of a group",
            3 => "shrink",
            _ => "no call",
        }
    }
}

/// Notes that a rank of this node has been in a call of a group since `since`, in ticks.
pub fn enter(memory: &impl Memory, node: &NodeLayout, local: usize, call: CallWord, group: u64, since: u64) {
    // Relaxed: for people who look; a reader may see words of two calls for a moment.
    memory.word(node.call_group(local)).store(group, Ordering::Relaxed);
    memory.word(node.call_since(local)).store(since, Ordering::Relaxed);
    memory.word(node.call(local)).store(call.0, Ordering::Relaxed);
}

/// Notes that the call is over.
pub fn leave(memory: &impl Memory, node: &NodeLayout, local: usize) {
    let word = memory.word(node.call(local));
    word.store(word.load(Ordering::Relaxed) & !CallWord::INSIDE, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::sim::SimNode;

    #[test]
    fn a_call_is_noted_and_its_end_leaves_what_it_was() {
        let node = NodeLayout::new(2, 1);
        let memory = SimNode::new(node.words());
        enter(&memory, &node, 1, CallWord::inside(Call::Barrier, 77), 5, 1000);
        let read = || CallWord(memory.word(node.call(1)).load(Ordering::Relaxed));
        assert_eq!((read().name(), read().sequence(), read().is_inside()), ("barrier", 77, true));
        assert_eq!(memory.word(node.call_group(1)).load(Ordering::Relaxed), 5);
        leave(&memory, &node, 1);
        assert_eq!((read().name(), read().sequence(), read().is_inside()), ("barrier", 77, false));
        assert_eq!((CallWord(0).name(), CallWord(0).is_one(), read().is_one()), ("no call", false, true));
    }
}
