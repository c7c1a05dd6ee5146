//! What one end of a connection tells the other: where its queue pair is, and how to reach its segment.
//!
//! Both ends make an [`Offer`], exchange the bytes by any channel that they trust (`cluster` has authenticated it by
//! then), and connect. The bytes are checked as if a stranger had sent them all the same: a wrong number would make the
//! adapter write to another place than meant, or make a connection that never works.
//!
//! | bytes | field (little endian unless noted) |
//! | --- | --- |
//! | 0–3 | magic "PXRD" |
//! | 4–5 | version |
//! | 6 | link layer: 1 InfiniBand, 2 Ethernet |
//! | 7 | atomics: 0 none, 1 within the adapter, 2 with the CPU too |
//! | 8–11 | queue pair's number, 24 bits |
//! | 12–15 | number of its first packet, 24 bits |
//! | 16–31 | GID, in network order; zero where there is none |
//! | 32–33 | LID; 0 on Ethernet |
//! | 34 | the longest packet: 1 to 5 for 256 to 4,096 bytes |
//! | 35 | how many reads and atomics the queue pair serves at once |
//! | 36–39 | the segment's key |
//! | 40–47 | the segment's first address |
//! | 48–55 | the segment's words |

use super::verbs::{Gid, LINK_LAYER_ETHERNET, LINK_LAYER_INFINIBAND};

/// How many bytes an offer has.
pub const OFFER_BYTES: usize = 56;
const MAGIC: [u8; 4] = *b"PXRD";
const VERSION: u16 = 1;
const NUMBERS_24_BITS: u32 = 1 << 24;

/// Which network a port is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// Ports have local identifiers (LIDs), given out by a subnet manager.
    InfiniBand,
    /// Ports have global identifiers (GIDs), made from their interfaces' addresses.
    Ethernet,
}

/// What a device's atomics are atomic against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AtomicCapability {
    /// There are none.
    None,
    /// Each other, on this device.
    Device,
    /// The CPU's and other devices', too.
    Global,
}

/// One end of a connection, for the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The port's network.
    pub link_layer: LinkLayer,
    /// What atomics on the segment are atomic against.
    pub atomics: AtomicCapability,
    /// The queue pair's number.
    pub queue_pair: u32,
    /// The number of the first packet that it sends.
    pub first_packet: u32,
    /// The port's global identifier, or zeroes.
    pub gid: Gid,
    /// The port's local identifier, or 0.
    pub lid: u16,
    /// The longest packet that the port takes, as verbs count it.
    pub mtu: u8,
    /// How many reads and atomics the queue pair serves at once.
    pub served_at_once: u8,
    /// The segment's key.
    pub key: u32,
    /// The segment's first address.
    pub base: u64,
    /// The segment's words.
    pub words: u64,
}

/// Why bytes are no offer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// Too few or too many.
    #[error("an offer of an RDMA connection has {OFFER_BYTES} bytes, not {bytes}")]
    Length {
        /// How many there are.
        bytes: usize,
    },
    /// They do not start as an offer does.
    #[error("not an offer of an RDMA connection: it starts with {found:02x?}")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Made by another version.
    #[error(
        "the offer has version {found}, this program knows {VERSION} (remedy: use one version of phalanx for all ranks)"
    )]
    Version {
        /// The version.
        found: u16,
    },
    /// A number that cannot be.
    #[error("the offer's {what} is {found}, which cannot be")]
    Field {
        /// Which.
        what: &'static str,
        /// Its value.
        found: u64,
    },
}

impl Offer {
    /// The bytes, for the other end.
    pub fn to_bytes(&self) -> [u8; OFFER_BYTES] {
        let mut bytes = [0; OFFER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = match self.link_layer {
            LinkLayer::InfiniBand => LINK_LAYER_INFINIBAND,
            LinkLayer::Ethernet => LINK_LAYER_ETHERNET,
        };
        bytes[7] = match self.atomics {
            AtomicCapability::None => 0,
            AtomicCapability::Device => 1,
            AtomicCapability::Global => 2,
        };
        bytes[8..12].copy_from_slice(&self.queue_pair.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.first_packet.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.gid);
        bytes[32..34].copy_from_slice(&self.lid.to_le_bytes());
        bytes[34] = self.mtu;
        bytes[35] = self.served_at_once;
        bytes[36..40].copy_from_slice(&self.key.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.base.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.words.to_le_bytes());
        bytes
    }

    /// The offer in bytes that may be anything.
    ///
    /// # Errors
    ///
    /// [`OfferError`] says what about them cannot be.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OfferError> {
        let Ok(bytes) = <&[u8; OFFER_BYTES]>::try_from(bytes) else {
            return Err(OfferError::Length { bytes: bytes.len() });
        };
        let found = cut(bytes, 0);
        if found != MAGIC {
            return Err(OfferError::Magic { found });
        }
        let found = u16::from_le_bytes(cut(bytes, 4));
        if found != VERSION {
            return Err(OfferError::Version { found });
        }
        let offer = Self {
            link_layer: link_layer_of(bytes[6])?,
            atomics: atomics_of(bytes[7])?,
            queue_pair: u32::from_le_bytes(cut(bytes, 8)),
            first_packet: u32::from_le_bytes(cut(bytes, 12)),
            gid: cut(bytes, 16),
            lid: u16::from_le_bytes(cut(bytes, 32)),
            mtu: bytes[34],
            served_at_once: bytes[35],
            key: u32::from_le_bytes(cut(bytes, 36)),
            base: u64::from_le_bytes(cut(bytes, 40)),
            words: u64::from_le_bytes(cut(bytes, 48)),
        };
        offer.check()?;
        Ok(offer)
    }

    fn check(&self) -> Result<(), OfferError> {
        let must = |holds, what, found| if holds { Ok(()) } else { Err(OfferError::Field { what, found }) };
        // 0 and 1 are the numbers of management queue pairs.
        must((2..NUMBERS_24_BITS).contains(&self.queue_pair), "queue pair", self.queue_pair.into())?;
        must(self.first_packet < NUMBERS_24_BITS, "first packet", self.first_packet.into())?;
        must((1..=5).contains(&self.mtu), "longest packet", self.mtu.into())?;
        must(self.served_at_once > 0, "number of reads served at once", 0)?;
        let has_gid = self.gid != [0; 16];
        match self.link_layer {
            LinkLayer::Ethernet => must(has_gid, "GID", 0)?,
            LinkLayer::InfiniBand => must(self.lid != 0 || has_gid, "LID", 0)?,
        }
        must(self.base.is_multiple_of(8), "segment's address", self.base)?;
        let end = self.words.checked_mul(8).and_then(|bytes| self.base.checked_add(bytes));
        must(self.words > 0 && end.is_some(), "segment's number of words", self.words)
    }
}

/// `LENGTH` bytes from `at`.
fn cut<const LENGTH: usize>(bytes: &[u8; OFFER_BYTES], at: usize) -> [u8; LENGTH] {
    std::array::from_fn(|index| bytes[at + index])
}

fn link_layer_of(byte: u8) -> Result<LinkLayer, OfferError> {
    match byte {
        LINK_LAYER_INFINIBAND => Ok(LinkLayer::InfiniBand),
        LINK_LAYER_ETHERNET => Ok(LinkLayer::Ethernet),
        _ => Err(OfferError::Field { what: "link layer", found: byte.into() }),
    }
}

fn atomics_of(byte: u8) -> Result<AtomicCapability, OfferError> {
    match byte {
        0 => Ok(AtomicCapability::None),
        1 => Ok(AtomicCapability::Device),
        2 => Ok(AtomicCapability::Global),
        _ => Err(OfferError::Field { what: "kind of atomics", found: byte.into() }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn offer() -> Offer {
        Offer {
            link_layer: LinkLayer::Ethernet,
            atomics: AtomicCapability::Device,
            queue_pair: 17,
            first_packet: 0xab_cdef,
            gid: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1],
            lid: 0,
            mtu: 3,
            served_at_once: 16,
            key: 0x1234_5678,
            base: 0x7fff_0000_1000,
            words: 512,
        }
    }

    #[test]
    fn an_offer_survives_its_bytes() {
        let made = offer();
        assert_eq!(Offer::from_bytes(&made.to_bytes()), Ok(made));
        let made = Offer { link_layer: LinkLayer::InfiniBand, gid: [0; 16], lid: 9, ..offer() };
        assert_eq!(Offer::from_bytes(&made.to_bytes()), Ok(made));
    }

    fn spoiled(spoil: impl FnOnce(&mut Offer)) -> OfferError {
        let mut made = offer();
        spoil(&mut made);
        Offer::from_bytes(&made.to_bytes()).expect_err("a spoiled offer")
    }

    #[test]
    fn each_impossible_field_is_refused() {
        let field = |what, found| OfferError::Field { what, found };
        assert_eq!(spoiled(|offer| offer.queue_pair = 1), field("queue pair", 1));
        assert_eq!(spoiled(|offer| offer.queue_pair = 1 << 24), field("queue pair", 1 << 24));
        assert_eq!(spoiled(|offer| offer.first_packet = 1 << 24), field("first packet", 1 << 24));
        assert_eq!(spoiled(|offer| offer.mtu = 0), field("longest packet", 0));
        assert_eq!(spoiled(|offer| offer.mtu = 6), field("longest packet", 6));
        assert_eq!(spoiled(|offer| offer.served_at_once = 0), field("number of reads served at once", 0));
        assert_eq!(spoiled(|offer| offer.gid = [0; 16]), field("GID", 0));
        let no_address = |offer: &mut Offer| (offer.link_layer, offer.gid) = (LinkLayer::InfiniBand, [0; 16]);
        assert_eq!(spoiled(no_address), field("LID", 0));
        assert_eq!(spoiled(|offer| offer.base = 4), field("segment's address", 4));
        assert_eq!(spoiled(|offer| offer.words = 0), field("segment's number of words", 0));
        assert_eq!(spoiled(|offer| offer.words = u64::MAX), field("segment's number of words", u64::MAX));
        let beyond = |offer: &mut Offer| (offer.base, offer.words) = (u64::MAX - 7, 2);
        assert_eq!(spoiled(beyond), field("segment's number of words", 2));
    }

    #[test]
    fn bytes_of_another_kind_are_refused() {
        let good = offer().to_bytes();
        assert_eq!(Offer::from_bytes(&good[1..]), Err(OfferError::Length { bytes: OFFER_BYTES - 1 }));
        let with = |at: usize, byte| {
            let mut bytes = good;
            bytes[at] = byte;
            Offer::from_bytes(&bytes).expect_err("spoiled bytes")
        };
        assert_eq!(with(0, b'X'), OfferError::Magic { found: *b"XXRD" });
        assert_eq!(with(4, 9), OfferError::Version { found: 9 });
        assert_eq!(with(6, 3), OfferError::Field { what: "link layer", found: 3 });
        assert_eq!(with(7, 3), OfferError::Field { what: "kind of atomics", found: 3 });
    }

    proptest! {
        /// Whatever is let through is an offer that gives the same bytes again: nothing was bent to fit.
        #[test]
        fn any_bytes_are_refused_or_kept(mut bytes in prop::array::uniform32(any::<u8>()), rest in prop::array::uniform24(any::<u8>())) {
            bytes[..6].copy_from_slice(&offer().to_bytes()[..6]);
            let bytes = [&bytes[..], &rest[..]].concat();
            if let Ok(offer) = Offer::from_bytes(&bytes) {
                prop_assert_eq!(&offer.to_bytes()[..], &bytes[..]);
            }
        }
    }
}
