//! The fabric over one device: a connection to each node that one was made to, behind one lock.
//!
//! A node's connection goes through these states; each arrow that ends one also ends its requests, as lost:
//!
//! ```text
//! none ──offer──► offered ──connect──► connected ──error, disconnect, offer──► broken ──offer──► offered …
//! ```
//!
//! The lock is held for a post or a look at completions, never for a call that waits. [`Fabric::progress`] does nothing
//! while another thread holds it: that one is at work on the same connections.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Poll;

use super::connection::{Batch, Connection, Posted, Quirks, RemoteSegment};
use super::device::{Choice, DeviceFacts, Domain};
use super::endpoint::Endpoint;
use super::memory::{Region, Registration, Rings};
use super::offer::{AtomicCapability, Offer};
use super::options::{RdmaError, RdmaOptions};
use super::prepared::Prepared;
use super::probe::{Answers, probe};
use super::window::capacity;
use crate::fabric::tickets::TicketTable;
use crate::fabric::{AtomicScope, Fabric, FabricKind, OperationError, PostError, Request, Ticket, WordAt, check_batch};
use crate::sync::{AtomicU64, Ordering};

/// The most tickets at a time: who never takes what has completed is refused more, instead of filling the memory.
const TICKETS_MAX: usize = 1 << 16;

/// Other nodes' words by one-sided RDMA. See the module for how connections come about.
///
/// All who do atomics on one segment must reach it through one device: on a node whose ranks each have a fabric, give
/// all of them the agent's ([`RdmaOptions::device`], from [`choice`](Self::choice)).
pub struct RdmaFabric {
    // Dropped first, so that no queue pair is left when the segment goes.
    state: Mutex<State>,
    here: usize,
    options: RdmaOptions,
    domain: Arc<Domain>,
    facts: DeviceFacts,
    choice: Choice,
    segment: Arc<Registration>,
    rings: Rings,
    answers: Answers,
    /// The words of each node's segment; 0 before its first connection.
    words: Vec<AtomicU64>,
    /// Connections that have ended so far.
    breaches: Arc<AtomicU64>,
}

struct State {
    peers: Vec<Peer>,
    tickets: TicketTable,
    batch: Batch,
    /// Nodes whose connection has requests under way.
    busy: Vec<usize>,
    breaches: Arc<AtomicU64>,
}

struct Peer {
    link: Link,
    /// The number of the present connection, or of the next one.
    incarnation: u64,
    atomics: AtomicCapability,
}

enum Link {
    None,
    Offered(Endpoint),
    /// A thread is connecting it, without the lock.
    Connecting,
    Connected(Connection),
    Broken(String),
}

/// A queue pair by which another process reaches this one's segment, and this one nothing. It serves until it is
/// dropped.
pub struct Served {
    _endpoint: Endpoint,
    _segment: Arc<Registration>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl RdmaFabric {
    /// Opens the device that the options lead to, registers this node's segment, and connects the node to itself.
    ///
    /// # Errors
    ///
    /// [`RdmaError`]: without library or device, or with too little memory that may be locked.
    pub fn new(options: RdmaOptions, here: usize, nodes: usize, segment: Region) -> Result<Self, RdmaError> {
        options.check()?;
        if here >= nodes {
            return Err(RdmaError::NoNode { node: here, nodes });
        }
        let (domain, mut facts, choice) = Domain::open_best(&options)?;
        let answers = probe(&domain, &facts, &choice, &options);
        if answers == Answers::None {
            facts.atomics = AtomicCapability::None;
        }
        let has_atomics = facts.atomics != AtomicCapability::None;
        let segment = Arc::new(Registration::new(&domain, segment, has_atomics)?);
        let peer = || Peer { link: Link::None, incarnation: 1, atomics: AtomicCapability::None };
        let breaches = Arc::new(AtomicU64::new(0));
        let state = State {
            peers: (0..nodes).map(|_| peer()).collect(),
            tickets: TicketTable::new(TICKETS_MAX),
            batch: Batch::new(),
            busy: Vec::new(),
            breaches: Arc::clone(&breaches),
        };
        let words = (0..nodes).map(|_| AtomicU64::new(0)).collect();
        let state = Mutex::new(state);
        let rings = Rings::new(&domain, options.queue_depth, false);
        let fabric = Self { here, options, domain, facts, choice, segment, rings, answers, words, state, breaches };
        fabric.connect_here()?;
        Ok(fabric)
    }

    /// Connects the node to itself, by a queue pair that is its own other end; an earlier one is ended.
    ///
    /// # Errors
    ///
    /// [`RdmaError`]: what the device says.
    pub fn connect_here(&self) -> Result<(), RdmaError> {
        let offer = self.offer(self.here)?;
        self.connect(self.here, &offer)
    }

    /// What this device's atomics are atomic against.
    pub fn atomics(&self) -> AtomicCapability {
        self.facts.atomics
    }

    /// The device, port and address in use.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Whether requests to the node may be atomics: where not, a fabric above sends them another way. False for a node
    /// to which there has been no connection.
    pub fn has_atomics(&self, node: usize) -> bool {
        self.facts.atomics != AtomicCapability::None
            && self.state().peers.get(node).is_some_and(|peer| peer.atomics != AtomicCapability::None)
    }

    /// Whether there is a connection to the node, as far as is known.
    pub fn is_connected(&self, node: usize) -> bool {
        self.state().peers.get(node).is_some_and(|peer| matches!(peer.link, Link::Connected(_)))
    }

    /// How many connections have ended so far, to whatever node. Costs a load.
    #[inline]
    pub fn breaches(&self) -> u64 {
        self.breaches.load(Ordering::Relaxed)
    }

    /// Has the device break the connection to a node, which the next request finds out; for tests. `false` where there
    /// is none.
    #[cfg(feature = "testing")]
    pub fn break_connection(&self, node: usize) -> bool {
        let state = self.state();
        match state.peers.get(node).map(|peer| &peer.link) {
            Some(Link::Connected(connection)) => connection.break_down(),
            _ => false,
        }
    }

    /// Starts a connection to the node, ending one that there is. The other end needs the offer, and this one the
    /// other's: exchange them, and call [`connect`](Self::connect) on both ends.
    ///
    /// # Errors
    ///
    /// [`RdmaError::NoNode`], or what the device says.
    pub fn offer(&self, node: usize) -> Result<Offer, RdmaError> {
        self.check_node(node)?;
        let endpoint = Endpoint::new(&self.domain, &self.choice, &self.options, capacity(self.options.queue_depth))?;
        let offer = endpoint.offer(&self.facts, &self.choice, &self.segment);
        let mut state = self.state();
        state.end(node, "a new connection was asked for");
        state.peers[node].link = Link::Offered(endpoint);
        Ok(offer)
    }

    /// Finishes the connection with the other end's offer. On Ethernet the peer's address is looked up, so that this
    /// may take a moment; posts to other nodes go on meanwhile.
    ///
    /// # Errors
    ///
    /// [`RdmaError`]; the connection is then broken, and can be offered anew.
    pub fn connect(&self, node: usize, peer: &Offer) -> Result<(), RdmaError> {
        self.check_node(node)?;
        let endpoint = self.take_offered(node)?;
        let connected = self.connect_endpoint(node, endpoint, peer);
        let mut state = self.state();
        let place = &mut state.peers[node];
        match connected {
            Ok(connection) => {
                place.atomics = peer.atomics;
                place.link = Link::Connected(connection);
                // Relaxed: the lock orders it for whoever posts.
                self.words[node].store(peer.words, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                place.link = Link::Broken(error.to_string());
                Err(error)
            }
        }
    }

    fn take_offered(&self, node: usize) -> Result<Endpoint, RdmaError> {
        let mut state = self.state();
        let link = &mut state.peers[node].link;
        match std::mem::replace(link, Link::Connecting) {
            Link::Offered(endpoint) => Ok(endpoint),
            other => {
                *link = other;
                Err(RdmaError::NotOffered { node })
            }
        }
    }

    fn connect_endpoint(&self, node: usize, endpoint: Endpoint, peer: &Offer) -> Result<Connection, RdmaError> {
        if peer.link_layer != self.choice.link_layer {
            return Err(RdmaError::OtherNetwork { node });
        }
        endpoint.connect(&self.facts, &self.choice, &self.options, peer)?;
        let quirks = Quirks { swaps_answers: self.answers == Answers::Swapped, is_soft_roce: self.facts.is_soft_roce };
        let ring = self.rings.get()?;
        Ok(Connection::new(endpoint, ring, self.options.queue_depth, RemoteSegment::of(peer), quirks))
    }

    /// Serves a process that made an offer with [`offer`](Self::offer) and wants nothing of its own served: one answer
    /// for each process of a node whose ranks each reach this node. The other end connects to the offer given back.
    ///
    /// # Errors
    ///
    /// [`RdmaError::OtherNetwork`], or what the device says.
    pub fn serve(&self, node: usize, peer: &Offer) -> Result<(Served, Offer), RdmaError> {
        if peer.link_layer != self.choice.link_layer {
            return Err(RdmaError::OtherNetwork { node });
        }
        let endpoint = Endpoint::new(&self.domain, &self.choice, &self.options, 1)?;
        endpoint.connect(&self.facts, &self.choice, &self.options, peer)?;
        let offer = endpoint.offer(&self.facts, &self.choice, &self.segment);
        Ok((Served { _endpoint: endpoint, _segment: Arc::clone(&self.segment) }, offer))
    }

    /// Ends the connection to a node, for a reason that its requests will name.
    pub fn disconnect(&self, node: usize, why: &str) {
        if node < self.nodes() {
            self.state().end(node, why);
        }
    }

    /// A write of one word, of which only the value is still to come.
    ///
    /// # Errors
    ///
    /// [`PostError`].
    pub fn prepare(&self, node: usize, at: WordAt) -> Result<Prepared, PostError> {
        self.check(node, &[Request::Write { at, value: 0 }])?;
        let state = self.state();
        let peer = &state.peers[node];
        match &peer.link {
            Link::Connected(connection) => Ok(Prepared::new(node, at, peer.incarnation, connection.prepare(at))),
            other => Err(unreachable_because(node, other)),
        }
    }

    /// Posts a prepared write. Does what [`Fabric::write`] does, with less to compute.
    ///
    /// # Errors
    ///
    /// As [`Fabric::post`].
    #[inline]
    pub fn repost(&self, prepared: &mut Prepared, value: u64) -> Result<(), PostError> {
        let mut state = self.state();
        let node = prepared.node();
        if !state.connected_with_room(node, 1)? {
            return Err(PostError::Full { node });
        }
        let peer = &mut state.peers[node];
        let Link::Connected(connection) = &mut peer.link else { return Err(unreachable_because(node, &peer.link)) };
        if peer.incarnation != prepared.incarnation() {
            let at = prepared.at();
            // The node may have come back with a smaller segment.
            self.check(node, &[Request::Write { at, value }])?;
            *prepared = Prepared::new(node, at, peer.incarnation, connection.prepare(at));
        }
        let at = prepared.at();
        let posted = connection.repost(prepared.work(), at, value);
        state.after_post(node, posted)
    }

    /// A ticket's value, as [`Fabric::take`] gives it, with a look at what has completed where it is not there yet:
    /// both under one lock, for whoever has nothing left to do but to wait for it.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn look_for(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        let value = self.state().look_for(ticket);
        value.unwrap_or_else(|| panic!("the ticket is spent already: {ticket:?}"))
    }

    fn check_node(&self, node: usize) -> Result<(), RdmaError> {
        let nodes = self.nodes();
        if node < nodes { Ok(()) } else { Err(RdmaError::NoNode { node, nodes }) }
    }

    /// Checks a batch, unless nothing is known of the node yet.
    #[inline]
    fn check(&self, node: usize, requests: &[Request]) -> Result<(), PostError> {
        if node < self.nodes() && self.words_of(node) == 0 { Ok(()) } else { check_batch(self, node, requests) }
    }

    #[inline]
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock but by a bug of this file, which is reported where it happens.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends a connection: its requests are lost, and its number is used up.
    fn end(&mut self, node: usize, why: &str) {
        let peer = &mut self.peers[node];
        if let Link::Connected(connection) = &mut peer.link {
            connection.lose(node, why, &mut self.tickets);
            peer.incarnation += 1;
            // Relaxed: whoever sees it asks for the connection's state, which the lock orders.
            self.breaches.fetch_add(1, Ordering::Relaxed);
        }
        peer.link = Link::Broken(why.to_owned());
    }

    fn poll(&mut self, node: usize) {
        if let Link::Connected(connection) = &mut self.peers[node].link
            && let Err(why) = connection.poll(&mut self.batch, &mut self.tickets)
        {
            self.end(node, &why);
        }
    }

    /// The value, if it is there by now; `None` where the ticket is spent.
    fn look_for(&mut self, ticket: Ticket) -> Option<Poll<Result<u64, OperationError>>> {
        match self.tickets.take(ticket) {
            Some(Poll::Pending) => {
                self.poll_busy();
                self.tickets.take(ticket)
            }
            other => other,
        }
    }

    /// Looks at all connections with requests under way, and strikes off those that have none any more.
    fn poll_busy(&mut self) {
        let mut index = 0;
        while let Some(&node) = self.busy.get(index) {
            self.poll(node);
            let stays = match &mut self.peers[node].link {
                Link::Connected(connection) if !connection.is_idle() => connection.is_listed,
                Link::Connected(connection) => {
                    connection.is_listed = false;
                    false
                }
                _ => false,
            };
            if stays {
                index += 1;
            } else {
                self.busy.swap_remove(index);
            }
        }
    }

    /// Whether the node's connection has room for so many requests, after taking what has completed if need be.
    #[inline]
    fn connected_with_room(&mut self, node: usize, requests: usize) -> Result<bool, PostError> {
        for attempt in 0..2 {
            match &self.peers[node].link {
                Link::Connected(connection) if connection.has_room_for(requests) => return Ok(true),
                Link::Connected(_) if attempt == 0 => self.poll(node),
                Link::Connected(_) => break,
                other => return Err(unreachable_because(node, other)),
            }
        }
        Ok(false)
    }

    #[inline]
    fn after_post(&mut self, node: usize, posted: Posted) -> Result<(), PostError> {
        match posted {
            Posted::All => {
                if let Link::Connected(connection) = &mut self.peers[node].link
                    && !connection.is_listed
                {
                    connection.is_listed = true;
                    self.busy.push(node);
                }
                Ok(())
            }
            Posted::None(why) => {
                self.end(node, &why);
                Err(PostError::Unreachable { node, why })
            }
            Posted::Some(why) => {
                self.end(node, &why);
                Ok(())
            }
        }
    }
}

#[cold]
fn unreachable_because(node: usize, link: &Link) -> PostError {
    let why = match link {
        Link::None => "there is no connection to it yet".to_owned(),
        Link::Offered(_) | Link::Connecting => "it is being connected".to_owned(),
        Link::Broken(why) => why.clone(),
        Link::Connected(_) => "it is connected anew".to_owned(),
    };
    PostError::Unreachable { node, why }
}

impl Fabric for RdmaFabric {
    fn here(&self) -> usize {
        self.here
    }

    fn nodes(&self) -> usize {
        self.words.len()
    }

    /// 0 for a node to which there has been no connection.
    #[inline]
    fn words_of(&self, node: usize) -> usize {
        usize::try_from(self.words[node].load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    fn kind_of(&self, _node: usize) -> FabricKind {
        FabricKind::Rdma
    }

    fn atomic_scope(&self, node: usize) -> AtomicScope {
        match self.state().peers[node].atomics {
            AtomicCapability::Global => AtomicScope::Cpu,
            AtomicCapability::Device | AtomicCapability::None => AtomicScope::Fabric,
        }
    }

    fn incarnation(&self, node: usize) -> u64 {
        self.state().peers[node].incarnation
    }

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        self.check(node, requests)?;
        let mut guard = self.state();
        let state = &mut *guard;
        if !state.connected_with_room(node, requests.len())? || state.tickets.room() < requests.len() {
            return Err(PostError::Full { node });
        }
        let Link::Connected(connection) = &mut state.peers[node].link else {
            return Err(unreachable_because(node, &state.peers[node].link));
        };
        let lacks_atomics = [self.facts.atomics, connection.remote().atomics].contains(&AtomicCapability::None);
        if lacks_atomics && requests.iter().any(Request::is_atomic) {
            let why = "an atomic, which its RDMA device or this one cannot do (remedy: send atomics by TCP)".to_owned();
            return Err(PostError::Invalid { node, why });
        }
        let posted = connection.post(requests, &mut state.batch, &mut state.tickets, tickets);
        state.after_post(node, posted)
    }

    #[inline]
    fn progress(&self) {
        match self.state.try_lock() {
            Ok(mut state) => state.poll_busy(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().poll_busy(),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    #[inline]
    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        let value = self.state().tickets.take(ticket);
        value.unwrap_or_else(|| panic!("the ticket is spent already: {ticket:?}"))
    }

    fn forget(&self, ticket: Ticket) {
        self.state().tickets.forget(ticket);
    }
}

impl std::fmt::Debug for RdmaFabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RdmaFabric").field("here", &self.here).field("choice", &self.choice).finish_non_exhaustive()
    }
}
