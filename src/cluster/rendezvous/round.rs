//! What a rendezvous has collected, and whom it waits for: the server's state without its sockets.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::message::{Kind, encode_ranks, encode_table, frame};

/// A frame on its way; one table is shared by all members.
pub type Frame = Arc<[u8]>;

/// A frame for a rank.
#[derive(Debug, PartialEq, Eq)]
pub struct Letter {
    pub to: usize,
    pub frame: Frame,
}

/// A member has done what no rank does.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

/// The round that is being collected.
#[derive(Debug)]
pub struct Round {
    number: u64,
    blobs: Vec<Option<Vec<u8>>>,
    collected: usize,
    /// Ranks that have asked who is missing.
    asked: BTreeSet<usize>,
    /// Ranks that know that the round cannot end.
    told: BTreeSet<usize>,
    /// Ranks that have left after they had taken part.
    gone: BTreeSet<usize>,
}

impl Round {
    /// The first round of a job of `size` ranks.
    pub fn new(size: usize) -> Self {
        let (asked, told, gone) = Default::default();
        Self { number: 1, blobs: vec![None; size], collected: 0, asked, told, gone }
    }

    /// Whether a rank has left for good: nobody may come as it again.
    pub fn has_left(&self, rank: usize) -> bool {
        self.gone.contains(&rank)
    }

    /// Takes a rank's blob. When it is the last one, everybody gets the table and the next round begins.
    pub fn handle_blob(&mut self, rank: usize, round: u64, blob: Vec<u8>) -> Result<Vec<Letter>, Broken> {
        if round != self.number || self.blobs[rank].is_some() {
            return Err(Broken);
        }
        self.blobs[rank] = Some(blob);
        self.collected += 1;
        // Also with the last blob: those that came before have been told that the round cannot end.
        if !self.gone.is_empty() {
            self.told.insert(rank);
            return Ok(vec![Letter { to: rank, frame: self.gone_frame() }]);
        }
        Ok(if self.collected == self.blobs.len() { self.finish() } else { Vec::new() })
    }

    fn finish(&mut self) -> Vec<Letter> {
        let size = self.blobs.len();
        let payload = encode_table(self.blobs.iter().flatten().map(Vec::as_slice));
        let table: Frame = frame(Kind::Table, self.number, &payload).into();
        self.number += 1;
        self.collected = 0;
        self.blobs.fill(None);
        self.asked.clear();
        (0..size).map(|to| Letter { to, frame: Arc::clone(&table) }).collect()
    }

    /// Answers a rank that asks who is missing. Who asks about a round that is over has its table on the way.
    pub fn handle_question(&mut self, rank: usize, round: u64) -> Result<Option<Letter>, Broken> {
        if round > self.number {
            return Err(Broken);
        }
        if round < self.number {
            return Ok(None);
        }
        self.asked.insert(rank);
        Ok(Some(Letter { to: rank, frame: self.missing_frame() }))
    }

    /// Notes that a rank's connection has ended, and tells those that wait. A rank that has not taken part yet may come
    /// again.
    pub fn handle_departure(&mut self, rank: usize) -> Vec<Letter> {
        if self.number == 1 && self.blobs[rank].is_none() {
            return Vec::new();
        }
        self.gone.insert(rank);
        // Who asked and left has run out of time: all that wait shall name the same missing ranks as it did. Who left
        // without a word has ended otherwise, and is to be named.
        let frame = if self.asked.contains(&rank) { self.missing_frame() } else { self.gone_frame() };
        let waits = |to: &usize| self.blobs[*to].is_some() && !self.gone.contains(to) && !self.told.contains(to);
        let waiting: Vec<usize> = (0..self.blobs.len()).filter(waits).collect();
        self.told.extend(&waiting);
        waiting.into_iter().map(|to| Letter { to, frame: Arc::clone(&frame) }).collect()
    }

    fn missing_frame(&self) -> Frame {
        let missing = (0..self.blobs.len()).filter(|rank| self.blobs[*rank].is_none());
        frame(Kind::Missing, self.number, &encode_ranks(missing, self.blobs.len())).into()
    }

    fn gone_frame(&self) -> Frame {
        frame(Kind::Gone, self.number, &encode_ranks(self.gone.iter().copied(), self.blobs.len())).into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{HEAD_BYTES, parse_ranks, parse_table};
    use super::*;

    fn ranks_in(letter: &Letter, kind: Kind, size: usize) -> Vec<usize> {
        assert_eq!(letter.frame[0], kind as u8);
        parse_ranks(&letter.frame[HEAD_BYTES..], size).expect("a set")
    }

    fn after_blobs(size: usize, ranks: &[usize]) -> Round {
        let mut round = Round::new(size);
        for rank in ranks {
            assert_eq!(round.handle_blob(*rank, 1, vec![]), Ok(vec![]));
        }
        round
    }

    #[test]
    fn the_last_blob_brings_everybody_the_same_table() {
        let mut round = after_blobs(3, &[2, 0]);
        let letters = round.handle_blob(1, 1, b"one".to_vec()).expect("in order");
        assert_eq!(letters.iter().map(|letter| letter.to).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(letters.iter().all(|letter| Arc::ptr_eq(&letter.frame, &letters[0].frame)), "made once");
        let table = parse_table(&letters[0].frame[HEAD_BYTES..], 3);
        assert_eq!(table, Some(vec![vec![], b"one".to_vec(), vec![]]));
        assert_eq!(round.handle_blob(1, 2, vec![]), Ok(vec![]), "the next round");
    }

    #[test]
    fn rounds_are_kept_apart() {
        let mut round = after_blobs(3, &[0]);
        assert_eq!(round.handle_blob(0, 1, vec![]), Err(Broken), "twice");
        assert_eq!(round.handle_blob(1, 2, vec![]), Err(Broken), "too early");
        assert_eq!(round.handle_blob(1, 0, vec![]), Err(Broken), "too late");
        assert_eq!(round.handle_question(0, 2), Err(Broken));
        assert_eq!(round.handle_question(0, 0), Ok(None));
    }

    #[test]
    fn who_asks_is_told_exactly_who_is_missing_and_so_are_those_it_leaves_behind() {
        let mut round = after_blobs(5, &[0, 1, 3]);
        let letter = round.handle_question(0, 1).expect("in order").expect("an answer");
        assert_eq!(ranks_in(&letter, Kind::Missing, 5), [2, 4]);
        let letters = round.handle_departure(0);
        assert_eq!(letters.iter().map(|letter| letter.to).collect::<Vec<_>>(), [1, 3]);
        letters.iter().for_each(|letter| assert_eq!(ranks_in(letter, Kind::Missing, 5), [2, 4]));
        assert_eq!(round.handle_departure(1), [], "all have been told");
        let late = round.handle_blob(2, 1, vec![]).expect("in order");
        assert_eq!(ranks_in(&late[0], Kind::Gone, 5), [0, 1]);
    }

    #[test]
    fn a_rank_that_vanishes_between_rounds_is_named_to_those_that_wait() {
        let mut round = after_blobs(3, &[0, 1]);
        round.handle_blob(2, 1, vec![]).expect("in order");
        assert_eq!(round.handle_blob(0, 2, vec![]), Ok(vec![]));
        let letters = round.handle_departure(2);
        assert_eq!(letters.iter().map(|letter| letter.to).collect::<Vec<_>>(), [0]);
        assert_eq!(ranks_in(&letters[0], Kind::Gone, 3), [2]);
        let letters = round.handle_blob(1, 2, vec![]).expect("in order");
        assert_eq!(ranks_in(&letters[0], Kind::Gone, 3), [2]);
        assert!(round.has_left(2));
    }

    #[test]
    fn a_rank_that_has_not_taken_part_may_come_again() {
        let mut round = after_blobs(3, &[0]);
        assert_eq!(round.handle_departure(1), []);
        assert!(!round.has_left(1));
    }
}
