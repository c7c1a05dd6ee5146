//! Shutting out: ranks and nodes that the job has declared failed, whether they are or only were silent for too long.
//!
//! Whoever calls has decided it. From then on nothing that they had on its way to this process takes effect: their
//! connections are dropped with all that has not been read, and new ones are refused. What an excluded process is told
//! when it connects ([`Verdict::Excluded`]) it remembers, and tells the layer above.
//!
//! [`Verdict::Excluded`]: crate::handshake::Verdict::Excluded

use super::{Engine, LinkState, Outcome};

impl Engine {
    /// Shuts a rank out.
    pub fn exclude_rank(&mut self, rank: usize) {
        if rank == self.services.rank || !self.excluded.insert(rank as u64) {
            return;
        }
        self.guests.retain(|_, guest| guest.rank != rank as u64);
        if let Some((node, candidate)) = self.seat_of(rank as u64) {
            self.leave_candidate(node, candidate, &format!("rank {rank} has been declared failed"));
        }
        self.sleepers.has_news = true;
    }

    /// Shuts a node out, with all of its ranks.
    pub fn exclude_node(&mut self, node: usize) {
        if node == self.services.here {
            return;
        }
        let ranks: Vec<usize> = self.peers[node].candidates.iter().map(|candidate| candidate.rank).collect();
        self.shut_link(node, &format!("node {node} has been declared failed"));
        ranks.into_iter().for_each(|rank| self.exclude_rank(rank));
        self.sleepers.has_news = true;
    }

    /// Another node says that this process is excluded: there is nothing more to be said to it.
    pub(super) fn handle_exclusion(&mut self, by: usize) {
        self.calls.note_exclusion(by);
        self.shut_link(by, "it has declared this process failed");
        self.sleepers.has_news = true;
    }

    /// Whether a rank is shut out.
    pub(super) fn is_excluded(&self, rank: u64) -> bool {
        self.excluded.contains(&rank)
    }

    /// The node that a rank lives on, if that is another one, and which of its candidates it is.
    pub(super) fn seat_of(&self, rank: u64) -> Option<(usize, usize)> {
        let others = self.peers.iter().enumerate().filter(|(node, _)| *node != self.services.here);
        others.into_iter().find_map(|(node, peer)| peer.place_of(rank).map(|candidate| (node, candidate)))
    }

    /// Gives up a connection to a candidate, or the attempt to make one.
    fn leave_candidate(&mut self, node: usize, candidate: usize, why: &str) {
        let Some(link) = self.links.get_mut(node) else { return };
        match &mut link.state {
            LinkState::Ready(_) if link.candidate == candidate => {
                self.ready.retain(|ready| *ready != node);
                link.fail(why, &mut self.tickets);
            }
            LinkState::Dialing(dial) => {
                dial.attempt.others.retain(|other| other.candidate != candidate);
                if dial.target.candidate == candidate {
                    self.dial_on(node, why, Outcome::Unclear);
                }
            }
            LinkState::Ready(_)
            | LinkState::Idle
            | LinkState::Failed { .. }
            | LinkState::Expecting { .. }
            | LinkState::PassingOn { .. }
            | LinkState::Shut { .. } => {}
        }
    }

    fn shut_link(&mut self, node: usize, why: &str) {
        self.ready.retain(|ready| *ready != node);
        self.links.of(node).shut(why, &mut self.tickets);
    }
}
