//! Cards: what is accepted is in range and means itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use phalanx::cluster::card::{MOST_ADDRESSES, NodeCard, RankCard};
use phalanx::cluster::node_key::NODE_KEY_BYTES;
use phalanx::fabric::sim::Seeded;
use phalanx::machine::CpuSet;

use crate::mutation::{byte, bytes, number, spoil};
use crate::{Target, ensure};

pub(crate) struct Cards;

#[allow(clippy::cast_possible_truncation, reason = "a port is any number")]
fn any_card(random: &mut Seeded) -> RankCard {
    let port = random.number() as u16;
    let address = |random: &mut Seeded| {
        let ip = match random.below(2) {
            0 => IpAddr::from(Ipv4Addr::from_bits(random.number() as u32)),
            _ => Ipv6Addr::from([byte(random); 16]).to_canonical(),
        };
        SocketAddr::new(ip, port)
    };
    let mut mask = CpuSet::from_words([0; 16]);
    (0..random.below(9)).for_each(|_| mask.insert(random.below(1024)));
    RankCard {
        layout_hash: number(random),
        groups: number(random),
        objects: number(random),
        node_key: [byte(random); NODE_KEY_BYTES],
        socket: "phalanx-".repeat(random.below(4)),
        addresses: (0..=random.below(MOST_ADDRESSES)).map(|_| address(random)).collect(),
        witness: (random.below(2) == 0).then(|| SocketAddr::new(address(random).ip(), port.max(1))),
        mask,
    }
}

impl Target for Cards {
    fn case(&mut self, random: &mut Seeded) -> Result<(), String> {
        let card = any_card(random);
        let mut sent = card.encode();
        ensure(RankCard::parse(&sent).as_ref() == Ok(&card), || format!("{card:?} is not what it was packed from"))?;
        if random.below(8) == 0 {
            sent = bytes(random);
        }
        spoil(random, &mut sent);
        if let Ok(parsed) = RankCard::parse(&sent) {
            ensure(parsed.addresses.len() <= MOST_ADDRESSES, || format!("{} addresses", parsed.addresses.len()))?;
            ensure(parsed.encode().len() == sent.len(), || format!("{sent:?} is taken for {parsed:?}"))?;
        }
        let mut sent = NodeCard { arena_units: 1 + random.below(1 << 30) }.encode();
        spoil(random, &mut sent);
        let Ok(parsed) = NodeCard::parse(&sent) else { return Ok(()) };
        let is_in_range = (1..=1 << 30).contains(&parsed.arena_units);
        ensure(is_in_range && parsed.encode() == sent, || format!("{sent:?} is taken for {parsed:?}"))
    }
}
