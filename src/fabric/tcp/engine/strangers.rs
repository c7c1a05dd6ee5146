//! Who knocks at this process's port: connections that have not proved themselves, and what becomes of them.
//!
//! Where this process does not speak for its node they are closed at once, whoever it is. It has nothing to be asked,
//! and says by that that it lives. No state is kept for them, by the kernel neither.
//!
//! A stranger is bounded in time and in number; one that proves to speak for a node becomes a link, any other process
//! of the job a guest. Whoever is excluded is told so, when it has proved who it is.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::{Engine, Link, LinkState, StreamError, Token};
use crate::handshake::{self, Claim, Event, Expected, Purpose, Refusal, Verdict};

/// How long a listener without room for another connection is left alone.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Connections that have not proved themselves, at most.
const MOST_STRANGERS: usize = 64;
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// A connection that has not proved itself yet.
#[derive(Debug)]
pub(super) struct Stranger {
    pub(super) socket: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) server: handshake::Server,
    pub(super) output: Vec<u8>,
    pub(super) until: Instant,
}

impl Engine {
    /// Lets in who knocks.
    pub(super) fn let_in(&mut self) {
        let Some(listener) = self.door.listener() else { return };
        let (socket, address) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if is_out_of_room(&error) => return self.rest(&error),
            // Nobody knocks any more.
            Err(_) => return,
        };
        if !self.door.is_open() {
            return send_away(&socket);
        }
        let expected =
            Expected { purpose: Purpose::Fabric, size: self.services.size as u64, peer: self.services.rank as u64 };
        let Ok(server) = handshake::Server::new(&self.services.key, expected) else { return };
        if socket.set_nonblocking(true).is_err() || socket.set_nodelay(true).is_err() {
            return;
        }
        let until = Instant::now() + HANDSHAKE_LIMIT;
        let stranger = Stranger { socket, address, server, output: Vec::new(), until };
        if self.strangers.len() >= MOST_STRANGERS {
            match self.expendable() {
                Some(id) => self.put_out(id),
                None => return self.turn_away(stranger),
            }
        }
        let id = self.fresh_id();
        if epoll::add(&self.epoll, &stranger.socket, Token::Stranger(id).pack(), EventFlags::IN).is_ok() {
            self.strangers.insert(id, stranger);
        }
    }

    /// There is no room for another connection: leaves those that knock waiting for a while. They would be told of
    /// again and again, and nothing else would be done.
    pub(super) fn rest(&mut self, error: &io::Error) {
        let Some(listener) = self.door.listener() else { return };
        let _ = epoll::delete(&self.epoll, listener);
        self.rests_until = Some(Instant::now() + ACCEPT_REST);
        if !std::mem::replace(&mut self.has_rested, true) {
            let here = self.services.here;
            eprintln!(
                "phalanx: node {here}: cannot let other nodes connect now: {error} (remedy: more open files, ulimit -n)"
            );
        }
    }

    /// Looks again who knocks, after a rest.
    pub(super) fn end_rest(&mut self, now: Instant) {
        if let (Some(listener), Some(_)) = (self.door.listener(), self.rests_until.take_if(|until| *until <= now)) {
            // What cannot be watched now is tried again later.
            if epoll::add(&self.epoll, listener, Token::Listener.pack(), EventFlags::IN).is_err() {
                self.rests_until = Some(now + ACCEPT_REST);
            }
        }
    }

    /// The oldest stranger that has not shown the job's tag: a rank shows it as soon as it is let in, so that a flood
    /// of others keeps none out.
    pub(super) fn expendable(&self) -> Option<u32> {
        let silent = self.strangers.iter().filter(|(_, stranger)| !stranger.server.has_heard_hello());
        silent.min_by_key(|(_, stranger)| stranger.until).map(|(id, _)| *id)
    }

    pub(super) fn put_out(&mut self, id: u32) {
        if let Some(stranger) = self.strangers.remove(&id) {
            self.turn_away(stranger);
        }
    }

    pub(super) fn turn_away(&mut self, mut stranger: Stranger) {
        stranger.server.decide(Verdict::TooBusy);
        self.log.report(stranger.address, Verdict::TooBusy);
        // It fits into an empty socket buffer, and is lost with a peer that is gone.
        let _ = stranger.send();
    }

    /// A stranger says something.
    pub(super) fn examine(&mut self, id: u32) {
        let Some(mut stranger) = self.strangers.remove(&id) else { return };
        match stranger.listen() {
            Ok(Event::Continue) => {
                if stranger.send().is_ok() {
                    self.strangers.insert(id, stranger);
                }
            }
            Ok(Event::Refused(verdict)) => {
                self.log.report(stranger.address, verdict);
                let _ = stranger.send();
            }
            Ok(Event::Proved(claim)) => self.welcome(stranger, claim),
            // Whoever says nothing, or shows the job's tag and then thinks better of it, is none to report: of two
            // nodes that dial each other at once, one does so.
            Err(_) if stranger.server.is_in_hello() => self.log.report(stranger.address, Refusal::WentAway),
            Err(_) => {}
        }
    }

    /// A process of the job: the one that speaks for its node, or a guest.
    pub(super) fn welcome(&mut self, mut stranger: Stranger, claim: Claim) {
        let role = self.role_of(&claim);
        stranger.server.decide(role.err().unwrap_or(Verdict::Welcome));
        let is_told = stranger.send().is_ok();
        match role {
            Err(verdict @ (Verdict::Excluded | Verdict::Malformed)) => self.log.report(stranger.address, verdict),
            Ok(role) if is_told => self.let_sit(stranger, claim.rank, role),
            _ => {}
        }
    }

    /// What a process that has proved its claim is to this one.
    fn role_of(&mut self, claim: &Claim) -> Result<Role, Verdict> {
        if self.is_excluded(claim.rank) {
            return Err(Verdict::Excluded);
        }
        let seat = self.seat_of(claim.rank);
        if claim.purpose == Purpose::Fabric {
            return Ok(Role::Guest { node: seat.map(|(node, _)| node) });
        }
        // Nobody else speaks for this node, or for none.
        let (node, candidate) = seat.ok_or(Verdict::Malformed)?;
        let is_lower = self.services.here < node;
        let Some(link) = self.links.get_mut(node) else { return Ok(Role::Agent { node, candidate }) };
        // A node that has declared this process failed is no reason to tell it so.
        if matches!(link.state, LinkState::Shut { .. }) {
            return Ok(Role::Guest { node: None });
        }
        if is_kept_beside(link, candidate) {
            return Ok(Role::Guest { node: Some(node) });
        }
        if is_lower && is_crossed(link, candidate) {
            return Err(Verdict::Crossed);
        }
        Ok(Role::Agent { node, candidate })
    }

    fn let_sit(&mut self, stranger: Stranger, rank: u64, role: Role) {
        let (node, candidate) = match role {
            Role::Guest { node } => return self.receive_guest(stranger, rank, node),
            Role::Agent { node, candidate } => (node, candidate),
        };
        // A new connection of the same process, or of the next agent: the old one is dead, whether this end has noticed
        // or not. What of it has not been read must not be executed after what comes by the new one, and is dropped
        // with it.
        self.guests.retain(|_, guest| guest.rank != rank);
        if self.ready.contains(&node) {
            self.break_off(node, &StreamError::Closed);
        }
        let host = stranger.address.ip().to_canonical();
        if self.peers[node].candidates[candidate].hosts.contains(&host) {
            self.links.of(node).host = Some(host);
        }
        self.open(node, candidate, Purpose::Agent, stranger.socket);
    }
}

/// What a process that has been let in is.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// One that asks and is answered; of another node, if one is named.
    Guest { node: Option<usize> },
    /// One that speaks for its node.
    Agent { node: usize, candidate: usize },
}

/// Whether this end has a connection to a candidate, made when it was no agent, that stays beside the candidate's own:
/// what is on its way by it would be lost.
fn is_kept_beside(link: &Link, candidate: usize) -> bool {
    match &link.state {
        LinkState::Dialing(dial) => dial.purpose == Purpose::Fabric && dial.target.candidate == candidate,
        LinkState::Ready(_) => link.purpose == Purpose::Fabric && link.candidate == candidate,
        _ => false,
    }
}

/// Whether a candidate's connection crosses one that this end, the lower node, has to it, and is the worse one.
fn is_crossed(link: &mut Link, candidate: usize) -> bool {
    match &link.state {
        LinkState::Dialing(dial) => dial.target.candidate == candidate,
        LinkState::Ready(_) => link.candidate == candidate && !std::mem::replace(&mut link.has_refused, true),
        _ => false,
    }
}

impl Stranger {
    /// Reads what is there, and no byte beyond the handshake.
    pub(super) fn listen(&mut self) -> Result<Event, StreamError> {
        let mut bytes = [0; handshake::HELLO_BYTES];
        loop {
            let wanted = self.server.wanted();
            if wanted == 0 {
                return Ok(Event::Continue);
            }
            match self.socket.read(&mut bytes[..wanted]) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(received) => {
                    let (_, event) = self.server.handle_bytes(&bytes[..received]);
                    if event != Event::Continue {
                        return Ok(event);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Event::Continue),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what the handshake has to say: some hundred bytes, which an empty socket buffer takes whole.
    pub(super) fn send(&mut self) -> Result<(), StreamError> {
        self.output.extend(self.server.poll_output());
        let sent = self.socket.write(&self.output);
        let is_whole = matches!(sent, Ok(sent) if sent == self.output.len());
        self.output.clear();
        if is_whole { Ok(()) } else { Err(StreamError::Closed) }
    }
}

/// Has a connection that is about to be dropped reset, so that the kernel keeps nothing of it.
fn send_away(socket: &TcpStream) {
    // Otherwise it is closed as any other.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Whether accepting a connection has failed for want of descriptors or memory.
fn is_out_of_room(error: &io::Error) -> bool {
    let none_left = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|error| none_left.contains(&error))
}
