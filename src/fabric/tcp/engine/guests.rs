//! Guests: connections from processes that do not speak for a node. They ask and are answered.
//!
//! So is an agent's connection while this process has one to that node from the time before it became agent itself:
//! that one carries what this end has to ask.

use std::net::SocketAddr;

use super::strangers::Stranger;
use super::{Carrier, Engine, Frame, MOST_LETTERS, Outgoing, Serial, Stream, StreamError, Token, answer, watch};
use crate::fabric::tcp::link::Parts;
use crate::handshake::Refusal;

/// A connection from a process that does not speak for a node.
#[derive(Debug)]
pub(super) struct Guest {
    /// The rank that it has proved to be.
    pub(super) rank: u64,
    /// Its node, if that is another one: whose letters it brings.
    node: Option<usize>,
    parts: Parts,
    pub(super) stream: Stream,
    pub(super) address: SocketAddr,
    pub(super) outgoing: Outgoing,
    pub(super) watches_room: bool,
}

impl Engine {
    pub(super) fn receive_guest(&mut self, stranger: Stranger, rank: u64, node: Option<usize>) {
        // A rank that connects anew has lost its old connection. What of that has not been read would be executed after
        // what comes by the new one.
        self.guests.retain(|_, guest| guest.rank != rank);
        let id = self.fresh_id();
        watch(&self.epoll, &stranger.socket, Token::Guest(id), false);
        let (stream, address) = (Stream::new(stranger.socket, Serial::new(id)), stranger.address);
        self.outside.extend(self.ring.is_some().then_some(Carrier::Guest(id)));
        let (parts, outgoing) = (Parts::default(), Outgoing::default());
        self.guests.insert(id, Guest { rank, node, parts, stream, address, outgoing, watches_room: false });
    }

    /// Executes and answers what a guest asks.
    pub(super) fn serve(&mut self, id: u32) {
        self.take_in_of_guest(id, None);
    }

    /// As [`serve`](Self::serve), of `bytes` that have been received already, or else of what the socket has.
    pub(super) fn take_in_of_guest(&mut self, id: u32, bytes: Option<&[u8]>) {
        let words = self.memory.words();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let Guest { node, parts, stream, outgoing, .. } = guest;
        let (memory, calls, letters) = (&*self.memory, &mut self.calls, &mut self.letters);
        let has_news = &mut self.sleepers.has_news;
        let handle = |frame| match frame {
            Frame::Value { .. } => Err(StreamError::Answer),
            Frame::Part { index, words } => {
                // Nobody has letters for its own node.
                let node = node.ok_or(StreamError::Letter)?;
                let letter = parts.add(index, words)?;
                letters.extend(letter.filter(|_| letters.len() < MOST_LETTERS).map(|letter| (node, letter)));
                Ok(())
            }
            Frame::Request { tag, request } => {
                *has_news = true;
                let value = calls.execute(memory, request)?;
                if request.has_ticket() { answer(outgoing, tag, value) } else { Ok(()) }
            }
        };
        let received = match bytes {
            None => stream.receive(words, handle).map(drop),
            Some(bytes) => stream.take_in(bytes, words, handle),
        };
        let sent = match received {
            Ok(()) if self.gathers => return self.unsent.push(Carrier::Guest(id)),
            Ok(()) => stream.send(outgoing),
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
