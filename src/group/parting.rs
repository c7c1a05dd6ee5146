//! Before a member of a group that spans nodes leaves: others may still need what its node has said last, and its
//! process may be about to end.
//!
//! Whoever drops a group does not wait for nodes that are slow to answer, or may be gone: the rest is done along with
//! its later calls. Its node's outboxes stay meanwhile, for others to read from: the block is not given back before
//! they have left, too. It is the end of the process that waits, once for all groups.

use std::time::{Duration, Instant};

use super::forming::WORLD;
use super::meeting::{Meeting, Patience};
use super::{Abroad, Core, Group};
use crate::cluster::view::{self, FailureCause, Obituary, Unit};
use crate::fabric::network::Network;
use crate::fabric::tcp::Ports;
use crate::job::{Membership, Parted};

/// How long a member that drops a group waits for other nodes that should answer within a round trip.
const DROPPING_PATIENCE: Duration = Duration::from_millis(20);

impl Group {
    /// Sees to it that what this member has said to other nodes has arrived there, as long as they live: soon, or else
    /// along with this rank's later calls.
    pub(super) fn see_words_off(&self, core: &mut Core) -> Option<Parted> {
        let membership = &self.membership;
        // Of a group that a failure has broken no barrier is passed by messages any more.
        self.read_log(&mut core.failures);
        let is_broken = core.failures.has_broken();
        let Meeting::Spanning(barrier) = &mut core.barrier else { return None };
        if is_broken || std::thread::panicking() {
            return None;
        }
        let reach = membership.reach();
        let speaks_for_driver = self.has_driver_left();
        // Where one node keeps this rank waiting already, it does not wait again.
        let longest = if membership.parted().is_empty() { DROPPING_PATIENCE } else { Duration::ZERO };
        let mut patience = Patience::new();
        let is_gone = |node| membership.is_gone(node, reach.fabric);
        while barrier.part(reach.memory, reach.fabric, speaks_for_driver, is_gone).is_pending() {
            if patience.waited() >= longest {
                break;
            }
            patience.pause(membership);
        }
        let parting = barrier.take_parting();
        barrier.let_go(reach.fabric);
        let block = self.abroad.as_ref().filter(|_| self.id() != WORLD).map(Abroad::layout);
        let leaves = block.map(|block| (block, self.local_index()));
        parting.map(|parting| Parted { parting, leaves, ranks: self.ranks.clone() })
    }

    /// Whether the member that writes this node's messages has left the job.
    fn has_driver_left(&self) -> bool {
        let driver = self.membership.neighbours_among(&self.ranks).first().copied();
        driver.is_some_and(|rank| self.membership.end_of(rank) == Some(FailureCause::Left))
    }
}

impl Membership {
    /// Goes on seeing off what groups have said that were dropped, and leaves those of which all has arrived, or
    /// nothing matters any more.
    pub(super) fn see_parted_off(&self) {
        let parted = std::mem::take(&mut *self.parted());
        let Some(network) = &self.network else { return };
        for mut parted in parted {
            let is_through = parted.parting.poll(&**network, |node| self.is_gone(node, network)).is_ready();
            if is_through || self.is_broken(&parted.ranks) {
                self.leave_parted(parted);
            } else {
                self.parted().push(parted);
            }
        }
    }

    /// Before this rank ends: waits for what it has said to arrive, for at most the failure time-out.
    pub fn part(&self) {
        let begun = Instant::now();
        let mut patience = Patience::new();
        loop {
            self.see_parted_off();
            if self.parted().is_empty() {
                return;
            }
            if begun.elapsed() >= self.failure.timeout {
                break;
            }
            patience.pause(self);
        }
        std::mem::take(&mut *self.parted()).into_iter().for_each(|parted| self.leave_parted(parted));
    }

    fn leave_parted(&self, Parted { parting, leaves, .. }: Parted) {
        parting.abandon(self.reach().fabric);
        if let Some((block, member)) = leaves {
            self.leave_spanning(block, member);
        }
    }

    /// Whether one of these ranks has failed.
    fn is_broken(&self, ranks: &[usize]) -> bool {
        let (segment, node) = (&*self.segment, self.segment.layout());
        let is_of = |lost: Obituary| match lost.unit {
            _ if lost.cause == FailureCause::Left => false,
            Unit::Rank(rank) => ranks.contains(&rank),
            Unit::Node(node) => ranks.iter().any(|rank| self.node_of(*rank) == node),
        };
        (1..=view::epoch(segment, &node)).filter_map(|epoch| view::obituary(segment, &node, epoch)).any(is_of)
    }

    /// Whether nobody lives on a node who could want anything.
    fn is_gone(&self, node: usize, network: &Network) -> bool {
        self.has_lost_node(node) || self.has_said_farewell(node) || network.ports(node) == Ports::Closed
    }
}
