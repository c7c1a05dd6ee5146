//! The fabric between memories of one machine: the reference that the contract is read against.
//!
//! A process that has several nodes' memories mapped (pretended nodes in one process, or the segments of other jobs'
//! agents) needs nothing to carry its requests: each is executed at once by this CPU, and its ticket has completed when
//! `post` returns. Its atomics are the CPU's. A node can leave and come back, as a process would that is restarted; its
//! words stay.
//!
//! Requests take effect in the order posted for every observer, also a write before a read of another word. On a CPU
//! with store buffers that takes sequentially consistent operations, so all are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use crate::fabric::tickets::TicketTable;
use crate::fabric::{AtomicScope, Fabric, FabricKind, Memory, OperationError, PostError, Request, Ticket, check_batch};
use crate::sync::{AtomicU64, Ordering, publish};

/// Tickets that one node can have at a time.
const TICKETS_MAX: usize = 4096;

/// The memories of all nodes, and who is there.
///
/// The word that says whether a node is there:
///
/// | bits | meaning |
/// | --- | --- |
/// | 0 | 1 while the node is there |
/// | 1–63 | how often it has come |
#[derive(Debug)]
pub struct Neighbourhood<M> {
    memories: Vec<Arc<M>>,
    presences: Vec<AtomicU64>,
}

impl<M: Memory> Neighbourhood<M> {
    /// All of these nodes, present.
    pub fn new(memories: Vec<Arc<M>>) -> Arc<Self> {
        let presences = memories.iter().map(|_| AtomicU64::new(1 << 1 | 1)).collect();
        Arc::new(Self { memories, presences })
    }

    /// One node's way to the others.
    ///
    /// # Panics
    ///
    /// When there is no such node.
    pub fn join(self: &Arc<Self>, here: usize) -> Neighbours<M> {
        assert!(here < self.memories.len(), "there are {} nodes, none of them is {here}", self.memories.len());
        Neighbours { neighbourhood: Arc::clone(self), here, tickets: Mutex::new(TicketTable::new(TICKETS_MAX)) }
    }

    /// The node's words.
    pub fn memory(&self, node: usize) -> &Arc<M> {
        &self.memories[node]
    }

    /// The node can no longer be reached.
    pub fn leave(&self, node: usize) {
        self.presences[node].fetch_and(!1, Ordering::Relaxed);
    }

    /// The node can be reached again, by a new connection.
    pub fn come_back(&self, node: usize) {
        let come = |word: u64| (word & 1 == 0).then_some((word + (1 << 1)) | 1);
        // Who is there already stays.
        let _ = self.presences[node].fetch_update(Ordering::Relaxed, Ordering::Relaxed, come);
    }

    fn presence(&self, node: usize) -> u64 {
        self.presences[node].load(Ordering::Relaxed)
    }
}

/// One node's way to the others. See [`Neighbourhood::join`].
#[derive(Debug)]
pub struct Neighbours<M> {
    neighbourhood: Arc<Neighbourhood<M>>,
    here: usize,
    tickets: Mutex<TicketTable>,
}

impl<M: Memory> Neighbours<M> {
    /// Nothing that runs under this lock leaves the table half-changed, so a panic in another thread does no harm.
    fn tickets(&self) -> MutexGuard<'_, TicketTable> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execute(&self, node: usize, request: Request) -> u64 {
        let word = self.neighbourhood.memories[node].word(request.at());
        // SYNC POINT: fabric-request. Each is a release, whose partner is the acquire load of the home's rank, and
        // keeps its place among the others of this process.
        match request {
            Request::Write { value, .. } => {
                publish(word, value);
                value
            }
            Request::Read { .. } => word.load(Ordering::SeqCst),
            Request::FetchAdd { add, .. } => word.fetch_add(add, Ordering::SeqCst),
            Request::CompareSwap { expected, new, .. } => {
                let swapped = word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst);
                swapped.unwrap_or_else(|found| found)
            }
        }
    }
}

impl<M: Memory> Fabric for Neighbours<M> {
    fn here(&self) -> usize {
        self.here
    }

    fn nodes(&self) -> usize {
        self.neighbourhood.memories.len()
    }

    fn words_of(&self, node: usize) -> usize {
        self.neighbourhood.memories[node].words()
    }

    fn kind_of(&self, _node: usize) -> FabricKind {
        FabricKind::Shm
    }

    fn atomic_scope(&self, _node: usize) -> AtomicScope {
        AtomicScope::Cpu
    }

    fn incarnation(&self, node: usize) -> u64 {
        self.neighbourhood.presence(node) >> 1
    }

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        check_batch(self, node, requests)?;
        if self.neighbourhood.presence(node) & 1 == 0 {
            return Err(PostError::Unreachable { node, why: "it has left".to_owned() });
        }
        // Held over the whole batch, so that the threads of this process post one after the other.
        let mut table = self.tickets();
        if requests.iter().filter(|request| request.has_ticket()).count() > table.room() {
            return Err(PostError::Full { node });
        }
        for request in requests {
            let value: Result<u64, OperationError> = Ok(self.execute(node, *request));
            if request.has_ticket() {
                let ticket = table.issue();
                table.complete(ticket, value);
                tickets.push(ticket);
            }
        }
        Ok(())
    }

    fn progress(&self) {}

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        let taken = self.tickets().take(ticket);
        taken.unwrap_or_else(|| panic!("{ticket:?} is spent"))
    }

    fn forget(&self, ticket: Ticket) {
        self.tickets().forget(ticket);
    }
}
