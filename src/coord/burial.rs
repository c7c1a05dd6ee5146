//! What the dead held: a rank that ends without dropping its groups lets nothing go, so others do it.
//!
//! Whoever learns of a death goes through all blocks of the node, and holds each while it looks. Each dead member's
//! hold is taken away once, whoever comes first, and let go. A dead leader's offers are withdrawn with it: who has not
//! taken them will not be told of a group without that member. Who has died before taking an offer takes nothing: its
//! place is given back.
//!
//! *Dead* is who does nothing any more. A rank that was declared failed because it was stopped may come back, in the
//! middle of an arrival, and write into its line: it keeps what it holds until its process ends, or it drops its groups
//! itself.
//!
//! *Groups across nodes.* What a dead member has written to other nodes may still be on its way there, until they know
//! that it has failed. So its hold is let go only when this node knows the epoch that has lost it, and whoever then
//! finds the node departed asks for that epoch, too ([`super::farewell`]). Of a rank that has left with something on
//! its way nobody can say when that has come: it keeps its hold.
//!
//! (A rank that dies between taking an offer and noting so, or while it does this, leaves a hold that nobody lets go:
//! the block is lost until the job ends.)

use super::barrier::layout::{GroupLayout, MemberWord};
use super::barrier::spanning::Schedule;
use super::barrier::spanning::layout::SpanLayout;
use super::formation::{self, Hold};
use super::{arena, offers};
use crate::fabric::node::NodeLayout;
use crate::fabric::{Memory, WordAt};
use crate::sync::Ordering;

/// Lets go what the dead hold of the blocks of groups of this node alone. They are known by their places in the rank
/// table.
pub fn bury(memory: &impl Memory, node: &NodeLayout, is_dead: impl Fn(usize) -> bool) {
    let dead = Dead::new(memory, node, is_dead);
    if dead.ranks.is_empty() {
        return;
    }
    for unit in arena::taken_units(memory, node) {
        let Some(layout) = hold_local(memory, node, unit) else { continue };
        let holds = dead.take_from(memory, node, layout, layout.start());
        formation::let_go(memory, node, layout, (OWN_HOLD + holds) as u64);
    }
}

/// Lets go what the dead hold of the blocks of groups that span nodes; the exchange between so many nodes is
/// `schedule_for`. Blocks of which that was all are departed now, with `heir`.
pub fn bury_abroad(
    memory: &impl Memory,
    node: &NodeLayout,
    schedule_for: impl Fn(usize) -> Schedule,
    heir: usize,
    is_dead: impl Fn(usize) -> bool,
) -> Vec<SpanLayout> {
    let dead = Dead::new(memory, node, is_dead);
    let mut departed = Vec::new();
    if dead.ranks.is_empty() {
        return departed;
    }
    for unit in arena::taken_units(memory, node) {
        let Some(held) = formation::hold_to_look(memory, node, unit, |word| word.nodes() > 1) else { continue };
        let block = SpanLayout::new(node.unit(unit), schedule_for(held.nodes()), held.members());
        let holds = dead.take_from(memory, node, block.local(), block.start());
        if formation::let_go_spanning(memory, node, &block, (OWN_HOLD + holds) as u64, heir) {
            departed.push(block);
        }
    }
    departed
}

/// Becomes the heir of the departed blocks whose heirs have ended.
pub fn inherit(
    memory: &impl Memory,
    node: &NodeLayout,
    schedule_for: impl Fn(usize) -> Schedule,
    heir: usize,
    has_ended: impl Fn(usize) -> bool,
) -> Vec<SpanLayout> {
    let inherit = |unit| {
        let word = formation::inherit(memory, node, unit, heir, &has_ended)?;
        Some(SpanLayout::new(node.unit(unit), schedule_for(word.nodes()), word.members()))
    };
    arena::taken_units(memory, node).filter_map(inherit).collect()
}

/// Takes away what the dead hold of a block that the caller holds, and that starts at `start`; how many holds that are,
/// for the caller to let go.
pub fn take_from_the_dead(
    memory: &impl Memory,
    node: &NodeLayout,
    layout: GroupLayout,
    start: WordAt,
    is_dead: impl Fn(usize) -> bool,
) -> usize {
    Dead::new(memory, node, is_dead).take_from(memory, node, layout, start)
}

/// The hold of whoever looks.
const OWN_HOLD: usize = 1;

/// Holds the block of a group of this node alone that begins at a unit, if one does.
fn hold_local(memory: &impl Memory, node: &NodeLayout, unit: usize) -> Option<GroupLayout> {
    let held = formation::hold_to_look(memory, node, unit, |word| word.nodes() == 1)?;
    Some(GroupLayout::new(node.unit(unit), held.members()))
}

/// Dead ranks of this node: their numbers in the job.
struct Dead {
    ranks: Vec<usize>,
}

impl Dead {
    fn new(memory: &impl Memory, node: &NodeLayout, is_dead: impl Fn(usize) -> bool) -> Self {
        let rank = |local| usize::try_from(memory.word(node.job_rank(local)).load(Ordering::Relaxed)).ok();
        Self { ranks: (0..node.ranks()).filter(|local| is_dead(*local)).filter_map(rank).collect() }
    }

    /// `layout` is that of the members of this node, in the block that starts at `start`.
    fn take_from(&self, memory: &impl Memory, node: &NodeLayout, layout: GroupLayout, start: WordAt) -> usize {
        let rank_of = |member| MemberWord(memory.word(layout.member(member)).load(Ordering::Relaxed)).rank();
        let Some(leader) = place_of(memory, node, rank_of(0)) else { return 0 };
        let dead = (0..layout.size()).filter(|member| self.ranks.contains(&rank_of(*member)));
        dead.map(|member| take_from(memory, node, layout, (leader, start), member)).sum()
    }
}

/// Takes a dead member's hold away; how many holds are to be let go for that. `leader` is the leader's place in the
/// rank table, `start` where the block starts that it offers.
fn take_from(
    memory: &impl Memory,
    node: &NodeLayout,
    layout: GroupLayout,
    (leader, start): (usize, WordAt),
    member: usize,
) -> usize {
    let revoke = |most| offers::revoke_of(memory, node, leader, start, most);
    match formation::take_away(memory, layout, member) {
        Hold::LetGo => 0,
        // A leader that has died withdraws what it offers.
        Hold::Held if member == 0 => 1 + revoke(usize::MAX),
        Hold::Held => 1,
        // If the leader has taken its offer back, it has let this hold go, too.
        Hold::NotTaken => revoke(1),
    }
}

fn place_of(memory: &impl Memory, node: &NodeLayout, rank: usize) -> Option<usize> {
    (0..node.ranks()).find(|local| memory.word(node.job_rank(*local)).load(Ordering::Relaxed) == rank as u64)
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::coord::barrier::Algorithm;
    use crate::coord::formation::Member;
    use crate::coord::offers::Named;
    use crate::fabric::sim::SimNode;

    const NAME: Named = Named { key: 77, call: 1 };

    /// A node of four ranks with a group of all of them, which rank 0 has made and offered.
    fn offered() -> (SimNode, NodeLayout, GroupLayout) {
        let node = NodeLayout::new(4, 1 << 12);
        let memory = SimNode::new(node.words());
        let store = |at, rank: usize| memory.word(at).store(rank as u64, Ordering::Relaxed);
        (0..4).for_each(|rank| store(node.job_rank(rank), rank));
        let members: Vec<Member> = (0..4).map(|rank| Member { rank, local: rank }).collect();
        let layout = formation::make_for(&memory, &node, &members, Algorithm::Central).expect("space");
        formation::share(&memory, &node, layout.start(), 3);
        assert!(offers::offer(&memory, &node, 0, NAME, layout.start().0 as u64, 3).is_some());
        (memory, node, layout)
    }

    fn take(memory: &SimNode, node: &NodeLayout, layout: GroupLayout, member: usize) {
        assert_eq!(offers::take(memory, node, 0, NAME), Some(layout.start().0 as u64));
        formation::note_taken(memory, layout, member);
    }

    #[test]
    fn the_last_hold_may_be_a_dead_ones_and_is_let_go_once() {
        let (memory, node, layout) = offered();
        (1..4).for_each(|member| take(&memory, &node, layout, member));
        [0, 3].iter().for_each(|member| formation::leave(&memory, &node, layout, *member));
        bury(&memory, &node, |local| local == 1);
        bury(&memory, &node, |local| local == 1);
        assert_ne!(arena::taken(&memory, &node), 0, "rank 2 holds it");
        bury(&memory, &node, |local| local == 1 || local == 2);
        assert_eq!(arena::taken(&memory, &node), 0);
        bury(&memory, &node, |_| true);
        assert_eq!(arena::taken(&memory, &node), 0);
    }

    #[test]
    fn who_dies_before_it_takes_an_offer_gives_its_place_back() {
        let (memory, node, layout) = offered();
        take(&memory, &node, layout, 1);
        bury(&memory, &node, |local| local == 3);
        take(&memory, &node, layout, 2);
        assert_eq!(offers::take(&memory, &node, 0, NAME), None, "nobody is left to take it");
        (0..3).for_each(|member| formation::leave(&memory, &node, layout, member));
        assert_eq!(arena::taken(&memory, &node), 0);
    }

    #[test]
    fn what_a_dead_leader_offers_is_withdrawn() {
        let (memory, node, layout) = offered();
        take(&memory, &node, layout, 1);
        bury(&memory, &node, |local| local == 0);
        assert_eq!(offers::take(&memory, &node, 0, NAME), None, "it is withdrawn");
        formation::leave(&memory, &node, layout, 1);
        assert_eq!(arena::taken(&memory, &node), 0);
    }

    #[test]
    fn what_the_leader_has_taken_back_is_not_let_go_twice() {
        let (memory, node, layout) = offered();
        take(&memory, &node, layout, 1);
        let revoked = offers::revoke_of(&memory, &node, 0, layout.start(), usize::MAX);
        formation::let_go(&memory, &node, layout, revoked as u64);
        bury(&memory, &node, |local| local == 2);
        formation::leave(&memory, &node, layout, 0);
        assert_ne!(arena::taken(&memory, &node), 0, "rank 1 holds it");
        formation::leave(&memory, &node, layout, 1);
        assert_eq!(arena::taken(&memory, &node), 0);
    }
}
