//! The engine's turns by a ring: many connections' bytes with one system call. [`Ring`] says who may and what it
//! promises.
//!
//! Whatever is to be sent while completions are handled gathers in `unsent` and leaves in one batch; so do the batches
//! of a fan-out ([`crate::fabric::Fabric::post_more`]). One connection's bytes alone leave by a plain `write`, which is
//! cheaper.

use std::io;
use std::os::fd::AsFd;

use super::{Carrier, Engine, Link, LinkState, Outgoing, Ring, Stream, StreamError, watch_room};
use crate::fabric::tcp::uring::{Chunk, Completion, RingEvent, Tag};

/// Exchanges of one turn, at most: a peer that never ceases to send does not hold up the others.
const MOST_EXCHANGES: usize = 8;
/// So many connections with something to send are worth a batch.
const WORTH_A_BATCH: usize = 2;

impl Engine {
    /// A turn on all connections that carry frames. `false` when this thread may not enter the ring, or it is broken.
    pub(super) fn turn_by_ring(&mut self) -> bool {
        let Some(mut ring) = self.ring.take() else { return false };
        let can = ring.is_own();
        if !can {
            self.ring = Some(ring);
            return false;
        }
        self.gathers = true;
        let mut exchanged = Ok(());
        for _ in 0..MOST_EXCHANGES {
            let is_idle = self.unsent.is_empty() && self.outside.is_empty() && !ring.has_news();
            if is_idle || exchanged.is_err() {
                break;
            }
            exchanged = self.exchange(&mut ring);
        }
        self.gathers = false;
        let is_kept = self.keep(ring, exchanged);
        self.send_unsent();
        is_kept
    }

    /// Sends what has gathered.
    pub fn flush(&mut self) {
        if self.unsent.len() < WORTH_A_BATCH {
            return self.send_unsent();
        }
        let Some(mut ring) = self.ring.take() else { return self.send_unsent() };
        if !ring.is_own() {
            self.ring = Some(ring);
            return self.send_unsent();
        }
        self.gathers = true;
        let exchanged = self.exchange(&mut ring);
        self.gathers = false;
        self.keep(ring, exchanged);
        // Answers to what has come in meanwhile.
        self.send_unsent();
    }

    /// What a kernel that refuses to go on does.
    #[cfg(test)]
    pub fn break_ring(&mut self) {
        self.ring.iter_mut().for_each(|ring| ring.break_down());
    }

    /// Sends what has gathered by sockets.
    pub(super) fn send_unsent(&mut self) {
        while let Some(carrier) = self.unsent.pop() {
            match carrier {
                Carrier::Link(node) => self.send(node),
                Carrier::Guest(id) => self.send_to_guest(id),
            }
        }
    }

    fn send_to_guest(&mut self, id: u32) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let sent = guest.stream.send(&mut guest.outgoing);
        self.end_service(id, sent);
    }

    /// Puts a ring back. A broken one is closed, and sockets do the rest: nothing is lost in it.
    fn keep(&mut self, ring: Box<Ring>, exchanged: io::Result<()>) -> bool {
        if exchanged.is_ok() {
            self.ring = Some(ring);
            return true;
        }
        self.outside.clear();
        false
    }

    /// Sends all that waits, receives all that has come, and handles it.
    fn exchange(&mut self, ring: &mut Ring) -> io::Result<()> {
        let (mut unsent, outside) = (std::mem::take(&mut self.unsent), std::mem::take(&mut self.outside));
        // Twice in a batch would be sent twice.
        unsent.sort_unstable();
        unsent.dedup();
        if unsent.len() < WORTH_A_BATCH && outside.is_empty() && !ring.has_news() {
            self.gathers = false;
            self.unsent = unsent;
            self.send_unsent();
            self.gathers = true;
            return Ok(());
        }
        let sends = unsent.iter().filter_map(|carrier| {
            let (stream, outgoing) = self.ways(*carrier)?;
            let waits = outgoing.waiting_bytes() > 0;
            waits.then(|| (tag(*carrier, stream), stream.socket().as_fd(), outgoing.waiting()))
        });
        let receives = outside.iter().filter_map(|carrier| {
            let (stream, _) = self.ways(*carrier)?;
            (!stream.is_in_ring).then(|| (tag(*carrier, stream), stream.socket().as_fd()))
        });
        let exchanged = ring.exchange(sends, receives);
        for carrier in outside {
            if let Some((stream, _)) = self.ways_mut(carrier) {
                stream.is_in_ring = true;
            }
        }
        while let Some(completion) = ring.next() {
            self.handle_completion(ring, completion);
        }
        if exchanged.is_err() {
            self.unsent.extend(unsent);
        }
        exchanged
    }

    fn ways(&self, carrier: Carrier) -> Option<(&Stream, &Outgoing)> {
        match carrier {
            Carrier::Link(node) => match self.links.get(node)? {
                Link { state: LinkState::Ready(stream), outgoing, .. } => Some((stream, outgoing)),
                _ => None,
            },
            Carrier::Guest(id) => self.guests.get(&id).map(|guest| (&guest.stream, &guest.outgoing)),
        }
    }

    fn ways_mut(&mut self, carrier: Carrier) -> Option<(&mut Stream, &mut Outgoing)> {
        match carrier {
            Carrier::Link(node) => match self.links.get_mut(node)? {
                Link { state: LinkState::Ready(stream), outgoing, .. } => Some((stream, outgoing)),
                _ => None,
            },
            Carrier::Guest(id) => self.guests.get_mut(&id).map(|guest| (&mut guest.stream, &mut guest.outgoing)),
        }
    }

    fn handle_completion(&mut self, ring: &mut Ring, completion: Completion) {
        let Completion { tag, event } = completion;
        match event {
            RingEvent::Sent(sent) => self.handle_sent(tag, sent.map_err(io::Error::from)),
            RingEvent::Received { chunk, goes_on } => {
                if !goes_on {
                    self.receive_again(tag);
                }
                match chunk {
                    Ok(chunk) => {
                        self.handle_chunk(ring, tag, &chunk);
                        ring.give_back(chunk);
                    }
                    // No buffer was free, or nothing has gone wrong: what the socket has stays there.
                    Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::CANCELED | rustix::io::Errno::INTR) => {}
                    Err(error) => self.end(tag, &io::Error::from(error).into()),
                }
            }
        }
    }

    fn is_current(&self, tag: Tag) -> bool {
        self.ways(tag.carrier).is_some_and(|(stream, _)| stream.serial == tag.serial)
    }

    fn handle_sent(&mut self, tag: Tag, sent: io::Result<usize>) {
        if !self.is_current(tag) {
            return;
        }
        match (sent, self.ways_mut(tag.carrier)) {
            (Ok(bytes), Some((_, outgoing))) => outgoing.note_sent(bytes),
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => {}
            (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => self.unsent.push(tag.carrier),
            (Err(error), _) => return self.end(tag, &error.into()),
            (Ok(_), None) => {}
        }
        match tag.carrier {
            Carrier::Link(node) => self.links.get_mut(node).into_iter().for_each(|link| watch_room(&self.epoll, link)),
            Carrier::Guest(id) => self.end_service(id, Ok(())),
        }
    }

    /// The kernel has ended a receive; the next turn asks for it again.
    fn receive_again(&mut self, tag: Tag) {
        if !self.is_current(tag) {
            return;
        }
        if let Some((stream, _)) = self.ways_mut(tag.carrier) {
            stream.is_in_ring = false;
            self.outside.push(tag.carrier);
        }
    }

    fn handle_chunk(&mut self, ring: &Ring, tag: Tag, chunk: &Chunk) {
        if !self.is_current(tag) {
            return;
        }
        match tag.carrier {
            _ if chunk.is_end() => self.end(tag, &StreamError::Closed),
            Carrier::Link(node) => self.take_in(node, Some(ring.bytes(chunk))),
            Carrier::Guest(id) => self.take_in_of_guest(id, Some(ring.bytes(chunk))),
        }
    }

    /// Breaks a connection off.
    fn end(&mut self, tag: Tag, error: &StreamError) {
        match tag.carrier {
            _ if !self.is_current(tag) => {}
            Carrier::Link(node) => self.break_off(node, error),
            Carrier::Guest(id) => drop(self.guests.remove(&id)),
        }
    }
}

fn tag(carrier: Carrier, stream: &Stream) -> Tag {
    Tag { carrier, serial: stream.serial }
}
