//! The witness: one acceptor more, kept by whoever has started the job and outlives its ranks (`phalanx run --nodes`).
//!
//! Of an even number of nodes half may be cut off from the other half, or silent: neither half is a majority, and in a
//! job of two nodes there never is one. The witness has the vote that decides then ([`Electorate`]). It is asked and
//! told as a node is, by its number, the one after the last node's, and it never proposes. No program runs in it but
//! the fabric's: it is memory, served to whoever knows the job's key.
//!
//! Whether there is one, and where, all ranks learn from rank 0's card (`src/job/across.rs`), which has it from the
//! launcher's environment: so all know alike.
//!
//! [`Electorate`]: super::agreement::Electorate

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::environment::Key;
use crate::fabric::node::NodeLayout;
use crate::fabric::tcp::{Peer, Services, TcpFabric};
use crate::fabric::{Memory, WordAt};
use crate::sync::AtomicU64;

/// How a witness' words are divided: a node's, with no rank and no arena.
pub const fn layout(ranks: usize, nodes: usize) -> NodeLayout {
    NodeLayout::new(0, 0).in_job(ranks, nodes)
}

/// As whom a witness is addressed: by a number that no rank has.
pub const fn rank(ranks: usize) -> usize {
    ranks
}

/// A witness at work, until it is dropped.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    _fabric: TcpFabric,
}

/// Its words.
#[derive(Debug)]
struct Words(Vec<AtomicU64>);

impl Memory for Words {
    fn word(&self, at: WordAt) -> &AtomicU64 {
        &self.0[at.0]
    }

    fn words(&self) -> usize {
        self.0.len()
    }

    fn wake(&self, _at: WordAt) {}
}

impl Witness {
    /// Serves the witness of a job of `ranks` ranks on `nodes` nodes.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub fn start(listener: TcpListener, key: &Key, ranks: usize, nodes: usize) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let words = layout(ranks, nodes).words();
        let memory = Arc::new(Words((0..words).map(|_| AtomicU64::new(0)).collect()));
        // It knows no node by name: all that connect are guests.
        let services = Services { rank: rank(ranks), size: ranks, here: 0, key: key.clone() };
        let own = Peer { candidates: Vec::new(), words };
        let fabric = TcpFabric::new(services, memory, vec![own], Some(listener))?;
        Ok(Self { address, _fabric: fabric })
    }

    /// Where it is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
