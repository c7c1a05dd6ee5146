//! What joins this process's node to the job's others: TCP to all of them, and RDMA to those with which it exchanges
//! barriers' messages, where both ends have a device.
//!
//! An adapter's atomics are not atomic against the CPUs that serve TCP's, and not every process of a job has a way by
//! RDMA to every node. So here atomics always go by TCP, where the home's CPU executes them, whoever asks; writes and
//! reads take RDMA where it is. What comes by one way is not ordered against what comes by the other, so a node's way is
//! changed only after a read by the old one has come back: meanwhile posts are refused as [`PostError::Full`].
//!
//! A connection by RDMA that breaks is reported, and its node's messages go by TCP from then on: reads of outboxes mend
//! what was lost (`coord::barrier::spanning`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use super::rdma::RdmaFabric;
use super::tcp::TcpFabric;
use super::{AtomicScope, Await, Fabric, FabricKind, OperationError, PostError, Request, Ticket, WordAt, check_batch};
use crate::sync::{AtomicU32, Ordering};

/// Marks the tickets of the RDMA fabric: the highest bit of the slot.
const BY_RDMA: u32 = 1 << 31;
/// Where all of this node's partners are reached by RDMA, what is waited for comes into memory by itself: completions and
/// sockets are looked at this seldom.
const COMPLETIONS_EVERY: u32 = 8;
const SOCKETS_EVERY: u32 = 64;
/// How long a rank sleeps between two looks at memory that an adapter may have written.
const NAP: Duration = Duration::from_micros(100);
/// A word that every segment has, for reads that only tell that what was posted before has arrived.
const ANY_WORD: WordAt = WordAt(0);

/// A process's way to all nodes.
#[derive(Debug)]
pub struct Network {
    tcp: TcpFabric,
    rdma: Option<Rdma>,
    /// Whether some node of the job writes by RDMA, so that words change without anybody's being woken.
    adapters_write: bool,
}

#[derive(Debug)]
struct Rdma {
    fabric: RdmaFabric,
    /// Whether all nodes with which barriers' messages are exchanged are reached by RDMA.
    reaches_all_partners: bool,
    ways: Vec<Mutex<Way>>,
    polls: AtomicU32,
}

/// By what a node was reached last.
#[derive(Debug)]
struct Way {
    by_rdma: bool,
    /// Whether something has been posted since the last time when all was known to have arrived.
    is_used: bool,
    /// The read after which the way may be changed.
    leaving: Option<Ticket>,
    /// Whether the connection by RDMA has broken.
    is_broken: bool,
}

impl Network {
    /// All nodes by TCP. `adapters_write`: other nodes may still write here by RDMA.
    pub fn by_tcp(tcp: TcpFabric, adapters_write: bool) -> Self {
        Self { tcp, rdma: None, adapters_write }
    }

    /// Those nodes by RDMA to which `fabric` is connected. `reaches_all_partners`: with which all others messages of
    /// barriers are exchanged are among them.
    pub fn with_rdma(tcp: TcpFabric, fabric: RdmaFabric, reaches_all_partners: bool) -> Self {
        let way = || Mutex::new(Way { by_rdma: false, is_used: false, leaving: None, is_broken: false });
        let ways = (0..tcp.nodes()).map(|_| way()).collect();
        let rdma = Rdma { fabric, reaches_all_partners, ways, polls: AtomicU32::new(0) };
        Self { tcp, rdma: Some(rdma), adapters_write: true }
    }

    /// Posts by one of the two, whose tickets are marked.
    fn post_by(
        &self,
        by_rdma: bool,
        node: usize,
        requests: &[Request],
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), PostError> {
        let first = tickets.len();
        match &self.rdma {
            Some(rdma) if by_rdma => {
                rdma.fabric.post(node, requests, tickets)?;
                tickets[first..].iter_mut().for_each(|ticket| ticket.slot |= BY_RDMA);
                Ok(())
            }
            _ => self.tcp.post(node, requests, tickets),
        }
    }

    /// Leaves one way for the other, once all that was posted has arrived.
    fn change_way(&self, way: &mut Way, node: usize) -> Result<(), PostError> {
        if !way.is_used {
            way.by_rdma = !way.by_rdma;
            return Ok(());
        }
        let Some(ticket) = way.leaving else {
            let mut tickets = Vec::with_capacity(1);
            let posted = self.post_by(way.by_rdma, node, &[Request::Read { at: ANY_WORD }], &mut tickets);
            way.leaving = tickets.pop();
            // A way that is closed has nothing on it.
            if let Err(PostError::Unreachable { .. }) = posted {
                (way.by_rdma, way.is_used) = (!way.by_rdma, false);
                return Ok(());
            }
            return Err(PostError::Full { node });
        };
        match self.take(ticket) {
            Poll::Pending => Err(PostError::Full { node }),
            Poll::Ready(_) => {
                *way = Way { by_rdma: !way.by_rdma, is_used: false, leaving: None, is_broken: way.is_broken };
                Ok(())
            }
        }
    }
}

impl Rdma {
    fn way(&self, node: usize) -> MutexGuard<'_, Way> {
        // Nothing panics while it holds a way.
        self.ways[node].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a batch is to go by RDMA.
    fn suits(&self, way: &mut Way, node: usize, requests: &[Request]) -> bool {
        let is_atomic = |request: &Request| matches!(request, Request::FetchAdd { .. } | Request::CompareSwap { .. });
        if way.is_broken || node == self.fabric.here() || requests.iter().any(is_atomic) {
            return false;
        }
        if !self.fabric.is_connected(node) {
            // There was never one to most nodes; a breach of one that there was is worth a line.
            if way.by_rdma {
                way.is_broken = true;
                let here = self.fabric.here();
                eprintln!("phalanx: node {here}: the RDMA connection to node {node} broke; its messages go by TCP");
            }
            return false;
        }
        true
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
        match &self.rdma {
            Some(rdma) if node != self.here() && rdma.fabric.is_connected(node) => FabricKind::Rdma,
            _ => FabricKind::Tcp,
        }
    }

    fn atomic_scope(&self, node: usize) -> AtomicScope {
        self.tcp.atomic_scope(node)
    }

    fn incarnation(&self, node: usize) -> u64 {
        self.tcp.incarnation(node) + self.rdma.as_ref().map_or(0, |rdma| rdma.fabric.incarnation(node))
    }

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        let Some(rdma) = &self.rdma else { return self.tcp.post(node, requests, tickets) };
        check_batch(self, node, requests)?;
        let mut way = rdma.way(node);
        let by_rdma = rdma.suits(&mut way, node, requests);
        if by_rdma != way.by_rdma {
            self.change_way(&mut way, node)?;
        }
        self.post_by(by_rdma, node, requests, tickets)?;
        way.is_used = true;
        // A read that was to tell that all had arrived tells nothing of what comes after it.
        if let Some(ticket) = way.leaving.take() {
            self.forget(ticket);
        }
        Ok(())
    }

    fn post_more(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        match &self.rdma {
            None => self.tcp.post_more(node, requests, tickets),
            // Who has an adapter rings its doorbell at once.
            Some(_) => self.post(node, requests, tickets),
        }
    }

    fn flush(&self) {
        self.tcp.flush();
    }

    fn progress(&self) {
        let Some(rdma) = &self.rdma else { return self.tcp.progress() };
        let polls = rdma.polls.load(Ordering::Relaxed);
        rdma.polls.store(polls.wrapping_add(1), Ordering::Relaxed);
        let looks_at_all = !rdma.reaches_all_partners;
        if looks_at_all || polls.is_multiple_of(COMPLETIONS_EVERY) {
            rdma.fabric.progress();
        }
        if looks_at_all || polls.is_multiple_of(SOCKETS_EVERY) {
            self.tcp.progress();
        }
    }

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        match &self.rdma {
            Some(rdma) if ticket.slot & BY_RDMA != 0 => {
                rdma.fabric.take(Ticket { slot: ticket.slot & !BY_RDMA, ..ticket })
            }
            _ => self.tcp.take(ticket),
        }
    }

    fn forget(&self, ticket: Ticket) {
        match &self.rdma {
            Some(rdma) if ticket.slot & BY_RDMA != 0 => {
                rdma.fabric.forget(Ticket { slot: ticket.slot & !BY_RDMA, ..ticket });
            }
            _ => self.tcp.forget(ticket),
        }
    }
}

impl Await for Network {
    fn hand_over(&self) {
        self.tcp.hand_over();
    }

    fn sleep(&self, at: WordAt, seen: u64, timeout: Option<Duration>) -> bool {
        if self.adapters_write {
            // An adapter wakes nobody: look again soon, at the word and at the sockets.
            std::thread::sleep(timeout.map_or(NAP, |timeout| timeout.min(NAP)));
            self.tcp.progress();
            return true;
        }
        self.tcp.sleep(at, seen, timeout)
    }

    fn longest_nap(&self) -> Option<Duration> {
        if self.adapters_write { Some(NAP) } else { self.tcp.longest_nap() }
    }
}
