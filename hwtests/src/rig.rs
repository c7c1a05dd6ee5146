//! The conformance suite's rig on an RDMA device: four nodes in one process, which talk through the device.

use std::sync::Arc;

use phalanx::fabric::WordAt;
use phalanx::fabric::rdma::{RdmaFabric, Region};
use phalanx::fabric::shm::Segment;
use phalanx::testing::conformance::Rig;

use crate::end::{layout, options, segment};

const NODES: usize = 4;

pub struct RdmaRig {
    device: String,
    segments: Vec<Arc<Segment>>,
    fabrics: Vec<Option<RdmaFabric>>,
}

impl RdmaRig {
    pub fn new(device: &str) -> Self {
        let segments: Vec<_> = (0..NODES).map(|_| segment()).collect();
        let mut rig = Self { device: device.to_owned(), segments, fabrics: (0..NODES).map(|_| None).collect() };
        (0..NODES).for_each(|node| rig.start(node));
        rig
    }

    /// Starts a node and connects it to those that are there.
    fn start(&mut self, node: usize) {
        let region = Region::of_segment(Arc::clone(&self.segments[node]));
        let fabric = RdmaFabric::new(options(&self.device), node, NODES, region).expect("a fabric on this device");
        for (other, there) in self.fabrics.iter().enumerate() {
            let Some(there) = there else { continue };
            let mine = fabric.offer(other).expect("an offer");
            let theirs = there.offer(node).expect("an offer");
            fabric.connect(other, &theirs).expect("a connection");
            there.connect(node, &mine).expect("a connection");
        }
        self.fabrics[node] = Some(fabric);
    }
}

impl Rig for RdmaRig {
    type Fabric = RdmaFabric;
    type Memory = Segment;

    fn nodes(&self) -> usize {
        NODES
    }

    fn fabric(&self, node: usize) -> &RdmaFabric {
        self.fabrics[node].as_ref().expect("a node that is there")
    }

    fn memory(&self, node: usize) -> &Segment {
        &self.segments[node]
    }

    fn base(&self, _node: usize) -> WordAt {
        layout().unit(0)
    }

    fn step(&mut self) {
        std::thread::yield_now();
    }

    /// Its queue pairs are gone at once, as when the kernel clears up after a process; the others are not told.
    fn kill(&mut self, node: usize) {
        self.fabrics[node] = None;
    }

    fn restart(&mut self, node: usize) -> bool {
        self.start(node);
        true
    }
}
