//! The conformance suite on the fabrics that need no hardware; `hwtests` runs the same on devices.
#![cfg(not(model))]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use phalanx::fabric::WordAt;
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::shm::{Neighbourhood, Neighbours, Segment};
use phalanx::fabric::sim::{Atomics, Costs, Fault, Jitter, Options, Rates, SimFabric, SimNode, World};
use phalanx::fabric::tcp::{Peer, Services, TcpEngine, TcpFabric};
use phalanx::handshake::Key;
use phalanx::testing::conformance::{Rig, checks, checks_with_threads};
use phalanx::testing::not_run;

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

/// A simulated world, which a crash of one of its nodes vanishes from.
struct SimRig(World);

impl SimRig {
    const BASE: usize = 40;
    const WORDS: usize = 300;

    fn new(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(NODES, Self::BASE + Self::WORDS);
        change(&mut options);
        Self(World::new(options))
    }

    /// The defaults: no jitter, the CPU's atomics.
    fn calm() -> Self {
        Self::new(|_| {})
    }

    /// Slow atomics of the adapter, jitter with a heavy tail, writes that repeat, busy CPUs and adapters, little room.
    fn rough() -> Self {
        Self::new(|options| {
            options.seed = 7;
            options.atomics = Atomics::Adapter { apart_ns: 300 };
            options.rates = Rates { duplicated_per_million: 100_000, ..Rates::default() };
            options.requests_max = 100;
            options.costs = Costs {
                jitter: Jitter::HeavyTail { mean_ns: 500, most_ns: 100_000 },
                receive_overhead_ns: 100,
                receive_gap_ns: 50,
                ..Costs::default()
            };
        })
    }
}

impl Rig for SimRig {
    type Fabric = SimFabric;
    type Memory = SimNode;

    fn nodes(&self) -> usize {
        NODES
    }

    fn fabric(&self, node: usize) -> &SimFabric {
        self.0.fabric(node)
    }

    fn memory(&self, node: usize) -> &SimNode {
        self.0.memory(node)
    }

    fn base(&self, _node: usize) -> WordAt {
        WordAt(Self::BASE)
    }

    fn words(&self) -> usize {
        Self::WORDS
    }

    fn step(&mut self) {
        self.0.step();
    }

    fn kill(&mut self, node: usize) {
        self.0.apply(&Fault::Crash { node });
    }

    fn restart(&mut self, node: usize) -> bool {
        self.0.apply(&Fault::Restart { node });
        true
    }
}

/// For programs with a runner of their own: the lists name the same functions.
#[test]
fn the_lists_hold_checks_that_run() {
    let single = checks::<SimRig>();
    assert!(single.len() > 20 && single.iter().any(|(name, _)| *name == "every_operation_does_what_it_says"));
    single.iter().for_each(|(_, check)| check(&mut SimRig::calm()));
    let several = checks_with_threads::<NeighboursRig>();
    assert!(several.iter().all(|(name, _)| name.starts_with("threads_")) && several.len() > 4);
}

mod sim {
    phalanx::conformance!(super::SimRig::calm());
}

mod sim_in_rough_weather {
    phalanx::conformance!(super::SimRig::rough());
}

/// As many processes' worth of connections as there are nodes, over the loopback interface.
struct TcpRig {
    engine: TcpEngine,
    layout: NodeLayout,
    peers: Vec<Peer>,
    key: Key,
    memories: Vec<Arc<Segment>>,
    /// What has been killed stays here without its fabric.
    fabrics: Vec<Option<TcpFabric>>,
}

impl TcpRig {
    fn new(engine: TcpEngine) -> Self {
        let layout = NodeLayout::new(1, 8 * UNIT_WORDS);
        let listeners: Vec<TcpListener> =
            (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let peer = |(rank, listener): (usize, &TcpListener)| {
            Peer::alone(rank, listener.local_addr().expect("an address"), layout.words())
        };
        let peers = listeners.iter().enumerate().map(peer).collect();
        let memory = |_| Arc::new(Segment::create(layout, 1, 1).expect("memory for a small segment"));
        let memories = (0..NODES).map(memory).collect();
        let key = Key::random().expect("random numbers");
        let mut rig = Self { engine, layout, peers, key, memories, fabrics: Vec::new() };
        rig.fabrics =
            listeners.into_iter().enumerate().map(|(node, listener)| Some(rig.join(node, listener))).collect();
        rig
    }

    fn address_of(&self, node: usize) -> SocketAddr {
        self.peers[node].candidates[0].addresses().next().expect("a host")
    }

    fn join(&self, node: usize, listener: TcpListener) -> TcpFabric {
        let services = Services { rank: node, size: NODES, here: node, key: self.key.clone() };
        let memory: Arc<Segment> = Arc::clone(&self.memories[node]);
        TcpFabric::with_engine(services, memory, self.peers.clone(), Some(listener), self.engine).expect("a fabric")
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
        let listener = TcpListener::bind(self.address_of(node)).expect("the port is free again");
        self.fabrics[node] = Some(self.join(node, listener));
        true
    }
}

mod tcp {
    use phalanx::TcpEngine::Sockets;

    phalanx::conformance!(super::TcpRig::new(Sockets));
    phalanx::conformance!(threads: super::TcpRig::new(Sockets));
}

/// A rig by io_uring, where there is one.
fn rig_by_ring() -> Option<TcpRig> {
    match TcpEngine::IoUring.probe() {
        Ok(()) => Some(TcpRig::new(TcpEngine::IoUring)),
        Err(error) => {
            not_run(error);
            None
        }
    }
}

mod tcp_by_io_uring {
    use super::rig_by_ring;

    phalanx::conformance!(match rig_by_ring() {
        Some(rig) => rig,
        None => return,
    });
    phalanx::conformance!(threads: match rig_by_ring() {
        Some(rig) => rig,
        None => return,
    });
}
