//! A ring of the kernel's (`io_uring`) by which one call sends to and receives from many connections.
//!
//! The ring is used as a *batch of calls that do not wait*, so that everything else stays as it is with sockets alone:
//!
//! - Sends are `MSG_DONTWAIT`: the kernel tries them within [`Ring::exchange`] and says how much it took. None is under
//!   way when `exchange` returns, so the bytes need to live no longer, and whoever comes next may write to the socket.
//! - Each connection has a multishot receive, into buffers that all connections share (`BUFFERS` of `BUFFER_BYTES`).
//!   With `DEFER_TASKRUN` the kernel only notes that a socket has something ([`Ring::has_news`], a load from memory: a
//!   look at any number of silent connections costs no system call), and takes it from the socket within `exchange`.
//!
//! `DEFER_TASKRUN` wants `SINGLE_ISSUER`: one thread alone may enter the ring, its *owner*, the first that polls. The
//! owner enters it only under the engine's lock, and takes out all completions before it gives the lock back. So for
//! everybody else the ring holds nothing: the background thread, and ranks' other threads, read and write the sockets
//! themselves, under the same lock, and no byte overtakes another. When the owner ends, the kernel cancels its receives
//! without taking anything from the sockets.
//!
//! Memory: 32 KiB of buffers and some 16 KiB of queues for a process, however many connections there are.
#![allow(unsafe_code, reason = "gives the kernel addresses of memory, and shares a queue of buffers with it")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread::ThreadId;

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use memmap2::MmapMut;
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::sync::{AtomicU16, Ordering};

/// Requests that the kernel is given at once, at most.
const ENTRIES: u32 = 64;
/// Completions that have room: a batch of sends, all buffers, and 128 connections that break off at once. More are
/// kept by the kernel until there is room.
const COMPLETIONS: u32 = 256;
/// Buffers to receive into. A power of two.
const BUFFERS: u16 = 64;
/// Bytes of each: sixteen frames.
const BUFFER_BYTES: usize = 512;
/// Bytes from the start of the mapping to the buffers: a page for the queue of those that are free.
const BUFFERS_AT: usize = 4096;
/// The only group of buffers.
const GROUP: u16 = 0;
/// Calls in a row by which the kernel may put a batch off.
const MOST_TRIES: u32 = 1000;

/// Whose a request of the ring's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// The link to a node.
    Link(usize),
    /// A guest's connection.
    Guest(u32),
}

/// Names one connection: a carrier's later connection has another serial number.
///
/// As the `user_data` of a request:
///
/// | bits | field |
/// | --- | --- |
/// | 0 | 1 for a send, 0 for a receive |
/// | 1 | 1 for a guest, 0 for a link |
/// | 2–31 | serial number |
/// | 32–63 | node, or guest's number |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Whose connection.
    pub carrier: Carrier,
    /// Which one.
    pub serial: Serial,
}

/// Tells connections from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial(u32);

impl Serial {
    const BITS: u32 = 30;

    /// From a running number.
    pub fn new(number: u32) -> Self {
        Self(number & ((1 << Self::BITS) - 1))
    }
}

impl Tag {
    fn pack(self, is_send: bool) -> u64 {
        let (is_guest, index) = match self.carrier {
            Carrier::Link(node) => (false, node as u64),
            Carrier::Guest(id) => (true, u64::from(id)),
        };
        index << 32 | u64::from(self.serial.0) << 2 | u64::from(is_guest) << 1 | u64::from(is_send)
    }

    #[allow(clippy::cast_possible_truncation, reason = "packed from the same types")]
    fn unpack(data: u64) -> (Self, bool) {
        let index = data >> 32;
        let carrier = if data & 2 == 0 { Carrier::Link(index as usize) } else { Carrier::Guest(index as u32) };
        (Self { carrier, serial: Serial::new((data >> 2) as u32) }, data & 1 == 1)
    }
}

/// What has happened to a connection.
#[derive(Debug)]
pub struct Completion {
    /// Which one.
    pub tag: Tag,
    /// What.
    pub event: RingEvent,
}

/// What has happened.
#[derive(Debug)]
pub enum RingEvent {
    /// So many bytes were sent.
    Sent(Result<usize, Errno>),
    /// Something came in.
    Received {
        /// What; nothing when the other end has closed the connection.
        chunk: Result<Chunk, Errno>,
        /// Whether the receive goes on. Otherwise it has to be asked for again.
        goes_on: bool,
    },
}

/// Bytes in a buffer of the ring's, which gets it back by [`Ring::give_back`].
#[derive(Debug)]
pub struct Chunk {
    buffer: Option<u16>,
    bytes: usize,
}

impl Chunk {
    /// Whether there is nothing: the end of what the other end sends.
    pub fn is_end(&self) -> bool {
        self.bytes == 0
    }
}

/// Who may enter the ring.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// Nobody has yet: the ring is not enabled.
    Nobody,
    Thread(ThreadId),
}

/// The ring. See the module.
pub struct Ring {
    /// Closed before the memory goes that it writes to: fields are dropped in order.
    queues: IoUring,
    buffers: Buffers,
    owner: Owner,
    /// Completions that have been taken out and not been handled.
    done: VecDeque<Completion>,
    /// The kernel has refused a batch. What it may still hold names memory that is gone, so it is not entered again.
    is_broken: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("owner", &self.owner).field("done", &self.done.len()).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring without an owner.
    ///
    /// # Errors
    ///
    /// What the kernel says when it has no `io_uring`, an old one (before Linux 6.1), or does not allow it.
    pub fn new() -> io::Result<Self> {
        let queues = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            // Whoever enables the ring becomes its owner.
            .setup_r_disabled()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)?;
        let buffers = Buffers::new()?;
        let address = buffers.memory.as_ptr() as u64;
        // SAFETY: the mapping begins at a page and has room for the queue; `Ring` drops the kernel's ring before it.
        unsafe { queues.submitter().register_buf_ring_with_flags(address, BUFFERS, GROUP, 0) }?;
        Ok(Self { queues, buffers, owner: Owner::Nobody, done: VecDeque::new(), is_broken: false })
    }

    /// Whether this thread may enter the ring; the first that asks may, from then on.
    pub fn is_own(&mut self) -> bool {
        let this = std::thread::current().id();
        match self.owner {
            Owner::Thread(owner) => owner == this,
            Owner::Nobody => {
                self.owner = Owner::Thread(this);
                self.is_broken |= self.queues.submitter().register_enable_rings().is_err();
                true
            }
        }
    }

    /// Whether entering the ring would bring anything in.
    #[inline]
    pub fn has_news(&mut self) -> bool {
        let submission = self.queues.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Sends, asks for what comes in by `receives`, takes in what has come. One system call for up to [`ENTRIES`].
    ///
    /// # Errors
    ///
    /// The kernel does not do it: the ring is of no use any more. What was sent before is told by [`next`](Self::next).
    pub fn exchange<'bytes>(
        &mut self,
        sends: impl Iterator<Item = (Tag, BorrowedFd<'bytes>, &'bytes [u8])>,
        receives: impl Iterator<Item = (Tag, BorrowedFd<'bytes>)>,
    ) -> io::Result<()> {
        let flags = (SendFlags::DONTWAIT | SendFlags::NOSIGNAL).bits().cast_signed();
        let mut unsent = 0;
        for (tag, socket, bytes) in sends {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let send = opcode::Send::new(Fd(socket.as_raw_fd()), bytes.as_ptr(), length).flags(flags);
            self.push(&send.build().user_data(tag.pack(true)), &mut unsent)?;
            unsent += 1;
        }
        for (tag, socket) in receives {
            let receive = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP);
            self.push(&receive.build().user_data(tag.pack(false)), &mut unsent)?;
        }
        self.enter(0, &mut unsent)?;
        while unsent > 0 {
            // Not seen: a send that does not wait is over within the call that submits it. Its bytes must outlive it.
            self.enter(1, &mut unsent)?;
        }
        Ok(())
    }

    fn push(&mut self, entry: &squeue::Entry, unsent: &mut usize) -> io::Result<()> {
        if self.queues.submission().is_full() {
            self.enter(0, unsent)?;
        }
        // SAFETY: a receive names no memory but the registered buffers. What a send names is borrowed until `exchange`
        // returns; by then it is over, or the ring is broken and the kernel never looks at the queue again.
        let pushed = unsafe { self.queues.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("the queue of a ring that has been entered is full"))
    }

    /// Submits all, waits for `want` completions, and takes out all.
    fn enter(&mut self, want: usize, unsent: &mut usize) -> io::Result<()> {
        for _ in 0..MOST_TRIES {
            if self.is_broken {
                break;
            }
            let entered = self.queues.submit_and_wait(want);
            self.take_out(unsent);
            match entered.map_err(|error| Errno::from_io_error(&error)) {
                Ok(_) | Err(Some(Errno::INTR | Errno::AGAIN | Errno::BUSY)) => {}
                Err(_) => break,
            }
            if self.queues.submission().is_empty() && !self.queues.submission().cq_overflow() {
                return Ok(());
            }
        }
        self.is_broken = true;
        Err(io::Error::other("the kernel refuses to go on with an io_uring"))
    }

    fn take_out(&mut self, unsent: &mut usize) {
        for entry in self.queues.completion() {
            let (tag, is_send) = Tag::unpack(entry.user_data());
            let result = usize::try_from(entry.result()).map_err(|_| Errno::from_raw_os_error(-entry.result()));
            let event = if is_send {
                *unsent = unsent.saturating_sub(1);
                RingEvent::Sent(result)
            } else {
                let buffer = cqueue::buffer_select(entry.flags());
                let chunk = result.map(|bytes| Chunk { buffer, bytes });
                RingEvent::Received { chunk, goes_on: cqueue::more(entry.flags()) }
            };
            self.done.push_back(Completion { tag, event });
        }
    }

    /// What a kernel that refuses to go on does.
    #[cfg(test)]
    pub fn break_down(&mut self) {
        self.is_broken = true;
    }

    /// What has happened, in order.
    pub fn next(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    /// What a chunk holds.
    pub fn bytes(&self, chunk: &Chunk) -> &[u8] {
        self.buffers.bytes(chunk)
    }

    /// A chunk has been handled.
    pub fn give_back(&mut self, chunk: Chunk) {
        if let Some(buffer) = chunk.buffer {
            self.buffers.offer(buffer);
        }
    }
}

/// What the kernel receives into: a queue of free buffers, which it takes from, and the buffers.
struct Buffers {
    memory: MmapMut,
    /// Buffers offered so far, round and round.
    offered: u16,
}

impl Buffers {
    fn new() -> io::Result<Self> {
        let memory = MmapMut::map_anon(BUFFERS_AT + usize::from(BUFFERS) * BUFFER_BYTES)?;
        let mut buffers = Self { memory, offered: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.offer(buffer));
        Ok(buffers)
    }

    fn start(buffer: u16) -> usize {
        BUFFERS_AT + usize::from(buffer % BUFFERS) * BUFFER_BYTES
    }

    fn bytes(&self, chunk: &Chunk) -> &[u8] {
        let start = chunk.buffer.map_or(0, Self::start);
        &self.memory[start..start + chunk.bytes.min(BUFFER_BYTES)]
    }

    /// Gives a buffer to the kernel.
    fn offer(&mut self, buffer: u16) {
        let address = self.memory.as_ptr() as u64 + Self::start(buffer) as u64;
        let entries: *mut BufRingEntry = self.memory.as_mut_ptr().cast();
        // SAFETY: the queue has `BUFFERS` entries, in the mapping's first page, which begins aligned. The kernel reads
        // an entry only once the tail below says that it is there.
        unsafe {
            let entry = &mut *entries.add(usize::from(self.offered % BUFFERS));
            entry.set_addr(address);
            entry.set_len(u32::try_from(BUFFER_BYTES).expect("small"));
            entry.set_bid(buffer);
        }
        self.offered = self.offered.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, aligned, and nobody but this function writes it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        // SYNC POINT: free buffers. The kernel loads the tail with acquire ordering, and then the entry.
        tail.store(self.offered, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_unpacked_as_they_were_packed() {
        for carrier in [Carrier::Link(0), Carrier::Link(65_535), Carrier::Guest(u32::MAX)] {
            for serial in [0, 1, (1 << 30) - 1].map(Serial::new) {
                for is_send in [false, true] {
                    let tag = Tag { carrier, serial };
                    assert_eq!(Tag::unpack(tag.pack(is_send)), (tag, is_send));
                }
            }
        }
    }
}
