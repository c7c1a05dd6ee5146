//! The frames of a rendezvous, after the handshake: a head and a payload. Both ends have proved that they know the key;
//! what they send is checked all the same.
//!
//! | bytes of a head | field |
//! | --- | --- |
//! | 0–3 | kind |
//! | 4–7 | length of the payload |
//! | 8–15 | round, counted from 1 |

/// The most bytes that a rank may bring to a round.
pub const MOST_BLOB_BYTES: usize = 8192;
/// The size of a head.
pub const HEAD_BYTES: usize = 16;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A rank's blob: any bytes.
    Blob = 1,
    /// A rank's question after a time-out; no payload.
    WhoIsMissing = 2,
    /// All blobs, in the order of ranks: of each its length in four bytes, then its bytes.
    Table = 3,
    /// Ranks whose blob is not there: a set.
    Missing = 4,
    /// Ranks that have left, so that the round cannot end: a set.
    Gone = 5,
}

const KINDS: [Kind; 5] = [Kind::Blob, Kind::WhoIsMissing, Kind::Table, Kind::Missing, Kind::Gone];

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What follows.
    pub kind: Kind,
    /// The bytes of the payload, as the sender says.
    pub length: usize,
    /// Counted from 1.
    pub round: u64,
}

impl Head {
    /// Parses the first bytes of a frame; `None` for what is none. The length is not judged.
    pub fn parse(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let kind = KINDS.into_iter().find(|kind| *kind as u32 == short(0))?;
        let round = u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes"));
        Some(Self { kind, length: usize::try_from(short(4)).ok()?, round })
    }
}

/// A whole frame. A payload is at most a table of 65,536 blobs, whose length fits four bytes.
pub fn frame(kind: Kind, round: u64, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("payloads are bounded");
    let head = [&(kind as u32).to_le_bytes()[..], &length.to_le_bytes(), &round.to_le_bytes()].concat();
    [&head, payload].concat()
}

/// The longest payload that a server may send for a job of `size` ranks.
pub fn most_table_bytes(size: usize) -> usize {
    size.saturating_mul(MOST_BLOB_BYTES + 4)
}

/// The payload of a table.
pub fn encode_table<'a>(blobs: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut payload = Vec::new();
    for blob in blobs {
        let length = u32::try_from(blob.len()).expect("blobs are bounded");
        payload.extend_from_slice(&length.to_le_bytes());
        payload.extend_from_slice(blob);
    }
    payload
}

/// The blobs of a table; `None` if it is not one of exactly `size`.
pub fn parse_table(mut payload: &[u8], size: usize) -> Option<Vec<Vec<u8>>> {
    let mut blobs = Vec::new();
    for _ in 0..size {
        let (length, rest) = payload.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= MOST_BLOB_BYTES)?;
        let (blob, rest) = rest.split_at_checked(length)?;
        blobs.push(blob.to_vec());
        payload = rest;
    }
    payload.is_empty().then_some(blobs)
}

/// A set of ranks of a job of `size`: a bit for each, the lowest first.
pub fn encode_ranks(ranks: impl IntoIterator<Item = usize>, size: usize) -> Vec<u8> {
    let mut bits = vec![0; size.div_ceil(8)];
    ranks.into_iter().for_each(|rank| bits[rank / 8] |= 1 << (rank % 8));
    bits
}

/// The ranks of a set, ascending; `None` if it is no set of a job of `size`.
pub fn parse_ranks(bits: &[u8], size: usize) -> Option<Vec<usize>> {
    let ranks: Vec<usize> = (0..bits.len() * 8).filter(|rank| bits[rank / 8] >> (rank % 8) & 1 == 1).collect();
    let fits = bits.len() == size.div_ceil(8) && ranks.last().is_none_or(|rank| *rank < size);
    fits.then_some(ranks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tables_are_read_as_they_were_written(blobs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..20)) {
            let payload = encode_table(blobs.iter().map(Vec::as_slice));
            prop_assert!(payload.len() <= most_table_bytes(blobs.len()));
            prop_assert_eq!(parse_table(&payload, blobs.len() + 1), None);
            prop_assert_eq!(parse_table(&payload, blobs.len() - 1), None);
            prop_assert_eq!(parse_table(&payload, blobs.len()), Some(blobs));
        }

        #[test]
        fn sets_are_read_as_they_were_written(size in 1..200usize, seeds in prop::collection::btree_set(any::<usize>(), 0..30)) {
            let ranks: std::collections::BTreeSet<usize> = seeds.into_iter().map(|seed| seed % size).collect();
            let bits = encode_ranks(ranks.iter().copied(), size);
            prop_assert_eq!(parse_ranks(&bits, size), Some(ranks.into_iter().collect()));
        }

        #[test]
        fn random_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 0..40usize) {
            let _ = parse_table(&bytes, size);
            let ranks = parse_ranks(&bytes, size);
            prop_assert!(ranks.is_none_or(|ranks| ranks.iter().all(|rank| *rank < size)));
            if let Some(head) = bytes.first_chunk() {
                let _ = Head::parse(head);
            }
        }
    }

    #[test]
    fn heads_are_read_as_they_were_written() {
        for kind in KINDS {
            let frame = frame(kind, 7, b"abc");
            let head = Head::parse(frame.first_chunk().expect("a head"));
            assert_eq!(head, Some(Head { kind, length: 3, round: 7 }));
        }
        assert_eq!(Head::parse(&[9; HEAD_BYTES]), None);
    }
}
