//! Random bytes, and what random does to bytes.

use phalanx::fabric::sim::Seeded;

/// Numbers at which something often goes wrong.
const EDGES: [u64; 12] = [0, 1, 2, 15, 16, 17, 64, 8192, u32::MAX as u64, 1 << 40, i64::MAX as u64, u64::MAX];

/// A byte.
#[allow(clippy::cast_possible_truncation, reason = "below 256")]
pub fn byte(random: &mut Seeded) -> u8 {
    random.below(256) as u8
}

/// Bytes, mostly few, rarely thousands.
pub fn bytes(random: &mut Seeded) -> Vec<u8> {
    let most = [1, 9, 40, 300, 20_000][random.below(5)];
    (0..random.below(most)).map(|_| byte(random)).collect()
}

/// A number, often one at an edge.
pub fn number(random: &mut Seeded) -> u64 {
    match random.below(4) {
        0 => random.number(),
        1 => random.number() >> random.below(64),
        _ => EDGES[random.below(EDGES.len())].wrapping_add(random.below(3) as u64).wrapping_sub(1),
    }
}

/// Changes valid bytes: a bit, a byte, a number, a part left out, repeated or put in; several times, or not at all.
pub fn spoil(random: &mut Seeded, bytes: &mut Vec<u8>) {
    for _ in 0..[0, 1, 1, 2, 8][random.below(5)] {
        spoil_once(random, bytes);
    }
}

fn spoil_once(random: &mut Seeded, bytes: &mut Vec<u8>) {
    let length = bytes.len();
    if length == 0 {
        return bytes.extend(self::bytes(random));
    }
    let at = random.below(length);
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = byte(random),
        2 => {
            let number = number(random).to_le_bytes();
            let width = [4, 8][random.below(2)].min(length - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..(at + 1 + random.below(16)).min(length))),
        5 => {
            let part = bytes[at..(at + 1 + random.below(32)).min(length)].to_vec();
            bytes.splice(at..at, part);
        }
        _ => drop(bytes.splice(at..at, self::bytes(random))),
    }
}

/// Cuts bytes into pieces, as a network may.
pub fn pieces<'bytes>(random: &mut Seeded, mut bytes: &'bytes [u8]) -> Vec<&'bytes [u8]> {
    let most = [1, 7, 100, usize::MAX][random.below(4)];
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(1 + random.below(bytes.len().min(most)));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
