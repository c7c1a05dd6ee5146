//! The conformance suite on the fabrics that need no hardware; `hwtests` runs the same on devices.
#![cfg(not(model))]

use std::net::TcpListener;
use std::sync::Arc;

use phalanx::fabric::WordAt;
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::shm::{Neighbourhood, Neighbours, Segment};
use phalanx::fabric::tcp::{Peer, Services, TcpFabric};
use phalanx::handshake::Key;
use phalanx::testing::conformance::Rig;

const NODES: usize = 4;

/// Segments of one machine, all mapped into this process.
struct NeighboursRig {
    layout: NodeLayout,
    neighbourhood: Arc<Neighbourhood<Segment>>,
    fabrics: Vec<Neighbours<Segment>>,
}

impl NeighboursRig {
    fn new() -> Self {
        let layout = NodeLayout::new(1, 8 * UNIT_WORDS);
        let segment = |_| Arc::new(Segment::create(layout, 1, 1).expect("memory for a small segment"));
        let neighbourhood = Neighbourhood::new((0..NODES).map(segment).collect());
        let fabrics = (0..NODES).map(|node| neighbourhood.join(node)).collect();
        Self { layout, neighbourhood, fabrics }
    }
}

impl Rig for NeighboursRig {
    type Fabric = Neighbours<Segment>;
    type Memory = Segment;

    fn nodes(&self) -> usize {
        NODES
    }

    fn fabric(&self, node: usize) -> &Self::Fabric {
        &self.fabrics[node]
    }

    fn memory(&self, node: usize) -> &Segment {
        self.neighbourhood.memory(node)
    }

    fn base(&self, _node: usize) -> WordAt {
        self.layout.unit(0)
    }

    fn step(&mut self) {
        std::thread::yield_now();
    }

    fn kill(&mut self, node: usize) {
        self.neighbourhood.leave(node);
    }

    fn restart(&mut self, node: usize) -> bool {
        self.neighbourhood.come_back(node);
        true
    }
}

mod neighbours {
    phalanx::conformance!(super::NeighboursRig::new());
    phalanx::conformance!(threads: super::NeighboursRig::new());
}

/// As many processes' worth of connections as there are nodes, over the loopback interface.
struct TcpRig {
    layout: NodeLayout,
    peers: Vec<Peer>,
    key: Key,
    memories: Vec<Arc<Segment>>,
    /// What has been killed stays here without its fabric.
    fabrics: Vec<Option<TcpFabric>>,
}

impl TcpRig {
    fn new() -> Self {
        let layout = NodeLayout::new(1, 8 * UNIT_WORDS);
        let listeners: Vec<TcpListener> =
            (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let peer = |(rank, listener): (usize, &TcpListener)| {
            let addresses = vec![listener.local_addr().expect("an address")];
            Peer { rank, addresses, words: layout.words() }
        };
        let peers = listeners.iter().enumerate().map(peer).collect();
        let memory = |_| Arc::new(Segment::create(layout, 1, 1).expect("memory for a small segment"));
        let memories = (0..NODES).map(memory).collect();
        let key = Key::random().expect("random numbers");
        let mut rig = Self { layout, peers, key, memories, fabrics: Vec::new() };
        rig.fabrics =
            listeners.into_iter().enumerate().map(|(node, listener)| Some(rig.join(node, listener))).collect();
        rig
    }

    fn join(&self, node: usize, listener: TcpListener) -> TcpFabric {
        let services = Services { rank: node, size: NODES, here: node, key: self.key.clone() };
        let memory: Arc<Segment> = Arc::clone(&self.memories[node]);
        TcpFabric::new(services, memory, self.peers.clone(), Some(listener)).expect("a fabric")
    }
}

impl Rig for TcpRig {
    type Fabric = TcpFabric;
    type Memory = Segment;

    fn nodes(&self) -> usize {
        NODES
    }

    fn fabric(&self, node: usize) -> &TcpFabric {
        self.fabrics[node].as_ref().expect("a node that lives")
    }

    fn memory(&self, node: usize) -> &Segment {
        &self.memories[node]
    }

    fn base(&self, _node: usize) -> WordAt {
        self.layout.unit(0)
    }

    fn step(&mut self) {
        std::thread::yield_now();
    }

    fn kill(&mut self, node: usize) {
        self.fabrics[node] = None;
    }

    fn restart(&mut self, node: usize) -> bool {
        let listener = TcpListener::bind(self.peers[node].addresses[0]).expect("the port is free again");
        self.fabrics[node] = Some(self.join(node, listener));
        true
    }
}

mod tcp {
    phalanx::conformance!(super::TcpRig::new());
    phalanx::conformance!(threads: super::TcpRig::new());
}
