//! A connection to one node: turns requests into work requests, and completions into values.
//!
//! Each request has a word in the connection's ring: a write's value is sent from there, an answer lands there. The
//! word is used again only when the request has completed. A batch is one list of work requests, posted at once.
//!
//! A completion is not taken for an answer. Before a read or an atomic is posted, a mark that nobody can foresee is put
//! where its answer is to land (`marks`); if the mark is still there at the completion, nothing has landed, and the
//! connection ends with the request as lost. Soft-RoCE completes requests that way when packets are lost.
#![allow(unsafe_code, reason = "posts to a queue pair")]

use std::collections::VecDeque;
use std::ffi::c_uint;
use std::mem::MaybeUninit;

use super::endpoint::{Endpoint, post_error};
use super::marks::Marks;
use super::memory::Ring;
use super::offer::{AtomicCapability, Offer};
use super::verbs::{self, Remote, RemoteAtomic, RemoteWord, ScatterGather, SendWorkRequest, WC_SUCCESS};
use super::window::{Entry, Fencing, Window};
use crate::fabric::tickets::TicketTable;
use crate::fabric::{BATCH_REQUESTS, OperationError, Request, Ticket, WordAt};
use crate::sync::Ordering;

/// Completions that are taken at a time.
const COMPLETIONS: usize = 16;

/// How another node's segment is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemoteSegment {
    pub base: u64,
    pub key: u32,
    pub atomics: AtomicCapability,
}

impl RemoteSegment {
    pub fn of(offer: &Offer) -> Self {
        Self { base: offer.base, key: offer.key, atomics: offer.atomics }
    }

    #[inline]
    fn address(&self, at: WordAt) -> u64 {
        self.base + 8 * at.0 as u64
    }

    #[inline]
    fn word(&self, at: WordAt) -> Remote {
        Remote { rdma: RemoteWord { remote_addr: self.address(at), rkey: self.key } }
    }

    #[inline]
    fn atomic(&self, at: WordAt, compare_add: u64, swap: u64) -> Remote {
        Remote { atomic: RemoteAtomic { remote_addr: self.address(at), compare_add, swap, rkey: self.key } }
    }
}

/// Room for a batch's work requests, used again by every batch.
pub(super) struct Batch {
    works: Box<[SendWorkRequest; BATCH_REQUESTS]>,
    memory: Box<[ScatterGather; BATCH_REQUESTS]>,
    length: usize,
    has_value: bool,
}

// SAFETY: its pointers are set anew by every post, and lead to itself only.
unsafe impl Send for Batch {}

impl Batch {
    pub fn new() -> Self {
        let nothing = ScatterGather { addr: 0, length: 8, lkey: 0 };
        Self {
            works: Box::new([SendWorkRequest::EMPTY; BATCH_REQUESTS]),
            memory: Box::new([nothing; BATCH_REQUESTS]),
            length: 0,
            has_value: false,
        }
    }

    #[inline]
    fn clear(&mut self) {
        (self.length, self.has_value) = (0, false);
    }

    /// Makes a list of what was pushed; gives its first.
    #[inline]
    fn link(&mut self) -> *mut SendWorkRequest {
        let (first, memory) = (self.works.as_mut_ptr(), self.memory.as_mut_ptr());
        for index in 0..self.length {
            // SAFETY: both are places in the arrays, which are as long.
            unsafe {
                let next = if index + 1 == self.length { std::ptr::null_mut() } else { first.add(index + 1) };
                (*first.add(index)).next = next;
                (*first.add(index)).sg_list = memory.add(index);
            }
        }
        first
    }
}

/// What became of a batch.
pub(super) enum Posted {
    All,
    /// Nothing was posted, and the connection is of no more use.
    None(String),
    /// Some may have been posted: their tickets are under way, and the connection is of no more use.
    Some(String),
}

pub(super) struct Connection {
    // Fields are dropped in this order: first the queue pair, so that the adapter no longer touches the ring.
    endpoint: Endpoint,
    ring: Ring,
    marks: Marks,
    window: Window,
    /// What must not be posted yet, in order. Always empty but on soft-RoCE.
    held: VecDeque<(Request, Entry)>,
    remote: RemoteSegment,
    swaps_answers: bool,
    /// Whether it stands in the fabric's list of connections to look at.
    pub is_listed: bool,
}

/// What a device does in its own way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quirks {
    /// Atomics' answers come in big-endian order, and this CPU is of the other kind.
    pub swaps_answers: bool,
    /// It is soft-RoCE, which bears no fences.
    pub is_soft_roce: bool,
}

impl Connection {
    /// A connection whose requests use this ring, which has `depth` words.
    pub fn new(endpoint: Endpoint, ring: Ring, depth: usize, remote: RemoteSegment, quirks: Quirks) -> Self {
        let fencing = if quirks.is_soft_roce { Fencing::Soft } else { Fencing::Standard };
        let window = Window::new(depth, fencing);
        let held = VecDeque::new();
        let (marks, swaps_answers) = (Marks::new(), quirks.swaps_answers);
        Self { endpoint, ring, marks, window, held, remote, swaps_answers, is_listed: false }
    }

    pub fn remote(&self) -> &RemoteSegment {
        &self.remote
    }

    /// Puts the queue pair into its error state.
    #[cfg(feature = "testing")]
    pub fn break_down(&self) -> bool {
        self.endpoint.break_down().is_ok()
    }

    /// Whether there is room for the requests now.
    #[inline]
    pub fn has_room_for(&self, requests: usize) -> bool {
        requests + self.held.len() <= self.window.room()
    }

    pub fn is_idle(&self) -> bool {
        self.window.under_way() == 0 && self.held.is_empty()
    }

    /// Posts a batch for which there is room, and appends its tickets.
    pub fn post(
        &mut self,
        requests: &[Request],
        batch: &mut Batch,
        table: &mut TicketTable,
        tickets: &mut Vec<Ticket>,
    ) -> Posted {
        let (tickets_before, held_before) = (tickets.len(), self.held.len());
        batch.clear();
        for request in requests {
            let entry = enter(request, table, tickets);
            if self.must_hold(request) {
                self.held.push_back((*request, entry));
            } else {
                self.add(batch, request, entry);
            }
        }
        match self.flush(batch) {
            Ok(()) => Posted::All,
            Err((why, posted_some)) if posted_some => Posted::Some(why),
            Err((why, _)) => {
                self.window.rewind(batch.length);
                self.held.truncate(held_before);
                tickets.drain(tickets_before..).for_each(|ticket| withdraw(ticket, table));
                Posted::None(why)
            }
        }
    }

    /// Whether a request may not be posted yet: it might overtake a read, or stands behind one that might.
    #[inline]
    fn must_hold(&self, request: &Request) -> bool {
        !self.held.is_empty() || self.window.must_wait(request)
    }

    /// Appends a request to a batch.
    #[inline]
    fn add(&mut self, batch: &mut Batch, request: &Request, entry: Entry) {
        let (count, fenced) = self.window.push(request, entry);
        let place = self.window.place(count);
        let mut flags = if fenced { verbs::SEND_FENCE } else { 0 };
        let content = match request {
            Request::Write { value, .. } => {
                flags |= self.inline_flag();
                *value
            }
            Request::Read { .. } | Request::FetchAdd { .. } | Request::CompareSwap { .. } => self.marks.of(count),
        };
        // Relaxed: posting orders it before the adapter's read, or its write.
        self.ring.word(place).store(content, Ordering::Relaxed);
        let (opcode, remote) = self.operation(request);
        batch.memory[batch.length] = self.memory_of(place);
        let work = &mut batch.works[batch.length];
        (work.wr_id, work.opcode, work.send_flags, work.wr) = (count, opcode, flags, remote);
        batch.length += 1;
        batch.has_value |= request.has_ticket();
    }

    /// Posts a batch; on failure says why, and whether some of it may have been posted.
    #[inline]
    fn flush(&mut self, batch: &mut Batch) -> Result<(), (String, bool)> {
        let Some(last) = batch.length.checked_sub(1) else { return Ok(()) };
        if self.window.signal(batch.has_value) {
            batch.works[last].send_flags |= verbs::SEND_SIGNALED;
        }
        self.hand_over(batch.link())
    }

    /// Posts what was held back, as far as that may be posted now.
    fn release(&mut self, batch: &mut Batch) -> Result<(), String> {
        batch.clear();
        while let Some(&(request, entry)) = self.held.front()
            && !self.window.must_wait(&request)
        {
            self.held.pop_front();
            self.add(batch, &request, entry);
            if batch.length == BATCH_REQUESTS {
                self.flush(batch).map_err(|(why, _)| why)?;
                batch.clear();
            }
        }
        self.flush(batch).map_err(|(why, _)| why)
    }

    /// Posts a write that [`Self::prepare`] has made, for which there is room.
    #[inline]
    pub fn repost(&mut self, work: &mut SendWorkRequest, at: WordAt, value: u64) -> Posted {
        let request = Request::Write { at, value };
        if self.must_hold(&request) {
            self.held.push_back((request, Entry::Write));
            return Posted::All;
        }
        let (count, fenced) = self.window.push(&request, Entry::Write);
        let place = self.window.place(count);
        // Relaxed: as in `post`.
        self.ring.word(place).store(value, Ordering::Relaxed);
        let mut memory = self.memory_of(place);
        let fence = if fenced { verbs::SEND_FENCE } else { 0 };
        let signal = if self.window.signal(false) { verbs::SEND_SIGNALED } else { 0 };
        (work.wr_id, work.send_flags) = (count, self.inline_flag() | fence | signal);
        work.sg_list = &raw mut memory;
        match self.hand_over(work) {
            Ok(()) => Posted::All,
            Err((why, _)) => {
                self.window.rewind(1);
                Posted::None(why)
            }
        }
    }

    /// The work request of a write to `at`, as far as it is the same for every value.
    pub fn prepare(&self, at: WordAt) -> SendWorkRequest {
        let mut work = SendWorkRequest::EMPTY;
        (work.opcode, work.wr) = (verbs::WR_RDMA_WRITE, self.remote.word(at));
        work
    }

    fn operation(&self, request: &Request) -> (c_uint, Remote) {
        match *request {
            Request::Write { at, .. } => (verbs::WR_RDMA_WRITE, self.remote.word(at)),
            Request::Read { at } => (verbs::WR_RDMA_READ, self.remote.word(at)),
            Request::FetchAdd { at, add } => (verbs::WR_ATOMIC_FETCH_AND_ADD, self.remote.atomic(at, add, 0)),
            Request::CompareSwap { at, expected, new } => {
                (verbs::WR_ATOMIC_CMP_AND_SWP, self.remote.atomic(at, expected, new))
            }
        }
    }

    #[inline]
    fn inline_flag(&self) -> u32 {
        if self.endpoint.has_inline() { verbs::SEND_INLINE } else { 0 }
    }

    #[inline]
    fn memory_of(&self, place: usize) -> ScatterGather {
        ScatterGather { addr: self.ring.address(place), length: 8, lkey: self.ring.local_key() }
    }

    /// Gives a list of work requests to the adapter; on failure says why, and whether it has taken some.
    #[inline]
    fn hand_over(&self, first: *mut SendWorkRequest) -> Result<(), (String, bool)> {
        let mut bad = first;
        // SAFETY: the queue pair is alive; the list is whole, its memory is the ring's, which is registered and
        // stays so until the queue pair is gone, and each word is free until its request has completed.
        let result = unsafe { verbs::post_send(self.endpoint.queue_pair(), first, &mut bad) };
        if result == 0 { Ok(()) } else { Err((format!("posting failed: {}", post_error(result)), bad != first)) }
    }

    /// Takes what has completed, and posts what waited for that. An error breaks the connection: the caller then ends
    /// it.
    pub fn poll(&mut self, batch: &mut Batch, table: &mut TicketTable) -> Result<(), String> {
        let mut room = [const { MaybeUninit::uninit() }; COMPLETIONS];
        loop {
            // SAFETY: the queue is alive.
            let completions = unsafe { verbs::poll_cq(self.endpoint.completions(), &mut room) };
            let completions = completions.ok_or("its completions cannot be read")?;
            for completion in completions {
                if completion.status != WC_SUCCESS {
                    return Err(self.endpoint.domain().verbs.status_text(completion.status));
                }
                self.complete_through(completion.wr_id, table)?;
            }
            if completions.len() < COMPLETIONS {
                return if self.held.is_empty() { Ok(()) } else { self.release(batch) };
            }
        }
    }

    fn complete_through(&mut self, count: u64, table: &mut TicketTable) -> Result<(), String> {
        let (ring, marks, swaps) = (&self.ring, &self.marks, self.swaps_answers);
        let have_landed = self.window.complete_through(count, |count, place, entry| {
            let Entry::Value { ticket, is_atomic } = entry else { return true };
            // Relaxed: the driver has ordered the adapter's write before the completion that was read.
            let Some(answer) = marks.answer(count, ring.word(place).load(Ordering::Relaxed)) else { return false };
            table.complete(ticket, Ok(if is_atomic && swaps { answer.swap_bytes() } else { answer }));
            true
        });
        if have_landed { Ok(()) } else { Err("a request completed without an answer".to_owned()) }
    }

    /// Ends all that is under way: nobody knows what has taken effect, but for what was held back.
    pub fn lose(&mut self, node: usize, why: &str, table: &mut TicketTable) {
        for (_, entry) in self.held.drain(..) {
            if let Entry::Value { ticket, .. } = entry {
                table.complete(ticket, Err(OperationError::NotSent { node, why: why.to_owned() }));
            }
        }
        self.window.drain(|entry| {
            if let Entry::Value { ticket, .. } = entry {
                table.complete(ticket, Err(OperationError::Lost { node, why: why.to_owned() }));
            }
        });
    }
}

/// The entry of a request in the window, with a ticket if it has one.
fn enter(request: &Request, table: &mut TicketTable, tickets: &mut Vec<Ticket>) -> Entry {
    if !request.has_ticket() {
        return Entry::Write;
    }
    let ticket = table.issue();
    tickets.push(ticket);
    Entry::Value { ticket, is_atomic: !matches!(request, Request::Read { .. }) }
}

/// Takes back a ticket that nobody has seen.
fn withdraw(ticket: Ticket, table: &mut TicketTable) {
    table.forget(ticket);
    table.complete(ticket, Ok(0));
}
