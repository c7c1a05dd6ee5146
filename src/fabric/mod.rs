//! The fabric: what joins the ranks. This is the contract; each implementation is a sibling folder.
//!
//! A job's shared state is made of *words*: aligned `u64`s in a node's segment. Everything that another rank can see is
//! a word, and every primitive is built from a few operations on words. There are two ways to a word, and a trait for
//! each: a rank reaches its own node's words as [`Memory`], and other nodes' words through a [`Fabric`].
//!
//! | operation | meaning | cost |
//! | --- | --- | --- |
//! | [`Memory::word`] | a word of this node: load, store, exchange, compare-and-swap, fetch-add | one line transfer when another CPU wrote last |
//! | [`Memory::wake`] | ends the sleep of everyone parked on a word | a system call |
//! | [`Park::park`] | sleeps until a word changes | a system call and a context switch |
//! | [`Fabric::write`] | stores a word of another node; fire and forget | half a round trip, which nobody waits for |
//! | [`Fabric::read`] | loads a word of another node | a round trip |
//! | [`Fabric::fetch_add`], [`Fabric::compare_swap`] | changes a word of another node and gives its old value | a round trip |
//! | [`Fabric::post`] | several of these to one node, in one system call or doorbell | as the dearest of them |
//!
//! # What `Memory` promises
//!
//! - **Ordering.** Words are atomics and follow the language's memory model: a load with acquire ordering that sees a
//!   value stored with release ordering sees everything that the storing rank did before. Publishing and then looking
//!   at another word needs [`crate::sync::publish`].
//! - **No tearing.** A word is read and written whole.
//! - **Failure.** Operations on the node's own words cannot fail. A rank that dies leaves its words as they are.
//! - **Waking.** `wake` after a store that the sleeper compares against is never lost: `park` returns at once when the
//!   word no longer holds the value that the caller has seen. `park` may also return for no reason.
//!
//! # What a `Fabric` promises
//!
//! - **Ordering.** Requests of one process to one node take effect in the order in which they were posted, also over
//!   several batches, and each is a release: a rank of that node that loads a written value with acquire ordering sees
//!   all that was posted before it. Requests to different nodes are not ordered among each other.
//! - **No tearing.** A word is read and written whole. Of several words nothing is promised but their order.
//! - **Completion.** A write is fire and forget; that a later request to the same node has completed means that the
//!   write has taken effect. Every other request gets a [`Ticket`], and completes exactly once: with the word's old
//!   value, or with an [`OperationError`].
//! - **Progress.** Nothing needs to be polled for requests of *other* nodes to be served. A process that waits calls
//!   [`Fabric::progress`], which makes its own completions, and its own node's incoming requests, come sooner.
//! - **Back-pressure.** What there is no room for is refused whole ([`PostError::Full`]) and never lost; `progress` and
//!   [`Fabric::take`] make room.
//! - **Failure.** When a connection breaks, each request that was posted on it and has a ticket completes with
//!   [`OperationError::Lost`], which is ambiguous: it may have taken effect or not. Unfinished writes are lost
//!   silently. So writes must be idempotent, values swapped in must name their writer, and whoever depends on a write
//!   reads ([`Fabric::incarnation`] tells that a connection is not the one that carried it). A later `post` tries to
//!   connect anew; while that is impossible it fails with [`PostError::Unreachable`].
//! - **Atomicity.** `fetch_add` and `compare_swap` are atomic among each other. Whether they are atomic against the
//!   home node's own CPUs too, [`Fabric::atomic_scope`] tells; where they are not, the home's own ranks go through the
//!   fabric as well. Loads and `write`s of a word are whole in either case.
//! - **The own node** is a node like the others: its requests go through the same atomicity domain.
//!
//! # Who blocks
//!
//! Primitives take `&impl Memory` and `&impl Fabric` and never block. Only drivers ([`crate::coord::drive`]) take
//! `&impl Park` and sleep.
//!
//! Implementations: [`shm`] is a node's shared memory. [`tcp`] and [`rdma`] join nodes, and [`network`] is what a job
//! uses: both together. [`sim`] is a node, or a network of nodes, in one thread under a seeded scheduler, for tests
//! that must replay. Model checkers use `model`. What requests have been answered is kept in `tickets` until it is
//! taken.

#[cfg(not(model))]
pub mod mending;
#[cfg(model)]
pub mod model;
#[cfg(not(model))]
pub mod network;
pub mod node;
#[cfg(not(model))]
pub mod rdma;
#[cfg(not(model))]
pub mod shm;
#[cfg(not(model))]
pub mod sim;
#[cfg(not(model))]
pub mod tcp;
#[cfg(not(model))]
pub mod tickets;
pub mod topology;

use std::task::Poll;
use std::time::{Duration, Instant};

use crate::sync::{AtomicU64, Ordering, full_fence_after_rmw, publish};
pub use topology::Topology;

/// Bytes from one writer's words to the next writer's: two 64-byte lines, because x86 fetches lines in pairs and some
/// CPUs have lines of 128 bytes.
pub const LINE_BYTES: usize = 128;
/// Words in [`LINE_BYTES`].
pub const LINE_WORDS: usize = LINE_BYTES / 8;

/// Where a word stands in its segment, counted in words from the segment's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WordAt(pub usize);

impl WordAt {
    /// The word `words` further on.
    #[inline]
    pub const fn plus(self, words: usize) -> Self {
        Self(self.0 + words)
    }
}

/// This node's words. See the module for the contract.
pub trait Memory {
    /// The word at `at`.
    ///
    /// # Panics
    ///
    /// When `at` lies outside the segment: a bug of the caller, since positions are checked when a segment or a group
    /// is attached.
    fn word(&self, at: WordAt) -> &AtomicU64;

    /// How many words there are.
    fn words(&self) -> usize;

    /// Wakes every rank that is parked on the word.
    fn wake(&self, at: WordAt);
}

/// A memory whose caller may sleep.
pub trait Park: Memory {
    /// Sleeps until the word at `at` differs from `seen` in its lower 32 bits and someone called
    /// [`Memory::wake`], or until `timeout` has passed, or for no reason at all. Callers look again after it.
    ///
    /// Only the lower half is compared (a Linux futex has 32 bits). A word that differs in its upper half only would
    /// be slept on; the words that ranks park on change their lower half with every change.
    fn park(&self, at: WordAt, seen: u64, timeout: Option<Duration>);

    /// As [`park`](Self::park), but not while [`node::header::ALARM`] differs from `alarm`, and only until it does.
    fn park_heeding(&self, at: WordAt, seen: u64, alarm: u64, timeout: Option<Duration>) {
        // SYNC POINT: alarm. Acquire pairs with whoever raises it, here (`raise_alarm`) or through a fabric.
        if self.word(node::header::ALARM).load(Ordering::Acquire) == alarm {
            self.park(at, seen, timeout);
        }
    }
}

/// Has all who wait on this node look at what has changed.
pub fn raise_alarm(memory: &impl Memory) {
    // SYNC POINT: alarm. Release pairs with the acquire load of those who heed it; the kernel compares it before a rank
    // falls asleep.
    memory.word(node::header::ALARM).fetch_add(1, Ordering::AcqRel);
    memory.wake(node::header::ALARM);
}

/// The lower half of a word, which a sleeper compares.
#[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
pub const fn lower_half(word: u64) -> u32 {
    word as u32
}

/// The most requests of one batch.
pub const BATCH_REQUESTS: usize = 64;

/// One operation on a word of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Stores `value`. Has no ticket.
    Write {
        /// The word.
        at: WordAt,
        /// What it is to hold.
        value: u64,
    },
    /// Loads the word.
    Read {
        /// The word.
        at: WordAt,
    },
    /// Adds, wrapping round, and gives the value before.
    FetchAdd {
        /// The word.
        at: WordAt,
        /// What is added.
        add: u64,
    },
    /// Stores `new` if the word holds `expected`, and gives the value before: equal to `expected` if it took effect.
    CompareSwap {
        /// The word.
        at: WordAt,
        /// What it must hold.
        expected: u64,
        /// What it then holds.
        new: u64,
    },
}

impl Request {
    /// The word that it touches.
    pub fn at(&self) -> WordAt {
        match *self {
            Self::Write { at, .. } | Self::Read { at } | Self::FetchAdd { at, .. } | Self::CompareSwap { at, .. } => at,
        }
    }

    /// Whether it gives a value back, and so has a ticket.
    pub fn has_ticket(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }

    /// Whether it changes the word by what it finds there.
    #[inline]
    pub fn is_atomic(&self) -> bool {
        matches!(self, Self::FetchAdd { .. } | Self::CompareSwap { .. })
    }
}

/// Stands for a request that has been posted and whose value has not been taken. Good for the fabric that gave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Where the fabric keeps the value.
    pub slot: u32,
    /// Which user of that place this is: an old ticket is told from a new one.
    pub generation: u32,
}

/// Why requests were not posted. None of the batch was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// No room for them now: call [`Fabric::progress`], take what has completed, and post again.
    #[error("no room for more requests to node {node} now (remedy: take completed ones, then post again)")]
    Full {
        /// The node.
        node: usize,
    },
    /// The node cannot be reached. A later attempt may succeed.
    #[error("node {node} cannot be reached: {why} (remedy: look whether its ranks run and the network between is up)")]
    Unreachable {
        /// The node.
        node: usize,
        /// What went wrong.
        why: String,
    },
    /// A request names a node or a word that does not exist, or the batch is too long: a mistake of the caller.
    #[error("a request to node {node} is none: {why}")]
    Invalid {
        /// The node.
        node: usize,
        /// What is wrong.
        why: String,
    },
}

/// Why a posted request has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// The connection broke before the answer came: the request may have taken effect or not.
    #[error("the connection to node {node} broke ({why}): the operation may have taken effect or not")]
    Lost {
        /// The node.
        node: usize,
        /// What broke it.
        why: String,
    },
    /// Certainly without effect: the node was never reached.
    #[error("node {node} was not reached ({why}): the operation had no effect")]
    NotSent {
        /// The node.
        node: usize,
        /// Why.
        why: String,
    },
}

/// What a node's words are atomic against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicScope {
    /// Against everything, the home's CPUs included.
    Cpu,
    /// Only against operations that come through the fabric: the home's own ranks must use it too.
    Fabric,
}

/// By what a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FabricKind {
    /// Shared memory.
    Shm,
    /// Sockets.
    Tcp,
    /// One-sided RDMA.
    Rdma,
    /// The simulator.
    Sim,
}

impl FabricKind {
    /// The name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
            Self::Sim => "sim",
        }
    }
}

impl std::fmt::Display for FabricKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Other nodes' words. See the module for the contract.
pub trait Fabric {
    /// This process's own node.
    fn here(&self) -> usize;

    /// How many nodes there are, this one included; they are numbered from 0.
    fn nodes(&self) -> usize;

    /// How many words the node has.
    fn words_of(&self, node: usize) -> usize;

    /// By what the node is reached.
    fn kind_of(&self, node: usize) -> FabricKind;

    /// What `fetch_add` and `compare_swap` on the node's words are atomic against. Words of objects at their home,
    /// where the fabric knows of them, have a domain of their own ([`network::home_words`]), of which this says
    /// nothing.
    fn atomic_scope(&self, node: usize) -> AtomicScope;

    /// Counts the connections that there have been to the node: while it stays the same, no posted write was lost.
    fn incarnation(&self, node: usize) -> u64;

    /// Posts the requests, all or none, in order, as one batch of at most [`BATCH_REQUESTS`]; appends a ticket for each
    /// that has one. Connects on first use. Never blocks.
    ///
    /// # Errors
    ///
    /// [`PostError`].
    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError>;

    /// As [`post`](Self::post), as one of several such calls, to several nodes, of which [`flush`](Self::flush) is the
    /// last: what they post may be held back until then, and leave together. A fabric that gains nothing posts at once.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    fn post_more(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        self.post(node, requests, tickets)
    }

    /// Sends what [`post_more`](Self::post_more) has held back.
    fn flush(&self) {}

    /// Moves everything on that can move without waiting: what is posted, what has come in, what has broken.
    fn progress(&self);

    /// The value of a request, once it has completed; the ticket is then spent.
    ///
    /// # Errors
    ///
    /// [`OperationError`]: completed, with no value.
    ///
    /// # Panics
    ///
    /// When the ticket is spent already.
    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>>;

    /// Gives a ticket up: its value will not be taken.
    fn forget(&self, ticket: Ticket);

    /// Posts a write.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    fn write(&self, node: usize, at: WordAt, value: u64) -> Result<(), PostError> {
        self.post(node, &[Request::Write { at, value }], &mut Vec::new())
    }

    /// Posts a read.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    fn read(&self, node: usize, at: WordAt) -> Result<Ticket, PostError> {
        post_one(self, node, Request::Read { at })
    }

    /// Posts a fetch-and-add.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    fn fetch_add(&self, node: usize, at: WordAt, add: u64) -> Result<Ticket, PostError> {
        post_one(self, node, Request::FetchAdd { at, add })
    }

    /// Posts a compare-and-swap.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    fn compare_swap(&self, node: usize, at: WordAt, expected: u64, new: u64) -> Result<Ticket, PostError> {
        post_one(self, node, Request::CompareSwap { at, expected, new })
    }
}

/// A fabric whose caller may sleep.
pub trait Await: Fabric {
    /// This caller is about to sleep on its node's memory, or to do something else: whoever serves this process's
    /// connections in the background may take over at once.
    fn hand_over(&self);

    /// The same by a caller that has waited since then and may be back soon, where other nodes ask things of this
    /// process.
    fn hand_over_if_asked(&self, begun: Instant);

    /// This caller need not wait: where other nodes ask things of this process it executes now and then what has come
    /// in.
    fn serve_in_passing(&self);

    /// Sleeps while the word at `at` of this node holds `seen`, until something has come in by this process's
    /// connections, or `timeout` has passed, or for no reason; and not while [`node::header::ALARM`] differs from
    /// `alarm` (whoever raises it in this process calls [`rouse`](Self::rouse)). `false`, at once, when nothing that
    /// this node waits for comes in that way: sleep on the memory instead.
    fn sleep(&self, at: WordAt, seen: u64, alarm: u64, timeout: Option<Duration>) -> bool;

    /// Sleeps until something has come in by this process's connections (an answer, say), or `timeout` has passed, or
    /// for no reason; and not while [`node::header::ALARM`] differs from `alarm`, as [`sleep`](Self::sleep).
    fn nap(&self, alarm: u64, timeout: Duration);

    /// Ends the sleep of all who [`sleep`](Self::sleep) in this process.
    fn rouse(&self);

    /// The longest that a rank may sleep on its node's memory without looking by itself; `None` where whoever writes
    /// wakes it. An adapter wakes nobody.
    fn longest_nap(&self) -> Option<Duration>;
}

fn post_one(fabric: &(impl Fabric + ?Sized), node: usize, request: Request) -> Result<Ticket, PostError> {
    let mut tickets = Vec::with_capacity(1);
    fabric.post(node, &[request], &mut tickets)?;
    Ok(tickets.pop().expect("a fabric gives a ticket for each request that has one"))
}

/// What is wrong with a batch, before any fabric looks at it: a node or a word that is not there, or too many requests.
///
/// # Errors
///
/// [`PostError::Invalid`].
pub fn check_batch(fabric: &(impl Fabric + ?Sized), node: usize, requests: &[Request]) -> Result<(), PostError> {
    let invalid = |why| Err(PostError::Invalid { node, why });
    if node >= fabric.nodes() {
        return invalid(format!("the job has {} nodes", fabric.nodes()));
    }
    if requests.len() > BATCH_REQUESTS {
        return invalid(format!("a batch has {BATCH_REQUESTS} requests at most, not {}", requests.len()));
    }
    let words = fabric.words_of(node);
    match requests.iter().find(|request| request.at().0 >= words) {
        Some(request) => invalid(format!("word {} lies outside its segment of {words} words", request.at().0)),
        None => Ok(()),
    }
}

/// Executes a request on this node's memory; gives the word's old value (0 for a write), and whether the word has
/// changed.
#[inline]
pub fn execute(memory: &(impl Memory + ?Sized), request: Request) -> (u64, bool) {
    let word = memory.word(request.at());
    let (value, has_changed) = match request {
        Request::Write { value, .. } => {
            // SYNC POINT: inbox, fabric sleepers. A full fence: it releases all that came in before, and is visible
            // before the sleepers are counted.
            publish(word, value);
            (0, true)
        }
        // SYNC POINT: outbox, gate. Pairs with the release of whoever of this node wrote the word; and a word that is
        // read after another has been changed is read after it.
        Request::Read { .. } => (word.load(Ordering::SeqCst), false),
        Request::FetchAdd { add, .. } => {
            let old = word.fetch_add(add, Ordering::SeqCst);
            // SYNC POINT: fabric sleepers. As a write: it is visible before the sleepers are counted.
            full_fence_after_rmw();
            (old, true)
        }
        Request::CompareSwap { expected, new, .. } => {
            let found = word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::Acquire);
            // SYNC POINT: fabric sleepers. Likewise.
            full_fence_after_rmw();
            (found.unwrap_or_else(|found| found), found.is_ok())
        }
    };
    if has_changed {
        wake_sleepers(memory, request.at());
    }
    (value, has_changed)
}

/// Ends the sleep of those who wait for a word that has been changed through a fabric, if there are any. On the alarm
/// all sleep who wait for anything.
pub(crate) fn wake_sleepers(memory: &(impl Memory + ?Sized), at: WordAt) {
    if at == node::header::ALARM {
        return memory.wake(at);
    }
    // SYNC POINT: fabric sleepers. A rank that parks counts itself, fences, and looks at the word again.
    if memory.word(node::header::FABRIC_SLEEPERS).load(Ordering::Relaxed) != 0 {
        memory.wake(at);
    }
}
