//! One simulated node's way to the others.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

use super::SimNode;
use super::network::{Event, Network};
use crate::fabric::{AtomicScope, Fabric, FabricKind, Memory, OperationError, PostError, Request, Ticket, check_batch};

/// A node's handle of its [`World`](super::World). What it posts is carried when the world's time moves on.
#[derive(Clone, Debug)]
pub struct SimFabric {
    pub(super) network: Rc<RefCell<Network>>,
    pub(super) memories: Rc<[SimNode]>,
    pub(super) here: u32,
}

impl SimFabric {
    /// The world's time, in nanoseconds since its beginning.
    pub fn now_ns(&self) -> u64 {
        self.network.borrow().now
    }

    /// Until when this node's CPU is busy with what it has posted and received.
    pub fn busy_until_ns(&self) -> u64 {
        let network = self.network.borrow();
        network.nodes[self.here as usize].cpu_free.max(network.now)
    }

    /// This node's words, as its CPU has them.
    pub fn memory(&self) -> &SimNode {
        &self.memories[self.here as usize]
    }

    /// How often this node has restarted: a machine of an earlier life is to be made anew.
    pub fn boots(&self) -> u32 {
        self.network.borrow().nodes[self.here as usize].boots
    }

    /// The CPU computes for so long: it posts nothing and is not polled meanwhile.
    pub fn compute(&self, ns: u64) {
        let mut network = self.network.borrow_mut();
        let now = network.now;
        let node = &mut network.nodes[self.here as usize];
        node.cpu_free = node.cpu_free.max(now) + ns;
    }

    /// Has [`World::run`](super::World::run) poll this node at a time, at the latest: for deadlines.
    pub fn alarm(&self, at_ns: u64) {
        let mut network = self.network.borrow_mut();
        let at = at_ns.max(network.now);
        network.queue.push(at, Event::Poll(self.here));
    }
}

/// A node's number, once it has been checked to be one: `Options` has no more than 32 bits can number.
#[allow(clippy::cast_possible_truncation, reason = "checked when the world is made")]
pub(super) fn number(node: usize) -> u32 {
    node as u32
}

impl Fabric for SimFabric {
    fn here(&self) -> usize {
        self.here as usize
    }

    fn nodes(&self) -> usize {
        self.memories.len()
    }

    fn words_of(&self, node: usize) -> usize {
        self.memories[node].words()
    }

    fn kind_of(&self, _node: usize) -> FabricKind {
        FabricKind::Sim
    }

    fn atomic_scope(&self, _node: usize) -> AtomicScope {
        self.network.borrow().options.atomics.scope()
    }

    fn incarnation(&self, node: usize) -> u64 {
        self.network.borrow().incarnation(self.here, number(node))
    }

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        check_batch(self, node, requests)?;
        self.network.borrow_mut().post(self.here, number(node), requests, tickets)
    }

    /// Nothing: time is the world's.
    fn progress(&self) {}

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        let taken = self.network.borrow_mut().nodes[self.here as usize].tickets.take(ticket);
        taken.unwrap_or_else(|| panic!("{ticket:?} is spent"))
    }

    fn forget(&self, ticket: Ticket) {
        self.network.borrow_mut().nodes[self.here as usize].tickets.forget(ticket);
    }
}
