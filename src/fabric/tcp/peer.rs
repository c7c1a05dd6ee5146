//! Nodes as others reach them, and the socket by which this process is reached.
//!
//! Any rank of a node can become its agent, so each has a socket that listens for as long as the process lives. Whoever
//! dials a node tries its ranks' sockets until one lets it in. One that does not speak for its node accepts and closes
//! at once, which shows that it lives; the kernel refuses for one whose process has ended, which shows that it does
//! not.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

/// Connections that wait to be let in, at most; the kernel may allow fewer. When a role has passed on, all come at
/// once.
const BACKLOG: i32 = 4096;

/// A rank that may speak for its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The rank.
    pub rank: usize,
    /// The node's hosts, best first. Shared: those of a node's ranks are alike.
    pub hosts: Arc<[IpAddr]>,
    /// The port of its socket.
    pub port: u16,
}

impl Candidate {
    /// Where it listens if it is the agent, best first.
    pub fn addresses(&self) -> impl DoubleEndedIterator<Item = SocketAddr> + '_ {
        self.hosts.iter().map(|host| SocketAddr::new(*host, self.port))
    }
}

/// A node as others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its ranks, the lowest first. Its agent is the first of them that lives and has not left.
    pub candidates: Vec<Candidate>,
    /// The words of its segment.
    pub words: usize,
}

impl Peer {
    /// A node of one rank.
    pub fn alone(rank: usize, address: SocketAddr, words: usize) -> Self {
        let candidate = Candidate { rank, hosts: Arc::new([address.ip()]), port: address.port() };
        Self { candidates: vec![candidate], words }
    }

    /// Which of the candidates a rank is.
    pub fn place_of(&self, rank: u64) -> Option<usize> {
        self.candidates.iter().position(|candidate| candidate.rank as u64 == rank)
    }
}

/// The socket by which other nodes reach this process.
#[derive(Debug)]
pub enum Door {
    /// There is none: this process never speaks for its node.
    None,
    /// Whoever knocks is sent away at once.
    Shut(TcpListener),
    /// This process speaks for its node, and lets others in.
    Open(TcpListener),
}

impl Door {
    /// A shut one. It listens: who knocks before there is a fabric waits.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // Without `SO_REUSEADDR`: the port is no other's, not even one's that has just ended.
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Ok(Self::Shut(TcpListener::from(socket)))
    }

    /// Opens it, if it is shut.
    ///
    /// # Errors
    ///
    /// There is no socket.
    pub fn open(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Self::None) {
            Self::None => Err(io::Error::other("this process has no socket by which other nodes could reach it")),
            Self::Open(socket) | Self::Shut(socket) => {
                *self = Self::Open(socket);
                Ok(())
            }
        }
    }

    /// Whether others are let in.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// The socket at which others knock.
    pub fn listener(&self) -> Option<&TcpListener> {
        match self {
            Self::Open(socket) | Self::Shut(socket) => Some(socket),
            Self::None => None,
        }
    }

    /// Where others reach it.
    ///
    /// # Errors
    ///
    /// There is no socket, or what the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener().ok_or_else(|| io::ErrorKind::NotConnected.into()).and_then(TcpListener::local_addr)
    }
}

/// A socket that listens already.
impl From<Option<TcpListener>> for Door {
    fn from(listener: Option<TcpListener>) -> Self {
        listener.map_or(Self::None, Self::Open)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    use super::*;

    #[test]
    fn a_door_keeps_its_port_for_as_long_as_it_is_there() {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut door = Door::bind(any_port).expect("a port");
        let address = door.local_addr().expect("it is bound");
        assert!(!door.is_open());
        let _waits = TcpStream::connect(address).expect("it listens");
        assert!(Door::bind(address).is_err() && TcpListener::bind(address).is_err(), "the port is taken");
        for _ in 0..2 {
            door.open().expect("its own port");
            assert!(door.is_open());
        }
        assert_eq!(door.local_addr().expect("it is bound"), address);
        drop(door);
        let refused = TcpStream::connect(address).expect_err("there is nobody");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(Door::None.open().is_err() && Door::None.local_addr().is_err());
    }

    #[test]
    fn a_door_to_all_interfaces_lets_both_families_in() {
        let Ok(mut door) = Door::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))) else {
            return crate::testing::not_run("no IPv6");
        };
        door.open().expect("its own port");
        let port = door.local_addr().expect("it is bound").port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it is open");
    }
}
