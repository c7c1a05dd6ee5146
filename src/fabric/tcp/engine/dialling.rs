//! Connecting to another node: its candidates' addresses one after the other, and this end's part of the handshake.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::{Dial, Engine, LinkState, MOST_CROSSINGS, Token};
use crate::fabric::tcp::acknowledgement;
use crate::fabric::tcp::link::{Attempt, DIAL_LIMIT, Outcome, Ports, Target};
use crate::handshake::{self, Claim, HandshakeError, Purpose, Verdict};

impl Engine {
    /// Begins to connect to a node.
    pub(super) fn dial(&mut self, node: usize) {
        let attempt = Attempt::new(self.targets(node));
        self.dial_next(node, attempt, "each of its ranks has been declared failed");
    }

    /// Begins to connect to a node to which nothing is posted, to see whether it lets anybody in.
    pub fn probe(&mut self, node: usize) {
        if node == self.services.here {
            return;
        }
        match self.links.of(node).state {
            LinkState::Idle | LinkState::Failed { .. } => self.dial(node),
            // It dials by itself. To knock more often would only keep those from their work who are to open.
            LinkState::PassingOn { .. }
            | LinkState::Dialing(_)
            | LinkState::Expecting { .. }
            | LinkState::Ready(_)
            | LinkState::Shut { .. } => {}
        }
    }

    /// Whether there is a connection.
    #[cfg(test)]
    pub fn is_ready(&self, node: usize) -> bool {
        self.ready.contains(&node)
    }

    /// The candidate that is dialled.
    #[cfg(test)]
    pub fn dials(&self, node: usize) -> Option<usize> {
        match &self.links.get(node)?.state {
            LinkState::Dialing(dial) => Some(dial.target.candidate),
            _ => None,
        }
    }

    /// How long one of a node's processes may say nothing at the next attempt.
    #[cfg(test)]
    pub fn patience_with(&self, node: usize) -> Duration {
        self.links.get(node).expect("it is dialled").patience
    }

    /// Whether the other end has refused a connection as crossed, and is to make one.
    #[cfg(test)]
    pub fn is_expecting(&self, node: usize) -> bool {
        self.links.get(node).is_some_and(|link| matches!(link.state, LinkState::Expecting { .. }))
    }

    /// What the last attempt to reach a node has shown of its processes.
    pub fn ports(&self, node: usize) -> Ports {
        self.links.get(node).map_or(Ports::Unknown, |link| link.ports)
    }

    /// How long ago a node's kernel has acknowledged something on the connection.
    pub fn acknowledged(&self, node: usize) -> Option<Duration> {
        acknowledgement::last_seen(self.links.get(node)?.state.socket()?)
    }

    /// What can be tried, the first last: the candidate that has spoken for the node last, those after it, those before
    /// it; and of each the host at which the node has been reached before the others.
    fn targets(&mut self, node: usize) -> Vec<Target> {
        let link = self.links.of(node);
        let (candidates, host) = (&self.peers[node].candidates, link.host);
        let mut targets = Vec::new();
        for candidate in (0..candidates.len()).map(|step| (link.candidate + step) % candidates.len()) {
            let rank = &candidates[candidate];
            if self.excluded.contains(&(rank.rank as u64)) {
                continue;
            }
            let first = targets.len();
            targets.extend(rank.addresses().map(|address| Target { candidate, address }));
            targets[first..].sort_by_key(|target| host != Some(target.address.ip()));
        }
        targets.reverse();
        targets
    }

    /// Tries the next target; ends the attempt when there is none.
    pub(super) fn dial_next(&mut self, node: usize, mut attempt: Attempt, why: &str) {
        let mut why = why.to_owned();
        // A node's only rank is its agent from the beginning to the end.
        let may_pass_on = self.peers[node].candidates.len() > 1;
        while let Some(target) = attempt.others.pop() {
            let begun = self.begin_dial(node, target);
            let link = self.links.get_mut(node).expect("whoever dials has a link");
            match begun {
                Ok((socket, client, output, purpose)) => {
                    let limit = Instant::now() + DIAL_LIMIT;
                    let patience = may_pass_on.then_some(link.patience);
                    let (is_connected, until) = (false, limit);
                    let dial =
                        Dial { socket, client, is_connected, output, attempt, target, purpose, patience, until, limit };
                    link.state = LinkState::Dialing(Box::new(dial));
                    return self.note_limit();
                }
                Err(error) => {
                    why = format!("{}: {error}", target.address);
                    let is_refused = error.kind() == ErrorKind::ConnectionRefused;
                    let outcome = if is_refused { Outcome::Refused } else { Outcome::Unclear };
                    attempt.note(target, outcome, link.host);
                }
            }
        }
        let link = self.links.get_mut(node).expect("whoever dials has a link");
        link.end_attempt(&attempt, may_pass_on, &why, &mut self.tickets);
        self.note_limit();
    }

    /// There may be less time until the next limit than those know who sleep.
    pub(super) fn note_limit(&mut self) {
        self.calls.note_limit();
        let (limit, known) = (self.next_limit(), self.sleepers.limit);
        let is_sooner = limit.is_some_and(|limit| known.is_none_or(|known| limit < known));
        self.sleepers.has_news |= is_sooner;
    }

    /// Begins to connect to an address: the socket, the handshake, what it has to say, and what this process claims.
    fn begin_dial(&self, node: usize, target: Target) -> io::Result<(TcpStream, handshake::Client, Vec<u8>, Purpose)> {
        let family = if target.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = TcpStream::from(socket_with(family, SocketType::STREAM, flags, None)?);
        socket.set_nodelay(true)?;
        match rustix::net::connect(&socket, &target.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let peer = self.peers[node].candidates[target.candidate].rank;
        // To whom is no rank of the job (its witness) all are guests.
        let is_rank = peer < self.services.size;
        let purpose = if self.is_agent() && is_rank { Purpose::Agent } else { Purpose::Fabric };
        let claim =
            Claim { purpose, rank: self.services.rank as u64, size: self.services.size as u64, peer: peer as u64 };
        let mut client = handshake::Client::new(&self.services.key, &claim)?;
        let output = client.poll_output();
        epoll::add(&self.epoll, &socket, Token::Link(node).pack(), EventFlags::IN | EventFlags::OUT)?;
        Ok((socket, client, output, purpose))
    }

    /// Nothing has happened for so long that something else is to be tried.
    pub(super) fn end_silence(&mut self, node: usize) {
        let outcome = match self.links.get(node).map(|link| &link.state) {
            Some(LinkState::Dialing(dial)) => dial.end_of_silence(),
            _ => Outcome::Unclear,
        };
        self.dial_on(node, "it does not answer", outcome);
    }

    /// One target has failed, or the time for the next attempt has come.
    pub(super) fn dial_on(&mut self, node: usize, why: &str, outcome: Outcome) {
        let Some(link) = self.links.get_mut(node) else { return };
        match std::mem::replace(&mut link.state, LinkState::Idle) {
            LinkState::Dialing(dial) => {
                let Dial { mut attempt, target, .. } = *dial;
                attempt.note(target, outcome, link.host);
                self.dial_next(node, attempt, &format!("{}: {why}", target.address));
            }
            LinkState::Expecting { .. } if link.crossings < MOST_CROSSINGS => {
                link.crossings += 1;
                self.dial(node);
            }
            LinkState::PassingOn { .. } => self.dial(node),
            _ => link.fail(why, &mut self.tickets),
        }
    }

    pub(super) fn dialled(&mut self, node: usize) {
        let link = self.links.get_mut(node).expect("it was attended to");
        let LinkState::Dialing(dial) = std::mem::replace(&mut link.state, LinkState::Idle) else { return };
        link.host = Some(dial.target.address.ip());
        self.open(node, dial.target.candidate, dial.purpose, dial.socket);
    }
}

/// What it says of the other end's process that a dial has failed.
pub(super) fn outcome_of(error: &HandshakeError) -> Outcome {
    match error {
        HandshakeError::System(error) => match error.kind() {
            // Before there was a connection.
            ErrorKind::ConnectionRefused => Outcome::Refused,
            // There has been one: it was closed unread, or the process was ending.
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Outcome::Closed,
            _ => Outcome::Unclear,
        },
        // An agent to whom everybody comes at once lets them in one after the other.
        HandshakeError::Closed | HandshakeError::Refused { verdict: Verdict::TooBusy, .. } => Outcome::Closed,
        _ => Outcome::Unclear,
    }
}

/// Goes on with a dial as far as the other end lets it; whether it is through.
pub(super) fn advance(dial: &mut Dial) -> Result<bool, HandshakeError> {
    if !dial.is_connected {
        match sockopt::socket_error(&dial.socket).map_err(io::Error::from)? {
            Ok(()) => {}
            Err(error) => return Err(HandshakeError::System(error.into())),
        }
        let Ok(peer) = dial.socket.peer_addr() else { return Ok(false) };
        // Where nobody has the port, the kernel may have chosen it for this very socket, and connected it to itself.
        if dial.socket.local_addr().is_ok_and(|own| own == peer) {
            return Err(HandshakeError::System(ErrorKind::ConnectionRefused.into()));
        }
        dial.note_connected();
    }
    let mut bytes = [0; handshake::CHALLENGE_BYTES];
    loop {
        if !send_output(dial)? {
            return Ok(false);
        }
        if dial.client.is_welcome() {
            return Ok(true);
        }
        let wanted = dial.client.wanted();
        match dial.socket.read(&mut bytes[..wanted]) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(received) => {
                dial.client.handle_bytes(&bytes[..received])?;
                if dial.client.has_proved() {
                    dial.note_challenged();
                }
                dial.output.extend(dial.client.poll_output());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(HandshakeError::System(error)),
        }
    }
}

/// Whether all has been sent.
fn send_output(dial: &mut Dial) -> Result<bool, HandshakeError> {
    while !dial.output.is_empty() {
        match dial.socket.write(&dial.output) {
            Ok(sent) => drop(dial.output.drain(..sent)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(HandshakeError::System(error)),
        }
    }
    Ok(true)
}
