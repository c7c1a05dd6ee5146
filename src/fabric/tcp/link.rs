//! A node's link to another: at most one connection, what waits to be sent by it, and what waits to be answered.
//!
//! ```text
//!            post                 connected, proved
//!   Idle ───────────▶ Dialing ─────────────────────▶ Ready
//!    ▲                   │ refused: both had dialled    │
//!    │                   ▼                              │ broken
//!    │                Expecting ──▶ Ready               │
//!    │  after a while    │                              │
//!   Failed ◀─────────────┴──────────────────────────────┘         any ──▶ Shut
//! ```
//!
//! A node is any of its ranks. Each keeps a port for as long as it lives, and one of them lets others in there.
//! Dialling goes through them. When none lets this process in, and one of them lives, the role of the one that has
//! spoken for the node may just be passing on, and the link is *passing on*, too: it dials again and again for a while,
//! and what is posted meanwhile waits. When the ports of all are closed, none lives, and the link fails at once. A node
//! that has been declared failed, or has declared this process failed, is shut out for good.
//!
//! Both ends may dial at the same time. Then the connection that the lower node dialled is kept: the lower one refuses
//! the higher one's as *crossed*, which waits a moment for the lower one's and then dials again. What the lower node
//! gets while its link is ready may be such a dial that has been overtaken; it refuses one, and takes the next for what
//! it is: the other end has lost the connection.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::frame::{Frame, LETTER_PARTS, Letter, PART_WORDS};
use super::stream::{MOST_UNANSWERED, Outgoing, Stream, StreamError};
use crate::fabric::tickets::TicketTable;
use crate::fabric::{OperationError, PostError, Request, Ticket};
use crate::handshake;
use crate::handshake::Purpose;

/// How long after a failure posting fails at once, instead of dialling again.
const FAILED_FOR: Duration = Duration::from_millis(100);
/// How long what is posted to a node waits while some of its ranks live and none lets this process in: one of them may
/// be about to become the agent.
const PASSING_LIMIT: Duration = Duration::from_secs(3);
/// How long one address is tried.
pub const DIAL_LIMIT: Duration = Duration::from_secs(3);
/// How long a process that has accepted the connection may say nothing, where another of its node may be the agent.
/// Doubled with each attempt, for agents that are slow or far away.
const FIRST_PATIENCE: Duration = Duration::from_millis(20);
/// The pause before the second attempt. Each is as long as all before it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

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
    /// Which of the node's candidates speaks for it: the other end, or the one that was it last.
    pub candidate: usize,
    /// The host at which one of them was reached last.
    pub host: Option<IpAddr>,
    /// What this process is to the other end.
    pub purpose: Purpose,
    /// What the last attempt has shown, if it came to nothing.
    pub ports: Ports,
    /// When the first of those attempts in a row ended that have found somebody alive.
    passing_since: Option<Instant>,
    /// How long a process may say nothing at the next attempt.
    pub patience: Duration,
}

/// What the last attempt to reach a node has shown of its processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// Nothing: there has been none, or somebody has let this process in, or nobody has said anything.
    #[default]
    Unknown,
    /// All are closed, the node's kernel says: none of its processes is left, but for those that have been shut out.
    Closed,
    /// A process keeps one, and has not let this one in: it does not speak for its node (yet), or it is stopped, or was
    /// ending.
    Kept,
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
    /// No candidate lets this process in; one that lives may be about to do so.
    PassingOn {
        /// When to dial again.
        until: Instant,
    },
    /// It carries frames.
    Ready(Stream),
    /// There is none and will be none.
    Shut {
        /// Why.
        why: String,
    },
}

impl LinkState {
    /// The connection, made or in the making.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Ready(stream) => Some(stream.socket()),
            Self::Dialing(dial) => Some(&dial.socket),
            Self::Idle | Self::Failed { .. } | Self::Expecting { .. } | Self::PassingOn { .. } | Self::Shut { .. } => {
                None
            }
        }
    }

    /// When something has to be given up or begun, if nothing happens before.
    pub fn limit(&self) -> Option<Instant> {
        match self {
            Self::Dialing(dial) => Some(dial.until),
            Self::Expecting { until } | Self::PassingOn { until } => Some(*until),
            Self::Idle | Self::Failed { .. } | Self::Ready(_) | Self::Shut { .. } => None,
        }
    }
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
    /// What is left to be tried.
    pub attempt: Attempt,
    /// What is tried.
    pub target: Target,
    /// What this process claims to be.
    pub purpose: Purpose,
    /// How long the other end may say nothing once the socket is connected, if there are others to be tried.
    pub patience: Option<Duration>,
    /// Until when, if nothing happens before.
    pub until: Instant,
    /// Until when at the latest.
    pub limit: Instant,
}

impl Dial {
    /// A process of the node has the port. It answers soon, or another one may be the agent.
    pub fn note_connected(&mut self) {
        self.is_connected = true;
        if let Some(patience) = self.patience {
            self.until = self.limit.min(Instant::now() + patience);
        }
    }

    /// The process speaks for its node. From now on it may have let this one in, and what was sent may take effect.
    pub fn note_challenged(&mut self) {
        self.until = self.limit;
    }

    /// What it means that nothing more has been heard.
    pub fn end_of_silence(&self) -> Outcome {
        if self.is_connected { Outcome::Silent } else { Outcome::Unclear }
    }
}

/// One address of one of a node's candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which candidate.
    pub candidate: usize,
    /// Where.
    pub address: SocketAddr,
}

/// What has come of a target that has not let this process in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A kernel has refused the connection: nobody has the port.
    Refused,
    /// Somebody has the port, and has closed the connection.
    Closed,
    /// Somebody has the port, and has said nothing.
    Silent,
    /// None of these.
    Unclear,
}

/// One way through a node's candidates.
#[derive(Debug)]
pub struct Attempt {
    /// What has not been tried, the next last.
    pub others: Vec<Target>,
    /// Whether there was something to try, and all of it was refused by a kernel.
    is_refused: bool,
    /// Whether a candidate's port is kept by a process.
    is_kept: bool,
    /// Whether one of those has said nothing.
    is_silent: bool,
}

impl Attempt {
    /// One that begins. The first of the targets is the last.
    pub fn new(others: Vec<Target>) -> Self {
        Self { is_refused: !others.is_empty(), is_kept: false, is_silent: false, others }
    }

    /// A target has failed. `host`: where the node is known to be.
    pub fn note(&mut self, target: Target, outcome: Outcome, host: Option<IpAddr>) {
        self.is_refused &= outcome == Outcome::Refused;
        self.is_kept |= matches!(outcome, Outcome::Closed | Outcome::Silent);
        self.is_silent |= outcome == Outcome::Silent;
        // It is the node's own kernel that has told how the process is. Its other addresses are no better, and may not
        // even be this node's.
        if outcome != Outcome::Unclear && host == Some(target.address.ip()) {
            self.others.retain(|other| other.candidate != target.candidate);
        }
    }

    /// What it has shown, when nothing is left to be tried.
    fn ports(&self) -> Ports {
        match (self.is_refused, self.is_kept) {
            (true, _) => Ports::Closed,
            (false, true) => Ports::Kept,
            (false, false) => Ports::Unknown,
        }
    }
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
            candidate: 0,
            host: None,
            purpose: Purpose::Fabric,
            ports: Ports::Unknown,
            passing_since: None,
            patience: FIRST_PATIENCE,
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
            LinkState::Failed { why, .. } | LinkState::Shut { why } => {
                Err(PostError::Unreachable { node: self.node, why: why.clone() })
            }
            LinkState::Dialing(_) | LinkState::Expecting { .. } | LinkState::PassingOn { .. } | LinkState::Ready(_) => {
                Ok(false)
            }
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

    /// The connection is there, to one of the candidates.
    pub fn open(&mut self, stream: Stream, candidate: usize, purpose: Purpose) {
        self.state = LinkState::Ready(stream);
        (self.candidate, self.purpose) = (candidate, purpose);
        (self.ports, self.passing_since, self.patience) = (Ports::Unknown, None, FIRST_PATIENCE);
        self.parts = Parts::default();
        self.incarnation += 1;
        self.watches_room = false;
        self.has_refused = false;
        self.crossings = 0;
    }

    /// An attempt has come to nothing. Where the role may be passing on there will be another; otherwise the link
    /// fails.
    pub fn end_attempt(&mut self, attempt: &Attempt, may_pass_on: bool, why: &str, tickets: &mut TicketTable) {
        let now = Instant::now();
        self.ports = attempt.ports();
        if attempt.is_silent {
            self.patience = DIAL_LIMIT.min(self.patience * 2);
        }
        if self.ports != Ports::Kept {
            self.passing_since = None;
            return self.fail(why, tickets);
        }
        let tried_for = now - *self.passing_since.get_or_insert(now);
        if may_pass_on && tried_for < PASSING_LIMIT {
            let until = now + tried_for.clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.state = LinkState::PassingOn { until };
        } else {
            self.fail(why, tickets);
        }
    }

    /// The connection is no more, or could not be made: whatever waits for an answer has its error.
    pub fn fail(&mut self, why: &str, tickets: &mut TicketTable) {
        // A connection that broke may be there again at once; one that could not be made will not.
        let was_ready = matches!(self.state, LinkState::Ready(_));
        let until = Instant::now() + if was_ready { Duration::ZERO } else { FAILED_FOR };
        self.end(why, LinkState::Failed { why: why.to_owned(), until }, tickets);
    }

    /// There is to be no connection any more.
    pub fn shut(&mut self, why: &str, tickets: &mut TicketTable) {
        self.end(why, LinkState::Shut { why: why.to_owned() }, tickets);
    }

    fn end(&mut self, why: &str, state: LinkState, tickets: &mut TicketTable) {
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
        self.state = state;
        self.crossings = 0;
        self.watches_room = false;
    }
}
