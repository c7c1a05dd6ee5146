//! The job's nodes: one, this machine, or several that the ranks pretend to be on (`--nodes`), so that what happens
//! between nodes can be had on any machine.
//!
//! On one node rank 0 serves the others through a UNIX socket and the launcher has no part in it. With more, ranks meet
//! at a rendezvous that the supervisor serves on the loopback, from a thread that ends with the job or the process; and
//! when nodes are lost, it is the witness that has the vote where the nodes are no majority.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use phalanx::cluster::environment::{Identity, LocalPlace};
use phalanx::cluster::rendezvous::Server;
use phalanx::cluster::witness::Witness;

/// Where the ranks of a job are.
pub struct Nodes {
    count: usize,
    identity: Identity,
    /// Serve while they are kept; `None` for one node.
    _services: Option<(Server, Witness)>,
}

impl Nodes {
    /// Makes the identity of a job of `ranks` ranks on `count` nodes, and serves its rendezvous if it needs one.
    pub fn new(count: usize, ranks: usize) -> io::Result<Self> {
        if count == 1 {
            return Ok(Self { count, identity: Identity::random(ranks)?, _services: None });
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let identity = Identity::served_at(listener.local_addr()?, ranks)?;
        let server = Server::start(listener, &identity.key, ranks)?;
        let witness = Witness::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, &identity.key, ranks, count)?;
        let identity = Identity { witness: Some(witness.address()), ..identity };
        Ok(Self { count, identity, _services: Some((server, witness)) })
    }

    /// What rank `rank` finds in its environment.
    pub fn variables(&self, rank: usize) -> Vec<(&'static str, String)> {
        if self.count == 1 { self.identity.variables(rank) } else { self.identity.variables_at(rank, self.place(rank)) }
    }

    fn place(&self, rank: usize) -> LocalPlace {
        place(rank, self.count, self.identity.size)
    }
}

/// The node of a rank.
pub fn node_of(rank: usize, nodes: usize, ranks: usize) -> usize {
    rank * nodes / ranks
}

/// Ranks stand in blocks, whose sizes differ by one at most.
fn place(rank: usize, nodes: usize, ranks: usize) -> LocalPlace {
    let node = node_of(rank, nodes, ranks);
    let first_of = |node: usize| (node * ranks).div_ceil(nodes);
    LocalPlace {
        pretended_node: Some(u32::try_from(node).expect("less than the ranks of one machine")),
        local_rank: rank - first_of(node),
        local_size: first_of(node + 1) - first_of(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_contiguous_and_even() {
        for ranks in 1..40 {
            for nodes in 1..=ranks {
                let places: Vec<LocalPlace> = (0..ranks).map(|rank| place(rank, nodes, ranks)).collect();
                let blocks: Vec<&[LocalPlace]> =
                    places.chunk_by(|left, right| left.pretended_node == right.pretended_node).collect();
                assert_eq!(blocks.len(), nodes, "every node has ranks: {places:?}");
                for (node, block) in blocks.into_iter().enumerate() {
                    assert!((ranks / nodes..=ranks.div_ceil(nodes)).contains(&block.len()));
                    for (local_rank, found) in block.iter().enumerate() {
                        let pretended_node = u32::try_from(node).ok();
                        let local_size = block.len();
                        assert_eq!(*found, LocalPlace { pretended_node, local_rank, local_size });
                    }
                }
            }
        }
    }
}
