//! What joins this process's node to the job's others: TCP to all of them, and RDMA to those with which it exchanges
//! barriers' messages, where both ends have a device.
//!
//! An adapter's atomics are not atomic against the CPUs that serve TCP's, and not every process of a job has a way by
//! RDMA to every node. So here atomics go by TCP, where the home's CPU executes them, whoever asks; writes and reads
//! take RDMA where it is. Words of objects at their home are the exception: where all of a node's ranks have its
//! device, that does their atomics, whoever asks and by whatever way (`home_words`). What comes by one way is not
//! ordered against what comes by the other, so a node's way is changed only after a read by the old one has come back:
//! meanwhile posts are refused as [`PostError::Full`].
//!
//! A process that does not speak for its node is a *guest* of other nodes' agents, by RDMA as by TCP: an agent serves
//! an end of a connection for it, by which nothing is asked of the guest ([`Served`]). Such a one that breaks is not
//! made anew. Its guest's end is given up, what is on its way has a packet's life to arrive, and then the node is
//! reached by TCP.
//!
//! A connection of two agents that breaks is reported and made anew ([`Mending`]); the ends' notes go by TCP. Nothing
//! is posted to the node until its other end is known to be gone, and then by TCP until the new one is there: posts are
//! refused, as [`PostError::Full`] at first and as [`PostError::Unreachable`] when the node does not answer. Reads of
//! outboxes mend what was lost (`coord::barrier::spanning`). Where the rank at its other end has been declared failed
//! it is not mended: the node's next agent is reached by TCP.
//!
//! Here requests find their way. By what each node is reached, and how its connection is mended, is in `ways.rs`;
//! `kept_writes.rs` has work requests that are posted again and again, `home_words.rs` who changes words of objects.

pub mod home_words;
mod kept_writes;
mod ways;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use self::home_words::HomeWords;
use self::ways::{Rdma, Way};
use super::mending::{Mending, Note, answer_without_end};
use super::rdma::{Offer, RdmaError, RdmaFabric, Served};
use super::tcp::{ExclusionHook, GivenUp, Ports, TcpFabric, WordHook};
use super::{AtomicScope, Await, Fabric, FabricKind, OperationError, PostError, Request, Ticket, WordAt, check_batch};
use crate::sync::Ordering;

/// Marks the tickets of the RDMA fabric: the highest bit of the slot.
const BY_RDMA: u32 = 1 << 31;
/// Where all of this node's partners are reached by RDMA, what is waited for comes into memory by itself: completions
/// and sockets are looked at this seldom.
const COMPLETIONS_EVERY: u32 = 8;
const SOCKETS_EVERY: u32 = 64;
/// While connections are being mended, it is looked this seldom whether time has come for something.
const MENDING_EVERY: u32 = 16;
/// How long a rank sleeps between two looks at memory that an adapter may have written.
const NAP: Duration = Duration::from_micros(100);
/// How long a network that is dropped waits for what it has posted by RDMA: some repetitions of a lost packet. A
/// partner that has ended already answers no more.
const LINGER: Duration = Duration::from_millis(250);
/// A word that every segment has, for reads that only tell that what was posted before has arrived.
const ANY_WORD: WordAt = WordAt(0);

/// A process's way to all nodes.
#[derive(Debug)]
pub struct Network {
    tcp: TcpFabric,
    rdma: Option<Arc<Rdma>>,
    home_words: HomeWords,
    /// The ends that this process has for guests of other nodes.
    served: Mutex<Vec<Guest>>,
    /// Whether some node of the job writes by RDMA, so that words change without anybody's being woken.
    adapters_write: bool,
}

/// A process of another node that has an end here.
#[derive(Debug)]
struct Guest {
    node: usize,
    rank: usize,
    _end: Served,
}

impl Network {
    /// All nodes by TCP. `adapters_write`: other nodes may still write here by RDMA.
    pub fn by_tcp(tcp: TcpFabric, adapters_write: bool, home_words: HomeWords) -> Self {
        home_words.serve(&tcp);
        // Where the one before this process spoke for its node by RDMA, others ask what has become of that.
        tcp.read_letters(Box::new(|_, letter| answer_without_end(Note::parse(letter)?).map(|note| note.encode())));
        Self { tcp, rdma: None, home_words, served: Mutex::default(), adapters_write }
    }

    /// Those nodes by RDMA whose agents this process becomes a guest of, out of these ([`visit`](Self::visit)).
    pub fn as_guest(tcp: TcpFabric, fabric: Arc<RdmaFabric>, nodes: Vec<usize>, home_words: HomeWords) -> Self {
        Self::with_ways(tcp, fabric, nodes.into(), false, home_words, |_| None)
    }

    /// Finishes the connection to a node whose agent serves it, as it has said in answer to this process's offer.
    ///
    /// # Errors
    ///
    /// What the device says: the node is then reached by TCP.
    pub fn visit(&self, node: usize, offer: &Offer) -> Result<(), RdmaError> {
        let Some(rdma) = self.rdma.as_deref().filter(|rdma| rdma.reached.contains(&node)) else { return Ok(()) };
        rdma.visit(node, offer)
    }

    /// Keeps an end for a guest, until it is shut out.
    pub fn keep_guest(&self, node: usize, rank: usize, end: Served) {
        self.guests().push(Guest { node, rank, _end: end });
    }

    fn guests(&self) -> MutexGuard<'_, Vec<Guest>> {
        // Nothing panics while it holds them.
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those nodes by RDMA to which `fabric` is connected. `reaches_all_partners`: with which all others messages of
    /// barriers are exchanged are among them.
    pub fn with_rdma(
        tcp: TcpFabric,
        fabric: Arc<RdmaFabric>,
        reaches_all_partners: bool,
        home_words: HomeWords,
    ) -> Self {
        let (here, now) = (tcp.here(), Instant::now());
        let is_reached = |node: &usize| *node != here && fabric.is_connected(*node);
        let reached: Box<[usize]> = (0..tcp.nodes()).filter(is_reached).collect();
        let mending = |node| Some(Mending::new(here, node, now));
        Self::with_ways(tcp, fabric, reached, reaches_all_partners, home_words, mending)
    }

    fn with_ways(
        tcp: TcpFabric,
        fabric: Arc<RdmaFabric>,
        reached: Box<[usize]>,
        reaches_all_partners: bool,
        home_words: HomeWords,
        mending: impl Fn(usize) -> Option<Mending>,
    ) -> Self {
        home_words.serve(&tcp);
        let rdma = Arc::new(Rdma::new(fabric, tcp.nodes(), reached, reaches_all_partners, mending));
        let reader = Arc::clone(&rdma);
        tcp.read_letters(Box::new(move |node, letter| {
            let note = Note::parse(letter)?;
            reader.hear(node, note).map(|answer| answer.encode())
        }));
        Self { tcp, rdma: Some(rdma), home_words, served: Mutex::default(), adapters_write: true }
    }

    /// Speaks for this node from now on, by TCP ([`TcpFabric::become_agent`]).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn become_agent(&self) -> std::io::Result<()> {
        self.tcp.become_agent()
    }

    /// Whether this process speaks for its node.
    pub fn is_agent(&self) -> bool {
        self.tcp.is_agent()
    }

    /// Begins to connect to a node by TCP, to see whether it lets anybody in ([`TcpFabric::probe`]).
    pub fn probe(&self, node: usize) {
        self.tcp.probe(node);
    }

    /// What the last attempt to reach a node has shown of its processes ([`TcpFabric::ports`]).
    pub fn ports(&self, node: usize) -> Ports {
        self.tcp.ports(node)
    }

    /// How long ago a node's kernel has acknowledged something ([`TcpFabric::acknowledged`]).
    pub fn acknowledged(&self, node: usize) -> Option<Duration> {
        self.tcp.acknowledged(node)
    }

    /// Shuts a rank out that has been declared failed: what it has sent and is not here yet takes no effect. A node
    /// that it has spoken for by RDMA is reached by TCP, and its next agent.
    pub fn exclude_rank(&self, rank: usize) {
        let reached = self.rdma.as_deref().into_iter().flat_map(|rdma| rdma.reached.iter());
        let spoken_for = reached.copied().find(|node| self.tcp.first_rank_of(*node) == Some(rank));
        if let Some(node) = spoken_for {
            self.leave_rdma(node, &format!("rank {rank} has been declared failed"));
        }
        self.guests().retain(|guest| guest.rank != rank);
        self.tcp.exclude_rank(rank);
    }

    /// Shuts a node out that has been declared failed; posts to it fail at once, as [`PostError::Unreachable`].
    pub fn exclude_node(&self, node: usize) {
        self.leave_rdma(node, &format!("node {node} has been declared failed"));
        self.guests().retain(|guest| guest.node != node);
        self.tcp.exclude_node(node);
    }

    /// The first node that has said to this process that it is excluded.
    pub fn excluded_by(&self) -> Option<usize> {
        self.tcp.excluded_by()
    }

    /// Has `hook` called once a node has said that ([`TcpFabric::when_excluded`]).
    pub fn when_excluded(&self, hook: ExclusionHook) {
        self.tcp.when_excluded(hook);
    }

    /// Has `hook` called after a connection by TCP has broken ([`TcpFabric::when_broken`]).
    pub fn when_broken(&self, hook: WordHook) {
        self.tcp.when_broken(hook);
    }

    /// Who is about to sleep on the connections polls them first for so long, where it is busy
    /// ([`TcpFabric::stay_awake_for`]).
    pub fn stay_awake_for(&self, span: Duration) {
        self.tcp.stay_awake_for(span);
    }

    /// Whether words of objects that are at home on this node are added to and swapped by its device: its ranks post
    /// that, too. Loads and writes are memory accesses in any case.
    pub fn changes_own_words_by_device(&self) -> bool {
        self.home_words.own().is_some()
    }

    /// By TCP alone: for what must reach a node whatever has become of its adapter, and for what need not be in order
    /// with anything else.
    pub fn by_sockets(&self) -> &TcpFabric {
        &self.tcp
    }

    /// Has this process execute what comes by TCP only as long as it is not given up ([`TcpFabric::serve_until`]).
    pub fn serve_until(&self, at: WordAt, is_over: GivenUp) {
        self.tcp.serve_until(at, is_over);
    }

    /// Has `hook` called after a word has been changed by TCP ([`TcpFabric::watch_word`]).
    ///
    /// # Panics
    ///
    /// As there.
    pub fn watch_word(&self, at: WordAt, hook: WordHook) {
        self.tcp.watch_word(at, hook);
    }

    /// Gives the connection by RDMA to a node up for good, if there is one.
    fn leave_rdma(&self, node: usize, why: &str) {
        if let Some(rdma) = self.rdma.as_deref().filter(|rdma| rdma.reached.contains(&node)) {
            rdma.leave(node, why);
        }
    }

    /// Breaks the connection by RDMA to a node, as a device would; for tests. `false` where there is none.
    #[cfg(feature = "testing")]
    pub fn break_rdma(&self, node: usize) -> bool {
        self.adapter().is_some_and(|adapter| adapter.break_connection(node))
    }

    /// This process's device.
    fn adapter(&self) -> Option<&RdmaFabric> {
        self.rdma.as_deref().map(|rdma| &*rdma.fabric)
    }

    /// What a request that was posted by RDMA has been answered, looking at what has completed: who asks waits for it.
    fn take_by_rdma(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        let adapter = self.adapter().expect("it has given out the ticket");
        let ticket = Ticket { slot: ticket.slot & !BY_RDMA, ..ticket };
        adapter.look_for(ticket)
    }

    fn forget_by_rdma(&self, ticket: Ticket) {
        let adapter = self.adapter().expect("it has given out the ticket");
        adapter.forget(Ticket { slot: ticket.slot & !BY_RDMA, ..ticket });
    }

    /// Has this node's device do requests to words of this node. What is posted so is in order with nothing else.
    fn post_to_own_device(&self, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        let first = tickets.len();
        self.home_words.own().expect("asked before").post(requests, tickets)?;
        mark(&mut tickets[first..]);
        Ok(())
    }

    /// Says to a node what mending its connection asks for by now.
    fn mend(&self, rdma: &Rdma, way: &mut Way, node: usize) {
        let Some(note) = rdma.mend(way, node) else { return };
        if let Err(error) = self.tcp.send_letter(node, &note.encode()) {
            way.trouble = Some(error);
        }
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
                mark(&mut tickets[first..]);
                Ok(())
            }
            _ => self.tcp.post(node, requests, tickets),
        }
    }

    /// Leaves one way for the other, once all that was posted has arrived.
    fn change_way(&self, way: &mut Way, node: usize) -> Result<(), PostError> {
        if way.is_used && !self.has_arrived(way, node)? {
            return Err(PostError::Full { node });
        }
        (way.by_rdma, way.is_used) = (!way.by_rdma, false);
        Ok(())
    }

    /// Whether all that was posted to a node by its present way has arrived, or never will.
    ///
    /// Only a read that has come back says so. What a broken connection by TCP has carried may still wait at the other
    /// end, until that welcomes the next one, by which is read again: it then drops the old one with all that is in it.
    /// One by RDMA that breaks is seen to be held, and is left when the other end has given it up.
    fn has_arrived(&self, way: &mut Way, node: usize) -> Result<bool, PostError> {
        if let Some(ticket) = way.leaving {
            let Poll::Ready(read) = self.take(ticket) else { return Ok(false) };
            way.leaving = None;
            if read.is_ok() {
                return Ok(true);
            }
        }
        let mut tickets = Vec::with_capacity(1);
        self.post_by(way.by_rdma, node, &[Request::Read { at: ANY_WORD }], &mut tickets)?;
        way.leaving = tickets.pop();
        Ok(false)
    }

    /// Whether something that was posted to a node by RDMA may still be on its way; asks, if nobody has.
    fn has_unfinished(&self, rdma: &Rdma, node: usize) -> bool {
        // Whoever holds the way connects to the node, or answers it.
        let Some(mut way) = rdma.try_way(node) else { return true };
        if !way.by_rdma || !way.is_used {
            return false;
        }
        match self.has_arrived(&mut way, node) {
            Ok(false) | Err(PostError::Full { .. }) => true,
            Ok(true) => {
                way.is_used = false;
                false
            }
            Err(PostError::Unreachable { .. } | PostError::Invalid { .. }) => false,
        }
    }
}

impl Drop for Network {
    /// Whoever has passed a barrier may end, and others wait for what it has posted: a queue pair that goes takes with
    /// it what it has not sent, or would have to send again.
    fn drop(&mut self) {
        let Some(rdma) = &self.rdma else { return };
        let limit = Instant::now() + LINGER;
        loop {
            // Each is asked before any is waited for: one that has ended does not use up the time of the others.
            let unfinished = rdma.reached.iter().filter(|node| self.has_unfinished(rdma, **node)).count();
            if unfinished == 0 || Instant::now() >= limit {
                return;
            }
            rdma.fabric.progress();
            crate::machine::yield_cpu();
        }
    }
}

/// Tells tickets of the RDMA fabric from TCP's.
fn mark(tickets: &mut [Ticket]) {
    tickets.iter_mut().for_each(|ticket| ticket.slot |= BY_RDMA);
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
            Some(rdma) if rdma.way(node).is_whole() => FabricKind::Rdma,
            _ => FabricKind::Tcp,
        }
    }

    /// Of all words but those of objects: [`HomeWords`] says by what these are changed.
    fn atomic_scope(&self, node: usize) -> AtomicScope {
        self.tcp.atomic_scope(node)
    }

    fn incarnation(&self, node: usize) -> u64 {
        self.tcp.incarnation(node) + self.rdma.as_ref().map_or(0, |rdma| rdma.fabric.incarnation(node))
    }

    fn post(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        if node == self.here() && self.home_words.need_own_device(node, requests) {
            check_batch(self, node, requests)?;
            return self.post_to_own_device(requests, tickets);
        }
        let Some(rdma) = &self.rdma else { return self.tcp.post(node, requests, tickets) };
        check_batch(self, node, requests)?;
        let mut way = rdma.way(node);
        if rdma.has_trouble() {
            self.mend(rdma, &mut way, node);
        }
        if let Some(refusal) = way.refusal(node) {
            return Err(refusal);
        }
        if way.is_settling() {
            return Err(PostError::Full { node });
        }
        let by_rdma = way.is_whole() && node != self.here() && self.home_words.suit_device(node, requests);
        if by_rdma != way.by_rdma {
            self.change_way(&mut way, node)?;
        }
        match requests {
            [Request::Write { at, value }] if by_rdma => way.kept.post(&rdma.fabric, node, *at, *value)?,
            _ => self.post_by(by_rdma, node, requests, tickets)?,
        }
        way.is_used = true;
        // A read that was to tell that all had arrived tells nothing of what comes after it.
        if let Some(ticket) = way.leaving.take() {
            self.forget(ticket);
        }
        Ok(())
    }

    fn post_more(&self, node: usize, requests: &[Request], tickets: &mut Vec<Ticket>) -> Result<(), PostError> {
        match self.rdma {
            None if node != self.here() => self.tcp.post_more(node, requests, tickets),
            // Who has an adapter rings its doorbell at once.
            _ => self.post(node, requests, tickets),
        }
    }

    fn flush(&self) {
        self.tcp.flush();
    }

    fn progress(&self) {
        let Some(rdma) = &self.rdma else { return self.tcp.progress() };
        let polls = rdma.count_poll();
        let has_trouble = rdma.has_trouble();
        if has_trouble && polls.is_multiple_of(MENDING_EVERY) {
            rdma.mend_all(|way, node| self.mend(rdma, way, node));
        }
        // What comes by TCP comes as soon as it would in a job that has nothing else.
        let looks_at_all = has_trouble || rdma.reaches_all_partners.load(Ordering::Relaxed) == 0;
        if looks_at_all || polls.is_multiple_of(COMPLETIONS_EVERY) {
            rdma.fabric.progress();
        }
        if looks_at_all || polls.is_multiple_of(SOCKETS_EVERY) {
            self.tcp.progress();
        }
    }

    fn take(&self, ticket: Ticket) -> Poll<Result<u64, OperationError>> {
        if ticket.slot & BY_RDMA != 0 { self.take_by_rdma(ticket) } else { self.tcp.take(ticket) }
    }

    fn forget(&self, ticket: Ticket) {
        if ticket.slot & BY_RDMA != 0 { self.forget_by_rdma(ticket) } else { self.tcp.forget(ticket) }
    }
}

impl Await for Network {
    fn hand_over(&self) {
        self.tcp.hand_over();
    }

    fn hand_over_if_asked(&self, begun: Instant) {
        self.tcp.hand_over_if_asked(begun);
    }

    #[inline]
    fn serve_in_passing(&self) {
        self.tcp.serve_in_passing();
    }

    fn sleep(&self, at: WordAt, seen: u64, alarm: u64, timeout: Option<Duration>) -> bool {
        if self.adapters_write {
            // An adapter wakes nobody: look again soon, at the word and at the sockets.
            std::thread::sleep(timeout.map_or(NAP, |timeout| timeout.min(NAP)));
            self.tcp.progress();
            return true;
        }
        self.tcp.sleep(at, seen, alarm, timeout)
    }

    fn nap(&self, alarm: u64, timeout: Duration) {
        match self.adapters_write {
            true => std::thread::sleep(timeout.min(NAP)),
            false => self.tcp.nap(alarm, timeout),
        }
    }

    fn rouse(&self) {
        self.tcp.rouse();
    }

    fn longest_nap(&self) -> Option<Duration> {
        if self.adapters_write { Some(NAP) } else { self.tcp.longest_nap() }
    }
}
