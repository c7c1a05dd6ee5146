//! Where a job's ranks meet, as `PHALANX_BOOTSTRAP` says it.

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};

/// The most ranks that one node can have: what the packed words of a barrier can count, with room.
pub const MAX_NODE_RANKS: usize = 1024;
/// The most ranks of a job on many nodes.
pub const MAX_RANKS: usize = 65_536;
/// The longest name of an abstract UNIX socket.
const MAX_SOCKET_NAME: usize = 107;

/// Where the job's ranks meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:NAME`, an abstract UNIX socket, which is no file and vanishes with its server: all ranks are on one node.
    Unix {
        /// The socket's name.
        name: String,
    },
    /// `HOST:PORT`: ranks may be on several nodes.
    Tcp {
        /// An IPv4 address, an IPv6 address without its brackets, or a name.
        host: String,
        /// The port, which is not 0.
        port: u16,
    },
}

impl Address {
    /// Parses `unix:NAME`, `HOST:PORT` or `[IPV6]:PORT`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(name) if name.is_empty() || name.len() > MAX_SOCKET_NAME => {
                Err(format!("the name in unix:NAME must have 1 to {MAX_SOCKET_NAME} bytes"))
            }
            Some(name) => Ok(Self::Unix { name: name.to_owned() }),
            None => parse_host_and_port(text).ok_or_else(|| {
                "an address is unix:NAME (an abstract UNIX socket) or HOST:PORT; an IPv6 address stands in brackets"
                    .to_owned()
            }),
        }
    }

    /// The addresses that a TCP address means, in the order to try them. Names are looked up, which takes as long as
    /// the system's resolver does. None for a UNIX socket.
    ///
    /// # Errors
    ///
    /// When the name is not known.
    pub fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        match self {
            Self::Unix { .. } => Ok(Vec::new()),
            Self::Tcp { host, port } => Ok((host.as_str(), *port).to_socket_addrs()?.collect()),
        }
    }

    /// The most ranks of a job that meets here.
    pub fn most_ranks(&self) -> usize {
        match self {
            Self::Unix { .. } => MAX_NODE_RANKS,
            Self::Tcp { .. } => MAX_RANKS,
        }
    }
}

fn parse_host_and_port(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']').filter(|host| is_ipv6(host))?,
        None => Some(host).filter(|host| is_name(host))?,
    };
    Some(Address::Tcp { host: host.to_owned(), port })
}

/// An IPv6 address, perhaps with its zone: `fe80::1%eth0`.
fn is_ipv6(host: &str) -> bool {
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

/// What can be an IPv4 address or a host's name.
fn is_name(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp { host: address.ip().to_string(), port: address.port() }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix { name } => write!(f, "unix:{name}"),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_were_written_as() {
        for text in ["unix:x", "127.0.0.1:5", "[::1]:65535", "[fe80::1%eth0]:7", "node-1.cluster_a.example:80"] {
            assert_eq!(Address::parse(text).map(|address| address.to_string()), Ok(text.to_owned()));
        }
        let bad =
            ["", "here", ":5", "host:", "host:0", "host:65536", "host:-1", "::1:5", "[::1]", "[::1:5", "[host]:5"];
        for text in bad.into_iter().chain(["tcp:host:5", "two words:5", "unix:"]) {
            assert!(Address::parse(text).is_err(), "{text:?} was accepted");
        }
        let socket = Address::parse("unix:x").expect("valid");
        assert_eq!(socket.resolve().expect("nothing to look up"), []);
    }
}
