//! The conformance suite on the fabrics that need no hardware; `hwtests` runs the same on devices.
#![cfg(not(model))]

use std::sync::Arc;

use phalanx::fabric::WordAt;
use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::shm::{Neighbourhood, Neighbours, Segment};
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
