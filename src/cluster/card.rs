//! What ranks tell each other about themselves at the rendezvous: two cards, of a rank and of a node.
//!
//! Only ranks that know the job's key bring cards, but a rank of another version might: what does not parse is an error
//! that names the rank, and nothing is trusted to be in range.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::node_key::NODE_KEY_BYTES;
use crate::machine::{CpuSet, MASK_CPUS};

/// The most addresses that a rank names.
pub const MOST_ADDRESSES: usize = 16;
/// The version of both cards.
const VERSION: u64 = 3;

/// A rank, before it is known who shares memory with whom.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | version |
/// | 8–15 | hash over all shared layouts: ranks of different versions must not meet |
/// | 16–23 | the groups that the rank wants space for |
/// | 24–31 | the named objects that the rank wants space for |
/// | 32–39 | the port on which it listens |
/// | 40–87 | the node key: see [`super::node_key`] |
/// | then | length of the name of its segment's socket, then the name |
/// | then | number of addresses, then each as 16 bytes (IPv4 as IPv6 has it) |
/// | then | the witness' address as 16 bytes, and its port; no witness: zeros |
/// | then | words of the mask of CPUs that it may use |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankCard {
    /// Hash over all shared layouts.
    pub layout_hash: u64,
    /// The groups that the rank wants space for.
    pub groups: u64,
    /// The named objects that the rank wants space for.
    pub objects: u64,
    /// Ranks with equal keys can share memory.
    pub node_key: [u8; NODE_KEY_BYTES],
    /// Where its segment is passed on, if it makes one.
    pub socket: String,
    /// Where it listens, best first.
    pub addresses: Vec<SocketAddr>,
    /// Where the job's witness is ([`super::witness`]), if this rank knows of one. Rank 0's word counts.
    pub witness: Option<SocketAddr>,
    /// The CPUs that it may use.
    pub mask: CpuSet,
}

impl RankCard {
    /// Ranks with equal machines share CPUs and clocks, whether they share memory or only pretend not to.
    pub fn machine(&self) -> &[u8] {
        &self.node_key[..16]
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let port = self.addresses.first().map_or(0, SocketAddr::port);
        put(&mut bytes, VERSION);
        put(&mut bytes, self.layout_hash);
        put(&mut bytes, self.groups);
        put(&mut bytes, self.objects);
        put(&mut bytes, u64::from(port));
        bytes.extend_from_slice(&self.node_key);
        put_bytes(&mut bytes, self.socket.as_bytes());
        put(&mut bytes, self.addresses.len() as u64);
        for address in &self.addresses {
            bytes.extend_from_slice(&as_v6(address.ip()).octets());
        }
        let witness = self.witness.unwrap_or((Ipv6Addr::UNSPECIFIED, 0).into());
        bytes.extend_from_slice(&as_v6(witness.ip()).octets());
        put(&mut bytes, u64::from(witness.port()));
        self.mask.words().iter().for_each(|word| put(&mut bytes, *word));
        bytes
    }

    /// Parses what another rank has brought; the error says what is wrong with it.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = Rest(bytes);
        rest.version()?;
        let layout_hash = rest.number()?;
        let groups = rest.number()?;
        let objects = rest.number()?;
        let port = rest.port()?;
        let node_key = rest.take(NODE_KEY_BYTES)?.try_into().expect("as many bytes");
        let socket =
            String::from_utf8(rest.bytes()?.to_vec()).map_err(|_| "a socket's name that is no text".to_owned())?;
        let count = rest.number()?;
        if count > MOST_ADDRESSES as u64 {
            return Err(format!("{count} addresses"));
        }
        let mut addresses = Vec::new();
        for _ in 0..count {
            addresses.push(SocketAddr::new(rest.ip()?, port));
        }
        let witness = SocketAddr::new(rest.ip()?, rest.port()?);
        let witness = Some(witness).filter(|witness| witness.port() != 0);
        let mut words = [0; MASK_CPUS / 64];
        for word in &mut words {
            *word = rest.number()?;
        }
        rest.end()?;
        let mask = CpuSet::from_words(words);
        Ok(Self { layout_hash, groups, objects, node_key, socket, addresses, witness, mask })
    }
}

/// A node, once its segment is there. Brought by the rank that made it.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | version |
/// | 8–15 | units of its segment's arena |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCard {
    /// Units of its segment's arena.
    pub arena_units: usize,
}

impl NodeCard {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, VERSION);
        put(&mut bytes, self.arena_units as u64);
        bytes
    }

    /// Parses what the node's first rank has brought.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        const MOST_UNITS: u64 = 1 << 30;
        let mut rest = Rest(bytes);
        rest.version()?;
        let units = rest.number()?;
        rest.end()?;
        let arena_units = usize::try_from(units).ok().filter(|_| (1..=MOST_UNITS).contains(&units));
        arena_units.map(|arena_units| Self { arena_units }).ok_or_else(|| format!("an arena of {units} units"))
    }
}

fn put(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(bytes: &mut Vec<u8>, part: &[u8]) {
    put(bytes, part.len() as u64);
    bytes.extend_from_slice(part);
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address),
        IpAddr::V6(address) => address,
    }
}

/// What is left to be parsed.
struct Rest<'bytes>(&'bytes [u8]);

impl<'bytes> Rest<'bytes> {
    fn take(&mut self, count: usize) -> Result<&'bytes [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| "a card that ends too early".to_owned())?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    fn port(&mut self) -> Result<u16, String> {
        u16::try_from(self.number()?).map_err(|_| "a port that is none".to_owned())
    }

    fn ip(&mut self) -> Result<IpAddr, String> {
        let octets: [u8; 16] = self.take(16)?.try_into().expect("sixteen bytes");
        Ok(Ipv6Addr::from(octets).to_canonical())
    }

    fn bytes(&mut self) -> Result<&'bytes [u8], String> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        self.take(count)
    }

    fn version(&mut self) -> Result<(), String> {
        match self.number()? {
            VERSION => Ok(()),
            other => Err(format!("a card of version {other}, this program knows {VERSION}")),
        }
    }

    fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("a card with {} bytes too many", self.0.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn card() -> RankCard {
        RankCard {
            layout_hash: 5,
            groups: 64,
            objects: 1024,
            node_key: [7; NODE_KEY_BYTES],
            socket: "phalanx-1".to_owned(),
            addresses: vec!["127.0.0.1:80".parse().expect("an address"), "[::1]:80".parse().expect("an address")],
            witness: Some("127.0.0.1:81".parse().expect("an address")),
            mask: CpuSet::of_this_thread(),
        }
    }

    #[test]
    fn cards_are_parsed_as_they_were_packed() {
        assert_eq!(RankCard::parse(&card().encode()), Ok(card()));
        let alone = RankCard { witness: None, ..card() };
        assert_eq!(RankCard::parse(&alone.encode()), Ok(alone));
        let node = NodeCard { arena_units: 9 };
        assert_eq!(NodeCard::parse(&node.encode()), Ok(node));
        assert!(NodeCard::parse(&NodeCard { arena_units: 0 }.encode()).is_err());
    }

    #[test]
    fn a_card_cut_anywhere_or_too_long_is_refused() {
        let bytes = card().encode();
        for length in 0..bytes.len() {
            assert!(RankCard::parse(&bytes[..length]).is_err(), "{length}");
        }
        assert!(RankCard::parse(&[&bytes[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes: Vec<u8>, at in 0usize..300, byte: u8) {
            let _ = (RankCard::parse(&bytes), NodeCard::parse(&bytes));
            bytes = card().encode();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = RankCard::parse(&bytes);
        }
    }
}
