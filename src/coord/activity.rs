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

/// A call with what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotedCall {
    /// Which.
    pub call: CallWord,
    /// The group's number.
    pub group: u64,
    /// Since when, in ticks.
    pub since: u64,
}

/// Notes that a rank of this node is in a call; gives what was noted before, for [`leave`].
pub fn enter(memory: &impl Memory, node: &NodeLayout, local: usize, noted: NotedCall) -> NotedCall {
    // Relaxed, here and below: for people who look; a reader may see words of two calls for a moment.
    let load = |at| memory.word(at).load(Ordering::Relaxed);
    let (call, group, since) = (load(node.call(local)), load(node.call_group(local)), load(node.call_since(local)));
    note(memory, node, local, noted);
    NotedCall { call: CallWord(call), group, since }
}

fn note(memory: &impl Memory, node: &NodeLayout, local: usize, noted: NotedCall) {
    memory.word(node.call_group(local)).store(noted.group, Ordering::Relaxed);
    memory.word(node.call_since(local)).store(noted.since, Ordering::Relaxed);
    memory.word(node.call(local)).store(noted.call.0, Ordering::Relaxed);
}

/// Notes that the call is over: the rank is in the outer one again, if it was in one.
pub fn leave(memory: &impl Memory, node: &NodeLayout, local: usize, outer: NotedCall) {
    if outer.call.is_inside() {
        return note(memory, node, local, outer);
    }
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
        let call = |call, sequence| NotedCall { call: CallWord::inside(call, sequence), group: 5, since: 1000 };
        let outside = enter(&memory, &node, 1, call(Call::Barrier, 77));
        let read = || CallWord(memory.word(node.call(1)).load(Ordering::Relaxed));
        assert_eq!((read().name(), read().sequence(), read().is_inside()), ("barrier", 77, true));
        assert_eq!(memory.word(node.call_group(1)).load(Ordering::Relaxed), 5);
        leave(&memory, &node, 1, outside);
        assert_eq!((read().name(), read().sequence(), read().is_inside()), ("barrier", 77, false));
        assert_eq!((CallWord(0).name(), CallWord(0).is_one(), read().is_one()), ("no call", false, true));
    }

    #[test]
    fn the_end_of_an_inner_call_leaves_the_rank_in_the_outer_one() {
        let node = NodeLayout::new(1, 1);
        let memory = SimNode::new(node.words());
        let read = || enter(&memory, &node, 0, NotedCall { call: CallWord(0), group: 0, since: 0 });
        let shrink = NotedCall { call: CallWord::inside(Call::Shrink, 7), group: 3, since: 100 };
        let barrier = NotedCall { call: CallWord::inside(Call::Barrier, 1), group: 4, since: 200 };
        let outside = enter(&memory, &node, 0, shrink);
        let outer = enter(&memory, &node, 0, barrier);
        assert_eq!(outer, shrink);
        leave(&memory, &node, 0, outer);
        assert_eq!(read(), shrink);
        enter(&memory, &node, 0, shrink);
        leave(&memory, &node, 0, outside);
        assert!(!read().call.is_inside());
    }
}
