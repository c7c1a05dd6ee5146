//! The rendezvous' frames: heads, tables of blobs and sets of ranks mean themselves, and are not longer than allowed.

use phalanx::cluster::rendezvous::message::{
    HEAD_BYTES, Head, Kind, MOST_BLOB_BYTES, encode_ranks, encode_table, frame, most_table_bytes, parse_ranks,
    parse_table,
};
use phalanx::fabric::sim::Seeded;

use crate::mutation::{bytes, number, spoil};
use crate::{Target, ensure};

pub(crate) struct Messages;

const KINDS: [Kind; 5] = [Kind::Blob, Kind::WhoIsMissing, Kind::Table, Kind::Missing, Kind::Gone];

impl Target for Messages {
    fn case(&mut self, random: &mut Seeded) -> Result<(), String> {
        head(random)?;
        table(random)?;
        ranks(random)
    }
}

fn head(random: &mut Seeded) -> Result<(), String> {
    let (kind, round, payload) = (KINDS[random.below(5)], number(random), bytes(random));
    let mut sent = frame(kind, round, &payload);
    spoil(random, &mut sent);
    let Some(first) = sent.first_chunk::<HEAD_BYTES>() else { return Ok(()) };
    let Some(parsed) = Head::parse(first) else { return Ok(()) };
    let length = u32::try_from(parsed.length).map_err(|_| format!("a length of {}", parsed.length))?;
    let packed = [&(parsed.kind as u32).to_le_bytes()[..], &length.to_le_bytes(), &parsed.round.to_le_bytes()].concat();
    ensure(packed == first, || format!("{first:?} is taken for {parsed:?}"))
}

fn table(random: &mut Seeded) -> Result<(), String> {
    let blobs: Vec<Vec<u8>> = (0..random.below(8)).map(|_| bytes(random)).collect();
    let mut sent = encode_table(blobs.iter().map(Vec::as_slice));
    spoil(random, &mut sent);
    let size = (blobs.len() + random.below(3)).saturating_sub(1);
    let Some(parsed) = parse_table(&sent, size) else { return Ok(()) };
    let is_bounded = parsed.len() == size && parsed.iter().all(|blob| blob.len() <= MOST_BLOB_BYTES);
    ensure(is_bounded && sent.len() <= most_table_bytes(size), || format!("{} blobs of {size}", parsed.len()))?;
    ensure(encode_table(parsed.iter().map(Vec::as_slice)) == sent, || format!("{sent:?} is taken for {parsed:?}"))
}

fn ranks(random: &mut Seeded) -> Result<(), String> {
    let size = random.below(40);
    let members: Vec<usize> = (0..size).filter(|_| random.below(2) == 0).collect();
    let mut sent = encode_ranks(members, size);
    spoil(random, &mut sent);
    let Some(parsed) = parse_ranks(&sent, size) else { return Ok(()) };
    ensure(parsed.iter().all(|rank| *rank < size), || format!("{parsed:?} of {size}"))?;
    ensure(encode_ranks(parsed, size) == sent, || format!("{sent:?} is taken for a set of {size}"))
}
