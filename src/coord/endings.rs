//! What is left to do for groups that are made, given up, or left: nobody waits for it, and it is looked at now and then.

use std::task::Poll;

use super::farewell::Farewell;
use super::formation;
use super::introductions::{GivenUp, Introductions};
use super::offers::Offered;
use crate::fabric::node::NodeLayout;
use crate::fabric::{Fabric, Memory};

/// One such thing.
#[derive(Debug)]
pub enum Ending {
    /// The group is made; this leader's offer stands until all other leaders know it.
    Acknowledging(Introductions),
    /// The group is not wanted any more.
    GivingUp(Introductions),
    /// Members leave the group.
    Leaving(Farewell),
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
    pub fn poll(self, memory: &impl Memory, node: &NodeLayout, fabric: &impl Fabric, left: &mut Vec<Self>) {
        match self {
            Self::Acknowledging(mut introductions) => {
                if introductions.acknowledge(memory, fabric).is_pending() {
                    left.push(Self::Acknowledging(introductions));
                }
            }
            Self::GivingUp(mut introductions) => match introductions.give_up(memory, fabric) {
                Poll::Pending => left.push(Self::GivingUp(introductions)),
                Poll::Ready(GivenUp::NoGroup) => {
                    let block = introductions.block();
                    formation::give_back(memory, node, block.start(), formation::units_of(&block));
                }
                // None of this node's members has heard of it, so all of them leave at once.
                Poll::Ready(GivenUp::Agreed) => {
                    let block = introductions.block();
                    let farewell = Farewell::new(memory, block, block.local().size(), fabric.here());
                    left.extend([Self::Acknowledging(introductions), Self::Leaving(farewell)]);
                }
            },
            Self::Leaving(mut farewell) => {
                if farewell.poll(memory, node, fabric).is_pending() {
                    left.push(Self::Leaving(farewell));
                }
            }
        }
    }

    /// Takes a group back that is wanted after all.
    pub fn take_back(endings: &mut Vec<Self>, key: u64, fabric: &impl Fabric) -> Option<Introductions> {
        let is_it = |ending: &Self| matches!(ending, Self::GivingUp(introductions) if introductions.named().key == key);
        let index = endings.iter().position(is_it)?;
        let Self::GivingUp(mut introductions) = endings.remove(index) else { unreachable!("found just now") };
        introductions.resume(fabric);
        Some(introductions)
    }

    /// All leaders are known to know of the group that is offered so. Whether that was what is left to do here.
    pub fn conclude(&mut self, memory: &impl Memory, offered: Offered, fabric: &impl Fabric) -> bool {
        match self {
            Self::Acknowledging(introductions) => introductions.conclude(memory, offered, fabric),
            Self::GivingUp(_) | Self::Leaving(_) => false,
        }
    }

    /// What others lose if this process ends before it is done.
    pub fn awaited(&self) -> Awaited {
        match self {
            Self::Acknowledging(introductions) | Self::GivingUp(introductions) if introductions.is_unanswered() => {
                Awaited::Unanswered
            }
            Self::Acknowledging(_) | Self::GivingUp(_) => Awaited::ByLeaders,
            Self::Leaving(farewell) if farewell.is_about_to_let_go() => Awaited::Unanswered,
            Self::Leaving(_) => Awaited::Nothing,
        }
    }

    /// Before it is dropped undone: nobody will take what it has asked for.
    pub fn abandon(&mut self, fabric: &impl Fabric) {
        match self {
            Self::Acknowledging(introductions) | Self::GivingUp(introductions) => introductions.abandon(fabric),
            Self::Leaving(farewell) => farewell.abandon(fabric),
        }
    }
}
