//! What each pair of nodes knows of the connection between them.
//!
//! A connection carries requests in order. When one of its messages is lost it is *doomed*: nothing after the lost message
//! gets through. Its poster learns of it a while later, when it *breaks*; the next post connects anew, under the next
//! incarnation, and messages of the one before that are still under way count as lost.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// One node's connection to another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection {
    /// How many there have been, this one included.
    pub incarnation: u32,
    /// How often its two ends had booted when it was made: a connection to a former life of a node is none.
    pub boots: [u32; 2],
    /// Requests can be posted on it, as far as the poster knows.
    pub is_up: bool,
    /// A message of it was lost.
    pub is_doomed: bool,
    /// When the poster gets to know.
    pub breaks_at: u64,
    /// When the last request, and the last reply, arrive: the next ones do not come earlier.
    pub last_request: u64,
    /// See there.
    pub last_reply: u64,
}

/// All connections that there have been, by source and target.
#[derive(Debug, Default)]
pub struct Connections(HashMap<u64, Connection, BuildHasherDefault<Mix>>);

impl Connections {
    pub fn between(&mut self, source: u32, target: u32) -> &mut Connection {
        self.0.entry(u64::from(source) << 32 | u64::from(target)).or_default()
    }

    pub fn find(&self, source: u32, target: u32) -> Option<&Connection> {
        self.0.get(&(u64::from(source) << 32 | u64::from(target)))
    }
}

/// A hash for pairs of node numbers, which nobody chooses with malice: one multiplication, the same in every run.
#[derive(Debug, Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number ^ 0x9e37_79b9_7f4a_7c15) * 0xa076_1d64_78bd_642f_u128;
        self.0 = low_half(product) ^ low_half(product >> 64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn low_half(number: u128) -> u64 {
    number as u64
}
