//! Connecting to another node: its addresses one after the other, and this end's part of the handshake.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::{Dial, Engine, LinkState, MOST_CROSSINGS, Token};
use crate::handshake::{self, Claim, HandshakeError, Purpose};

/// How long one address is tried.
const DIAL_LIMIT: Duration = Duration::from_secs(3);

impl Engine {
    /// Begins to connect to a node, by the first of its addresses.
    pub(super) fn dial(&mut self, node: usize) {
        let mut others = self.peers[node].addresses.clone();
        others.reverse();
        self.dial_next(node, others, "it has no address");
    }

    /// Tries the last of `others`; gives up when there is none.
    pub(super) fn dial_next(&mut self, node: usize, mut others: Vec<SocketAddr>, why: &str) {
        let mut why = why.to_owned();
        while let Some(address) = others.pop() {
            match self.begin_dial(node, address, others.clone()) {
                Ok(dial) => {
                    let link = self.links.get_mut(node).expect("whoever dials has a link");
                    link.state = LinkState::Dialing(Box::new(dial));
                    return;
                }
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        let link = self.links.get_mut(node).expect("whoever dials has a link");
        link.fail(&why, &mut self.tickets);
    }

    pub(super) fn begin_dial(&self, node: usize, address: SocketAddr, others: Vec<SocketAddr>) -> io::Result<Dial> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = TcpStream::from(socket_with(family, SocketType::STREAM, flags, None)?);
        socket.set_nodelay(true)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let claim = Claim {
            purpose: Purpose::Fabric,
            rank: self.services.rank as u64,
            size: self.services.size as u64,
            peer: self.peers[node].rank as u64,
        };
        let mut client = handshake::Client::new(&self.services.key, &claim)?;
        let output = client.poll_output();
        epoll::add(&self.epoll, &socket, Token::Link(node).pack(), EventFlags::IN | EventFlags::OUT)?;
        let until = Instant::now() + DIAL_LIMIT;
        Ok(Dial { socket, client, is_connected: false, output, others, address, until })
    }

    /// One address has failed: tries the next.
    pub(super) fn dial_on(&mut self, node: usize, why: &str) {
        let Some(link) = self.links.get_mut(node) else { return };
        match std::mem::replace(&mut link.state, LinkState::Idle) {
            LinkState::Dialing(dial) => self.dial_next(node, dial.others, &format!("{}: {why}", dial.address)),
            LinkState::Expecting { .. } if link.crossings < MOST_CROSSINGS => {
                link.crossings += 1;
                self.dial(node);
            }
            _ => link.fail(why, &mut self.tickets),
        }
    }

    pub(super) fn dialled(&mut self, node: usize) {
        let link = self.links.get_mut(node).expect("it was attended to");
        let LinkState::Dialing(dial) = std::mem::replace(&mut link.state, LinkState::Idle) else { return };
        self.open(node, dial.socket);
    }
}

/// Goes on with a dial as far as the other end lets it; whether it is through.
pub(super) fn advance(dial: &mut Dial) -> Result<bool, HandshakeError> {
    if !dial.is_connected {
        match sockopt::socket_error(&dial.socket).map_err(io::Error::from)? {
            Ok(()) => {}
            Err(error) => return Err(HandshakeError::System(error.into())),
        }
        if dial.socket.peer_addr().is_err() {
            return Ok(false);
        }
        dial.is_connected = true;
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
