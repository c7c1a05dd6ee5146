//! TCP: nodes joined by sockets, for where there is no RDMA, and for trying everything on one machine.
//!
//! Requests travel as fixed-size frames ([`frame`]) over one connection for each pair of nodes ([`link`]), which begins
//! with proofs of the job's key ([`crate::handshake`]). Sockets do not execute anything by themselves, so each node has
//! a process that does, its *agent*, which lets others in. All the others reach other nodes as guests, and any of
//! them can become agent ([`TcpFabric::become_agent`]); [`peer`] says how it is found then. Whoever has been declared
//! failed is shut out ([`TcpFabric::exclude_rank`]).
//!
//! Agents can also send each other letters ([`TcpFabric::send_letter`]), for what is neither a word nor a request.
//!
//! # Progress stealing
//!
//! In each process a background thread serves the connections while the application computes. A rank that waits polls
//! them itself ([`Fabric::progress`]): a message then needs no wake-up and no change of threads. Both at once would
//! fight: each message would wake the thread. So the first poll *steals* the progress: the thread leaves the sockets
//! and sleeps on a word of memory, and looks now and then whether somebody still polls. When nobody has for a while, or
//! when the rank goes to sleep ([`Await::hand_over`]), it takes the sockets back.
//!
//! ```text
//!              progress()                        nobody polled for STEAL_LASTS, or hand_over()
//!   Served ─────────────────▶ Stolen ────────────────────────────────────────────────────▶ Served
//!   thread in epoll_wait      thread asleep on the word `nap`
//! ```
//!
//! Where requests follow each other closely a rank that would sleep on the connections polls them a little longer
//! (`attention`; [`TcpFabric::stay_awake_for`]).
//!
//! # Two engines
//!
//! Bytes move by `read` and `write`, or by a ring of the kernel's that does both for many connections in one call
//! (`uring`; [`TcpEngine`] chooses). The ring is an addition: whoever may not enter it, and whatever is no frame, goes
//! by the sockets as ever, and nothing but a rank's polls knows of it.
//!
//! Memory for a connection: 8 KiB to receive into and at most 32 KiB to send from; for a ring some 50 KiB in all.

mod acknowledgement;
mod attention;
mod engine;
pub mod frame;
pub mod link;
pub mod peer;
pub mod stream;
#[cfg(test)]
mod tests;
mod uring;

use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::thread::futex;

use self::engine::{Due, Engine, Follows, MOST_WATCHED};
pub use self::engine::{GivenUp, WordChanger};
use self::frame::Letter;
pub use self::link::Ports;
pub use self::peer::{Candidate, Door, Peer};
use self::uring::Ring;
use super::node::header;
use super::{
    AtomicScope, Await, Fabric, FabricKind, Memory, OperationError, PostError, Request, Ticket, WordAt, check_batch,
};
use crate::handshake::Key;
use crate::sync::{AtomicU32, Ordering, spin_hint};

/// How long after the last poll the background thread takes the connections back. A request from another node that
/// comes in meanwhile waits as long.
const STEAL_LASTS: Duration = Duration::from_millis(2);

/// How a process moves the bytes of its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpEngine {
    /// The one that measurements have shown to be quicker: sockets (docs/design.md, "Two engines for TCP").
    #[default]
    Auto,
    /// A system call for each connection.
    Sockets,
    /// A system call for many connections, by a ring of the kernel's: Linux 6.1, where `io_uring` is allowed.
    IoUring,
}

impl TcpEngine {
    /// The name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sockets => "sockets",
            Self::IoUring => "io-uring",
        }
    }

    /// Whether this kernel lets this process have it.
    ///
    /// # Errors
    ///
    /// Why not, and what helps.
    pub fn probe(self) -> std::io::Result<()> {
        self.ring().map(drop).map_err(std::io::Error::other)
    }

    /// A ring, if there is to be one.
    fn ring(self) -> Result<Option<Ring>, RingError> {
        match self {
            Self::Auto | Self::Sockets => Ok(None),
            Self::IoUring => Ring::new().map(Some).map_err(RingError),
        }
    }
}

impl std::fmt::Display for TcpEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TcpEngine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::Sockets, Self::IoUring];
        let named = all.into_iter().find(|engine| engine.name() == text);
        named.ok_or_else(|| format!("{text:?} is none of auto, sockets, io-uring"))
    }
}

/// The engine on a ring was asked for by name, and there is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no io_uring for the TCP engine of that name: {0} (remedy: PHALANX_TCP_ENGINE=auto or sockets; or Linux 6.1, \
     /proc/sys/kernel/io_uring_disabled at 0, and a container whose seccomp profile allows io_uring_setup)"
)]
struct RingError(#[source] std::io::Error);

/// How long a process that polls instead of sleeping leaves the connections alone between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_nanos(100);

/// How long a fabric that is dropped sends what waits.
const LINGER: Duration = Duration::from_secs(3);
/// The longest time between two looks meanwhile.
const LINGERING_NAP: Duration = Duration::from_millis(1);

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
    reader: Reader,
    hooks: Hooks,
}

/// Takes in a letter of a node's agent, and may answer it.
pub type LetterHandler = Box<dyn Fn(usize, &Letter) -> Option<Letter> + Send + Sync>;

/// Who reads letters.
#[derive(Default)]
struct Reader {
    handler: OnceLock<LetterHandler>,
    /// Held while letters are read, so that they are read in their order.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("is_there", &self.handler.get().is_some()).finish_non_exhaustive()
    }
}

/// Called when a word has been changed.
pub type WordHook = Box<dyn Fn() + Send + Sync>;

/// Called with the first node that has said that it has declared this process failed.
pub type ExclusionHook = Box<dyn Fn(usize) + Send + Sync>;

/// What the layer above wants to be told.
#[derive(Default)]
struct Hooks {
    words: [OnceLock<WordHook>; MOST_WATCHED],
    breach: OnceLock<WordHook>,
    exclusion: OnceLock<ExclusionHook>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let watched = self.words.iter().filter(|hook| hook.get().is_some()).count();
        f.debug_struct("Hooks").field("watched", &watched).finish_non_exhaustive()
    }
}

/// Who serves the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The background thread.
    Served = 0,
    /// Ranks that wait.
    Stolen = 1,
    /// Nobody any more: the thread is to end.
    Over = 2,
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
        // SYNC POINT: nap. Before `wake_thread` looks at the nap; the thread looks at this after it has begun its nap.
        self.shared.progress.store(Progress::Over as u32, Ordering::SeqCst);
        self.shared.wake_thread();
        self.shared.kick();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        // A panic under the lock is a bug that its thread reports; the connections are as sound as before it.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn turn(&self, mut engine: MutexGuard<'_, Engine>) {
        engine.turn();
        self.deliver(engine);
    }

    /// Tells those who sleep on the connections what has come in, and, without the engine's lock, those above what they
    /// want to know.
    #[inline]
    fn deliver(&self, mut engine: MutexGuard<'_, Engine>) {
        engine.tell_sleepers();
        if engine.has_calls() {
            drop(engine);
            self.call();
        }
    }

    /// As [`deliver`](Self::deliver), for a caller that may hold what a hook or a reader of letters waits for: it is
    /// the background thread that tells those above, unless somebody polls.
    #[inline]
    fn leave(&self, mut engine: MutexGuard<'_, Engine>) {
        engine.tell_sleepers();
        if engine.has_calls() {
            drop(engine);
            self.call_thread();
        }
    }

    #[cold]
    fn call_thread(&self) {
        // Where it does not serve, whoever does looks by itself, or the thread when it does again.
        if self.progress.load(Ordering::Relaxed) == Progress::Served as u32 {
            self.kick();
        }
    }

    /// Tells those above what has come in until there is nothing, unless somebody else reads letters. Nobody waits for
    /// a reader: it may take long.
    #[cold]
    fn call(&self) {
        loop {
            let due = self.engine().take_due();
            self.call_hooks(due);
            match self.reader.turn.try_lock() {
                Ok(_turn) => self.read_those_there(),
                // As in `engine`: a panic in a reader must not keep the others from reading.
                Err(TryLockError::Poisoned(_)) => {
                    self.reader.turn.clear_poison();
                    continue;
                }
                // Its holder looks again when it has given the turn back, and finds what this thread has taken in
                // before.
                Err(TryLockError::WouldBlock) => return,
            }
            if !self.engine().has_calls() {
                return;
            }
        }
    }

    fn call_hooks(&self, due: Due) {
        let changed = self.hooks.words.iter().enumerate().filter(|(index, _)| due.is_changed(*index));
        changed.filter_map(|(_, hook)| hook.get()).for_each(|hook| hook());
        if let Some(hook) = self.hooks.breach.get().filter(|_| due.is_broken()) {
            hook();
        }
        if let (Some(node), Some(hook)) = (due.excluded_by, self.hooks.exclusion.get()) {
            hook(node);
        }
    }

    fn read_those_there(&self) {
        let letters = self.engine().take_letters();
        let Some(handler) = self.reader.handler.get() else { return };
        for (node, letter) in letters {
            if let Some(answer) = handler(node, &letter) {
                // Whoever has sent the letter sends it again, or goes on without an answer.
                let _ = self.engine().send_letter(node, &answer);
            }
        }
    }

    /// The background thread.
    fn serve(&self) {
        loop {
            // SYNC POINT: progress. Relaxed: the lock of the engine orders what the turns do.
            match self.progress.load(Ordering::Relaxed) {
                progress if progress == Progress::Over as u32 => return,
                progress if progress == Progress::Stolen as u32 => {
                    self.quiet_kick();
                    self.sleep_while_stolen();
                }
                _ => {
                    let mut engine = self.engine();
                    if self.progress.load(Ordering::Relaxed) != Progress::Served as u32 {
                        continue;
                    }
                    engine.watch_links();
                    // No event tells of letters that a ring has taken in before.
                    self.deliver(engine);
                    let limit = self.engine().next_limit();
                    let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
                    self.wait_for_events_or_kick(left);
                    self.quiet_kick();
                    // Looked at under the lock: whoever steals the progress and then takes the lock knows that nothing
                    // comes in behind its back any more.
                    let mut engine = self.engine();
                    if self.progress.load(Ordering::Relaxed) == Progress::Served as u32 {
                        engine.look_around();
                        self.deliver(engine);
                    }
                }
            }
        }
    }

    /// Sleeps for as long as somebody polls or sleeps on the connections, and then takes them back.
    fn sleep_while_stolen(&self) {
        let seen = self.polls.load(Ordering::Relaxed);
        // SYNC POINT: nap. Before the two looks below; whoever changes what they see does so before it looks at the
        // nap.
        self.nap.store(1, Ordering::SeqCst);
        let is_stolen = self.progress.load(Ordering::SeqCst) == Progress::Stolen as u32;
        if is_stolen {
            let somebody_sleeps = self.asleep.load(Ordering::SeqCst) != 0;
            let span = Timespec::try_from(STEAL_LASTS).expect("milliseconds fit");
            let timeout = if somebody_sleeps { None } else { Some(&span) };
            let _ = futex::wait(&self.nap, futex::Flags::PRIVATE, 1, timeout);
        }
        self.nap.store(0, Ordering::Relaxed);
        let is_idle = self.polls.load(Ordering::Relaxed) == seen && self.asleep.load(Ordering::Relaxed) == 0;
        if is_idle {
            let (stolen, served) = (Progress::Stolen as u32, Progress::Served as u32);
            let _ = self.progress.compare_exchange(stolen, served, Ordering::SeqCst, Ordering::Relaxed);
        }
    }

    /// Sleeps until something comes in by this process's connections, or somebody rouses those who sleep, or for no
    /// reason; not where `has_changed` says that what is waited for is there.
    fn sleep_unless(&self, has_changed: impl Fn(&Engine) -> bool, timeout: Option<Duration>) {
        if self.has_heard_by_polling(&has_changed, timeout) {
            return;
        }
        // SYNC POINT: nap. The thread looks at it after it has begun its nap, which then lasts until it is woken; if it
        // has looked before, the nap has an end.
        self.asleep.fetch_add(1, Ordering::SeqCst);
        self.steal();
        // From here on the thread takes nothing in. Another rank's thread that polls tells those who sleep; what has
        // come before is seen.
        let sleep = {
            let mut engine = self.engine();
            engine.watch_links();
            // Whoever raises the alarm rouses those who sleep after it, under the same lock; and so does who sets a
            // limit.
            (!has_changed(&engine)).then(|| engine.fall_asleep())
        };
        if let Some(sleep) = sleep {
            // The thread does not look at limits meanwhile.
            let left = sleep.limit.map(|limit| limit.saturating_duration_since(Instant::now()));
            let timeout = timeout.into_iter().chain(left).min();
            match sleep.peals {
                None => self.wait_for_events(timeout),
                Some(peals) => self.wait_for_quiet(peals, timeout),
            }
            let mut engine = self.engine();
            engine.wake_up(&sleep);
            self.deliver(engine);
        }
        // SYNC POINT: nap. Before `wake_thread` looks at the nap: a nap that is not seen there has not looked at this
        // yet.
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        self.wake_thread();
    }

    /// Polls for a while instead of sleeping, where things come closely one after another ([`attention`]). `true`:
    /// nobody need sleep: something has come, what is waited for is there, or the time is over.
    fn has_heard_by_polling(&self, has_changed: impl Fn(&Engine) -> bool, timeout: Option<Duration>) -> bool {
        let mut engine = self.engine();
        let Some(until) = engine.begin_attention() else { return false };
        let limit = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let heard = engine.heard();
        loop {
            self.steal();
            let has_come = engine.heard() != heard;
            let now = Instant::now();
            let is_over = limit.is_some_and(|limit| now >= limit);
            if has_come || now >= until {
                engine.end_attention(has_come);
                return has_come;
            }
            if is_over || has_changed(&engine) {
                return true;
            }
            self.turn(engine);
            pause_between_looks();
            engine = self.engine();
        }
    }

    /// A rank polls: the background thread must not. One system call, and only when it has been serving.
    #[inline]
    fn steal(&self) {
        let polls = self.polls.load(Ordering::Relaxed);
        self.polls.store(polls.wrapping_add(1), Ordering::Relaxed);
        if self.progress.load(Ordering::Relaxed) == Progress::Served as u32 {
            let (served, stolen) = (Progress::Served as u32, Progress::Stolen as u32);
            if self.progress.compare_exchange(served, stolen, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.kick();
            }
        }
    }

    fn kick(&self) {
        // The counter cannot be full: it is read whenever it is not 0.
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }

    fn quiet_kick(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.kick, &mut count);
    }

    /// Ends the thread's nap, if it has one.
    fn wake_thread(&self) {
        // SYNC POINT: nap.
        if self.nap.swap(0, Ordering::SeqCst) == 1 {
            let _ = futex::wake(&self.nap, futex::Flags::PRIVATE, 1);
        }
    }

    /// Sends what is on its way: whoever has passed a barrier may end, and others wait for what it has posted, perhaps
    /// to a node to which it is only just connecting.
    fn linger(&self) {
        let limit = Instant::now() + LINGER;
        loop {
            let next = {
                let mut engine = self.engine();
                engine.look_around();
                if !engine.has_unsent() {
                    return;
                }
                let next = engine.next_limit().map_or(limit, |next| next.min(limit));
                self.deliver(engine);
                next
            };
            let now = Instant::now();
            if now >= limit {
                return;
            }
            // The other thread may be told of it first, and then looks around itself.
            self.wait_for_events(Some(next.saturating_duration_since(now).min(LINGERING_NAP)));
        }
    }

    /// Sleeps until those have woken for whom the bell rings. They are about to look around.
    fn wait_for_quiet(&self, peals: u32, timeout: Option<Duration>) {
        let timeout = timespec(timeout);
        let _ = futex::wait(&self.peals, futex::Flags::PRIVATE, peals, timeout.as_ref());
    }

    /// As [`wait_for_events`](Self::wait_for_events), for the background thread, until it is kicked. A kick is none of
    /// the events: it would keep those awake who sleep on the connections, and have stolen them, until this thread has
    /// a CPU.
    fn wait_for_events_or_kick(&self, timeout: Option<Duration>) {
        let timeout = timespec(timeout);
        let waits = |descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
        let _ = poll(&mut [waits(self.epoll.as_fd()), waits(self.kick.as_fd())], timeout.as_ref());
    }

    /// Sleeps until the kernel has something to tell of a connection; it stays to be told.
    fn wait_for_events(&self, timeout: Option<Duration>) {
        let timeout = timespec(timeout);
        let mut events = Vec::with_capacity(1);
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref());
    }
}

/// Leaves the engine to others for a moment.
fn pause_between_looks() {
    let until = Instant::now() + BETWEEN_LOOKS;
    while Instant::now() < until {
        spin_hint();
    }
}

/// A time-out for the kernel. One too long for its type is for ever.
fn timespec(timeout: Option<Duration>) -> Option<Timespec> {
    timeout.and_then(|span| Timespec::try_from(span).ok())
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
        self.shared.steal();
        match self.shared.engine.try_lock() {
            Ok(engine) => self.shared.turn(engine),
            // As in `engine`: a panic elsewhere must not stop the connections.
            Err(TryLockError::Poisoned(poisoned)) => self.shared.turn(poisoned.into_inner()),
            // Somebody else takes the turn.
            Err(TryLockError::WouldBlock) => {}
        }
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
        // SYNC POINT: nap. Whoever sleeps on the connections looks at them, and has the thread take over when it wakes
        // up and goes. Two that wait for the same events would wake for each other's, again and again.
        if self.shared.asleep.load(Ordering::SeqCst) != 0 {
            return;
        }
        let (served, stolen) = (Progress::Served as u32, Progress::Stolen as u32);
        if self.shared.progress.compare_exchange(stolen, served, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
            self.shared.wake_thread();
        }
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
