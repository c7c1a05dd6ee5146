//! Guests: connections from processes that do not speak for a node. They ask and are answered.

use std::net::SocketAddr;

use super::strangers::Stranger;
use super::{Carrier, Engine, Frame, Outgoing, Serial, Stream, StreamError, Token, answer, execute, watch};
use crate::handshake::Refusal;

/// A connection from a process that does not speak for a node.
#[derive(Debug)]
pub(super) struct Guest {
    /// The rank that it has proved to be.
    pub(super) rank: u64,
    pub(super) stream: Stream,
    pub(super) address: SocketAddr,
    pub(super) outgoing: Outgoing,
    pub(super) watches_room: bool,
}

impl Engine {
    pub(super) fn receive_guest(&mut self, stranger: Stranger, rank: u64) {
        // A rank that connects anew has lost its old connection. What of that has not been read would be executed after
        // what comes by the new one.
        self.guests.retain(|_, guest| guest.rank != rank);
        let id = self.fresh_id();
        watch(&self.epoll, &stranger.socket, Token::Guest(id), false);
        let (stream, address) = (Stream::new(stranger.socket, Serial::new(id)), stranger.address);
        self.outside.extend(self.ring.is_some().then_some(Carrier::Guest(id)));
        self.guests.insert(id, Guest { rank, stream, address, outgoing: Outgoing::default(), watches_room: false });
    }

    /// Executes and answers what a guest asks.
    pub(super) fn serve(&mut self, id: u32) {
        self.take_in_of_guest(id, None);
    }

    /// As [`serve`](Self::serve), of `bytes` that have been received already, or else of what the socket has.
    pub(super) fn take_in_of_guest(&mut self, id: u32, bytes: Option<&[u8]>) {
        let words = self.memory.words();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let (memory, outgoing) = (&*self.memory, &mut guest.outgoing);
        let has_news = &mut self.sleepers.has_news;
        let handle = |frame| match frame {
            Frame::Value { .. } => Err(StreamError::Answer),
            // Only agents have letters to send.
            Frame::Part { .. } => Err(StreamError::Letter),
            Frame::Request { tag, request } => {
                *has_news = true;
                let value = execute(memory, request);
                if request.has_ticket() { answer(outgoing, tag, value) } else { Ok(()) }
            }
        };
        let received = match bytes {
            None => guest.stream.receive(words, handle).map(drop),
            Some(bytes) => guest.stream.take_in(bytes, words, handle),
        };
        let sent = match received {
            Ok(()) if self.gathers => return self.unsent.push(Carrier::Guest(id)),
            Ok(()) => guest.stream.send(&mut guest.outgoing),
            Err(error) => Err(error),
        };
        self.end_service(id, sent);
    }

    /// After sending to a guest: waits for room, or breaks off.
    pub(super) fn end_service(&mut self, id: u32, sent: Result<(), StreamError>) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let waits = guest.outgoing.waiting_bytes() > 0;
        match sent {
            Ok(()) if waits == guest.watches_room => {}
            Ok(()) => {
                guest.watches_room = waits;
                watch(&self.epoll, guest.stream.socket(), Token::Guest(id), waits);
            }
            Err(error) => {
                if let StreamError::Frame(_) | StreamError::Answer | StreamError::Letter | StreamError::TooMany = error
                {
                    self.log.report(guest.address, Refusal::BrokeProtocol);
                }
                self.guests.remove(&id);
            }
        }
    }
}
