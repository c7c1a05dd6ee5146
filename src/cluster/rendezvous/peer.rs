//! The two kinds of connections of a rendezvous server: strangers, in the middle of the handshake or being turned away,
//! and members. All sockets are non-blocking.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::message::{HEAD_BYTES, Head, Kind, MOST_BLOB_BYTES};
use super::round::Frame;
use crate::handshake::{self, Claim, Event, Verdict};

/// How long a stranger may take to prove itself.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long one that is turned away may take to read why and go.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// Answers that a member may leave unread. Whoever waits for each has one.
const MOST_UNREAD: usize = 4;

/// A connection that has not proved who it is.
pub struct Stranger {
    pub stream: TcpStream,
    pub address: SocketAddr,
    pub since: Instant,
    pub limit: Instant,
    handshake: handshake::Server,
    /// It has been refused, and is only kept so that it can read why: closing at once, with bytes of it unread, would
    /// make the kernel throw the answer away.
    is_turned_away: bool,
}

/// What has become of a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing yet.
    Waiting,
    /// It has proved this claim; now decide.
    Proved(Claim),
    /// It has been refused.
    Refused(Verdict),
    /// It has gone away without having been refused.
    WentAway,
    /// It is over, and all has been said.
    Over,
}

impl Stranger {
    /// Waits for its hello. `None` when the kernel has no random numbers or no such socket.
    pub fn new(stream: TcpStream, address: SocketAddr, handshake: handshake::Server) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        // Rounds are short messages, one at a time.
        stream.set_nodelay(true).ok()?;
        let since = Instant::now();
        Some(Self { stream, address, since, limit: since + HANDSHAKE_LIMIT, handshake, is_turned_away: false })
    }

    /// Whether it may be put out for the sake of others: it has shown nothing that only the job's ranks know.
    pub fn is_expendable(&self) -> bool {
        self.is_turned_away || !self.handshake.has_heard_hello()
    }

    /// Whether its time is over without its having been refused.
    pub fn is_silent(&self) -> bool {
        !self.is_turned_away
    }

    /// Reads what there is.
    pub fn handle_readable(&mut self) -> Progress {
        let mut bytes = [0; 256];
        let most = if self.is_turned_away { bytes.len() } else { self.handshake.wanted() };
        let received = match self.stream.read(&mut bytes[..most]) {
            Ok(0) if self.is_turned_away => return Progress::Over,
            Ok(0) => return Progress::WentAway,
            Ok(received) => received,
            Err(error) if is_transient(&error) => return Progress::Waiting,
            Err(_) if self.is_turned_away => return Progress::Over,
            Err(_) => return Progress::WentAway,
        };
        if self.is_turned_away {
            return Progress::Waiting;
        }
        match self.handshake.handle_bytes(&bytes[..received]).1 {
            Event::Continue if self.flush() => Progress::Waiting,
            Event::Continue => Progress::WentAway,
            Event::Proved(claim) => Progress::Proved(claim),
            Event::Refused(verdict) => {
                self.say_farewell();
                Progress::Refused(verdict)
            }
        }
    }

    /// Turns it away, with the reason.
    pub fn refuse(&mut self, verdict: Verdict) {
        self.handshake.decide(verdict);
        self.say_farewell();
    }

    fn say_farewell(&mut self) {
        self.flush();
        let _ = self.stream.shutdown(Shutdown::Write);
        self.is_turned_away = true;
        self.limit = self.limit.min(Instant::now() + FAREWELL_LIMIT);
    }

    /// Lets it in. `None` if it has gone meanwhile.
    pub fn welcome(mut self) -> Option<Member> {
        self.handshake.decide(Verdict::Welcome);
        let is_sent = self.flush();
        is_sent.then(|| Member {
            stream: self.stream,
            address: self.address,
            input: Vec::new(),
            output: VecDeque::new(),
            sent: 0,
        })
    }

    /// A handshake has less than 200 bytes in each direction, which any socket's buffer takes at once: false is a peer
    /// that is not worth more.
    fn flush(&mut self) -> bool {
        self.stream.write_all(&self.handshake.poll_output()).is_ok()
    }
}

/// A rank's connection.
pub struct Member {
    pub stream: TcpStream,
    pub address: SocketAddr,
    /// The beginning of a frame.
    input: Vec<u8>,
    /// Frames to send; of the first, `sent` bytes have been.
    output: VecDeque<Frame>,
    sent: usize,
}

/// What a member says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// A blob of a round.
    Blob(u64, Vec<u8>),
    /// The question who is missing in a round.
    WhoIsMissing(u64),
}

/// Why a member's connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departed {
    /// It has closed, or its machine has.
    Left,
    /// It has broken the protocol.
    Broke,
}

impl Member {
    /// Reads what there is and appends what has been said to `said`.
    pub fn handle_readable(&mut self, said: &mut Vec<Said>) -> Result<(), Departed> {
        let mut bytes = [0; HEAD_BYTES + MOST_BLOB_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(Departed::Left),
            Ok(received) => self.input.extend_from_slice(&bytes[..received]),
            Err(error) if is_transient(&error) => return Ok(()),
            Err(_) => return Err(Departed::Left),
        }
        while let Some(frame) = self.next_frame()? {
            said.push(frame);
        }
        Ok(())
    }

    fn next_frame(&mut self) -> Result<Option<Said>, Departed> {
        let Some(head) = self.input.first_chunk() else { return Ok(None) };
        let (head, most) = match Head::parse(head) {
            Some(head) if head.kind == Kind::Blob => (head, MOST_BLOB_BYTES),
            Some(head) if head.kind == Kind::WhoIsMissing => (head, 0),
            _ => return Err(Departed::Broke),
        };
        if head.length > most {
            return Err(Departed::Broke);
        }
        let end = HEAD_BYTES + head.length;
        if self.input.len() < end {
            return Ok(None);
        }
        let payload = self.input[HEAD_BYTES..end].to_vec();
        self.input.drain(..end);
        Ok(Some(match head.kind {
            Kind::Blob => Said::Blob(head.round, payload),
            _ => Said::WhoIsMissing(head.round),
        }))
    }

    /// Sends a frame, or as much of it as the socket takes now.
    pub fn send(&mut self, frame: Frame) -> Result<(), Departed> {
        if self.output.len() == MOST_UNREAD {
            return Err(Departed::Broke);
        }
        self.output.push_back(frame);
        self.flush()
    }

    /// Sends on.
    pub fn flush(&mut self) -> Result<(), Departed> {
        while let Some(frame) = self.output.front() {
            match self.stream.write(&frame[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Departed::Left),
            }
            if self.sent == frame.len() {
                self.output.pop_front();
                self.sent = 0;
            }
        }
        Ok(())
    }

    /// Whether there is something left to send.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
