//! Before a member of a group that spans nodes drops it: others may still need what its node has said last, and its
//! process may be about to end.

use super::meeting::{Meeting, Patience};
use super::{Core, Group};
use crate::cluster::view::FailureCause;
use crate::fabric::network::Network;
use crate::fabric::tcp::Ports;
use crate::job::Membership;

impl Group {
    /// Sees to it that what this member has said to other nodes has arrived there, as long as they live, and for at most the
    /// failure time-out.
    pub(super) fn see_words_off(&self, core: &mut Core) {
        let membership = &self.membership;
        // Of a group that a failure has broken no barrier is passed by messages any more.
        self.read_log(&mut core.failures);
        let is_broken = core.failures.has_broken();
        let Meeting::Spanning(barrier) = &mut core.barrier else { return };
        if is_broken || std::thread::panicking() {
            return;
        }
        let reach = membership.reach();
        let speaks_for_driver = self.has_driver_left();
        let mut patience = Patience::new();
        let is_gone = |node| membership.is_gone(node, reach.fabric);
        while barrier.part(reach.memory, reach.fabric, speaks_for_driver, is_gone).is_pending() {
            if patience.waited() >= membership.failure.timeout {
                break;
            }
            patience.pause(membership);
        }
        barrier.let_go(reach.fabric);
    }

    /// Whether the member that writes this node's messages has left the job.
    fn has_driver_left(&self) -> bool {
        let driver = self.membership.neighbours_among(&self.ranks).first().copied();
        driver.is_some_and(|rank| self.membership.end_of(rank) == Some(FailureCause::Left))
    }
}

impl Membership {
    /// Whether nobody lives on a node who could want anything.
    fn is_gone(&self, node: usize, network: &Network) -> bool {
        self.has_lost_node(node) || self.has_said_farewell(node) || network.ports(node) == Ports::Closed
    }
}
