//! One end of a connection under test: a segment and the fabric that serves it.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use phalanx::fabric::node::{NodeLayout, UNIT_WORDS};
use phalanx::fabric::rdma::{RdmaFabric, RdmaOptions, Region};
use phalanx::fabric::shm::Segment;
use phalanx::fabric::{Fabric, Memory, OperationError, PostError, Request, Ticket, WordAt};
use phalanx::sync::Ordering;

use crate::channel::Channel;

/// The longest that anything here may take, on an emulated machine with others beside it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a node's segment is divided here.
pub fn layout() -> NodeLayout {
    NodeLayout::new(1, 8 * UNIT_WORDS)
}

pub fn segment() -> Arc<Segment> {
    Arc::new(Segment::create(layout(), 1, 1).expect("memory for a small segment"))
}

/// What everybody gets by default, on this device.
pub fn options(device: &str) -> RdmaOptions {
    RdmaOptions { device: Some(device.to_owned()), ..RdmaOptions::default() }
}

pub struct End {
    pub segment: Arc<Segment>,
    pub fabric: RdmaFabric,
}

impl End {
    pub fn new(device: &str, here: usize, nodes: usize) -> Self {
        Self::with_options(options(device), here, nodes)
    }

    pub fn with_options(options: RdmaOptions, here: usize, nodes: usize) -> Self {
        let segment = segment();
        let region = Region::of_segment(Arc::clone(&segment));
        let fabric = RdmaFabric::new(options, here, nodes, region).expect("a fabric on this device");
        Self { segment, fabric }
    }

    /// Connects to the process at the other end of the channel, which does the same.
    pub fn connect(&self, node: usize, channel: &mut Channel) {
        channel.send_offer(&self.fabric.offer(node).expect("an offer"));
        let offer = channel.receive_offer();
        self.fabric.connect(node, &offer).expect("a connection");
    }

    /// Connects two ends of one process.
    pub fn join(&self, other: &Self) {
        let (here, there) = (self.fabric.here(), other.fabric.here());
        let mine = self.fabric.offer(there).expect("an offer");
        let theirs = other.fabric.offer(here).expect("an offer");
        self.fabric.connect(there, &theirs).expect("a connection");
        other.fabric.connect(here, &mine).expect("a connection");
    }

    /// The word `index` of those that are free to use.
    pub fn at(index: usize) -> WordAt {
        layout().unit(0).plus(index)
    }

    pub fn load(&self, index: usize) -> u64 {
        // SYNC POINT: fabric-request, the home's side.
        self.segment.word(Self::at(index)).load(Ordering::Acquire)
    }

    /// Waits for this node's own word to hold `value`, as a waiter does: looking at memory only.
    pub fn wait_for(&self, index: usize, value: u64) {
        let end = Instant::now() + PATIENCE;
        let mut turns = 0_u32;
        while self.load(index) != value {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(1 << 12) {
                assert!(Instant::now() < end, "word {index} still holds {}, not {value}", self.load(index));
                self.fabric.progress();
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    /// Posts when there is room.
    pub fn post(&self, node: usize, requests: &[Request]) -> Result<Vec<Ticket>, PostError> {
        let end = Instant::now() + PATIENCE;
        let mut tickets = Vec::new();
        loop {
            match self.fabric.post(node, requests, &mut tickets) {
                Ok(()) => return Ok(tickets),
                Err(PostError::Full { .. }) => {
                    assert!(Instant::now() < end, "room for requests never came");
                    self.fabric.progress();
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub fn outcome(&self, ticket: Ticket) -> Result<u64, OperationError> {
        let end = Instant::now() + PATIENCE;
        let mut turns = 0_u32;
        loop {
            self.fabric.progress();
            if let Poll::Ready(outcome) = self.fabric.take(ticket) {
                return outcome;
            }
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(1 << 10) {
                assert!(Instant::now() < end, "a request never completed");
                std::thread::yield_now();
            }
        }
    }

    /// Posts one request that has a value, and waits for it.
    pub fn ask(&self, node: usize, request: Request) -> u64 {
        let tickets = self.post(node, &[request]).expect("a connection");
        self.outcome(tickets[0]).expect("a value")
    }
}
