//! What joins this process's node to the job's others: for each of them the fabric that reaches it best.

use std::task::Poll;
use std::time::Duration;

use super::tcp::TcpFabric;
use super::{AtomicScope, Await, Fabric, FabricKind, OperationError, PostError, Request, Ticket, WordAt};

/// A process's way to all nodes.
#[derive(Debug)]
pub struct Network {
    tcp: TcpFabric,
}

impl Network {
    /// All nodes by TCP.
    pub fn new(tcp: TcpFabric) -> Self {
        Self { tcp }
    }
}

impl Fabric for Network {
    fn here(&self) -> usize {
        self.tcp.here()
    }

    fn nodes(&self) -> usize {
        self.tcp.nodes()
    }

    fn words_of(&self, node: usize) -> usize {
        self.tcp.words_of(node)
    }

    fn kind_of(&self, node: usize) -> FabricKind {
        self.tcp.kind_of(node)
    }

    fn atomic_scope(&self, node: usize) -> AtomicScope {
        self.tcp.atomic_scope(node)
    }

    fn incarnation(&self, node: usize) -> u64 {
        self.tcp.incarnation(node)
    }

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        self.tcp.post(node, requests, tickets)
    }

    fn post_more(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        self.tcp.post_more(node, requests, tickets)
    }

    fn flush(&self) {
        self.tcp.flush();
    }

    fn progress(&self) {
        self.tcp.progress();
    }

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        self.tcp.take(ticket)
    }

    fn forget(&self, ticket: Ticket) {
        self.tcp.forget(ticket);
    }
}

impl Await for Network {
    fn hand_over(&self) {
        self.tcp.hand_over();
    }

    fn sleep(&self, at: WordAt, seen: u64, timeout: Option<Duration>) -> bool {
        self.tcp.sleep(at, seen, timeout)
    }

    fn longest_nap(&self) -> Option<Duration> {
        self.tcp.longest_nap()
    }
}
