//! Writes of single words by RDMA, whose work requests are kept: a barrier posts the same few again and again.

use crate::fabric::rdma::{Prepared, RdmaFabric};
use crate::fabric::{PostError, WordAt};

/// Work requests that are kept for each node: a barrier's messages to a node go to two words in turn, in each round of
/// it that has one; the world's do so by RDMA.
const MOST_KEPT: usize = 8;

/// Those to one node.
#[derive(Debug, Default)]
pub(super) struct KeptWrites {
    prepared: Vec<Prepared>,
    /// How often one of them has been replaced.
    replaced: u32,
}

impl KeptWrites {
    /// Posts a write, with the work request of the last such write if there was one.
    #[inline]
    pub fn post(&mut self, fabric: &RdmaFabric, node: usize, at: WordAt, value: u64) -> Result<(), PostError> {
        if let Some(prepared) = self.prepared.iter_mut().find(|prepared| prepared.at() == at) {
            return fabric.repost(prepared, value);
        }
        let mut prepared = fabric.prepare(node, at)?;
        let posted = fabric.repost(&mut prepared, value);
        if self.prepared.len() < MOST_KEPT {
            self.prepared.push(prepared);
        } else {
            self.prepared[place_to_replace(self.replaced)] = prepared;
            self.replaced = self.replaced.wrapping_add(1);
        }
        posted
    }
}

/// Which of the kept work requests makes room for another, as by chance. Where more words than are kept take turns, the
/// one that was used longest ago is the next to be used.
fn place_to_replace(replaced: u32) -> usize {
    let mixed = replaced.wrapping_add(1).wrapping_mul(0x9E37_79B9);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85EB_CA6B);
    (mixed >> 16) as usize % MOST_KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_words_in_turn_than_are_kept_still_find_most_of_theirs() {
        for (words, hits_at_least) in [(MOST_KEPT, 1000), (MOST_KEPT + 1, 700), (MOST_KEPT + 4, 300)] {
            let mut kept: Vec<usize> = (0..MOST_KEPT).collect();
            let (mut hits, mut replaced) = (0, 0);
            for step in 0..1000 {
                let word = step % words;
                if kept.contains(&word) {
                    hits += 1;
                } else {
                    kept[place_to_replace(replaced)] = word;
                    replaced += 1;
                }
            }
            assert!(hits >= hits_at_least, "{hits} of 1000 with {words} words");
        }
    }
}
