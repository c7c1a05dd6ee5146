//! TCP: nodes joined by sockets, for where there is no RDMA, and for trying everything on one machine.
//!
//! Requests travel as fixed-size frames ([`frame`]) over one connection for each pair of nodes ([`link`]), which begins
//! with proofs of the job's key ([`crate::handshake`]). Sockets do not execute anything by themselves, so each node has
//! a process that does, its *agent*, which lets others in. All the others reach other nodes as guests, and any of
//! them can become agent ([`TcpFabric::become_agent`]); [`peer`] says how it is found then. Whoever has been declared
//! failed is shut out ([`TcpFabric::exclude_rank`]).
//!
//! Agents can also send each other letters ([`TcpFabric::send_letter`]), for what is neither a word nor a request. Who
//! reads them, and what else the layer above is told: `hooks.rs`.
//!
//! A background thread serves the connections, or the ranks do that wait, who *steal* the progress from it:
//! `progress.rs`.
//!
//! # Two engines
//!
//! Bytes move by `read` and `write`, or by a ring of the kernel's that does both for many connections in one call
//! (`uring`; `engine_choice.rs`: [`TcpEngine`]). The ring is an addition: whoever may not enter it, and whatever is no
//! frame, goes by the sockets as ever, and nothing but a rank's polls knows of it.
//!
//! Memory for a connection: 8 KiB to receive into and at most 32 KiB to send from; for a ring some 50 KiB in all.

mod acknowledgement;
mod attention;
mod engine;
mod engine_choice;
pub mod frame;
mod hooks;
pub mod link;
mod pace;
pub mod peer;
mod progress;
pub mod stream;
#[cfg(test)]
mod tests;
mod uring;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags};
use rustix::event::{EventfdFlags, eventfd};

use self::engine::{Engine, Follows};
pub use self::engine::{GivenUp, WordChanger};
pub use self::engine_choice::TcpEngine;
use self::frame::Letter;
pub use self::hooks::{ExclusionHook, LetterHandler, WordHook};
use self::hooks::{Hooks, Reader};
pub use self::link::Ports;
use self::pace::Pace;
pub use self::peer::{Candidate, Door, Peer};
use self::progress::Progress;
use super::node::header;
use super::{
    AtomicScope, Await, Fabric, FabricKind, Memory, OperationError, PostError, Request, Ticket, WordAt, check_batch,
};
use crate::handshake::Key;
use crate::sync::{AtomicU32, Ordering};

/// Who this process is.
#[derive(Clone, Debug)]
pub struct Services {
    /// Its rank.
    pub rank: usize,
    /// The job's ranks.
    pub size: usize,
    /// Its node.
    pub here: usize,
    /// The job's key.
    pub key: Key,
}

/// This process's connections. See the module.
#[derive(Debug)]
pub struct TcpFabric {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    engine: Mutex<Engine>,
    here: usize,
    peers: Arc<[Peer]>,
    /// 1 once this process speaks for its node.
    is_agent: AtomicU32,
    /// There was a ring to begin with.
    has_ring: bool,
    epoll: OwnedFd,
    /// Wakes the background thread while it serves.
    kick: OwnedFd,
    /// Who polls: see [`Progress`].
    progress: AtomicU32,
    /// Polls so far, by whoever has stolen the progress.
    polls: AtomicU32,
    /// Ranks asleep on the connections.
    asleep: AtomicU32,
    /// 1 while the background thread sleeps, on this word, because the progress is stolen.
    nap: AtomicU32,
    /// [`engine::sleepers::Sleepers::peals`], here so that a sleeper needs no lock.
    peals: Arc<AtomicU32>,
    /// Requests so far that others of this process wait for.
    asked: Arc<AtomicU32>,
    /// Who serves between two waits, and 1 where ranks do in passing.
    pace: Mutex<Pace>,
    is_paced: AtomicU32,
    reader: Reader,
    hooks: Hooks,
}

impl TcpFabric {
    /// Joins the nodes of `peers` (by number). With an open `door` this process speaks for its node and serves
    /// `memory`.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub fn new(
        services: Services,
        memory: Arc<dyn Memory + Send + Sync>,
        peers: Vec<Peer>,
        door: impl Into<Door>,
    ) -> std::io::Result<Self> {
        Self::with_engine(services, memory, peers, door, TcpEngine::Auto)
    }

    /// As [`new`](Self::new), with an engine of the caller's choice.
    ///
    /// # Errors
    ///
    /// What the kernel refuses; also [`TcpEngine::IoUring`].
    pub fn with_engine(
        services: Services,
        memory: Arc<dyn Memory + Send + Sync>,
        peers: Vec<Peer>,
        door: impl Into<Door>,
        engine: TcpEngine,
    ) -> std::io::Result<Self> {
        let ring = engine.ring().map_err(std::io::Error::other)?;
        let peers: Arc<[Peer]> = peers.into();
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (here, has_ring) = (services.here, ring.is_some());
        let engine = Engine::new(services, memory, Arc::clone(&peers), door.into(), epoll.try_clone()?, ring)?;
        let (is_agent, peals) = (AtomicU32::new(u32::from(engine.is_agent())), engine.peals());
        let asked = engine.asked();
        let shared = Arc::new(Shared {
            engine: Mutex::new(engine),
            here,
            peers,
            is_agent,
            has_ring,
            epoll,
            kick,
            progress: AtomicU32::new(Progress::Served as u32),
            polls: AtomicU32::new(0),
            asleep: AtomicU32::new(0),
            nap: AtomicU32::new(0),
            peals,
            asked,
            pace: Mutex::new(Pace::new(Instant::now())),
            is_paced: AtomicU32::new(0),
            reader: Reader::default(),
            hooks: Hooks::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("phalanx-tcp".to_owned()).spawn(move || {
            crate::scheduling::wake_soon();
            of_thread.serve()
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has letters read from now on, by whichever thread looks at the connections, the background one included: so they
    /// are read even where nobody polls. Later readers are none; letters that nobody reads are lost.
    pub fn read_letters(&self, handler: LetterHandler) {
        let _ = self.shared.reader.handler.set(handler);
    }

    /// Sends a letter to a node's agent. It is lost if the connection breaks.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`], [`PostError::Unreachable`].
    pub fn send_letter(&self, node: usize, letter: &Letter) -> Result<(), PostError> {
        let mut engine = self.shared.engine();
        let sent = engine.send_letter(node, letter);
        self.shared.leave(engine);
        sent
    }

    /// Speaks for this node from now on: other nodes that connect are let in, and what they ask is executed. Does
    /// nothing where it has done so before. What this process has posted goes on by the connections that it has.
    ///
    /// # Errors
    ///
    /// The process has no door.
    pub fn become_agent(&self) -> std::io::Result<()> {
        self.shared.engine().become_agent()?;
        // Relaxed: a rank that still takes this process for none sleeps on the node's memory, which is right as well.
        self.shared.is_agent.store(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether this process speaks for its node.
    pub fn is_agent(&self) -> bool {
        self.shared.is_agent.load(Ordering::Relaxed) != 0
    }

    /// The rank that spoke for a node in the beginning.
    pub fn first_rank_of(&self, node: usize) -> Option<usize> {
        self.shared.peers[node].candidates.first().map(|candidate| candidate.rank)
    }

    /// Begins to connect to a node, if there is no connection and nobody does so already, though nothing is posted: to
    /// see whether it lets anybody in ([`ports`](Self::ports)).
    pub fn probe(&self, node: usize) {
        let mut engine = self.shared.engine();
        engine.probe(node);
        self.shared.leave(engine);
    }

    /// What the last attempt to reach a node has shown of its processes. Each keeps its port for as long as it lives
    /// and has not left, its node's agent or not. So where all are [closed](Ports::Closed), says the machine's kernel,
    /// none is left.
    ///
    /// Ranks that have been [excluded](Self::exclude_rank) are not tried. Where several hosts are known, the one counts
    /// at which the node has been reached before, since others may not even be its own; before that all count.
    pub fn ports(&self, node: usize) -> Ports {
        self.shared.engine().ports(node)
    }

    /// Whether [all ports](Self::ports) of a node were closed at the last attempt to reach it.
    pub fn refused_by_all(&self, node: usize) -> bool {
        self.ports(node) == Ports::Closed
    }

    /// How long ago a node's kernel has acknowledged something on the connection to it, be there a process that reads
    /// it or not; `None` without a connection. Only what has been sent can be acknowledged.
    pub fn acknowledged(&self, node: usize) -> Option<Duration> {
        self.shared.engine().acknowledged(node)
    }

    /// Shuts a rank out that has been declared failed. When this returns, nothing takes effect any more of what it has
    /// sent: its connections are dropped with what has not been read, and further ones refused
    /// ([`Verdict::Excluded`](crate::handshake::Verdict::Excluded)). Nothing is asked of it as its node's agent.
    pub fn exclude_rank(&self, rank: usize) {
        let mut engine = self.shared.engine();
        engine.exclude_rank(rank);
        self.shared.leave(engine);
    }

    /// Shuts a node out that has been declared failed, with all of its ranks; posts to it fail at once, as
    /// [`PostError::Unreachable`].
    pub fn exclude_node(&self, node: usize) {
        let mut engine = self.shared.engine();
        engine.exclude_node(node);
        self.shared.leave(engine);
    }

    /// The first node that has said to this process that it is excluded.
    pub fn excluded_by(&self) -> Option<usize> {
        self.shared.engine().excluded_by()
    }

    /// Whoever is about to sleep on the connections polls them first for so long, where requests have followed each
    /// other about as closely: who asks this node again and again then need not wait for somebody to be woken each
    /// time. Not done unless it is asked for; for processes that have a CPU of their own.
    pub fn stay_awake_for(&self, span: Duration) {
        self.shared.engine().set_attention(span);
    }

    /// Has `hook` called once [`excluded_by`](Self::excluded_by) says something, by whichever thread looks at the
    /// connections, the background one included, or by this call; perhaps by both. It may use the fabric, and must not
    /// wait. There is one; later ones are not called.
    pub fn when_excluded(&self, hook: ExclusionHook) {
        let hook = self.shared.hooks.exclusion.get_or_init(|| hook);
        if let Some(node) = self.excluded_by() {
            hook(node);
        }
    }

    /// Has `hook` called after a connection to another node's agent has broken, as
    /// [`watch_word`](Self::watch_word)'s is. There is one; later ones are not called.
    pub fn when_broken(&self, hook: WordHook) {
        let _ = self.shared.hooks.breach.set(hook);
    }

    /// Has `hook` called after requests of other nodes have changed a word of this one from now on: once or more for
    /// all that have come in together, by whichever thread looks at the connections, the background one included; by
    /// several at once, perhaps. It may use the fabric, and must not wait.
    ///
    /// # Panics
    ///
    /// When as many words as can be watched (two) are.
    pub fn watch_word(&self, at: WordAt, hook: WordHook) {
        let mut hook = Some(hook);
        let words = &self.shared.hooks.words;
        let is_taken = |place: &OnceLock<WordHook>| {
            place.get_or_init(|| hook.take().expect("it is given away once"));
            hook.is_none()
        };
        let index = words.iter().position(is_taken).expect("a process watches two words at most");
        self.shared.engine().watch_word(index, at);
    }

    /// Has this process execute requests of other nodes only as long as `is_over` does not say so of what a word of
    /// this node holds, other than 0. It is looked at before each: a process that was stopped, and comes back when its
    /// node has given it up, finds in its sockets what was lost with its connections, and has been asked of the next
    /// one.
    pub fn serve_until(&self, at: WordAt, is_over: GivenUp) {
        self.shared.engine().serve_until(at, is_over);
    }

    /// Has this node's words from `begin` on added to and swapped by `change`, as other nodes ask for it from now on.
    pub fn change_words_by(&self, begin: WordAt, change: WordChanger) {
        self.shared.engine().change_words_by(begin, change);
    }
}

impl Drop for TcpFabric {
    fn drop(&mut self) {
        self.shared.linger();
        self.shared.end_thread();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    #[inline]
    fn engine(&self) -> MutexGuard<'_, Engine> {
        // A panic under the lock is a bug that its thread reports; the connections are as sound as before it.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn turn(&self, mut engine: MutexGuard<'_, Engine>) {
        engine.turn();
        self.deliver(engine);
    }
}

impl Fabric for TcpFabric {
    fn here(&self) -> usize {
        self.shared.here
    }

    fn nodes(&self) -> usize {
        self.shared.peers.len()
    }

    fn words_of(&self, node: usize) -> usize {
        self.shared.peers[node].words
    }

    fn kind_of(&self, _node: usize) -> FabricKind {
        FabricKind::Tcp
    }

    fn atomic_scope(&self, _node: usize) -> AtomicScope {
        AtomicScope::Cpu
    }

    fn incarnation(&self, node: usize) -> u64 {
        self.shared.engine().incarnation(node)
    }

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        check_batch(self, node, requests)?;
        let mut engine = self.shared.engine();
        let posted = engine.post(node, requests, tickets, Follows::Nothing);
        self.shared.leave(engine);
        posted
    }

    fn post_more(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        check_batch(self, node, requests)?;
        let mut engine = self.shared.engine();
        let posted = engine.post(node, requests, tickets, Follows::More);
        self.shared.leave(engine);
        posted
    }

    fn flush(&self) {
        if self.shared.has_ring {
            let mut engine = self.shared.engine();
            engine.flush();
            self.shared.deliver(engine);
        }
    }

    fn progress(&self) {
        self.shared.poll();
    }

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        let taken = self.shared.engine().tickets().take(ticket);
        taken.unwrap_or_else(|| panic!("a ticket is spent once: {ticket:?}"))
    }

    fn forget(&self, ticket: Ticket) {
        self.shared.engine().tickets().forget(ticket);
    }
}

impl Await for TcpFabric {
    fn hand_over(&self) {
        self.shared.hand_over();
    }

    fn hand_over_if_asked(&self, begun: Instant) {
        self.shared.hand_over_if_asked(begun);
    }

    #[inline]
    fn serve_in_passing(&self) {
        self.shared.serve_in_passing();
    }

    fn sleep(&self, at: WordAt, seen: u64, alarm: u64, timeout: Option<Duration>) -> bool {
        if !self.is_agent() {
            self.hand_over();
            return false;
        }
        self.shared
            .sleep_unless(|engine| engine.holds_other(at, seen) || engine.holds_other(header::ALARM, alarm), timeout);
        true
    }

    fn nap(&self, alarm: u64, timeout: Duration) {
        self.shared.sleep_unless(|engine| engine.holds_other(header::ALARM, alarm), Some(timeout));
    }

    fn rouse(&self) {
        self.shared.engine().rouse();
    }

    fn longest_nap(&self) -> Option<Duration> {
        None
    }
}
