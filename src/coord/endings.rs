//! What is left to do for groups that are made, given up, or left: nobody waits for it, and it is looked at now and
//! then.

use std::task::Poll;

use super::farewell::Farewell;
use super::formation;
use super::introductions::{GivenUp, Introductions};
use super::losses::Losses;
use super::offers::{Named, Offered};
use crate::fabric::node::NodeLayout;
use crate::fabric::{Fabric, Memory};

/// One such thing.
#[derive(Debug)]
pub enum Ending {
    /// The group is made; this leader's offer stands until all other leaders know it.
    Acknowledging(Introductions),
    /// The leader gives the group up, if it can.
    GivingUp(Introductions, Why),
    /// Too late to give it up: the group is made, and kept for the call that asks for it again.
    Kept(Introductions),
    /// As [`Kept`](Self::Kept), but the space was needed: the call that asks for it again is to be refused.
    Missed {
        /// The group's name.
        named: Named,
        /// The group of whose members it was made.
        parent: u64,
    },
    /// Members leave the group.
    Leaving(Farewell),
}

/// A node's leader, among its members.
const LEADER: usize = 0;

/// Why a leader gives up what it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its place for an offer is needed. The call may be repeated.
    Place,
    /// The space of its block is needed. The call may be repeated.
    Space,
    /// Nobody will ask for it again.
    Unwanted,
}

/// What is left of a group that is wanted after all.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is gone at once")]
pub enum TakenBack {
    /// It can be gone on with.
    Begun(Introductions),
    /// Others have it, and this node has left it.
    Missed,
}

/// Who still needs something of an [`Ending`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Nobody: or they can do without it.
    Nothing,
    /// Nodes that have not answered. They may be gone.
    Unanswered,
    /// Leaders that have voted, and have not found the group or that there is none.
    ByLeaders,
}

impl Ending {
    /// Moves on; what is still to be done after it goes to `left`.
    pub fn poll(
        self,
        memory: &impl Memory,
        node: &NodeLayout,
        fabric: &impl Fabric,
        losses: &Losses,
        left: &mut Vec<Self>,
    ) {
        match self {
            Self::Acknowledging(mut introductions) => {
                if introductions.acknowledge(memory, fabric, losses).is_pending() {
                    left.push(Self::Acknowledging(introductions));
                }
            }
            Self::GivingUp(mut introductions, why) => match introductions.give_up(memory, fabric, losses) {
                Poll::Pending => left.push(Self::GivingUp(introductions, why)),
                Poll::Ready(GivenUp::NoGroup) => {
                    formation::discard(memory, node, &introductions.block(), introductions.leader());
                }
                Poll::Ready(GivenUp::Agreed) => Self::come_too_late(introductions, why, memory, fabric.here(), left),
                // Nobody may make anything of it who asks for it again.
                Poll::Ready(GivenUp::Presumed) => {
                    Self::come_too_late(introductions, why.max(Why::Space), memory, fabric.here(), left);
                }
            },
            Self::Kept(mut introductions) => {
                // Its place is free as soon as the other leaders know.
                let _ = introductions.acknowledge(memory, fabric, losses);
                left.push(Self::Kept(introductions));
            }
            Self::Missed { .. } => left.push(self),
            Self::Leaving(mut farewell) => {
                if farewell.poll(memory, node, fabric, losses).is_pending() {
                    left.push(Self::Leaving(farewell));
                }
            }
        }
    }

    /// The group that was to be given up is made.
    fn come_too_late(
        mut introductions: Introductions,
        why: Why,
        memory: &impl Memory,
        here: usize,
        left: &mut Vec<Self>,
    ) {
        let block = introductions.block();
        let takers = block.local().size() - 1;
        if why == Why::Place {
            introductions.open(memory, takers, false);
            return left.push(Self::Kept(introductions));
        }
        if why == Why::Space {
            introductions.open(memory, takers, true);
            left.push(Self::Missed { named: introductions.named(), parent: introductions.parent() });
        }
        // None of this node's other members has heard of it: the leader's is the only hold.
        let farewell = Farewell::of_member(memory, block, LEADER, introductions.leader(), here);
        left.extend([Self::Acknowledging(introductions), Self::Leaving(farewell)]);
    }

    /// Gives up what is given up, or kept, already, for a reason that goes further.
    pub fn give_up(self, why: Why, memory: &impl Memory, here: usize, left: &mut Vec<Self>) {
        match self {
            Self::GivingUp(introductions, earlier) => left.push(Self::GivingUp(introductions, earlier.max(why))),
            Self::Kept(introductions) if why > Why::Place => {
                if why == Why::Space {
                    left.push(Self::Missed { named: introductions.named(), parent: introductions.parent() });
                }
                // Those of this node's members that have taken it leave by themselves.
                let (block, leader) = (introductions.block(), introductions.leader());
                let untaken = introductions.revoke(memory);
                let departed = Farewell::of_untaken(memory, introductions.segment(), block, untaken, leader, here);
                debug_assert!(departed.is_none(), "the leader holds it");
                let farewell = Farewell::of_member(memory, block, LEADER, leader, here);
                left.extend([Self::Acknowledging(introductions), Self::Leaving(farewell)]);
            }
            Self::Missed { .. } if why == Why::Unwanted => {}
            Self::Kept(_) | Self::Missed { .. } | Self::Acknowledging(_) | Self::Leaving(_) => left.push(self),
        }
    }

    /// The name and the parent of a group that a call may ask for again.
    pub fn may_be_asked_for(&self) -> Option<(Named, u64)> {
        match self {
            Self::GivingUp(introductions, _) | Self::Kept(introductions) => {
                Some((introductions.named(), introductions.parent()))
            }
            Self::Missed { named, parent } => Some((*named, *parent)),
            Self::Acknowledging(_) | Self::Leaving(_) => None,
        }
    }

    /// Whether a block may be free when it is done.
    pub fn frees_space(&self) -> bool {
        matches!(self, Self::GivingUp(..) | Self::Leaving(_))
    }

    /// Takes a group back that is wanted after all.
    pub fn take_back(endings: &mut Vec<Self>, wanted: Named, fabric: &impl Fabric) -> Option<TakenBack> {
        let is_it = |ending: &Self| ending.may_be_asked_for().is_some_and(|(named, _)| named == wanted);
        let index = endings.iter().position(is_it)?;
        match endings.remove(index) {
            Self::GivingUp(mut introductions, _) | Self::Kept(mut introductions) => {
                introductions.resume(fabric);
                Some(TakenBack::Begun(introductions))
            }
            Self::Missed { .. } => Some(TakenBack::Missed),
            Self::Acknowledging(_) | Self::Leaving(_) => unreachable!("nobody asks for those"),
        }
    }

    /// All leaders are known to know of the group that is offered so. Whether that was what is left to do here.
    pub fn conclude(&mut self, memory: &impl Memory, offered: Offered, fabric: &impl Fabric) -> bool {
        match self {
            Self::Acknowledging(introductions) => introductions.conclude(memory, offered, fabric),
            Self::GivingUp(..) | Self::Kept(_) | Self::Missed { .. } | Self::Leaving(_) => false,
        }
    }

    /// What others lose if this process ends before it is done.
    pub fn awaited(&self) -> Awaited {
        match self {
            Self::Acknowledging(introductions) | Self::GivingUp(introductions, _) | Self::Kept(introductions) => {
                match (introductions.is_offered(), introductions.is_unanswered()) {
                    (false, _) => Awaited::Nothing,
                    (true, true) => Awaited::Unanswered,
                    (true, false) => Awaited::ByLeaders,
                }
            }
            Self::Leaving(farewell) if farewell.is_about_to_let_go() => Awaited::Unanswered,
            Self::Leaving(_) | Self::Missed { .. } => Awaited::Nothing,
        }
    }

    /// Before it is dropped undone: nobody will take what it has asked for.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        match self {
            Self::Acknowledging(introductions) | Self::GivingUp(introductions, _) | Self::Kept(introductions) => {
                introductions.abandon(fabric);
            }
            Self::Missed { .. } => {}
            Self::Leaving(farewell) => farewell.abandon(fabric),
        }
    }
}
