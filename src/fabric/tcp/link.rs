//! A node's link to another: at most one connection, what waits to be sent by it, and what waits to be answered.
//!
//! ```text
//!            post                 connected, proved
//!   Idle ───────────▶ Dialing ─────────────────────▶ Ready
//!    ▲                   │ refused: both had dialled    │
//!    │                   ▼                              │ broken
//!    │                Expecting ──▶ Ready               │
//!    │  after a while    │                              │
//!   Failed ◀─────────────┴──────────────────────────────┘
//! ```
//!
//! Both ends may dial at the same time. Then the connection that the lower node dialled is kept: the lower one refuses
//! the higher one's as *crossed*, which waits a moment for the lower one's and then dials again. What the lower node gets
//! while its link is ready may be such a dial that has been overtaken; it refuses one, and takes the next for what it
//! is: the other end has lost the connection.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::frame::{Frame, LETTER_PARTS, Letter, PART_WORDS};
use super::stream::{MOST_UNANSWERED, Outgoing, Stream, StreamError};
use crate::fabric::tickets::TicketTable;
use crate::fabric::{OperationError, PostError, Request, Ticket};
use crate::handshake;

/// How long after a failure posting fails at once, instead of dialling again.
const FAILED_FOR: Duration = Duration::from_millis(100);

/// One link.
#[derive(Debug)]
pub struct Link {
    /// The other node.
    pub node: usize,
    /// Where the connection stands.
    pub state: LinkState,
    /// What waits to be sent.
    pub outgoing: Outgoing,
    /// The requests that wait for an answer, in order.
    unanswered: VecDeque<Ticket>,
    /// Connections so far.
    pub incarnation: u64,
    /// Whether the kernel is asked to tell when there is room to send.
    pub watches_room: bool,
    /// Whether a connection of the other end's has been refused since this one was made.
    pub has_refused: bool,
    /// Dials that were refused as crossed, one after the other.
    pub crossings: u32,
    /// What has come of a letter.
    pub parts: Parts,
}

/// A letter that is coming in.
#[derive(Debug, Default)]
pub struct Parts {
    words: Letter,
    /// How many parts are there.
    count: usize,
}

impl Parts {
    /// Adds a part; gives the letter with the last one.
    ///
    /// # Errors
    ///
    /// [`StreamError::Letter`].
    pub fn add(&mut self, index: u32, words: [u64; PART_WORDS]) -> Result<Option<Letter>, StreamError> {
        if index as usize != self.count {
            return Err(StreamError::Letter);
        }
        self.words[self.count * PART_WORDS..][..PART_WORDS].copy_from_slice(&words);
        self.count = (self.count + 1) % LETTER_PARTS;
        Ok((self.count == 0).then_some(self.words))
    }
}

/// Where a connection stands.
#[derive(Debug)]
pub enum LinkState {
    /// There is none, and nothing is wrong.
    Idle,
    /// There is none.
    Failed {
        /// What went wrong.
        why: String,
        /// Until when not to try again.
        until: Instant,
    },
    /// This end is connecting.
    Dialing(Box<Dial>),
    /// The other end is about to connect.
    Expecting {
        /// Until when.
        until: Instant,
    },
    /// It carries frames.
    Ready(Stream),
}

/// An attempt to connect.
#[derive(Debug)]
pub struct Dial {
    /// The socket, connecting or connected.
    pub socket: TcpStream,
    /// The handshake, once the socket is connected.
    pub client: handshake::Client,
    /// Whether the socket is connected.
    pub is_connected: bool,
    /// Bytes of the handshake that wait to be sent.
    pub output: Vec<u8>,
    /// Addresses that have not been tried.
    pub others: Vec<SocketAddr>,
    /// The address that is tried.
    pub address: SocketAddr,
    /// Until when.
    pub until: Instant,
}

impl Link {
    /// No connection yet.
    pub fn new(node: usize) -> Self {
        Self {
            node,
            state: LinkState::Idle,
            outgoing: Outgoing::default(),
            unanswered: VecDeque::new(),
            incarnation: 0,
            watches_room: false,
            has_refused: false,
            crossings: 0,
            parts: Parts::default(),
        }
    }

    /// Whether posting has to begin a connection; an error while that is hopeless.
    ///
    /// # Errors
    ///
    /// [`PostError::Unreachable`].
    pub fn needs_dial(&self) -> Result<bool, PostError> {
        match &self.state {
            LinkState::Idle => Ok(true),
            LinkState::Failed { until, .. } if Instant::now() >= *until => Ok(true),
            LinkState::Failed { why, .. } => Err(PostError::Unreachable { node: self.node, why: why.clone() }),
            LinkState::Dialing(_) | LinkState::Expecting { .. } | LinkState::Ready(_) => Ok(false),
        }
    }

    /// Queues a batch, if there is room for all of it.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`].
    pub fn queue(
        &mut self,
        requests: &[Request],
        tickets: &mut TicketTable,
        given: &mut Vec<Ticket>,
    ) -> Result<(), PostError> {
        let with_tickets = requests.iter().filter(|request| request.has_ticket()).count();
        let has_room = self.outgoing.has_room_for(requests.len())
            && self.unanswered.len() + with_tickets <= MOST_UNANSWERED
            && tickets.room() >= with_tickets;
        if !has_room {
            return Err(PostError::Full { node: self.node });
        }
        for request in requests {
            let mut tag = 0;
            if request.has_ticket() {
                let ticket = tickets.issue();
                given.push(ticket);
                self.unanswered.push_back(ticket);
                tag = ticket.slot;
            }
            self.outgoing.push(&Frame::Request { tag, request: *request });
        }
        Ok(())
    }

    /// Queues a letter, if there is room for it.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`].
    pub fn queue_letter(&mut self, letter: &Letter) -> Result<(), PostError> {
        if !self.outgoing.has_room_for(LETTER_PARTS) {
            return Err(PostError::Full { node: self.node });
        }
        for (index, words) in (0..).zip(letter.as_chunks::<PART_WORDS>().0) {
            self.outgoing.push(&Frame::Part { index, words: *words });
        }
        Ok(())
    }

    /// The request that an answer is for: the oldest, and its tag must say so.
    pub fn answered(&mut self, tag: u32) -> Option<Ticket> {
        let is_oldest = self.unanswered.front().is_some_and(|ticket| ticket.slot == tag);
        if is_oldest { self.unanswered.pop_front() } else { None }
    }

    /// The connection is there.
    pub fn open(&mut self, stream: Stream) {
        self.state = LinkState::Ready(stream);
        self.parts = Parts::default();
        self.incarnation += 1;
        self.watches_room = false;
        self.has_refused = false;
        self.crossings = 0;
    }

    /// The connection is no more, or could not be made: whatever waits for an answer has its error.
    pub fn fail(&mut self, why: &str, tickets: &mut TicketTable) {
        let node = self.node;
        let was_ready = matches!(self.state, LinkState::Ready(_));
        self.outgoing.clear();
        for ticket in self.unanswered.drain(..) {
            let why = why.to_owned();
            let error = match was_ready {
                true => OperationError::Lost { node, why },
                false => OperationError::NotSent { node, why },
            };
            tickets.complete(ticket, Err(error));
        }
        // A connection that broke may be there again at once; one that could not be made will not.
        let until = Instant::now() + if was_ready { Duration::ZERO } else { FAILED_FOR };
        self.state = LinkState::Failed { why: why.to_owned(), until };
        self.crossings = 0;
        self.watches_room = false;
    }
}
